package stat

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/seinemesh/seine/telemetry"
)

// TextOptions say how WriteText renders.
type TextOptions struct {
	Wide  bool // the edges too, with whole identities
	Color bool // escape sequences of a terminal
	Width int  // columns of the terminal: longer lines are cut; 0 is no limit
}

// WriteText renders the table for people.
func (t *Table) WriteText(w io.Writer, o TextOptions) error {
	var b strings.Builder
	t.writeServices(&b, o)
	if o.Wide && len(t.Edges) > 0 {
		b.WriteByte('\n')
		t.writeEdges(&b, o)
	}
	t.writeEjected(&b, o)
	_, err := io.WriteString(w, b.String())
	return err
}

// cell is a text and its colour, if any.
type cell struct {
	text   string
	colour string
	right  bool
}

const (
	red    = "\x1b[31m"
	yellow = "\x1b[33m"
	green  = "\x1b[32m"
	bold   = "\x1b[1m"
	reset  = "\x1b[0m"
)

func (t *Table) writeServices(b *strings.Builder, o TextOptions) {
	if len(t.Services) == 0 {
		b.WriteString("no traffic has been seen yet\n")
		return
	}
	namespaces, tcp := map[string]bool{}, false
	for i := range t.Services {
		if n := t.Services[i].Namespace; n != telemetry.Unknown {
			namespaces[n] = true
		}
		tcp = tcp || t.Services[i].TCP != nil
	}
	head := []string{"SERVICE", "VERSION", "RPS", "SUCCESS", "P50", "P90", "P99", "SHARE"}
	if tcp {
		head = append(head, "CONNS", "IN/s", "OUT/s")
	}
	rows := [][]cell{heading(append(head, "MTLS", "IDENTITIES"))}
	last := ""
	for i := range t.Services {
		s := &t.Services[i]
		name := s.Name
		if len(namespaces) > 1 && s.Namespace != telemetry.Unknown {
			name = s.Namespace + "/" + s.Name
		}
		shown := name
		if name == last { // the name once for all of its versions
			shown = ""
		}
		last = name
		row := append([]cell{{text: clean(shown)}, {text: version(s.Version)}}, s.cells()...)
		row = append(row, cell{text: percent(s.Share), right: true})
		if tcp {
			row = append(row, s.tcpCells()...)
		}
		row = append(row, mtls(s.MTLS), cell{text: identities(s.Sources, s.Destinations)})
		rows = append(rows, row)
	}
	align(b, rows, o)
}

func (t *Table) writeEdges(b *strings.Builder, o TextOptions) {
	tcp := false
	for i := range t.Edges {
		tcp = tcp || t.Edges[i].TCP != nil
	}
	head := []string{"SOURCE", "DESTINATION", "SERVICE", "RPS", "SUCCESS", "P50", "P90", "P99"}
	if tcp {
		head = append(head, "CONNS", "IN/s", "OUT/s")
	}
	rows := [][]cell{heading(append(head, "MTLS", "SOURCE IDENTITY", "DESTINATION IDENTITY"))}
	for i := range t.Edges {
		e := &t.Edges[i]
		row := append([]cell{{text: party(e.Source)}, {text: party(e.Destination)}, {text: clean(e.Service)}}, e.cells()...)
		if tcp {
			row = append(row, e.tcpCells()...)
		}
		rows = append(rows, append(row, mtls(e.MTLS), cell{text: orDash(e.Source.Identity)}, cell{text: orDash(e.Destination.Identity)}))
	}
	align(b, rows, o)
}

func heading(names []string) []cell {
	var row []cell
	for _, n := range names {
		row = append(row, cell{text: n, colour: bold})
	}
	return row
}

// cells are those of requests: rate, success and quantiles.
func (t *Traffic) cells() []cell {
	none := cell{text: "-", right: true}
	if t.Requests == 0 && t.TCP != nil {
		return []cell{none, none, none, none, none}
	}
	row := []cell{{text: fmt.Sprintf("%.1f", t.RPS), right: true}, none, none, none, none}
	if t.Success != nil {
		colour := ""
		switch s := *t.Success; {
		case s < 0.95:
			colour = red
		case s < 0.99:
			colour = yellow
		}
		row[1] = cell{text: success(*t.Success), colour: colour, right: true}
	}
	if l := t.Latency; l != nil {
		for i, q := range []float64{l.P50, l.P90, l.P99} {
			row[2+i].text = duration(q)
		}
	}
	return row
}

