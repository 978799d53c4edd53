//go:build linux

package proxy

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

// passing is a proxy whose every connection goes on to at as it comes, and the
// proxy's address.
func passing(t *testing.T, at netip.AddrPort, o Options, policy *seinev1.TrafficPolicy) (*running, string) {
	t.Helper()
	b := &tableOf{t: t, self: self(t, "frontend", frontendID, seinev1.MtlsMode_MTLS_STRICT), answers: map[string]*seinev1.Answer{
		"addr/192.0.2.1:443": {Kind: seinev1.Answer_ROUTES, Protocol: seinev1.Protocol_PROTOCOL_TCP, Tcp: []*seinev1.TcpRule{{Destinations: []*seinev1.Destination{{Host: "db.example.com", Port: 443, Weight: 1}}}}},
	}}
	b.external("db.example.com", endpoint("1", at, nil))
	b.service[0].Policy = policy
	f := &tables{}
	f.cur.Store(b.build())
	o.Loops, o.Outbound = 1, localhost()
	p := startWith(t, o, f, dialled(netip.MustParseAddrPort("192.0.2.1:443")))
	return p, p.Addresses()[0].String()
}

// settled waits until nothing is open, and holds that no pipe is lost.
func (r *running) settled(t *testing.T) {
	t.Helper()
	eventually(t, "nothing is left", func() bool { return r.inflight() == 0 && r.connections() == 0 })
	w := r.workers[0]
	free := make(chan int, 1)
	w.loop.Post(func() { free <- len(w.pipes.free) })
	if n := <-free; int64(n) != w.pipes.open.Load() {
		t.Errorf("%d pipes are open, %d of them free", w.pipes.open.Load(), n)
	}
}

// eachWay runs a test with the bytes of bulk passed on by the kernel, and copied.
func eachWay(t *testing.T, test func(*testing.T, Options)) {
	for name, o := range map[string]Options{"splice": {}, "copy": {NoSplice: true}} {
		t.Run(name, func(t *testing.T) { test(t, o) })
	}
}

func random(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b)
	return b
}

const bulk = 24 << 20

func TestBulk(t *testing.T) {
	data := random(bulk)
	eachWay(t, func(t *testing.T, o Options) {
		at := rawApp(t, func(c net.Conn) { _, _ = io.Copy(c, c); _ = c.(*net.TCPConn).CloseWrite() })
		p, addr := passing(t, at, o, nil)
		c := dial(t, addr)
		go func() { _, _ = c.Write(data); _ = c.CloseWrite() }()
		b, err := io.ReadAll(c.r)
		if !bytes.Equal(b, data) || err != nil {
			t.Fatalf("%d bytes of %d, %v", len(b), len(data), err)
		}
		p.settled(t)
		p.shows(t, `istio_tcp_received_bytes_total{`, "25165824", `destination_service="db.example.com"`)
		if spliced := p.spliced(); (spliced > 0) == o.NoSplice {
			t.Errorf("%d bytes were spliced", spliced)
		}
		m := p.metrics(t)
		for _, name := range []string{"istio_tcp_received_bytes_total", "istio_tcp_sent_bytes_total"} {
			if i := strings.Index(m, name+"{"); i < 0 || !strings.Contains(strings.SplitN(m[i:], "\n", 2)[0], " 25165824") {
				t.Errorf("%s does not say all bytes", name)
			}
		}
	})
}

// The server ends its side first; what the client sends after that still arrives.
func TestServerEndsFirst(t *testing.T) {
	data := random(bulk / 4)
	eachWay(t, func(t *testing.T, o Options) {
		got := make(chan []byte, 1)
		at := rawApp(t, func(c net.Conn) {
			_ = c.(*net.TCPConn).CloseWrite()
			b, _ := io.ReadAll(c)
			got <- b
		})
		p, addr := passing(t, at, o, nil)
		c := dial(t, addr)
		c.ends() // an orderly end, while our side is open
		_, err := c.Write(data)
		must(t, err)
		must(t, c.CloseWrite())
		if b := <-got; !bytes.Equal(b, data) {
			t.Errorf("%d bytes of %d", len(b), len(data))
		}
		p.settled(t)
	})
}

// full waits until nothing moves any more, and returns how much has come from the
// servers.
func (r *running) full(t *testing.T) int64 {
	t.Helper()
	var last [2]int64
	still := 0
	eventually(t, "nothing moves any more", func() bool {
		moved := make(chan [2]int64, 1)
		r.workers[0].loop.Post(func() {
			var n [2]int64
			for x := range r.workers[0].relays {
				n[0] += x.fromA.moved
				n[1] += x.fromB.moved
			}
			moved <- n
		})
		n := <-moved
		if still++; n != last || n[1] == 0 {
			last, still = n, 0
		}
		return still > 20
	})
	return last[1]
}

