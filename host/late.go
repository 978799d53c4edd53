package host

import (
	"context"
	"sync/atomic"
	"time"
)

// Lateness measures how late this process runs when it wants to: a timer that
// fires after it was due waited for a CPU, in the kernel's run queue, under a
// quota, under the hypervisor, or for the process's own scheduler.
type Lateness struct {
	checks atomic.Uint64
	over   [len(lateBounds)]atomic.Uint64
}

// lateBounds are the classes of delays that are counted.
var lateBounds = [...]struct {
	limit time.Duration
	name  string
}{
	{time.Millisecond, "1ms"}, {5 * time.Millisecond, "5ms"},
	{20 * time.Millisecond, "20ms"}, {100 * time.Millisecond, "100ms"},
}

// lateEvery is the time between two checks: twenty wake-ups a second cost a
// fraction of a thousandth of a CPU, and give a window of ten seconds 200 samples.
const lateEvery = 50 * time.Millisecond

// Run checks until ctx ends. The clock is the runtime's own: what is measured
// is its timers.
func (l *Lateness) Run(ctx context.Context) {
	t := time.NewTimer(lateEvery)
	defer t.Stop()
	due := time.Now().Add(lateEvery)
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		now := time.Now()
		l.note(now.Sub(due))
		due = now.Add(lateEvery)
		t.Reset(lateEvery)
	}
}

func (l *Lateness) note(late time.Duration) {
	l.checks.Add(1)
	for i := range lateBounds {
		if late >= lateBounds[i].limit {
			l.over[i].Add(1)
		}
	}
}
