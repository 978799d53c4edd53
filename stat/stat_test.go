package stat

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/telemetry"
	"github.com/seinemesh/seine/telemetry/metrics"
)

var update = flag.Bool("update", false, "write the golden files")

var epoch = time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)

func at(seconds int) time.Time { return epoch.Add(time.Duration(seconds) * time.Second) }

// proxy is a sidecar whose metrics can be counted and scraped.
type proxy struct {
	name string
	reg  *metrics.Registry
	s    *metrics.Shard
}

func newProxy(name string) *proxy {
	r := metrics.New(metrics.Options{})
	return &proxy{name, r, r.Shard()}
}

func (p *proxy) scrape(t testing.TB, w *Window, seconds int) {
	t.Helper()
	var b bytes.Buffer
	if _, err := p.reg.WriteOnly(&b, Families()...); err != nil {
		t.Fatal(err)
	}
	if err := w.Add(p.name, at(seconds), b.Bytes()); err != nil {
		t.Fatal(err)
	}
}

func workload(name, sa, version string) *seinev1.Workload {
	return &seinev1.Workload{Namespace: "default", Workload: name, Version: version,
		Identity: "spiffe://cluster.local/ns/default/sa/" + sa}
}

var (
	frontend = workload("frontend", "frontend", "")
	billing1 = workload("billing-v1", "billing", "v1")
	billing2 = workload("billing-v2", "billing", "v2")
)

func edge(r telemetry.Reporter, src, dst *seinev1.Workload) *telemetry.RequestLabels {
	l := &telemetry.RequestLabels{Reporter: r, Source: src, Destination: dst,
		Service: "billing-service.default.svc.cluster.local", ServiceName: "billing-service",
		ServiceNamespace: "default", Protocol: telemetry.ProtocolHTTP}
	if r == telemetry.Destination {
		l.Security = telemetry.SecurityMutualTLS
		if src == nil {
			l.Security = telemetry.SecurityNone
		}
	}
	return l
}

