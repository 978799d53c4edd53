package local

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"

	"golang.org/x/term"

	"github.com/seinemesh/seine/local/process"
	"github.com/seinemesh/seine/local/sandbox"
)

// HubArgs are the arguments with which a program that calls Up must call Hub
// and nothing else.
func HubArgs() []string { return []string{"up", "stage-hub"} }

// IsHub reports whether args (os.Args) are those of a hub.
func IsHub(args []string) bool {
	return len(args) == 3 && args[1] == HubArgs()[0] && args[2] == HubArgs()[1]
}

// The hub's descriptors: the control channel, then the published listeners.
const controlFD = 3

// Hub runs a mesh as process 1 of new namespaces, as Up tells it over the control
// channel. When that closes, the process ends, and everything else with it.
func Hub() error {
	ch, err := newChannel(os.NewFile(controlFD, "control"))
	if err != nil {
		return err
	}
	var first order
	if err := ch.receive(&first); err != nil || first.Start == nil {
		return fmt.Errorf("hub: the outer process said nothing to start: %w", err)
	}
	w, err := isolate()
	if err != nil {
		return ch.send(notice{Refused: err.Error()})
	}
	if err := ch.send(notice{Begun: true}); err != nil {
		return err
	}
	var listen []*os.File
	for i := range first.Start.Publish {
		listen = append(listen, os.NewFile(uintptr(controlFD+1+i), "published"))
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	kill := make(chan struct{})
	var once sync.Once
	go func() {
		for {
			var o order
			if ch.receive(&o) != nil {
				os.Exit(1) // the outer process is gone
			}
			if o.Kill {
				once.Do(func() { close(kill) })
			}
			stop()
		}
	}()
	p := newPrinter(os.Stdout, term.IsTerminal(int(os.Stdout.Fd())))
	r := newRunner(*first.Start, w, p, listen, kill)
	err = r.run(ctx)
	p.close()
	if err != nil && ctx.Err() == nil {
		return ch.send(notice{Failed: err.Error()})
	}
	return ch.send(notice{Done: true})
}

func newRunner(j job, w *world, p *printer, listen []*os.File, kill <-chan struct{}) *runner {
	return &runner{
		job: j, world: w, print: p, listen: listen, kill: kill, clock: process.WallClock(),
		log: slog.New(slog.NewTextHandler(eventWriter{p}, &slog.HandlerOptions{
			Level: slog.LevelWarn,
			ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
				if a.Key == slog.TimeKey {
					return slog.Attr{}
				}
				return a
			},
		})),
	}
}

// eventWriter makes log lines events.
type eventWriter struct{ p *printer }

func (w eventWriter) Write(b []byte) (int, error) {
	w.p.event("%s", strings.TrimRight(string(b), "\n"))
	return len(b), nil
}

// Stages are the hidden arguments after "up" with which this program calls
// itself, each with what it must then do and nothing else.
func Stages() map[string]func() error {
	return map[string]func() error{
		HubArgs()[1]:           Hub,
		sandbox.StageArgs()[1]: func() error { sandbox.Stage(); return nil },
	}
}
