package metrics

import "math"

// A native histogram's buckets grow by a constant factor: 2^(1/8) with schema 3,
// so that a quantile is wrong by 9 % at most. Bucket i holds what is above
// 2^((i-1)/8) seconds and at most 2^(i/8).
const (
	schema      = 3
	perOctave   = 1 << schema
	firstBucket = -20 * perOctave // what is at most 2^-20 s, 0.95 µs: with it whole microseconds are all there is
	lastBucket  = 13 * perOctave  // 2^13 s; what is above is counted here
)

// exponential is the counts of a native histogram. One writer.
type exponential struct {
	zero    counter // no duration
	buckets [lastBucket - firstBucket + 1]counter
}

// fractions are the upper bounds of the buckets of an octave, as math.Frexp has
// them: from 0.5 on.
var fractions = func() (f [perOctave]float64) {
	for i := range f {
		f[i] = math.Exp2(float64(i)/perOctave) / 2
	}
	return f
}()

// add counts a duration.
func (e *exponential) add(micros int64) { e.at(micros).Add(1) }

func (e *exponential) at(micros int64) *counter {
	if micros <= 0 {
		return &e.zero
	}
	return &e.buckets[exponent(micros)-firstBucket]
}

// exponent is the bucket of a duration above zero.
func exponent(micros int64) int {
	frac, exp := math.Frexp(float64(micros) / 1e6)
	i := 0
	for i < perOctave && frac > fractions[i] {
		i++
	}
	return min(max((exp-1)*perOctave+i, firstBucket), lastBucket)
}

// widen begins the native histogram with what the classic one holds, each count
// at its bucket's upper bound. The handle's writer alone calls it.
func (h *Requests) widen() *exponential {
	e := &exponential{}
	e.seed(h)
	h.wide.Store(e)
	return e
}

func (e *exponential) seed(h *Requests) {
	var fine [durationBuckets]uint64
	for o := h.first.Load(); o != nil; o = o.next.Load() {
		o.addDurations(&fine)
	}
	for i, n := range fine {
		bound := durationBounds[min(i, len(durationBounds)-1)]
		e.at(bound).Add(n)
	}
}

// exponentialSum is the native histogram of a label set: of all its handles.
type exponentialSum struct {
	count, zero uint64
	sum         float64 // seconds
	buckets     [lastBucket - firstBucket + 1]uint64
}

func (s *exponentialSum) add(h *Requests) {
	e := h.wide.Load()
	if e == nil { // nothing was counted since somebody asked
		e = &exponential{}
		e.seed(h)
	}
	s.zero += e.zero.Load()
	for i := range e.buckets {
		n := e.buckets[i].Load()
		s.buckets[i] += n
		s.count += n
	}
	for o := h.first.Load(); o != nil; o = o.next.Load() {
		s.sum += float64(o.durationSum.Load()) / 1e6
	}
}
