package http2

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/seinemesh/seine/message"
	"github.com/seinemesh/seine/proxy/http2/hpack"
	"golang.org/x/net/http2"
)

// pair is a client and a server whose bytes go straight to each other.
type pair struct {
	t              testing.TB
	client, server *Conn
	toServer       []byte
	toClient       []byte
	onServer       func(ev *Event)
	onClient       func(ev *Event)
	ev             Event
	room           int
}

func newPair(t testing.TB, l Limits) *pair {
	p := &pair{t: t, room: 32 << 10, client: New(NewOptions(Options{Role: Client, Limits: l}), new(Scratch)), server: newServer(l)}
	p.onServer, p.onClient = func(*Event) {}, func(*Event) {}
	p.pump()
	return p
}

// pump lets both sides talk until neither has more to say.
func (p *pair) pump() {
	for {
		p.toServer = p.client.Append(p.toServer, p.room)
		p.toClient = p.server.Append(p.toClient, p.room)
		if len(p.toServer)+len(p.toClient) == 0 {
			return
		}
		p.toServer = p.give(p.server, p.toServer, p.onServer)
		p.toClient = p.give(p.client, p.toClient, p.onClient)
	}
}

func (p *pair) give(c *Conn, in []byte, on func(*Event)) []byte {
	data := in
	for {
		n := c.Next(data, &p.ev)
		data = data[n:]
		switch p.ev.Kind {
		case NeedMore:
			return in[:copy(in, data)]
		case Failed:
			p.t.Fatalf("failed: %v", p.ev.Err)
		}
		on(&p.ev)
	}
}

func request(method string, fields ...message.Field) *message.Request {
	return &message.Request{Method: []byte(method), Scheme: []byte("http"), Authority: []byte("billing:8080"), Path: []byte("/pay"), Fields: fields}
}

func (p *pair) open(method string, end bool) *Stream {
	p.t.Helper()
	var s *Stream
	var err *Error
	if p.toServer, s, err = p.client.AppendRequest(p.toServer, request(method), nil, end); err != nil {
		p.t.Fatal(err)
	}
	return s
}

func (p *pair) respond(s *Stream, end bool) {
	p.t.Helper()
	var err *Error
	if p.toClient, err = p.server.AppendResponse(p.toClient, s, &message.Response{Status: 200}, nil, end); err != nil {
		p.t.Fatal(err)
	}
}

// TestBackPressure: what is not consumed is not replaced: the sender stops at the
// window, of the stream and of the connection, and goes on when it is.
func TestBackPressure(t *testing.T) {
	p := newPair(t, Limits{Window: 100_000, ConnWindow: 250_000})
	got := map[uint32]int{}
	streams := map[uint32]*Stream{}
	p.onServer = func(ev *Event) {
		if ev.Kind == Data {
			got[ev.ID] += len(ev.Data)
			streams[ev.ID] = ev.Stream
		}
	}
	body := make([]byte, 400_000)
	var list []*Stream
	for range 3 {
		s := p.open("POST", false)
		if err := p.client.Send(s, body, true); err != nil {
			t.Fatal(err)
		}
		list = append(list, s)
	}
	p.pump()
	if got[1]+got[3]+got[5] != 250_000 || got[1] > 100_000 || got[3] > 100_000 || got[5] > 100_000 {
		t.Fatalf("%v came, nothing consumed", got)
	}
	if got[1]-got[5] > maxFrame || got[5]-got[1] > maxFrame {
		t.Errorf("not shared fairly: %v", got)
	}
	// One reader goes on: its stream alone moves.
	for range 20 {
		before := got[1]
		p.server.Consume(streams[1], before)
		p.pump()
	}
	if got[1] != 400_000 {
		t.Errorf("a reader has %d of 400000 bytes; %v", got[1], got)
	}
	if got[3] > 100_000 || got[5] > 100_000 {
		t.Errorf("more than the window: %v", got)
	}
	// The others are released unread: the connection's window is whole again.
	for _, id := range []uint32{3, 5} {
		p.server.Release(streams[id])
	}
	p.pump()
	if p.server.recv+int64(p.server.credit) != 250_000 {
		t.Errorf("%d + %d of the connection's window are back", p.server.recv, p.server.credit)
	}
	for _, s := range list {
		p.client.Release(s)
	}
}

