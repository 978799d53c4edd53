package hpack

// The code is canonical: all codes of one length follow each other in the
// order of their bytes, and longer ones follow shorter ones. So a code is
// found by its length's first code; the frequent ones of up to short bits by
// one look-up.
const (
	short   = 9
	longest = 30
)

type huffmanTables struct {
	code [256]uint32
	// quick is, for each short bits, the byte whose code they begin with, and
	// the code's length in the high byte; 0: the code is longer.
	quick [1 << short]uint16
	// For each length: the first code after it, at the left of 32 bits (as
	// uint64, for it may be 2^32), its first code, and where its bytes begin in order.
	limit [longest + 1]uint64
	first [longest + 1]uint32
	start [longest + 1]uint16
	order [256]byte
}

var huffman = func() *huffmanTables {
	t := new(huffmanTables)
	code, at := uint32(0), 0
	for n := uint8(1); n <= longest; n++ {
		code <<= 1
		t.first[n], t.start[n] = code, uint16(at)
		for c := range 256 {
			if codeLen[c] != n {
				continue
			}
			t.code[c], t.order[at] = code, byte(c)
			if n <= short {
				low := code << (short - n)
				for i := range uint32(1) << (short - n) {
					t.quick[low+i] = uint16(n)<<8 | uint16(c)
				}
			}
			code++
			at++
		}
		t.limit[n] = uint64(code) << (32 - n)
	}
	return t
}()

// huffmanLen is how many bytes the code of b takes.
func huffmanLen(b []byte) int {
	n := 0
	for _, c := range b {
		n += int(codeLen[c])
	}
	return (n + 7) / 8
}

func appendHuffman(dst, b []byte) []byte {
	var acc uint64
	n := uint(0)
	for _, c := range b {
		l := uint(codeLen[c])
		acc = acc<<l | uint64(huffman.code[c])
		for n += l; n >= 8; {
			n -= 8
			dst = append(dst, byte(acc>>n))
		}
	}
	if n > 0 {
		dst = append(dst, byte(acc<<(8-n))|0xff>>n)
	}
	return dst
}

// decodeHuffman appends what b says to dst. Padding must be shorter than a byte
// and all ones; the code of the end of string must not occur (RFC 7541 §5.2).
func decodeHuffman(dst, b []byte) ([]byte, *Error) {
	t := huffman
	var acc uint64 // n bits at the right
	n := uint(0)
	for {
		for n <= 56 && len(b) > 0 {
			acc = acc<<8 | uint64(b[0])
			n += 8
			b = b[1:]
		}
		if n == 0 {
			return dst, nil
		}
		// The next 32 bits at the left, ones where there are no more.
		w := uint32((acc<<(64-n) | (1<<(64-n) - 1)) >> 32)
		if n == 64 {
			w = uint32(acc >> 32)
		}
		if q := t.quick[w>>(32-short)]; q != 0 {
			l := uint(q >> 8)
			if l > n {
				break
			}
			dst = append(dst, byte(q))
			n -= l
			continue
		}
		l := uint(short + 1)
		for l <= longest && uint64(w) >= t.limit[l] {
			l++
		}
		if l > n || l > longest {
			break
		}
		i := uint32(t.start[l]) + w>>(32-l) - t.first[l]
		if i >= 256 {
			return dst, ErrHuffman
		}
		dst = append(dst, t.order[i])
		n -= l
	}
	// No code: it must be the padding, seven ones at most.
	if n < 8 && len(b) == 0 && acc&(1<<n-1) == 1<<n-1 {
		return dst, nil
	}
	return dst, ErrHuffman
}
