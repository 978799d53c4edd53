//go:build linux

package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

// names is a resolver in a test's hand.
type names map[string]netip.Addr

func (n names) LookupNetIP(_ context.Context, network, host string) ([]netip.Addr, error) {
	if a, ok := n[host]; ok && network == "ip4" {
		return []netip.Addr{a}, nil
	}
	return nil, errors.New("no such host")
}

func TestNamesAreResolved(t *testing.T) {
	at := app(t, echo)
	table := billingTable(t, []*seinev1.HttpRule{toBilling()}, &seinev1.Endpoint{Id: "1", Address: "db.example.com", Port: uint32(at.Port())})
	table.answers[fmt.Sprintf("http/%d/outside.example.com", at.Port())] = &seinev1.Answer{Kind: seinev1.Answer_PASSTHROUGH}
	table.answers["http/80/gone.example.com"] = &seinev1.Answer{Kind: seinev1.Answer_PASSTHROUGH}
	p := start(t, Options{Loops: 1, Explicit: localhost(), Resolver: names{"db.example.com": at.Addr(), "outside.example.com": at.Addr()}}, table.build())
	c := dial(t, p.Addresses()[0].String())
	if _, body := c.get("/endpoint"); body != "GET /endpoint 0 billing:8080" {
		t.Error(body)
	}
	c.write("GET /x HTTP/1.1\r\nHost: outside.example.com:%d\r\n\r\n", at.Port())
	if res, _ := c.response("GET"); res.StatusCode != 200 {
		t.Error(res.Status)
	}
	c.write("GET /x HTTP/1.1\r\nHost: gone.example.com\r\n\r\n")
	if res, _ := c.response("GET"); res.StatusCode != 503 {
		t.Error(res.Status)
	}
	p.flagged(t, "DF")
}

// hostDialer serves the host dialer's protocol at a unix socket.
func hostDialer(t *testing.T, to map[string]netip.AddrPort) (path string, asked *sync.Map) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "dial.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	must(t, err)
	asked = &sync.Map{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			line, _ := bufio.NewReader(c).ReadString('\n')
			line = strings.TrimSpace(line)
			asked.Store(line, true)
			if at, ok := to[line]; ok {
				k, err := net.Dial("tcp", at.String())
				if err == nil {
					f, _ := k.(*net.TCPConn).File()
					_, _, _ = c.WriteMsgUnix([]byte("k"), syscall.UnixRights(int(f.Fd())), nil)
					_ = f.Close()
					_ = k.Close()
				}
			} else {
				_, _ = io.WriteString(c, "eno route to host")
			}
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return path, asked
}

func TestHostDialer(t *testing.T) {
	at := app(t, echo)
	path, asked := hostDialer(t, map[string]netip.AddrPort{"192.0.2.1:80": at})
	table := &tableOf{t: t, self: self(t, "frontend", frontendID, seinev1.MtlsMode_MTLS_STRICT), answers: map[string]*seinev1.Answer{
		"http/80/192.0.2.1": {Kind: seinev1.Answer_PASSTHROUGH}, "http/80/192.0.2.2": {Kind: seinev1.Answer_PASSTHROUGH},
	}}
	p := start(t, Options{Loops: 1, Explicit: localhost(), HostDialer: path}, table.build())
	c := dial(t, p.Addresses()[0].String())
	for range 2 { // kept alive
		c.write("GET /out HTTP/1.1\r\nHost: 192.0.2.1\r\n\r\n")
		if res, body := c.response("GET"); res.StatusCode != 200 || !strings.HasPrefix(body, "GET /out") {
			t.Errorf("%s %q", res.Status, body)
		}
	}
	c.write("GET / HTTP/1.1\r\nHost: 192.0.2.2\r\n\r\n")
	if res, _ := c.response("GET"); res.StatusCode != 503 || !strings.Contains(res.Header.Get("X-Seine-Cause"), "no route to host") {
		t.Errorf("%s %v", res.Status, res.Header)
	}
	if _, ok := asked.Load("192.0.2.1:80"); !ok {
		t.Error("the host dialer was not asked")
	}
}

func TestPublished(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	f, err := l.(*net.TCPListener).File()
	must(t, err)
	fd, err := syscall.Dup(int(f.Fd()))
	must(t, err)
	_ = f.Close()
	_ = l.Close()
	table := billingTable(t, []*seinev1.HttpRule{toBilling()}, endpoint("1", app(t, echo), nil))
	table.answers["http/8080/"+billing] = table.answers["http/8080/billing"]
	p := start(t, Options{Loops: 1, Published: []Published{{FD: fd, Host: billing, Port: 8080}}}, table.build())
	c := dial(t, p.Addresses()[0].String())
	c.write("GET /door HTTP/1.1\r\nHost: localhost:8080\r\n\r\n")
	if res, body := c.response("GET"); body != "GET /door 0 localhost:8080" || res.Header.Get("Saw-X-Forwarded-For") != "127.0.0.1" {
		t.Error(body, res.Header)
	}
	c.write("GET /door HTTP/1.1\r\nHost: localhost:8080\r\nX-Forwarded-For: 192.0.2.9\r\nX-Forwarded-Proto: https\r\n\r\n")
	if res, _ := c.response("GET"); res.Header.Get("Saw-X-Forwarded-For") != "192.0.2.9, 127.0.0.1" || res.Header.Get("Saw-X-Forwarded-Proto") != "http" {
		t.Error(res.Header)
	}
}

