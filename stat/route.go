package stat

import (
	"math"
	"time"
)

// Rule is a rule of the routes for one port of a service.
type Rule struct {
	ID      string // telemetry.RuleID
	Service string // FQDN that was called
	Port    uint32
}

// Rules sums by rule what callers counted in the window that ends at now.
func (w *Window) Rules(now time.Time) map[Rule]*Sum {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := map[Rule]*Sum{}
	for _, in := range w.instances {
		n := len(in.scrapes)
		if now.Sub(in.scrapes[n-1].at) > w.span {
			continue
		}
		seconds := in.scrapes[n-1].at.Sub(in.scrapes[0].at).Seconds()
		for i, s := range in.series {
			if s.kind != routed {
				continue
			}
			sum := out[s.route]
			if sum == nil {
				sum = &Sum{buckets: map[float64]float64{}}
				out[s.route] = sum
			}
			d := in.increase(i, 1)
			sum.buckets[s.le] += d
			if !math.IsInf(s.le, 1) {
				continue
			}
			sum.Requests += d // the last bucket holds all
			if seconds > 0 {
				sum.Rate += d / seconds
			}
			if s.failed {
				sum.Failed += d
			}
		}
	}
	return out
}
