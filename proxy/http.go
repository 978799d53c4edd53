//go:build linux

package proxy

import (
	"bytes"

	"github.com/seinemesh/seine/message"
	"github.com/seinemesh/seine/proxy/http1"
	"github.com/seinemesh/seine/proxy/http2"
	"github.com/seinemesh/seine/proxy/loop"
	"github.com/seinemesh/seine/telemetry"
)

// state is where an HTTP/1 connection stands.
type state uint8

const (
	reading    state = iota // between requests, or a head is incomplete
	serving                 // an exchange is under way: see its phase
	closing                 // what is blocked goes out, then the connection closes
	lingering               // our side is shut; what the client still sends is thrown away
	tunnelling              // a relay has both sockets
)

// downstream is one HTTP/1.x connection that a client opened: it takes one
// request after the other, each to completion.
type downstream struct {
	*socket
	caller

	state   state
	sniffed bool   // it is HTTP/1, no preface of HTTP/2
	partial bool   // bytes of an incomplete head are there
	queued  bool   // in the loop's queue of put-off work
	budget  int    // bytes that may still be moved in this turn
	turn    uint64 // that budget is for
	thrown  int    // bytes thrown away while lingering
	served  uint32 // requests so far

	idle loop.Timer // slow heads, idle connections, stalled streams, lingering
	x    exchange
}

func (w *worker) serveHTTP(s *socket, c caller) {
	d := &downstream{socket: s, caller: c}
	x := &d.x
	x.w, x.caller, x.leg, x.h1, x.stall = w, &d.caller, d, d, &d.idle
	d.idle.Fire = d.idled
	x.limit.Fire = x.overdue
	x.try.Fire = x.tryOver
	d.owner = d
	w.conns[d] = struct{}{}
	d.rest()
	d.ready()
}

// rest waits for the next request.
func (d *downstream) rest() {
	d.state, d.partial, d.x.phase = reading, false, vacant
	d.w.loop.Disarm(&d.x.limit)
	d.w.loop.Arm(&d.idle, d.w.loop.Now()+int64(d.w.p.o.DownstreamIdle))
}

// ready does whatever can be done now, up to the connection's share of a turn.
func (d *downstream) ready() {
	if d.w.feeding { // the loop's scratch memory is in use
		if !d.queued && !d.closed {
			d.queued = true
			d.w.loop.Later(d)
		}
		return
	}
	if now := d.w.loop.Turn(); d.turn != now {
		d.turn, d.budget = now, turnBudget
	}
	for !d.closed {
		if d.budget <= 0 {
			if !d.queued {
				d.queued = true
				d.w.loop.Later(d)
			}
			return
		}
		if !d.step() {
			return
		}
	}
}

// Resume goes on after others had their turn.
func (d *downstream) Resume() {
	d.queued = false
	if !d.closed {
		d.ready()
	}
}

// step makes one step and reports whether there may be another.
func (d *downstream) step() bool {
	switch d.state {
	case reading:
		return d.read()
	case serving:
		return d.x.step()
	case closing:
		return d.closeWhenSent()
	case lingering:
		return d.linger()
	}
	return false
}

// read looks for the next request's head.
func (d *downstream) read() bool {
	if d.err != nil || d.lost != nil {
		d.end(false)
		return false
	}
	if d.blocked() {
		return false
	}
	if len(d.data) == 0 || d.partial {
		if !d.fill() && !d.eof {
			return false
		}
		if d.err != nil || (d.eof && len(d.data) == 0) {
			d.end(d.err != nil)
			return false
		}
	}
	w := d.w
	if !d.partial {
		d.x.reset(w.loop.Now())
	}
	if !d.sniffed {
		switch n := min(len(d.data), len(http2.Preface)); {
		case string(d.data[:n]) != http2.Preface[:n]:
			d.sniffed = true
		case n == len(http2.Preface):
			d.upgrade()
			return false
		case n > 3: // no request begins so
			return d.incomplete()
		}
	}
	n, f, perr := http1.ParseRequest(d.data, &w.req, &d.door.limits)
	if perr != nil && d.served == 0 && foreign(d.data) {
		w.p.counters.badRequests.Inc()
		d.state, d.x.phase = closing, vacant
		w.loop.Arm(&d.idle, w.loop.Now()+int64(closeTime))
		return true
	}
	if perr != nil {
		d.x.framing = f
		d.take()
		d.x.refuse(perr)
		return true
	}
	if n == 0 {
		return d.incomplete()
	}
	d.partial = false
	d.x.head, d.x.framing = n, f
	d.budget -= n // requests that are answered here cost nothing else
	d.begin()
	return true
}

// foreign reports whether the first line of a connection is not even meant to
// be HTTP/1: it ends without a version of it. An answer in HTTP/1 would be
// noise to such a client (RFC 9113 §3.4 wants the connection ended).
func foreign(data []byte) bool {
	line, _, whole := bytes.Cut(data, []byte("\n"))
	return whole && !bytes.Contains(line, []byte(" HTTP/"))
}

