//go:build linux

package proxy

import (
	"time"

	"github.com/seinemesh/seine/decide"
	"github.com/seinemesh/seine/message"
	"github.com/seinemesh/seine/telemetry"
)

const (
	// maxQueued bounds the requests that wait for room, for each loop: the
	// bound where a DestinationRule names none.
	maxQueued = 4096
	// handOver is how much longer another loop's first request must have
	// waited to get a connection's place before this loop's own: a place
	// that changes loops costs a new connection.
	handOver = int64(10 * time.Millisecond)
)

// lane is one loop's part of a shared cluster: its idle connections, and the
// requests that wait because maxConnections is met. They are served in their
// order, each by an idle connection to the endpoint that was picked for it, or
// by a place for a new one. A place that is freed goes to the request that has
// waited longest on whatever loop, through that loop's mailbox: it stays taken
// on the way, so the bound holds at every moment.
type lane struct {
	w           *worker
	sh          *shared
	cell        *cell
	first, last *ticket
	slots       int  // places that were given to this loop's queue
	woken       bool // in the loop's queue of put-off work
}

// ticket is a request's hold on what its cluster bounds.
type ticket struct {
	lane       *lane // nil: nothing is bounded
	x          *exchange
	prev, next *ticket
	since      int64
	counted    bool // in shared.requests
	pending    bool // in shared.pending
	queued     bool
	fresh      bool // wants a new connection
}

// lane is the loop's part of sh.
func (w *worker) lane(sh *shared) *lane {
	if sh == nil {
		return nil
	}
	l := w.lanes[sh]
	if l == nil {
		l = &lane{w: w, sh: sh, cell: &sh.cells[w.index]}
		w.lanes[sh] = l
	}
	return l
}

// obtain gets the request a connection: ready or being opened, nil for a place
// in the queue. False: the request was answered.
func (x *exchange) obtain(fresh bool) (*upstream, bool) {
	w := x.w
	l := x.pool.lane
	if l == nil {
		u, err := w.connection(x, fresh)
		if err != nil {
			x.connectFailed(nil, err)
			return nil, false
		}
		return u, true
	}
	t, limits := &x.ticket, l.sh.limits.Load()
	t.lane, t.x, t.fresh = l, x, fresh
	if l.first == nil || x.connects { // nobody comes first
		if !t.count(limits) {
			x.overflow(l.sh, boundRequests)
			return nil, false
		}
		if (!fresh || x.pool.key.h2) && !x.connects {
			if u := w.kept(x.pool, x, !x.idempotent); u != nil {
				return u, true
			}
		}
	}
	if !t.pending && !l.sh.pending.Take(limits.MaxPending) {
		x.overflow(l.sh, boundPending)
		return nil, false
	}
	t.pending = true
	if l.first == nil || x.connects {
		u, err := w.dialFor(x)
		switch {
		case err == nil:
			return u, true
		case err != errFull:
			x.connectFailed(nil, err)
			return nil, false
		case x.connects: // a stream may last for ever: there is no use in waiting
			x.overflow(l.sh, boundConnections)
			return nil, false
		}
	}
	if w.queued >= maxQueued {
		x.overflow(l.sh, boundConnections)
		return nil, false
	}
	if t.counted { // as in Envoy, who waits is pending and not under way
		t.counted = false
		l.sh.requests.Give()
	}
	l.push(t)
	return nil, true
}

// connection is a kept connection, or one that is being opened.
func (w *worker) connection(x *exchange, fresh bool) (*upstream, error) {
	if x.connects {
		return w.dial(x.pool, durationOf(x.connect), x, false)
	}
	if x.pool.key.h2 {
		if u := w.kept(x.pool, x, false); u != nil {
			return u, nil
		}
		return w.dialTrunk(x.pool, x)
	}
	return w.acquire(x.pool, durationOf(x.connect), x, fresh, !x.idempotent)
}

