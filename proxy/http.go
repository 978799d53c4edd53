//go:build linux

package proxy

import (
	"net/netip"

	"github.com/seinemesh/seine/decide"
	"github.com/seinemesh/seine/message"
	"github.com/seinemesh/seine/proxy/control"
	"github.com/seinemesh/seine/proxy/http1"
	"github.com/seinemesh/seine/proxy/loop"
	"github.com/seinemesh/seine/telemetry"
)

// phase is where an HTTP connection stands.
type phase uint8

const (
	reading    phase = iota // idle, or a head is incomplete
	waiting                 // for an answer of the control plane or a name
	connecting              // for an upstream connection
	exchanging              // request and response are under way
	closing                 // what is blocked goes out, then the connection closes
	lingering               // our side is shut; what the client still sends is thrown away
	tunnelling              // a relay has both sockets
)

// downstream is one HTTP/1.x connection that a client opened: it takes one
// request after the other, each to completion.
type downstream struct {
	*socket
	door    *door
	dialled netip.AddrPort // the address that the client meant; zero at an explicit proxy port
	remote  netip.AddrPort
	in      *inbound // set if the request goes to the local application

	phase   phase
	partial bool   // bytes of an incomplete head are there
	queued  bool   // in the loop's queue of put-off work
	last    bool   // close after this exchange
	budget  int    // bytes that may still be moved in this turn
	turn    uint64 // that budget is for
	moved   int64  // when the exchange last made progress
	thrown  int    // bytes thrown away while lingering

	idle  loop.Timer // slow heads, idle connections, stalled streams, lingering
	limit loop.Timer // the route's timeout, the wait for an answer
	try   loop.Timer // the timeout of one try, the pause before the next

	up *upstream
	x  exchange

	// The answer for the host of the last request, valid for one table.
	cached struct {
		table     *decide.Table
		authority []byte
		answer    *decide.Answer
		use       *control.Use
	}
}

func (w *worker) serveHTTP(d *downstream) {
	d.idle.Fire = d.idled
	d.limit.Fire = d.overdue
	d.try.Fire = d.tryOver
	d.owner = d
	w.conns[d] = struct{}{}
	d.rest()
	d.ready()
}

// rest waits for the next request.
func (d *downstream) rest() {
	d.phase, d.partial = reading, false
	d.w.loop.Disarm(&d.limit)
	d.w.loop.Arm(&d.idle, d.w.loop.Now()+int64(d.w.p.o.DownstreamIdle))
}

// ready does whatever can be done now, up to the connection's share of a turn.
func (d *downstream) ready() {
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
	switch d.phase {
	case reading:
		return d.read()
	case waiting, connecting:
		d.watch()
		return false
	case exchanging:
		return d.exchange()
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
		d.x = exchange{start: w.loop.Now()}
		d.moved = d.x.start
	}
	n, f, perr := http1.ParseRequest(d.data, &w.req, &d.door.limits)
	if perr != nil {
		w.inflight.Add(1)
		d.x.framing = f
		d.refuse(perr)
		return true
	}
	if n == 0 {
		if d.eof { // cut off inside a head: there is nobody to answer
			d.end(false)
			return false
		}
		if !d.partial {
			d.partial = true
			w.loop.Arm(&d.idle, w.loop.Now()+int64(w.p.o.HeadTimeout))
		}
		return true
	}
	d.partial = false
	d.x.head, d.x.framing = n, f
	d.budget -= n // requests that are answered here cost nothing else
	d.begin()
	return true
}

// begin starts the exchange of the head that was just parsed.
func (d *downstream) begin() {
	w, x := d.w, &d.x
	w.inflight.Add(1)
	x.idempotent = idempotent(w.req.Method)
	d.last = !x.framing.KeepAlive || w.draining
	if w.ring != nil {
		x.line.keep(w, &w.req)
	}
	if len(w.req.Method) == 7 && string(w.req.Method) == "CONNECT" {
		if d.door.kind != doorExplicit {
			d.last = true
			x.details = "route_not_found"
			d.reply(405, telemetry.FlagNR, "CONNECT is not configured here")
			return
		}
		x.connects = true
	}
	d.dispatch()
}

// parse parses the head at the front of data again, after a wait.
func (d *downstream) parse() {
	n, f, _ := http1.ParseRequest(d.data, &d.w.req, &d.door.limits)
	d.x.head, d.x.framing = n, f
}

// dispatch decides where the request in worker.req goes, and sends it there,
// answers it, or waits.
func (d *downstream) dispatch() {
	x := &d.x
	if !x.decided {
		if d.in != nil {
			d.in.route(x)
		} else if !d.route() {
			return // answered, or waiting
		}
		x.decided = true
	}
	d.forward()
}

// park waits, bounded, for an answer of the control plane.
func (d *downstream) park() {
	w := d.w
	if d.phase != waiting {
		if len(w.parked) >= maxParked {
			w.p.counters.overParked.Inc()
			d.reply(503, telemetry.FlagOM, "too many requests wait for the control plane")
			return
		}
		d.phase = waiting
		w.loop.Arm(&d.limit, w.loop.Now()+int64(w.p.o.AnswerWait))
	}
	w.parked[d] = struct{}{}
}

