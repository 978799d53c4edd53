//go:build linux

package proxy

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

const all = 1_000_000 // millionths

func faulty(f *seinev1.Fault) *seinev1.HttpRule {
	r := toBilling()
	r.Fault = f
	return r
}

func delay(d time.Duration, share uint32) *seinev1.Fault_Delay {
	return &seinev1.Fault_Delay{Fixed: durationpb.New(d), PerMillion: share}
}

func abort(http, grpc, share uint32) *seinev1.Fault_Abort {
	return &seinev1.Fault_Abort{HttpStatus: http, GrpcStatus: grpc, PerMillion: share}
}

func TestFaultAbort(t *testing.T) {
	var reached atomic.Int64
	at := app(t, func(http.ResponseWriter, *http.Request) { reached.Add(1) })
	for _, c := range []struct {
		name    string
		fault   *seinev1.Fault
		headers string
		status  int
		body    string
		want    map[string]string
		flag    string
	}{
		{"http", &seinev1.Fault{Abort: abort(418, 0, all)}, "", 418, "fault filter abort", map[string]string{"Grpc-Status": ""}, "FI"},
		{"grpc to a plain request", &seinev1.Fault{Abort: abort(0, 14, all)}, "", 200, "fault filter abort", map[string]string{"Grpc-Status": ""}, "FI"},
		{"grpc", &seinev1.Fault{Abort: abort(0, 14, all)}, "Content-Type: application/grpc+proto\r\n", 200, "",
			map[string]string{"Grpc-Status": "14", "Grpc-Message": "fault filter abort", "Content-Type": "application/grpc"}, "FI"},
		{"after a delay", &seinev1.Fault{Delay: delay(time.Millisecond, all), Abort: abort(503, 0, all)}, "", 503, "fault filter abort", nil, "DI,FI"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := startRetrying(t, faulty(c.fault), at)
			cl := p.dial(t)
			for range 3 {
				cl.write("GET / HTTP/1.1\r\nHost: billing:8080\r\n%s\r\n", c.headers)
				res, body := cl.response("GET")
				if res.StatusCode != c.status || body != c.body || res.Header.Get("X-Seine-Cause") == "" {
					t.Fatalf("%s %q %v", res.Status, body, res.Header)
				}
				for k, v := range c.want {
					if res.Header.Get(k) != v {
						t.Errorf("%s: %q, want %q", k, res.Header.Get(k), v)
					}
				}
			}
			p.flagged(t, c.flag)
			p.shows(t, `seine_faults_injected_total{kind="abort"} 3`)
		})
	}
	if n := reached.Load(); n != 0 {
		t.Errorf("%d aborted requests reached the application", n)
	}
}

// TestFaultDelay: the request waits, whole and unsent, and then goes as if
// nothing had been; the route's timeout does not count the delay.
func TestFaultDelay(t *testing.T) {
	at := app(t, echo)
	r := faulty(&seinev1.Fault{Delay: delay(1200*time.Millisecond, all)})
	r.Timeout = durationpb.New(time.Second)
	p := startRetrying(t, r, at)
	c := p.dial(t)
	for range 2 {
		before := time.Now()
		c.write("POST /x HTTP/1.1\r\nHost: billing:8080\r\nContent-Length: 5\r\n\r\nhel")
		c.write("lo")
		res, body := c.response("POST")
		if res.StatusCode != 200 || !strings.HasPrefix(body, "POST /x 5 ") {
			t.Fatalf("%s %q %v", res.Status, body, res.Header)
		}
		if took := time.Since(before); took < 1200*time.Millisecond {
			t.Errorf("answered after %v", took)
		}
	}
	p.flagged(t, "DI")
	p.shows(t, `seine_faults_injected_total{kind="delay"} 2`)
}

// TestFaultDelayAbandoned: a client that leaves during the delay leaves nothing.
func TestFaultDelayAbandoned(t *testing.T) {
	var reached atomic.Int64
	at := app(t, func(http.ResponseWriter, *http.Request) { reached.Add(1) })
	p := startRetrying(t, faulty(&seinev1.Fault{Delay: delay(time.Hour, all)}), at)
	c := p.dial(t)
	c.write("GET / HTTP/1.1\r\nHost: billing:8080\r\n\r\n")
	p.shows(t, `seine_faults_injected_total{kind="delay"} 1`)
	must(t, c.Close())
	p.flagged(t, "DC")
	if reached.Load() != 0 {
		t.Error("the request went on")
	}
}

