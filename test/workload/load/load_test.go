package load

import (
	"context"
	"errors"
	"runtime"
	"sync/atomic"
	"testing"
)

func TestRunCounts(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	calls := make(chan int, 1)
	calls <- 0
	var l Load
	l.Run(ctx, 1000, func(context.Context) (string, error) {
		n := <-calls + 1
		calls <- n
		if n == 4 {
			stop()
		}
		if n == 2 {
			return "", errors.New("refused")
		}
		return "v1", nil
	})
	c := l.Counts()
	if c.Failures["refused"] != 1 || c.OK["v1"] < 3 || c.Sent != c.Answered()+c.Failed() {
		t.Errorf("counts %+v", c)
	}
}

// A load that is not answered does not slow down, and says so.
func TestRunDoesNotWait(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	release := make(chan struct{})
	var l Load
	go func() {
		defer close(release)
		for l.Counts().Failures[errTooMany.Error()] == 0 {
			runtime.Gosched()
		}
		stop()
	}()
	var under, peak atomic.Int64
	l.Run(ctx, 100000, func(context.Context) (string, error) {
		n := under.Add(1)
		defer under.Add(-1)
		for p := peak.Load(); n > p && !peak.CompareAndSwap(p, n); p = peak.Load() {
		}
		<-release
		return "late", nil
	})
	if peak.Load() != maxInFlight {
		t.Errorf("%d were under way at once, want %d", peak.Load(), maxInFlight)
	}
}
