//go:build linux

package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
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

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

func TestClientAborts(t *testing.T) {
	gone := make(chan struct{})
	entered := make(chan struct{})
	at := app(t, func(w http.ResponseWriter, r *http.Request) {
		close(entered)
		<-r.Context().Done()
		close(gone)
	})
	p := startPair(t, at, nil, nil)
	c := dial(t, p.addr)
	c.write("GET / HTTP/1.1\r\nHost: billing:8080\r\n\r\n")
	<-entered
	_ = c.Close()
	<-gone // the application hears of it
	for _, r := range []*running{p.client, p.server} {
		r.flagged(t, "DC")
		eventually(t, "nothing is under way", func() bool { return r.inflight() == 0 })
	}
}

func TestUpstreamResets(t *testing.T) {
	at := rawApp(t, func(c net.Conn) {
		_, _ = http.ReadRequest(bufio.NewReader(c))
		_ = c.(*net.TCPConn).SetLinger(0)
	})
	p := startPair(t, at, nil, nil)
	c := dial(t, p.addr)
	for range 2 {
		res, _ := c.get("/")
		if res.StatusCode != 503 || !strings.Contains(res.Header.Get("X-Seine-Cause"), "closed the connection") {
			t.Errorf("%s %v", res.Status, res.Header)
		}
	}
	p.server.flagged(t, "UC")
}

// TestEarlyAnswer: an application that answers and closes before it has read
// the request is heard.
func TestEarlyAnswer(t *testing.T) {
	at := rawApp(t, func(c net.Conn) {
		r := bufio.NewReader(c)
		if _, err := http.ReadRequest(r); err != nil {
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 4\r\n\r\nbig!")
	})
	p := startPair(t, at, nil, nil)
	c := dial(t, p.addr)
	c.write("POST / HTTP/1.1\r\nHost: billing:8080\r\nContent-Length: %d\r\n\r\n", 64<<20)
	done := make(chan struct{})
	go func() { defer close(done); _, _ = io.CopyN(c.TCPConn, zeros{}, 64<<20) }()
	if res, body := c.response("POST"); res.StatusCode != 413 || body != "big!" {
		t.Errorf("%s %q", res.Status, body)
	}
	_ = c.Close()
	<-done
}

func TestNoSuchApplication(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	at := netip.MustParseAddrPort(l.Addr().String())
	_ = l.Close()
	p := startPair(t, at, nil, nil)
	c := dial(t, p.addr)
	if res, _ := c.get("/"); res.StatusCode != 503 || res.Header.Get("X-Seine-Cause") != "upstream connect: connection refused" {
		t.Errorf("%s %v", res.Status, res.Header)
	}
	p.server.flagged(t, "UF")
}

func TestNoEndpoint(t *testing.T) {
	p := start(t, Options{Loops: 1, Explicit: localhost()}, billingTable(t, []*seinev1.HttpRule{toBilling()}).build())
	c := dial(t, p.Addresses()[0].String())
	if res, _ := c.get("/"); res.StatusCode != 503 {
		t.Error(res.Status)
	}
	p.flagged(t, "UH")
}

func TestBadResponse(t *testing.T) {
	at := rawApp(t, func(c net.Conn) {
		_, _ = http.ReadRequest(bufio.NewReader(c))
		_, _ = io.WriteString(c, "SSH-2.0-OpenSSH\r\n\r\n")
	})
	p := startPair(t, at, nil, nil)
	if res, _ := dial(t, p.addr).get("/"); res.StatusCode != 502 {
		t.Error(res.Status)
	}
	p.server.flagged(t, "UPE")
}

// TestReusedConnections: an application that closes kept connections whenever
// it likes makes no request fail.
func TestReusedConnections(t *testing.T) {
	var served atomic.Int64
	at := rawApp(t, func(c net.Conn) {
		r := bufio.NewReader(c)
		for i := 0; ; i++ {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, req.Body)
			served.Add(1)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			if i%3 == 2 {
				return // without a word: the next request meets a closed connection
			}
		}
	})
	p := startPair(t, at, nil, nil)
	var clients sync.WaitGroup
	for range 8 {
		c := dial(t, p.addr)
		clients.Add(1)
		go func() {
			defer clients.Done()
			for range 300 {
				_, _ = io.WriteString(c.TCPConn, "PUT / HTTP/1.1\r\nHost: billing:8080\r\nContent-Length: 5\r\n\r\nhello")
				res, err := http.ReadResponse(c.r, nil)
				if err != nil || res.StatusCode != 200 {
					t.Error(res, err)
					return
				}
				_, _ = io.Copy(io.Discard, res.Body)
			}
		}()
	}
	clients.Wait()
	if served.Load() != 2400 {
		t.Errorf("%d requests were served", served.Load())
	}
	t.Logf("%d were sent twice", p.server.counters.repeated.Value())
}

