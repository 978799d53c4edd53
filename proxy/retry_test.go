//go:build linux

package proxy

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/decide"
	"github.com/seinemesh/seine/proxy/loop"
	"github.com/seinemesh/seine/telemetry/accesslog"
)

// retried is a rule with that retry policy; pauses are short.
func retried(attempts uint32, on string) *seinev1.HttpRule {
	r := toBilling()
	r.Retry = &seinev1.Retry{Attempts: attempts, Backoff: durationpb.New(time.Millisecond)}
	if on != "" {
		r.Retry.On = strings.Split(on, ",")
	}
	return r
}

func startRetrying(t testing.TB, rule *seinev1.HttpRule, apps ...netip.AddrPort) *running {
	t.Helper()
	var eps []*seinev1.Endpoint
	for i, a := range apps {
		eps = append(eps, endpoint(fmt.Sprint(i), a, workload("billing", "")))
	}
	return start(t, Options{Loops: 1, Explicit: localhost()}, billingTable(t, []*seinev1.HttpRule{rule}, eps...).build())
}

func (r *running) dial(t testing.TB) *client { return dial(t, r.Addresses()[0].String()) }

func (r *running) retriesAre(t *testing.T, outcome string, n uint64) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d %s in %s", n, outcome, r.metrics(t)), func() bool {
		return strings.Contains(r.metrics(t), fmt.Sprintf("seine_retries_total{outcome=%q} %d\n", outcome, n))
	})
}

// nobody is an address where nothing listens: a socket holds it that never will. The
// port of a listener that was closed may be another test's a moment later.
func nobody(t testing.TB) netip.AddrPort {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { _ = syscall.Close(fd) })
	must(t, syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	return loop.LocalAddr(fd)
}

// flaky answers the first fails requests with status, and then with the body
// that it was sent; it keeps the attempt counts that it saw.
type flaky struct {
	mu       sync.Mutex
	fails    int
	status   int
	header   http.Header
	attempts []string
	conns    map[string]bool
}

func (f *flaky) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.attempts = append(f.attempts, strings.Join(r.Header["X-Envoy-Attempt-Count"], "+"))
	if f.conns == nil {
		f.conns = map[string]bool{}
	}
	f.conns[r.RemoteAddr] = true
	if len(f.attempts) <= f.fails || err != nil {
		for k, v := range f.header {
			w.Header()[k] = v
		}
		w.WriteHeader(f.status)
		_, _ = io.WriteString(w, "failed")
		return
	}
	w.Header().Set("x-method", r.Method)
	_, _ = w.Write(body)
}

func (f *flaky) seen() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.attempts, " ")
}

func TestRetryConnectFailure(t *testing.T) {
	at := app(t, echo)
	p := startRetrying(t, toBilling(), nobody(t), at, nobody(t)) // the default policy: two retries
	c := p.dial(t)
	for range 30 {
		c.write("POST / HTTP/1.1\r\nHost: billing:8080\r\nContent-Length: 5\r\n\r\nhello")
		if res, body := c.response("POST"); res.StatusCode != 200 || !strings.HasPrefix(body, "POST / 5 ") {
			t.Fatalf("%s %q %v", res.Status, body, res.Header)
		}
	}
	m := p.metrics(t)
	if strings.Contains(m, `outcome="retried"} 0`) || !strings.Contains(m, `outcome="exhausted"} 0`) || strings.Contains(m, "URX") {
		t.Error(m)
	}
}

func TestRetryConnectFailureExhausted(t *testing.T) {
	p := startRetrying(t, toBilling(), nobody(t))
	c := p.dial(t)
	for range 2 {
		if res, _ := c.get("/"); res.StatusCode != 503 || res.Header.Get("X-Seine-Cause") != "upstream connect: connection refused; attempt=3/3" {
			t.Errorf("%s %v", res.Status, res.Header)
		}
	}
	p.flagged(t, "UF,URX")
	p.retriesAre(t, "retried", 4)
	p.retriesAre(t, "exhausted", 2)
}

