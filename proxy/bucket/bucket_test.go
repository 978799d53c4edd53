package bucket

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/decide"
)

func limit(t testing.TB, requests, burst uint64, per time.Duration) *decide.RateLimit {
	t.Helper()
	l, err := decide.CompileRateLimit(&seinev1.RateLimit{Id: "default/x[0]", Requests: requests, Burst: burst, Per: durationpb.New(per)})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// race runs n takers at once, each until it was refused a hundred times.
func race(n int, take func() bool) int64 {
	var let atomic.Int64
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			for refused := 0; refused < 100; {
				if take() {
					let.Add(1)
				} else {
					refused++
				}
			}
		})
	}
	all.Wait()
	return let.Load()
}

func TestExact(t *testing.T) {
	for _, loops := range []int{1, 4, 16} {
		l, b := limit(t, 10, 5000, time.Hour), Bucket{}
		if got := race(loops, func() bool { _, ok := b.Take(l, 7); return ok }); got != 5000 {
			t.Errorf("%d loops: %d let in, want 5000", loops, got)
		}
	}
}

func TestTable(t *testing.T) {
	l, table := limit(t, 1, 50, time.Hour), NewTable(64)
	for key := range uint64(20) {
		key = key<<32 | 5
		got := race(4, func() bool { _, ok, shared := table.Take(l, key, 7); return ok && !shared })
		if got != 50 {
			t.Errorf("key %x: %d let in, want 50", key, got)
		}
	}
	if n := table.Keys(); n != 20 {
		t.Errorf("%d keys seated, want 20", n)
	}
}

// TestTableBound: a flood of invented keys gets the buckets that there are, and
// one more for all the rest; who was there before is not disturbed.
func TestTableBound(t *testing.T) {
	l, table := limit(t, 1, 2, time.Hour), NewTable(16)
	places := uint64(len(table.sets) * ways)
	if _, ok, shared := table.Take(l, 99, 7); !ok || shared {
		t.Fatal("the first key found no place")
	}
	let := uint64(0)
	for key := range uint64(10_000) {
		if _, ok, _ := table.Take(l, (key+1)<<32|77, 7); ok {
			let++
		}
	}
	if most := places + 2; let > most {
		t.Errorf("10000 invented keys had %d requests let in, want at most %d", let, most)
	}
	if _, ok, shared := table.Take(l, 99, 7); !ok || shared {
		t.Error("the first key lost its bucket to invented ones")
	}
	if _, ok, _ := table.Take(l, 99, 7); ok {
		t.Error("the first key got a third token")
	}
	// Once their buckets are full again, all of them make room.
	later := int64(3 * time.Hour)
	if _, ok, shared := table.Take(l, 1<<40, later); !ok || shared {
		t.Error("no place was given up by keys that went quiet")
	}
}

func TestNoAllocation(t *testing.T) {
	l, b, table := limit(t, 1000, 10, time.Second), Bucket{}, NewTable(1024)
	now := int64(1)
	if n := testing.AllocsPerRun(1000, func() {
		now += 1000
		b.Take(l, now)
		table.Take(l, uint64(now)*0x9E3779B97F4A7C15, now)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkTake(b *testing.B) {
	l, t := limit(b, 1_000_000, 10, time.Second), NewTable(1024)
	now := int64(1)
	for b.Loop() {
		now += 500
		t.Take(l, 12345<<32, now)
	}
}
