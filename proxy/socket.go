//go:build linux

package proxy

import (
	"errors"
	"io"
	"syscall"

	"github.com/seinemesh/seine/mtls"
	"github.com/seinemesh/seine/proxy/loop"
)

// machine is the state machine that a socket's events drive.
type machine interface {
	// ready: something changed on one of the machine's sockets (data, room,
	// end, failure, a handshake that is over).
	ready()
}

// socket is one descriptor, plain or with a TLS session over it, as a stream
// of plaintext for its machine. It belongs to one loop.
//
// data is what has arrived and is not consumed yet. It lies in the loop's
// scratch memory until somebody else needs that (then it is moved to a pooled
// buffer), so a socket without unconsumed data holds no buffer.
//
// What send could not hand to the kernel is kept (held, or the session's
// outgoing buffer): then blocked says so and the machine must not send more
// until it is ready again. That is the whole of back-pressure: a side that is
// not blocked reads at most one scratch buffer from the other and passes it on.
type socket struct {
	w       *worker
	fd      int
	owner   machine
	session *mtls.Session // nil: plain

	data  []byte
	store []byte // the pooled buffer that data lies in; nil: scratch, or no data
	held  []byte // plain: pooled copy of bytes that the kernel has not taken
	sent  int    // of held

	readable    bool // the kernel may have bytes (or an end) for us
	writable    bool
	hup         bool // the peer has shut its sending side; there may be data before it
	eof         bool // everything was read
	clean       bool // eof came as the protocol wants it (close_notify)
	undrained   bool // the session may hold complete records
	handshaking bool
	begun       bool // the handshake has had its first turn
	waits       bool // among worker.shaking
	established bool
	finished    bool // our sending side is shut
	closed      bool
	err         error // fatal: reset, TLS alert, refused
	// lost is why sending failed. What the peer sent before may still be read.
	lost error
}

var errReset = errors.New("connection reset")

func (s *socket) open(w *worker, fd int, owner machine) error {
	s.w, s.fd, s.owner = w, fd, owner
	if w.sockets++; w.sockets == manySockets {
		w.weighLater()
	}
	if err := w.loop.Add(fd, s); err != nil {
		loop.CloseFD(fd)
		w.sockets--
		s.closed = true
		return err
	}
	return nil
}

// Ready is called by the loop.
func (s *socket) Ready(ev loop.Events) {
	if ev&(loop.Readable|loop.PeerClosed|loop.Broken) != 0 {
		s.readable = true
	}
	if ev&(loop.PeerClosed|loop.Broken) != 0 {
		s.hup = true
	}
	if ev&(loop.Writable|loop.Broken) != 0 {
		s.writable = true
	}
	if s.handshaking {
		if s.compute(); s.handshaking {
			return
		}
	} else if s.writable && s.blocked() {
		s.flush()
	}
	s.owner.ready()
}

// startTLS begins a handshake; the machine is made ready when it is over:
// established, or err. What has arrived already goes into it.
func (s *socket) startTLS(session *mtls.Session) {
	s.session = session
	s.handshaking = true
	session.Tag = s
	s.compute()
}

// shake moves a handshake on: bytes in, bytes out, and see whether it is over.
func (s *socket) shake() {
	for s.readable && s.err == nil {
		room := s.session.Room()
		if room == 0 {
			break
		}
		buf := s.w.lendCipher(nil)
		buf = buf[:min(len(buf), room)]
		n, errno := loop.Read(s.fd, buf)
		if errno == syscall.EAGAIN {
			s.readable = false
			break
		}
		if errno != 0 {
			s.readable = false
			s.eof = true
			s.session.Abort(errReset)
			break
		}
		if n == 0 { // the last flight, data and close_notify may stand before it
			s.readable = false
			s.eof = true
			s.session.End()
			break
		}
		if n < len(buf) && !s.hup {
			s.readable = false
		}
		if err := s.session.Feed(buf[:n]); err != nil {
			s.session.Abort(err)
			break
		}
	}
	state, err := s.session.Progress()
	s.flush()
	switch state {
	case mtls.Established:
		s.handshaking, s.established, s.undrained = false, true, true
		if s.eof { // the end came right behind the last flight
			s.eof, s.readable = false, true
		}
	case mtls.Failed:
		s.handshaking = false
		if err == nil {
			err = errReset
		}
		s.fail(err)
	}
}

// woken is the session's wake, on the loop.
func (s *socket) woken(session *mtls.Session) {
	if s.closed || s.session != session || !s.handshaking {
		return
	}
	if s.compute(); !s.handshaking {
		s.owner.ready()
	}
}

