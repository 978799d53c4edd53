package main

import (
	"bytes"
	"fmt"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// Paths that the backend knows; any other is answered with 1 KiB.
const (
	pathSmall    = "/"
	pathBody     = "/10m"      // 10 MiB
	pathTogether = "/together" // /together/N: answered once N such requests wait
	bodySize     = 10 << 20
)

// answer is what the backend says to an HTTP/1.1 request: 1 KiB of body.
func answer() []byte {
	body := content()
	return append(fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n", len(body)), body...)
}

func content() []byte { return bytes.Repeat([]byte("0123456789abcde\n"), 64) }

// server is the application behind the sidecars: one thread, one epoll, two
// system calls for each small request. It speaks HTTP/1.1, and HTTP/2 with
// prior knowledge; HTTP/1.1 requests have no body.
type server struct {
	epoll   int
	clients map[int]*client
	waiting []*client // of pathTogether
	one     []byte    // answers of HTTP/1.1
	many    []byte
	chunk   []byte // content of large answers
}

// client is one connection to the backend.
type client struct {
	fd    int
	head  headEnd
	h2    *frames // nil: HTTP/1.1
	seen  bool    // the first bytes have said which
	out   []byte  // to be written
	large int     // bytes of a large answer to be written after out
	armed bool    // for writing
}

// backend serves at addr until it is killed.
func backend(addr string) error {
	runtime.LockOSThread()
	listener, err := listen(addr)
	if err != nil {
		return err
	}
	s := &server{clients: map[int]*client{}, one: answer(), chunk: make([]byte, 256<<10)}
	s.many = bytes.Repeat(s.one, 16) // for pipelined requests
	if s.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return err
	}
	if err := watch(s.epoll, listener, unix.EPOLLIN); err != nil {
		return err
	}
	events := make([]unix.EpollEvent, 256)
	buf := make([]byte, 64<<10)
	for {
		n, err := unix.EpollWait(s.epoll, events, -1)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		for _, e := range events[:n] {
			if int(e.Fd) == listener {
				s.accept(listener)
				continue
			}
			c := s.clients[int(e.Fd)]
			if c == nil {
				continue
			}
			if e.Events&unix.EPOLLOUT != 0 && !s.flush(c) {
				continue
			}
			if e.Events&^unix.EPOLLOUT != 0 {
				s.read(c, buf)
			}
		}
	}
}

func (s *server) accept(listener int) {
	fd, _, err := unix.Accept4(listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
	if err != nil {
		return
	}
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	if watch(s.epoll, fd, unix.EPOLLIN) != nil {
		_ = unix.Close(fd)
		return
	}
	s.clients[fd] = &client{fd: fd}
}

func (s *server) close(c *client) {
	for i, w := range s.waiting {
		if w == c {
			s.waiting = append(s.waiting[:i], s.waiting[i+1:]...)
			break
		}
	}
	delete(s.clients, c.fd)
	_ = unix.Close(c.fd)
}

// read takes in what a client has sent and answers it.
func (s *server) read(c *client, buf []byte) {
	n, err := unix.Read(c.fd, buf)
	if err == unix.EAGAIN || err == unix.EINTR {
		return
	}
	if n <= 0 {
		s.close(c)
		return
	}
	b := buf[:n]
	if !c.seen {
		c.seen = true
		if bytes.HasPrefix(b, []byte("PRI ")) { // a preface arrives in one piece on loopback
			c.h2 = newFrames()
		}
	}
	if c.h2 != nil {
		if c.out, err = c.h2.take(c.out, b); err != nil {
			s.close(c)
			return
		}
		s.flush(c)
		return
	}
	heads := c.head.count(b)
	switch {
	case heads == 1 && bytes.HasPrefix(b, []byte("GET "+pathBody+" ")):
		c.out = fmt.Appendf(c.out, "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n", bodySize)
		c.large += bodySize
		s.flush(c)
		return
	case heads == 1 && bytes.HasPrefix(b, []byte("GET "+pathTogether+"/")):
		number, _, _ := bytes.Cut(b[len("GET "+pathTogether+"/"):], []byte(" "))
		s.together(c, string(number))
		return
	}
	for ; heads > 0; heads -= 16 {
		part := s.many[:min(heads, 16)*len(s.one)]
		if len(c.out) == 0 && c.large == 0 {
			w, err := unix.Write(c.fd, part)
			if err != nil && err != unix.EAGAIN {
				_ = unix.Shutdown(c.fd, unix.SHUT_RDWR)
				return
			}
			part = part[max(w, 0):]
		}
		c.out = append(c.out, part...)
	}
	if len(c.out) > 0 {
		s.flush(c)
	}
}

// together holds the answer back until so many wait for it.
func (s *server) together(c *client, number string) {
	want, err := strconv.Atoi(number)
	if err != nil {
		_ = unix.Shutdown(c.fd, unix.SHUT_RDWR)
		return
	}
	if s.waiting = append(s.waiting, c); len(s.waiting) < want {
		return
	}
	all := s.waiting
	s.waiting = nil
	for _, c := range all {
		c.out = append(c.out, s.one...)
		s.flush(c)
	}
}

// flush writes what there is; false if the connection has ended.
func (s *server) flush(c *client) bool {
	for len(c.out) > 0 || c.large > 0 {
		b := c.out
		if len(b) == 0 {
			b = s.chunk[:min(c.large, len(s.chunk))]
		}
		n, err := unix.Write(c.fd, b)
		switch {
		case err == unix.EAGAIN || err == unix.EINTR:
			if !c.armed {
				c.armed = true
				s.arm(c, unix.EPOLLIN|unix.EPOLLOUT)
			}
			return true
		case err != nil:
			s.close(c)
			return false
		case len(c.out) > 0:
			c.out = append(c.out[:0], c.out[n:]...)
		default:
			c.large -= n
		}
	}
	if c.armed {
		c.armed = false
		s.arm(c, unix.EPOLLIN)
	}
	return true
}

func (s *server) arm(c *client, events uint32) {
	_ = unix.EpollCtl(s.epoll, unix.EPOLL_CTL_MOD, c.fd, &unix.EpollEvent{Events: events, Fd: int32(c.fd)})
}

// headEnd finds the empty lines that end heads, over any cuts of the stream.
type headEnd struct{ state int }

func (h *headEnd) count(b []byte) (n int) {
	const end = "\r\n\r\n"
	if h.state == 0 && bytes.HasSuffix(b, []byte(end)) && bytes.Count(b, []byte(end)) == 1 {
		return 1
	}
	for _, c := range b {
		switch {
		case c == end[h.state]:
			h.state++
		case c == '\r':
			h.state = 1
		default:
			h.state = 0
		}
		if h.state == len(end) {
			h.state = 0
			n++
		}
	}
	return n
}

func listen(addr string) (int, error) {
	sa, err := sockaddr(addr)
	if err != nil {
		return -1, err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if err := unix.Bind(fd, sa); err != nil {
		return -1, fmt.Errorf("bind %s: %w", addr, err)
	}
	return fd, unix.Listen(fd, 4096)
}

func watch(epoll, fd int, events uint32) error {
	return unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)})
}