// dialFor opens a connection for the request, if there is a place for one.
func (w *worker) dialFor(x *exchange) (*upstream, error) {
	if !x.pool.key.h2 || x.connects {
		return w.dial(x.pool, durationOf(x.connect), x, !x.connects)
	}
	l := x.pool.lane
	if !l.sh.conns.Take(l.sh.limits.Load().MaxConnections) {
		return nil, errFull
	}
	return w.dialTrunk(x.pool, x)
}

// dialPlace opens a connection for a request that has a place for one.
func (w *worker) dialPlace(x *exchange) (*upstream, error) {
	if x.pool.key.h2 {
		return w.dialTrunk(x.pool, x)
	}
	return w.dialTaken(x.pool, durationOf(x.connect), x, true)
}

// overflow answers a request that a bound keeps out.
func (x *exchange) overflow(sh *shared, b bound) {
	sh.refused[b].Inc()
	if x.ticket.leave(); x.fallsBack() {
		return
	}
	x.details = "upstream_reset_before_response_started{overflow}"
	cause := sh.causes.Load()[b]
	x.respond(503, telemetry.FlagUO, cause, cause+"\n",
		message.Field{Name: bytesOf("x-seine-cause"), Value: bytesOf(cause)},
		message.Field{Name: bytesOf("x-envoy-overloaded"), Value: bytesOf("true")})
}

// count takes a place among the requests under way.
func (t *ticket) count(limits *decide.Limits) bool {
	if t.counted || limits.MaxRequests == 0 && limits.Budget == nil {
		return true
	}
	t.counted = t.lane.sh.requests.Take(limits.MaxRequests)
	return t.counted
}

// attached: the request has its connection.
func (t *ticket) attached() {
	if t.pending {
		t.pending = false
		t.lane.sh.pending.Give()
	}
}

// leave gives back all that the request holds.
func (t *ticket) leave() {
	l := t.lane
	if l == nil {
		return
	}
	if t.queued {
		l.remove(t)
		if l.first == nil && l.slots > 0 {
			l.wake() // what was meant for it goes on
		}
	}
	t.attached()
	if t.counted {
		t.counted = false
		l.sh.requests.Give()
	}
	t.lane = nil
}

// push queues a request. That it waits is seen by the other loops before it is
// tried again whether there is room, and who frees a place looks for waiting
// ones after that: so one of the two sees the other.
func (l *lane) push(t *ticket) {
	t.queued, t.since = true, l.w.loop.Wall(l.w.loop.Now()).UnixNano()
	t.prev, t.next = l.last, nil
	if l.last != nil {
		l.last.next = t
	} else {
		l.first = t
		l.cell.oldest.Store(t.since)
	}
	l.last = t
	l.w.queued++
	l.sh.waiting.Take(0)
	l.wake()
}

func (l *lane) remove(t *ticket) {
	t.queued = false
	if t.prev != nil {
		t.prev.next = t.next
	} else {
		l.first = t.next
	}
	if t.next != nil {
		t.next.prev = t.prev
	} else {
		l.last = t.prev
	}
	t.prev, t.next = nil, nil
	l.w.queued--
	l.sh.waiting.Give()
	var oldest int64
	if l.first != nil {
		oldest = l.first.since
	}
	l.cell.oldest.Store(oldest)
}

// wake has the queue looked at once the present machine is done.
func (l *lane) wake() {
	if !l.woken {
		l.woken = true
		l.w.loop.Later(l)
	}
}

// Resume serves the queue as far as there is room.
func (l *lane) Resume() {
	l.woken = false
	w, sh := l.w, l.sh
	for l.first != nil {
		t := l.first
		x, limits := t.x, sh.limits.Load()
		u := (*upstream)(nil)
		if !t.fresh || x.pool.key.h2 {
			u = w.kept(x.pool, x, !x.idempotent)
		}
		if u == nil {
			if l.slots == 0 && !sh.conns.Take(limits.MaxConnections) {
				if l.evict() { // its place comes to us, or is free
					continue
				}
				break
			}
			if l.slots > 0 {
				l.slots--
			}
		}
		l.remove(t)
		if !t.count(limits) {
			l.spare(u)
			x.overflow(sh, boundRequests)
			x.leg.ready()
			continue
		}
		if u == nil {
			var err error
			if u, err = w.dialPlace(x); err != nil {
				x.connectFailed(nil, err)
				x.leg.ready()
				continue
			}
		}
		x.up = u
		if x.waitsFor(u); u.up {
			x.connected(u)
		}
	}
	for ; l.slots > 0; l.slots-- {
		l.freed()
	}
	if l.first != nil {
		l.ask()
	}
}

