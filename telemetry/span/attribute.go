package span

import (
	"bytes"
	"net"
	"net/netip"
	"strconv"
	"strings"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/telemetry"
)

// attribute is a name and a value: a text, or a number.
type attribute struct {
	name   string
	text   string
	number int64
	is     kind
}

type kind uint8

const (
	isText kind = iota
	isNumber
	isTrue
)

// side is how one side of the workload is reported.
type side struct {
	fixed  []attribute // on each span: the user's, and the mesh's
	maxURL int
}

// defaultMaxURL is Istio's maxPathTagLength.
const defaultMaxURL = 256

// newSide takes what holds for every span of a side. env looks environment
// variables up.
func newSide(t *seinev1.Tracing, self *seinev1.Workload, env func(string) (string, bool)) *side {
	s := &side{maxURL: int(t.MaxTagLength)}
	if s.maxURL == 0 {
		s.maxURL = defaultMaxURL
	}
	if t.MeshTags {
		known := func(v, other string) string {
			if v == "" {
				return other
			}
			return v
		}
		for _, a := range [...][2]string{
			{"istio.canonical_revision", known(self.GetCanonicalRevision(), telemetry.LatestRevision)},
			{"istio.canonical_service", known(self.GetCanonicalService(), telemetry.Unknown)},
			{"istio.cluster_id", known(self.GetCluster(), telemetry.Unknown)},
			{"istio.mesh_id", known(trustDomain(self.GetIdentity()), telemetry.Unknown)},
			{"istio.namespace", known(self.GetNamespace(), "default")},
		} {
			s.fixed = append(s.fixed, attribute{name: a[0], text: a[1]})
		}
	}
	for _, tag := range t.Tags {
		if v, ok := resolve(tag, env); ok {
			s.fixed = append(s.fixed, attribute{name: tag.Name, text: v})
		}
	}
	return s
}

// resolve is a tag's value, as far as that does not depend on the request.
func resolve(tag *seinev1.TraceTag, env func(string) (string, bool)) (string, bool) {
	switch v := tag.Value.(type) {
	case *seinev1.TraceTag_Literal:
		return v.Literal, true
	case *seinev1.TraceTag_Environment:
		if value, ok := env(v.Environment); ok {
			return value, true
		}
		return tag.Fallback, tag.Fallback != ""
	}
	return "", false
}

// trustDomain is the mesh's name where nobody gave it one (Istio's meshID).
func trustDomain(identity string) string {
	rest, _ := strings.CutPrefix(identity, "spiffe://")
	domain, _, _ := strings.Cut(rest, "/")
	return domain
}

// serviceName is Istio's name of who reports: WORKLOAD.NAMESPACE.
func serviceName(w *seinev1.Workload) string {
	name := w.GetCanonicalService()
	if name == "" {
		name = w.GetWorkload()
	}
	return name + "." + w.GetNamespace()
}

// name is the span's, Istio's: what was called, with its port.
func (s *Span) name() string {
	switch {
	case s.Service != "":
		return s.Service + ":" + strconv.Itoa(int(s.Port)) + "/*"
	case len(s.Host) > 0:
		return clean(s.Host, maxValue) + "/*"
	case len(s.Method) > 0:
		return clean(s.Method, maxValue)
	}
	return "HTTP"
}

