//go:build linux

package proxy

import (
	"github.com/seinemesh/seine/decide"
	"github.com/seinemesh/seine/telemetry"
	"github.com/seinemesh/seine/telemetry/span"
)

// reset makes x ready for a request whose first byte was seen at start. What
// belongs to the client's connection stays, the timers among it: they may lie in
// the loop's heap.
func (x *exchange) reset(start int64) {
	w, c, l, h, s, limit, try := x.w, x.caller, x.leg, x.h1, x.stall, x.limit, x.try
	wishes := x.shape.wishes
	*x = exchange{start: start, moved: start, dialled: c.dialled, grpcStatus: -1}
	x.w, x.caller, x.leg, x.h1, x.stall, x.limit, x.try = w, c, l, h, s, limit, try
	x.shape.wishes = wishes
}

// live reports whether there is an exchange that has no outcome yet.
func (x *exchange) live() bool { return x.phase != vacant }

// end leaves all that the exchange holds, whatever came of it.
func (x *exchange) end() {
	if x.up != nil {
		x.dropUpstream(true)
	}
	x.dropRivals()
	x.phase = vacant
	x.ticket.leave()
	x.forget(x.w)
	x.kept.drop(x.w)
	x.req.drop(x.w)
	x.res.drop(x.w)
	x.dropSection()
	x.line.drop(x.w)
	x.untap()
	x.trace.drop(x.w)
	x.shape.drop(x.w)
	delete(x.w.parked, x)
	x.dropTimers()
}

// dropTimers takes the exchange's timers out of the loop.
func (x *exchange) dropTimers() {
	x.w.loop.Drop(&x.limit)
	x.w.loop.Drop(&x.try)
}

// ready: something changed on the upstream connection.
func (x *exchange) ready() { x.leg.ready() }

// dispatch decides where the request in worker.req goes, and sends it there,
// answers it, or waits.
func (x *exchange) dispatch() {
	if !x.decided {
		if in := x.caller.in; in != nil {
			in.route(x)
			if in.guard != nil && x.barred(in) || len(in.limits) > 0 && x.overLimit(in.limits) {
				return
			}
		} else if !x.route() {
			return // answered, or waiting
		}
		x.decided = true
	}
	x.forward()
}

// park waits, bounded, for an answer of the control plane.
func (x *exchange) park() {
	w := x.w
	if x.phase != waiting {
		if len(w.parked) >= maxParked {
			w.p.counters.overParked.Inc()
			x.reply(503, telemetry.FlagOM, "too many requests wait for the control plane")
			return
		}
		x.phase = waiting
		if x.resolving {
			x.waits(span.WaitName)
		} else {
			x.waits(span.WaitLookup)
		}
		w.loop.Arm(&x.limit, w.loop.Now()+int64(w.p.o.AnswerWait))
	}
	w.parked[x] = struct{}{}
}

// answered looks again after the control plane has sent something.
func (x *exchange) answered() {
	if x.phase != waiting {
		return
	}
	x.leg.again()
	x.dispatch()
	if x.phase != waiting {
		x.leg.ready()
	}
}

// watch notices a client that leaves while its request waits.
func (x *exchange) watch() {
	if x.leg.gone() {
		x.abandon()
	}
}

// abandon ends everything because the client has gone.
func (x *exchange) abandon() {
	x.flag, x.details = telemetry.FlagDC, "downstream_remote_disconnect"
	if !x.headSent {
		x.status = 0
	}
	x.dropUpstream(true)
	x.observe()
	x.leg.abort()
}

// overdue: the limit has passed.
func (x *exchange) overdue() {
	switch x.phase {
	case waiting:
		delete(x.w.parked, x)
		x.leg.again()
		if x.resolving {
			x.reply(503, telemetry.FlagDF, "the destination's name was not resolved in time")
			break
		}
		x.details = "cluster_not_found"
		x.reply(503, telemetry.FlagNC, "the control plane has not answered for this destination")
	case connecting, exchanging:
		if x.up != nil && !x.headSent {
			x.host.failed(504)
			x.failed(x.w.loop.Now())
		}
		x.dropUpstream(true)
		if x.headSent {
			x.flag, x.details = telemetry.FlagUT, "response_timeout"
			x.observe()
			x.leg.abort()
			return
		}
		x.details = "response_timeout"
		x.reply(504, telemetry.FlagUT, x.told("the route's timeout has passed"))
	}
	x.leg.ready()
}

// stalled: the stream's idle timeout may have passed.
func (x *exchange) stalled() {
	w := x.w
	switch x.phase {
	case waiting, connecting: // bounded by limits of their own
		if x.ticket.queued {
			x.reply(504, telemetry.FlagSI, "no connection was free for the stream's idle timeout")
			x.leg.ready()
			return
		}
		w.loop.Arm(x.stall, w.loop.Now()+int64(w.p.o.StreamIdle))
	case exchanging:
		if due := x.moved + int64(w.p.o.StreamIdle); due > w.loop.Now() {
			w.loop.Arm(x.stall, due)
			return
		}
		x.dropUpstream(true)
		if x.headSent {
			x.flag, x.details = telemetry.FlagSI, "stream_idle_timeout"
			x.observe()
			x.leg.abort()
			return
		}
		x.reply(504, telemetry.FlagSI, "nothing has moved for the stream's idle timeout")
		x.leg.ready()
	}
}

// dropUpstream leaves the upstream connection, which is of no further use.
func (x *exchange) dropUpstream(reset bool) {
	if u := x.up; u != nil {
		x.up = nil
		switch {
		case u.trunk == nil:
			if u.up || u.connecting || u.handshaking {
				u.drop(reset)
			}
		case x.us != nil:
			u.trunk.leave(x)
		default:
			u.trunk.forget(x)
		}
		x.req.detach()
		x.res.from, x.res.fs = nil, nil
	}
	x.release()
}

// lookup finds the answer for the request's host; nil and false if the
// request has to wait or was answered.
func (x *exchange) lookup(authority []byte, port uint16) (*decide.Answer, bool) {
	w, c := x.w, &x.caller.cached
	t := w.current()
	if c.table == t && string(c.authority) == string(authority) {
		c.use.Touch()
		return c.answer, true
	}
	w.name = decide.AppendHTTPName(w.name[:0], port, authority)
	a, ok := x.ask(t)
	if ok {
		c.table, c.answer = t, a
		c.authority = append(c.authority[:0], authority...)
		c.use = w.p.tables.Use(string(w.name))
	}
	return a, ok
}

// ask looks worker.name up in the table, and asks the control plane for it if
// it is not there.
func (x *exchange) ask(t *decide.Table) (*decide.Answer, bool) {
	w := x.w
	if a := t.Answers[string(w.name)]; a != nil {
		return a, true
	}
	if !w.p.tables.Want(string(w.name)) {
		x.reply(503, telemetry.FlagNC, "the control plane will not be asked for this destination: too many new names")
		return nil, false
	}
	x.park()
	return nil, false
}
