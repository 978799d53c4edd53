package decide

import (
	"fmt"
	"net/netip"
	"slices"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

// Self is what a proxy knows of its own workload.
type Self struct {
	Proto *seinev1.Self
	// Client and Server are how requests are traced that the workload makes, and
	// those that it serves; nil: not at all.
	Client, Server *Tracing
	// Authorization is who may do what here; nil: everybody everything.
	Authorization *Authorization

	names    map[string][]netip.Addr
	limits   []*RateLimit
	ports    map[uint16]*InboundPort
	other    *InboundPort
	prefixes []netip.Prefix
}

// InboundPort is how connections to one of the workload's ports are received.
type InboundPort struct {
	Proto    *seinev1.InboundPort // its port is 0 if it is not declared
	Declared bool                 // a service or a policy names it

	endpoint netip.AddrPort // see Application
	verdicts [arrivals]Verdict
	from     []netip.Prefix // of PROXY headers
}

// Introduced reports whether a connection from a begins with a PROXY header,
// unless it is the mesh's own mutual TLS. Such a header is believed: it is for
// load balancers, and never the default.
func (p *InboundPort) Introduced(a netip.Addr) bool {
	if !p.Proto.ProxyProtocol {
		return false
	}
	a = a.Unmap()
	for _, n := range p.from {
		if n.Contains(a) {
			return true
		}
	}
	return len(p.from) == 0
}

// Application is where the application takes a connection that was meant for
// dialled.
func (p *InboundPort) Application(dialled netip.AddrPort) netip.AddrPort {
	switch {
	case !p.endpoint.IsValid():
		return dialled
	case p.endpoint.Addr().IsUnspecified():
		return netip.AddrPortFrom(dialled.Addr(), p.endpoint.Port())
	}
	return p.endpoint
}

// CompileSelf checks and compiles a Self.
func CompileSelf(s *seinev1.Self) (*Self, error) {
	c := &Self{Proto: s, ports: make(map[uint16]*InboundPort, len(s.Inbound))}
	for _, cidr := range s.MeshPrefixes {
		p, err := netip.ParsePrefix(cidr)
		if err != nil {
			return nil, invalid("mesh prefix: %v", err)
		}
		c.prefixes = append(c.prefixes, p.Masked())
	}
	var err error
	if c.Client, err = CompileTracing(s.TraceClient); err != nil {
		return nil, err
	}
	if c.Server, err = CompileTracing(s.TraceServer); err != nil {
		return nil, err
	}
	if c.Authorization, err = CompileAuthorization(s.Authorization); err != nil {
		return nil, err
	}
	if len(s.DnsNames) > 0 {
		c.names = make(map[string][]netip.Addr, len(s.DnsNames))
	}
	for _, n := range s.DnsNames {
		for _, raw := range n.Addresses {
			a, ok := netip.AddrFromSlice(raw)
			if !ok {
				return nil, invalid("DNS name %.253q: %d bytes are no address", n.Name, len(raw))
			}
			c.names[n.Name] = append(c.names[n.Name], a)
		}
	}
	for _, p := range s.RateLimits {
		l, err := CompileRateLimit(p)
		if err != nil {
			return nil, err
		}
		c.limits = append(c.limits, l)
	}
	for _, p := range s.Inbound {
		if p.Port == 0 || p.Port > 65535 || c.ports[uint16(p.Port)] != nil {
			return nil, invalid("inbound port %d is out of range or twice there", p.Port)
		}
		in := newInbound(p, true)
		for _, cidr := range p.ProxyProtocolFrom {
			n, err := netip.ParsePrefix(cidr)
			if err != nil {
				return nil, invalid("proxy_protocol_from of port %d: %v", p.Port, err)
			}
			in.from = append(in.from, n.Masked())
		}
		if p.Endpoint != "" {
			at, err := netip.ParseAddrPort(p.Endpoint)
			if err != nil || !at.Addr().IsLoopback() && !at.Addr().IsUnspecified() {
				return nil, invalid("endpoint of port %d: %q is no place of the application's own", p.Port, p.Endpoint)
			}
			in.endpoint = at
		}
		c.ports[uint16(p.Port)] = in
	}
	c.other = newInbound(&seinev1.InboundPort{Mtls: s.DefaultMtls, MtlsSource: s.DefaultMtlsSource}, false)
	return c, nil
}

// Named returns the addresses that a DNS name, in lower case and without a dot at
// its end, has for the workload; none: the mesh does not answer for it. Read only.
func (s *Self) Named(name string) []netip.Addr { return s.names[name] }

// Inbound returns the port's settings, the defaults if it is not declared;
// never nil.
func (s *Self) Inbound(port uint16) *InboundPort {
	if p := s.ports[port]; p != nil {
		return p
	}
	return s.other
}

// RateLimits are the limits for requests to one of the workload's ports.
func (s *Self) RateLimits(port uint16) []*RateLimit {
	var out []*RateLimit
	for _, l := range s.limits {
		if len(l.Proto.Ports) == 0 || slices.Contains(l.Proto.Ports, uint32(port)) {
			out = append(out, l)
		}
	}
	return out
}

// Local reports whether a is one of the mesh's own addresses.
func (s *Self) Local(a netip.Addr) bool {
	a = a.Unmap()
	for _, p := range s.prefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// Arrival is what the first bytes of an inbound connection turned out to be.
type Arrival uint8

const (
	Plaintext Arrival = iota // not TLS
	OtherTLS                 // a ClientHello without the mesh's ALPN
	MeshTLS                  // a ClientHello that offers seine-*, istio or istio-*
	arrivals
)

// Action is what to do with an inbound connection.
type Action uint8

const (
	Reject    Action = iota // close it (reset); nothing reaches the application
	Forward                 // pass the bytes to the application as they are
	Terminate               // end TLS here; a client certificate of the mesh is required
)

// Verdict is the decision on an inbound connection.
type Verdict struct {
	Action Action
	Reason string // a sentence that names the policy
}

// Admit decides on a connection.
func (p *InboundPort) Admit(a Arrival) Verdict { return p.verdicts[min(a, MeshTLS)] }

// Mode is the port's effective mode; never MTLS_UNSPECIFIED.
func (p *InboundPort) Mode() seinev1.MtlsMode {
	if p.Proto.Mtls == seinev1.MtlsMode_MTLS_UNSPECIFIED {
		return seinev1.MtlsMode_MTLS_PERMISSIVE
	}
	return p.Proto.Mtls
}

// newInbound says everything that can be said before a connection comes.
func newInbound(p *seinev1.InboundPort, declared bool) *InboundPort {
	c := &InboundPort{Proto: p, Declared: declared}
	by := "by default"
	if p.MtlsSource != nil {
		by = "by " + Source(p.MtlsSource)
	}
	verdict := func(a Arrival, do Action, format string) {
		c.verdicts[a] = Verdict{do, fmt.Sprintf(format, by)}
	}
	switch c.Mode() {
	case seinev1.MtlsMode_MTLS_STRICT:
		verdict(Plaintext, Reject, "plaintext is refused: the port is STRICT %s")
		verdict(OtherTLS, Terminate, "TLS must be the mesh's own: the port is STRICT %s")
		verdict(MeshTLS, Terminate, "mutual TLS is required: the port is STRICT %s")
	case seinev1.MtlsMode_MTLS_DISABLE:
		verdict(Plaintext, Forward, "plaintext passes: mutual TLS is disabled %s")
		verdict(OtherTLS, Forward, "TLS passes to the application: mutual TLS is disabled %s")
		verdict(MeshTLS, Forward, "TLS passes to the application: mutual TLS is disabled %s")
	default:
		verdict(Plaintext, Forward, "plaintext passes: the port is PERMISSIVE %s")
		verdict(OtherTLS, Forward, "TLS without the mesh's ALPN is the application's and passes: the port is PERMISSIVE %s")
		verdict(MeshTLS, Terminate, "mutual TLS is taken: the port is PERMISSIVE %s")
	}
	return c
}

// Source names a resource in a sentence: `MeshPolicy "default" (mesh.yaml:3)`.
func Source(r *seinev1.Ref) string {
	if r == nil {
		return "the default"
	}
	name := r.Name
	if r.Namespace != "" {
		name = r.Namespace + "/" + r.Name
	}
	s := fmt.Sprintf("%s %q", r.Kind, name)
	if r.File != "" {
		s += fmt.Sprintf(" (%s:%d)", r.File, r.Line)
	}
	return s
}
