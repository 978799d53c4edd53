//go:build !race

package mtls

import (
	"runtime"
	"testing"
)

// TestIdleMemory pins what an idle connection holds on the heap, at both ends
// together: crypto/tls's state, its keys, and the largest record that it ever read,
// which its buffer never gives back. Ours is next to nothing: no buffer.
func TestIdleMemory(t *testing.T) {
	const pairs = 128
	ca := newTestCA(t)
	fa, fb := ca.factory(t, alice), ca.factory(t, bob)
	var all [pairs]*wire
	heap := func() uint64 {
		var m runtime.MemStats
		for range 3 { // pools let go at the second
			runtime.GC()
		}
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	w := join(client(fa, bob), fb.Server())
	w.mustShake(t) // what there is once
	w.release()
	before := heap()
	for i := range all {
		all[i] = join(client(fa, bob), fb.Server())
		all[i].mustShake(t)
		exchange(t, all[i], 1024)
	}
	small := float64(heap()-before) / pairs
	for _, w := range all {
		exchange(t, w, 60_000)
		idle(t, w.a)
		idle(t, w.b)
	}
	large := float64(heap()-before) / pairs
	t.Logf("%.0f bytes for a pair after 1 KiB, %.0f after 60 KB", small, large)
	if small > 18<<10 {
		t.Errorf("%.0f bytes for a pair after 1 KiB each way", small)
	}
	for _, w := range all {
		for _, s := range []*Session{w.a, w.b} {
			if k := s.Kept(); k < 1<<14 || k > headerLen+maxFragment {
				t.Fatalf("a session that read records of 16 KiB says that it keeps %d bytes", k)
			}
		}
	}
	if limit := small + 2*(18<<10); large > limit {
		t.Errorf("%.0f bytes for a pair after 60 KB each way", large)
	}
	runtime.KeepAlive(all)
	for _, w := range all {
		w.release()
	}
}
