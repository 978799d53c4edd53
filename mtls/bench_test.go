package mtls

import "testing"

func BenchmarkHandshake(b *testing.B) {
	ca := newTestCA(b)
	run := func(b *testing.B, f func() (*Factory, *Factory)) {
		fa, fb := f()
		b.ReportAllocs()
		for b.Loop() {
			w := join(client(fa, bob), fb.Server())
			w.mustShake(b)
			w.release()
		}
	}
	b.Run("full", func(b *testing.B) {
		run(b, func() (*Factory, *Factory) {
			fa, fb := ca.factory(b, alice), ca.factory(b, bob)
			g, err := fb.current()
			if err != nil {
				b.Fatal(err)
			}
			g.server.SessionTicketsDisabled = true
			return fa, fb
		})
	})
	b.Run("resumed", func(b *testing.B) {
		run(b, func() (*Factory, *Factory) { return ca.factory(b, alice), ca.factory(b, bob) })
	})
}

// BenchmarkRoundTrip is 1 KiB there and back, both ends' work.
func BenchmarkRoundTrip(b *testing.B) {
	ca := newTestCA(b)
	w := join(client(ca.factory(b, alice), bob), ca.factory(b, bob).Server())
	w.mustShake(b)
	defer w.release()
	data, scratch := make([]byte, 1024), make([]byte, 16<<10)
	b.SetBytes(2048)
	b.ReportAllocs()
	for b.Loop() {
		for _, d := range [...][2]*Session{{w.a, w.b}, {w.b, w.a}} {
			if _, err := d[0].Write(data); err != nil {
				b.Fatal(err)
			}
			out := d[0].Outgoing()
			d[1].Feed(out)
			if n, err := d[1].Read(scratch); n != 1024 || err != nil {
				b.Fatal(n, err)
			}
			if _, err := d[1].Read(scratch); err != ErrEmpty {
				b.Fatal(err)
			}
			d[0].Sent(len(out))
		}
	}
}
