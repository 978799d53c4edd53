//go:build linux

package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

// limited is a table whose one service has that policy.
func limited(t testing.TB, policy *seinev1.TrafficPolicy, rule *seinev1.HttpRule, eps ...*seinev1.Endpoint) *tableOf {
	b := billingTable(t, []*seinev1.HttpRule{rule}, eps...)
	b.service[0].Policy = policy
	b.service[0].Source = &seinev1.Ref{Kind: "DestinationRule", Namespace: "default", Name: "billing"}
	return b
}

func pooled(p *seinev1.ConnectionPool) *seinev1.TrafficPolicy {
	return &seinev1.TrafficPolicy{Pool: p}
}

func (r *running) sharedOf(t testing.TB) *shared {
	t.Helper()
	var sh *shared
	eventually(t, "the cluster is shared", func() bool {
		all := r.allShared()
		if len(all) == 1 {
			sh = all[0]
		}
		return sh != nil
	})
	return sh
}

// settled waits until nothing of the cluster is counted any more.
func (sh *shared) settled(t testing.TB, conns int64) {
	t.Helper()
	eventually(t, "all places are given back", func() bool {
		return sh.conns.Value() == conns && sh.pending.Value() == 0 && sh.requests.Value() == 0 && sh.waiting.Value() == 0
	})
}

// gate is an application whose requests wait until they are let go.
type gate struct {
	at        netip.AddrPort
	entered   chan struct{}
	open      chan struct{}
	now, most atomic.Int64
	served    atomic.Int64
}

func newGate(t testing.TB) *gate {
	g := &gate{entered: make(chan struct{}, 1000), open: make(chan struct{})}
	g.at = app(t, func(w http.ResponseWriter, r *http.Request) {
		n := g.now.Add(1)
		for m := g.most.Load(); n > m && !g.most.CompareAndSwap(m, n); m = g.most.Load() {
		}
		g.entered <- struct{}{}
		select {
		case <-g.open:
		case <-r.Context().Done():
		}
		g.now.Add(-1)
		g.served.Add(1)
		_, _ = io.WriteString(w, "ok")
	})
	return g
}

// TestCircuitBreakingTask is Istio's: maxConnections 1 and
// http1MaxPendingRequests 1. One request is served, one waits, all others are
// refused at once: with one loop and with four.
func TestCircuitBreakingTask(t *testing.T) {
	for _, loops := range []int{1, 4} {
		t.Run(fmt.Sprint(loops), func(t *testing.T) {
			g := newGate(t)
			pool := &seinev1.ConnectionPool{MaxConnections: 1, MaxPending: 1, MaxRequestsPerConnection: 1}
			p := start(t, Options{Loops: loops, Explicit: localhost()},
				limited(t, pooled(pool), toBilling(), endpoint("1", g.at, workload("billing", ""))).build())
			clients := make([]*client, 10)
			for i := range clients {
				clients[i] = dial(t, p.Addresses()[0].String())
			}
			send := func(c *client) { c.write("GET / HTTP/1.1\r\nHost: billing:8080\r\n\r\n") }
			send(clients[0])
			<-g.entered
			sh := p.sharedOf(t)
			eventually(t, "the first has its connection", func() bool { return sh.pending.Value() == 0 })
			send(clients[1])
			eventually(t, "the second waits", func() bool { return sh.waiting.Value() == 1 && sh.pending.Value() == 1 })
			for _, c := range clients[2:] {
				send(c)
				res, body := c.response("GET")
				cause := "circuit breaker: connectionPool.http.http1MaxPendingRequests (1) of DestinationRule default/billing is met for " + billing
				if res.StatusCode != 503 || res.Header.Get("X-Seine-Cause") != cause || res.Header.Get("X-Envoy-Overloaded") != "true" || body != cause+"\n" {
					t.Errorf("%s %v %q", res.Status, res.Header, body)
				}
			}
			close(g.open)
			for _, c := range clients[:2] {
				if res, body := c.response("GET"); res.StatusCode != 200 {
					t.Errorf("%s %s", res.Status, body)
				}
			}
			if g.served.Load() != 2 || g.most.Load() != 1 {
				t.Errorf("%d served, %d at once", g.served.Load(), g.most.Load())
			}
			p.flagged(t, "UO")
			p.shows(t, `seine_circuit_breaker_refused_total{cluster="outbound|8080||`+billing+`",limit="http.http1MaxPendingRequests"} 8`)
			sh.settled(t, 0)
		})
	}
}

