package trace

import (
	"github.com/seinemesh/seine/message"
)

// Out is what a request says of its trace on its way from us.
type Out struct {
	Trace   ID
	Span    SpanID // ours: the receiver's parent
	Parent  SpanID // ours; zero: there is none
	Sampled bool
	Debug   bool // B3's: Sampled, and not to be decided otherwise
	Random  bool
	Short   bool // the trace's ID in 64 bits, where the format has that
	Formats Formats
}

// OutSize is the most that Append writes to its buffer.
const OutSize = 256

// Append appends the fields of every format of o to fields. Their values are
// appended to buf, which must have room for OutSize bytes, and point into it.
func (o *Out) Append(fields []message.Field, buf []byte) ([]message.Field, []byte) {
	add := func(f message.Field, from int) {
		f.Value = buf[from:len(buf):len(buf)]
		fields = append(fields, f)
	}
	if o.Formats&W3C != 0 {
		from := len(buf)
		buf = append(buf, "00-"...)
		buf = o.Trace.Append(buf)
		buf = append(buf, '-')
		buf = o.Span.Append(buf)
		buf = append(buf, "-0"...)
		flags := byte('0')
		if o.Sampled {
			flags++
		}
		if o.Random {
			flags += 2
		}
		buf = append(buf, flags)
		add(message.Field{ID: message.TraceParent, Name: nameParent}, from)
	}
	if o.Formats&B3Single != 0 {
		from := len(buf)
		buf = o.b3Trace(buf)
		buf = append(buf, '-')
		buf = o.Span.Append(buf)
		buf = append(buf, '-')
		buf = append(buf, o.b3State())
		if o.Parent != (SpanID{}) {
			buf = append(buf, '-')
			buf = o.Parent.Append(buf)
		}
		add(message.Field{Name: nameB3}, from)
	}
	if o.Formats&B3Multi != 0 {
		from := len(buf)
		buf = o.b3Trace(buf)
		add(message.Field{Name: nameTraceID}, from)
		from = len(buf)
		buf = o.Span.Append(buf)
		add(message.Field{Name: nameSpanID}, from)
		if o.Parent != (SpanID{}) {
			from = len(buf)
			buf = o.Parent.Append(buf)
			add(message.Field{Name: nameParentID}, from)
		}
		from = len(buf)
		if o.Debug { // it stands for x-b3-sampled: 1
			buf = append(buf, '1')
			add(message.Field{Name: nameFlags}, from)
		} else {
			buf = append(buf, o.b3State())
			add(message.Field{Name: nameSampled}, from)
		}
	}
	return fields, buf
}

var (
	nameParent   = []byte("traceparent")
	nameB3       = []byte("b3")
	nameTraceID  = []byte("x-b3-traceid")
	nameSpanID   = []byte("x-b3-spanid")
	nameParentID = []byte("x-b3-parentspanid")
	nameSampled  = []byte("x-b3-sampled")
	nameFlags    = []byte("x-b3-flags")
)

func (o *Out) b3Trace(buf []byte) []byte {
	if o.Short && [8]byte(o.Trace[:8]) == [8]byte{} {
		return appendHex(buf, o.Trace[8:])
	}
	return o.Trace.Append(buf)
}

func (o *Out) b3State() byte {
	switch {
	case o.Debug:
		return 'd'
	case o.Sampled:
		return '1'
	}
	return '0'
}
