// Package http2 is Seine's HTTP/2 (RFC 9113) as a state machine, for both
// roles: server towards clients, client towards upstreams. It does no I/O,
// knows no clock, starts nothing, calls nobody back, and allocates nothing once
// its streams and the caller's slices have grown.
//
// What enters: the bytes that came (Conn.Next), and what is to be sent
// (AppendRequest, AppendResponse, AppendTrailers, Send, Consume, Reset). What
// leaves: one Event after the other, and bytes appended to a buffer of the
// caller (Append and the other Append methods), which are to be written in that
// order. An event loop drives it so:
//
//	for {
//		n := c.Next(data, &ev) // ev's slices point into data and c's Scratch
//		data = data[n:]
//		if ev.Kind == NeedMore {
//			break // keep what is left of data in front of what comes next
//		}
//		… // act; Consume what was passed on; Release streams that are done with
//	}
//	for out = c.Append(out, room); len(out) > 0; out = c.Append(out[:0], room) {
//		… // write out: all streams' frames in one piece
//	}
//	for s, n := c.Moved(); s != nil; s, n = c.Moved() {
//		… // n bytes of s were framed: let its source go on (Consume)
//	}
//
// Bytes that wait are never this package's: Send lends it a slice, of which
// Append frames what the windows and the turn allow, stream after stream; what is
// left (Stream.Rest) stays with the caller, who copies it if the slice was
// scratch memory, and bounds it by consuming from the source only what has moved.
// ExampleConn is a proxy of one stream; proxy/link.go is what the loops do.
//
// What it must never do: repair. A message that RFC 9113 §8 forbids resets its
// stream, and nothing of it is shown; what breaks the connection's state ends
// it. What a peer can make us do without effort of its own is bounded by Limits, each
// answered with ENHANCE_YOUR_CALM. Server push and priorities are not spoken:
// push is refused, priorities are ignored (RFC 9113 §5.3.2).
package http2

import (
	"github.com/seinemesh/seine/message"
	"github.com/seinemesh/seine/proxy/http2/hpack"
)

// Preface is what a client begins with (RFC 9113 §3.4).
const Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// Limits bound what a peer may make us hold or do. Zero fields mean the defaults.
type Limits struct {
	Streams    int // streams that the peer may have open, those that the caller has not released among them; default 100
	Window     int // bytes of one stream that may wait for Consume; default 64 KiB - 1, the least a peer may assume
	ConnWindow int // bytes of all streams that may wait for Consume; default 1 MiB
	Head       int // bytes of a header list, as RFC 9113 §6.5.2 counts; default 64 KiB; beyond: 431, or a reset
	Fields     int // fields of a list; default 100, pseudo-header fields not counted
	Block      int // bytes of a compressed header block over all its frames; default 64 KiB
	Fragments  int // CONTINUATION frames of one header block; default 16

	// Floods: how many of a kind may come at once; a tenth of it may follow each
	// second (Conn.Tick). Streams and data that move pay for some of them.
	Resets   int // streams that the peer resets, or makes us reset, before they are done; default 200
	Pings    int // PING frames; default 100
	Settings int // SETTINGS frames; default 50
	Idle     int // frames that move nothing: DATA without data, PRIORITY, unknown types, acknowledgements, frames on closed streams; default 1000
	Updates  int // WINDOW_UPDATE frames beyond ten for each DATA frame and stream of ours; default 1000

	// Replies bounds the bytes of control frames that wait because the peer
	// does not read; default 16 KiB.
	Replies int
}

func (l Limits) withDefaults() Limits {
	def := func(p *int, v int) {
		if *p <= 0 {
			*p = v
		}
	}
	def(&l.Streams, 100)
	def(&l.Window, 65535)
	def(&l.ConnWindow, 1<<20)
	def(&l.Head, 64<<10)
	def(&l.Fields, 100)
	def(&l.Block, 64<<10)
	def(&l.Fragments, 16)
	def(&l.Resets, 200)
	def(&l.Pings, 100)
	def(&l.Settings, 50)
	def(&l.Idle, 1000)
	def(&l.Updates, 1000)
	def(&l.Replies, 16<<10)
	l.Window = min(max(l.Window, initialWindow), maxWindow)
	l.ConnWindow = min(max(l.ConnWindow, initialWindow), maxWindow)
	return l
}

// Role is which side of a connection we are.
type Role uint8

const (
	Server Role = iota
	Client
)

// Options are a connection's fixed properties, made by NewOptions. They are only read; one may serve many
// connections.
type Options struct {
	Role
	Limits
	// ExtendedConnect, of a server: say that CONNECT may bear :protocol (RFC 8441).
	ExtendedConnect bool
	Huffman         bool // send strings in Huffman code: fewer bytes, more work

	ready bool
}

// NewOptions returns o with defaults in place of zeros.
func NewOptions(o Options) *Options {
	o.Limits, o.ready = o.Limits.withDefaults(), true
	return &o
}

// Scratch is memory that heads are decoded into. One serves all connections of
// a loop: it holds nothing between two calls of Next, but what the last Event points into.
type Scratch struct {
	block    hpack.Block
	request  message.Request
	response message.Response

	free  *Stream // streams that were released, for all connections
	nfree int
}

// Kind says what an Event is.
type Kind uint8

const (
	NeedMore    Kind = iota // all is said of the bytes that were there; the rest of them begin an incomplete frame
	Request                 // a client's head: Request, Protocol, End
	Response                // a server's head: Response, End; 1xx: the final one follows
	Data                    // of a body or tunnel: Data, End. All of it is to be consumed (Conn.Consume)
	Trailers                // Fields; the peer's side has ended
	Reset                   // the stream is closed by the peer (Code), or by us because of Err
	Refused                 // a request of which nothing is shown was refused: ID, Err; there is no stream
	Window                  // the peer lets a stream, or with Stream nil all, go on sending: Append may have more to say
	Settings                // the peer's settings have changed: Conn.MayOpen, Conn.MayConnect
	Acknowledge             // the peer has applied our settings
	Pong                    // answers Conn.Ping: Opaque
	GoAway                  // the peer takes no new streams: Code, Last. Streams above it follow as Reset with RefusedStream
	Failed                  // the connection has broken: Err. Append once more, write, shut our side and read out what still comes: a reset would overtake the GOAWAY. Nothing follows
)

// Event is one thing that happened. Its slices are valid until the next call of
// Next, and as long as the bytes that were given to it are left alone.
type Event struct {
	Kind
	End      bool // of a head or data: the peer sends nothing more on this stream
	Code     Code
	ID       uint32  // of the stream
	Last     uint32  // of GoAway
	Stream   *Stream // nil: about the connection
	Err      *Error
	Request  *message.Request
	Response *message.Response
	Fields   []message.Field // trailers
	Protocol []byte          // of an extended CONNECT
	Data     []byte
	Opaque   [8]byte
}

// Edit is what changes between the head that came and the head that is sent. The zero
// value (and nil) change nothing but what HTTP/2 requires. It is only read.
type Edit struct {
	// Path, Authority and Scheme replace those of the request; nil leaves them.
	Path, Authority, Scheme []byte
	// Drop and DropNames (in lower case) name fields that are not sent.
	Drop      message.Set
	DropNames []string
	// Add are sent after the fields that came. Only Name, Value and Never are read.
	Add []message.Field
	// Protocol makes a CONNECT an extended one.
	Protocol []byte
}
