//go:build linux

package proxy

import (
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
	// What a client sends into a tunnel is a request to a server that grants none:
	// it waits for the 101.
	x.req.plain, x.req.chunk, x.req.raw, x.req.open = &u.socket, e.Chunk, x.tunnels, !end && !x.tunnels
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
	if x.resending() { // it goes with what is sent again, within the stream's window
		x.replay = w.buffers.append(x.replay, p)
		x.req.end = x.req.end || end
		x.copyBody(p)
		return
	}
	x.remember(w, p)
	x.copyBody(p)
	x.req.push(w, p, end)
	x.sentAll()
}

// requestTrailers takes trailers from an HTTP/2 client.
func (x *exchange) requestTrailers(fields []message.Field) {
	if !x.resending() {
		x.forget(x.w) // they are not kept for another try
	}
	x.req.trail(x.w, fields)
	x.sentAll()
}

// resending reports whether the request is about to be sent once more.
func (x *exchange) resending() bool { return x.transmitted && x.phase == connecting }

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
		if !x.pulling {
			x.finish()
		}
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
		x.copyBody(p)
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
