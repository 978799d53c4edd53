package http2

import (
	"bytes"
	"strings"
	"testing"

	"golang.org/x/net/http2"
)

// violations are what a client must not send; conn: it ends the connection, otherwise the stream.
var violations = []struct {
	name string
	want *Error
	send func(w *wire)
}{
	{"another protocol", errPreface, func(w *wire) { w.b.Reset(); w.b.WriteString("GET / HTTP/1.1\r\n\r\n") }},
	{"no SETTINGS first", errNoSettings, func(w *wire) { w.b.Truncate(len(Preface)); w.WritePing(false, [8]byte{}) }},
	{"large frame", errFrameSize, func(w *wire) { w.WriteRawFrame(0x42, 0, 0, make([]byte, 16385)) }},
	{"DATA on stream 0", errStreamZero, func(w *wire) { w.WriteData(0, true, []byte("x")) }},
	{"HEADERS on stream 0", errStreamZero, func(w *wire) { w.headers(0, true, get...) }},
	{"DATA on an idle stream", errIdle, func(w *wire) { w.WriteData(1, true, []byte("x")) }},
	{"RST_STREAM on an idle stream", errIdle, func(w *wire) { w.WriteRSTStream(1, 8) }},
	{"WINDOW_UPDATE on an idle stream", errIdle, func(w *wire) { w.WriteWindowUpdate(1, 8) }},
	{"padding beyond DATA", errPadding, func(w *wire) { w.headers(1, false, post...).WriteRawFrame(0, 8, 1, []byte{3, 0, 0}) }},
	{"padding beyond HEADERS", errPadding, func(w *wire) { w.WriteRawFrame(1, 8|4, 1, []byte{3, 0, 0}) }},
	{"padded HEADERS without a byte", errFrameLength, func(w *wire) { w.WriteRawFrame(1, 8|4, 1, nil) }},
	{"padded DATA without a byte", errFrameLength, func(w *wire) { w.headers(1, false, post...).WriteRawFrame(0, 8, 1, nil) }},
	{"priority cut", errFrameLength, func(w *wire) { w.WriteRawFrame(1, 0x20|4, 1, []byte{0, 0, 0, 0}) }},
	{"a frame inside a header block", errInterleaved, func(w *wire) {
		w.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: w.block(get...)})
		w.WritePing(false, [8]byte{})
	}},
	{"CONTINUATION of another stream", errInterleaved, func(w *wire) {
		w.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: w.block(get...)})
		w.WriteContinuation(3, true, nil)
	}},
	{"CONTINUATION alone", errContinuation, func(w *wire) { w.WriteContinuation(1, true, nil) }},
	{"even stream", errStreamID, func(w *wire) { w.headers(2, true, get...) }},
	{"HEADERS on a closed stream", errHeadersClosed, func(w *wire) {
		w.headers(1, false, get...).WriteRSTStream(1, 8)
		w.headers(1, true, get...)
	}},
	{"a lower stream", errHeadersClosed, func(w *wire) { w.headers(5, true, get...).headers(3, true, get...) }},
	{"PUSH_PROMISE", errPush, func(w *wire) {
		w.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, EndHeaders: true})
	}},
	{"HPACK", errCompression, func(w *wire) {
		w.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true, BlockFragment: []byte{0x80}})
	}},
	{"SETTINGS on a stream", errNotZero, func(w *wire) { w.WriteRawFrame(4, 0, 1, nil) }},
	{"SETTINGS of five bytes", errFrameLength, func(w *wire) { w.WriteRawFrame(4, 0, 0, make([]byte, 5)) }},
	{"SETTINGS ack with content", errSettingsAck, func(w *wire) { w.WriteRawFrame(4, 1, 0, make([]byte, 6)) }},
	{"ENABLE_PUSH 2", errSettingsPush, func(w *wire) { w.WriteSettings(http2.Setting{ID: 2, Val: 2}) }},
	{"INITIAL_WINDOW_SIZE 2^31", errSettingsFlow, func(w *wire) { w.WriteSettings(http2.Setting{ID: 4, Val: 1 << 31}) }},
	{"MAX_FRAME_SIZE 16383", errSettingsFrame, func(w *wire) { w.WriteSettings(http2.Setting{ID: 5, Val: 16383}) }},
	{"ENABLE_CONNECT_PROTOCOL back", errSettingsConn, func(w *wire) {
		w.WriteSettings(http2.Setting{ID: 8, Val: 1}, http2.Setting{ID: 8, Val: 0})
	}},
	{"initial window raises a stream's", errSettingsRaise, func(w *wire) {
		w.headers(1, false, post...).WriteWindowUpdate(1, 1<<31-1-65535)
		w.WriteSettings(http2.Setting{ID: 4, Val: 65536})
	}},
	{"PING of seven bytes", errFrameLength, func(w *wire) { w.WriteRawFrame(6, 0, 0, make([]byte, 7)) }},
	{"PING on a stream", errNotZero, func(w *wire) { w.WriteRawFrame(6, 0, 1, make([]byte, 8)) }},
	{"GOAWAY of seven bytes", errFrameLength, func(w *wire) { w.WriteRawFrame(7, 0, 0, make([]byte, 7)) }},
	{"GOAWAY raised", errGoAwayLast, func(w *wire) { w.WriteGoAway(0, 0, nil); w.WriteGoAway(2, 0, nil) }},
	{"RST_STREAM of three bytes", errFrameLength, func(w *wire) { w.headers(1, true, get...).WriteRawFrame(3, 0, 1, make([]byte, 3)) }},
	{"WINDOW_UPDATE of three bytes", errFrameLength, func(w *wire) { w.WriteRawFrame(8, 0, 0, make([]byte, 3)) }},
	{"WINDOW_UPDATE of zero", errConnUpdate, func(w *wire) { w.WriteWindowUpdate(0, 0) }},
	{"connection window too large", errConnWindow, func(w *wire) { w.WriteWindowUpdate(0, 1<<31-1) }},

	{"self-dependency", errSelf, func(w *wire) {
		w.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true, BlockFragment: w.block(get...), Priority: http2.PriorityParam{StreamDep: 1}})
	}},
	{"stream window too large", errWindow, func(w *wire) { w.headers(1, false, post...).WriteWindowUpdate(1, 1<<31-1) }},
	{"stream update of zero", errUpdate, func(w *wire) { w.headers(1, false, post...).WriteWindowUpdate(1, 0) }},
	{"DATA after the end", errClosed, func(w *wire) { w.headers(1, true, post...).WriteData(1, true, []byte("x")) }},
	{"HEADERS after the end", errClosed, func(w *wire) { w.headers(1, true, post...).headers(1, true, "x: y") }},
	{"trailers that do not end", errTrailersEnd, func(w *wire) { w.headers(1, false, post...).headers(1, false, "x: y") }},
	{"pseudo-header field in trailers", errPseudo, func(w *wire) { w.headers(1, false, post...).headers(1, true, ":path: /") }},
	{"forbidden trailer", errTrailer, func(w *wire) { w.headers(1, false, post...).headers(1, true, "authorization: x") }},
	{"more data than said", errLength, func(w *wire) {
		w.headers(1, false, with(post, "content-length: 1")...).WriteData(1, false, []byte("xy"))
	}},
	{"less data than said", errLength, func(w *wire) {
		w.headers(1, false, with(post, "content-length: 3")...).WriteData(1, true, []byte("xy"))
	}},
	{"less data, then trailers", errLength, func(w *wire) { w.headers(1, false, with(post, "content-length: 3")...).headers(1, true, "x: y") }},
	{"content said and none", errLength, func(w *wire) { w.headers(1, true, with(post, "content-length: 3")...) }},

	{"upper case", errName, func(w *wire) { w.headers(1, true, with(get, "X-A: b")...) }},
	{"a name with a space", errName, func(w *wire) { w.headers(1, true, with(get, "x a: b")...) }},
	{"a name with a colon", errName, func(w *wire) { w.headers(1, true, with(get, "x:a: b")...) }},
	{"CR LF in a value", errValue, func(w *wire) { w.headers(1, true, with(get, "x: a\r\nb: c")...) }},
	{"NUL in a value", errValue, func(w *wire) { w.headers(1, true, with(get, "x: \x00")...) }},
	{"space before a value", errValue, func(w *wire) { w.headers(1, true, with(get, "x:  a")...) }},
	{"space behind a value", errValue, func(w *wire) { w.headers(1, true, with(get, "x: a\t")...) }},
	{"Connection", errConnection, func(w *wire) { w.headers(1, true, with(get, "connection: x")...) }},
	{"Keep-Alive", errConnection, func(w *wire) { w.headers(1, true, with(get, "keep-alive: x")...) }},
	{"Proxy-Connection", errConnection, func(w *wire) { w.headers(1, true, with(get, "proxy-connection: x")...) }},
	{"Transfer-Encoding", errConnection, func(w *wire) { w.headers(1, true, with(get, "transfer-encoding: chunked")...) }},
	{"Upgrade", errConnection, func(w *wire) { w.headers(1, true, with(get, "upgrade: h2c")...) }},
	{"TE gzip", errTE, func(w *wire) { w.headers(1, true, with(get, "te: trailers, gzip")...) }},
	{"late pseudo-header field", errPseudoLate, func(w *wire) { w.headers(1, true, ":method: GET", "x: y", ":path: /") }},
	{"unknown pseudo-header field", errPseudo, func(w *wire) { w.headers(1, true, with(get, ":x: y")...) }},
	{":status in a request", errPseudo, func(w *wire) { w.headers(1, true, with(get, ":status: 200")...) }},
	{":path twice", errPseudoTwice, func(w *wire) { w.headers(1, true, with(get, ":path: /")...) }},
	{"no :method", errPseudoMissing, func(w *wire) { w.headers(1, true, get[1:]...) }},
	{"no :path", errPseudoMissing, func(w *wire) { w.headers(1, true, get[:3]...) }},
	{"no :scheme", errPseudoMissing, func(w *wire) { w.headers(1, true, get[0], get[2], get[3]) }},
	{"a method with a space", errMethod, func(w *wire) { w.headers(1, true, with(get[1:], ":method: GET /")...) }},
	{"empty :path", errPath, func(w *wire) { w.headers(1, true, with(get[:3], ":path: ")...) }},
	{"absolute :path", errPath, func(w *wire) { w.headers(1, true, with(get[:3], ":path: http://x/")...) }},
	{"a space in :path", errPath, func(w *wire) { w.headers(1, true, with(get[:3], ":path: / HTTP/1.1")...) }},
	{"* of GET", errPath, func(w *wire) { w.headers(1, true, with(get[:3], ":path: *")...) }},
	{"scheme ftp", errScheme, func(w *wire) { w.headers(1, true, get[0], ":scheme: ftp", get[2], get[3]) }},
	{"user information", errAuthority, func(w *wire) { w.headers(1, true, get[0], get[1], ":authority: a@b", get[3]) }},
	{"Host differs", errHost, func(w *wire) { w.headers(1, true, with(get, "host: other")...) }},
	{"Host twice", errHost, func(w *wire) { w.headers(1, true, with(get, "host: billing:8080", "host: billing:8080")...) }},
	{"no authority", errNoHost, func(w *wire) { w.headers(1, true, get[0], get[1], get[3]) }},
	{"Content-Length twice", errLengthField, func(w *wire) { w.headers(1, true, with(post, "content-length: 0", "content-length: 0")...) }},
	{"Content-Length +1", errLengthField, func(w *wire) { w.headers(1, false, with(post, "content-length: +1")...) }},
	{"Content-Length 2^63", errLengthField, func(w *wire) { w.headers(1, false, with(post, "content-length: 9223372036854775808")...) }},
	{"CONNECT with :path", errConnect, func(w *wire) { w.headers(1, false, with(get[1:], ":method: CONNECT")...) }},
	{"CONNECT without a port", errConnect, func(w *wire) { w.headers(1, false, ":method: CONNECT", ":authority: a") }},
	{":protocol without CONNECT", errProtocol, func(w *wire) { w.headers(1, false, with(get, ":protocol: websocket")...) }},
	{"extended CONNECT without :path", errPseudoMissing, func(w *wire) {
		w.headers(1, false, ":method: CONNECT", ":protocol: websocket", ":scheme: http", ":authority: a")
	}},
}

