//go:build !race

package mtls

import (
	"runtime"
	"testing"
)

// TestHalfOpenMemory pins what a server's handshake holds, stack included, while
// the client owes its second flight.
func TestHalfOpenMemory(t *testing.T) {
	const n = 256
	ca := newTestCA(t)
	fa, fb := ca.factory(t, alice), ca.factory(t, bob)
	held := func() uint64 {
		var m runtime.MemStats
		for range 3 {
			runtime.GC()
		}
		runtime.ReadMemStats(&m)
		return m.HeapAlloc + m.StackInuse
	}
	hello := client(fa, bob)
	hello.Handshake(func(*Session) {})
	first := append([]byte(nil), hello.Outgoing()...)
	hello.Release()
	var all [n]*Session
	before := held()
	for i := range all {
		s := fb.Server()
		s.Handshake(func(*Session) {})
		if err := s.Feed(first); err != nil || len(s.Outgoing()) == 0 {
			t.Fatal(err)
		}
		s.Sent(len(s.Outgoing()))
		all[i] = s
	}
	each := float64(held()-before) / n
	t.Logf("%.0f bytes for each half-open handshake", each)
	if each > 32<<10 {
		t.Errorf("%.0f bytes for each half-open handshake, at most 32 KiB", each)
	}
	for _, s := range all {
		s.Release()
	}
}