// TestRepeatedOnce: a request is sent again if the connection was a kept one
// and it may be, and never if not.
func TestRepeatedOnce(t *testing.T) {
	var seen atomic.Int64
	at := rawApp(t, func(c net.Conn) {
		r := bufio.NewReader(c)
		for i := 0; ; i++ {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, req.Body)
			if seen.Add(1); i > 0 {
				return // read, and closed without an answer
			}
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	})
	p := startPair(t, at, nil, nil)
	c := dial(t, p.addr)
	if res, _ := c.get("/"); res.StatusCode != 200 {
		t.Fatal(res.Status)
	}
	if res, _ := c.get("/"); res.StatusCode != 200 || p.server.counters.repeated.Value() != 1 || seen.Load() != 3 {
		t.Errorf("%s, %d repeated, %d seen", res.Status, p.server.counters.repeated.Value(), seen.Load())
	}
	c.write("POST / HTTP/1.1\r\nHost: billing:8080\r\nContent-Length: 1\r\n\r\na")
	if res, _ := c.response("POST"); res.StatusCode != 503 || p.server.counters.repeated.Value() != 1 {
		t.Errorf("a POST that was sent: %s, %d repeated", res.Status, p.server.counters.repeated.Value())
	}
}

func TestWrongIdentity(t *testing.T) {
	p := startPair(t, app(t, echo), nil, nil)
	thief := workload("thief", "spiffe://cluster.local/ns/default/sa/thief")
	p.client.tables.publish(billingTable(t, []*seinev1.HttpRule{toBilling()}, endpoint("1", p.server.Addresses()[0], thief)).build())
	c := dial(t, p.addr)
	res, body := c.get("/")
	if res.StatusCode != 503 {
		t.Errorf("%s %q", res.Status, body)
	}
	p.client.flagged(t, "UF,URX")
	t.Log(body)
}

func TestStrictRefusesPlaintext(t *testing.T) {
	var reached atomic.Int32
	p := startPair(t, app(t, func(http.ResponseWriter, *http.Request) { reached.Add(1) }), nil, nil)
	to := p.server.Addresses()[0].String()
	c := dial(t, to)
	c.write("GET / HTTP/1.1\r\nHost: billing:8080\r\n\r\n")
	if _, err := c.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("plaintext was not reset: %v", err)
	}
	if n := p.server.counters.refusedPlaintext.Value(); n != 1 {
		t.Errorf("counted %d", n)
	}
	// TLS of a stranger.
	k, err := tls.Dial("tcp", to, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"istio"}})
	if err == nil {
		_, err = k.Read(make([]byte, 1)) // TLS 1.3: the server's refusal comes after
		_ = k.Close()
	}
	if err == nil {
		t.Error("a client without a certificate was let in")
	}
	if reached.Load() != 0 {
		t.Error("something reached the application")
	}
}