// TestViolations: each ends its stream or the connection with its code; however the
// bytes come, the same; and nothing of a malformed request is shown.
func TestViolations(t *testing.T) {
	for _, v := range violations {
		t.Run(v.name, func(t *testing.T) {
			w := newWire(true)
			v.send(w)
			in := w.b.Bytes()
			whole, out := run(newServer(Limits{}), in, len(in))
			if !strings.Contains(whole, v.want.Reason) {
				t.Fatalf("want %v\n%s", v.want, whole)
			}
			if _, code, any := sentError(t, out); !any || code != http2.ErrCode(v.want.Code) {
				t.Errorf("sent %v, want %v", code, v.want.Code)
			}
			if again, sent := run(newServer(Limits{}), in, 1); again != whole || !bytes.Equal(sent, out) {
				t.Errorf("byte by byte:\n%s\nwhole:\n%s", again, whole)
			}
		})
	}
}

// TestViolationsOfServers are those that only a client can see.
func TestViolationsOfServers(t *testing.T) {
	for _, v := range []struct {
		name, method string
		want         *Error
		send         func(w *wire)
	}{
		{"no :status", "GET", errPseudoMissing, func(w *wire) { w.headers(1, true, "x: y") }},
		{":status twice", "GET", errPseudoTwice, func(w *wire) { w.headers(1, true, ":status: 200", ":status: 200") }},
		{":status of two digits", "GET", errStatus, func(w *wire) { w.headers(1, true, ":status: 20") }},
		{":status 099", "GET", errStatus, func(w *wire) { w.headers(1, true, ":status: 099") }},
		{"101", "GET", errSwitch, func(w *wire) { w.headers(1, false, ":status: 101") }},
		{"100 that ends", "GET", errInterimEnd, func(w *wire) { w.headers(1, true, ":status: 100") }},
		{"100 with Content-Length", "GET", errInterimLength, func(w *wire) { w.headers(1, false, ":status: 100", "content-length: 0") }},
		{"data first", "GET", errBeforeHead, func(w *wire) { w.WriteData(1, true, []byte("x")) }},
		{"data after HEAD", "HEAD", errLength, func(w *wire) {
			w.headers(1, false, ":status: 200", "content-length: 1").WriteData(1, true, []byte("x"))
		}},
		{"data after 204", "GET", errLength, func(w *wire) { w.headers(1, false, ":status: 204").WriteData(1, true, []byte("x")) }},
		{"data cut", "GET", errLength, func(w *wire) { w.headers(1, true, ":status: 200", "content-length: 1") }},
		{"idle stream", "GET", errIdle, func(w *wire) { w.headers(3, true, ":status: 200") }},
		{"even stream", "GET", errStreamID, func(w *wire) { w.headers(2, true, ":status: 200") }},
		{"push", "GET", errPush, func(w *wire) {
			w.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, EndHeaders: true})
		}},
		{"push allowed", "GET", errSettingsPush, func(w *wire) { w.WriteSettings(http2.Setting{ID: 2, Val: 1}) }},
	} {
		t.Run(v.name, func(t *testing.T) {
			w := newWire(false)
			v.send(w)
			in := w.b.Bytes()
			c := newClient()
			ask(t, c, v.method)
			whole, _ := run(c, in, len(in))
			if !strings.Contains(whole, v.want.Reason) {
				t.Fatalf("want %v\n%s", v.want, whole)
			}
			c = newClient()
			ask(t, c, v.method)
			if again, _ := run(c, in, 1); again != whole {
				t.Errorf("byte by byte:\n%s\nwhole:\n%s", again, whole)
			}
		})
	}
}

