// Package proxyproto reads and writes the header by which a proxy tells, before
// anything else on a connection, between whom it is (the PROXY protocol of
// HAProxy, proxy-protocol.txt, versions 1 and 2).
//
// It is pure: bytes in, a header out. It is strict, as whoever reads it believes
// it: one spelling of each address, every length within a bound, checksums that
// hold. What is not TCP over IPv4 or IPv6 is refused.
package proxyproto

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"net/netip"
	"strconv"
)

// Header is what was told. The zero value is that of a connection that the proxy
// makes for itself, or about which it knows nothing (UNKNOWN, LOCAL).
type Header struct {
	Source, Destination netip.AddrPort
}

// State says how far a header was understood.
type State uint8

const (
	Partial  State = iota // more bytes are needed
	Complete              // Header is filled
	Invalid               // this is no header, or one that breaks the rules
)

// Max is the length of the longest header that is taken: beyond the addresses of
// version 2 there may be further values (TLVs).
const Max = 16 + 2048

const (
	maxV1     = 107 // §2.1, with CR and LF
	prefixV1  = "PROXY "
	signature = "\r\n\r\n\x00\r\nQUIT\n" // §2.2
	headV2    = len(signature) + 4
	tlvCRC32C = 3
)

// Parse reads the header that b begins with, and how many bytes it has.
func Parse(b []byte) (h Header, n int, s State) {
	switch {
	case begins(b, prefixV1):
		return parseV1(b)
	case begins(b, signature):
		return parseV2(b)
	}
	return h, 0, Invalid
}

// begins reports whether b begins with p, or may yet.
func begins(b []byte, p string) bool {
	n := min(len(b), len(p))
	return string(b[:n]) == p[:n]
}

func parseV1(b []byte) (h Header, n int, s State) {
	end := bytes.IndexByte(b[:min(len(b), maxV1)], '\n')
	if end < 0 {
		if len(b) >= maxV1 || len(b) > 0 && bytes.IndexByte(b[:len(b)-1], '\r') >= 0 {
			return h, 0, Invalid
		}
		return h, 0, Partial
	}
	if end < len(prefixV1) || b[end-1] != '\r' {
		return h, 0, Invalid
	}
	line := b[len(prefixV1) : end-1]
	if string(line) == "UNKNOWN" || bytes.HasPrefix(line, []byte("UNKNOWN ")) { // what follows is to be ignored
		if bytes.IndexByte(line, '\r') >= 0 {
			return h, 0, Invalid
		}
		return h, end + 1, Complete
	}
	fields := bytes.Split(line, []byte{' '})
	if len(fields) != 5 {
		return h, 0, Invalid
	}
	four := string(fields[0]) == "TCP4"
	if !four && string(fields[0]) != "TCP6" {
		return h, 0, Invalid
	}
	var ok [4]bool
	var from, to netip.Addr
	var sport, dport uint16
	from, ok[0] = address(fields[1], four)
	to, ok[1] = address(fields[2], four)
	sport, ok[2] = port(fields[3])
	dport, ok[3] = port(fields[4])
	if ok != [4]bool{true, true, true, true} {
		return h, 0, Invalid
	}
	return Header{netip.AddrPortFrom(from, sport), netip.AddrPortFrom(to, dport)}, end + 1, Complete
}

func address(b []byte, four bool) (netip.Addr, bool) {
	a, err := netip.ParseAddr(string(b))
	if err != nil || a.Is4() != four || a.Zone() != "" {
		return netip.Addr{}, false
	}
	return a.Unmap(), true
}

func port(b []byte) (uint16, bool) {
	if len(b) == 0 || len(b) > 5 || b[0] == '0' && len(b) > 1 {
		return 0, false
	}
	n := 0
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return uint16(n), n <= 65535
}

