package local

import (
	"net/netip"
	"os/exec"
	"runtime"

	"github.com/seinemesh/seine/local/netns"
)

// share makes a world without namespaces: every instance has an address of the
// host's loopback. Programs that seine up starts are killed when it dies; what
// they start in turn is their own business. end must be called last.
func share() (w *world, end func()) {
	s := newStarter()
	return &world{
		control: loopbacks.Addr().Next(), prefix: loopbacks, launch: s.launch,
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
