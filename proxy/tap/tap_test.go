package tap

import (
	"errors"
	"log/slog"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/telemetry"
	"github.com/seinemesh/seine/telemetry/ring"
)

func event() *Event {
	return &Event{
		Start: time.Unix(1, 2), Duration: 12 * time.Millisecond, Upstream: 11 * time.Millisecond,
		Source:         &seinev1.Workload{Namespace: "shop", Workload: "frontend", Name: "frontend-1", Version: "v1"},
		Destination:    &seinev1.Workload{Namespace: "shop", Workload: "billing-v2", Name: "billing-v2-1", Version: "v2"},
		SourceIdentity: "spiffe://cluster.local/ns/shop/sa/frontend", DestinationIdentity: "spiffe://cluster.local/ns/shop/sa/billing",
		SourceAddress: netip.MustParseAddrPort("10.0.0.1:4444"), DestinationAddress: netip.MustParseAddrPort("[fd00::2]:8080"),
		Service: "billing.shop.svc.cluster.local", ServiceName: "billing", ServiceNamespace: "shop",
		Method: []byte("GET"), Authority: []byte("billing:8080"), Path: []byte("/pay/7?card=4111"), RequestID: []byte("id"), TraceID: []byte(strings.Repeat("a", 32)),
		Protocol: "HTTP/2", GRPC: true, Code: 503, GRPCStatus: 14, Flag: telemetry.FlagUF, Details: "d", Cause: "connection refused", Rule: "shop/r[0]",
		Attempts: 2, RequestBytes: 3, ResponseBytes: 4, Security: "mutual_tls",
	}
}

func one1(spec *seinev1.TapSpec) *seinev1.TapSpec {
	spec.Id, spec.MaxRps = 1, max(spec.MaxRps, 10)
	return spec
}

