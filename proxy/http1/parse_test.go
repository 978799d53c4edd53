package http1

import (
	"fmt"
	"strings"
	"testing"

	"github.com/seinemesh/seine/message"
)

// typical is what a browser or an application sends: ten fields.
const typical = "GET /api/v1/invoices/4711?expand=items HTTP/1.1\r\n" +
	"Host: billing-service.default.svc.cluster.local:8080\r\n" +
	"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:109.0) Gecko/20100101 Firefox/115.0\r\n" +
	"Accept: application/json, text/plain, */*\r\n" +
	"Accept-Language: en-US,en;q=0.5\r\n" +
	"Accept-Encoding: gzip, deflate, br\r\n" +
	"Authorization: Bearer eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.e30.abcdefghijklmnop\r\n" +
	"X-Request-Id: 6f1e0c1a-7f3b-4d8e-9d0b-0d5f0c7c7a11\r\n" +
	"Cookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\n" +
	"Cache-Control: no-cache\r\n" +
	"Connection: keep-alive\r\n\r\n"

const typicalResponse = "HTTP/1.1 200 OK\r\n" +
	"Content-Type: application/json; charset=utf-8\r\n" +
	"Content-Length: 1024\r\n" +
	"Date: Mon, 23 Nov 2026 00:00:00 GMT\r\n" +
	"Server: billing/2.1\r\n" +
	"Cache-Control: no-store\r\n" +
	"Vary: Accept-Encoding\r\n" +
	"ETag: \"0123456789abcdef\"\r\n" +
	"X-Content-Type-Options: nosniff\r\n\r\n"

