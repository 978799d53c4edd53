//go:build linux

package proxy

import (
	"github.com/seinemesh/seine/message"
	"github.com/seinemesh/seine/proxy/http1"
	"github.com/seinemesh/seine/proxy/http2"
)

// pipe is one direction of an exchange of which at least one leg is HTTP/2: the
// content on its way from its source to its sink. What the sink does not take
// now is held, and its source is given no more window for it (HTTP/2) or is
// not read (HTTP/1): so no more is held than one window or one read.
type pipe struct {
	from *link // an HTTP/2 source
	fs   *http2.Stream

	to    *link // an HTTP/2 sink
	ts    *http2.Stream
	plain *socket // or a connection of HTTP/1 or a tunnel
	chunk bool    // plain: in chunks
	raw   bool    // plain: a tunnel, whose end is the end of the stream
	// trails: plain, in chunks: trailers go with the last one, since both ends
	// speak HTTP/1.1 and what the two say to each other is not ours to cut.
	trails bool

	open bool // the sink takes content
	end  bool // the source has ended
	done bool // the sink has been given everything

	lent     bool   // the sink's bytes lie in the source's scratch memory
	held     []byte // pooled: came and not taken
	head     []byte // pooled: plain: of the message; leaves with the first content, or at the turn's end
	trailers kept
}

// reset leaves the sink; what is held stays.
func (f *pipe) detach() {
	f.open, f.done, f.lent, f.trails = false, false, false, false
	f.to, f.ts, f.plain = nil, nil, nil
}

// drop gives up what is held.
func (f *pipe) drop(w *worker) {
	if f.held != nil {
		w.buffers.put(f.held[:0])
		f.held = nil
	}
	f.dropHead(w)
	f.trailers.drop(w)
}

// lead has a plain sink get head before the content, in one write with what of
// that comes in the same turn of the loop.
func (f *pipe) lead(w *worker, head []byte) {
	f.head = append(w.buffers.get(len(head)), head...)
	w.heads = append(w.heads, f)
}

// sendHead sends the head alone, if it waits still.
func (f *pipe) sendHead(w *worker) {
	if f.head != nil {
		f.plain.send(f.head, nil)
		f.dropHead(w)
	}
}

// sendHeads sends those that no content has followed in this turn.
func (w *worker) sendHeads() {
	for i := 0; i < len(w.heads); i++ { // a machine that goes on may add others
		f := w.heads[i]
		if f.head == nil {
			continue
		}
		if f.sendHead(w); f.plain.lost != nil {
			f.plain.owner.ready()
		}
	}
	clear(w.heads)
	w.heads = w.heads[:0]
}

func (f *pipe) dropHead(w *worker) {
	if f.head != nil {
		w.buffers.put(f.head[:0])
		f.head = nil
	}
}

// free reports whether the sink has taken all that came.
func (f *pipe) free() bool {
	switch {
	case !f.open || len(f.held) > 0:
		return false
	case f.ts != nil:
		return len(f.ts.Rest()) == 0
	}
	return !f.plain.blocked()
}

// push takes bytes that lie in scratch memory and, with end, the end of the
// content.
func (f *pipe) push(w *worker, p []byte, end bool) {
	f.end = f.end || end
	switch {
	case !f.open:
		f.hold(w, p)
	case f.ts != nil:
		f.lend(w, p)
	case len(f.held) > 0 || f.plain.blocked():
		f.hold(w, p)
	default:
		f.write(w, p)
		f.taken(len(p))
	}
}

func (f *pipe) hold(w *worker, p []byte) {
	if len(p) > 0 {
		f.held = w.buffers.append(f.held, p)
	}
}

// lend gives p to an HTTP/2 sink behind what it has.
func (f *pipe) lend(w *worker, p []byte) {
	rest := f.ts.Rest()
	if len(rest) > 0 && f.lent {
		f.to.frame()
		if f.ts == nil {
			return // that was its end
		}
		rest = f.ts.Rest()
	}
	if len(rest) > 0 {
		f.own(w, rest)
		f.held = w.buffers.append(f.held, p)
		p = f.held
	} else if len(f.held) > 0 {
		w.buffers.put(f.held[:0])
		f.held = nil
	}
	f.lent = len(f.held) == 0 && len(p) > 0
	if f.lent {
		w.lent = append(w.lent, f)
	}
	f.to.hint += len(p) + 16
	_ = f.to.h2.Send(f.ts, p, f.end && !f.trailers.holds())
	f.to.mark()
}

