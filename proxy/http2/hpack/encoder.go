package hpack

import (
	"bytes"

	"github.com/seinemesh/seine/message"
)

// Encoder is one direction's compression state. It belongs to one connection,
// and its blocks must be sent in the order in which they were encoded.
type Encoder struct {
	// Huffman says whether strings are sent in Huffman code where that is
	// shorter. Between neighbours bytes are cheaper than the work of both ends, so
	// it is off by default.
	Huffman bool

	t      table
	slots  *[256]uint32 // by hash of a name, or of name and value: sequence number of the last such entry, plus 1
	lower  []byte
	pinned bool // the table's size was set by the peer: announce in the next block
	least  uint32
}

// NewEncoder returns an encoder with an empty table of TableSize.
func NewEncoder() Encoder { return Encoder{t: table{max: TableSize}} }

// SetLimit takes the peer's SETTINGS_HEADER_TABLE_SIZE.
func (e *Encoder) SetLimit(size uint32) {
	size = min(size, TableSize)
	if size == e.t.max && !e.pinned {
		return
	}
	if !e.pinned || size < e.least {
		e.least = size
	}
	e.pinned = true
	e.t.max = size
	e.t.shrink(size)
}

// Begin begins a header block: with the table's new size, if it has one (RFC
// 7541 §4.2: the least one since the last block, then the last one).
func (e *Encoder) Begin(dst []byte) []byte {
	if !e.pinned {
		return dst
	}
	e.pinned = false
	if e.least < e.t.max {
		dst = appendInteger(dst, 0x20, 5, e.least)
	}
	return appendInteger(dst, 0x20, 5, e.t.max)
}

// policy is what may become of a field in the table.
type policy uint8

const (
	index policy = iota
	plain        // not worth an entry
	never        // RFC 7541 §7.1.3: a secret; nobody on the way may index it
)

// Fields that are worth no entry, because their values hardly repeat, and secrets.
func policyOf(f *message.Field, name, value []byte) policy {
	if f.Never {
		return never
	}
	switch string(name) {
	case "authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key", "x-amz-security-token",
		"x-csrf-token", "x-auth-token":
		return never
	case ":path", "content-length", "content-range", "range", "date", "etag", "age", "expires", "last-modified", "location",
		"if-modified-since", "if-none-match", "if-match", "if-unmodified-since", "x-request-id", "traceparent", "tracestate",
		"x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "b3", "grpc-timeout", "grpc-message", "grpc-status-details-bin",
		"x-envoy-upstream-service-time", "x-envoy-attempt-count", "x-envoy-expected-rq-timeout-ms":
		return plain
	}
	if len(name)+len(value) > TableSize/4 {
		return plain
	}
	return index
}

// Append appends one field. Its name is sent in lower case.
func (e *Encoder) Append(dst []byte, f *message.Field) []byte {
	name := e.lowered(f.Name)
	value := f.Value
	nameHash := hash(0, name)
	how := policyOf(f, name, value)
	i := staticName(name, nameHash)
	if i != 0 && how != never {
		if p := staticPair(i, value); p != 0 {
			return append(dst, 0x80|byte(p)) // static indices fit into the prefix
		}
	}
	pairHash := uint32(0)
	if how == index {
		pairHash = hash(nameHash, value)
		if s := e.find(pairHash, name, value, true); s != 0 {
			return appendInteger(dst, 0x80, 7, s)
		}
	}
	if i == 0 {
		i = e.find(nameHash, name, nil, false)
	}
	switch how {
	case index:
		dst = e.name(dst, 0x40, 6, i, name)
		e.insert(f.ID, name, value, nameHash, pairHash)
	case plain:
		dst = e.name(dst, 0, 4, i, name)
	case never:
		dst = e.name(dst, 0x10, 4, i, name)
	}
	return e.text(dst, value)
}

// AppendStatus appends :status.
func (e *Encoder) AppendStatus(dst []byte, status int) []byte {
	switch status {
	case 200:
		return append(dst, 0x88)
	case 204:
		return append(dst, 0x89)
	case 206:
		return append(dst, 0x8a)
	case 304:
		return append(dst, 0x8b)
	case 400:
		return append(dst, 0x8c)
	case 404:
		return append(dst, 0x8d)
	case 500:
		return append(dst, 0x8e)
	}
	return append(dst, 0x08, 3, byte('0'+status/100%10), byte('0'+status/10%10), byte('0'+status%10))
}

func (e *Encoder) name(dst []byte, first byte, prefix uint, i uint32, name []byte) []byte {
	dst = appendInteger(dst, first, prefix, i)
	if i == 0 {
		dst = e.text(dst, name)
	}
	return dst
}

func (e *Encoder) text(dst, s []byte) []byte {
	if e.Huffman {
		if n := huffmanLen(s); n < len(s) {
			return appendHuffman(appendInteger(dst, 0x80, 7, uint32(n)), s)
		}
	}
	return append(appendInteger(dst, 0, 7, uint32(len(s))), s...)
}

// lowered returns the name in lower case.
func (e *Encoder) lowered(name []byte) []byte {
	for i, c := range name {
		if 'A' <= c && c <= 'Z' {
			e.lower = append(e.lower[:0], name...)
			for ; i < len(name); i++ {
				if c := name[i]; 'A' <= c && c <= 'Z' {
					e.lower[i] = c | 0x20
				}
			}
			return e.lower
		}
	}
	return name
}

// find returns the index of the last entry with that hash, if it is the right one; 0: none.
func (e *Encoder) find(h uint32, name, value []byte, pair bool) uint32 {
	if e.slots == nil {
		return 0
	}
	seq := e.slots[uint8(h)] - 1
	age := e.t.next - 1 - seq
	if age >= e.t.n {
		return 0
	}
	_, n, v := e.t.get(age)
	if !bytes.Equal(n, name) || pair && !bytes.Equal(v, value) {
		return 0
	}
	return uint32(staticLen) + 1 + age
}

func (e *Encoder) insert(id message.Name, name, value []byte, nameHash, pairHash uint32) {
	if !e.t.add(id, name, value) {
		return
	}
	if e.slots == nil {
		e.slots = new([256]uint32)
	}
	e.slots[uint8(nameHash)] = e.t.next
	e.slots[uint8(pairHash)] = e.t.next
}
