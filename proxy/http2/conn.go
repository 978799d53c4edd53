package http2

import (
	"encoding/binary"

	"github.com/seinemesh/seine/message"
	"github.com/seinemesh/seine/proxy/http2/hpack"
)

// MaxPending is how many bytes of an incomplete frame Next may leave: what its
// caller must be able to keep. Data is passed on as it comes.
const MaxPending = headerLen + maxFrame - 1

// Conn is one connection's state. It is used by one goroutine at a time.
type Conn struct {
	o       *Options
	scratch *Scratch
	now     int64

	dec     hpack.Decoder
	enc     hpack.Encoder
	streams table
	turn    *Stream // whose turn it is to send: a ring
	moved   *Stream // what Moved returns
	ctl     []byte  // control frames that wait for Append

	failed   *Error
	told     bool // Failed was returned
	preface  int  // bytes of the preface that have come
	settings bool // the peer's first SETTINGS came
	acked    bool // the peer has acknowledged ours
	shut     bool // our last GOAWAY is out: streams above lastPeer are refused
	gone     bool // the peer's GOAWAY came
	sweep    bool // streams above goneLast are still to be told
	goneLast uint32
	lastPeer uint32 // highest stream of the peer
	lastOurs uint32 // highest stream of ours
	mine     int    // open streams of ours

	// A DATA frame of which not all has come.
	data struct {
		on        bool
		left, pad int
		id        uint32 // 0: nobody hears it
		end       bool
	}
	// A header block of which not all frames have come.
	block struct {
		on        bool
		id        uint32
		end, self bool
		frames    int
		bytes     []byte
	}

	// The peer's settings and windows.
	peerStreams uint32
	peerWindow  int64
	peerFrame   int
	peerConnect bool
	send        int64 // the connection's window
	recv        int64
	credit      int // bytes consumed and not yet given back

	field message.Field // a pseudo-header field on its way out

	resets, pings, sets, idle bucket
	updates                   int // WINDOW_UPDATE frames beyond what we gave cause for

	forgotten [32]uint32 // streams that we have reset and released: what is still on its way is no error
	nforgot   uint8
}

// New returns a connection at its beginning. The next Append begins with what
// must go first, so it should be called at once. o and scratch are kept.
func New(o *Options, scratch *Scratch) *Conn {
	if !o.ready {
		panic("http2: Options that did not come from NewOptions")
	}
	c := &Conn{
		o: o, scratch: scratch, dec: hpack.NewDecoder(), enc: hpack.NewEncoder(),
		peerStreams: 1<<32 - 1, peerWindow: initialWindow, peerFrame: maxFrame,
		send: initialWindow, recv: int64(o.ConnWindow),
	}
	c.enc.Huffman = o.Huffman
	set := make([]byte, 0, 128)
	if o.Role == Client {
		set = append(set, Preface...)
		c.preface = len(Preface)
		// Until its SETTINGS come, a server may be taken to allow 100 streams (RFC 9113 §6.5.2).
		c.peerStreams = 100
	}
	at := len(set)
	set = append(set, make([]byte, headerLen)...)
	if o.Role == Client {
		set = appendSetting(set, setPush, 0)
	} else {
		set = appendSetting(set, setStreams, uint32(o.Streams))
		if o.ExtendedConnect {
			set = appendSetting(set, setConnect, 1)
		}
	}
	if o.Window != initialWindow {
		set = appendSetting(set, setWindow, uint32(o.Window))
	}
	set = appendSetting(set, setList, uint32(o.Head))
	putHeader(set[at:], len(set)-at-headerLen, frameSettings, 0, 0)
	if o.ConnWindow > initialWindow {
		set = appendWindow(set, 0, uint32(o.ConnWindow-initialWindow))
	}
	c.ctl = set
	return c
}

// Tick tells the time, in nanoseconds of a clock that never goes back: once for each batch
// of events. Without it the floods' buckets never empty.
func (c *Conn) Tick(now int64) { c.now = now }

// Next takes bytes from the front of in until something has happened that the
// caller must know, and returns how many. NeedMore: all is said, what is left is
// to be given again with more behind it (at most MaxPending bytes).
func (c *Conn) Next(in []byte, ev *Event) (n int) {
	*ev = Event{}
	for {
		if c.failed != nil {
			if !c.told {
				c.told = true
				ev.Kind, ev.Err, ev.Code = Failed, c.failed, c.failed.Code
			}
			return n + len(in)
		}
		if c.sweep && c.sweepOne(ev) {
			return n
		}
		if c.preface < len(Preface) {
			k := min(len(in), len(Preface)-c.preface)
			if string(in[:k]) != Preface[c.preface:c.preface+k] {
				c.fail(errPreface)
				continue
			}
			c.preface += k
			n, in = n+k, in[k:]
			if c.preface < len(Preface) {
				return n
			}
		}
		var k int
		inData := c.data.on
		if inData {
			k = c.moreData(in, ev)
		} else {
			k = c.frame(in, ev)
		}
		n, in = n+k, in[k:]
		if ev.Kind != NeedMore || k == 0 && c.data.on == inData && c.failed == nil {
			return n
		}
	}
}

