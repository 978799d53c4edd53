package http1

import (
	"net/netip"
	"unsafe"
)

var (
	// targetByte: what a request target may hold at all: printable ASCII, no fragment.
	targetByte = func() (t [256]bool) {
		for c := 0x21; c < 0x7f; c++ {
			t[c] = c != '#'
		}
		return t
	}()
	// pathByte is RFC 3986's pchar and "/", without "%", which is looked at
	// closer, and with [ ] |, which browsers send as they are.
	pathByte = table("/:@[]|" + subDelims + unreserved)
	// hostByte is of RFC 3986's reg-name.
	hostByte = table("%" + subDelims + unreserved)
	// hex says of each digit its value plus one; 0: none.
	hex = func() (t [256]uint8) {
		for i := range 10 {
			t['0'+i] = uint8(i + 1)
		}
		for i := range 6 {
			t['a'+i], t['A'+i] = uint8(i+11), uint8(i+11)
		}
		return t
	}()
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

// ipv6 reports whether b is an IPv6 address without a zone.
func ipv6(b []byte) bool {
	if len(b) < 2 || len(b) > 45 {
		return false
	}
	// No copy: the string does not outlive the call, the parser's error is dropped.
	a, err := netip.ParseAddr(unsafe.String(&b[0], len(b)))
	return err == nil && a.Is6() && a.Zone() == ""
}
