package decide

import (
	"fmt"
	"net/netip"
	"testing"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/message"
)

// thousand are 1,000 rules of every kind.
func thousand() *seinev1.Answer {
	a := &seinev1.Answer{}
	for i := range 1000 {
		m := &seinev1.HttpMatch{}
		switch i % 4 {
		case 0:
			m.Uri = exact(fmt.Sprintf("/exact/%d", i))
		case 1:
			m.Uri = prefix(fmt.Sprintf("/prefix/%d/", i))
		case 2:
			m.Uri = regex(fmt.Sprintf("/regex/%d/[a-z]+(/.*)?", i))
		case 3:
			m.Uri = regex(fmt.Sprintf(".*/suffix-%d", i))
			m.Headers = []*seinev1.HeaderMatch{{Name: "x-user", Value: regex(".*a.*")}}
		}
		a.Http = append(a.Http, &seinev1.HttpRule{Index: int32(i), Match: []*seinev1.HttpMatch{m}, Destinations: to("a", "b")})
	}
	a.Http = append(a.Http, &seinev1.HttpRule{Index: 1000, Destinations: to("z")})
	return a
}

func TestNoAllocations(t *testing.T) {
	big := compile(t, thousand())
	small := compile(t, &seinev1.Answer{Http: []*seinev1.HttpRule{
		{Match: []*seinev1.HttpMatch{{Uri: regex("/a/.*/c"), Headers: []*seinev1.HeaderMatch{{Name: "x-user", Value: regex("a.*")}},
			Query: []*seinev1.QueryMatch{{Name: "v", Value: regex("[0-9]+")}}}},
			Rewrite: &seinev1.Rewrite{Uri: "/new", Authority: "other"}, Destinations: to("a", "b"), RequestHeaders: ops("-a =b=1 +c=2")},
		{Redirect: &seinev1.Redirect{Scheme: "https", Uri: "/a-path-that-is-longer-than-thirty-two-bytes"}},
	}, Tcp: []*seinev1.TcpRule{{Match: []*seinev1.TcpMatch{{DestinationSubnets: []string{"10.0.0.0/8"}}}, Destinations: to("a")}}})
	req := request("GET", "shop.default.svc.cluster.local:8080", "/a/b/c?v=1", "Accept: */*", "X-User: abc", "A: 1")
	deep := request("GET", "shop", "/regex/998/abc/def", "x-user: abc")
	last := request("GET", "shop", "/no/such/suffix-1", "x-user: abc")
	buf := make([]byte, 0, 512)
	lr, rr, peak := cluster(t, seinev1.TrafficPolicy_LEAST_REQUEST, 1, 2, 3), cluster(t, seinev1.TrafficPolicy_ROUND_ROBIN, 1, 2, 3), cluster(t, 0, 1, 1, 1)
	busy, turn, fast := balance(lr, 1, 2, 3), balance(rr), balance(peak, 1, 2, 3)
	self, err := CompileSelf(&seinev1.Self{MeshPrefixes: []string{"10.0.0.0/8"}, Inbound: []*seinev1.InboundPort{{Port: 80}}})
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddrPort("10.0.0.1:80")
	match := func(a *Answer, req *message.Request, want int32) {
		if r, _ := a.Match(req, 80); r == nil || r.Proto.Index != want {
			t.Fatalf("%s: %v", req.Path, r)
		}
	}
	for name, f := range map[string]func(){
		"match":      func() { match(small, req, 0) },
		"match deep": func() { match(big, deep, 998) },
		"match last": func() { match(big, last, 1000) },
		"rule": func() {
			r, m := small.Match(req, 80)
			d := r.Pick(1 << 63)
			buf = r.AppendPath(buf[:0], m, req.Path)
			buf = r.AppendAuthority(buf, d, req.Authority)
			for i := range req.Fields {
				_ = d.Request.Drops(req.Fields[i].Name)
			}
			_ = d.Request.Added()
		},
		"redirect": func() { buf = small.Rules[1].AppendLocation(buf[:0], -1, req, "http", 80) },
		"balancers": func() {
			q := Ask{Draw: 1 << 40, Now: 1e9}
			busy.Pick(&q)
			turn.Pick(&q)
			i := fast.Pick(&q)
			fast.Begin(i)
			fast.Took(i, 5e6, 2e9, false)
			fast.Failed(i, 5e6, 2e9)
			fast.Done(i)
		},
		"transport": func() { lr.Transport(lr.Endpoints[0]); lr.Expect(lr.Endpoints[0]) },
		"tcp":       func() { small.MatchTCP(addr, "").Pick(3) },
		"names":     func() { buf = AppendAddressName(AppendHTTPName(buf[:0], 80, req.Authority), addr) },
		"self":      func() { self.Inbound(80).Admit(Plaintext); self.Local(addr.Addr()); self.Next(small, addr.Addr()) },
	} {
		if n := testing.AllocsPerRun(200, f); n != 0 && !raceEnabled {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// TestManyRulesRunFewRegexes holds that a request does not run the regular
// expressions of rules whose literal text it lacks.
func TestManyRulesRunFewRegexes(t *testing.T) {
	a := compile(t, thousand())
	req := request("GET", "shop", "/regex/998/abc", "x-user: abc")
	var q question
	q.init(req, 80)
	run := 0
	visit := func(ids []int32) {
		for _, id := range ids {
			if m := a.index.entries[id].m; m != nil && m.uri.kind == regexValue && m.uri.lits.in(q.path) {
				run++
			}
		}
	}
	rest := q.path
	for n := &a.index.root; n != nil; {
		visit(n.entries)
		if len(rest) == 0 {
			break
		}
		c := n.child(rest[0])
		if c == nil || len(rest) < len(c.label) || string(rest[:len(c.label)]) != c.label {
			break
		}
		n, rest = c, rest[len(c.label):]
	}
	if run != 1 {
		t.Errorf("%d regular expressions would run", run)
	}
}

func BenchmarkMatch(b *testing.B) {
	big := compile(b, thousand())
	one := compile(b, &seinev1.Answer{Http: []*seinev1.HttpRule{{Destinations: to("a")}}})
	canary := compile(b, &seinev1.Answer{Http: []*seinev1.HttpRule{
		{Match: []*seinev1.HttpMatch{{Headers: []*seinev1.HeaderMatch{{Name: "x-user", Value: exact("z")}}}}, Destinations: to("a")},
		{Destinations: to("b")},
	}})
	for name, tt := range map[string]struct {
		a   *Answer
		req *message.Request
	}{
		"default":      {one, request("GET", "shop", "/")},
		"canary":       {canary, request("GET", "shop", "/", "accept: */*", "user-agent: x", "x-user: a")},
		"1000-exact":   {big, request("GET", "shop", "/exact/996")},
		"1000-prefix":  {big, request("GET", "shop", "/prefix/997/x")},
		"1000-regex":   {big, request("GET", "shop", "/regex/998/abc")},
		"1000-nothing": {big, request("GET", "shop", "/none")},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				tt.a.Match(tt.req, 80)
			}
		})
	}
}
