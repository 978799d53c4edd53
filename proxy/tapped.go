//go:build linux

package proxy

import (
	"encoding/hex"

	"github.com/seinemesh/seine/message"
	"github.com/seinemesh/seine/proxy/tap"
	"github.com/seinemesh/seine/telemetry"
)

// tapped is what is kept of a request's head for those who watch, besides the
// logLine. What began before somebody watched is not shown.
type tapped struct {
	set    *tap.Set
	fields []tap.Field // with the values in text, which moves: see ends
	ends   []int
	text   []byte
	trace  [32]byte // the trace ID; zero: none
	next   *tapped  // unused
}

const (
	maxTappedFields = 32
	maxTappedValue  = 256
)

// tap keeps what the taps that are on may show of req.
func (x *exchange) tap(s *tap.Set, req *message.Request) {
	w := x.w
	t := w.untapped
	if t == nil {
		t = &tapped{}
	} else {
		w.untapped = t.next
	}
	*t = tapped{set: s, fields: t.fields[:0], ends: t.ends[:0], text: t.text[:0]}
	x.tapped = t
	if v := field(req, message.TraceParent); len(v) >= 55 { // VERSION-TRACE-SPAN-FLAGS
		if copy(t.trace[:], v[3:35]); !isHex(t.trace[:]) {
			t.trace = [32]byte{}
		}
	}
	for i, name := range s.Names {
		for j := range req.Fields {
			f := &req.Fields[j]
			if len(t.fields) >= maxTappedFields || !message.EqualFold(f.Name, name) {
				continue
			}
			if s.Values[i] {
				t.text = append(t.text, f.Value[:min(len(f.Value), maxTappedValue)]...)
			}
			t.fields, t.ends = append(t.fields, tap.Field{Index: i}), append(t.ends, len(t.text))
		}
	}
}

func isHex(v []byte) bool {
	var b [16]byte
	_, err := hex.Decode(b[:], v)
	return err == nil
}

// untap forgets what was kept.
func (x *exchange) untap() {
	if t := x.tapped; t != nil {
		t.set, t.next = nil, x.w.untapped
		x.w.untapped, x.tapped = t, nil
	}
}

// show tells those who watch of the exchange, which is over.
func (x *exchange) show(now, reqBytes, resBytes int64) {
	w, t := x.w, x.tapped
	e := &w.shown
	*e = tap.Event{
		Start: w.loop.Wall(x.start), Duration: durationOf(now - x.start),
		Code: x.status, GRPC: x.grpc, GRPCStatus: x.grpcStatus, Flag: x.flag, Details: x.details,
		RequestBytes: reqBytes, ResponseBytes: resBytes, Attempts: x.retry.number,
		Protocol: x.line.protocol(), SourceAddress: x.caller.remote, Security: telemetry.Unknown,
	}
	if method, path, authority, id := x.line.told(); method != nil {
		e.Method, e.Path, e.Authority, e.RequestID = method, path, authority, id
	}
	if x.sentAt != 0 {
		e.Upstream = durationOf(now - x.sentAt)
	}
	if x.flag != 0 {
		e.Cause = x.cause
	}
	if x.rule != nil {
		e.Rule = x.rule.ID
	}
	if x.pool != nil {
		e.DestinationAddress = x.pool.key.addr
	}
	if in := x.caller.in; in != nil {
		x.showInbound(e, in)
	} else {
		x.showOutbound(e)
	}
	if x.trace.on != nil { // it may begin here
		x.trace.id.Append(t.trace[:0])
	}
	if t.trace[0] != 0 {
		e.TraceID = t.trace[:]
	}
	at := 0
	for i, end := range t.ends {
		t.fields[i].Value, at = t.text[at:end], end
	}
	e.Fields = t.fields
	w.record = t.set.Show(w.index, now, e, w.record)
	*e = tap.Event{} // holds nothing of what the exchange held
	x.untap()
}

func (x *exchange) showInbound(e *tap.Event, in *inbound) {
	self, p := x.w.table.Self.Proto.Workload, in.port.Proto
	e.Inbound, e.Source, e.Destination = true, in.peer, self
	e.Service, e.ServiceName, e.ServiceNamespace = p.Service, p.ServiceName, p.ServiceNamespace
	e.Security = in.security.String()
	if in.security == telemetry.SecurityMutualTLS {
		e.SourceIdentity, e.DestinationIdentity = in.peer.GetIdentity(), self.GetIdentity()
	}
}

func (x *exchange) showOutbound(e *tap.Event) {
	e.Source = x.w.table.Self.Proto.Workload
	if t := x.target; t != nil {
		s := t.cluster.Service.Proto
		e.Service, e.ServiceName, e.ServiceNamespace = s.Host, s.Name, s.Namespace
		if x.ep >= 0 && x.ep < len(t.cluster.Endpoints) {
			e.Destination = t.cluster.Endpoints[x.ep].Proto.Workload
		}
	}
	switch p := x.pool; {
	case p == nil || x.sentAt == 0: // it never left
	case p.key.mutual:
		e.Security, e.SourceIdentity, e.DestinationIdentity = telemetry.SecurityMutualTLS.String(), e.Source.GetIdentity(), p.key.identity
	default:
		e.Security = telemetry.SecurityNone.String()
	}
}

// told is what a tap shows of the kept head; nil: nothing was kept.
func (l *logLine) told() (method, path, authority, id []byte) {
	if !l.used {
		return nil, nil, nil, nil
	}
	return l.text[:l.ends[0]], l.text[l.ends[0]:l.ends[1]], l.text[l.ends[1]:l.ends[2]], l.text[l.ends[4]:l.ends[5]]
}
