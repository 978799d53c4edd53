//go:build linux

// Package loop is an event loop over edge-triggered epoll: one goroutine that
// owns descriptors, timers and a mailbox, and runs the handlers of whatever
// became ready, one after the other, to completion.
//
// What enters: readiness from the kernel, and functions posted by other
// goroutines. What leaves: calls of Handler.Ready, Timer functions and posted
// functions, all on the loop's own goroutine. Nothing here blocks but
// epoll_wait, allocates in the steady state, or knows what the bytes mean.
//
// Everything but Post, Count, Stop and Done is for the loop's goroutine alone.
package loop

import (
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// Events are the kernel's, as epoll reports them.
type Events uint32

const (
	Readable Events = syscall.EPOLLIN
	Writable Events = syscall.EPOLLOUT
	// PeerClosed means that the peer has shut its sending side: once the
	// data before it is read, a read gives 0.
	PeerClosed Events = syscall.EPOLLRDHUP
	// Broken means that the connection is dead in both directions.
	Broken Events = syscall.EPOLLERR | syscall.EPOLLHUP
)

const edges = syscall.EPOLLIN | syscall.EPOLLOUT | syscall.EPOLLRDHUP | (syscall.EPOLLET & 0xffffffff)

// Handler owns a descriptor. Ready is called when an edge arrived: the handler
// reads until the kernel has nothing more or remembers that it did not.
type Handler interface {
	Ready(ev Events)
}

// Task is work that a handler put off to the next turn, so that one busy
// connection does not keep the others waiting.
type Task interface {
	Resume()
}

// slot is one descriptor's entry. The generation tells an event for a closed
// descriptor from one for the next holder of its number within one batch.
type slot struct {
	handler    Handler
	generation int32
}

// Loop is one event loop. Make it with New, run it with Run.
type Loop struct {
	epoll, wake int
	slots       []slot
	generation  int32
	events      [256]syscall.EpollEvent

	now     int64 // nanoseconds since start, taken once for each batch
	start   time.Time
	timers  timers
	yielded int64

	queue, spare []Task // put off to the next turn
	turns        uint64
	mail         mailbox

	count   atomic.Int64 // descriptors that count as connections, for balancing
	stopped bool
	done    chan struct{}
	stats   Stats
	atEnd   func() // ends each turn; nil: nothing
}

// Stats count what a loop did; read by anyone.
type Stats struct {
	Turns, Events, Waits atomic.Uint64
}

// New makes a loop; it holds two descriptors until Run returns or Discard.
func New() (*Loop, error) {
	ep, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("loop: epoll_create1: %w", err)
	}
	wake, err := eventfd()
	if err != nil {
		_ = syscall.Close(ep)
		return nil, fmt.Errorf("loop: eventfd: %w", err)
	}
	l := &Loop{epoll: ep, wake: wake, start: time.Now(), done: make(chan struct{})}
	ev := syscall.EpollEvent{Events: edges, Fd: int32(wake), Pad: -1}
	if err := syscall.EpollCtl(ep, syscall.EPOLL_CTL_ADD, wake, &ev); err != nil {
		l.Discard()
		return nil, fmt.Errorf("loop: epoll_ctl: %w", err)
	}
	return l, nil
}

// Discard frees a loop that was never run.
func (l *Loop) Discard() {
	_ = syscall.Close(l.epoll)
	_ = syscall.Close(l.wake)
}

// Now is the loop's clock: nanoseconds since the loop was made, monotonic, as
// of the start of this batch.
func (l *Loop) Now() int64 { return l.now }

// Clock reads the clock afresh, on the scale of Now.
func (l *Loop) Clock() int64 { return int64(time.Since(l.start)) }

// Wall turns an instant of Now's scale into a time of day.
func (l *Loop) Wall(t int64) time.Time { return l.start.Add(time.Duration(t)) }

// Count is the number of connections that the loop has been given and has not
// closed. Any goroutine may read it.
func (l *Loop) Count() int64 { return l.count.Load() }

// Stats are the loop's counters.
func (l *Loop) Stats() *Stats { return &l.stats }

// Reserve counts n more connections as this loop's, before they arrive. Any
// goroutine may call it.
func (l *Loop) Reserve(n int64) { l.count.Add(n) }

// Add takes the descriptor over: h hears of every edge from now on, beginning
// with the current state. Close ends that.
func (l *Loop) Add(fd int, h Handler) error {
	for fd >= len(l.slots) {
		l.slots = append(l.slots, make([]slot, max(64, len(l.slots)))...)
	}
	l.generation = (l.generation + 1) & 0x3fffffff
	l.slots[fd] = slot{h, l.generation}
	ev := syscall.EpollEvent{Events: edges, Fd: int32(fd), Pad: l.generation}
	if err := syscall.EpollCtl(l.epoll, syscall.EPOLL_CTL_ADD, fd, &ev); err != nil {
		l.slots[fd] = slot{}
		return fmt.Errorf("loop: epoll_ctl: %w", err)
	}
	return nil
}

