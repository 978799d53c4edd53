//go:build linux

package trace

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/ptrace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/durationpb"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/test/sidecars"
)

func TestMain(m *testing.M) {
	if role := os.Getenv("SEINE_TRACE_ROLE"); role != "" { // a workload of TestUp
		os.Exit(play(role))
	}
	runtime.GOMAXPROCS(max(8, runtime.NumCPU()))
	m.Run()
}

// application answers HTTP/1.1, HTTP/2 and gRPC's health checks.
type application struct {
	at netip.AddrPort

	mu    sync.Mutex
	fails int           // so many requests with 503
	heads []http.Header // that came
}

func newApplication(t testing.TB, fails int) *application {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	a := &application{at: netip.MustParseAddrPort(l.Addr().String()), fails: fails}
	calls := grpc.NewServer()
	healthpb.RegisterHealthServer(calls, health.NewServer())
	s := &http.Server{Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case a.came(r.Header):
			w.WriteHeader(http.StatusServiceUnavailable)
		case r.Header.Get("Content-Type") == "application/grpc":
			calls.ServeHTTP(w, r)
		default:
			fmt.Fprint(w, "served")
		}
	})}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	return a
}

// came keeps a request's head, and reports whether the request shall fail.
func (a *application) came(h http.Header) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.heads = append(a.heads, h.Clone())
	a.fails--
	return a.fails >= 0
}

// told are the trace and the parent that the last request was told.
func (a *application) told(w *way) (trace, parent string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	h := a.heads[len(a.heads)-1]
	if w.b3 {
		return h.Get("x-b3-traceid"), h.Get("x-b3-spanid")
	}
	if part := strings.Split(h.Get("traceparent"), "-"); len(part) == 4 {
		return part[1], part[2]
	}
	return "", ""
}

// caller makes one call to the application, and returns what went wrong.
type caller func(t testing.TB, to string, head map[string]string) error

func overHTTP(p func(*http.Protocols, bool), proto string) caller {
	return func(_ testing.TB, to string, head map[string]string) error {
		tr := &http.Transport{Protocols: new(http.Protocols)}
		p(tr.Protocols, true)
		defer tr.CloseIdleConnections()
		req, err := http.NewRequest(http.MethodGet, "http://"+to+"/pay?id=7", nil)
		if err != nil {
			return err
		}
		for k, v := range head {
			req.Header.Set(k, v)
		}
		res, err := (&http.Client{Transport: tr, Timeout: 30 * time.Second}).Do(req)
		if err != nil {
			return err
		}
		defer func() { _ = res.Body.Close() }()
		b, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != http.StatusOK || string(b) != "served" || res.Proto != proto {
			return fmt.Errorf("%s %s: %q, %v", res.Proto, res.Status, b, err)
		}
		return nil
	}
}

var (
	overHTTP1 = overHTTP((*http.Protocols).SetHTTP1, "HTTP/1.1")
	overHTTP2 = overHTTP((*http.Protocols).SetUnencryptedHTTP2, "HTTP/2.0")
)