// TestFairness: streams take turns, whatever they have to send.
func TestFairness(t *testing.T) {
	p := newPair(t, Limits{Window: 1 << 20, ConnWindow: 1 << 24})
	body := make([]byte, 200_000)
	for i := range 5 {
		s := p.open("POST", false)
		p.client.Send(s, body[:[]int{200_000, 100, 200_000, 40_000, 0}[i]], true)
	}
	p.give(p.server, p.toServer, func(*Event) {})
	out := p.client.Append(nil, 1<<20)
	var order []string
	for _, f := range frames(t, out) {
		if d, ok := f.(*http2.DataFrame); ok {
			order = append(order, fmt.Sprint(d.StreamID))
		}
	}
	want := "1 3 5 7 9 1 5 7 1 5 7"
	if got := strings.Join(order, " "); !strings.HasPrefix(got, want) {
		t.Errorf("turns %s, want %s…", got, want)
	}
	if out := p.client.Append(nil, 1000); len(out) > 1000 {
		t.Errorf("%d bytes in a room of 1000", len(out))
	}
}

func TestMovedAndRest(t *testing.T) {
	p := newPair(t, Limits{})
	s := p.open("POST", false)
	p.pump()
	p.client.Send(s, make([]byte, 100_000), true)
	out := p.client.Append(nil, 1<<20)
	m, n := p.client.Moved()
	if m != s || n != 65535 || len(s.Rest()) != 100_000-65535 || s.Sent() {
		t.Fatalf("%d moved, %d left", n, len(s.Rest()))
	}
	if m, _ = p.client.Moved(); m != nil {
		t.Error("moved twice")
	}
	if more := p.client.Append(nil, 1<<20); len(more) != 0 {
		t.Errorf("%d bytes beyond the window", len(more))
	}
	_ = out
	// Released while it is in every list.
	p.client.Send(s, s.Rest(), true)
	p.client.Release(s)
	if p.client.Streams() != 0 || p.client.turn != nil || p.client.moved != nil {
		t.Error("a released stream is still in a list")
	}
}

// TestSmallWindow: a peer's setting changes the windows of open streams, below zero too.
func TestSmallWindow(t *testing.T) {
	c := newServer(Limits{})
	w := newWire(true)
	w.headers(1, true, get...)
	run(c, w.b.Bytes(), 1<<20)
	s := c.streams.get(1)
	c.AppendResponse(nil, s, &message.Response{Status: 200}, nil, false)
	c.Send(s, make([]byte, 50), false)
	c.Append(nil, 1000)
	c.Send(s, make([]byte, 100), true)
	w.b.Reset()
	w.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10})
	run(c, w.b.Bytes(), 1<<20)
	if len(s.Rest()) != 100 || s.Window() != 0 || s.send != -40 {
		t.Fatalf("%d left, window %d", len(s.Rest()), s.send)
	}
	w.b.Reset()
	w.WriteWindowUpdate(1, 45)
	run(c, w.b.Bytes(), 1<<20)
	if len(s.Rest()) != 95 {
		t.Errorf("%d left of 100", len(s.Rest()))
	}
}

func TestGoAwayOfPeer(t *testing.T) {
	c := newClient()
	one, three := ask(t, c, "GET"), ask(t, c, "GET")
	w := newWire(false)
	w.WriteGoAway(1, http2.ErrCodeNo, nil)
	w.headers(1, true, ":status: 204")
	got, _ := run(c, w.b.Bytes(), 1<<20)
	if !strings.Contains(got, "stream 3 REFUSED_STREAM") || !strings.Contains(got, "response 1 204") || one.Closed() == false || !three.Closed() {
		t.Fatal(got)
	}
	if c.MayOpen() || !c.GoingAway() {
		t.Error("a stream may be opened after GOAWAY")
	}
	if _, _, err := c.AppendRequest(nil, request("GET"), nil, true); err != ErrOpen {
		t.Error(err)
	}
}

func TestDrain(t *testing.T) {
	c := newServer(Limits{})
	w := newWire(true)
	w.headers(1, true, get...)
	run(c, w.b.Bytes(), 1<<20)
	c.Drain()
	w.b.Reset()
	w.headers(3, true, get...) // was on its way
	got, out := run(c, w.b.Bytes(), 1<<20)
	if !strings.Contains(got, "request 3") {
		t.Fatal(got)
	}
	if g, ok := frames(t, out)[0].(*http2.GoAwayFrame); !ok || g.LastStreamID != maxWindow {
		t.Error("no GOAWAY")
	}
	c.Shut()
	w.b.Reset()
	w.headers(5, true, get...)
	got, out = run(c, w.b.Bytes(), 1<<20)
	if !strings.Contains(got, "stream 5 REFUSED_STREAM") || c.Streams() != 2 {
		t.Fatal(got)
	}
	if g, ok := frames(t, out)[0].(*http2.GoAwayFrame); !ok || g.LastStreamID != 3 {
		t.Error("no last GOAWAY")
	}
	for s := c.Any(); s != nil; s = c.Any() {
		c.Release(s)
	}
	if c.Streams() != 0 {
		t.Error("streams are left")
	}
}

