//go:build linux

package proxy

import (
	"strconv"
	"time"

	"github.com/seinemesh/seine/decide"
	"github.com/seinemesh/seine/message"
	"github.com/seinemesh/seine/proxy/http1"
	"github.com/seinemesh/seine/telemetry"
	"github.com/seinemesh/seine/telemetry/metrics"
	"github.com/seinemesh/seine/telemetry/span"
)

// shape is what a rule, a limit or the caller itself makes of an exchange
// besides where it goes: faults, CORS, copies, the caller's own wishes. It
// works on heads alone, so it is the same for every protocol.
type shape struct {
	injecting  injection
	delayed    bool // by a fault
	grpcAbort  bool // aborted by a fault with grpcStatus
	grpcStatus int
	cors       *decide.Cors // the answer is for an origin that it allows
	origin     []byte       // that origin
	wishes     *decide.Wishes
	quota      quota    // what is left of the workload's rate limits
	copied     bool     // it was decided whether mirrors get a copy
	copy       *copying // that they get; nil: none
}

// injection is how far an exchange's fault is.
type injection uint8

const (
	untouched injection = iota
	holding             // held back by its delay
	held                // the delay is over, or there is none
	injected            // nothing more is to be done
)

// shapeCounters are process-wide.
type shapeCounters struct{ delays, aborts *metrics.Counter }

func newShapeCounters(r *metrics.Registry) shapeCounters {
	counter := func(kind string) *metrics.Counter {
		return r.Counter("seine_faults_injected_total", "Requests that a rule's fault delayed or aborted, by kind.", "kind", kind)
	}
	return shapeCounters{counter("delay"), counter("abort")}
}

// shaped does what the rule asks for before it is decided where the request
// goes: first its fault, then its corsPolicy (Istio's order of Envoy's filters).
// True: the request was answered, or waits.
func (x *exchange) shaped(r *decide.Rule) bool {
	return r.Fault != nil && x.faulted(r) || r.Cors != nil && x.preflight(r.Cors)
}

func (x *exchange) faulted(r *decide.Rule) bool {
	w, s := x.w, &x.shape
	if s.injecting == untouched {
		if pause := r.Fault.Delay(w.rng.Uint64()); pause > 0 {
			x.hold(pause)
			return true
		}
		s.injecting = held
	}
	if s.injecting == injected {
		return false
	}
	s.injecting = injected
	status, grpc, ok := r.Fault.Abort(w.rng.Uint64())
	if !ok {
		return false
	}
	w.p.shapes.aborts.Inc()
	flag := telemetry.FlagFI
	if s.delayed {
		flag = telemetry.FlagDIFI
	}
	x.tells(span.FaultAbort, span.Event{Status: status})
	x.details = "fault_filter_abort"
	cause := "fault.abort of " + r.ID
	extra := append(w.extra[:0], message.Field{Name: bytesOf("x-seine-cause"), Value: bytesOf(cause)})
	body := "fault filter abort"
	if grpc {
		s.grpcAbort, s.grpcStatus = true, status
		if _, stream := x.leg.(*stream); (!stream || !x.grpc) && isGRPC(&w.req) { // else the leg says it
			w.text = strconv.AppendInt(w.text[:0], int64(status), 10)
			extra = append(extra, message.Field{Name: bytesOf("grpc-status"), Value: w.text},
				message.Field{Name: bytesOf("content-type"), Value: contentGRPC},
				message.Field{Name: bytesOf("grpc-message"), Value: bytesOf(body)})
			body = ""
		}
		status = 200
	}
	w.extra = extra
	x.respond(status, flag, cause, body, extra...)
	return true
}

// isGRPC reports whether a request is gRPC's (as Envoy: by its content type).
func isGRPC(req *message.Request) bool {
	const grpc = "application/grpc"
	v := field(req, message.ContentType)
	return len(v) >= len(grpc) && message.EqualFold(v[:len(grpc)], grpc) && (len(v) == len(grpc) || v[len(grpc)] == '+' || v[len(grpc)] == ';')
}

// hold has the request wait for its fault's delay. Nothing of it goes anywhere
// meanwhile, and neither the route's timeout nor its tries have begun.
func (x *exchange) hold(pause time.Duration) {
	w := x.w
	x.shape.injecting, x.shape.delayed = holding, true
	w.p.shapes.delays.Inc()
	x.tells(span.FaultDelay, span.Event{Took: pause})
	x.phase = waiting
	delete(w.parked, x)
	w.loop.Disarm(&x.limit)
	w.loop.Arm(&x.try, w.loop.Now()+int64(pause))
}

