// Package explain answers what the mesh does with a request or a connection,
// and why, step by step.
//
// A mesh.Snapshot and a Question enter, an Answer leaves. Nothing is decided
// here: plan says what the caller's proxy would be told, decide what the proxy
// makes of it, and these are the very functions that seined and seine-proxy
// run. This package only asks them in the proxy's order and writes down what
// they said. It is pure.
//
// The JSON forms of Question and Answer are stable; docs/explain.md describes
// them.
package explain

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/config"
	"github.com/seinemesh/seine/decide"
	"github.com/seinemesh/seine/mesh"
	"github.com/seinemesh/seine/message"
	"github.com/seinemesh/seine/plan"
)

// Question is what is asked: what happens to a call of From (Method, URL, …),
// or, if To is set, to one that arrives at To.
type Question struct {
	// From is NAMESPACE/WORKLOAD, NAMESPACE[,label=value…] or
	// gateway:NAMESPACE[,label=value…].
	From string `json:"from,omitempty"`
	// To is NAMESPACE/WORKLOAD:PORT or NAMESPACE[,label=value…]:PORT.
	To     string `json:"to,omitempty"`
	Method string `json:"method,omitempty"` // GET if empty
	URL    string `json:"url,omitempty"`    // http, grpc, https, tcp or tls
	// Headers are "name: value".
	Headers   []string        `json:"headers,omitempty"`
	Address   string          `json:"address,omitempty"` // IP:PORT dialled; looked up if empty
	SNI       string          `json:"sni,omitempty"`
	Principal string          `json:"principal,omitempty"` // the verified identity of the caller
	SourceIP  string          `json:"sourceIP,omitempty"`
	Claims    json.RawMessage `json:"claims,omitempty"` // of a verified token
}

// Outcomes.
const (
	Forward     = "forward"
	Redirect    = "redirect"
	Respond     = "respond"
	Reject      = "reject"
	Passthrough = "passthrough"
	Blackhole   = "blackhole"
	Unsupported = "unsupported"
)

// Reasons of Reject.
const (
	NoRoute     = "no_route"
	NoService   = "no_service"
	NoEndpoints = "no_endpoints"
	Policy      = "policy"
	Injected    = "fault" // every such request is aborted on purpose
)

// Answer is what happens. Fields that do not apply are left out.
type Answer struct {
	Outcome       string         `json:"outcome"`
	Reason        string         `json:"reason,omitempty"`
	Service       string         `json:"service,omitempty"`
	Port          uint32         `json:"port,omitempty"`
	Route         *Route         `json:"route,omitempty"`
	Destinations  []Destination  `json:"destinations,omitempty"`
	Request       *Request       `json:"request,omitempty"`
	Response      *Response      `json:"response,omitempty"`
	Status        int            `json:"status,omitempty"`
	Location      string         `json:"location,omitempty"`
	Body          string         `json:"body,omitempty"`
	Flag          string         `json:"flag,omitempty"`
	Timeout       string         `json:"timeout,omitempty"`
	Retries       *Retries       `json:"retries,omitempty"`
	Mirrors       []Mirror       `json:"mirrors,omitempty"`
	Fault         *Fault         `json:"fault,omitempty"`
	Cors          *Cors          `json:"cors,omitempty"`
	RateLimits    []RateLimit    `json:"rateLimits,omitempty"`
	Mtls          string         `json:"mtls,omitempty"`
	Authorization *Authorization `json:"authorization,omitempty"`
	Upstream      *Upstream      `json:"upstream,omitempty"`
	Endpoints     []Endpoint     `json:"endpoints,omitempty"`
	Unsupported   []string       `json:"unsupported,omitempty"`
	Steps         []string       `json:"steps"`
}

// Route is the rule that decided. Rule is its position in the resource,
// spec.http[Rule], spec.tcp[Rule] or, of a Gateway API route, spec.rules[Rule];
// nil where no such resource decided.
type Route struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	Rule      *int   `json:"rule,omitempty"`
	Delegate  string `json:"delegate,omitempty"`
	File      string `json:"file,omitempty"`
	Line      int    `json:"line,omitempty"`
}

