//go:build linux

package proxy

import (
	"github.com/seinemesh/seine/decide"
	"github.com/seinemesh/seine/message"
	"github.com/seinemesh/seine/proxy/http1"
	"github.com/seinemesh/seine/proxy/http2"
	"github.com/seinemesh/seine/telemetry"
)

// response takes the answer's head in worker.res, which came over HTTP/2.
func (x *exchange) response(end bool) {
	x.began()
	x.moved = x.w.loop.Now()
	if x.w.res.Status < 200 {
		x.interim2()
		return
	}
	x.answerHead(http1.Framing{}, 0, end)
}

// began notes the first byte of an answer.
func (x *exchange) began() {
	if !x.resStarted {
		x.resStarted = true
		if x.replay != nil && x.retry.policy == nil {
			x.forget(x.w)
		}
	}
}

// interim2 passes a 1xx on.
func (x *exchange) interim2() {
	w := x.w
	w.edit = http1.Edit{Add: w.edit.Add[:0], Drop: neverBack}
	if x.h1 != nil {
		if x.framing.Asked&http1.AskedOld == 0 {
			if out, perr := http1.AppendResponse(w.out[:0], nil, &w.res, http1.Framing{Interim: true}, &w.edit); perr == nil {
				w.out = out[:0]
				x.h1.send(out, nil)
			}
		}
		return
	}
	st := x.stream()
	out, _ := st.b.h2.AppendResponse(st.b.room(fieldsSize(w.res.Fields)), st.s, &w.res, w.http2Edit(&w.edit), false)
	st.b.out = out
}

// stream is the client's side of an exchange over HTTP/2.
func (x *exchange) stream() *stream { return x.leg.(*stream) }

// answerHead takes the head of the final answer in worker.res, from HTTP/2 or
// (n bytes, framed by f) from HTTP/1, and passes it on. It reports whether it
// did: the answer may be one that is not the client's to see.
func (x *exchange) answerHead(f http1.Framing, n int, end bool) bool {
	w := x.w
	x.status = w.res.Status
	v, said := message.Get(w.res.Fields, message.GRPCStatus)
	if said {
		x.grpcStatus = grpcNumber(v)
	}
	if !x.grpc || said || end || x.status != 200 { // else the trailers say how it went
		x.host.status(x.means())
	}
	x.judged(w.loop.Now())
	x.resFraming = f
	if x.retry.policy != nil && x.retriesAnswer(n, f) {
		return false
	}
	e := x.responseEdit()
	if x.h1 != nil {
		return x.answerHead1(e, end)
	}
	st := x.stream()
	b := st.b
	h := w.http2Edit(e)
	size := fieldsSize(w.res.Fields) + fieldsSize(h.Add)
	out, err := b.h2.AppendResponse(b.room(size), st.s, &w.res, h, end)
	b.out = out
	if err != nil {
		x.upstreamBroke(&http1.Error{Status: 502, Reason: err.Reason, Clause: err.Clause})
		return false
	}
	x.begins()
	x.res.to, x.res.ts, x.res.open, x.res.end, x.res.done = &b.link, st.s, true, end, end
	if end && x.us != nil {
		x.finish()
	}
	return true
}

// answerHead1 passes the head of an answer that came over HTTP/2 to an HTTP/1
// client.
func (x *exchange) answerHead1(e *http1.Edit, end bool) bool {
	w, d := x.w, x.h1
	old := x.framing.Asked&http1.AskedOld != 0
	_, long := message.Get(w.res.Fields, message.ContentLength)
	empty := end || x.framing.Asked&http1.AskedHead != 0 || x.status == 204 || x.status == 304
	f := http1.Framing{}
	switch {
	case empty && !long && x.framing.Asked&http1.AskedHead == 0 && x.status != 204 && x.status != 304:
		e.Chunk, f.Kind = !old, http1.Close
	case empty, long:
	default:
		e.Chunk, f.Kind = !old, http1.Close
	}
	if w.draining || f.Kind == http1.Close && old || x.framing.ExpectContinue && !x.reqDone {
		x.last = true
	}
	e.Close, e.KeepAlive = x.last, old && !x.last
	out, perr := http1.AppendResponse(w.out[:0], nil, &w.res, f, e)
	if perr != nil {
		x.upstreamBroke(perr)
		return false
	}
	if empty && e.Chunk {
		out = append(out, http1.LastChunk...)
	}
	w.out = out[:0]
	x.begins()
	x.res.plain, x.res.chunk, x.res.open = d.socket, e.Chunk, true
	x.res.trails = x.up != nil && x.up.pool.key.carries
	if !end {
		x.res.lead(w, out)
		return true
	}
	d.send(out, nil)
	x.res.end, x.res.done = true, true
	x.finish()
	return true
}

// responseData takes content of an answer that comes over HTTP/2.
func (x *exchange) responseData(p []byte, end bool) {
	x.resExtra += int64(len(p))
	x.moved = x.w.loop.Now()
	x.res.push(x.w, p, end)
	x.answered2()
}

// responseTrailers takes the trailers of an answer that came over HTTP/2.
func (x *exchange) responseTrailers(fields []message.Field) {
	if v, ok := message.Get(fields, message.GRPCStatus); ok {
		x.grpcStatus = grpcNumber(v)
		if x.grpc && x.status == 200 {
			x.host.status(x.means())
		}
	}
	x.res.trail(x.w, fields)
	x.answered2()
}

