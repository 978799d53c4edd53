//go:build linux

// Package trace holds the spans of seine-proxy to a real OpenTelemetry
// Collector, with its receivers of OTLP and of Zipkin's JSON. It is a module of
// its own because the Collector brings dependencies that the product does not
// have.
package trace

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/open-telemetry/opentelemetry-collector-contrib/receiver/zipkinreceiver"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/otelcol"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
	"go.opentelemetry.io/collector/service/telemetry/otelconftelemetry"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

// way is how spans come to a collector, and how a trace is told beside them.
type way struct {
	name     string
	protocol seinev1.Collector_Protocol
	port     uint16
	path     string
	b3       bool // else traceparent
	// The receiver answers what it cannot take now so that it is sent again; that
	// of Zipkin answers 500, which loses it.
	again bool
}

var ways = []way{
	{name: "OTLP gRPC", protocol: seinev1.Collector_OTLP_GRPC, port: 4317, again: true},
	{name: "OTLP HTTP", protocol: seinev1.Collector_OTLP_HTTP, port: 4318, path: "/v1/traces", again: true},
	{name: "Zipkin", protocol: seinev1.Collector_ZIPKIN, port: 9411, path: "/api/v2/spans", b3: true},
}

// tracing reports every request to a collector at that address.
func (w *way) tracing(at netip.Addr) *seinev1.Tracing {
	return &seinev1.Tracing{
		Collector: &seinev1.Collector{Protocol: w.protocol, Host: at.String(), Port: uint32(w.port), Path: w.path, Name: "collector"},
		Sampling:  100, W3C: !w.b3, B3: w.b3,
	}
}

// store is behind a Collector's pipeline.
type store struct {
	mu      sync.Mutex
	refuses bool
	refused map[string]int // by service
	spans   []stored
}

// stored is a span and the service that reported it.
type stored struct {
	service string
	ptrace.Span
}

var errRefused = errors.New("not now")

func (s *store) take(_ context.Context, batch ptrace.Traces) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, rs := range batch.ResourceSpans().All() {
		name, _ := rs.Resource().Attributes().Get("service.name")
		if s.refuses {
			s.refused[name.Str()]++
			continue
		}
		for _, ss := range rs.ScopeSpans().All() {
			for _, span := range ss.Spans().All() {
				own := ptrace.NewSpan() // the batch is the pipeline's
				span.CopyTo(own)
				s.spans = append(s.spans, stored{name.Str(), own})
			}
		}
	}
	if s.refuses {
		return errRefused
	}
	return nil
}

// refuse makes the Collector's receivers say that they cannot take spans now.
func (s *store) refuse(yes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuses, s.refused = yes, map[string]int{}
}

func (s *store) hasRefused(service string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refused[service] > 0
}

// of are the spans of a trace.
func (s *store) of(id string) []stored {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []stored
	for _, span := range s.spans {
		if span.TraceID().String() == id {
			out = append(out, span)
		}
	}
	return out
}

// wait returns the spans of a trace once there are n, and fails if there are more.
func (s *store) wait(t testing.TB, id string, n int) []stored {
	t.Helper()
	eventually(t, fmt.Sprintf("%d spans of trace %s", n, id), func() bool { return len(s.of(id)) >= n })
	all := s.of(id)
	if len(all) != n {
		t.Fatalf("%d spans of trace %s, want %d", len(all), id, n)
	}
	return all
}

// address is one of the loopback network that nobody else is likely to use, so
// that a Collector's ports are free there, and stay free while it is away.
func address() netip.Addr {
	return netip.AddrFrom4([4]byte{127, byte(1 + rand.N(250)), byte(1 + rand.N(250)), byte(1 + rand.N(250))})
}

// inline is a configuration that is no file.
type inline string

func (i inline) Retrieve(context.Context, string, confmap.WatcherFunc) (*confmap.Retrieved, error) {
	return confmap.NewRetrievedFromYAML([]byte(i))
}
func (inline) Scheme() string                 { return "inline" }
func (inline) Shutdown(context.Context) error { return nil }

// newCollector is one whose exporter "store" gives what it receives to take.
func newCollector(config inline, take consumer.ConsumeTracesFunc) (*otelcol.Collector, error) {
	out := exporter.NewFactory(component.MustNewType("store"), func() component.Config { return &struct{}{} },
		exporter.WithTraces(func(context.Context, exporter.Settings, component.Config) (exporter.Traces, error) {
			traces, err := consumer.NewTraces(take)
			return struct {
				component.StartFunc
				component.ShutdownFunc
				consumer.Traces
			}{Traces: traces}, err
		}, component.StabilityLevelStable))
	factories := func() (otelcol.Factories, error) {
		in, err := otelcol.MakeFactoryMap[receiver.Factory](otlpreceiver.NewFactory(), zipkinreceiver.NewFactory())
		return otelcol.Factories{
			Receivers: in, Exporters: map[component.Type]exporter.Factory{out.Type(): out}, Telemetry: otelconftelemetry.NewFactory(),
		}, err
	}
	return otelcol.NewCollector(otelcol.CollectorSettings{
		Factories: factories, BuildInfo: component.NewDefaultBuildInfo(), DisableGracefulShutdown: true, SkipSettingGRPCLogger: true,
		ConfigProviderSettings: otelcol.ConfigProviderSettings{ResolverSettings: confmap.ResolverSettings{
			URIs:              []string{"inline:"},
			ProviderFactories: []confmap.ProviderFactory{confmap.NewProviderFactory(func(confmap.ProviderSettings) confmap.Provider { return config })},
		}},
	})
}

// run starts a Collector that gives what it receives to s. stop ends it, and may
// be called more than once.
func run(t testing.TB, at netip.Addr, s *store) (stop func()) {
	t.Helper()
	text := fmt.Sprintf(`
receivers:
  otlp:
    protocols:
      grpc: {endpoint: "%[1]s:4317"}
      http: {endpoint: "%[1]s:4318"}
  zipkin: {endpoint: "%[1]s:9411"}
exporters:
  store: {}
service:
  telemetry:
    logs: {level: error}
    metrics: {level: none}
  pipelines:
    traces: {receivers: [otlp, zipkin], exporters: [store]}
`, at)
	c, err := newCollector(inline(text), s.take)
	must(t, err)
	done := make(chan error, 1)
	go func() { done <- c.Run(context.Background()) }()
	stop = sync.OnceFunc(func() {
		c.Shutdown()
		if err := <-done; err != nil {
			t.Errorf("the Collector: %v", err)
		}
	})
	t.Cleanup(stop)
	eventually(t, "the Collector runs", func() bool {
		if c.GetState() == otelcol.StateClosed {
			t.Fatalf("the Collector does not start: its words are above")
		}
		return c.GetState() == otelcol.StateRunning
	})
	return stop
}

// refusesConnections fails the test if anybody listens at the address.
func refusesConnections(t testing.TB, at netip.Addr, port uint16) {
	t.Helper()
	if c, err := net.DialTimeout("tcp", net.JoinHostPort(at.String(), strconv.Itoa(int(port))), time.Second); err == nil {
		_ = c.Close()
		t.Fatalf("somebody listens at %s:%d", at, port)
	}
}

// attribute is a span's, as text; empty: it has none.
func attribute(m pcommon.Map, name string) string {
	v, _ := m.Get(name)
	return v.AsString()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("never came true: %s", what)
		case <-tick.C:
		}
	}
}
