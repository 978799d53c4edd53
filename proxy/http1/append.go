package http1

import (
	"bytes"
	"strconv"

	"github.com/seinemesh/seine/message"
)

// frames are the fields that decide where a message begins, ends and goes. No drop
// reaches them, and no added field may bear their names.
const frames = 1<<message.Host | 1<<message.ContentLength | 1<<message.TransferEncoding

// notAdded are the names that Edit.Add may not bear: this package writes them.
const notAdded = frames | 1<<message.Connection | 1<<message.KeepAlive | 1<<message.ProxyConnection |
	1<<message.TE | 1<<message.Upgrade | 1<<message.Trailer

var nothing Edit

// AppendRequest appends to dst the head to send upstream: HTTP/1.1, the fields
// as they came and in their order, without those of this hop, and with what e
// changes. head is buf[:n] of the ParseRequest that filled req and returned f;
// with a nil head the fields are written one by one.
//
// The request target is sent in origin form (CONNECT: in authority form), and
// Host says req.Authority unless e.Authority replaces it. A caller that grants
// no upgrade clears f.Upgrade before. The error is about e alone
// (status 500), or about an HTTP/1.0 request for which nobody knows an authority (400).
func AppendRequest(dst, head []byte, req *message.Request, f Framing, e *Edit) ([]byte, *Error) {
	if e == nil {
		e = &nothing
	}
	if err := check(e, request); err != nil {
		return dst, err
	}
	want := e.Authority
	if want == nil {
		want = req.Authority
	}
	w := writer{dst: dst, head: head, fields: req.Fields, from: skipEmpty(head)}
	first := w.line(0)
	target := e.Target
	switch {
	case target != nil:
	case string(req.Method) == "CONNECT":
		target = want
	default:
		target = req.Path
	}
	// The line goes as it came if it says HTTP/1.1 and nobody changes the target.
	if len(head) == 0 || head[first-3] != '1' || e.Target != nil ||
		req.Absolute && (!e.Absolute || e.Authority != nil) || string(req.Method) == "CONNECT" && e.Authority != nil {
		w.dst = append(append(w.dst, req.Method...), ' ')
		if req.Absolute && e.Absolute && target[0] == '/' {
			w.dst = append(append(append(w.dst, req.Scheme...), "://"...), want...)
		}
		w.dst = append(append(w.dst, target...), " HTTP/1.1\r\n"...)
		w.from = first
	}
	if _, ok := message.Get(req.Fields, message.Host); !ok {
		if len(want) == 0 {
			return dst, lawHostToDecide.on(request)
		}
		w.flush(first)
		w.add("Host", want)
	}
	o := f.options
	if !f.Upgrade {
		o &^= optUpgrade
	}
	keepTE := false
	for i := range req.Fields {
		p := &req.Fields[i]
		send := true
		switch p.ID {
		case message.Host:
			if !bytes.Equal(want, p.Value) {
				w.replace(i, want)
			} else {
				w.canonical(i)
			}
			continue
		case message.ContentLength, message.TransferEncoding:
			w.canonical(i)
			continue
		case message.TE:
			if p.Drop || e.Drop.Has(p.ID) {
				o &^= optTrailers
			}
			send = o&optTrailers != 0 && !keepTE && message.EqualFold(p.Value, "trailers")
			keepTE = keepTE || send
		case message.Upgrade:
			send = o&optUpgrade != 0 && !p.Hop
		default:
			send = !e.drops(p)
		}
		w.field(i, send)
	}
	w.flush(w.end())
	if o&optTrailers != 0 && !keepTE {
		w.dst = append(w.dst, "TE: trailers\r\n"...)
	}
	if e.Chunk && len(head) == 0 && f.Kind == Chunked {
		w.dst = append(w.dst, "Transfer-Encoding: chunked\r\n"...)
	}
	w.extra(e.Add)
	w.connection(o, e.Close, e.KeepAlive)
	return append(w.dst, '\r', '\n'), nil
}

// AppendResponse appends to dst the head to send downstream, of a final or an
// interim response. Where the body ends with the connection (Kind Close
// without e.Chunk, or e.Unchunk), Connection: close is said by itself, and the caller has
// to close.
func AppendResponse(dst, head []byte, res *message.Response, f Framing, e *Edit) ([]byte, *Error) {
	if e == nil {
		e = &nothing
	}
	if err := check(e, response); err != nil {
		return dst, err
	}
	w := writer{dst: dst, head: head, fields: res.Fields}
	first := w.line(0)
	if len(head) == 0 || head[7] != '1' {
		w.dst = append(w.dst, "HTTP/1.1 "...)
		w.dst = strconv.AppendInt(w.dst, int64(res.Status), 10)
		w.dst = append(append(append(w.dst, ' '), res.Reason...), '\r', '\n')
		w.from = first
	}
	o := f.options
	unchunk := e.Unchunk && f.Kind == Chunked
	for i := range res.Fields {
		p := &res.Fields[i]
		send := true
		switch p.ID {
		case message.ContentLength, message.TransferEncoding:
			if o&optNoLength == 0 && (!e.Unchunk || p.ID == message.ContentLength) {
				w.canonical(i)
				continue
			}
			send = false
		case message.Trailer:
			send = !e.Unchunk && !e.drops(p)
		case message.Upgrade:
			send = o&optUpgrade != 0 && !p.Hop
		default:
			send = !e.drops(p)
		}
		w.field(i, send)
	}
	w.flush(w.end())
	if e.Chunk && f.Kind == Close {
		w.dst = append(w.dst, "Transfer-Encoding: chunked\r\n"...)
	}
	w.extra(e.Add)
	if !f.Interim {
		w.connection(o, e.Close || unchunk || f.Kind == Close && !e.Chunk, e.KeepAlive)
	}
	return append(w.dst, '\r', '\n'), nil
}

