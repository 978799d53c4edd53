package http1

import (
	"bytes"
	"strings"
	"testing"

	"github.com/seinemesh/seine/message"
)

// pair is a field to add.
func pair(name, value string) message.Field {
	return message.Field{Name: []byte(name), Value: []byte(value)}
}

func lines(s ...string) string { return strings.Join(s, "\r\n") + "\r\n\r\n" }

func TestAppendRequest(t *testing.T) {
	for _, c := range []struct {
		name string
		in   string
		e    *Edit
		want string
	}{
		{"nothing changes", lines("GET /a HTTP/1.1", "hOST: x", "X-b: 1", "x-A: \t2 "), nil,
			lines("GET /a HTTP/1.1", "hOST: x", "X-b: 1", "x-A: \t2 ")},
		{"leading empty line", "\r\n" + lines("GET /a HTTP/1.1", "Host: x"), nil, lines("GET /a HTTP/1.1", "Host: x")},
		{"hop by hop", lines("GET / HTTP/1.1", "Connection: keep-alive, X-Hop", "Host: x", "X-Hop: 1", "Keep-Alive: 5", "Proxy-Connection: close", "x-hop: 2", "X-Keep: 1"), nil,
			lines("GET / HTTP/1.1", "Host: x", "X-Keep: 1")},
		{"target", lines("GET /a HTTP/1.1", "Host: x"), &Edit{Target: []byte("/b?c")}, lines("GET /b?c HTTP/1.1", "Host: x")},
		{"authority", lines("GET /a HTTP/1.1", "A: 1", "HOST: x", "B: 2"), &Edit{Authority: []byte("y:80")}, lines("GET /a HTTP/1.1", "A: 1", "HOST: y:80", "B: 2")},
		{"drop and add", lines("GET / HTTP/1.1", "X-Forwarded-Client-Cert: evil", "Host: x", "X-Drop: 1", "x-forwarded-client-cert: evil", "User-Agent: z"),
			&Edit{Drop: message.SetOf(message.XForwardedClientCert), DropNames: []string{"x-drop"}, Add: []message.Field{pair("X-Forwarded-Client-Cert", "By=a"), pair("x-new", "")}},
			lines("GET / HTTP/1.1", "Host: x", "User-Agent: z", "X-Forwarded-Client-Cert: By=a", "x-new: ")},
		{"frames are not dropped", lines("POST / HTTP/1.1", "Host: x", "Content-Length: 5"),
			&Edit{Drop: ^message.Set(0), DropNames: []string{"host", "content-length"}}, lines("POST / HTTP/1.1", "Host: x", "Content-Length: 5")},
		{"frames are written plainly", lines("POST / HTTP/1.1", "Host:\tx ", "Content-Length:5"), nil,
			lines("POST / HTTP/1.1", "Host: x", "Content-Length: 5")},
		{"absolute to origin", lines("GET http://x/a HTTP/1.1", "Host: X"), nil, lines("GET /a HTTP/1.1", "Host: x")},
		{"absolute kept", lines("GET http://x/a HTTP/1.1", "Host: x"), &Edit{Absolute: true}, lines("GET http://x/a HTTP/1.1", "Host: x")},
		{"absolute kept, others changed", lines("GET http://x/a HTTP/1.1", "Host: x"), &Edit{Absolute: true, Authority: []byte("y"), Target: []byte("/b")},
			lines("GET http://y/b HTTP/1.1", "Host: y")},
		{"absolute without path", lines("GET http://x HTTP/1.1", "Host: x"), nil, lines("GET / HTTP/1.1", "Host: x")},
		{"OPTIONS of the server", lines("OPTIONS http://x HTTP/1.1", "Host: x"), nil, lines("OPTIONS * HTTP/1.1", "Host: x")},
		{"1.0 becomes 1.1", lines("GET /a HTTP/1.0", "Host: x", "Connection: keep-alive"), nil, lines("GET /a HTTP/1.1", "Host: x")},
		{"1.2 becomes 1.1", lines("GET /a HTTP/1.2", "Host: x"), nil, lines("GET /a HTTP/1.1", "Host: x")},
		{"1.0 without Host", lines("GET /a HTTP/1.0", "A: b"), &Edit{Authority: []byte("10.0.0.1:80")}, lines("GET /a HTTP/1.1", "Host: 10.0.0.1:80", "A: b")},
		{"1.0 without any field", lines("GET /a HTTP/1.0"), &Edit{Authority: []byte("a")}, lines("GET /a HTTP/1.1", "Host: a")},
		{"1.0 does not expect", lines("POST / HTTP/1.0", "Host: x", "Content-Length: 1", "Expect: 100-continue"), nil, lines("POST / HTTP/1.1", "Host: x", "Content-Length: 1")},
		{"1.1 expects", lines("POST / HTTP/1.1", "Host: x", "Content-Length: 1", "Expect: 100-continue"), nil, lines("POST / HTTP/1.1", "Host: x", "Content-Length: 1", "Expect: 100-continue")},
		{"websocket", lines("GET / HTTP/1.1", "Host: x", "Connection: keep-alive, upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: k"), nil,
			lines("GET / HTTP/1.1", "Host: x", "Upgrade: websocket", "Sec-WebSocket-Key: k", "Connection: Upgrade")},
		{"h2c is no upgrade", lines("GET / HTTP/1.1", "Host: x", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AA"), nil, lines("GET / HTTP/1.1", "Host: x")},
		{"TE trailers", lines("GET / HTTP/1.1", "Host: x", "TE: trailers", "Connection: TE"), nil, lines("GET / HTTP/1.1", "Host: x", "TE: trailers", "Connection: TE")},
		{"TE with codings", lines("GET / HTTP/1.1", "Host: x", "TE: gzip, trailers;q=0.5"), nil, lines("GET / HTTP/1.1", "Host: x")},
		{"TE of both", lines("GET / HTTP/1.1", "Host: x", "TE: gzip, trailers", "A: b"), nil, lines("GET / HTTP/1.1", "Host: x", "A: b", "TE: trailers", "Connection: TE")},
		{"TE dropped", lines("GET / HTTP/1.1", "Host: x", "TE: trailers"), &Edit{Drop: message.SetOf(message.TE)}, lines("GET / HTTP/1.1", "Host: x")},
		{"close", lines("GET / HTTP/1.1", "Host: x"), &Edit{Close: true}, lines("GET / HTTP/1.1", "Host: x", "Connection: close")},
		{"chunked with trailers", lines("POST / HTTP/1.1", "Host: x", "Transfer-Encoding: chunked", "Trailer: X-Sum"), nil,
			lines("POST / HTTP/1.1", "Host: x", "Transfer-Encoding: chunked", "Trailer: X-Sum")},
		{"CONNECT", lines("CONNECT x:443 HTTP/1.1", "Host: x:443"), nil, lines("CONNECT x:443 HTTP/1.1", "Host: x:443")},
		{"CONNECT elsewhere", lines("CONNECT x:443 HTTP/1.1", "Host: x:443"), &Edit{Authority: []byte("y:1")}, lines("CONNECT y:1 HTTP/1.1", "Host: y:1")},
		{"Connection names Transfer-Encoding", lines("POST / HTTP/1.1", "Host: x", "Transfer-Encoding: chunked", "Connection: Transfer-Encoding"), nil,
			lines("POST / HTTP/1.1", "Host: x", "Transfer-Encoding: chunked")},
	} {
		t.Run(c.name, func(t *testing.T) {
			var req message.Request
			in := []byte(c.in)
			n, f, err := ParseRequest(append(in, "body"...), &req, nil)
			if err != nil {
				t.Fatal(err)
			}
			got, err := AppendRequest([]byte("before|"), in[:n], &req, f, c.e)
			if err != nil || string(got) != "before|"+c.want {
				t.Errorf("%v\ngot  %q\nwant %q", err, got, c.want)
			}
			var again message.Request
			if n, _, err := ParseRequest([]byte(c.want), &again, nil); err != nil || n != len(c.want) {
				t.Errorf("what we send is refused: %v", err)
			}
			// Without the head the fields are written one by one; only white space may differ.
			one, err := AppendRequest(nil, nil, &req, f, c.e)
			if err != nil || squeeze(one) != squeeze([]byte(c.want)) {
				t.Errorf("without head: %v\ngot  %q\nwant %q", err, one, c.want)
			}
		})
	}
}

func squeeze(b []byte) string {
	return strings.NewReplacer(" ", "", "\t", "").Replace(string(b))
}

func TestUpgradeNotGranted(t *testing.T) {
	in := []byte(lines("GET / HTTP/1.1", "Host: x", "Connection: upgrade", "Upgrade: websocket"))
	var req message.Request
	_, f, _ := ParseRequest(in, &req, nil)
	f.Upgrade = false
	if got, err := AppendRequest(nil, in, &req, f, nil); err != nil || string(got) != lines("GET / HTTP/1.1", "Host: x") {
		t.Errorf("%q, %v", got, err)
	}
}

func TestFieldDrop(t *testing.T) {
	in := []byte(lines("GET / HTTP/1.1", "Host: x", "A: 1", "B: 2"))
	var req message.Request
	_, f, _ := ParseRequest(in, &req, nil)
	req.Fields[0].Drop, req.Fields[1].Drop = true, true
	if got, err := AppendRequest(nil, in, &req, f, nil); err != nil || string(got) != lines("GET / HTTP/1.1", "Host: x", "B: 2") {
		t.Errorf("%q, %v", got, err)
	}
}

func TestEditsThatWouldSplitAreRefused(t *testing.T) {
	in := []byte(lines("GET /a HTTP/1.0"))
	var req message.Request
	_, f, _ := ParseRequest(in, &req, nil)
	res := []byte(lines("HTTP/1.1 200 OK", "Content-Length: 0"))
	var parsed message.Response
	_, g, _ := ParseResponse(res, &parsed, 0, nil)
	host := []byte("a")
	for name, c := range map[string]struct {
		e    Edit
		want *rule
	}{
		"value with CRLF":    {Edit{Authority: host, Add: []message.Field{pair("X", "a\r\nb: c")}}, lawAdded},
		"value with a blank": {Edit{Authority: host, Add: []message.Field{pair("X", "a ")}}, lawAdded},
		"name with colon":    {Edit{Authority: host, Add: []message.Field{pair("X:", "a")}}, lawAdded},
		"empty name":         {Edit{Authority: host, Add: []message.Field{pair("", "a")}}, lawAdded},
		"Content-Length":     {Edit{Authority: host, Add: []message.Field{pair("Content-Length", "0")}}, lawAdded},
		"Transfer-Encoding":  {Edit{Authority: host, Add: []message.Field{pair("transfer-encoding", "chunked")}}, lawAdded},
		"second Host":        {Edit{Authority: host, Add: []message.Field{pair("HOST", "b")}}, lawAdded},
		"Connection":         {Edit{Authority: host, Add: []message.Field{pair("Connection", "x")}}, lawAdded},
		"target with space":  {Edit{Authority: host, Target: []byte("/a b")}, lawEditTarget},
		"target with CRLF":   {Edit{Authority: host, Target: []byte("/a\r\n")}, lawEditTarget},
		"target fragment":    {Edit{Authority: host, Target: []byte("/a#b")}, lawEditTarget},
		"empty target":       {Edit{Authority: host, Target: []byte{}}, lawEditTarget},
		"authority":          {Edit{Authority: []byte("a\r\nb")}, lawEditHost},
		"empty authority":    {Edit{Authority: []byte{}}, lawEditHost},
		"no authority":       {Edit{}, lawHostToDecide},
	} {
		got, err := AppendRequest([]byte("kept"), in, &req, f, &c.e)
		if err != c.want.on(request) || string(got) != "kept" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		if c.want == lawAdded {
			if got, err := AppendResponse([]byte("kept"), res, &parsed, g, &c.e); err == nil || err.Status != 500 || string(got) != "kept" {
				t.Errorf("%s in a response: %q, %v", name, got, err)
			}
		}
	}
}

func TestAppendResponse(t *testing.T) {
	for _, c := range []struct {
		name  string
		in    string
		asked Asked
		e     *Edit
		want  string
	}{
		{"nothing changes", lines("HTTP/1.1 200 Fine", "cONTENT-lENGTH: 5", "Set-Cookie: a", "Set-Cookie: b"), 0, nil,
			lines("HTTP/1.1 200 Fine", "cONTENT-lENGTH: 5", "Set-Cookie: a", "Set-Cookie: b")},
		{"hop by hop", lines("HTTP/1.1 200 OK", "Connection: close, X-Hop", "X-Hop: 1", "Keep-Alive: timeout=5", "Content-Length: 5"), 0, nil,
			lines("HTTP/1.1 200 OK", "Content-Length: 5")},
		{"1.0 becomes 1.1", lines("HTTP/1.0 200 OK", "Content-Length: 5"), 0, nil, lines("HTTP/1.1 200 OK", "Content-Length: 5")},
		{"until close", lines("HTTP/1.1 200 OK", "A: b"), 0, nil, lines("HTTP/1.1 200 OK", "A: b", "Connection: close")},
		{"until close, framed by us", lines("HTTP/1.0 200 OK", "A: b"), 0, &Edit{Chunk: true}, lines("HTTP/1.1 200 OK", "A: b", "Transfer-Encoding: chunked")},
		{"decoded for 1.0", lines("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", "Trailer: x", "A: b"), 0, &Edit{Unchunk: true}, lines("HTTP/1.1 200 OK", "A: b", "Connection: close")},
		{"length for 1.0", lines("HTTP/1.1 200 OK", "Content-Length: 5"), 0, &Edit{Unchunk: true, KeepAlive: true}, lines("HTTP/1.1 200 OK", "Content-Length: 5", "Connection: keep-alive")},
		{"drop and add", lines("HTTP/1.1 200 OK", "Server: x", "Content-Length: 5"), 0, &Edit{Drop: message.SetOf(message.Server), Add: []message.Field{pair("server", "seine")}, Close: true},
			lines("HTTP/1.1 200 OK", "Content-Length: 5", "server: seine", "Connection: close")},
		{"101", lines("HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade", "A: b"), AskedUpgrade, nil,
			lines("HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "A: b", "Connection: Upgrade")},
		{"426", lines("HTTP/1.1 426 Upgrade Required", "Upgrade: TLS/1.0", "Connection: Upgrade", "Content-Length: 0"), 0, nil,
			lines("HTTP/1.1 426 Upgrade Required", "Upgrade: TLS/1.0", "Content-Length: 0", "Connection: Upgrade")},
		{"Upgrade elsewhere", lines("HTTP/1.1 200 OK", "Upgrade: h2,h2c", "Connection: Upgrade", "Content-Length: 0"), 0, nil, lines("HTTP/1.1 200 OK", "Content-Length: 0")},
		{"204 with length zero", lines("HTTP/1.1 204 No Content", "Content-Length: 0", "A: b"), 0, nil, lines("HTTP/1.1 204 No Content", "A: b")},
		{"CONNECT with length", lines("HTTP/1.1 200 OK", "Content-Length: 7", "A: b"), AskedConnect, nil, lines("HTTP/1.1 200 OK", "A: b")},
		{"HEAD", lines("HTTP/1.1 200 OK", "Transfer-Encoding: chunked"), AskedHead, nil, lines("HTTP/1.1 200 OK", "Transfer-Encoding: chunked")},
		{"103", lines("HTTP/1.1 103 Early Hints", "Link: </a>", "Connection: x"), 0, &Edit{Close: true}, lines("HTTP/1.1 103 Early Hints", "Link: </a>")},
		{"no field", lines("HTTP/1.1 304 Not Modified"), 0, nil, lines("HTTP/1.1 304 Not Modified")},
		{"reason beyond ASCII", lines("HTTP/1.0 404 \xe9"), AskedHead, nil, lines("HTTP/1.1 404 \xe9")},
	} {
		t.Run(c.name, func(t *testing.T) {
			var res message.Response
			in := []byte(c.in)
			n, f, err := ParseResponse(append(in, "body"...), &res, c.asked, nil)
			if err != nil {
				t.Fatal(err)
			}
			got, err := AppendResponse([]byte("before|"), in[:n], &res, f, c.e)
			if err != nil || string(got) != "before|"+c.want {
				t.Errorf("%v\ngot  %q\nwant %q", err, got, c.want)
			}
			one, err := AppendResponse(nil, nil, &res, f, c.e)
			if err != nil || squeeze(one) != squeeze([]byte(c.want)) {
				t.Errorf("without head: %v\ngot  %q\nwant %q", err, one, c.want)
			}
		})
	}
}

func TestAppendSimple(t *testing.T) {
	for _, c := range []struct {
		status int
		body   string
		head   bool
		extra  []message.Field
		want   string
	}{
		{503, "no healthy upstream", false, nil, "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 19\r\ncontent-type: text/plain\r\nserver: seine\r\n\r\nno healthy upstream"},
		{503, "no", true, nil, "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\ncontent-type: text/plain\r\nserver: seine\r\n\r\n"},
		{301, "", false, []message.Field{pair("location", "/b"), pair("connection", "close")}, "HTTP/1.1 301 Moved Permanently\r\ncontent-length: 0\r\nlocation: /b\r\nconnection: close\r\nserver: seine\r\n\r\n"},
		{302, "", false, []message.Field{pair("location", "/\r\nSet-Cookie: a")}, "HTTP/1.1 302 Found\r\ncontent-length: 0\r\nserver: seine\r\n\r\n"},
		{200, "{}", false, []message.Field{pair("Content-Type", "application/json"), pair("Server", "mine"), pair("Content-Length", "9"), pair("transfer-encoding", "chunked")},
			"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nContent-Type: application/json\r\nServer: mine\r\n\r\n{}"},
		{204, "x", false, nil, "HTTP/1.1 204 No Content\r\nserver: seine\r\n\r\n"},
		{777, "", false, nil, "HTTP/1.1 777 \r\ncontent-length: 0\r\nserver: seine\r\n\r\n"},
	} {
		got := AppendSimple(nil, c.status, c.body, c.head, c.extra...)
		if string(got) != c.want {
			t.Errorf("got  %q\nwant %q", got, c.want)
		}
		var res message.Response
		asked := Asked(0)
		if c.head {
			asked = AskedHead
		}
		if n, _, err := ParseResponse(got, &res, asked, nil); err != nil || n == 0 {
			t.Errorf("%q: %v", got, err)
		}
	}
	for _, s := range []string{Continue, Established} {
		var res message.Response
		if n, _, err := ParseResponse([]byte(s), &res, AskedConnect, nil); n != len(s) || err != nil {
			t.Errorf("%q: %v", s, err)
		}
	}
}

// TestEveryErrorCanBeAnswered: each status that an Error asks for has a reason phrase.
func TestEveryErrorCanBeAnswered(t *testing.T) {
	for status := 400; status < 600; status++ {
		e := Error{Status: status, Reason: "why", Clause: "RFC 0 §0"}
		b := AppendSimple(nil, e.Status, e.Error(), false, pair("connection", "close"))
		if !bytes.HasSuffix(b, []byte("why (RFC 0 section 0)")) {
			t.Errorf("%q", b)
		}
	}
	for _, s := range []int{400, 414, 417, 431, 500, 501, 502, 505} {
		if StatusText(s) == "" {
			t.Errorf("no reason for %d", s)
		}
	}
}

func TestAppendDoesNotAllocate(t *testing.T) {
	in, back := []byte(typical), []byte(typicalResponse)
	var req message.Request
	var res message.Response
	n, f, _ := ParseRequest(in, &req, nil)
	m, g, _ := ParseResponse(back, &res, 0, nil)
	dst := make([]byte, 0, 4096)
	name, value := []byte("x-forwarded-client-cert"), []byte("By=spiffe://a/ns/b/sa/c")
	var add [2]message.Field
	edit := Edit{Drop: message.SetOf(message.XForwardedClientCert, message.XEnvoyPeerMetadata), DropNames: []string{"x-drop"}}
	if n := testing.AllocsPerRun(100, func() {
		add[0] = message.Field{Name: name, Value: value}
		add[1] = message.Field{Name: name, Value: value}
		edit.Add = add[:]
		dst, _ = AppendRequest(dst[:0], in[:n], &req, f, &edit)
		dst, _ = AppendRequest(dst[:0], in[:n], &req, f, nil)
		dst, _ = AppendResponse(dst[:0], back[:m], &res, g, &edit)
		dst = AppendSimple(dst[:0], 503, "no healthy upstream", false, message.Field{Name: name, Value: value})
		dst = AppendChunk(dst[:0], 1234567)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkAppendRequest(b *testing.B) {
	in := []byte(typical)
	var req message.Request
	n, f, _ := ParseRequest(in, &req, nil)
	dst := make([]byte, 0, 4096)
	edit := Edit{Drop: message.SetOf(message.XForwardedClientCert), Add: []message.Field{
		pair("x-forwarded-client-cert", "By=spiffe://cluster.local/ns/default/sa/billing;URI=spiffe://cluster.local/ns/default/sa/frontend"),
		pair("x-forwarded-proto", "http"),
	}}
	b.Run("unchanged", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			dst, _ = AppendRequest(dst[:0], in[:n], &req, f, nil)
		}
	})
	b.Run("edited", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			dst, _ = AppendRequest(dst[:0], in[:n], &req, f, &edit)
		}
	})
}

func BenchmarkAppendResponse(b *testing.B) {
	in := []byte(typicalResponse)
	var res message.Response
	n, f, _ := ParseResponse(in, &res, 0, nil)
	dst := make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		dst, _ = AppendResponse(dst[:0], in[:n], &res, f, nil)
	}
}
