// Package load sends requests at a steady pace and counts what came of them.
package load

import (
	"context"
	"sync"
	"time"
)

// maxInFlight bounds the requests under way: what is more is counted as a
// failure, for the pace is not slowed by slow answers.
const maxInFlight = 512

// Counts says what came of the requests so far.
type Counts struct {
	Sent     int
	OK       map[string]int // by what the answer says of who gave it
	Failures map[string]int // by error
}

// Failed is the number of requests that failed.
func (c Counts) Failed() int { return sum(c.Failures) }

// Answered is the number of requests that succeeded.
func (c Counts) Answered() int { return sum(c.OK) }

// Since returns what c counts more than before does.
func (c Counts) Since(before Counts) Counts {
	return Counts{Sent: c.Sent - before.Sent, OK: less(c.OK, before.OK), Failures: less(c.Failures, before.Failures)}
}

func less(now, before map[string]int) map[string]int {
	d := map[string]int{}
	for k, n := range now {
		if n > before[k] {
			d[k] = n - before[k]
		}
	}
	return d
}

func sum(counts map[string]int) int {
	n := 0
	for _, c := range counts {
		n += c
	}
	return n
}

// A Load counts the requests of one Run. It may be read at any time.
type Load struct {
	mu     sync.Mutex
	counts Counts
}

// Counts returns a copy of the counts so far.
func (l *Load) Counts() Counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := Counts{Sent: l.counts.Sent, OK: map[string]int{}, Failures: map[string]int{}}
	for k, n := range l.counts.OK {
		c.OK[k] = n
	}
	for k, n := range l.counts.Failures {
		c.Failures[k] = n
	}
	return c
}

// Run calls ask rate times a second until ctx ends, and returns when the last
// call has. ask returns who answered.
func (l *Load) Run(ctx context.Context, rate float64, ask func(context.Context) (string, error)) {
	ticks := time.NewTicker(time.Duration(float64(time.Second) / rate))
	defer ticks.Stop()
	slots := make(chan struct{}, maxInFlight)
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticks.C:
		}
		select {
		case slots <- struct{}{}:
			wg.Go(func() {
				// A request under way when the load ends is let go on.
				who, err := ask(context.WithoutCancel(ctx))
				<-slots
				l.add(who, err)
			})
		default:
			l.add("", errTooMany)
		}
	}
}

type loadError string

func (e loadError) Error() string { return string(e) }

const errTooMany = loadError("not sent: too many requests are under way")

func (l *Load) add(who string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.counts.OK == nil {
		l.counts.OK, l.counts.Failures = map[string]int{}, map[string]int{}
	}
	l.counts.Sent++
	if err != nil {
		l.counts.Failures[err.Error()]++
		return
	}
	l.counts.OK[who]++
}
