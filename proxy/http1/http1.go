// Package http1 is Seine's HTTP/1.x codec: bytes in, events and bytes out. It
// does no I/O, knows no clock, starts nothing, and allocates nothing once the
// caller's slices have grown.
//
// What enters: a buffer that begins with a message's head (ParseRequest,
// ParseResponse), then the bytes of its body (Body). What leaves: the head as
// offsets into that buffer, how the body is framed, how many of the bytes at
// hand belong to it, and heads to send (AppendRequest, AppendResponse,
// AppendSimple).
//
// What it must never do: repair. A message that RFC 9110 or RFC 9112 forbids is
// refused with the clause that it breaks, because two programs that repair the
// same bytes differently are how requests are smuggled.
//
// It is stricter than the RFCs where they leave a choice that readers make
// differently: equal Content-Lengths that repeat, an empty Host, an empty port or one
// with leading zeros, transfer codings besides chunked, empty elements in
// Transfer-Encoding, white space in chunk extensions (which we would generate by
// forwarding it), connection options that name a field for every recipient.
//
// It is more lenient in three things that real programs do and that nobody
// reads differently: a query may hold any printable byte but "#", as
// browsers send it, and a path [ ] and |; a 204 may say Content-Length: 0, which is not
// forwarded; Upgrade to h2c is not refused but left out, so that the server
// answers in HTTP/1.1.
package http1

import "github.com/seinemesh/seine/message"

// Limits bound a head. The zero value (and nil) mean the defaults. Each hop of
// the mesh adds a few fields, so the one that serves should allow a few more than the
// one that calls.
type Limits struct {
	Head   int // bytes of a whole head; default 64 KiB; beyond: 431 (414 if it is the request line)
	Line   int // bytes of a request line; default 16 KiB; beyond: 414
	Fields int // field lines of a head; default 100; beyond: 431

	// Proxy is for a listener that clients know as their proxy: the authority
	// of an absolute form (or of CONNECT) replaces Host, as RFC 9112 §3.2.2
	// has it. Without it the two must agree, or the request is refused.
	Proxy bool
}

// Kind says how a message's body ends.
type Kind uint8

const (
	None    Kind = iota // there is no body
	Length              // after Framing.Length bytes (at least 1)
	Chunked             // after the last chunk and its trailers
	Close               // when the sender closes (responses only)
	Tunnel              // it is no body: from here on bytes of another protocol, both ways
)

// Framing is what a head says about what follows it.
type Framing struct {
	Kind           Kind
	Length         int64 // of Kind Length
	KeepAlive      bool  // the sender lets the connection live after this message
	ExpectContinue bool  // of a request: the sender waits for 100 (Continue) before the body
	Upgrade        bool  // of a request: wants another protocol; of a response: 101, it has it
	Interim        bool  // of a response: 1xx other than 101, the final response is still to come
	Asked          Asked // of a request: what ParseResponse has to know of it

	side    side    // whose errors: a request's are the sender's (400), a response's ours to report (502)
	options options // what the head to send needs to know
}

// options are what AppendRequest and AppendResponse carry over from the fields
// that they drop.
type options uint8

const (
	optUpgrade  options = 1 << iota // Connection: upgrade, with an Upgrade field that is forwarded
	optTrailers                     // TE had trailers
	optNoLength                     // 204 or CONNECT's 2xx: its framing fields mean nothing and are not sent
)

// Asked is what the framing of a response depends on in its request. It is all
// that has to be kept of a request after it was forwarded.
type Asked uint8

const (
	AskedHead    Asked = 1 << iota // HEAD: the response has no body, whatever it says
	AskedConnect                   // CONNECT: a 2xx opens a tunnel
	AskedUpgrade                   // Upgrade was forwarded: 101 is allowed
	AskedOld                       // the client speaks HTTP/1.0: no 1xx and no chunked body may reach it
)

// Edit is what changes between the head that came and the head that is sent.
// The zero value (and nil) change nothing but what HTTP requires of every
// proxy. An Edit is only read; one may be shared.
type Edit struct {
	// Target replaces the request target, Authority the value of Host; nil
	// leaves them.
	Target    []byte
	Authority []byte

	// Drop and DropNames (in lower case) name fields that are not sent; a
	// caller may also set Field.Drop. Fields that frame the message (Host,
	// Content-Length, Transfer-Encoding) are not dropped by any of them.
	Drop      message.Set
	DropNames []string

	// Add are sent after the fields that came, as they are. Only Name and
	// Value are read. A name that frames a message is refused.
	Add []message.Field

	// Absolute keeps an absolute form as it came, for a next hop that is a
	// proxy itself. Otherwise the origin form is sent.
	Absolute bool

	Close     bool // send Connection: close
	KeepAlive bool // send Connection: keep-alive (a response to an HTTP/1.0 client that asked for it)

	// Unchunk leaves out Transfer-Encoding and Trailer: the body goes out
	// decoded (Body.Decode) and the connection is closed after it, for an HTTP/1.0 client.
	Unchunk bool
	// Chunk says Transfer-Encoding: chunked of a body that came with Kind
	// Close: the sender frames it with AppendChunk and AppendLastChunk. Of a
	// request it is for Kind Chunked without a head: one that came over HTTP/2.
	Chunk bool
}
