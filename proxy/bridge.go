//go:build linux

package proxy

import (
	"github.com/seinemesh/seine/decide"
	"github.com/seinemesh/seine/message"
	"github.com/seinemesh/seine/proxy/http1"
	"github.com/seinemesh/seine/proxy/http2"
	"github.com/seinemesh/seine/telemetry"
)

// convey sends the request's head in worker.req where one of the two legs is
// HTTP/2, and opens the way for its content.
func (x *exchange) convey() {
	w, u := x.w, x.up
	x.ticket.attached()
	x.host.connected()
	e := x.requestEdit()
	end := x.req.end && len(x.req.held) == 0 && !x.req.trailers.holds()
	if x.h1 != nil {
		end = x.framing.Kind == http1.None
	}
	x.bridged = true
	if !x.transmitted {
		x.replayable = !x.tunnels && (x.retry.policy != nil || u.served > 0)
		x.remember(w, x.req.held) // what came meanwhile
	}
	var bad string
	if u.trunk != nil {
		bad = x.openStream(e, end)
	} else {
		bad = x.sendHead(e, end)
	}
	if bad != "" {
		x.dropUpstream(true)
		x.last = true
		x.reply(500, telemetry.FlagLR, bad)
		return
	}
	if x.h1 != nil && !x.transmitted {
		if x.replayable {
			x.kept.keep(w, &w.req)
		}
		x.h1.consume(x.head)
		x.reqBody.Reset(x.framing)
	}
	x.transmitted, x.local = true, u.local
	x.sentAt = w.loop.Now()
	x.phase, x.moved = exchanging, x.sentAt
	x.reqDone = end
	x.req.done = end
	w.loop.Arm(x.stall, x.sentAt+int64(w.p.o.StreamIdle))
	if end {
		x.startClocks()
		return
	}
	// What came before there was a sink.
	if held := x.req.held; len(held) > 0 && x.req.ts != nil {
		x.req.to.hint += len(held) + 16
		_ = x.req.to.h2.Send(x.req.ts, held, x.req.end && !x.req.trailers.holds())
		x.req.to.mark()
	} else if x.req.ts != nil && x.req.end {
		x.req.push(w, nil, true)
	}
	x.move()
}

// openStream sends the head on a stream of a shared connection.
func (x *exchange) openStream(e *http1.Edit, end bool) string {
	w, t := x.w, x.up.trunk
	h := w.http2Edit(e)
	h.Path, h.Authority = e.Target, e.Authority
	if x.tunnels {
		h.Protocol = bytesOf("websocket")
	}
	if len(w.req.Scheme) == 0 {
		h.Scheme = bytesOf("http")
	}
	size := len(w.req.Path) + len(w.req.Authority) + len(h.Path) + fieldsSize(w.req.Fields) + fieldsSize(h.Add)
	out, s, err := t.h2.AppendRequest(t.room(size), &w.req, h, end)
	t.out = out
	if err != nil {
		return err.Error()
	}
	if t.opened++; t.h2.Streams() == 1 {
		t.busy()
	}
	s.Owner, x.us = x, s
	x.req.to, x.req.ts, x.req.open = &t.link, s, !end
	x.res.from, x.res.fs = &t.link, s
	return ""
}

// http2Edit is an edit's part that both protocols have.
func (w *worker) http2Edit(e *http1.Edit) *http2.Edit {
	w.edit2 = http2.Edit{Drop: e.Drop, DropNames: e.DropNames, Add: e.Add}
	return &w.edit2
}

// sendHead sends the head of a stream's request over HTTP/1.
func (x *exchange) sendHead(e *http1.Edit, end bool) string {
	w, u := x.w, x.up
	f := x.framing
	asked := w.req.Method
	if x.tunnels {
		f = http1.Framing{}
		w.req.Method = bytesOf("GET")
	}
	e.Chunk = !end && f.Kind == http1.Chunked
	out, perr := http1.AppendRequest(append(w.out[:0], u.greeting()...), nil, &w.req, f, e)
	w.req.Method = asked
	if perr != nil {
		return perr.Error()
	}
	if x.tunnels {
		out = x.appendUpgrade(out)
		x.framing.Asked = http1.AskedUpgrade
	}
	w.out = out[:0]
	u.send(out, nil)
	x.unsent = u.lost != nil
	x.req.plain, x.req.chunk, x.req.raw, x.req.open = &u.socket, e.Chunk, x.tunnels, !end
	return ""
}

// conveyAgain sends a request once more that was sent before.
func (x *exchange) conveyAgain() {
	w := x.w
	x.req.detach()
	x.kept.load(w, &w.req)
	if x.replay != nil {
		x.req.held = w.buffers.append(x.req.held[:0], x.replay)
	}
	x.convey()
}

