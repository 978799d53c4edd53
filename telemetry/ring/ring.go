// Package ring takes records from event loops to one goroutine without ever
// making a loop wait.
//
// What enters: records, as bytes, each loop through a Ring of its own. What
// leaves: the same bytes, in the goroutine that runs the Queue. A loop's side
// allocates nothing, locks nothing, never blocks and never writes: a full ring
// drops the record and counts it.
package ring

import (
	"encoding/binary"
	"sync/atomic"
)

const (
	minBytes = 32 << 10
	maxBytes = 1 << 30

	head = 4          // bytes before each record: its length
	skip = ^uint32(0) // in place of a length: the next record is at the ring's start
)

// Ring is one loop's way to the Queue: a producer, a consumer, no lock.
// Records do not wrap, so that each is one slice of the ring's memory.
type Ring struct {
	q        *Queue
	buf      []byte // length a power of two
	reserved uint64 // bytes that Commit adds to tail; the producer's
	urgent   bool   // more than half full with them
	tail     atomic.Uint64
	_        [56]byte
	head     atomic.Uint64 // the consumer's: bytes ever taken out
	_        [56]byte
	dropped  atomic.Uint64
}

// Reserve returns the memory of a record of n bytes, which Commit hands over;
// without a Commit it is forgotten. Nil: the ring is full, the drop is counted.
// What the memory holds before it is written is undefined.
func (r *Ring) Reserve(n int) []byte {
	size := place(n)
	tail := r.tail.Load()
	at := int(tail & uint64(len(r.buf)-1))
	need := size
	wrap := len(r.buf)-at < size
	if wrap {
		need += len(r.buf) - at
	}
	used := int(tail - r.head.Load())
	if used+need > len(r.buf) {
		r.dropped.Add(1)
		r.q.hurry()
		return nil
	}
	if wrap {
		binary.LittleEndian.PutUint32(r.buf[at:], skip)
		at = 0
	}
	binary.LittleEndian.PutUint32(r.buf[at:], uint32(n))
	r.reserved, r.urgent = uint64(need), used+need > len(r.buf)/2
	return r.buf[at+head : at+head+n : at+head+n]
}

// Commit hands the reserved record over.
func (r *Ring) Commit() {
	r.tail.Store(r.tail.Load() + r.reserved)
	r.reserved = 0
	r.q.call()
	if r.urgent {
		r.q.hurry()
	}
}

// Append is Reserve, a copy and Commit. False: it was dropped, and counted.
func (r *Ring) Append(p []byte) bool {
	b := r.Reserve(len(p))
	if b == nil {
		return false
	}
	copy(b, p)
	r.Commit()
	return true
}

// place is how many bytes of a ring a record takes.
func place(n int) int { return (head + n + 7) &^ 7 }

// consume calls f for each record before end, oldest first, and then frees its
// place. What f is given points into the ring: it is good until f returns.
func (r *Ring) consume(end uint64, f func([]byte)) {
	for from := r.head.Load(); from != end; r.head.Store(from) {
		at := from & uint64(len(r.buf)-1)
		n := binary.LittleEndian.Uint32(r.buf[at:])
		if n == skip {
			from += uint64(len(r.buf)) - at
			continue
		}
		f(r.buf[at+head : at+head+uint64(n)])
		from += uint64(place(int(n)))
	}
}
