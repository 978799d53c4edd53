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