// TestConnectionsAreShared: many clients on four loops over two connections
// are all served, never with more than two at once, whichever loop holds them.
func TestConnectionsAreShared(t *testing.T) {
	for _, endpoints := range []int{1, 3} {
		t.Run(fmt.Sprint(endpoints), func(t *testing.T) {
			g := newGate(t)
			g.entered = make(chan struct{}, 100000)
			close(g.open)
			var eps []*seinev1.Endpoint
			for i := range endpoints {
				at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, byte(1 + i)}), g.at.Port())
				if i > 0 { // the same application by other names
					at = forwarder(t, g.at)
				}
				eps = append(eps, endpoint(fmt.Sprint(i), at, workload("billing", "")))
			}
			p := start(t, Options{Loops: 4, Explicit: localhost()},
				limited(t, pooled(&seinev1.ConnectionPool{MaxConnections: 2}), toBilling(), eps...).build())
			var all sync.WaitGroup
			const clients, each = 12, 40
			var most atomic.Int64
			for range clients {
				c := dial(t, p.Addresses()[0].String())
				all.Go(func() {
					for range each {
						res, body := c.get("/")
						if res.StatusCode != 200 {
							t.Errorf("%s %s", res.Status, body)
							return
						}
						if sh := p.allShared()[0]; sh.conns.Value() > most.Load() {
							most.Store(sh.conns.Value())
						}
					}
				})
			}
			all.Wait()
			if g.most.Load() > 2 || most.Load() > 2 || g.served.Load() != clients*each {
				t.Errorf("%d requests and %d connections at once, %d served", g.most.Load(), most.Load(), g.served.Load())
			}
			eventually(t, "nobody waits", func() bool { return p.allShared()[0].waiting.Value() == 0 && p.allShared()[0].pending.Value() == 0 })
		})
	}
}

// forwarder is another address of an application.
func forwarder(t testing.TB, to netip.AddrPort) netip.AddrPort {
	return rawApp(t, func(c net.Conn) {
		o, err := net.Dial("tcp", to.String())
		if err != nil {
			return
		}
		done := make(chan struct{})
		go func() { defer close(done); _, _ = io.Copy(o, c); _ = o.(*net.TCPConn).CloseWrite() }()
		_, _ = io.Copy(c, o)
		_ = c.Close()
		<-done
		_ = o.Close()
	})
}

// TestPendingLeaves: a request that waits goes when its client does, and when
// the route's time is over; its place in the queue is free then.
func TestPendingLeaves(t *testing.T) {
	g := newGate(t)
	rule := toBilling()
	rule.Timeout = durationpb.New(200 * time.Millisecond)
	patient := toBilling()
	patient.Match = []*seinev1.HttpMatch{{Uri: &seinev1.StringMatch{Match: &seinev1.StringMatch_Prefix{Prefix: "/patient"}}}}
	b := limited(t, pooled(&seinev1.ConnectionPool{MaxConnections: 1, MaxPending: 1}), rule, endpoint("1", g.at, workload("billing", "")))
	b.answers["http/8080/billing"].Http = []*seinev1.HttpRule{patient, rule}
	p := start(t, Options{Loops: 2, Explicit: localhost()}, b.build())
	addr := p.Addresses()[0].String()
	first := dial(t, addr)
	first.write("GET /patient HTTP/1.1\r\nHost: billing:8080\r\n\r\n")
	<-g.entered
	sh := p.sharedOf(t)
	eventually(t, "the first has its connection", func() bool { return sh.pending.Value() == 0 })
	for range 3 {
		leaver := dial(t, addr)
		leaver.write("GET /patient HTTP/1.1\r\nHost: billing:8080\r\n\r\n")
		eventually(t, "it waits", func() bool { return sh.waiting.Value() == 1 })
		_ = leaver.Close()
		eventually(t, "it has left", func() bool { return sh.waiting.Value() == 0 && sh.pending.Value() == 0 })
	}
	if res, _ := dial(t, addr).get("/"); res.StatusCode != 504 {
		t.Error(res.Status)
	}
	p.flagged(t, "UT")
	p.flagged(t, "DC")
	close(g.open)
	if res, _ := first.response("GET"); res.StatusCode != 200 {
		t.Error(res.Status)
	}
	sh.settled(t, 1) // kept
	if g.served.Load() != 1 {
		t.Errorf("%d requests were sent", g.served.Load())
	}
}

