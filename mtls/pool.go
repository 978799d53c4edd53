package mtls

import "sync"

// classes are the sizes of pooled buffers in bytes. A small one holds a usual
// request; the third any one TLS record (RFC 8446 §5.2: 5 + 2^14 + 256); the last
// everything that the bounds of a session let it collect.
var classes = [...]int{1 << 10, 4 << 10, 17 << 10, 96 << 10}

const maxBuffer = 96 << 10

// buffer is pooled memory; the header is pooled with it, so that giving it back
// allocates nothing.
type buffer struct {
	b     []byte
	class int
}

// pool hands out buffers by size class. It is safe for concurrent use.
type pool struct{ free [len(classes)]sync.Pool }

// get returns an empty buffer with room for n bytes, n ≤ maxBuffer.
func (p *pool) get(n int) *buffer {
	c := 0
	for classes[c] < n {
		c++
	}
	if v := p.free[c].Get(); v != nil {
		return v.(*buffer)
	}
	return &buffer{b: make([]byte, 0, classes[c]), class: c}
}

// put takes b back; nil is allowed.
func (p *pool) put(b *buffer) {
	if b == nil {
		return
	}
	b.b = b.b[:0]
	p.free[b.class].Put(b)
}

// add appends data to b, which may be nil, and moves to a larger class as needed.
// The caller keeps the sum within maxBuffer.
func (p *pool) add(b *buffer, data []byte) *buffer {
	switch {
	case len(data) == 0:
		return b
	case b == nil:
		b = p.get(len(data))
	case cap(b.b)-len(b.b) < len(data):
		bigger := p.get(len(b.b) + len(data))
		bigger.b = append(bigger.b, b.b...)
		p.put(b)
		b = bigger
	}
	b.b = append(b.b, data...)
	return b
}
