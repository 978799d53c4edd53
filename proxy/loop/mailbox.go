//go:build linux

package loop

import "sync"

// mailbox holds functions that other goroutines want run on the loop. A lock
// guards the swap of two slices and nothing else; the eventfd is written only
// when the box was empty.
type mailbox struct {
	mu     sync.Mutex
	in     []func()
	out    []func() // the loop's own
	closed bool
}

// Post runs f on the loop's goroutine, after what was posted before. Any
// goroutine may call it; it never blocks. It reports false, and f is never
// run, once the loop has stopped.
func (l *Loop) Post(f func()) bool {
	l.mail.mu.Lock()
	if l.mail.closed {
		l.mail.mu.Unlock()
		return false
	}
	l.mail.in = append(l.mail.in, f)
	first := len(l.mail.in) == 1
	if first {
		// Under the lock, so that the descriptor is still the loop's.
		signalEventfd(l.wake)
	}
	l.mail.mu.Unlock()
	return true
}

func (m *mailbox) run() {
	m.mu.Lock()
	m.in, m.out = m.out[:0], m.in
	m.mu.Unlock()
	for i, f := range m.out {
		m.out[i] = nil
		f()
	}
}

func (m *mailbox) close() {
	m.mu.Lock()
	m.closed = true
	m.in = nil
	m.mu.Unlock()
}
