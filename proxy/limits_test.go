//go:build linux

package proxy

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/decide"
)

// strict is a sidecar that takes the mesh's mutual TLS alone.
func strict(t *testing.T, ca *authority, o Options) *running {
	at := app(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
	o.Loops, o.Factory, o.Forwards = 1, ca.factory(t, billingID), []Forward{{Listen: localhost(), App: at, Port: 8080}}
	return start(t, o, (&tableOf{t: t, self: self(t, "billing", billingID, seinev1.MtlsMode_MTLS_STRICT, &seinev1.InboundPort{
		Port: 8080, Protocol: seinev1.Protocol_PROTOCOL_HTTP, Mtls: seinev1.MtlsMode_MTLS_STRICT, Service: billing, ServiceName: "billing", ServiceNamespace: "default",
	})}).build())
}

// open is a sidecar that takes plaintext.
func open(t *testing.T, o Options) *running {
	at := app(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/wait" {
			<-r.Context().Done()
		}
		_, _ = io.Copy(io.Discard, r.Body)
	})
	o.Loops, o.Forwards = 1, []Forward{{Listen: localhost(), App: at, Port: 8080}}
	return start(t, o, plainSelf(t))
}

func plainSelf(t *testing.T) *decide.Table {
	return (&tableOf{t: t, self: self(t, "billing", billingID, seinev1.MtlsMode_MTLS_DISABLE, &seinev1.InboundPort{
		Port: 8080, Protocol: seinev1.Protocol_PROTOCOL_HTTP, Mtls: seinev1.MtlsMode_MTLS_DISABLE, Service: billing, ServiceName: "billing", ServiceNamespace: "default",
	})}).build()
}

// hello is a whole ClientHello that offers the mesh's protocols.
func hello(t *testing.T) []byte {
	here, there := net.Pipe()
	c := tls.Client(here, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"istio"}})
	done := make(chan struct{})
	go func() { defer close(done); _ = c.Handshake() }()
	buf := make([]byte, 8192)
	n, err := there.Read(buf)
	must(t, err)
	must(t, there.Close())
	<-done
	return buf[:n]
}

// answered says whether the mesh's client gets an answer from r.
func answered(t *testing.T, ca *authority, r *running) bool {
	t.Helper()
	id := ca.identity(t, frontendID)
	raw, err := net.Dial("tcp", r.Addresses()[0].String())
	must(t, err)
	defer raw.Close()
	must(t, raw.SetDeadline(time.Now().Add(20*time.Second)))
	c := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"istio-http/1.1"}, Certificates: []tls.Certificate{id.Certificate}})
	_, err = io.WriteString(c, "GET / HTTP/1.1\r\nHost: billing:8080\r\nConnection: close\r\n\r\n")
	if err != nil {
		t.Log(err)
		return false
	}
	b, err := io.ReadAll(c)
	return err == nil && strings.HasPrefix(string(b), "HTTP/1.1 200")
}

// ended waits until the peer has ended c, and reports whether it did so.
func ended(c net.Conn) bool {
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	_, err := io.Copy(io.Discard, c)
	return !errors.Is(err, os.ErrDeadlineExceeded)
}

// TestHalfOpen: of connections that do not say what they are only so many are held,
// wherever they stopped; the oldest goes first, and others are served.
func TestHalfOpen(t *testing.T) {
	const most, all = 8, 40
	ca := newAuthority(t)
	whole := hello(t)
	for name, say := range map[string][]byte{"silent": nil, "half a ClientHello": whole[:len(whole)/2], "no second flight": whole} {
		t.Run(name, func(t *testing.T) {
			r := strict(t, ca, Options{MaxHalfOpen: most, HeadTimeout: time.Hour})
			var conns []net.Conn
			for i := range all {
				c, err := net.Dial("tcp", r.Addresses()[0].String())
				must(t, err)
				defer c.Close()
				_, err = c.Write(say)
				must(t, err)
				conns = append(conns, c)
				eventually(t, "it is taken, and the bound holds", func() bool {
					open := int(r.connections()) // counted before the oldest goes
					return open <= most && int(r.counters.shedHalfOpen.Value())+open == i+1
				})
			}
			for i, c := range conns[:all-most] {
				if !ended(c) {
					t.Fatalf("the %d. of %d is still there", i+1, all)
				}
			}
			if !answered(t, ca, r) {
				t.Error("another client was not served")
			}
			if n := r.counters.shedHalfOpen.Value(); n < all-most {
				t.Errorf("the metric says %v", n)
			}
		})
	}
}