func TestRetryStatus(t *testing.T) {
	for _, c := range []struct {
		name   string
		rule   *seinev1.HttpRule
		app    *flaky
		method string
		status int
		seen   string // attempt counts
	}{
		{"5xx, GET", retried(2, "5xx"), &flaky{fails: 2, status: 500}, "GET", 200, "1 2 3"},
		{"5xx, POST", retried(2, "5xx"), &flaky{fails: 2, status: 503}, "POST", 200, "1 2 3"},
		{"a code", retried(3, "429"), &flaky{fails: 1, status: 429}, "GET", 200, "1 2"},
		{"another code", retried(3, "429"), &flaky{fails: 1, status: 503}, "GET", 503, "1"},
		{"used up", retried(1, "gateway-error"), &flaky{fails: 9, status: 502}, "GET", 502, "1 2"},
		{"no conditions, 503", retried(3, ""), &flaky{fails: 1, status: 503}, "GET", 503, "1"},
		{"default, 503", toBilling(), &flaky{fails: 1, status: 503}, "GET", 503, "1"},
		{"off", retried(0, ""), &flaky{fails: 1, status: 503}, "GET", 503, "1"},
		{"gRPC's status", retried(1, "unavailable"), &flaky{fails: 1, status: 200, header: http.Header{"Grpc-Status": {"14"}}}, "POST", 200, "1 2"},
		{"rate limited", retried(1, "5xx"), &flaky{fails: 1, status: 503, header: http.Header{"X-Envoy-Ratelimited": {"true"}}}, "GET", 503, "1"},
		{"rate limited, asked for", retried(1, "envoy-ratelimited"), &flaky{fails: 1, status: 429, header: http.Header{"X-Envoy-Ratelimited": {"true"}}}, "GET", 200, "1 2"},
		{"overloaded", retried(1, "5xx"), &flaky{fails: 1, status: 503, header: http.Header{"X-Envoy-Overloaded": {"true"}}}, "GET", 503, "1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := startRetrying(t, c.rule, app(t, c.app.ServeHTTP))
			d := p.dial(t)
			body := strings.Repeat("b", 10_000)
			d.write("%s /x HTTP/1.1\r\nHost: billing:8080\r\nx-envoy-attempt-count: 77\r\nContent-Length: %d\r\n\r\n%s", c.method, len(body), body)
			res, got := d.response(c.method)
			seen := strings.TrimSpace(strings.ReplaceAll(c.app.seen(), "77", ""))
			if res.StatusCode != c.status || seen != c.seen || c.status == 200 && got != body {
				t.Errorf("%s, %d bytes, attempts %q", res.Status, len(got), seen)
			}
			if c.status == 200 && res.Header.Get("x-method") != c.method {
				t.Error(res.Header)
			}
			if c.name == "used up" {
				p.flagged(t, "URX")
				p.retriesAre(t, "exhausted", 1)
			}
			if n := len(c.app.conns); n != 1 {
				t.Errorf("%d connections: an answer that was read whole leaves its connection usable", n)
			}
			if c.status == 200 {
				p.retriesAre(t, "success", 1)
			}
			// The connection goes on.
			if res, _ := d.get("/"); res.StatusCode != 200 && res.StatusCode != c.status {
				t.Error(res.Status)
			}
		})
	}
}

// TestRetryPreviousHost: a retry goes to an endpoint that was not tried.
func TestRetryPreviousHost(t *testing.T) {
	bad := app(t, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(500) })
	good := app(t, func(w http.ResponseWriter, r *http.Request) {})
	p := startRetrying(t, retried(2, "5xx"), bad, good, bad)
	c := p.dial(t)
	for range 50 {
		if res, _ := c.get("/"); res.StatusCode != 200 {
			t.Fatal(res.Status)
		}
	}
}

