package mtls

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
)

func TestHandshakeAndData(t *testing.T) {
	ca := newTestCA(t)
	fa, fb := ca.factory(t, alice), ca.factory(t, bob)
	for _, chunk := range []int{0, 1, 7, 1000} {
		w := join(client(fa, bob), fb.Server())
		w.chunk = chunk
		w.mustShake(t)
		for _, s := range []*Session{w.a, w.b} {
			cs := s.tls.ConnectionState()
			if cs.CurveID != tls.X25519MLKEM768 || cs.Version != tls.VersionTLS13 {
				t.Errorf("curve %v, version %x", cs.CurveID, cs.Version)
			}
			if s.ALPN() != "seine-http/1.1" || s.SNI() != "outbound_.80_._.bob.default.svc.cluster.local" {
				t.Errorf("ALPN %q, SNI %q", s.ALPN(), s.SNI())
			}
		}
		if w.a.PeerID() != bob || w.b.PeerID() != alice {
			t.Errorf("peers %q, %q", w.a.PeerID(), w.b.PeerID())
		}
		exchange(t, w, 1, 1024, 16384, 16385, 60000)
		idle(t, w.a)
		idle(t, w.b)
		w.release()
	}
}

// idle checks that a session at rest holds no buffer of ours.
func idle(t *testing.T, s *Session) {
	t.Helper()
	if s.out != nil || s.in.held != nil || s.in.lent != nil || s.in.ready != 0 {
		t.Errorf("an idle session holds buffers: %+v", s.in)
	}
}

// exchange sends messages of the sizes each way and compares.
func exchange(t *testing.T, w *wire, sizes ...int) {
	t.Helper()
	for _, size := range sizes {
		data := make([]byte, size)
		for i := range data {
			data[i] = byte(rand.Uint32())
		}
		for _, d := range [][2]*Session{{w.a, w.b}, {w.b, w.a}} {
			if n, err := d[0].Write(data); n != size || err != nil {
				t.Fatalf("write %d: %d, %v", size, n, err)
			}
			var got []byte
			scratch := make([]byte, 5000)
			for out := d[0].Outgoing(); len(out) > 0; out = d[0].Outgoing() {
				n := len(out)
				if w.chunk > 0 {
					n = min(n, w.chunk)
				}
				if err := d[1].Feed(out[:n]); err != nil {
					t.Fatal(err)
				}
				for {
					n, err := d[1].Read(scratch)
					got = append(got, scratch[:n]...)
					if err == ErrEmpty {
						break
					}
					if err != nil {
						t.Fatal(err)
					}
				}
				d[0].Sent(n)
			}
			if !bytes.Equal(got, data) {
				t.Fatalf("%d bytes arrived as %d, or others", size, len(got))
			}
		}
	}
}

