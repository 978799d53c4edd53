package message

import (
	"encoding/binary"
	"math/bits"
)

// Token says of each byte whether RFC 9110 §5.6.2 has it in a token (methods,
// field names).
var Token = func() (t [256]bool) {
	for c := '0'; c <= '9'; c++ {
		t[c] = true
	}
	for c := 'a'; c <= 'z'; c++ {
		t[c], t[c-0x20] = true, true
	}
	for _, c := range "!#$%&'*+-.^_`|~" {
		t[c] = true
	}
	return t
}()

// ValidName reports whether b is a field name: a token, not empty.
func ValidName(b []byte) bool {
	for _, c := range b {
		if !Token[c] {
			return false
		}
	}
	return len(b) > 0
}

// ValidValue reports whether b is a field value without surrounding white
// space: no control byte but the tab (RFC 9110 §5.5).
func ValidValue(b []byte) bool {
	n := len(b)
	if n == 0 {
		return true
	}
	if b[0] == ' ' || b[0] == '\t' || b[n-1] == ' ' || b[n-1] == '\t' {
		return false
	}
	for i := 0; i < n; {
		i += Text(b[i:])
		if i < n && b[i] != '\t' {
			return false
		}
		i++
	}
	return true
}

// Text returns how many bytes b begins with that are no control bytes, tabs
// among them: the run up to the next tab, CR or byte that no field may hold.
func Text(b []byte) int {
	const ones, high = 0x0101010101010101, 0x8080808080808080
	i := 0
	for ; i+8 <= len(b); i += 8 {
		x := binary.LittleEndian.Uint64(b[i:])
		del := x ^ 0x7f*ones
		// A borrow can only set bits above the lowest one, which is right.
		if m := ((x-0x20*ones)&^x | (del-ones)&^del) & high; m != 0 {
			return i + bits.TrailingZeros64(m)/8
		}
	}
	for ; i < len(b); i++ {
		if c := b[i]; c < 0x20 || c == 0x7f {
			break
		}
	}
	return i
}
