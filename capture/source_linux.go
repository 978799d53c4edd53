package capture

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// AddSource gives AppSource6 to the loopback device of the calling thread's
// network namespace, and the device its life. Where the kernel has no IPv6 it
// does nothing: there is no connection then that would need it.
func AddSource() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("capture: find the loopback device: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("capture: bring the loopback device up: %w", err)
	}
	a := AppSource6()
	err = netlink.AddrReplace(lo, &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(128, 128)}, Flags: unix.IFA_F_NODAD})
	// EACCES: disabled by sysctl; the others: by the kernel's configuration.
	if err != nil && !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EAFNOSUPPORT) && !errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("capture: add %v to the loopback device: %w", a, err)
	}
	return nil
}
