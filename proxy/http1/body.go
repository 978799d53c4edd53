package http1

import (
	"bytes"
	"math"

	"github.com/seinemesh/seine/message"
)

const (
	maxExtension = 4 << 10  // bytes of one chunk's extensions
	maxOverhead  = 16 << 10 // bytes of extensions in all, beyond the payload that came with them
	maxTrailers  = 16 << 10 // bytes of the trailer section
)

// Body follows one message's body through any number of buffers, cut anywhere.
// It keeps no byte of them. The zero value is a body of Kind None.
type Body struct {
	err      *Error
	left     int64 // of Length: bytes to come; of Chunked: of this chunk
	payload  int64
	overhead int64 // bytes of chunk extensions
	line     uint32
	trailers uint32 // bytes of the trailer section
	kind     Kind
	side     side
	state    state
	size     uint8 // digits of the chunk size
	nameLen  uint8 // of the trailer's name, as far as it is kept
	name     [longestForbidden]byte
}

// state is where in a chunked body we are: what the next byte may be.
type state uint8

const (
	sizeFirst  state = iota // the first digit of a chunk size
	sizeMore                // more digits, an extension, CR
	extName0                // after ";": the name's first byte
	extName                 // more of the name, "=", ";", CR
	extValue0               // after "=": the value's first byte
	extToken                // more of the value, ";", CR
	extQuoted               // within a quoted string
	extEscaped              // after its backslash
	extAfter                // after the quoted string: ";", CR
	sizeLF                  // LF of the size line
	data                    // left bytes of data
	dataCR                  // CR after the data
	dataLF                  // its LF
	trailer0                // a trailer's first byte, or CR of the empty line
	trailer                 // more of its name, ":"
	value                   // its value
	valueLF                 // LF of its line
	lastLF                  // LF of the empty line
	ended
)

// Reset begins the body that f describes.
func (b *Body) Reset(f Framing) {
	*b = Body{kind: f.Kind, side: f.side}
	switch f.Kind {
	case None:
		b.state = ended
	case Length:
		b.left = f.Length
	}
}

// Next returns how many of buf's bytes are this body's, framing included; they
// are valid and to be forwarded as they are. done: the body ends with them. A
// body of Kind Close or Tunnel takes every byte and is never done. After an
// error the n bytes are still valid, and the connection is of no further use.
func (b *Body) Next(buf []byte) (n int, done bool, err *Error) {
	if b.kind == Chunked {
		for {
			_, k, more := b.chunked(buf[n:])
			n += k
			if !more {
				return n, b.state == ended, b.err
			}
		}
	}
	n = b.plain(len(buf))
	return n, b.Done(), b.err
}

// Decode is Next for a receiver that knows no chunks: it consumes n bytes of
// buf, of which p (within buf, maybe empty) is payload. Call it again with
// buf[n:] until done, an error, or n == 0.
func (b *Body) Decode(buf []byte) (p []byte, n int, done bool, err *Error) {
	if b.kind == Chunked {
		for {
			at, k, more := b.chunked(buf[n:])
			if at >= 0 {
				return buf[n+at : n+k], n + k, false, nil
			}
			n += k
			if !more {
				return nil, n, b.state == ended, b.err
			}
		}
	}
	n = b.plain(len(buf))
	return buf[:n], n, b.Done(), b.err
}

// plain takes what belongs to an unchunked body of n bytes at hand.
func (b *Body) plain(n int) int {
	switch b.kind {
	case None:
		return 0
	case Length:
		n = int(min(int64(n), b.left))
		b.left -= int64(n)
	}
	b.payload += int64(n)
	return n
}

// End says that the sender has closed. nil: the body was complete, or this is how it ends.
func (b *Body) End() *Error {
	switch {
	case b.err != nil || b.Done():
	case b.kind == Close || b.kind == Tunnel:
	default:
		b.err = lawBodyCut.on(b.side)
	}
	return b.err
}

// Done reports whether the body has ended by its own framing.
func (b *Body) Done() bool {
	switch b.kind {
	case None:
		return true
	case Length:
		return b.left == 0
	case Chunked:
		return b.state == ended
	}
	return false
}

// Payload is the number of payload bytes so far, framing not counted.
func (b *Body) Payload() int64 { return b.payload }

// Section is how many bytes of the trailer section were taken so far, the empty
// line that ends it among them. They are the last of what a call took.
func (b *Body) Section() int { return int(b.trailers) }

// ParseTrailers appends the fields of a whole trailer section, which a Body has
// taken, to fields. They lie in buf.
func ParseTrailers(buf []byte, fields []message.Field) ([]message.Field, *Error) {
	if !bytes.HasSuffix(buf, []byte(CRLF)) {
		return fields, lawTrailersBig.on(response)
	}
	p, err := parseFields(buf, 0, fields, len(fields)+maxTrailers, response)
	return p.fields, err
}

// Left is how many bytes are to come at least: of Kind Length the rest, of
// Chunked the rest of the chunk's data.
func (b *Body) Left() int64 { return b.left }

// chunked takes bytes up to the end of the data of one chunk or of buf. at >= 0:
// buf[at:n] is data. more: call again, buf has bytes left to look at.
func (b *Body) chunked(buf []byte) (at, n int, more bool) {
	if b.err != nil {
		return -1, 0, false
	}
	i := 0
	for i < len(buf) && b.state != ended {
		if b.state == data {
			k := int(min(b.left, int64(len(buf)-i)))
			b.left -= int64(k)
			b.payload += int64(k)
			if b.left == 0 {
				b.state = dataCR
			}
			return i, i + k, i+k < len(buf)
		}
		if b.state == value {
			// Most of a trailer's bytes in one go.
			k := message.Text(buf[i:])
			if !b.count(k) {
				return -1, i, false
			}
			i += k
			if i == len(buf) {
				break
			}
		}
		if bad := b.take(buf[i]); bad != nil {
			b.err = bad.on(b.side)
			return -1, i, false
		}
		i++
	}
	return -1, i, false
}