// TestRetryReset: what an application leaves without an answer is sent again if
// the policy says so, but a POST only if the user named the condition.
func TestRetryReset(t *testing.T) {
	for _, c := range []struct {
		name, method string
		rule         *seinev1.HttpRule
		status       int
		cause        string
	}{
		{"GET", "GET", retried(1, "reset"), 200, ""},
		{"POST", "POST", retried(1, "reset"), 200, ""},
		{"default", "GET", toBilling(), 503, "the upstream closed the connection before its answer"},
		{"before the request", "GET", retried(1, "reset-before-request"), 503, "the upstream closed the connection before its answer"},
		{"used up", "GET", retried(1, "reset,connect-failure"), 503, "the upstream closed the connection before its answer; attempt=2/2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var n atomic.Int64
			at := rawApp(t, func(conn net.Conn) {
				req, err := http.ReadRequest(bufio.NewReader(conn))
				if err != nil {
					return
				}
				b, _ := io.ReadAll(req.Body)
				if n.Add(1) == 1 || c.name == "used up" {
					return
				}
				fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(b), b)
			})
			p := startRetrying(t, c.rule, at)
			d := p.dial(t)
			d.write("%s / HTTP/1.1\r\nHost: billing:8080\r\nContent-Length: 3\r\n\r\nabc", c.method)
			res, body := d.response(c.method)
			if res.StatusCode != c.status || res.Header.Get("X-Seine-Cause") != c.cause || c.status == 200 && body != "abc" {
				t.Errorf("%s %q %v", res.Status, body, res.Header)
			}
			if c.name == "used up" {
				p.flagged(t, "UC,URX")
			} else if c.status == 503 {
				p.flagged(t, "UC")
			}
		})
	}
}

// TestRetryTryTimeout: a slow try is given up for another, which is heard.
func TestRetryTryTimeout(t *testing.T) {
	var n atomic.Int64
	at := app(t, func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1) == 1 {
			<-r.Context().Done()
			return
		}
		_, _ = io.WriteString(w, "late")
	})
	rule := retried(2, "5xx")
	rule.Retry.PerTryTimeout = durationpb.New(50 * time.Millisecond)
	p := startRetrying(t, rule, at)
	if res, body := p.dial(t).get("/"); res.StatusCode != 200 || body != "late" {
		t.Errorf("%s %q", res.Status, body)
	}
}

func TestRetryTryTimeoutExhausted(t *testing.T) {
	at := app(t, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	rule := retried(1, "gateway-error")
	rule.Retry.PerTryTimeout = durationpb.New(30 * time.Millisecond)
	p := startRetrying(t, rule, at)
	c := p.dial(t)
	for range 2 {
		if res, _ := c.get("/"); res.StatusCode != 504 || res.Header.Get("X-Seine-Cause") != "no answer within the route's perTryTimeout; attempt=2/2" {
			t.Errorf("%s %v", res.Status, res.Header)
		}
	}
	p.flagged(t, "UT,URX")
}

// TestRetryTryTimeoutOnce: without a condition for it a try's timeout is the
// answer, and the body of an answer that has begun may take longer.
func TestRetryTryTimeoutOnce(t *testing.T) {
	slow := make(chan struct{})
	at := app(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/body" {
			w.WriteHeader(200)
			w.(http.Flusher).Flush()
			<-slow
			_, _ = io.WriteString(w, "body")
			return
		}
		<-r.Context().Done()
	})
	rule := retried(1, "connect-failure")
	rule.Retry.PerTryTimeout = durationpb.New(30 * time.Millisecond)
	p := startRetrying(t, rule, at)
	c := p.dial(t)
	if res, _ := c.get("/"); res.StatusCode != 504 {
		t.Error(res.Status)
	}
	p.flagged(t, "UT")
	c.write("GET /body HTTP/1.1\r\nHost: billing:8080\r\n\r\n")
	head, err := c.r.Peek(1)
	if err != nil || len(head) == 0 {
		t.Fatal(err)
	}
	p.dial(t).get("/") // 30 ms and more
	close(slow)
	if res, body := c.response("GET"); res.StatusCode != 200 || body != "body" {
		t.Errorf("%s %q", res.Status, body)
	}
}

// TestRetryTimeoutSpansTries: the route's timeout holds for all tries and the
// pauses between them.
func TestRetryTimeoutSpansTries(t *testing.T) {
	var n atomic.Int64
	at := app(t, func(w http.ResponseWriter, r *http.Request) {
		n.Add(1)
		<-r.Context().Done()
	})
	rule := retried(1000, "5xx")
	rule.Retry.PerTryTimeout = durationpb.New(20 * time.Millisecond)
	rule.Timeout = durationpb.New(150 * time.Millisecond)
	p := startRetrying(t, rule, at)
	c := p.dial(t)
	res, _ := c.get("/")
	if res.StatusCode != 504 || !strings.HasPrefix(res.Header.Get("X-Seine-Cause"), "the route's timeout has passed; attempt=") || n.Load() < 2 {
		t.Errorf("%s %v after %d tries", res.Status, res.Header, n.Load())
	}
	p.flagged(t, "UT")
	if res, _ := c.get("/"); res.StatusCode != 504 {
		t.Error(res.Status)
	}
}