// A client that does not read holds the server back; it gets everything when it
// reads again.
func TestOpaqueSlowReader(t *testing.T) {
	data := random(bulk)
	eachWay(t, func(t *testing.T, o Options) {
		at := rawApp(t, func(c net.Conn) { _, _ = c.Write(data) })
		p, addr := passing(t, at, o, nil)
		c := dial(t, addr)
		if last := p.full(t); last >= int64(len(data)) { // the client's window is full
			t.Fatalf("%d bytes went to a client that does not read", last)
		}
		b, err := io.ReadAll(c.r)
		if !bytes.Equal(b, data) || err != nil {
			t.Fatalf("%d bytes of %d, %v", len(b), len(data), err)
		}
		must(t, c.Close())
		p.settled(t)
	})
}

// A reset in the midst of bulk is a reset at the other end, from either side.
func TestBulkReset(t *testing.T) {
	eachWay(t, func(t *testing.T, o Options) {
		told := make(chan error, 1)
		at := rawApp(t, func(c net.Conn) {
			_, err := io.Copy(c, c)
			told <- err
		})
		p, addr := passing(t, at, o, nil)
		c := dial(t, addr)
		go func() { _, _ = c.Write(random(bulk)) }()
		_, err := io.CopyN(io.Discard, c.r, bulk/4)
		must(t, err)
		must(t, c.SetLinger(0))
		must(t, c.Close())
		if err := <-told; !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			t.Errorf("the server heard %v", err)
		}
		p.settled(t)
		p.shows(t, `response_flags="DC"`)

		at = rawApp(t, func(c net.Conn) {
			_, _ = io.CopyN(io.Discard, c, bulk/4)
			_ = c.(*net.TCPConn).SetLinger(0)
			_ = c.Close()
		})
		p, addr = passing(t, at, o, nil)
		c = dial(t, addr)
		if _, err := c.Write(random(bulk)); err == nil {
			_, err = c.Read(make([]byte, 1))
			if !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the client heard %v", err)
			}
		} else if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			t.Errorf("the client heard %v", err)
		}
		p.settled(t)
	})
}

// TestResetWhileFull: a client resets while both directions are full, of a server
// that reads on once somebody takes what it has to say.
func TestResetWhileFull(t *testing.T) {
	eachWay(t, func(t *testing.T, o Options) {
		told := make(chan error, 1)
		at := rawApp(t, func(c net.Conn) {
			_, err := io.Copy(c, c)
			told <- err
		})
		p, addr := passing(t, at, o, nil)
		c := dial(t, addr)
		go func() { _, _ = c.Write(random(4 * bulk)) }()
		p.full(t)
		must(t, c.SetLinger(0))
		must(t, c.Close())
		if err := <-told; !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			t.Errorf("the server heard %v", err)
		}
		p.settled(t)
		p.shows(t, `response_flags="DC"`)
	})
}

// An opaque connection on which nothing moves ends, also with bytes on their way
// to a client that does not take them; and so does one that is too old, whatever
// moves.
func TestStreamTimes(t *testing.T) {
	eachWay(t, func(t *testing.T, o Options) {
		data := random(bulk)
		at := rawApp(t, func(c net.Conn) { _, _ = c.Write(data); _, _ = io.Copy(io.Discard, c) })
		idle := &seinev1.TrafficPolicy{Pool: &seinev1.ConnectionPool{TcpIdleTimeout: durationpb.New(100 * time.Millisecond)}}
		p, addr := passing(t, at, o, idle)
		c := dial(t, addr)
		p.settled(t)
		p.shows(t, `response_flags="SI"`)
		if b, err := io.ReadAll(c.r); err == nil && len(b) == len(data) {
			t.Error("it got everything")
		}
		busy := rawApp(t, func(c net.Conn) {
			for {
				if _, err := c.Write(data); err != nil {
					return
				}
			}
		})
		old := &seinev1.TrafficPolicy{Pool: &seinev1.ConnectionPool{MaxConnectionDuration: durationpb.New(200 * time.Millisecond)}}
		p, addr = passing(t, busy, o, old)
		c = dial(t, addr)
		if _, err := io.Copy(io.Discard, c.r); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the client heard %v", err)
		}
		p.settled(t)
	})
}