func overGRPC(t testing.TB, to string, head map[string]string) error {
	cc, err := grpc.NewClient("passthrough:///"+to, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer func() { _ = cc.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	res, err := healthpb.NewHealthClient(cc).Check(metadata.NewOutgoingContext(ctx, metadata.New(head)), &healthpb.HealthCheckRequest{})
	if err == nil && res.Status != healthpb.HealthCheckResponse_SERVING {
		err = fmt.Errorf("status %v", res.Status)
	}
	return err
}

const service = "app.default.svc.cluster.local:8080/*"

// TestSpans follows single calls through two sidecars to the Collector: the
// caller's span is the client sidecar's parent, that one the server sidecar's,
// and that one the application's.
func TestSpans(t *testing.T) {
	kinds := []struct {
		name     string
		call     caller
		protocol seinev1.Protocol
		begins   bool // the trace begins at the first sidecar
		fails    int  // requests, before one is answered
		says     map[string]string
	}{
		{name: "HTTP 1.1", call: overHTTP1, protocol: seinev1.Protocol_PROTOCOL_HTTP,
			says: map[string]string{"url.path": "/pay", "network.protocol.version": "1.1", "http.response.status_code": "200"}},
		{name: "HTTP 2", call: overHTTP2, protocol: seinev1.Protocol_PROTOCOL_HTTP2,
			says: map[string]string{"url.path": "/pay", "network.protocol.version": "2", "http.response.status_code": "200"}},
		{name: "gRPC", call: overGRPC, protocol: seinev1.Protocol_PROTOCOL_GRPC,
			says: map[string]string{"rpc.system": "grpc", "rpc.service": "grpc.health.v1.Health", "rpc.method": "Check", "rpc.grpc.status_code": "0"}},
		{name: "a trace that begins here", call: overHTTP1, protocol: seinev1.Protocol_PROTOCOL_HTTP, begins: true},
		{name: "a retry", call: overHTTP1, protocol: seinev1.Protocol_PROTOCOL_HTTP, fails: 1, says: map[string]string{"http.request.resend_count": "1"}},
	}
	s := &store{}
	at := address()
	run(t, at, s)
	for _, w := range ways {
		for _, k := range kinds {
			t.Run(w.name+"/"+k.name, func(t *testing.T) {
				t.Parallel()
				app := newApplication(t, k.fails)
				pair := sidecars.Start(t, sidecars.Options{
					App: app.at, Protocol: k.protocol, Tracing: w.tracing(at),
					Retry: &seinev1.Retry{Attempts: 2, On: []string{"5xx"}, Backoff: durationpb.New(time.Millisecond)},
				})
				trace, parent, head := "", "", map[string]string{}
				if !k.begins {
					trace, parent = fmt.Sprintf("%016x%016x", rand.Uint64()|1, rand.Uint64()), fmt.Sprintf("%016x", rand.Uint64()|1)
					head["traceparent"] = "00-" + trace + "-" + parent + "-01"
					if w.b3 {
						head = map[string]string{"x-b3-traceid": trace, "x-b3-spanid": parent, "x-b3-sampled": "1"}
					}
				}
				must(t, k.call(t, pair.Outbound, head))
				told, toldParent := app.told(&w)
				if trace == "" {
					trace = told
				}
				if told == "" || told != trace {
					t.Fatalf("the application was told trace %q, want %q", told, trace)
				}
				spans := s.wait(t, trace, 2+k.fails)
				i := slices.IndexFunc(spans, func(s stored) bool { return s.Kind() == ptrace.SpanKindClient })
				if i < 0 {
					t.Fatal("no client span")
				}
				client := spans[i]
				if client.service != "caller.default" || client.Name() != service || client.ParentSpanID().String() != parent {
					t.Errorf("the client's span is %s's, %q, and its parent %q, want %q", client.service, client.Name(), client.ParentSpanID(), parent)
				}
				last := false
				for _, served := range slices.Delete(slices.Clone(spans), i, i+1) {
					if served.Kind() != ptrace.SpanKindServer || served.service != "app.default" || served.Name() != service || served.ParentSpanID() != client.SpanID() {
						t.Errorf("the server's span is %s's, %q, %v, and its parent %q, want %q", served.service, served.Name(), served.Kind(), served.ParentSpanID(), client.SpanID())
					}
					last = last || served.SpanID().String() == toldParent
				}
				if !last {
					t.Errorf("the application's parent, %q, is no span of the sidecar before it", toldParent)
				}
				for name, want := range k.says {
					if got := attribute(client.Attributes(), name); got != want {
						t.Errorf("the client's %s is %q, want %q", name, got, want)
					}
				}
				var retries []string
				for _, e := range client.Events().All() {
					if strings.HasPrefix(e.Name(), "seine.retry") {
						retries = append(retries, event(e))
					}
				}
				if len(retries) != k.fails || k.fails > 0 && (!strings.Contains(retries[0], " attempt=2") || !strings.Contains(retries[0], " status=503")) {
					t.Errorf("retries %q, want %d", retries, k.fails)
				}
			})
		}
	}
}

// event is an event with its attributes, as Zipkin has them in one text.
func event(e ptrace.SpanEvent) string {
	text := e.Name()
	tags := e.Attributes().AsRaw()
	for _, name := range slices.Sorted(maps.Keys(tags)) {
		text += fmt.Sprintf(" %s=%v", name, tags[name])
	}
	return text
}

// diary keeps a log.
type diary struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (d *diary) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.b.Write(p)
}

func (d *diary) String() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.b.String()
}

// count is how many lines have all the words.
func (d *diary) count(words ...string) int {
	n := 0
	for line := range strings.Lines(d.String()) {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
			n++
		}
	}
	return n
}

const (
	away = "the trace collector takes no spans"
	back = "the trace collector takes spans again"
)

// TestAway: no call fails while the Collector is gone or refuses what it gets;
// the spans of these calls arrive once it is back, and each sidecar's log says
// once that it is away, and once that it is not.
func TestAway(t *testing.T) {
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			s, at, log, app := &store{}, address(), &diary{}, newApplication(t, 0)
			stop := run(t, at, s)
			pair := sidecars.Start(t, sidecars.Options{
				App: app.at, Protocol: seinev1.Protocol_PROTOCOL_HTTP, Tracing: w.tracing(at), Log: slog.New(slog.NewTextHandler(log, nil)),
			})
			call := func() string {
				t.Helper()
				must(t, overHTTP1(t, pair.Outbound, nil))
				trace, _ := app.told(&w)
				return trace
			}
			both := func(what string, ok func(proxy, service string) bool) {
				t.Helper()
				eventually(t, what, func() bool { return ok("proxy=caller", "caller.default") && ok("proxy=app", "app.default") })
			}
			s.wait(t, call(), 2)

			stop()
			refusesConnections(t, at, w.port)
			var missed []string
			for range 10 {
				missed = append(missed, call())
			}
			both("the sidecars say that the Collector is away", func(proxy, _ string) bool { return log.count(proxy, away) > 0 })
			missed = append(missed, call())

			s.refuse(w.again)
			run(t, at, s)
			if w.again {
				both("the Collector has refused spans of both", func(_, service string) bool { return s.hasRefused(service) })
				missed = append(missed, call())
				s.refuse(false)
			}
			for _, trace := range missed {
				s.wait(t, trace, 2)
			}
			both("the sidecars say that the Collector is back", func(proxy, _ string) bool { return log.count(proxy, back) > 0 })
			s.wait(t, call(), 2)
			for _, proxy := range []string{"proxy=caller", "proxy=app"} {
				if a, b := log.count(proxy, away), log.count(proxy, back); a != 1 || b != 1 {
					t.Errorf("%s has said %d times that the Collector is away and %d times that it is back:\n%s", proxy, a, b, log)
				}
			}
		})
	}
}