// TestFaultShare: about the share that is written, drawn for each request.
func TestFaultShare(t *testing.T) {
	at := app(t, func(http.ResponseWriter, *http.Request) {})
	p := startRetrying(t, faulty(&seinev1.Fault{Abort: abort(500, 0, all/4)}), at)
	c, aborted := p.dial(t), 0
	const n = 2000
	for range n {
		if res, _ := c.get("/"); res.StatusCode == 500 {
			aborted++
		}
	}
	if aborted < n/4-120 || aborted > n/4+120 { // six standard deviations
		t.Errorf("%d of %d aborted, want about a quarter", aborted, n)
	}
}

func corsRule(c *seinev1.Cors) *seinev1.HttpRule {
	r := toBilling()
	r.Cors = c
	return r
}

func origins(exact ...string) []*seinev1.StringMatch {
	var out []*seinev1.StringMatch
	for _, e := range exact {
		out = append(out, &seinev1.StringMatch{Match: &seinev1.StringMatch_Exact{Exact: e}})
	}
	return out
}

func TestCors(t *testing.T) {
	at := app(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "https://from.the.application")
		w.Header().Set("Access-Control-Expose-Headers", "x-old")
		w.Header().Set("X-Reached", r.Method)
		if r.URL.Path == "/slow" {
			<-r.Context().Done()
		}
	})
	policy := &seinev1.Cors{
		Origins: origins("https://good.example"), Methods: "GET,POST", Headers: "x-custom", Expose: "x-shown",
		MaxAge: durationpb.New(24 * time.Hour), Credentials: true,
	}
	rule := corsRule(policy)
	rule.Timeout = durationpb.New(time.Second)
	p := startRetrying(t, rule, at)
	ask := func(method, path, headers string) *http.Response {
		c := p.dial(t)
		c.write("%s %s HTTP/1.1\r\nHost: billing:8080\r\n%s\r\n", method, path, headers)
		res, _ := c.response(method)
		return res
	}
	has := func(t *testing.T, res *http.Response, status int, want map[string]string) {
		t.Helper()
		if res.StatusCode != status {
			t.Errorf("%s, want %d", res.Status, status)
		}
		for k, v := range want {
			if got := strings.Join(res.Header.Values(k), "|"); got != v {
				t.Errorf("%s: %q, want %q", k, got, v)
			}
		}
	}
	t.Run("preflight", func(t *testing.T) {
		has(t, ask("OPTIONS", "/", "Origin: https://good.example\r\nAccess-Control-Request-Method: PATCH\r\n"), 200, map[string]string{
			"Access-Control-Allow-Origin": "https://good.example", "Access-Control-Allow-Methods": "GET,POST", "Access-Control-Allow-Headers": "x-custom",
			"Access-Control-Allow-Credentials": "true", "Access-Control-Max-Age": "86400", "X-Reached": "",
		})
	})
	t.Run("preflight of another origin is forwarded", func(t *testing.T) {
		has(t, ask("OPTIONS", "/", "Origin: https://bad.example\r\nAccess-Control-Request-Method: GET\r\n"), 200, map[string]string{
			"X-Reached": "OPTIONS", "Access-Control-Allow-Origin": "https://from.the.application", "Access-Control-Allow-Methods": "",
		})
	})
	t.Run("request", func(t *testing.T) {
		has(t, ask("GET", "/", "Origin: https://good.example\r\n"), 200, map[string]string{
			"X-Reached": "GET", "Access-Control-Allow-Origin": "https://good.example", "Access-Control-Expose-Headers": "x-shown", "Access-Control-Allow-Credentials": "true",
		})
	})
	t.Run("request of another origin", func(t *testing.T) {
		has(t, ask("GET", "/", "Origin: https://bad.example\r\n"), 200, map[string]string{
			"X-Reached": "GET", "Access-Control-Allow-Origin": "https://from.the.application", "Access-Control-Expose-Headers": "x-old",
		})
	})
	t.Run("answer of the proxy's own", func(t *testing.T) { // else a browser could not tell what failed
		has(t, ask("GET", "/slow", "Origin: https://good.example\r\n"), 504, map[string]string{"Access-Control-Allow-Origin": "https://good.example"})
	})
}

