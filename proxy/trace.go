//go:build linux

package proxy

import (
	"encoding/binary"
	"time"

	"github.com/seinemesh/seine/decide"
	"github.com/seinemesh/seine/message"
	"github.com/seinemesh/seine/proxy/http1"
	"github.com/seinemesh/seine/telemetry"
	"github.com/seinemesh/seine/telemetry/span"
	"github.com/seinemesh/seine/telemetry/trace"
)

const (
	// Of requests that are reported although they were not sampled, for each
	// loop: so many at once, and one more each lateEvery. An outage must not send
	// every request to the collector.
	lateBurst = 100
	lateEvery = int64(20 * time.Millisecond)
	// maxKept bounds each field that is kept of a request's head for its span.
	maxKept = 1 << 10
)

// tracer is a loop's part of tracing.
type tracer struct {
	sides  *sides
	ring   *span.Ring
	values []byte    // of the fields of a head that is sent on
	span   span.Span // that is being handed over: not on the stack, its slices reach the ring
	tags   []span.Tag
	unused [][]span.Event
	due    int64 // when the bucket of late spans is full again
}

// late takes a place for a span that was not sampled.
func (t *tracer) late(now int64) bool {
	due := max(t.due, now)
	if due-now > (lateBurst-1)*lateEvery {
		return false
	}
	t.due = due + lateEvery
	return true
}

// traced is an exchange's part of a trace.
type traced struct {
	on      *decide.Tracing // nil: it has none
	id      trace.ID
	span    trace.SpanID
	parent  trace.SpanID
	formats trace.Formats // that go on
	came    trace.Formats
	sampled bool
	debug   bool
	random  bool
	short   bool
	waits   span.EventKind
	since   int64 // when the wait began; 0: it does not wait
	head    int64 // when the answer's head came; 0: it has not
	events  []span.Event
	kept    []byte // tracestate, and the fields that are tags, each behind its length
}

// beginTrace finds out which trace the request belongs to, and whether it is
// recorded.
func (x *exchange) beginTrace() {
	w, t := x.w, &x.trace
	on := w.tracer.sides.client
	if x.caller.in != nil {
		on = w.tracer.sides.server
	}
	if on == nil {
		return
	}
	c := trace.Extract(w.req.Fields, on.Prefer)
	t.on, t.came, t.formats = on, c.Formats, c.Formats
	t.id, t.parent, t.random, t.short = c.Trace, c.Parent, c.Random, c.Short
	t.span = trace.MakeSpanID(w.rng.Uint64())
	if t.id == (trace.ID{}) {
		a, b := w.rng.Uint64(), w.rng.Uint64()
		if t.short = on.Proto.ShortIds; t.short {
			a = 0
		}
		// Level 2's flag for a random ID is not set: there are libraries that take
		// a traceparent with it for malformed.
		t.id = trace.MakeID(a, b)
		t.formats |= on.Begin
	}
	switch c.Decision {
	case trace.Undecided:
		t.sampled = on.Share.Keep(t.id)
	default:
		t.sampled, t.debug = c.Decision >= trace.Sampled, c.Decision == trace.Debug
	}
	if c.Forced && x.caller.door.kind != doorPublished { // who is outside the mesh has no say
		t.sampled = true
	}
	if len(c.State) > 0 || len(on.Headers) > 0 {
		t.keep(w, &c)
	}
}

// keep copies what the span will say of the head besides what the access log
// says of it.
func (t *traced) keep(w *worker, c *trace.Context) {
	t.kept = w.buffers.get(256)[:0]
	put := func(v []byte) {
		v = v[:min(len(v), maxKept)]
		t.kept = w.buffers.grow(t.kept, 2+len(v))
		t.kept = append(binary.LittleEndian.AppendUint16(t.kept, uint16(len(v))), v...)
	}
	put(c.State)
	for i := range t.on.Headers {
		h := &t.on.Headers[i]
		v, ok := message.Lookup(w.req.Fields, h.Name)
		if !ok {
			v = bytesOf(h.Fallback)
		}
		put(v)
	}
}

// tellTrace has the request that is sent on say which trace it belongs to, and
// that we are its sender.
func (x *exchange) tellTrace(e *http1.Edit) {
	t, w := &x.trace, x.w
	came := trace.Context{Formats: t.came}
	trace.Drop(w.req.Fields, &came)
	if t.on.Proto.DropContext || w.tracer == nil {
		return
	}
	o := trace.Out{
		Trace: t.id, Span: t.span, Parent: t.parent, Sampled: t.sampled, Debug: t.debug && t.sampled,
		Random: t.random, Short: t.short, Formats: t.formats,
	}
	if w.tracer.values == nil {
		w.tracer.values = make([]byte, 0, trace.OutSize)
	}
	e.Add, w.tracer.values = o.Append(e.Add, w.tracer.values[:0])
}

// waits notes that the request waits from now on, unless it does already.
func (x *exchange) waits(for_ span.EventKind) {
	if t := &x.trace; t.on != nil && t.since == 0 {
		t.waits, t.since = for_, x.w.loop.Now()
	}
}

// waitsFor notes that the request waits for the connection u; nil: for room.
func (x *exchange) waitsFor(u *upstream) {
	switch {
	case x.trace.on == nil:
	case u == nil:
		x.waits(span.WaitQueue)
	case !u.up:
		x.resumes()
		x.waits(span.WaitConnect)
	}
}

