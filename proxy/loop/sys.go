//go:build linux

package loop

import (
	"fmt"
	"net/netip"
	"syscall"
	"unsafe"
)

// The calls below are made on non-blocking descriptors only: they return at
// once, so the scheduler need not hear of them (RawSyscall).

// Read reads into b, which is not empty. 0 and no error is the end of the
// stream; EAGAIN means that there is nothing now.
func Read(fd int, b []byte) (int, syscall.Errno) {
	for {
		n, _, errno := syscall.RawSyscall(syscall.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
		if errno == syscall.EINTR {
			continue
		}
		if errno != 0 {
			return 0, errno
		}
		return int(n), 0
	}
}

// Write sends from b, which is not empty; it never raises SIGPIPE.
func Write(fd int, b []byte) (int, syscall.Errno) {
	for {
		n, _, errno := syscall.RawSyscall6(syscall.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), syscall.MSG_NOSIGNAL, 0, 0)
		if errno == syscall.EINTR {
			continue
		}
		if errno != 0 {
			return 0, errno
		}
		return int(n), 0
	}
}

// Writev sends a and then b, neither of which is empty.
func Writev(fd int, a, b []byte) (int, syscall.Errno) {
	iov := [2]syscall.Iovec{
		{Base: &a[0], Len: uint64(len(a))},
		{Base: &b[0], Len: uint64(len(b))},
	}
	for {
		n, _, errno := syscall.RawSyscall(syscall.SYS_WRITEV, uintptr(fd), uintptr(unsafe.Pointer(&iov[0])), 2)
		if errno == syscall.EINTR {
			continue
		}
		if errno != 0 {
			return 0, errno
		}
		return int(n), 0
	}
}

// Alive reports whether an idle connection has not been ended by its peer: the
// peek that a request which cannot be repeated makes before it trusts a kept
// connection.
func Alive(fd int) bool {
	var b [1]byte
	n, _, errno := syscall.RawSyscall6(syscall.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), 1, syscall.MSG_PEEK|syscall.MSG_DONTWAIT, 0, 0)
	return errno == syscall.EAGAIN || (errno == 0 && n > 0)
}

// Accept takes one connection from a non-blocking listener; the descriptor is
// non-blocking and closed on exec. EAGAIN means that there is none now.
func Accept(fd int) (int, syscall.Errno) {
	for {
		n, _, errno := syscall.RawSyscall6(syscall.SYS_ACCEPT4, uintptr(fd), 0, 0, syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0, 0)
		if errno == syscall.EINTR || errno == syscall.ECONNABORTED {
			continue
		}
		if errno != 0 {
			return -1, errno
		}
		return int(n), 0
	}
}

// Listen opens a non-blocking TCP listener. One on :: takes IPv4 too, and IPv4
// alone where the kernel has no IPv6.
func Listen(at netip.AddrPort) (int, error) {
	open := func() (int, error) {
		return syscall.Socket(family(at.Addr()), syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	}
	fd, err := open()
	if err == syscall.EAFNOSUPPORT && at.Addr() == netip.IPv6Unspecified() {
		at = netip.AddrPortFrom(netip.IPv4Unspecified(), at.Port())
		fd, err = open()
	}
	if err != nil {
		return -1, fmt.Errorf("listen on %v: socket: %w", at, err)
	}
	if at.Addr() == netip.IPv6Unspecified() {
		_ = syscall.SetsockoptInt(fd, syscall.IPPROTO_IPV6, syscall.IPV6_V6ONLY, 0)
	}
	if err = syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err == nil {
		if err = syscall.Bind(fd, Sockaddr(at)); err == nil {
			err = syscall.Listen(fd, 4096)
		}
	}
	if err != nil {
		_ = syscall.Close(fd)
		return -1, fmt.Errorf("listen on %v: %w", at, err)
	}
	return fd, nil
}

// Dial begins a connection and does not wait for it: the socket becomes
// writable when it is there, broken when it is not. A mark that is not 0 is
// set on the socket first (SO_MARK), so that the redirect rules leave it alone.
// A valid from is the source address.
func Dial(from netip.Addr, to netip.AddrPort, mark int) (int, error) {
	fd, err := syscall.Socket(family(to.Addr()), syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("connect to %v: socket: %w", to, err)
	}
	if mark != 0 {
		if err := syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_MARK, mark); err != nil {
			_ = syscall.Close(fd)
			return -1, fmt.Errorf("connect to %v: SO_MARK %d (needs CAP_NET_ADMIN): %w", to, mark, err)
		}
	}
	if from.IsValid() {
		if err := syscall.Bind(fd, Sockaddr(netip.AddrPortFrom(from, 0))); err != nil {
			_ = syscall.Close(fd)
			return -1, fmt.Errorf("connect from %v to %v: %w", from, to, err)
		}
	}
	NoDelay(fd)
	if err := syscall.Connect(fd, Sockaddr(to)); err != nil && err != syscall.EINPROGRESS {
		_ = syscall.Close(fd)
		return -1, fmt.Errorf("connect to %v: %w", to, err)
	}
	return fd, nil
}

