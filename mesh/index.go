package mesh

import (
	"cmp"
	"slices"
	"strings"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

// hostIndex finds resources by the hosts that they name, in the order of Parts.
type hostIndex[T any] struct {
	exact     map[string][]T
	wildcards []wildcard[T] // longest first
}

type wildcard[T any] struct {
	host  string // "*.example.com"
	items []T
}

func (x *hostIndex[T]) add(host string, item T) {
	if x.exact == nil {
		x.exact = map[string][]T{}
	}
	if !strings.HasPrefix(host, "*") {
		x.exact[host] = append(x.exact[host], item)
		return
	}
	for i := range x.wildcards {
		if x.wildcards[i].host == host {
			x.wildcards[i].items = append(x.wildcards[i].items, item)
			return
		}
	}
	x.wildcards = append(x.wildcards, wildcard[T]{host, []T{item}})
}

func (x *hostIndex[T]) sort() {
	slices.SortStableFunc(x.wildcards, func(a, b wildcard[T]) int { return cmp.Compare(len(b.host), len(a.host)) })
}

// each calls f with every host that matches, the exact one first, then the
// wildcards from the longest, until f returns false.
func (x *hostIndex[T]) each(host string, f func(pattern string, items []T) bool) {
	if items := x.exact[host]; len(items) > 0 && !f(host, items) {
		return
	}
	for _, w := range x.wildcards {
		if HostMatches(w.host, host) && !f(w.host, w.items) {
			return
		}
	}
}

// HostMatches reports whether pattern, which may be a wildcard ("*.example.com",
// "*"), covers host, which may itself be a narrower wildcard.
func HostMatches(pattern, host string) bool {
	if suffix, ok := strings.CutPrefix(pattern, "*"); ok {
		return strings.HasSuffix(host, suffix) && (len(host) > len(suffix) || host == suffix)
	}
	return pattern == host
}

func (s *Snapshot) indexRules() {
	for _, vs := range s.VirtualServices {
		for _, h := range vs.Hosts {
			s.virtual.add(h, vs)
		}
	}
	s.virtual.sort()
	for _, dr := range s.DestinationRules {
		s.destination.add(dr.Host, dr)
	}
	s.destination.sort()
	s.attached = map[string][]*GatewayRoute{}
	for _, r := range s.GatewayRoutes {
		for _, p := range r.Parents {
			if list := s.attached[p.Host]; len(list) == 0 || list[len(list)-1] != r {
				s.attached[p.Host] = append(list, r)
			}
		}
	}
	s.httpPorts, s.named = map[uint32]bool{}, map[uint32][]*Service{}
	for _, svc := range s.Services {
		for _, p := range svc.Ports {
			switch p.Protocol {
			case seinev1.Protocol_PROTOCOL_TLS:
				if svc.Kind == "ServiceEntry" && len(svc.Addresses)+len(svc.CIDRs) == 0 {
					s.named[p.Number] = append(s.named[p.Number], svc)
				}
			case seinev1.Protocol_PROTOCOL_HTTP, seinev1.Protocol_PROTOCOL_HTTP2, seinev1.Protocol_PROTOCOL_GRPC:
				s.httpPorts[p.Number] = true
			}
		}
	}
}

// VirtualServicesOf calls f with the VirtualServices that name host, the exact
// ones first, then those of each wildcard from the longest, until f returns
// false. pattern is how they name it.
func (s *Snapshot) VirtualServicesOf(host string, f func(pattern string, list []*VirtualService) bool) {
	s.virtual.each(host, f)
}

// DestinationRulesOf does the same for DestinationRules.
func (s *Snapshot) DestinationRulesOf(host string, f func(pattern string, list []*DestinationRule) bool) {
	s.destination.each(host, f)
}

// GatewayRoutesOf are the Gateway API routes that are attached to the Service of
// that host, on any port.
func (s *Snapshot) GatewayRoutesOf(host string) []*GatewayRoute { return s.attached[host] }

// HTTPPort reports whether any service says that it speaks HTTP on that port.
func (s *Snapshot) HTTPPort(port uint32) bool { return s.httpPorts[port] }

// NamedAt are the ServiceEntries that speak TLS on that port and have no address:
// only the SNI tells them apart.
func (s *Snapshot) NamedAt(port uint32) []*Service { return s.named[port] }
