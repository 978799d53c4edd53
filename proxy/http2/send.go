package http2

import (
	"encoding/binary"

	"github.com/seinemesh/seine/message"
)

// queue takes c.ctl with a frame appended, and ends the connection if too much waits.
func (c *Conn) queue(ctl []byte) {
	c.ctl = ctl
	if len(ctl) > c.o.Replies {
		c.fail(errReplies)
	}
}

func (c *Conn) queueReset(id uint32, code Code) { c.queue(appendReset(c.ctl, id, code)) }

func (c *Conn) goAway(last uint32, code Code) {
	c.ctl = appendHeader(c.ctl, 8, frameGoAway, 0, 0)
	c.ctl = binary.BigEndian.AppendUint32(c.ctl, last)
	c.ctl = binary.BigEndian.AppendUint32(c.ctl, uint32(code))
}

// control appends the control frames that wait.
func (c *Conn) control(dst []byte) []byte {
	if len(c.ctl) == 0 {
		return dst
	}
	dst = append(dst, c.ctl...)
	if c.ctl = c.ctl[:0]; cap(c.ctl) > 512 {
		c.ctl = nil // an idle connection holds no more than it needs
	}
	return dst
}

// Err is why the connection has failed, nil if it has not.
func (c *Conn) Err() *Error { return c.failed }

// Unfinished reports whether a header block has begun of which not all frames have come.
func (c *Conn) Unfinished() bool { return c.block.on }

// Ping asks the peer for a Pong with the same bytes.
func (c *Conn) Ping(opaque [8]byte) {
	c.queue(append(appendHeader(c.ctl, 8, framePing, 0, 0), opaque[:]...))
}

// Drain begins a graceful end (RFC 9113 §6.8): the peer is told to open no more
// streams; those that it has on their way are still taken. Shut follows, a round trip later.
func (c *Conn) Drain() { c.goAway(maxWindow, NoError) }

// Shut ends it: streams that the peer opens from now on are refused. The connection is
// to be closed when Streams is 0 and Append has nothing more.
func (c *Conn) Shut() {
	if !c.shut && c.failed == nil {
		c.shut = true
		c.goAway(c.lastPeer, NoError)
	}
}

// Abort ends the connection with an error of the caller's, as a peer that is too slow.
func (c *Conn) Abort(code Code) {
	c.fail(law(code, "ended by us", "RFC 9113 §6.8"))
	c.told = true
}

// GoingAway reports whether the peer has said that it takes no new streams, or we have.
func (c *Conn) GoingAway() bool { return c.gone || c.shut || c.failed != nil }

// MayOpen reports whether a client may open a stream now.
func (c *Conn) MayOpen() bool {
	return c.o.Role == Client && !c.GoingAway() && uint32(c.mine) < c.peerStreams && c.lastOurs < maxWindow-1
}

// MayConnect reports whether the server takes an extended CONNECT (RFC 8441).
func (c *Conn) MayConnect() bool { return c.peerConnect }

// Reset ends a stream at once. What it holds stays until Release.
func (c *Conn) Reset(s *Stream, code Code) {
	if s.Closed() {
		return
	}
	s.state |= weReset
	c.close(s)
	c.forget(s.id)
	c.idle.earn(2) // its trailers and its own reset may cross ours
	c.queueReset(s.id, code)
}

// forget remembers that frames of a stream may still be on their way.
func (c *Conn) forget(id uint32) {
	c.forgotten[c.nforgot%uint8(len(c.forgotten))] = id
	c.nforgot++
}

