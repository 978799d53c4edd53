package history

import (
	"fmt"
	"math"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"
)

var (
	bounds = []float64{0.001, 0.01, 0.1, math.Inf(1)}
	start  = time.Unix(1_800_000_000, 0).UTC() // a whole minute
)

// fill adds an interval of each step, from start for a span.
func fill(s *Store, span time.Duration, of func(i int) map[Key]*Counts) time.Time {
	end := start
	for i := 0; i < int(span/FineStep); i++ {
		end = start.Add(time.Duration(i+1) * FineStep)
		s.Add(Interval{End: end, Seconds: FineStep.Seconds(), Counts: of(i)})
	}
	return end
}

func near(got, want, tolerance float64) bool {
	return math.IsNaN(got) && math.IsNaN(want) || math.Abs(got-want) <= tolerance*math.Abs(want)
}

func TestFine(t *testing.T) {
	s := New(Limits{})
	k := Key{Kind: Service, Subject: "a.shop", Version: "v1"}
	all := Key{Kind: Service, Subject: "a.shop"}
	now := fill(s, time.Minute, func(i int) map[Key]*Counts {
		if i == 5 { // it was away
			return nil
		}
		c := &Counts{Requests: 50, Failed: 5, Bounds: bounds, Counts: []float64{0, 50, 0, 0}}
		return map[Key]*Counts{k: c, all: c}
	})
	r := s.Read(all, now, time.Minute)
	if r.Points != 12 || r.Step != FineStep || len(r.Series) != 2 || r.Series[0].Version != "" || r.Series[1].Version != "v1" {
		t.Fatalf("%d points, step %s, series %+v", r.Points, r.Step, r.Series)
	}
	if want := now.Add(-11 * FineStep); !r.Start.Equal(want) {
		t.Errorf("starts at %s, want %s", r.Start, want)
	}
	for _, line := range r.Series {
		for i := range r.Points {
			rps, ok, p50 := 10.0, 0.9, 5.5
			if i == 5 {
				rps, ok, p50 = math.NaN(), math.NaN(), math.NaN()
			}
			if !near(line.RPS[i], rps, 1e-6) || !near(line.Success[i], ok, 1e-4) || !near(line.P50[i], p50, 1e-3) {
				t.Errorf("%q point %d: rps %g, success %g, p50 %g", line.Version, i, line.RPS[i], line.Success[i], line.P50[i])
			}
		}
		if line.Open != nil {
			t.Error("there was no TCP")
		}
	}
	if r := s.Read(k, now, time.Minute); len(r.Series) != 1 {
		t.Errorf("one version was asked for: %d series", len(r.Series))
	}
}

// TestCoarse: a coarse point is of the minute's requests, not of its fine points.
func TestCoarse(t *testing.T) {
	s := New(Limits{})
	k := Key{Kind: Mesh}
	now := fill(s, 3*time.Minute, func(i int) map[Key]*Counts {
		c := &Counts{Requests: 10, Bounds: bounds, Counts: []float64{10, 0, 0, 0}, TCP: true, Open: 2, Sent: 100}
		if i%12 == 11 { // one step in a minute is slow, and busier than the others together
			c = &Counts{Requests: 990, Bounds: bounds, Counts: []float64{0, 0, 990, 0}, TCP: true, Open: 4, Sent: 100}
		}
		return map[Key]*Counts{k: c}
	})
	r := s.Read(k, now.Add(time.Second), time.Hour)
	line := r.Series[0]
	if r.Points != 60 || r.Step != CoarseStep || len(line.RPS) != 60 {
		t.Fatalf("%d points of %s", r.Points, r.Step)
	}
	// The slow step of each minute falls into the minute that its end begins.
	if got, want := line.RPS[58], (990+11*10)/60.0; !near(got, want, 1e-6) {
		t.Errorf("rps %g, want %g", got, want)
	}
	if got := line.P50[58]; !near(got, 1000*(0.01+0.09*(550-110)/990), 1e-3) {
		t.Errorf("p50 %g: not that of the minute's requests", got)
	}
	if !near(line.SentRate[58], 100, 1e-6) || line.Open[58] != 2 {
		t.Errorf("sent %g, open %g", line.SentRate[58], line.Open[58])
	}
	if !math.IsNaN(line.RPS[0]) {
		t.Error("an hour ago there was nothing")
	}
}

// TestForgets: points leave the tiers, series leave the store, and a slot is not
// taken for one of a turn before.
func TestForgets(t *testing.T) {
	s := New(Limits{})
	k := Key{Kind: WorkloadIn, Subject: "shop/a"}
	one := func(at time.Time) {
		s.Add(Interval{End: at, Seconds: 5, Counts: map[Key]*Counts{k: {Requests: 5}}})
	}
	one(start)
	one(start.Add(FineSpan)) // the same place in the ring
	r := s.Read(k, start.Add(FineSpan), FineSpan)
	seen := 0
	for _, v := range r.Series[0].RPS {
		if !math.IsNaN(v) {
			seen++
		}
	}
	if seen != 1 {
		t.Errorf("%d points, want that of now alone", seen)
	}
	idle := map[Key]*Counts{k: {}}
	for at := start.Add(FineSpan); at.Before(start.Add(FineSpan + CoarseSpan + 2*time.Minute)); at = at.Add(time.Minute) {
		s.Add(Interval{End: at, Seconds: 60, Counts: idle})
	}
	if n, _ := s.Size(); n != 0 {
		t.Errorf("%d series after six idle hours", n)
	}
}

