//go:build linux

package proxy

import (
	"net/netip"

	"github.com/seinemesh/seine/decide"
	"github.com/seinemesh/seine/message"
	"github.com/seinemesh/seine/proxy/http1"
	"github.com/seinemesh/seine/proxy/http2"
	"github.com/seinemesh/seine/telemetry/metrics"
	"github.com/seinemesh/seine/telemetry/span"
)

// Hedging (Envoy's hedge_on_per_try_timeout): a try whose time has passed is not
// given up when the next one is made. It waits aside, as a rival of the exchange's
// present try, and whichever brings a good answer first is the outcome; the others
// are reset. A bad answer of a rival is dropped, and where the present try comes to
// nothing and there is no further one, a rival takes its place. The next try is one
// of the policy's, and of the budget's.

// rival is a try that was sent whole, and whose answer has not begun.
type rival struct {
	x      *exchange
	next   *rival
	up     *upstream
	us     *http2.Stream // of a shared connection
	target *target
	ep     int
	host   *host
	handle *metrics.Requests
	pool   *pool
	name   string
	local  netip.AddrPort
	sentAt int64
	hold   ticket
	counts bool // in target's balance
}

// hedgeCounters are process-wide.
type hedgeCounters struct{ begun, late, lost *metrics.Counter }

func newHedgeCounters(r *metrics.Registry) hedgeCounters {
	c := func(outcome string) *metrics.Counter {
		return r.Counter("seine_hedges_total", "Tries that went on after their perTryTimeout while another one was made (begun), that answered well after all, and first (late), and that were reset or failed meanwhile (lost).", "outcome", outcome)
	}
	return hedgeCounters{c("begun"), c("late"), c("lost")}
}

// hedges has the try whose time has passed go on, and another one made beside it if
// the policy and the budget allow. False: there is nothing that could go on, and the
// try is to be given up.
func (x *exchange) hedges() bool {
	if x.phase != exchanging || x.up == nil {
		return false
	}
	if !x.reqDone || !x.replayable || x.resStarted || x.tunnels {
		return true // it cannot be sent twice, or its answer has begun
	}
	w := x.w
	x.failed(w.loop.Now())
	x.host.failed(504)
	t := decide.Try{Failure: decide.TryTimeout, Number: x.retry.number, Sent: true, Idempotent: x.idempotent, Kept: true}
	if !x.another(x.retry.policy.Next(&t)) {
		return true // this one has until the route's timeout
	}
	x.tells(span.Retry, span.Event{Attempt: x.retry.number + 1, Text: "hedging: the try before goes on"})
	w.p.hedges.begun.Inc()
	x.stepAside()
	x.pause()
	return true
}

// stepAside makes the present try a rival of the next one.
func (x *exchange) stepAside() {
	r := &rival{
		x: x, next: x.rivals, up: x.up, us: x.us, target: x.target, ep: x.ep, host: x.host, handle: x.handle, pool: x.pool,
		name: x.cluster, local: x.local, sentAt: x.sentAt, hold: x.ticket, counts: x.counted,
	}
	x.rivals, x.hedged = r, true
	if r.us != nil {
		r.us.Owner = r
	} else {
		r.up.user = r
	}
	x.up, x.us, x.counted, x.ticket = nil, nil, false, ticket{}
	x.req.detach()
	x.res.detach()
	x.res.from, x.res.fs = nil, nil
}

// takes makes the rival the exchange's present try. What that was is left.
func (x *exchange) takes(r *rival) {
	x.dropUpstream(true)
	x.unlist(r)
	w := x.w
	w.loop.Disarm(&x.try)
	x.retry.pausing, x.retry.denied = false, ""
	x.up, x.us, x.target, x.ep, x.host, x.handle = r.up, r.us, r.target, r.ep, r.host, r.handle
	x.pool, x.cluster, x.local, x.sentAt, x.ticket, x.counted = r.pool, r.name, r.local, r.sentAt, r.hold, r.counts
	if r.us != nil {
		r.us.Owner = x
		x.res.from, x.res.fs = &r.up.trunk.link, r.us
	} else {
		r.up.user = x
	}
	x.req.done, x.req.end, x.resStarted = true, true, false
	x.phase, x.moved = exchanging, w.loop.Now()
	w.loop.Arm(x.stall, x.moved+int64(w.p.o.StreamIdle))
}

// fallsBack goes on with a rival where the present try came to nothing; false: there is none.
func (x *exchange) fallsBack() bool {
	r := x.rivals
	if r == nil {
		return false
	}
	x.takes(r)
	if r.us == nil {
		r.up.readable = !r.up.eof && r.up.err == nil // its edge may have passed
	}
	return true
}

func (x *exchange) unlist(r *rival) {
	for p := &x.rivals; *p != nil; p = &(*p).next {
		if *p == r {
			*p = r.next
			return
		}
	}
}

// dropRivals resets the tries that are of no further use.
func (x *exchange) dropRivals() {
	for x.rivals != nil {
		x.rivals.lose()
	}
}

// lose ends the try.
func (r *rival) lose() {
	r.x.unlist(r)
	r.x.w.p.hedges.lost.Inc()
	if r.us != nil {
		r.up.trunk.release(r.us)
		r.us = nil
	} else {
		r.up.drop(true)
	}
	r.hold.leave()
	if r.counts {
		r.target.balance.Done(r.ep)
	}
}

// judge looks at the answer whose head is in worker.res: whether it is one to give.
func (r *rival) judge() bool {
	x := r.x
	res := &x.w.res
	t := decide.Try{Failure: decide.Answered, Status: res.Status, Number: 1, Sent: true, Idempotent: true, Kept: true}
	t.GRPCStatus, _ = message.Get(res.Fields, message.GRPCStatus)
	r.host.status(res.Status)
	if x.retry.policy.Next(&t) != decide.Final {
		r.lose()
		return false
	}
	x.w.p.hedges.late.Inc()
	return true
}

// ready: something came on the rival's own connection.
func (r *rival) ready() {
	x, u := r.x, r.up
	w := x.w
	var limits *http1.Limits
	if x.caller.in == nil {
		limits = &meshResponse
	}
	for {
		n, f, perr := 0, http1.Framing{}, (*http1.Error)(nil)
		if len(u.data) > 0 {
			n, f, perr = http1.ParseResponse(u.data, &w.res, x.framing.Asked, limits)
		}
		switch {
		case perr != nil, n == 0 && (u.eof || u.err != nil):
			r.host.failed(503)
			r.lose()
			return
		case n == 0:
			if !u.fill() {
				return
			}
		case f.Interim:
			u.consume(n)
		default:
			if r.judge() {
				x.takes(r)
				x.leg.ready()
			}
			return
		}
	}
}

func (r *rival) connected(*upstream)            {}
func (r *rival) connectFailed(*upstream, error) {}

// responded takes an answer's head, in worker.res, of a shared connection.
func (r *rival) responded(end bool) {
	x := r.x
	if x.w.res.Status < 200 || !r.judge() {
		return
	}
	x.takes(r)
	x.response(end)
}

// reset: the peer has ended the stream, or the connection.
func (r *rival) reset() {
	r.host.failed(503)
	r.lose()
}

// via is what the log says of where a whole answer came from.
func (x *exchange) via() string {
	if x.hedged {
		return "via_upstream{hedged}"
	}
	return "via_upstream"
}