// AppendRequest opens a stream and appends its head to dst. end: there is no
// body. Fields of HTTP/1's connections are left out, and Host, whose value
// :authority bears.
func (c *Conn) AppendRequest(dst []byte, req *message.Request, e *Edit, end bool) ([]byte, *Stream, *Error) {
	if !c.MayOpen() {
		return dst, nil, ErrOpen
	}
	if e == nil {
		e = &noEdit
	}
	path, authority, scheme := pick(e.Path, req.Path), pick(e.Authority, req.Authority), pick(e.Scheme, req.Scheme)
	connect := string(req.Method) == "CONNECT"
	if connect && e.Protocol == nil {
		path, scheme = nil, nil
	}
	if err := checkRequest(req.Method, path, authority, scheme, connect, e); err != nil {
		return dst, nil, err
	}
	if e.Protocol != nil && !c.peerConnect {
		return dst, nil, ErrOpen
	}
	dst = c.control(dst)
	at := len(dst)
	var room [headerLen]byte
	dst = c.enc.Begin(append(dst, room[:]...))
	dst = c.pseudo(dst, ":method", req.Method)
	if scheme != nil {
		dst = c.pseudo(dst, ":scheme", scheme)
	}
	dst = c.pseudo(dst, ":authority", authority)
	if path != nil {
		dst = c.pseudo(dst, ":path", path)
	}
	if e.Protocol != nil {
		dst = c.pseudo(dst, ":protocol", e.Protocol)
	}
	dst = c.fields(dst, req.Fields, e)
	if c.lastOurs == 0 {
		c.lastOurs = 1
	} else {
		c.lastOurs += 2
	}
	s := c.newStream(c.lastOurs)
	s.state |= headSent | counted
	c.mine++
	c.worked()
	if connect {
		s.state |= connects
	} else if string(req.Method) == "HEAD" {
		s.state |= askedHead
	}
	if end {
		s.state |= weEnded
	}
	return c.frames(dst, at, s.id, end), s, nil
}

// AppendResponse appends a response's head, or with a status below 200 an interim
// one. end: there is no body.
func (c *Conn) AppendResponse(dst []byte, s *Stream, res *message.Response, e *Edit, end bool) ([]byte, *Error) {
	interim := res.Status < 200
	if c.failed != nil || s.Closed() || s.state&(headSent|weEnded) != 0 || interim && end || res.Status == 101 || res.Status < 100 || res.Status > 999 {
		return dst, ErrState
	}
	if e == nil {
		e = &noEdit
	}
	if err := checkAdded(e); err != nil {
		return dst, err
	}
	dst = c.control(dst)
	at := len(dst)
	var room [headerLen]byte
	dst = c.enc.Begin(append(dst, room[:]...))
	dst = c.enc.AppendStatus(dst, res.Status)
	dst = c.fields(dst, res.Fields, e)
	if !interim {
		s.state |= headSent
		if s.state&connects != 0 && res.Status < 300 {
			s.state |= tunnel
		}
	}
	dst = c.frames(dst, at, s.id, end)
	if end {
		c.ended(s, weEnded)
	}
	return dst, nil
}

// AppendTrailers appends trailers, which end the message. All data must have
// been framed before.
func (c *Conn) AppendTrailers(dst []byte, s *Stream, fields []message.Field) ([]byte, *Error) {
	if c.failed != nil || s.Closed() || s.state&weEnded != 0 || s.state&headSent == 0 || s.state&tunnel != 0 || len(s.rest) > 0 || s.end {
		return dst, ErrState
	}
	dst = c.control(dst)
	at := len(dst)
	var room [headerLen]byte
	dst = c.enc.Begin(append(dst, room[:]...))
	dst = c.fields(dst, fields, &noEdit)
	dst = c.frames(dst, at, s.id, true)
	c.ended(s, weEnded)
	return dst, nil
}

// Send lends a stream what it has to send: all that is left of it, in place of
// what it was lent before. end: the message ends with it. The bytes are left alone until
// they have moved, or another Send.
func (c *Conn) Send(s *Stream, p []byte, end bool) *Error {
	if c.failed != nil || s.Closed() || s.state&weEnded != 0 || s.state&headSent == 0 {
		return ErrState
	}
	s.rest, s.end = p, end
	if len(p) == 0 && !end {
		c.unready(s)
		return nil
	}
	c.mayGo(s)
	return nil
}

// mayGo lets a stream take its turn if it has anything to send.
func (c *Conn) mayGo(s *Stream) {
	if !s.Closed() && (len(s.rest) > 0 && s.send > 0 || len(s.rest) == 0 && s.end) {
		c.ready(s)
	}
}

// least is what a frame must be able to hold to be worth its header at the end of a buffer.
const least = 256

