package decide

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/message"
)

// policed is a cluster of endpoints at the addresses with those weights (1 if
// there is none).
func policed(t testing.TB, p *seinev1.TrafficPolicy, at []string, weights ...uint32) *Cluster {
	t.Helper()
	s, err := CompileService(&seinev1.Service{Host: "shop", Port: 80, Policy: p})
	if err != nil {
		t.Fatal(err)
	}
	var eps []*Endpoint
	for i, a := range at {
		ap := netip.MustParseAddrPort(a)
		e := &seinev1.Endpoint{Id: fmt.Sprintf("%05d", i), Address: ap.Addr().String(), Port: uint32(ap.Port()), Weight: 1}
		if i < len(weights) {
			e.Weight = weights[i]
		}
		c, err := CompileEndpoint(e)
		if err != nil {
			t.Fatal(err)
		}
		eps = append(eps, c)
	}
	return s.Clusters(eps)[""]
}

func addresses(n int) (out []string) {
	for i := range n {
		out = append(out, fmt.Sprintf("10.0.%d.%d:8080", i/250, i%250+1))
	}
	return out
}

func hashing(ring uint64, table uint32) *seinev1.TrafficPolicy {
	return &seinev1.TrafficPolicy{Hash: &seinev1.ConsistentHash{Key: &seinev1.ConsistentHash_Header{Header: "x-user"}, RingSize: ring, TableSize: table}}
}

var ports = []string{"127.0.0.1:90", "127.0.0.1:91", "127.0.0.1:92", "127.0.0.1:93", "127.0.0.1:94", "127.0.0.1:95"}

// TestRingIsEnvoys holds the ring of Envoy's own test (ring_hash_lb_test.cc,
// RingHashLoadBalancerTest.Basic).
func TestRingIsEnvoys(t *testing.T) {
	r := policed(t, hashing(12, 0), ports).groups[0].table.(*ring)
	want := []struct {
		hash uint64
		host int32
	}{
		{833437586790550860, 4}, {928266305478181108, 2}, {1033482794131418490, 0}, {3551244743356806947, 5},
		{3851675632748031481, 3}, {5583722120771150861, 1}, {6311230543546372928, 1}, {7700377290971790572, 3},
		{13144177310400110813, 5}, {13444792449719432967, 2}, {15516499411664133160, 4}, {16117243373044804889, 0},
	}
	if len(r.hashes) != len(want) {
		t.Fatal(r)
	}
	for i, w := range want {
		if r.hashes[i] != w.hash || r.hosts[i] != w.host {
			t.Errorf("%d: %d at %d, want %d at %d", i, r.hosts[i], r.hashes[i], w.host, w.hash)
		}
	}
}

// TestMaglevIsEnvoys holds the table of maglev_lb_test.cc,
// MaglevLoadBalancerTest.Basic.
func TestMaglevIsEnvoys(t *testing.T) {
	m := policed(t, hashing(0, 7), ports).groups[0].table.(*maglev)
	if want := []int32{2, 4, 0, 1, 5, 0, 3}; !slices.Equal(m.table, want) {
		t.Error(m.table, want)
	}
}

func owners(c *Cluster, keys int, change func(b *Balance)) []string {
	b := balance(c)
	if change != nil {
		change(b)
	}
	out := make([]string, keys)
	for k := range out {
		i := b.Pick(&Ask{Hash: HashBytes(fmt.Appendf(nil, "user-%d", k)), Hashed: true})
		out[k] = c.Endpoints[i].Addr.String()
	}
	return out
}

func moved(a, b []string) (n int) {
	for i := range a {
		if a[i] != b[i] {
			n++
		}
	}
	return n
}

