package http2

import (
	"encoding/binary"

	"github.com/seinemesh/seine/proxy/http2/hpack"
)

// startData takes a DATA frame's header.
func (c *Conn) startData(h header, in []byte, ev *Event) int {
	if h.id == 0 {
		c.fail(errStreamZero)
		return 0
	}
	if c.isIdle(h.id) {
		c.fail(errIdle)
		return 0
	}
	n, pad := headerLen, 0
	if h.flags&flagPadded != 0 {
		if h.length == 0 {
			c.fail(errFrameLength)
			return 0
		}
		if len(in) < headerLen+1 {
			return 0
		}
		if pad = int(in[headerLen]); pad >= h.length {
			c.fail(errPadding)
			return 0
		}
		n++
	}
	c.recv -= int64(h.length)
	if c.recv < 0 {
		c.fail(errConnFlow)
		return 0
	}
	length := headerLen + h.length - n - pad // of the data itself
	end := h.flags&flagEnd != 0
	if length == 0 && !end {
		if c.idled(); c.failed != nil {
			return 0
		}
	}
	d := &c.data
	d.on, d.left, d.pad, d.id, d.end = true, length, pad, h.id, end
	s := c.streams.get(h.id)
	var bad *Error
	switch {
	case s == nil || s.Closed():
		// What was on its way when we reset the stream is no error. A client
		// takes everything on its old streams for that.
		if (s == nil || s.state&weReset == 0) && !c.forgot(h.id) && c.o.Role == Server {
			c.queueReset(h.id, StreamClosed)
			c.tookReset()
		}
		d.id = 0
		c.giveBack(h.length)
		return n
	case s.state&peerEnded != 0:
		bad = errClosed
	case s.recv < int64(h.length):
		bad = errFlow
	case c.o.Role == Client && s.state&headCame == 0:
		bad = errBeforeHead
	case s.left >= 0 && (int64(length) > s.left || end && int64(length) != s.left):
		bad = errLength
	}
	if bad != nil {
		c.giveBack(h.length)
		d.id = 0
		c.breakStream(s, bad, ev)
		return n
	}
	if length > 0 {
		c.pings.earn(1) // gRPC measures with one for each round trip of data
	}
	s.recv -= int64(h.length)
	s.unread += length
	if s.left >= 0 {
		s.left -= int64(length)
	}
	if over := h.length - length; over > 0 {
		c.giveBack(over)
		c.giveStream(s, over)
	}
	return n
}

// moreData passes on what there is of a DATA frame.
func (c *Conn) moreData(in []byte, ev *Event) int {
	d := &c.data
	k := min(len(in), d.left)
	p := min(len(in)-k, d.pad)
	if d.left > k {
		p = 0
	}
	d.left -= k
	d.pad -= p
	done := d.left == 0 && d.pad == 0
	if done {
		d.on = false
	}
	if s := c.streams.get(d.id); d.id != 0 && s != nil && !s.Closed() {
		end := done && d.end
		if end {
			c.ended(s, peerEnded)
		}
		if k > 0 || end {
			ev.Kind, ev.ID, ev.Stream, ev.Data, ev.End = Data, s.id, s, in[:k:k], end
		}
	}
	return k + p
}

// Consume says that n bytes of a stream's data were passed on: the peer may
// send as many more. It is told once that is no less than what it still has: when
// half of the window has been given back, sooner if the other half waits here.
func (c *Conn) Consume(s *Stream, n int) {
	n = min(n, s.unread)
	s.unread -= n
	c.giveBack(n)
	if s.state&(peerEnded|closed) == 0 {
		c.giveStream(s, n)
	}
}

// giveBack raises the connection's window.
func (c *Conn) giveBack(n int) {
	c.credit += n
	if int64(c.credit) >= c.recv && c.credit > 0 {
		c.recv += int64(c.credit)
		c.queue(appendWindow(c.ctl, 0, uint32(c.credit)))
		c.credit = 0
	}
}

func (c *Conn) giveStream(s *Stream, n int) {
	s.credit += n
	if int64(s.credit) >= s.recv && s.credit > 0 {
		s.recv += int64(s.credit)
		c.queue(appendWindow(c.ctl, s.id, uint32(s.credit)))
		s.credit = 0
	}
}

// forgot reports whether we have reset a stream that is released.
func (c *Conn) forgot(id uint32) bool {
	for _, f := range c.forgotten {
		if f == id {
			return true
		}
	}
	return false
}

func (c *Conn) headersFrame(h header, p []byte, ev *Event) {
	if h.flags&flagPadded != 0 {
		if len(p) == 0 {
			c.fail(errFrameLength)
			return
		}
		pad := int(p[0])
		if p = p[1:]; pad > len(p) {
			c.fail(errPadding)
			return
		}
		p = p[:len(p)-pad]
	}
	self := false
	if h.flags&flagPriority != 0 {
		if len(p) < 5 {
			c.fail(errFrameLength)
			return
		}
		self = binary.BigEndian.Uint32(p)&maxWindow == h.id
		p = p[5:]
	}
	b := &c.block
	b.id, b.end, b.self = h.id, h.flags&flagEnd != 0, self
	if h.flags&flagHeaders == 0 {
		b.on, b.frames = true, 0
		c.keep(p)
		return
	}
	if len(p) > c.o.Block {
		c.fail(errBlock)
		return
	}
	c.head(p, ev)
}