func TestPermissive(t *testing.T) {
	ca := newAuthority(t)
	own, err := tls.X509KeyPair(selfSigned(t))
	must(t, err)
	secret, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{own}})
	must(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := secret.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "the application's own TLS")
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = secret.Close(); <-done })
	s := start(t, Options{
		Loops: 1, Factory: ca.factory(t, billingID), Forwards: []Forward{
			{Listen: localhost(), App: app(t, echo), Port: 8080},
			{Listen: localhost(), App: netip.MustParseAddrPort(secret.Addr().String()), Port: 8443},
		},
	}, (&tableOf{t: t, self: self(t, "billing", billingID, seinev1.MtlsMode_MTLS_PERMISSIVE)}).build())
	c := dial(t, s.Addresses()[0].String())
	if res, body := c.get("/plain"); res.StatusCode != 200 || !strings.HasPrefix(body, "GET /plain") || res.Header.Get("Saw-X-Forwarded-Client-Cert") != "" {
		t.Errorf("%s %q", res.Status, body)
	}
	s.shows(t, `connection_security_policy="none"`, `source_workload="unknown"`)
	k, err := tls.Dial("tcp", s.Addresses()[1].String(), &tls.Config{InsecureSkipVerify: true})
	must(t, err)
	b, _ := io.ReadAll(k)
	_ = k.Close()
	if string(b) != "the application's own TLS" {
		t.Errorf("%q", b)
	}
}

func TestUnansweredIsRefused(t *testing.T) {
	p := start(t, Options{Loops: 1, Explicit: localhost(), AnswerWait: 20 * time.Millisecond}, billingTable(t, nil).build())
	c := dial(t, p.Addresses()[0].String())
	c.write("GET / HTTP/1.1\r\nHost: elsewhere:9090\r\n\r\n")
	res, _ := c.response("GET")
	if res.StatusCode != 503 || !p.tables.asked("http/9090/elsewhere") {
		t.Errorf("%s", res.Status)
	}
	p.flagged(t, "NC")
	p.tables.refuse.Store(true)
	c.write("GET / HTTP/1.1\r\nHost: invented:9090\r\n\r\n")
	if res, _ := c.response("GET"); res.StatusCode != 503 {
		t.Error(res.Status)
	}
}

func TestAnswerArrives(t *testing.T) {
	at := app(t, echo)
	table := billingTable(t, []*seinev1.HttpRule{toBilling()}, endpoint("1", at, nil))
	before := *table
	before.answers = nil
	p := start(t, Options{Loops: 1, Explicit: localhost(), AnswerWait: 10 * time.Second}, before.build())
	c := dial(t, p.Addresses()[0].String())
	c.write("POST / HTTP/1.1\r\nHost: billing:8080\r\nContent-Length: 5\r\n\r\nhello")
	eventually(t, "the name is wanted", func() bool { return p.tables.asked("http/8080/billing") })
	p.tables.publish(table.build())
	if _, body := c.response("POST"); body != "POST / 5 billing:8080" {
		t.Error(body)
	}
}

func TestPassthroughOnlyIfAnswered(t *testing.T) {
	at := app(t, echo)
	name := fmt.Sprintf("http/%d/127.0.0.1", at.Port())
	table := &tableOf{t: t, self: self(t, "frontend", frontendID, seinev1.MtlsMode_MTLS_STRICT), answers: map[string]*seinev1.Answer{
		name:               {Kind: seinev1.Answer_PASSTHROUGH},
		"http/80/blocked":  {Kind: seinev1.Answer_BLACKHOLE, Reason: "not in the registry"},
		"http/80/10.1.2.3": {Kind: seinev1.Answer_PASSTHROUGH},
		"addr/10.1.2.3:80": {Kind: seinev1.Answer_UNKNOWN, Reason: "nothing has that address"},
	}}
	p := start(t, Options{Loops: 1, Explicit: localhost()}, table.build())
	c := dial(t, p.Addresses()[0].String())
	for _, k := range []struct {
		host   string
		status int
	}{{at.String(), 200}, {"blocked", 502}, {"10.1.2.3", 503}} {
		c.write("GET http://%s/x HTTP/1.1\r\nHost: ignored\r\n\r\n", k.host)
		if res, body := c.response("GET"); res.StatusCode != k.status {
			t.Errorf("%s: %s %q", k.host, res.Status, body)
		}
	}
}

func TestCallsToItselfAreRefused(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	at := netip.MustParseAddrPort(l.Addr().String())
	_ = l.Close()
	table := &tableOf{t: t, self: self(t, "frontend", frontendID, seinev1.MtlsMode_MTLS_STRICT), answers: map[string]*seinev1.Answer{
		fmt.Sprintf("http/%d/127.0.0.1", at.Port()): {Kind: seinev1.Answer_PASSTHROUGH},
	}}
	p := start(t, Options{Loops: 1, Explicit: at}, table.build())
	c := dial(t, at.String())
	c.write("GET / HTTP/1.1\r\nHost: %s\r\n\r\n", at)
	if res, _ := c.response("GET"); res.StatusCode != 503 || p.counters.selfCalls.Value() != 1 {
		t.Error(res.Status)
	}
}

