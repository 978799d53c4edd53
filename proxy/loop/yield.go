//go:build linux

package loop

import _ "unsafe" // for go:linkname

// goyield lets the other goroutines of this P run before the caller. Unlike
// runtime.Gosched it wakes no idle thread to look for work that is not there,
// which for a loop at a thousand requests a second was one futex call in two
// requests and a thread that spins. Go keeps its signature for those who link
// to it (runtime/proc.go).
//
//go:linkname goyield runtime.goyield
func goyield()
