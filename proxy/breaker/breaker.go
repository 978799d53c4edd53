// Package breaker counts what a user bounds by one number for a whole process,
// whatever the number of event loops: connections, requests, retries.
package breaker

import "sync/atomic"

// Count is one such number: an atomic word on cache lines of its own. Any
// goroutine may use it; nothing waits.
type Count struct {
	_ [64]byte
	n atomic.Int64
	_ [56]byte
}

// Take adds one unless that would exceed limit (0: no limit). It is exact: of
// any number of callers at once, exactly as many succeed as there is room for,
// and a refused one is never seen by the others.
func (c *Count) Take(limit uint32) bool {
	if limit == 0 {
		c.n.Add(1)
		return true
	}
	for {
		n := c.n.Load()
		if n >= int64(limit) {
			return false
		}
		if c.n.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// Give takes one off.
func (c *Count) Give() { c.n.Add(-1) }

// Value is the present count.
func (c *Count) Value() int64 { return c.n.Load() }