func TestAcceptedRequests(t *testing.T) {
	for _, c := range []struct {
		name, in string
		want     string // method scheme authority path, kind and flags
	}{
		{"origin", "GET /a?b=c HTTP/1.1\r\nHost: x\r\n\r\n", "GET  x /a?b=c 1.1 none keep"},
		{"one empty line first", "\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", "GET  x / 1.1 none keep"},
		{"absolute", "GET http://x:8080/a HTTP/1.1\r\nHost: X:8080\r\n\r\n", "GET http x:8080 /a 1.1 none keep absolute"},
		{"absolute without path", "GET http://x HTTP/1.1\r\nHost: x\r\n\r\n", "GET http x / 1.1 none keep absolute"},
		{"absolute with query alone", "GET http://x?a=/b HTTP/1.1\r\nHost: x\r\n\r\n", "GET http x /?a=/b 1.1 none keep absolute"},
		{"absolute, https", "GET HTTPS://x/ HTTP/1.1\r\nHost: x\r\n\r\n", "GET https x / 1.1 none keep absolute"},
		{"OPTIONS of the server", "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", "OPTIONS  x * 1.1 none keep"},
		{"OPTIONS of the server, absolute", "OPTIONS http://x HTTP/1.1\r\nHost: x\r\n\r\n", "OPTIONS http x * 1.1 none keep absolute"},
		{"CONNECT", "CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n", "CONNECT  x:443  1.1 none keep asked=2"},
		{"IPv6", "GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", "GET  [::1]:80 / 1.1 none keep"},
		{"IPv4", "GET / HTTP/1.1\r\nHost: 1.2.3.4\r\n\r\n", "GET  1.2.3.4 / 1.1 none keep"},
		{"unknown method", "pUrGe / HTTP/1.1\r\nHost: x\r\n\r\n", "pUrGe  x / 1.1 none keep"},
		{"what browsers leave unescaped", "GET /a[1]|b?q={\"a\":\"<b>\\^`|\"}&p=100% HTTP/1.1\r\nHost: x\r\n\r\n",
			"GET  x /a[1]|b?q={\"a\":\"<b>\\^`|\"}&p=100% 1.1 none keep"},
		{"1.0", "GET / HTTP/1.0\r\n\r\n", "GET   / 1.0 none asked=8"},
		{"1.0 with Host", "GET / HTTP/1.0\r\nHost: x\r\n\r\n", "GET  x / 1.0 none asked=8"},
		{"1.0 kept alive", "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", "GET   / 1.0 none keep asked=8"},
		{"1.0 closed after all", "GET / HTTP/1.0\r\nConnection: Keep-Alive, close\r\n\r\n", "GET   / 1.0 none asked=8"},
		{"1.0 with an upgrade", "GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", "GET   / 1.0 none asked=8"},
		{"1.0 expects", "POST / HTTP/1.0\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n", "POST   / 1.0 length=5 asked=8"},
		{"1.2 is 1.1", "GET / HTTP/1.2\r\nHost: x\r\n\r\n", "GET  x / 1.1 none keep"},
		{"close", "GET / HTTP/1.1\r\nHost: x\r\nConnection: foo, CLOSE\r\n\r\n", "GET  x / 1.1 none"},
		{"empty options", "GET / HTTP/1.1\r\nHost: x\r\nConnection: ,close,,\r\n\r\n", "GET  x / 1.1 none"},
		{"length", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n", "POST  x / 1.1 length=10 keep"},
		{"length zero", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", "POST  x / 1.1 none keep"},
		{"largest length", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9223372036854775807\r\n\r\n", "POST  x / 1.1 length=9223372036854775807 keep"},
		{"chunked", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n", "POST  x / 1.1 chunked keep"},
		{"GET with content", "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n", "GET  x / 1.1 length=1 keep"},
		{"expects", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-Continue\r\n\r\n", "POST  x / 1.1 length=5 keep expect"},
		{"expects to send nothing", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nExpect: 100-continue\r\n\r\n", "POST  x / 1.1 none keep"},
		{"websocket", "GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n", "GET  x / 1.1 none keep upgrade asked=4"},
		{"Upgrade without its option", "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n", "GET  x / 1.1 none keep"},
		{"h2c", "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n", "GET  x / 1.1 none keep"},
		{"h2c behind another", "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket, h2c\r\n\r\n", "GET  x / 1.1 none keep"},
		{"HEAD", "HEAD / HTTP/1.1\r\nHost: x\r\n\r\n", "HEAD  x / 1.1 none keep asked=1"},
		{"values with white space and obs-text", "GET / HTTP/1.1\r\nHost:\tx \r\nX:\r\nY: \xe9\ta \t\r\n\r\n", "GET  x / 1.1 none keep"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var req message.Request
			in := []byte(c.in + "what follows")
			n, f, err := ParseRequest(in, &req, nil)
			if err != nil {
				t.Fatal(err)
			}
			if n != len(c.in) {
				t.Errorf("%d bytes, want %d", n, len(c.in))
			}
			got := fmt.Sprintf("%s %s %s %s 1.%d %s", req.Method, req.Scheme, req.Authority, req.Path, req.Minor, describe(f))
			if req.Absolute {
				got += " absolute"
			}
			if got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			for k := range len(c.in) {
				if n, _, err := ParseRequest(in[:k], &req, nil); n != 0 || err != nil {
					t.Fatalf("after %d bytes: %d, %v", k, n, err)
				}
			}
		})
	}
}

func describe(f Framing) string {
	s := [...]string{"none", "length", "chunked", "close", "tunnel"}[f.Kind]
	if f.Kind == Length {
		s += fmt.Sprintf("=%d", f.Length)
	}
	for _, x := range []struct {
		is   bool
		name string
	}{{f.KeepAlive, "keep"}, {f.ExpectContinue, "expect"}, {f.Upgrade, "upgrade"}, {f.Interim, "interim"}} {
		if x.is {
			s += " " + x.name
		}
	}
	if f.Asked != 0 {
		s += fmt.Sprintf(" asked=%d", f.Asked)
	}
	return s
}

func TestProxyReplacesHost(t *testing.T) {
	proxy := &Limits{Proxy: true}
	for in, want := range map[string]string{
		"GET http://a:81/b HTTP/1.1\r\nHost: c\r\nProxy-Authorization: x\r\n\r\n": "GET /b HTTP/1.1\r\nHost: a:81\r\n\r\n",
		"GET http://a/ HTTP/1.0\r\n\r\n":                                          "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"CONNECT a:443 HTTP/1.1\r\nHost: b\r\n\r\n":                               "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
	} {
		var req message.Request
		n, f, err := ParseRequest([]byte(in), &req, proxy)
		if err != nil {
			t.Fatalf("%q: %v", in, err)
		}
		if out, err := AppendRequest(nil, []byte(in)[:n], &req, f, nil); err != nil || string(out) != want {
			t.Errorf("%q became %q, %v; want %q", in, out, err, want)
		}
	}
	var req message.Request
	if _, _, err := ParseRequest([]byte("GET http://a/ HTTP/1.1\r\nHost: a b\r\n\r\n"), &req, proxy); err != lawHost.on(request) {
		t.Errorf("a malformed Host at a proxy: %v", err)
	}
	if _, _, err := ParseRequest([]byte("GET http://a/ HTTP/1.1\r\n\r\n"), &req, proxy); err != lawHostMissing.on(request) {
		t.Errorf("no Host at a proxy: %v", err)
	}
}

func TestAcceptedResponses(t *testing.T) {
	for _, c := range []struct {
		name, in string
		asked    Asked
		want     string
	}{
		{"length", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 0, "200 OK length=5 keep"},
		{"length zero", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 0, "200 OK none keep"},
		{"chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 0, "200 OK chunked keep"},
		{"until close", "HTTP/1.1 200 OK\r\n\r\n", 0, "200 OK close"},
		{"empty reason", "HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", 0, "200  none keep"},
		{"reason with obs-text", "HTTP/1.1 404 Pas trouv\xe9\tici\r\nContent-Length: 0\r\n\r\n", 0, "404 Pas trouv\xe9\tici none keep"},
		{"1.0", "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", 0, "200 OK length=5"},
		{"1.0 kept alive", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\n", 0, "200 OK length=5 keep"},
		{"1.0 until close", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n", 0, "200 OK close"},
		{"close", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\n", 0, "200 OK length=5"},
		{"HEAD with length", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", AskedHead, "200 OK none keep"},
		{"HEAD with coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", AskedHead, "200 OK none keep"},
		{"HEAD with nothing", "HTTP/1.1 200 OK\r\n\r\n", AskedHead, "200 OK none keep"},
		{"204", "HTTP/1.1 204 No Content\r\n\r\n", 0, "204 No Content none keep"},
		{"204 with length zero", "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", 0, "204 No Content none keep"},
		{"304 with length", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 0, "304 Not Modified none keep"},
		{"304 with coding", "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", 0, "304 Not Modified none keep"},
		{"100", "HTTP/1.1 100 Continue\r\n\r\n", 0, "100 Continue none keep interim"},
		{"103", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", AskedHead, "103 Early Hints none keep interim"},
		{"101", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", AskedUpgrade, "101 Switching Protocols tunnel upgrade"},
		{"upgrade refused", "HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\n\r\n", AskedUpgrade, "403 Forbidden length=5 keep"},
		{"CONNECT", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", AskedConnect, "200 OK tunnel"},
		{"CONNECT refused", "HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\n\r\n", AskedConnect, "403 Forbidden length=5 keep"},
		{"beyond 599", "HTTP/1.1 999 Go away\r\nContent-Length: 5\r\n\r\n", 0, "999 Go away length=5 keep"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var res message.Response
			in := []byte(c.in + "what follows")
			n, f, err := ParseResponse(in, &res, c.asked, nil)
			if err != nil {
				t.Fatal(err)
			}
			if n != len(c.in) {
				t.Errorf("%d bytes, want %d", n, len(c.in))
			}
			if got := fmt.Sprintf("%d %s %s", res.Status, res.Reason, describe(f)); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			for k := range len(c.in) {
				if n, _, err := ParseResponse(in[:k], &res, c.asked, nil); n != 0 || err != nil {
					t.Fatalf("after %d bytes: %d, %v", k, n, err)
				}
			}
		})
	}
}

func TestFieldsAsSent(t *testing.T) {
	in := []byte(typical)
	var req message.Request
	n, _, err := ParseRequest(in, &req, nil)
	if err != nil || n != len(in) {
		t.Fatal(n, err)
	}
	lines := strings.Split(strings.TrimSuffix(typical, "\r\n\r\n"), "\r\n")[1:]
	if len(req.Fields) != len(lines) {
		t.Fatalf("%d fields, want %d", len(req.Fields), len(lines))
	}
	for i, p := range req.Fields {
		if got := fmt.Sprintf("%s: %s", p.Name, p.Value); got != lines[i] {
			t.Errorf("field %d is %q, want %q", i, got, lines[i])
		}
		if !strings.HasPrefix(typical[p.Line:], lines[i]) {
			t.Errorf("field %d is not at %d", i, p.Line)
		}
		if p.ID != message.Intern(p.Name) || p.Hop != (p.ID == message.Connection) || p.Drop {
			t.Errorf("field %d: %+v", i, p)
		}
	}
}

func TestLimits(t *testing.T) {
	in := "GET /0123456789 HTTP/1.1\r\nHost: a\r\nX: 0123456789\r\n\r\n"
	for _, c := range []struct {
		lim  Limits
		want *Error
	}{
		{Limits{}, nil},
		{Limits{Head: len(in), Line: 15, Fields: 2}, nil},
		{Limits{Head: len(in) - 1}, lawHead.on(request)},
		{Limits{Line: 14}, lawTargetLong.on(request)},
		{Limits{Fields: 1}, lawFields.on(request)},
	} {
		var req message.Request
		if _, _, err := ParseRequest([]byte(in), &req, &c.lim); err != c.want {
			t.Errorf("%+v: %v, want %v", c.lim, err, c.want)
		}
	}
}

func TestParseDoesNotAllocate(t *testing.T) {
	var req message.Request
	var res message.Response
	in, back := []byte(typical), []byte(typicalResponse)
	bad := []byte("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n")
	worse := []byte("GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n")
	six := []byte("GET http://[::1]:8080/ HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n")
	ParseRequest(in, &req, nil)
	ParseResponse(back, &res, 0, nil)
	if n := testing.AllocsPerRun(100, func() {
		ParseRequest(in, &req, nil)
		ParseRequest(in[:len(in)-1], &req, nil)
		ParseRequest(bad, &req, nil)
		ParseRequest(worse, &req, nil)
		ParseRequest(six, &req, nil)
		ParseResponse(back, &res, 0, nil)
		ParseResponse(back[:len(back)-1], &res, 0, nil)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkParseRequest(b *testing.B) {
	in := []byte(typical)
	var req message.Request
	b.ReportAllocs()
	b.SetBytes(int64(len(in)))
	for b.Loop() {
		if n, _, err := ParseRequest(in, &req, nil); n == 0 || err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseResponse(b *testing.B) {
	in := []byte(typicalResponse)
	var res message.Response
	b.ReportAllocs()
	b.SetBytes(int64(len(in)))
	for b.Loop() {
		if n, _, err := ParseResponse(in, &res, 0, nil); n == 0 || err != nil {
			b.Fatal(err)
		}
	}
}
