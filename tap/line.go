package tap

import (
	"strings"
	"time"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/mesh"
	"github.com/seinemesh/seine/telemetry"
)

// Line is one line of the stream, told apart by Type; its JSON form is that of
// /api/v1/tap.
type Line struct {
	Type string `json:"type"` // one of the Type constants
	*Request
	*Started
	*Lost
	Error string `json:"error,omitempty"` // of TypeEnded
}

// The types of lines.
const (
	TypeStarted = "started" // first, and when the number of proxies changes
	TypeRequest = "request"
	TypeLost    = "lost"
	TypeAlive   = "alive" // each ten seconds in which nothing was said
	TypeEnded   = "ended" // last, if the server ends it
)

// Started says how many proxies show.
type Started struct {
	Proxies int    `json:"proxies"`
	Replica string `json:"replica,omitempty"` // of the control plane: a tap reaches its proxies alone
}

// Lost counts what was not shown so far.
type Lost struct {
	Limited uint64 `json:"limited"` // matched, but over the limit of requests a second
	Dropped uint64 `json:"dropped"` // somebody was too slow
}

// Request is one finished request as one proxy saw it.
type Request struct {
	Time        time.Time `json:"time"`
	Proxy       string    `json:"proxy"`     // NAMESPACE/INSTANCE
	Direction   string    `json:"direction"` // "inbound", "outbound"
	Source      Party     `json:"source"`
	Destination Party     `json:"destination"`
	Service     string    `json:"service,omitempty"` // FQDN
	Method      string    `json:"method"`
	Authority   string    `json:"authority,omitempty"`
	Path        string    `json:"path"`
	Protocol    string    `json:"protocol,omitempty"`
	GRPC        bool      `json:"grpc,omitempty"`
	Status      int       `json:"status"` // 0: no answer was sent
	GRPCStatus  *int      `json:"grpcStatus,omitempty"`
	// Milliseconds: until the client had the answer, and since the request was
	// sent upstream.
	LatencyMS     float64 `json:"latencyMs"`
	UpstreamMS    float64 `json:"upstreamMs,omitempty"`
	RequestBytes  int64   `json:"requestBytes,omitempty"`
	ResponseBytes int64   `json:"responseBytes,omitempty"`
	Flags         string  `json:"flags,omitempty"` // Envoy's letters
	Reason        string  `json:"reason,omitempty"`
	Details       string  `json:"details,omitempty"`
	Cause         string  `json:"cause,omitempty"`
	Rule          string  `json:"rule,omitempty"`
	Attempts      int     `json:"attempts,omitempty"`
	Security      string  `json:"security,omitempty"` // "mutual_tls", "none", "unknown"
	RequestID     string  `json:"requestId,omitempty"`
	TraceID       string  `json:"traceId,omitempty"`
	Headers       []Field `json:"headers,omitempty"`
}

// Party is one side of a request.
type Party struct {
	Namespace string `json:"namespace,omitempty"`
	Workload  string `json:"workload,omitempty"`
	Pod       string `json:"pod,omitempty"`
	Version   string `json:"version,omitempty"`
	Identity  string `json:"identity,omitempty"` // that the connection proved
	Address   string `json:"address,omitempty"`
}

// Field is a header field of the request.
type Field struct {
	Name     string `json:"name"`
	Value    string `json:"value,omitempty"`
	Redacted bool   `json:"redacted,omitempty"`
}

// request is a record as it is shown. What a proxy says of itself is not asked of
// it: that is w, whose certificate it has.
func request(r *seinev1.TapRecord, w *mesh.Workload, identity string) *Request {
	out := &Request{
		Time: time.Unix(0, r.Start).UTC(), Proxy: w.Key(), Direction: "outbound", Source: party(r.Source), Destination: party(r.Destination),
		Service: r.Service, Method: text(r.Method), Authority: text(r.Authority), Path: text(r.Path), Protocol: r.Protocol, GRPC: r.Grpc,
		Status: int(r.Code), LatencyMS: millis(r.Duration), UpstreamMS: millis(r.Upstream), RequestBytes: r.RequestBytes, ResponseBytes: r.ResponseBytes,
		Flags: r.Flag, Details: r.Details, Cause: text(r.Cause), Rule: r.Rule, Attempts: int(r.Attempts),
		Security: r.Security, RequestID: text(r.RequestId), TraceID: r.TraceId,
	}
	own := &out.Source
	if r.Inbound {
		out.Direction, own = "inbound", &out.Destination
	}
	own.Namespace, own.Pod, own.Workload = w.Namespace, w.Instance, w.App
	if own.Identity != "" {
		own.Identity = identity
	}
	if r.GrpcStatus > 0 {
		n := int(r.GrpcStatus) - 1
		out.GRPCStatus = &n
	}
	out.Reason = telemetry.FlagOf(r.Flag).Meaning()
	for _, f := range r.Fields {
		out.Headers = append(out.Headers, Field{f.Name, text(f.Value), f.Redacted})
	}
	return out
}

func party(p *seinev1.TapParty) Party {
	return Party{p.GetNamespace(), p.GetWorkload(), p.GetInstance(), p.GetVersion(), p.GetIdentity(), p.GetAddress()}
}

// text is what a client wrote, fit for JSON.
func text(b []byte) string { return strings.ToValidUTF8(string(b), "\uFFFD") }

func millis(ns int64) float64 { return float64(ns/1000) / 1000 }