func (x *exchange) answered2() {
	if x.phase == exchanging && x.res.done {
		x.finish()
	}
}

// pullResponse passes on what an HTTP/1 upstream says to an HTTP/2 client.
func (x *exchange) pullResponse() bool {
	w, u := x.w, x.up
	if x.headSent && (x.res.end || !x.res.free()) {
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
	x.began()
	if !x.headSent {
		return x.pullHead()
	}
	if x.raw {
		n := len(u.data)
		x.resExtra += int64(n)
		x.res.push(w, u.data, false)
		w.settleLent()
		u.consume(n)
		return true
	}
	moved := false
	for x.phase == exchanging && len(u.data) > 0 {
		section := x.resBody.Section()
		p, n, done, perr := x.resBody.Decode(u.data)
		if perr != nil {
			x.cutShort(telemetry.FlagUPE, "upstream_protocol_error")
			return true
		}
		if n == 0 && !done {
			break
		}
		moved = true
		x.pulling = true // the end of it must not come before its bytes are consumed
		if k := x.resBody.Section() - section; k > 0 && x.caller.carried() {
			x.section = w.buffers.append(x.section, u.data[n-k:n])
		}
		if done && len(x.section) > len(http1.CRLF) {
			x.trailers()
		} else {
			x.res.push(w, p, done)
		}
		w.settleLent()
		x.pulling = false
		if x.up != u {
			return true // the client has gone
		}
		u.consume(n)
		if x.res.done {
			x.finish()
			return true
		}
		if done || !x.res.free() {
			break
		}
	}
	return moved
}

// dropSection gives up the trailer section.
func (x *exchange) dropSection() {
	if x.section != nil {
		x.w.buffers.put(x.section[:0])
		x.section = nil
	}
}

// trailers ends an answer by the trailer section that its upstream sent over
// HTTP/1.1, and that goes on to a client of HTTP/1.1 behind the other sidecar.
func (x *exchange) trailers() {
	w := x.w
	fields, perr := http1.ParseTrailers(x.section, w.fields[:0])
	if w.fields = fields; perr != nil { // the body's own rules have seen to that
		fields = nil
	}
	x.res.trail(w, fields)
}

// pullHead looks for the answer's head.
func (x *exchange) pullHead() bool {
	w, u := x.w, x.up
	var limits *http1.Limits
	if x.caller.in == nil {
		limits = &meshResponse
	}
	n, f, perr := http1.ParseResponse(u.data, &w.res, x.framing.Asked, limits)
	switch {
	case perr != nil:
		x.upstreamBroke(perr)
		return true
	case n == 0:
		if u.eof || u.err != nil {
			x.upstreamEnded()
			return x.live()
		}
		return u.fill()
	case f.Interim:
		x.interim2()
		u.consume(n)
		return true
	}
	if f.Kind == http1.Tunnel {
		w.res.Status = 200 // RFC 8441 §5: the 101 of the other side
	}
	if !x.answerHead(f, n, f.Kind == http1.None) {
		return true
	}
	u.consume(n)
	x.resBody.Reset(f)
	if f.Kind == http1.Tunnel {
		x.raw, x.req.open = true, !x.req.done
	}
	if f.Kind == http1.None {
		x.finish()
	}
	return true
}

// finish: the whole answer was passed on, over one HTTP/2 leg at least.
func (x *exchange) finish() {
	if x.phase != exchanging {
		return
	}
	u := x.up
	x.up = nil
	x.release()
	x.resDone = true
	switch {
	case x.us != nil:
		u.trunk.leave(x)
	case u == nil:
	default:
		u.served++
		if x.reqDone && !x.raw && x.resFraming.KeepAlive && x.resFraming.Kind != http1.Close && u.user != nil {
			u.release()
		} else {
			u.drop(!x.reqDone)
		}
	}
	if !x.reqDone {
		x.last = true
	}
	x.details = x.via()
	x.retryEnded()
	x.conclude()
	if x.h1 != nil {
		x.later1()
	}
}

// streamEnded: the upstream has reset the stream, or its connection is lost.
func (x *exchange) streamEnded(code http2.Code, why *http2.Error) {
	w, u := x.w, x.up
	if x.phase != exchanging || u == nil {
		return
	}
	if code == http2.NoError && x.res.end { // the answer is whole: the rest of the request is not wanted
		return
	}
	if x.headSent {
		x.host.failed(503)
		x.cutShort(telemetry.FlagUR, "upstream_reset_after_response_started{remote_reset}")
		return
	}
	refused := code == http2.RefusedStream
	if (refused || !x.resStarted && x.idempotent && u.served > 0) && !x.retried && x.replayable {
		x.retried = true
		x.dropUpstream(true)
		w.p.counters.repeated.Inc()
		x.phase = connecting
		x.forwardAgain()
		return
	}
	if !refused {
		x.host.failed(503)
		x.failed(w.loop.Now())
	}
	x.dropUpstream(true)
	failure := decide.Reset
	if refused {
		failure = decide.Refused
	}
	if x.retriesFailure(failure) {
		return
	}
	x.details = "upstream_reset_before_response_started{remote_reset}"
	if why != nil {
		w.p.counters.badResponses.Inc()
		x.reply(502, x.flagged(telemetry.FlagUPE), x.told(why.Reason))
	} else {
		x.reply(503, x.flagged(telemetry.FlagUR), x.told("the upstream reset the stream: "+code.String()))
	}
	if x.leg != nil {
		x.leg.ready()
	}
}