// TestMaxRequests: http2MaxRequests bounds HTTP/1.1 requests, too.
func TestMaxRequests(t *testing.T) {
	g := newGate(t)
	p := start(t, Options{Loops: 2, Explicit: localhost()},
		limited(t, pooled(&seinev1.ConnectionPool{MaxRequests: 2}), toBilling(), endpoint("1", g.at, workload("billing", ""))).build())
	addr := p.Addresses()[0].String()
	var busy []*client
	for range 2 {
		c := dial(t, addr)
		c.write("GET / HTTP/1.1\r\nHost: billing:8080\r\n\r\n")
		<-g.entered
		busy = append(busy, c)
	}
	c := dial(t, addr)
	if res, _ := c.get("/"); res.StatusCode != 503 || !strings.Contains(res.Header.Get("X-Seine-Cause"), "http2MaxRequests (2)") {
		t.Errorf("%s %v", res.Status, res.Header)
	}
	close(g.open)
	for _, c := range busy {
		if res, _ := c.response("GET"); res.StatusCode != 200 {
			t.Error(res.Status)
		}
	}
	p.sharedOf(t).settled(t, 2)
	if res, _ := c.get("/"); res.StatusCode != 200 {
		t.Error(res.Status)
	}
}

// perConnection is an application that tells how many requests each of its
// connections has carried.
func perConnection(t testing.TB) (netip.AddrPort, *atomic.Int64) {
	var open atomic.Int64
	return rawApp(t, func(c net.Conn) {
		open.Add(1)
		defer open.Add(-1)
		r := bufio.NewReader(c)
		for i := 1; ; i++ {
			if _, err := http.ReadRequest(r); err != nil {
				return
			}
			body := fmt.Sprint(i)
			_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		}
	}), &open
}

func TestRequestsPerConnection(t *testing.T) {
	at, _ := perConnection(t)
	p := start(t, Options{Loops: 1, Explicit: localhost()},
		limited(t, pooled(&seinev1.ConnectionPool{MaxRequestsPerConnection: 2}), toBilling(), endpoint("1", at, workload("billing", ""))).build())
	c := dial(t, p.Addresses()[0].String())
	got := ""
	for range 5 {
		_, body := c.get("/")
		got += body
	}
	if got != "12121" {
		t.Error(got)
	}
}

// TestConnectionLifetime: kept connections end by idleTimeout and by
// maxConnectionDuration.
func TestConnectionLifetime(t *testing.T) {
	for name, pool := range map[string]*seinev1.ConnectionPool{
		"idle": {IdleTimeout: durationpb.New(20 * time.Millisecond)},
		"age":  {MaxConnectionDuration: durationpb.New(20 * time.Millisecond)},
	} {
		t.Run(name, func(t *testing.T) {
			at, open := perConnection(t)
			p := start(t, Options{Loops: 1, Explicit: localhost()},
				limited(t, pooled(pool), toBilling(), endpoint("1", at, workload("billing", ""))).build())
			c := dial(t, p.Addresses()[0].String())
			if res, _ := c.get("/"); res.StatusCode != 200 {
				t.Error(res.Status)
			}
			eventually(t, "the connection ends", func() bool { return open.Load() == 0 })
			p.sharedOf(t).settled(t, 0)
			if _, body := c.get("/"); body != "1" {
				t.Errorf("request %s of its connection", body)
			}
		})
	}
}

// streamed is a table with one opaque service at an address.
func streamed(t testing.TB, policy *seinev1.TrafficPolicy, dialled string, eps ...*seinev1.Endpoint) *tableOf {
	b := limited(t, policy, toBilling(), eps...)
	b.service[0].Protocol = seinev1.Protocol_PROTOCOL_TCP
	b.answers = map[string]*seinev1.Answer{"addr/" + dialled: {
		Kind: seinev1.Answer_ROUTES, Service: billing, Protocol: seinev1.Protocol_PROTOCOL_TCP,
		Tcp: []*seinev1.TcpRule{{Destinations: []*seinev1.Destination{{Host: billing, Port: 8080, Weight: 1}}}},
	}}
	return b
}

func startStream(t testing.TB, o Options, table *tableOf, dialled string) *running {
	f := &tables{}
	f.cur.Store(table.build())
	o.Outbound = localhost()
	return startWith(t, o, f, func(p *Proxy) {
		p.original = func(int) (netip.AddrPort, error) { return netip.MustParseAddrPort(dialled), nil }
	})
}