// resumes notes that a wait is over.
func (x *exchange) resumes() {
	t := &x.trace
	if t.since == 0 {
		return
	}
	since := t.since
	t.since = 0
	e := span.Event{Kind: t.waits, At: durationOf(since - x.start), Took: durationOf(x.w.loop.Now() - since)}
	if e.Kind == span.WaitConnect && x.pool != nil {
		e.Address = x.pool.key.addr
	}
	x.event(e)
}

// tells notes that something happens now to the request, at the endpoint that
// it goes to.
func (x *exchange) tells(kind span.EventKind, e span.Event) {
	if x.trace.on == nil {
		return
	}
	x.ejects()
	e.Kind, e.At = kind, durationOf(x.w.loop.Now()-x.start)
	if x.pool != nil && kind != span.FaultDelay && kind != span.FaultAbort {
		e.Address = x.pool.key.addr
	}
	x.event(e)
}

// ejects notes that the endpoint met a bound of outlier detection with this
// request.
func (x *exchange) ejects() {
	h := x.host
	if h == nil || h.met == 0 {
		return
	}
	met := h.met
	h.met = 0
	if x.trace.on != nil && x.pool != nil {
		x.event(span.Event{Kind: span.Ejection, At: durationOf(x.w.loop.Now() - x.start), Address: x.pool.key.addr, Text: met.String(), Status: x.status})
	}
}

func (x *exchange) event(e span.Event) {
	t, w := &x.trace, x.w
	if t.events == nil && w.tracer != nil {
		if n := len(w.tracer.unused); n > 0 {
			t.events, w.tracer.unused = w.tracer.unused[n-1], w.tracer.unused[:n-1]
		} else {
			t.events = make([]span.Event, 0, span.MaxEvents)
		}
	}
	if len(t.events) < cap(t.events) {
		t.events = append(t.events, e)
	}
}

// endTrace reports the exchange's span, if it is to be reported, and says whether
// it was handed over.
func (x *exchange) endTrace(now, reqBytes, resBytes int64) bool {
	t, w := &x.trace, x.w
	tr := w.tracer
	if tr == nil { // tracing was switched off meanwhile
		return false
	}
	x.resumes()
	x.ejects()
	if t.on.Proto.Collector == nil {
		return false
	}
	late := false
	if !t.sampled {
		if !x.remarkable(now) {
			return false
		}
		if late = tr.late(now); !late {
			w.p.tracing.limited.Inc()
			return false
		}
	}
	s := &tr.span
	*s = span.Span{
		Server: x.caller.in != nil, Late: late, Trace: t.id, ID: t.span, Parent: t.parent,
		Start: w.loop.Wall(x.start), Duration: durationOf(now - x.start), Minor: x.line.minor,
		Status: x.status, GRPC: x.grpcStatus, IsGRPC: x.grpc, Flag: x.flag, Details: x.details,
		Attempts: x.retry.number, Received: reqBytes, Sent: resBytes,
		Remote: x.caller.remote, Local: x.dialled, Cluster: x.cluster, Events: t.events,
	}
	if x.flag != telemetry.FlagNone {
		s.Cause = x.cause
	}
	s.Method, s.Path, s.Host, s.Agent, s.RequestID = x.line.part(lineMethod), x.line.part(linePath), x.line.part(lineAuthority), x.line.part(lineAgent), x.line.part(lineID)
	if x.pool != nil {
		s.Upstream = x.pool.key.addr
	}
	if x.rule != nil {
		s.Route = x.rule.ID
	}
	if in := x.caller.in; in != nil {
		p := in.port.Proto
		s.Cluster, s.Service, s.Port, s.Peer = in.cluster(), p.Service, uint16(p.ServicePort), in.peer
		s.Mutual = in.security == telemetry.SecurityMutualTLS
	} else if x.target != nil {
		p := x.target.cluster.Service.Proto
		s.Service, s.Port = p.Host, uint16(p.Port)
		if x.ep >= 0 && x.ep < len(x.target.edges) {
			if ep := x.target.edges[x.ep].ep; ep != nil {
				s.Peer = ep.Proto.Workload
			}
		}
		s.Mutual = x.pool != nil && x.pool.key.mutual
	}
	if rest := t.kept; len(rest) > 0 {
		next := func() []byte {
			n := 2 + int(binary.LittleEndian.Uint16(rest))
			v := rest[2:n]
			rest = rest[n:]
			return v
		}
		s.State = next()
		tr.tags = tr.tags[:0]
		for i := range t.on.Headers {
			if v := next(); len(v) > 0 {
				tr.tags = append(tr.tags, span.Tag{Name: t.on.Headers[i].Tag, Value: v})
			}
		}
		s.Tags = tr.tags
	}
	return tr.ring.Append(s)
}

// remarkable reports whether a request that was not sampled is worth a span: it
// failed, or its answer was long in coming. (How long a body then takes is its
// length's business, or a stream's.)
func (x *exchange) remarkable(now int64) bool {
	on := x.trace.on
	if on.Proto.KeepErrors && span.Failed(x.status, x.grpcStatus) {
		return true
	}
	if on.KeepSlower == 0 {
		return false
	}
	head := x.trace.head
	if head == 0 {
		head = now
	}
	return head-x.start >= on.KeepSlower
}

// drop gives back what is held for the span.
func (t *traced) drop(w *worker) {
	if t.events != nil {
		if w.tracer != nil && len(w.tracer.unused) < 64 {
			clear(t.events)
			w.tracer.unused = append(w.tracer.unused, t.events[:0])
		}
		t.events = nil
	}
	if t.kept != nil {
		w.buffers.put(t.kept[:0])
		t.kept = nil
	}
	t.on = nil
}
