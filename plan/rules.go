package plan

import (
	"slices"
	"strings"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/mesh"
)

func labelList(labels map[string]string) string {
	var out []string
	for k, v := range labels {
		out = append(out, k+"="+v)
	}
	slices.Sort(out)
	return strings.Join(out, ",")
}

// ruleFor is a rule with the matches that w needs and every destination's port.
// It shares what it does not change.
func ruleFor(s *mesh.Snapshot, w *mesh.Workload, r *seinev1.HttpRule, keep []int, port uint32) *seinev1.HttpRule {
	out := &seinev1.HttpRule{
		Name: r.Name, Index: r.Index, Match: r.Match, Source: r.Source, Redirect: r.Redirect,
		DirectResponse: r.DirectResponse, Rewrite: r.Rewrite, RequestHeaders: r.RequestHeaders,
		ResponseHeaders: r.ResponseHeaders, Timeout: r.Timeout, Unsupported: r.Unsupported, Retry: r.Retry,
		Destinations: destinations(s, w, r.Destinations, port),
		Fault:        r.Fault, Cors: r.Cors, Delegate: r.Delegate, DelegateIndex: r.DelegateIndex,
	}
	for _, m := range r.Mirrors {
		d := destinations(s, w, []*seinev1.Destination{m.Destination}, port)
		out.Mirrors = append(out.Mirrors, &seinev1.Mirror{Destination: d[0], PerMillion: m.PerMillion})
	}
	if len(keep) < len(r.Match) {
		out.Match = nil
		for _, i := range keep {
			out.Match = append(out.Match, r.Match[i])
		}
	}
	return out
}

// destinations gives each its port: the one it names, that of a service that
// has only one, otherwise the one that was dialled.
func destinations(s *mesh.Snapshot, w *mesh.Workload, list []*seinev1.Destination, dialled uint32) []*seinev1.Destination {
	out := slices.Clone(list)
	for i, d := range list {
		if d.Port != 0 {
			continue
		}
		port := dialled
		if svc := s.Service(d.Host, w.Namespace); svc != nil && svc.Host == d.Host && len(svc.Ports) == 1 {
			port = svc.Ports[0].Number
		}
		out[i] = &seinev1.Destination{
			Host: d.Host, Port: port, Subset: d.Subset, Weight: d.Weight,
			RequestHeaders: d.RequestHeaders, ResponseHeaders: d.ResponseHeaders,
		}
	}
	return out
}

// tcpRules are the TCP rules of every VirtualService that names the service, up
// to one that takes everything, and the service itself for what none takes.
func tcpRules(s *mesh.Snapshot, w *mesh.Workload, svc *mesh.Service, p *mesh.Port) []*seinev1.TcpRule {
	var out []*seinev1.TcpRule
	all := false
	s.VirtualServicesOf(svc.Host, func(_ string, list []*mesh.VirtualService) bool {
		for _, vs := range list {
			if Unseen(vs, w) != "" {
				continue
			}
			for _, r := range vs.TCP {
				keep := TCPMatches(r, w, p.Number)
				if keep == nil {
					continue
				}
				for _, i := range keep {
					all = all || len(r.Match[i].DestinationSubnets) == 0
				}
				out = append(out, streamRule(s, w, r, keep, p.Number))
				if all = all || len(r.Match) == 0; all {
					return false
				}
			}
		}
		return true
	})
	if !all {
		out = append(out, itself(svc, p))
	}
	return out
}

// itself is the rule of a service that nothing routes.
func itself(svc *mesh.Service, p *mesh.Port) *seinev1.TcpRule {
	return &seinev1.TcpRule{
		Source:       svc.Proto(),
		Destinations: []*seinev1.Destination{{Host: svc.Host, Port: p.Number, Weight: 100}},
	}
}

// streamRule is ruleFor for a TCP or TLS rule.
func streamRule(s *mesh.Snapshot, w *mesh.Workload, r *seinev1.TcpRule, keep []int, port uint32) *seinev1.TcpRule {
	out := &seinev1.TcpRule{Index: r.Index, Tls: r.Tls, Source: r.Source, Destinations: destinations(s, w, r.Destinations, port)}
	for _, i := range keep {
		out.Match = append(out.Match, r.Match[i])
	}
	return out
}

// TCPMatches is HTTPMatches for a TCP or TLS rule.
func TCPMatches(r *seinev1.TcpRule, w *mesh.Workload, port uint32) []int {
	keep := []int{}
	for i, m := range r.Match {
		if NotForTCP(m, w, port) == "" {
			keep = append(keep, i)
		}
	}
	if len(keep) == 0 && len(r.Match) > 0 {
		return nil
	}
	return keep
}

// NotForTCP is NotFor for a TCP match.
func NotForTCP(m *seinev1.TcpMatch, w *mesh.Workload, port uint32) string {
	h := &seinev1.HttpMatch{Port: m.Port, Gateways: m.Gateways}
	if why := NotFor(h, w, port); why != "" {
		return why
	}
	return notFrom(w, nil, m.SourceLabels, m.SourceNamespace) // with gateways or without, unlike HTTP
}