func parseV2(b []byte) (h Header, n int, s State) {
	if len(b) < headV2 {
		return h, 0, Partial
	}
	kind, family := b[12], b[13]
	n = headV2 + int(binary.BigEndian.Uint16(b[14:]))
	if n > Max || kind != 0x20 && kind != 0x21 {
		return h, 0, Invalid
	}
	size := 0 // of one address
	switch {
	case kind == 0x20: // LOCAL: the receiver ignores what follows
	case family == 0x11:
		size = 4
	case family == 0x21:
		size = 16
	default:
		return h, 0, Invalid
	}
	if n < headV2+2*size+4 && size > 0 {
		return h, 0, Invalid
	}
	if len(b) < n {
		return h, 0, Partial
	}
	if size == 0 {
		return h, n, Complete
	}
	body := b[headV2:n]
	from, _ := netip.AddrFromSlice(body[:size])
	to, _ := netip.AddrFromSlice(body[size : 2*size])
	ports := body[2*size:]
	h.Source = netip.AddrPortFrom(from.Unmap(), binary.BigEndian.Uint16(ports))
	h.Destination = netip.AddrPortFrom(to.Unmap(), binary.BigEndian.Uint16(ports[2:]))
	if !values(b[:n], headV2+2*size+4) {
		return Header{}, 0, Invalid
	}
	return h, n, Complete
}

// values checks the TLVs from position at to the end: each whole, and the
// checksum, if there is one, that of the header with zeros in its place (§2.2.3).
func values(b []byte, at int) bool {
	summed := false
	for at < len(b) {
		if len(b)-at < 3 {
			return false
		}
		size := int(binary.BigEndian.Uint16(b[at+1:]))
		if len(b)-at-3 < size {
			return false
		}
		if b[at] == tlvCRC32C {
			if size != 4 || summed {
				return false
			}
			summed = true
			table := crc32.MakeTable(crc32.Castagnoli)
			sum := crc32.Update(0, table, b[:at+3])
			sum = crc32.Update(sum, table, make([]byte, 4))
			sum = crc32.Update(sum, table, b[at+7:])
			if sum != binary.BigEndian.Uint32(b[at+3:]) {
				return false
			}
		}
		at += 3 + size
	}
	return true
}

// pair brings both addresses to one family; false: one is not known.
func (h *Header) pair() (from, to netip.Addr, four, ok bool) {
	from, to = h.Source.Addr().Unmap().WithZone(""), h.Destination.Addr().Unmap().WithZone("")
	if !from.IsValid() || !to.IsValid() {
		return from, to, false, false
	}
	if from.Is4() && to.Is4() {
		return from, to, true, true
	}
	return netip.AddrFrom16(from.As16()), netip.AddrFrom16(to.As16()), false, true
}

// AppendV1 appends the header in version 1, a line of text.
func (h *Header) AppendV1(dst []byte) []byte {
	from, to, four, ok := h.pair()
	switch {
	case !ok:
		return append(dst, "PROXY UNKNOWN\r\n"...)
	case four:
		dst = append(dst, "PROXY TCP4 "...)
	default:
		dst = append(dst, "PROXY TCP6 "...)
	}
	dst = append(from.AppendTo(dst), ' ')
	dst = append(to.AppendTo(dst), ' ')
	dst = append(strconv.AppendUint(dst, uint64(h.Source.Port()), 10), ' ')
	return append(strconv.AppendUint(dst, uint64(h.Destination.Port()), 10), "\r\n"...)
}

// AppendV2 appends the header in version 2, which is binary.
func (h *Header) AppendV2(dst []byte) []byte {
	from, to, four, ok := h.pair()
	dst = append(dst, signature...)
	switch {
	case !ok:
		return append(dst, 0x20, 0, 0, 0)
	case four:
		dst = append(dst, 0x21, 0x11, 0, 12)
	default:
		dst = append(dst, 0x21, 0x21, 0, 36)
	}
	dst = append(append(dst, from.AsSlice()...), to.AsSlice()...)
	dst = binary.BigEndian.AppendUint16(dst, h.Source.Port())
	return binary.BigEndian.AppendUint16(dst, h.Destination.Port())
}
