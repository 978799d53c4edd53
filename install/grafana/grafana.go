// Package grafana holds the dashboards that Seine ships, as values, and writes
// them as Grafana reads them.
//
// Nothing enters; JSON files leave, one for each dashboard, which stand beside
// this source (go test -update writes them) and in the chart. Every query is
// parsed by a real Prometheus and must find data of a running mesh
// (test/e2e/prometheus_test.go).
package grafana

import (
	"encoding/json"
	"strings"
)

// Dashboard is one page.
type Dashboard struct {
	UID, Title, Description string
	Variables               []Variable
	Rows                    []Row
}

// Variable is a list that the page's queries are narrowed by.
type Variable struct {
	Name, Label string
	Query       string // as Grafana's Prometheus data source knows it: label_values(…)
	Regex       string // of the values' label, where all are chosen; "": ".*"
}

// Row is panels side by side under a heading.
type Row struct {
	Title  string
	Panels []Panel
}

// Panel is one graph, number or table.
type Panel struct {
	Title, Description string
	Kind               Kind
	Unit               string // Grafana's id: reqps, percentunit, s, ms, bytes, short
	Width              int    // of 24; 0: what its kind takes
	Queries            []Query
}

// Kind is how a panel shows its values.
type Kind string

// The kinds, as Grafana names them.
const (
	Graph  Kind = "timeseries"
	Number Kind = "stat"
	Table  Kind = "table"
)

// Query is one expression of PromQL and the name of its lines.
type Query struct {
	Expr, Legend string
	Quiet        bool // finds data only where something is wrong, or a feature is used
}

// Exprs calls f with every query of d in which Grafana's variables are
// replaced, as Grafana does where all values are chosen.
func (d *Dashboard) Exprs(f func(panel string, q Query)) {
	replace := []string{"$__rate_interval", "15s", "$__range", "1m"}
	for _, v := range d.Variables {
		replace = append(replace, "$"+v.Name, ".*")
	}
	r := strings.NewReplacer(replace...)
	for _, row := range d.Rows {
		for _, p := range row.Panels {
			for _, q := range p.Queries {
				q.Expr = r.Replace(q.Expr)
				f(p.Title, q)
			}
		}
	}
}

// height of a row of graphs and of one of numbers, in Grafana's units.
const (
	graphHeight  = 8
	numberHeight = 4
)

// JSON is d as Grafana imports it. The data source is chosen on the page.
func (d *Dashboard) JSON() ([]byte, error) {
	type object = map[string]any
	source := object{"type": "prometheus", "uid": "${datasource}"}
	list := []object{{"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"}}
	for _, v := range d.Variables {
		list = append(list, object{
			"name": v.Name, "label": v.Label, "type": "query", "datasource": source, "refresh": 2, "sort": 1,
			"query": object{"query": v.Query, "refId": v.Name}, "includeAll": true, "allValue": ".*", "multi": false,
			"regex": v.Regex, "current": object{"text": "All", "value": "$__all"},
		})
	}
	panels := []object{}
	id, y := 0, 0
	next := func() int { id++; return id }
	for _, row := range d.Rows {
		panels = append(panels, object{"id": next(), "type": "row", "title": row.Title, "collapsed": false, "panels": []object{},
			"gridPos": object{"x": 0, "y": y, "w": 24, "h": 1}})
		y++
		x, tallest := 0, 0
		for _, p := range row.Panels {
			width, height := 12, graphHeight
			if p.Kind == Number {
				width, height = 4, numberHeight
			}
			if p.Width > 0 {
				width = p.Width
			}
			if x+width > 24 {
				x, y, tallest = 0, y+tallest, 0
			}
			targets := []object{}
			for i, q := range p.Queries {
				targets = append(targets, object{"refId": string(rune('A' + i)), "expr": q.Expr, "legendFormat": q.Legend, "datasource": source,
					"instant": p.Kind == Table, "range": p.Kind != Table, "format": format(p.Kind)})
			}
			panels = append(panels, object{"id": next(), "type": string(p.Kind), "title": p.Title, "description": p.Description, "datasource": source,
				"gridPos": object{"x": x, "y": y, "w": width, "h": height}, "targets": targets,
				"fieldConfig": object{"defaults": object{"unit": p.Unit}, "overrides": []object{}}, "options": options(p.Kind)})
			x += width
			tallest = max(tallest, height)
		}
		y += tallest
	}
	out, err := json.MarshalIndent(object{
		"uid": d.UID, "title": d.Title, "description": d.Description, "tags": []string{"seine"}, "schemaVersion": 39, "version": 1,
		"editable": true, "refresh": "15s", "time": object{"from": "now-30m", "to": "now"}, "timezone": "browser",
		"templating": object{"list": list}, "panels": panels,
	}, "", "  ")
	return append(out, '\n'), err
}

func format(k Kind) string {
	if k == Table {
		return "table"
	}
	return "time_series"
}

func options(k Kind) map[string]any {
	switch k {
	case Number:
		return map[string]any{"reduceOptions": map[string]any{"calcs": []string{"lastNotNull"}}, "colorMode": "value", "graphMode": "area"}
	case Graph:
		return map[string]any{"tooltip": map[string]any{"mode": "multi", "sort": "desc"}, "legend": map[string]any{"displayMode": "list", "placement": "bottom"}}
	}
	return map[string]any{}
}
