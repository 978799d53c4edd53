// Package history is the mesh's short memory: golden metrics of the last minutes
// in fine steps, and of the last hours in coarse ones.
//
// What enters: what each service, workload and edge did in an interval, with the
// time of its end. What leaves: series. It is bounded (see Limits) and pure: it
// scrapes nothing, knows no clock and writes nothing to disk. A control plane
// that starts anew has an empty one.
package history

import (
	"math"
	"slices"
	"strings"
	"sync"
	"time"
)

// The two tiers. A point of the coarse one is made of the requests of its
// minute, not of the quantiles of the fine one.
const (
	FineStep   = 5 * time.Second
	FineSpan   = 15 * time.Minute
	CoarseStep = time.Minute
	CoarseSpan = 6 * time.Hour

	finePoints   = int64(FineSpan / FineStep)
	coarsePoints = int64(CoarseSpan / CoarseStep)
)

// Kind is what a series is of.
type Kind uint8

// The kinds.
const (
	Mesh        Kind = iota
	Service          // what it was asked, by version
	WorkloadIn       // what it was asked
	WorkloadOut      // what it asked others
	Edge             // what one workload asked one service, by version
)

// Key names a series.
type Key struct {
	Kind    Kind
	Subject string // FQDN of a service, NAMESPACE/NAME of a workload; of an Edge the caller
	Service string // of an Edge: FQDN
	Version string // "": all
}

// Counts are what happened in one interval.
type Counts struct {
	Requests, Failed float64
	Bounds, Counts   []float64 // of durations: see stat.Sum.Histogram
	TCP              bool
	Open             float64 // connections, now
	Sent, Received   float64 // bytes per second
}

// active says whether anything happened.
func (c *Counts) active() bool {
	return c.Requests > 0 || c.TCP && (c.Open > 0 || c.Sent > 0 || c.Received > 0)
}

// Limits bound a Store. A series of requests takes 7.5 KB, one with opaque TCP
// 14 KB: 8,000 are 500 services of two versions with three callers each.
type Limits struct {
	Series int // 0: 8,000; others are counted, and not kept
	Events int // 0: 200; older ones are forgotten
}

// Store keeps the series. Safe for any goroutine.
type Store struct {
	limits Limits

	mu      sync.Mutex
	series  map[Key]*series
	leftOut map[Key]struct{} // in the minute that runs, bounded too
	over    int              // in the last whole minute
	fine    int64            // the slot that was written last
	minute  int64            // the coarse slot that is being filled
	events  []Event          // oldest first
}

// Event is something that a reader of a chart should see beside the lines.
type Event struct {
	At   time.Time `json:"at"`
	Kind string    `json:"kind"` // config, diagnosis, ejection
	Text string    `json:"text"`
	// Service is the FQDN that it is about; "": the mesh as a whole.
	Service string `json:"service,omitempty"`
}

// maxText bounds an event's text.
const maxText = 512

// New returns an empty Store.
func New(l Limits) *Store {
	if l.Series == 0 {
		l.Series = 8000
	}
	if l.Events == 0 {
		l.Events = 200
	}
	return &Store{limits: l, series: map[Key]*series{}, leftOut: map[Key]struct{}{}}
}

// Interval is what Add takes: all that happened between two times.
type Interval struct {
	End     time.Time
	Seconds float64 // its length; more than 0
	Counts  map[Key]*Counts
}

// Add takes in an interval. Intervals come in the order of their ends, about one
// for each FineStep; a later one for the same step replaces the earlier one
// there, and both count in the coarse tier.
//
// A series begins with the first interval in which something happened.
func (s *Store) Add(i Interval) {
	s.mu.Lock()
	defer s.mu.Unlock()
	slot, minute := i.End.Unix()/int64(FineStep/time.Second), i.End.Unix()/int64(CoarseStep/time.Second)
	if slot < s.fine || !(i.Seconds > 0) {
		return // a clock that was set back: what is known stays in order
	}
	if s.fine = slot; minute > s.minute {
		s.turn()
		s.minute = minute
	}
	for k, c := range i.Counts {
		x := s.series[k]
		if x == nil {
			if !c.active() {
				continue
			}
			if len(s.series) >= s.limits.Series {
				if len(s.leftOut) < s.limits.Series {
					s.leftOut[k] = struct{}{}
				}
				continue
			}
			x = &series{}
			s.series[k] = x
		}
		x.add(slot, minute, c, i.Seconds)
	}
}

