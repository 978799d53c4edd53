//go:build linux

package proxy

import (
	"github.com/seinemesh/seine/message"
	"github.com/seinemesh/seine/proxy/http1"
	"github.com/seinemesh/seine/proxy/http2"
	"github.com/seinemesh/seine/proxy/loop"
	"github.com/seinemesh/seine/telemetry"
)

// bundle is one HTTP/2 connection that a client opened: any number of exchanges
// at once, each routed for itself.
type bundle struct {
	link
	caller
	idle     loop.Timer
	slow     loop.Timer // a head has begun and is not complete
	count    int        // streams with an exchange
	draining bool       // the client was told to open no more
	shut     bool       // it opens no more
	failed   bool       // the GOAWAY of an error is on its way: what still comes is thrown away
	quiet    bool       // our side is shut
	expelled bool       // it ends soon, whatever is under way
	over     bool
}

// stream is one exchange of a bundle, and its client's side. It is used again for
// another one when it is over.
type stream struct {
	x    exchange
	b    *bundle
	s    *http2.Stream // nil: over
	idle loop.Timer
	next *stream // among the worker's unused ones
}

// serveHTTP2 takes over a connection whose first bytes are the preface.
func (w *worker) serveHTTP2(s *socket, c caller) {
	o := callerH2
	if c.in != nil && s.session != nil {
		o = meshH2
	}
	b := &bundle{caller: c}
	b.sock = s
	b.idle.Fire = b.idled
	b.slow.Fire = b.tooSlow
	w.bundles[b] = struct{}{}
	b.begin(s, o, b)
	s.owner = b
	b.rest()
	if w.draining {
		b.drain()
	}
	if len(s.data) > 0 {
		b.feed()
	}
	if !s.closed {
		b.ready()
	}
}

// rest arms the timer of a connection without streams.
func (b *bundle) rest() {
	if b.expelled {
		return
	}
	b.w.loop.Arm(&b.idle, b.w.loop.Now()+int64(b.w.p.o.DownstreamIdle))
}

// event is called for all that comes.
func (b *bundle) event(ev *http2.Event) {
	switch ev.Kind {
	case http2.Request:
		b.request(ev)
	case http2.Data:
		if x, ok := ev.Stream.Owner.(*exchange); ok {
			x.requestData(ev.Data, ev.End)
		} else {
			b.h2.Consume(ev.Stream, len(ev.Data))
		}
	case http2.Trailers:
		if x, ok := ev.Stream.Owner.(*exchange); ok {
			x.requestTrailers(ev.Fields)
		}
	case http2.Reset:
		if ev.Err != nil {
			b.w.p.counters.badRequests.Inc()
		}
		if x, ok := ev.Stream.Owner.(*exchange); ok {
			x.abandon()
		} else {
			b.h2.Release(ev.Stream)
		}
	case http2.Refused:
		b.w.p.counters.badRequests.Inc()
	case http2.Pong:
		if b.draining && !b.shut { // all that the client sent before it knew is here
			b.shut = true
			b.h2.Shut()
		}
	case http2.Failed:
		b.w.p.counters.badRequests.Inc()
		b.w.p.log.Debug("HTTP/2 connection of a client failed", "remote", b.remote, "error", ev.Err)
		b.fail()
	}
}

// fail ends all exchanges; what explains it to the client still goes out.
func (b *bundle) fail() {
	b.failed = true
	b.abandonAll()
	b.w.loop.Arm(&b.idle, b.w.loop.Now()+int64(lingerTime))
	b.mark()
}

func (b *bundle) abandonAll() {
	for s := b.h2.Any(); s != nil; s = b.h2.Any() {
		if x, ok := s.Owner.(*exchange); ok {
			x.abandon()
		} else {
			b.h2.Release(s)
		}
	}
}

// broken: the client has gone.
func (b *bundle) broken() { b.end(b.err != nil || b.lost != nil) }

// written: a connection that has nothing more to say ends.
func (b *bundle) written() {
	switch {
	case b.blocked() || len(b.out) > 0 || b.quiet:
	case b.failed:
		// A reset would overtake the GOAWAY: our side is shut, and what still
		// comes is read.
		b.quiet = true
		b.finish()
	case b.shut && b.h2.Streams() == 0:
		b.quiet = true
		b.finish()
		b.w.loop.Arm(&b.idle, b.w.loop.Now()+int64(lingerTime))
	}
}

// drain tells the client to open no more streams (RFC 9113 §6.8).
func (b *bundle) drain() {
	if b.draining || b.failed {
		return
	}
	b.draining = true
	b.h2.Drain()
	b.h2.Ping([8]byte{'d', 'r', 'a', 'i', 'n'})
	b.mark()
}