// fill makes more plaintext available in data, and reports whether there is
// something new: data, or the end, or a failure.
func (s *socket) fill() bool {
	if s.eof || s.err != nil || s.handshaking || !(s.readable || s.undrained) {
		return false
	}
	dst := s.room()
	if s.session == nil {
		return s.fillPlain(dst)
	}
	return s.fillTLS(dst)
}

// room returns free memory behind data, at least minRoom of it.
func (s *socket) room() []byte {
	const minRoom = 2 << 10
	w := s.w
	if len(s.data) == 0 {
		s.consume(0)
		w.lend(s)
		s.data = w.plain[:0]
		return w.plain
	}
	if cap(s.data)-len(s.data) >= minRoom {
		return s.data[len(s.data):cap(s.data)]
	}
	// Move to a buffer of its own with room for as much again.
	p := w.buffers.get(len(s.data) + max(minRoom, len(s.data)))
	p = append(p, s.data...)
	s.giveBack()
	s.store, s.data = p, p
	return s.data[len(s.data):cap(s.data)]
}

func (s *socket) fillPlain(dst []byte) bool {
	n, errno := loop.Read(s.fd, dst)
	switch {
	case errno == syscall.EAGAIN:
		s.readable = false
		s.tidy()
		return false
	case errno != 0:
		s.fail(errno)
		return true
	case n == 0 && s.lost == syscall.ECONNRESET:
		// The kernel says once that the peer has reset, and it said so to a write: this
		// is not the peer's end. (After its end a reset is EPIPE.)
		s.fail(s.lost)
		return true
	case n == 0:
		s.readable, s.eof, s.clean = false, true, true
		s.tidy()
		return true
	}
	if n < len(dst) && !s.hup {
		s.readable = false // a short read has emptied the socket; the next byte is an edge
	}
	s.data = s.data[:len(s.data)+n]
	return true
}

func (s *socket) fillTLS(dst []byte) bool {
	got := false
	for len(dst) > 0 {
		if s.undrained {
			n, err := s.session.Read(dst)
			if n > 0 {
				s.data = s.data[:len(s.data)+n]
				dst = dst[n:]
				got = true
			}
			if err == nil {
				continue
			}
			s.undrained = false
			if s.w.cipherHolder == s {
				s.w.cipherHolder = nil
			}
			if err != mtls.ErrEmpty {
				if err == io.EOF {
					s.eof, s.clean = true, true
				} else {
					s.fail(err)
				}
				got = true
				break
			}
		}
		if got || !s.readable {
			break
		}
		buf := s.w.lendCipher(s)
		buf = buf[:min(len(buf), s.session.Room())]
		if len(buf) == 0 {
			break
		}
		n, errno := loop.Read(s.fd, buf)
		if errno == syscall.EAGAIN {
			s.readable = false
			break
		}
		if errno != 0 {
			s.fail(errno)
			got = true
			break
		}
		if n == 0 {
			s.readable, s.eof = false, true
			got = true
			break
		}
		if n < len(buf) && !s.hup {
			s.readable = false
		}
		if err := s.session.Feed(buf[:n]); err != nil {
			s.fail(err)
			got = true
			break
		}
		s.undrained = true
	}
	if len(s.session.Outgoing()) > 0 { // a KeyUpdate or an alert that Read made
		s.flush()
	}
	s.tidy()
	return got
}

// tidy gives scratch memory back if nothing was put there.
func (s *socket) tidy() {
	if len(s.data) == 0 {
		s.consume(0)
	}
}

// consume drops the first n bytes of data.
func (s *socket) consume(n int) {
	s.data = s.data[n:]
	if len(s.data) == 0 {
		s.giveBack()
		s.data = nil
	}
}

func (s *socket) giveBack() {
	if s.store != nil {
		s.w.buffers.put(s.store[:0])
		s.store = nil
	} else if s.w.borrower == s {
		s.w.borrower = nil
	}
}

// settle moves unconsumed data out of the loop's scratch memory.
func (s *socket) settle() {
	if s.store != nil || s.w.borrower != s {
		return
	}
	s.w.borrower = nil
	if len(s.data) == 0 {
		s.data = nil
		return
	}
	s.store = append(s.w.buffers.get(len(s.data)), s.data...)
	s.data = s.store
}

