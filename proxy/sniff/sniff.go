// Package sniff tells protocols apart by their first bytes. It is pure: bytes
// in, a verdict out; it keeps nothing, does no I/O, and must never guess by a
// timer: whoever calls decides what happens while it says NeedMore.
package sniff

import (
	"bytes"

	"github.com/seinemesh/seine/message"
)

// Verdict is what a connection's first bytes are.
type Verdict uint8

const (
	NeedMore Verdict = iota // the bytes so far fit more than one protocol
	HTTP1
	HTTP2
	TLS
	Opaque
)

func (v Verdict) String() string {
	return [...]string{"need more", "http/1", "http/2", "tls", "opaque"}[v]
}

const (
	preface   = "PRI * HTTP/2.0\r\n" // RFC 9113 §3.4, as far as nothing else begins so
	maxMethod = 32
	maxLine   = 4 << 10
)

// Detect tells what a connection that begins with b speaks. Once it says
// something else than NeedMore, more bytes do not change it; it never needs
// more than 4 KiB.
//
// HTTP/1 is a whole line "METHOD SP target SP HTTP/": many text protocols begin
// with words like GET (Redis, memcached), CONNECT (NATS, STOMP) or OPTIONS
// (RTSP), and clients send the line in one piece anyway.
func Detect(b []byte) Verdict {
	if len(b) == 0 {
		return NeedMore
	}
	if b[0] == handshake {
		return detectTLS(b)
	}
	if n := min(len(b), len(preface)); string(b[:n]) == preface[:n] {
		if n == len(preface) {
			return HTTP2
		}
		return NeedMore // "P" may be POST, but that needs more, too
	}
	i := 0
	for i < len(b) && message.Token[b[i]] {
		if i == maxMethod {
			return Opaque
		}
		i++
	}
	if i == len(b) {
		return NeedMore
	}
	if i == 0 || b[i] != ' ' {
		return Opaque
	}
	target := b[i+1:]
	if len(target) == 0 {
		return NeedMore
	}
	if !targetStart(b[:i], target[0]) {
		return Opaque
	}
	for i, c := range target {
		switch {
		case i >= maxLine-maxMethod-1:
			return HTTP1 // a very long path
		case c == '\n':
			line := bytes.TrimSuffix(target[:i], []byte{'\r'})
			if v := bytes.LastIndexByte(line, ' '); v > 0 && bytes.HasPrefix(line[v+1:], []byte("HTTP/")) {
				return HTTP1
			}
			return Opaque
		case (c < ' ' || c == 0x7f) && c != '\r' && c != '\t':
			return Opaque
		}
	}
	return NeedMore
}

// targetStart reports whether a request target of that method may begin with c.
func targetStart(method []byte, c byte) bool {
	if string(method) == "CONNECT" {
		return c == '[' || c == '-' || c == '_' || c == '.' || '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z'
	}
	return c == '/' || c == '*' || c|0x20 == 'h'
}

// detectTLS looks for the record of a ClientHello.
func detectTLS(b []byte) Verdict {
	switch {
	case len(b) > 1 && b[1] != 3, len(b) > 2 && b[2] > 4:
		return Opaque
	case len(b) < 6:
		if len(b) == 5 && recordLength(b) > maxRecord {
			return Opaque
		}
		return NeedMore
	case recordLength(b) == 0 || recordLength(b) > maxRecord || b[5] != clientHello:
		return Opaque
	}
	return TLS
}

func recordLength(b []byte) int { return int(b[3])<<8 | int(b[4]) }