func TestCorsUnmatchedIgnored(t *testing.T) {
	at := app(t, func(w http.ResponseWriter, r *http.Request) { w.Header().Set("X-Reached", "1") })
	p := startRetrying(t, corsRule(&seinev1.Cors{Origins: origins("https://good.example"), Methods: "GET", AnswerUnmatched: true}), at)
	c := p.dial(t)
	c.write("OPTIONS / HTTP/1.1\r\nHost: billing:8080\r\nOrigin: https://bad.example\r\nAccess-Control-Request-Method: GET\r\n\r\n")
	res, _ := c.response("OPTIONS")
	if h := res.Header; res.StatusCode != 200 || h.Get("X-Reached") != "" || h.Get("Access-Control-Allow-Origin") != "" || h.Get("Access-Control-Allow-Methods") != "GET" {
		t.Errorf("%s %v", res.Status, h)
	}
}

// TestCallerTimeout: the workload may shorten or lengthen the route's timeout
// for a request of its own; nobody else sees the field.
func TestCallerTimeout(t *testing.T) {
	var seen atomic.Value
	seen.Store("")
	at := app(t, func(w http.ResponseWriter, r *http.Request) {
		for k := range r.Header {
			if strings.HasPrefix(k, "X-Envoy-Upstream") || strings.HasPrefix(k, "X-Envoy-Retry") || strings.HasPrefix(k, "X-Envoy-Max") {
				seen.Store(k)
			}
		}
		if r.URL.Path == "/slow" {
			<-r.Context().Done()
		}
	})
	p := startRetrying(t, toBilling(), at)
	c := p.dial(t)
	c.write("GET /slow HTTP/1.1\r\nHost: billing:8080\r\nX-Envoy-Upstream-Rq-Timeout-Ms: 20\r\n\r\n")
	if res, _ := c.response("GET"); res.StatusCode != 504 {
		t.Errorf("%s", res.Status)
	}
	p.flagged(t, "UT")
	c.write("GET / HTTP/1.1\r\nHost: billing:8080\r\nx-envoy-upstream-rq-timeout-ms: 60000\r\nx-envoy-max-retries: 3\r\nx-envoy-retry-on: 5xx\r\n\r\n")
	if res, _ := c.response("GET"); res.StatusCode != 200 {
		t.Errorf("%s", res.Status)
	}
	if s := seen.Load(); s != "" {
		t.Errorf("the application saw %v", s)
	}
}

func TestCallerRetries(t *testing.T) {
	once := toBilling()
	once.Retry = &seinev1.Retry{} // attempts: 0
	for _, c := range []struct {
		name, headers string
		rule          *seinev1.HttpRule
		fails, status int
		tries         int
	}{
		{"on, one retry by default", "x-envoy-retry-on: 5xx", once, 9, 500, 2},
		{"on and how many", "x-envoy-retry-on: reset,5xx\r\nx-envoy-max-retries: 4", once, 9, 500, 5},
		{"how many, of the default conditions", "x-envoy-max-retries: 4", toBilling(), 9, 500, 1},
		{"codes", "x-envoy-retry-on: retriable-status-codes\r\nx-envoy-retriable-status-codes: 418, 500\r\nx-envoy-max-retries: 2", toBilling(), 2, 200, 3},
		{"none", "x-envoy-max-retries: 0", retried(3, "5xx"), 9, 500, 1},
		{"nonsense", "x-envoy-retry-on: whatever\r\nx-envoy-max-retries: -1", once, 9, 500, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := &flaky{fails: c.fails, status: 500}
			p := startRetrying(t, c.rule, app(t, f.ServeHTTP))
			cl := p.dial(t)
			cl.write("POST / HTTP/1.1\r\nHost: billing:8080\r\nContent-Length: 2\r\n%s\r\n\r\nhi", c.headers)
			res, _ := cl.response("POST")
			f.mu.Lock()
			defer f.mu.Unlock()
			if res.StatusCode != c.status || len(f.attempts) != c.tries {
				t.Errorf("%s after %d tries, want %d after %d", res.Status, len(f.attempts), c.status, c.tries)
			}
		})
	}
}

// TestCallerFieldsStopAtTheReceiver: a receiving sidecar does not hand them to
// its application, which might pass them on.
func TestCallerFieldsStopAtTheReceiver(t *testing.T) {
	at := app(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Header.Get("X-Envoy-Retry-On")+r.Header.Get("X-Envoy-Upstream-Rq-Timeout-Ms"))
	})
	s := self(t, "billing", billingID, seinev1.MtlsMode_MTLS_PERMISSIVE)
	p := start(t, Options{Loops: 1, Forwards: []Forward{{Listen: localhost(), App: at, Port: 8080}}, Factory: newAuthority(t).factory(t, billingID)}, (&tableOf{t: t, self: s}).build())
	c := dial(t, p.Addresses()[0].String())
	c.write("GET / HTTP/1.1\r\nHost: billing:8080\r\nx-envoy-retry-on: 5xx\r\nx-envoy-upstream-rq-timeout-ms: 1\r\n\r\n")
	if res, body := c.response("GET"); res.StatusCode != 200 || body != "" {
		t.Errorf("%s %q", res.Status, body)
	}
}

