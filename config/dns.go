package config

import (
	"net/netip"
	"strings"

	"github.com/seinemesh/seine/mesh"
)

// expand is what a resolver's search path makes of a name: the candidates in the
// order in which they are tried.
func expand(name, namespace, domain string) []string {
	name = strings.ToLower(name)
	if full, ok := strings.CutSuffix(name, "."); ok {
		return []string{full}
	}
	return []string{name + "." + namespace + ".svc." + domain, name + ".svc." + domain, name + "." + domain, name}
}

// Lookup answers a DNS question for an address of name, asked by a workload of
// namespace from: a service's virtual addresses, a headless service's instances,
// one instance of a service (INSTANCE.SERVICE…), a ServiceEntry's host. name may
// be short ("billing", "billing.default", "billing.default.svc") or full, with or
// without the last dot. known is false for names that are not the mesh's: ask
// elsewhere. A known name may have no address.
func Lookup(s *mesh.Snapshot, from, name string) (addrs []netip.Addr, known bool) {
	domain := s.Settings.ClusterDomain
	for _, full := range expand(name, from, domain) {
		if svc := s.Service(full, from); svc != nil {
			if svc.Host != full { // a wildcard has no address of its own: the real one is DNS's
				return nil, false
			}
			return addresses(s, svc)
		}
		if !strings.HasSuffix(full, ".svc."+domain) {
			continue
		}
		instance, rest, _ := strings.Cut(full, ".")
		svc := s.Service(rest, from)
		if svc == nil || svc.Host != rest {
			continue
		}
		for _, w := range s.Members(svc) {
			if w.Instance == instance {
				return w.Addresses, true
			}
		}
	}
	full := strings.TrimSuffix(strings.ToLower(name), ".")
	return nil, full == domain || strings.HasSuffix(full, ".svc."+domain)
}

func addresses(s *mesh.Snapshot, svc *mesh.Service) ([]netip.Addr, bool) {
	if len(svc.Addresses) > 0 {
		return svc.Addresses, true
	}
	if len(svc.Allocated) > 0 {
		return svc.Allocated, true
	}
	if !svc.Headless {
		// a ServiceEntry without address of its own: the real one is DNS's
		return nil, svc.Kind == "Service"
	}
	var out []netip.Addr
	for _, w := range s.Members(svc) {
		if !w.Unhealthy {
			out = append(out, w.Addresses...)
		}
	}
	return out, true
}