// Both directions of a connection that is busy in both get their turns.
func TestBothWays(t *testing.T) {
	eachWay(t, func(t *testing.T, o Options) {
		at := rawApp(t, func(c net.Conn) {
			go func() { _, _ = io.Copy(io.Discard, c) }()
			_, _ = io.CopyN(c, rand.NewChaCha8([32]byte{}), bulk)
			_ = c.(*net.TCPConn).CloseWrite()
			_, _ = io.Copy(io.Discard, c)
		})
		_, addr := passing(t, at, o, nil)
		c := dial(t, addr)
		go func() { // without end
			for {
				if _, err := c.Write(make([]byte, 1<<20)); err != nil {
					return
				}
			}
		}()
		if n, err := io.Copy(io.Discard, c.r); n != bulk || err != nil {
			t.Errorf("%d bytes of %d, %v", n, bulk, err)
		}
	})
}

// The application's own TLS passes through the same way, ended as it was ended.
func TestTLSPassthroughEnds(t *testing.T) {
	eachWay(t, func(t *testing.T, o Options) {
		ca := newWebCA(t)
		data := random(bulk / 2)
		p, addr := passing(t, secure(t, ca, "db.example.com"), o, nil)
		c := dial(t, addr)
		s := tls.Client(c.TCPConn, &tls.Config{ServerName: "db.example.com", InsecureSkipVerify: true})
		go func() { _, _ = s.Write(data); _ = s.CloseWrite() }()
		b, err := io.ReadAll(s) // ends with close_notify, not with a cut
		if !bytes.Equal(b, data) || err != nil {
			t.Fatalf("%d bytes of %d, %v", len(b), len(data), err)
		}
		_ = c.Close()
		p.settled(t)
	})
}

// TestKeepAlive holds what DestinationRule tcpKeepalive sets on the socket of an
// opaque connection.
func TestKeepAlive(t *testing.T) {
	at := rawApp(t, func(c net.Conn) { _, _ = io.Copy(c, c) })
	p, addr := passing(t, at, Options{}, &seinev1.TrafficPolicy{Pool: &seinev1.ConnectionPool{Keepalive: &seinev1.ConnectionPool_Keepalive{
		Probes: 3, Time: durationpb.New(70 * time.Second), Interval: durationpb.New(7 * time.Second),
	}}})
	c := dial(t, addr)
	c.write("x")
	_, err := c.r.ReadByte()
	must(t, err)
	got := make(chan [4]int, 1)
	p.workers[0].loop.Post(func() {
		for r := range p.workers[0].relays {
			var v [4]int
			v[0], _ = syscall.GetsockoptInt(r.b.fd, syscall.SOL_SOCKET, syscall.SO_KEEPALIVE)
			v[1], _ = syscall.GetsockoptInt(r.b.fd, syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE)
			v[2], _ = syscall.GetsockoptInt(r.b.fd, syscall.IPPROTO_TCP, syscall.TCP_KEEPINTVL)
			v[3], _ = syscall.GetsockoptInt(r.b.fd, syscall.IPPROTO_TCP, syscall.TCP_KEEPCNT)
			got <- v
		}
	})
	if v := <-got; v != [4]int{1, 70, 7, 3} {
		t.Error(v)
	}
}

// TestSpliceMeetsReset: the kernel says once that the peer has reset. Where a write
// was told, what is spliced ends all the same, but not orderly.
func TestSpliceMeetsReset(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	peer, err := net.Dial("tcp", l.Addr().String())
	must(t, err)
	c, err := l.Accept()
	must(t, err)
	f, err := c.(*net.TCPConn).File()
	must(t, err)
	must(t, c.Close()) // f is the connection now
	defer f.Close()
	fd := int(f.Fd())
	must(t, syscall.SetNonblock(fd, true))
	must(t, peer.(*net.TCPConn).SetLinger(0))
	must(t, peer.Close())
	w := &worker{}
	src, dst := &socket{w: w, fd: fd, readable: true}, &socket{w: w, fd: -1, writable: true}
	eventually(t, "the reset has come", func() bool {
		_, err := syscall.Write(fd, []byte("x"))
		if err != nil {
			src.cannotSend(err.(syscall.Errno))
		}
		return err != nil
	})
	if src.lost != syscall.ECONNRESET {
		t.Fatalf("the write met %v", src.lost)
	}
	way := flow{bulk: true}
	if way.splice(w, src, dst) || src.err == nil || src.clean {
		t.Errorf("err %v, an orderly end: %v", src.err, src.clean)
	}
	w.pipes.close()
}