// Append appends what is to be sent: control frames, and of the streams' data
// what the windows allow, each stream a frame in its turn, until about room bytes
// are there. dst grows only if its capacity is less. It is to be called until it
// appends nothing.
func (c *Conn) Append(dst []byte, room int) []byte {
	full := len(dst) + room
	dst = c.control(dst)
	if c.failed != nil {
		return dst
	}
	var first *Stream // the first that the connection's window held up
	for s := c.turn; s != nil && s != first; s = c.turn {
		n := len(s.rest)
		if n > 0 {
			free := full - len(dst) - headerLen
			if free < n && free < least {
				break
			}
			if s.send <= 0 {
				c.unready(s) // until a WINDOW_UPDATE
				continue
			}
			if c.send <= 0 {
				if first == nil {
					first = s
				}
				c.turn = s.next
				continue
			}
			n = min(n, c.peerFrame, free, int(min(s.send, c.send)))
		} else if len(dst)+headerLen > full {
			break
		}
		end := s.end && n == len(s.rest)
		flags := uint8(0)
		if end {
			flags = flagEnd
		}
		dst = append(appendHeader(dst, n, frameData, flags, s.id), s.rest[:n]...)
		s.rest = s.rest[n:]
		s.send -= int64(n)
		c.send -= int64(n)
		c.updates = max(c.updates-10, 0)
		c.pings.earn(1)
		c.move(s, n)
		c.turn = s.next
		if len(s.rest) == 0 {
			s.rest = nil
			c.unready(s)
			if end {
				s.end = false
				c.ended(s, weEnded)
			}
		}
	}
	return dst
}

// frames puts the header block that begins at dst[at+headerLen] into frames.
func (c *Conn) frames(dst []byte, at int, id uint32, end bool) []byte {
	flags := uint8(0)
	if end {
		flags = flagEnd
	}
	size := len(dst) - at - headerLen
	if size <= c.peerFrame {
		putHeader(dst[at:], size, frameHeaders, flags|flagHeaders, id)
		return dst
	}
	// Move the pieces apart, the last one first, and put headers between them.
	more := (size - 1) / c.peerFrame
	for range more {
		dst = append(dst, make([]byte, headerLen)...)
	}
	for i := more; i > 0; i-- {
		from := at + headerLen + i*c.peerFrame
		n := min(c.peerFrame, size-i*c.peerFrame)
		to := from + i*headerLen
		copy(dst[to:to+n], dst[from:from+n])
		last := uint8(0)
		if i == more {
			last = flagHeaders
		}
		putHeader(dst[to-headerLen:], n, frameContinuation, last, id)
	}
	putHeader(dst[at:], c.peerFrame, frameHeaders, flags, id)
	return dst
}

var noEdit Edit

func pick(a, b []byte) []byte {
	if a != nil {
		return a
	}
	return b
}

func (c *Conn) pseudo(dst []byte, name string, value []byte) []byte {
	c.field.Name, c.field.Value = append(c.field.Name[:0], name...), value
	dst = c.enc.Append(dst, &c.field)
	c.field.Value = nil
	return dst
}

// fields appends those that go to the next hop.
func (c *Conn) fields(dst []byte, fields []message.Field, e *Edit) []byte {
	for i := range fields {
		p := &fields[i]
		if p.Hop || p.Drop || perHop>>p.ID&1 != 0 && p.ID != message.Other || p.ID == message.Host || e.drops(p) {
			continue
		}
		if p.ID == message.TE && !message.EqualFold(p.Value, "trailers") {
			continue
		}
		dst = c.enc.Append(dst, p)
	}
	for i := range e.Add {
		dst = c.enc.Append(dst, &e.Add[i])
	}
	return dst
}

// drops reports whether a field is not to be sent. What frames the message stays.
func (e *Edit) drops(p *message.Field) bool {
	if p.ID == message.ContentLength {
		return false
	}
	if e.Drop.Has(p.ID) {
		return true
	}
	for _, n := range e.DropNames {
		if message.EqualFold(p.Name, n) {
			return true
		}
	}
	return false
}

// notAdded are the names that Edit.Add may not bear.
const notAdded = perHop | 1<<message.Host | 1<<message.ContentLength | 1<<message.TE

// checkAdded refuses an Edit that would write what our own parser refuses.
func checkAdded(e *Edit) *Error {
	for i := range e.Add {
		p := &e.Add[i]
		id := message.Intern(p.Name)
		if id != message.Other && notAdded>>id&1 != 0 || !message.ValidName(p.Name) || !message.ValidValue(p.Value) {
			return ErrAdded
		}
	}
	return nil
}

func checkRequest(method, path, authority, scheme []byte, connect bool, e *Edit) *Error {
	port, ok := message.Authority(authority)
	if !ok || !message.ValidName(method) {
		return ErrTarget
	}
	switch {
	case connect && e.Protocol == nil:
		if port == 0 {
			return ErrTarget
		}
		return checkAdded(e)
	case e.Protocol != nil && (!connect || !message.ValidName(e.Protocol)):
		return ErrTarget
	}
	if s := string(scheme); s != "http" && s != "https" || !validPath(method, path) {
		return ErrTarget
	}
	return checkAdded(e)
}