// Destination is a share of the traffic. Request is there where several
// destinations get different ones.
type Destination struct {
	Host    string   `json:"host"`
	Subset  string   `json:"subset,omitempty"`
	Port    uint32   `json:"port"`
	Weight  uint32   `json:"weight"`
	Status  int      `json:"status,omitempty"` // there is no such destination: its share gets this status
	Request *Request `json:"request,omitempty"`
}

// Request is as it is sent upstream. Header names are in lower case, several
// values of one are joined with commas.
type Request struct {
	Authority string            `json:"authority"`
	Path      string            `json:"path"`
	Headers   map[string]string `json:"headers,omitempty"`
}

// Response says what the route does to the answer's header: the fields that it
// writes, and those that it takes away.
type Response struct {
	Headers map[string]string `json:"headers,omitempty"`
	Removed []string          `json:"removed,omitempty"`
}

// Retries says when a request that failed is sent again. Attempts counts those
// after the first try.
type Retries struct {
	Attempts          int    `json:"attempts"`
	PerTryTimeout     string `json:"perTryTimeout,omitempty"`
	Hedge             bool   `json:"hedge,omitempty"`
	RetryOn           string `json:"retryOn,omitempty"`
	Backoff           string `json:"backoff,omitempty"`
	PreviousHosts     bool   `json:"previousHosts,omitempty"` // an endpoint that was tried may be tried again
	RemoteLocalities  bool   `json:"remoteLocalities,omitempty"`
	NonIdempotentToo  bool   `json:"nonIdempotentToo,omitempty"`
	FromConfiguration bool   `json:"fromConfiguration,omitempty"` // else the mesh's default
}

// Authorization is the verdict of authorization policies.
type Authorization struct {
	Verdict string `json:"verdict"`
	Policy  string `json:"policy,omitempty"`
	Rule    string `json:"rule,omitempty"`
}

// Upstream is how the first destination is spoken to.
type Upstream struct {
	LB             string `json:"lb"`
	MaxConnections uint32 `json:"maxConnections,omitempty"`
	ConnectTimeout string `json:"connectTimeout"`
	MaxPending     uint32 `json:"maxPending,omitempty"`
	Consecutive5xx uint32 `json:"consecutive5xx,omitempty"`
	TLS            string `json:"tls"` // none, simple, istio_mutual or auto

	MaxRequests              uint32 `json:"maxRequests,omitempty"`
	MaxRequestsPerConnection uint32 `json:"maxRequestsPerConnection,omitempty"`
	MaxRetries               uint32 `json:"maxRetries,omitempty"`
	RetryBudget              string `json:"retryBudget,omitempty"` // "20 %, at least 3"
	ErrorCodes               []int  `json:"outlierDetectionHttpErrorCodes,omitempty"`
	IdleTimeout              string `json:"idleTimeout,omitempty"`
	MaxConnectionDuration    string `json:"maxConnectionDuration,omitempty"`
	ConsecutiveGateway       uint32 `json:"consecutiveGatewayErrors,omitempty"`
	ConsecutiveLocal         uint32 `json:"consecutiveLocalOriginFailures,omitempty"`
	Interval                 string `json:"interval,omitempty"`
	BaseEjectionTime         string `json:"baseEjectionTime,omitempty"`
	MaxEjectionPercent       uint32 `json:"maxEjectionPercent,omitempty"`
	MinHealthPercent         uint32 `json:"minHealthPercent,omitempty"`
}

// Endpoint is where a request may end.
type Endpoint struct {
	Address  string `json:"address"`
	Workload string `json:"workload,omitempty"`
	Subset   string `json:"subset,omitempty"`
	Identity string `json:"identity,omitempty"`
	TLS      string `json:"tls"`            // mutual, simple or none
	Mtls     string `json:"mtls,omitempty"` // what its own sidecar receives
	Healthy  bool   `json:"healthy"`
}

// QuestionError says what is wrong with a question.
type QuestionError struct{ Field, Reason string }

func (e *QuestionError) Error() string { return e.Field + ": " + e.Reason }