// count adds to the size of the trailer section.
func (b *Body) count(n int) bool {
	if n > maxTrailers || b.trailers+uint32(n) > maxTrailers {
		b.err = lawTrailersBig.on(b.side)
		return false
	}
	b.trailers += uint32(n)
	return true
}

// take takes the next byte of a chunk's framing or of the trailer section.
func (b *Body) take(c byte) *rule {
	if b.state >= extName0 && b.state <= extAfter {
		if b.overhead++; b.overhead > maxOverhead+b.payload {
			return lawChunkExtBig
		}
		if b.line++; b.line > maxExtension {
			return lawChunkExtBig
		}
	} else if b.state >= trailer0 {
		if !b.count(1) {
			return lawTrailersBig
		}
	}
	switch b.state {
	case sizeFirst:
		if hex[c] == 0 {
			return lawChunkSize
		}
		b.left, b.size, b.line, b.state = int64(hex[c]-1), 1, 0, sizeMore
	case sizeMore:
		if h := hex[c]; h != 0 {
			if b.size == 16 || b.left > math.MaxInt64>>4 {
				return lawChunkBig
			}
			b.left = b.left<<4 | int64(h-1)
			b.size++
			return nil
		}
		switch c {
		case ';':
			b.state = extName0
		case '\r':
			b.state = sizeLF
		case '\n':
			return lawBareLF
		default:
			return lawChunkLine
		}
	case sizeLF:
		if c != '\n' {
			return lawBareCR
		}
		b.state = data
		if b.left == 0 {
			b.state = trailer0
		}
	case dataCR:
		if c != '\r' {
			return lawChunkEnd
		}
		b.state = dataLF
	case dataLF:
		if c != '\n' {
			return lawChunkEnd
		}
		b.state = sizeFirst
	case trailer0, trailer, value, valueLF, lastLF:
		return b.trailer(c)
	default:
		return b.extension(c)
	}
	return nil
}

// extension takes a byte of
//
//	chunk-ext = *( BWS ";" BWS chunk-ext-name [ BWS "=" BWS chunk-ext-val ] )
//
// without the bad white space (BWS): no sender may generate it (RFC 9110
// §5.6.3), we would by forwarding it, and not every reader takes it.
func (b *Body) extension(c byte) *rule {
	switch b.state {
	case extName0, extValue0:
		switch {
		case message.Token[c] && b.state == extName0:
			b.state = extName
		case message.Token[c]:
			b.state = extToken
		case c == '"' && b.state == extValue0:
			b.state = extQuoted
		default:
			return lawChunkExt
		}
	case extName, extToken, extAfter:
		switch {
		case message.Token[c] && b.state != extAfter:
		case c == ';':
			b.state = extName0
		case c == '=' && b.state == extName:
			b.state = extValue0
		case c == '\r':
			b.state = sizeLF
		default:
			return lawChunkExt
		}
	case extQuoted:
		switch {
		case c == '"':
			b.state = extAfter
		case c == '\\':
			b.state = extEscaped
		case c < ' ' && c != '\t' || c == 0x7f:
			return lawChunkExt
		}
	case extEscaped:
		if c < ' ' && c != '\t' || c == 0x7f {
			return lawChunkExt
		}
		b.state = extQuoted
	}
	return nil
}

// trailer takes a byte of the trailer section, which is as strict as a head.
func (b *Body) trailer(c byte) *rule {
	switch b.state {
	case trailer0:
		switch {
		case message.Token[c]:
			b.nameLen = 0
			b.addName(c)
			b.state = trailer
		case c == '\r':
			b.state = lastLF
		case c == '\n':
			return lawBareLF
		case c == ' ' || c == '\t':
			return lawFold
		case c == ':':
			return lawNameEmpty
		default:
			return lawName
		}
	case trailer:
		switch {
		case message.Token[c]:
			b.addName(c)
		case c == ':':
			if b.forbidden() {
				return lawTrailer
			}
			b.state = value
		case c == ' ' || c == '\t':
			return lawSpaceColon
		case c == '\r':
			return lawColon
		case c == '\n':
			return lawBareLF
		default:
			return lawName
		}
	case value:
		switch c {
		case '\r':
			b.state = valueLF
		case '\n':
			return lawBareLF
		case '\t':
		default:
			return lawValue
		}
	case valueLF:
		if c != '\n' {
			return lawBareCR
		}
		b.state = trailer0
	case lastLF:
		if c != '\n' {
			return lawBareCR
		}
		b.state = ended
	}
	return nil
}

// addName keeps the trailer's name in lower case, as far as any forbidden name goes.
func (b *Body) addName(c byte) {
	if 'A' <= c && c <= 'Z' {
		c |= 0x20
	}
	if int(b.nameLen) < len(b.name) {
		b.name[b.nameLen] = c
		b.nameLen++
	}
}

// forbidden reports whether the field may not be a trailer. A longer name was cut
// to a length that none of the forbidden ones has.
func (b *Body) forbidden() bool { return !message.MayTrail(b.name[:b.nameLen]) }

// longestForbidden is more than the length of the longest name that forbidden looks for.
const longestForbidden = len("proxy-authorization") + 1