// Short is RPS, SUCCESS, P50 and P99, as tables show them; "-": it is not known.
func (t *Traffic) Short() (rps, success, p50, p99 string) {
	if t == nil || t.Requests == 0 {
		return "-", "-", "-", "-"
	}
	c := t.cells()
	return c[0].text, c[1].text, c[2].text, c[4].text
}

func (t *Traffic) tcpCells() []cell {
	if t.TCP == nil {
		none := cell{text: "-", right: true}
		return []cell{none, none, none}
	}
	return []cell{
		{text: fmt.Sprintf("%.0f", t.TCP.Open), right: true},
		{text: size(t.TCP.ReceivedPerSecond), right: true},
		{text: size(t.TCP.SentPerSecond), right: true},
	}
}

func mtls(m string) cell {
	switch m {
	case MTLSYes:
		return cell{text: m, colour: green}
	case MTLSNo, MTLSMixed:
		return cell{text: m, colour: red}
	}
	return cell{text: "-"}
}

// success never rounds a failure away: 100.0% means none.
func success(s float64) string {
	if s < 1 && s > 0.999 {
		s = 0.999
	}
	return percent(s)
}

func percent(f float64) string { return fmt.Sprintf("%.1f%%", f*100) }

func duration(millis float64) string {
	switch {
	case millis < 10:
		return fmt.Sprintf("%.2fms", millis)
	case millis < 100:
		return fmt.Sprintf("%.1fms", millis)
	case millis < 10_000:
		return fmt.Sprintf("%.0fms", millis)
	}
	return fmt.Sprintf("%.1fs", millis/1000)
}

func size(bytes float64) string {
	for _, unit := range []string{"B", "KiB", "MiB"} {
		if bytes < 1000 {
			return fmt.Sprintf("%.3g%s", bytes, unit)
		}
		bytes /= 1024
	}
	return fmt.Sprintf("%.3gGiB", bytes)
}

func version(v string) string {
	if v == telemetry.Unknown {
		return "-"
	}
	return clean(v)
}

func party(p Party) string {
	if p.Workload == telemetry.Unknown {
		return "-"
	}
	return clean(p.Namespace + "/" + p.Workload)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return clean(s)
}

// identities is who calls → who serves, in short: default/frontend → default/billing.
func identities(from, to []string) string {
	if len(from)+len(to) == 0 {
		return "-"
	}
	return short(from) + " → " + short(to)
}

func short(ids []string) string {
	if len(ids) == 0 {
		return "-"
	}
	var s []string
	for _, id := range ids {
		if _, path, ok := strings.Cut(id, "/ns/"); ok {
			id = strings.Replace(path, "/sa/", "/", 1)
		}
		s = append(s, clean(id))
	}
	return strings.Join(s, ", ")
}

// clean keeps what a terminal would act on out of a text.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) || r == utf8.RuneError {
			return '?'
		}
		return r
	}, s)
}

// align writes rows in columns two spaces apart; the last column is as long as
// its text, and lines end at the width.
func align(b *strings.Builder, rows [][]cell, o TextOptions) {
	widths := make([]int, len(rows[0]))
	right := make([]bool, len(widths))
	for _, row := range rows {
		for i, c := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(c.text))
			right[i] = right[i] || c.right
		}
	}
	for _, row := range rows {
		used := 0
		for i, c := range row {
			text := c.text
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(text))
			last := i == len(row)-1
			if last {
				pad = ""
			}
			if o.Width > 0 && used+len(pad)+utf8.RuneCountInString(text) > o.Width {
				pad = ""
				text = string([]rune(text)[:min(max(o.Width-used-1, 0), utf8.RuneCountInString(text))]) + "…"
				last = true
			}
			used += len(pad) + utf8.RuneCountInString(text) + 2
			if o.Color && c.colour != "" {
				text = c.colour + text + reset
			}
			if right[i] {
				text = pad + text
			} else {
				text += pad
			}
			b.WriteString(text)
			if last {
				break
			}
			b.WriteString("  ")
		}
		b.WriteByte('\n')
	}
}
