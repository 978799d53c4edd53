// Package span reports the spans of a proxy to collectors, without ever making
// an event loop wait.
//
// What enters: spans, each event loop through a Ring of its own, and which
// collector each side of the workload reports to. What leaves: batches in OTLP
// (gRPC or HTTP) or Zipkin's JSON. A collector that is away, slow or refuses
// costs spans and nothing else: every queue is bounded, what does not fit is
// dropped and counted, the log says once that it is so and once that it is over.
package span

import (
	"net/netip"
	"time"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/telemetry"
	"github.com/seinemesh/seine/telemetry/trace"
)

// Span is one request as one side of a sidecar saw it. Byte slices and strings
// are copied by Append and may be reused by the caller at once.
type Span struct {
	Server bool // else the client's side
	// Late says that the trace was not sampled: the request is reported because
	// of how it ended.
	Late       bool
	Trace      trace.ID
	ID, Parent trace.SpanID
	State      []byte // tracestate
	Start      time.Time
	Duration   time.Duration

	Method, Path, Host, Agent, RequestID []byte
	Minor                                uint8 // of HTTP/1.x; 2: HTTP/2
	Mutual                               bool  // the request came, or went, over mutual TLS

	Status         int // 0: no answer was sent
	GRPC           int // grpc-status; -1: none
	IsGRPC         bool
	Flag           telemetry.Flag
	Details, Cause string
	Attempts       int
	Received, Sent int64 // bytes of bodies, from and to downstream

	Upstream, Remote, Local netip.AddrPort // Remote and Local are downstream's
	Cluster, Route          string
	Service                 string // FQDN that was called
	Port                    uint16
	Peer                    *seinev1.Workload // who is at the other end; nil: not known
	Tags                    []Tag
	Events                  []Event
}

// Tag is what a user wants on a span.
type Tag struct {
	Name  string
	Value []byte
}

// Event is something that happened to a request on its way.
type Event struct {
	Kind EventKind
	At   time.Duration // since the span's start
	Took time.Duration // 0: it took no time, or that is not known
	// Status of the answer that led to it; 0: there was none. Of FaultAbort: that
	// the client gets.
	Status  int
	Attempt int            // that begins with it
	Address netip.AddrPort // of the endpoint that it is about
	Text    string
}

// EventKind says what happened.
type EventKind uint8

// The kinds.
const (
	WaitLookup  EventKind = iota // for the control plane to say where the request goes
	WaitName                     // for the destination's name to be resolved
	WaitQueue                    // for room within connectionPool's bounds
	WaitConnect                  // for a connection, TLS included
	FaultDelay
	FaultAbort
	Retry    // the request is sent again, by the route's retry policy
	Resend   // the request is sent again, as the kept connection was closed
	Ejection // an endpoint met a bound of outlierDetection with this request
	numKinds
)

var eventNames = [numKinds]string{
	"seine.wait.lookup", "seine.wait.dns", "seine.wait.queue", "seine.wait.connect",
	"seine.fault.delay", "seine.fault.abort", "seine.retry", "seine.resend", "seine.ejection",
}

// String is the event's name in a span.
func (k EventKind) String() string {
	if k < numKinds {
		return eventNames[k]
	}
	return "seine.unknown"
}

// Failed reports whether the request counts as failed whatever side looks at
// it: no answer, a status of 500 or more, or a status of gRPC's that says the
// server failed (OpenTelemetry's list for servers).
func Failed(status, grpc int) bool {
	switch grpc {
	case 2, 4, 12, 13, 14, 15: // UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS
		return true
	}
	return status == 0 || status >= 500
}

// failed is Failed as OpenTelemetry's conventions have it for the span's kind: a
// client has failed with 4xx, too.
func (s *Span) failed() bool {
	return Failed(s.Status, s.GRPC) || !s.Server && (s.Status >= 400 || s.GRPC > 0)
}
