//go:build linux

package proxy

import (
	"net/netip"

	"github.com/seinemesh/seine/decide"
	"github.com/seinemesh/seine/message"
)

// newTarget begins to balance a cluster. What before, the same cluster of the
// last table, knew of its endpoints is kept.
func (w *worker) newTarget(c *decide.Cluster, before *target) *target {
	var was *decide.Balance
	if before != nil {
		was = before.balance
	}
	now := w.loop.Now()
	t := &target{
		cluster: c, edges: make([]edge, len(c.Endpoints)),
		balance: c.NewBalance(was, w.rng.Uint64(), now, w.loop.Wall(now)), budget: w.p.budgets.of(w, c), sh: w.p.shared(c),
	}
	w.targets[c] = t
	return t
}

// retarget drops what was derived from clusters that are not in the table any
// more, and hands what it knew to their successors.
func (w *worker) retarget(t *decide.Table) {
	for c, old := range w.targets {
		next := t.Cluster(c.Service.Key, c.Subset)
		if next == c {
			continue
		}
		delete(w.targets, c)
		old.hurry(w, next)
		if next != nil && w.targets[next] == nil {
			w.newTarget(next, old)
		}
	}
}

// hurry ends what is of no use any more with endpoints which next, the target's
// cluster from now on (nil: there is none), does not have: kept connections are
// closed, and those that carry requests end with these. Ones that are being opened
// have little time: an address that is nobody's does not answer, and who waits may be
// sent elsewhere.
func (t *target) hurry(w *worker, next *decide.Cluster) {
	for i := range t.edges {
		e := &t.edges[i]
		if e.pool == nil {
			continue
		}
		if next != nil {
			if now := next.Endpoint(e.ep.Proto.Id); now != nil && now.Addr == e.ep.Addr {
				continue
			}
		}
		for _, p := range [...]*pool{e.pool, e.wide, e.carrier} {
			if p != nil {
				p.retire(w)
			}
		}
	}
}

// retire ends the pool's connections that nobody uses, and shared ones once nobody
// does. Those that are being opened get goneTime.
func (p *pool) retire(w *worker) {
	for p.idle != nil {
		p.idle.drop(false)
	}
	for _, t := range p.trunks {
		if t.u.up {
			t.retire()
		}
	}
	end := w.loop.Now() + int64(goneTime)
	for u := range w.dialling {
		if u.pool == p && end < u.timer.When() {
			w.loop.Arm(&u.timer, end)
		}
	}
}

// pick chooses an endpoint of the target for the request in worker.req; -1 if
// there is none. attempt is how many were chosen before and turned down.
func (x *exchange) pick(t *target, attempt uint32) int {
	w, c := x.w, t.cluster
	if i := c.Dialled(x.dialled); i >= 0 {
		return i
	}
	w.question = decide.Ask{Draw: w.rng.Uint64(), Now: w.loop.Now(), Attempt: attempt}
	if k := c.HashKey(); k != nil {
		if attempt == 0 {
			x.hash, x.hashed = k.Request(&w.req, x.caller.remote.Addr())
			x.cookie = false
			if !x.hashed && k.MakesCookie() {
				x.cookie, x.hashed = true, true
				x.hash = decide.HashBytes(x.cookieValue())
			}
		}
		w.question.Hash, w.question.Hashed = x.hash, x.hashed
	}
	return t.balance.Pick(&w.question)
}

// cookieValue is the value of the cookie that binds the client to an endpoint, valid
// until text3 is used again.
func (x *exchange) cookieValue() []byte {
	x.w.text3 = decide.AppendCookie(x.w.text3[:0], x.caller.remote, x.dialled)
	return x.w.text3
}

// giveCookie adds the header field that gives it to the client.
func (x *exchange) giveCookie() {
	w, k := x.w, x.target.cluster.HashKey()
	if k == nil || !k.MakesCookie() { // a retry met another configuration
		return
	}
	value := x.cookieValue()
	n := len(value)
	w.text3 = k.AppendSetCookie(value, value)
	w.edit.Add = append(w.edit.Add, message.Field{Name: bytesOf("set-cookie"), Value: w.text3[n:]})
}

// pickStream chooses an endpoint for a connection of opaque bytes, one that was not
// tried before if there is any.
func (w *worker) pickStream(t *target, source netip.Addr, dialled netip.AddrPort, tried []*decide.Endpoint) int {
	if i := t.cluster.Dialled(dialled); i >= 0 {
		return i
	}
	w.question = decide.Ask{Draw: w.rng.Uint64(), Now: w.loop.Now()}
	if k := t.cluster.HashKey(); k != nil {
		w.question.Hash, w.question.Hashed = k.Connection(source)
	}
	return t.balance.PickAgain(&w.question, tried, false)
}

// begun counts the request to its endpoint.
func (x *exchange) begun() {
	if x.target != nil && x.ep >= 0 && !x.counted {
		x.counted = true
		x.target.balance.Begin(x.ep)
	}
}

// took tells the balancer how long the endpoint took to begin its answer.
func (x *exchange) took(now int64) {
	if x.trace.on != nil {
		x.trace.head = now
		x.ejects()
	}
	if x.counted {
		x.target.balance.Took(x.ep, now-x.sentAt, now, x.means() >= 500)
	}
}

// judged tells the balancer how long the answer in worker.res took. One that was
// handed back is none, quick as it was: else most requests would go where no
// application is left.
func (x *exchange) judged(now int64) {
	if is, _ := x.handedBack(); is {
		x.failed(now)
		return
	}
	x.took(now)
}

// failed tells the balancer that no answer came, or no connection.
func (x *exchange) failed(now int64) {
	if x.counted {
		x.target.balance.Failed(x.ep, now-max(x.sentAt, x.start), now)
	}
}