func near(t *testing.T, what string, got, want float64) {
	t.Helper()
	if math.Abs(got-want) > 1e-6*max(1, math.Abs(want)) {
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}

// story is the canary: 90 % to v1, 10 % to v2, a plaintext caller, a failure.
func story(t testing.TB) *Table {
	w := NewWindow(10 * time.Second)
	client, server1, server2 := newProxy("default/frontend-1"), newProxy("default/billing-v1-1"), newProxy("default/billing-v2-1")
	all := []*proxy{client, server1, server2}
	client.s.Requests(edge(telemetry.Source, frontend, billing1)).Observe(200, telemetry.FlagNone, 400, 0, 10)
	for _, p := range all {
		p.scrape(t, w, 0)
	}
	for i := range 900 {
		us := int64(201 + i%50)
		if i%100 == 0 {
			us = 9000
		}
		client.s.Requests(edge(telemetry.Source, frontend, billing1)).Observe(200, telemetry.FlagNone, us+100, 0, 10)
		server1.s.Requests(edge(telemetry.Destination, frontend, billing1)).Observe(200, telemetry.FlagNone, us, 0, 10)
	}
	for i := range 100 {
		code := 200
		if i == 0 {
			code = 500
		}
		client.s.Requests(edge(telemetry.Source, frontend, billing2)).Observe(code, telemetry.FlagNone, 1200, 0, 10)
		server2.s.Requests(edge(telemetry.Destination, frontend, billing2)).Observe(code, telemetry.FlagNone, 1100, 0, 10)
	}
	ledger := edge(telemetry.Source, billing1, workload("ledger", "ledger", "v1"))
	ledger.Service, ledger.ServiceName, ledger.Protocol = "ledger.default.svc.cluster.local", "ledger", telemetry.ProtocolTCP
	c := server1.s.TCP(ledger)
	for range 20 {
		c.Opened()
		c.Received(1 << 20)
		c.Sent(2048)
	}
	for range 15 {
		c.Closed(telemetry.FlagNone)
	}
	for _, p := range all {
		p.scrape(t, w, 10)
	}
	return w.Table(at(11))
}

func TestCanary(t *testing.T) {
	table := story(t)
	if table.Instances != 3 || table.WindowSeconds != 10 {
		t.Errorf("%d instances over %v s", table.Instances, table.WindowSeconds)
	}
	if len(table.Services) != 3 || len(table.Edges) != 3 {
		t.Fatalf("%d services, %d edges: %+v", len(table.Services), len(table.Edges), table)
	}
	v1, v2, ledger := table.Services[0], table.Services[1], table.Services[2]
	near(t, "rps of v1", v1.RPS, 90)
	near(t, "share of v1", v1.Share, 0.9)
	near(t, "success of v1", *v1.Success, 1)
	near(t, "rps of v2", v2.RPS, 10)
	near(t, "share of v2", v2.Share, 0.1)
	near(t, "success of v2", *v2.Success, 0.99)
	if l := v1.Latency; l.P50 < 0.3 || l.P50 > 0.4 || l.P99 < 0.3 {
		t.Errorf("v1's latency %+v, want the client's P50 of 0.3 ms", l)
	}
	if v1.MTLS != MTLSYes || v1.Sources[0] != frontend.Identity || v1.Destinations[0] != billing1.Identity {
		t.Errorf("v1's protection: %+v", v1)
	}
	if tcp := ledger.TCP; ledger.MTLS != MTLSYes || tcp == nil || tcp.Open != 5 || tcp.OpenedPerSecond != 2 || tcp.SentPerSecond != 4096 {
		t.Errorf("ledger: %+v %+v", ledger, tcp)
	}
	if e := table.Edges[0]; e.Reporter != "source" || e.Source.Workload != "frontend" || e.Destination.Workload != "billing-v1" {
		t.Errorf("first edge %+v", e)
	}
}

func TestPlaintextIsSeen(t *testing.T) {
	w := NewWindow(5 * time.Second)
	server, client := newProxy("s"), newProxy("c")
	server.scrape(t, w, 0)
	client.scrape(t, w, 0)
	for range 10 {
		server.s.Requests(edge(telemetry.Destination, nil, billing1)).Observe(200, telemetry.FlagNone, 100, 0, 0)
		server.s.Requests(edge(telemetry.Destination, frontend, billing1)).Observe(200, telemetry.FlagNone, 100, 0, 0)
		client.s.Requests(edge(telemetry.Source, frontend, billing1)).Observe(200, telemetry.FlagNone, 100, 0, 0)
	}
	server.scrape(t, w, 1)
	client.scrape(t, w, 1)
	table := w.Table(at(1))
	got := map[string]string{}
	for _, e := range table.Edges {
		got[e.Source.Workload+" "+e.Reporter] = e.MTLS
	}
	if len(got) != 2 || got["unknown destination"] != MTLSNo || got["frontend source"] != MTLSYes {
		t.Errorf("edges %v", got)
	}
	if s := table.Services; len(s) != 1 || s[0].MTLS != MTLSMixed || s[0].RPS != 20 {
		t.Errorf("services %+v", s)
	}
}

func TestFailures(t *testing.T) {
	w := NewWindow(5 * time.Second)
	p := newProxy("c")
	p.scrape(t, w, 0)
	h := p.s.Requests(edge(telemetry.Source, frontend, nil))
	h.Observe(503, telemetry.FlagUH, 10, 0, 0)
	h.Observe(0, telemetry.FlagUC, 10, 0, 0)
	h.Observe(0, telemetry.FlagDC, 10, 0, 0) // the client's own doing
	h.Observe(404, telemetry.FlagNone, 10, 0, 0)
	p.scrape(t, w, 1)
	s := w.Table(at(1)).Services
	if len(s) != 1 || s[0].Version != "unknown" || s[0].MTLS != MTLSUnknown {
		t.Fatalf("services %+v", s)
	}
	near(t, "success", *s[0].Success, 0.5)
	p.scrape(t, w, 20)
	p.scrape(t, w, 30)
	if s := w.Table(at(30)).Services; len(s) != 0 {
		t.Errorf("failures of long ago are still a row: %+v", s)
	}
}

func TestWindowMovesAndRestarts(t *testing.T) {
	w := NewWindow(10 * time.Second)
	p := newProxy("c")
	rps := func(now int) float64 {
		table := w.Table(at(now))
		if len(table.Services) != 1 {
			t.Fatalf("at %d: %+v", now, table.Services)
		}
		return table.Services[0].RPS
	}
	count := func(n int) {
		for range n {
			p.s.Requests(edge(telemetry.Source, frontend, billing1)).Observe(200, telemetry.FlagNone, 100, 0, 0)
		}
	}
	count(1000) // of before the first scrape
	for s := range 31 {
		p.scrape(t, w, s)
		count(7)
	}
	near(t, "steady rate", rps(30), 7)
	if n := len(w.instances["c"].scrapes); n != 11 {
		t.Errorf("%d scrapes kept, want 11", n)
	}
	p = newProxy("c") // the proxy starts anew
	count(3)
	p.scrape(t, w, 31)
	near(t, "rate over a restart", rps(31), (9*7+3)/10.)
	if got := w.Table(at(42)); got.Instances != 0 || len(got.Services) != 0 {
		t.Errorf("an instance that is gone counts: %+v", got)
	}
	w.Remove("c")
	if len(w.instances) != 0 {
		t.Error("Remove keeps the instance")
	}
}

func TestOneScrapeHasNoRate(t *testing.T) {
	w := NewWindow(time.Second)
	p := newProxy("c")
	p.s.Requests(edge(telemetry.Source, frontend, billing1)).Observe(200, telemetry.FlagNone, 100, 0, 0)
	p.scrape(t, w, 0)
	s := w.Table(at(0)).Services
	if len(s) != 1 || s[0].RPS != 0 || s[0].Success != nil || s[0].Latency != nil {
		t.Errorf("%+v", s)
	}
	if _, err := json.Marshal(w.Table(at(0))); err != nil {
		t.Error(err)
	}
}

func TestBadBodies(t *testing.T) {
	good := `istio_requests_total{reporter="source",source_workload="a\"b\\c\nd",response_code="200"} 5 1700000000` + "\n"
	for name, body := range map[string]string{
		"no end of labels": `istio_requests_total{reporter="source" 5`,
		"no value":         `istio_requests_total{reporter="source"}`,
		"no number":        `istio_requests_total{reporter="source"} x`,
		"negative":         `istio_requests_total{reporter="source"} -1`,
		"NaN":              `istio_requests_total{reporter="source"} NaN`,
		"no quote":         `istio_requests_total{reporter=source} 1`,
		"no comma":         `istio_requests_total{reporter="a"b="c"} 1`,
		"bad escape":       `istio_requests_total{reporter="a\x"} 1`,
		"no bound":         `seine_request_duration_seconds_bucket{reporter="a"} 1`,
		"bad bound":        `seine_request_duration_seconds_bucket{le="a"} 1`,
		"no name":          `istio_requests_total{="a"} 1`,
	} {
		t.Run(name, func(t *testing.T) {
			w := NewWindow(time.Minute)
			if err := w.Add("p", at(0), []byte(good)); err != nil {
				t.Fatal(err)
			}
			err := w.Add("p", at(1), []byte(strings.Replace(good, "200", "201", 1)+body))
			if !errors.Is(err, ErrSyntax) {
				t.Errorf("error %v", err)
			}
			in := w.instances["p"]
			if len(in.series) != 1 || len(in.index) != 1 || len(in.scrapes) != 1 {
				t.Errorf("the window changed: %+v", in)
			}
			if got := in.series[0].edge.source.Workload; got != "a\"b\\c\nd" {
				t.Errorf("label %q", got)
			}
		})
	}
	w := NewWindow(time.Minute)
	if err := w.Add("p", at(1), nil); err != nil {
		t.Fatal(err)
	}
	if err := w.Add("p", at(1), nil); err == nil {
		t.Error("a scrape of the same time was taken")
	}
	if err := w.Add("p", at(2), []byte("# a comment\nother_metric 5\nistio_requests_totals{a=\"b\"} x\n\n")); err != nil {
		t.Errorf("lines of others are judged: %v", err)
	}
}

func TestQuantiles(t *testing.T) {
	inf := math.Inf(1)
	for _, c := range []struct {
		buckets map[float64]float64
		want    string
	}{
		{nil, "-"},
		{map[float64]float64{1: 0, inf: 0}, "-"},
		{map[float64]float64{1: 100, inf: 100}, "500 900 990"},
		{map[float64]float64{0.001: 50, 0.01: 90, 0.1: 100, inf: 100}, "1 10 91"},
		{map[float64]float64{0.001: 0, 0.01: 100, inf: 100}, "5.5 9.1 9.91"},
		{map[float64]float64{0.001: 10, inf: 100}, "1 1 1"},
	} {
		got := "-"
		if l := quantiles(c.buckets); l != nil {
			got = fmt.Sprintf("%.4g %.4g %.4g", l.P50, l.P90, l.P99)
		}
		if got != c.want {
			t.Errorf("%v: %s, want %s", c.buckets, got, c.want)
		}
	}
}

func TestText(t *testing.T) {
	table := story(t)
	b, err := json.Marshal(table) // as the CLI gets it
	if err != nil {
		t.Fatal(err)
	}
	var back Table
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	back.Services[2].Name += "\x1b[31m" // must not reach the terminal
	for name, o := range map[string]TextOptions{
		"plain": {}, "wide": {Wide: true}, "narrow": {Width: 60}, "color": {Color: true},
	} {
		var b bytes.Buffer
		if err := back.WriteText(&b, o); err != nil {
			t.Fatal(err)
		}
		golden := "testdata/" + name + ".txt"
		if *update {
			if err := os.WriteFile(golden, b.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if b.String() != string(want) {
			t.Errorf("%s changed; run with -update and read the difference:\n%s", name, b.String())
		}
		if !o.Color && strings.Contains(b.String(), "\x1b") {
			t.Errorf("%s has escape sequences", name)
		}
	}
	var empty bytes.Buffer
	if err := (&Table{}).WriteText(&empty, TextOptions{}); err != nil || !strings.Contains(empty.String(), "no traffic") {
		t.Errorf("an empty table is %q", empty.String())
	}
}

func TestFormats(t *testing.T) {
	for _, c := range [][2]string{
		{success(1), "100.0%"}, {success(0.99999), "99.9%"}, {success(0.5), "50.0%"}, {success(0), "0.0%"},
		{duration(0.3), "0.30ms"}, {duration(12.34), "12.3ms"}, {duration(1234), "1234ms"}, {duration(12345), "12.3s"},
		{size(0), "0B"}, {size(2048), "2KiB"}, {size(3 << 30), "3GiB"},
	} {
		if c[0] != c[1] {
			t.Errorf("%s, want %s", c[0], c[1])
		}
	}
}

func FuzzAdd(f *testing.F) {
	f.Add([]byte(`istio_requests_total{reporter="source",response_code="200"} 5` + "\n"))
	f.Add([]byte(`seine_request_duration_seconds_bucket{reporter="a\\\"\n",le="+Inf"} 1e3`))
	f.Add([]byte(`istio_tcp_sent_bytes_total{} 0`))
	f.Fuzz(func(t *testing.T, body []byte) {
		w := NewWindow(time.Minute)
		if w.Add("p", at(0), body) != nil {
			return
		}
		if err := w.Add("p", at(1), body); err != nil {
			t.Errorf("refused at the second time: %v", err)
		}
		if _, err := json.Marshal(w.Table(at(1))); err != nil {
			t.Error(err)
		}
	})
}

func BenchmarkAdd(b *testing.B) {
	p := newProxy("p")
	for i := range 10 {
		l := edge(telemetry.Source, frontend, billing1)
		l.Service = fmt.Sprintf("s%d", i)
		p.s.Requests(l).Observe(200, telemetry.FlagNone, 100, 0, 0)
	}
	var body bytes.Buffer
	if _, err := p.reg.WriteOnly(&body, Families()...); err != nil {
		b.Fatal(err)
	}
	w := NewWindow(10 * time.Second)
	b.SetBytes(int64(body.Len()))
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if err := w.Add("p", at(i), body.Bytes()); err != nil {
			b.Fatal(err)
		}
	}
}

func TestVitals(t *testing.T) {
	body := `# HELP istio_build x
istio_build{component="proxy",tag="0.4.0"} 1
process_resident_memory_bytes 1.5e+07
process_cpu_seconds_total 3.25
seine_proxy_certificate_expiry_seconds 1.8e9
seine_upstream_connections{cluster="outbound|80|v1|a.b"} 2
seine_upstream_connections{cluster="outbound|80|v2|a.b"} 3
seine_circuit_breaker_refused_total{cluster="outbound|80|v1|a.b",limit="tcp.maxConnections"} 7
seine_circuit_breaker_refused_total{cluster="strange",limit="tcp.maxConnections"} 7
other_metric nonsense
`
	v, err := ReadVitals([]byte(body))
	if err != nil {
		t.Fatal(err)
	}
	if v.Version != "0.4.0" || v.Memory != 1.5e7 || v.CPUSeconds != 3.25 || v.CertificateNotAfter != 1.8e9 || v.Connections != 5 ||
		len(v.Refused) != 1 || v.Refused[Bound{"a.b", 80, "v1", "tcp.maxConnections"}] != 7 {
		t.Errorf("%+v", v)
	}
	for _, bad := range []string{"process_cpu_seconds_total x\n", "process_cpu_seconds_total -1\n", "istio_build{tag=\"x\n", "istio_build{tag=x} 1\n", "process_cpu_seconds_total NaN\n"} {
		if _, err := ReadVitals([]byte(bad)); !errors.Is(err, ErrSyntax) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func FuzzVitals(f *testing.F) {
	f.Add([]byte("istio_build{tag=\"a\"} 1\nprocess_cpu_seconds_total 2\nseine_circuit_breaker_refused_total{cluster=\"outbound|80||h\",limit=\"x\"} 3\n"))
	f.Fuzz(func(t *testing.T, body []byte) {
		if v, err := ReadVitals(body); err == nil && (v.Memory < 0 || len(v.Refused) > maxBounds) {
			t.Errorf("%+v", v)
		}
	})
}

// TestFlowsMeet: spans that meet count each request once, and together as much as
// the window.
func TestFlowsMeet(t *testing.T) {
	w := NewWindow(time.Minute)
	begin := time.Unix(1_800_000_000, 0)
	for i := range 11 {
		body := fmt.Sprintf("istio_requests_total{reporter=\"source\",destination_service=\"a.b\",request_protocol=\"grpc\",response_code=\"200\"} %d\n", i*i)
		if err := w.Add("shop/x", begin.Add(time.Duration(i)*time.Second), []byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	total := 0.0
	for cut := 0; cut < 10; cut += 3 {
		end := min(cut+3, 10)
		// A later span must not see what came before, nor an earlier one what follows:
		// the store asks at the end of each.
		for _, f := range w.Flows(begin.Add(10*time.Second), begin.Add(time.Duration(cut)*time.Second)) {
			if want := float64(100 - cut*cut); f.Requests != want || f.Protocol() != "grpc" {
				t.Errorf("from %d: %g requests of %s, want %g", cut, f.Requests, f.Protocol(), want)
			}
		}
		total += float64(end*end - cut*cut)
	}
	if all := w.Flows(begin.Add(10*time.Second), time.Time{}); len(all) != 1 || all[0].Requests != total {
		t.Errorf("%+v, want %g requests", all, total)
	}
	if late := w.Flows(begin.Add(10*time.Second), begin.Add(10*time.Second)); len(late) != 0 {
		t.Errorf("nothing was scraped since: %+v", late)
	}
}
