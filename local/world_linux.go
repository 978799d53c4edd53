package local

import (
	"fmt"
	"net/netip"
	"os/exec"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/seinemesh/seine/capture"
	"github.com/seinemesh/seine/local/netns"
	"github.com/seinemesh/seine/local/sandbox"
)

// world is where instances live: behind a hub, or side by side on the host.
type world struct {
	isolated bool
	control  netip.Addr   // where seined listens
	prefix   netip.Prefix // what instances' addresses are out of
	// site makes the place of the instance with that number and address.
	site func(number int, addr netip.Addr, captured bool) (*site, error)
	// launch starts what belongs to no instance.
	launch sandbox.Launcher
}

// site is the place of one instance.
type site struct {
	launch    sandbox.Launcher
	listening func() (map[uint16]bool, error) // ports that something there listens on
	close     func()
}

// isolate makes the hub of the calling process's own network namespace. It
// tries everything that an instance will need, so that a kernel that refuses
// any of it says so now.
func isolate() (*world, error) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return nil, fmt.Errorf("mount /proc: %w", err)
	}
	hub, err := netns.NewHub(instances)
	if err != nil {
		return nil, err
	}
	w := &world{
		isolated: true, control: hub.Addr, prefix: hub.Prefix,
		launch: (*exec.Cmd).Start,
		site: func(number int, addr netip.Addr, captured bool) (*site, error) {
			return isolatedSite(hub, number, addr, captured)
		},
	}
	// The first 16 addresses are nobody's (config.Allocate).
	trial, err := w.site(0, hub.Addr.Next(), true)
	if err != nil {
		return nil, err
	}
	trial.close()
	return w, nil
}

func isolatedSite(hub *netns.Hub, number int, addr netip.Addr, captured bool) (*site, error) {
	ns, err := netns.New()
	if err != nil {
		return nil, err
	}
	link := "veth" + strconv.Itoa(number)
	if err := hub.Attach(ns, link, addr); err != nil {
		ns.Close()
		return nil, err
	}
	if captured {
		rules := capture.Default()
		// Only the mark: a workload's user may have any uid, also the sidecar's.
		rules.SidecarUID, rules.SidecarGID = nil, nil
		rules.ExcludeOutbound = []netip.AddrPort{netip.AddrPortFrom(hub.Addr, 53)}
		err = capture.Install(ns.FD(), rules)
	}
	s := &site{
		launch:    ns.Start,
		listening: ns.Listening,
		close: func() {
			// The link goes with its namespace anyway, later.
			_ = hub.Detach(link)
			ns.Close()
		},
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}
