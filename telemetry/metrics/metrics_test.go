package metrics

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/telemetry"
)

var update = flag.Bool("update", false, "write the golden files")

func labels() *telemetry.RequestLabels {
	return &telemetry.RequestLabels{
		Reporter: telemetry.Destination,
		Source: &seinev1.Workload{
			Namespace: "default", Workload: "frontend", App: "frontend", Version: "v1",
			CanonicalService: "frontend", CanonicalRevision: "v1", Cluster: "Kubernetes",
			Identity: "spiffe://cluster.local/ns/default/sa/frontend",
		},
		Destination: &seinev1.Workload{
			Namespace: "default", Workload: "billing-v2", App: "billing-service", Version: "v2",
			CanonicalService: "billing-service", CanonicalRevision: "v2", Cluster: "Kubernetes",
			Identity: "spiffe://cluster.local/ns/default/sa/billing",
		},
		Service:     "billing-service.default.svc.cluster.local",
		ServiceName: "billing-service", ServiceNamespace: "default",
		Protocol: telemetry.ProtocolHTTP, Security: telemetry.SecurityMutualTLS,
	}
}

// TestLint holds our own names to Prometheus's conventions; Istio's are theirs.
func TestLint(t *testing.T) {
	r := New(Options{Component: "proxy", Version: "1"})
	r.Shard().Requests(labels()).Observe(200, telemetry.FlagNone, 1, 1, 1)
	r.Shard().TCP(labels()).Opened()
	var b bytes.Buffer
	if _, err := r.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.New(&b).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if !strings.HasPrefix(p.Metric, "istio_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

func parse(t *testing.T, text []byte) map[string]*dto.MetricFamily {
	t.Helper()
	p := expfmt.NewTextParser(model.LegacyValidation)
	f, err := p.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		t.Fatalf("Prometheus's parser refuses the exposition: %v\n%s", err, text)
	}
	return f
}

func scrape(t *testing.T, r *Registry) map[string]*dto.MetricFamily {
	t.Helper()
	var b bytes.Buffer
	if _, err := r.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	return parse(t, b.Bytes())
}

func label(m *dto.Metric, name string) string {
	for _, l := range m.Label {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}

func TestExposition(t *testing.T) {
	r := New(Options{Component: "proxy", Version: "1.2.3"})
	h := r.Shard().Requests(labels())
	h.Observe(200, telemetry.FlagNone, 300, 0, 1024)
	h.Observe(200, telemetry.FlagNone, 700, 17, 1024)
	h.Observe(503, telemetry.FlagUF, 2_000_000, 0, 91)
	h.ObserveGRPC(200, 14, telemetry.FlagNone, 51, 5, 0)
	l := labels()
	l.Protocol = telemetry.ProtocolTCP
	c := r.Shard().TCP(l)
	c.Opened()
	c.Sent(1000)
	c.Received(20)
	c.Closed(telemetry.FlagUF)
	r.Counter("seine_connections_total", "Connections.", "side", "inbound").Add(3)
	r.Gauge("seine_connections", `A "help" with \ and`+"\nnew line.").Set(-2)
	r.GaugeFunc("seine_ratio", "Half.", func() float64 { return 0.5 })

	var b bytes.Buffer
	names := []string{"seine_connections_total", "seine_connections", "seine_ratio",
		telemetry.RequestsTotal, telemetry.RequestDuration, telemetry.RequestBytes,
		telemetry.ResponseBytes, telemetry.FineDuration, telemetry.TCPSentBytes, telemetry.TCPReceivedBytes,
		telemetry.TCPConnectionsOpened, telemetry.TCPConnectionsClosed, telemetry.Build, telemetry.MetricsOverflow}
	if _, err := r.WriteOnly(&b, names...); err != nil {
		t.Fatal(err)
	}
	const golden = "testdata/exposition.txt"
	if *update {
		if err := os.WriteFile(golden, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b.Bytes(), want) {
		t.Errorf("the exposition changed; run with -update and read the difference:\n%s", b.String())
	}
	if got := parse(t, b.Bytes()); len(got) != len(names) {
		t.Errorf("%d families, want %d", len(got), len(names))
	}
	whole := scrape(t, r)
	for _, n := range append(names, "go_goroutines", "go_info", "process_cpu_seconds_total",
		"process_resident_memory_bytes", "process_open_fds", "process_max_fds", "process_start_time_seconds") {
		if whole[n] == nil {
			t.Errorf("no %s", n)
		}
	}
}

// TestIstioNames holds the names and labels that dashboards made for Istio ask for.
func TestIstioNames(t *testing.T) {
	r := New(Options{})
	r.Shard().Requests(labels()).Observe(200, telemetry.FlagNone, 1, 1, 1)
	m := scrape(t, r)["istio_requests_total"].Metric[0]
	want := map[string]string{
		"reporter": "destination", "source_workload": "frontend", "source_canonical_service": "frontend",
		"source_canonical_revision": "v1", "source_workload_namespace": "default",
		"source_principal": "spiffe://cluster.local/ns/default/sa/frontend", "source_app": "frontend",
		"source_version": "v1", "source_cluster": "Kubernetes", "destination_workload": "billing-v2",
		"destination_workload_namespace": "default",
		"destination_principal":          "spiffe://cluster.local/ns/default/sa/billing",
		"destination_app":                "billing-service", "destination_version": "v2",
		"destination_service":           "billing-service.default.svc.cluster.local",
		"destination_canonical_service": "billing-service", "destination_canonical_revision": "v2",
		"destination_service_name": "billing-service", "destination_service_namespace": "default",
		"destination_cluster": "Kubernetes", "request_protocol": "http", "response_code": "200",
		"grpc_response_status": "", "response_flags": "-", "connection_security_policy": "mutual_tls",
	}
	if len(m.Label) != len(want) {
		t.Errorf("%d labels, want %d", len(m.Label), len(want))
	}
	for _, l := range m.Label {
		if w, ok := want[l.GetName()]; !ok || w != l.GetValue() {
			t.Errorf("label %s=%q, want %q", l.GetName(), l.GetValue(), w)
		}
	}
}

func TestUnknownParties(t *testing.T) {
	r := New(Options{})
	l := &telemetry.RequestLabels{Protocol: telemetry.ProtocolHTTP, Security: telemetry.SecurityNone,
		Destination: labels().Destination}
	r.Shard().Requests(l).Observe(200, telemetry.FlagNone, 1, 1, 1)
	m := scrape(t, r)["istio_requests_total"].Metric[0]
	for _, n := range []string{"source_workload", "source_principal", "source_canonical_revision", "destination_principal", "destination_service"} {
		if got := label(m, n); got != "unknown" {
			t.Errorf("%s = %q, want unknown", n, got)
		}
	}
}

// TestBuckets holds that both readings of the one histogram are those that
// separate histograms with their bounds would give.
func TestBuckets(t *testing.T) {
	for i, b := range istioBounds {
		if coarse[i] == 0 {
			t.Fatalf("Istio's bound %s ms is not among ours", b.text)
		}
	}
	values := []int64{math.MinInt64, -1, 0, 1, math.MaxInt64}
	for _, b := range durationBounds {
		values = append(values, b-1, b, b+1)
	}
	for _, v := range values {
		got := durationBucket(v)
		want := 0
		for want < len(durationBounds) && v > durationBounds[want] {
			want++
		}
		if got != want {
			t.Errorf("duration %d falls into bucket %d, want %d", v, got, want)
		}
	}
	for v := int64(0); v < 4_000_000; v += 1 + v/50 {
		got := sizeBucket(v)
		want := 0
		for want < len(istioBounds) && v > istioBounds[want].value {
			want++
		}
		if got != want {
			t.Errorf("size %d falls into bucket %d, want %d", v, got, want)
		}
	}
}

func TestHistogramReadings(t *testing.T) {
	r := New(Options{})
	h := r.Shard().Requests(labels())
	var sumMillis float64
	durations := []int64{0, 499, 500, 501, 999, 1000, 1001, 4999, 5000, 5001, 3_600_000_000, 3_600_000_001}
	for _, d := range durations {
		h.Observe(200, telemetry.FlagNone, d, 0, 0)
		sumMillis += float64(d) / 1000
	}
	f := scrape(t, r)
	hist := f["istio_request_duration_milliseconds"].Metric[0].Histogram
	for _, b := range hist.Bucket {
		var want uint64
		for _, d := range durations {
			if float64(d)/1000 <= b.GetUpperBound() {
				want++
			}
		}
		if b.GetCumulativeCount() != want {
			t.Errorf("le=%v: %d, want %d", b.GetUpperBound(), b.GetCumulativeCount(), want)
		}
	}
	if hist.GetSampleCount() != uint64(len(durations)) || math.Abs(hist.GetSampleSum()-sumMillis) > 0.001 {
		t.Errorf("count %d sum %v, want %d %v", hist.GetSampleCount(), hist.GetSampleSum(), len(durations), sumMillis)
	}
	fine := f["seine_request_duration_seconds"].Metric[0].Histogram
	if n := len(fine.Bucket); n > 60 {
		t.Errorf("%d fine buckets", n)
	}
	if math.Abs(fine.GetSampleSum()-sumMillis/1000) > 1e-6 {
		t.Errorf("fine sum %v, want %v", fine.GetSampleSum(), sumMillis/1000)
	}
}

func TestShardsMerge(t *testing.T) {
	r := New(Options{})
	a, b := r.Shard(), r.Shard()
	ha, hb := a.Requests(labels()), b.Requests(labels())
	if a.Requests(labels()) != ha {
		t.Error("the second look-up gives another handle")
	}
	for range 3 {
		ha.Observe(200, telemetry.FlagNone, 10, 1, 2)
		hb.Observe(200, telemetry.FlagNone, 10, 1, 2)
	}
	ha.Observe(404, telemetry.FlagNR, 10, 1, 2)
	hb.Observe(503, telemetry.FlagUH, 10, 1, 2)
	got := map[string]float64{}
	for _, m := range scrape(t, r)["istio_requests_total"].Metric {
		got[label(m, "response_code")+" "+label(m, "response_flags")] = m.Counter.GetValue()
	}
	want := map[string]float64{"200 -": 6, "404 NR": 1, "503 UH": 1}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("merged %v, want %v", got, want)
	}
}

func TestOverflow(t *testing.T) {
	r := New(Options{MaxSeries: 10})
	s := r.Shard()
	l := labels()
	for i := range 1000 {
		l.Service = fmt.Sprintf("svc-%d", i)
		s.Requests(l).Observe(200, telemetry.FlagNone, 1, 1, 1)
	}
	for i := range 1000 {
		s.Requests(labels()).Observe(i, telemetry.FlagNone, 1, 1, 1)
	}
	s.Requests(labels()).Observe(-7, telemetry.FlagNone, 1, 1, 1)
	s.Requests(labels()).Observe(70000, telemetry.FlagNone, 1, 1, 1)
	f := scrape(t, r)
	var total, over float64
	var xx bool
	for _, m := range f["istio_requests_total"].Metric {
		total += m.Counter.GetValue()
		if label(m, "destination_service") == "overflow" {
			over += m.Counter.GetValue()
		}
		xx = xx || label(m, "response_code") == "5xx"
	}
	if total != 2002 {
		t.Errorf("%v requests counted, want 2002", total)
	}
	if over != 990+1002 || !xx {
		t.Errorf("%v requests in the overflow series, want 1992; by class: %v", over, xx)
	}
	if n := len(f["istio_requests_total"].Metric); n > 10+maxOutcomes+6 {
		t.Errorf("%d series", n)
	}
	for _, m := range f["seine_metrics_overflow_total"].Metric {
		if m.Counter.GetValue() == 0 {
			t.Errorf("overflow of %s is not counted", label(m, "kind"))
		}
	}
}

func TestEscaping(t *testing.T) {
	r := New(Options{})
	l := labels()
	l.Service = "a\"b\\c\nd\xff" + strings.Repeat("é", 1000)
	r.Shard().Requests(l).Observe(200, telemetry.FlagNone, 1, 1, 1)
	got := label(scrape(t, r)["istio_requests_total"].Metric[0], "destination_service")
	if !strings.HasPrefix(got, "a\"b\\c\nd\uFFFDé") || len(got) > 2*maxLabel {
		t.Errorf("destination_service %q", got)
	}
}

func TestScrapeWhileCounting(t *testing.T) {
	r := New(Options{})
	const loops, each = 4, 1000
	var wg sync.WaitGroup
	for i := range loops {
		s := r.Shard()
		wg.Go(func() {
			l := labels()
			for j := range each {
				if j%500 == 0 {
					l.Service = fmt.Sprintf("s%d", j/500)
				}
				s.Requests(l).Observe(200+j%7+i, telemetry.Flag(j%3), int64(j), 0, int64(j))
				s.TCP(l).Opened()
				r.Counter("seine_x_total", "X.").Inc()
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		if _, err := r.WriteTo(io.Discard); err != nil {
			t.Fatal(err)
		}
	}
	var total float64
	for _, m := range scrape(t, r)["istio_requests_total"].Metric {
		total += m.Counter.GetValue()
	}
	if total != loops*each {
		t.Errorf("%v requests counted, want %d", total, loops*each)
	}
}

func TestObserveDoesNotAllocate(t *testing.T) {
	s := New(Options{}).Shard()
	l := labels()
	h, c := s.Requests(l), s.TCP(l)
	h.Observe(200, telemetry.FlagNone, 300, 0, 1024)
	h.Observe(503, telemetry.FlagUH, 300, 0, 1024)
	if n := testing.AllocsPerRun(1000, func() {
		h.Observe(200, telemetry.FlagNone, 300, 0, 1024)
		h.Observe(503, telemetry.FlagUH, 300, 0, 1024)
		c.Opened()
		c.Sent(9)
		c.Received(9)
		c.Closed(telemetry.FlagNone)
		if s.Requests(l) != h {
			panic("another handle")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestMistakesPanic(t *testing.T) {
	for name, f := range map[string]func(r *Registry){
		"name":   func(r *Registry) { r.Counter("a-b", "") },
		"digit":  func(r *Registry) { r.Counter("1b", "") },
		"labels": func(r *Registry) { r.Counter("a", "", "x") },
		"label":  func(r *Registry) { r.Counter("a", "", "x y", "z") },
		"kind":   func(r *Registry) { r.Counter("a", ""); r.Gauge("a", "") },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			f(New(Options{}))
		})
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestWriteError(t *testing.T) {
	if _, err := New(Options{}).WriteTo(failing{}); err != io.ErrClosedPipe {
		t.Errorf("error %v", err)
	}
}

func BenchmarkObserve(b *testing.B) {
	h := New(Options{}).Shard().Requests(labels())
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		h.Observe(200, telemetry.FlagNone, int64(i&1023), 0, 1024)
	}
}

// BenchmarkScrape writes ten thousand series, as lines of the exposition: 80 label
// sets on two loops.
func BenchmarkScrape(b *testing.B) {
	r := New(Options{})
	s := r.Shard()
	s2 := r.Shard()
	l := labels()
	for i := range 80 {
		l.Service = fmt.Sprintf("svc-%d.default.svc.cluster.local", i)
		s.Requests(l).Observe(200, telemetry.FlagNone, int64(i*1000), 0, 1024)
		s2.Requests(l).Observe(200, telemetry.FlagNone, int64(i*1000), 0, 1024)
	}
	for name, write := range map[string]func(io.Writer) (int64, error){"text": r.WriteTo, "protobuf": r.WriteProtobuf} {
		b.Run(name, func(b *testing.B) {
			var buf bytes.Buffer
			_, _ = r.WriteTo(&buf)
			b.ReportAllocs()
			before := cpuTime()
			for b.Loop() {
				_, _ = write(io.Discard)
			}
			b.ReportMetric(float64(cpuTime()-before)/float64(b.N), "cpu-ns/op")
			b.ReportMetric(float64(bytes.Count(buf.Bytes(), []byte("\n"))), "lines")
		})
	}
}

// cpuTime is what this process has used.
func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func TestRoutes(t *testing.T) {
	r := New(Options{})
	one, two := r.Shard(), r.Shard()
	a := one.Route("VirtualService shop/pay[0]", "billing.shop.svc.cluster.local", 8080)
	if one.Route("VirtualService shop/pay[0]", "billing.shop.svc.cluster.local", 8080) != a {
		t.Error("a rule has two handles in a shard")
	}
	b := two.Route("VirtualService shop/pay[0]", "billing.shop.svc.cluster.local", 8080)
	a.Observe(200, telemetry.FlagNone, 90)
	a.Observe(503, telemetry.FlagUF, 90)
	b.Observe(404, telemetry.FlagNone, 1200)
	b.Observe(0, telemetry.FlagDC, 1200)
	if n := testing.AllocsPerRun(100, func() { one.Route("VirtualService shop/pay[0]", "billing.shop.svc.cluster.local", 8080) }); n > 1 {
		t.Errorf("%v allocations to find a handle", n)
	}
	if n := testing.AllocsPerRun(100, func() { b.Observe(200, telemetry.FlagNone, 1200) }); n != 0 {
		t.Errorf("%v allocations to count", n)
	}
	for i := range maxRoutes + 20 {
		one.Route(fmt.Sprintf("VirtualService shop/many[%d]", i), "billing", 80).Observe(200, telemetry.FlagNone, 1)
	}
	var out bytes.Buffer
	if _, err := r.WriteTo(&out); err != nil {
		t.Fatal(err)
	}
	text := out.String()
	const pay = `seine_route_duration_seconds_count{route="VirtualService shop/pay[0]",destination_service="billing.shop.svc.cluster.local",destination_port="8080",classification=`
	for _, want := range []string{
		pay + `"success"} 104`, pay + `"failure"} 1`,
		`seine_route_duration_seconds_bucket{route="VirtualService shop/pay[0]",destination_service="billing.shop.svc.cluster.local",destination_port="8080",classification="success",le="0.0001"} 1` + "\n",
		`seine_route_duration_seconds_count{route="overflow",destination_service="overflow",destination_port="0",classification="success"} 21` + "\n",
		telemetry.MetricsOverflow + `{kind="labels"} 21` + "\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s", want)
		}
	}
	if n := strings.Count(text, "seine_route_duration_seconds_count{"); n != maxRoutes+2 {
		t.Errorf("%d series of rules", n)
	}

	// What nobody uses goes, and begins anew.
	r.Sweep()
	a.Observe(200, telemetry.FlagNone, 1)
	if gone := r.Sweep(); gone < maxRoutes-5 {
		t.Errorf("%d rules went", gone)
	}
	r.Sweep()
	if len(r.routes) != 0 || len(r.routeByKey) != 0 {
		t.Errorf("%d rules are left", len(r.routes))
	}
	a.Observe(200, telemetry.FlagNone, 1)
	out.Reset()
	if _, err := r.WriteTo(&out); err != nil || !strings.Contains(out.String(), pay+`"success"} 1`+"\n") || strings.Contains(out.String(), `"failure"`) {
		t.Errorf("%v\n%s", err, out.String())
	}
}
