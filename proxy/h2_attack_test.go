//go:build linux

package proxy

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

// attacker is a client that speaks HTTP/2 by the frame, whatever comes of it.
type attacker struct {
	t testing.TB
	c *net.TCPConn
	f *http2.Framer
}

func attack(t testing.TB, addr string) *attacker {
	t.Helper()
	c := dial(t, addr).TCPConn
	_, err := io.WriteString(c, http2.ClientPreface)
	must(t, err)
	a := &attacker{t: t, c: c, f: http2.NewFramer(c, c)}
	a.f.AllowIllegalWrites = true
	must(t, a.f.WriteSettings())
	return a
}

// head is a request's header block.
func (a *attacker) head(more ...string) []byte {
	var b strings.Builder
	e := hpack.NewEncoder(&b)
	fields := append([]string{":method", "GET", ":scheme", "http", ":authority", "billing:8080", ":path", "/"}, more...)
	for i := 0; i < len(fields); i += 2 {
		must(a.t, e.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}))
	}
	return []byte(b.String())
}

// ends reads until the proxy ends the connection, and returns the code of its
// GOAWAY.
func (a *attacker) ends() http2.ErrCode {
	a.t.Helper()
	must(a.t, a.c.SetReadDeadline(time.Now().Add(20*time.Second)))
	code := http2.ErrCode(0xffff)
	for {
		fr, err := a.f.ReadFrame()
		if g, ok := fr.(*http2.GoAwayFrame); ok {
			code = g.ErrCode
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
			return code
		default:
			if _, ok := err.(http2.StreamError); !ok {
				a.t.Fatal(err)
			}
		}
	}
}

// TestFloods: what costs a peer nothing and us something ends its connection, on
// the outbound and the inbound listener; another client is served meanwhile, and
// nothing of it stays.
func TestFloods(t *testing.T) {
	release := make(chan struct{})
	at := app2(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/wait" {
			<-release
		}
	})
	defer close(release)
	p := speaks(t, seinev1.Protocol_PROTOCOL_HTTP2, at, nil)
	inbound := start(t, Options{Loops: 1, Forwards: []Forward{{Listen: localhost(), App: at, Port: 8080}}},
		(&tableOf{t: t, self: self(t, "billing", billingID, seinev1.MtlsMode_MTLS_DISABLE, &seinev1.InboundPort{
			Port: 8080, Protocol: seinev1.Protocol_PROTOCOL_HTTP2, Mtls: seinev1.MtlsMode_MTLS_DISABLE, Service: billing,
		})}).build())
	floods := map[string]func(a *attacker) error{
		"rapid reset (CVE-2023-44487)": func(a *attacker) error {
			id := uint32(1)
			for range 5000 {
				if err := a.f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: a.head(), EndHeaders: true, EndStream: true}); err != nil {
					return err
				}
				if err := a.f.WriteRSTStream(id, http2.ErrCodeCancel); err != nil {
					return err
				}
				id += 2
			}
			return nil
		},
		"resets that we are made to send": func(a *attacker) error {
			id := uint32(1)
			for range 5000 {
				if err := a.f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: a.head("x", "y"), EndHeaders: true}); err != nil {
					return err
				}
				if err := a.f.WriteWindowUpdate(id, 0); err != nil {
					return err
				}
				id += 2
			}
			return nil
		},
		"CONTINUATION": func(a *attacker) error {
			if err := a.f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: a.head()}); err != nil {
				return err
			}
			for range 5000 {
				if err := a.f.WriteContinuation(1, false, nil); err != nil {
					return err
				}
			}
			return nil
		},
		"PING": func(a *attacker) error {
			for i := range 5000 {
				if err := a.f.WritePing(false, [8]byte{byte(i)}); err != nil {
					return err
				}
			}
			return nil
		},
		"SETTINGS": func(a *attacker) error {
			for range 5000 {
				if err := a.f.WriteSettings(); err != nil {
					return err
				}
			}
			return nil
		},
		"empty DATA": func(a *attacker) error {
			if err := a.f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: a.head(), EndHeaders: true}); err != nil {
				return err
			}
			for range 5000 {
				if err := a.f.WriteData(1, false, nil); err != nil {
					return err
				}
			}
			return nil
		},
		"PRIORITY": func(a *attacker) error {
			for range 5000 {
				if err := a.f.WritePriority(1, http2.PriorityParam{StreamDep: 3}); err != nil {
					return err
				}
			}
			return nil
		},
		"WINDOW_UPDATE": func(a *attacker) error {
			for range 5000 {
				if err := a.f.WriteWindowUpdate(0, 1); err != nil {
					return err
				}
			}
			return nil
		},
	}
	for side, r := range map[string]*running{"outbound": p.client, "inbound": inbound} {
		addr := r.Addresses()[0].String()
		for name, flood := range floods {
			t.Run(side+" "+name, func(t *testing.T) {
				a := attack(t, addr)
				done := make(chan struct{})
				go func() { defer close(done); _ = flood(a) }() // it may fail once the proxy has had enough
				if code := a.ends(); code != http2.ErrCodeEnhanceYourCalm && code != 0xffff {
					t.Errorf("GOAWAY says %v", code)
				}
				_ = a.c.Close()
				<-done
			})
		}
		if res, _ := get2(t, client2(t, addr), "/"); res.StatusCode != 200 {
			t.Errorf("another client, %s: %s", side, res.Status)
		}
		settled(t, r)
	}
}

