package breaker

import (
	"sync"
	"sync/atomic"
	"testing"
)

// TestExact: however many take and give at once, the limit is met and never
// exceeded, and nobody is refused while there is room.
func TestExact(t *testing.T) {
	const limit, workers, rounds = 3, 8, 20000
	var c Count
	var held, most, taken atomic.Int64
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for range rounds {
				if !c.Take(limit) {
					continue
				}
				taken.Add(1)
				n := held.Add(1)
				for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
				}
				held.Add(-1)
				c.Give()
			}
		})
	}
	all.Wait()
	if most.Load() > limit {
		t.Errorf("%d at once, the limit is %d", most.Load(), limit)
	}
	if taken.Load() == 0 || c.Value() != 0 {
		t.Errorf("%d taken, %d left over", taken.Load(), c.Value())
	}
}

// TestRefusalLeavesNoTrace: as many takers as there is room for all succeed,
// whatever others are refused meanwhile.
func TestRefusalLeavesNoTrace(t *testing.T) {
	var c Count
	var got atomic.Int64
	var all sync.WaitGroup
	for range 64 {
		all.Go(func() {
			if c.Take(10) {
				got.Add(1)
			}
		})
	}
	all.Wait()
	if got.Load() != 10 || c.Value() != 10 {
		t.Errorf("%d succeeded, %d counted; the limit is 10", got.Load(), c.Value())
	}
	if !c.Take(0) || c.Value() != 11 {
		t.Error("0 is no limit")
	}
	if c.Take(5) {
		t.Error("a limit that was lowered below the count lets one more in")
	}
}

func TestNoAllocation(t *testing.T) {
	var c Count
	if n := testing.AllocsPerRun(100, func() {
		if c.Take(2) {
			c.Give()
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