func TestHoldLetsScratchBeReused(t *testing.T) {
	ca := newTestCA(t)
	w := join(client(ca.factory(t, alice), bob), ca.factory(t, bob).Server())
	w.mustShake(t)
	defer w.release()
	for range 3 {
		w.a.Write([]byte(strings.Repeat("x", 3000)))
	}
	scratch := bytes.Clone(w.a.Outgoing())
	w.b.Feed(scratch[:len(scratch)-10])
	var p [100]byte
	total, err := w.b.Read(p[:])
	if err != nil {
		t.Fatal(err)
	}
	w.b.Hold()
	tail := bytes.Clone(scratch[len(scratch)-10:])
	clear(scratch)
	w.b.Feed(tail)
	for {
		n, err := w.b.Read(p[:])
		if total += n; err == ErrEmpty {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if total != 9000 {
		t.Errorf("%d bytes, 9000 expected", total)
	}
	idle(t, w.b)
}

func TestWriteIsBounded(t *testing.T) {
	ca := newTestCA(t)
	w := join(client(ca.factory(t, alice), bob), ca.factory(t, bob).Server())
	w.mustShake(t)
	defer w.release()
	data := make([]byte, 1<<20)
	sent, got := 0, 0
	p := make([]byte, 32<<10)
	for sent < len(data) {
		n, err := w.a.Write(data[sent:])
		if sent += n; err != nil && err != ErrFull {
			t.Fatal(err)
		}
		if l := len(w.a.Outgoing()); l > maxBuffer {
			t.Fatalf("%d bytes to send", l)
		}
		part := min(len(w.a.Outgoing()), 10007) // partial writes
		if err := w.b.Feed(w.a.Outgoing()[:part]); err != nil {
			t.Fatal(err)
		}
		for {
			n, err := w.b.Read(p)
			got += n
			if err == ErrEmpty {
				break
			}
		}
		w.a.Sent(part)
		if cap(w.a.out.b) > maxBuffer {
			t.Fatalf("outgoing buffer of %d", cap(w.a.out.b))
		}
	}
	w.b.Feed(w.a.Outgoing())
	for {
		n, err := w.b.Read(p)
		if got += n; err == ErrEmpty {
			break
		}
	}
	if got != len(data) {
		t.Errorf("%d of %d bytes", got, len(data))
	}
}

func TestCloseNotifyIsHalfClose(t *testing.T) {
	ca := newTestCA(t)
	w := join(client(ca.factory(t, alice), bob), ca.factory(t, bob).Server())
	w.mustShake(t)
	defer w.release()
	w.a.Write([]byte("last words"))
	if err := errors.Join(w.a.Close(), w.a.Close()); err != nil {
		t.Fatal(err)
	}
	w.move(t, w.a, w.b)
	var p [100]byte
	if n, err := w.b.Read(p[:]); string(p[:n]) != "last words" || err != nil {
		t.Fatalf("%q, %v", p[:n], err)
	}
	for range 2 {
		if _, err := w.b.Read(p[:]); err != io.EOF {
			t.Fatalf("after close_notify: %v", err)
		}
	}
	if _, err := w.a.Write([]byte("x")); err == nil {
		t.Error("written after Close")
	}
	w.b.Write([]byte("answer"))
	w.move(t, w.b, w.a)
	if n, err := w.a.Read(p[:]); string(p[:n]) != "answer" || err != nil {
		t.Errorf("%q, %v", p[:n], err)
	}
}

func TestEarlyDataIsDrainedAfterHandover(t *testing.T) {
	// The client sends its request with its Finished, before the server's loop has
	// taken the session over.
	ca := newTestCA(t)
	w := join(client(ca.factory(t, alice), bob), ca.factory(t, bob).Server())
	defer w.release()
	w.a.Handshake(w.wake)
	w.b.Handshake(w.wake)
	for {
		st, err := w.a.Progress()
		if err != nil {
			t.Fatal(err)
		}
		if st == Established {
			break
		}
		if !w.move(t, w.a, w.b) && !w.move(t, w.b, w.a) {
			t.Fatal("stuck")
		}
	}
	w.a.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
	w.a.Close()
	w.move(t, w.a, w.b)
	w.b.End() // and the client has closed already
	if st, err := w.b.Progress(); st != Established {
		t.Fatal(st, err)
	}
	var p [100]byte
	if n, err := w.b.Read(p[:]); string(p[:n]) != "GET / HTTP/1.1\r\n\r\n" || err != nil {
		t.Fatalf("%q, %v", p[:n], err)
	}
	if _, err := w.b.Read(p[:]); err != io.EOF {
		t.Error(err)
	}
	for _, s := range []*Session{client(w.a.factory, bob), w.b.factory.Server()} { // an end too early
		s.Handshake(w.wake)
		s.End()
		if st, err := s.Progress(); st != Failed || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Error(st, err)
		}
		s.Release()
	}
}

func TestGarbageAndBounds(t *testing.T) {
	ca := newTestCA(t)
	f := ca.factory(t, bob)
	wake := func(s *Session) { t.Errorf("woken for %p, which reads no files", s) }

	t.Run("not TLS", func(t *testing.T) {
		s := f.Server()
		defer s.Release()
		s.Handshake(wake)
		if err := s.Feed([]byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n")); !errors.Is(err, ErrNotTLS) {
			t.Fatal(err)
		}
		if st, err := s.Progress(); st != Failed || !errors.Is(err, ErrNotTLS) {
			t.Errorf("%v, %v", st, err)
		}
	})
	t.Run("not a ClientHello", func(t *testing.T) {
		s := f.Server()
		defer s.Release()
		s.Handshake(wake)
		if err := s.Feed([]byte{22, 3, 3, 0, 4, 2, 0, 0, 0}); err != nil {
			t.Fatal(err)
		}
		if st, err := s.Progress(); st != Failed || err == nil || len(s.Outgoing()) == 0 {
			t.Errorf("%v, %v, and %d bytes of alert", st, err, len(s.Outgoing()))
		}
	})
	t.Run("enormous ClientHello", func(t *testing.T) {
		s := f.Server()
		defer s.Release()
		s.Handshake(wake)
		err := s.Feed([]byte{22, 3, 1, 0, 4, 1, 0, 0xff, 0xff})
		if st, perr := s.Progress(); !errors.Is(err, ErrHello) || st != Failed || !errors.Is(perr, ErrHello) {
			t.Errorf("%v, %v, %v", err, st, perr)
		}
	})
	t.Run("no room for crumbs", func(t *testing.T) {
		s := f.Server()
		defer s.Release()
		s.Handshake(wake)
		hello := []byte{22, 3, 1, 0, 1, 1, 22, 3, 1, 0, 3, 0, 0x3f, 0xff}
		err := s.Feed(hello)
		for err == nil && s.Room() > 0 {
			err = s.Feed([]byte{22, 3, 1, 0, 1, 9}[:min(6, s.Room())])
		}
		if !errors.Is(err, ErrHello) {
			t.Errorf("%v with room for %d", err, s.Room())
		}
		if f.Handshakes() != 0 {
			t.Error("a goroutine was started")
		}
	})
	t.Run("partial ClientHello starts nothing", func(t *testing.T) {
		s := f.Server()
		defer s.Release()
		s.Handshake(wake)
		for _, b := range []byte{22, 3, 1, 2, 0, 1, 0} {
			s.Feed([]byte{b})
		}
		if f.Handshakes() != 0 {
			t.Error("a goroutine was started")
		}
		cause := errors.New("timeout")
		s.Abort(cause)
		if st, err := s.Progress(); st != Failed || err != cause {
			t.Errorf("%v, %v", st, err)
		}
	})
	t.Run("before Established", func(t *testing.T) {
		s := f.Server()
		defer s.Release()
		if _, err := s.Read(nil); err == nil {
			t.Error("read")
		}
		if _, err := s.Write([]byte("x")); err == nil {
			t.Error("written")
		}
	})
	t.Run("oversized record", func(t *testing.T) {
		w := join(client(ca.factory(t, alice), bob), f.Server())
		w.mustShake(t)
		defer w.release()
		if err := w.b.Feed([]byte{23, 3, 3, 0xff, 0xff}); err != nil {
			t.Fatal(err)
		}
		var p [10]byte
		if _, err := w.b.Read(p[:]); err == nil || err == ErrEmpty {
			t.Errorf("%v", err)
		}
		if len(w.b.Outgoing()) == 0 {
			t.Error("no alert to send")
		}
	})
}

func TestAbortAndLimits(t *testing.T) {
	ca := newTestCA(t)
	src := ca.source(t, alice)
	f := NewFactory(src, Options{Pending: 2})
	wake := func(s *Session) { t.Errorf("woken for %p, which reads no files", s) }
	var all []*Session
	for range 2 { // they wait for silent servers
		s := client(f, bob)
		if s.Handshake(wake); len(s.Outgoing()) == 0 {
			t.Fatal("a client without a ClientHello")
		}
		all = append(all, s)
	}
	third := client(f, bob)
	third.Handshake(wake)
	if st, err := third.Progress(); st != Failed || !errors.Is(err, ErrBusy) {
		t.Errorf("third: %v, %v", st, err)
	}
	third.Release()
	cause := errors.New("timeout")
	for _, s := range all {
		s.Abort(cause)
		if st, err := s.Progress(); st != Failed || !errors.Is(err, cause) {
			t.Error(st, err)
		}
		s.Release()
		s.Release()
	}
	// Released while it runs: the coroutine ends (goleak looks).
	s := client(f, bob)
	s.Handshake(wake)
	s.Release()
	if f.Handshakes() != 0 {
		t.Errorf("%d handshakes after all ended", f.Handshakes())
	}
	if _, err := s.Read(nil); !errors.Is(err, ErrReleased) {
		t.Error(err)
	}
	empty := NewFactory(NewSource(SourceOptions{}), Options{})
	s = client(empty, bob)
	s.Handshake(wake)
	if st, err := s.Progress(); st != Failed || !errors.Is(err, ErrNoCertificate) {
		t.Errorf("without a certificate: %v, %v", st, err)
	}
}
