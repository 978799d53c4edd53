package diagnose

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/seinemesh/seine/host"
	"github.com/seinemesh/seine/stat"
	"github.com/seinemesh/seine/telemetry/metrics"
)

// The world of the simulations: frontend calls billing (v1 and v2), billing
// calls store; other stands on billing's machine and is called by frontend.
// Latencies are log-normal, arrivals Poisson, and now and then everything in a
// workload pauses for a moment, as real programs do.
type world struct {
	rnd    *rand.Rand
	at     time.Time
	perSec float64
	bursts float64 // probability of a pause of the application in a window
	bounds []float64

	code    map[string]func() float64 // extra seconds of one request, by workload
	network map[string]func() float64 // extra seconds on the way, by caller and workload
	signals map[string][NumSignals]float64
}

func newWorld(seed uint64) *world {
	w := &world{rnd: rand.New(rand.NewPCG(seed, 1)), at: time.Unix(1_700_000_000, 0), perSec: 50, bursts: 0.1,
		code: map[string]func() float64{}, network: map[string]func() float64{}, signals: map[string][NumSignals]float64{}}
	for b := 25e-6; b < 100; b *= 1.25 {
		w.bounds = append(w.bounds, b)
	}
	w.bounds = append(w.bounds, math.Inf(1))
	return w
}

// machines of the workloads.
var machines = map[string]string{"frontend-1": "m1", "billing-v1-1": "m2", "billing-v2-1": "m2", "other-1": "m2", "store-1": "m3"}

func (w *world) poisson(mean float64) int {
	return max(int(mean+math.Sqrt(mean)*w.rnd.NormFloat64()+0.5), 0)
}

// window makes one Observation of ten seconds.
func (w *world) window() Observation {
	w.at = w.at.Add(10 * time.Second)
	o := Observation{At: w.at, Seconds: 10, Machines: map[string]Signals{}}
	for instance, boot := range machines {
		s := Signals{Boot: boot}
		for i := range s.Value {
			s.Value[i] = signals[i].floor / 4 * w.rnd.Float64()
		}
		for i, v := range w.signals[boot] {
			s.Value[i] = math.Max(s.Value[i], v)
		}
		o.Machines["default/"+instance] = s
	}
	edge := func(source, service, version, workload string, share, median float64, inner func() float64) {
		n := w.poisson(w.perSec * 10 * share)
		client := stat.Distribution{Instance: "default/" + source + "-1", Source: stat.Party{Namespace: "default", Workload: source},
			Destination: stat.Party{Namespace: "default", Workload: workload}, Service: service + ".default", Version: version,
			Bounds: w.bounds, Counts: make([]float64, len(w.bounds))}
		server := client
		server.Instance, server.AtDestination, server.Counts = "default/"+workload+"-1", true, make([]float64, len(w.bounds))
		pause := 0
		if w.rnd.Float64() < w.bursts {
			pause = w.rnd.IntN(n/50 + 1)
		}
		for i := range n {
			code := median * math.Exp(0.5*w.rnd.NormFloat64())
			if i < pause {
				code += 0.05 * w.rnd.Float64()
			}
			if f := w.code[workload]; f != nil {
				code += f()
			}
			if inner != nil {
				code += inner()
			}
			way := 300e-6 * math.Exp(0.4*w.rnd.NormFloat64())
			if f := w.network[source+">"+workload]; f != nil {
				way += f()
			}
			w.count(server.Counts, code)
			w.count(client.Counts, code+way)
		}
		o.Traffic = append(o.Traffic, client, server)
	}
	store := func() float64 {
		d := 1e-3 * math.Exp(0.4*w.rnd.NormFloat64())
		if f := w.code["store"]; f != nil {
			d += f()
		}
		return d
	}
	edge("frontend", "billing", "v1", "billing-v1", 0.7, 4e-3, store)
	edge("frontend", "billing", "v2", "billing-v2", 0.3, 4e-3, store)
	edge("frontend", "other", "v1", "other", 0.5, 2e-3, nil)
	edge("billing-v1", "store", "v1", "store", 0.7, 1e-3, nil)
	edge("billing-v2", "store", "v1", "store", 0.3, 1e-3, nil)
	return o
}