// incomplete waits, bounded, for the rest of a head.
func (d *downstream) incomplete() bool {
	if d.eof { // cut off: there is nobody to answer
		d.end(false)
		return false
	}
	if !d.partial {
		d.partial = true
		d.w.loop.Arm(&d.idle, d.w.loop.Now()+int64(d.w.p.o.HeadTimeout))
	}
	return true
}

// upgrade hands a connection that begins with HTTP/2's preface over.
func (d *downstream) upgrade() {
	w := d.w
	d.x.end()
	delete(w.conns, d)
	w.loop.Drop(&d.idle)
	w.serveHTTP2(d.socket, d.caller)
}

// later1 has the connection go on in the next turn, if there is anything to do.
func (x *exchange) later1() {
	d := x.h1
	if !d.queued && !d.closed && (d.state == closing || len(d.data) > 0 || d.readable || d.undrained || d.hup) {
		d.queued = true
		x.w.loop.Later(d)
	}
}

// take counts a request.
func (d *downstream) take() {
	d.state, d.x.phase = serving, deciding
	d.served++
	d.w.inflight.Add(1)
}

// begin starts the exchange of the head that was just parsed.
func (d *downstream) begin() {
	w, x := d.w, &d.x
	d.take()
	x.idempotent = idempotent(w.req.Method)
	x.last = !x.framing.KeepAlive || w.draining
	x.note(&w.req)
	if len(w.req.Method) == 7 && string(w.req.Method) == "CONNECT" {
		if d.door.kind != doorExplicit {
			x.last = true
			x.details = "route_not_found"
			x.reply(405, telemetry.FlagNR, "CONNECT is not configured here")
			return
		}
		x.connects = true
	}
	x.dispatch()
}

// again parses the head at the front of data once more.
func (d *downstream) again() {
	n, f, _ := http1.ParseRequest(d.data, &d.w.req, &d.door.limits)
	d.x.head, d.x.framing = n, f
}

// gone reports whether the client has left: reset, or closed with nothing more
// to say. Data behind the request is the next one: it stays where it is.
func (d *downstream) gone() bool {
	if d.err != nil || d.lost != nil {
		return true
	}
	if !d.hup || d.eof {
		return d.eof && d.x.reqDone && len(d.data) == 0
	}
	if d.x.reqDone || !d.x.transmitted {
		for len(d.data) < scratchSize && d.fill() {
		}
		rest := len(d.data)
		if !d.x.transmitted {
			rest -= d.x.head
		}
		return d.err != nil || (d.eof && rest <= 0 && (d.x.reqDone || d.x.framing.Kind == http1.None))
	}
	return false
}

// over takes the next request, or ends the connection once everything has gone.
func (d *downstream) over() {
	if x := &d.x; x.bridged { // what was kept for another try, and what nobody took
		x.kept.drop(d.w)
		x.req.drop(d.w)
		x.res.drop(d.w)
		x.dropSection()
	}
	if d.x.last {
		d.state, d.x.phase = closing, vacant
		d.w.loop.Arm(&d.idle, d.w.loop.Now()+int64(closeTime))
		return
	}
	d.rest()
}

// abort resets the connection.
func (d *downstream) abort() { d.end(true) }

// idled: nothing has moved for too long.
func (d *downstream) idled() {
	switch d.state {
	case serving:
		d.x.stalled()
	case reading:
		if d.partial {
			d.w.p.counters.slowConnections.Inc()
			d.x.framing = http1.Framing{}
			d.take()
			d.x.last = true
			d.x.reply(408, telemetry.FlagDPE, "the request's head took too long")
			d.ready()
			return
		}
		d.end(false)
	default:
		d.end(d.state == closing)
	}
}

// end closes the connection and forgets it.
func (d *downstream) end(reset bool) {
	if d.closed {
		return
	}
	w := d.w
	d.x.end()
	delete(w.conns, d)
	w.loop.Drop(&d.idle)
	d.close(reset)
	w.loop.Reserve(-1)
}

// closeWhenSent ends the connection once its last answer is out.
func (d *downstream) closeWhenSent() bool {
	if d.err != nil || d.lost != nil {
		d.end(true)
		return false
	}
	if d.blocked() {
		return false
	}
	if d.eof || (len(d.data) == 0 && d.x.reqDone && !d.readable && !d.undrained) {
		d.end(false)
		return false
	}
	// Bytes that nobody reads would turn the close into a reset, which can
	// overtake the answer: shut our side, and read them first.
	d.finish()
	d.state, d.thrown = lingering, 0
	d.w.loop.Arm(&d.idle, d.w.loop.Now()+int64(lingerTime))
	return true
}

func (d *downstream) linger() bool {
	d.consume(len(d.data))
	if !d.fill() {
		return false
	}
	d.thrown += len(d.data)
	d.budget -= len(d.data)
	if d.eof || d.err != nil || d.thrown > lingerBytes {
		d.end(false)
		return false
	}
	return true
}

// field returns a request field's value.
func field(req *message.Request, id message.Name) []byte {
	v, _ := message.Get(req.Fields, id)
	return v
}