func TestFilter(t *testing.T) {
	inbound := func(e *Event) { e.Inbound = true }
	lost := func(e *Event) { e.Destination, e.Service, e.ServiceName, e.ServiceNamespace = nil, "", "", "" }
	for name, tc := range map[string]struct {
		spec *seinev1.TapSpec
		edit func(*Event)
		want bool
	}{
		"everything":        {&seinev1.TapSpec{}, nil, true},
		"outbound":          {&seinev1.TapSpec{Direction: seinev1.TapSpec_OUTBOUND}, nil, true},
		"not inbound":       {&seinev1.TapSpec{Direction: seinev1.TapSpec_INBOUND}, nil, false},
		"inbound":           {&seinev1.TapSpec{Direction: seinev1.TapSpec_INBOUND}, inbound, true},
		"not outbound":      {&seinev1.TapSpec{Direction: seinev1.TapSpec_OUTBOUND}, inbound, false},
		"method":            {&seinev1.TapSpec{Methods: []string{"POST", "GET"}}, nil, true},
		"other method":      {&seinev1.TapSpec{Methods: []string{"POST"}}, nil, false},
		"path":              {&seinev1.TapSpec{Path: "/pay*"}, nil, true},
		"whole path":        {&seinev1.TapSpec{Path: "/pay/7"}, nil, true},
		"path, not query":   {&seinev1.TapSpec{Path: "*4111"}, nil, false},
		"authority":         {&seinev1.TapSpec{Authority: "BILLING*"}, nil, true},
		"other authority":   {&seinev1.TapSpec{Authority: "billing"}, nil, false},
		"status":            {&seinev1.TapSpec{Statuses: []*seinev1.TapStatus{{Least: 200, Most: 200}, {Least: 500, Most: 599}}}, nil, true},
		"other status":      {&seinev1.TapSpec{Statuses: []*seinev1.TapStatus{{Least: 500, Most: 502}}}, nil, false},
		"slow":              {&seinev1.TapSpec{MinLatency: durationpb.New(12 * time.Millisecond)}, nil, true},
		"not so slow":       {&seinev1.TapSpec{MinLatency: durationpb.New(13 * time.Millisecond)}, nil, false},
		"to service":        {&seinev1.TapSpec{To: &seinev1.TapParty{Service: "billing"}}, nil, true},
		"to FQDN":           {&seinev1.TapSpec{To: &seinev1.TapParty{Service: "billing.shop.svc.cluster.local", Namespace: "shop"}}, nil, true},
		"to other service":  {&seinev1.TapSpec{To: &seinev1.TapParty{Service: "bill"}}, nil, false},
		"service elsewhere": {&seinev1.TapSpec{To: &seinev1.TapParty{Service: "billing", Namespace: "other"}}, nil, false},
		"to workload":       {&seinev1.TapSpec{To: &seinev1.TapParty{Workload: "billing-v2", Namespace: "shop"}}, nil, true},
		"to other workload": {&seinev1.TapSpec{To: &seinev1.TapParty{Workload: "billing-v1"}}, nil, false},
		"to nobody":         {&seinev1.TapSpec{To: &seinev1.TapParty{Workload: "billing-v2"}}, lost, false},
		"to no service":     {&seinev1.TapSpec{To: &seinev1.TapParty{Service: "billing", Namespace: "shop"}}, lost, false},
		"from namespace":    {&seinev1.TapSpec{From: &seinev1.TapParty{Namespace: "shop"}}, nil, true},
		"from elsewhere":    {&seinev1.TapSpec{From: &seinev1.TapParty{Namespace: "default"}}, nil, false},
		"from instance":     {&seinev1.TapSpec{From: &seinev1.TapParty{Instance: "frontend-1"}}, nil, true},
	} {
		f, err := compile(one1(tc.spec))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		e := event()
		if tc.edit != nil {
			tc.edit(e)
		}
		if got := f.matches(e); got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestBounds(t *testing.T) {
	for name, p := range map[string]*seinev1.TapSpec{
		"no rate":      {},
		"rate":         {MaxRps: maxRate + 1},
		"pattern":      {MaxRps: 1, Path: strings.Repeat("*", maxPattern+1)},
		"header names": {MaxRps: 1, Headers: make([]*seinev1.TapHeader, maxNames+1)},
		"no name":      {MaxRps: 1, Headers: []*seinev1.TapHeader{{Name: "x y"}}},
		"upper case":   {MaxRps: 1, Headers: []*seinev1.TapHeader{{Name: "Authorization", Value: true}}},
		"methods":      {MaxRps: 1, Methods: make([]string, maxAny+1)},
	} {
		if _, err := compile(p); !errors.Is(err, ErrSpec) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzGlob(f *testing.F) {
	for _, s := range [][2]string{{"/a*", "/abc"}, {"*", ""}, {"a*b*c", "aXbYc"}, {"**a", "ba"}, {"", "x"}, {"*aab", "aaab"}} {
		f.Add(s[0], []byte(s[1]))
	}
	f.Fuzz(func(t *testing.T, pattern string, s []byte) {
		if len(pattern) > 40 || len(s) > 200 {
			t.Skip()
		}
		var expr strings.Builder
		for i, part := range strings.Split(pattern, "*") {
			if i > 0 {
				expr.WriteString(".*")
			}
			for _, c := range []byte(part) {
				expr.WriteString(regexp.QuoteMeta(latin([]byte{c})))
			}
		}
		want := regexp.MustCompile(`(?s)\A` + expr.String() + `\z`).MatchString(latin(s))
		if got := glob(pattern, s, false); got != want {
			t.Fatalf("glob(%q, %q) = %v", pattern, s, got)
		}
	})
}

// latin has a rune for each byte, as regexp reads runes.
func latin(b []byte) string {
	r := make([]rune, len(b))
	for i, c := range b {
		r[i] = rune(c)
	}
	return string(r)
}

// set makes a Set of specs, and its ring.
func set(t testing.TB, specs ...*seinev1.TapSpec) (*Set, *ring.Queue) {
	t.Helper()
	q := ring.New(ring.Options{})
	s, err := New("shop/frontend-1", 1, slog.New(slog.DiscardHandler)).newSet(&seinev1.TapSet{Taps: specs}, []*ring.Ring{q.Ring()}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s, q
}

func records(t testing.TB, q *ring.Queue) (out []*seinev1.TapRecord) {
	t.Helper()
	q.Each(func(b []byte) {
		r := &seinev1.TapRecord{}
		if err := (proto.UnmarshalOptions{DiscardUnknown: false}).Unmarshal(b, r); err != nil {
			t.Fatal(err)
		}
		if len(r.ProtoReflect().GetUnknown()) > 0 {
			t.Fatal("a record has fields that its message has not")
		}
		out = append(out, r)
	})
	return out
}

func TestRecord(t *testing.T) {
	s, q := set(t, one1(&seinev1.TapSpec{Headers: []*seinev1.TapHeader{{Name: "authorization", Value: true}, {Name: "x-user", Value: true}}}))
	e := event()
	e.Fields = []Field{{Index: 0}, {Index: 1, Value: []byte("\xff joe")}}
	s.Show(0, 0, e, nil)
	want := &seinev1.TapRecord{
		Tap: 1, Start: 1_000_000_002, Duration: 12e6, Upstream: 11e6,
		Source:      &seinev1.TapParty{Namespace: "shop", Workload: "frontend", Instance: "frontend-1", Version: "v1", Identity: "spiffe://cluster.local/ns/shop/sa/frontend", Address: "10.0.0.1:4444"},
		Destination: &seinev1.TapParty{Namespace: "shop", Workload: "billing-v2", Instance: "billing-v2-1", Version: "v2", Identity: "spiffe://cluster.local/ns/shop/sa/billing", Address: "[fd00::2]:8080"},
		Service:     "billing.shop.svc.cluster.local", Method: []byte("GET"), Authority: []byte("billing:8080"), Path: []byte("/pay/7?redacted"),
		Protocol: "HTTP/2", Grpc: true, Code: 503, GrpcStatus: 15, Flag: "UF", Details: "d", Cause: []byte("connection refused"), Rule: "shop/r[0]",
		Attempts: 2, RequestBytes: 3, ResponseBytes: 4, Security: "mutual_tls", RequestId: []byte("id"), TraceId: strings.Repeat("a", 32),
		Fields: []*seinev1.TapField{{Name: "authorization", Redacted: true}, {Name: "x-user", Value: []byte("\xff joe")}},
	}
	got := records(t, q)
	if len(got) != 1 || !proto.Equal(got[0], want) {
		t.Fatalf("got  %v\nwant %v", got, want)
	}
	// An event of which nothing is known.
	s.Show(0, 1e9, &Event{Start: time.Unix(0, 1), GRPCStatus: -1}, nil)
	if got := records(t, q); len(got) != 1 || !proto.Equal(got[0], &seinev1.TapRecord{Tap: 1, Start: 1, Source: &seinev1.TapParty{}, Destination: &seinev1.TapParty{}}) {
		t.Fatalf("%v", got)
	}
	// Long values are cut, and so keep the record small.
	long := event()
	long.Path, long.Cause = []byte("/"+strings.Repeat("p", 9000)), strings.Repeat("c", 9000)
	s.Show(0, 2e9, long, nil)
	if got := records(t, q); len(got) != 1 || len(got[0].Path) != maxPath || len(got[0].Cause) != maxPath {
		t.Fatalf("%v", got)
	}
}

// TestApart: what one tap may see another does not.
func TestApart(t *testing.T) {
	open := one1(&seinev1.TapSpec{Query: true, Headers: []*seinev1.TapHeader{{Name: "x-user", Value: true}}})
	closed := one1(&seinev1.TapSpec{Headers: []*seinev1.TapHeader{{Name: "x-user"}, {Name: "x-other"}}})
	none := one1(&seinev1.TapSpec{})
	open.Id, closed.Id, none.Id = 7, 8, 9
	s, q := set(t, open, closed, none)
	if strings.Join(s.Names, " ") != "x-user x-other" || !s.Values[0] || s.Values[1] {
		t.Fatalf("%v %v", s.Names, s.Values)
	}
	e := event()
	e.Fields = []Field{{Index: 0, Value: []byte("joe")}}
	s.Show(0, 0, e, nil)
	got := records(t, q)
	if len(got) != 3 || string(got[0].Path) != "/pay/7?card=4111" || string(got[0].Fields[0].Value) != "joe" {
		t.Fatalf("%v", got)
	}
	if string(got[1].Path) != "/pay/7?redacted" || len(got[1].Fields) != 1 || !got[1].Fields[0].Redacted || got[1].Fields[0].Value != nil {
		t.Fatalf("%v", got[1])
	}
	if len(got[2].Fields) != 0 {
		t.Fatalf("%v", got[2])
	}
}

func TestRate(t *testing.T) {
	s, q := set(t, one1(&seinev1.TapSpec{MaxRps: 10}))
	for range 25 {
		s.Show(0, 0, event(), nil)
	}
	if n, l := len(records(t, q)), s.taps[0].limited.Load(); n != 10 || l != 15 {
		t.Errorf("%d shown, %d over the limit", n, l)
	}
	s.Show(0, int64(100*time.Millisecond), event(), nil)
	if n := len(records(t, q)); n != 1 {
		t.Errorf("%d shown after a tenth of a second", n)
	}
	// Who does not read loses, and it is counted.
	s, _ = set(t, one1(&seinev1.TapSpec{MaxRps: maxRate}))
	for range maxRate {
		s.Show(0, 0, event(), nil)
	}
	if s.taps[0].dropped.Load() == 0 {
		t.Error("nothing was dropped")
	}
}

func TestKeptAcrossSets(t *testing.T) {
	r := New("shop/frontend-1", 1, slog.New(slog.DiscardHandler))
	rings := []*ring.Ring{ring.New(ring.Options{}).Ring()}
	first, _ := r.newSet(&seinev1.TapSet{Taps: []*seinev1.TapSpec{one1(&seinev1.TapSpec{})}}, rings, nil)
	first.taps[0].limited.Add(5)
	bad := &seinev1.TapSpec{Id: 3}
	next, err := r.newSet(&seinev1.TapSet{Taps: []*seinev1.TapSpec{bad, one1(&seinev1.TapSpec{Path: "/x"})}}, rings, first)
	if !errors.Is(err, ErrSpec) || len(next.taps) != 1 || next.taps[0].limited.Load() != 5 {
		t.Errorf("%v %+v", err, next)
	}
	if s, _ := r.newSet(&seinev1.TapSet{}, rings, next); s != nil {
		t.Error("no taps are a set")
	}
	if (*Reporter)(nil).Set() != nil {
		t.Error("a nil reporter has taps")
	}
}

func TestNoAllocation(t *testing.T) {
	s, q := set(t,
		one1(&seinev1.TapSpec{Methods: []string{"GET"}, Path: "/pay*", Authority: "*", MaxRps: maxRate, Headers: []*seinev1.TapHeader{{Name: "x-user", Value: true}}}),
		one1(&seinev1.TapSpec{MaxRps: 1}))
	e, now := event(), int64(0)
	e.Fields = []Field{{Index: 0, Value: []byte("joe")}}
	var scratch []byte
	if n := testing.AllocsPerRun(500, func() {
		now += int64(time.Second)
		scratch = s.Show(0, now, e, scratch)
		q.Each(func([]byte) {})
	}); n != 0 {
		t.Errorf("%v allocations for a request", n)
	}
}

func BenchmarkShow(b *testing.B) {
	s, q := set(b, one1(&seinev1.TapSpec{Path: "/pay*", MaxRps: maxRate}))
	e, now := event(), int64(0)
	var scratch []byte
	b.ReportAllocs()
	for i := range b.N {
		now += int64(time.Second)
		scratch = s.Show(0, now, e, scratch)
		if i%64 == 0 {
			q.Each(func([]byte) {})
		}
	}
}
