package metrics

import (
	"strconv"
	"sync/atomic"

	"github.com/seinemesh/seine/telemetry"
)

// maxRoutes bounds the rules that a process counts by themselves: those over it are
// counted together, as the rule "overflow".
const maxRoutes = 250

// Route counts the requests that one rule of the routes decided. One writer.
type Route struct {
	state    atomic.Uint32 // see expire.go
	registry *Registry
	labels   string
	sum      [classes]counter
	duration [classes][durationBuckets]counter
}

// The values of the label classification.
const (
	success = iota
	failure
	classes
)

var classNames = [classes]string{"success", "failure"}

// Route returns the handle of a rule (telemetry.RuleID) for a port of a service. It
// allocates on first use of the rule: keep the pointer.
func (s *Shard) Route(rule, service string, port uint16) *Route {
	s.scratch = routeLabels(s.scratch[:0], rule, service, port)
	if h := s.routes[string(s.scratch)]; h != nil {
		return h
	}
	s.forget()
	r := s.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	set, folded := r.routeSet(string(s.scratch))
	if folded {
		if h := s.routes[set.labels]; h != nil && h.state.Load() != expired {
			return h
		}
	}
	h := &Route{registry: r, labels: set.labels}
	set.handles = append(set.handles, h)
	s.routes[set.labels] = h
	return h
}

func routeLabels(dst []byte, rule, service string, port uint16) []byte {
	dst = appendLabel(dst, telemetry.LabelRoute, rule)
	dst = appendLabel(dst, telemetry.LabelDestinationService, service)
	return appendLabel(dst, telemetry.LabelDestinationPort, strconv.Itoa(int(port)))
}

// routeSet is requestSet for rules.
func (r *Registry) routeSet(labels string) (set *labelSet[Route], folded bool) {
	if set = r.routeByKey[labels]; set == nil && len(r.routes) >= maxRoutes {
		r.foldedLabels.Inc()
		const name = "overflow"
		labels, folded = string(routeLabels(nil, name, name, 0)), true
		set = r.routeByKey[labels]
	}
	if set == nil {
		set = &labelSet[Route]{labels: labels}
		r.routes = append(r.routes, set)
		r.routeByKey[labels] = set
	}
	return set, folded
}

// Observe counts one finished request, as Requests.Observe does.
func (h *Route) Observe(code int, flag telemetry.Flag, durationMicros int64) {
	if !counting {
		return
	}
	if h.state.Load() != fresh {
		h.touch()
	}
	micros, class := max(durationMicros, 0), success
	if telemetry.Failed(code, flag) {
		class = failure
	}
	h.duration[class][durationBucket(micros)].Add(1)
	h.sum[class].Add(uint64(micros))
}

// touch makes h fresh before it counts. The handle's writer alone calls it.
func (h *Route) touch() {
	if h.state.CompareAndSwap(stale, fresh) {
		return
	}
	r := h.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	if h.state.Swap(fresh) != expired {
		return
	}
	for class := range h.duration {
		h.sum[class].Store(0)
		for i := range h.duration[class] {
			h.duration[class][i].Store(0)
		}
	}
	set, folded := r.routeSet(h.labels)
	if folded {
		h.labels = set.labels
	}
	set.handles = append(set.handles, h)
}

// routes writes the histograms of the rules. One without failures has none of them.
func (o *writer) routes(sets []labelSet[Route]) {
	if len(sets) == 0 || !o.head(telemetry.RouteDuration, "histogram", "Duration of requests by the rule that decided where they go, as their callers see them.") {
		return
	}
	for i := range sets {
		for class, name := range classNames {
			var fine [durationBuckets]uint64
			var sum, n uint64
			for _, h := range sets[i].handles {
				for j := range fine {
					c := h.duration[class][j].Load()
					fine[j] += c
					n += c
				}
				sum += h.sum[class].Load()
			}
			if n == 0 && class == failure {
				continue
			}
			o.block = append(o.block[:0], sets[i].labels...)
			o.block = appendLabel(o.block, telemetry.LabelClassification, name)
			o.durations(telemetry.RouteDuration, &fine, &[sizeBuckets]traced{}, sum)
		}
	}
}
