package metrics

import (
	"maps"
	"sync/atomic"

	"github.com/seinemesh/seine/telemetry"
)

// The states of a handle. Sweep makes what is fresh stale and what is still stale
// at the next one expired; a use makes it fresh again. So nothing that was used
// since the sweep before expires, and a use costs one load.
const (
	fresh uint32 = iota
	stale
	expired
)

// few are the labels that an overflow series keeps.
type few struct {
	reporter telemetry.Reporter
	protocol string
	security telemetry.Security
}

func (f *few) labels() *telemetry.RequestLabels {
	return &telemetry.RequestLabels{Reporter: f.reporter, Protocol: f.protocol, Security: f.security}
}

// Sweep lets the series of label sets go that nobody has used since the Sweep
// before, those of open connections excepted, and returns how many sets went. A
// set that is used again begins at zero, as a counter does after a restart: it is
// Istio's statsEvictionInterval. Any goroutine; one at a time.
func (r *Registry) Sweep() (gone int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := len(r.requests) + len(r.tcp) + len(r.routes)
	r.requests = sweep(r.requests, r.byKey, func(h *Requests) (*atomic.Uint32, bool) { return &h.state, true })
	r.tcp = sweep(r.tcp, r.tcpByKey, func(t *TCP) (*atomic.Uint32, bool) { return &t.state, t.idle() })
	r.routes = sweep(r.routes, r.routeByKey, func(h *Route) (*atomic.Uint32, bool) { return &h.state, true })
	gone = before - len(r.requests) - len(r.tcp) - len(r.routes)
	if gone > 0 {
		r.gone.Add(uint64(gone))
		r.sweeps.Add(1)
	}
	return gone
}

// sweep returns the sets that stay, in a slice of its own: scrapes read the old one.
func sweep[H any](sets []*labelSet[H], byKey map[string]*labelSet[H], of func(*H) (state *atomic.Uint32, may bool)) []*labelSet[H] {
	stay := make([]*labelSet[H], 0, len(sets))
	for _, s := range sets {
		n := 0 // handles that are expired so far; a set goes as a whole
		for _, h := range s.handles {
			if state, may := of(h); !may || !state.CompareAndSwap(stale, expired) {
				break
			}
			n++
		}
		if n == len(s.handles) {
			delete(byKey, s.labels)
			continue
		}
		for i, h := range s.handles {
			state, _ := of(h)
			if i < n {
				state.Store(stale) // whoever uses it meanwhile waits for r.mu
			} else {
				state.CompareAndSwap(fresh, stale)
			}
		}
		stay = append(stay, s)
	}
	return stay
}

// forget drops expired handles from the shard's maps, once for each sweep.
func (s *Shard) forget() {
	n := s.registry.sweeps.Load()
	if n == s.swept {
		return
	}
	s.swept = n
	maps.DeleteFunc(s.requests, func(_ string, h *Requests) bool { return h.state.Load() == expired })
	maps.DeleteFunc(s.tcp, func(_ string, t *TCP) bool { return t.state.Load() == expired })
	maps.DeleteFunc(s.routes, func(_ string, h *Route) bool { return h.state.Load() == expired })
}

// touch makes h fresh before it counts. The handle's writer alone calls it.
func (h *Requests) touch() {
	if h.state.CompareAndSwap(stale, fresh) {
		return
	}
	r := h.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	if h.state.Swap(fresh) != expired { // Sweep had it in its hands, and let it stay
		return
	}
	h.first.Store(nil)
	h.last, h.tail, h.n = nil, nil, 0
	h.wide.Store(nil)
	set, folded := r.requestSet(h.labels, h.few.labels())
	if folded {
		h.labels = set.labels
	}
	set.handles = append(set.handles, h)
}

// use is touch where it is needed.
func (t *TCP) use() {
	if t.state.Load() == fresh || t.state.CompareAndSwap(stale, fresh) {
		return
	}
	r := t.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	if t.state.Swap(fresh) != expired {
		return
	}
	t.opened.Store(0)
	t.sent.Store(0)
	t.received.Store(0)
	for i := range t.closed {
		t.closed[i].Store(0)
	}
	set, folded := r.tcpSet(t.labels, t.few.labels())
	if folded {
		t.labels = set.labels
	}
	set.handles = append(set.handles, t)
}

// idle reports whether no connection is open.
func (t *TCP) idle() bool {
	open := t.opened.Load()
	for i := range t.closed {
		open -= t.closed[i].Load()
	}
	return open == 0
}