// fail ends the connection.
func (c *Conn) fail(err *Error) {
	if c.failed == nil {
		c.failed = err
		c.goAway(c.lastPeer, err.Code)
		c.block.bytes = nil
	}
}

// frame takes one frame, or of DATA what there is of it. It returns 0 if it
// needs more bytes.
func (c *Conn) frame(in []byte, ev *Event) int {
	if len(in) < headerLen {
		return 0
	}
	h := parseHeader(in)
	switch {
	case h.length > maxFrame:
		c.fail(errFrameSize)
		return 0
	case !c.settings && (h.kind != frameSettings || h.flags&flagAck != 0):
		c.fail(errNoSettings)
		return 0
	case c.block.on && (h.kind != frameContinuation || h.id != c.block.id):
		c.fail(errInterleaved)
		return 0
	case h.kind == frameData:
		return c.startData(h, in, ev)
	}
	if bad := c.length(h); bad != nil {
		c.fail(bad)
		return 0
	}
	if len(in) < headerLen+h.length {
		return 0
	}
	p := in[headerLen : headerLen+h.length]
	switch h.kind {
	case frameHeaders:
		c.headersFrame(h, p, ev)
	case frameContinuation:
		c.continuation(h, p, ev)
	case framePriority:
		c.priority(h, p, ev)
	case frameReset:
		c.resetFrame(h, p, ev)
	case frameSettings:
		c.settingsFrame(h, p, ev)
	case framePush:
		c.fail(errPush)
	case framePing:
		c.ping(h, p, ev)
	case frameGoAway:
		c.goAwayFrame(p, ev)
	case frameWindow:
		c.windowFrame(h, p, ev)
	default:
		c.idled()
	}
	return headerLen + h.length
}

// length checks what can be told from a frame's header alone: so no byte of a
// frame is waited for that will be refused.
func (c *Conn) length(h header) *Error {
	switch h.kind {
	case frameHeaders, framePush, frameContinuation:
		if h.id == 0 {
			return errStreamZero
		}
	case framePriority:
		if h.id == 0 {
			return errStreamZero
		}
	case frameReset:
		switch {
		case h.id == 0:
			return errStreamZero
		case h.length != 4:
			return errFrameLength
		}
	case frameSettings:
		switch {
		case h.id != 0:
			return errNotZero
		case h.flags&flagAck != 0 && h.length != 0:
			return errSettingsAck
		case h.length%6 != 0:
			return errFrameLength
		}
	case framePing:
		switch {
		case h.id != 0:
			return errNotZero
		case h.length != 8:
			return errFrameLength
		}
	case frameGoAway:
		switch {
		case h.id != 0:
			return errNotZero
		case h.length < 8:
			return errFrameLength
		}
	case frameWindow:
		if h.length != 4 {
			return errFrameLength
		}
	}
	return nil
}

// idled counts a frame that moved nothing.
func (c *Conn) idled() {
	if !c.idle.take(c.now, c.o.Idle) {
		c.fail(errIdleFlood)
	}
}

// worked counts a stream of use: what came with it is no flood.
func (c *Conn) worked() {
	c.updates = max(c.updates-10, 0)
	c.pings.earn(1)
	c.idle.earn(2) // some browsers send a frame of priorities with each
}

// isIdle reports whether a stream was never opened.
func (c *Conn) isIdle(id uint32) bool {
	if c.ours(id) {
		return id > c.lastOurs
	}
	return id > c.lastPeer
}

// ours reports whether a number is one of those that we give.
func (c *Conn) ours(id uint32) bool { return id&1 == 1 == (c.o.Role == Client) }

func (c *Conn) priority(h header, p []byte, ev *Event) {
	switch {
	case len(p) != 5:
		c.streamError(h.id, errPriority, ev)
	case binary.BigEndian.Uint32(p)&maxWindow == h.id:
		c.streamError(h.id, errSelf, ev)
	default:
		c.idled()
	}
}

// streamError resets a stream that there may not be.
func (c *Conn) streamError(id uint32, err *Error, ev *Event) {
	if s := c.streams.get(id); s != nil && !s.Closed() {
		c.breakStream(s, err, ev)
		return
	}
	c.queueReset(id, err.Code)
	c.tookReset()
}

// breakStream resets a stream because of what the peer sent.
func (c *Conn) breakStream(s *Stream, err *Error, ev *Event) {
	c.Reset(s, err.Code)
	ev.Kind, ev.ID, ev.Stream, ev.Err, ev.Code = Reset, s.id, s, err, err.Code
	c.tookReset()
}

