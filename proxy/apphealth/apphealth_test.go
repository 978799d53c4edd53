//go:build linux

package apphealth

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

func portOf(t *testing.T, a net.Addr) uint16 {
	t.Helper()
	return netip.MustParseAddrPort(a.String()).Port()
}

func ask(h http.Handler, path string) (int, string) {
	r := httptest.NewRequest("GET", path, nil)
	r.Header.Set("User-Agent", "kube-probe/1.34")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

func TestProbes(t *testing.T) {
	app := http.NewServeMux()
	app.HandleFunc("GET /ready", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "host=%s token=%s agent=%s from=%s", r.Host, r.Header.Get("X-Token"), r.UserAgent(), strings.Split(r.RemoteAddr, ":")[0])
	})
	app.HandleFunc("GET /bad", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "database away", 500) })
	app.HandleFunc("GET /moved", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/ready", http.StatusFound) })
	app.HandleFunc("GET /away", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://other.example/", http.StatusFound)
	})
	app.HandleFunc("GET /slow", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	plain := httptest.NewServer(app)
	defer plain.Close()
	secure := httptest.NewTLSServer(app)
	defer secure.Close()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	checks := health.NewServer()
	checks.SetServingStatus("good", grpc_health_v1.HealthCheckResponse_SERVING)
	checks.SetServingStatus("bad", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	srv := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(srv, checks)
	go func() { _ = srv.Serve(lis) }()
	defer srv.Stop()
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := portOf(t, gone.Addr())
	gone.Close()

	port, tlsPort, grpcPort := portOf(t, plain.Listener.Addr()), portOf(t, secure.Listener.Addr()), portOf(t, lis.Addr())
	env := fmt.Sprintf(`{
		"/app-health/a/readyz":{"httpGet":{"path":"/ready","port":%d,"httpHeaders":[{"name":"Host","value":"shop"},{"name":"X-Token","value":"t"}]}},
		"/app-health/a/livez":{"httpGet":{"path":"bad","port":%d}},
		"/app-health/a/startupz":{"httpGet":{"path":"/ready","port":%d,"scheme":"HTTPS"}},
		"/app-health/b/readyz":{"httpGet":{"path":"/moved","port":%d}},
		"/app-health/b/livez":{"httpGet":{"path":"/away","port":%d}},
		"/app-health/b/startupz":{"httpGet":{"path":"/slow","port":%d},"timeoutSeconds":1},
		"/app-health/c/readyz":{"tcpSocket":{"port":%d}},
		"/app-health/c/livez":{"tcpSocket":{"port":%d}},
		"/app-health/d/readyz":{"grpc":{"port":%d,"service":"good"}},
		"/app-health/d/livez":{"grpc":{"port":%d,"service":"bad"}},
		"/app-lifecycle/d/prestopz":{"grpc":{"port":%d}}
	}`, port, port, tlsPort, port, port, port, port, closed, grpcPort, grpcPort, closed)
	probes, err := Parse(env)
	if err != nil {
		t.Fatal(err)
	}
	h := New(Options{App: netip.MustParseAddr("127.0.0.1"), Source: netip.MustParseAddr("127.0.0.6")}, probes)
	for _, k := range []struct {
		path string
		code int
		body string
	}{
		{"/app-health/a/readyz", 200, "host=shop token=t agent=kube-probe/1.34 from=127.0.0.6"},
		{"/app-health/a/livez", 500, "database away"},
		{"/app-health/a/startupz", 200, "agent=kube-probe/1.34"},
		{"/app-health/b/readyz", 200, "host="},
		{"/app-health/b/livez", 302, "other.example"},
		{"/app-health/b/startupz", 503, "deadline"},
		{"/app-health/c/readyz", 200, ""},
		{"/app-health/c/livez", 503, "refused"},
		{"/app-health/d/readyz", 200, ""},
		{"/app-health/d/livez", 503, "NOT_SERVING"},
		{"/app-lifecycle/d/prestopz", 503, "refused"},
		{"/app-health/e/readyz", 404, "no such probe"},
	} {
		code, body := ask(h, k.path)
		if code != k.code || !strings.Contains(body, k.body) {
			t.Errorf("%s: %d %q, want %d %q", k.path, code, body, k.code, k.body)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for env, want := range map[string]string{
		`{`:                                     "EOF",
		`{"/metrics":{"tcpSocket":{"port":1}}}`: "none of a probe",
		`{"/app-health/a/livez":{}}`:            "exactly one",
		`{"/app-health/a/livez":null}`:          "exactly one",
		`{"/app-health/a/livez":{"tcpSocket":{"port":0}}}`:                      "port is missing",
		`{"/app-health/a/livez":{"tcpSocket":{"port":1},"grpc":{"port":1}}}`:    "exactly one",
		`{"/app-health/a/livez":{"tcpSocket":{"port":1,"host":"169.254.1.1"}}}`: "unknown field",
		`{"/app-health/a/livez":{"httpGet":{"path":"/","port":"http"}}}`:        "uint16",
	} {
		if _, err := Parse(env); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", env, err, want)
		}
	}
	if p, err := Parse(""); p != nil || err != nil {
		t.Errorf("nothing: %v, %v", p, err)
	}
}

// TestBodyIsBounded: an application that answers without end costs 10 KiB.
func TestBodyIsBounded(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for range 100 {
			_, _ = io.WriteString(w, strings.Repeat("x", 1000))
		}
	}))
	defer s.Close()
	h := New(Options{App: netip.MustParseAddr("127.0.0.1")}, map[string]*Probe{"/app-health/a/livez": {HTTPGet: &HTTPGet{Port: portOf(t, s.Listener.Addr())}}})
	if code, body := ask(h, "/app-health/a/livez"); code != 200 || len(body) != maxBody {
		t.Errorf("%d, %d bytes", code, len(body))
	}
}

func FuzzParse(f *testing.F) {
	f.Add(`{"/app-health/a/livez":{"httpGet":{"path":"/","port":80,"scheme":"HTTPS"}}}`)
	f.Fuzz(func(t *testing.T, s string) {
		probes, err := Parse(s)
		if err != nil {
			return
		}
		for path, p := range probes {
			if p.check() != nil || p.timeout() <= 0 {
				t.Errorf("%s: %+v", path, p)
			}
		}
	})
}
