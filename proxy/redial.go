//go:build linux

package proxy

import (
	"slices"

	"github.com/seinemesh/seine/decide"
)

// maxMissed is how many endpoints an opaque connection may find unreachable
// before it is given up: as many tries as an HTTP request has by default.
const maxMissed = decide.DefaultRetryAttempts + 1

// missed are the endpoints that an opaque connection could not reach. Nothing of
// its bytes has gone anywhere then, so that it may be begun with another one.
type missed struct {
	tried [maxMissed]*decide.Endpoint
	n     int
}

func (m *missed) endpoints() []*decide.Endpoint { return m.tried[:m.n] }

// has reports whether the endpoint, or what is at its address by now, was tried.
func (m *missed) has(e *decide.Endpoint) bool {
	return slices.ContainsFunc(m.endpoints(), func(t *decide.Endpoint) bool { return t.Addr == e.Addr && t.DNS == e.DNS })
}

// misses notes that the route's endpoint cannot be reached, and reports whether
// another one may be tried: bounded in number, and by the cluster's retry budget.
// A connection that a hash binds to its endpoint goes nowhere else.
func (a *arrival) misses(o *opaque) bool {
	o.host.failed(503)
	t, m := o.target, &a.missed
	if t == nil {
		return false
	}
	now := a.w.loop.Now()
	t.balance.Failed(o.ep, 0, now)
	if m.n == maxMissed || t.cluster.HashKey() != nil {
		return false
	}
	m.tried[m.n] = t.cluster.Endpoints[o.ep]
	m.n++
	return m.n < maxMissed && t.budget.take(now)
}

// elsewhere begins the connection anew with an endpoint that was not tried yet;
// false: there is none, or it was tried often enough.
func (r *relay) elsewhere() bool {
	a := r.from
	if a == nil {
		r.host.failed(503)
		return false
	}
	was := opaque{host: r.host, target: r.target, ep: r.ep}
	if !a.misses(&was) || r.a.err != nil {
		return false
	}
	route, ok := a.opaque()
	if !ok {
		return false
	}
	was.release()
	r.w.p.counters.redialled.Inc()
	r.goes(&route)
	r.dial(&route)
	return true
}
