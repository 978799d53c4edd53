package sniff

import "encoding/binary"

const (
	handshake   = 0x16 // record type
	clientHello = 1    // handshake type
	recordHead  = 5
	messageHead = 4
	maxRecord   = 1 << 14 // of a plaintext record (RFC 8446 §5.1)
	maxHello    = 16 << 10
	maxWire     = 2 * maxHello // with the heads of many small records
)

// State says how far a ClientHello was understood.
type State uint8

const (
	Partial  State = iota // more bytes are needed
	Complete              // Hello is filled
	Invalid               // this is no ClientHello, or one beyond the bound
)

// Hello is what Seine reads of a ClientHello. Its slices point into the buffer
// that it was parsed from, or into a copy if it came in several records.
type Hello struct {
	SNI []byte // host_name as sent; nil: none

	alpn []byte // the list: a length byte before each name; checked
}

// ALPN returns the protocol name at position n of the client's list, nil after
// the last, and the position of the next:
//
//	for p, n := h.ALPN(0); p != nil; p, n = h.ALPN(n) { … }
func (h *Hello) ALPN(n int) (name []byte, next int) {
	if n < 0 || n >= len(h.alpn) {
		return nil, n
	}
	next = n + 1 + int(h.alpn[n])
	return h.alpn[n+1 : next], next
}

// ClientHello parses the ClientHello that b begins with, over as many TLS
// records as it takes. n is the number of bytes of those records. It
// allocates only for a ClientHello in more than one record, and takes none of
// more than 16 KiB, nor one that spreads over more than 32 KiB of records.
func ClientHello(b []byte) (h Hello, n int, s State) {
	var head [messageHead]byte // of the handshake message, wherever its bytes lie
	size, whole, records := 0, messageHead+1, 0
	for size < whole {
		rest := b[n:]
		if n > maxWire || !plausible(rest) {
			return h, 0, Invalid
		}
		if len(rest) < recordHead {
			return h, 0, Partial
		}
		length := recordLength(rest)
		rest = rest[recordHead:]
		if size < messageHead {
			had := size + copy(head[size:], rest[:min(length, len(rest))])
			if had > 0 && head[0] != clientHello {
				return h, 0, Invalid
			}
			if had == messageHead {
				whole = messageHead + int(head[1])<<16 + int(head[2])<<8 + int(head[3])
			}
		}
		size += length
		if whole > maxHello || size > whole && whole != messageHead+1 {
			return h, 0, Invalid // too large, or bytes after it in its record (RFC 8446 §5.1)
		}
		if len(rest) < length {
			return h, 0, Partial
		}
		n += recordHead + length
		records++
	}
	msg := b[recordHead:n]
	if records > 1 {
		msg = join(b[:n], size)
	}
	if !h.parse(msg[messageHead:]) {
		return Hello{}, 0, Invalid
	}
	return h, n, Complete
}

// plausible reports whether a handshake record may begin with b.
func plausible(b []byte) bool {
	switch {
	case len(b) > 0 && b[0] != handshake, len(b) > 1 && b[1] != 3, len(b) > 2 && b[2] > 4:
		return false
	case len(b) >= recordHead:
		return recordLength(b) > 0 && recordLength(b) <= maxRecord
	}
	return true
}

// join returns the size bytes of payload of b's records.
func join(b []byte, size int) []byte {
	out := make([]byte, 0, size)
	for len(b) > 0 {
		n := recordHead + recordLength(b)
		out = append(out, b[recordHead:n]...)
		b = b[n:]
	}
	return out
}

// cursor reads TLS's length-prefixed vectors; bad stays once something is missing.
type cursor struct {
	b   []byte
	bad bool
}

func (c *cursor) take(n int) []byte {
	if n > len(c.b) {
		c.bad, c.b = true, nil
		return nil
	}
	out := c.b[:n]
	c.b = c.b[n:]
	return out
}

func (c *cursor) u8() int {
	if b := c.take(1); b != nil {
		return int(b[0])
	}
	return 0
}

func (c *cursor) u16() int {
	if b := c.take(2); b != nil {
		return int(binary.BigEndian.Uint16(b))
	}
	return 0
}

const (
	extServerName = 0
	extALPN       = 16
)

// parse reads the body of a ClientHello (RFC 8446 §4.1.2).
func (h *Hello) parse(b []byte) bool {
	c := cursor{b: b}
	c.take(2 + 32) // version, random
	if id := c.take(c.u8()); len(id) > 32 {
		return false
	}
	if suites := c.take(c.u16()); len(suites) == 0 || len(suites)%2 != 0 {
		return false
	}
	if compression := c.take(c.u8()); len(compression) == 0 {
		return false
	}
	if c.bad {
		return false
	}
	if len(c.b) == 0 {
		return true // TLS 1.2 may leave the extensions out
	}
	list := cursor{b: c.take(c.u16())}
	if c.bad || len(c.b) != 0 {
		return false
	}
	var sni, alpn bool
	for len(list.b) > 0 {
		kind := list.u16()
		data := list.take(list.u16())
		if list.bad {
			return false
		}
		switch kind {
		case extServerName:
			if sni || !h.serverName(data) {
				return false
			}
			sni = true
		case extALPN:
			if alpn || !h.protocols(data) {
				return false
			}
			alpn = true
		}
	}
	return true
}

// serverName reads the extension of RFC 6066 §3, which holds one name of each type.
func (h *Hello) serverName(b []byte) bool {
	c := cursor{b: b}
	list := cursor{b: c.take(c.u16())}
	if c.bad || len(c.b) != 0 || len(list.b) == 0 {
		return false
	}
	for len(list.b) > 0 {
		kind := list.u8()
		name := list.take(list.u16())
		if list.bad {
			return false
		}
		if kind != 0 {
			continue
		}
		if h.SNI != nil || len(name) == 0 || len(name) > 255 {
			return false
		}
		for _, c := range name {
			if c <= ' ' || c >= 0x7f {
				return false
			}
		}
		h.SNI = name
	}
	return true
}

// protocols reads the extension of RFC 7301 §3.1.
func (h *Hello) protocols(b []byte) bool {
	c := cursor{b: b}
	list := cursor{b: c.take(c.u16())}
	if c.bad || len(c.b) != 0 || len(list.b) == 0 {
		return false
	}
	h.alpn = list.b
	for len(list.b) > 0 {
		if name := list.take(list.u8()); list.bad || len(name) == 0 {
			return false
		}
	}
	return true
}
