// Package plan answers what one workload's proxy needs to know: itself, what a
// host or an address means to it, services, endpoints.
//
// A mesh.Snapshot and a caller enter, resources of the wire (api) leave. It is
// pure: the same input gives an equal output, nothing is kept, nothing of the
// Snapshot is written. The rules are Istio's for sidecars; where Seine knows
// better (workloads' own addresses are first-class, what is inside the mesh is
// never passed in plaintext), the function says so.
package plan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/mesh"
)

// Answer says what the lookup name "http/PORT/HOST", "addr/IP:PORT" or
// "tls/PORT/SNI" means to w. It is never nil: that nothing is known is an answer,
// too.
//
// An addr/ answer whose protocol is HTTP or DETECT asks the proxy to look at the
// first bytes; if they are HTTP, the answer to the Host decides, and this one
// only where that says so (decide.Self.Next).
func Answer(s *mesh.Snapshot, w *mesh.Workload, name string) *seinev1.Answer {
	a := answer(s, w, name)
	for _, r := range a.Http { // each made for this answer
		if r.Retry == nil && len(r.Destinations) > 0 {
			r.Retry = s.DefaultRetry
		}
	}
	return a
}

func answer(s *mesh.Snapshot, w *mesh.Workload, name string) *seinev1.Answer {
	n, err := seinev1.ParseAnswerName(name)
	switch {
	case err != nil:
		return unknown("%v", err)
	case n.Address.IsValid():
		return address(s, w, n.Address)
	case n.SNI:
		return named(s, w, n.Host, uint32(n.Port))
	}
	return hostAnswer(s, w, n.Host, uint32(n.Port))
}

func unknown(format string, args ...any) *seinev1.Answer {
	return &seinev1.Answer{Kind: seinev1.Answer_UNKNOWN, Reason: fmt.Sprintf(format, args...)}
}

// outside is the answer to what the mesh does not know.
func outside(s *mesh.Snapshot, w *mesh.Workload, what string) *seinev1.Answer {
	if only, by := registryOnly(s, w); only {
		a := &seinev1.Answer{
			Kind:   seinev1.Answer_BLACKHOLE,
			Reason: what + " is no service of the mesh, and outboundTrafficPolicy is REGISTRY_ONLY",
		}
		if by != nil {
			a.Source = by.Proto()
		}
		return a
	}
	return &seinev1.Answer{Kind: seinev1.Answer_PASSTHROUGH}
}

func hostAnswer(s *mesh.Snapshot, w *mesh.Workload, host string, port uint32) *seinev1.Answer {
	if ip, err := netip.ParseAddr(host); err == nil {
		return addressHost(s, w, netip.AddrPortFrom(ip.Unmap(), uint16(port)))
	}
	c := ChooseHost(s, w, host, port)
	if c.Service == nil && c.Routes == nil {
		if c.Outside {
			return &seinev1.Answer{Kind: seinev1.Answer_PASSTHROUGH}
		}
		if c.Why != "" {
			return unknown("%s", c.Why)
		}
		if c.Unlisted != nil {
			return barred(sidecarOf(s, w), c.Unlisted.Host)
		}
		return outside(s, w, host)
	}
	return c.answer(s, w, port)
}

// answer is that of a host for which something was chosen.
func (c *Choice) answer(s *mesh.Snapshot, w *mesh.Workload, port uint32) *seinev1.Answer {
	a := &seinev1.Answer{Kind: seinev1.Answer_ROUTES, Service: c.Host, Protocol: seinev1.Protocol_PROTOCOL_HTTP}
	if c.Service != nil {
		a.Service, a.Protocol, a.Source = c.Service.Host, c.Port.Protocol, c.Service.Proto()
	}
	if c.Attached && gatewayAnswer(a, s, w, c.Service, c.Port) {
		return a
	}
	switch {
	case c.Routes != nil:
		a.Source = c.Routes.Proto()
		for _, r := range c.Routes.HTTP {
			if keep := HTTPMatches(r, w, port); keep != nil {
				a.Http = append(a.Http, ruleFor(s, w, r, keep, port))
			}
		}
	case c.Member != nil:
		a.DirectService = seinev1.ServiceKey(c.Service.Host, c.Port.Number)
		a.DirectEndpoint = endpointID(c.Member)
		fallthrough
	default:
		a.Http = []*seinev1.HttpRule{defaultHTTP(c.Service, c.Port)}
	}
	return a
}

