package decide

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"google.golang.org/protobuf/types/known/durationpb"
)

func endpoint(t testing.TB, id string, weight uint32, identity string, labels ...string) *Endpoint {
	t.Helper()
	p := &seinev1.Endpoint{Id: id, Address: "10.0.0.1", Port: 80, Weight: weight, Labels: map[string]string{},
		Workload: &seinev1.Workload{Identity: identity}}
	for _, l := range labels {
		k, v, _ := strings.Cut(l, "=")
		p.Labels[k] = v
	}
	e, err := CompileEndpoint(p)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func cluster(t testing.TB, b seinev1.TrafficPolicy_Balancer, weights ...uint32) *Cluster {
	t.Helper()
	s, err := CompileService(&seinev1.Service{Host: "shop.default.svc.cluster.local", Port: 80, Policy: &seinev1.TrafficPolicy{Balancer: b}})
	if err != nil {
		t.Fatal(err)
	}
	var eps []*Endpoint
	for i, w := range weights {
		eps = append(eps, endpoint(t, fmt.Sprint(i), w, ""))
	}
	return s.Clusters(eps)[""]
}

func balance(c *Cluster, active ...int32) *Balance {
	b := c.NewBalance(nil, 0, 0, time.Time{})
	for i, n := range active {
		for range n {
			b.Begin(i)
		}
	}
	return b
}

func counts(b *Balance, n int) []int {
	r := rand.New(rand.NewPCG(3, 4))
	out := make([]int, len(b.c.Endpoints))
	for range n {
		out[b.Pick(&Ask{Draw: r.Uint64(), Hash: r.Uint64(), Hashed: true})]++
	}
	return out
}

func near(got []int, want ...int) bool {
	for i := range want {
		if d := got[i] - want[i]; d > 400 || d < -400 { // above 4σ for every case here
			return false
		}
	}
	return true
}

func TestPick(t *testing.T) {
	const rr, lr, random = seinev1.TrafficPolicy_ROUND_ROBIN, seinev1.TrafficPolicy_LEAST_REQUEST, seinev1.TrafficPolicy_RANDOM
	if got := balance(cluster(t, lr)).Pick(&Ask{Draw: 1}); got != -1 {
		t.Errorf("no endpoints: %d", got)
	}
	if got := balance(cluster(t, lr, 1), 1000).Pick(&Ask{Draw: 1}); got != 0 {
		t.Errorf("one endpoint: %d", got)
	}
	turn := func(b *Balance, n int) (got []int) {
		for range n {
			got = append(got, b.Pick(&Ask{Draw: 9}))
		}
		return got
	}
	if got := turn(balance(cluster(t, rr, 1, 1, 1)), 7); !slices.Equal(got, []int{0, 1, 2, 0, 1, 2, 0}) {
		t.Errorf("round robin: %v", got)
	}
	if got := turn(balance(cluster(t, rr, 5, 1, 1)), 7); !slices.Equal(got, []int{0, 0, 1, 0, 2, 0, 0}) {
		t.Errorf("weighted round robin: %v", got)
	}
	b := balance(cluster(t, rr, 1, 1))
	b.cursor = 1<<32 - 2
	for _, i := range turn(b, 4) {
		if i < 0 || i > 1 {
			t.Error("the cursor wraps", i)
		}
	}
	for name, tt := range map[string]struct {
		b    *Balance
		want []int
	}{
		"random":                             {balance(cluster(t, random, 1, 1, 1, 1)), []int{10000, 10000, 10000, 10000}},
		"weighted random":                    {balance(cluster(t, random, 1, 3)), []int{10000, 30000}},
		"round robin, too long a turn":       {balance(cluster(t, rr, 10001, 29999)), []int{10000, 30000}},
		"least request, idle":                {balance(cluster(t, lr, 1, 1, 1, 1)), []int{10000, 10000, 10000, 10000}},
		"least request, idle, weighted":      {balance(cluster(t, lr, 1, 3)), []int{10000, 30000}},
		"least request, one busy of two":     {balance(cluster(t, lr, 1, 1), 1, 0), []int{0, 40000}},
		"least request, one busy of four":    {balance(cluster(t, lr, 1, 1, 1, 1), 5), []int{0, 13333, 13333, 13333}},
		"least request, load for its weight": {balance(cluster(t, lr, 1, 3), 2, 3), []int{2500, 37500}},
		"by default, nothing known":          {balance(cluster(t, 0, 1, 1), 0, 3), []int{40000, 0}},
		"by default, idle, weighted":         {balance(cluster(t, 0, 1, 3)), []int{10000, 30000}},
	} {
		if got := counts(tt.b, 40000); !near(got, tt.want...) {
			t.Errorf("%s: %v, want about %v", name, got, tt.want)
		}
	}
}

func TestClusters(t *testing.T) {
	s, err := CompileService(&seinev1.Service{
		Host: "shop.default.svc.cluster.local", Port: 8080,
		Policy: &seinev1.TrafficPolicy{Balancer: seinev1.TrafficPolicy_RANDOM},
		Subsets: []*seinev1.Subset{
			{Name: "v1", Labels: map[string]string{"version": "v1"}, Policy: &seinev1.TrafficPolicy{ConnectTimeout: durationpb.New(time.Second)}},
			{Name: "v2", Labels: map[string]string{"version": "v2"}},
			{Name: "none", Labels: map[string]string{"version": ""}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	sick := endpoint(t, "d", 1, "", "version=v1")
	sick.Proto.Unhealthy = true
	cs := s.Clusters([]*Endpoint{endpoint(t, "a", 1, "", "version=v1"), endpoint(t, "b", 1, "", "version=v2", "x=y"), endpoint(t, "c", 1, ""), sick})
	ids := func(name string) string {
		var out []string
		for _, e := range cs[name].Endpoints {
			out = append(out, e.Proto.Id)
		}
		return strings.Join(out, "")
	}
	if ids("") != "abc" || ids("v1") != "a" || ids("v2") != "b" || ids("none") != "" || len(cs) != 4 {
		t.Errorf("%q %q %q %q", ids(""), ids("v1"), ids("v2"), ids("none"))
	}
	if cs["v1"].SNI != "outbound_.8080_.v1_.shop.default.svc.cluster.local" || cs[""].SNI != "outbound_.8080_._.shop.default.svc.cluster.local" {
		t.Error(cs["v1"].SNI, cs[""].SNI)
	}
	if cs["v1"].ConnectTimeout != time.Second || cs[""].ConnectTimeout != 10*time.Second {
		t.Error("connect timeout")
	}
	if cs["v2"].Policy.Balancer != seinev1.TrafficPolicy_RANDOM {
		t.Error("a subset without policy has the host's")
	}
	if cs[""].Endpoint("b") == nil || cs[""].Endpoint("d") == nil || cs[""].Endpoint("x") != nil || cs[""].Original() {
		t.Error("Endpoint, Original")
	}
	table := &Table{Clusters: map[string]map[string]*Cluster{s.Key: cs}}
	if table.Cluster(s.Key, "v1") != cs["v1"] || table.Cluster(s.Key, "v9") != nil || table.Cluster("x/1", "") != nil {
		t.Error("Table.Cluster")
	}
}

func TestTransport(t *testing.T) {
	with, without := endpoint(t, "a", 1, "spiffe://td/ns/a/sa/b"), endpoint(t, "b", 1, "")
	for _, tt := range []struct {
		tls  seinev1.TrafficPolicy_Tls
		e    *Endpoint
		want Transport
	}{
		{seinev1.TrafficPolicy_AUTO, with, Mutual}, {seinev1.TrafficPolicy_AUTO, without, Plain},
		{seinev1.TrafficPolicy_TLS_DISABLE, with, Plain}, {seinev1.TrafficPolicy_ISTIO_MUTUAL, with, Mutual},
		{seinev1.TrafficPolicy_ISTIO_MUTUAL, without, Mutual}, {seinev1.TrafficPolicy_SIMPLE, without, Simple},
		{seinev1.TrafficPolicy_MUTUAL, with, Custom},
	} {
		c := cluster(t, 0, 1)
		c.Policy.Tls = tt.tls
		if got := c.Transport(tt.e); got != tt.want {
			t.Errorf("%v to %q: %v", tt.tls, tt.e.Identity, got)
		}
	}
	c := cluster(t, 0, 1)
	c.Service.Proto.SubjectAltNames = []string{"x"}
	if id, alts := c.Expect(with); id != with.Identity || !slices.Equal(alts, []string{"x"}) {
		t.Error(id, alts)
	}
	c.Policy.SubjectAltNames = []string{"y"}
	if id, alts := c.Expect(with); id != "" || !slices.Equal(alts, []string{"y"}) {
		t.Error(id, alts)
	}
}

func TestOriginal(t *testing.T) {
	for _, tt := range []struct {
		resolution seinev1.Service_Resolution
		balancer   seinev1.TrafficPolicy_Balancer
		external   bool
		want       bool
	}{
		{seinev1.Service_ORIGINAL, 0, false, true}, {seinev1.Service_STATIC, seinev1.TrafficPolicy_PASSTHROUGH, true, true},
		{seinev1.Service_STATIC, seinev1.TrafficPolicy_PASSTHROUGH, false, false}, {seinev1.Service_DNS, 0, true, false},
	} {
		c := cluster(t, tt.balancer, 1)
		c.Service.Proto.Resolution, c.Service.Proto.External = tt.resolution, tt.external
		if c.Original() != tt.want {
			t.Errorf("%+v", tt)
		}
	}
}

func TestCompileServiceRefuses(t *testing.T) {
	for _, s := range []*seinev1.Service{{}, {Host: "a"}, {Host: "a", Port: 70000},
		{Host: "a", Port: 1, Policy: &seinev1.TrafficPolicy{ConnectTimeout: durationpb.New(-1)}}} {
		if _, err := CompileService(s); !errors.Is(err, ErrInvalid) {
			t.Errorf("%v: %v", s, err)
		}
	}
	for _, e := range []*seinev1.Endpoint{{}, {Id: "a", Address: "b"}, {Id: "a", Port: 1}} {
		if _, err := CompileEndpoint(e); !errors.Is(err, ErrInvalid) {
			t.Errorf("%v: %v", e, err)
		}
	}
	e, err := CompileEndpoint(&seinev1.Endpoint{Id: "a", Address: "db.example.com", Port: 5432})
	if err != nil || e.DNS != "db.example.com" || e.Addr.IsValid() || e.Port != 5432 || e.Weight != 1 {
		t.Error(e, err)
	}
}

func TestSelf(t *testing.T) {
	s, err := CompileSelf(&seinev1.Self{
		MeshPrefixes:      []string{"10.0.0.0/8", "fd00::/8"},
		DefaultMtls:       seinev1.MtlsMode_MTLS_STRICT,
		DefaultMtlsSource: &seinev1.Ref{Kind: "MeshPolicy", Name: "default", File: "mesh.yaml", Line: 3},
		Inbound: []*seinev1.InboundPort{
			{Port: 80, Mtls: seinev1.MtlsMode_MTLS_PERMISSIVE}, {Port: 81, Mtls: seinev1.MtlsMode_MTLS_DISABLE}, {Port: 82},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		port uint16
		want [3]Action
	}{
		{80, [3]Action{Forward, Forward, Terminate}},
		{81, [3]Action{Forward, Forward, Forward}},
		{82, [3]Action{Forward, Forward, Terminate}}, // nothing said is PERMISSIVE
		{99, [3]Action{Reject, Terminate, Terminate}},
	} {
		p := s.Inbound(tt.port)
		for a := Plaintext; a <= MeshTLS; a++ {
			if v := p.Admit(a); v.Action != tt.want[a] || v.Reason == "" {
				t.Errorf("port %d, arrival %d: %+v", tt.port, a, v)
			}
		}
		if p.Declared != (tt.port != 99) {
			t.Error(tt.port, p.Declared)
		}
	}
	if got := s.Inbound(99).Admit(Plaintext).Reason; got != `plaintext is refused: the port is STRICT by MeshPolicy "default" (mesh.yaml:3)` {
		t.Error(got)
	}
	for addr, want := range map[string]bool{"10.1.1.1": true, "::ffff:10.1.1.1": true, "fd00::1": true, "11.0.0.1": false} {
		if s.Local(netip.MustParseAddr(addr)) != want {
			t.Error(addr)
		}
	}
	for _, bad := range []*seinev1.Self{{MeshPrefixes: []string{"x"}}, {Inbound: []*seinev1.InboundPort{{}}},
		{Inbound: []*seinev1.InboundPort{{Port: 1}, {Port: 1}}}} {
		if _, err := CompileSelf(bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

func TestNext(t *testing.T) {
	s, err := CompileSelf(&seinev1.Self{MeshPrefixes: []string{"10.0.0.0/8"}})
	if err != nil {
		t.Fatal(err)
	}
	in, out, none := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("1.1.1.1"), netip.Addr{}
	for _, tt := range []struct {
		kind    seinev1.Answer_Kind
		direct  string
		dialled netip.Addr
		want    Next
	}{
		{seinev1.Answer_ROUTES, "", in, Route}, {seinev1.Answer_ROUTES, "x", in, Direct},
		{seinev1.Answer_PASSTHROUGH, "", out, Pass}, {seinev1.Answer_PASSTHROUGH, "", none, Pass}, {seinev1.Answer_PASSTHROUGH, "", in, AskAddress},
		{seinev1.Answer_UNKNOWN, "", out, Refuse}, {seinev1.Answer_UNKNOWN, "", none, Refuse}, {seinev1.Answer_UNKNOWN, "", in, AskAddress},
		{seinev1.Answer_BLACKHOLE, "", in, Refuse}, {seinev1.Answer_BLACKHOLE, "", out, Refuse},
	} {
		a := compile(t, &seinev1.Answer{Kind: tt.kind, DirectEndpoint: tt.direct})
		if got := s.Next(a, tt.dialled); got != tt.want {
			t.Errorf("%v to %v: %v, want %v", tt.kind, tt.dialled, got, tt.want)
		}
		if got := NextAddress(a); got == AskAddress || tt.dialled == out && got != tt.want {
			t.Errorf("%v by address: %v", tt.kind, got)
		}
	}
}
