package ring

import (
	"sync"
	"sync/atomic"
	"time"
)

// Options of New. The zero value is usable.
type Options struct {
	// Bytes is the memory of each ring, rounded up to a power of two of at
	// least 32 KiB; 128 KiB if zero.
	Bytes int
	// Batch is how long records gather before they are taken out (a ring that
	// is half full does not wait); 10 ms if zero.
	Batch time.Duration
}

// Queue is what several rings lead to. Run takes the records out.
type Queue struct {
	bytes int
	batch time.Duration

	wake     chan struct{} // of one: something was committed while Run slept
	urgent   chan struct{} // of one: a ring is half full
	sleeping atomic.Bool
	hurried  atomic.Bool

	mu    sync.Mutex // guards rings, the slice
	rings []*Ring
}

// New returns a queue without rings. It holds no goroutine before Run.
func New(o Options) *Queue {
	q := &Queue{bytes: minBytes, batch: o.Batch, wake: make(chan struct{}, 1), urgent: make(chan struct{}, 1)}
	if o.Bytes == 0 {
		o.Bytes = 128 << 10
	}
	for q.bytes < o.Bytes && q.bytes < maxBytes {
		q.bytes *= 2
	}
	if q.batch == 0 {
		q.batch = 10 * time.Millisecond
	}
	return q
}

// Ring returns a new ring, to be used by one goroutine at a time (one loop).
func (q *Queue) Ring() *Ring {
	r := &Ring{q: q, buf: make([]byte, q.bytes)}
	q.mu.Lock()
	q.rings = append(q.rings, r)
	q.mu.Unlock()
	return r
}

// Dropped is how many records found their ring full since the start.
func (q *Queue) Dropped() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	var n uint64
	for _, r := range q.rings {
		n += r.dropped.Load()
	}
	return n
}

// call wakes Run if it sleeps.
func (q *Queue) call() {
	if q.sleeping.Load() && q.sleeping.CompareAndSwap(true, false) {
		select {
		case q.wake <- struct{}{}:
		default:
		}
	}
}

// hurry ends Run's wait for a batch, once for each batch.
func (q *Queue) hurry() {
	if !q.hurried.Load() && q.hurried.CompareAndSwap(false, true) {
		select {
		case q.urgent <- struct{}{}:
		default:
		}
	}
}

// Run calls batch whenever records have gathered, until stop is closed, and then
// once more. It sleeps until a Commit finds it asleep: a busy loop pays for one
// wake-up each batch, an idle process for none.
func (q *Queue) Run(stop <-chan struct{}, batch func()) {
	for stopping := false; !stopping; {
		q.sleeping.Store(true)
		if !q.pending() { // a record of before the store sent no wake
			select {
			case <-q.wake:
			case <-stop:
				stopping = true
			}
		}
		q.sleeping.Store(false)
		if !stopping {
			timer := time.NewTimer(q.batch)
			select {
			case <-timer.C:
			case <-q.urgent:
			case <-stop:
				stopping = true
			}
			timer.Stop()
		}
		q.hurried.Store(false)
		batch()
	}
}

// Each takes out what the rings hold now, each ring's oldest first. What f is
// given points into the ring: it is good until f returns. One goroutine at a time.
func (q *Queue) Each(f func(record []byte)) {
	for _, r := range q.snapshot() {
		r.consume(r.tail.Load(), f)
	}
}

func (q *Queue) snapshot() []*Ring {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.rings
}

func (q *Queue) pending() bool {
	for _, r := range q.snapshot() {
		if r.head.Load() != r.tail.Load() {
			return true
		}
	}
	return false
}