func (w *world) count(counts []float64, seconds float64) {
	for i, b := range w.bounds {
		if seconds <= b {
			counts[i]++
			return
		}
	}
}

// sometimes adds extra seconds to a share of requests.
func (w *world) sometimes(share, extra float64) func() float64 {
	return func() float64 {
		if w.rnd.Float64() < share {
			return extra * (0.8 + 0.4*w.rnd.Float64())
		}
		return 0
	}
}

func always(extra float64) func() float64 { return func() float64 { return extra } }

func TestCauses(t *testing.T) {
	both := func(w *world, f func() float64) {
		w.code["billing-v1"], w.code["billing-v2"], w.code["other"] = f, f, f
	}
	stress := func(w *world, machine string, s Signal, v float64) {
		x := w.signals[machine]
		x[s] = v
		w.signals[machine] = x
	}
	tests := []struct {
		name    string
		provoke func(*world)
		service string
		version string
		cause   Cause
		shape   Shape
		culprit string
		signal  string
	}{
		{"a version that waits in its code", func(w *world) { w.code["billing-v2"] = w.sometimes(0.05, 0.1) },
			"billing.default", "v2", Version, Tail, "billing.default v2", ""},
		{"a version that is slow throughout", func(w *world) { w.code["billing-v2"] = always(0.02) },
			"billing.default", "v2", Version, Shift, "billing.default v2", ""},
		{"an application that pauses", func(w *world) { w.code["other"] = w.sometimes(0.04, 0.08) },
			"other.default", "v1", Application, Tail, "default/other", ""},
		{"a dependency", func(w *world) { w.code["store"] = w.sometimes(0.05, 0.1) },
			"billing.default", "v1", Dependency, Tail, "store.default v1", ""},
		{"the dependency itself", func(w *world) { w.code["store"] = w.sometimes(0.05, 0.1) },
			"store.default", "v1", Application, Tail, "default/store", ""},
		{"steal", func(w *world) { both(w, w.sometimes(0.05, 0.05)); stress(w, "m2", Steal, 0.08) },
			"billing.default", "v1", Node, Tail, "the machine of default/billing-v1-1", "cpu-steal"},
		{"a noisy neighbour", func(w *world) { both(w, w.sometimes(0.05, 0.05)); stress(w, "m2", CPUStall, 0.7) },
			"other.default", "v1", Node, Tail, "the machine of default/other-1", "cpu-pressure"},
		{"stalls of I/O", func(w *world) { both(w, w.sometimes(0.05, 0.2)); stress(w, "m2", IOStall, 0.5) },
			"billing.default", "v2", Node, Tail, "the machine of default/billing-v2-1", "io-pressure"},
		{"a CPU limit", func(w *world) { w.code["other"] = w.sometimes(0.05, 0.09); stress(w, "m2", Throttled, 0.4) },
			"other.default", "v1", Node, Tail, "the CPU limit of default/other-1", "cpu-limit"},
		{"code that burns the CPU by itself", func(w *world) { w.code["other"] = always(0.03); stress(w, "m2", CPUStall, 0.5) },
			"other.default", "v1", Application, Shift, "default/other", ""},
		{"the network", func(w *world) { w.network["frontend>other"] = w.sometimes(0.05, 0.2) },
			"other.default", "v1", Network, Tail, "default/frontend → other.default v1", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			const seeds = 20
			wrong := 0
			for seed := range uint64(seeds) {
				w := newWorld(seed)
				d := New()
				for range 30 {
					if got := d.Observe(w.window()); len(got) > 0 {
						wrong++
						t.Logf("seed %d: before anything happened: %+v", seed, got)
					}
				}
				began := w.at
				tt.provoke(w)
				var got *Diagnosis
				windows := 0
				for ; windows < 6 && got == nil; windows++ {
					for _, g := range d.Observe(w.window()) {
						if g.Service == tt.service && g.Version == tt.version {
							got = &g
						}
					}
				}
				if got == nil {
					t.Logf("seed %d: not seen within %d windows", seed, windows)
					wrong++
					continue
				}
				if got.Cause != tt.cause || got.Shape != tt.shape || got.Culprit != tt.culprit || got.Signal != tt.signal {
					wrong++
					t.Logf("seed %d: %s of %s (%s, signal %q), want %s of %s (%s, %q)\n%s\n%s", seed, got.Cause, got.Culprit, got.Shape, got.Signal,
						tt.cause, tt.culprit, tt.shape, tt.signal, got.Explanation, strings.Join(got.Evidence, "\n"))
				}
				if len(got.Evidence) == 0 || got.Explanation == "" || !got.Since.After(began) {
					t.Errorf("seed %d: %+v", seed, got)
				}
				// It ends when its cause ends.
				w.code, w.network, w.signals = map[string]func() float64{}, map[string]func() float64{}, map[string][NumSignals]float64{}
				for range 6 {
					d.Observe(w.window())
				}
				if rest := d.Observe(w.window()); len(rest) > 0 {
					wrong++
					t.Logf("seed %d: still there after the end: %+v", seed, rest[0])
				}
			}
			t.Logf("%d of %d wrong", wrong, seeds)
			if wrong > seeds/10 {
				t.Errorf("%d of %d runs did not find %s", wrong, seeds, tt.cause)
			}
		})
	}
}

