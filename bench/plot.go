package main

import (
	"fmt"
	"math"
	"strings"
)

// plot draws the medians as an SVG of four panels of horizontal bars.
func plot(results []result, all []plane) []byte {
	const (
		width, panelWidth = 920, 440
		bar, gap          = 18, 6
		labels, values    = 92, 70
	)
	t := table(results)
	panels := []struct {
		title, unit string
		of          func(plane string) *float64
		skipNone    bool
	}{
		{"CPU per request, 64 connections", "µs", func(p string) *float64 { return t.get(caseC64, p).CPU }, true},
		{"CPU per request, 1,000 requests per second", "µs", func(p string) *float64 { return t.get(casePaced, p).CPU }, true},
		{"P99 at 1,000 requests per second, open loop", "µs", func(p string) *float64 { return t.get(casePaced, p).P99 }, false},
		{"Memory with 1,000 connections", "MiB", func(p string) *float64 { return t.get(caseHeld, p).RSS }, true},
	}
	panelHeight := 44 + len(all)*(bar+gap)
	var b strings.Builder
	height := 40 + 2*(panelHeight+16)
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" font-family="system-ui, sans-serif" font-size="13">`+"\n", width, height, width, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", width, height)
	b.WriteString(`<text x="16" y="26" font-size="16" font-weight="600" fill="#1c2430">One mesh hop, both sidecars together: less is better</text>` + "\n")
	for i, p := range panels {
		x, y := 16+(i%2)*(panelWidth+16), 40+(i/2)*(panelHeight+16)
		fmt.Fprintf(&b, `<text x="%d" y="%d" font-weight="600" fill="#1c2430">%s, %s</text>`+"\n", x, y+20, p.title, p.unit)
		var top float64
		for _, pl := range all {
			if v := p.of(pl.name); v != nil {
				top = math.Max(top, *v)
			}
		}
		row := 0
		for _, pl := range all {
			v := p.of(pl.name)
			if v == nil || p.skipNone && pl.name == "none" {
				continue
			}
			colour := "#9aa7b8"
			switch pl.name {
			case "seine":
				colour = "#0b7a75"
			case "none":
				colour = "#d5dbe3"
			}
			top := math.Max(top, 1e-9)
			w := (panelWidth - labels - values) * *v / top
			by := y + 32 + row*(bar+gap)
			row++
			fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end" fill="#1c2430">%s</text>`, x+labels-8, by+14, pl.name)
			fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%.1f" height="%d" rx="2" fill="%s"/>`, x+labels, by, math.Max(w, 1), bar, colour)
			digits := 0
			if *v < 100 {
				digits = 1
			}
			fmt.Fprintf(&b, `<text x="%.1f" y="%d" fill="#1c2430">%s</text>`+"\n", float64(x+labels)+w+6, by+14, number(v, digits))
		}
	}
	b.WriteString("</svg>\n")
	return []byte(b.String())
}