// TestLateFrames: what was on its way when we reset a stream is no error, and
// its bytes return to the connection's window.
func TestLateFrames(t *testing.T) {
	for _, release := range []bool{false, true} {
		c := newServer(Limits{ConnWindow: 70000})
		w := newWire(true)
		w.headers(1, false, post...)
		run(c, w.b.Bytes(), 1<<20)
		c.Reset(c.streams.get(1), Cancel)
		if release {
			c.Release(c.streams.get(1))
		}
		w.b.Reset()
		w.WriteData(1, false, make([]byte, 10000))
		w.headers(1, true, "x-late: 1").headers(3, true, with(get, "x-late: 1")...)
		got, _ := run(c, w.b.Bytes(), 1<<20)
		if !strings.Contains(got, "request 3") || !strings.Contains(got, "x-late: 1") || strings.Contains(got, "10000") {
			t.Error(got)
		}
		if c.recv+int64(c.credit) != 70000 {
			t.Errorf("%d + %d of the window", c.recv, c.credit)
		}
	}
}

func TestConnect(t *testing.T) {
	p := newPair(t, Limits{})
	var seen []string
	p.onServer = func(ev *Event) {
		switch ev.Kind {
		case Request:
			seen = append(seen, fmt.Sprintf("%s %s %s %q", ev.Request.Method, ev.Request.Authority, ev.Request.Path, ev.Protocol))
			p.respond(ev.Stream, false)
			p.server.Send(ev.Stream, []byte("from server"), false)
		case Data:
			seen = append(seen, string(ev.Data))
		}
	}
	p.onClient = func(ev *Event) {
		if ev.Kind == Data {
			seen = append(seen, string(ev.Data))
		}
	}
	if !p.client.MayConnect() {
		t.Fatal("extended CONNECT is not offered")
	}
	s := p.open("CONNECT", false)
	p.client.Send(s, []byte("from client"), false)
	p.pump()
	_, _, err := p.client.AppendRequest(nil, request("CONNECT"), &Edit{Protocol: []byte("web socket")}, false)
	if err != ErrTarget {
		t.Error(err)
	}
	p.toServer, _, err = p.client.AppendRequest(p.toServer, request("CONNECT"), &Edit{Protocol: []byte("websocket")}, false)
	if err != nil {
		t.Fatal(err)
	}
	p.pump()
	want := `CONNECT billing:8080  "" | from client | from server | CONNECT billing:8080 /pay "websocket" | from server`
	if got := strings.Join(seen, " | "); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}

