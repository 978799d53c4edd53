package http2

// state is what has happened on a stream.
type state uint16

const (
	peerEnded state = 1 << iota // the peer sent END_STREAM
	weEnded                     // we framed END_STREAM
	closed                      // both, or reset
	weReset
	headSent // our final head is framed
	headCame // the peer's final head came
	askedHead
	connects // CONNECT: what follows a 2xx is a tunnel
	tunnel   // CONNECT that was accepted: nothing but data may follow (RFC 9113 §8.5)
	isReady  // in the ring of streams that have something to send
	hasMoved // in the list of Moved
	counted  // against the peer's limit (client)
)

// Stream is one request and its response. It is valid until it is released,
// also after the connection has failed.
type Stream struct {
	Owner any // the caller's

	id    uint32
	state state
	send  int64 // our window: what we may still send; a changed setting can make it negative
	recv  int64 // the peer's: what it may still send

	unread int   // bytes of data that came, or are announced, and are not consumed
	credit int   // bytes that were consumed and not yet given back to the peer
	left   int64 // of what Content-Length says is still to come; -1: it says nothing

	rest  []byte // lent by the caller: what is to be sent
	end   bool   // after it the stream ends
	moved int    // bytes framed since Moved told of them

	next, prev *Stream // in the ring of ready ones
	after      *Stream // in the list of moved ones, or of free ones
}

// ID is the stream's number.
func (s *Stream) ID() uint32 { return s.id }

// Rest is what Send was given and Append has not framed yet. A caller whose
// slice is about to be used for something else copies it and calls Send again.
func (s *Stream) Rest() []byte { return s.rest }

// Window is how many bytes the peer lets this stream send; the connection's
// window may allow less.
func (s *Stream) Window() int { return int(max(s.send, 0)) }

// Closed reports whether nothing more can come or go: both sides ended, or a reset.
func (s *Stream) Closed() bool { return s.state&closed != 0 }

// Ended reports whether the peer has sent all of its message.
func (s *Stream) Ended() bool { return s.state&peerEnded != 0 }

// Sent reports whether all of our message is framed.
func (s *Stream) Sent() bool { return s.state&weEnded != 0 }

// table finds streams by number: open addressing over a power of two, since
// numbers follow each other.
type table struct {
	slots []*Stream
	n     int
}

func (t *table) get(id uint32) *Stream {
	if t.n == 0 {
		return nil
	}
	mask := uint32(len(t.slots) - 1)
	for i := id >> 1 & mask; ; i = (i + 1) & mask {
		if s := t.slots[i]; s == nil || s.id == id {
			return s
		}
	}
}

func (t *table) put(s *Stream) {
	if 2*(t.n+1) > len(t.slots) {
		old := t.slots
		t.slots, t.n = make([]*Stream, max(8, 2*len(old))), 0
		for _, o := range old {
			if o != nil {
				t.put(o)
			}
		}
	}
	mask := uint32(len(t.slots) - 1)
	i := s.id >> 1 & mask
	for t.slots[i] != nil {
		i = (i + 1) & mask
	}
	t.slots[i] = s
	t.n++
}

func (t *table) remove(s *Stream) {
	mask := uint32(len(t.slots) - 1)
	i := s.id >> 1 & mask
	for t.slots[i] != s {
		i = (i + 1) & mask
	}
	t.n--
	// Close the gap: what hashes at or before it moves up.
	for j := (i + 1) & mask; t.slots[j] != nil; j = (j + 1) & mask {
		if home := t.slots[j].id >> 1 & mask; (j-home)&mask >= (j-i)&mask {
			t.slots[i] = t.slots[j]
			i = j
		}
	}
	t.slots[i] = nil
}

// maxFree bounds how many unused streams a Scratch keeps.
const maxFree = 4096

func (c *Conn) newStream(id uint32) *Stream {
	sc := c.scratch
	s := sc.free
	if s != nil {
		sc.free = s.after
		sc.nfree--
	} else {
		s = new(Stream)
	}
	*s = Stream{id: id, send: c.peerWindow, recv: int64(c.o.Window), left: -1}
	c.streams.put(s)
	return s
}

// Release gives a stream back: the caller has done with it and holds it no
// longer. A stream that is not closed is reset: with NO_ERROR if all of our
// message was sent (RFC 9113 §8.1), else with CANCEL. Bytes that were not
// consumed are given back to the connection's window.
func (c *Conn) Release(s *Stream) {
	if !s.Closed() {
		code := Cancel
		if c.o.Role == Server && s.Sent() {
			code = NoError
		}
		c.Reset(s, code)
	}
	c.giveBack(s.unread)
	c.unready(s)
	c.unmove(s)
	c.streams.remove(s)
	*s = Stream{}
	if sc := c.scratch; sc.nfree < maxFree {
		s.after = sc.free
		sc.free = s
		sc.nfree++
	}
}

// Any returns one of the streams that are not released, nil if there is none: to
// end them all after Failed.
func (c *Conn) Any() *Stream {
	if c.streams.n > 0 {
		for _, s := range c.streams.slots {
			if s != nil {
				return s
			}
		}
	}
	return nil
}

// Each calls f for the streams that are not released; f must release none.
func (c *Conn) Each(f func(*Stream)) {
	for _, s := range c.streams.slots {
		if s != nil {
			f(s)
		}
	}
}

// Streams is how many streams are not released.
func (c *Conn) Streams() int { return c.streams.n }

// ended closes a stream once both sides have ended.
func (c *Conn) ended(s *Stream, side state) {
	s.state |= side
	if s.state&peerEnded != 0 && s.state&weEnded != 0 {
		c.close(s)
	}
}

func (c *Conn) close(s *Stream) {
	s.state |= closed
	s.rest, s.end = nil, false
	c.unready(s)
	if s.state&counted != 0 {
		s.state &^= counted
		c.mine--
	}
}

// ready puts a stream at the end of the ring.
func (c *Conn) ready(s *Stream) {
	if s.state&isReady != 0 {
		return
	}
	s.state |= isReady
	if c.turn == nil {
		c.turn, s.next, s.prev = s, s, s
		return
	}
	s.next, s.prev = c.turn, c.turn.prev
	s.prev.next, s.next.prev = s, s
}

func (c *Conn) unready(s *Stream) {
	if s.state&isReady == 0 {
		return
	}
	s.state &^= isReady
	if c.turn == s {
		c.turn = s.next
	}
	if s.next == s {
		c.turn = nil
	}
	s.prev.next, s.next.prev = s.next, s.prev
	s.next, s.prev = nil, nil
}

func (c *Conn) move(s *Stream, n int) {
	s.moved += n
	if s.state&hasMoved == 0 {
		s.state |= hasMoved
		s.after, c.moved = c.moved, s
	}
}

func (c *Conn) unmove(s *Stream) {
	if s.state&hasMoved == 0 {
		return
	}
	for p := &c.moved; *p != nil; p = &(*p).after {
		if *p == s {
			*p = s.after
			return
		}
	}
}

// Moved returns a stream of which Append has framed bytes or the end since it
// was last returned, and how many bytes; nil if there is none.
func (c *Conn) Moved() (s *Stream, n int) {
	if s = c.moved; s == nil {
		return nil, 0
	}
	c.moved, s.after = s.after, nil
	s.state &^= hasMoved
	n, s.moved = s.moved, 0
	return s, n
}
