//go:build linux

package proxy

import (
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/decide"
	"github.com/seinemesh/seine/telemetry"
)

// collector takes OTLP over HTTP.
type collector struct {
	at netip.AddrPort

	mu    sync.Mutex
	spans []*tracev1.Span
}

func newCollector(t testing.TB) *collector {
	c := &collector{}
	c.at = app(t, func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		var data tracev1.TracesData
		if err != nil || r.URL.Path != "/v1/traces" || proto.Unmarshal(b, &data) != nil {
			http.Error(w, "no spans", http.StatusBadRequest)
			return
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, rs := range data.ResourceSpans {
			for _, ss := range rs.ScopeSpans {
				c.spans = append(c.spans, ss.Spans...)
			}
		}
	})
	return c
}

func (c *collector) all() []*tracev1.Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.spans)
}

// wait returns the spans once there are n of them.
func (c *collector) wait(t testing.TB, n int) []*tracev1.Span {
	t.Helper()
	eventually(t, fmt.Sprintf("%d spans", n), func() bool { return len(c.all()) >= n })
	if all := c.all(); len(all) != n {
		t.Fatalf("%d spans, want %d: %v", len(all), n, all)
	}
	return c.all()
}

// tracing is a side's, with this collector.
func (c *collector) tracing(percent float64) *seinev1.Tracing {
	return &seinev1.Tracing{
		Collector: &seinev1.Collector{Protocol: seinev1.Collector_OTLP_HTTP, Host: c.at.Addr().String(), Port: uint32(c.at.Port()), Path: "/v1/traces", Name: "test"},
		Sampling:  percent, W3C: true, MeshTags: true, KeepErrors: true,
	}
}

// trace publishes r's table with tracing, and the collector reachable.
func (c *collector) trace(t testing.TB, r *running, client, server *seinev1.Tracing) {
	t.Helper()
	table := *r.tables.Table()
	p := proto.CloneOf(table.Self.Proto)
	p.TraceClient, p.TraceServer = client, server
	s, err := decide.CompileSelf(p)
	must(t, err)
	table.Self, table.Generation = s, table.Generation+1
	answers := map[string]*decide.Answer{}
	for name, a := range table.Answers {
		answers[name] = a
	}
	pass, err := decide.CompileAnswer(&seinev1.Answer{Kind: seinev1.Answer_PASSTHROUGH})
	must(t, err)
	answers[string(decide.AppendHTTPName(nil, c.at.Port(), []byte(c.at.Addr().String())))] = pass
	answers[string(decide.AppendAddressName(nil, c.at))] = pass
	table.Answers = answers
	r.tables.publish(&table)
	eventually(t, "the loops to trace", func() bool {
		ok := make(chan bool, 1)
		for _, w := range r.workers {
			w.loop.Post(func() { ok <- w.tracer != nil && w.tracer.sides == r.tracing.now.Load() })
			if !<-ok {
				return false
			}
		}
		return true
	})
}

// tags are a span's attributes.
func tags(s *tracev1.Span) map[string]string {
	out := map[string]string{}
	for _, a := range s.Attributes {
		out[a.Key] = strings.Trim(strings.TrimSpace(strings.SplitN(a.Value.String(), ":", 2)[1]), `"`)
	}
	return out
}

func events(s *tracev1.Span) string {
	var out []string
	for _, e := range s.Events {
		line := e.Name
		for _, a := range e.Attributes {
			if a.Key == "attempt" || a.Key == "status" || a.Key == "cause" {
				line += " " + strings.Trim(strings.TrimSpace(strings.SplitN(a.Value.String(), ":", 2)[1]), `"`)
			}
		}
		out = append(out, line)
	}
	return strings.Join(out, ", ")
}

func byKind(spans []*tracev1.Span) (client, server *tracev1.Span) {
	for _, s := range spans {
		if s.Kind == tracev1.Span_SPAN_KIND_CLIENT {
			client = s
		} else {
			server = s
		}
	}
	return client, server
}