// NoDelay sends small segments at once.
func NoDelay(fd int) { _ = syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1) }

// Reset makes the close that follows send a RST, so that the peer cannot take
// what it has got for the whole.
func Reset(fd int) {
	_ = syscall.SetsockoptLinger(fd, syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{Onoff: 1})
}

// ShutdownWrite ends the sending side.
func ShutdownWrite(fd int) {
	_, _, _ = syscall.RawSyscall(syscall.SYS_SHUTDOWN, uintptr(fd), syscall.SHUT_WR, 0)
}

// SocketError is the pending error of a socket (SO_ERROR), 0 if there is none.
func SocketError(fd int) syscall.Errno {
	n, err := syscall.GetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_ERROR)
	if err != nil {
		if e, ok := err.(syscall.Errno); ok {
			return e
		}
		return syscall.EBADF
	}
	return syscall.Errno(n)
}

// LocalAddr and RemoteAddr are a socket's two ends; zero if they are gone.
func LocalAddr(fd int) netip.AddrPort {
	sa, err := syscall.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}
	}
	return addrPort(sa)
}

func RemoteAddr(fd int) netip.AddrPort {
	sa, err := syscall.Getpeername(fd)
	if err != nil {
		return netip.AddrPort{}
	}
	return addrPort(sa)
}

func addrPort(sa syscall.Sockaddr) netip.AddrPort {
	switch a := sa.(type) {
	case *syscall.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *syscall.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	}
	return netip.AddrPort{}
}

// Sockaddr is the kernel's form of an address.
func Sockaddr(a netip.AddrPort) syscall.Sockaddr {
	if ip := a.Addr(); ip.Is4() || ip.Is4In6() {
		return &syscall.SockaddrInet4{Port: int(a.Port()), Addr: ip.Unmap().As4()}
	}
	return &syscall.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

func family(a netip.Addr) int {
	if a.Is4() || a.Is4In6() {
		return syscall.AF_INET
	}
	return syscall.AF_INET6
}

func closeFD(fd int) { _, _, _ = syscall.RawSyscall(syscall.SYS_CLOSE, uintptr(fd), 0, 0) }

// CloseFD closes a descriptor that no loop owns.
func CloseFD(fd int) { closeFD(fd) }

func eventfd() (int, error) {
	n, _, errno := syscall.RawSyscall(syscall.SYS_EVENTFD2, 0, syscall.O_CLOEXEC|syscall.O_NONBLOCK, 0)
	if errno != 0 {
		return -1, errno
	}
	return int(n), nil
}

func signalEventfd(fd int) {
	one := uint64(1)
	_, _, _ = syscall.RawSyscall(syscall.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&one)), 8)
}

func drainEventfd(fd int) {
	var n uint64
	_, _, _ = syscall.RawSyscall(syscall.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&n)), 8)
}
