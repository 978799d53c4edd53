package hpack

import "github.com/seinemesh/seine/message"

// Decoder is one direction's decompression state. It belongs to one
// connection.
type Decoder struct{ t table }

// NewDecoder returns a decoder with an empty table of TableSize.
func NewDecoder() Decoder { return Decoder{table{max: TableSize}} }

// Decode decodes a whole header block into out, whose slices it uses from their
// beginning. The fields point into block, out.Bytes and static memory: they
// are valid as long as both are left alone. ErrList: out is empty, the decoder
// may go on with the next block. Any other error is final.
func (d *Decoder) Decode(block []byte, out *Block, lim Limits) *Error {
	fields, scratch := out.Fields[:0], out.Bytes[:0]
	defer func() { out.Fields, out.Bytes = fields, scratch }()
	list, over := 0, false
	for started := false; len(block) > 0; {
		var f message.Field
		mark := len(scratch)
		c := block[0]
		if c >= 0x80 { // RFC 7541 §6.1: indexed
			i, n, err := integer(block, 7)
			if err != nil {
				return err
			}
			block = block[n:]
			if scratch, err = d.lookup(&f, i, true, scratch); err != nil {
				return err
			}
		} else if c&0xe0 == 0x20 { // §6.3: size update
			size, n, err := integer(block, 5)
			switch {
			case err != nil:
				return err
			case started:
				return ErrUpdate
			case size > TableSize:
				return ErrUpdateSize
			}
			block = block[n:]
			d.t.max = size
			d.t.shrink(size)
			continue
		} else { // §6.2: literal
			prefix := uint(4)
			if c >= 0x40 {
				prefix = 6
			}
			i, n, err := integer(block, prefix)
			if err != nil {
				return err
			}
			block = block[n:]
			if i != 0 {
				scratch, err = d.lookup(&f, i, false, scratch)
			} else {
				if f.Name, block, scratch, err = text(block, scratch); err == nil {
					f.ID = message.Intern(f.Name)
				}
			}
			if err != nil {
				return err
			}
			if f.Value, block, scratch, err = text(block, scratch); err != nil {
				return err
			}
			f.Never = c&0xf0 == 0x10
			if c >= 0x40 {
				d.t.add(f.ID, f.Name, f.Value)
			}
		}
		started = true
		list += len(f.Name) + len(f.Value) + overhead
		if over = over || list > lim.List || len(fields) == lim.Fields; over {
			scratch = scratch[:mark]
			continue
		}
		fields = append(fields, f)
	}
	if over {
		fields = fields[:0]
		return ErrList
	}
	return nil
}

// lookup sets f to the entry of an index. A dynamic entry is copied: the block
// may evict it before the fields are read.
func (d *Decoder) lookup(f *message.Field, i uint32, pair bool, scratch []byte) ([]byte, *Error) {
	if i == 0 {
		return scratch, ErrIndex
	}
	if i <= uint32(staticLen) {
		*f = static[i]
		return scratch, nil
	}
	if i -= uint32(staticLen) + 1; i >= d.t.n {
		return scratch, ErrIndex
	}
	e, name, value := d.t.get(i)
	f.ID = e.id
	at := len(scratch)
	scratch = append(scratch, name...)
	f.Name = scratch[at:len(scratch):len(scratch)]
	if pair {
		at = len(scratch)
		scratch = append(scratch, value...)
		f.Value = scratch[at:len(scratch):len(scratch)]
	}
	return scratch, nil
}

// text decodes a string literal (RFC 7541 §5.2).
func text(b, scratch []byte) (s, rest, grown []byte, err *Error) {
	l, n, err := integer(b, 7)
	if err != nil {
		return nil, b, scratch, err
	}
	if int(l) > len(b)-n {
		return nil, b, scratch, ErrCut
	}
	s, rest = b[n:n+int(l):n+int(l)], b[n+int(l):]
	if b[0] < 0x80 {
		return s, rest, scratch, nil
	}
	at := len(scratch)
	if scratch, err = decodeHuffman(scratch, s); err != nil {
		return nil, b, scratch, err
	}
	return scratch[at:len(scratch):len(scratch)], rest, scratch, nil
}
