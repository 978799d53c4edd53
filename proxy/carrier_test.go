//go:build linux

package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/mtls"
)

// alwaysCarry has a client's sidecar share connections from the first request on
// that finds a sidecar of ours.
func alwaysCarry(client, _ *Options) { client.carry = 1 }

// upstreams counts a proxy's connections to upstreams, and those of them that
// exchanges of HTTP/1.1 share.
func (r *running) upstreams() (all, shared int) {
	for _, w := range r.workers {
		done := make(chan struct{})
		w.loop.Post(func() {
			defer close(done)
			for k, p := range w.pools {
				if all += p.open; k.carries {
					shared += p.open
				}
			}
		})
		<-done
	}
	return all, shared
}

// TestCarriesMany: requests of many clients at once share a connection, and stay of
// HTTP/1.1 for the application, whatever its port is declared as; one after the
// other they have one of their own.
func TestCarriesMany(t *testing.T) {
	const clients = 40
	for _, protocol := range []seinev1.Protocol{seinev1.Protocol_PROTOCOL_DETECT, seinev1.Protocol_PROTOCOL_HTTP} {
		var together sync.WaitGroup
		together.Add(clients)
		at := app2(t, func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			if r.URL.Path == "/together" {
				together.Done()
				together.Wait()
			}
			fmt.Fprintf(w, "%s %s %s", r.Proto, r.Header.Get("x-n"), body)
		})
		p := speaks(t, protocol, at, nil)
		one := dial(t, p.addr)
		for range 20 {
			if res, body := one.get("/"); res.StatusCode != 200 || body != "HTTP/1.1  " {
				t.Fatalf("%s %q", res.Status, body)
			}
		}
		if all, shared := p.client.upstreams(); all != 1 || shared != 0 {
			t.Errorf("one request after the other: %d connections, %d shared", all, shared)
		}
		var clientsDone sync.WaitGroup
		for n := range clients {
			c := dial(t, p.addr)
			clientsDone.Go(func() {
				content := strings.Repeat("x", n*100)
				c.write("POST /together HTTP/1.1\r\nHost: billing:8080\r\nX-N: %d\r\nContent-Length: %d\r\n\r\n%s", n, len(content), content)
				res, err := http.ReadResponse(c.r, nil)
				if err != nil {
					t.Error(err)
					return
				}
				body, err := io.ReadAll(res.Body)
				if err != nil || res.StatusCode != 200 || string(body) != fmt.Sprintf("HTTP/1.1 %d %s", n, content) {
					t.Errorf("%d: %s, %d bytes, %v", n, res.Status, len(body), err)
				}
			})
		}
		clientsDone.Wait()
		if all, shared := p.client.upstreams(); all > carryFrom+1 || shared != 1 {
			t.Errorf("%d requests at once: %d connections, %d shared", clients, all, shared)
		}
		p.server.shows(t, `request_protocol="http"`)
		if m := p.server.metrics(t); strings.Contains(m, `request_protocol="grpc"`) {
			t.Error("the server's metrics speak of gRPC")
		}
	}
}