// TestFairness: a stream as fast as the loop can carry it leaves room for others.
func TestFairness(t *testing.T) {
	var stop atomic.Bool
	at := app(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/stream" {
			b := make([]byte, 1<<20)
			for !stop.Load() {
				if _, err := w.Write(b); err != nil {
					return
				}
			}
		}
	})
	p := startPair(t, at, nil, nil)
	big := dial(t, p.addr)
	big.write("GET /stream HTTP/1.1\r\nHost: billing:8080\r\n\r\n")
	var carried atomic.Int64
	streamed := make(chan struct{})
	go func() {
		defer close(streamed)
		b := make([]byte, 1<<20)
		for {
			n, err := big.Read(b)
			carried.Add(int64(n))
			if err != nil || stop.Load() {
				return
			}
		}
	}()
	eventually(t, "the stream flows", func() bool { return carried.Load() > 8<<20 })
	c := dial(t, p.addr)
	turns := func() uint64 { return p.client.workers[0].loop.Stats().Turns.Load() }
	before, turned := carried.Load(), turns()
	for range 200 {
		if res, _ := c.get("/"); res.StatusCode != 200 {
			t.Fatal(res.Status)
		}
	}
	// In no turn did the stream move more than its share and one buffer.
	moved, turned := carried.Load()-before, turns()-turned
	const inFlight = 16 << 20 // left the loop before, reached the reader since
	if moved > int64(turned+2)*(turnBudget+scratchSize)+inFlight {
		t.Errorf("the stream carried %d MiB in %d turns", moved>>20, turned)
	}
	t.Logf("%d MiB in %d turns", moved>>20, turned)
	stop.Store(true)
	_ = big.Close()
	<-streamed
}

// TestLoops: connections are spread over the loops, and everything works with
// several.
func TestLoops(t *testing.T) {
	p := startPair(t, app(t, echo), nil, func(c, s *Options) { c.Loops, s.Loops = 4, 3 })
	var clients []*client
	for range 12 {
		clients = append(clients, dial(t, p.addr))
	}
	for i, c := range clients {
		for range 3 {
			if _, body := c.get(fmt.Sprintf("/%d", i)); body != fmt.Sprintf("GET /%d 0 billing:8080", i) {
				t.Error(body)
			}
		}
	}
	for _, w := range p.client.workers {
		if n := w.loop.Count(); n != 3 {
			t.Errorf("a loop has %d of 12 connections", n)
		}
	}
	for _, c := range clients {
		_ = c.Close()
	}
	eventually(t, "all are forgotten", func() bool { return p.client.connections() == 0 })
}

// TestChurn: tables change all the time under load, endpoints come and go,
// clients come and go, and no request fails.
func TestChurn(t *testing.T) {
	p := startPair(t, app(t, echo), nil, func(c, s *Options) { c.Loops, s.Loops = 2, 2 })
	at := p.server.Addresses()[0]
	second := start(t, Options{Loops: 1, Forwards: []Forward{{Listen: localhost(), App: app(t, echo), Port: 8080}}, Factory: p.ca.factory(t, billingID)},
		p.server.tables.Table())
	one, two := endpoint("1", at, workload("billing", billingID)), endpoint("2", second.Addresses()[0], workload("billing", billingID))
	stop := make(chan struct{})
	var churn, load sync.WaitGroup
	churn.Add(1)
	go func() {
		defer churn.Done()
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			eps := []*seinev1.Endpoint{one, two}
			switch i % 3 {
			case 1:
				eps = eps[:1]
			case 2:
				eps = eps[1:]
			}
			p.client.tables.publish(billingTable(t, []*seinev1.HttpRule{toBilling()}, eps...).build())
			time.AfterFunc(0, func() {}) // let others run
		}
	}()
	for range 6 {
		load.Add(1)
		go func() {
			defer load.Done()
			for range 10 {
				c := dial(t, p.addr)
				for range 20 {
					_, err := io.WriteString(c.TCPConn, "POST /x HTTP/1.1\r\nHost: billing:8080\r\nContent-Length: 2\r\n\r\nok")
					res, rerr := http.ReadResponse(c.r, nil)
					if err != nil || rerr != nil || res.StatusCode != 200 {
						t.Error(res, err, rerr)
						return
					}
					_, _ = io.Copy(io.Discard, res.Body)
				}
				_ = c.Close()
			}
		}()
	}
	load.Wait()
	close(stop)
	churn.Wait()
	eventually(t, "nothing is under way", func() bool { return p.client.inflight() == 0 && p.server.inflight() == 0 })
}
