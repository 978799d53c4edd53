package mtls

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"iter"
	"net"
	"time"
)

// Handshake begins. It computes on the caller's own goroutine, within Handshake, Feed,
// End, Abort and Progress, some 0.2 ms at a time, whenever whole records are there:
// look at Outgoing and Progress after each of them. A server's begins when Feed has
// brought a whole ClientHello. Only what reads files (Originate) runs elsewhere first:
// wake is then called once, by another goroutine, when Progress can go on with it.
// Call it once.
func (s *Session) Handshake(wake func(*Session)) {
	s.wake = wake
	if s.client != nil {
		s.start()
	}
}

// Progress reports where the handshake stands; err is set with Failed.
func (s *Session) Progress() (State, error) {
	if s.state != Handshaking {
		return s.state, s.err
	}
	if r := s.read.Load(); r != nil && s.next == nil && !s.done {
		if r.err != nil {
			s.fail(r.err)
		} else {
			s.tls = tls.Client((*memory)(s), r.config)
			s.run()
		}
	}
	if !s.done {
		return Handshaking, nil
	}
	if s.failure == nil {
		s.failure = s.aborted // Abort came after it had ended well
	}
	if s.failure != nil {
		s.state, s.err = Failed, s.failure
		return s.state, s.err
	}
	s.state, s.live = Established, true
	return s.state, nil
}

// Abort ends a handshake that runs (timeout, peer gone): Progress fails with
// cause. It does nothing to an established session.
func (s *Session) Abort(cause error) {
	if s.state != Handshaking || s.aborted != nil {
		return
	}
	s.aborted = cause
	if s.next == nil && !s.done {
		s.fail(cause)
	}
	s.advance()
}

// End says that the peer's stream has ended. A handshake that runs goes on with
// what was fed, as the end may stand right behind the last flight (and a short
// request with its close_notify); if it needs more, it fails with io.ErrUnexpectedEOF.
func (s *Session) End() {
	if s.state != Handshaking {
		return
	}
	s.ended = true
	if s.next == nil && !s.started && !s.done {
		s.fail(errEnded)
	}
	s.advance()
}

// feedHandshake is Feed before the session is live.
func (s *Session) feedHandshake(cipher []byte) error {
	if s.state == Failed {
		return s.err
	}
	if len(cipher) > roomHandshake-s.in.unread() {
		return ErrFull
	}
	before := s.in.ready
	s.in.feed(cipher)
	s.in.settle()
	grown := s.in.ready > before
	if s.client != nil || s.started || s.done {
		s.advance()
		return nil
	}
	what := helloPartial
	switch {
	case !startsHello(s.in.held):
		what = helloNever
	case grown:
		what = hello(s.in.held.b[s.in.off : s.in.off+s.in.ready])
	}
	if what == helloPartial && s.in.unread() == roomHandshake {
		what = helloTooLarge
	}
	switch what {
	case helloNever:
		s.Abort(ErrNotTLS)
		return ErrNotTLS
	case helloTooLarge:
		s.Abort(ErrHello)
		return ErrHello
	case helloWhole:
		s.start()
	}
	return nil
}

// fail ends a handshake before crypto/tls has it.
func (s *Session) fail(err error) {
	s.done, s.failure = true, err
	if s.started {
		s.factory.leave()
	}
}

// start begins the handshake, if there is room for one.
func (s *Session) start() {
	if s.started || s.done {
		return
	}
	if err := s.factory.admit(); err != nil {
		s.fail(err)
		return
	}
	s.started = true
	if s.client != nil && s.client.origin != nil {
		go s.prepare()
		return
	}
	g, err := s.factory.current()
	if err != nil {
		s.fail(err)
		return
	}
	if s.client != nil {
		s.tls = tls.Client((*memory)(s), g.client(s.client))
	} else {
		s.tls = tls.Server((*memory)(s), g.server)
	}
	s.run()
}

// prepared is an Origin's configuration as its files are now.
type prepared struct {
	config *tls.Config
	err    error
}

// prepare reads an Origin's files, in a goroutine of its own.
func (s *Session) prepare() {
	config, err := s.factory.outside.config(s.client, time.Now())
	s.read.Store(&prepared{config, err})
	s.wake(s)
}