// TestShapeHTTP2: faults, CORS, limits and wishes are the same over HTTP/2.
func TestShapeHTTP2(t *testing.T) {
	at := app2(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-r.Context().Done()
		}
		_, _ = io.Copy(w, r.Body)
	})
	ask := func(t *testing.T, p *running, method, path, body string, headers ...string) (*http.Response, string) {
		t.Helper()
		req, err := http.NewRequest(method, "http://billing:8080"+path, strings.NewReader(body))
		must(t, err)
		for i := 0; i < len(headers); i += 2 {
			req.Header.Set(headers[i], headers[i+1])
		}
		res, err := client2(t, p.Addresses()[0].String()).Do(req)
		must(t, err)
		defer res.Body.Close()
		got, err := io.ReadAll(res.Body)
		must(t, err)
		return res, string(got)
	}
	t.Run("delay", func(t *testing.T) {
		p := startRetrying(t, faulty(&seinev1.Fault{Delay: delay(20*time.Millisecond, all)}), at)
		if res, body := ask(t, p, "POST", "/", "hello"); res.ProtoMajor != 2 || res.StatusCode != 200 || body != "hello" {
			t.Errorf("%s %s %q", res.Proto, res.Status, body)
		}
		p.flagged(t, "DI")
	})
	t.Run("abort", func(t *testing.T) {
		p := startRetrying(t, faulty(&seinev1.Fault{Abort: abort(418, 0, all)}), at)
		if res, body := ask(t, p, "POST", "/", "hello"); res.StatusCode != 418 || body != "fault filter abort" {
			t.Errorf("%s %q", res.Status, body)
		}
		p.flagged(t, "FI")
	})
	t.Run("gRPC abort", func(t *testing.T) {
		p := startRetrying(t, faulty(&seinev1.Fault{Abort: abort(0, 8, all)}), at)
		res, body := ask(t, p, "POST", "/", "hello", "content-type", "application/grpc")
		if res.StatusCode != 200 || body != "" || strings.Join(res.Header.Values("Grpc-Status"), "|") != "8" || len(res.Header.Values("Content-Type")) != 1 {
			t.Errorf("%s %q %v", res.Status, body, res.Header)
		}
	})
	t.Run("CORS", func(t *testing.T) {
		p := startRetrying(t, corsRule(&seinev1.Cors{Origins: origins("https://good.example"), Methods: "GET"}), at)
		res, _ := ask(t, p, "OPTIONS", "/", "", "Origin", "https://good.example", "Access-Control-Request-Method", "GET")
		if res.StatusCode != 200 || res.Header.Get("Access-Control-Allow-Methods") != "GET" || res.Header.Get("Access-Control-Allow-Origin") != "https://good.example" {
			t.Errorf("%s %v", res.Status, res.Header)
		}
		res, body := ask(t, p, "POST", "/", "x", "Origin", "https://good.example")
		if body != "x" || res.Header.Get("Access-Control-Allow-Origin") != "https://good.example" {
			t.Errorf("%q %v", body, res.Header)
		}
	})
	t.Run("wishes", func(t *testing.T) {
		p := startRetrying(t, toBilling(), at)
		if res, _ := ask(t, p, "GET", "/slow", "", "x-envoy-upstream-rq-timeout-ms", "20"); res.StatusCode != 504 {
			t.Error(res.Status)
		}
	})
	t.Run("limits", func(t *testing.T) {
		p, _ := startLimited(t, 1, at, rateLimitOf("default/x[0]", 1, time.Hour))
		if res, body := ask(t, p, "POST", "/", "x"); body != "x" || res.Header.Get("Ratelimit-Remaining") != "0" {
			t.Errorf("%q %v", body, res.Header)
		}
		if res, _ := ask(t, p, "POST", "/", "x"); res.StatusCode != 429 || res.Header.Get("X-Envoy-Ratelimited") != "true" {
			t.Errorf("%s %v", res.Status, res.Header)
		}
	})
}
