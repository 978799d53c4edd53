//go:build linux

// Package capture reads from the kernel where a redirected connection was
// meant to go. The redirect rules themselves are set by whoever makes the
// workload's network namespace.
package capture

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"syscall"
	"unsafe"
)

// soOriginalDst is SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST.
const soOriginalDst = 80

// OriginalDst returns the address that the client of an accepted connection
// dialled before a redirect rule (nftables, iptables) sent it here. An error
// means that the connection was not redirected or the kernel tracks none.
func OriginalDst(fd int) (netip.AddrPort, error) {
	var raw [28]byte // struct sockaddr_in6
	size := uint32(16)
	_, _, errno := syscall.RawSyscall6(syscall.SYS_GETSOCKOPT, uintptr(fd), syscall.SOL_IP, soOriginalDst,
		uintptr(unsafe.Pointer(&raw)), uintptr(unsafe.Pointer(&size)), 0)
	if errno == 0 {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(raw[4:8])), binary.BigEndian.Uint16(raw[2:4])), nil
	}
	first := errno
	size = 28
	_, _, errno = syscall.RawSyscall6(syscall.SYS_GETSOCKOPT, uintptr(fd), syscall.SOL_IPV6, soOriginalDst,
		uintptr(unsafe.Pointer(&raw)), uintptr(unsafe.Pointer(&size)), 0)
	if errno == 0 {
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(raw[8:24])).Unmap(), binary.BigEndian.Uint16(raw[2:4])), nil
	}
	return netip.AddrPort{}, fmt.Errorf("original destination of the connection: %w", first)
}
