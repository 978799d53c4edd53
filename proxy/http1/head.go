package http1

import (
	"bytes"

	"github.com/seinemesh/seine/message"
)

const (
	defaultHead   = 64 << 10
	defaultLine   = 16 << 10
	defaultFields = 100
	maxMethod     = 32
	maxOptions    = 32 // connection options that name fields
)

func (l *Limits) get() (out Limits) {
	if l != nil {
		out = *l
	}
	if out.Head <= 0 {
		out.Head = defaultHead
	}
	if out.Line <= 0 {
		out.Line = defaultLine
	}
	if out.Fields <= 0 {
		out.Fields = defaultFields
	}
	return out
}

var endOfHead = []byte("\r\n\r\n")

// whole returns buf cut after its first empty line, or nil if there is none yet. The
// parsers below rely on its last byte being LF: every scan stops there at the latest.
func whole(buf []byte) []byte {
	// Mostly the head is all that was read. If buf ends so but for another
	// reason (a second request, a body), the parser stops at the first empty line.
	if len(buf) >= 4 && string(buf[len(buf)-4:]) == "\r\n\r\n" {
		return buf
	}
	if i := bytes.Index(buf, endOfHead); i >= 0 {
		return buf[:i+4]
	}
	return nil
}

// partialLines looks at the lines of an incomplete head after its first one, so that
// what will never be a head is refused at once and not when a timer ends it.
// It costs far less than parsing, since a slow sender has it run at each read.
func partialLines(rest []byte, fields int, s side) *Error {
	for lines := 0; ; lines++ {
		lf := bytes.IndexByte(rest, '\n')
		if lf < 0 {
			return nil
		}
		if lines == fields {
			return lawFields.on(s)
		}
		if lf == 0 || rest[lf-1] != '\r' {
			return lawBareLF.on(s)
		}
		if bytes.IndexByte(rest[:lf-1], '\r') >= 0 {
			return lawBareCR.on(s)
		}
		rest = rest[lf+1:]
	}
}

// parsed is what parseFields found besides the fields.
type parsed struct {
	fields []message.Field
	next   int         // after the empty line
	seen   message.Set // the interned names
	twice  message.Set // those that came more than once
}

// hopFields concern this connection alone (RFC 9110 §7.6.1). TE and
// Upgrade are forwarded in part: forwardTrailers and forwardUpgrade decide.
var hopFields = message.SetOf(message.Connection, message.KeepAlive, message.ProxyConnection, message.TE, message.Upgrade)

// parseFields parses field lines from buf[i] to the empty line, appending to fields. buf ends in LF.
func parseFields(buf []byte, i int, fields []message.Field, limit int, s side) (p parsed, err *Error) {
	first := i
	var seen, twice message.Set
	for {
		line := i
		for i < len(buf) && message.Token[buf[i]] {
			i++
		}
		if i+1 >= len(buf) || buf[i] != ':' || i == line {
			if i == line && i+1 < len(buf) && buf[i] == '\r' && buf[i+1] == '\n' {
				return parsed{fields: fields, next: i + 2, seen: seen, twice: twice}, nil
			}
			return p, badName(buf, line, i, first).on(s)
		}
		name := buf[line:i]
		i++
		for buf[i] == ' ' || buf[i] == '\t' {
			i++
		}
		start := i
		for {
			i += message.Text(buf[i:])
			if buf[i] != '\t' {
				break
			}
			i++
		}
		if buf[i] != '\r' {
			if buf[i] == '\n' {
				return p, lawBareLF.on(s)
			}
			return p, lawValue.on(s)
		}
		if buf[i+1] != '\n' {
			return p, lawBareCR.on(s)
		}
		end := i
		for end > start && (buf[end-1] == ' ' || buf[end-1] == '\t') {
			end--
		}
		i += 2
		if len(fields) == limit {
			return p, lawFields.on(s)
		}
		id := message.Intern(name)
		bit := message.SetOf(id)
		twice |= seen & bit
		seen |= bit
		if len(fields) < cap(fields) {
			fields = fields[:len(fields)+1]
		} else {
			fields = append(fields, message.Field{})
		}
		// Written in place: building it and copying it costs a tenth of the parse.
		p := &fields[len(fields)-1]
		p.ID, p.Hop, p.Drop, p.Line = id, hopFields.Has(id), false, uint32(line)
		p.Name, p.Value = name, buf[start:end]
	}
}

// badName says what is wrong with a line that is no "name:"; i is the first byte that
// is not of a name.
func badName(buf []byte, line, i, first int) *rule {
	c := buf[i]
	switch {
	case i == line && (c == ' ' || c == '\t'):
		if line == first {
			return lawSpaceFirst
		}
		return lawFold
	case c == ' ' || c == '\t':
		for buf[i] == ' ' || buf[i] == '\t' {
			i++
		}
		if buf[i] == ':' {
			return lawSpaceColon
		}
		return lawName
	case c == '\n':
		return lawBareLF
	case c == '\r' && (i+1 == len(buf) || buf[i+1] != '\n'):
		return lawBareCR
	case c == '\r':
		return lawColon
	case c == ':' && i == line:
		return lawNameEmpty
	default:
		return lawName
	}
}