func TestHashSpreadAndDisruption(t *testing.T) {
	const n, keys = 10, 40_000
	for name, p := range map[string]*seinev1.TrafficPolicy{"ring": hashing(16384, 0), "maglev": hashing(0, DefaultMaglev)} {
		before := owners(policed(t, p, addresses(n)), keys, nil)
		share := map[string]int{}
		for _, o := range before {
			share[o]++
		}
		for o, got := range share {
			if got < keys/n*8/10 || got > keys/n*12/10 {
				t.Errorf("%s: %s has %d of %d keys", name, o, got, keys)
			}
		}
		if again := owners(policed(t, p, addresses(n)), keys, nil); moved(before, again) != 0 {
			t.Errorf("%s: not deterministic", name)
		}
		after := owners(policed(t, p, addresses(n+1)), keys, nil)
		// Envoy's ring divides about the same number of points among more
		// endpoints, so that some keys move between the old ones.
		most := map[string]int{"ring": 20, "maglev": 14}[name]
		if m := moved(before, after); m < keys/(n+1)*7/10 || m > keys/(n+1)*most/10 {
			t.Errorf("%s: one endpoint more moves %d of %d keys", name, m, keys)
		}
		// One that is out loses its keys, to all the others; nobody else's move.
		c := policed(t, p, addresses(n))
		out := owners(c, keys, func(b *Balance) { b.SetOut(3, true, 0) })
		gone, heirs := c.Endpoints[3].Addr.String(), map[string]int{}
		for k := range out {
			switch {
			case out[k] == gone:
				t.Fatalf("%s: an endpoint that is out was picked", name)
			case before[k] == gone:
				heirs[out[k]]++
			case before[k] != out[k]:
				t.Fatalf("%s: %s moved from %s to %s", name, fmt.Sprint("user-", k), before[k], out[k])
			}
		}
		if len(heirs) != n-1 {
			t.Errorf("%s: heirs %v", name, heirs)
		}
		if back := owners(c, keys, func(b *Balance) { b.SetOut(3, true, 0); b.SetOut(3, false, 0) }); moved(before, back) != 0 {
			t.Errorf("%s: keys do not come back", name)
		}
		// weights
		c = policed(t, p, addresses(4), 1, 2, 3, 4)
		share = map[string]int{}
		for _, o := range owners(c, keys, nil) {
			share[o]++
		}
		for i, e := range c.Endpoints {
			want := keys * (i + 1) / 10
			if got := share[e.Addr.String()]; got < want*8/10 || got > want*12/10 {
				t.Errorf("%s: weight %d has %d keys, want about %d", name, i+1, got, want)
			}
		}
		// Whoever cannot use the first asks for another.
		b, tried := balance(c), map[int]bool{}
		for attempt := range uint32(40) {
			tried[b.Pick(&Ask{Hash: 7, Hashed: true, Attempt: attempt})] = true
		}
		if len(tried) < 2 {
			t.Errorf("%s: attempts never leave %v", name, tried)
		}
		// Without anything to hash picks are drawn.
		r, drawn := rand.New(rand.NewPCG(1, 2)), map[int]bool{}
		for range 100 {
			drawn[b.Pick(&Ask{Draw: r.Uint64()})] = true
		}
		if len(drawn) != 4 {
			t.Errorf("%s: drawn %v", name, drawn)
		}
	}
}

func TestRingIsBounded(t *testing.T) {
	if raceEnabled {
		t.Skip("sorts a million points")
	}
	r := policed(t, hashing(1<<40, 0), addresses(3)).groups[0].table.(*ring)
	if n := len(r.hashes); n > MaxRing+3 || n < MaxRing {
		t.Error(n)
	}
	// the lightest still has a whole point
	r = policed(t, hashing(0, 0), addresses(2), 1, 5000).groups[0].table.(*ring)
	if !slices.Contains(r.hosts, 0) || len(r.hosts) != 5001 {
		t.Error(len(r.hosts))
	}
}

func TestHashKey(t *testing.T) {
	key := func(h *seinev1.ConsistentHash) *HashKey { return newHashKey(h) }
	header := key(&seinev1.ConsistentHash{Key: &seinev1.ConsistentHash_Header{Header: "X-User"}})
	cookie := key(&seinev1.ConsistentHash{Key: &seinev1.ConsistentHash_Cookie_{Cookie: &seinev1.ConsistentHash_Cookie{
		Name: "user", Path: "/shop", Ttl: durationpb.New(90 * time.Second), Attributes: []*seinev1.Header{{Name: "Secure"}, {Name: "SameSite", Value: "Lax"}}}}})
	session := key(&seinev1.ConsistentHash{Key: &seinev1.ConsistentHash_Cookie_{Cookie: &seinev1.ConsistentHash_Cookie{Name: "s", Ttl: durationpb.New(0)}}})
	quiet := key(&seinev1.ConsistentHash{Key: &seinev1.ConsistentHash_Cookie_{Cookie: &seinev1.ConsistentHash_Cookie{Name: "s"}}})
	query := key(&seinev1.ConsistentHash{Key: &seinev1.ConsistentHash_Query{Query: "id"}})
	source := key(&seinev1.ConsistentHash{Key: &seinev1.ConsistentHash_SourceIp{SourceIp: true}})
	at := netip.MustParseAddr("::ffff:10.0.0.9")
	for i, tt := range []struct {
		k    *HashKey
		req  *message.Request
		want string // "-": nothing to hash
	}{
		{header, request("GET", "shop", "/", "x-user: jason"), "jason"},
		{header, request("GET", "shop", "/", "a: b"), "-"},
		{key(&seinev1.ConsistentHash{Key: &seinev1.ConsistentHash_Header{Header: ":authority"}}), request("GET", "shop", "/"), "shop"},
		{cookie, request("GET", "shop", "/", "cookie: a=1;  user=\"jason\"; b=2"), "jason"},
		{cookie, request("GET", "shop", "/", "cookie: xuser=1", "cookie: user=j"), "j"},
		{cookie, request("GET", "shop", "/", "cookie: user="), "-"},
		{cookie, request("GET", "shop", "/"), "-"},
		{query, request("GET", "shop", "/a?x=1&id=42&id=43"), "42"},
		{query, request("GET", "shop", "/a?idx=1"), "-"},
		{query, request("GET", "shop", "/a?id"), ""},
		{query, request("GET", "shop", "/id=1"), "-"},
		{source, request("GET", "shop", "/"), "10.0.0.9"},
	} {
		got, ok := tt.k.Request(tt.req, at)
		if want := HashBytes([]byte(tt.want)); ok != (tt.want != "-") || ok && got != want {
			t.Errorf("%d: %d, %v", i, got, ok)
		}
	}
	a, _ := header.Request(request("GET", "shop", "/", "x-user: a", "x-user: b"), at)
	b, _ := header.Request(request("GET", "shop", "/", "x-user: b", "x-user: a"), at)
	if a != b || a == HashBytes([]byte("a")) {
		t.Error("several values hash in any order alike")
	}
	if got := string(cookie.AppendSetCookie(nil, []byte("f00"))); got != `user="f00"; Max-Age=90; Path=/shop; Secure; SameSite=Lax; HttpOnly` {
		t.Error(got)
	}
	if got := string(session.AppendSetCookie(nil, []byte("f00"))); got != `s="f00"; HttpOnly` {
		t.Error(got)
	}
	if !cookie.MakesCookie() || !session.MakesCookie() || quiet.MakesCookie() || header.MakesCookie() {
		t.Error("MakesCookie")
	}
	v := AppendCookie(nil, netip.MustParseAddrPort("10.0.0.1:1"), netip.MustParseAddrPort("10.0.0.2:2"))
	if len(v) != 16 || strings.Trim(string(v), "0123456789abcdef") != "" || string(AppendCookie(nil, netip.MustParseAddrPort("10.0.0.1:2"), netip.MustParseAddrPort("10.0.0.2:2"))) == string(v) {
		t.Errorf("%s", v)
	}
	if _, ok := header.Connection(at); ok {
		t.Error("a connection has no header")
	}
	if h, ok := source.Connection(at); !ok || h != HashBytes([]byte("10.0.0.9")) {
		t.Error("a connection has a source")
	}
}