// run begins crypto/tls's handshake as a coroutine of whoever calls: it needs no
// other thread, and so no lock and no wake-up. Between two flights it rests in
// memory.Read.
func (s *Session) run() {
	s.next, s.stop = iter.Pull(func(rest func(struct{}) bool) {
		s.rest = rest
		err := s.shake()
		if err == nil { // else it says more than that the peer has gone since
			err = s.aborted
		}
		s.done, s.failure = true, err
		s.factory.leave()
	})
	s.next()
}

// advance lets a handshake that rests go on, if there is anything new for it.
func (s *Session) advance() {
	if s.next != nil && !s.done && (s.in.ready > 0 || s.ended || s.aborted != nil) {
		s.next()
	}
}

// shake runs crypto/tls and reads off what the loop wants to know of the peer.
func (s *Session) shake() error {
	if err := s.tls.Handshake(); err != nil {
		return fmt.Errorf("mtls: handshake: %w", err)
	}
	state := s.tls.ConnectionState()
	s.alpn, s.sni, s.resum = state.NegotiatedProtocol, state.ServerName, state.DidResume
	if s.client != nil && s.client.origin != nil {
		return nil
	}
	usage := x509.ExtKeyUsageClientAuth
	if s.client != nil {
		usage = x509.ExtKeyUsageServerAuth
	}
	peer, err := s.factory.src.peer(state.PeerCertificates, usage)
	if err != nil {
		return fmt.Errorf("mtls: handshake: %w", err)
	}
	s.peer = peer
	return nil
}

// errEnded wraps, as crypto/tls takes a bare io.ErrUnexpectedEOF for io.EOF.
var errEnded = fmt.Errorf("mtls: the peer closed during the handshake: %w", io.ErrUnexpectedEOF)

// memory is a Session as the net.Conn below its tls.Conn. While the handshake
// runs, who reads gives way to the loop until there is something to read; afterwards
// the loop itself reads, and nothing waits.
type memory Session

// emptyConn is what an empty connection answers. It must be a net.Error that is
// Temporary: any other error is kept by tls.Conn, which then never reads again.
type emptyConn struct{}

func (emptyConn) Error() string   { return "mtls: memory connection empty" }
func (emptyConn) Timeout() bool   { return true }
func (emptyConn) Temporary() bool { return true }

var errEmptyConn error = emptyConn{}

func (m *memory) Read(p []byte) (int, error) {
	if m.live {
		if n := m.in.take(p); n > 0 {
			return n, nil
		}
		return 0, errEmptyConn
	}
	for m.in.ready == 0 || m.aborted != nil {
		if m.aborted != nil {
			return 0, m.aborted
		}
		if m.ended {
			return 0, errEnded
		}
		if !m.rest(struct{}{}) {
			return 0, ErrReleased
		}
	}
	return m.in.take(p), nil
}

func (m *memory) Write(p []byte) (int, error) {
	if m.closed {
		return 0, m.aborted
	}
	return m.collect(p)
}

// collect appends p to what the loop will send. The bound is above what Write
// fills: it is met only by a peer that asks for answers (KeyUpdate) and reads none.
func (m *memory) collect(p []byte) (int, error) {
	if m.out != nil {
		if len(m.out.b)-m.sent+len(p) > maxBuffer {
			return 0, ErrFull
		}
		if m.sent > 0 && len(m.out.b)+len(p) > cap(m.out.b) {
			n := copy(m.out.b, m.out.b[m.sent:])
			m.out.b, m.sent = m.out.b[:n], 0
		}
	}
	m.out = m.factory.pool.add(m.out, p)
	return len(p), nil
}

// The rest of net.Conn: there is nothing to close and no deadline; the loop's
// timers bound everything.

func (m *memory) Close() error                     { return nil }
func (m *memory) LocalAddr() net.Addr              { return memoryAddr{} }
func (m *memory) RemoteAddr() net.Addr             { return memoryAddr{} }
func (m *memory) SetDeadline(time.Time) error      { return nil }
func (m *memory) SetReadDeadline(time.Time) error  { return nil }
func (m *memory) SetWriteDeadline(time.Time) error { return nil }

type memoryAddr struct{}

func (memoryAddr) Network() string { return "memory" }
func (memoryAddr) String() string  { return "memory" }