// TestFloods: each limit, hit with the least that exceeds it, ends the connection
// with ENHANCE_YOUR_CALM; one less does not.
func TestFloods(t *testing.T) {
	small := Limits{Resets: 10, Pings: 10, Settings: 10, Idle: 10, Updates: 10, Fragments: 3, Block: 4096}
	for _, v := range []struct {
		name string
		want *Error
		most int // that are borne
		send func(w *wire, n int)
	}{
		{"rapid reset", errResets, 10, func(w *wire, n int) {
			for i := range n {
				w.headers(uint32(2*i+1), true, get...).WriteRSTStream(uint32(2*i+1), http2.ErrCodeCancel)
			}
		}},
		{"made to reset", errResets, 10, func(w *wire, n int) {
			for i := range n {
				w.headers(uint32(2*i+1), false, post...).WriteWindowUpdate(uint32(2*i+1), 0)
			}
		}},
		{"malformed requests", errResets, 10, func(w *wire, n int) {
			for i := range n {
				w.headers(uint32(2*i+1), true, "x: y")
			}
		}},
		{"streams beyond the limit", errResets, 10, func(w *wire, n int) {
			w.WriteSettingsAck()
			for i := range n + 100 {
				w.headers(uint32(2*i+1), true, get...)
			}
		}},
		{"streams beyond a limit that is not known", errIdleFlood, 10, func(w *wire, n int) {
			for i := range n + 100 {
				w.headers(uint32(2*i+1), true, get...)
			}
		}},
		{"PING", errPings, 10, func(w *wire, n int) {
			for range n {
				w.WritePing(false, [8]byte{1})
			}
		}},
		{"SETTINGS", errSettings, 9, func(w *wire, n int) { // and the first
			for range n {
				w.WriteSettings()
			}
		}},
		{"SETTINGS acknowledged", errIdleFlood, 10, func(w *wire, n int) {
			for range n {
				w.WriteSettingsAck()
			}
		}},
		{"empty DATA", errIdleFlood, 10, func(w *wire, n int) {
			w.headers(1, false, post...)
			for range n {
				w.WriteData(1, false, nil)
			}
		}},
		{"padding alone", errIdleFlood, 10, func(w *wire, n int) {
			w.headers(1, false, post...)
			for range n {
				w.WriteDataPadded(1, false, nil, make([]byte, 255))
			}
		}},
		{"PRIORITY", errIdleFlood, 10, func(w *wire, n int) {
			for range n {
				w.WritePriority(1, http2.PriorityParam{StreamDep: 3})
			}
		}},
		{"unknown frames", errIdleFlood, 10, func(w *wire, n int) {
			for range n {
				w.WriteRawFrame(0x42, 0xff, 7, []byte("x"))
			}
		}},
		{"WINDOW_UPDATE", errUpdates, 10, func(w *wire, n int) {
			for range n {
				w.WriteWindowUpdate(0, 1)
			}
		}},
		{"CONTINUATION, empty", errFragments, 3, func(w *wire, n int) {
			w.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: w.block(get...)})
			for i := range n {
				w.WriteContinuation(1, i == n-1, nil)
			}
		}},
		{"CONTINUATION, large", errBlock, 1, func(w *wire, n int) {
			w.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: w.block(get...)})
			for i := range n {
				w.WriteContinuation(1, i == n-1, w.block("x-a: "+strings.Repeat("v", 2100)))
			}
		}},
	} {
		t.Run(v.name, func(t *testing.T) {
			w := newWire(true)
			v.send(w, v.most)
			if got, _ := run(newServer(small), w.b.Bytes(), 1<<20); strings.Contains(got, v.want.Reason) || strings.Contains(got, "ENHANCE") {
				t.Fatalf("%d are too many\n%s", v.most, got)
			}
			w = newWire(true)
			v.send(w, v.most+1)
			c := newServer(small)
			got, out := run(c, w.b.Bytes(), 1<<20)
			if !strings.Contains(got, v.want.Reason) || c.Err() != v.want || v.want.Limit == "" {
				t.Fatalf("%v\n%s", c.Err(), got)
			}
			fr := frames(t, out)
			if g, ok := fr[len(fr)-1].(*http2.GoAwayFrame); !ok || g.ErrCode != http2.ErrCodeEnhanceYourCalm {
				t.Errorf("the last frame is %v", fr[len(fr)-1])
			}
		})
	}
}