// attributes are the span's: OpenTelemetry's stable conventions for HTTP and its
// conventions for RPC, Envoy's names beside them, the user's and the mesh's.
func (s *Span) attributes(sd *side, self *seinev1.Workload) []attribute {
	out := make([]attribute, 0, 48)
	text := func(name, v string) {
		if v != "" {
			out = append(out, attribute{name: name, text: v})
		}
	}
	number := func(name string, n int64) { out = append(out, attribute{name: name, number: n, is: isNumber}) }

	method, host, path := clean(s.Method, maxValue), clean(s.Host, maxValue), clean(s.Path, maxValue)
	agent, id := clean(s.Agent, maxValue), clean(s.RequestID, maxValue)
	plain, query, _ := strings.Cut(path, "?")
	scheme := "http"
	if s.Server && s.Mutual {
		scheme = "https"
	}
	address, port := split(host)
	text("http.request.method", method)
	text("url.scheme", scheme)
	text("url.path", cut(plain, sd.maxURL))
	text("url.query", cut(query, sd.maxURL))
	text("server.address", address)
	if port == 0 {
		port = s.Port
	}
	if port != 0 {
		number("server.port", int64(port))
	}
	text("user_agent.original", agent)
	text("network.protocol.name", "http")
	version := [...]string{"1.0", "1.1", "2"}[min(s.Minor, 2)]
	text("network.protocol.version", version)
	if s.Status != 0 {
		number("http.response.status_code", int64(s.Status))
	}
	number("http.request.body.size", s.Received)
	number("http.response.body.size", s.Sent)
	if s.Attempts > 1 {
		number("http.request.resend_count", int64(s.Attempts-1))
	}
	if s.failed() {
		text("error.type", s.errorType())
		out = append(out, attribute{name: "error", is: isTrue})
	}
	if s.IsGRPC {
		service, call, _ := strings.Cut(strings.TrimPrefix(plain, "/"), "/")
		text("rpc.system", "grpc")
		text("rpc.service", service)
		text("rpc.method", call)
		text("grpc.path", plain)
		text("grpc.authority", host)
		if s.GRPC >= 0 {
			number("rpc.grpc.status_code", int64(s.GRPC))
			text("grpc.status_code", strconv.Itoa(s.GRPC))
		}
	}
	peer := s.Upstream
	if s.Server {
		peer = s.Remote
		text("client.address", addressOf(peer))
	}
	if peer.IsValid() {
		text("network.peer.address", addressOf(peer))
		number("network.peer.port", int64(peer.Port()))
	}

	// Envoy's, which dashboards made for Istio ask for.
	text("component", "proxy")
	text("node_id", self.GetNamespace()+"/"+self.GetName())
	text("guid:x-request-id", id)
	text("http.url", cut(scheme+"://"+host+path, sd.maxURL))
	text("http.method", method)
	text("http.protocol", "HTTP/"+version)
	if s.Status != 0 {
		text("http.status_code", strconv.Itoa(s.Status))
	}
	text("request_size", strconv.FormatInt(s.Received, 10))
	text("response_size", strconv.FormatInt(s.Sent, 10))
	text("response_flags", s.Flag.String())
	text("user_agent", agent)
	text("upstream_cluster", s.Cluster)
	text("upstream_cluster.name", s.Cluster)
	if s.Remote.IsValid() {
		text("peer.address", addressOf(s.Remote))
	}

	if s.Upstream.IsValid() {
		text("upstream_address", s.Upstream.String())
	}
	text("response_code_details", clean([]byte(s.Details), maxValue))
	text("seine.cause", clean([]byte(s.Cause), maxValue))
	text("seine.route", s.Route)
	if s.Late {
		out = append(out, attribute{name: "seine.late", is: isTrue})
	}
	if p := s.Peer; p != nil {
		who := "istio.destination_"
		if s.Server {
			who = "istio.source_"
		}
		text(who+"workload", p.Workload)
		text(who+"namespace", p.Namespace)
		text(who+"instance_name", p.Name)
		text(who+"canonical_service", p.CanonicalService)
		text(who+"canonical_revision", p.CanonicalRevision)
	}
	out = append(out, sd.fixed...)
	for _, t := range s.Tags {
		text(t.Name, clean(t.Value, maxValue))
	}
	return out
}

// errorType is OpenTelemetry's error.type: the status, or the flag of a request
// that has none.
func (s *Span) errorType() string {
	switch {
	case s.GRPC > 0:
		return strconv.Itoa(s.GRPC)
	case s.Status == 0:
		return s.Flag.String()
	}
	return strconv.Itoa(s.Status)
}

// attributes are an event's.
func (e *Event) attributes() []attribute {
	var out []attribute
	if e.Took != 0 {
		out = append(out, attribute{name: "duration_us", number: e.Took.Microseconds(), is: isNumber})
	}
	if e.Attempt != 0 {
		out = append(out, attribute{name: "attempt", number: int64(e.Attempt), is: isNumber})
	}
	if e.Status != 0 {
		out = append(out, attribute{name: "status", number: int64(e.Status), is: isNumber})
	}
	if e.Address.IsValid() {
		out = append(out, attribute{name: "endpoint", text: e.Address.String()})
	}
	if e.Text != "" {
		out = append(out, attribute{name: "cause", text: clean([]byte(e.Text), maxValue)})
	}
	return out
}

// string is the value as text, which is all that Zipkin has.
func (a *attribute) string() string {
	switch a.is {
	case isNumber:
		return strconv.FormatInt(a.number, 10)
	case isTrue:
		return "true"
	}
	return a.text
}

// clean makes a valid text of bytes that a peer sent, at most n long.
func clean(b []byte, n int) string {
	return string(bytes.ToValidUTF8(b[:min(len(b), n)], []byte("\uFFFD")))
}

// cut shortens s to n bytes, between characters.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "")
}

// split takes the port from a host, if it has one.
func split(host string) (string, uint16) {
	h, p, err := net.SplitHostPort(host)
	if err != nil {
		return host, 0
	}
	n, err := strconv.ParseUint(p, 10, 16)
	if err != nil {
		return host, 0
	}
	return h, uint16(n)
}

func addressOf(a netip.AddrPort) string {
	if !a.IsValid() {
		return ""
	}
	return a.Addr().String()
}