// element cuts the next element of a comma-separated list off list (RFC 9110 §5.6.1).
func element(list []byte) (elem, rest []byte, more bool) {
	i := bytes.IndexByte(list, ',')
	if i < 0 {
		return trim(list), nil, false
	}
	return trim(list[:i]), list[i+1:], true
}

func trim(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}

// connection is what the Connection fields say.
type connection struct{ close, keepAlive, upgrade bool }

// mayNominate are the interned names that a connection option may be. The others no
// option may take away: a client must not be able to have a proxy remove what
// the mesh or the application relies on. RFC 9110 §7.6.1 forbids to name
// fields that are for every recipient. Transfer-Encoding and Trailer may be
// named, as some servers do, with no effect.
const mayNominate = 1<<message.Other | 1<<message.Connection | 1<<message.KeepAlive | 1<<message.ProxyConnection |
	1<<message.TE | 1<<message.Upgrade | 1<<message.TransferEncoding | 1<<message.Trailer |
	1<<message.ProxyAuthorization | 1<<message.ProxyAuthenticate

// everyRecipient are further ones, which are not interned, and prefixes.
var everyRecipient = []string{
	"authorization", "cookie", "set-cookie", "cache-control", "forwarded", "via", "content-encoding",
	"content-range", "x-real-ip", "b3", "tracestate",
}
var everyRecipientPrefix = []string{"x-forwarded-", "x-envoy-", "x-seine-", "x-b3-"}

// parseConnection reads the Connection fields and marks as Hop what they name.
func parseConnection(fields []message.Field, s side) (c connection, err *Error) {
	named := 0
	for i := range fields {
		if fields[i].ID != message.Connection {
			continue
		}
		var elem []byte
		for list, more := fields[i].Value, true; more; {
			elem, list, more = element(list)
			switch {
			case len(elem) == 0: // RFC 9110 §5.6.1.2: empty elements are ignored
			case message.EqualFold(elem, "keep-alive"):
				c.keepAlive = true
			case message.EqualFold(elem, "close"):
				c.close = true
			case message.EqualFold(elem, "upgrade"):
				c.upgrade = true
			case !message.ValidName(elem):
				return c, lawConnection.on(s)
			default:
				if named++; named > maxOptions {
					return c, lawOptions.on(s)
				}
				if err := nominate(fields, elem, s); err != nil {
					return c, err
				}
			}
		}
	}
	return c, nil
}

func nominate(fields []message.Field, option []byte, s side) *Error {
	id := message.Intern(option)
	if mayNominate>>id&1 == 0 {
		return lawNominated.on(s)
	}
	if id == message.TransferEncoding || id == message.Trailer {
		return nil
	}
	if id == message.Other {
		for _, n := range everyRecipient {
			if message.EqualFold(option, n) {
				return lawNominated.on(s)
			}
		}
		for _, n := range everyRecipientPrefix {
			if len(option) >= len(n) && message.EqualFold(option[:len(n)], n) {
				return lawNominated.on(s)
			}
		}
	}
	for i := range fields {
		if fields[i].ID == id && len(fields[i].Name) == len(option) && bytes.EqualFold(fields[i].Name, option) {
			fields[i].Hop = true
		}
	}
	return nil
}

// length is what Content-Length says; -1: there is none.
func length(p *parsed, s side) (int64, *Error) {
	v, ok := message.Get(p.fields, message.ContentLength)
	if !ok {
		return -1, nil
	}
	// RFC 9110 §8.6 allows to merge equal ones. A receiver behind us may
	// not, so a list is refused even then.
	if p.twice.Has(message.ContentLength) || bytes.IndexByte(v, ',') >= 0 {
		return 0, lawLengthTwice.on(s)
	}
	if len(v) == 0 || len(v) > 19 {
		return 0, lawLength.on(s)
	}
	var n uint64
	for _, c := range v {
		if c < '0' || c > '9' {
			return 0, lawLength.on(s)
		}
		n = n*10 + uint64(c-'0')
	}
	if n > 1<<63-1 {
		return 0, lawLength.on(s)
	}
	return int64(n), nil
}

// coding checks Transfer-Encoding, which may say "chunked" and nothing else: other
// codings are offered by TE, which we do not forward.
func coding(p *parsed, minor uint8, s side) *Error {
	if minor == 0 {
		return lawCodingOld.on(s)
	}
	if p.seen.Has(message.ContentLength) {
		return lawBoth.on(s)
	}
	chunked, others, last := 0, 0, false
	for i := range p.fields {
		if p.fields[i].ID != message.TransferEncoding {
			continue
		}
		var elem []byte
		for list, more := p.fields[i].Value, true; more; {
			elem, list, more = element(list)
			name := elem
			if semi := bytes.IndexByte(elem, ';'); semi >= 0 {
				name = trim(elem[:semi])
			}
			last = message.EqualFold(name, "chunked")
			switch {
			case len(elem) == 0:
				return lawCodingEmpty.on(s)
			case last && len(name) != len(elem):
				return lawCodingParam.on(s)
			case last:
				chunked++
			default:
				others++
			}
		}
	}
	switch {
	case chunked > 1:
		return lawCodingTwice.on(s)
	case !last:
		return lawCodingLast.on(s)
	case others > 0:
		return lawCodingOther.on(s)
	}
	return nil
}
