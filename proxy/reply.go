//go:build linux

package proxy

import (
	"bytes"

	"github.com/seinemesh/seine/message"
	"github.com/seinemesh/seine/proxy/http1"
	"github.com/seinemesh/seine/telemetry"
)

// reply answers the request itself; cause is a short sentence in plain ASCII.
// The rest of the request, if any, ends the connection.
func (x *exchange) reply(status int, flag telemetry.Flag, cause string) {
	x.respond(status, flag, cause, cause+"\n", message.Field{Name: bytesOf("x-seine-cause"), Value: bytesOf(cause)})
}

// unsent is what an inbound sidecar says where nothing of a request has reached
// its application: the client's may send it again, to another endpoint. It is
// the HTTP/1.1 word for HTTP/2's REFUSED_STREAM, and one between sidecars: it is
// believed of a peer of the mesh alone, and no answer that is passed on bears it,
// so that no application says it.
const unsent = "x-seine-unsent"

// What is said under it: that nothing reached the application; or that the request
// went to a connection that the application closed without an answer, and then there
// was no application any more, so that it may be sent again if it is idempotent
// (RFC 9110 §9.2.2).
var unsentSurely, unsentPerhaps = bytesOf("true"), bytesOf("perhaps")

// dropUnsent keeps the word from going further.
func dropUnsent(fields []message.Field) {
	for i := range fields {
		f := &fields[i]
		f.Drop = f.Drop || f.ID == message.Other && len(f.Name) == len(unsent) && message.EqualFold(f.Name, unsent)
	}
}

// vouched reports whether the answer comes from a sidecar that has shown an
// identity of the mesh.
func (u *upstream) vouched() bool { return u.session != nil && u.session.Peer() != nil }

// handedBack reports whether the answer in worker.res is a sidecar's that could not
// hand the request to its application, and whether nothing of it was surely sent.
func (x *exchange) handedBack() (is, surely bool) {
	if x.w.res.Status != 503 || !x.up.vouched() {
		return false, false
	}
	v, is := message.Lookup(x.w.res.Fields, unsent)
	return is, is && bytes.Equal(v, unsentSurely)
}

// unreached answers a request for whose server there is no connection.
func (x *exchange) unreached(cause string) {
	extra := append(x.w.extra[:0], message.Field{Name: bytesOf("x-seine-cause"), Value: bytesOf(cause)})
	if x.caller.in != nil {
		said := unsentSurely
		if x.transmitted && !x.unsent {
			said = unsentPerhaps
		}
		extra = append(extra, message.Field{Name: bytesOf(unsent), Value: said})
	}
	x.w.extra = extra
	x.respond(503, x.flagged(telemetry.FlagUF), cause, cause+"\n", extra...)
}

// refuse answers a request that breaks the protocol. Nothing that follows it
// on the connection can be trusted.
func (x *exchange) refuse(perr *http1.Error) {
	x.last = true
	x.details = "http1.codec_error"
	x.w.p.counters.badRequests.Inc()
	flag := telemetry.FlagDPE
	if perr.Status >= 500 && perr.Status != 501 && perr.Status != 505 {
		flag = telemetry.FlagLR
	}
	x.respond(perr.Status, flag, perr.Reason, perr.Error()+"\n", message.Field{Name: bytesOf("x-seine-cause"), Value: bytesOf(perr.Error())})
}

// respond answers the request with a whole answer of our own. The upstream
// connection, if there is one, is left.
func (x *exchange) respond(status int, flag telemetry.Flag, cause, body string, extra ...message.Field) {
	w := x.w
	x.dropUpstream(true)
	x.dropRivals()
	x.forget(w)
	w.loop.Disarm(&x.limit)
	w.loop.Disarm(&x.try)
	delete(w.parked, x)
	x.status, x.flag, x.cause = status, flag, cause
	if x.details == "" {
		x.details = "direct_response"
	}
	x.leg.answer(status, body, x.shapeReply(extra)...)
	x.conclude()
}

// conclude: the answer is out, or waits to be sent.
func (x *exchange) conclude() {
	x.observe()
	x.leg.over()
}

// answer sends an answer of our own. The rest of the request, if any, ends the
// connection.
func (d *downstream) answer(status int, body string, extra ...message.Field) {
	w, x := d.w, &d.x
	if !x.transmitted && x.phase != exchanging {
		d.skipRequest()
	}
	if !x.reqDone || w.draining {
		x.last = true
	}
	w.edit.Add = append(w.edit.Add[:0], extra...)
	if x.last {
		w.edit.Add = append(w.edit.Add, message.Field{Name: bytesOf("connection"), Value: bytesOf("close")})
	} else if x.framing.Asked&http1.AskedOld != 0 {
		w.edit.Add = append(w.edit.Add, message.Field{Name: bytesOf("connection"), Value: bytesOf("keep-alive")})
	}
	head := x.framing.Asked&http1.AskedHead != 0
	out := http1.AppendSimple(w.out[:0], status, body, head, w.edit.Add...)
	w.out = out[:0]
	if !head {
		x.resExtra = int64(len(body))
	}
	d.send(out, nil)
}

// skipRequest drops the request that is answered here, if all of it has come.
func (d *downstream) skipRequest() {
	x := &d.x
	if x.head == 0 || len(d.data) < x.head {
		return
	}
	x.reqBody.Reset(x.framing)
	n, done, perr := x.reqBody.Next(d.data[x.head:])
	x.reqDone = perr == nil && (done || x.framing.Kind == http1.None)
	d.consume(x.head + n)
}
