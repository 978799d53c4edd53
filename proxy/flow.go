//go:build linux

package proxy

import (
	"sync/atomic"
	"syscall"

	"github.com/seinemesh/seine/proxy/loop"
)

// flow is one direction of a relay.
type flow struct {
	moved, told int64 // bytes, and how many of them the metrics have heard of
	budget      int
	// pipe holds bytes on their way: no longer than the receiver lets them wait,
	// so that a quiet connection holds none. nil: none.
	pipe *loop.Pipe
	bulk bool // much comes at a time: bytes go through a pipe
	thin int  // how often in a row little came through it
}

const (
	pipeSize  = 256 << 10
	maxPipes  = 128 // for each loop, so that receivers that are slow pin at most 32 MiB of the kernel's
	keepPipes = 8
	thinPipe  = 8 << 10 // less than this is copied as cheaply
	thinTimes = 4
)

// pipes are one loop's, empty ones kept for the next use.
type pipes struct {
	off  bool
	free []*loop.Pipe
	// What others may read of them; the loop alone writes.
	open, spliced atomic.Int64 // pipes, bytes
}

// get is nil where there is no pipe to be had: the bytes are copied then.
func (p *pipes) get() *loop.Pipe {
	if n := len(p.free); n > 0 {
		q := p.free[n-1]
		p.free = p.free[:n-1]
		return q
	}
	if p.off || p.open.Load() >= maxPipes {
		return nil
	}
	q, err := loop.NewPipe(pipeSize)
	if err != nil {
		return nil
	}
	p.open.Add(1)
	return q
}

// put takes a pipe back. One that holds bytes that nobody will get is closed.
func (p *pipes) put(q *loop.Pipe) {
	if q.Held() > 0 || len(p.free) >= keepPipes {
		q.Close()
		p.open.Add(-1)
		return
	}
	p.free = append(p.free, q)
}

func (p *pipes) close() {
	for _, q := range p.free {
		q.Close()
		p.open.Add(-1)
	}
	p.free = nil
}

// splices reports whether the next bytes from src to dst go through a pipe:
// both are plain, much comes at a time, and nothing is between them in the
// process' memory.
func (f *flow) splices(src, dst *socket) bool {
	return f.pipe != nil || f.bulk && src.session == nil && dst.session == nil && len(src.data) == 0 && !dst.blocked()
}

// splice moves bytes from src to dst within the kernel; false: that is all for now.
func (f *flow) splice(w *worker, src, dst *socket) bool {
	if f.pipe == nil {
		if src.eof || src.err != nil || !src.readable {
			return false
		}
		if f.pipe = w.pipes.get(); f.pipe == nil {
			f.bulk = false
			return true
		}
		n, errno := f.pipe.Take(src.fd)
		if n == 0 {
			f.drop(w)
			switch {
			case errno == syscall.EAGAIN:
				src.readable = false
			case errno != 0:
				src.fail(errno)
			case src.lost == syscall.ECONNRESET: // as in fillPlain: no end of the peer's
				src.fail(src.lost)
			default:
				src.readable, src.eof, src.clean = false, true, true
			}
			return false
		}
		if n >= thinPipe {
			f.thin = 0
		} else if f.thin++; f.thin >= thinTimes {
			f.bulk, f.thin = false, 0
		}
	} else if !dst.writable {
		return false
	}
	n, errno := f.pipe.Give(dst.fd)
	switch {
	case errno == syscall.EAGAIN:
		dst.writable = false
		return false
	case errno != 0:
		dst.cannotSend(errno)
		f.drop(w)
		return false
	}
	f.moved += int64(n)
	f.budget -= n
	w.pipes.spliced.Add(int64(n))
	if f.pipe.Held() == 0 {
		f.drop(w)
	}
	return true
}

// copied notes n bytes that went by way of the process' memory.
func (f *flow) copied(n int) {
	f.moved += int64(n)
	f.budget -= n
	f.bulk = f.bulk || n == scratchSize
}

func (f *flow) drop(w *worker) {
	if f.pipe != nil {
		w.pipes.put(f.pipe)
		f.pipe = nil
	}
}
