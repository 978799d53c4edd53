//go:build linux

package proxy

import (
	"github.com/seinemesh/seine/decide"
	"github.com/seinemesh/seine/message"
	"github.com/seinemesh/seine/proxy/http1"
	"github.com/seinemesh/seine/telemetry"
)

// never are fields that a client's request may not carry past a sidecar.
var never = message.SetOf(message.XForwardedClientCert, message.XEnvoyPeerMetadata, message.XEnvoyPeerMetadataID)

// neverBack are fields that a response may not carry past one.
var neverBack = message.SetOf(message.XEnvoyPeerMetadata, message.XEnvoyPeerMetadataID)

// forward gets an upstream connection for the request in worker.req and sends
// it, or waits for the connection.
func (x *exchange) forward() {
	w := x.w
	x.begun()
	x.resumes()
	if x.phase == waiting {
		w.loop.Disarm(&x.limit)
	}
	if x.deadline > 0 { // the caller's own clock runs from its first byte
		w.loop.Arm(&x.limit, x.start+x.deadline)
	}
	x.firstTry()
	u, ok := x.obtain(false)
	if !ok {
		return
	}
	if x.up = u; u == nil || !u.up {
		x.waitsFor(u)
		x.phase = connecting
		if u == nil { // queued
			w.loop.Arm(x.stall, w.loop.Now()+int64(w.p.o.StreamIdle))
		}
		return
	}
	x.transmit()
}

// connected: the upstream connection that the request waits for is there.
func (x *exchange) connected(u *upstream) {
	if !x.live() || x.up != u {
		return
	}
	x.resumes()
	switch {
	case x.connects:
		x.established()
		return
	case x.transmitted: // a second attempt
		x.repeat()
	default:
		x.leg.again()
		x.transmit()
	}
	x.leg.ready()
}

// connectFailed: there is no upstream connection to be had.
func (x *exchange) connectFailed(u *upstream, err error) {
	if !x.live() || (u != nil && x.up != u) {
		return
	}
	x.up = nil
	x.resumes()
	x.failed(x.w.loop.Now())
	x.host.failed(503)
	x.release()
	if !x.transmitted {
		x.leg.again()
	}
	if x.retriesFailure(decide.ConnectFailed) {
		return
	}
	x.details = "upstream_reset_before_response_started"
	x.unreached(x.told(connectCause(err)))
	if u != nil {
		x.leg.ready()
	}
}

// transmit sends the head that is parsed in worker.req, with as much of the
// body as has come, in one write.
func (x *exchange) transmit() {
	if x.h1 == nil || x.up.trunk != nil {
		x.convey()
		return
	}
	w, d, u := x.w, x.h1, x.up
	x.ticket.attached()
	x.host.connected()
	head := d.data[:x.head]
	e := x.requestEdit()
	out := append(w.out[:0], u.greeting()...)
	greeted := len(out)
	out, perr := http1.AppendRequest(out, head, &w.req, x.framing, e)
	if perr != nil {
		x.up = nil
		u.drop(true)
		x.refuse(perr)
		return
	}
	w.out = out[:0]
	x.reqBody.Reset(x.framing)
	n, done, perr := x.reqBody.Next(d.data[x.head:])
	x.reqDone = done || x.framing.Kind == http1.None
	body := d.data[x.head : x.head+n]
	if perr != nil {
		x.up = nil
		u.drop(true)
		x.refuse(perr)
		return
	}
	x.copyBody(body)
	x.replayable = x.keeps(u)
	if x.replayable {
		x.retry.head = len(out) - greeted
		x.remember(w, out[greeted:])
		x.remember(w, body)
	}
	x.transmitted, x.local = true, u.local
	x.sentAt = w.loop.Now()
	x.phase = exchanging
	x.moved = x.sentAt
	if u.session != nil && len(body) > 0 && len(out)+len(body) <= recordSize {
		out = append(out, body...)
		body = nil
	}
	u.send(out, body)
	x.unsent = u.lost != nil
	d.consume(x.head + n)
	w.loop.Arm(x.stall, w.loop.Now()+int64(w.p.o.StreamIdle))
	if x.reqDone {
		x.startClocks()
	}
}

// repeat sends what is kept of a request again.
func (x *exchange) repeat() {
	if x.bridged {
		x.conveyAgain()
		return
	}
	w, u := x.w, x.up
	x.ticket.attached()
	x.phase = exchanging
	x.moved = w.loop.Now()
	x.sentAt, x.local = x.moved, u.local
	u.send(w.headAgain(x), x.replay[x.retry.head:])
	x.unsent = x.unsent && u.lost != nil
	if !x.retry.policy.May(x.idempotent) {
		x.forget(w)
	}
}

