package plan

import (
	"net/netip"
	"strings"
	"testing"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/mesh"
)

// listed is a Service of shop with three pods that an EndpointSlice lists, and one
// that it does not.
func listed(edit func(list []mesh.Backend)) *mesh.Snapshot {
	parts := mesh.Parts{Settings: mesh.DefaultSettings(), Backends: map[string][]mesh.Backend{}}
	svc := &mesh.Service{
		Ref: mesh.Ref{Kind: "Service", Namespace: "shop", Name: "web"}, Host: "web.shop.svc.cluster.local", Selector: map[string]string{"app": "web"},
		Addresses: []netip.Addr{netip.MustParseAddr("10.96.0.1")}, Ports: []mesh.Port{{Name: "http", Number: 80, Target: 8080}},
	}
	parts.Services = []*mesh.Service{svc}
	var list []mesh.Backend
	for i, name := range []string{"a", "b", "c", "d"} {
		at := netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)})
		parts.Workloads = append(parts.Workloads, &mesh.Workload{
			Ref: mesh.Ref{Kind: "Pod", Namespace: "shop", Name: name}, Instance: name, App: "web", Labels: map[string]string{"app": "web"},
			Addresses: []netip.Addr{at}, ServiceAccount: "web", Sidecar: true, Locality: "eu/eu-" + name, Node: "node-" + name,
		})
		if name != "d" {
			list = append(list, mesh.Backend{Address: at, Workload: "shop/" + name, Ports: map[string]uint32{"http": 8080}, Ready: true})
		}
	}
	if edit != nil {
		edit(list)
	}
	parts.Backends["shop/web"] = list
	return mesh.New(1, parts)
}

