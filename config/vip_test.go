package config

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
)

func names(n int) []string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprintf("service-%d.ns-%d.svc.cluster.local", i, i%7))
	}
	return out
}

func TestAllocateIsStable(t *testing.T) {
	prefix := netip.MustParsePrefix("10.96.0.0/20") // small, so that names collide
	all := names(1500)
	before := Allocate(prefix, all[:1000], nil)
	after := Allocate(prefix, all, nil)
	seen := map[netip.Addr]string{}
	for n, a := range after {
		if other, twice := seen[a]; twice {
			t.Fatalf("%s and %s both have %s", n, other, a)
		}
		seen[a] = n
		if !prefix.Contains(a) || a == prefix.Addr() || a == netip.MustParseAddr("10.96.15.255") {
			t.Errorf("%s has %s", n, a)
		}
	}
	if len(after) != len(all) {
		t.Fatalf("%d of %d names have an address", len(after), len(all))
	}
	for n, a := range before {
		if after[n] == a {
			continue
		}
		// It moved: an earlier name must hold what it had.
		if by := seen[a]; by >= n {
			t.Errorf("%s moved from %s to %s, for %s", n, a, after[n], by)
		}
	}
	shuffled := append([]string(nil), all...)
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	for n, a := range Allocate(prefix, shuffled, nil) {
		if after[n] != a {
			t.Fatalf("%s has %s or %s, by the order of names", n, after[n], a)
		}
	}
}

// TestAllocatedInACluster: there a ServiceEntry without address has one of each
// family for those who ask the mesh for its name, and is known by its name, port or
// SNI as before to everybody else.
func TestAllocatedInACluster(t *testing.T) {
	text := `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: named, namespace: shop}
spec: {hosts: [api.example.com], ports: [{number: 443, name: tls, protocol: TLS}], resolution: DNS}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: addressed, namespace: shop}
spec: {hosts: [own.example.com], addresses: [192.0.2.9], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DNS}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: any, namespace: shop}
spec: {hosts: ["*.example.org"], ports: [{number: 80, name: http, protocol: HTTP}], resolution: NONE}
---
apiVersion: v1
kind: Service
metadata: {name: later, namespace: shop}
spec: {selector: {app: later}, ports: [{port: 80}]}
`
	s := Build([]File{{Name: "mesh.yaml", Data: []byte(text)}}, Options{Cluster: true}).Snapshot
	for host, want := range map[string]int{"api.example.com": 2, "own.example.com": 0, "later.shop.svc.cluster.local": 0} {
		svc := s.Service(host, "shop")
		if svc == nil || len(svc.Allocated) != want {
			t.Fatalf("%s: %+v, want %d addresses", host, svc, want)
		}
		for i, a := range svc.Allocated {
			if !Allocated()[i].Contains(a) || s.ServiceAt(a) != svc || !s.Local(a) {
				t.Errorf("%s: %s leads to %v", host, a, s.ServiceAt(a))
			}
		}
	}
	if named := s.NamedAt(443); len(named) != 1 || named[0].Host != "api.example.com" {
		t.Errorf("known by its SNI: %v", named)
	}
	if got, known := Lookup(s, "shop", "api.example.com"); !known || len(got) != 2 {
		t.Errorf("%v %v", got, known)
	}
}

func TestAllocateAvoidsWhatIsTaken(t *testing.T) {
	first := Allocate(DefaultVIPs, []string{"a"}, nil)["a"]
	second := Allocate(DefaultVIPs, []string{"a"}, map[netip.Addr]bool{first: true})["a"]
	if !second.IsValid() || second == first {
		t.Errorf("%s is taken, got %s", first, second)
	}
	if got := Allocate(netip.MustParsePrefix("10.0.0.0/30"), []string{"a"}, nil); len(got) != 0 {
		t.Errorf("a prefix without room gave %v", got)
	}
	if a := Allocate(netip.MustParsePrefix("fd00::/64"), []string{"a"}, nil)["a"]; !netip.MustParsePrefix("fd00::/64").Contains(a) {
		t.Errorf("IPv6: %s", a)
	}
	full := Allocate(netip.MustParsePrefix("10.0.0.0/26"), names(100), nil)
	if len(full) > 47 || len(full) < 40 {
		t.Errorf("%d of 47 addresses given out", len(full))
	}
}

func FuzzAllocate(f *testing.F) {
	f.Add("a", uint8(12))
	f.Fuzz(func(t *testing.T, name string, bits uint8) {
		p := netip.PrefixFrom(netip.MustParseAddr("10.96.0.0"), int(bits%33))
		for _, a := range Allocate(p, []string{name, name + "x"}, nil) {
			if !p.Contains(a) {
				t.Errorf("%s is not in %s", a, p)
			}
		}
	})
}
