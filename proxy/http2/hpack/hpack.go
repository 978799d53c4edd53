// Package hpack is HTTP/2's header compression (RFC 7541) over the caller's
// memory. It does no I/O, starts nothing, and allocates nothing once the
// tables and the caller's slices have grown.
//
// What enters: a whole header block (Decoder), or fields (Encoder). What
// leaves: message.Fields with interned names, whose slices point into the
// block, the caller's scratch or the static table; or bytes appended to a
// buffer. Pseudo-header fields are fields like others here.
//
// What it must never do: let a peer decide how much memory or work a block
// costs. A block is as long as the caller lets it be; a list beyond its limits
// is still decoded, because the connection's table must not lose its step, but
// nothing of it is kept.
package hpack

import "github.com/seinemesh/seine/message"

// TableSize is how many bytes the dynamic table of either direction may hold:
// the default of RFC 9113 §6.5.2, which we never raise, whatever the peer allows.
const TableSize = 4096

// overhead is what RFC 7541 §4.1 adds to the length of each entry, and RFC 9113
// §6.5.2 to each field of a list.
const overhead = 32

// Error is why a block is refused. All of them are made beforehand.
type Error struct {
	Reason string
	Clause string
}

func (e *Error) Error() string { return e.Reason + " (" + e.Clause + ")" }

// What is wrong with a block. After any but ErrList the connection cannot go on:
// its table is lost (RFC 9113 §4.3).
var (
	ErrCut        = &Error{"the header block ends inside a field", "RFC 7541 §3.1"}
	ErrInteger    = &Error{"an integer beyond the limit", "RFC 7541 §5.1"}
	ErrIndex      = &Error{"an index beyond the tables", "RFC 7541 §2.3.3"}
	ErrHuffman    = &Error{"a malformed Huffman code", "RFC 7541 §5.2"}
	ErrUpdate     = &Error{"a table size update that is not at the block's beginning", "RFC 7541 §4.2"}
	ErrUpdateSize = &Error{"a table size update beyond the limit", "RFC 7541 §6.3"}
	ErrList       = &Error{"the header list is too large", "RFC 9113 §10.5.1"}
)

// Limits bound a decoded list.
type Limits struct {
	List   int // bytes, counted as RFC 9113 §6.5.2 does
	Fields int // fields, pseudo-header fields among them
}

// Block is what a Decoder decodes into: scratch memory of the caller, used again for the
// next block.
type Block struct {
	Fields []message.Field
	Bytes  []byte
}

// maxInteger is beyond every integer that means anything here.
const maxInteger = 1<<28 - 1

// integer decodes an integer whose first byte has prefix bits for it.
func integer(b []byte, prefix uint) (v uint32, n int, err *Error) {
	if len(b) == 0 {
		return 0, 0, ErrCut
	}
	mask := uint32(1)<<prefix - 1
	v = uint32(b[0]) & mask
	if v < mask {
		return v, 1, nil
	}
	for i := 1; i < len(b); i++ {
		if i > 4 {
			return 0, 0, ErrInteger
		}
		c := b[i]
		v += uint32(c&0x7f) << (7 * (i - 1))
		if v > maxInteger {
			return 0, 0, ErrInteger
		}
		if c < 0x80 {
			return v, i + 1, nil
		}
	}
	if len(b) > 4 {
		return 0, 0, ErrInteger
	}
	return 0, 0, ErrCut
}

// appendInteger appends v with first's high bits before its prefix.
func appendInteger(dst []byte, first byte, prefix uint, v uint32) []byte {
	mask := uint32(1)<<prefix - 1
	if v < mask {
		return append(dst, first|byte(v))
	}
	dst = append(dst, first|byte(mask))
	for v -= mask; v >= 0x80; v >>= 7 {
		dst = append(dst, byte(v)|0x80)
	}
	return append(dst, byte(v))
}
