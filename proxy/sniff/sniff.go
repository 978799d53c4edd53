// Package sniff tells protocols apart by their first bytes. It is pure: bytes
// in, a verdict out; it keeps nothing and allocates nothing.
package sniff

// Verdict is what a connection's first bytes are.
type Verdict uint8

const (
	NeedMore Verdict = iota // the bytes so far fit more than one protocol
	HTTP1
	HTTP2
	TLS
	Opaque
)

// Detect tells what a connection that begins with b speaks.
func Detect(b []byte) Verdict { return NeedMore }

// State says how far a ClientHello was understood.
type State uint8

const (
	Partial  State = iota // more bytes are needed
	Complete              // Hello is filled
	Invalid               // this is no ClientHello, or one beyond the bound
)

// Hello is what Seine reads of a ClientHello. Its slices point into the buffer
// that it was parsed from.
type Hello struct {
	SNI []byte // host_name; empty: none

	alpn []byte // the ProtocolNameList
}

// ALPN returns the protocol name after the first n bytes of the list, and the
// position of the next: for p, n := h.ALPN(0); p != nil; p, n = h.ALPN(n) {…}
func (h *Hello) ALPN(n int) (name []byte, next int) { return nil, n }

// OffersALPN reports whether the client offers that protocol.
func (h *Hello) OffersALPN(name string) bool { return false }

// ClientHello parses the ClientHello that b begins with, over as many TLS
// records as it takes. n is the number of bytes of those records.
func ClientHello(b []byte) (h Hello, n int, s State) { return h, 0, Partial }
