// Package tap shows a proxy's requests to people who watch: those that match
// their filters, as they end.
//
// What enters: the taps that are on, over a stream to the control plane, and
// finished requests, from the loops. What leaves: records, over the same stream.
// While nobody watches a request costs a load and a branch. While somebody does,
// matching and encoding happen on the loop, without a lock or an allocation; a
// record that finds no room is dropped and counted. It must never make a loop
// wait, show more requests a second than was asked for, or let the value of a
// field leave the process that authenticates somebody.
package tap

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/proxy/bucket"
	"github.com/seinemesh/seine/telemetry/ring"
)

const (
	maxTaps   = 32       // at once
	ringBytes = 64 << 10 // for each loop, while somebody watches
	reportMax = 64 << 10 // records of one message
	batch     = 50 * time.Millisecond
	again     = 5 * time.Second // after a stream that failed, over the same connection
)

// Reporter holds the taps that are on. A nil Reporter never has any.
type Reporter struct {
	node  string
	loops int
	log   *slog.Logger
	set   atomic.Pointer[Set]
}

// New returns a reporter for a proxy with that many loops. node is its
// NAMESPACE/INSTANCE.
func New(node string, loops int, log *slog.Logger) *Reporter {
	return &Reporter{node: node, loops: loops, log: log}
}

// Set returns the taps that are on: one atomic load. Nil: nobody watches.
func (r *Reporter) Set() *Set {
	if r == nil {
		return nil
	}
	return r.set.Load()
}

// Set is the taps that are on at one moment. Immutable but for its counters.
type Set struct {
	// Names are the request fields that some tap shows, in lower case, and
	// Values those of them whose value one shows. A loop keeps them from a
	// request's head, as it cannot know then what will match.
	Names  []string
	Values []bool

	taps  []*one
	rings []*ring.Ring // by loop
}

// one is one tap.
type one struct {
	*filter
	shows []shown // by index of Set.Names
	*tally
}

// tally is what of a tap outlives a Set.
type tally struct {
	bucket           bucket.Bucket
	limited, dropped atomic.Uint64 // since the last report
}

// Show hands e to every tap that it matches. loop is the calling loop's index, now
// its clock in nanoseconds, which all loops share; scratch is memory for records,
// returned for the next time.
func (s *Set) Show(loop int, now int64, e *Event, scratch []byte) []byte {
	for _, t := range s.taps {
		if !t.matches(e) {
			continue
		}
		if _, ok := t.bucket.Take(t.limit, now); !ok {
			t.limited.Add(1)
			continue
		}
		scratch = appendRecord(scratch[:0], t.filter, t.shows, s.Names, e)
		if !s.rings[loop].Append(scratch) {
			t.dropped.Add(1)
		}
	}
	return scratch
}

// newSet makes a Set of m. What cannot be compiled is left out.
func (r *Reporter) newSet(m *seinev1.TapSet, rings []*ring.Ring, old *Set) (*Set, error) {
	s := &Set{rings: rings}
	var failed error
	for _, p := range m.Taps {
		f, err := compile(p)
		if err != nil || len(s.taps) >= maxTaps {
			failed = errors.Join(failed, err)
			continue
		}
		t := &one{filter: f, tally: &tally{}}
		if old != nil {
			for _, o := range old.taps {
				if o.Id == p.Id {
					t.tally = o.tally
				}
			}
		}
		for _, h := range p.Headers {
			s.name(h.Name, f.shows(h.Name) == plain)
		}
		s.taps = append(s.taps, t)
	}
	for _, t := range s.taps {
		for _, n := range s.Names {
			t.shows = append(t.shows, t.filter.shows(n))
		}
	}
	if len(s.taps) == 0 {
		return nil, failed
	}
	return s, failed
}

// name notes that some tap shows a field.
func (s *Set) name(n string, value bool) {
	for i := range s.Names {
		if s.Names[i] == n {
			s.Values[i] = s.Values[i] || value
			return
		}
	}
	s.Names, s.Values = append(s.Names, n), append(s.Values, value)
}

// desc and method are the service's, without generated code.
var desc = grpc.StreamDesc{StreamName: "Report", ClientStreams: true, ServerStreams: true}

const method = "/seine.v1.Taps/Report"

// Run serves taps over conn until ctx ends. A control plane that does not know
// them is left alone. All taps are off when it returns.
func (r *Reporter) Run(ctx context.Context, conn grpc.ClientConnInterface) {
	for {
		err := r.serve(ctx, conn)
		r.set.Store(nil)
		if ctx.Err() != nil {
			return
		}
		r.log.Debug("the stream of taps ended", "err", err)
		if status.Code(err) == codes.Unimplemented {
			return
		}
		wait := time.NewTimer(again)
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return
		}
	}
}

func (r *Reporter) serve(ctx context.Context, conn grpc.ClientConnInterface) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	st, err := conn.NewStream(ctx, &desc, method)
	if err != nil {
		return err
	}
	if err := st.SendMsg(&seinev1.TapReport{Node: r.node}); err != nil {
		return st.RecvMsg(new(seinev1.TapSet)) // says why
	}
	out := &report{stream: st, queue: ring.New(ring.Options{Bytes: ringBytes, Batch: batch})}
	stop := make(chan struct{})
	var writing sync.WaitGroup
	writing.Go(func() { out.queue.Run(stop, func() { out.flush(r.Set()) }) })
	defer writing.Wait()
	defer close(stop)
	defer cancel() // before the wait: a send may hang
	var rings []*ring.Ring
	for {
		m := new(seinev1.TapSet)
		if err := st.RecvMsg(m); err != nil {
			return err
		}
		for len(m.Taps) > 0 && len(rings) < r.loops { // from the first tap on
			rings = append(rings, out.queue.Ring())
		}
		set, err := r.newSet(m, rings, r.Set())
		if err != nil {
			r.log.Warn("a tap was not put on", "err", err)
		}
		r.set.Store(set)
	}
}

// report is the messages to the control plane. Its goroutine is the queue's.
type report struct {
	stream grpc.ClientStream
	queue  *ring.Queue
	buf    []byte
	msg    seinev1.TapReport
	failed bool
}

// flush sends what the rings hold, and what was not shown of the taps that are on.
func (o *report) flush(s *Set) {
	if s != nil {
		for _, t := range s.taps {
			l := &seinev1.TapLoss{Tap: t.Id, Limited: t.limited.Swap(0), Dropped: t.dropped.Swap(0)}
			if l.Limited > 0 || l.Dropped > 0 {
				o.msg.Losses = append(o.msg.Losses, l)
			}
		}
	}
	o.queue.Each(func(b []byte) {
		if len(o.buf)+len(b) > reportMax {
			o.send()
		}
		at := len(o.buf)
		o.buf = append(o.buf, b...)
		o.msg.Records = append(o.msg.Records, o.buf[at:len(o.buf):len(o.buf)])
	})
	o.send()
}

func (o *report) send() {
	if len(o.msg.Records) > 0 || len(o.msg.Losses) > 0 {
		if !o.failed {
			o.failed = o.stream.SendMsg(&o.msg) != nil // the receiver learns why
		}
	}
	o.buf, o.msg.Records, o.msg.Losses = o.buf[:0], o.msg.Records[:0], nil
}
