package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/mesh"
)

// TestDNSNames: a workload whose sidecar answers DNS is told the names that it sees
// and that have an address of its families; nobody else is told any.
func TestDNSNames(t *testing.T) {
	four, six := netip.MustParseAddr("240.240.7.7"), netip.MustParseAddr("2001:2::7")
	service := func(kind, namespace, host string, set func(*mesh.Service)) *mesh.Service {
		s := &mesh.Service{Ref: mesh.Ref{Kind: kind, Namespace: namespace, Name: strings.ReplaceAll(host, "*", "any")}, Host: host}
		set(s)
		return s
	}
	own := func(s *mesh.Service) {
		s.Addresses = []netip.Addr{netip.MustParseAddr("10.96.0.9"), netip.MustParseAddr("fd96::9")}
	}
	allocated := func(s *mesh.Service) { s.Allocated = []netip.Addr{four, six} }
	services := []*mesh.Service{
		service("Service", "shop", "cart.shop.svc.cluster.local", own),
		service("Service", "shop", "db.shop.svc.cluster.local", func(s *mesh.Service) { s.Headless = true }),
		service("ServiceEntry", "shop", "api.example.com", allocated),
		service("ServiceEntry", "bank", "hidden.example.com", func(s *mesh.Service) { allocated(s); s.ExportTo = []string{"."} }),
		service("ServiceEntry", "shop", "*.example.com", allocated),
		service("ServiceEntry", "bank", "api.example.com", own), // the caller's own namespace wins
	}
	for _, tt := range []struct {
		name string
		dns  bool
		at   []string
		want string
	}{
		{"both families", true, []string{"10.244.0.1", "fd44::1"}, "api.example.com=240.240.7.7,2001:2::7 cart.shop.svc.cluster.local=10.96.0.9,fd96::9"},
		{"IPv4", true, []string{"10.244.0.1"}, "api.example.com=240.240.7.7 cart.shop.svc.cluster.local=10.96.0.9"},
		{"IPv6", true, []string{"fd44::1"}, "api.example.com=2001:2::7 cart.shop.svc.cluster.local=fd96::9"},
		{"no address yet", true, nil, "api.example.com=240.240.7.7,2001:2::7 cart.shop.svc.cluster.local=10.96.0.9,fd96::9"},
		{"not asked for", false, []string{"10.244.0.1"}, ""},
	} {
		w := &mesh.Workload{Ref: mesh.Ref{Namespace: "shop", Name: "a"}, Instance: "a", DNS: tt.dns}
		for _, a := range tt.at {
			w.Addresses = append(w.Addresses, netip.MustParseAddr(a))
		}
		s := mesh.New(1, mesh.Parts{Settings: mesh.DefaultSettings(), Services: services, Workloads: []*mesh.Workload{w}})
		if got := shown(Self(s, w).DnsNames); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}

	// Where there are too many, ServiceEntries have their place.
	w := &mesh.Workload{Ref: mesh.Ref{Namespace: "shop", Name: "a"}, Instance: "a", DNS: true}
	var many []*mesh.Service
	for i := range 10_000 {
		many = append(many, service("Service", "shop", fmt.Sprintf("%s-%d.shop.svc.cluster.local", strings.Repeat("x", 200), i), own))
	}
	s := mesh.New(1, mesh.Parts{Settings: mesh.DefaultSettings(), Services: append(many, services...), Workloads: []*mesh.Workload{w}})
	names := Self(s, w).DnsNames
	if len(names) < 1000 || len(names) == len(many)+2 || !slices.ContainsFunc(names, func(n *seinev1.DnsName) bool { return n.Name == "api.example.com" }) {
		t.Errorf("%d names", len(names))
	}
}

func shown(names []*seinev1.DnsName) string {
	var all []string
	for _, n := range names {
		var addresses []string
		for _, raw := range n.Addresses {
			a, _ := netip.AddrFromSlice(raw)
			addresses = append(addresses, a.String())
		}
		all = append(all, n.Name+"="+strings.Join(addresses, ","))
	}
	return strings.Join(all, " ")
}
