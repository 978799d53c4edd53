//go:build linux

package loop

import (
	"syscall"
	"time"
)

// KeepAlive switches TCP keep-alive on. What is 0 is left as the kernel has it;
// times are rounded up to seconds.
func KeepAlive(fd, probes int, idle, interval time.Duration) {
	seconds := func(d time.Duration) int { return int((d + time.Second - 1) / time.Second) }
	_ = syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_KEEPALIVE, 1)
	for _, o := range []struct{ option, value int }{
		{syscall.TCP_KEEPCNT, probes}, {syscall.TCP_KEEPIDLE, seconds(idle)}, {syscall.TCP_KEEPINTVL, seconds(interval)},
	} {
		if o.value > 0 {
			_ = syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, o.option, o.value)
		}
	}
}
