package mtls

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
)

var (
	// ErrEmpty says that no complete record is there to read: wait for more.
	ErrEmpty = errors.New("mtls: no complete record")
	// ErrFull says that a bound was met: Feed got more than Room, or Write more
	// than the outgoing buffer takes; send what Outgoing holds, then go on.
	ErrFull = errors.New("mtls: buffer full")
	// ErrBusy fails a handshake for which there was no room among those that run.
	ErrBusy = errors.New("mtls: too many handshakes at once")
	// ErrHello refuses a ClientHello that is larger than 16 KiB or cut into crumbs.
	ErrHello = errors.New("mtls: ClientHello too large")
	// ErrNotTLS refuses a connection whose first bytes begin no TLS handshake.
	ErrNotTLS = errors.New("mtls: the peer does not speak TLS")
	// ErrReleased answers whoever uses a session after Release.
	ErrReleased = errors.New("mtls: session released")
)

// State is where a session stands.
type State uint8

const (
	Handshaking State = iota
	Established
	Failed
)

// String returns the state's name for logs.
func (s State) String() string {
	switch s {
	case Established:
		return "established"
	case Failed:
		return "failed"
	default:
		return "handshaking"
	}
}

const (
	maxRecord = 1 << 14 // plaintext bytes in one record, RFC 8446 §5.1
	// maxOutgoing is where Write stops taking more; one record may follow it.
	maxOutgoing = 64 << 10
)

// Session is one TLS connection over memory. See the package's example of use.
// Its methods are for one goroutine at a time, the loop's.
type Session struct {
	Tag any // the loop's own

	factory *Factory
	client  *clientConfig // nil: a server
	tls     *tls.Conn
	wake    func(*Session)

	state State
	err   error
	in    inbox
	out   *buffer
	sent  int // bytes of out that are sent
	peer  *Peer
	alpn  string
	sni   string
	resum bool
	dry   bool // tls holds no plaintext
	live  bool // the handshake is over

	// The handshake: a coroutine, resumed by next; rest, within it, gives way.
	next    func() (struct{}, bool)
	stop    func()
	rest    func(struct{}) bool
	read    atomic.Pointer[prepared] // of an Origin
	started bool
	done    bool
	failure error
	aborted error
	ended   bool // the peer's stream has
	closed  bool // Release was called
}

// Room is how many bytes Feed takes now. At 0 the loop stops reading its socket
// until Progress or Read has made room.
func (s *Session) Room() int {
	if s.live {
		return max(0, roomOpen-s.in.unread())
	}
	return max(0, roomHandshake-s.in.unread())
}

// Feed hands ciphertext over. While the handshake runs it is copied; afterwards
// cipher is borrowed until Read has answered ErrEmpty or an error, or Hold was called.
// With an error nothing was taken, and the connection is to be closed.
func (s *Session) Feed(cipher []byte) error {
	if !s.live {
		return s.feedHandshake(cipher)
	}
	if len(cipher) > roomOpen-s.in.unread() {
		return ErrFull
	}
	s.in.feed(cipher)
	return nil
}

// Hold copies what is still borrowed, so that the caller may reuse its scratch
// and Read later.
func (s *Session) Hold() {
	if s.live {
		s.in.settle()
	}
}

// Read returns plaintext; ErrEmpty when no complete record is left, io.EOF after
// the peer's close_notify. The end of the TCP stream without io.EOF here is a cut.
// It may have made ciphertext (an answer to KeyUpdate, an alert): look at Outgoing.
// n > 0 comes without an error.
func (s *Session) Read(dst []byte) (int, error) {
	if !s.live {
		return 0, s.notLive()
	}
	if s.dry && s.in.ready == 0 {
		s.in.settle() // asking crypto/tls would allocate to say the same
		return 0, ErrEmpty
	}
	n, err := s.tls.Read(dst)
	// It takes one record at a time: if dst was not filled, nothing of it is left.
	s.dry = n < len(dst) && (err == nil || err == errEmptyConn)
	if n > 0 || err == nil {
		return n, nil // crypto/tls keeps an error and says it again
	}
	if err == errEmptyConn {
		s.in.settle()
		return 0, ErrEmpty
	}
	s.in.drop()
	if err == io.EOF {
		return 0, io.EOF
	}
	return 0, fmt.Errorf("mtls: read: %w", err)
}

// Write encrypts p into the outgoing buffer. With ErrFull only the first n bytes
// were taken: send what Outgoing holds, then write the rest.
func (s *Session) Write(p []byte) (n int, err error) {
	if !s.live {
		return 0, s.notLive()
	}
	for len(p) > 0 {
		if s.out != nil && len(s.out.b)-s.sent >= maxOutgoing {
			return n, ErrFull
		}
		w, err := s.tls.Write(p[:min(len(p), maxRecord)])
		n += w
		if err != nil {
			return n, fmt.Errorf("mtls: write: %w", err)
		}
		p = p[w:]
	}
	return n, nil
}

// Outgoing is the ciphertext to send; valid until the next call of a method.
func (s *Session) Outgoing() []byte {
	if s.out == nil {
		return nil
	}
	return s.out.b[s.sent:]
}

// Sent drops the first n bytes of Outgoing.
func (s *Session) Sent(n int) {
	if s.out == nil {
		return
	}
	if s.sent += n; s.sent >= len(s.out.b) {
		s.factory.pool.put(s.out)
		s.out, s.sent = nil, 0
	}
}

// Close writes close_notify to the outgoing buffer. It closes this direction only
// (RFC 8446 §6.1): reading goes on, writing does not. Calling it again does nothing.
func (s *Session) Close() error {
	if !s.live {
		return s.notLive()
	}
	if err := s.tls.CloseWrite(); err != nil {
		return fmt.Errorf("mtls: close: %w", err)
	}
	return nil
}

// Release gives every buffer back and ends a handshake that runs. wake may still
// come once if it was under way. Every later call finds an empty, dead session.
func (s *Session) Release() {
	if s.aborted == nil {
		s.aborted = ErrReleased
	}
	s.closed, s.live = true, false
	s.state, s.err = Failed, s.aborted
	if s.next != nil {
		if !s.done {
			s.stop()
		}
	} else if !s.done {
		s.fail(s.aborted)
	}
	s.next, s.stop, s.rest, s.tls = nil, nil, nil, nil
	s.in.drop()
	s.factory.pool.put(s.out)
	s.out, s.sent = nil, 0
}

// notLive is the error of a method that needs an established session.
func (s *Session) notLive() error {
	if s.state == Failed {
		return s.err
	}
	return errors.New("mtls: the handshake is not over")
}

// Kept is how many bytes the connection keeps for nothing while it is idle: the
// largest record that was read on it, whose buffer crypto/tls never gives back.
func (s *Session) Kept() int { return s.in.most }

// Holds is how many bytes of buffers the session has at the moment.
func (s *Session) Holds() (n int) {
	if s.out != nil {
		n += cap(s.out.b)
	}
	if s.in.held != nil {
		n += cap(s.in.held.b)
	}
	return n
}

// Peer returns the verified peer; nil before Established.
func (s *Session) Peer() *Peer { return s.peer }

// PeerID is Peer().ID, or "".
func (s *Session) PeerID() string {
	if s.peer == nil {
		return ""
	}
	return s.peer.ID
}

// ALPN is the protocol that was agreed, or "".
func (s *Session) ALPN() string { return s.alpn }

// SNI is the server name that the client sent.
func (s *Session) SNI() string { return s.sni }

// Resumed says whether the handshake resumed an earlier session.
func (s *Session) Resumed() bool { return s.resum }
