package explain

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
)

// WriteText writes the answer for a person; colored adds a terminal's colours.
func (a *Answer) WriteText(w io.Writer, colored bool) error {
	paint := func(code, s string) string {
		if !colored {
			return s
		}
		return "\x1b[" + code + "m" + s + "\x1b[0m"
	}
	code := "32" // green: it goes through
	switch a.Outcome {
	case Reject, Blackhole:
		code = "31"
	case Unsupported:
		code = "33"
	}
	var b strings.Builder
	b.WriteString(paint("1;"+code, a.Outcome))
	if a.Reason != "" {
		b.WriteString(" (" + a.Reason + ")")
	}
	switch {
	case a.Location != "":
		fmt.Fprintf(&b, " %d to %s", a.Status, a.Location)
	case a.Status != 0:
		fmt.Fprintf(&b, " %d", a.Status)
	}
	if a.Flag != "" {
		b.WriteString(" " + a.Flag)
	}
	if a.Service != "" {
		fmt.Fprintf(&b, " %s", a.Service)
		if a.Port != 0 {
			fmt.Fprintf(&b, ":%d", a.Port)
		}
	}
	b.WriteByte('\n')
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "  %s %s\n", paint("2", fmt.Sprintf("%-12s", name)), fmt.Sprintf(format, args...))
	}
	if r := a.Route; r != nil {
		at := ""
		if r.File != "" {
			at = fmt.Sprintf(" (%s:%d)", r.File, r.Line)
		}
		rule := ""
		if r.Rule != nil {
			rule = fmt.Sprintf(", rule %d", *r.Rule)
		}
		line("route", "%s %s/%s%s%s", r.Kind, r.Namespace, r.Name, rule, at)
	}
	var total uint64
	for _, d := range a.Destinations {
		total += uint64(d.Weight)
	}
	for _, d := range a.Destinations {
		text := fmt.Sprintf("%s:%d", d.Host, d.Port)
		if d.Subset != "" {
			text += " subset " + d.Subset
		}
		if d.Status != 0 {
			text = fmt.Sprintf("none, status %d", d.Status)
		}
		line("destination", "%s  %s", text, percent(uint64(d.Weight), max(total, 1)))
	}
	if r := a.Request; r != nil {
		line("request", "%s%s", r.Authority, r.Path)
		for _, name := range sorted(r.Headers) {
			line("", "%s: %s", name, r.Headers[name])
		}
	}
	if r := a.Response; r != nil {
		for _, name := range r.Removed {
			line("response", "- %s", name)
		}
		for _, name := range sorted(r.Headers) {
			line("response", "+ %s: %s", name, r.Headers[name])
		}
	}
	if a.Timeout != "" {
		line("timeout", "%s", a.Timeout)
	}
	if r := a.Retries; r != nil {
		line("retries", "%s", r)
	}
	if f := a.Fault; f != nil {
		if f.Delay != "" {
			line("fault", "%g %% delayed by %s", f.DelayPercent, f.Delay)
		}
		if f.AbortPercent > 0 {
			line("fault", "%g %% aborted with %s", f.AbortPercent, cmp.Or(f.GRPCAbort, fmt.Sprint(f.Abort)))
		}
	}
	if c := a.Cors; c != nil {
		line("cors", "origin %q allowed: %v", c.Origin, c.Allowed)
		for _, name := range sorted(c.Headers) {
			line("", "+ %s: %s", name, c.Headers[name])
		}
	}
	for _, l := range a.RateLimits {
		line("rate limit", "%s: %d each %s, burst %d %s", l.Limit, l.Requests, l.Per, l.Burst, l.Key)
	}
	for _, m := range a.Mirrors {
		text := fmt.Sprintf("%s:%d", m.Host, m.Port)
		if m.Subset != "" {
			text += " subset " + m.Subset
		}
		line("mirror", "%s  %g %%", text, m.Percent)
	}
	if a.Mtls != "" {
		line("mtls", "%s", a.Mtls)
	}
	for _, ep := range a.Endpoints {
		text := strings.TrimSpace(fmt.Sprintf("%s %s %s", ep.Address, ep.Workload, ep.Subset))
		switch {
		case !ep.Healthy:
			text += ", not healthy"
		case ep.TLS == "mutual":
			text += ", mutual TLS, " + cmp.Or(ep.Identity, "no identity")
		case ep.TLS == "none":
			text += ", plaintext"
		}
		line("endpoint", "%s", text)
	}
	for _, p := range a.Unsupported {
		line("unsupported", "%s", p)
	}
	b.WriteByte('\n')
	for i, s := range a.Steps {
		fmt.Fprintf(&b, "%s %s\n", paint("2", fmt.Sprintf("%2d.", i+1)), s)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func sorted(m map[string]string) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
