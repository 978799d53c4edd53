package mtls

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"time"
)

// Handshake begins. wake is called by any goroutine, at most once between two
// calls of Progress, when Progress or Outgoing has something new; by the caller's
// own as well, out of Handshake or Feed, if the handshake could not start. A
// server's goroutine starts when Feed has brought a whole ClientHello.
// Call it once.
func (s *Session) Handshake(wake func(*Session)) {
	s.wake = wake
	if s.client != nil {
		s.start()
	}
}

// Progress reports where the handshake stands; err is set with Failed. Once it
// has said Established the session belongs to the caller alone, without a lock.
func (s *Session) Progress() (State, error) {
	if s.state != Handshaking {
		return s.state, s.err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.woken = false
	if !s.done {
		return Handshaking, nil
	}
	if s.failure == nil {
		s.failure = s.aborted // Abort came after the goroutine had ended well
	}
	if s.failure != nil {
		s.state, s.err = Failed, s.failure
		return s.state, s.err
	}
	if s.out != nil && s.pending != nil {
		if len(s.out.b)+len(s.pending.b) > maxBuffer {
			s.state, s.err = Failed, ErrFull
			return s.state, s.err
		}
		s.out = s.factory.pool.add(s.out, s.pending.b)
		s.factory.pool.put(s.pending)
	} else if s.out == nil {
		s.out = s.pending
	}
	s.pending = nil
	s.state, s.live = Established, true
	s.peer, s.alpn, s.sni, s.resum = s.result.peer, s.result.alpn, s.result.sni, s.result.resumed
	return s.state, nil
}

// Abort ends a handshake that runs (timeout, peer gone): Progress fails with
// cause, at once or when wake has come. It does nothing to an established session.
func (s *Session) Abort(cause error) {
	if s.state != Handshaking {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.aborted == nil {
		s.aborted = cause
	}
	if !s.started && !s.done {
		s.done, s.failure = true, cause
	}
	s.more.Broadcast()
}

// End says that the peer's stream has ended. A handshake that runs goes on with
// what was fed, as the end may stand right behind the last flight (and a short
// request with its close_notify); if it needs more, it fails with io.ErrUnexpectedEOF.
func (s *Session) End() {
	if s.state != Handshaking {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	if !s.started && !s.done {
		s.done, s.failure = true, errEnded
	}
	s.more.Broadcast()
}

// feedHandshake is Feed before the session is live.
func (s *Session) feedHandshake(cipher []byte) error {
	if s.state == Failed {
		return s.err
	}
	s.mu.Lock()
	if len(cipher) > roomHandshake-s.in.unread() {
		s.mu.Unlock()
		return ErrFull
	}
	before := s.in.ready
	s.in.feed(cipher)
	s.in.settle()
	grown := s.in.ready > before
	waiting := s.client == nil && !s.started && !s.done
	what := helloPartial
	if waiting {
		switch {
		case !startsHello(s.in.held):
			what = helloNever
		case grown:
			what = hello(s.in.held.b[s.in.off : s.in.off+s.in.ready])
		}
		if what == helloPartial && s.in.unread() == roomHandshake {
			what = helloTooLarge
		}
	}
	if grown {
		s.more.Broadcast()
	}
	s.mu.Unlock()
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

// start runs the handshake in a goroutine, if there is room for one.
func (s *Session) start() {
	s.mu.Lock()
	if s.started || s.done {
		s.mu.Unlock()
		return
	}
	err := s.factory.admit()
	if err == nil {
		err = s.open()
		if err != nil {
			s.factory.leave()
		}
	}
	if err == nil {
		s.started = true
		s.mu.Unlock()
		go s.run()
		return
	}
	s.done, s.failure = true, err
	call := s.ring()
	s.mu.Unlock()
	if call {
		s.wake(s)
	}
}

// open makes the tls.Conn from the certificate of this moment.
func (s *Session) open() error {
	if s.client != nil && s.client.origin != nil {
		return nil // shake does it: it reads files
	}
	g, err := s.factory.current()
	if err != nil {
		return err
	}
	if s.client != nil {
		s.tls = tls.Client((*memory)(s), g.client(s.client))
	} else {
		s.tls = tls.Server((*memory)(s), g.server)
	}
	return nil
}

// ring says whether wake is to be called; mu is held.
func (s *Session) ring() bool {
	if s.woken || s.closed || s.wake == nil {
		return false
	}
	s.woken = true
	return true
}

// run is the handshake's goroutine.
func (s *Session) run() {
	s.factory.acquire()
	r, err := s.shake()
	s.factory.yield()
	s.factory.leave()

	s.mu.Lock()
	if err == nil { // else it says more than that the peer has gone since
		err = s.aborted
	}
	s.done, s.failure, s.result = true, err, r
	if s.closed {
		s.tls = nil
	}
	call := s.ring()
	s.mu.Unlock()
	if call {
		s.wake(s)
	}
}

// shake runs crypto/tls and reads off what the loop wants to know of the peer.
func (s *Session) shake() (result, error) {
	conn := s.tls // start wrote it before this goroutine; Release leaves it while we run
	if s.client != nil && s.client.origin != nil {
		config, err := s.factory.outside.config(s.client, time.Now())
		if err != nil {
			return result{}, err
		}
		conn = tls.Client((*memory)(s), config)
		s.mu.Lock()
		s.tls = conn
		s.mu.Unlock()
	}
	if err := conn.Handshake(); err != nil {
		return result{}, fmt.Errorf("mtls: handshake: %w", err)
	}
	state := conn.ConnectionState()
	if s.client != nil && s.client.origin != nil {
		return result{alpn: state.NegotiatedProtocol, sni: state.ServerName, resumed: state.DidResume}, nil
	}
	peer, err := newPeer(state.PeerCertificates[0], s.factory.src.id())
	if err != nil {
		return result{}, fmt.Errorf("mtls: handshake: %w", err)
	}
	return result{peer: peer, alpn: state.NegotiatedProtocol, sni: state.ServerName, resumed: state.DidResume}, nil
}

// errEnded wraps, as crypto/tls takes a bare io.ErrUnexpectedEOF for io.EOF.
var errEnded = fmt.Errorf("mtls: the peer closed during the handshake: %w", io.ErrUnexpectedEOF)

// memory is a Session as the net.Conn below its tls.Conn. While the handshake
// runs, its goroutine reads and writes here and waits for the loop; afterwards the
// loop does, nothing waits and no lock is taken.
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
	m.mu.Lock()
	defer m.mu.Unlock()
	for m.in.ready == 0 || m.aborted != nil {
		if m.aborted != nil {
			return 0, m.aborted
		}
		if m.ended {
			return 0, errEnded
		}
		// Who waits for the network must not hold a place among those that compute:
		// silent peers would keep the others out.
		m.factory.yield()
		for m.in.ready == 0 && m.aborted == nil && !m.ended {
			m.more.Wait()
		}
		m.mu.Unlock()
		m.factory.acquire()
		m.mu.Lock()
	}
	return m.in.take(p), nil
}

func (m *memory) Write(p []byte) (int, error) {
	if m.live {
		return m.collect(p)
	}
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return 0, m.aborted
	}
	if m.pending != nil && len(m.pending.b)+len(p) > maxBuffer {
		m.mu.Unlock()
		return 0, ErrFull
	}
	m.pending = m.factory.pool.add(m.pending, p)
	s := (*Session)(m)
	call := s.ring()
	m.mu.Unlock()
	if call {
		s.wake(s)
	}
	return len(p), nil
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