func TestEdit(t *testing.T) {
	field := func(n, v string) message.Field {
		return message.Field{ID: message.Intern([]byte(n)), Name: []byte(n), Value: []byte(v)}
	}
	p := newPair(t, Limits{})
	var got string
	p.onServer = func(ev *Event) {
		if ev.Kind == Request {
			x := transcript{}
			x.add(ev)
			got = x.b.String()
		}
	}
	req := request("GET", field("Host", "old"), field("Connection", "x"), field("Keep-Alive", "5"), field("Upgrade", "h2c"),
		field("Transfer-Encoding", "chunked"), field("TE", "gzip"), field("X-Drop", "1"), field("User-Agent", "u"), field("X-Keep", "k"))
	req.Fields = append(req.Fields, message.Field{Name: []byte("x-hop"), Hop: true}, message.Field{Name: []byte("x-drop2"), Drop: true})
	e := &Edit{Path: []byte("/new"), Authority: []byte("other"), Scheme: []byte("https"), Drop: message.SetOf(message.UserAgent),
		DropNames: []string{"x-drop"}, Add: []message.Field{field("X-Added", "a")}}
	p.toServer, _, _ = p.client.AppendRequest(p.toServer, req, e, true)
	p.pump()
	if want := "request 1 GET https other /new  end=true\n  x-keep: k\n  x-added: a\n"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	for name, e := range map[string]*Edit{
		"name": {Add: []message.Field{field("a b", "")}}, "value": {Add: []message.Field{field("a", "b\r\nc")}},
		"host": {Add: []message.Field{field("Host", "b")}}, "length": {Add: []message.Field{field("content-length", "1")}},
		"path": {Path: []byte("a")}, "path 2": {Path: []byte("/ x")}, "authority": {Authority: []byte("a b")}, "scheme": {Scheme: []byte("x")},
		"protocol": {Protocol: []byte("websocket")},
	} {
		if out, s, err := p.client.AppendRequest(nil, request("GET"), e, true); err == nil || s != nil || out != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestStates: what the stream cannot take is refused and appends nothing.
func TestStates(t *testing.T) {
	c := newServer(Limits{})
	w := newWire(true)
	w.headers(1, true, get...)
	run(c, w.b.Bytes(), 1<<20)
	s := c.streams.get(1)
	ok := &message.Response{Status: 200}
	if c.Send(s, []byte("x"), true) != ErrState {
		t.Error("data before the head")
	}
	for _, status := range []int{99, 101, 1000} {
		if out, err := c.AppendResponse(nil, s, &message.Response{Status: status}, nil, false); err != ErrState || out != nil {
			t.Error(status, err)
		}
	}
	if _, err := c.AppendResponse(nil, s, &message.Response{Status: 103}, nil, false); err != nil {
		t.Error(err)
	}
	if _, err := c.AppendResponse(nil, s, ok, nil, false); err != nil {
		t.Error(err)
	}
	if _, err := c.AppendResponse(nil, s, ok, nil, false); err != ErrState {
		t.Error("two heads")
	}
	c.Send(s, []byte("x"), false)
	if _, err := c.AppendTrailers(nil, s, nil); err != ErrState {
		t.Error("trailers before data")
	}
	c.Append(nil, 1000)
	if _, err := c.AppendTrailers(nil, s, []message.Field{{Name: []byte("grpc-status"), Value: []byte("0")}}); err != nil || !s.Closed() {
		t.Error(err)
	}
	if c.Send(s, nil, true) != ErrState {
		t.Error("data after the end")
	}
}

// conversation is a client's side of a connection with everything in it.
func conversation() []byte {
	w := newWire(true)
	w.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20}, http2.Setting{ID: 0x99, Val: 7})
	w.headers(1, false, with(post, "content-length: 11", "x-a: 1", "te: trailers")...)
	w.WritePing(false, [8]byte{1, 2, 3})
	w.WriteData(1, false, []byte("hello "))
	w.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, EndStream: true, PadLength: 7, Priority: http2.PriorityParam{StreamDep: 1, Weight: 3},
		BlockFragment: w.block(get...)})
	w.WriteContinuation(3, false, w.block("x-a: 1", "cookie: a=b"))
	w.WriteContinuation(3, true, w.block("x-b: "+strings.Repeat("b", 300)))
	w.WriteDataPadded(1, false, []byte("world"), make([]byte, 20))
	w.headers(1, true, "grpc-status: 0")
	w.WriteWindowUpdate(0, 1000)
	w.WriteRawFrame(0x77, 1, 9, []byte("unknown"))
	w.headers(5, false, post...).WriteDataPadded(5, true, []byte("end"), make([]byte, 9))
	w.headers(7, false, post...).WriteRSTStream(7, http2.ErrCodeCancel)
	w.headers(9, true, "x: malformed").headers(11, true, with(get, "x-a: 1")...)
	w.WritePriority(13, http2.PriorityParam{StreamDep: 1})
	w.headers(15, false, ":method: CONNECT", ":authority: a:1").WriteData(15, false, []byte("tunnel")) // not ended: joined data is not shown
	w.WriteGoAway(0, http2.ErrCodeNo, []byte("bye"))
	return w.b.Bytes()
}

// TestSplits: where the bytes are cut changes neither what happens nor what is sent.
func TestSplits(t *testing.T) {
	in := conversation()
	whole, out := run(newServer(Limits{}), in, len(in))
	if !strings.Contains(whole, `data 5 "end"`) || !strings.Contains(whole, "trailers 1\n  grpc-status: 0") || !strings.Contains(whole, "request 15 CONNECT") {
		t.Fatal(whole)
	}
	for step := 1; step < 60; step++ {
		if got, sent := run(newServer(Limits{}), in, step); got != whole || !bytes.Equal(sent, out) {
			t.Fatalf("in steps of %d:\n%s\nwhole:\n%s", step, got, whole)
		}
	}
	for at := range in { // two pieces, at every byte
		if got, sent := runFrom(newServer(Limits{}), in, at, len(in)); got != whole || !bytes.Equal(sent, out) {
			t.Fatalf("cut at %d:\n%s\nwhole:\n%s", at, got, whole)
		}
	}
}