// TestRetryLargeBody: a request that is too large to be kept is sent once, and
// whole.
func TestRetryLargeBody(t *testing.T) {
	f := &flaky{fails: 100, status: 503}
	p := startRetrying(t, retried(3, "5xx"), app(t, f.ServeHTTP))
	for _, head := range []string{"Content-Length: 100000\r\n\r\n" + strings.Repeat("x", 100_000), "Transfer-Encoding: chunked\r\n\r\n186a0\r\n" + strings.Repeat("x", 100_000) + "\r\n0\r\n\r\n"} {
		c := p.dial(t)
		c.write("PUT / HTTP/1.1\r\nHost: billing:8080\r\n%s", head)
		if res, body := c.response("PUT"); res.StatusCode != 503 || body != "failed" {
			t.Errorf("%s %q", res.Status, body)
		}
	}
	if got := f.seen(); got != "1 1" {
		t.Error(got)
	}
	p.retriesAre(t, "too_large", 2)
}

// TestRetryBodyInPieces: a body whose first half was sent to an upstream that
// failed goes whole to the next.
func TestRetryBodyInPieces(t *testing.T) {
	var n atomic.Int64
	first := make(chan struct{})
	at := rawApp(t, func(c net.Conn) {
		r := bufio.NewReader(c)
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		if n.Add(1) == 1 {
			_, _ = io.ReadFull(req.Body, make([]byte, 6))
			close(first)
			return
		}
		b, _ := io.ReadAll(req.Body)
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(b), b)
	})
	p := startRetrying(t, retried(1, "reset"), at)
	c := p.dial(t)
	c.write("POST / HTTP/1.1\r\nHost: billing:8080\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nfirst \r\n")
	<-first
	p.retriesAre(t, "retried", 1)
	c.write("4\r\nhalf\r\n0\r\n\r\n")
	if res, body := c.response("POST"); res.StatusCode != 200 || body != "first half" {
		t.Errorf("%s %q", res.Status, body)
	}
}

// TestRetryClientLeaves: a client that goes during the pause takes its request
// with it.
func TestRetryClientLeaves(t *testing.T) {
	f := &flaky{fails: 1000, status: 503}
	rule := retried(1, "5xx")
	rule.Retry.Backoff = durationpb.New(time.Hour)
	p := startRetrying(t, rule, app(t, f.ServeHTTP))
	c := p.dial(t)
	c.write("GET / HTTP/1.1\r\nHost: billing:8080\r\n\r\n")
	p.retriesAre(t, "retried", 1)
	_ = c.Close()
	p.flagged(t, "DC")
	eventually(t, "nothing is under way", func() bool { return p.inflight() == 0 })
	if got := f.seen(); got != "1" {
		t.Error(got)
	}
}

// TestRetryStorm: however many attempts a route allows, a service that always
// fails gets no more than its requests, a fifth, the reserve, and ten a second.
func TestRetryStorm(t *testing.T) {
	var served atomic.Int64
	at := app(t, func(w http.ResponseWriter, r *http.Request) {
		served.Add(1)
		w.WriteHeader(503)
	})
	rule := retried(100, "5xx")
	p := start(t, Options{Loops: 2, Explicit: localhost()}, billingTable(t, []*seinev1.HttpRule{rule}, endpoint("1", at, workload("billing", ""))).build())
	begun := time.Now()
	const clients, each = 8, 100
	var all sync.WaitGroup
	for range clients {
		c := p.dial(t)
		all.Add(1)
		go func() {
			defer all.Done()
			for range each {
				if res, _ := c.get("/"); res.StatusCode != 503 {
					t.Error(res.Status)
				}
			}
		}()
	}
	all.Wait()
	bound := float64(clients*each)*1.2 + 100 + 10*(time.Since(begun).Seconds()+1)
	if n := float64(served.Load()); n > bound || n < clients*each+200 {
		t.Errorf("%v requests reached the service, at most %v may", n, bound)
	}
	p.flagged(t, "UO")
	t.Logf("%d requests became %d", clients*each, served.Load())
}

