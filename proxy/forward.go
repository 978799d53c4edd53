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
func (d *downstream) forward() {
	w, x := d.w, &d.x
	x.begun()
	if d.phase == waiting {
		w.loop.Disarm(&d.limit)
	}
	d.firstTry()
	u, ok := d.obtain(false)
	if !ok {
		return
	}
	if d.up = u; u == nil || !u.up {
		d.phase = connecting
		if u == nil { // queued
			w.loop.Arm(&d.idle, w.loop.Now()+int64(w.p.o.StreamIdle))
		}
		return
	}
	d.transmit()
}

// connected: the upstream connection that the request waits for is there.
func (d *downstream) connected(u *upstream) {
	if d.closed || d.up != u {
		return
	}
	switch {
	case d.x.connects:
		d.established()
		return
	case d.x.transmitted: // a second attempt
		d.repeat()
	default:
		d.parse()
		d.transmit()
	}
	d.ready()
}

// connectFailed: there is no upstream connection to be had.
func (d *downstream) connectFailed(u *upstream, err error) {
	if d.closed || (u != nil && d.up != u) {
		return
	}
	d.up = nil
	d.x.failed(d.w.loop.Now())
	d.x.host.failed(503)
	d.x.release()
	if !d.x.transmitted {
		d.parse()
	}
	if d.retriesFailure(decide.ConnectFailed) {
		return
	}
	d.x.details = "upstream_reset_before_response_started"
	d.reply(503, d.x.flagged(telemetry.FlagUF), d.x.told(connectCause(err)))
	if u != nil {
		d.ready()
	}
}

// transmit sends the head that is parsed in worker.req, with as much of the
// body as has come, in one write.
func (d *downstream) transmit() {
	w, x, u := d.w, &d.x, d.up
	x.ticket.attached()
	x.host.connected()
	head := d.data[:x.head]
	e := w.requestEdit(d)
	out := append(w.out[:0], u.greeting()...)
	greeted := len(out)
	out, perr := http1.AppendRequest(out, head, &w.req, x.framing, e)
	if perr != nil {
		d.up = nil
		u.drop(true)
		d.refuse(perr)
		return
	}
	w.out = out[:0]
	x.reqBody.Reset(x.framing)
	n, done, perr := x.reqBody.Next(d.data[x.head:])
	x.reqDone = done || x.framing.Kind == http1.None
	body := d.data[x.head : x.head+n]
	if perr != nil {
		d.up = nil
		u.drop(true)
		d.refuse(perr)
		return
	}
	x.replayable = x.keeps(u)
	if x.replayable {
		x.retry.head = len(out) - greeted
		x.remember(w, out[greeted:])
		x.remember(w, body)
	}
	x.transmitted, x.local = true, u.local
	x.sentAt = w.loop.Now()
	d.phase = exchanging
	d.moved = x.sentAt
	if u.session != nil && len(body) > 0 && len(out)+len(body) <= recordSize {
		out = append(out, body...)
		body = nil
	}
	u.send(out, body)
	x.unsent = u.lost != nil
	d.consume(x.head + n)
	w.loop.Arm(&d.idle, w.loop.Now()+int64(w.p.o.StreamIdle))
	if x.reqDone {
		d.startClocks()
	}
}

// repeat sends what is kept of a request again.
func (d *downstream) repeat() {
	w, x, u := d.w, &d.x, d.up
	x.ticket.attached()
	d.phase = exchanging
	d.moved = w.loop.Now()
	x.sentAt, x.local = d.moved, u.local
	u.send(w.headAgain(d), x.replay[x.retry.head:])
	x.unsent = x.unsent && u.lost != nil
	if !x.retry.policy.May(x.idempotent) {
		x.forget(w)
	}
}

// exchange moves the bodies in both directions.
func (d *downstream) exchange() bool {
	x := &d.x
	if d.err != nil || d.lost != nil {
		d.abandon()
		return false
	}
	moved := false
	if !x.reqDone && d.pumpRequest() {
		moved = true
	}
	if d.phase != exchanging || d.closed {
		return !d.closed
	}
	if d.pumpResponse() {
		moved = true
	}
	if d.phase != exchanging || d.closed {
		return !d.closed
	}
	if moved {
		d.moved = d.w.loop.Now()
	} else if d.hup && d.gone() {
		d.abandon()
		return false
	}
	return moved
}