// keep adds to the header block.
func (c *Conn) keep(p []byte) bool {
	if len(c.block.bytes)+len(p) > c.o.Block {
		c.fail(errBlock)
		return false
	}
	c.block.bytes = append(c.block.bytes, p...)
	return true
}

func (c *Conn) continuation(h header, p []byte, ev *Event) {
	b := &c.block
	if !b.on {
		c.fail(errContinuation)
		return
	}
	if b.frames++; b.frames > c.o.Fragments {
		c.fail(errFragments)
		return
	}
	if !c.keep(p) || h.flags&flagHeaders == 0 {
		return
	}
	block := b.bytes
	b.on, b.bytes = false, nil // rare: no memory is kept for it
	c.head(block, ev)
}

// head takes a whole header block.
func (c *Conn) head(block []byte, ev *Event) {
	sc := c.scratch
	err := c.dec.Decode(block, &sc.block, hpack.Limits{List: c.o.Head, Fields: c.o.Fields + 5})
	if err != nil && err != hpack.ErrList {
		c.fail(errCompression)
		return
	}
	id := c.block.id
	s := c.streams.get(id)
	switch {
	case c.o.Role == Server:
		if id&1 == 0 {
			c.fail(errStreamID)
			return
		}
		if s == nil && id > c.lastPeer {
			c.lastPeer = id
			c.request(id, err != nil, ev)
			return
		}
		if s == nil && !c.forgot(id) || s != nil && s.Closed() && s.state&weReset == 0 {
			c.fail(errHeadersClosed)
			return
		}
	case id&1 == 0:
		c.fail(errStreamID)
		return
	case id > c.lastOurs:
		c.fail(errIdle)
		return
	}
	switch {
	case s == nil || s.Closed():
		c.idled() // it was on its way when we reset the stream
	case c.block.self:
		c.breakStream(s, errSelf, ev)
	case s.state&peerEnded != 0:
		c.breakStream(s, errClosed, ev)
	case err != nil:
		c.breakStream(s, errHead, ev)
	case c.o.Role == Client && s.state&headCame == 0:
		c.response(s, ev)
	default:
		c.trailers(s, ev)
	}
}

// request opens a stream.
func (c *Conn) request(id uint32, over bool, ev *Event) {
	b := &c.block
	sc := c.scratch
	var f framing
	var bad *Error
	switch {
	case c.shut:
		bad = errGoing
	case c.streams.n >= c.o.Streams:
		bad = errRefused
	case b.self:
		bad = errSelf
	case over:
		bad = errHead
	default:
		f, bad = parseRequest(sc.block.Fields, &sc.request, c.o)
		if bad == nil && f.length > 0 && b.end {
			bad = errLength
		}
	}
	if bad != nil {
		ev.Kind, ev.ID, ev.Err, ev.Code = Refused, id, bad, bad.Code
		if bad == errHead {
			at := len(c.ctl)
			ctl := c.enc.Begin(appendHeader(c.ctl, 0, frameHeaders, 0, id))
			ctl = c.enc.AppendStatus(ctl, 431)
			putHeader(ctl[at:], len(ctl)-at-headerLen, frameHeaders, flagHeaders|flagEnd, id)
			c.queue(ctl)
			if !b.end {
				c.forget(id)
				c.queueReset(id, NoError)
			}
		} else {
			c.forget(id)
			c.queueReset(id, bad.Code)
		}
		if bad == errGoing || bad == errRefused && !c.acked {
			c.idled() // the client could not know
		} else {
			c.tookReset()
		}
		return
	}
	s := c.newStream(id)
	s.state |= headCame
	if f.connect {
		s.state |= connects
	} else {
		s.left = f.length
	}
	if f.head {
		s.state |= askedHead
	}
	if b.end {
		s.state |= peerEnded
	}
	c.worked()
	ev.Kind, ev.ID, ev.Stream, ev.Request, ev.Protocol, ev.End = Request, id, s, &sc.request, f.protocol, b.end
}

func (c *Conn) response(s *Stream, ev *Event) {
	sc := c.scratch
	length, bad := parseResponse(sc.block.Fields, &sc.response)
	status := sc.response.Status
	interim := status < 200
	switch {
	case bad != nil:
	case interim && c.block.end:
		bad = errInterimEnd
	case interim:
	case s.state&connects != 0 && status < 300:
		length = -1
		s.state |= tunnel
	case s.state&askedHead != 0 || status == 204 || status == 304:
		length = 0
	case length > 0 && c.block.end:
		bad = errLength
	}
	if bad != nil {
		c.breakStream(s, bad, ev)
		return
	}
	if !interim {
		s.state |= headCame
		s.left = length
		c.worked()
	} else {
		c.idled()
	}
	ev.Kind, ev.ID, ev.Stream, ev.Response, ev.End = Response, s.id, s, &sc.response, c.block.end
	if c.block.end {
		c.ended(s, peerEnded)
	}
}

func (c *Conn) trailers(s *Stream, ev *Event) {
	fields := c.scratch.block.Fields
	var bad *Error
	switch {
	case s.state&tunnel != 0:
		bad = errTunnel
	case !c.block.end:
		bad = errTrailersEnd
	case s.left > 0:
		bad = errLength
	default:
		bad = checkTrailers(fields)
	}
	if bad != nil {
		c.breakStream(s, bad, ev)
		return
	}
	ev.Kind, ev.ID, ev.Stream, ev.Fields, ev.End = Trailers, s.id, s, fields, true
	c.ended(s, peerEnded)
}