var falseAlarmWindows = flag.Int("windows", 500, "windows of ten seconds that TestFalseAlarms simulates three times; a day has 8640")

// TestFalseAlarms counts alarms in the life of a mesh in which nothing happens
// but what always does: bursts, pauses, tides of traffic. docs/diagnose.md
// states the figure for days.
func TestFalseAlarms(t *testing.T) {
	const days = 3
	windows := *falseAlarmWindows
	series, alarms := 0, 0
	for day := range uint64(days) {
		w := newWorld(1000 + day)
		w.bursts = 0.3
		d := New()
		was := map[string]bool{}
		for i := range windows {
			w.perSec = 12 + 8*math.Sin(2*math.Pi*float64(i)/float64(windows))
			now := map[string]bool{}
			for _, g := range d.Observe(w.window()) {
				k := g.Caller + g.Service + g.Version
				now[k] = true
				if !was[k] {
					alarms++
					t.Logf("day %d window %d: %s, P99 %.1f → %.1f ms", day, i, g.Explanation, g.Before.P99, g.After.P99)
				}
			}
			was = now
		}
		series += len(d.servers) + len(d.edges)
	}
	t.Logf("%d alarms in %d series times %d windows", alarms, series, windows)
	if alarms > 1 {
		t.Errorf("%d alarms where nothing happened", alarms)
	}
}

func TestSameObservationsSameAnswers(t *testing.T) {
	run := func() (all [][]Diagnosis) {
		w := newWorld(5)
		d := New()
		for i := range 40 {
			if i == 30 {
				w.code["store"] = w.sometimes(0.1, 0.1)
			}
			all = append(all, d.Observe(w.window()))
		}
		return all
	}
	if d := cmp.Diff(run(), run()); d != "" {
		t.Error(d)
	}
}

// What lasts becomes the usual: nobody wants an alarm about last week.
func TestWhatLastsBecomesUsual(t *testing.T) {
	w := newWorld(9)
	d := New()
	for range 30 {
		d.Observe(w.window())
	}
	w.code["other"] = always(0.02)
	seen := false
	for range acceptAfter + learnWindows + 5 {
		got := d.Observe(w.window())
		seen = seen || len(got) > 0
	}
	if got := d.Observe(w.window()); !seen || len(got) > 0 {
		t.Errorf("seen %v, still said after a quarter of an hour: %+v", seen, got)
	}
}