// tookReset counts a stream that the peer reset or made us reset. A server's
// resets cost us nothing that we did not ask for.
func (c *Conn) tookReset() {
	if c.o.Role == Server && !c.resets.take(c.now, c.o.Resets) {
		c.fail(errResets)
	}
}

func (c *Conn) resetFrame(h header, p []byte, ev *Event) {
	if c.isIdle(h.id) {
		c.fail(errIdle)
		return
	}
	s := c.streams.get(h.id)
	if s == nil || s.Closed() {
		c.idled()
		return
	}
	c.close(s)
	c.tookReset()
	ev.Kind, ev.ID, ev.Stream, ev.Code = Reset, s.id, s, Code(binary.BigEndian.Uint32(p))
}

func (c *Conn) settingsFrame(h header, p []byte, ev *Event) {
	if h.flags&flagAck != 0 {
		ev.Kind, c.acked = Acknowledge, true
		c.idled()
		return
	}
	if !c.sets.take(c.now, c.o.Settings) {
		c.fail(errSettings)
		return
	}
	if !c.settings && c.o.Role == Client {
		c.peerStreams = 1<<32 - 1 // no limit is the default once SETTINGS have come
	}
	c.settings = true
	for ; len(p) > 0; p = p[6:] {
		if err := c.setting(binary.BigEndian.Uint16(p), binary.BigEndian.Uint32(p[2:])); err != nil {
			c.fail(err)
			return
		}
	}
	c.queue(appendHeader(c.ctl, 0, frameSettings, flagAck, 0))
	ev.Kind = Settings
}

func (c *Conn) setting(id uint16, v uint32) *Error {
	switch id {
	case setTable:
		c.enc.SetLimit(v)
	case setPush:
		if v > 1 || v == 1 && c.o.Role == Client {
			return errSettingsPush
		}
	case setStreams:
		c.peerStreams = v
	case setWindow:
		if v > maxWindow {
			return errSettingsFlow
		}
		by := int64(v) - c.peerWindow
		c.peerWindow = int64(v)
		for _, s := range c.streams.slots {
			if s == nil {
				continue
			}
			if s.send += by; s.send > maxWindow {
				return errSettingsRaise
			}
			c.mayGo(s)
		}
	case setFrame:
		if v < maxFrame || v > 1<<24-1 {
			return errSettingsFrame
		}
		c.peerFrame = int(min(v, 64<<10)) // larger ones only make others wait
	case setConnect:
		if v > 1 || v == 0 && c.peerConnect {
			return errSettingsConn
		}
		c.peerConnect = v == 1
	}
	return nil
}

func (c *Conn) ping(h header, p []byte, ev *Event) {
	if h.flags&flagAck != 0 {
		ev.Kind, ev.Opaque = Pong, [8]byte(p)
		c.idled()
		return
	}
	if !c.pings.take(c.now, c.o.Pings) {
		c.fail(errPings)
		return
	}
	c.queue(append(appendHeader(c.ctl, 8, framePing, flagAck, 0), p...))
}

func (c *Conn) goAwayFrame(p []byte, ev *Event) {
	last := binary.BigEndian.Uint32(p) & maxWindow
	if c.gone && last > c.goneLast {
		c.fail(errGoAwayLast)
		return
	}
	c.idled()
	c.gone, c.goneLast, c.sweep = true, last, true
	ev.Kind, ev.Last, ev.Code = GoAway, last, Code(binary.BigEndian.Uint32(p[4:]))
}

// sweepOne tells of one stream that the peer's GOAWAY leaves out.
func (c *Conn) sweepOne(ev *Event) bool {
	for _, s := range c.streams.slots {
		if s != nil && c.ours(s.id) && s.id > c.goneLast && !s.Closed() {
			c.close(s)
			ev.Kind, ev.ID, ev.Stream, ev.Code = Reset, s.id, s, RefusedStream
			return true
		}
	}
	c.sweep = false
	return false
}

func (c *Conn) windowFrame(h header, p []byte, ev *Event) {
	if c.updates++; c.updates > c.o.Updates {
		c.fail(errUpdates)
		return
	}
	by := int64(binary.BigEndian.Uint32(p) & maxWindow)
	if h.id == 0 {
		switch {
		case by == 0:
			c.fail(errConnUpdate)
		case c.send+by > maxWindow:
			c.fail(errConnWindow)
		default:
			c.send += by
			ev.Kind = Window
		}
		return
	}
	if c.isIdle(h.id) {
		c.fail(errIdle)
		return
	}
	s := c.streams.get(h.id)
	if s == nil || s.Closed() {
		return
	}
	switch {
	case by == 0:
		c.breakStream(s, errUpdate, ev)
	case s.send+by > maxWindow:
		c.breakStream(s, errWindow, ev)
	default:
		s.send += by
		c.mayGo(s)
		ev.Kind, ev.ID, ev.Stream = Window, s.id, s
	}
}
