package plan

import (
	"net/netip"
	"testing"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/decide"
	"github.com/seinemesh/seine/mesh"
)

// TestEveryAddress: a pod is called at the address that was dialled, and by a
// Service at that of the Service's family.
func TestEveryAddress(t *testing.T) {
	first, second := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd44::1")
	pod := &mesh.Workload{
		Ref: mesh.Ref{Kind: "Pod", Namespace: "shop", Name: "a"}, Instance: "a", App: "web", Labels: map[string]string{"app": "web"},
		Addresses: []netip.Addr{first, second}, ServiceAccount: "web", Sidecar: true,
	}
	port := []mesh.Port{{Name: "http", Number: 80, Target: 8080}}
	service := func(name, vip string, selector map[string]string) *mesh.Service {
		return &mesh.Service{
			Ref: mesh.Ref{Kind: "Service", Namespace: "shop", Name: name}, Host: name + ".shop.svc.cluster.local", Selector: selector,
			Addresses: []netip.Addr{netip.MustParseAddr(vip)}, Ports: port,
		}
	}
	both := []mesh.Backend{
		{Address: first, Workload: "shop/a", Ports: map[string]uint32{"http": 8080}, Ready: true},
		{Address: second, Workload: "shop/a", Ports: map[string]uint32{"http": 8080}, Ready: true},
	}
	s := mesh.New(1, mesh.Parts{
		Settings: mesh.DefaultSettings(), Workloads: []*mesh.Workload{pod},
		Services: []*mesh.Service{
			service("web", "10.96.0.1", pod.Labels), service("six", "fd96::1", pod.Labels),
			{Ref: mesh.Ref{Kind: "ServiceEntry", Namespace: "shop", Name: "written"}, Host: "written.example.com", Ports: port, Endpoints: []mesh.Endpoint{{Address: second.String()}}},
		},
		Backends: map[string][]mesh.Backend{"shop/web": both, "shop/six": both},
	})
	for key, want := range map[string]netip.Addr{
		"web.shop.svc.cluster.local/80": first,
		"six.shop.svc.cluster.local/80": second,
		"written.example.com/80":        second,
		"a.shop.pod.cluster.local/9999": first,
	} {
		list := Endpoints(s, pod, key)
		if len(list) != 1 {
			t.Errorf("%s has %d endpoints", key, len(list))
			continue
		}
		e, err := decide.CompileEndpoint(list[0])
		if err != nil {
			t.Errorf("%s: %v", key, err)
			continue
		}
		if e.Addr.Addr() != want || e.At(netip.MustParseAddr("10.96.0.1")) != e || e.At(netip.Addr{}) != e {
			t.Errorf("%s is at %s, want %s", key, e.Addr, want)
		}
		for _, a := range pod.Addresses {
			if at := e.At(a); at.Addr != netip.AddrPortFrom(a, e.Port) || at.Identity != e.Identity || at.Identity == "" {
				t.Errorf("%s, dialled at %s, is %s at %s", key, a, at.Identity, at.Addr)
			}
		}
	}
	for _, a := range pod.Addresses {
		got := Answer(s, pod, "addr/"+netip.AddrPortFrom(a, 8080).String())
		if got.DirectEndpoint != "a" || got.DirectService != "web.shop.svc.cluster.local/80" {
			t.Errorf("%s: %v", a, got)
		}
	}
	if _, err := decide.CompileEndpoint(&seinev1.Endpoint{Id: "a", Address: "10.0.0.1", Port: 80, OtherAddresses: []string{"web"}}); err == nil {
		t.Error("a name was taken for an address")
	}
}
