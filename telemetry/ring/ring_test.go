package ring

import (
	"bytes"
	"encoding/binary"
	"sync"
	"testing"
	"time"
)

// TestWrap fills and empties a ring many times over with records of all sizes:
// each comes out whole, once, in order.
func TestWrap(t *testing.T) {
	q := New(Options{Bytes: 1})
	r := q.Ring()
	var put, got int
	for i := range 20_000 {
		n := 2 + i*7919%3000
		b := r.Reserve(n)
		if b == nil {
			t.Fatalf("record %d of %d bytes was dropped", i, n)
		}
		if len(b) != n || cap(b) != n {
			t.Fatalf("reserved %d of %d, want %d", len(b), cap(b), n)
		}
		for j := range b {
			b[j] = byte(put)
		}
		r.Commit()
		put++
		if i%5 != 4 {
			continue
		}
		q.Each(func(rec []byte) {
			if len(rec) != 2+got*7919%3000 || !bytes.Equal(rec, bytes.Repeat([]byte{byte(got)}, len(rec))) {
				t.Fatalf("record %d came out as %d bytes of %d", got, len(rec), rec[0])
			}
			got++
		})
	}
	if got != put || q.Dropped() != 0 {
		t.Fatalf("%d of %d came out, %d dropped", got, put, q.Dropped())
	}
}

func TestFull(t *testing.T) {
	q := New(Options{Bytes: 1})
	r := q.Ring()
	kept := 0
	for r.Append(make([]byte, 1000)) {
		kept++
	}
	if want := minBytes / place(1000); kept != want {
		t.Errorf("%d records fit, want %d", kept, want)
	}
	if r.Append(nil) != (minBytes-kept*place(1000) >= place(0)) {
		t.Error("the rest of the ring was not used")
	}
	if r.Reserve(minBytes) != nil || q.Dropped() < 2 {
		t.Errorf("%d drops are counted", q.Dropped())
	}
	n := 0
	q.Each(func([]byte) { n++ })
	if n < kept {
		t.Errorf("%d of %d came out", n, kept)
	}
	// What is reserved and not committed is forgotten.
	copy(r.Reserve(3), "one")
	copy(r.Reserve(3), "two")
	r.Commit()
	q.Each(func(b []byte) {
		if string(b) != "two" {
			t.Errorf("%q came out", b)
		}
	})
}

// TestLoops has several loops and the queue's goroutine at work at once.
func TestLoops(t *testing.T) {
	const loops, records = 4, 5000
	q := New(Options{Bytes: 1, Batch: time.Nanosecond})
	stop, done := make(chan struct{}), make(chan struct{})
	next := map[byte]uint32{}
	go func() {
		defer close(done)
		q.Run(stop, func() {
			q.Each(func(b []byte) {
				if n := binary.LittleEndian.Uint32(b[1:]); n != next[b[0]] {
					t.Errorf("loop %d: record %d after %d", b[0], n, next[b[0]])
				}
				next[b[0]]++
			})
		})
	}()
	var all sync.WaitGroup
	for l := range loops {
		r := q.Ring()
		all.Go(func() {
			b := make([]byte, 5+l*100)
			b[0] = byte(l)
			for i := range uint32(records) {
				binary.LittleEndian.PutUint32(b[1:], i)
				for !r.Append(b) { // the ring is small: until Run has made room
				}
			}
		})
	}
	all.Wait()
	close(stop)
	<-done
	for l := range byte(loops) {
		if next[l] != records {
			t.Errorf("loop %d: %d of %d records came out", l, next[l], records)
		}
	}
}

func TestNoAllocation(t *testing.T) {
	q := New(Options{})
	r := q.Ring()
	p := make([]byte, 300)
	if n := testing.AllocsPerRun(1000, func() {
		r.Append(p)
		q.Each(func([]byte) {})
	}); n != 0 {
		t.Errorf("%v allocations for a record", n)
	}
}
