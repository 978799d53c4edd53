package stat

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/seinemesh/seine/telemetry"
)

// Distribution is how long the requests of one edge took within a window, as
// one proxy measured it.
type Distribution struct {
	Instance            string // the proxy that measured: NAMESPACE/INSTANCE
	AtDestination       bool   // it stands before the server: without the network, and without the client's sidecar
	Source, Destination Party
	Service, Version    string
	Bounds              []float64 // upper bounds in seconds, ascending; the last is +Inf
	Counts              []float64 // requests within each bucket alone
}

// Distributions returns what the requests of the window that ends at now took:
// those of each edge by each proxy that saw some. The order is fixed.
func (w *Window) Distributions(now time.Time) []Distribution {
	w.mu.Lock()
	defer w.mu.Unlock()
	type id struct {
		edge     edgeKey
		reporter string
	}
	var all []Distribution
	for name, in := range w.instances {
		if last := in.scrapes[len(in.scrapes)-1].at; now.Sub(last) > w.span {
			continue
		}
		cumulative := map[id]map[float64]float64{}
		for i, s := range in.series {
			if s.kind != buckets {
				continue
			}
			k := id{s.edge, s.reporter}
			if cumulative[k] == nil {
				cumulative[k] = map[float64]float64{}
			}
			cumulative[k][s.le] += in.increase(i, 1)
		}
		for k, c := range cumulative {
			if c[math.Inf(1)] == 0 {
				continue
			}
			d := Distribution{
				Instance: name, AtDestination: k.reporter == telemetry.Destination.String(),
				Source: k.edge.source, Destination: k.edge.destination, Service: k.edge.host, Version: k.edge.version,
			}
			for le := range c {
				d.Bounds = append(d.Bounds, le)
			}
			slices.Sort(d.Bounds)
			below := 0.0
			for _, le := range d.Bounds {
				d.Counts = append(d.Counts, max(c[le]-below, 0))
				below = max(below, c[le])
			}
			all = append(all, d)
		}
	}
	slices.SortFunc(all, func(a, b Distribution) int {
		return cmp.Or(cmp.Compare(a.Instance, b.Instance), cmp.Compare(a.Service, b.Service), cmp.Compare(a.Version, b.Version),
			cmp.Compare(a.Source.Namespace, b.Source.Namespace), cmp.Compare(a.Source.Workload, b.Source.Workload),
			cmp.Compare(a.Destination.Namespace, b.Destination.Namespace), cmp.Compare(a.Destination.Workload, b.Destination.Workload))
	})
	return all
}
