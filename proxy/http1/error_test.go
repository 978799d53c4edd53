package http1

import "testing"

// The text goes into x-seine-cause, and a field value holds ASCII alone.
func TestErrorIsASCII(t *testing.T) {
	for _, l := range []*rule{lawMethod, lawEmptyLines, lawFragment} {
		for _, c := range []byte(l.on(request).Error()) {
			if c < 0x20 || c > 0x7e {
				t.Fatalf("%q holds the byte %#x", l.on(request).Error(), c)
			}
		}
	}
}
