package http1

// targetByte: what a request target may hold at all: printable ASCII, no fragment.
var targetByte = func() (t [256]bool) {
	for c := 0x21; c < 0x7f; c++ {
		t[c] = c != '#'
	}
	return t
}()

// hex says of each digit its value plus one; 0: none.
var hex = func() (t [256]uint8) {
	for i := range 10 {
		t['0'+i] = uint8(i + 1)
	}
	for i := range 6 {
		t['a'+i], t['A'+i] = uint8(i+11), uint8(i+11)
	}
	return t
}()