func TestSlowHead(t *testing.T) {
	p := start(t, Options{Loops: 1, Explicit: localhost(), HeadTimeout: 20 * time.Millisecond}, billingTable(t, nil).build())
	c := dial(t, p.Addresses()[0].String())
	c.write("GET / HTTP/1.1\r\nHost: bil")
	if res, _ := c.response("GET"); res.StatusCode != 408 {
		t.Error(res.Status)
	}
}

func TestIdleConnectionsEnd(t *testing.T) {
	p := start(t, Options{Loops: 1, Explicit: localhost(), DownstreamIdle: 10 * time.Millisecond}, billingTable(t, nil).build())
	dial(t, p.Addresses()[0].String()).ends()
	eventually(t, "it is forgotten", func() bool { return p.connections() == 0 })
}

// TestLargeRecordsRetire: a connection that keeps the buffer of a large record has a
// shorter idle time than one that does not.
func TestLargeRecordsRetire(t *testing.T) {
	at := app(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/large" {
			_, _ = w.Write(make([]byte, 1<<20))
		}
	})
	for path, share := range map[string]int64{"/small": 1, "/large": largeShare} {
		p := startPair(t, at, nil, func(c, _ *Options) { c.UpstreamIdle = time.Hour })
		if res, _ := dial(t, p.addr).get(path); res.StatusCode != 200 {
			t.Fatal(res.Status)
		}
		w := p.client.workers[0]
		left := make(chan int64)
		w.loop.Post(func() {
			for _, pl := range w.pools {
				if u := pl.idle; u != nil {
					left <- u.timer.When() - w.loop.Now()
					return
				}
			}
			left <- 0
		})
		if got, most := <-left, int64(time.Hour)/share; got <= most/2 || got > most {
			t.Errorf("%s: idle for %v more, at most %v", path, time.Duration(got), time.Duration(most))
		}
	}
}

func TestStreamIdle(t *testing.T) {
	at := app(t, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	p := startPair(t, at, nil, func(c, _ *Options) { c.StreamIdle = 20 * time.Millisecond })
	if res, _ := dial(t, p.addr).get("/"); res.StatusCode != 504 {
		t.Error(res.Status)
	}
	p.client.flagged(t, "SI")
}

func TestDrain(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	at := app(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/wait" {
			close(entered)
			<-release
		}
	})
	ca := newAuthority(t)
	f := &tables{}
	f.cur.Store((&tableOf{t: t, self: self(t, "billing", billingID, seinev1.MtlsMode_MTLS_DISABLE)}).build())
	p, err := New(Options{
		Loops: 2, Forwards: []Forward{{Listen: localhost(), App: at, Port: 8080}}, Factory: ca.factory(t, billingID),
		Registry: newRegistry(),
	}, f)
	must(t, err)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx, 0, 20*time.Second) }()
	c := dial(t, p.Addresses()[0].String())
	c.get("/")
	c.write("GET /wait HTTP/1.1\r\nHost: billing:8080\r\n\r\n")
	<-entered
	stop()
	eventually(t, "it drains", p.Draining)
	for _, w := range p.workers { // each loop has heard of it
		heard := make(chan struct{})
		w.loop.Post(func() { close(heard) })
		<-heard
	}
	k := dial(t, p.Addresses()[0].String()) // still accepted
	if res, _ := k.get("/"); res.StatusCode != 200 || !res.Close {
		t.Errorf("%s, close %v", res.Status, res.Close)
	}
	select {
	case <-ended:
		t.Error("it ended with a request under way")
	default:
	}
	close(release)
	if res, _ := c.response("GET"); res.StatusCode != 200 || !res.Close {
		t.Errorf("%s, close %v", res.Status, res.Close)
	}
	must(t, <-ended)
	if _, err := net.Dial("tcp", p.Addresses()[0].String()); err == nil {
		t.Error("it still listens")
	}
}