// drops reports whether the field is not to be sent.
func (e *Edit) drops(p *message.Field) bool {
	if p.Hop || p.Drop || e.Drop.Has(p.ID) {
		return true
	}
	for _, n := range e.DropNames {
		if message.EqualFold(p.Name, n) {
			return true
		}
	}
	return false
}

// check refuses an Edit that would write what our own parser refuses.
func check(e *Edit, s side) *Error {
	for i := range e.Add {
		p := &e.Add[i]
		id := message.Intern(p.Name)
		if id != message.Other && notAdded>>id&1 != 0 || !message.ValidName(p.Name) || !message.ValidValue(p.Value) {
			return &lawAdded[request]
		}
	}
	if s == response {
		return nil
	}
	if e.Target != nil {
		if len(e.Target) == 0 {
			return &lawEditTarget[request]
		}
		for _, c := range e.Target {
			if !targetByte[c] {
				return &lawEditTarget[request]
			}
		}
	}
	if e.Authority != nil {
		if _, bad := authority(e.Authority); bad != nil {
			return &lawEditHost[request]
		}
	}
	return nil
}

// writer copies a head in ranges that are as long as possible: from is where
// the range that was not copied yet begins.
type writer struct {
	dst    []byte
	head   []byte
	fields []message.Field
	from   int
}

// end is where the empty line of the head begins.
func (w *writer) end() int { return max(len(w.head)-2, 0) }

// line is where the i-th field's line begins.
func (w *writer) line(i int) int {
	if i < len(w.fields) && len(w.head) > 0 {
		return int(w.fields[i].Line)
	}
	return w.end()
}

// flush copies the head up to there.
func (w *writer) flush(to int) {
	if len(w.head) > 0 {
		w.dst = append(w.dst, w.head[w.from:to]...)
		w.from = to
	}
}

// skip leaves the i-th field out.
func (w *writer) skip(i int) {
	w.flush(w.line(i))
	w.from = w.line(i + 1)
}

// field sends the i-th field as it came, or leaves it out.
func (w *writer) field(i int, send bool) {
	switch {
	case !send:
		w.skip(i)
	case len(w.head) == 0:
		w.replace(i, w.fields[i].Value)
	}
}

// replace writes the i-th field with another value.
func (w *writer) replace(i int, value []byte) {
	w.skip(i)
	w.dst = append(append(w.dst, w.fields[i].Name...), ": "...)
	w.dst = append(append(w.dst, value...), '\r', '\n')
}

// canonical writes a field that frames the message with one space before its
// value and nothing after it, so that nobody behind us has to trim as we do.
func (w *writer) canonical(i int) {
	p := &w.fields[i]
	at := w.line(i)
	if len(w.head) > 0 && w.line(i+1)-at == len(p.Name)+len(p.Value)+4 && w.head[at+len(p.Name)+1] == ' ' {
		return
	}
	w.replace(i, p.Value)
}

func (w *writer) add(name string, value []byte) {
	w.dst = append(append(w.dst, name...), ": "...)
	w.dst = append(append(w.dst, value...), '\r', '\n')
}

func (w *writer) extra(add []message.Field) {
	for i := range add {
		w.dst = append(append(w.dst, add[i].Name...), ": "...)
		w.dst = append(append(w.dst, add[i].Value...), '\r', '\n')
	}
}

// connection writes the one Connection field of the new head, if it needs any.
func (w *writer) connection(o options, close, keepAlive bool) {
	if o&(optUpgrade|optTrailers) == 0 && !close && !keepAlive {
		return
	}
	w.dst = append(w.dst, "Connection: "...)
	if o&optUpgrade != 0 {
		w.dst = append(w.dst, "Upgrade, "...)
	}
	if o&optTrailers != 0 {
		w.dst = append(w.dst, "TE, "...)
	}
	if close {
		w.dst = append(w.dst, "close, "...)
	} else if keepAlive {
		w.dst = append(w.dst, "keep-alive, "...)
	}
	w.dst = append(w.dst[:len(w.dst)-2], '\r', '\n')
}