// requestData takes content of the request from an HTTP/2 client.
func (x *exchange) requestData(p []byte, end bool) {
	w := x.w
	x.reqExtra += int64(len(p))
	x.moved = w.loop.Now()
	x.remember(w, p)
	x.req.push(w, p, end)
	x.sentAll()
}

// requestTrailers takes trailers from an HTTP/2 client.
func (x *exchange) requestTrailers(fields []message.Field) {
	x.forget(x.w) // they are not kept for another try
	x.req.trail(x.w, fields)
	x.sentAll()
}

// sentAll notes that the whole request has gone upstream.
func (x *exchange) sentAll() {
	if x.reqDone && x.h1 != nil || x.phase != exchanging || !x.req.done {
		return
	}
	if !x.clocked {
		x.clocked = true
		x.startClocks()
	}
	x.reqDone = true
}

// framed: n bytes of the stream's content, or its end, are in the output of l.
func (x *exchange) framed(l *link, s *http2.Stream, n int) {
	f := &x.res
	if l.up {
		f = &x.req
	}
	if f.ts != s {
		return
	}
	x.moved = x.w.loop.Now()
	f.taken(n)
	if len(s.Rest()) == 0 {
		f.lent = false
		if f.held != nil {
			x.w.buffers.put(f.held[:0])
			f.held = nil
		}
		f.trailed(x.w)
	}
	if s.Sent() {
		f.done = true
	}
	x.progress(f)
}

// progress acts on a pipe that has moved.
func (x *exchange) progress(f *pipe) {
	switch {
	case f == &x.req:
		x.sentAll()
		if x.h1 != nil && !f.done && f.free() {
			x.later()
		}
	case f.done:
		x.finish()
	case x.us == nil && f.free():
		x.later()
	}
}

// later has the exchange go on in the next turn: its sink has room again.
func (x *exchange) later() {
	if !x.queued {
		x.queued = true
		x.w.loop.Later(x)
	}
}

// Resume goes on after later.
func (x *exchange) Resume() {
	x.queued = false
	if x.phase != vacant && x.leg != nil {
		x.leg.ready()
	}
}

// move passes on what the plain legs have or take; it reports whether anything
// did.
func (x *exchange) move() bool {
	if x.phase != exchanging {
		return false
	}
	moved := x.req.drain(x.w)
	x.sentAll()
	if x.h1 != nil && !x.reqDone && x.pullRequest() {
		moved = true
	}
	if x.phase == exchanging && x.us == nil && x.up != nil && x.pullResponse() {
		moved = true
	}
	if x.phase == exchanging && x.res.drain(x.w) {
		moved = true
	}
	if x.phase == exchanging && x.res.open && x.res.done {
		x.finish()
		return true
	}
	if moved && x.phase == exchanging {
		x.moved = x.w.loop.Now()
	}
	return moved
}

// pullRequest passes on the body that an HTTP/1 client sends.
func (x *exchange) pullRequest() bool {
	w, d := x.w, x.h1
	if !x.req.free() {
		return false
	}
	if len(d.data) == 0 {
		d.fill()
	}
	if len(d.data) == 0 {
		if d.eof || d.err != nil {
			x.abandon()
		}
		return false
	}
	moved := false
	for x.phase == exchanging {
		p, n, done, perr := x.reqBody.Decode(d.data)
		if perr != nil {
			x.dropUpstream(true)
			if x.headSent {
				x.flag, x.details = telemetry.FlagDPE, "downstream_protocol_error"
				x.observe()
				x.leg.abort()
			} else {
				x.refuse(perr)
			}
			return true
		}
		if n == 0 && !done {
			break
		}
		moved = true
		x.remember(w, p)
		x.req.push(w, p, done)
		w.settleLent()
		d.consume(n)
		d.budget -= n
		x.sentAll()
		if done || !x.req.free() || len(d.data) == 0 {
			break
		}
	}
	return moved
}

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
	x.host.status(x.status)
	x.took(w.loop.Now())
	if v, ok := message.Get(w.res.Fields, message.GRPCStatus); ok {
		x.grpcStatus = grpcNumber(v)
	}
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
	x.headSent = true
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
	x.headSent = true
	x.res.plain, x.res.chunk, x.res.open = d.socket, e.Chunk, true
	d.send(out, nil)
	if end {
		x.res.end, x.res.done = true, true
		x.finish()
	}
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
		p, n, done, perr := x.resBody.Decode(u.data)
		if perr != nil {
			x.cutShort(telemetry.FlagUPE, "upstream_protocol_error")
			return true
		}
		if n == 0 && !done {
			break
		}
		moved = true
		x.res.push(w, p, done)
		w.settleLent()
		if x.up != u {
			return true // that was the end of it
		}
		u.consume(n)
		if done || !x.res.free() {
			break
		}
	}
	return moved
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
		x.raw = true
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
	x.details = "via_upstream"
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
