//go:build linux

package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

// echo answers with what it saw.
func echo(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	for k, v := range r.Header {
		w.Header()["Saw-"+k] = v
	}
	fmt.Fprintf(w, "%s %s %d %s", r.Method, r.URL, len(b), r.Host)
}

func TestPairForwards(t *testing.T) {
	p := startPair(t, app(t, echo), nil, nil)
	c := dial(t, p.addr)
	for i := range 5 {
		c.write("POST /pay/%d?a=b HTTP/1.1\r\nHost: billing:8080\r\nX-Forwarded-Client-Cert: forged\r\nx-envoy-peer-metadata: x\r\nContent-Length: 4\r\n\r\nabcd", i)
		res, body := c.response("POST")
		if want := fmt.Sprintf("POST /pay/%d?a=b 4 billing:8080", i); body != want || res.StatusCode != 200 {
			t.Fatalf("%d %q, want %q", res.StatusCode, body, want)
		}
		xfcc := res.Header.Get("Saw-X-Forwarded-Client-Cert")
		if !strings.Contains(xfcc, "URI="+frontendID) || !strings.Contains(xfcc, "By="+billingID) || strings.Contains(xfcc, "forged") {
			t.Errorf("x-forwarded-client-cert: %q", xfcc)
		}
		if len(res.Header.Get("Saw-X-Request-Id")) != 36 || res.Header.Get("Saw-X-Forwarded-Proto") != "http" {
			t.Errorf("x-request-id and x-forwarded-proto: %v", res.Header)
		}
		if res.Header.Get("Saw-X-Envoy-Peer-Metadata") != "" {
			t.Error("x-envoy-peer-metadata reached the application")
		}
	}
	c.write("GET / HTTP/1.1\r\nHost: billing:8080\r\nX-Request-Id: mine\r\n\r\n")
	if res, _ := c.response("GET"); res.Header.Get("Saw-X-Request-Id") != "mine" {
		t.Error("x-request-id was not kept")
	}
	for _, r := range []*running{p.client, p.server} {
		r.shows(t, `source_workload="frontend"`, `destination_workload="billing"`, `destination_service="`+billing+`"`,
			`source_principal="`+frontendID+`"`, `response_flags="-"`)
	}
	p.server.shows(t, `connection_security_policy="mutual_tls"`)
}

func TestPipelining(t *testing.T) {
	p := startPair(t, app(t, echo), nil, nil)
	c := dial(t, p.addr)
	var all strings.Builder
	for i := range 50 {
		fmt.Fprintf(&all, "POST /%d HTTP/1.1\r\nHost: billing:8080\r\nContent-Length: 3\r\n\r\nabc", i)
	}
	c.write("%s", all.String())
	for i := range 50 {
		if _, body := c.response("POST"); body != fmt.Sprintf("POST /%d 3 billing:8080", i) {
			t.Fatalf("answer %d is %q", i, body)
		}
	}
}

// TestPipeliningThenHalfClose: a client that ends its side is served what is
// still buffered but for the last request, whose asker counts as gone, as with
// Envoy and nginx; the connection does not outlive it.
func TestPipeliningThenHalfClose(t *testing.T) {
	p := startPair(t, app(t, echo), nil, nil)
	c := dial(t, p.addr)
	c.write("GET /1 HTTP/1.1\r\nHost: billing:8080\r\n\r\nGET /2 HTTP/1.1\r\nHost: billing:8080\r\n\r\n")
	must(t, c.CloseWrite())
	if _, body := c.response("GET"); !strings.HasPrefix(body, "GET /1") {
		t.Fatal(body)
	}
	eventually(t, "the connection ends", func() bool { return p.client.connections() == 0 })
}

