package http1

import (
	"bufio"
	"bytes"
	"io"
	nethttp "net/http"
	"net/http/httputil"
	"slices"
	"strings"
	"testing"

	"github.com/seinemesh/seine/message"
)

// FuzzParseRequest holds of any bytes: a refusal or acceptance does not depend on how
// they arrive; what we accept net/http reads alike; what we send of it we
// accept ourselves, with the same meaning.
func FuzzParseRequest(f *testing.F) {
	for _, c := range corpus(f, "requests.txt") {
		if len(c.bytes) < 1000 {
			f.Add(c.bytes)
		}
	}
	f.Add([]byte(typical))
	for _, s := range []string{
		"\r\nPOST http://x?a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
		"CONNECT [::1]:443 HTTP/1.1\r\nHost: [::1]:443\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, upgrade, X-Hop\r\nUpgrade: websocket\r\nX-Hop: 1\r\nTE: gzip, trailers\r\n\r\n",
		"POST /a%20b HTTP/1.1\r\nHost:x\r\nTransfer-Encoding:\tchunked \r\nExpect: 100-continue\r\n\r\n0\r\n\r\n",
		"OPTIONS * HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) > 4096 {
			return
		}
		var req message.Request
		whole := bytes.Clone(in)
		n, fr, err := ParseRequest(in, &req, nil)
		if !bytes.Equal(in, whole) {
			t.Fatal("ParseRequest changed its input")
		}
		var part message.Request
		for k := range in {
			m, _, e := ParseRequest(in[:k], &part, nil)
			switch {
			case e != nil && err == nil:
				t.Fatalf("refused after %d bytes (%v), accepted whole", k, e)
			case e == nil && m != 0 && (m != n || err != nil):
				t.Fatalf("%d bytes accepted of %d, %d (%v) of all", m, k, n, err)
			case m == 0 && e == nil && err == nil && n != 0 && k >= n:
				t.Fatalf("needs more than the head's %d bytes", n)
			}
		}
		if n == 0 {
			return
		}
		if err != nil || n > len(in) {
			t.Fatalf("n %d and error %v", n, err)
		}
		sameAsNetHTTP(t, in[skipEmpty(in):n], &req, fr)
		sentMeansTheSame(t, in[:n], &req, fr)
	})
}

// sameAsNetHTTP compares with net/http, the oracle. What it refuses and we do not:
//   - escapes and brackets in a host that net/url cannot parse, where RFC 3986 has them;
//   - Trailer naming a field that frames, which announces nothing we would forward.
func sameAsNetHTTP(t *testing.T, head []byte, req *message.Request, f Framing) {
	r, err := nethttp.ReadRequest(bufio.NewReader(bytes.NewReader(head)))
	if err != nil {
		if strings.Contains(err.Error(), "bad trailer key") || req.Absolute && strings.Contains(err.Error(), "parse \"") ||
			string(req.Method) == "CONNECT" && strings.Contains(err.Error(), "parse \"") {
			return
		}
		t.Fatalf("net/http refuses what we accept: %v\n%q", err, head)
	}
	if r.Method != string(req.Method) {
		t.Errorf("method %q, net/http %q", req.Method, r.Method)
	}
	if !strings.EqualFold(r.Host, string(req.Authority)) {
		t.Errorf("authority %q, net/http %q", req.Authority, r.Host)
	}
	chunked := slices.Equal(r.TransferEncoding, []string{"chunked"})
	if chunked != (f.Kind == Chunked) || f.Kind != Chunked && r.ContentLength != f.Length {
		t.Errorf("framing %+v, net/http %v %d\n%q", f, r.TransferEncoding, r.ContentLength, head)
	}
}

// roomier is for what we send: a field or two more than what came.
var roomier = &Limits{Fields: defaultFields + 4}

// sentMeansTheSame parses what AppendRequest makes of the request.
func sentMeansTheSame(t *testing.T, head []byte, req *message.Request, f Framing) {
	e := &Edit{Add: []message.Field{pair("x-request-id", "1")}}
	if req.Authority == nil {
		e.Authority = []byte("somewhere")
	}
	out, err := AppendRequest(nil, head, req, f, e)
	if err != nil {
		t.Fatalf("%v", err)
	}
	var again message.Request
	n, g, err := ParseRequest(out, &again, roomier)
	if err != nil || n != len(out) {
		t.Fatalf("we refuse what we send: %v\n%q\n%q", err, head, out)
	}
	if !bytes.Equal(again.Method, req.Method) || !bytes.Equal(again.Path, req.Path) ||
		req.Authority != nil && !bytes.Equal(again.Authority, req.Authority) {
		t.Fatalf("sent as another request\n%q\n%q", head, out)
	}
	if g.Kind != f.Kind || g.Length != f.Length || g.ExpectContinue != f.ExpectContinue || g.Upgrade != f.Upgrade {
		t.Fatalf("framing %+v was %+v\n%q\n%q", g, f, head, out)
	}
	// Every field that is not of this hop is there, in its order.
	at := 0
	for _, p := range req.Fields {
		if p.Hop {
			continue
		}
		for at < len(again.Fields) && !(bytes.Equal(again.Fields[at].Name, p.Name) &&
			(p.ID == message.Host || bytes.Equal(again.Fields[at].Value, p.Value))) {
			at++
		}
		if at == len(again.Fields) {
			t.Fatalf("%q is lost\n%q\n%q", p.Name, head, out)
		}
	}
}