// expel ends a connection that a policy does not let be any more: its client is
// told, and what is under way has a bounded time.
func (b *bundle) expel() {
	if b.expelled || b.failed {
		return
	}
	b.drain()
	b.expelled = true
	b.w.loop.Arm(&b.idle, b.w.loop.Now()+int64(closeTime))
}

// idled: nothing is under way for too long, or it is time for a sign of life.
func (b *bundle) idled() {
	switch {
	case b.failed || b.quiet || b.expelled:
		b.end(true)
	case b.count == 0 && !b.draining:
		b.drain()
		b.w.loop.Arm(&b.idle, b.w.loop.Now()+int64(closeTime))
	case b.count == 0 || !b.alive():
		b.end(true)
	default:
		b.w.loop.Arm(&b.idle, b.w.loop.Now()+int64(b.w.p.o.Pulse))
	}
}

// hurry gives what has begun, and is not content, as long as a head may take: there
// may be no exchange yet whose time it would be.
func (b *bundle) hurry() {
	const frameData = 0
	unfinished := b.h2.Unfinished() || len(b.data) > 0 && (len(b.data) < 4 || b.data[3] != frameData)
	if unfinished == b.slow.Armed() || b.over {
		return
	}
	if unfinished {
		b.w.loop.Arm(&b.slow, b.w.loop.Now()+int64(b.w.p.o.HeadTimeout))
	} else {
		b.w.loop.Disarm(&b.slow)
	}
}

// tooSlow: a head, or a frame of control, did not come to its end in time.
func (b *bundle) tooSlow() {
	if b.failed {
		return
	}
	b.w.p.counters.slowConnections.Inc()
	b.h2.Abort(http2.EnhanceYourCalm)
	b.fail()
}

// end closes the connection and forgets it.
func (b *bundle) end(reset bool) {
	if b.over {
		return
	}
	b.over = true
	b.abandonAll()
	delete(b.w.bundles, b)
	b.w.loop.Drop(&b.idle)
	b.w.loop.Drop(&b.slow)
	b.socket.close(reset)
	b.free()
	b.w.loop.Reserve(-1)
}

// stream returns memory for an exchange.
func (w *worker) stream() *stream {
	st := w.unused
	if st != nil {
		w.unused = st.next
		st.next = nil
		return st
	}
	st = &stream{}
	x := &st.x
	x.w, x.leg, x.stall = w, st, &st.idle
	x.limit.Fire, x.try.Fire, st.idle.Fire = x.overdue, x.tryOver, x.stalled
	return st
}

// recycle gives the memory of an exchange that is over back, when nobody on the
// stack uses it any more.
func (st *stream) recycle() {
	w := st.x.w
	w.loop.Drop(&st.idle)
	st.x.dropTimers()
	st.b, st.x.caller = nil, nil
	st.next, w.unused = w.unused, st
}

// request begins the exchange of a head.
func (b *bundle) request(ev *http2.Event) {
	w := b.w
	st := w.stream()
	x := &st.x
	st.b, st.s, x.caller = b, ev.Stream, &b.caller
	x.reset(w.loop.Now())
	ev.Stream.Owner = x
	if b.count++; b.count == 1 && !b.expelled {
		w.loop.Arm(&b.idle, w.loop.Now()+int64(b.w.p.o.Pulse))
	}
	w.req = *ev.Request
	w.joinCookies(&w.req)
	if w.req.Minor = 2; b.carried() {
		w.req.Minor = 1
	}
	w.inflight.Add(1)
	x.phase = deciding
	x.framing = asked(&w.req, ev.End)
	x.idempotent = idempotent(w.req.Method)
	x.req.from, x.req.fs, x.req.end = &b.link, ev.Stream, ev.End
	x.reqDone = ev.End
	x.gRPC(&w.req)
	x.note(&w.req)
	if string(w.req.Method) == "CONNECT" && !x.connect2(ev.Protocol) {
		return
	}
	x.dispatch()
	if x.phase != vacant && (!x.transmitted || x.replayable) {
		x.kept.keep(w, &w.req)
	}
}

// asked is the framing of a request that came over HTTP/2, as HTTP/1 has it.
func asked(req *message.Request, end bool) http1.Framing {
	f := http1.Framing{KeepAlive: true}
	switch string(req.Method) {
	case "HEAD":
		f.Asked = http1.AskedHead
	case "CONNECT":
		f.Asked = http1.AskedConnect
	}
	if end {
		return f
	}
	f.Kind = http1.Chunked
	if v, ok := message.Get(req.Fields, message.ContentLength); ok {
		f.Kind, f.Length = http1.Length, 0
		for _, c := range v {
			f.Length = f.Length*10 + int64(c-'0')
		}
	}
	return f
}