// released: the delay is over. Where the request goes is decided now.
func (x *exchange) released() {
	x.shape.injecting = held
	x.phase = deciding
	x.leg.again()
	x.dispatch()
	if x.phase != waiting {
		x.leg.ready()
	}
}

// outcome is the flag to report: a delay is told where there is nothing worse.
func (x *exchange) outcome() telemetry.Flag {
	if x.flag == telemetry.FlagNone && x.shape.delayed {
		return telemetry.FlagDI
	}
	return x.flag
}

// preflight answers a preflight that the rule's corsPolicy is about, or notes
// that the answer is for another origin.
func (x *exchange) preflight(c *decide.Cors) bool {
	w, s := x.w, &x.shape
	verdict, origin := c.Decide(&w.req)
	switch verdict {
	case decide.NotShared:
		return false
	case decide.Shared:
		s.cors = c
		if s.origin == nil {
			s.origin = w.buffers.get(len(origin))
		}
		s.origin = w.buffers.append(s.origin[:0], origin)
		return false
	}
	w.extra = c.AppendPreflight(w.extra[:0], verdict, &w.req, origin)
	w.text = w.text[:0] // what points into the request's head does not outlive it
	for i := range w.extra {
		from := len(w.text)
		w.text = append(w.text, w.extra[i].Value...)
		w.extra[i].Value = w.text[from:len(w.text):len(w.text)]
	}
	x.details = "cors_response"
	x.respond(200, telemetry.FlagNone, "", "", w.extra...)
	return true
}

// shapeAnswer changes the head of the upstream's answer in worker.res.
func (x *exchange) shapeAnswer(e *http1.Edit) {
	if q := &x.shape.quota; q.limit != nil {
		e.Add = q.append(x.w, e.Add)
	}
	c := x.shape.cors
	if c == nil {
		return
	}
	w := x.w
	for i := range w.res.Fields {
		if f := &w.res.Fields[i]; c.Overrides(f.Name) {
			f.Drop = true
		}
	}
	kept := e.Add[:0]
	for _, f := range e.Add {
		if !c.Overrides(f.Name) {
			kept = append(kept, f)
		}
	}
	e.Add = c.AppendShared(kept, x.shape.origin)
}

// shapeReply changes the fields of an answer of our own: as in Envoy, a rule's
// operations on responses hold for it too.
func (x *exchange) shapeReply(extra []message.Field) []message.Field {
	if x.dest != nil {
		extra = append(extra, added(x.dest.Response)...)
	} else if x.rule != nil {
		extra = append(extra, added(x.rule.Response)...)
	}
	extra = x.shape.quota.append(x.w, extra)
	if c := x.shape.cors; c != nil {
		extra = c.AppendShared(extra, x.shape.origin)
	}
	return extra
}

// drop gives back what is held.
func (s *shape) drop(w *worker) {
	s.dropCopy(w)
	if s.origin != nil {
		w.buffers.put(s.origin[:0])
		s.origin, s.cors = nil, nil
	}
}

// wished is the timeout and the retry policy for a request by rule r: the
// rule's, and over them what the caller asks for in its own request. The
// caller is the workload beside this proxy; what comes in at the mesh's edge is
// not asked.
func (x *exchange) wished(r *decide.Rule) (timeout int64, policy *decide.Retry) {
	s := &x.shape
	if x.caller.door.kind == doorPublished || !wishes(x.w.req.Fields) {
		return int64(r.Timeout), r.Retry
	}
	if s.wishes == nil {
		s.wishes = new(decide.Wishes) // kept for the connection's further requests
	}
	*s.wishes = decide.Wishes{}
	s.wishes.Read(x.w.req.Fields)
	t, policy := s.wishes.Over(r.Timeout, r.Retry)
	return int64(t), policy
}

func wishes(fields []message.Field) bool {
	for i := range fields {
		if fields[i].ID == message.Other && decide.CallerField(fields[i].Name).Wish() {
			return true
		}
	}
	return false
}

// dropWishes keeps the caller's fields from going further. routed: it is the caller's
// own sidecar, which has its say on the try itself.
func dropWishes(fields []message.Field, routed bool) {
	for i := range fields {
		f := &fields[i]
		f.Drop = false
		if f.ID == message.Other {
			is := decide.CallerField(f.Name)
			f.Drop = is != decide.NotCaller && (routed || is != decide.ProxySays)
		}
	}
}
