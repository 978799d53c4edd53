package decide

import (
	"container/heap"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/decide/outlier"
)

const second = int64(time.Second)

// event is a request that ends.
type event struct {
	at, began int64
	host      int
}
type events []event

func (e events) Len() int           { return len(e) }
func (e events) Less(i, j int) bool { return e[i].at < e[j].at }
func (e events) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)        { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	old := *e
	x := old[len(old)-1]
	*e = old[:len(old)-1]
	return x
}

// simulate lets requests arrive at random, rate in a second, at endpoints whose
// mean service times are given; each endpoint serves four at a time, the others
// queue. It returns the latencies in order and the picks by endpoint.
func simulate(c *Cluster, rate float64, requests int, mean func(host int, now int64) time.Duration) (latencies []int64, picks []int) {
	r := rand.New(rand.NewPCG(7, 11))
	b := c.NewBalance(nil, 1, 0, time.Time{})
	const lanes = 4
	free := make([][lanes]int64, len(c.Endpoints))
	picks = make([]int, len(c.Endpoints))
	var under events
	now := int64(0)
	for range requests {
		now += int64(r.ExpFloat64() / rate * float64(second))
		for len(under) > 0 && under[0].at <= now {
			e := heap.Pop(&under).(event)
			b.Took(e.host, e.at-e.began, e.at, false)
			b.Done(e.host)
			latencies = append(latencies, e.at-e.began)
		}
		i := b.Pick(&Ask{Draw: r.Uint64(), Now: now})
		b.Begin(i)
		picks[i]++
		lane := 0
		for k := range lanes {
			if free[i][k] < free[i][lane] {
				lane = k
			}
		}
		m := float64(mean(i, now))
		end := max(now, free[i][lane]) + int64(m/2+m/2*r.ExpFloat64())
		free[i][lane] = end
		heap.Push(&under, event{end, now, i})
	}
	slices.Sort(latencies)
	return latencies, picks
}

func quantile(sorted []int64, q float64) time.Duration {
	return time.Duration(sorted[int(float64(len(sorted)-1)*q)])
}

// TestDefaultBeatsTheOthers is the case for our default: eight endpoints, of
// which one is ten times slower. See docs/decisions/007-balance-by-latency.md.
func TestDefaultBeatsTheOthers(t *testing.T) {
	slow := func(host int, _ int64) time.Duration {
		if host == 3 {
			return 50 * time.Millisecond
		}
		return 5 * time.Millisecond
	}
	type result struct {
		p50, p99, p999 time.Duration
		share          float64
	}
	results := map[seinev1.TrafficPolicy_Balancer]result{}
	for _, p := range []seinev1.TrafficPolicy_Balancer{seinev1.TrafficPolicy_ROUND_ROBIN, seinev1.TrafficPolicy_LEAST_REQUEST, seinev1.TrafficPolicy_DEFAULT} {
		c := policed(t, &seinev1.TrafficPolicy{Balancer: p}, addresses(8))
		lat, picks := simulate(c, 400, 30_000, slow)
		x := result{quantile(lat, 0.5), quantile(lat, 0.99), quantile(lat, 0.999), float64(picks[3]) / 30_000}
		results[p] = x
		t.Logf("%-13v P50 %v P99 %v P99.9 %v, slow endpoint %.2f %% of requests", p, x.p50.Round(100*time.Microsecond), x.p99.Round(100*time.Microsecond), x.p999.Round(100*time.Microsecond), 100*x.share)
	}
	rr, lr, we := results[seinev1.TrafficPolicy_ROUND_ROBIN], results[seinev1.TrafficPolicy_LEAST_REQUEST], results[seinev1.TrafficPolicy_DEFAULT]
	if we.p99*4 > rr.p99 || we.p99*2 > lr.p99 || we.share > lr.share/4 {
		t.Errorf("no gain: %+v, least request %+v, round robin %+v", we, lr, rr)
	}
	if we.share == 0 {
		t.Error("the slow endpoint is starved")
	}
}