// TestCarriesNotAll: what HTTP/2 would take something from has a connection of
// its own.
func TestCarriesNotAll(t *testing.T) {
	at := rawApp(t, func(c net.Conn) {
		r := bufio.NewReader(c)
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			if req.Header.Get("Expect") != "" {
				fmt.Fprint(c, "HTTP/1.1 100 Continue\r\n\r\n")
			}
			if _, err := io.Copy(io.Discard, req.Body); err != nil {
				return
			}
			fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	})
	for name, k := range map[string]struct {
		request string
		shared  int
	}{
		"plain":     {"GET / HTTP/1.1\r\nHost: billing:8080\r\n\r\n", 1},
		"length":    {"PUT / HTTP/1.1\r\nHost: billing:8080\r\nContent-Length: 1\r\n\r\nx", 1},
		"te":        {"GET / HTTP/1.1\r\nHost: billing:8080\r\nTE: trailers\r\nConnection: TE\r\n\r\n", 0},
		"chunked":   {"PUT / HTTP/1.1\r\nHost: billing:8080\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", 0},
		"websocket": {"GET / HTTP/1.1\r\nHost: billing:8080\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 0},
		"old":       {"GET / HTTP/1.0\r\nHost: billing:8080\r\nConnection: keep-alive\r\n\r\n", 0},
	} {
		p := startPair(t, at, nil, alwaysCarry)
		dial(t, p.addr).get("/") // who is there is known from now on
		c := dial(t, p.addr)
		c.write("%s", k.request)
		if res, body := c.response("GET"); res.StatusCode != 200 || body != "ok" {
			t.Errorf("%s: %s %q", name, res.Status, body)
		}
		if _, shared := p.client.upstreams(); shared != k.shared {
			t.Errorf("%s: %d shared connections, want %d", name, shared, k.shared)
		}
	}
	for name, policy := range map[string]*seinev1.TrafficPolicy{
		"DO_NOT_UPGRADE":    {H2Upgrade: seinev1.TrafficPolicy_H2_DO_NOT},
		"useClientProtocol": {UseClientProtocol: true},
		"maxConnections":    {Pool: &seinev1.ConnectionPool{MaxConnections: 100}},
	} {
		p := startPairOf(t, at, seinev1.Protocol_PROTOCOL_HTTP, policy, nil, alwaysCarry)
		c := dial(t, p.addr)
		for range 3 {
			if res, _ := c.get("/"); res.StatusCode != 200 {
				t.Fatal(res.Status)
			}
		}
		if _, shared := p.client.upstreams(); shared != 0 {
			t.Errorf("%s: %d shared connections", name, shared)
		}
	}
}

// TestCarriesToOlder: a sidecar that does not know shared connections is found
// out once, and its requests are answered all the same.
func TestCarriesToOlder(t *testing.T) {
	at := app(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	p := startPair(t, at, nil, func(c, s *Options) {
		alwaysCarry(c, s)
		ca := newAuthority(t)
		c.Factory = ca.factory(t, frontendID)
		s.Factory = mtls.NewFactory(ca.source(t, billingID), mtls.Options{ServerALPN: []string{"seine-http/2", "seine-http/1.1", "seine-tcp"}})
	})
	c := dial(t, p.addr)
	for range 5 {
		if res, body := c.get("/"); res.StatusCode != 200 || body != "ok" {
			t.Fatalf("%s %q", res.Status, body)
		}
	}
	if all, shared := p.client.upstreams(); all == 0 || shared != 0 {
		t.Errorf("%d connections, %d shared", all, shared)
	}
	p.server.shows(t, "seine_proxy_failed_handshakes_total 1")

	for _, w := range p.client.workers { // aloneFor goes by, and it is asked once more
		done := make(chan struct{})
		w.loop.Post(func() {
			defer close(done)
			for _, p := range w.pools {
				p.alone = 0
			}
		})
		<-done
	}
	if res, body := c.get("/"); res.StatusCode != 200 || body != "ok" {
		t.Fatalf("asked again: %s %q", res.Status, body)
	}
	p.server.shows(t, "seine_proxy_failed_handshakes_total 2")
}

// TestCarriesTrailers: an answer's trailers reach a client that has not asked for
// them, as they do over a connection of its own, however they are cut.
func TestCarriesTrailers(t *testing.T) {
	for _, tail := range []string{"0\r\nX-Sum: 42\r\nX-More:  a b \r\n\r\n", "0\r\n\r\n"} {
		for _, whole := range []bool{true, false} {
			at := rawApp(t, func(c net.Conn) {
				r := bufio.NewReader(c)
				for {
					if _, err := http.ReadRequest(r); err != nil {
						return
					}
					_ = c.(*net.TCPConn).SetNoDelay(true)
					answer := "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n" + tail
					if whole {
						fmt.Fprint(c, answer)
						continue
					}
					for i := range len(answer) {
						if _, err := c.Write([]byte(answer[i : i+1])); err != nil {
							return
						}
					}
				}
			})
			p := startPair(t, at, nil, alwaysCarry)
			c := dial(t, p.addr)
			for i := range 4 {
				res, body := c.get("/")
				sum, more := "", ""
				if len(tail) > 5 {
					sum, more = "42", "a b"
				}
				if body != "hello" || res.Trailer.Get("X-Sum") != sum || res.Trailer.Get("X-More") != more {
					t.Errorf("%d: %q, trailers %v", i, body, res.Trailer)
				}
			}
			if _, shared := p.client.upstreams(); shared != 1 {
				t.Errorf("%d shared connections", shared)
			}
		}
	}
}

// TestCarriesNoBulk: what goes to an endpoint that answers at length has a
// connection of its own, and shares one again once answers are short.
func TestCarriesNoBulk(t *testing.T) {
	long := strings.Repeat("x", 4*streamWindow)
	at := app(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if r.URL.Path == "/long" {
			fmt.Fprint(w, long)
		}
	})
	p := startPair(t, at, nil, func(c, s *Options) { alwaysCarry(c, s); c.Loops = 1 })
	c := dial(t, p.addr)
	opened := func() (n int) {
		done := make(chan struct{})
		p.client.workers[0].loop.Post(func() {
			defer close(done)
			for _, q := range p.client.workers[0].pools {
				for _, k := range q.trunks {
					n += k.opened
				}
			}
		})
		<-done
		return n
	}
	get := func(path string, times int) {
		for range times {
			if res, _ := c.get(path); res.StatusCode != 200 {
				t.Fatal(res.Status)
			}
		}
	}
	get("/", 3)
	if n := opened(); n != 2 {
		t.Fatalf("%d of 3 short exchanges were shared", n)
	}
	get("/long", 10)
	most := opened()
	if get("/long", 10); opened() != most || most > 10 {
		t.Errorf("%d long exchanges were shared, then %d more", most-2, opened()-most)
	}
	get("/", 40)
	if opened() == most {
		t.Error("nothing was shared again")
	}
	most = opened()
	c.write("PUT / HTTP/1.1\r\nHost: billing:8080\r\nContent-Length: %d\r\n\r\n%s", len(long), long)
	if res, _ := c.response("PUT"); res.StatusCode != 200 || opened() != most {
		t.Errorf("%s, %d requests with much content were shared", res.Status, opened()-most)
	}
}
