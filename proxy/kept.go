//go:build linux

package proxy

import (
	"encoding/binary"

	"github.com/seinemesh/seine/message"
)

// kept is a request's head, or a list of fields, in memory of its own: for a
// request that waits or may have to be sent again, whose decoder's memory is
// used for the next one meanwhile. HPACK cannot be decoded twice.
type kept struct {
	buf []byte // pooled
}

const (
	keptHop = 1 << iota
	keptNever
)

// keep copies the head.
func (k *kept) keep(w *worker, req *message.Request) {
	k.drop(w)
	n := len(req.Method) + len(req.Scheme) + len(req.Authority) + len(req.Path) + 9
	b := w.buffers.get(n + fieldsSize(req.Fields))
	b = append(b, req.Minor)
	for _, p := range [...][]byte{req.Method, req.Scheme, req.Authority, req.Path} {
		b = appendPiece(b, p)
	}
	k.buf = appendFields(b, req.Fields)
}

// keepFields copies fields alone.
func (k *kept) keepFields(w *worker, fields []message.Field) {
	k.drop(w)
	k.buf = appendFields(w.buffers.get(fieldsSize(fields)), fields)
}

// fieldsSize is no less than what appendFields appends.
func fieldsSize(fields []message.Field) (n int) {
	for i := range fields {
		n += len(fields[i].Name) + len(fields[i].Value) + 12
	}
	return n
}

func appendFields(b []byte, fields []message.Field) []byte {
	for i := range fields {
		f := &fields[i]
		var flags byte
		if f.Hop {
			flags |= keptHop
		}
		if f.Never {
			flags |= keptNever
		}
		b = append(b, byte(f.ID), flags)
		b = appendPiece(appendPiece(b, f.Name), f.Value)
	}
	return b
}

func appendPiece(b, p []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(p))), p...)
}

func piece(b []byte) (p, rest []byte) {
	n, k := binary.Uvarint(b)
	return b[k : k+int(n) : k+int(n)], b[k+int(n):]
}

// load makes req the head that was kept. Its slices are good until drop; its
// fields lie in the worker's memory until the next load.
func (k *kept) load(w *worker, req *message.Request) {
	b := k.buf
	*req = message.Request{Minor: b[0]}
	b = b[1:]
	for _, p := range [...]*[]byte{&req.Method, &req.Scheme, &req.Authority, &req.Path} {
		*p, b = piece(b)
		if len(*p) == 0 {
			*p = nil
		}
	}
	w.fields = loadFields(w.fields[:0], b)
	req.Fields = w.fields
}

func loadFields(out []message.Field, b []byte) []message.Field {
	for len(b) > 0 {
		f := message.Field{ID: message.Name(b[0]), Hop: b[1]&keptHop != 0, Never: b[1]&keptNever != 0}
		f.Name, b = piece(b[2:])
		f.Value, b = piece(b)
		out = append(out, f)
	}
	return out
}

// holds reports whether anything is kept.
func (k *kept) holds() bool { return k.buf != nil }

func (k *kept) drop(w *worker) {
	if k.buf != nil {
		w.buffers.put(k.buf[:0])
		k.buf = nil
	}
}
