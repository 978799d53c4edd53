//go:build !race

package http2

import (
	"testing"
)

// TestNoAllocation: once memory has grown, requests with bodies, trailers,
// windows and all cost none.
func TestNoAllocation(t *testing.T) {
	for _, n := range []int{1, 16} {
		once := exchanges(t, n)
		for range 300 {
			once()
		}
		if got := testing.AllocsPerRun(500, once); got != 0 {
			t.Errorf("%d at once: %v allocations", n, got)
		}
	}
}