func defaultHTTP(svc *mesh.Service, p *mesh.Port) *seinev1.HttpRule {
	return &seinev1.HttpRule{
		Source:       svc.Proto(),
		Destinations: []*seinev1.Destination{{Host: svc.Host, Port: p.Number, Weight: 100}},
	}
}

// addressHost answers an HTTP request whose Host is an address: as the service
// or workload that has it, with the service's routes (Istio lists a service's
// addresses among its hosts).
func addressHost(s *mesh.Snapshot, w *mesh.Workload, a netip.AddrPort) *seinev1.Answer {
	if svc := serviceAt(s, w, a.Addr()); svc != nil {
		if p := portOf(svc, uint32(a.Port())); p != nil {
			if by := unlisted(s, w, svc, p.Number); by != nil {
				return barred(by, svc.Host)
			}
			c := Choice{Host: svc.Host, Service: svc, Port: p}
			c.chooseRoutes(s, w, uint32(a.Port()))
			return c.answer(s, w, uint32(a.Port()))
		}
	}
	return address(s, w, a)
}

// address answers what is dialled.
func address(s *mesh.Snapshot, w *mesh.Workload, a netip.AddrPort) *seinev1.Answer {
	port := uint32(a.Port())
	if svc := serviceAt(s, w, a.Addr()); svc != nil {
		if by := unlisted(s, w, svc, port); by != nil {
			return barred(by, svc.Host)
		}
		p := portOf(svc, port)
		if p == nil {
			return unknown("%s has the address %s but no port %d (%s)", svc.Host, a.Addr(), port, portList(svc))
		}
		return serviceAddress(s, w, svc, p)
	}
	if t := s.WorkloadAt(a.Addr()); t != nil {
		return direct(s, w, t, port)
	}
	protocol := seinev1.Protocol_PROTOCOL_TCP
	if port == 80 || s.HTTPPort(port) {
		// Istio listens for HTTP on every address of a port that some service
		// calls HTTP: there the Host decides. On all others bytes are passed.
		protocol = seinev1.Protocol_PROTOCOL_DETECT
	}
	var out *seinev1.Answer
	switch {
	case s.Local(a.Addr()):
		out = unknown("%s lies within the mesh's own prefixes, but no service and no workload that namespace %s sees has it", a.Addr(), w.Namespace)
	default:
		if svc, p := anyAddress(s, w, port); svc != nil {
			out = serviceAddress(s, w, svc, p)
			out.BySni = len(s.NamedAt(port)) > 0
			return out
		}
		out = outside(s, w, a.String())
		out.BySni = len(s.NamedAt(port)) > 0
	}
	out.Protocol = protocol
	return out
}

// serviceAt is the service that has an address, as w sees it. A workload's own
// address comes before a CIDR of a ServiceEntry that holds it.
func serviceAt(s *mesh.Snapshot, w *mesh.Workload, a netip.Addr) *mesh.Service {
	svc := s.ServiceAt(a)
	if svc == nil || !mesh.Visible(svc.ExportTo, svc.Namespace, w.Namespace) {
		return nil
	}
	if !slices.Contains(svc.Addresses, a) && s.WorkloadAt(a) != nil {
		return nil
	}
	return svc
}

// anyAddress is a ServiceEntry of opaque TCP without addresses: Istio takes
// every address on its port for it. One of TLS is known by its name (named).
func anyAddress(s *mesh.Snapshot, w *mesh.Workload, port uint32) (*mesh.Service, *mesh.Port) {
	for _, svc := range s.Services {
		if svc.Kind != "ServiceEntry" || len(svc.Addresses) > 0 || len(svc.CIDRs) > 0 {
			continue
		}
		if p := portOf(svc, port); p != nil && p.Protocol == seinev1.Protocol_PROTOCOL_TCP && mesh.Visible(svc.ExportTo, svc.Namespace, w.Namespace) && unlisted(s, w, svc, port) == nil {
			return svc, p
		}
	}
	return nil, nil
}

func opaque(p seinev1.Protocol) bool {
	return p == seinev1.Protocol_PROTOCOL_TCP || p == seinev1.Protocol_PROTOCOL_TLS
}