func TestChunkedAndTrailers(t *testing.T) {
	at := rawApp(t, func(c net.Conn) {
		r := bufio.NewReader(c)
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		b, _ := io.ReadAll(req.Body)
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n")
		for part := range strings.SplitSeq(string(b)+"|"+req.Trailer.Get("X-In"), "") {
			fmt.Fprintf(c, "1;ext=1\r\n%s\r\n", part)
		}
		fmt.Fprintf(c, "0\r\nX-Sum: 42\r\n\r\n")
	})
	p := startPair(t, at, nil, nil)
	c := dial(t, p.addr)
	c.write("POST / HTTP/1.1\r\nHost: billing:8080\r\nTE: trailers\r\nConnection: TE\r\nTrailer: X-In\r\nTransfer-Encoding: chunked\r\n\r\n")
	c.write("5\r\nhello\r\n")
	c.write("0\r\nX-In: yes\r\n\r\n")
	res, body := c.response("POST")
	if body != "hello|yes" || res.Trailer.Get("X-Sum") != "42" {
		t.Errorf("%q, trailers %v", body, res.Trailer)
	}
}

func TestLargeBodiesWithSlowReader(t *testing.T) {
	const size = 32 << 20
	at := app(t, func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		w.Header().Set("X-Got", fmt.Sprint(n))
		w.Header().Set("Content-Length", fmt.Sprint(size))
		b := make([]byte, 1<<20)
		for range size / len(b) {
			if _, err := w.Write(b); err != nil {
				return
			}
		}
	})
	p := startPair(t, at, nil, nil)
	c := dial(t, p.addr)
	c.write("POST / HTTP/1.1\r\nHost: billing:8080\r\nContent-Length: %d\r\n\r\n", size)
	sent := make(chan error, 1)
	go func() {
		_, err := io.CopyN(c.TCPConn, zeros{}, size)
		sent <- err
	}()
	res, err := http.ReadResponse(c.r, nil)
	must(t, err)
	must(t, <-sent)
	if res.Header.Get("X-Got") != fmt.Sprint(size) {
		t.Errorf("the application got %s bytes", res.Header.Get("X-Got"))
	}
	// The reader stops: what the proxies hold stays bounded, whatever the
	// application sends.
	held := func() (n int64) {
		for _, r := range []*running{p.client, p.server} {
			for _, w := range r.workers {
				got := make(chan int64)
				w.loop.Post(func() { got <- w.buffers.inUse })
				n += <-got
			}
		}
		return n
	}
	last := int64(-1)
	eventually(t, "the response stands still", func() bool {
		n := held()
		same := n == last && n > 0
		last = n
		return same
	})
	if n := held(); n > 1<<20 {
		t.Errorf("%d bytes are held for one slow reader", n)
	}
	n, err := io.Copy(io.Discard, res.Body)
	if n != size || err != nil {
		t.Errorf("got %d bytes, %v", n, err)
	}
	eventually(t, "idle connections hold no buffers", func() bool { return held() == 0 })
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func TestExpectContinue(t *testing.T) {
	p := startPair(t, app(t, echo), nil, nil)
	c := dial(t, p.addr)
	c.write("POST / HTTP/1.1\r\nHost: billing:8080\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
	line, err := c.r.ReadString('\n')
	must(t, err)
	if !strings.HasPrefix(line, "HTTP/1.1 100 ") {
		t.Fatalf("got %q", line)
	}
	_, err = c.r.ReadString('\n')
	must(t, err)
	c.write("hello")
	if _, body := c.response("POST"); body != "POST / 5 billing:8080" {
		t.Error(body)
	}
}

func TestExpectRefused(t *testing.T) {
	at := app(t, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(417) })
	p := startPair(t, at, nil, nil)
	c := dial(t, p.addr)
	c.write("POST / HTTP/1.1\r\nHost: billing:8080\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
	if res, _ := c.response("POST"); res.StatusCode != 417 || !res.Close {
		t.Errorf("%d, close %v", res.StatusCode, res.Close)
	}
	c.ends()
}

func TestBodiless(t *testing.T) {
	at := app(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/204":
			w.WriteHeader(204)
		case "/304":
			w.Header().Set("Etag", `"x"`)
			w.WriteHeader(304)
		default:
			w.Header().Set("Content-Length", "10")
		}
	})
	p := startPair(t, at, nil, nil)
	c := dial(t, p.addr)
	for range 2 {
		if res, _ := c.get("/204"); res.StatusCode != 204 {
			t.Error(res.StatusCode)
		}
		if res, _ := c.get("/304"); res.StatusCode != 304 || res.Header.Get("Etag") != `"x"` {
			t.Error(res.StatusCode)
		}
		c.write("HEAD / HTTP/1.1\r\nHost: billing:8080\r\n\r\n")
		if res, body := c.response("HEAD"); res.ContentLength != 10 || body != "" {
			t.Error(res.ContentLength, body)
		}
	}
}