// TestStreamLimits: an opaque connection over the bound is refused at once, and
// one that has lasted its time ends.
func TestStreamLimits(t *testing.T) {
	const dialled = "10.9.9.9:8080"
	echo := rawApp(t, func(c net.Conn) { _, _ = io.Copy(c, c) })
	pool := &seinev1.ConnectionPool{MaxConnections: 1}
	p := startStream(t, Options{Loops: 2}, streamed(t, pooled(pool), dialled, endpoint("1", echo, workload("billing", ""))), dialled)
	addr := p.Addresses()[0].String()
	first := dial(t, addr)
	first.write("a")
	if b, err := first.r.ReadByte(); b != 'a' || err != nil {
		t.Fatal(b, err)
	}
	if second, err := net.Dial("tcp", addr); err == nil { // the reset may be there that soon
		_, _ = io.WriteString(second, "b")
		if b, err := io.ReadAll(second); len(b) > 0 {
			t.Errorf("%q came through the bound, %v", b, err)
		}
		_ = second.Close()
	}
	p.flagged(t, "UO")
	_ = first.Close()
	p.sharedOf(t).settled(t, 0)

	pool.MaxConnections, pool.MaxConnectionDuration = 0, durationpb.New(30*time.Millisecond)
	p.tables.publish(streamed(t, pooled(pool), dialled, endpoint("1", echo, workload("billing", ""))).build())
	eventually(t, "the new limits hold", func() bool { return p.sharedOf(t).limits.Load().MaxAge > 0 })
	third := dial(t, addr)
	third.write("c")
	if b, err := third.r.ReadByte(); b != 'c' || err != nil {
		t.Fatal(b, err)
	}
	if _, err := third.r.ReadByte(); err == nil {
		t.Error("the stream outlives its time")
	}
}

// TestLimitIsRaised: what waits is served when a new table makes room.
func TestLimitIsRaised(t *testing.T) {
	g := newGate(t)
	pool := &seinev1.ConnectionPool{MaxConnections: 1}
	ep := endpoint("1", g.at, workload("billing", ""))
	p := start(t, Options{Loops: 2, Explicit: localhost()}, limited(t, pooled(pool), toBilling(), ep).build())
	var clients []*client
	for range 3 {
		c := dial(t, p.Addresses()[0].String())
		c.write("GET / HTTP/1.1\r\nHost: billing:8080\r\n\r\n")
		clients = append(clients, c)
	}
	sh := p.sharedOf(t)
	eventually(t, "two wait", func() bool { return sh.waiting.Value() == 2 })
	p.tables.publish(limited(t, pooled(&seinev1.ConnectionPool{MaxConnections: 3}), toBilling(), ep).build())
	for range 3 {
		<-g.entered
	}
	close(g.open)
	for _, c := range clients {
		if res, _ := c.response("GET"); res.StatusCode != 200 {
			t.Error(res.Status)
		}
	}
}

// TestRetryBudgetWritten: a DestinationRule's retryBudget bounds the retries that
// are under way at once, for all loops, and holds instead of ours.
func TestRetryBudgetWritten(t *testing.T) {
	for _, loops := range []int{1, 4} {
		t.Run(fmt.Sprint(loops), func(t *testing.T) {
			f := &flaky{fails: 1 << 30, status: 503}
			rule := retried(1, "5xx")
			rule.Retry.Backoff = durationpb.New(time.Hour) // the first retries wait, and so are under way
			policy := &seinev1.TrafficPolicy{RetryBudget: &seinev1.RetryBudget{Percent: 0, MinConcurrency: 2}}
			p := start(t, Options{Loops: loops, Explicit: localhost()}, limited(t, policy, rule, endpoint("1", app(t, f.ServeHTTP), workload("billing", ""))).build())
			const n = 10
			var clients []*client
			answered := make(chan string, n)
			for range n {
				c := p.dial(t)
				clients = append(clients, c)
				c.write("GET / HTTP/1.1\r\nHost: billing:8080\r\n\r\n")
				go func() {
					if res, err := http.ReadResponse(bufio.NewReader(c.TCPConn), nil); err == nil {
						answered <- res.Status
					}
				}()
			}
			for range n - 2 { // those that the budget denies are answered at once
				if s := <-answered; s != "503 Service Unavailable" {
					t.Error(s)
				}
			}
			if got := p.sharedOf(t).retries.Value(); got != 2 {
				t.Errorf("%d retries under way, want 2", got)
			}
			p.shows(t, fmt.Sprintf("seine_circuit_breaker_refused_total{cluster=\"outbound|8080||%s\",limit=\"http.maxRetries\"} %d", billing, n-2))
			for _, c := range clients {
				_ = c.Close()
			}
		})
	}
}
