//go:build linux

package loop

import (
	"syscall"
	"unsafe"
)

// Pipe is a kernel buffer through which bytes go from one socket to another
// without being copied into the process.
type Pipe struct {
	r, w int
	size int
	held int // bytes in it
}

const (
	fSetPipeSize     = 1031 // F_SETPIPE_SZ
	spliceMove       = 1    // SPLICE_F_MOVE
	spliceNonblock   = 2    // SPLICE_F_NONBLOCK
	defaultPipeBytes = 64 << 10
)

// NewPipe makes an empty pipe of about size bytes, or of what the kernel grants.
func NewPipe(size int) (*Pipe, error) {
	var fds [2]int
	if err := syscall.Pipe2(fds[:], syscall.O_CLOEXEC|syscall.O_NONBLOCK); err != nil {
		return nil, err
	}
	p := &Pipe{r: fds[0], w: fds[1], size: defaultPipeBytes}
	if n, _, errno := syscall.RawSyscall(syscall.SYS_FCNTL, uintptr(p.w), fSetPipeSize, uintptr(size)); errno == 0 {
		p.size = int(n)
	}
	return p, nil
}

// Held is how many bytes are in the pipe.
func (p *Pipe) Held() int { return p.held }

// Take moves what a socket has into the pipe, which is empty. 0 and no error is
// the end of the stream; EAGAIN means that there is nothing now.
func (p *Pipe) Take(fd int) (int, syscall.Errno) {
	n, errno := splice(fd, p.w, p.size)
	if errno == 0 {
		p.held += n
	}
	return n, errno
}

// Give moves what the pipe holds to a socket, as much as that takes.
func (p *Pipe) Give(fd int) (int, syscall.Errno) {
	n, errno := splice(p.r, fd, p.held)
	if errno == 0 {
		p.held -= n
	}
	return n, errno
}

// Close frees the pipe and what it holds.
func (p *Pipe) Close() {
	closeFD(p.r)
	closeFD(p.w)
}

// splice is splice(2). Both ends are non-blocking and nobody else uses the pipe.
func splice(from, to, most int) (int, syscall.Errno) {
	for {
		n, _, errno := syscall.RawSyscall6(syscall.SYS_SPLICE, uintptr(from), uintptr(unsafe.Pointer(nil)), uintptr(to), uintptr(unsafe.Pointer(nil)), uintptr(most), spliceMove|spliceNonblock)
		if errno == syscall.EINTR {
			continue
		}
		if errno != 0 {
			return 0, errno
		}
		return int(n), 0
	}
}