// TestRetryMovesOn: the next try looks at the endpoints as they are by then.
func TestRetryMovesOn(t *testing.T) {
	rule := retried(1, "connect-failure")
	rule.Retry.Backoff = durationpb.New(400 * time.Millisecond)
	p := startRetrying(t, rule, nobody(t))
	c := p.dial(t)
	c.write("GET / HTTP/1.1\r\nHost: billing:8080\r\n\r\n")
	p.tables.publish(billingTable(t, []*seinev1.HttpRule{rule}, endpoint("new", app(t, echo), workload("billing", ""))).build())
	if res, _ := c.response("GET"); res.StatusCode != 200 && res.Header.Get("X-Seine-Cause") == "" {
		t.Error(res.Status, res.Header)
	}
	p.tables.publish(billingTable(t, []*seinev1.HttpRule{rule}).build())
	if res, _ := c.get("/"); res.StatusCode != 503 {
		t.Error(res.Status)
	}
}

func TestRetryInAccessLog(t *testing.T) {
	out, err := os.Create(filepath.Join(t.TempDir(), "log"))
	must(t, err)
	defer out.Close()
	logs := accesslog.New(accesslog.Options{Out: out})
	f := &flaky{fails: 2, status: 503}
	p := start(t, Options{Loops: 1, Explicit: localhost(), AccessLog: logs},
		billingTable(t, []*seinev1.HttpRule{retried(1, "5xx")}, endpoint("1", app(t, f.ServeHTTP), workload("billing", ""))).build())
	p.dial(t).get("/")
	p.flagged(t, "URX")
	p.stop()
	must(t, logs.Close())
	b, err := os.ReadFile(out.Name())
	must(t, err)
	for _, want := range []string{`"upstream_request_attempt_count":2`, `"response_flags":"URX"`, `"upstream_transport_failure_reason":"answered 503; attempt=2/2"`} {
		if !bytes.Contains(b, []byte(want)) {
			t.Errorf("no %s in %s", want, b)
		}
	}
}

// TestRetryThroughPair: between sidecars, with mutual TLS and the preamble.
func TestRetryThroughPair(t *testing.T) {
	f := &flaky{fails: 2, status: 503}
	p := startPair(t, app(t, f.ServeHTTP), []*seinev1.HttpRule{retried(2, "503")}, nil)
	c := dial(t, p.addr)
	c.write("POST / HTTP/1.1\r\nHost: billing:8080\r\nContent-Length: 5\r\n\r\nhello")
	if res, body := c.response("POST"); res.StatusCode != 200 || body != "hello" {
		t.Errorf("%s %q", res.Status, body)
	}
	if got := f.seen(); got != "1 2 3" {
		t.Error(got)
	}
}

// TestTimeoutCountsFromWhole: a client that takes long to send its request does
// not use up the upstream's time.
func TestTimeoutCountsFromWhole(t *testing.T) {
	at := app(t, echo)
	rule := toBilling()
	rule.Timeout = durationpb.New(100 * time.Millisecond)
	p := startRetrying(t, rule, at)
	c := p.dial(t)
	c.write("POST / HTTP/1.1\r\nHost: billing:8080\r\nContent-Length: 2\r\n\r\na")
	wait := time.NewTimer(300 * time.Millisecond)
	<-wait.C
	c.write("b")
	if res, _ := c.response("POST"); res.StatusCode != 200 {
		t.Error(res.Status)
	}
}

// TestBudgetsForget: budgets of clusters that are gone are dropped, the others
// keep what they have.
func TestBudgetsForget(t *testing.T) {
	f := &tables{}
	f.cur.Store(billingTable(t, nil).build())
	w := &worker{p: &Proxy{tables: f}}
	live := w.p.tables.Table().Cluster(billing+"/8080", "")
	kept := w.p.budgets.of(w, live)
	kept.requested(1)
	for i := range 10_000 {
		w.p.budgets.of(w, &decide.Cluster{Service: &decide.Service{Key: fmt.Sprint(i)}})
	}
	if n := len(w.p.budgets.m); n > 200 {
		t.Errorf("%d budgets", n)
	}
	if w.p.budgets.of(w, live) != kept {
		t.Error("a living cluster's budget was dropped")
	}
}

func BenchmarkBudget(b *testing.B) {
	var g budget
	for i := range b.N {
		g.requested(int64(i) * 10_000)
	}
}