func TestBackends(t *testing.T) {
	all := func(f func(b *mesh.Backend)) func([]mesh.Backend) {
		return func(list []mesh.Backend) {
			for i := range list {
				f(&list[i])
			}
		}
	}
	unheard := false // of the pods' nodes
	local := false   // internalTrafficPolicy
	for name, tc := range map[string]struct {
		edit func([]mesh.Backend)
		want string // the IDs that are picked by a caller that is pod a, then behind | the others
	}{
		"ready":                  {nil, "a b c | d"},
		"one is not ready":       {func(l []mesh.Backend) { l[0].Ready = false }, "b c | a d"},
		"one drains":             {func(l []mesh.Backend) { l[0].Ready, l[0].Draining = false, true }, "b c | a d"},
		"all drain":              {all(func(b *mesh.Backend) { b.Ready, b.Draining = false, true }), "a b c | d"},
		"none is ready":          {all(func(b *mesh.Backend) { b.Ready = false }), "| a b c d"},
		"no node is heard of":    {all(func(b *mesh.Backend) { b.Ready = false; unheard = true }), "a b c | d"},
		"one is heard of":        {func(l []mesh.Backend) { l[0].Ready, l[1].Ready, unheard = false, false, true }, "c | a b d"},
		"one drains, unheard of": {all(func(b *mesh.Backend) { b.Ready, b.Draining, unheard = false, b.Workload == "shop/b", true }), "b | a c d"},
		"an older pod's address": {func(l []mesh.Backend) { l[1].Address = netip.MustParseAddr("10.0.0.99") }, "a c | b d"},
		"a pod not known yet":    {func(l []mesh.Backend) { l[1].Workload = "shop/new" }, "a c | b d"},
		"known by its address":   {func(l []mesh.Backend) { l[1].Workload = "" }, "a b c | d"},
		"another port":           {func(l []mesh.Backend) { l[1].Ports = map[string]uint32{"admin": 1} }, "a c | b d"},
		"outside the mesh":       {func(l []mesh.Backend) { l[1].Workload, l[1].Address = "", netip.MustParseAddr("192.0.2.1") }, "192.0.2.1:8080 a c | b d"},
		"of the other family":    {func(l []mesh.Backend) { l[1].Workload, l[1].Address = "", netip.MustParseAddr("fd00::1") }, "a c | b d"},
		"for my zone": {func(l []mesh.Backend) {
			l[0].Zones, l[1].Zones, l[2].Zones = []string{"eu-b"}, []string{"eu-a"}, []string{"eu-a", "eu-b"}
		}, "b c | a d"},
		"one has no hint":  {func(l []mesh.Backend) { l[0].Zones, l[1].Zones = []string{"eu-b"}, []string{"eu-a"} }, "a b c | d"},
		"none for my zone": {all(func(b *mesh.Backend) { b.Zones = []string{"eu-x"} }), "a b c | d"},
		"for my node": {func(l []mesh.Backend) {
			l[0].Nodes, l[1].Nodes, l[2].Nodes = []string{"node-b"}, []string{"node-a"}, []string{"node-c"}
		}, "b | a c d"},
		"local":               {func(l []mesh.Backend) { l[0].Node, l[1].Node = "node-a", "node-b"; local = true }, "a | b c d"},
		"local, draining":     {func(l []mesh.Backend) { l[0].Node, l[0].Ready, l[0].Draining = "node-a", false, true; local = true }, "a | b c d"},
		"none local":          {func(l []mesh.Backend) { l[0].Node = "node-x"; local = true }, "| a b c d"},
		"local before a hint": {all(func(b *mesh.Backend) { b.Node, b.Nodes, local = "node-a", []string{"node-b"}, true }), "a b c | d"},
	} {
		unheard, local = false, false
		s := listed(tc.edit)
		s.Services[0].NodeLocal = local
		for _, w := range s.Workloads {
			w.Unheard = unheard && w.Instance != "d"
		}
		var picked, aside []string
		for _, e := range Endpoints(s, s.Workload("shop/a"), "web.shop.svc.cluster.local/80") {
			switch {
			case !e.Unhealthy:
				picked = append(picked, e.Id)
				if inMesh := !strings.Contains(e.Id, ":"); inMesh != (e.Workload.Identity != "") {
					t.Errorf("%s: %s has the identity %q", name, e.Id, e.Workload.Identity)
				}
			default:
				aside = append(aside, e.Id)
			}
		}
		if got := strings.TrimSpace(strings.Join(picked, " ") + " | " + strings.Join(aside, " ")); got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}

func TestExternalNames(t *testing.T) {
	external := func(name, to string, ports ...mesh.Port) *mesh.Service {
		return &mesh.Service{Ref: mesh.Ref{Kind: "Service", Namespace: "shop", Name: name}, Host: name + ".shop.svc.cluster.local", External: true,
			Resolution: seinev1.Service_DNS, Endpoints: []mesh.Endpoint{{Address: to}}, Ports: ports}
	}
	base := listed(nil).Parts
	base.Services = append(base.Services,
		external("alias", "web.shop.svc.cluster.local"), external("alias2", "alias.shop.svc.cluster.local"),
		external("db", "db.example.com"), external("api", "api.example.com", mesh.Port{Number: 80, Protocol: seinev1.Protocol_PROTOCOL_HTTP}),
		external("x", "y.shop.svc.cluster.local"), external("y", "x.shop.svc.cluster.local"))
	s := mesh.New(1, base)
	w := s.Workload("shop/a")
	for host, want := range map[string]string{
		"alias": "web.shop.svc.cluster.local", "alias2.shop": "web.shop.svc.cluster.local", "api": "api.shop.svc.cluster.local",
		"db": "PASSTHROUGH", "db.shop.svc.cluster.local": "PASSTHROUGH", "x": "PASSTHROUGH", "nobody.shop.svc.cluster.local": "UNKNOWN",
	} {
		a := Answer(s, w, "http/80/"+host)
		got := a.Service
		if a.Kind != seinev1.Answer_ROUTES {
			got = a.Kind.String()
		}
		if got != want {
			t.Errorf("%s: %s, want %s", host, got, want)
		}
	}
}
