package history

import (
	"math"
	"slices"
)

// series is one Key's two tiers, and the minute that is being summed.
type series struct {
	fine, coarse ring
	active       int64 // the coarse slot in which something happened last

	minute           int64 // the coarse slot of what follows
	seconds          float64
	requests, failed float64
	bounds           []float64 // shared with other series, not written
	counts           []float64
	tcp              bool
	open             float64
	sent, received   float64 // bytes
}

func (x *series) add(slot, minute int64, c *Counts, seconds float64) {
	p := pointOf(c.Requests, c.Failed, c.Bounds, c.Counts, seconds)
	x.fine.put(slot, finePoints, p, c.TCP, wire{float32(c.Open), float32(c.Sent), float32(c.Received)})
	if x.minute != minute {
		if x.seconds > 0 {
			x.close()
		}
		x.minute = minute
	}
	if c.active() {
		x.active = minute
	}
	x.seconds += seconds
	x.requests += c.Requests
	x.failed += c.Failed
	x.merge(c.Bounds, c.Counts)
	x.tcp = x.tcp || c.TCP
	x.open = c.Open
	x.sent += c.Sent * seconds
	x.received += c.Received * seconds
}

// merge adds a histogram. Counts of other bounds than before go to the next
// bound above theirs.
func (x *series) merge(bounds, counts []float64) {
	if len(bounds) == 0 || len(bounds) != len(counts) {
		return
	}
	if len(x.bounds) == 0 {
		x.bounds, x.counts = bounds, slices.Clone(counts)
		return
	}
	if slices.Equal(x.bounds, bounds) {
		for i, n := range counts {
			x.counts[i] += n
		}
		return
	}
	for i, n := range counts {
		at, _ := slices.BinarySearch(x.bounds, bounds[i])
		x.counts[min(at, len(x.counts)-1)] += n
	}
}

// close writes the minute into the coarse tier and begins with nothing.
func (x *series) close() {
	p := pointOf(x.requests, x.failed, x.bounds, x.counts, x.seconds)
	x.coarse.put(x.minute, coarsePoints, p, x.tcp, wire{float32(x.open), float32(x.sent / x.seconds), float32(x.received / x.seconds)})
	x.seconds, x.requests, x.failed, x.sent, x.received = 0, 0, 0, 0, 0
	x.bounds, x.counts, x.tcp = nil, nil, false
}

// point is one measurement in 12 bytes. Quantiles and success are rounded to
// what nobody sees.
type point struct {
	rps           float32 // NaN: nothing was measured
	success       uint16  // 1/65534; none: there was no request
	p50, p90, p99 uint16  // see pack
}

// wire is what opaque TCP adds to a point.
type wire struct{ open, sent, received float32 }

// none is no value.
const none = math.MaxUint16

func pointOf(requests, failed float64, bounds, counts []float64, seconds float64) point {
	p := point{rps: float32(requests / seconds), success: none, p50: none, p90: none, p99: none}
	if requests > 0 {
		p.success = uint16(math.Round(min(max(1-failed/requests, 0), 1) * (none - 1)))
		p.p50, p.p90, p.p99 = pack(quantile(bounds, counts, 0.5)), pack(quantile(bounds, counts, 0.9)), pack(quantile(bounds, counts, 0.99))
	}
	return p
}

// Quantiles are kept as logarithms: 1 µs to two hours in steps of 0.04 %.
const packStep = 0.00035

// pack turns seconds into 16 bits; NaN is none.
func pack(seconds float64) uint16 {
	if math.IsNaN(seconds) {
		return none
	}
	return uint16(min(max(math.Round(math.Log(seconds/1e-6)/packStep), 0), none-1))
}

// unpack returns milliseconds; NaN for none.
func unpack(v uint16) float64 {
	if v == none {
		return math.NaN()
	}
	return 1e-3 * math.Exp(float64(v)*packStep)
}

// quantile interpolates within a bucket, in seconds; NaN without counts.
func quantile(bounds, counts []float64, q float64) float64 {
	total := 0.0
	for _, n := range counts {
		total += n
	}
	if total == 0 {
		return math.NaN()
	}
	rank, below, low := q*total, 0.0, 0.0
	for i, n := range counts {
		if n > 0 && below+n >= rank {
			if math.IsInf(bounds[i], 1) {
				return low
			}
			return low + (bounds[i]-low)*(rank-below)/n
		}
		below += n
		low = bounds[i]
	}
	return low
}

// ring is the last points, by slot. A slot that nobody wrote has nothing.
type ring struct {
	points []point
	wires  []wire // nil: there never was opaque TCP
	last   int64  // the newest slot
}

func (r *ring) put(slot, size int64, p point, tcp bool, w wire) {
	if r.points == nil {
		r.points = make([]point, size)
		r.clear(0, size)
	} else if gap := slot - r.last; gap > 1 {
		for i := r.last + 1; i < min(slot, r.last+1+size); i++ {
			r.clear(i%size, i%size+1)
		}
	}
	r.points[slot%size] = p
	if tcp && r.wires == nil {
		r.wires = make([]wire, size)
		for i := range r.wires {
			r.wires[i] = wire{open: float32(math.NaN())}
		}
	}
	if r.wires != nil {
		if !tcp {
			w = wire{open: float32(math.NaN())}
		}
		r.wires[slot%size] = w
	}
	r.last = slot
}

func (r *ring) clear(from, to int64) {
	for i := from; i < to; i++ {
		r.points[i] = point{rps: float32(math.NaN()), success: none, p50: none, p90: none, p99: none}
		if r.wires != nil {
			r.wires[i] = wire{open: float32(math.NaN())}
		}
	}
}

// read appends the slots first to last to line.
func (r *ring) read(line *Series, first, last, size int64) {
	n := int(last - first + 1)
	column := func() []float64 { return make([]float64, 0, n) }
	line.RPS, line.Success, line.P50, line.P90, line.P99 = column(), column(), column(), column(), column()
	if r.wires != nil {
		line.Open, line.SentRate, line.RecvdRate = column(), column(), column()
	}
	for slot := first; slot <= last; slot++ {
		p := point{rps: float32(math.NaN()), success: none, p50: none, p90: none, p99: none}
		w := wire{open: float32(math.NaN())}
		if r.points != nil && slot >= 0 && slot <= r.last && slot > r.last-size {
			p = r.points[slot%size]
			if r.wires != nil {
				w = r.wires[slot%size]
			}
		}
		line.RPS = append(line.RPS, float64(p.rps))
		ok := math.NaN()
		if p.success != none {
			ok = float64(p.success) / (none - 1)
		}
		line.Success = append(line.Success, ok)
		line.P50, line.P90, line.P99 = append(line.P50, unpack(p.p50)), append(line.P90, unpack(p.p90)), append(line.P99, unpack(p.p99))
		if r.wires == nil {
			continue
		}
		if w.open != w.open {
			w.sent, w.received = w.open, w.open
		}
		line.Open, line.SentRate, line.RecvdRate = append(line.Open, float64(w.open)), append(line.SentRate, float64(w.sent)), append(line.RecvdRate, float64(w.received))
	}
}