func wrong(field, format string, args ...any) error {
	return &QuestionError{field, fmt.Sprintf(format, args...)}
}

// Explain answers q. The error is a *QuestionError if the question makes no
// sense.
func Explain(s *mesh.Snapshot, q Question) (*Answer, error) {
	if err := checkCaller(q); err != nil {
		return nil, err
	}
	if q.To != "" {
		return inbound(s, q)
	}
	from, gateway, err := party(s, "from", q.From)
	if err != nil {
		return nil, err
	}
	u, err := parseURL(q)
	if err != nil {
		return nil, err
	}
	e := &explanation{s: s, from: from, q: q, url: u, a: &Answer{}}
	if gateway {
		e.unsupported("Gateway", "Gateways are not implemented in this version: what enters through one is not explained")
		return e.a, nil
	}
	if e.self, err = decide.CompileSelf(plan.Self(s, from)); err != nil {
		return nil, fmt.Errorf("plan of %s: %w", from.Key(), err)
	}
	if !from.Sidecar && !from.Gateway {
		e.say("%s has no sidecar: it calls directly and in plaintext. This is what a sidecar would do for it.", from.Key())
	}
	if len(q.Claims) > 0 {
		e.say("Nothing in this version looks at the claims of a token.")
	}
	if q.Principal != "" || q.SourceIP != "" {
		e.say("The principal and the source address matter at the receiving end, which --to asks: here the caller is %s.", from.Key())
	}
	return e.a, e.outbound()
}

// explanation is the state of one question.
type explanation struct {
	s       *mesh.Snapshot
	from    *mesh.Workload
	self    *decide.Self
	q       Question
	url     target
	dialled netip.AddrPort // zero: not known
	sni     string         // of a connection that is not HTTP
	a       *Answer
}

func (e *explanation) say(format string, args ...any) {
	e.a.Steps = append(e.a.Steps, fmt.Sprintf(format, args...))
}

// once says what may come up for several destinations.
func (e *explanation) once(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !slices.Contains(e.a.Steps, text) {
		e.a.Steps = append(e.a.Steps, text)
	}
}

func (e *explanation) reject(reason string, status int, flag string) {
	e.a.Outcome, e.a.Reason, e.a.Status, e.a.Flag = Reject, reason, status, flag
	if !e.url.http() {
		e.a.Status = 0 // there is nothing to write it in: the connection is reset
	}
}

func (e *explanation) unsupported(path, format string, args ...any) {
	e.a.Outcome, e.a.Reason = Unsupported, ""
	if slices.Contains(e.a.Unsupported, path) {
		return
	}
	e.a.Unsupported = append(e.a.Unsupported, path)
	e.say(format, args...)
}

// outbound asks as a sidecar does: the address first, which says how to read
// the connection; then, for HTTP, the Host.
func (e *explanation) outbound() error {
	if err := e.dial(); err != nil {
		return err
	}
	port := e.url.port
	var byAddress *decide.Answer
	if e.dialled.IsValid() {
		port = e.dialled.Port()
		var err error
		if byAddress, err = e.ask(string(decide.AppendAddressName(nil, e.dialled))); err != nil {
			return err
		}
	}
	if !e.url.http() {
		return e.stream(byAddress)
	}
	if byAddress != nil && opaque(byAddress.Proto.Protocol) {
		e.say("Port %d of %s is %s: the bytes are passed on as they are, and HTTP rules do not apply.", port, orAddress(byAddress.Proto.Service, e.dialled), protocolName(byAddress.Proto.Protocol))
		return e.connection(byAddress)
	}
	if byAddress != nil && byAddress.ByAddress() {
		e.tellAddress(byAddress)
		return e.request(byAddress, false, port)
	}
	byHost, err := e.ask(string(decide.AppendHTTPName(nil, port, []byte(e.authority()))))
	if err != nil {
		return err
	}
	e.tellHost(port)
	if byAddress == nil && opaque(byHost.Proto.Protocol) {
		e.say("Its port is %s, not HTTP: a sidecar would pass the bytes on as they are.", protocolName(byHost.Proto.Protocol))
	}
	next, answer := e.self.Next(byHost, e.dialled.Addr()), byHost
	if next == decide.AskAddress {
		if byHost.ByAddress() {
			e.say("Such routes belong to whoever dials the Service's address. The address dialled is %s: it decides instead of the Host.", e.dialled)
		} else {
			e.say("The address %s is the mesh's own, so that it decides instead of the Host.", e.dialled)
		}
		answer, next = byAddress, decide.NextAddress(byAddress)
	}
	switch next {
	case decide.Pass:
		e.pass()
		return nil
	case decide.Refuse:
		e.refuse(answer)
		return nil
	}
	return e.request(answer, next == decide.Direct, port)
}