// joinCookies makes one field of the crumbs that HTTP/2 may cut a cookie into
// (RFC 9113 §8.2.3): what is not HTTP/2, and our own decisions, know one only.
func (w *worker) joinCookies(req *message.Request) {
	first, n := -1, 0
	for i := range req.Fields {
		f := &req.Fields[i]
		if len(f.Name) != 6 || string(f.Name) != "cookie" {
			continue
		}
		if n++; n == 1 {
			first = i
		}
	}
	if n < 2 {
		return
	}
	w.crumbs = append(w.crumbs[:0], req.Fields[first].Value...)
	out := req.Fields[:first+1]
	for _, f := range req.Fields[first+1:] {
		if string(f.Name) == "cookie" {
			w.crumbs = append(append(w.crumbs, "; "...), f.Value...)
			continue
		}
		out = append(out, f)
	}
	out[first].Value = w.crumbs
	req.Fields = out
}

// again makes worker.req the head once more.
func (st *stream) again() {
	if st.x.kept.holds() {
		st.x.kept.load(st.x.w, &st.x.w.req)
	}
}

// gone: a client that gives up resets the stream, and is heard at once.
func (st *stream) gone() bool { return false }

func (st *stream) ready() {
	x := &st.x
	if st.s == nil || x.phase == vacant {
		return
	}
	if x.w.feeding {
		x.later()
		return
	}
	for range 4 { // at most as many reads, before others have their turn
		if !x.move() {
			return
		}
		if st.s == nil || x.phase != exchanging {
			return
		}
	}
	x.later()
}

// answer sends an answer of our own; to gRPC's clients in gRPC's words.
func (st *stream) answer(status int, body string, extra ...message.Field) {
	x, w, l := &st.x, st.x.w, &st.b.link
	e := &w.edit2
	*e = http2.Edit{Add: e.Add[:0]}
	for _, f := range extra {
		e.Add = append(e.Add, message.Field{ID: f.ID, Name: f.Name, Value: f.Value})
	}
	w.res = message.Response{Status: status, Fields: w.res.Fields[:0]}
	if x.grpc {
		x.grpcAnswer(status)
		x.headSent = true
		out, _ := l.h2.AppendResponse(l.room(512+fieldsSize(e.Add)), st.s, &w.res, e, true)
		l.out = out
		return
	}
	w.count = appendInt(w.count[:0], len(body))
	w.res.Fields = append(w.res.Fields,
		message.Field{ID: message.ContentLength, Name: bytesOf("content-length"), Value: w.count},
		message.Field{ID: message.ContentType, Name: bytesOf("content-type"), Value: bytesOf("text/plain")})
	end := len(body) == 0 || x.framing.Asked&http1.AskedHead != 0
	out, _ := l.h2.AppendResponse(l.room(512+fieldsSize(e.Add)), st.s, &w.res, e, end)
	l.out = out
	x.headSent = true
	if !end {
		x.resExtra = int64(len(body))
		x.tail = true // the stream lives on until the client's window has taken it
		_ = l.h2.Send(st.s, bytesOf(body), true)
		l.hint += len(body) + 16
		l.frame()
	}
}

// over lets the stream go.
func (st *stream) over() {
	x := &st.x
	x.phase = vacant
	st.leave()
}

// abort resets the stream, or ends a gRPC one with a status.
func (st *stream) abort() {
	x, l := &st.x, &st.b.link
	if !x.live() {
		return
	}
	if st.s != nil && !st.s.Closed() && x.flag != telemetry.FlagDC {
		if x.grpc && x.headSent && !st.s.Sent() {
			st.x.res.detach()
			_ = l.h2.Send(st.s, nil, false)
			x.w.fields = append(x.w.fields[:0], message.Field{ID: message.GRPCStatus, Name: bytesOf("grpc-status"), Value: bytesOf(grpcText[x.grpcFor(503)])})
			out, _ := l.h2.AppendTrailers(l.room(128), st.s, x.w.fields)
			l.out = out
		} else {
			l.h2.Reset(st.s, http2.InternalError)
		}
	}
	x.end()
	st.leave()
}

// leave gives the stream back.
func (st *stream) leave() {
	x, b := &st.x, st.b
	if st.s == nil {
		return
	}
	x.end()
	x.req.drop(x.w)
	x.res.drop(x.w)
	x.req.detach()
	x.res.detach()
	x.req.fs = nil
	x.kept.drop(x.w)
	s := st.s
	st.s = nil
	s.Owner = nil
	if !x.tail || s.Sent() || s.Closed() {
		b.h2.Release(s)
	}
	b.mark()
	if b.count--; b.count == 0 && !b.failed {
		b.rest()
	}
	x.w.finished = append(x.w.finished, st)
}
