package outlier

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func settings() *Settings {
	return &Settings{Consecutive5xx: 5, ConsecutiveGateway: 3, Interval: 10 * time.Second, BaseEjection: 30 * time.Second, MaxPercent: 50}
}

var epoch = time.Unix(1_800_000_000, 0)

func TestCounter(t *testing.T) {
	for _, tt := range []struct {
		name  string
		set   Settings
		codes []int // < 0: a failure of our own side with that status; 0: connected
		want  []Causes
	}{
		{"5xx", Settings{Consecutive5xx: 3}, []int{500, 501, 599}, []Causes{0, 0, Errors}},
		{"a success between", Settings{Consecutive5xx: 2}, []int{500, 200, 500, 404, 500, 500}, []Causes{0, 0, 0, 0, 0, Errors}},
		{"gateway alone", Settings{ConsecutiveGateway: 2}, []int{502, 500, 503, 504}, []Causes{0, 0, 0, Gateway}},
		{"both at once", Settings{ConsecutiveGateway: 2, Consecutive5xx: 2}, []int{503, 503}, []Causes{0, Gateway | Errors}},
		{"only once until reset", Settings{Consecutive5xx: 1}, []int{500, 500}, []Causes{Errors, 0}},
		{"never", Settings{}, []int{500, 502, -503}, []Causes{0, 0, 0}},
		{"local counts as its status", Settings{ConsecutiveGateway: 2}, []int{-503, -504}, []Causes{0, Gateway}},
		{"local split", Settings{Consecutive5xx: 1, SplitLocal: true, ConsecutiveLocal: 2}, []int{-503, 0, -503, -503}, []Causes{0, 0, 0, Local}},
		{"outside the range", Settings{Consecutive5xx: 1}, []int{600, 0, 499}, []Causes{0, 0, 0}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var c Counter
			for i, code := range tt.codes {
				var got Causes
				switch {
				case code < 0:
					got = c.Failed(&tt.set, -code)
				case code == 0:
					c.Connected(&tt.set)
				default:
					got = c.Status(&tt.set, code)
				}
				if got != tt.want[i] {
					t.Errorf("step %d (%d): %d, want %d", i, code, got, tt.want[i])
				}
			}
		})
	}
}

// TestExactlyOneHears: of any number of loops one is told.
func TestExactlyOneHears(t *testing.T) {
	var c Counter
	s := &Settings{Consecutive5xx: 1000}
	var heard atomic.Int64
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 500 {
				if c.Status(s, 500) != 0 {
					heard.Add(1)
				}
			}
		})
	}
	all.Wait()
	if heard.Load() != 1 {
		t.Errorf("%d heard of it", heard.Load())
	}
}

