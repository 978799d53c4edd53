//go:build linux

package proxy

import (
	"github.com/seinemesh/seine/decide"
	"github.com/seinemesh/seine/message"
	"github.com/seinemesh/seine/proxy/http1"
	"github.com/seinemesh/seine/telemetry"
)

// meshResponse are the limits of a response that may have come through another
// sidecar.
var meshResponse = inboundLimits(http1.Limits{Head: 64 << 10, Fields: maxFields})

// pumpResponse passes the response on: interim heads, the final head with what
// has come of the body, the rest of the body.
func (d *downstream) pumpResponse() bool {
	w, x, u := d.w, &d.x, d.up
	if d.blocked() {
		return false
	}
	if len(u.data) == 0 {
		u.fill()
	}
	if len(u.data) == 0 {
		if u.eof || u.err != nil {
			d.upstreamEnded()
			return !d.closed
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
		return d.pumpBody()
	}
	var limits *http1.Limits
	if d.in == nil {
		limits = &meshResponse
	}
	n, f, perr := http1.ParseResponse(u.data, &w.res, x.framing.Asked, limits)
	if perr != nil {
		d.upstreamBroke(perr)
		return true
	}
	if n == 0 {
		if u.eof || u.err != nil {
			d.upstreamEnded()
			return !d.closed
		}
		return u.fill()
	}
	if f.Interim {
		d.interim(n, f)
		return true
	}
	d.final(n, f)
	return true
}

// interim passes a 1xx on, but never to an HTTP/1.0 client.
func (d *downstream) interim(n int, f http1.Framing) {
	w, u := d.w, d.up
	if d.x.framing.Asked&http1.AskedOld == 0 {
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
func (d *downstream) final(n int, f http1.Framing) {
	w, x, u := d.w, &d.x, d.up
	x.status = w.res.Status
	x.host.status(x.status)
	x.resFraming = f
	x.took(w.loop.Now())
	if x.retry.policy != nil && d.retriesAnswer(n, f) {
		return
	}
	if f.Kind == http1.Tunnel {
		d.tunnel(n, f)
		return
	}
	old := x.framing.Asked&http1.AskedOld != 0
	x.chunk = f.Kind == http1.Close && !old
	x.unchunk = f.Kind == http1.Chunked && old
	refused := x.framing.ExpectContinue && !x.reqDone // nobody knows whether the body will come
	if w.draining || refused || (old && (x.unchunk || f.Kind == http1.Close)) {
		d.last = true
	}
	e := d.responseEdit()
	out, perr := http1.AppendResponse(w.out[:0], u.data[:n], &w.res, f, e)
	if perr != nil {
		d.upstreamBroke(perr)
		return
	}
	w.out = out[:0]
	x.headSent = true
	x.resBody.Reset(f)
	if x.chunk || x.unchunk {
		d.send(out, nil)
		u.consume(n)
		if f.Kind == http1.None {
			d.complete()
		} else if len(u.data) > 0 {
			d.pumpBody()
		}
		return
	}
	b, done, perr := x.resBody.Next(u.data[n:])
	body := u.data[n : n+b]
	if len(body) > 0 && (d.session != nil && len(out)+len(body) <= recordSize || len(body) <= copyBelow) {
		out = append(out, body...)
		body = nil
	}
	d.send(out, body)
	u.consume(n + b)
	d.budget -= n + b
	if perr != nil {
		d.cutShort(telemetry.FlagUPE, "upstream_protocol_error")
		return
	}
	if done || f.Kind == http1.None {
		d.complete()
	}
}

// pumpBody passes bytes of the response's body on.
func (d *downstream) pumpBody() bool {
	w, x, u := d.w, &d.x, d.up
	switch {
	case x.unchunk:
		for len(u.data) > 0 && !d.blocked() {
			data, n, done, perr := x.resBody.Decode(u.data)
			d.send(data, nil)
			u.consume(n)
			d.budget -= n
			if perr != nil {
				d.cutShort(telemetry.FlagUPE, "upstream_protocol_error")
				return false
			}
			if done {
				d.complete()
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
		d.cutShort(telemetry.FlagUPE, "upstream_protocol_error")
		return false
	}
	if done {
		d.complete()
		return true
	}
	return n > 0
}

// responseEdit says what changes in the response's head on its way down.
func (d *downstream) responseEdit() *http1.Edit {
	w, x := d.w, &d.x
	e := &w.edit
	*e = http1.Edit{Add: e.Add[:0], Drop: neverBack, Close: d.last, Chunk: x.chunk, Unchunk: x.unchunk}
	if x.framing.Asked&http1.AskedOld != 0 && !d.last {
		e.KeepAlive = true
	}
	if x.cookie {
		d.giveCookie()
	}
	if x.dest != nil && x.dest.Response != nil {
		for i := range w.res.Fields {
			f := &w.res.Fields[i]
			f.Drop = x.dest.Response.Drops(f.Name)
		}
		for _, p := range x.dest.Response.Added() {
			e.Add = append(e.Add, message.Field{Name: bytesOf(p.Name), Value: bytesOf(p.Value)})
		}
	}
	return e
}

// complete: the whole response was passed on.
func (d *downstream) complete() {
	x, u := &d.x, d.up
	d.up = nil
	x.release()
	x.resDone = true
	u.served++
	if x.reqDone && x.resFraming.KeepAlive && x.resFraming.Kind != http1.Close {
		u.release()
	} else {
		u.drop(!x.reqDone)
	}
	if !x.reqDone {
		d.last = true
	}
	x.details = "via_upstream"
	d.retryEnded()
	d.conclude()
}

// upstreamEnded: the upstream connection ended where it should not, or where a
// body that is delimited by the close ends.
func (d *downstream) upstreamEnded() {
	w, x, u := d.w, &d.x, d.up
	if x.headSent && u.err == nil && u.clean && x.resBody.End() == nil {
		if x.chunk {
			d.send(bytesOf(http1.LastChunk), nil)
		}
		d.complete()
		return
	}
	if x.headSent {
		x.host.failed(503)
		d.cutShort(telemetry.FlagUC, "upstream_reset_after_response_started{connection_termination}")
		return
	}
	if !x.resStarted && u.served > 0 && !x.retried && x.replayable && (x.idempotent || x.unsent) {
		x.retried = true
		x.replayable = x.retry.policy != nil
		d.up = nil
		u.drop(true)
		w.p.counters.repeated.Inc()
		d.phase = connecting
		x.release()
		d.forwardAgain()
		return
	}
	x.host.failed(503)
	x.failed(w.loop.Now())
	d.dropUpstream(true)
	if d.retriesFailure(decide.Reset) {
		return
	}
	x.details = "upstream_reset_before_response_started{connection_termination}"
	d.reply(503, x.flagged(telemetry.FlagUC), x.told("the upstream closed the connection before its answer"))
}

// forwardAgain asks for a fresh connection for a request that was sent before.
func (d *downstream) forwardAgain() {
	x := &d.x
	x.begun()
	if u, ok := d.obtain(true); ok {
		d.up = u
	}
}

// upstreamBroke: what came is no response.
func (d *downstream) upstreamBroke(perr *http1.Error) {
	d.x.host.failed(503)
	d.dropUpstream(true)
	d.w.p.counters.badResponses.Inc()
	if d.retriesFailure(decide.Reset) {
		return
	}
	d.x.details = "upstream_protocol_error"
	d.reply(502, d.x.flagged(telemetry.FlagUPE), d.x.told(perr.Reason))
}

// cutShort ends a response that cannot be completed, so that the client sees
// it is not whole.
func (d *downstream) cutShort(flag telemetry.Flag, details string) {
	d.x.flag, d.x.details = flag, details
	d.dropUpstream(true)
	d.observe()
	d.end(true)
}

// tunnel passes a 101 on and makes the two connections one stream of bytes.
func (d *downstream) tunnel(n int, f http1.Framing) {
	w, x, u := d.w, &d.x, d.up
	w.edit = http1.Edit{Add: w.edit.Add[:0], Drop: neverBack}
	out, perr := http1.AppendResponse(w.out[:0], u.data[:n], &w.res, f, &w.edit)
	if perr != nil {
		d.upstreamBroke(perr)
		return
	}
	w.out = out[:0]
	d.send(out, nil)
	u.consume(n)
	x.headSent, x.reqDone = true, true
	d.beTunnel()
}