// ask plans and compiles an answer as seined and the proxy do.
func (e *explanation) ask(name string) (*decide.Answer, error) {
	a, err := decide.CompileAnswer(plan.Answer(e.s, e.from, name))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return a, nil
}

// dial finds the address that the caller's connection goes to.
func (e *explanation) dial() error {
	if e.q.Address != "" {
		a, err := netip.ParseAddrPort(e.q.Address)
		if err != nil {
			return wrong("address", "%q is not IP:PORT", e.q.Address)
		}
		e.dialled = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
		e.say("%s dials %s.", e.from.Key(), e.dialled)
		return nil
	}
	if ip, err := netip.ParseAddr(e.url.host); err == nil {
		e.dialled = netip.AddrPortFrom(ip.Unmap(), e.url.port)
		e.say("%s dials %s.", e.from.Key(), e.dialled)
		return nil
	}
	addrs, known := config.Lookup(e.s, e.from.Namespace, e.url.host)
	switch {
	case len(addrs) > 0:
		e.dialled = netip.AddrPortFrom(addrs[0].Unmap(), e.url.port)
		e.say("%s dials %s: the mesh's DNS says that %s is %s.", e.from.Key(), e.dialled, e.url.host, addrs[0])
	case known:
		e.say("%s has no address in the mesh's DNS: only the Host is looked at.", e.url.host)
	default:
		e.say("The address of %s is not the mesh's to know: only the Host is looked at (--address IP:PORT says where it is dialled).", e.url.host)
	}
	return nil
}

func (e *explanation) tellHost(port uint16) {
	host := string(decide.HostOnly([]byte(strings.ToLower(e.authority()))))
	if _, err := netip.ParseAddr(host); err == nil {
		e.say("The Host %s is an address: it decides, on port %d.", host, port)
		return
	}
	c := plan.ChooseHost(e.s, e.from, host, uint32(port))
	switch {
	case c.Attached && e.dialled.IsValid():
		e.say("The Host %s on port %d is %s, which Gateway API routes route.", host, port, c.Service.Host)
		return
	case c.Service != nil:
		e.a.Service, e.a.Port = c.Service.Host, c.Port.Number
		where := ""
		if e.dialled.IsValid() {
			where = ", whatever the address"
		}
		e.say("The Host %s on port %d decides%s: from namespace %s it is %s (%s).", host, port, where, e.from.Namespace, c.Service.Host, decide.Source(c.Service.Proto()))
	case c.Routes != nil:
		why := "is no service"
		if svc := e.s.Service(c.Pattern, e.from.Namespace); svc != nil && svc.Host == c.Pattern {
			why = fmt.Sprintf("is %s, which has no port %d", svc.Host, port)
		}
		if !strings.HasPrefix(c.Pattern, "*") {
			e.a.Service, e.a.Port = c.Pattern, uint32(port)
		}
		e.say("The Host %s %s, but %s names it.", host, why, decide.Source(c.Routes.Proto()))
	case c.Why != "":
		e.say("The Host %s on port %d leads nowhere: %s.", host, port, c.Why)
	default:
		e.say("The Host %s on port %d is none of the mesh's.", host, port)
	}
	for _, p := range c.Passed {
		e.say("%s.", p)
	}
	switch {
	case c.Routes != nil:
		e.say("%s routes it (host %s).", decide.Source(c.Routes.Proto()), c.Pattern)
		for _, p := range c.Routes.Unsupported {
			if !strings.HasPrefix(p, "spec.tcp") && !strings.HasPrefix(p, "spec.tls") {
				e.unsupported(p, "%s: %s is not implemented in this version.", decide.Source(c.Routes.Proto()), p)
			}
		}
	case c.Attached:
		e.say("Gateway API routes hold for it: no VirtualService is looked at.")
	case c.Service != nil:
		e.say("No VirtualService routes it: requests go to the service itself.")
	}
}