// exchanges lets a client and a server exchange n requests at once, with bodies
// both ways and trailers, over and over.
func exchanges(t testing.TB, n int) func() {
	p := newPair(t, Limits{})
	body := make([]byte, 1024)
	fields := []message.Field{
		{ID: message.ContentType, Name: []byte("content-type"), Value: []byte("application/grpc")},
		{ID: message.TE, Name: []byte("te"), Value: []byte("trailers")},
		{ID: message.XRequestID, Name: []byte("X-Request-Id"), Value: []byte("9e2f3a5e-60c4-4d2b-8f6b-3f0e6a1c2d3b")},
	}
	trailers := []message.Field{{ID: message.GRPCStatus, Name: []byte("grpc-status"), Value: []byte("0")}}
	req := request("POST", fields...)
	res := &message.Response{Status: 200, Fields: fields[:1]}
	done := 0
	p.onServer = func(ev *Event) {
		if ev.Kind == Data {
			p.server.Consume(ev.Stream, len(ev.Data))
		}
		if ev.End {
			var err *Error
			if p.toClient, err = p.server.AppendResponse(p.toClient, ev.Stream, res, nil, false); err != nil {
				t.Fatal(err)
			}
			p.server.Send(ev.Stream, body, false)
			p.toClient = p.server.Append(p.toClient, 1<<20)
			p.server.Moved()
			if p.toClient, err = p.server.AppendTrailers(p.toClient, ev.Stream, trailers); err != nil {
				t.Fatal(err)
			}
			p.server.Release(ev.Stream)
		}
	}
	p.onClient = func(ev *Event) {
		if ev.Kind == Data {
			p.client.Consume(ev.Stream, len(ev.Data))
		}
		if ev.End {
			done++
			p.client.Release(ev.Stream)
		}
	}
	return func() {
		done = 0
		for range n {
			var s *Stream
			var err *Error
			if p.toServer, s, err = p.client.AppendRequest(p.toServer, req, nil, false); err != nil {
				t.Fatal(err)
			}
			p.client.Send(s, body, true)
		}
		p.pump()
		if done != n {
			t.Fatalf("%d of %d", done, n)
		}
	}
}

// TestTunnelBearsDataAlone: RFC 9113 §8.5.
func TestTunnelBearsDataAlone(t *testing.T) {
	c := newServer(Limits{})
	w := newWire(true)
	w.headers(1, false, ":method: CONNECT", ":authority: a:1")
	run(c, w.b.Bytes(), 1<<20)
	s := c.streams.get(1)
	if _, err := c.AppendResponse(nil, s, &message.Response{Status: 200}, nil, false); err != nil {
		t.Fatal(err)
	}
	if _, err := c.AppendTrailers(nil, s, nil); err != ErrState {
		t.Error("trailers in a tunnel")
	}
	w.b.Reset()
	w.headers(1, true, "x-trailer: 1")
	if got, _ := run(c, w.b.Bytes(), 1<<20); !strings.Contains(got, errTunnel.Reason) {
		t.Error(got)
	}
}

// TestPingsWithData: gRPC sends a PING for each round trip in which data moves.
func TestPingsWithData(t *testing.T) {
	c := newServer(Limits{Pings: 10})
	w := newWire(true)
	w.headers(1, false, post...)
	for range 100 {
		w.WriteData(1, false, []byte("x"))
		w.WritePing(false, [8]byte{})
	}
	if run(c, w.b.Bytes(), 1<<20); c.Err() != nil {
		t.Error(c.Err())
	}
}

// TestHeadersOverSize: 431 is a block like others: it announces a changed table first.
func TestHeadersOverSize(t *testing.T) {
	c := newServer(Limits{Head: 200})
	w := newWire(true)
	w.WriteSettings(http2.Setting{ID: http2.SettingHeaderTableSize, Val: 0})
	w.headers(1, false, with(post, "x: "+strings.Repeat("v", 300))...)
	_, out := run(c, w.b.Bytes(), 1<<20)
	client := newClient()
	ask(t, client, "POST")
	client.dec.Decode([]byte{0x20}, &client.scratch.block, hpack.Limits{})
	got, _ := run(client, out, 1<<20)
	if !strings.Contains(got, "response 1 431 end=true") || client.Err() != nil {
		t.Errorf("%v\n%s", client.Err(), got)
	}
	for _, f := range frames(t, out) {
		if h, ok := f.(*http2.HeadersFrame); ok && h.Header().Length != 6 {
			t.Errorf("%v", h.Header())
		}
	}
}