// TestDefaultIsFairAndForgives: equal endpoints get equal shares, and one that
// was slow for a while gets its share back.
func TestDefaultIsFairAndForgives(t *testing.T) {
	c := policed(t, &seinev1.TrafficPolicy{}, addresses(4))
	_, picks := simulate(c, 400, 40_000, func(int, int64) time.Duration { return 5 * time.Millisecond })
	for _, n := range picks {
		if n < 8500 || n > 11500 {
			t.Errorf("equal endpoints: %v", picks)
		}
	}
	// Requests one after the other, two endpoints, and a hiccup of one: both go on.
	c = policed(t, &seinev1.TrafficPolicy{}, addresses(2))
	b, r := balance(c), rand.New(rand.NewPCG(1, 2))
	picks = make([]int, 2)
	for k := range 1000 {
		now := int64(k) * int64(time.Millisecond)
		i := b.Pick(&Ask{Draw: r.Uint64(), Now: now})
		b.Begin(i)
		took := int64(300 * time.Microsecond)
		if k == 0 || k == 10 {
			took = int64(40 * time.Millisecond)
		}
		b.Took(i, took, now+took, false)
		b.Done(i)
		picks[i]++
	}
	if picks[0] < 400 || picks[1] < 400 {
		t.Errorf("one outlier turns everything away: %v", picks)
	}
	// Slow for 20 s, well since.
	_, picks = simulate(c, 100, 20_000, func(i int, now int64) time.Duration {
		if i == 0 && now < 20*second {
			return 60 * time.Millisecond
		}
		return 5 * time.Millisecond
	})
	if picks[0] < 6000 {
		t.Errorf("an endpoint that is well again stays without work: %v", picks)
	}
	// Failures never make an endpoint look good.
	b = balance(c)
	for k := range int64(10) {
		b.Took(0, int64(20*time.Millisecond), k, false)
		b.Took(1, int64(20*time.Millisecond), k, false)
	}
	for k := range int64(1000) {
		b.Took(0, int64(50*time.Microsecond), 100+k*int64(time.Millisecond), true)
		b.Took(1, int64(20*time.Millisecond), 100+k*int64(time.Millisecond), false)
	}
	if x, y := b.hosts[0].level(second), b.hosts[1].level(second); x < y*0.7 {
		t.Errorf("quick errors attract: %v, %v", time.Duration(x), time.Duration(y))
	}
	b.Failed(0, 1000, second)
	b.Failed(0, 1000, second)
	if got := counts(b, 1000); got[0] != 0 && b.hosts[0].level(second) < failedCost/2 {
		t.Error("failures do not count", got)
	}
}

func TestDecay(t *testing.T) {
	for _, dt := range []int64{-5, 0, second, 5 * second, 15 * second, 100 * second} {
		want := math.Exp(-float64(max(dt, 0)) / costDecay)
		if got := decay(dt); math.Abs(got-want) > 0.03 {
			t.Errorf("%v: %v, want about %v", time.Duration(dt), got, want)
		}
	}
}

