package http2

// bucket counts what may come in bursts and must not come for ever. It empties
// by a tenth of the burst each second.
type bucket struct {
	used int
	at   int64 // up to when it was emptied
}

// earn takes back: the peer has done something of use.
func (b *bucket) earn(n int) { b.used = max(0, b.used-n) }

const tenSeconds = 10e9

// take counts one more and reports whether the burst allows it.
func (b *bucket) take(now int64, burst int) bool {
	if b.used == 0 {
		b.at = now
	}
	step := max(tenSeconds/int64(burst), 1)
	if n := (now - b.at) / step; n > 0 {
		b.used = max(0, b.used-int(min(n, int64(b.used))))
		b.at += n * step
	}
	b.used++
	return b.used <= burst
}
