package message

import (
	"bytes"
	"net/netip"
	"unsafe"
)

var (
	// pathByte is RFC 3986's pchar and "/", without "%", which is looked at
	// closer, and with [ ] |, which browsers send as they are.
	pathByte = table("/:@[]|" + subDelims + unreserved)
	// hostByte is of RFC 3986's reg-name.
	hostByte = table("%" + subDelims + unreserved)
	// queryByte: what a query may hold: printable ASCII, no fragment.
	queryByte = func() (t [256]bool) {
		for c := 0x21; c < 0x7f; c++ {
			t[c] = c != '#'
		}
		return t
	}()
	hexDigit = table("0123456789abcdefABCDEF")
)

const (
	subDelims  = "!$&'()*+,;="
	unreserved = "-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)

func table(s string) (t [256]bool) {
	for i := range len(s) {
		t[s[i]] = true
	}
	return t
}

// Path returns where in the path before the query the first byte stands that a path
// may not hold: a % without two hexadecimal digits is one. -1: there is none. It does not
// look at the query.
func Path(p []byte) int {
	for i := 0; i < len(p); i++ {
		c := p[i]
		if pathByte[c] {
			continue
		}
		switch {
		case c == '?':
			return -1
		case c != '%' || i+2 >= len(p) || !hexDigit[p[i+1]] || !hexDigit[p[i+2]]:
			return i
		}
	}
	return -1
}

// ValidTarget reports whether every byte of a path with its query may stand in a
// request target: printable ASCII without a fragment. Browsers and people send { } | ^ " in
// queries as they are, and nothing but the application reads them.
func ValidTarget(p []byte) bool {
	for _, c := range p {
		if !queryByte[c] {
			return false
		}
	}
	return len(p) > 0
}

// Authority checks host or host:port. port is 0 if there is none. It is
// stricter than RFC 3986 in three things that no client sends and that programs
// read differently: an empty port, a port with leading zeros, IPvFuture and zones.
func Authority(b []byte) (port int, ok bool) {
	i := 0
	if len(b) > 0 && b[0] == '[' {
		i = bytes.IndexByte(b, ']') + 1
		if i == 0 || !ipv6(b[1:i-1]) {
			return 0, false
		}
	} else {
		for i < len(b) && hostByte[b[i]] {
			if b[i] == '%' && (i+2 >= len(b) || !hexDigit[b[i+1]] || !hexDigit[b[i+2]]) {
				return 0, false
			}
			i++
		}
		if i == 0 {
			return 0, false
		}
	}
	if i == len(b) {
		return 0, true
	}
	digits := b[i+1:]
	if b[i] != ':' || len(digits) == 0 || len(digits) > 5 || digits[0] == '0' {
		return 0, false
	}
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0, false
		}
		port = port*10 + int(c-'0')
	}
	return port, port <= 65535
}

// ipv6 reports whether b is an IPv6 address without a zone.
func ipv6(b []byte) bool {
	if len(b) < 2 || len(b) > 45 {
		return false
	}
	// No copy: the string does not outlive the call, the parser's error is dropped.
	a, err := netip.ParseAddr(unsafe.String(&b[0], len(b)))
	return err == nil && a.Is6() && a.Zone() == ""
}