// answered looks again after the control plane has sent something.
func (d *downstream) answered() {
	if d.closed || d.phase != waiting {
		return
	}
	d.parse()
	d.dispatch()
	if d.phase != waiting {
		d.ready()
	}
}

// watch notices a client that leaves while its request waits.
func (d *downstream) watch() {
	if d.gone() {
		d.abandon()
	}
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

// abandon ends everything because the client has gone.
func (d *downstream) abandon() {
	d.x.flag, d.x.details = telemetry.FlagDC, "downstream_remote_disconnect"
	if !d.x.headSent {
		d.x.status = 0
	}
	d.dropUpstream(true)
	d.observe()
	d.end(true)
}

// overdue: the limit has passed.
func (d *downstream) overdue() {
	switch d.phase {
	case waiting:
		delete(d.w.parked, d)
		d.parse()
		if d.x.resolving {
			d.reply(503, telemetry.FlagDF, "the destination's name was not resolved in time")
			break
		}
		d.x.details = "cluster_not_found"
		d.reply(503, telemetry.FlagNC, "the control plane has not answered for this destination")
	case connecting, exchanging:
		if d.up != nil && !d.x.headSent {
			d.x.host.failed(504)
			d.x.failed(d.w.loop.Now())
		}
		d.dropUpstream(true)
		if d.x.headSent {
			d.x.flag, d.x.details = telemetry.FlagUT, "response_timeout"
			d.observe()
			d.end(true)
			return
		}
		d.x.details = "response_timeout"
		d.reply(504, telemetry.FlagUT, d.x.told("the route's timeout has passed"))
	}
	d.ready()
}

// idled: nothing has moved for too long.
func (d *downstream) idled() {
	w := d.w
	switch d.phase {
	case reading:
		if d.partial {
			d.x.framing = http1.Framing{}
			w.inflight.Add(1)
			d.last = true
			d.reply(408, telemetry.FlagDPE, "the request's head took too long")
			d.ready()
			return
		}
		d.end(false)
	case waiting, connecting: // bounded by limits of their own
		if d.x.ticket.queued {
			d.reply(504, telemetry.FlagSI, "no connection was free for the stream's idle timeout")
			d.ready()
			return
		}
		w.loop.Arm(&d.idle, w.loop.Now()+int64(w.p.o.StreamIdle))
	case exchanging:
		if due := d.moved + int64(w.p.o.StreamIdle); due > w.loop.Now() {
			w.loop.Arm(&d.idle, due)
			return
		}
		d.dropUpstream(true)
		if d.x.headSent {
			d.x.flag, d.x.details = telemetry.FlagSI, "stream_idle_timeout"
			d.observe()
			d.end(true)
			return
		}
		d.reply(504, telemetry.FlagSI, "nothing has moved for the stream's idle timeout")
		d.ready()
	default:
		d.end(d.phase == closing)
	}
}

// dropUpstream leaves the upstream connection, which is of no further use.
func (d *downstream) dropUpstream(reset bool) {
	if u := d.up; u != nil {
		d.up = nil
		if u.up || u.connecting || u.handshaking {
			u.drop(reset)
		}
	}
	d.x.release()
}

// end closes the connection and forgets it.
func (d *downstream) end(reset bool) {
	if d.closed {
		return
	}
	w := d.w
	if d.up != nil {
		d.dropUpstream(true)
	}
	d.x.ticket.leave()
	d.x.forget(w)
	d.x.line.drop(w)
	delete(w.parked, d)
	delete(w.conns, d)
	w.loop.Drop(&d.idle)
	w.loop.Drop(&d.limit)
	w.loop.Drop(&d.try)
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
	d.phase, d.thrown = lingering, 0
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

// lookup finds the answer for the request's host; nil and false if the
// request has to wait or was answered.
func (d *downstream) lookup(authority []byte, port uint16) (*decide.Answer, bool) {
	w, c := d.w, &d.cached
	t := w.current()
	if c.table == t && string(c.authority) == string(authority) {
		c.use.Touch()
		return c.answer, true
	}
	w.name = decide.AppendHTTPName(w.name[:0], port, authority)
	a, ok := d.ask(t)
	if ok {
		c.table, c.answer = t, a
		c.authority = append(c.authority[:0], authority...)
		c.use = w.p.tables.Use(string(w.name))
	}
	return a, ok
}

// ask looks worker.name up in the table, and asks the control plane for it if
// it is not there.
func (d *downstream) ask(t *decide.Table) (*decide.Answer, bool) {
	w := d.w
	if a := t.Answers[string(w.name)]; a != nil {
		return a, true
	}
	if !w.p.tables.Want(string(w.name)) {
		d.reply(503, telemetry.FlagNC, "the control plane will not be asked for this destination: too many new names")
		return nil, false
	}
	d.park()
	return nil, false
}

// field returns a request field's value.
func field(req *message.Request, id message.Name) []byte {
	v, _ := message.Get(req.Fields, id)
	return v
}