func TestBounded(t *testing.T) {
	d := New()
	for i := range maxSeries + 10 {
		d.Observe(Observation{Traffic: []stat.Distribution{{Service: fmt.Sprint(i), AtDestination: true, Bounds: []float64{1, math.Inf(1)}, Counts: []float64{1, 0}}}})
		if i > forgetAfter+5 {
			break
		}
	}
	if n := len(d.servers); n > forgetAfter+2 {
		t.Errorf("%d series are remembered without traffic", n)
	}
}

// A CPU limit that is set today has no past, and is no usual one because of that.
func TestLimitWithoutPast(t *testing.T) {
	var m machine
	v := [NumSignals]float64{}
	v[Throttled] = -1
	for i := range 20 {
		m.take(v, i)
	}
	v[Throttled] = 0.9
	for i := range 5 {
		if m.take(v, 20+i); !m.raised[Throttled] || m.usual[Throttled] != 0 {
			t.Errorf("window %d: raised %v, usually %v", i, m.raised[Throttled], m.usual[Throttled])
		}
	}
}

func TestLearning(t *testing.T) {
	w, d := newWorld(7), New()
	said := map[string]bool{}
	for range learnWindows + 2 {
		d.Observe(w.window())
		said[d.Learning().Quiet()] = true
	}
	for _, want := range []string{"still learning what is usual: 1 of 18 windows of ten seconds", "still learning what is usual: 17 of 18 windows of ten seconds", "nothing is slower than usual"} {
		if !said[want] {
			t.Errorf("never %q: %v", want, said)
		}
	}
	if l := d.Learning(); l.Judged != 9 || l.Waiting != 0 || l.Windows != l.Needed {
		t.Errorf("%+v", l)
	}
	if d.Observe(Observation{}); d.Learning().Quiet() != "no requests are seen: there is nothing to judge" {
		t.Error(d.Learning().Quiet())
	}
	for _, n := range []int{1, 4} {
		if got := (Learning{Judged: 1, Waiting: n}).Quiet(); !strings.HasPrefix(got, "nothing is slower than usual; of ") {
			t.Error(got)
		}
	}
}

// Neighbours that do not use the disk are well while it is slow: that speaks
// neither for the application nor against it. Another version that is well does.
func TestDisk(t *testing.T) {
	for _, tt := range []struct {
		slow  []string
		cause Cause
	}{{[]string{"other"}, Node}, {[]string{"billing-v2"}, Version}} {
		w, d := newWorld(3), New()
		for range 30 {
			d.Observe(w.window())
		}
		for _, name := range tt.slow {
			w.code[name] = w.sometimes(0.3, 0.1)
		}
		// What a real machine showed while four programs wrote and synced beside a
		// workload that writes for each request (2026-11-23).
		var x [NumSignals]float64
		x[IOWait], x[IOStall], x[CPUStall], x[RunQueue] = 0.318, 0.771, 0.588, 0.242
		w.signals["m2"] = x
		var got []Diagnosis
		for range 3 {
			got = d.Observe(w.window())
		}
		found := false
		for _, g := range got {
			found = found || g.Cause == tt.cause && g.Workload.Workload == tt.slow[0]
			if g.Cause == Node && (g.Signal != "io-wait" || !strings.Contains(strings.Join(g.Evidence, "; "), "who does not use the disk does not wait for it")) {
				t.Errorf("%+v", g)
			}
		}
		if !found {
			t.Errorf("%v is not put down to %s: %+v", tt.slow, tt.cause, got)
		}
	}
}

