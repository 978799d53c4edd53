package config

import (
	"net/netip"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/mesh"
)

func (c *routeConverter) tcp(r *networking.TCPRoute, i int, path string) *seinev1.TcpRule {
	rule := &seinev1.TcpRule{Index: int32(i), Source: c.ref(path), Destinations: c.streams(r.Route, path)}
	for j, m := range r.Match {
		at := item(path+".match", j)
		c.subnets(m.DestinationSubnets, at)
		c.port(m.Port, at+".port")
		if m.SourceSubnet != "" {
			c.b.note(c.o, codeUnsupported, Info, at+".sourceSubnet", "has no effect, as in Istio")
		}
		rule.Match = append(rule.Match, &seinev1.TcpMatch{
			Port: m.Port, DestinationSubnets: m.DestinationSubnets, SourceLabels: m.SourceLabels,
			SourceNamespace: m.SourceNamespace, Gateways: c.gateways(m.Gateways, at+".gateways"),
		})
	}
	return rule
}

// tls is a rule for connections in which the application itself began TLS.
func (c *routeConverter) tls(r *networking.TLSRoute, i int, path string, spec *networking.VirtualService) *seinev1.TcpRule {
	rule := &seinev1.TcpRule{Index: int32(i), Tls: true, Source: c.ref(path), Destinations: c.streams(r.Route, path)}
	if len(r.Match) == 0 {
		c.d.fail(codeInvalid, path+".match", nil, "a TLS rule must have a match with sniHosts: write \"*\" for every name")
	}
	for j, m := range r.Match {
		at := item(path+".match", j)
		c.subnets(m.DestinationSubnets, at)
		c.port(m.Port, at+".port")
		out := &seinev1.TcpMatch{
			Port: m.Port, DestinationSubnets: m.DestinationSubnets, SourceLabels: m.SourceLabels,
			SourceNamespace: m.SourceNamespace, Gateways: c.gateways(m.Gateways, at+".gateways"),
		}
		if len(m.SniHosts) == 0 {
			c.d.fail(codeInvalid, at+".sniHosts", nil, "a match must name at least one server: \"*\" is every name")
		}
		for k, h := range m.SniHosts {
			if _, err := netip.ParseAddr(h); err == nil || !validHost(h, true) {
				c.d.fail(codeInvalid, item(at+".sniHosts", k), nil, "%q is no server's name: write a DNS name, or a wildcard such as *.example.com", clip(h))
				continue
			}
			h = strings.ToLower(strings.TrimSuffix(h, "."))
			if !c.named(h, spec.Hosts) {
				c.b.note(c.o, codeRouteNoHost, Info, item(at+".sniHosts", k), "is not one of spec.hosts, nor covered by one: it is taken, but Istio refuses the resource")
			}
			out.SniHosts = append(out.SniHosts, h)
		}
		rule.Match = append(rule.Match, out)
	}
	return rule
}

// named reports whether one of a VirtualService's hosts covers a server's name,
// as it is written or in full.
func (c *routeConverter) named(name string, hosts []string) bool {
	for _, h := range hosts {
		for _, pattern := range []string{strings.ToLower(h), c.b.fqdn(h, c.o.ref.Namespace)} {
			if mesh.HostMatches(pattern, name) {
				return true
			}
		}
	}
	return false
}

func (c *routeConverter) subnets(list []string, path string) {
	for k, s := range list {
		if _, err := netip.ParsePrefix(s); err != nil {
			if _, err := netip.ParseAddr(s); err != nil {
				c.d.fail(codeInvalid, item(path+".destinationSubnets", k), nil, "%q is neither an IP address nor a CIDR such as 10.0.0.0/8", clip(s))
			}
		}
	}
}

// streams are the destinations of a TCP or TLS rule.
func (c *routeConverter) streams(list []*networking.RouteDestination, path string) []*seinev1.Destination {
	if len(list) == 0 {
		c.d.fail(codeInvalid, path+".route", nil, "a rule must have a route")
	}
	c.weights(len(list), func(j int) int32 { return list[j].Weight }, path)
	var out []*seinev1.Destination
	for j, w := range list {
		d := c.destination(w.Destination, item(path+".route", j)+".destination")
		d.Weight = uint32(w.Weight)
		if len(list) == 1 && w.Weight == 0 {
			d.Weight = 100
		}
		out = append(out, d)
	}
	return out
}

// streams reports TCP and TLS rules that no port of the hosts' services could
// ever use: as in Istio, TLS rules are for TLS ports (tls-…, https-…) and TCP
// rules for all others that are not HTTP.
func (a *analysis) streams(vs *mesh.VirtualService) {
	if len(vs.TCP)+len(vs.TLS) == 0 || !slices.Contains(vs.Gateways, "mesh") {
		return
	}
	var tcp, tls, known bool
	for _, h := range vs.Hosts {
		for _, s := range a.hosts(h, vs.Namespace) {
			known = true
			for _, p := range s.Ports {
				tls = tls || p.Protocol == seinev1.Protocol_PROTOCOL_TLS
				tcp = tcp || p.Protocol == seinev1.Protocol_PROTOCOL_TCP || p.Protocol == seinev1.Protocol_PROTOCOL_DETECT
			}
		}
	}
	if !known {
		return
	}
	if len(vs.TLS) > 0 && !tls {
		a.note(vs.Ref, codeUnreachable, Warning, "spec.tls", "no port of %s is one of TLS: these rules hold for none; name the port tls-… or https-…, or set its appProtocol", strings.Join(vs.Hosts, ", "))
	}
	if len(vs.TCP) > 0 && !tcp {
		a.note(vs.Ref, codeUnreachable, Warning, "spec.tcp", "no port of %s is one of opaque TCP: these rules hold for none; rules for TLS ports stand in spec.tls", strings.Join(vs.Hosts, ", "))
	}
}

// hosts are the services that a VirtualService's host means.
func (a *analysis) hosts(host, namespace string) []*mesh.Service {
	if !strings.HasPrefix(host, "*") {
		if s := a.s.Service(host, namespace); s != nil {
			return []*mesh.Service{s}
		}
		return nil
	}
	var out []*mesh.Service
	for _, s := range a.b.parts.Services {
		if mesh.HostMatches(host, s.Host) {
			out = append(out, s)
		}
	}
	return out
}
