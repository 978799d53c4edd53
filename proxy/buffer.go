package proxy

// buffers are one loop's pool of byte slices by size. Only what cannot stay in
// the loop's scratch memory takes one: a head that is not complete, a request
// that waits, bytes that a slow reader has not taken. No locks: one loop.
type buffers struct {
	free  [len(classes)][][]byte
	inUse int64 // bytes lent, for the metric
}

var classes = [...]int{512, 2 << 10, 8 << 10, 32 << 10, 128 << 10}

// keep is how many free buffers of a class stay for the next use.
var keep = [len(classes)]int{512, 256, 64, 16, 4}

// get returns an empty slice with room for at least n bytes.
func (b *buffers) get(n int) []byte {
	for i, size := range classes {
		if n > size {
			continue
		}
		b.inUse += int64(size)
		if k := len(b.free[i]); k > 0 {
			p := b.free[i][k-1]
			b.free[i] = b.free[i][:k-1]
			return p
		}
		return make([]byte, 0, size)
	}
	b.inUse += int64(n)
	return make([]byte, 0, n)
}

// put takes back what get gave; p must begin where get's slice began.
func (b *buffers) put(p []byte) {
	if cap(p) == 0 {
		return
	}
	b.inUse -= int64(cap(p))
	for i, size := range classes {
		if cap(p) == size {
			if len(b.free[i]) < keep[i] {
				b.free[i] = append(b.free[i], p[:0])
			}
			return
		}
	}
}

// grow returns a slice with p's bytes and room for n more, giving p back if it
// was too small.
func (b *buffers) grow(p []byte, n int) []byte {
	if cap(p)-len(p) >= n {
		return p
	}
	q := append(b.get(len(p)+n), p...)
	b.put(p)
	return q
}

// append is append over pooled memory.
func (b *buffers) append(p, data []byte) []byte {
	return append(b.grow(p, len(data)), data...)
}

// trim lets go what lies here for the next use.
func (b *buffers) trim() { clear(b.free[:]) }
