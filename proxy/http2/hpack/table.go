package hpack

import "github.com/seinemesh/seine/message"

// table is a dynamic table (RFC 7541 §2.3.2). The entries' text lies in one
// slice, oldest first; what is evicted is left behind until the slice is full.
type table struct {
	text    []byte
	entries []entry // a ring: the entry of sequence number s is at s modulo its length
	next    uint32  // sequence number of the next entry
	n       uint32  // entries
	size    uint32  // as RFC 7541 §4.1 counts
	max     uint32
}

type entry struct {
	at          uint32 // where its name begins in text; its value follows
	name, value uint16
	id          message.Name
}

func (t *table) entry(seq uint32) *entry { return &t.entries[seq&uint32(len(t.entries)-1)] }

// get returns the i-th newest entry, counted from 0.
func (t *table) get(i uint32) (e *entry, name, value []byte) {
	e = t.entry(t.next - 1 - i)
	mid := e.at + uint32(e.name)
	return e, t.text[e.at:mid:mid], t.text[mid : mid+uint32(e.value) : mid+uint32(e.value)]
}

// shrink evicts until the table is at most max bytes.
func (t *table) shrink(max uint32) {
	for t.size > max {
		e := t.entry(t.next - t.n)
		t.size -= uint32(e.name) + uint32(e.value) + overhead
		t.n--
	}
	if t.n == 0 {
		t.text = t.text[:0]
	}
}

// add adds an entry, unless it is larger than the table, which empties it (RFC
// 7541 §4.4). Name and value must not lie in the table.
func (t *table) add(id message.Name, name, value []byte) bool {
	need := len(name) + len(value)
	if need+overhead > int(t.max) {
		t.shrink(0)
		return false
	}
	t.shrink(t.max - uint32(need) - overhead)
	t.room(need)
	if int(t.n) == len(t.entries) {
		t.widen()
	}
	*t.entry(t.next) = entry{at: uint32(len(t.text)), name: uint16(len(name)), value: uint16(len(value)), id: id}
	t.text = append(append(t.text, name...), value...)
	t.next++
	t.n++
	t.size += uint32(need) + overhead
	return true
}

// room makes room for need bytes of text: by moving what lives to the front if
// that frees half of the slice, else by a larger slice. So each byte is moved
// once on average, and the slice never exceeds twice the table.
func (t *table) room(need int) {
	if len(t.text)+need <= cap(t.text) {
		return
	}
	from := uint32(len(t.text))
	if t.n > 0 {
		from = t.entry(t.next - t.n).at
	}
	live := t.text[from:]
	to := t.text[:0]
	if 2*(len(live)+need) > cap(t.text) {
		to = make([]byte, 0, max(256, 2*(len(live)+need)))
	}
	t.text = append(to, live...)
	for i := range t.n {
		t.entry(t.next - 1 - i).at -= from
	}
}

func (t *table) widen() {
	old := *t
	t.entries = make([]entry, max(8, 2*len(old.entries)))
	for i := range t.n {
		s := t.next - 1 - i
		*t.entry(s) = *old.entry(s)
	}
}