// TestTrace follows one call through two sidecars: the caller's span is the
// client sidecar's parent, that one the server sidecar's, and that one the
// application's.
func TestTrace(t *testing.T) {
	c := newCollector(t)
	heads := make(chan http.Header, 8)
	p := startPair(t, app(t, func(w http.ResponseWriter, r *http.Request) { heads <- r.Header }), nil, nil)
	c.trace(t, p.client, c.tracing(0), nil)
	server := c.tracing(0)
	server.Tags = []*seinev1.TraceTag{
		{Name: "tenant", Value: &seinev1.TraceTag_Header{Header: "x-tenant"}, Fallback: "nobody"},
		{Name: "team", Value: &seinev1.TraceTag_Literal{Literal: "payments"}},
	}
	c.trace(t, p.server, nil, server)
	d := dial(t, p.addr)
	const id, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	d.write("GET /pay?id=7 HTTP/1.1\r\nHost: billing:8080\r\ntraceparent: 00-%s-%s-01\r\ntracestate: a=1\r\nb3: %s-%s-1\r\nx-tenant: acme\r\n\r\n", id, parent, id, parent)
	if res, _ := d.response("GET"); res.StatusCode != 200 {
		t.Fatal(res.Status)
	}
	client, served := byKind(c.wait(t, 2))
	if client == nil || served == nil || fmt.Sprintf("%x %x", client.TraceId, client.ParentSpanId) != id+" "+parent ||
		string(served.TraceId) != string(client.TraceId) || string(served.ParentSpanId) != string(client.SpanId) {
		t.Fatalf("client %v\nserver %v", client, served)
	}
	h := <-heads
	mine := fmt.Sprintf("%x", served.SpanId)
	if got, want := h.Get("traceparent"), "00-"+id+"-"+mine+"-01"; got != want {
		t.Errorf("the application got %s, want %s", got, want)
	}
	if got, want := h.Get("b3"), fmt.Sprintf("%s-%s-1-%x", id, mine, client.SpanId); got != want {
		t.Errorf("the application got b3 %s, want %s", got, want)
	}
	if h.Get("tracestate") != "a=1" || served.TraceState != "a=1" || h.Get("x-b3-traceid") != "" {
		t.Errorf("%v, state %q", h, served.TraceState)
	}
	if client.Name != billing+":8080/*" || served.Name != client.Name || client.Status.Code != tracev1.Status_STATUS_CODE_UNSET {
		t.Errorf("names %q, %q, status %v", client.Name, served.Name, client.Status)
	}
	a, b := tags(client), tags(served)
	for k, want := range map[string]string{
		"http.request.method": "GET", "url.path": "/pay", "url.query": "id=7", "server.address": "billing", "server.port": "8080", "network.protocol.version": "1.1",
		"http.response.status_code": "200", "component": "proxy", "http.url": "http://billing:8080/pay?id=7", "response_flags": "-",
		"upstream_cluster": "outbound|8080||" + billing, "istio.canonical_service": "frontend", "istio.destination_workload": "billing", "node_id": "default/frontend-1",
	} {
		if a[k] != want {
			t.Errorf("client: %s is %q, want %q", k, a[k], want)
		}
	}
	for k, want := range map[string]string{
		"url.scheme": "https", "istio.source_workload": "frontend", "istio.canonical_service": "billing", "upstream_cluster": "inbound|8080||",
		"tenant": "acme", "team": "payments", "guid:x-request-id": h.Get("x-request-id"),
	} {
		if b[k] != want {
			t.Errorf("server: %s is %q, want %q", k, b[k], want)
		}
	}
	if events(client) != "seine.wait.connect" {
		t.Errorf("events of the client: %s", events(client))
	}
	p.client.shows(t, telemetry.RouteDuration+`_count{route="`)
	if strings.Contains(p.server.metrics(t), telemetry.RouteDuration) {
		t.Error("the server's sidecar counts by rule: no rule decides there")
	}
	var open strings.Builder
	if _, err := p.client.registry.WriteOpenMetrics(&open); err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf(` 1 # {trace_id="%s",span_id="%x"} `, id, client.SpanId); strings.Count(open.String(), want) != 2 {
		t.Errorf("not two histograms of the client's have the exemplar %s:\n%s", want, open.String())
	}
}