// serviceAddress answers for a service's own address: its protocol, its TCP
// routes, and the service itself for HTTP without a Host that the mesh knows.
func serviceAddress(s *mesh.Snapshot, w *mesh.Workload, svc *mesh.Service, p *mesh.Port) *seinev1.Answer {
	a := &seinev1.Answer{Kind: seinev1.Answer_ROUTES, Service: svc.Host, Protocol: p.Protocol, Source: svc.Proto()}
	if !opaque(p.Protocol) && !gatewayAnswer(a, s, w, svc, p) {
		a.Http = []*seinev1.HttpRule{defaultHTTP(svc, p)}
	}
	switch p.Protocol {
	case seinev1.Protocol_PROTOCOL_TLS:
		a.Tcp = tlsRules(s, w, svc, p)
	case seinev1.Protocol_PROTOCOL_TCP, seinev1.Protocol_PROTOCOL_DETECT:
		a.Tcp = tcpRules(s, w, svc, p)
	}
	if len(a.Tcp) > 0 && !a.ByAddress {
		a.Source = a.Tcp[0].Source
	}
	return a
}

// direct answers for a workload's own address: that instance alone, with its
// identity. Its port is known by the first service that targets it.
func direct(s *mesh.Snapshot, w, t *mesh.Workload, port uint32) *seinev1.Answer {
	a := &seinev1.Answer{Kind: seinev1.Answer_ROUTES, Source: t.Proto(), DirectEndpoint: endpointID(t)}
	dest := &seinev1.Destination{Host: instanceHost(s, t), Port: port, Weight: 100}
	var bar *mesh.Sidecar
	for _, svc := range s.ServicesOf(t) {
		if p := portTargeting(svc, t, port); p != nil && mesh.Visible(svc.ExportTo, svc.Namespace, w.Namespace) {
			if by := unlisted(s, w, svc, p.Number); by != nil {
				bar = by
				continue
			}
			bar = nil
			a.Protocol, dest.Host, dest.Port = p.Protocol, svc.Host, p.Number
			break
		}
	}
	if bar != nil {
		return barred(bar, "every service of "+t.Key())
	}
	a.Service, a.DirectService = dest.Host, seinev1.ServiceKey(dest.Host, dest.Port)
	if !opaque(a.Protocol) {
		a.Http = []*seinev1.HttpRule{{Source: a.Source, Destinations: []*seinev1.Destination{dest}}}
	}
	if opaque(a.Protocol) || a.Protocol == seinev1.Protocol_PROTOCOL_DETECT {
		a.Tcp = []*seinev1.TcpRule{{Source: a.Source, Destinations: []*seinev1.Destination{dest}}}
	}
	return a
}

func portOf(svc *mesh.Service, number uint32) *mesh.Port {
	for i := range svc.Ports {
		if svc.Ports[i].Number == number {
			return &svc.Ports[i]
		}
	}
	return nil
}

func portTargeting(svc *mesh.Service, t *mesh.Workload, port uint32) *mesh.Port {
	for i := range svc.Ports {
		if n, ok := svc.Ports[i].TargetOn(t); ok && n == port {
			return &svc.Ports[i]
		}
	}
	return nil
}

// portList is a service's ports for a sentence: "it has 80 http, 443 https".
func portList(svc *mesh.Service) string {
	if len(svc.Ports) == 0 {
		return "it has none"
	}
	ports := slices.Clone(svc.Ports)
	slices.SortFunc(ports, func(a, b mesh.Port) int { return cmp.Compare(a.Number, b.Number) })
	var names []string
	for _, p := range ports {
		names = append(names, strings.TrimSpace(fmt.Sprintf("%d %s", p.Number, p.Name)))
	}
	return "it has " + strings.Join(names, ", ")
}

// instanceHost stands for a workload that no service selects on a port, where
// the wire wants a host: INSTANCE.NAMESPACE.pod.CLUSTER-DOMAIN.
func instanceHost(s *mesh.Snapshot, t *mesh.Workload) string {
	return strings.ToLower(t.Instance + "." + t.Namespace + ".pod." + s.Settings.ClusterDomain)
}

// instanceAt is the workload that instanceHost names, or nil.
func instanceAt(s *mesh.Snapshot, host string) *mesh.Workload {
	rest, ok := strings.CutSuffix(host, ".pod."+s.Settings.ClusterDomain)
	if !ok {
		return nil
	}
	i := strings.LastIndexByte(rest, '.')
	if i < 0 {
		return nil
	}
	return s.Workload(rest[i+1:] + "/" + rest[:i])
}