// TestFloodsEbb: what comes slowly is no flood.
func TestFloodsEbb(t *testing.T) {
	c := newServer(Limits{Pings: 10})
	w := newWire(true)
	run(c, w.b.Bytes(), 1<<20)
	for i := range 200 {
		c.Tick(int64(i) * 1e9)
		w.b.Reset()
		w.WritePing(false, [8]byte{})
		if run(c, w.b.Bytes(), 1<<20); c.Err() != nil {
			t.Fatalf("after %d: %v", i, c.Err())
		}
	}
}

// TestRepliesBound: a peer that asks and does not read is let go.
func TestRepliesBound(t *testing.T) {
	c := newServer(Limits{Pings: 1000, Replies: 1000})
	w := newWire(true)
	for range 100 {
		w.WritePing(false, [8]byte{})
	}
	var ev Event
	in := w.b.Bytes()
	for len(in) > 0 {
		in = in[c.Next(in, &ev):]
	}
	if c.Next(nil, &ev); c.Err() != errReplies {
		t.Error(c.Err())
	}
}

// TestHeaderBomb: a list beyond the limit is answered with 431, and the connection goes on.
func TestHeaderBomb(t *testing.T) {
	w := newWire(true)
	block := w.block(with(get, "x-big: "+strings.Repeat("v", 900))...)
	for range 8000 {
		block = append(block, 0x80|62)
	}
	w.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndStream: true, EndHeaders: true, BlockFragment: block})
	w.headers(3, true, get...)
	c := newServer(Limits{})
	got, out := run(c, w.b.Bytes(), 1<<20)
	if !strings.Contains(got, errHead.Reason) || !strings.Contains(got, "request 3 GET") || c.Err() != nil {
		t.Fatalf("%v\n%s", c.Err(), got)
	}
	if !bytes.Contains(out, []byte("431")) {
		t.Error("no 431")
	}
	if n := cap(c.scratch.block.Bytes); n > 256<<10 {
		t.Errorf("%d bytes of scratch", n)
	}
}

// TestStreamsLimit: streams beyond the limit are refused; a stream counts until the caller has released it.
func TestStreamsLimit(t *testing.T) {
	w := newWire(true)
	w.headers(1, true, get...).headers(3, true, get...).WriteRSTStream(1, http2.ErrCodeCancel)
	w.headers(5, true, get...)
	c := newServer(Limits{Streams: 2})
	got, _ := run(c, w.b.Bytes(), 1<<20)
	if !strings.Contains(got, "stream 5 REFUSED_STREAM") {
		t.Fatal(got)
	}
	c.Release(c.streams.get(1))
	w.b.Reset()
	w.headers(7, true, get...)
	if got, _ := run(c, w.b.Bytes(), 1<<20); !strings.Contains(got, "request 7") {
		t.Fatal(got)
	}
}