// settled waits until the proxy holds no exchange and no buffer.
func settled(t testing.TB, r *running) {
	t.Helper()
	eventually(t, "nothing to be held:\n"+r.state(), func() bool {
		idle := true
		for _, w := range r.workers {
			held := make(chan bool)
			w.loop.Post(func() { held <- w.inflight.Load() == 0 && w.buffers.inUse <= 4<<10 && len(w.lent) == 0 })
			idle = <-held && idle
		}
		return idle
	})
}

// TestBombs: heads that are small on the wire and large when decoded are refused,
// and nothing of them reaches the application.
func TestBombs(t *testing.T) {
	reached := make(chan struct{}, 16)
	at := app2(t, func(http.ResponseWriter, *http.Request) { reached <- struct{}{} })
	p := speaks(t, seinev1.Protocol_PROTOCOL_HTTP2, at, nil)
	t.Run("HPACK", func(t *testing.T) {
		a := attack(t, p.addr)
		// One entry of 4,000 bytes, referred to 4,000 times: 16 MB.
		block := a.head("x-bomb", strings.Repeat("b", 4000))
		for range 4000 {
			block = append(block, 0x80|62)
		}
		must(t, a.f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block, EndHeaders: true, EndStream: true}))
		for {
			fr, err := a.f.ReadFrame()
			must(t, err)
			if h, ok := fr.(*http2.HeadersFrame); ok {
				d := hpack.NewDecoder(4096, nil)
				fields, err := d.DecodeFull(h.HeaderBlockFragment())
				must(t, err)
				if fields[0].Value != "431" {
					t.Errorf("%v", fields)
				}
				break
			}
		}
	})
	t.Run("fields", func(t *testing.T) {
		a := attack(t, p.addr)
		var more []string
		for range 2000 {
			more = append(more, "x", "y")
		}
		must(t, a.f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: a.head(more...), EndHeaders: true, EndStream: true}))
		for {
			fr, err := a.f.ReadFrame()
			must(t, err)
			if _, ok := fr.(*http2.HeadersFrame); ok {
				break
			}
		}
	})
	t.Run("a block without end", func(t *testing.T) {
		a := attack(t, p.addr)
		done := make(chan struct{})
		go func() {
			defer close(done)
			junk := make([]byte, 16<<10)
			if a.f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: junk}) != nil {
				return
			}
			for range 100 {
				if a.f.WriteContinuation(1, false, junk) != nil {
					return
				}
			}
		}()
		if code := a.ends(); code != http2.ErrCodeEnhanceYourCalm && code != 0xffff {
			t.Errorf("GOAWAY says %v", code)
		}
		_ = a.c.Close()
		<-done
	})
	t.Run("a frame longer than allowed", func(t *testing.T) {
		a := attack(t, p.addr)
		head := binary.BigEndian.AppendUint32(nil, 1<<20<<8|uint32(http2.FrameHeaders))
		_, err := a.c.Write(append(head, 4, 0, 0, 0, 1))
		must(t, err)
		if code := a.ends(); code != http2.ErrCodeFrameSize {
			t.Errorf("GOAWAY says %v", code)
		}
	})
	if len(reached) > 0 {
		t.Error("something was forwarded")
	}
	settled(t, p.client)
}