func TestNoAllocation(t *testing.T) {
	var c Counter
	s := settings()
	if n := testing.AllocsPerRun(100, func() { c.Status(s, 200); c.Connected(s) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestGrowth: each ejection is longer by the base, up to 300 s, and an interval
// in good standing forgives one.
func TestGrowth(t *testing.T) {
	d := New(settings())
	d.Endpoints([]string{"a", "b"}, epoch)
	now := epoch
	eject := func() time.Duration {
		t.Helper()
		e := d.Fail("a", Errors, now)
		if len(e) != 1 || e[0].Kind != Ejected || !e[0].Until.Equal(now.Add(e[0].For)) {
			t.Fatalf("%+v", e)
		}
		return e[0].For
	}
	back := func(after time.Duration) {
		t.Helper()
		if e := d.Sweep(now.Add(after - 1)); e != nil {
			t.Fatalf("too early: %+v", e)
		}
		now = now.Add(after)
		if e := d.Sweep(now); len(e) != 1 || e[0].Kind != Returned || e[0].For != after {
			t.Fatalf("%+v", e)
		}
	}
	for i := 1; i <= 12; i++ {
		want := min(time.Duration(i)*30*time.Second, 300*time.Second)
		if got := eject(); got != want {
			t.Fatalf("ejection %d lasts %v, want %v", i, got, want)
		}
		back(want)
	}
	for range 11 { // the multiplier stops one step above the maximum
		d.Sweep(now)
	}
	if got := eject(); got != 30*time.Second {
		t.Errorf("forgiven, it lasts %v", got)
	}
}

func TestMaxPercent(t *testing.T) {
	for _, tt := range []struct {
		percent uint32
		hosts   int
		want    int
	}{{10, 9, 0}, {10, 10, 1}, {10, 19, 1}, {34, 3, 1}, {33, 3, 0}, {100, 3, 3}, {50, 4, 2}, {0, 5, 0}} {
		s := settings()
		s.MaxPercent = tt.percent
		d := New(s)
		out, refused := 0, 0
		for i := range tt.hosts {
			d.Counter(fmt.Sprint(i))
		}
		for i := range tt.hosts {
			for _, e := range d.Fail(fmt.Sprint(i), Gateway, epoch) {
				if e.Kind == Ejected {
					out++
				} else {
					refused++
				}
			}
		}
		if out != tt.want || out+refused != tt.hosts || len(d.Out()) != out {
			t.Errorf("%d %% of %d: %d out, %d refused, want %d out", tt.percent, tt.hosts, out, refused, tt.want)
		}
	}
}

// model is the detection in its simplest words, to hold the real one to.
type model struct {
	set   Settings
	hosts map[string]*modelHost
}

type modelHost struct {
	run5xx, runGateway, runLocal uint32
	out                          bool
	left                         time.Duration // until it may return
	factor                       int
}

func (m *model) active() (n int) {
	for _, h := range m.hosts {
		if h.out {
			n++
		}
	}
	return n
}

func (m *model) eject(h *modelHost) {
	if h.out || (m.active()+1)*100 > int(m.set.MaxPercent)*len(m.hosts) {
		return
	}
	// Envoy: the multiplier grows while factor × base is below the maximum plus one base.
	if time.Duration(h.factor)*m.set.BaseEjection < m.set.maxEjection()+m.set.BaseEjection {
		h.factor++
	}
	h.out, h.left = true, min(time.Duration(h.factor)*m.set.BaseEjection, m.set.maxEjection())
}

func (m *model) status(h *modelHost, code int) {
	gateway := code == 502 || code == 503 || code == 504
	if code/100 != 5 {
		h.run5xx, h.runGateway = 0, 0
		return
	}
	h.run5xx++
	if gateway {
		h.runGateway++
	} else {
		h.runGateway = 0
	}
	hit5xx, hitGateway := h.run5xx == m.set.Consecutive5xx, h.runGateway == m.set.ConsecutiveGateway && gateway
	if hitGateway && !h.out {
		h.runGateway = 0
		m.eject(h)
	}
	if hit5xx && !h.out {
		h.run5xx = 0
		m.eject(h)
	}
}

func (m *model) local(h *modelHost, code int) {
	if !m.set.SplitLocal {
		m.status(h, code)
		return
	}
	if h.runLocal++; h.runLocal == m.set.ConsecutiveLocal && !h.out {
		h.runLocal = 0
		m.eject(h)
	}
}

func (m *model) sweep(passed time.Duration) {
	for _, h := range m.hosts {
		switch {
		case !h.out:
			h.factor = max(0, h.factor-1)
		case h.left <= passed:
			h.out, h.run5xx, h.runGateway, h.runLocal = false, 0, 0, 0
		default:
			h.left -= passed
		}
	}
}

// TestModel runs the detector beside its model through random histories.
func TestModel(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		m := &model{hosts: map[string]*modelHost{}, set: Settings{
			Consecutive5xx: r.Uint32N(5), ConsecutiveGateway: r.Uint32N(5), ConsecutiveLocal: 1 + r.Uint32N(4), SplitLocal: r.IntN(2) == 0,
			Interval: 10 * time.Second, BaseEjection: time.Duration(1+r.IntN(200)) * time.Second, MaxPercent: 10 * r.Uint32N(11),
		}}
		d := New(&m.set)
		now, swept := epoch, epoch
		var names []string
		made := 0
		grow := func() {
			made++
			name := fmt.Sprint("h", made)
			names = append(names, name)
			m.hosts[name] = &modelHost{}
			d.Counter(name)
		}
		for range 1 + r.IntN(12) {
			grow()
		}
		for step := range 800 {
			name := names[r.IntN(len(names))]
			h, c := m.hosts[name], d.Counter(name)
			var met Causes
			switch k := r.IntN(100); {
			case k < 40:
				code := []int{200, 500, 502, 503, 504, 404, 599}[r.IntN(7)]
				m.status(h, code)
				met = c.Status(&m.set, code)
			case k < 70:
				m.status(h, 503)
				met = c.Status(&m.set, 503)
			case k < 85:
				m.local(h, 504)
				met = c.Failed(&m.set, 504)
			case k < 87:
				if m.set.SplitLocal {
					h.runLocal = 0
				}
				c.Connected(&m.set)
			case k < 88 && len(names) < 20:
				grow()
			case k < 89 && len(names) > 1:
				i := r.IntN(len(names))
				delete(m.hosts, names[i])
				names = append(names[:i:i], names[i+1:]...)
				d.Endpoints(names, now)
			default:
				now = now.Add(m.set.Interval)
				m.sweep(now.Sub(swept))
				swept = now
				d.Sweep(now)
			}
			// Time passes only with sweeps, so that the model may count down.
			d.Fail(name, met, now)
			out := d.Out()
			if len(out) != m.active() || d.Active() != len(out) {
				t.Fatalf("seed %d step %d: %d out, the model has %d", seed, step, len(out), m.active())
			}
			for n, h := range m.hosts {
				if _, is := out[n]; is != h.out {
					t.Fatalf("seed %d step %d: %s out: %v, in the model: %v", seed, step, n, is, h.out)
				}
			}
		}
	}
}

// TestLeaving: an ejected endpoint that leaves makes room, and is new when it
// comes back.
func TestLeaving(t *testing.T) {
	d := New(settings())
	d.Endpoints([]string{"a", "b"}, epoch)
	d.Fail("a", Errors, epoch)
	if e := d.Endpoints([]string{"b", "c"}, epoch.Add(time.Second)); len(e) != 1 || e[0].Kind != Gone || e[0].For != time.Second || e[0].Active != 0 {
		t.Fatalf("%+v", e)
	}
	if e := d.Fail("a", Errors, epoch); e != nil {
		t.Errorf("%+v of an endpoint that there is not", e)
	}
	if e := d.Fail("c", Errors, epoch); len(e) != 1 || e[0].Kind != Ejected || e[0].Times != 1 {
		t.Errorf("%+v", e)
	}
	if e := d.Clear(epoch.Add(time.Minute)); len(e) != 1 || e[0].Kind != Returned || d.Out() != nil {
		t.Errorf("%+v", e)
	}
}
