//go:build linux

package proxy

import (
	"github.com/seinemesh/seine/message"
	"github.com/seinemesh/seine/proxy/http1"
	"github.com/seinemesh/seine/telemetry"
)

// reply answers the request itself; cause is a short sentence in plain ASCII.
// The rest of the request, if any, ends the connection.
func (d *downstream) reply(status int, flag telemetry.Flag, cause string) {
	d.respond(status, flag, cause, cause+"\n", message.Field{Name: bytesOf("x-seine-cause"), Value: bytesOf(cause)})
}

// refuse answers a request that breaks the protocol. Nothing that follows it
// on the connection can be trusted.
func (d *downstream) refuse(perr *http1.Error) {
	d.last = true
	d.x.details = "http1.codec_error"
	d.w.p.counters.badRequests.Inc()
	flag := telemetry.FlagDPE
	if perr.Status >= 500 && perr.Status != 501 && perr.Status != 505 {
		flag = telemetry.FlagLR
	}
	d.respond(perr.Status, flag, perr.Reason, perr.Error()+"\n", message.Field{Name: bytesOf("x-seine-cause"), Value: bytesOf(perr.Error())})
}

// respond sends a whole answer of our own.
func (d *downstream) respond(status int, flag telemetry.Flag, cause, body string, extra ...message.Field) {
	w, x := d.w, &d.x
	if d.up != nil {
		d.dropUpstream(true)
	}
	x.release()
	x.forget(w)
	w.loop.Disarm(&d.limit)
	w.loop.Disarm(&d.try)
	delete(w.parked, d)
	x.status, x.flag, x.cause = status, flag, cause
	if x.details == "" {
		x.details = "direct_response"
	}
	if !x.transmitted && d.phase != exchanging {
		d.skipRequest()
	}
	if !x.reqDone || w.draining {
		d.last = true
	}
	w.edit.Add = append(w.edit.Add[:0], extra...)
	if d.last {
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
	d.conclude()
}

// conclude: the answer is out, or waits to be sent. The connection takes the
// next request, or ends once everything has gone.
func (d *downstream) conclude() {
	d.observe()
	if d.last {
		d.phase = closing
		d.w.loop.Arm(&d.idle, d.w.loop.Now()+int64(closeTime))
		return
	}
	d.rest()
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
