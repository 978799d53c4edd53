//go:build linux

package proxy

import (
	"github.com/seinemesh/seine/proxy/http2"
)

const (
	// frameAhead bounds the bytes that a connection frames before they are
	// written: what TLS takes in one go.
	frameAhead = 48 << 10
	// headsAhead bounds the heads that wait because the peer does not read:
	// they cannot be held back as data can, since HPACK binds their order.
	headsAhead = 1 << 20
	// streamsEach is how many streams a connection carries, in either role.
	streamsEach = 128
	// streamWindow is what may wait of one stream's data.
	streamWindow = 64<<10 - 1
)

// Memory of one HTTP/2 connection is bounded by its streams' windows (callers:
// 1 MiB together; another sidecar and an upstream, behind which many callers
// may be: streamsEach × streamWindow), the heads on their way (headsAhead), and
// http2.Limits for everything else.
var (
	callerH2   = http2.NewOptions(http2.Options{ExtendedConnect: true, Limits: http2.Limits{Streams: streamsEach, Fields: maxFields}})
	meshH2     = http2.NewOptions(http2.Options{ExtendedConnect: true, Limits: http2.Limits{Streams: streamsEach, ConnWindow: streamsEach * streamWindow, Fields: maxFields + addedFields, Head: 64<<10 + addedHead}})
	upstreamH2 = http2.NewOptions(http2.Options{Role: http2.Client, Limits: http2.Limits{ConnWindow: streamsEach * streamWindow, Fields: maxFields + addedFields, Head: 64<<10 + addedHead}})
)

// link is an HTTP/2 connection over a socket, whichever end of it we are. What
// is said on any of its streams during a turn of the loop is framed into one
// buffer and leaves in one write at the turn's end.
type link struct {
	*socket
	h2   *http2.Conn
	user linkUser
	up   bool // we are the client

	out    []byte // pooled: framed, to be written
	hint   int    // bytes that were lent since the last framing
	marked bool   // among worker.links
	queued bool   // in the loop's queue of put-off work
	budget int
	turn   uint64
	heard  int64 // when something last came
	asked  bool  // a PING is on its way
}

// linkUser is who acts on what comes.
type linkUser interface {
	event(ev *http2.Event)
	// broken: the socket has failed or ended.
	broken()
	// written: what could be written was.
	written()
}

func (l *link) begin(s *socket, o *http2.Options, user linkUser) {
	l.socket, l.user, l.up = s, user, o.Role == http2.Client
	l.h2 = http2.New(o, &s.w.frames)
	l.heard = s.w.loop.Now()
	l.mark()
}

// mark has the link written at the end of the turn.
func (l *link) mark() {
	if !l.marked && !l.closed {
		l.marked = true
		l.w.links = append(l.w.links, l)
	}
}

// room makes room for a head of about n bytes.
func (l *link) room(n int) []byte {
	l.mark()
	l.out = l.w.buffers.grow(l.out, n+256)
	return l.out
}

// ready takes what came, up to the connection's share of a turn.
func (l *link) ready() {
	s := l.socket
	if now := l.w.loop.Turn(); l.turn != now {
		l.turn, l.budget = now, turnBudget
	}
	for !s.closed && s.err == nil && !s.eof {
		if l.budget <= 0 {
			if !l.queued {
				l.queued = true
				l.w.loop.Later(l)
			}
			break
		}
		if !s.fill() {
			break
		}
		l.feed()
	}
	if s.closed {
		return
	}
	if s.err != nil || s.eof || s.lost != nil {
		l.user.broken()
		return
	}
	l.mark() // there may be room again for what waits
}

// Resume goes on after others had their turn.
func (l *link) Resume() {
	l.queued = false
	if !l.closed {
		l.ready()
	}
}

// feed gives what has come to the state machine.
func (l *link) feed() {
	w, s := l.w, l.socket
	data := s.data
	total := len(data)
	l.heard, l.asked = w.loop.Now(), false
	l.h2.Tick(l.heard)
	ev := &w.event
	w.feeding = true
	for {
		n := l.h2.Next(data, ev)
		data = data[n:]
		if ev.Kind == http2.NeedMore {
			break
		}
		l.user.event(ev)
		if s.closed {
			break
		}
	}
	w.feeding = false
	w.settleLent()
	if s.closed {
		return
	}
	s.consume(total - len(data))
	l.budget -= total - len(data)
	if b, ok := l.user.(*bundle); ok {
		b.hurry()
	}
	l.mark() // there may be acknowledgements and windows to give
}

// frame puts what the windows allow into the output buffer.
func (l *link) frame() {
	if l.closed || l.blocked() {
		return
	}
	for len(l.out) < frameAhead {
		before := len(l.out)
		l.out = l.w.buffers.grow(l.out, min(l.hint+512, frameAhead))
		room := cap(l.out) - before
		l.out = l.h2.Append(l.out, room)
		for s, n := l.h2.Moved(); s != nil; s, n = l.h2.Moved() {
			if x, ok := s.Owner.(*exchange); ok {
				x.framed(l, s, n)
			} else if s.Sent() { // the rest of an answer of our own
				l.h2.Release(s)
			}
		}
		if n := len(l.out) - before; n == 0 || n+300 < room { // it was not for want of room
			break
		}
	}
	l.hint = 0
}

// push frames and writes, at the end of a turn.
func (l *link) push() {
	for !l.closed && !l.blocked() {
		l.frame()
		if len(l.out) == 0 {
			break
		}
		n := min(len(l.out), frameAhead) // heads may be more; TLS takes no more at once
		l.send(l.out[:n], nil)
		l.out = l.out[:copy(l.out, l.out[n:])]
	}
	if l.closed {
		l.free()
		return
	}
	if len(l.out) == 0 {
		l.free()
	} else if len(l.out) > headsAhead {
		l.h2.Abort(http2.EnhanceYourCalm)
		l.user.broken()
		return
	}
	if l.lost != nil || l.err != nil {
		l.user.broken()
		return
	}
	l.user.written()
}

func (l *link) free() {
	if l.out != nil {
		l.w.buffers.put(l.out[:0])
		l.out = nil
	}
}

// alive asks a peer that was silent for Options.Pulse for a sign of life; false: it
// gave none for as long again.
func (l *link) alive() bool {
	now, pulse := l.w.loop.Now(), int64(l.w.p.o.Pulse)
	if now-l.heard < pulse {
		return true
	}
	if l.asked {
		if now-l.heard < 2*pulse {
			return true
		}
		l.w.p.counters.deadPeers.Inc()
		return false
	}
	l.asked = true
	l.h2.Ping([8]byte{'s', 'e', 'i', 'n', 'e'})
	l.mark()
	return true
}

// flush ends a turn: heads that no content followed leave, and every connection
// on which something was said is written.
func (w *worker) flush() {
	w.sendHeads()
	for i := 0; i < len(w.links); i++ { // writing may mark others
		l := w.links[i]
		l.marked = false
		l.push()
		w.sendHeads()
	}
	clear(w.links)
	w.links = w.links[:0]
	for i, st := range w.finished {
		w.finished[i] = nil
		st.recycle()
	}
	w.finished = w.finished[:0]
}
