//go:build linux

package proxy

import (
	"net/netip"

	"github.com/seinemesh/seine/message"
	"github.com/seinemesh/seine/telemetry/accesslog"
	"github.com/seinemesh/seine/telemetry/trace"
)

// observe reports the exchange: metrics, access log. Once for each exchange.
func (x *exchange) observe() {
	w := x.w
	w.inflight.Add(-1)
	x.retryOver()
	w.loop.Disarm(&x.limit)
	w.loop.Disarm(&x.try)
	now := w.loop.Now()
	h := x.handle
	if h == nil {
		if x.caller.in != nil {
			x.caller.in.route(x)
			h = x.handle
		} else {
			h = w.failing(nil)
		}
	}
	reqBytes := x.reqBody.Payload() + x.reqExtra
	resBytes := x.resBody.Payload() + x.resExtra
	x.flag = x.outcome()
	if x.pool != nil {
		x.pool.weigh(reqBytes + resBytes)
	}
	if x.caller.door.inner { // the proxy's own requests are nobody's traffic
		x.shape.drop(w)
		return
	}
	if x.grpc && x.grpcStatus >= 0 {
		h.ObserveGRPC(x.status, x.grpcStatus, x.flag, (now-x.start)/1000, reqBytes, resBytes)
	} else {
		h.Observe(x.status, x.flag, (now-x.start)/1000, reqBytes, resBytes)
	}
	if x.perRule != nil {
		x.perRule.Observe(x.status, x.flag, (now-x.start)/1000)
	}
	if x.tapped != nil {
		x.show(now, reqBytes, resBytes)
	}
	if x.trace.on != nil {
		if x.endTrace(now, reqBytes, resBytes) {
			h.Exemplar(x.trace.id, x.trace.span, (now-x.start)/1000, w.loop.Wall(now))
		}
		x.trace.drop(w)
	}
	if w.ring != nil {
		x.log(now, reqBytes, resBytes)
	}
	x.line.drop(w)
	x.shape.drop(w)
}

// note keeps of a request's head what is told of it at its end, if anybody is told.
func (x *exchange) note(req *message.Request) {
	w := x.w
	if x.caller.door.inner {
		return
	}
	if taps := w.p.o.Taps.Set(); taps != nil {
		x.tap(taps, req)
	}
	if w.ring != nil || x.tapped != nil || w.tracer != nil {
		x.line.keep(w, req)
	}
	if w.tracer != nil {
		x.beginTrace()
	}
}

func (x *exchange) log(now, reqBytes, resBytes int64) {
	w := x.w
	e := &w.entry // not on the stack: its slices reach the ring
	*e = accesslog.Entry{
		Start: w.loop.Wall(x.start), Duration: durationOf(now - x.start), UpstreamServiceTime: -1,
		Code: x.status, Flag: x.flag, Details: x.details, BytesReceived: reqBytes, BytesSent: resBytes,
		DownstreamRemote: x.caller.remote, DownstreamLocal: x.dialled,
	}
	x.line.fill(e)
	e.Protocol = x.line.protocol()
	if x.pool != nil {
		e.UpstreamHost = x.pool.key.addr
	}
	if x.sentAt != 0 {
		e.UpstreamServiceTime = durationOf(now - x.sentAt)
	}
	if x.flag != 0 && x.cause != "" {
		e.UpstreamFailure = x.cause
	}
	if x.rule != nil {
		e.RouteName = x.rule.ID
	}
	e.UpstreamCluster = x.cluster
	if x.caller.in != nil {
		e.UpstreamCluster = x.caller.in.cluster()
		if s := x.caller.sock.session; s != nil {
			e.ServerName = s.SNI()
		}
	}
	e.UpstreamLocal, e.Attempts = x.local, x.retry.number
	if x.trace.id != (trace.ID{}) {
		w.text = x.trace.id.Append(w.text[:0])
		e.TraceID = w.text
	}
	w.ring.Append(e)
}

func (t *target) name() string {
	if t.label == "" {
		t.label = clusterName(t.cluster)
	}
	return t.label
}

func (s *socket) localAddr() netip.AddrPort { return localAddrOf(s.fd) }

// logLine keeps what access log, taps and spans say of a request's head until the
// exchange is over. It holds memory only if there is one of them.
type logLine struct {
	text  []byte
	ends  [lineParts]uint16
	minor uint8
	used  bool
}

// The parts of a line.
const (
	lineMethod = iota
	linePath
	lineAuthority
	lineAgent
	lineForwarded
	lineID
	lineParts
)

// part is one of them; empty if nothing was kept.
func (l *logLine) part(i int) []byte {
	if !l.used {
		return nil
	}
	from := uint16(0)
	if i > 0 {
		from = l.ends[i-1]
	}
	return l.text[from:l.ends[i]]
}

func (l *logLine) keep(w *worker, req *message.Request) {
	l.used, l.minor = true, req.Minor
	parts := [...][]byte{req.Method, req.Path, req.Authority, field(req, message.UserAgent), field(req, message.XForwardedFor), field(req, message.XRequestID)}
	if l.text == nil {
		l.text = w.buffers.get(512)
	}
	l.text = l.text[:0]
	for i, p := range parts {
		p = p[:min(len(p), 4096)]
		l.text = w.buffers.append(l.text, p)
		l.ends[i] = uint16(len(l.text))
	}
}

// setID notes the request ID that the proxy made.
func (l *logLine) setID(w *worker, id []byte) {
	if l.used {
		l.text = w.buffers.append(l.text[:l.ends[lineForwarded]], id)
		l.ends[lineID] = uint16(len(l.text))
	}
}

func (l *logLine) fill(e *accesslog.Entry) {
	for i, to := range [lineParts]*[]byte{&e.Method, &e.Path, &e.Authority, &e.UserAgent, &e.ForwardedFor, &e.RequestID} {
		*to = l.part(i)
	}
}

// protocol is the client's, as the access log writes it.
func (l *logLine) protocol() string {
	switch {
	case !l.used, l.minor == 1:
		return "HTTP/1.1"
	case l.minor == 0:
		return "HTTP/1.0"
	}
	return "HTTP/2"
}

func (l *logLine) drop(w *worker) {
	l.used = false
	if l.text != nil {
		w.buffers.put(l.text[:0])
		l.text = nil
	}
}
