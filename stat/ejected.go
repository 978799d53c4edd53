package stat

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Ejected is an endpoint that callers do without because of errors.
type Ejected struct {
	Service  string    `json:"service"`            // FQDN
	Subsets  []string  `json:"subsets,omitempty"`  // through which it was called; none: the whole service
	Endpoint string    `json:"endpoint,omitempty"` // its ID, mostly the pod; empty if not known
	Address  string    `json:"address"`            // IP:PORT
	Proxies  int       `json:"proxies"`            // that have ejected it: each decides by itself
	Causes   []string  `json:"causes"`             // "consecutive_5xx", …
	Until    time.Time `json:"until"`              // at the earliest, by the last of the proxies
}

// maxEjected bounds what is kept of one proxy, maxEjectedLines what is printed.
const (
	maxEjected      = 1000
	maxEjectedLines = 20
)

// ejection is one proxy's.
type ejection struct {
	service, subset, endpoint, address, cause string
	until                                     time.Time
}

// parseEjection reads one series of telemetry.OutlierEjectedUntil.
func parseEjection(labels []byte, until float64) (ejection, error) {
	// Times that JSON has no year for are not a proxy's.
	e := ejection{until: time.UnixMilli(int64(min(until, 1e11) * 1000))}
	cluster := ""
	err := eachLabel(labels, func(name, value string) error {
		switch name {
		case "cluster":
			cluster = value
		case "endpoint":
			e.endpoint = value
		case "address":
			e.address = value
		case "cause":
			e.cause = value
		}
		return nil
	})
	// Envoy's name: outbound|PORT|SUBSET|HOST.
	if part := strings.SplitN(cluster, "|", 4); len(part) == 4 {
		e.subset, e.service = part[2], part[3]
	} else {
		e.service = cluster
	}
	return e, err
}

// Ejected are the endpoints that the proxies of the window that ends at now have
// ejected, in a fixed order.
func (w *Window) Ejected(now time.Time) []Ejected {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ejectedAt(now)
}

// ejectedAt joins what the proxies of the window that ends at now have ejected.
func (w *Window) ejectedAt(now time.Time) []Ejected {
	type key struct{ service, endpoint, address string }
	all := map[key]*Ejected{}
	for _, in := range w.instances {
		if now.Sub(in.scrapes[len(in.scrapes)-1].at) > w.span {
			continue
		}
		seen := map[key]bool{}
		for _, e := range in.ejected {
			k := key{e.service, e.endpoint, e.address}
			x := all[k]
			if x == nil {
				x = &Ejected{Service: e.service, Endpoint: e.endpoint, Address: e.address}
				all[k] = x
			}
			if !seen[k] { // once, though it may be out in several subsets
				seen[k] = true
				x.Proxies++
			}
			if e.subset != "" && !slices.Contains(x.Subsets, e.subset) {
				x.Subsets = append(x.Subsets, e.subset)
			}
			if !slices.Contains(x.Causes, e.cause) {
				x.Causes = append(x.Causes, e.cause)
			}
			if e.until.After(x.Until) {
				x.Until = e.until
			}
		}
	}
	var out []Ejected
	for _, x := range all {
		slices.Sort(x.Subsets)
		slices.Sort(x.Causes)
		out = append(out, *x)
	}
	slices.SortFunc(out, func(a, b Ejected) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Endpoint, b.Endpoint), cmp.Compare(a.Address, b.Address))
	})
	return out
}

// writeEjected writes a line for each endpoint that is out.
func (t *Table) writeEjected(b *strings.Builder, o TextOptions) {
	for i := range t.Ejected {
		if i == maxEjectedLines {
			NoteLine(b, "", fmt.Sprintf("and %d endpoints more are ejected (-o json)", len(t.Ejected)-i), o)
			return
		}
		e := &t.Ejected[i]
		service := strings.TrimSuffix(e.Service, ".svc.cluster.local")
		if len(e.Subsets) > 0 {
			service += " " + strings.Join(e.Subsets, ",")
		}
		who := e.Address
		if e.Endpoint != "" && e.Endpoint != e.Address {
			who = e.Endpoint + " (" + e.Address + ")"
		}
		proxies := "1 proxy"
		if e.Proxies != 1 {
			proxies = strconv.Itoa(e.Proxies) + " proxies"
		}
		left := ""
		if d := e.Until.Sub(t.At); d > 0 {
			left = ", in " + time.Duration(math.Ceil(d.Seconds())*float64(time.Second)).String()
		}
		NoteLine(b, "ejected", fmt.Sprintf("%s: %s by %s, %s, until %s%s", service, who, proxies,
			strings.Join(e.Causes, ","), e.Until.In(t.At.Location()).Format(time.TimeOnly), left), o)
	}
}

// NoteLine writes a line below a table: a word in yellow, if any, and text, cut
// at the width of the terminal.
func NoteLine(b *strings.Builder, word, text string, o TextOptions) {
	line := clean(text)
	if word != "" {
		line = word + " " + line
	}
	if n := utf8.RuneCountInString(line); o.Width > 0 && n > o.Width {
		line = string([]rune(line)[:max(o.Width-1, 0)]) + "…"
	}
	if rest, ok := strings.CutPrefix(line, word); ok && o.Color && word != "" {
		line = yellow + word + reset + rest
	}
	b.WriteString(line + "\n")
}