// TestHandshakeTakesTooLong: it has as long as a head.
func TestHandshakeTakesTooLong(t *testing.T) {
	ca := newAuthority(t)
	whole := hello(t)
	for name, say := range map[string][]byte{"silent": nil, "half a ClientHello": whole[:len(whole)/2], "no second flight": whole} {
		t.Run(name, func(t *testing.T) {
			r := strict(t, ca, Options{HeadTimeout: 50 * time.Millisecond})
			c, err := net.Dial("tcp", r.Addresses()[0].String())
			must(t, err)
			defer c.Close()
			_, err = c.Write(say)
			must(t, err)
			if !ended(c) {
				t.Error("it was not ended")
			}
			eventually(t, "it is counted", func() bool { return r.counters.slowConnections.Value() == 1 && r.connections() == 0 })
			if n := r.factory.Handshakes(); n != 0 {
				t.Errorf("%d handshakes are left", n)
			}
		})
	}
}

// TestSlowHeads: a head has its time over HTTP/2 as well, before there is a stream.
func TestSlowHeads(t *testing.T) {
	for name, begin := range map[string]func(a *attacker){
		"no end of the block": func(a *attacker) {
			must(t, a.f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: a.head()}))
		},
		"half a frame": func(a *attacker) {
			_, err := a.c.Write([]byte{0, 0, 100, byte(http2.FrameHeaders), 4, 0, 0, 0, 1, 0x82})
			must(t, err)
		},
		"half a frame's head": func(a *attacker) {
			_, err := a.c.Write([]byte{0, 0})
			must(t, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := open(t, Options{HeadTimeout: 50 * time.Millisecond})
			a := attack(t, r.Addresses()[0].String())
			begin(a)
			if code := a.ends(); code != http2.ErrCodeEnhanceYourCalm {
				t.Errorf("GOAWAY says %v", code)
			}
			_ = a.c.Close()
			eventually(t, "it is counted and gone", func() bool { return r.counters.slowConnections.Value() == 1 && r.connections() == 0 })
		})
	}
	t.Run("HTTP/1.1", func(t *testing.T) {
		r := open(t, Options{HeadTimeout: 50 * time.Millisecond})
		c := dial(t, r.Addresses()[0].String())
		c.write("GET / HTTP/1.1\r\nHost: bil")
		if res, _ := c.response("GET"); res.StatusCode != 408 {
			t.Error(res.Status)
		}
		if n := r.counters.slowConnections.Value(); n != 1 {
			t.Errorf("counted %v times", n)
		}
	})
	t.Run("a head in time, and content that takes longer", func(t *testing.T) {
		r := open(t, Options{HeadTimeout: 50 * time.Millisecond})
		a := attack(t, r.Addresses()[0].String())
		must(t, a.f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: a.head(), EndHeaders: true}))
		_, err := a.c.Write([]byte{0, 0, 2, byte(http2.FrameData), 1, 0, 0, 0, 1, 'x'})
		must(t, err)
		begun := time.Now()
		eventually(t, "three times as long", func() bool { return time.Since(begun) > 150*time.Millisecond })
		_, err = a.c.Write([]byte{'y'})
		must(t, err)
		if status := a.status(t); status != "200" {
			t.Error(status)
		}
	})
}

// status reads until the answer's head of the first stream.
func (a *attacker) status(t *testing.T) string {
	must(t, a.c.SetReadDeadline(time.Now().Add(20*time.Second)))
	a.f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	for {
		fr, err := a.f.ReadFrame()
		must(t, err)
		if h, ok := fr.(*http2.MetaHeadersFrame); ok {
			return h.PseudoValue("status")
		}
	}
}

// TestSlowBodies: content that stalls ends the exchange after StreamIdle, and the
// application's side with it.
func TestSlowBodies(t *testing.T) {
	t.Run("HTTP/1.1", func(t *testing.T) {
		r := open(t, Options{StreamIdle: 50 * time.Millisecond})
		c := dial(t, r.Addresses()[0].String())
		c.write("POST / HTTP/1.1\r\nHost: billing:8080\r\nContent-Length: 1000\r\n\r\nx")
		if !ended(c) {
			t.Error("it was not ended")
		}
		eventually(t, "nothing is left", func() bool { return r.connections() == 0 && r.inflight() == 0 })
	})
	t.Run("HTTP/2", func(t *testing.T) {
		r := open(t, Options{StreamIdle: 50 * time.Millisecond})
		a := attack(t, r.Addresses()[0].String())
		must(t, a.f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: a.head(), EndHeaders: true}))
		must(t, a.f.WriteData(1, false, []byte("x")))
		if status := a.status(t); status != "408" && status != "504" {
			t.Error(status)
		}
		eventually(t, "nothing is under way", func() bool { return r.inflight() == 0 })
	})
}

