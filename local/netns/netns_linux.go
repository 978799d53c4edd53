// Package netns makes network namespaces and wires them to a hub: a bridge in
// the namespace where it is created, with one veth pair for each member.
//
// Namespaces are held by file descriptors only, never by names in /run/netns:
// when the process that holds them is gone, so are they, with their links and
// rules. Everything goes over netlink; no program is started. It needs
// CAP_NET_ADMIN and CAP_SYS_ADMIN in the caller's user namespace.
package netns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	vishnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// NS is one network namespace, held open.
type NS struct{ file *os.File }

// New makes a network namespace with its loopback up, ports below 1024 open to
// everybody, and IPv6 off. The caller's own namespace does not change.
func New() (*NS, error) {
	var ns *NS
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("netns: make a network namespace: %w", err)
		}
		var err error
		if ns, err = Current(); err != nil {
			return err
		}
		return prepare()
	})
	if err != nil && ns != nil {
		ns.Close()
		ns = nil
	}
	return ns, err
}

// Current is the calling thread's network namespace.
func Current() (*NS, error) {
	f, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("netns: open the current network namespace: %w", err)
	}
	return &NS{f}, nil
}

// FD is the descriptor that holds the namespace. It is n's.
func (n *NS) FD() int { return int(n.file.Fd()) }

// Close lets go of the namespace. It lives on while a process is in it.
func (n *NS) Close() error { return n.file.Close() }

// Do runs f on a thread that is in the namespace. Sockets that f opens stay in
// it. f must not start goroutines that rely on it.
func (n *NS) Do(f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(n.FD(), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("netns: enter a network namespace: %w", err)
		}
		return f()
	})
}

// Start starts cmd in the namespace. Its SysProcAttr must not ask for a
// Pdeathsig: the thread that starts it ends.
func (n *NS) Start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr != nil && cmd.SysProcAttr.Pdeathsig != 0 {
		return errors.New("netns: Pdeathsig would kill the process at once")
	}
	return n.Do(cmd.Start)
}

// onThread runs f on an OS thread of its own, which ends with it: whatever f
// did to the thread's namespaces is gone afterwards.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the runtime ends the thread
		done <- f()
	}()
	return <-done
}

// prepare sets the calling thread's namespace up.
func prepare() error {
	for name, value := range map[string]string{
		"ipv4/ip_unprivileged_port_start": "0",
		"ipv6/conf/all/disable_ipv6":      "1",
		"ipv6/conf/default/disable_ipv6":  "1",
	} {
		err := os.WriteFile("/proc/sys/net/"+name, []byte(value), 0)
		if errors.Is(err, os.ErrNotExist) && strings.HasPrefix(name, "ipv6") {
			continue // a kernel without IPv6
		}
		if err != nil {
			return fmt.Errorf("netns: set net/%s: %w", name, err)
		}
	}
	h, err := netlink.NewHandle()
	if err != nil {
		return fmt.Errorf("netns: open netlink: %w", err)
	}
	defer h.Close()
	return up(h, "lo")
}

func up(h *netlink.Handle, name string) error {
	link, err := h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("netns: find %s: %w", name, err)
	}
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("netns: bring %s up: %w", name, err)
	}
	return nil
}

// Hub is the bridge that members are wired to. Its methods may be called from
// any goroutine; one at a time for one name.
type Hub struct {
	Addr   netip.Addr   // the hub's own, the members' default route
	Prefix netip.Prefix // what members' addresses are out of
	handle *netlink.Handle
	bridge netlink.Link
}

const bridgeName = "seine0"

// NewHub prepares the calling thread's own network namespace as a hub with the
// first address of prefix.
func NewHub(prefix netip.Prefix) (*Hub, error) {
	if err := prepare(); err != nil {
		return nil, err
	}
	h, err := netlink.NewHandle()
	if err != nil {
		return nil, fmt.Errorf("netns: open netlink: %w", err)
	}
	hub := &Hub{Addr: prefix.Masked().Addr().Next(), Prefix: prefix.Masked(), handle: h}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = bridgeName
	// Without a MAC of its own the bridge would change its MAC with its members.
	attrs.HardwareAddr = hardware(hub.Addr)
	if err := h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		h.Close()
		return nil, fmt.Errorf("netns: make the bridge %s: %w", bridgeName, err)
	}
	if err := hub.raise(); err != nil {
		h.Close()
		return nil, err
	}
	return hub, nil
}

func (h *Hub) raise() error {
	var err error
	if h.bridge, err = h.handle.LinkByName(bridgeName); err != nil {
		return fmt.Errorf("netns: find %s: %w", bridgeName, err)
	}
	if err := h.handle.AddrAdd(h.bridge, address(h.Addr, h.Prefix.Bits())); err != nil {
		return fmt.Errorf("netns: give %s to %s: %w", h.Addr, bridgeName, err)
	}
	return up(h.handle, bridgeName)
}

// Close lets go of netlink. The bridge ends with its namespace.
func (h *Hub) Close() { h.handle.Close() }

// Attach wires ns to the hub: eth0 with addr inside, and a default route by the
// hub. name is the hub's end of the pair; at most 15 bytes, unique.
func (h *Hub) Attach(ns *NS, name string, addr netip.Addr) error {
	if !h.Prefix.Contains(addr) {
		return fmt.Errorf("netns: %s is not an address of %s", addr, h.Prefix)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	attrs.MasterIndex = h.bridge.Attrs().Index
	veth := &netlink.Veth{
		LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns.FD()),
		// An address that comes back has the MAC that its neighbours remember.
		PeerHardwareAddr: hardware(addr),
	}
	if err := h.handle.LinkAdd(veth); err != nil {
		return fmt.Errorf("netns: make the pair %s–eth0: %w", name, err)
	}
	if err := up(h.handle, name); err != nil {
		return err
	}
	inner, err := netlink.NewHandleAt(vishnetns.NsHandle(ns.FD()))
	if err != nil {
		return fmt.Errorf("netns: open netlink inside: %w", err)
	}
	defer inner.Close()
	link, err := inner.LinkByName("eth0")
	if err != nil {
		return fmt.Errorf("netns: find eth0: %w", err)
	}
	if err := inner.AddrAdd(link, address(addr, h.Prefix.Bits())); err != nil {
		return fmt.Errorf("netns: give %s to eth0: %w", addr, err)
	}
	if err := up(inner, "eth0"); err != nil {
		return err
	}
	if err := inner.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.IP(h.Addr.AsSlice())}); err != nil {
		return fmt.Errorf("netns: route by %s: %w", h.Addr, err)
	}
	return nil
}

// Detach takes the pair away.
func (h *Hub) Detach(name string) error {
	link, err := h.handle.LinkByName(name)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("netns: find %s: %w", name, err)
	}
	if err := h.handle.LinkDel(link); err != nil {
		return fmt.Errorf("netns: remove %s: %w", name, err)
	}
	return nil
}

// hardware is a locally administered MAC that follows from an address.
func hardware(a netip.Addr) net.HardwareAddr {
	raw := a.As16()
	return append(net.HardwareAddr{0x02, 0x5e}, raw[12:]...)
}

func address(a netip.Addr, bits int) *netlink.Addr {
	return &netlink.Addr{IPNet: &net.IPNet{IP: net.IP(a.AsSlice()), Mask: net.CIDRMask(bits, a.BitLen())}}
}