func TestInterim(t *testing.T) {
	at := app(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</a.css>; rel=preload")
		w.WriteHeader(103)
		w.WriteHeader(200)
	})
	p := startPair(t, at, nil, nil)
	c := dial(t, p.addr)
	c.write("GET / HTTP/1.1\r\nHost: billing:8080\r\n\r\n")
	if res, _ := c.response("GET"); res.StatusCode != 103 || res.Header.Get("Link") == "" {
		t.Errorf("first came %d", res.StatusCode)
	}
	if res, _ := c.response("GET"); res.StatusCode != 200 {
		t.Errorf("then came %d", res.StatusCode)
	}
}

func TestOldHTTP(t *testing.T) {
	at := app(t, func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMinor != 1 {
			t.Errorf("forwarded as HTTP/1.%d", r.ProtoMinor)
		}
		if r.URL.Path == "/chunked" {
			_, _ = io.WriteString(w, "in ")
			w.(http.Flusher).Flush()
			_, _ = io.WriteString(w, "chunks")
			return
		}
		_, _ = io.WriteString(w, "whole")
	})
	p := startPair(t, at, nil, nil)
	c := dial(t, p.addr)
	c.write("GET / HTTP/1.0\r\nHost: billing:8080\r\n\r\n")
	if res, body := c.response("GET"); body != "whole" || !res.Close {
		t.Error(body)
	}
	c.ends()
	c = dial(t, p.addr)
	for range 2 {
		c.write("GET / HTTP/1.0\r\nHost: billing:8080\r\nConnection: keep-alive\r\n\r\n")
		if _, body := c.response("GET"); body != "whole" {
			t.Error(body)
		}
	}
	c.write("GET /chunked HTTP/1.0\r\nHost: billing:8080\r\n\r\n")
	res, body := c.response("GET")
	if body != "in chunks" || len(res.TransferEncoding) > 0 {
		t.Error(body, res.TransferEncoding)
	}
	c.ends()
}

func TestCloseDelimited(t *testing.T) {
	at := rawApp(t, func(c net.Conn) {
		_, _ = http.ReadRequest(bufio.NewReader(c))
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\nuntil ")
		_, _ = io.WriteString(c, "the end")
	})
	p := startPair(t, at, nil, nil)
	c := dial(t, p.addr)
	for range 2 { // the client's connection outlives it
		if _, body := c.get("/"); body != "until the end" {
			t.Errorf("%q", body)
		}
	}
}

func TestCutShort(t *testing.T) {
	for name, head := range map[string]string{
		"length": "Content-Length: 100\r\n", "chunked": "Transfer-Encoding: chunked\r\n", "close": "",
	} {
		t.Run(name, func(t *testing.T) {
			at := rawApp(t, func(c net.Conn) {
				_, _ = http.ReadRequest(bufio.NewReader(c))
				body := "partial"
				if name == "chunked" {
					body = "7\r\npartial\r\n"
				}
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n"+head+"\r\n"+body)
				if name == "close" {
					_ = c.(*net.TCPConn).SetLinger(0)
				}
			})
			p := startPair(t, at, nil, nil)
			c := dial(t, p.addr)
			c.write("GET / HTTP/1.1\r\nHost: billing:8080\r\n\r\n")
			res, err := http.ReadResponse(c.r, nil)
			if err != nil {
				if name == "close" {
					return // the reset overtook the head
				}
				t.Fatal(err)
			}
			if b, err := io.ReadAll(res.Body); err == nil {
				t.Errorf("%q looks whole", b)
			}
			p.server.flagged(t, "UC")
		})
	}
}

