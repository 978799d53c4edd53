//go:build linux

package proxy

import (
	"github.com/seinemesh/seine/decide"
	"github.com/seinemesh/seine/message"
	"github.com/seinemesh/seine/proxy/http1"
	"github.com/seinemesh/seine/telemetry"
	"github.com/seinemesh/seine/telemetry/span"
)

// meshResponse are the limits of a response that may have come through another
// sidecar.
var meshResponse = inboundLimits(http1.Limits{Head: 64 << 10, Fields: maxFields})

// pumpResponse passes the response on: interim heads, the final head with what
// has come of the body, the rest of the body.
func (x *exchange) pumpResponse() bool {
	w, d, u := x.w, x.h1, x.up
	if d.blocked() {
		return false
	}
	if len(u.data) == 0 {
		u.fill()
	}
	if len(u.data) == 0 {
		if u.eof || u.err != nil {
			x.upstreamEnded()
			return x.live()
		}
		return false
	}
	if !x.resStarted {
		x.resStarted = true
		if x.replay != nil && x.retry.policy == nil {
			x.forget(w)
		}
	}
	if x.headSent {
		return x.pumpBody()
	}
	var limits *http1.Limits
	if x.caller.in == nil {
		limits = &meshResponse
	}
	n, f, perr := http1.ParseResponse(u.data, &w.res, x.framing.Asked, limits)
	if perr != nil {
		x.upstreamBroke(perr)
		return true
	}
	if n == 0 {
		if u.eof || u.err != nil {
			x.upstreamEnded()
			return x.live()
		}
		return u.fill()
	}
	if f.Interim {
		x.interim(n, f)
		return true
	}
	x.final(n, f)
	return true
}

// interim passes a 1xx on, but never to an HTTP/1.0 client.
func (x *exchange) interim(n int, f http1.Framing) {
	w, d, u := x.w, x.h1, x.up
	if x.framing.Asked&http1.AskedOld == 0 {
		w.edit = http1.Edit{Add: w.edit.Add[:0], Drop: neverBack}
		if out, perr := http1.AppendResponse(w.out[:0], u.data[:n], &w.res, f, &w.edit); perr == nil {
			w.out = out[:0]
			d.send(out, nil)
		}
	}
	u.consume(n)
	d.budget -= n // an upstream may send these without end
}

// final sends the final head, and with it what has come of the body.
func (x *exchange) final(n int, f http1.Framing) {
	w, d, u := x.w, x.h1, x.up
	x.status = w.res.Status
	x.host.status(x.status)
	x.resFraming = f
	x.judged(w.loop.Now())
	if x.retry.policy != nil && x.retriesAnswer(n, f) {
		return
	}
	if f.Kind == http1.Tunnel {
		x.tunnel(n, f)
		return
	}
	old := x.framing.Asked&http1.AskedOld != 0
	x.chunk = f.Kind == http1.Close && !old
	x.unchunk = f.Kind == http1.Chunked && old
	refused := x.framing.ExpectContinue && !x.reqDone // nobody knows whether the body will come
	if w.draining || refused || (old && (x.unchunk || f.Kind == http1.Close)) {
		x.last = true
	}
	e := x.responseEdit()
	out, perr := http1.AppendResponse(w.out[:0], u.data[:n], &w.res, f, e)
	if perr != nil {
		x.upstreamBroke(perr)
		return
	}
	w.out = out[:0]
	x.begins()
	x.resBody.Reset(f)
	if x.chunk || x.unchunk {
		d.send(out, nil)
		u.consume(n)
		if f.Kind == http1.None {
			x.complete()
		} else if len(u.data) > 0 {
			x.pumpBody()
		}
		return
	}
	b, done, perr := x.resBody.Next(u.data[n:])
	body := u.data[n : n+b]
	if d.joins(len(out), len(body)) {
		out = append(out, body...)
		body = nil
	}
	d.send(out, body)
	u.consume(n + b)
	d.budget -= n + b
	if perr != nil {
		x.cutShort(telemetry.FlagUPE, "upstream_protocol_error")
		return
	}
	if done || f.Kind == http1.None {
		x.complete()
	}
}

// begins: the client gets the head of its answer.
func (x *exchange) begins() {
	x.headSent = true
	x.dropRivals()
}

// pumpBody passes bytes of the response's body on.
func (x *exchange) pumpBody() bool {
	w, d, u := x.w, x.h1, x.up
	switch {
	case x.unchunk:
		for len(u.data) > 0 && !d.blocked() {
			data, n, done, perr := x.resBody.Decode(u.data)
			d.send(data, nil)
			u.consume(n)
			d.budget -= n
			if perr != nil {
				x.cutShort(telemetry.FlagUPE, "upstream_protocol_error")
				return false
			}
			if done {
				x.complete()
				return true
			}
			if n == 0 {
				return false
			}
		}
		return true
	case x.chunk:
		n, _, _ := x.resBody.Next(u.data)
		out := http1.AppendChunk(w.out[:0], n)
		out = append(out, u.data[:n]...)
		out = append(out, http1.CRLF...)
		w.out = out[:0]
		d.send(out, nil)
		u.consume(n)
		d.budget -= n
		return n > 0
	}
	n, done, perr := x.resBody.Next(u.data)
	d.send(u.data[:n], nil)
	u.consume(n)
	d.budget -= n
	if perr != nil {
		x.cutShort(telemetry.FlagUPE, "upstream_protocol_error")
		return false
	}
	if done {
		x.complete()
		return true
	}
	return n > 0
}