func TestClockSetBack(t *testing.T) {
	s := New(Limits{})
	k := Key{Kind: Mesh}
	add := func(at time.Time, n float64) {
		s.Add(Interval{End: at, Seconds: 5, Counts: map[Key]*Counts{k: {Requests: n}}})
	}
	add(start.Add(time.Hour), 10)
	add(start, 20)
	r := s.Read(k, start.Add(time.Hour), time.Minute)
	if got := r.Series[0].RPS[r.Points-1]; got != 2 {
		t.Errorf("rps %g", got)
	}
	s.Add(Interval{End: start.Add(2 * time.Hour), Counts: map[Key]*Counts{k: {Requests: 1}}}) // no length
	if r := s.Read(k, start.Add(2*time.Hour), time.Minute); !math.IsNaN(r.Series[0].RPS[r.Points-1]) {
		t.Error("an interval without length has a rate")
	}
}

func TestUnknownHasNothing(t *testing.T) {
	r := New(Limits{}).Read(Key{Kind: Service, Subject: "no.such"}, start, 100*time.Hour)
	if r.Points != int(coarsePoints) || len(r.Series) != 1 || len(r.Series[0].P99) != r.Points || !math.IsNaN(r.Series[0].RPS[7]) {
		t.Errorf("%d points, %d series", r.Points, len(r.Series))
	}
}

func TestOtherBounds(t *testing.T) {
	var x series
	x.add(0, 0, &Counts{Requests: 2, Bounds: bounds, Counts: []float64{1, 0, 0, 1}}, 5)
	x.add(1, 0, &Counts{Requests: 3, Bounds: []float64{0.005, math.Inf(1)}, Counts: []float64{2, 1}}, 5)
	if got := fmt.Sprint(x.counts); got != "[1 2 0 2]" {
		t.Errorf("counts %s", got)
	}
}

func TestPack(t *testing.T) {
	for _, v := range []float64{2e-6, 25e-6, 0.0003, 0.5, 61, 3600} {
		if got := unpack(pack(v)) / 1e3; !near(got, v, 2e-4) {
			t.Errorf("%g comes back as %g", v, got)
		}
	}
	for v, want := range map[float64]float64{0: 1e-6, 1e9: 9000} {
		if got := unpack(pack(v)) / 1e3; !near(got, want, 0.1) {
			t.Errorf("%g comes back as %g", v, got)
		}
	}
}

func TestEvents(t *testing.T) {
	s := New(Limits{Events: 3})
	for i := range 5 {
		s.Note(Event{At: start.Add(time.Duration(i) * time.Second), Kind: "config", Text: fmt.Sprint("generation ", i)})
	}
	s.Note(Event{At: start.Add(6 * time.Second), Kind: "diagnosis", Text: strings.Repeat("ä", maxText), Service: "b.shop"})
	r := s.Read(Key{Kind: Service, Subject: "a.shop"}, start.Add(10*time.Second), time.Minute)
	if len(r.Events) != 2 || r.Events[0].Text != "generation 3" {
		t.Errorf("of another service: %+v", r.Events)
	}
	r = s.Read(Key{Kind: Edge, Subject: "shop/x", Service: "b.shop"}, start.Add(10*time.Second), time.Minute)
	if len(r.Events) != 3 || len(r.Events[2].Text) > maxText+len("…") {
		t.Errorf("of an edge to it: %d", len(r.Events))
	}
}

// TestBounded: more series than there is room for cost nothing more, and are
// counted; 8,000 full series take what the doc comment says.
func TestBounded(t *testing.T) {
	if n := unsafe.Sizeof(point{}); n != 12 {
		t.Errorf("a point takes %d bytes", n)
	}
	const room = 8000
	s := New(Limits{Series: room})
	counts := &Counts{Requests: 1, Bounds: bounds, Counts: []float64{1, 0, 0, 0}}
	m := map[Key]*Counts{}
	for i := range room + 100 {
		m[Key{Kind: Edge, Subject: "shop/caller", Service: fmt.Sprintf("service-%d.shop.svc.cluster.local", i)}] = counts
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range 30 { // more than a minute: both tiers are there
		s.Add(Interval{End: start.Add(time.Duration(i) * FineStep), Seconds: 5, Counts: m})
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	n, over := s.Size()
	if n != room || over != 100 {
		t.Errorf("%d series, %d left out", n, over)
	}
	each := float64(after.HeapAlloc-before.HeapAlloc) / room
	t.Logf("%.0f bytes for each series", each)
	if each > 8<<10 {
		t.Errorf("a series takes %.0f bytes", each)
	}
	runtime.KeepAlive(s)
}