// TestBalanceIsHandedOn: the cluster's next version knows what the last one
// knew, and a request that began there ends here.
func TestBalanceIsHandedOn(t *testing.T) {
	p := &seinev1.TrafficPolicy{Balancer: seinev1.TrafficPolicy_LEAST_REQUEST}
	s, err := CompileService(&seinev1.Service{Host: "shop", Port: 80, Policy: p})
	if err != nil {
		t.Fatal(err)
	}
	mk := func(id, at string) *Endpoint {
		ap := netip.MustParseAddrPort(at)
		e, err := CompileEndpoint(&seinev1.Endpoint{Id: id, Address: ap.Addr().String(), Port: uint32(ap.Port())})
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	a, b, c := mk("a", "10.0.0.1:1"), mk("b", "10.0.0.2:1"), mk("c", "10.0.0.3:1")
	one := s.Clusters([]*Endpoint{a, c})
	if two := s.Update(one, []*Endpoint{a, c}); two[""] != one[""] {
		t.Error("an unchanged cluster is built anew")
	}
	before := one[""].NewBalance(nil, 0, 5, time.Time{})
	before.Begin(1)
	before.Begin(1)
	after := s.Update(one, []*Endpoint{a, b, c})[""].NewBalance(before, 0, 9, time.Time{})
	if after.Active(0) != 0 || after.Active(1) != 0 || after.Active(2) != 2 {
		t.Error("requests in flight are forgotten")
	}
	before.Done(1)
	if after.Active(2) != 1 || after.hosts[1].since != 9 || after.hosts[0].since != 5 {
		t.Error("the old version and the new do not share")
	}
	moved := s.Update(one, []*Endpoint{a, mk("c", "10.0.0.9:1")})[""].NewBalance(after, 0, 10, time.Time{})
	if moved.Active(1) != 0 {
		t.Error("another address is another endpoint")
	}
}

func TestWarmup(t *testing.T) {
	for _, tt := range []struct {
		age                 time.Duration
		minimum, aggression float64
		want                float64
	}{
		{0, 10, 1, 0.1}, {3 * time.Second, 10, 1, 0.1}, {30 * time.Second, 10, 1, 0.5}, {60 * time.Second, 10, 1, 1}, {time.Hour, 10, 1, 1},
		{0, 0, 1, 1.0 / 60}, {15 * time.Second, 0, 2, 0.5}, {0, 100, 1, 1},
	} {
		w := newWarmup(&seinev1.Warmup{Duration: durationpb.New(time.Minute), MinimumPercent: tt.minimum, Aggression: tt.aggression})
		if got := w.factor(int64(tt.age)); math.Abs(got-tt.want) > 1e-9 {
			t.Errorf("%+v: %v", tt, got)
		}
	}
	for _, kind := range []seinev1.TrafficPolicy_Balancer{0, seinev1.TrafficPolicy_ROUND_ROBIN, seinev1.TrafficPolicy_RANDOM} {
		p := &seinev1.TrafficPolicy{Balancer: kind, Warmup: &seinev1.Warmup{Duration: durationpb.New(time.Minute), MinimumPercent: 10, Aggression: 1}}
		c := policed(t, p, addresses(4))
		wall := time.Unix(1_000_000, 0)
		for i, e := range c.Endpoints {
			e.Since = wall.Add(-time.Hour)
			if i == 2 {
				e.Since = wall
			}
		}
		b := c.NewBalance(nil, 1, 100*second, wall)
		r := rand.New(rand.NewPCG(3, 4))
		share := func(age int64) float64 {
			n := 0
			for range 10_000 {
				if b.Pick(&Ask{Draw: r.Uint64(), Now: 100*second + age}) == 2 {
					n++
				}
			}
			return float64(n) / 10_000
		}
		for _, at := range []struct {
			age  int64
			want float64
		}{{0, 0.1 / 3.1}, {30 * second, 0.5 / 3.5}, {61 * second, 0.25}} {
			want := at.want
			if kind == seinev1.TrafficPolicy_RANDOM {
				want = 0.25 // as Istio: only round robin and least request warm up
			}
			if got := share(at.age); math.Abs(got-want) > 0.02 {
				t.Errorf("%v after %v: %.3f, want %.3f", kind, time.Duration(at.age), got, want)
			}
		}
		if b.warming != 0 {
			t.Error("it never ends")
		}
	}
	// All are new: nobody is held back.
	p := &seinev1.TrafficPolicy{Balancer: seinev1.TrafficPolicy_ROUND_ROBIN, Warmup: &seinev1.Warmup{Duration: durationpb.New(time.Minute), MinimumPercent: 10, Aggression: 1}}
	b := balance(policed(t, p, addresses(3)))
	var got []int
	for range 6 {
		got = append(got, b.Pick(&Ask{}))
	}
	if !slices.Equal(got, []int{0, 1, 2, 0, 1, 2}) {
		t.Error(got)
	}
	if n := testing.AllocsPerRun(100, func() { b.refresh(1); b.refresh(2 * second) }); n != 0 && !raceEnabled {
		t.Error(n, "allocations")
	}
}

func TestOut(t *testing.T) {
	for _, kind := range []seinev1.TrafficPolicy_Balancer{0, seinev1.TrafficPolicy_ROUND_ROBIN, seinev1.TrafficPolicy_LEAST_REQUEST, seinev1.TrafficPolicy_RANDOM} {
		b := balance(cluster(t, kind, 1, 1, 2))
		b.SetOut(1, true, 0)
		b.SetOut(1, true, 0)
		if got := counts(b, 30_000); got[1] != 0 || got[0] < 9500 || got[0] > 10500 {
			t.Errorf("%v: %v", kind, got)
		}
		b.SetOut(0, true, 0)
		b.SetOut(2, true, 0)
		if got := b.Pick(&Ask{}); got != -1 {
			t.Errorf("%v: all are out, and %d is picked", kind, got)
		}
		b.SetOut(0, false, 0)
		if got := b.Pick(&Ask{}); got != 0 || b.Out(0) || !b.Out(2) {
			t.Errorf("%v: %d", kind, got)
		}
		b.SetOut(1, false, 0)
		b.SetOut(2, false, 0)
		if got := counts(b, 40_000); !near(got, 10_000, 10_000, 20_000) {
			t.Errorf("%v: %v", kind, got)
		}
	}
}

// TestPanic: what is out is picked only if minHealthPercent says so.
func TestPanic(t *testing.T) {
	make := func(percent uint32, l *seinev1.Locality, at ...string) *Balance {
		c := placed(t, l, at...)
		c.Outlier = &outlier.Settings{MinHealthPercent: percent}
		return balance(c)
	}
	b := make(50, nil, "eu", "eu", "eu", "eu")
	b.SetOut(0, true, 0)
	b.SetOut(1, true, 0)
	if got := counts(b, 40_000); !near(got, 0, 0, 20_000, 20_000) {
		t.Error("half is enough:", got)
	}
	b.SetOut(2, true, 0)
	if got := counts(b, 40_000); !near(got, 10_000, 10_000, 10_000, 10_000) {
		t.Error("a quarter is not:", got)
	}
	b.SetOut(2, false, 0)
	if got := counts(b, 40_000); !near(got, 0, 0, 20_000, 20_000) {
		t.Error("well again:", got)
	}
	l := &seinev1.Locality{Caller: "eu", FailoverActive: true}
	b = make(50, l, "eu", "eu", "us", "us")
	b.SetOut(0, true, 0)
	b.SetOut(1, true, 0)
	if got := counts(b, 40_000); !near(got, 0, 0, 20_000, 20_000) {
		t.Error("no panic while the reserve is whole:", got)
	}
	b.SetOut(2, true, 0)
	b.SetOut(3, true, 0)
	if got := counts(b, 40_000); !near(got, 10_000, 10_000, 10_000, 10_000) {
		t.Error("everything is out:", got)
	}
}

func TestPassthrough(t *testing.T) {
	c := policed(t, &seinev1.TrafficPolicy{Balancer: seinev1.TrafficPolicy_PASSTHROUGH}, addresses(3))
	if i := c.Dialled(netip.MustParseAddrPort("[::ffff:10.0.0.2]:8080")); i != 1 {
		t.Error(i)
	}
	if i := c.Dialled(netip.MustParseAddrPort("10.96.0.1:8080")); i != -1 {
		t.Error(i)
	}
	if i := policed(t, &seinev1.TrafficPolicy{}, addresses(3)).Dialled(netip.MustParseAddrPort("10.0.0.2:8080")); i != -1 {
		t.Error("only PASSTHROUGH looks at the address", i)
	}
}

// places is a cluster of one endpoint for each "LOCALITY" or "LOCALITY*WEIGHT".
func placed(t testing.TB, l *seinev1.Locality, places ...string) *Cluster {
	t.Helper()
	s, err := CompileService(&seinev1.Service{Host: "shop", Port: 80, Policy: &seinev1.TrafficPolicy{Balancer: seinev1.TrafficPolicy_RANDOM, Locality: l}})
	if err != nil {
		t.Fatal(err)
	}
	var eps []*Endpoint
	for i, p := range places {
		e, err := CompileEndpoint(&seinev1.Endpoint{Id: fmt.Sprintf("%03d", i), Address: "10.0.0.1", Port: 80, Locality: p,
			Labels: map[string]string{"version": fmt.Sprintf("v%d", i%2+1)}, Workload: &seinev1.Workload{Cluster: "c1"}})
		if err != nil {
			t.Fatal(err)
		}
		eps = append(eps, e)
	}
	return s.Clusters(eps)[""]
}

func TestLocality(t *testing.T) {
	const here = "eu/a/1"
	near := []string{"eu/a/1", "eu/a/2", "eu/b/1", "us/a/1", "asia/a/1"}
	for name, tt := range map[string]struct {
		l    *seinev1.Locality
		at   []string
		out  []int
		want []int // percent
	}{
		"nothing said":                        {nil, near, nil, []int{20, 20, 20, 20, 20}},
		"without outlierDetection":            {&seinev1.Locality{Caller: here}, near, nil, []int{20, 20, 20, 20, 20}},
		"the nearest":                         {&seinev1.Locality{Caller: here, FailoverActive: true}, near, nil, []int{100, 0, 0, 0, 0}},
		"disabled":                            {&seinev1.Locality{Caller: here, FailoverActive: true, Disabled: true}, near, nil, []int{20, 20, 20, 20, 20}},
		"the same zone":                       {&seinev1.Locality{Caller: here, FailoverActive: true}, near, []int{0}, []int{0, 100, 0, 0, 0}},
		"the same region":                     {&seinev1.Locality{Caller: here, FailoverActive: true}, near, []int{0, 1}, []int{0, 0, 100, 0, 0}},
		"anywhere":                            {&seinev1.Locality{Caller: here, FailoverActive: true}, near, []int{0, 1, 2}, []int{0, 0, 0, 50, 50}},
		"a written region":                    {&seinev1.Locality{Caller: here, FailoverActive: true, Failover: []*seinev1.Locality_Failover{{From: "eu", To: "asia"}}}, near, []int{0, 1, 2}, []int{0, 0, 0, 0, 100}},
		"a region written for others":         {&seinev1.Locality{Caller: here, FailoverActive: true, Failover: []*seinev1.Locality_Failover{{From: "us", To: "asia"}}}, near, []int{0, 1, 2}, []int{0, 0, 0, 50, 50}},
		"half of the nearest is 70 %":         {&seinev1.Locality{Caller: here, FailoverActive: true}, []string{here, here, "us", "us"}, []int{0}, []int{0, 70, 15, 15}},
		"three quarters are enough":           {&seinev1.Locality{Caller: here, FailoverActive: true}, []string{here, here, here, here, "us"}, []int{0}, []int{0, 33, 33, 33, 0}},
		"everything is out":                   {&seinev1.Locality{Caller: here, FailoverActive: true}, []string{here, "us"}, []int{0, 1}, nil},
		"failoverPriority, the caller's":      {&seinev1.Locality{Caller: here, FailoverActive: true, FailoverPriority: []string{"version", "topology.kubernetes.io/region"}, CallerLabels: map[string]string{"version": "v2"}}, []string{"eu", "us", "eu", "eu"}, nil, []int{0, 0, 0, 100}},
		"failoverPriority, the next":          {&seinev1.Locality{Caller: here, FailoverActive: true, FailoverPriority: []string{"version", "topology.kubernetes.io/region"}, CallerLabels: map[string]string{"version": "v2"}}, []string{"eu", "us", "eu", "eu"}, []int{3}, []int{0, 100, 0, 0}},
		"failoverPriority, written":           {&seinev1.Locality{Caller: here, FailoverActive: true, FailoverPriority: []string{"version=v1", "topology.istio.io/cluster=c2"}}, []string{"eu", "us"}, nil, []int{100, 0}},
		"distribute":                          {&seinev1.Locality{Caller: here, Distribute: []*seinev1.Locality_Distribute{{From: "us/*", To: map[string]uint32{"us": 100}}, {From: "eu/a/*", To: map[string]uint32{"eu/a/*": 80, "eu/b/*": 20}}}}, near, nil, []int{40, 40, 20, 0, 0}},
		"distribute, from elsewhere":          {&seinev1.Locality{Caller: "asia/a/1", Distribute: []*seinev1.Locality_Distribute{{From: "eu/*", To: map[string]uint32{"eu": 100}}}}, near, nil, []int{20, 20, 20, 20, 20}},
		"distribute, half of a locality":      {&seinev1.Locality{Caller: here, Distribute: []*seinev1.Locality_Distribute{{From: "eu", To: map[string]uint32{"eu": 50, "us": 50}}}}, []string{"eu", "eu", "us"}, []int{0}, []int{0, 41, 59}},
		"distribute, to where nobody is":      {&seinev1.Locality{Caller: here, Distribute: []*seinev1.Locality_Distribute{{From: "eu", To: map[string]uint32{"mars": 100}}}}, near, nil, nil},
		"distribute comes before the nearest": {&seinev1.Locality{Caller: here, FailoverActive: true, Distribute: []*seinev1.Locality_Distribute{{From: "eu", To: map[string]uint32{"us": 100}}}}, near, nil, []int{0, 0, 0, 100, 0}},
	} {
		c := placed(t, tt.l, tt.at...)
		b := balance(c)
		for _, i := range tt.out {
			b.SetOut(i, true, 0)
		}
		if tt.want == nil {
			for _, draw := range []uint64{0, 1 << 63, math.MaxUint64} {
				if i := b.Pick(&Ask{Draw: draw}); i != -1 {
					t.Errorf("%s: %d", name, i)
				}
			}
			continue
		}
		got := counts(b, 10_000)
		for i := range got {
			if d := got[i] - 100*tt.want[i]; d > 250 || d < -250 || tt.want[i] == 0 && got[i] > 0 {
				t.Errorf("%s: %v, want %v %%", name, got, tt.want)
				break
			}
		}
	}
}

// TestLocalityHashes: a key stays at its endpoint whatever the priorities.
func TestLocalityHashes(t *testing.T) {
	c := placed(t, nil, "eu", "us", "eu", "us")
	c.Policy.Locality = &seinev1.Locality{Caller: "eu", Distribute: []*seinev1.Locality_Distribute{{From: "eu", To: map[string]uint32{"eu": 50, "us": 50}}}}
	c.Policy.Hash = hashing(0, 0).Hash
	c.balance(nil)
	b := balance(c)
	for k := range uint64(100) {
		h, first := mix(k), -1
		for draw := range uint64(20) {
			i := b.Pick(&Ask{Draw: mix(draw), Hash: h, Hashed: true})
			if first < 0 {
				first = i
			}
			if i != first {
				t.Fatal(k, i, first)
			}
		}
	}
}

func TestSubsetsDoNotFallBack(t *testing.T) {
	s, err := CompileService(&seinev1.Service{Host: "shop", Port: 80, Subsets: []*seinev1.Subset{{Name: "v9", Labels: map[string]string{"version": "v9"}}}})
	if err != nil {
		t.Fatal(err)
	}
	c := s.Clusters([]*Endpoint{endpoint(t, "a", 1, "", "version=v1")})["v9"]
	if i := balance(c).Pick(&Ask{}); i != -1 {
		t.Error("an empty subset sends its requests elsewhere:", i)
	}
}
