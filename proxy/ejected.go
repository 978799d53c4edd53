//go:build linux

package proxy

import (
	"cmp"
	"slices"
	"time"
)

// maxEjectedSeries bounds the endpoints that the metrics name; those over it
// are counted in seine_outlier_ejections_active all the same.
const maxEjectedSeries = 200

// ejections calls add for each endpoint that is out, with the time of its
// return: who reads the metrics of all sidecars knows who does without whom.
func (p *Proxy) ejections(add func(value float64, labels ...string)) {
	type ejection struct {
		cluster, endpoint, address, cause string
		until                             time.Time
	}
	var list []ejection
	for _, sh := range p.allShared() {
		out := sh.ejected.Load()
		if out == nil {
			continue
		}
		sh.mu.Lock()
		for key := range *out {
			if sh.detector == nil {
				break
			}
			if s, ok := sh.detector.State(key); ok && s.Out {
				list = append(list, ejection{sh.name, endpointID(sh.cluster, key), key, s.Cause.String(), s.Until})
			}
		}
		sh.mu.Unlock()
	}
	// In order, so that the same ones are named at each scrape.
	slices.SortFunc(list, func(a, b ejection) int {
		return cmp.Or(cmp.Compare(a.cluster, b.cluster), cmp.Compare(a.address, b.address))
	})
	for _, e := range list[:min(len(list), maxEjectedSeries)] {
		add(float64(e.until.UnixMilli())/1000, "cluster", e.cluster, "endpoint", e.endpoint, "address", e.address, "cause", e.cause)
	}
}
