package config

import (
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"slices"
	"strconv"
)

func instanceName(name string, n int) string { return name + "-" + strconv.Itoa(n) }

// Allocate gives each name an address of prefix. It is a pure function of its
// arguments: each name has its own sequence of candidates, by hash, and takes
// the first that no lexicographically earlier name and nothing in taken holds.
// So a new name moves another one's address only where both want the same, and
// then the later of the two moves. Names for which no address was found within
// a bounded number of tries (a prefix nearly full) are left out.
func Allocate(prefix netip.Prefix, names []string, taken map[netip.Addr]bool) map[string]netip.Addr {
	names = slices.Clone(names)
	slices.Sort(names)
	names = slices.Compact(names)
	out := make(map[string]netip.Addr, len(names))
	used := make(map[netip.Addr]bool, len(names))
	for _, name := range names {
		for try := range uint32(256) {
			a, ok := candidate(prefix, name, try)
			if !ok {
				break
			}
			if !used[a] && !taken[a] {
				used[a] = true
				out[name] = a
				break
			}
		}
	}
	return out
}

// candidate is the address that name wants at its try-th attempt. The first 16
// addresses of the prefix and the last one are nobody's: routers and resolvers
// live there.
func candidate(prefix netip.Prefix, name string, try uint32) (netip.Addr, bool) {
	const reserved = 16
	prefix = prefix.Masked()
	bits := prefix.Addr().BitLen() - prefix.Bits()
	if bits < 6 {
		return netip.Addr{}, false
	}
	bits = min(bits, 62)
	var seed [4]byte
	binary.BigEndian.PutUint32(seed[:], try)
	sum := sha256.Sum256(append(seed[:], name...))
	offset := reserved + binary.BigEndian.Uint64(sum[:])%(1<<bits-reserved-1)
	raw := prefix.Addr().As16()
	low := binary.BigEndian.Uint64(raw[8:]) + offset
	binary.BigEndian.PutUint64(raw[8:], low)
	a := netip.AddrFrom16(raw)
	if prefix.Addr().Is4() {
		a = a.Unmap()
	}
	return a, true
}