// step makes one step of an exchange that is under way, and reports whether
// there may be another.
func (x *exchange) step() bool {
	if x.phase != exchanging {
		x.watch()
		return false
	}
	d := x.h1
	if d.err != nil || d.lost != nil {
		x.abandon()
		return false
	}
	if x.bridged {
		if x.move() {
			return !d.closed
		}
		if x.phase == exchanging && d.hup && d.gone() {
			x.abandon()
		}
		return false
	}
	moved := false
	if !x.reqDone && x.pumpRequest() {
		moved = true
	}
	if x.phase != exchanging {
		return !d.closed
	}
	if x.pumpResponse() {
		moved = true
	}
	if x.phase != exchanging {
		return !d.closed
	}
	if moved {
		x.moved = x.w.loop.Now()
	} else if d.hup && d.gone() {
		x.abandon()
		return false
	}
	return moved
}

// pumpRequest passes the request's body on.
func (x *exchange) pumpRequest() bool {
	w, d, u := x.w, x.h1, x.up
	if u.blocked() || u.lost != nil {
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
	n, done, perr := x.reqBody.Next(d.data)
	if n > 0 {
		x.remember(w, d.data[:n])
		x.copyBody(d.data[:n])
		u.send(d.data[:n], nil)
		d.consume(n)
		d.budget -= n
	}
	if perr != nil {
		x.dropUpstream(true)
		if x.headSent {
			x.flag, x.details = telemetry.FlagDPE, "downstream_protocol_error"
			x.observe()
			x.leg.abort()
		} else {
			x.refuse(perr)
		}
		return false
	}
	x.reqDone = done
	if done {
		x.startClocks()
	}
	return n > 0
}

// requestEdit says what changes in the request's head on its way upstream.
func (x *exchange) requestEdit() *http1.Edit {
	w := x.w
	req, e, session := &w.req, &w.edit, x.caller.sock.session
	*e = http1.Edit{Add: e.Add[:0], Drop: never}
	if _, ok := message.Get(req.Fields, message.XRequestID); !ok {
		if !x.named {
			x.named = true
			copy(x.id[:], w.requestID())
		}
		id := x.id[:]
		e.Add = append(e.Add, message.Field{Name: bytesOf("x-request-id"), Value: id})
		x.line.setID(w, id)
	}
	if x.caller.behind || x.caller.door.kind == doorPublished { // who the client is, is known here alone
		e.Drop |= message.SetOf(message.XForwardedFor)
		w.text3 = w.text3[:0]
		if before := field(req, message.XForwardedFor); len(before) > 0 {
			w.text3 = append(append(w.text3, before...), ", "...)
		}
		w.text3 = x.caller.remote.Addr().AppendTo(w.text3)
		e.Add = append(e.Add, message.Field{Name: bytesOf("x-forwarded-for"), Value: w.text3})
	}
	if x.caller.door.kind == doorPublished { // the mesh's edge: what it sees is what holds
		e.Drop |= message.SetOf(message.XForwardedProto)
		e.Add = append(e.Add, message.Field{Name: bytesOf("x-forwarded-proto"), Value: bytesOf("http")})
	} else if _, ok := message.Get(req.Fields, message.XForwardedProto); !ok {
		scheme := "http"
		if session != nil {
			scheme = "https"
		}
		e.Add = append(e.Add, message.Field{Name: bytesOf("x-forwarded-proto"), Value: bytesOf(scheme)})
	}
	if x.caller.in != nil && session != nil {
		if p := session.Peer(); p != nil && len(p.XFCC) > 0 {
			e.Add = append(e.Add, message.Field{Name: bytesOf("x-forwarded-client-cert"), Value: p.XFCC})
		}
	}
	if len(req.Authority) == 0 { // HTTP/1.0: what it was sent to is all there is
		if x.caller.door.kind == doorPublished {
			e.Authority = bytesOf(x.caller.door.host)
		} else if x.dialled.IsValid() {
			w.text2 = x.dialled.AppendTo(w.text2[:0])
			e.Authority = w.text2
		}
	}
	dropWishes(req.Fields, x.rule != nil)
	if x.trace.on != nil {
		x.tellTrace(e)
	}
	if x.rule == nil {
		return e
	}
	if x.rule.RewritesPath() {
		w.text = x.rule.AppendPath(w.text[:0], x.match, req.Path)
		e.Target = w.text
		e.Add = was(req.Fields, e.Add, "x-envoy-original-path", req.Path)
	}
	if x.rule.RewritesAuthority(x.dest) {
		w.text2 = x.rule.AppendAuthority(w.text2[:0], x.dest, req.Authority)
		e.Authority = w.text2
		e.Add = was(req.Fields, e.Add, "x-envoy-original-host", req.Authority)
	}
	if ops := x.dest.Request; ops != nil {
		for i := range req.Fields {
			f := &req.Fields[i]
			f.Drop = f.Drop || ops.Drops(f.Name)
		}
		for _, p := range ops.Added() {
			e.Add = append(e.Add, message.Field{Name: bytesOf(p.Name), Value: bytesOf(p.Value)})
		}
	}
	w.countTry(x)
	x.copyHead(e)
	return e
}

// was adds a field of what the route changes, as it was before; what the caller says
// under that name is dropped.
func was(fields, add []message.Field, name string, value []byte) []message.Field {
	for i := range fields {
		if f := &fields[i]; len(f.Name) == len(name) && message.EqualFold(f.Name, name) {
			f.Drop = true
		}
	}
	return append(add, message.Field{Name: bytesOf(name), Value: value})
}