// pass ends outside the mesh.
func (e *explanation) pass() {
	e.a.Outcome = Passthrough
	if e.dialled.IsValid() {
		e.say("outboundTrafficPolicy is ALLOW_ANY: the bytes go to %s as they are, without the mesh's encryption.", e.dialled)
	} else {
		e.say("outboundTrafficPolicy is ALLOW_ANY: the request goes to the address that was dialled, if that lies outside the mesh, without the mesh's encryption.")
	}
}

func (e *explanation) refuse(a *decide.Answer) {
	status, flag := decide.Refusal(a)
	if a.Proto.Kind == seinev1.Answer_BLACKHOLE {
		e.a.Outcome, e.a.Flag = Blackhole, flag
		if e.url.http() {
			e.a.Status = status
		}
	} else {
		e.reject(NoService, status, flag)
	}
	e.say("Refused: %s.", a.Proto.Reason)
}

// connection explains one of opaque bytes.
func (e *explanation) connection(a *decide.Answer) error {
	if a.Proto.Kind == seinev1.Answer_ROUTES && !opaque(a.Proto.Protocol) && a.Proto.Protocol != seinev1.Protocol_PROTOCOL_DETECT {
		e.a.Service = a.Proto.Service
		e.reject("", 400, "DPE")
		e.say("Port %d of %s is %s: bytes that are none are refused (name the port tcp-… or tls-… if they are meant).", e.dialled.Port(), a.Proto.Service, protocolName(a.Proto.Protocol))
		return nil
	}
	e.a.Service = a.Proto.Service
	switch decide.NextAddress(a) {
	case decide.Pass:
		e.say("%s is outside the mesh.", e.dialled)
		e.pass()
		return nil
	case decide.Refuse:
		e.refuse(a)
		return nil
	case decide.Direct:
		e.say("The address decides: %s is %s itself.", e.dialled.Addr(), decide.Source(a.Proto.Source))
	default:
		e.say("The address decides: %s is %s.", e.dialled, a.Proto.Service)
	}
	return e.streamRule(a)
}

func (e *explanation) route(source *seinev1.Ref, index int32) {
	if source == nil {
		return
	}
	e.a.Route = &Route{Kind: source.Kind, Namespace: source.Namespace, Name: source.Name, File: source.File, Line: int(source.Line)}
	if source.Kind == "VirtualService" || source.Kind == "HTTPRoute" || source.Kind == "GRPCRoute" {
		rule := int(index)
		e.a.Route.Rule = &rule
	}
}

func opaque(p seinev1.Protocol) bool {
	return p == seinev1.Protocol_PROTOCOL_TCP || p == seinev1.Protocol_PROTOCOL_TLS
}

func protocolName(p seinev1.Protocol) string {
	return strings.TrimPrefix(p.String(), "PROTOCOL_")
}

func orAddress(service string, a netip.AddrPort) string {
	if service != "" {
		return service
	}
	return a.Addr().String()
}

// authority is the Host header: one that is given, or the URL's.
func (e *explanation) authority() string {
	if h, ok := headerNamed(e.q.Headers, "host"); ok {
		return h
	}
	return e.url.authority
}

// head is the request as the proxy parses it.
func (e *explanation) head() *message.Request {
	r := &message.Request{
		Method: []byte(e.url.method), Scheme: []byte("http"), Authority: []byte(e.authority()), Path: []byte(e.url.path), Minor: 1,
	}
	for _, h := range e.q.Headers {
		name, value, _ := splitHeader(h)
		if !strings.EqualFold(name, "host") {
			r.Fields = append(r.Fields, message.Field{ID: message.Intern([]byte(name)), Name: []byte(name), Value: []byte(value)})
		}
	}
	return r
}