// spare gives up what a request was about to get: the connection u, or (nil)
// the place for one.
func (l *lane) spare(u *upstream) {
	if u != nil && u.trunk != nil {
		return // a place on it is no connection
	}
	if u != nil {
		u.release()
		return
	}
	l.freed()
}

// evict closes an idle connection of this loop.
func (l *lane) evict() bool {
	if l.cell.idle.Load() == 0 {
		return false
	}
	for _, p := range l.w.pools {
		if p.lane != l {
			continue
		}
		if p.idle != nil {
			p.idle.drop(false)
			return true
		}
		for _, t := range p.trunks {
			if t.resting {
				t.u.drop(false)
				return true
			}
		}
	}
	return false
}

// ask has the other loops close connections that idle while requests wait here.
func (l *lane) ask() {
	for i := range l.sh.cells {
		if i == l.w.index || l.sh.cells[i].idle.Load() == 0 {
			continue
		}
		other, sh := l.w.p.workers[i], l.sh
		other.loop.Post(func() {
			if m := other.lane(sh); m.first == nil {
				m.evict()
			}
		})
	}
}

// heir is the loop whose first request is to get a place that this loop has;
// -1 if nobody waits.
func (l *lane) heir() int {
	heir, best := -1, int64(0)
	for i := range l.sh.cells {
		since := l.sh.cells[i].oldest.Load()
		if since == 0 {
			continue
		}
		if i != l.w.index {
			since += handOver
		}
		if heir < 0 || since < best {
			heir, best = i, since
		}
	}
	return heir
}

// freed passes the place of a connection that is no more to whoever waits for
// one, or gives it back.
func (l *lane) freed() {
	sh := l.sh
	for {
		limit := sh.limits.Load().MaxConnections
		if sh.waiting.Value() > 0 && (limit == 0 || sh.conns.Value() <= int64(limit)) {
			switch i := l.heir(); {
			case i == l.w.index:
				l.slots++
				l.wake()
				return
			case i >= 0:
				other := l.w.p.workers[i]
				if other.loop.Post(func() {
					m := other.lane(sh)
					m.slots++
					m.Resume()
				}) {
					return
				}
				sh.conns.Give() // that loop has ended: so does this process
				return
			}
		}
		sh.conns.Give()
		// Somebody may have queued since we looked, and found no room.
		if sh.waiting.Value() == 0 || !sh.conns.Take(limit) {
			return
		}
	}
}

// keep reports whether a connection that has become idle may stay: not if a
// request of another loop should have its place.
func (l *lane) keep() bool {
	if l.sh.waiting.Value() == 0 {
		return true
	}
	i := l.heir()
	if i == l.w.index {
		l.wake()
	}
	return i < 0 || i == l.w.index
}

// retryBegins counts a retry of the request; false: maxRetries, or what the
// DestinationRule's own retryBudget allows, are under way.
func (x *exchange) retryBegins() bool {
	sh := x.sharing()
	if sh == nil {
		return true
	}
	limits := sh.limits.Load()
	most := limits.MaxRetries
	if b := limits.Budget; b != nil {
		most = b.Allows(sh.requests.Value() + sh.pending.Value())
	}
	if limits.Budget != nil && most == 0 || !sh.retries.Take(most) {
		sh.refused[boundRetries].Inc()
		return false
	}
	x.retries = sh
	return true
}

// retryOver ends what retryBegins began: there is an outcome, or another try.
func (x *exchange) retryOver() {
	if x.retries != nil {
		x.retries.retries.Give()
		x.retries = nil
	}
}

// budgeted reports whether a DestinationRule bounds the cluster's retries by a
// budget of its own, which holds instead of ours.
func (sh *shared) budgeted() bool { return sh != nil && sh.limits.Load().Budget != nil }
