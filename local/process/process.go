// Package process keeps a program running: started, watched, started again
// with back-off when it ends, stopped in order.
//
// In: a way to start the program. Out: reports of what became of it. How a
// program is isolated is not its business, nor is what its output says.
package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// Program is a running program.
type Program interface {
	PID() int
	Wait() error // nil: ended with code 0; may be called again
	Signal(os.Signal) error
}

// Clock is where time comes from.
type Clock struct {
	Now   func() time.Time
	After func(time.Duration) <-chan time.Time
}

// WallClock is the machine's.
func WallClock() Clock { return Clock{Now: time.Now, After: time.After} }

// Backoff is how long to wait before the next start: First after the first
// failure, twice as long after each more, at most Max. A program that ran for
// Healthy begins anew.
type Backoff struct{ First, Max, Healthy time.Duration }

// DefaultBackoff is short enough to watch and long enough to spare the machine.
func DefaultBackoff() Backoff {
	return Backoff{First: 250 * time.Millisecond, Max: 15 * time.Second, Healthy: 10 * time.Second}
}

// Delay is the wait after failures failures in a row (from 1).
func (b Backoff) Delay(failures int) time.Duration {
	d := b.First
	for range failures - 1 {
		if d >= b.Max {
			break
		}
		d *= 2
	}
	return min(d, b.Max)
}

// Phase is what a program is doing.
type Phase uint8

// The phases of a program's life.
const (
	Preparing Phase = iota // waiting for what it needs
	Running
	Waiting // ended; will be started again
	Stopped // will not be started again
)

func (p Phase) String() string {
	return [...]string{"preparing", "running", "restarting", "stopped"}[p]
}

// Report is one change in a program's life.
type Report struct {
	Phase    Phase
	PID      int           // while Running
	Restarts int           // how often it was started again
	Err      error         // how it ended, while Waiting and Stopped
	Delay    time.Duration // until the next start, while Waiting
}

// Options say what to keep running.
type Options struct {
	// Prepare runs before each start; nil: nothing to do.
	Prepare func(context.Context) error
	Start   func() (Program, error)
	Report  func(Report)  // called in order, from one goroutine; nil: nobody asks
	Clock   Clock         // zero: WallClock
	Backoff Backoff       // zero: DefaultBackoff
	Grace   time.Duration // from SIGTERM to SIGKILL; zero: at once SIGKILL
}

// ErrExited is how a program ended that gave no error; programs here are meant
// to run until they are stopped.
var ErrExited = errors.New("exited with code 0")

// Keep runs the program until ctx ends, then stops it: SIGTERM, and SIGKILL
// after Grace or as soon as kill is closed. It returns when the program is gone.
func Keep(ctx context.Context, kill <-chan struct{}, opt Options) {
	if opt.Clock.Now == nil {
		opt.Clock = WallClock()
	}
	if opt.Backoff == (Backoff{}) {
		opt.Backoff = DefaultBackoff()
	}
	report := func(r Report) {
		if opt.Report != nil {
			opt.Report(r)
		}
	}
	failures, restarts := 0, 0
	for {
		report(Report{Phase: Preparing, Restarts: restarts})
		began := opt.Clock.Now()
		err := once(ctx, kill, &opt, func(pid int) {
			began = opt.Clock.Now()
			report(Report{Phase: Running, PID: pid, Restarts: restarts})
		})
		if ctx.Err() != nil {
			report(Report{Phase: Stopped, Restarts: restarts, Err: err})
			return
		}
		if opt.Clock.Now().Sub(began) >= opt.Backoff.Healthy {
			failures = 0
		}
		failures++
		restarts++
		delay := opt.Backoff.Delay(failures)
		report(Report{Phase: Waiting, Restarts: restarts, Err: err, Delay: delay})
		select {
		case <-opt.Clock.After(delay):
		case <-ctx.Done():
			report(Report{Phase: Stopped, Restarts: restarts})
			return
		}
	}
}

// once runs the program once and says how it ended; nil if it was stopped.
func once(ctx context.Context, kill <-chan struct{}, opt *Options, running func(pid int)) error {
	if opt.Prepare != nil {
		if err := opt.Prepare(ctx); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	p, err := opt.Start()
	if err != nil {
		return err
	}
	running(p.PID())
	ended := make(chan error, 1)
	go func() { ended <- p.Wait() }()
	select {
	case err := <-ended:
		if err == nil {
			return ErrExited
		}
		return err
	case <-ctx.Done():
	}
	return stop(p, ended, kill, opt)
}

func stop(p Program, ended <-chan error, kill <-chan struct{}, opt *Options) error {
	if opt.Grace > 0 {
		if err := p.Signal(syscall.SIGTERM); err != nil {
			return err
		}
		select {
		case <-ended:
			return nil
		case <-kill:
		case <-opt.Clock.After(opt.Grace):
		}
	}
	if err := p.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-ended
	if opt.Grace > 0 {
		return fmt.Errorf("did not stop within %s and was killed", opt.Grace)
	}
	return nil
}