// own makes held what the sink has not framed.
func (f *pipe) own(w *worker, rest []byte) {
	if f.lent || f.held == nil {
		f.held = append(w.buffers.get(len(rest)), rest...)
		f.lent = false
		return
	}
	f.held = f.held[:copy(f.held, rest)]
}

// settleLent frames what was lent in this turn of a source, and copies what
// cannot be: the source's memory is about to be used again.
func (w *worker) settleLent() {
	for i := 0; i < len(w.lent); i++ {
		f := w.lent[i]
		if !f.lent {
			continue
		}
		f.to.frame()
		if !f.lent || f.ts == nil {
			continue
		}
		if rest := f.ts.Rest(); len(rest) > 0 {
			f.own(w, rest)
			_ = f.to.h2.Send(f.ts, f.held, f.end && !f.trailers.holds())
		}
		f.lent = false
	}
	clear(w.lent)
	w.lent = w.lent[:0]
}

// taken says that the sink has n bytes more.
func (f *pipe) taken(n int) {
	if f.fs != nil && n > 0 {
		f.from.h2.Consume(f.fs, n)
		f.from.mark()
	}
}

// write gives p to a plain sink that is not blocked, behind the head if that
// waits still.
func (f *pipe) write(w *worker, p []byte) {
	switch {
	case f.chunk:
		out := append(w.out[:0], f.head...)
		if len(p) > 0 {
			out = http1.AppendChunk(out, len(p))
			out = append(append(out, p...), http1.CRLF...)
		}
		if f.end {
			out = f.appendLast(w, out)
		}
		w.out = out[:0]
		f.plain.send(out, nil)
	case f.head != nil && f.plain.joins(len(f.head), len(p)):
		out := append(append(w.out[:0], f.head...), p...)
		w.out = out[:0]
		f.plain.send(out, nil)
	default:
		f.plain.send(f.head, p)
	}
	f.dropHead(w)
	if f.end && f.raw && !f.chunk {
		f.plain.finish()
	}
	f.done = f.end
}

// appendLast appends the last chunk, with the trailers if there are any.
func (f *pipe) appendLast(w *worker, out []byte) []byte {
	if !f.trailers.holds() {
		return append(out, http1.LastChunk...)
	}
	out = append(out, "0\r\n"...)
	w.fields = loadFields(w.fields[:0], f.trailers.buf)
	for i := range w.fields {
		out = append(append(append(out, w.fields[i].Name...), ": "...), w.fields[i].Value...)
		out = append(out, http1.CRLF...)
	}
	f.trailers.drop(w)
	return append(out, http1.CRLF...)
}

// drain gives what is held to a plain sink, if it takes it.
func (f *pipe) drain(w *worker) bool {
	if !f.open || f.plain == nil || f.plain.blocked() || len(f.held) == 0 && (f.done || !f.end) {
		return false
	}
	n := len(f.held)
	f.write(w, f.held)
	if f.held != nil {
		w.buffers.put(f.held[:0])
		f.held = nil
	}
	f.taken(n)
	return true
}

// trail takes the source's trailers, which end the content. An HTTP/1 sink gets
// none unless trails is set: nobody has said that it takes them.
func (f *pipe) trail(w *worker, fields []message.Field) {
	if f.open && f.ts == nil {
		if f.trails && f.chunk && len(fields) > 0 {
			f.trailers.keepFields(w, fields)
		}
		f.push(w, nil, true)
		return
	}
	f.trailers.keepFields(w, fields)
	f.end = true
	if f.open {
		if f.lent {
			f.to.frame()
		}
		f.trailed(w)
	}
}

// trailed sends the trailers once all before them is framed; it reports whether
// it did.
func (f *pipe) trailed(w *worker) bool {
	if !f.open || f.done || !f.trailers.holds() || f.ts == nil || len(f.ts.Rest()) > 0 {
		return false
	}
	w.fields = loadFields(w.fields[:0], f.trailers.buf)
	out, err := f.to.h2.AppendTrailers(f.to.room(len(f.trailers.buf)), f.ts, w.fields)
	f.to.out = out
	f.trailers.drop(w)
	f.done = err == nil
	return true
}
