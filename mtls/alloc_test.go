//go:build !race

package mtls

import "testing"

// TestAllocations pins what a record costs in allocations. Ours: none. crypto/tls
// makes one of 24 bytes for each record that it reads (atLeastReader in
// readFromUntil) and none to write. A release of Go that changes it shows here.
func TestAllocations(t *testing.T) {
	ca := newTestCA(t)
	w := join(client(ca.factory(t, alice), bob), ca.factory(t, bob).Server())
	w.mustShake(t)
	defer w.release()
	data := make([]byte, 1024)
	scratch := make([]byte, 16<<10)
	send := func(from, to *Session, cut bool) {
		if _, err := from.Write(data); err != nil {
			t.Fatal(err)
		}
		out := from.Outgoing()
		if cut { // the first part is kept in a pooled buffer
			to.Feed(out[:700])
			if _, err := to.Read(scratch); err != ErrEmpty {
				t.Fatal(err)
			}
			to.Feed(out[700:])
		} else {
			to.Feed(out)
		}
		if n, err := to.Read(scratch); n != len(data) || err != nil {
			t.Fatal(n, err)
		}
		if _, err := to.Read(scratch); err != ErrEmpty {
			t.Fatal(err)
		}
		from.Sent(len(out))
	}
	for _, cut := range []bool{false, true} {
		n := testing.AllocsPerRun(1000, func() { send(w.a, w.b, cut); send(w.b, w.a, cut) })
		if n != 2 {
			t.Errorf("there and back, cut %v: %v allocations, 2 expected, both crypto/tls's", cut, n)
		}
	}
	if n := testing.AllocsPerRun(1000, func() { w.b.Feed(nil); w.b.Read(scratch); w.b.Hold(); w.b.Outgoing() }); n != 0 {
		t.Errorf("nothing to read: %v allocations", n)
	}
}
