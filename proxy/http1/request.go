package http1

import "github.com/seinemesh/seine/message"

type side uint8

// ParseRequest parses the request head that buf begins with into req, whose
// slices then point into buf. It returns the head's length and how its body is
// framed. n == 0 and err == nil: the head is not complete yet, call again with
// the same bytes and more.
func ParseRequest(buf []byte, req *message.Request, lim *Limits) (n int, f Framing, err *Error) {
	return 0, f, nil
}

// ParseResponse parses the response head that buf begins with; asked is
// Framing.Asked of the request that it answers.
func ParseResponse(buf []byte, res *message.Response, asked Asked, lim *Limits) (n int, f Framing, err *Error) {
	return 0, f, nil
}

// AppendRequest appends to dst the head to send upstream. head is buf[:n] of
// the ParseRequest that filled req and returned f.
func AppendRequest(dst, head []byte, req *message.Request, f Framing, e *Edit) ([]byte, *Error) {
	return dst, nil
}

// AppendResponse appends to dst the head to send downstream, of a final or an
// interim response.
func AppendResponse(dst, head []byte, res *message.Response, f Framing, e *Edit) ([]byte, *Error) {
	return dst, nil
}

// AppendSimple appends a whole response of Seine's own: text/plain, with
// Content-Length and "server: seine". With head it is the answer to HEAD: no
// body. Fields of extra follow (connection: close, location, …).
func AppendSimple(dst []byte, status int, body string, head bool, extra ...message.Field) []byte {
	return dst
}

// AppendChunk appends the size line of a chunk of n bytes; the data and CRLF
// follow it.
func AppendChunk(dst []byte, n int) []byte { return dst }

// LastChunk ends a chunked body without trailers.
const LastChunk = "0\r\n\r\n"

// Body follows one message's body through any number of buffers, cut anywhere.
type Body struct{ f Framing }

// Reset begins the body that f describes.
func (b *Body) Reset(f Framing) { *b = Body{f: f} }

// Next returns how many of buf's bytes are this body's, framing included; they
// are valid and to be forwarded as they are. done: the body ends with them.
// After an error n bytes were still valid; the connection is of no further use.
func (b *Body) Next(buf []byte) (n int, done bool, err *Error) { return 0, false, nil }

// Decode is Next for a receiver that knows no chunks: it consumes n bytes of
// buf, of which data (within buf, maybe empty) is payload. Call it again with
// buf[n:] until n == 0 or done.
func (b *Body) Decode(buf []byte) (data []byte, n int, done bool, err *Error) {
	return nil, 0, false, nil
}

// End tells that the sender closed. nil: the body was complete or ends so.
func (b *Body) End() *Error { return nil }

// Done reports whether the body has ended.
func (b *Body) Done() bool { return false }

// Payload is the number of payload bytes seen so far, framing not counted.
func (b *Body) Payload() int64 { return 0 }
