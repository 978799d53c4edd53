package plan

import (
	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/mesh"
)

// named answers for a server's name in a ClientHello to an address outside the
// mesh: the ServiceEntries that have no address of their own, by VirtualServices'
// TLS rules or by their own hosts. UNKNOWN leaves the address to decide.
func named(s *mesh.Snapshot, w *mesh.Workload, sni string, port uint32) *seinev1.Answer {
	var out *seinev1.Answer
	for _, svc := range s.NamedAt(port) {
		p := portOf(svc, port)
		if p == nil || !mesh.Visible(svc.ExportTo, svc.Namespace, w.Namespace) || unlisted(s, w, svc, port) != nil {
			continue
		}
		rules := writtenTLS(s, w, svc, p)
		if rules == nil {
			r := itself(svc, p)
			r.Match = []*seinev1.TcpMatch{{SniHosts: []string{svc.Host}}}
			rules = []*seinev1.TcpRule{r}
		}
		for _, r := range rules {
			if r = about(r, sni); r == nil {
				continue
			}
			if out == nil {
				out = &seinev1.Answer{Kind: seinev1.Answer_ROUTES, Protocol: seinev1.Protocol_PROTOCOL_TLS, Service: svc.Host, Source: r.Source}
			}
			out.Tcp = append(out.Tcp, r)
		}
	}
	if out == nil {
		return unknown("no service on port %d has the name %s", port, sni)
	}
	return out
}

// about is what of a TLS rule can hold for a name; nil if nothing.
func about(r *seinev1.TcpRule, sni string) *seinev1.TcpRule {
	out := &seinev1.TcpRule{Index: r.Index, Tls: r.Tls, Source: r.Source, Destinations: r.Destinations}
	for _, m := range r.Match {
		var hosts []string
		for _, h := range m.SniHosts {
			if mesh.HostMatches(h, sni) {
				hosts = append(hosts, h)
			}
		}
		if hosts != nil {
			out.Match = append(out.Match, &seinev1.TcpMatch{
				Port: m.Port, DestinationSubnets: m.DestinationSubnets, SourceLabels: m.SourceLabels,
				SourceNamespace: m.SourceNamespace, Gateways: m.Gateways, SniHosts: hosts,
			})
		}
	}
	if out.Match == nil {
		return nil
	}
	return out
}

// tlsRules are the rules for a connection to a service's own address on a TLS
// port, whose destination is known without a name. What no rule takes goes where
// it was dialled, which is the service; under REGISTRY_ONLY nowhere (Istio's
// default filter chain, PassthroughCluster or BlackHoleCluster).
func tlsRules(s *mesh.Snapshot, w *mesh.Workload, svc *mesh.Service, p *mesh.Port) []*seinev1.TcpRule {
	out := writtenTLS(s, w, svc, p)
	if only, _ := registryOnly(s, w); out == nil || !only {
		out = append(out, itself(svc, p))
	}
	return out
}

// writtenTLS are the TLS rules of every VirtualService that names the service,
// with the matches that can hold for w.
func writtenTLS(s *mesh.Snapshot, w *mesh.Workload, svc *mesh.Service, p *mesh.Port) []*seinev1.TcpRule {
	var out []*seinev1.TcpRule
	s.VirtualServicesOf(svc.Host, func(_ string, list []*mesh.VirtualService) bool {
		for _, vs := range list {
			if Unseen(vs, w) != "" {
				continue
			}
			for _, r := range vs.TLS {
				if keep := TCPMatches(r, w, p.Number); keep != nil {
					out = append(out, streamRule(s, w, r, keep, p.Number))
				}
			}
		}
		return true
	})
	return out
}