// TestStalledWindows: clients that open streams and never any window hold no more
// than their windows, and let others be served.
func TestStalledWindows(t *testing.T) {
	at := app2(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" {
			_, _ = w.Write(make([]byte, 4<<20))
		}
	})
	p := speaks(t, seinev1.Protocol_PROTOCOL_HTTP2, at, nil)
	a := attack(t, p.addr)
	must(t, a.f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}))
	const n = 50
	for i := range uint32(n) {
		must(t, a.f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1 + 2*i, BlockFragment: a.head(), EndHeaders: true, EndStream: true}))
	}
	for heads := 0; heads < n; {
		fr, err := a.f.ReadFrame()
		must(t, err)
		if _, ok := fr.(*http2.HeadersFrame); ok {
			heads++
		}
	}
	if res, _ := get2(t, client2(t, p.addr), "/other"); res.StatusCode != 200 {
		t.Error(res.Status)
	}
	for _, r := range []*running{p.client, p.server} {
		w := r.workers[0]
		held := make(chan int64)
		w.loop.Post(func() { held <- w.buffers.inUse })
		// A window, in a buffer of the next size, for each stream.
		if b := <-held; b > n*128<<10+512<<10 {
			t.Errorf("%d bytes are held for %d streams", b, n)
		}
	}
	_ = a.c.Close()
	settled(t, p.client)
}

// TestWebSocketStream: an extended CONNECT (RFC 8441) reaches a server of HTTP/1.1
// as its upgrade.
func TestWebSocketStream(t *testing.T) {
	at := rawApp(t, func(c net.Conn) {
		buf := make([]byte, 4096)
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		head := strings.ToLower(string(buf[:n]))
		if !strings.HasPrefix(head, "get /chat http/1.1\r\n") || !strings.Contains(head, "upgrade: websocket\r\n") || !strings.Contains(head, "sec-websocket-key: ") {
			_, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\nhello")
		_, _ = io.Copy(c, c)
	})
	p := speaks(t, seinev1.Protocol_PROTOCOL_HTTP, at, nil)
	a := attack(t, p.addr)
	var b strings.Builder
	e := hpack.NewEncoder(&b)
	for _, f := range [][2]string{{":method", "CONNECT"}, {":protocol", "websocket"}, {":scheme", "http"}, {":authority", "billing:8080"}, {":path", "/chat"}, {"sec-websocket-version", "13"}} {
		must(t, e.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}))
	}
	must(t, a.f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte(b.String()), EndHeaders: true}))
	must(t, a.f.WriteData(1, false, []byte(" echo")))
	must(t, a.c.SetReadDeadline(time.Now().Add(20*time.Second)))
	got, status := "", ""
	for got != "hello echo" {
		fr, err := a.f.ReadFrame()
		must(t, err)
		switch f := fr.(type) {
		case *http2.HeadersFrame:
			fields, err := hpack.NewDecoder(4096, nil).DecodeFull(f.HeaderBlockFragment())
			must(t, err)
			status = fields[0].Value
		case *http2.DataFrame:
			got += string(f.Data())
		case *http2.RSTStreamFrame:
			t.Fatal(f)
		}
	}
	if status != "200" {
		t.Error(status)
	}
	must(t, a.f.WriteData(1, true, nil))
	for {
		fr, err := a.f.ReadFrame()
		must(t, err)
		if fr.Header().StreamID == 1 && fr.Header().Flags.Has(http2.FlagDataEndStream) && fr.Header().Type == http2.FrameData {
			break
		}
	}
	settled(t, p.client)
}