// FuzzParseResponse holds the same of responses.
func FuzzParseResponse(f *testing.F) {
	for _, c := range corpus(f, "responses.txt") {
		if len(c.bytes) < 1000 && c.bytes[0] != '{' {
			f.Add(c.bytes, byte(0))
		}
	}
	f.Add([]byte(typicalResponse), byte(0))
	f.Add([]byte("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"), byte(AskedUpgrade))
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n"), byte(AskedHead))
	f.Add([]byte("HTTP/1.0 204 \r\nContent-Length: 0\r\n\r\n"), byte(AskedConnect))
	f.Fuzz(func(t *testing.T, in []byte, how byte) {
		asked := Asked(how) & (AskedHead | AskedConnect | AskedUpgrade | AskedOld)
		if len(in) > 4096 || asked&AskedHead != 0 && asked&AskedConnect != 0 {
			return
		}
		var res message.Response
		n, fr, err := ParseResponse(in, &res, asked, nil)
		var part message.Response
		for k := range in {
			m, _, e := ParseResponse(in[:k], &part, asked, nil)
			if e != nil && err == nil || e == nil && m != 0 && (m != n || err != nil) {
				t.Fatalf("after %d bytes: %d, %v; whole: %d, %v", k, m, e, n, err)
			}
		}
		if n == 0 {
			return
		}
		if err != nil {
			t.Fatalf("n %d and error %v", n, err)
		}
		method := "GET"
		if asked&AskedHead != 0 {
			method = "HEAD"
		} else if asked&AskedConnect != 0 {
			method = "CONNECT"
		}
		r, oracle := nethttp.ReadResponse(bufio.NewReader(bytes.NewReader(in[:n])), &nethttp.Request{Method: method})
		if oracle != nil {
			if !strings.Contains(oracle.Error(), "bad trailer key") {
				t.Fatalf("net/http refuses what we accept: %v\n%q", oracle, in[:n])
			}
		} else {
			if r.StatusCode != res.Status {
				t.Errorf("status %d, net/http %d", res.Status, r.StatusCode)
			}
			chunked := slices.Equal(r.TransferEncoding, []string{"chunked"})
			switch fr.Kind {
			case Chunked:
				if !chunked {
					t.Errorf("chunked, net/http %v", r.TransferEncoding)
				}
			case Length:
				if chunked || r.ContentLength != fr.Length {
					t.Errorf("length %d, net/http %v %d", fr.Length, r.TransferEncoding, r.ContentLength)
				}
			case Close:
				if chunked || r.ContentLength >= 0 {
					t.Errorf("until close, net/http %v %d", r.TransferEncoding, r.ContentLength)
				}
			}
		}
		out, err := AppendResponse(nil, in[:n], &res, fr, nil)
		if err != nil {
			t.Fatal(err)
		}
		var again message.Response
		n2, g, err := ParseResponse(out, &again, asked, roomier)
		if err != nil || n2 != len(out) || again.Status != res.Status || g.Kind != fr.Kind || g.Length != fr.Length {
			t.Fatalf("sent as another response: %v, %+v was %+v\n%q\n%q", err, g, fr, in[:n], out)
		}
	})
}

// FuzzBody holds of chunked bodies: where the bytes are cut changes nothing;
// forwarding and decoding agree; and net/http's reader finds the same payload.
func FuzzBody(f *testing.F) {
	f.Add([]byte(chunkedBody), uint8(3), uint8(7))
	for _, c := range corpus(f, "bodies.txt") {
		if len(c.bytes) < 1000 {
			f.Add(c.bytes, uint8(1), uint8(5))
		}
	}
	f.Fuzz(func(t *testing.T, in []byte, first, step uint8) {
		var whole Body
		whole.Reset(Framing{Kind: Chunked})
		n, done, err := whole.Next(in)
		if n > len(in) || done && err != nil || !done && err == nil && n != len(in) {
			t.Fatalf("%d of %d, %v, %v", n, len(in), done, err)
		}
		steps := []int{1, 1 + int(step)}
		for _, s := range steps {
			var b Body
			b.Reset(Framing{Kind: Chunked})
			at := min(int(first), len(in))
			m, d, e := b.Next(in[:at])
			if !d && e == nil {
				var k int
				k, d, e = feed(&b, in[at:], s)
				m += k
			}
			if len(in) > 0 && (m != n || d != done || e != err || b.Payload() != whole.Payload()) {
				t.Fatalf("cut at %d, then by %d: %d, %v, %v; whole: %d, %v, %v", at, s, m, d, e, n, done, err)
			}
		}
		var b Body
		b.Reset(Framing{Kind: Chunked})
		payload, m, d, e := decode(&b, in, 1+int(step))
		if len(in) > 0 && (m != n || d != done || e != err || int64(len(payload)) != whole.Payload()) {
			t.Fatalf("decoded %d, %v, %v; forwarded %d, %v, %v", m, d, e, n, done, err)
		}
		if done {
			want, oracle := io.ReadAll(httputil.NewChunkedReader(bytes.NewReader(in[:n])))
			if oracle != nil || !bytes.Equal(want, payload) {
				t.Fatalf("net/http: %q, %v; ours %q", want, oracle, payload)
			}
		}
	})
}