// TestTraceLate: what was not sampled is reported if it failed, and then by both
// sidecars, linked.
func TestTraceLate(t *testing.T) {
	c := newCollector(t)
	p := startPair(t, app(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("traceparent")[53:] != "00" {
			t.Errorf("sampled: %s", r.Header.Get("traceparent"))
		}
		if r.URL.Path == "/fails" {
			w.WriteHeader(500)
		}
	}), nil, nil)
	c.trace(t, p.client, c.tracing(0), nil)
	c.trace(t, p.server, nil, c.tracing(0))
	d := dial(t, p.addr)
	d.get("/fine")
	d.get("/fails")
	client, server := byKind(c.wait(t, 2))
	if string(server.ParentSpanId) != string(client.SpanId) || len(client.ParentSpanId) != 0 || client.Flags&1 != 0 {
		t.Errorf("client %v\nserver %v", client, server)
	}
	if a := tags(client); a["seine.late"] != "true" || a["url.path"] != "/fails" || a["error.type"] != "500" || a["error"] != "true" || client.Status.Code != tracev1.Status_STATUS_CODE_ERROR {
		t.Errorf("%v", a)
	}
}

// TestTraceSlow: so is what was slow to be answered.
func TestTraceSlow(t *testing.T) {
	c := newCollector(t)
	p := startPair(t, app(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-time.After(30 * time.Millisecond)
		}
	}), nil, nil)
	slow := c.tracing(0)
	slow.KeepSlower = durationpb.New(30 * time.Millisecond)
	c.trace(t, p.client, slow, nil)
	d := dial(t, p.addr)
	d.get("/slow")
	if a := tags(c.wait(t, 1)[0]); a["seine.late"] != "true" || a["url.path"] != "/slow" || a["error"] != "" {
		t.Errorf("%v", a)
	}
}

// TestTraceEvents: what happened to a request on its way is told by its span.
func TestTraceEvents(t *testing.T) {
	rule := func(f *seinev1.Fault, r *seinev1.Retry) []*seinev1.HttpRule {
		to := toBilling()
		to.Fault, to.Retry = f, r
		return []*seinev1.HttpRule{to}
	}
	for _, k := range []struct {
		name  string
		rules []*seinev1.HttpRule
		want  string
		flag  string
	}{
		{"retries", rule(nil, &seinev1.Retry{Attempts: 1, On: []string{"5xx"}, Backoff: durationpb.New(time.Millisecond)}), "seine.wait.connect, seine.retry 2 503", "URX"},
		{"delay", rule(&seinev1.Fault{Delay: &seinev1.Fault_Delay{PerMillion: 1_000_000, Fixed: durationpb.New(time.Millisecond)}}, nil), "seine.fault.delay, seine.wait.connect", "DI"},
		{"abort", rule(&seinev1.Fault{Abort: &seinev1.Fault_Abort{PerMillion: 1_000_000, HttpStatus: 418}}, nil), "seine.fault.abort 418", "FI"},
	} {
		t.Run(k.name, func(t *testing.T) {
			c := newCollector(t)
			p := startPair(t, app(t, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(503) }), k.rules, nil)
			c.trace(t, p.client, c.tracing(100), nil)
			dial(t, p.addr).get("/")
			s := c.wait(t, 1)[0]
			if got := events(s); got != k.want {
				t.Errorf("%s, want %s", got, k.want)
			}
			if got := tags(s)["response_flags"]; got != k.flag {
				t.Errorf("flags %s, want %s", got, k.flag)
			}
		})
	}
}

// TestTraceOff: without tracing a request passes as it came.
func TestTraceOff(t *testing.T) {
	heads := make(chan http.Header, 1)
	p := startPair(t, app(t, func(w http.ResponseWriter, r *http.Request) { heads <- r.Header }), nil, nil)
	d := dial(t, p.addr)
	d.write("GET / HTTP/1.1\r\nHost: billing:8080\r\ntraceparent: whatever\r\nx-b3-sampled: 7\r\n\r\n")
	d.response("GET")
	if h := <-heads; h.Get("traceparent") != "whatever" || h.Get("x-b3-sampled") != "7" {
		t.Errorf("%v", h)
	}
}
