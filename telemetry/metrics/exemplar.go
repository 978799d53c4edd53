package metrics

import (
	"encoding/binary"
	"encoding/hex"
	"strconv"
	"sync/atomic"
	"time"
)

// exemplar is the latest traced request of a bucket. One writer; a reader takes it
// only if number stayed even and the same meanwhile.
type exemplar struct {
	number                          atomic.Uint64 // of writes, twice; odd: one is under way; 0: none yet
	traceA, traceB, span, value, at atomic.Uint64
}

// exemplars are those of one outcome, by Istio's buckets of durations.
type exemplars [sizeBuckets]exemplar

// traced is an exemplar that was read; the zero value is none.
type traced struct {
	traceA, traceB, span uint64
	micros               int64 // its value
	at                   int64 // microseconds since 1970; 0: there is none
}

// coarseOf is the bucket of Istio's that each fine one lies in.
var coarseOf = func() (of [durationBuckets]uint8) {
	for i := range of {
		for int(of[i]) < len(coarse) && i >= coarse[of[i]] {
			of[i]++
		}
	}
	return of
}()

// Exemplar says of the request that was observed last that it belongs to a trace
// that is recorded: the scrapes that ask for it show it beside that request's
// bucket, until another one comes. It allocates with the first of an outcome. The
// handle's writer alone calls it.
func (h *Requests) Exemplar(trace [16]byte, span [8]byte, durationMicros int64, at time.Time) {
	o := h.last
	if o == nil {
		return
	}
	all := o.traced.Load()
	if all == nil {
		all = &exemplars{}
		o.traced.Store(all)
	}
	micros := max(durationMicros, 0)
	e := &all[coarseOf[durationBucket(micros)]]
	e.number.Add(1)
	e.traceA.Store(binary.BigEndian.Uint64(trace[:8]))
	e.traceB.Store(binary.BigEndian.Uint64(trace[8:]))
	e.span.Store(binary.BigEndian.Uint64(span[:]))
	e.value.Store(uint64(micros))
	e.at.Store(uint64(at.UnixMicro()))
	e.number.Add(1)
}

// read is any goroutine's. One that is being written is left for the next scrape.
func (e *exemplar) read() traced {
	n := e.number.Load()
	t := traced{e.traceA.Load(), e.traceB.Load(), e.span.Load(), int64(e.value.Load()), int64(e.at.Load())}
	if n == 0 || n&1 == 1 || e.number.Load() != n {
		return traced{}
	}
	return t
}

// newest puts o's exemplars into to where they are younger.
func (o *outcome) newest(to *[sizeBuckets]traced) {
	all := o.traced.Load()
	if all == nil {
		return
	}
	for i := range all {
		if t := all[i].read(); t.at > to[i].at {
			to[i] = t
		}
	}
}

// append writes the exemplar as OpenMetrics has it behind a bucket's value, which
// counts units of so many microseconds' digits.
func (t *traced) append(dst []byte, digits int) []byte {
	dst = append(dst, ` # {trace_id="`...)
	dst = t.appendTrace(dst)
	dst = append(dst, `",span_id="`...)
	dst = t.appendSpan(dst)
	dst = append(dst, `"} `...)
	dst = appendFixed(dst, uint64(t.micros), digits)
	dst = append(dst, ' ')
	return appendFixed(dst, uint64(t.at), 6)
}

func (t *traced) appendTrace(dst []byte) []byte { return appendHex(appendHex(dst, t.traceA), t.traceB) }

func (t *traced) appendSpan(dst []byte) []byte { return appendHex(dst, t.span) }

func appendHex(dst []byte, v uint64) []byte {
	return hex.AppendEncode(dst, binary.BigEndian.AppendUint64(nil, v))
}

// bucket writes one bucket of a histogram of durations, whose unit is 10^digits
// microseconds.
func (o *writer) bucket(name, le string, count uint64, t *traced, digits int) {
	o.start(name, "_bucket", o.block, le)
	switch {
	case t.at == 0 || o.proto == nil && !o.open:
		o.uint(count)
	case o.proto != nil:
		o.proto.marked, o.proto.digits = t, digits
		o.uint(count)
		o.proto.marked = nil
	default:
		o.buf = strconv.AppendUint(o.buf, count, 10)
		o.buf = append(t.append(o.buf, digits), '\n')
	}
}