// turn ends the minute that was filled, and forgets what has been silent for as
// long as is remembered.
func (s *Store) turn() {
	s.over = len(s.leftOut)
	clear(s.leftOut)
	for k, x := range s.series {
		if x.minute == s.minute && x.seconds > 0 {
			x.close()
		}
		if s.minute-x.active >= coarsePoints {
			delete(s.series, k)
		}
	}
}

// Note remembers an event. Texts are cut to a bound.
func (s *Store) Note(e Event) {
	if len(e.Text) > maxText {
		e.Text = strings.ToValidUTF8(e.Text[:maxText], "") + "…"
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.events) >= s.limits.Events {
		s.events = slices.Delete(s.events, 0, len(s.events)-s.limits.Events+1)
	}
	s.events = append(s.events, e)
}

// Size is how many series there are, and how many were left out in the last
// whole minute because there are too many.
func (s *Store) Size() (series, leftOut int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.series), max(s.over, len(s.leftOut))
}

// Series is one line of a chart. All columns that are there are equally long;
// NaN where nothing was measured.
type Series struct {
	Version             string
	RPS, Success        []float64
	P50, P90, P99       []float64 // milliseconds
	Open                []float64 // nil: there was no opaque TCP
	SentRate, RecvdRate []float64 // bytes per second
}

// Range is points that end at Start, Start+Step, …
type Range struct {
	Start  time.Time
	Step   time.Duration
	Points int
	Series []Series // by version; the sum first
	Events []Event
}

// Read returns the span that ends at now of k and, if k has no version, of each
// of its versions. It is at most CoarseSpan long, and in fine steps where it is at
// most FineSpan. Without any measurement there is one series, of NaN.
func (s *Store) Read(k Key, now time.Time, span time.Duration) Range {
	s.mu.Lock()
	defer s.mu.Unlock()
	step, fine := CoarseStep, false
	if span <= FineSpan {
		step, fine = FineStep, true
	}
	span = max(min(span, CoarseSpan), step)
	seconds := int64(step / time.Second)
	r := Range{Step: step, Points: int(span / step)}
	// The newest point is the last whole step.
	last := now.Unix()/seconds - 1
	if fine {
		last = min(last+1, max(s.fine, last)) // a fine point is whole as soon as it is there
	}
	first := last - int64(r.Points) + 1
	// A coarse slot is named by its begin, a point by its end; what is added at
	// a fine slot's begin is what happened before.
	r.Start = time.Unix(first*seconds, 0).UTC()
	if !fine {
		r.Start = r.Start.Add(step)
	}
	var keys []Key
	for other := range s.series {
		if all := other; other == k {
			keys = append(keys, other)
		} else if all.Version = ""; all == k {
			keys = append(keys, other)
		}
	}
	slices.SortFunc(keys, func(a, b Key) int { return strings.Compare(a.Version, b.Version) })
	for _, key := range keys {
		x := s.series[key]
		line := Series{Version: key.Version}
		if fine {
			x.fine.read(&line, first, last, finePoints)
		} else {
			x.coarse.read(&line, first, last, coarsePoints)
		}
		r.Series = append(r.Series, line)
	}
	if len(r.Series) == 0 {
		none := make([]float64, r.Points)
		for i := range none {
			none[i] = math.NaN()
		}
		r.Series = []Series{{Version: k.Version, RPS: none, Success: none, P50: none, P90: none, P99: none}}
	}
	begin := r.Start.Add(-step)
	for _, e := range s.events {
		if e.At.After(begin) && (e.Service == "" || k.Kind == Mesh || e.Service == k.Subject || e.Service == k.Service) {
			r.Events = append(r.Events, e)
		}
	}
	return r
}