// Replace gives the descriptor's events to another handler.
func (l *Loop) Replace(fd int, h Handler) { l.slots[fd].handler = h }

// Close forgets the descriptor and closes it.
func (l *Loop) Close(fd int) {
	l.slots[fd] = slot{}
	closeFD(fd) // epoll forgets a closed descriptor by itself: nobody duplicates ours
}

// Release forgets the descriptor without closing it.
func (l *Loop) Release(fd int) {
	l.slots[fd] = slot{}
	_ = syscall.EpollCtl(l.epoll, syscall.EPOLL_CTL_DEL, fd, nil)
}

// Turn numbers the present batch of events.
func (l *Loop) Turn() uint64 { return l.turns }

// Later runs t.Resume in the next turn, after that turn's events; the loop does
// not wait for any.
// A task must not be queued twice: the caller keeps a mark.
func (l *Loop) Later(t Task) { l.queue = append(l.queue, t) }

// AtEnd has f called at the end of every turn, when all of its events and tasks
// are done. It is set before Run.
func (l *Loop) AtEnd(f func()) { l.atEnd = f }

// Stop makes Run return after the current turn. Any goroutine may call it.
func (l *Loop) Stop() { l.Post(func() { l.stopped = true }) }

// Done is closed when Run has returned.
func (l *Loop) Done() <-chan struct{} { return l.done }

// Run serves until Stop, on the calling goroutine. What the handlers own stays
// open: the caller closes it before Stop, or the process ends.
//
// The goroutine is not locked to a thread. The kernel sees one thread for each
// busy loop anyway, and a locked goroutine pays for every time-slice that Go's
// scheduler takes from it with a hand-over between threads.
func (l *Loop) Run() error {
	defer close(l.done)
	defer l.Discard()
	defer l.mail.close()
	l.now = l.Clock()
	busy := false
	for !l.stopped {
		n, err := l.wait(busy)
		if err != nil {
			return err
		}
		busy = n > 1
		l.turn(n)
	}
	return nil
}

// yieldEvery is how often a loop that is about to wait goes through Go's
// scheduler. A goroutine that never does looks to the runtime's monitor as if
// it had run for longer than its slice of 10 ms: it takes the loop's P away in
// every epoll_wait and polls each 20 µs meanwhile. At 1,000 requests per second
// that was a third of the CPU of a pair of sidecars.
const yieldEvery = 9 * millisecond

// wait waits for events, the next timer, or no time at all if work is queued.
// A loop that had several events a moment ago likely has more: it asks without
// leaving its P to others first, and only then waits.
func (l *Loop) wait(busy bool) (int, error) {
	timeout := l.timers.wait(l.now)
	if len(l.queue) > 0 {
		timeout = 0
	}
	if busy || timeout == 0 {
		n, errno := l.epollWait(syscall.RawSyscall6, 0)
		if n > 0 || (timeout == 0 && errno == 0) {
			return n, nil
		}
	}
	if timeout > 0 || len(l.timers.heap) > 0 {
		// Time has passed since the batch began: do not oversleep.
		if timeout = l.timers.wait(l.Clock()); len(l.queue) > 0 {
			timeout = 0
		}
	}
	if l.now-l.yielded > yieldEvery {
		l.yielded = l.now
		runtime.Gosched()
	}
	l.stats.Waits.Add(1)
	n, errno := l.epollWait(syscall.Syscall6, timeout)
	if errno != 0 && errno != syscall.EINTR {
		return 0, fmt.Errorf("loop: epoll_wait: %w", errno)
	}
	return n, nil
}

type syscall6 func(trap, a1, a2, a3, a4, a5, a6 uintptr) (r1, r2 uintptr, err syscall.Errno)

func (l *Loop) epollWait(call syscall6, timeout int) (int, syscall.Errno) {
	n, _, errno := call(syscall.SYS_EPOLL_PWAIT, uintptr(l.epoll),
		uintptr(unsafe.Pointer(&l.events[0])), uintptr(len(l.events)), uintptr(timeout), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

// turn runs one batch: the events, then the mail, the timers, and what was put off.
func (l *Loop) turn(n int) {
	l.now = l.Clock()
	l.turns++
	l.stats.Turns.Store(l.turns)
	var due []Task
	l.queue, l.spare, due = l.spare[:0], nil, l.queue
	l.stats.Events.Add(uint64(n)) // one writer, so uncontended
	mail := false
	for i := range n {
		ev := &l.events[i]
		if ev.Pad == -1 {
			mail = true
			continue
		}
		if s := &l.slots[ev.Fd]; s.handler != nil && s.generation == ev.Pad {
			s.handler.Ready(Events(ev.Events))
		}
	}
	if mail {
		drainEventfd(l.wake)
		l.mail.run()
	}
	l.timers.fire(l.now)
	for i, t := range due {
		due[i] = nil
		t.Resume()
	}
	l.spare = due
	if l.atEnd != nil {
		l.atEnd()
	}
}

// ErrStopped is Post's answer once the loop has ended.
var ErrStopped = errors.New("loop: stopped")