// What a real CPU limit of 22 % of a CPU did to a whole machine's mesh (2026-11-23):
// all wait, and the limit is named before the pressure that comes of it.
func TestLimitOfAll(t *testing.T) {
	w, d := newWorld(4), New()
	for range 30 {
		o := w.window()
		for id, s := range o.Machines {
			s.Value[Throttled], s.Value[CPUStall], s.Value[RunQueue] = -1, 0.353, 0.101
			o.Machines[id] = s
		}
		if got := d.Observe(o); len(got) > 0 {
			t.Errorf("before: %+v", got)
		}
	}
	for _, name := range []string{"billing-v1", "billing-v2", "other", "store", "frontend"} {
		w.code[name] = w.sometimes(0.2, 0.09)
	}
	var got []Diagnosis
	for range 3 {
		o := w.window()
		for id, s := range o.Machines {
			s.Value[Throttled], s.Value[CPUStall], s.Value[RunQueue], s.Value[Late] = 0.9, 0.954, 1.78, 1
			o.Machines[id] = s
		}
		got = d.Observe(o)
	}
	named := map[string]bool{}
	for _, g := range got {
		if g.Cause == Node && g.Signal != "cpu-limit" || g.Cause == Application || g.Cause == Version {
			t.Errorf("%+v", g)
		}
		named[g.Workload.Workload] = g.Cause == Node
	}
	if !named["store"] || !named["other"] {
		t.Errorf("%+v", got)
	}
}

func TestReadAndBetween(t *testing.T) {
	files := fstest.MapFS{
		"proc/sys/kernel/random/boot_id": {Data: []byte("abc\n")},
		"proc/stat":                      {Data: []byte("cpu 100 0 0 800 0 0 0 0\n")},
		"proc/pressure/io":               {Data: []byte("some avg10=0 avg60=0 avg300=0 total=1000000\nfull avg10=0 avg60=0 avg300=0 total=0\n")},
	}
	at := time.Unix(100, 0)
	now := at
	r := metrics.New(metrics.Options{})
	host.Export(r, host.NewSampler(files), &host.Lateness{}, func() time.Time { return now })
	scrape := func() Counters {
		var b bytes.Buffer
		if _, err := r.WriteTo(&b); err != nil {
			t.Fatal(err)
		}
		c, err := Read(b.Bytes(), now)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	a := scrape()
	now = at.Add(10 * time.Second)
	files["proc/stat"].Data = []byte("cpu 1000 0 0 900 0 0 0 1000\n")
	files["proc/pressure/io"].Data = []byte("some avg10=0 avg60=0 avg300=0 total=6000000\n")
	got := Between(a, scrape())
	if got.Boot != "abc" || got.Value[Steal] != 0.5 || got.Value[IOStall] != 0.5 || got.Value[Throttled] != -1 || got.Value[CPUStall] != -1 {
		t.Errorf("%+v", got)
	}
}

func TestReadRefuses(t *testing.T) {
	for _, body := range []string{
		"seine_host_cpu_seconds_total{mode=\"steal\"}",
		"seine_host_cpu_seconds_total{mode=\"steal\"} x\n",
		"seine_host_cpu_seconds_total{mode=\"steal\"} -1\n",
		"seine_host_cpu_seconds_total{mode=\"steal\"} NaN\n",
		"seine_host_info{boot=\"steal\"} 1\n",
	} {
		if _, err := Read([]byte(body), time.Time{}); !errors.Is(err, ErrSyntax) {
			t.Errorf("%q: %v", body, err)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte("seine_host_cpu_seconds_total{mode=\"steal\"} 1\nseine_host_info{boot_id=\"a\"} 1\n"))
	f.Add([]byte("seine_process_timer_checks_total 1e3\n# comment\nother 1\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Read(b, time.Unix(1, 0))
		if err != nil {
			return
		}
		d := c
		d.At = d.At.Add(time.Second)
		for s, v := range Between(c, d).Value {
			if v != v || v > 1e9 {
				t.Errorf("%s is %v", Signal(s), v)
			}
		}
	})
}