// TestTunnelWaits: what a client sends into a tunnel that the server has not
// granted would be a request of its own to it, past every policy and with any
// x-forwarded-client-cert. It does not get there.
func TestTunnelWaits(t *testing.T) {
	sent := make(chan struct{})
	got := make(chan string, 1)
	at := rawApp(t, func(c net.Conn) {
		buf := make([]byte, 4096)
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		<-sent // the proxy has seen everything
		raw, err := c.(*net.TCPConn).SyscallConn()
		if err != nil {
			return
		}
		more := make([]byte, 4096)
		_ = raw.Control(func(fd uintptr) {
			k, _, _ := syscall.Recvfrom(int(fd), more, syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
			more = more[:max(k, 0)]
		})
		got <- string(buf[:n]) + string(more)
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno")
		_, _ = io.Copy(io.Discard, c)
	})
	r := start(t, Options{Loops: 1, Explicit: localhost()}, billingTable(t, []*seinev1.HttpRule{toBilling()}, endpoint("1", at, workload("billing", ""))).build())
	a := attack(t, r.Addresses()[0].String())
	var b strings.Builder
	e := hpack.NewEncoder(&b)
	for _, f := range [][2]string{{":method", "CONNECT"}, {":protocol", "websocket"}, {":scheme", "http"}, {":authority", "billing:8080"}, {":path", "/public"}, {"sec-websocket-version", "13"}} {
		must(t, e.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}))
	}
	must(t, a.f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte(b.String()), EndHeaders: true}))
	must(t, a.f.WriteData(1, false, []byte("POST /admin HTTP/1.1\r\nHost: billing\r\nX-Forwarded-Client-Cert: URI=spiffe://cluster.local/ns/default/sa/root\r\nContent-Length: 0\r\n\r\n")))
	must(t, a.f.WritePing(false, [8]byte{1}))
	must(t, a.c.SetReadDeadline(time.Now().Add(20*time.Second)))
	status := ""
	for status == "" {
		fr, err := a.f.ReadFrame()
		must(t, err)
		switch f := fr.(type) {
		case *http2.PingFrame:
			if f.IsAck() {
				close(sent)
			}
		case *http2.HeadersFrame:
			fields, err := hpack.NewDecoder(4096, nil).DecodeFull(f.HeaderBlockFragment())
			must(t, err)
			status = fields[0].Value
		}
	}
	if head := <-got; !strings.HasPrefix(head, "GET /public ") || !strings.HasSuffix(head, "\r\n\r\n") || strings.Contains(head, "/admin") {
		t.Errorf("the server was sent %q", head)
	}
	if status != "200" {
		t.Error(status)
	}
	_ = a.c.Close()
	settled(t, r)
}

// TestConnectStream: CONNECT over HTTP/2 at the explicit port opens a tunnel.
func TestConnectStream(t *testing.T) {
	at := rawApp(t, func(c net.Conn) { _, _ = io.Copy(c, c) })
	r := start(t, Options{Loops: 1, Explicit: localhost()}, billingTable(t, []*seinev1.HttpRule{toBilling()}, endpoint("1", at, workload("billing", ""))).build())
	a := attack(t, r.Addresses()[0].String())
	var b strings.Builder
	e := hpack.NewEncoder(&b)
	for _, f := range [][2]string{{":method", "CONNECT"}, {":authority", "billing:8080"}} {
		must(t, e.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}))
	}
	must(t, a.f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte(b.String()), EndHeaders: true}))
	must(t, a.f.WriteData(1, false, []byte("through")))
	must(t, a.c.SetReadDeadline(time.Now().Add(20*time.Second)))
	for got := ""; got != "through"; {
		fr, err := a.f.ReadFrame()
		must(t, err)
		if d, ok := fr.(*http2.DataFrame); ok {
			got += string(d.Data())
		}
	}
	must(t, a.f.WriteData(1, true, nil))
	for {
		fr, err := a.f.ReadFrame()
		must(t, err)
		if fr.Header().StreamID == 1 && fr.Header().Flags.Has(http2.FlagDataEndStream) && fr.Header().Type == http2.FrameData {
			break
		}
	}
	settled(t, r)
}