func TestUpgrade(t *testing.T) {
	at := rawApp(t, func(c net.Conn) {
		r := bufio.NewReader(c)
		req, err := http.ReadRequest(r)
		if err != nil || req.Header.Get("Upgrade") != "websocket" {
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhi!")
		_, _ = io.Copy(c, r)
	})
	p := startPair(t, at, nil, nil)
	c := dial(t, p.addr)
	c.write("GET /ws HTTP/1.1\r\nHost: billing:8080\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n")
	res, err := http.ReadResponse(c.r, nil)
	must(t, err)
	if res.StatusCode != 101 || res.Header.Get("Upgrade") != "websocket" {
		t.Fatal(res.Status)
	}
	buf := make([]byte, 3)
	_, err = io.ReadFull(c.r, buf)
	must(t, err)
	big := strings.Repeat("frame", 100_000)
	go func() { _, _ = io.WriteString(c.TCPConn, big); _ = c.CloseWrite() }()
	b, err := io.ReadAll(c.r)
	if string(b) != big || err != nil {
		t.Errorf("%d bytes came back, %v", len(b), err)
	}
	p.client.shows(t, `response_code="101"`)
}

func TestConnectRefusedByServer(t *testing.T) {
	p := startPair(t, app(t, echo), nil, func(_, s *Options) { s.Explicit = localhost() })
	s := start(t, Options{Loops: 1, Published: nil, Forwards: []Forward{{Listen: localhost(), App: app(t, echo), Port: 8080}}, Factory: p.ca.factory(t, billingID)},
		(&tableOf{t: t, self: self(t, "billing", billingID, seinev1.MtlsMode_MTLS_DISABLE)}).build())
	c := dial(t, s.Addresses()[0].String())
	c.write("CONNECT billing:8080 HTTP/1.1\r\nHost: billing:8080\r\n\r\n")
	if res, _ := c.response("GET"); res.StatusCode != 405 {
		t.Error(res.Status)
	}
	c.ends()
}

func TestConnectAtExplicitPort(t *testing.T) {
	p := startPair(t, app(t, echo), nil, nil)
	c := dial(t, p.addr)
	c.write("CONNECT billing:8080 HTTP/1.1\r\nHost: billing:8080\r\n\r\n")
	res, err := http.ReadResponse(c.r, &http.Request{Method: "CONNECT"})
	must(t, err)
	if res.StatusCode != 200 {
		t.Fatal(res.Status)
	}
	if _, body := c.get("/inside"); body != "GET /inside 0 billing:8080" {
		t.Error(body)
	}
}

func TestBadInput(t *testing.T) {
	var reached atomic.Int32
	p := startPair(t, app(t, func(http.ResponseWriter, *http.Request) { reached.Add(1) }), nil, nil)
	for name, c := range map[string]struct {
		in     string
		status int
	}{
		"garbage":     {"\x00\x01\x02 garbage HTTP/1.1\r\n\r\n", 400},
		"bare LF":     {"GET / HTTP/1.1\nHost: billing:8080\n\n", 400},
		"two lengths": {"POST / HTTP/1.1\r\nHost: billing:8080\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\na", 400},
		"smuggling":   {"POST / HTTP/1.1\r\nHost: billing:8080\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
		"no host":     {"GET / HTTP/1.1\r\n\r\n", 400},
		"huge head":   {"GET / HTTP/1.1\r\nHost: billing:8080\r\nX: " + strings.Repeat("a", 80<<10) + "\r\n\r\n", 431},
		"huge line":   {"GET /" + strings.Repeat("a", 80<<10) + " HTTP/1.1\r\nHost: billing:8080\r\n\r\n", 414},
		"bad version": {"GET / HTTP/3.0\r\nHost: billing:8080\r\n\r\n", 505},
	} {
		t.Run(name, func(t *testing.T) {
			k := dial(t, p.addr)
			_, _ = io.WriteString(k.TCPConn, c.in)
			res, _ := k.response("GET")
			if res.StatusCode != c.status || res.Header.Get("X-Seine-Cause") == "" || !res.Close {
				t.Errorf("%s, cause %q, close %v", res.Status, res.Header.Get("X-Seine-Cause"), res.Close)
			}
			_ = k.CloseWrite()
			k.ends()
		})
	}
	k := dial(t, p.addr) // not even meant to be HTTP/1: no answer in it
	_, _ = io.WriteString(k.TCPConn, "INVALID CONNECTION PREFACE\r\n\r\n")
	k.ends()
	if reached.Load() != 0 {
		t.Error("something was forwarded")
	}
	p.client.flagged(t, "DPE")
}

func TestBadChunk(t *testing.T) {
	p := startPair(t, app(t, echo), nil, nil)
	c := dial(t, p.addr)
	c.write("POST / HTTP/1.1\r\nHost: billing:8080\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
	c.write("zz\r\n")
	if res, _ := c.response("POST"); res.StatusCode != 400 {
		t.Error(res.Status)
	}
	c.ends()
}

func TestRouteOutcomes(t *testing.T) {
	at := app(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-r.Context().Done()
			return
		}
		w.Header().Set("X-Drop", "me")
		echo(w, r)
	})
	exact := func(p string) []*seinev1.HttpMatch {
		return []*seinev1.HttpMatch{{Uri: &seinev1.StringMatch{Match: &seinev1.StringMatch_Exact{Exact: p}}}}
	}
	dest := toBilling().Destinations
	p := startPair(t, at, []*seinev1.HttpRule{
		{Match: exact("/slow"), Destinations: dest, Timeout: durationpb.New(30 * time.Millisecond)},
		{Match: exact("/moved"), Redirect: &seinev1.Redirect{Uri: "/new", Code: 308}},
		{Match: exact("/direct"), DirectResponse: &seinev1.DirectResponse{Status: 418, Body: []byte("teapot")}},
		{Match: exact("/nowhere"), Destinations: []*seinev1.Destination{{Host: "gone.default.svc.cluster.local", Port: 80, Weight: 1}}},
		{
			Match: exact("/edit"), Destinations: dest, Rewrite: &seinev1.Rewrite{Uri: "/rewritten", Authority: "other"},
			RequestHeaders:  &seinev1.HeaderOps{Set: []*seinev1.Header{{Name: "x-a", Value: "1"}}, Remove: []string{"x-b"}},
			ResponseHeaders: &seinev1.HeaderOps{Add: []*seinev1.Header{{Name: "x-c", Value: "2"}}, Remove: []string{"x-drop"}},
		},
		{Match: exact("/"), Destinations: dest},
	}, nil)
	c := dial(t, p.addr)
	for _, k := range []struct {
		path, flag string
		status     int
	}{{"/slow", "UT", 504}, {"/moved", "-", 308}, {"/direct", "-", 418}, {"/nowhere", "NC", 503}, {"/unmatched", "NR", 404}, {"/", "-", 200}} {
		res, body := c.get(k.path)
		if res.StatusCode != k.status {
			t.Errorf("%s: %s %q", k.path, res.Status, body)
		}
		if k.path == "/moved" && res.Header.Get("Location") != "http://billing:8080/new" {
			t.Errorf("location %q", res.Header.Get("Location"))
		}
		if k.path == "/direct" && body != "teapot" {
			t.Errorf("body %q", body)
		}
		p.client.shows(t, fmt.Sprintf("response_code=%q", fmt.Sprint(k.status)), fmt.Sprintf("response_flags=%q", k.flag))
	}
	c.write("GET /edit HTTP/1.1\r\nHost: billing:8080\r\nX-A: 0\r\nX-B: 0\r\n\r\n")
	res, body := c.response("GET")
	if body != "GET /rewritten 0 other" || res.Header.Get("Saw-X-A") != "1" || res.Header.Get("Saw-X-B") != "" ||
		res.Header.Get("X-C") != "2" || res.Header.Get("X-Drop") != "" {
		t.Errorf("%q %v", body, res.Header)
	}
}
