package span

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/seinemesh/seine/telemetry/metrics"
)

const (
	maxBatch    = 512
	gather      = time.Second // for a batch
	maxQueued   = 1 << 20     // bytes of spans that wait for a collector
	firstPause  = time.Second // after a failure; it doubles
	longPause   = 30 * time.Second
	sendTimeout = 10 * time.Second // OTLP's default
)

// counts are what has become of spans.
type counts struct{ sent, dropped, rejected *metrics.Counter }

// exporter sends what is added to it to one collector. add may be called by any
// goroutine and never waits.
type exporter struct {
	to      sender
	timeout time.Duration
	log     *slog.Logger // names the collector
	counts  *counts

	mu    sync.Mutex
	queue []queued
	bytes int
	wake  chan struct{} // of one
	full  chan struct{} // of one: there is a whole batch

	// The goroutine's.
	failing bool
	lost    uint64 // since it began to fail
	quit    context.CancelFunc
	done    chan struct{}
}

// queued is a record and how its side is reported.
type queued struct {
	record []byte
	side   *side
}

// start runs an exporter until close.
func start(to sender, timeout time.Duration, log *slog.Logger, c *counts) *exporter {
	if timeout <= 0 {
		timeout = sendTimeout
	}
	e := &exporter{
		to: to, timeout: timeout, log: log, counts: c,
		wake: make(chan struct{}, 1), full: make(chan struct{}, 1), done: make(chan struct{}),
	}
	ctx, quit := context.WithCancel(context.Background())
	e.quit = quit
	go e.run(ctx)
	return e
}

// close sends what is left, if that succeeds at once, and ends the exporter.
func (e *exporter) close() {
	e.quit()
	<-e.done
}

// add queues a record, which is copied.
func (e *exporter) add(p []byte, s *side) {
	e.mu.Lock()
	fits := e.bytes+len(p) <= maxQueued
	if fits {
		e.queue = append(e.queue, queued{append([]byte(nil), p...), s})
		e.bytes += len(p)
	}
	n := len(e.queue)
	e.mu.Unlock()
	if !fits {
		e.counts.dropped.Inc()
		return
	}
	nudge(e.wake)
	if n >= maxBatch {
		nudge(e.full)
	}
}

func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// take is the next batch; nil: there is none.
func (e *exporter) take() []reported {
	e.mu.Lock()
	n := min(len(e.queue), maxBatch)
	batch := e.queue[:n:n]
	e.queue = e.queue[n:]
	if len(e.queue) == 0 {
		e.queue = nil
	}
	for _, q := range batch {
		e.bytes -= len(q.record)
	}
	e.mu.Unlock()
	var out []reported
	for _, q := range batch {
		out = append(out, reported{decode(q.record), q.side})
	}
	return out
}

func (e *exporter) run(ctx context.Context) {
	defer close(e.done)
	defer e.to.close()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-e.wake:
			wait(ctx, gather, e.full)
		}
		for batch := e.take(); batch != nil; batch = e.take() {
			e.deliver(ctx, batch)
			if len(batch) < maxBatch {
				break // what has come meanwhile gathers
			}
		}
		e.mu.Lock()
		more := len(e.queue) > 0
		e.mu.Unlock()
		if more {
			nudge(e.wake)
		}
	}
}

// wait ends after d, with ctx, or when something comes over early.
func wait(ctx context.Context, d time.Duration, early <-chan struct{}) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-early:
	case <-t.C:
	}
}

// deliver tries until the collector has taken the batch, or will not. Once the
// exporter ends it tries once.
func (e *exporter) deliver(ctx context.Context, batch []reported) {
	pause := firstPause
	for {
		try, cancel := context.WithTimeout(context.WithoutCancel(ctx), e.timeout)
		err := e.to.send(try, batch)
		cancel()
		var no *refusal
		var some *partial
		var after *later
		switch {
		case err == nil:
			e.counts.sent.Add(uint64(len(batch)))
			e.recovered()
			return
		case errors.As(err, &some):
			left := min(max(some.rejected, 0), int64(len(batch)))
			e.counts.rejected.Add(uint64(left))
			e.counts.sent.Add(uint64(int64(len(batch)) - left))
			e.failed(err, uint64(left))
			return
		case errors.As(err, &no):
			e.counts.rejected.Add(uint64(len(batch)))
			e.failed(err, uint64(len(batch)))
			return
		}
		e.failed(err, 0)
		if ctx.Err() != nil {
			e.counts.dropped.Add(uint64(len(batch)))
			return
		}
		hold := pause
		if errors.As(err, &after) {
			hold = min(max(hold, after.after), longPause)
		}
		// Many proxies lose a collector at once, and must not come back at once.
		wait(ctx, hold*3/4+rand.N(hold/2), nil)
		pause = min(2*pause, longPause)
	}
}

// failed says once that the collector fails.
func (e *exporter) failed(err error, lost uint64) {
	e.lost += lost
	if e.failing {
		return
	}
	e.failing = true
	e.log.Warn("the trace collector takes no spans: they wait for it, as many as there is room for; requests are not affected", "error", err)
}

func (e *exporter) recovered() {
	if !e.failing {
		return
	}
	e.log.Info("the trace collector takes spans again", "refused", e.lost)
	e.failing, e.lost = false, 0
}
