package span

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/telemetry"
	"github.com/seinemesh/seine/telemetry/metrics"
	"github.com/seinemesh/seine/telemetry/ring"
)

// Options of NewReporter. All are required but RingBytes.
type Options struct {
	// Dial connects to HOST:PORT of a collector, whose name it resolves.
	Dial func(ctx context.Context, address string) (net.Conn, error)
	// Env looks an environment variable up (os.LookupEnv).
	Env      func(string) (string, bool)
	Registry *metrics.Registry
	Log      *slog.Logger
	// RingBytes is the memory of each ring; 64 KiB if zero: some hundred spans.
	RingBytes int
}

// CountHelp is the help text of telemetry.TraceSpans.
const CountHelp = "Spans by what became of them: sent; rejected by the collector; dropped, as there was no room while it was away; ring_full, as the loop made them faster than they were taken; limited, as too many requests failed or were slow at once."

// Reporter takes spans out of the rings and gives each to its collector.
type Reporter struct {
	o      Options
	rings  *ring.Queue
	counts counts
	stop   chan struct{}
	done   chan struct{}

	sides  [2]atomic.Pointer[report] // client, server; nil: none
	mu     sync.Mutex                // of what follows
	known  []*destination
	ending sync.WaitGroup
}

// report is where the spans of a side go.
type report struct {
	to   *exporter
	side *side
}

// destination is a collector, and who reports to it.
type destination struct {
	collector *seinev1.Collector
	self      *seinev1.Workload
	to        *exporter
}

// NewReporter starts a reporter that has no collector yet.
func NewReporter(o Options) *Reporter {
	r := &Reporter{o: o, stop: make(chan struct{}), done: make(chan struct{})}
	count := func(outcome string) *metrics.Counter {
		return o.Registry.Counter(telemetry.TraceSpans, CountHelp, "outcome", outcome)
	}
	r.counts = counts{count("sent"), count("dropped"), count("rejected")}
	if o.RingBytes == 0 {
		o.RingBytes = 64 << 10
	}
	r.rings = ring.New(ring.Options{Bytes: o.RingBytes, Batch: 100 * time.Millisecond})
	go func() {
		defer close(r.done)
		r.rings.Run(r.stop, func() { r.rings.Each(r.record) })
	}()
	o.Registry.CounterFunc(telemetry.TraceSpans, CountHelp, func() float64 { return float64(r.rings.Dropped()) }, "outcome", "ring_full")
	return r
}

// Ring returns a new ring, to be used by one goroutine at a time (one loop).
func (r *Reporter) Ring() *Ring { return &Ring{r.rings.Ring()} }

// record gives a record to the collector of its side.
func (r *Reporter) record(p []byte) {
	if to := r.sides[p[0]&bitServer].Load(); to != nil {
		to.to.add(p, to.side)
	} else {
		r.counts.dropped.Inc()
	}
}

// Set says how each side is reported from now on; nil, or one without a
// collector: not at all. Any goroutine; it does not wait.
func (r *Reporter) Set(self *seinev1.Workload, client, server *seinev1.Tracing) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var used []*destination
	for i, t := range [2]*seinev1.Tracing{client, server} {
		if t.GetCollector() == nil {
			r.sides[i].Store(nil)
			continue
		}
		d := r.destination(self, t.Collector)
		if d == nil {
			r.sides[i].Store(nil)
			continue
		}
		used = append(used, d)
		r.sides[i].Store(&report{d.to, newSide(t, self, r.o.Env)})
	}
	for _, d := range r.known {
		if len(used) == 0 || d != used[0] && d != used[len(used)-1] {
			r.ending.Go(d.to.close)
		}
	}
	if len(used) == 2 && used[0] == used[1] {
		used = used[:1]
	}
	r.known = used
}

// destination finds or makes one; r.mu is held.
func (r *Reporter) destination(self *seinev1.Workload, c *seinev1.Collector) *destination {
	for _, d := range r.known {
		if proto.Equal(d.collector, c) && proto.Equal(d.self, self) {
			return d
		}
	}
	log := r.o.Log.With("collector", c.Name, "host", c.Host, "port", c.Port, "protocol", c.Protocol.String())
	to, err := newSender(c, self, r.o.Dial, r.o.Env)
	if err != nil {
		log.Error("spans are not reported", "error", err)
		return nil
	}
	d := &destination{c, self, start(to, c.Timeout.AsDuration(), log, &r.counts)}
	r.known = append(r.known, d)
	return d
}

// Close sends what can be sent at once, and ends the reporter; it waits no
// longer than limit. Once.
func (r *Reporter) Close(limit time.Duration) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		close(r.stop)
		<-r.done
		r.Set(nil, nil, nil)
		r.ending.Wait()
	}()
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
	}
}
