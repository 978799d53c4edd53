package local

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"runtime"
	"syscall"

	"github.com/seinemesh/seine/local/netns"
)

// share makes a world without namespaces: every instance has an address of the
// host's loopback. Programs that seine up starts are killed when it dies; what
// they start in turn is their own business. end must be called last.
func share() (w *world, end func()) {
	s := newStarter()
	prefix := freeLoopbacks()
	return &world{
		control: prefix.Addr().Next(), prefix: prefix, launch: s.launch,
		site: func(int, netip.Addr, bool) (*site, error) {
			return &site{launch: s.launch, listening: netns.Listening, close: func() {}}, nil
		},
	}, s.end
}

// starter starts programs from one thread that lives until end: a program that
// is bound (sandbox.Spec) is killed when the thread that started it ends.
type starter struct{ calls chan func() }

func newStarter() *starter {
	s := &starter{calls: make(chan func())}
	go func() {
		runtime.LockOSThread()
		for f := range s.calls {
			f()
		}
	}()
	return s
}

func (s *starter) launch(cmd *exec.Cmd) error {
	err := make(chan error, 1)
	s.calls <- func() { err <- cmd.Start() }
	return <-err
}

func (s *starter) end() { close(s.calls) }

const loopbackTries = 64

// freeLoopbacks are loopback addresses that no other mesh uses: nothing listens
// where its control plane would. If all are taken it is the first, and seined
// says what is wrong.
func freeLoopbacks() netip.Prefix {
	at := loopbacks.Addr().As4()
	for range loopbackTries {
		p := netip.PrefixFrom(netip.AddrFrom4(at), loopbacks.Bits())
		if canListen(p.Addr().Next(), portXDS) == nil && canListen(p.Addr().Next(), portAPI) == nil {
			return p
		}
		at[1]++
	}
	return loopbacks
}

// canListen says why the port of an address cannot be listened on, and what to
// do about it.
func canListen(a netip.Addr, port uint16) error {
	at := netip.AddrPortFrom(a, port)
	l, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(at))
	switch {
	case err == nil:
		return l.Close()
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%s needs root without isolation: choose a port from 1024 on, or allow it with `sudo sysctl -w net.ipv4.ip_unprivileged_port_start=%d`", at, port)
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%s is in use by another program: stop that, or choose another port", at)
	}
	return err
}