// send takes a and then b, either of which may be empty. What the kernel does
// not take now is kept, and the socket is blocked.
func (s *socket) send(a, b []byte) {
	if s.err != nil || s.closed || s.finished {
		return
	}
	if s.session != nil {
		s.encrypt(a)
		s.encrypt(b)
		s.flush()
		return
	}
	if len(a) == 0 {
		a, b = b, nil
	}
	if len(a) == 0 {
		return
	}
	if s.held != nil {
		s.hold(a)
		s.hold(b)
		return
	}
	var n int
	var errno syscall.Errno
	if len(b) == 0 {
		n, errno = loop.Write(s.fd, a)
	} else {
		n, errno = loop.Writev(s.fd, a, b)
	}
	if errno == syscall.EAGAIN {
		n = 0
	} else if errno != 0 {
		s.cannotSend(errno)
		return
	}
	if n == len(a)+len(b) {
		return
	}
	s.writable = false
	if n < len(a) {
		s.hold(a[n:])
		n = 0
	} else {
		n -= len(a)
	}
	s.hold(b[n:])
}

// joins reports whether a head and the content behind it are better copied
// together than given to send one after the other: into one record of TLS, or
// where the content is short.
func (s *socket) joins(head, content int) bool {
	return content > 0 && (s.session != nil && head+content <= recordSize || content <= copyBelow)
}

func (s *socket) encrypt(p []byte) {
	for len(p) > 0 && s.err == nil {
		n, err := s.session.Write(p)
		p = p[n:]
		if err == mtls.ErrFull {
			if s.flush(); s.blocked() {
				// The session's bound is met and the kernel takes nothing:
				// cannot happen as long as a blocked socket is not sent to.
				s.fail(mtls.ErrFull)
			}
		} else if err != nil {
			s.fail(err)
		}
	}
}

func (s *socket) hold(p []byte) {
	if len(p) > 0 {
		s.held = s.w.buffers.append(s.held, p)
	}
}

// blocked reports whether the kernel has yet to take bytes that were sent.
func (s *socket) blocked() bool {
	return s.held != nil || (s.session != nil && s.established && len(s.session.Outgoing()) > 0)
}

// flush hands what is kept to the kernel.
func (s *socket) flush() {
	if s.err != nil && s.session == nil {
		return
	}
	for s.session != nil {
		out := s.session.Outgoing()
		if len(out) == 0 {
			return
		}
		n, errno := loop.Write(s.fd, out)
		if errno == syscall.EAGAIN {
			s.writable = false
			return
		}
		if errno != 0 {
			s.session.Sent(len(out))
			s.cannotSend(errno)
			return
		}
		s.session.Sent(n)
	}
	for s.held != nil {
		n, errno := loop.Write(s.fd, s.held[s.sent:])
		if errno == syscall.EAGAIN {
			s.writable = false
			return
		}
		if errno != 0 {
			s.cannotSend(errno)
			return
		}
		if s.sent += n; s.sent == len(s.held) {
			s.w.buffers.put(s.held[:0])
			s.held, s.sent = nil, 0
		}
	}
}

// cannotSend notes that the peer takes nothing more, and has the machine read
// what it said before.
func (s *socket) cannotSend(errno syscall.Errno) {
	if s.lost == nil {
		s.lost = errno
	}
	s.finished = true
	s.readable = !s.eof && s.err == nil
	if s.held != nil {
		s.w.buffers.put(s.held[:0])
		s.held, s.sent = nil, 0
	}
}

// fail records the first fatal error.
func (s *socket) fail(err error) {
	if s.err == nil {
		s.err = err
	}
	s.readable = false
	s.undrained = false
	s.tidy()
}

// finish shuts the sending side, once nothing is blocked.
func (s *socket) finish() {
	if s.finished || s.closed || s.err != nil {
		return
	}
	if s.session != nil {
		_ = s.session.Close()
		s.flush()
	}
	s.finished = true
	loop.ShutdownWrite(s.fd)
}

// close ends the connection in an orderly way; reset makes it unmistakably
// broken for the peer.
func (s *socket) close(reset bool) {
	if s.closed {
		return
	}
	if s.fd < 0 { // was never opened
		s.closed = true
		return
	}
	if s.session != nil {
		if !reset && s.established && s.err == nil && !s.finished {
			_ = s.session.Close()
			s.flush()
		}
		s.session.Release()
		s.session = nil
	}
	if s.w.cipherHolder == s {
		s.w.cipherHolder = nil
	}
	s.consume(len(s.data))
	if s.held != nil {
		s.w.buffers.put(s.held[:0])
		s.held, s.sent = nil, 0
	}
	if reset {
		loop.Reset(s.fd)
	}
	s.closed = true
	s.w.sockets--
	s.w.loop.Close(s.fd)
}
