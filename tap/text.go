package tap

import (
	"cmp"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// TextOptions say how WriteText writes.
type TextOptions struct {
	Wide  bool // identities, addresses, sizes, IDs, header fields
	Color bool
}

// WriteText writes a request as one line for a person, or as several with Wide. No
// byte of what a client wrote can do anything to a terminal.
func (r *Request) WriteText(w io.Writer, o TextOptions) error {
	var b strings.Builder
	b.WriteString(r.Time.Local().Format("15:04:05.000"))
	fmt.Fprintf(&b, "  %-3s  %s → %s  %s %s%s", strings.TrimSuffix(r.Direction, "bound"),
		name(r.Source), name(r.Destination), clean(r.Method), clean(r.Authority), clean(r.Path))
	b.WriteString("  ")
	b.WriteString(paint(r.outcome(), r.Status, r.GRPCStatus, o.Color))
	fmt.Fprintf(&b, "  %s  %s", latency(r.LatencyMS), tls(r.Security))
	if r.Flags != "" {
		fmt.Fprintf(&b, "  %s: %s", clean(r.Flags), clean(r.Reason))
		if r.Cause != "" {
			fmt.Fprintf(&b, " (%s)", clean(r.Cause))
		}
	}
	if r.TraceID != "" {
		b.WriteString("  trace " + clean(r.TraceID))
	}
	b.WriteByte('\n')
	if o.Wide {
		r.writeMore(&b)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// writeMore writes what Wide adds.
func (r *Request) writeMore(b *strings.Builder) {
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(b, "    %-12s %s\n", name, clean(value))
		}
	}
	line("proxy", r.Proxy)
	line("source", strings.TrimSpace(r.Source.Identity+" "+r.Source.Address))
	line("destination", strings.TrimSpace(r.Destination.Identity+" "+r.Destination.Address))
	line("service", r.Service)
	line("rule", r.Rule)
	line("protocol", r.Protocol)
	line("details", r.Details)
	if r.UpstreamMS > 0 {
		line("upstream", latency(r.UpstreamMS))
	}
	if r.Attempts > 1 {
		line("attempts", strconv.Itoa(r.Attempts))
	}
	line("bytes", fmt.Sprintf("%d in, %d out", r.RequestBytes, r.ResponseBytes))
	line("request id", r.RequestID)
	for _, h := range r.Headers {
		if h.Redacted {
			line(clean(h.Name), "(redacted)")
		} else {
			line(clean(h.Name), cmp.Or(h.Value, `""`))
		}
	}
}

// name is a party as a person knows it.
func name(p Party) string {
	s := cmp.Or(p.Pod, p.Workload)
	switch {
	case s == "":
		return cmp.Or(clean(p.Address), "unknown")
	case p.Namespace != "":
		s = p.Namespace + "/" + s
	}
	return clean(s)
}

func (r *Request) outcome() string {
	switch {
	case r.GRPCStatus != nil:
		return fmt.Sprintf("%d grpc=%d", r.Status, *r.GRPCStatus)
	case r.Status == 0:
		return "no answer"
	}
	return strconv.Itoa(r.Status)
}

func paint(s string, status int, grpc *int, color bool) string {
	if !color {
		return s
	}
	switch {
	case status == 0 || status >= 500 || grpc != nil && *grpc != 0:
		return "\x1b[31m" + s + "\x1b[0m"
	case status >= 400:
		return "\x1b[33m" + s + "\x1b[0m"
	}
	return "\x1b[32m" + s + "\x1b[0m"
}

func tls(security string) string {
	switch security {
	case "mutual_tls":
		return "mTLS"
	case "none":
		return "plaintext"
	}
	return "-"
}

func latency(ms float64) string {
	d := time.Duration(ms * float64(time.Millisecond))
	switch {
	case d < time.Millisecond:
		return d.Round(time.Microsecond).String()
	case d < time.Second:
		return d.Round(10 * time.Microsecond).String()
	}
	return d.Round(time.Millisecond).String()
}

// clean is s with what steers a terminal written out.
func clean(s string) string {
	if !strings.ContainsFunc(s, func(r rune) bool { return !strconv.IsPrint(r) }) {
		return s
	}
	q := strconv.QuoteToGraphic(s)
	return q[1 : len(q)-1]
}
