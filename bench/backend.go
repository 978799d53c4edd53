package main

import (
	"bytes"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// answer is what the backend says to every request: 1 KiB of body.
func answer() []byte {
	body := bytes.Repeat([]byte("0123456789abcde\n"), 64)
	return append(fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n", len(body)), body...)
}

// backend answers every request head that arrives at addr with the same
// 1 KiB: one thread, one epoll, two system calls for each request. Requests
// have no body. It runs until it is killed.
func backend(addr string) error {
	runtime.LockOSThread()
	listener, err := listen(addr)
	if err != nil {
		return err
	}
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return err
	}
	if err := watch(epoll, listener, unix.EPOLLIN); err != nil {
		return err
	}
	one := answer()
	many := bytes.Repeat(one, 16) // for pipelined requests
	ends := map[int]*headEnd{}
	events := make([]unix.EpollEvent, 256)
	buf := make([]byte, 64<<10)
	for {
		n, err := unix.EpollWait(epoll, events, -1)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		for _, e := range events[:n] {
			fd := int(e.Fd)
			if fd == listener {
				c, _, err := unix.Accept4(listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
				if err != nil {
					continue
				}
				_ = unix.SetsockoptInt(c, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
				ends[c] = &headEnd{}
				if watch(epoll, c, unix.EPOLLIN) != nil {
					_ = unix.Close(c)
				}
				continue
			}
			got, err := unix.Read(fd, buf)
			if err == unix.EAGAIN || err == unix.EINTR {
				continue
			}
			if got <= 0 {
				delete(ends, fd)
				_ = unix.Close(fd)
				continue
			}
			for heads := ends[fd].count(buf[:got]); heads > 0; heads -= 16 {
				if w, err := unix.Write(fd, many[:min(heads, 16)*len(one)]); err != nil || w != min(heads, 16)*len(one) {
					_ = unix.Shutdown(fd, unix.SHUT_RDWR)
					break
				}
			}
		}
	}
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