// responseEdit says what changes in the response's head on its way down.
func (x *exchange) responseEdit() *http1.Edit {
	w := x.w
	e := &w.edit
	*e = http1.Edit{Add: e.Add[:0], Drop: neverBack, Close: x.last, Chunk: x.chunk, Unchunk: x.unchunk}
	if x.framing.Asked&http1.AskedOld != 0 && !x.last {
		e.KeepAlive = true
	}
	if x.cookie {
		x.giveCookie()
	}
	dropUnsent(w.res.Fields)
	if x.dest != nil && x.dest.Response != nil {
		for i := range w.res.Fields {
			f := &w.res.Fields[i]
			f.Drop = f.Drop || x.dest.Response.Drops(f.Name)
		}
		for _, p := range x.dest.Response.Added() {
			e.Add = append(e.Add, message.Field{Name: bytesOf(p.Name), Value: bytesOf(p.Value)})
		}
	}
	x.shapeAnswer(e)
	return e
}

// complete: the whole response was passed on.
func (x *exchange) complete() {
	u := x.up
	x.up = nil
	x.release()
	x.resDone = true
	u.served++
	if x.reqDone && x.resFraming.KeepAlive && x.resFraming.Kind != http1.Close {
		u.release()
	} else {
		u.drop(!x.reqDone)
	}
	if !x.reqDone {
		x.last = true
	}
	x.details = x.via()
	x.retryEnded()
	x.conclude()
}

// upstreamEnded: the upstream connection ended where it should not, or where a
// body that is delimited by the close ends.
func (x *exchange) upstreamEnded() {
	w, u := x.w, x.up
	if x.headSent && u.err == nil && u.clean && x.resBody.End() == nil {
		if x.bridged {
			x.res.push(w, nil, true)
			return
		}
		if x.chunk {
			x.h1.send(bytesOf(http1.LastChunk), nil)
		}
		x.complete()
		return
	}
	if x.headSent {
		x.host.failed(503)
		x.cutShort(telemetry.FlagUC, "upstream_reset_after_response_started{connection_termination}")
		return
	}
	if !x.resStarted && u.served > 0 && !x.retried && x.replayable && (x.idempotent || x.unsent) {
		x.retried = true
		x.replayable = x.retry.policy != nil
		x.up = nil
		u.drop(true)
		x.req.detach()
		w.p.counters.repeated.Inc()
		x.phase = connecting
		x.release()
		x.forwardAgain()
		return
	}
	x.host.failed(503)
	x.failed(w.loop.Now())
	x.dropUpstream(true)
	if x.retriesFailure(decide.Reset) {
		return
	}
	x.details = "upstream_reset_before_response_started{connection_termination}"
	x.reply(503, x.flagged(telemetry.FlagUC), x.told("the upstream closed the connection before its answer"))
}

// forwardAgain asks for a fresh connection for a request that was sent before.
func (x *exchange) forwardAgain() {
	x.begun()
	u, ok := x.obtain(true)
	if !ok {
		return
	}
	x.tells(span.Resend, span.Event{})
	x.waitsFor(u)
	if x.up = u; u != nil && u.up { // a place on a shared connection
		x.connected(u)
	}
}

// upstreamBroke: what came is no response.
func (x *exchange) upstreamBroke(perr *http1.Error) {
	x.host.failed(503)
	x.dropUpstream(true)
	x.w.p.counters.badResponses.Inc()
	if x.retriesFailure(decide.Reset) {
		return
	}
	x.details = "upstream_protocol_error"
	x.reply(502, x.flagged(telemetry.FlagUPE), x.told(perr.Reason))
}

// cutShort ends a response that cannot be completed, so that the client sees
// it is not whole.
func (x *exchange) cutShort(flag telemetry.Flag, details string) {
	x.flag, x.details = flag, details
	x.res.sendHead(x.w) // what has begun is seen to have
	x.dropUpstream(true)
	x.observe()
	x.leg.abort()
}

// tunnel passes a 101 on and makes the two connections one stream of bytes.
func (x *exchange) tunnel(n int, f http1.Framing) {
	w, d, u := x.w, x.h1, x.up
	w.edit = http1.Edit{Add: w.edit.Add[:0], Drop: neverBack}
	out, perr := http1.AppendResponse(w.out[:0], u.data[:n], &w.res, f, &w.edit)
	if perr != nil {
		x.upstreamBroke(perr)
		return
	}
	w.out = out[:0]
	d.send(out, nil)
	u.consume(n)
	x.begins()
	x.reqDone = true
	d.beTunnel()
}