// TestPing: an HTTP/2 peer with streams that is silent is asked, and given up if it
// does not answer; one that answers is not.
func TestPing(t *testing.T) {
	t.Run("a client that does not answer", func(t *testing.T) {
		r := open(t, Options{Pulse: 20 * time.Millisecond})
		a := attack(t, r.Addresses()[0].String())
		must(t, a.f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: a.waits(), EndHeaders: true, EndStream: true}))
		a.ends()
		eventually(t, "it is counted", func() bool { return r.counters.deadPeers.Value() == 1 && r.inflight() == 0 })
	})
	t.Run("a client that answers", func(t *testing.T) {
		r := open(t, Options{Pulse: 20 * time.Millisecond})
		a := attack(t, r.Addresses()[0].String())
		must(t, a.f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: a.waits(), EndHeaders: true, EndStream: true}))
		must(t, a.c.SetReadDeadline(time.Now().Add(20*time.Second)))
		for pings := 0; pings < 5; {
			fr, err := a.f.ReadFrame()
			must(t, err)
			if p, ok := fr.(*http2.PingFrame); ok && !p.IsAck() {
				must(t, a.f.WritePing(true, p.Data))
				pings++
			}
		}
		if n := r.counters.deadPeers.Value(); n != 0 {
			t.Errorf("%v were given up", n)
		}
	})
	t.Run("an upstream that does not answer", func(t *testing.T) {
		at := rawApp(t, func(c net.Conn) { // takes all, says no more than it must
			f := http2.NewFramer(c, c)
			_ = f.WriteSettings()
			_, _ = io.Copy(io.Discard, c)
		})
		p := speaks(t, seinev1.Protocol_PROTOCOL_HTTP2, at, func(_, s *Options) { s.Pulse = 20 * time.Millisecond })
		if res, _ := get2(t, client2(t, p.addr), "/"); res.StatusCode < 500 {
			t.Error(res.Status)
		}
		if n := p.server.counters.deadPeers.Value(); n == 0 {
			t.Error("not counted")
		}
	})
}

// waits is the head of a request that the application does not answer.
func (a *attacker) waits() []byte {
	b := a.head()
	return append(b[:len(b)-1], literalPath("/wait")...)
}

// literalPath is :path as a literal (RFC 7541 §6.2.2, name 4).
func literalPath(p string) []byte { return append([]byte{0x04, byte(len(p))}, p...) }

// TestBuffers: heads that are long and never end hold no more than the bound, and
// others are served meanwhile.
func TestBuffers(t *testing.T) {
	const most = 4 << 20
	r := open(t, Options{MaxBuffers: most, HeadTimeout: time.Hour})
	long := "GET / HTTP/1.1\r\nHost: billing:8080\r\nX-Long: " + strings.Repeat("x", 40<<10)
	for range 2 * manySockets {
		c := dial(t, r.Addresses()[0].String())
		_, _ = io.WriteString(c, long) // it may be among those that are ended
	}
	w := r.workers[0]
	eventually(t, "what is above the bound goes", func() bool {
		held := make(chan int64)
		w.loop.Post(func() { held <- w.buffers.inUse })
		return <-held <= most && r.counters.shedBuffers.Value() > 0
	})
	c := dial(t, r.Addresses()[0].String())
	if res, _ := c.get("/"); res.StatusCode != 200 {
		t.Error(res.Status)
	}
}

// TestUnreadAnswers: clients that ask for much and read nothing do not hold more
// than the bound either.
func TestUnreadAnswers(t *testing.T) {
	const most = 2 << 20
	much := make([]byte, 64<<20) // more than the kernel's own buffers take
	at := app(t, func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(much) })
	r := start(t, Options{Loops: 1, Forwards: []Forward{{Listen: localhost(), App: at, Port: 8080}}, MaxBuffers: most},
		plainSelf(t))
	for range manySockets {
		c := dial(t, r.Addresses()[0].String())
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: billing:8080\r\n\r\n")
	}
	w := r.workers[0]
	eventually(t, "what is above the bound goes", func() bool {
		held := make(chan int64)
		w.loop.Post(func() { held <- w.buffers.inUse })
		return <-held <= most && r.counters.shedBuffers.Value() > 0
	})
}

// TestIdleMakesRoom: at the bound of connections an idle one goes for a new one; with
// none that is idle the new one is refused.
func TestIdleMakesRoom(t *testing.T) {
	const most = 8
	r := open(t, Options{MaxConnections: most})
	addr := r.Addresses()[0].String()
	for range most {
		if res, _ := dial(t, addr).get("/"); res.StatusCode != 200 {
			t.Fatal(res.Status)
		}
	}
	for i := range most { // each takes the place of an idle one
		c := dial(t, addr)
		c.write("GET /wait HTTP/1.1\r\nHost: billing:8080\r\n\r\n")
		eventually(t, fmt.Sprintf("%d are under way", i+1), func() bool { return r.inflight() == int64(i+1) })
	}
	if shed, over := r.counters.shedIdle.Value(), r.counters.overConnections.Value(); shed != most || over != 0 {
		t.Errorf("%v idle ones ended, %v refused", shed, over)
	}
	if c, err := net.Dial("tcp", addr); err == nil { // it may be reset at once
		defer c.Close()
		if !ended(c) {
			t.Error("one more was taken")
		}
	}
	eventually(t, "it is counted", func() bool { return r.counters.overConnections.Value() == 1 && r.inflight() == most })
}

// TestAffordable: half of the descriptors at most.
func TestAffordable(t *testing.T) {
	if n := affordable(); n < 64 || n > 65536 {
		t.Error(n)
	}
}