// pumpRequest passes the request's body on.
func (d *downstream) pumpRequest() bool {
	w, x, u := d.w, &d.x, d.up
	if u.blocked() || u.lost != nil {
		return false
	}
	if len(d.data) == 0 {
		d.fill()
	}
	if len(d.data) == 0 {
		if d.eof || d.err != nil {
			d.abandon()
		}
		return false
	}
	n, done, perr := x.reqBody.Next(d.data)
	if n > 0 {
		x.remember(w, d.data[:n])
		u.send(d.data[:n], nil)
		d.consume(n)
		d.budget -= n
	}
	if perr != nil {
		d.dropUpstream(true)
		if x.headSent {
			x.flag, x.details = telemetry.FlagDPE, "downstream_protocol_error"
			d.observe()
			d.end(true)
		} else {
			d.refuse(perr)
		}
		return false
	}
	x.reqDone = done
	if done {
		d.startClocks()
	}
	return n > 0
}

// requestEdit says what changes in the request's head on its way upstream.
func (w *worker) requestEdit(d *downstream) *http1.Edit {
	x, req, e := &d.x, &w.req, &w.edit
	*e = http1.Edit{Add: e.Add[:0], Drop: never}
	if _, ok := message.Get(req.Fields, message.XRequestID); !ok {
		id := w.requestID()
		e.Add = append(e.Add, message.Field{Name: bytesOf("x-request-id"), Value: id})
		if w.ring != nil {
			x.line.setID(w, id)
		}
	}
	if d.door.kind == doorPublished { // the mesh's edge: what it sees is what holds
		e.Drop |= message.SetOf(message.XForwardedFor, message.XForwardedProto)
		w.text3 = w.text3[:0]
		if before := field(req, message.XForwardedFor); len(before) > 0 {
			w.text3 = append(append(w.text3, before...), ", "...)
		}
		w.text3 = d.remote.Addr().AppendTo(w.text3)
		e.Add = append(e.Add, message.Field{Name: bytesOf("x-forwarded-for"), Value: w.text3},
			message.Field{Name: bytesOf("x-forwarded-proto"), Value: bytesOf("http")})
	} else if _, ok := message.Get(req.Fields, message.XForwardedProto); !ok {
		scheme := "http"
		if d.session != nil {
			scheme = "https"
		}
		e.Add = append(e.Add, message.Field{Name: bytesOf("x-forwarded-proto"), Value: bytesOf(scheme)})
	}
	if d.in != nil && d.session != nil {
		if p := d.session.Peer(); p != nil && len(p.XFCC) > 0 {
			e.Add = append(e.Add, message.Field{Name: bytesOf("x-forwarded-client-cert"), Value: p.XFCC})
		}
	}
	if len(req.Authority) == 0 { // HTTP/1.0: what it was sent to is all there is
		if d.door.kind == doorPublished {
			e.Authority = bytesOf(d.door.host)
		} else if d.dialled.IsValid() {
			w.text2 = d.dialled.AppendTo(w.text2[:0])
			e.Authority = w.text2
		}
	}
	if x.rule == nil {
		return e
	}
	if x.rule.RewritesPath() {
		w.text = x.rule.AppendPath(w.text[:0], x.match, req.Path)
		e.Target = w.text
	}
	if x.rule.RewritesAuthority(x.dest) {
		w.text2 = x.rule.AppendAuthority(w.text2[:0], x.dest, req.Authority)
		e.Authority = w.text2
	}
	if ops := x.dest.Request; ops != nil {
		for i := range req.Fields {
			f := &req.Fields[i]
			f.Drop = ops.Drops(f.Name)
		}
		for _, p := range ops.Added() {
			e.Add = append(e.Add, message.Field{Name: bytesOf(p.Name), Value: bytesOf(p.Value)})
		}
	}
	w.countTry(d)
	return e
}
