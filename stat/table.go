package stat

import (
	"cmp"
	"slices"
	"time"

	"github.com/seinemesh/seine/telemetry"
)

// Table computes the signals of the window that ends at now. Instances that
// were not scraped within the window do not count.
func (w *Window) Table(now time.Time) *Table {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := w.between(now, time.Time{})
	t := &Table{At: now, WindowSeconds: all.seconds, Instances: all.instances, Services: []Service{}, Edges: []Edge{}, Ejected: w.ejectedAt(now)}
	for i := range all.flows {
		f := &all.flows[i]
		t.Edges = append(t.Edges, Edge{
			Source: f.Source, Destination: f.Destination, Service: f.Service, Version: f.Version,
			Traffic: f.Traffic(), MTLS: f.MTLS, Reporter: f.Reporter,
		})
	}
	t.services(all.flows)
	return t
}

// services sums the edges by service and version.
func (t *Table) services(flows []Flow) {
	type id struct{ ns, name, host, version string }
	type row struct {
		Service
		sum        Sum
		busy, idle []string // protection of the edges with and without traffic
	}
	rows := map[id]*row{}
	var order []*row
	total := map[string]*Sum{}
	for i := range flows {
		f := &flows[i]
		k := id{f.Namespace, f.Name, f.Service, f.Version}
		r := rows[k]
		if r == nil {
			r = &row{Service: Service{Namespace: k.ns, Name: k.name, Host: k.host, Version: k.version,
				Sources: []string{}, Destinations: []string{}}}
			rows[k] = r
			order = append(order, r)
		}
		r.sum.Add(&f.Sum)
		if f.Requests > 0 || f.openedRate > 0 {
			r.busy = append(r.busy, f.MTLS)
		} else {
			r.idle = append(r.idle, f.MTLS)
		}
		from, to := f.Source.Identity, f.Destination.Identity
		if from != "" && !slices.Contains(r.Sources, from) {
			r.Sources = append(r.Sources, from)
		}
		if to != "" && !slices.Contains(r.Destinations, to) {
			r.Destinations = append(r.Destinations, to)
		}
		if total[k.host] == nil {
			total[k.host] = &Sum{}
		}
		total[k.host].Requests += f.Requests
		total[k.host].openedRate += f.openedRate
	}
	for _, r := range order {
		if r.Version == telemetry.Unknown && r.sum.Requests == 0 && !r.sum.tcp {
			continue // requests of long ago that reached no workload
		}
		r.Traffic = r.sum.Traffic()
		if all := total[r.Host]; all.Requests > 0 {
			r.Share = r.sum.Requests / all.Requests
		} else if all.openedRate > 0 {
			r.Share = r.sum.openedRate / all.openedRate
		}
		if r.MTLS = combine(r.busy); len(r.busy) == 0 {
			r.MTLS = combine(r.idle)
		}
		slices.Sort(r.Sources)
		slices.Sort(r.Destinations)
		t.Services = append(t.Services, r.Service)
	}
	slices.SortStableFunc(t.Services, func(a, b Service) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name),
			cmp.Compare(a.Host, b.Host), cmp.Compare(a.Version, b.Version))
	})
}

func combine(edges []string) string {
	got := MTLSUnknown
	for _, m := range edges {
		switch {
		case m == MTLSUnknown || m == got:
		case got == MTLSUnknown:
			got = m
		default:
			got = MTLSMixed
		}
	}
	return got
}