func TestHashAllocatesNothing(t *testing.T) {
	req := request("GET", "shop", "/a?id=42", "x-user: jason", "x-user: b", "cookie: a=b; user=jason")
	at := netip.MustParseAddr("10.0.0.9")
	buf := make([]byte, 0, 256)
	for _, p := range []*seinev1.TrafficPolicy{hashing(0, 0), hashing(0, 251)} {
		b := balance(policed(t, p, addresses(5)))
		b.SetOut(2, true, 0)
		var keys []*HashKey
		for _, h := range []*seinev1.ConsistentHash{
			{Key: &seinev1.ConsistentHash_Header{Header: "x-user"}}, {Key: &seinev1.ConsistentHash_SourceIp{SourceIp: true}}, {Key: &seinev1.ConsistentHash_Query{Query: "id"}},
			{Key: &seinev1.ConsistentHash_Cookie_{Cookie: &seinev1.ConsistentHash_Cookie{Name: "user"}}},
		} {
			keys = append(keys, newHashKey(h))
		}
		n := testing.AllocsPerRun(100, func() {
			q := Ask{Hashed: true}
			for _, k := range keys {
				q.Hash, _ = k.Request(req, at)
				b.Pick(&q)
			}
			buf = AppendCookie(buf[:0], netip.AddrPortFrom(at, 1), netip.AddrPortFrom(at, 2))
			buf = keys[3].AppendSetCookie(buf, buf)
		})
		if n != 0 && !raceEnabled {
			t.Error(n, "allocations")
		}
	}
}

func TestRefusesHash(t *testing.T) {
	for _, p := range []*seinev1.TrafficPolicy{
		{Hash: &seinev1.ConsistentHash{}}, hashing(0, 8), hashing(0, 5000021),
		{Hash: &seinev1.ConsistentHash{Key: &seinev1.ConsistentHash_Cookie_{Cookie: &seinev1.ConsistentHash_Cookie{}}}},
		{Warmup: &seinev1.Warmup{Duration: durationpb.New(-time.Second)}},
	} {
		if _, err := CompileService(&seinev1.Service{Host: "a", Port: 1, Policy: p}); !errors.Is(err, ErrInvalid) {
			t.Errorf("%v: %v", p, err)
		}
	}
	if !Prime(2) || !Prime(65537) || Prime(1) || Prime(0) || Prime(65536) || Prime(math.MaxUint32) || !Prime(4294967291) {
		t.Error("Prime")
	}
}

func BenchmarkPick(b *testing.B) {
	for name, p := range map[string]*seinev1.TrafficPolicy{
		"default": {}, "round-robin": {Balancer: seinev1.TrafficPolicy_ROUND_ROBIN}, "least-request": {Balancer: seinev1.TrafficPolicy_LEAST_REQUEST},
		"ring": hashing(0, 0), "maglev": hashing(0, DefaultMaglev),
	} {
		b.Run(name, func(b *testing.B) {
			x := balance(policed(b, p, addresses(100)))
			r := rand.New(rand.NewPCG(1, 2))
			for i := range 100 {
				x.Took(i, int64(1+i)*1e6, 1, false)
				x.Took(i, int64(1+i)*1e6, 2, false)
			}
			b.ReportAllocs()
			now := int64(0)
			for b.Loop() {
				now += 1000
				q := Ask{Draw: r.Uint64(), Hash: r.Uint64(), Hashed: true, Now: now}
				x.Pick(&q)
			}
		})
	}
}
