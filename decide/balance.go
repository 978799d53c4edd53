package decide

import (
	"math"
	"math/bits"
	"time"
)

// Host is what a loop remembers of one endpoint: requests in flight and how
// long it takes. Its owner is the loop.
type Host struct {
	active int32
	cost   float64 // ns, of the moment stamp; 0: nothing is known
	recent float64 // the last latency, in ns
	stamp  int64
	since  int64 // when its warm-up began
}

const (
	// costDecay is the time constant with which a latency is forgotten
	// (Finagle's and Linkerd's is 10 s).
	costDecay = float64(5 * time.Second)
	// costFloor is below what latencies are not told apart.
	costFloor = float64(time.Millisecond)
	// costAlike is the ratio up to which two latencies count as the same.
	costAlike = 1.5
	// failedCost is what a failure to get an answer counts at least.
	failedCost = float64(250 * time.Millisecond)
)

// level is the latency estimate at now. Without news it sinks, so that an
// endpoint that was slow is tried again.
func (h *Host) level(now int64) float64 {
	return max(h.cost*decay(now-h.stamp), costFloor)
}

// decay is e^(-dt/costDecay), well enough and cheap.
func decay(dt int64) float64 {
	if dt <= 0 {
		return 1
	}
	x := float64(dt) / costDecay
	return 1 / (1 + x*(1+x*(0.5+x/6)))
}

// observe takes a latency: a peak counts at once, if the latency before agrees
// (one outlier is nobody's fault, and the first request is never typical);
// what is lower sinks in with time.
func (h *Host) observe(ns float64, now int64) {
	w := decay(now - h.stamp)
	old, sure := h.cost*w, min(ns, h.recent)
	if ns >= old {
		h.cost = max(old, sure, costFloor)
	} else {
		h.cost = max(h.cost*w+ns*(1-w), costFloor)
	}
	h.recent, h.stamp = ns, now
}

// Balance is what one event loop remembers of a cluster in order to balance:
// it is written by every pick, and belongs to that loop alone. Times are of
// the loop's clock, in nanoseconds.
type Balance struct {
	c       *Cluster
	hosts   []*Host // by index of Endpoints
	cursor  uint32
	sets    []set    // by group: what may be picked now
	own     []set    // memory for sets that differ from the cluster's
	shares  []uint64 // cumulative, by group; nil: there is one group
	out     []uint64 // bit set of the endpoints that are not to be picked; nil: none
	outs    int
	warming int   // endpoints that are new
	tick    int64 // when the warm-up's weights are to be computed again
}

// Ask is one pick.
type Ask struct {
	Draw    uint64 // uniform over uint64
	Hash    uint64 // of the request, if Hashed (HashKey); else one is drawn
	Hashed  bool
	Attempt uint32 // how many picks for this request were turned down by the caller
	Now     int64
}

// NewBalance begins to balance c. What is known of endpoints that before has,
// too, is kept (and shared with before, so that a request that began there ends
// here). draw is uniform; now and wall are the same moment.
func (c *Cluster) NewBalance(before *Balance, draw uint64, now int64, wall time.Time) *Balance {
	b := &Balance{c: c, hosts: make([]*Host, len(c.Endpoints)), cursor: uint32(draw)}
	var was []*Endpoint
	if before != nil {
		was, b.cursor = before.c.Endpoints, before.cursor
	}
	at := 0
	fresh := make([]Host, 0, max(len(c.Endpoints)-len(was), 0)) // together, as they live together
	for i, e := range c.Endpoints {
		// both lists are in the order of IDs
		for at < len(was) && was[at].Proto.Id < e.Proto.Id {
			at++
		}
		var h *Host
		switch {
		case at < len(was) && was[at].Proto.Id == e.Proto.Id && was[at].Addr == e.Addr:
			h = before.hosts[at]
		case len(fresh) < cap(fresh):
			fresh = append(fresh, Host{since: now})
			h = &fresh[len(fresh)-1]
		default:
			h = &Host{since: now}
		}
		if c.warm != nil && !e.Since.IsZero() {
			h.since = now - int64(max(wall.Sub(e.Since), 0))
		}
		b.hosts[i] = h
	}
	b.refresh(now)
	return b
}

// Begin counts a request to endpoint i; every one is ended by Done.
func (b *Balance) Begin(i int) { b.hosts[i].active++ }

// Done ends what Begin began.
func (b *Balance) Done(i int) { b.hosts[i].active-- }

// Active is the number of requests to i that this loop has under way.
func (b *Balance) Active(i int) int { return int(b.hosts[i].active) }

// Took tells that endpoint i began to answer after so many nanoseconds. An
// answer that is an error never makes it look faster than it was.
func (b *Balance) Took(i int, ns, now int64, failed bool) {
	h := b.hosts[i]
	cost := float64(ns)
	if failed {
		cost = max(cost, h.level(now))
	}
	h.observe(cost, now)
}

// Failed tells that endpoint i gave no answer, or that there was no way to it.
func (b *Balance) Failed(i int, ns, now int64) {
	b.hosts[i].observe(max(float64(ns), failedCost), now)
}

// SetOut takes endpoint i out of the picks (ejection), or back in.
func (b *Balance) SetOut(i int, out bool, now int64) {
	if b.Out(i) == out {
		return
	}
	if b.out == nil {
		b.out = make([]uint64, (len(b.hosts)+63)/64)
	}
	b.out[i/64] ^= 1 << (i % 64)
	if out {
		b.outs++
	} else {
		b.outs--
	}
	b.refresh(now)
}

// Out reports whether endpoint i is taken out.
func (b *Balance) Out(i int) bool { return b.out != nil && b.out[i/64]>>(i%64)&1 != 0 }

// Pick returns the index of an endpoint, or -1 if there is none (503, flag UH).
// A caller that cannot use what it got asks again with Attempt one higher (and
// a new Draw).
func (b *Balance) Pick(q *Ask) int {
	if b.warming > 0 && q.Now >= b.tick {
		b.refresh(q.Now)
	}
	draw := q.Draw
	if b.c.kind == hashed && q.Hashed {
		draw = q.Hash
	}
	g := 0
	if b.shares != nil {
		total := b.shares[len(b.shares)-1]
		if total == 0 {
			return -1
		}
		at := reduce(mix(draw+1), total)
		for at >= b.shares[g] {
			g++
		}
	}
	s := &b.sets[g]
	if s.n <= 1 {
		if s.n == 0 {
			return -1
		}
		return s.at(0)
	}
	switch b.c.kind {
	case hashed:
		return b.c.groups[g].table.find(draw, q.Attempt, b, s)
	case random:
		return s.at(s.drawn(draw))
	case roundRobin:
		if s.upto != nil && s.order == nil {
			return s.at(s.drawn(draw))
		}
		at := b.cursor
		b.cursor++
		if s.order != nil {
			return s.at(int(s.order[at%uint32(len(s.order))]))
		}
		return s.at(int(at % uint32(s.n)))
	}
	return b.better(s, draw, q.Now)
}

// better is the power of two choices: of two that are drawn by weight, the one
// with less to do for its weight. On a tie the first, so that an idle cluster
// keeps to the weights.
func (b *Balance) better(s *set, draw uint64, now int64) int {
	p := s.drawn(draw)
	second := mix(draw)
	o := s.drawn(second)
	if s.upto == nil { // two different ones: a second draw over the others
		if o = int(reduce(second, uint64(s.n-1))); o >= p {
			o++
		}
	}
	i, j := s.at(p), s.at(o)
	if i == j {
		return i
	}
	x, y := b.hosts[i], b.hosts[j]
	lx, ly := b.load(x, i), b.load(y, j)
	if b.c.kind == peakEWMA && x.cost != 0 && y.cost != 0 {
		cx, cy := x.level(now), y.level(now)
		if cx > costAlike*cy || cy > costAlike*cx {
			lx, ly = (lx+1)*cx, (ly+1)*cy
		}
	}
	if ly < lx {
		return j
	}
	return i
}

// load are the requests in flight for an average weight.
func (b *Balance) load(h *Host, i int) float64 {
	return float64(max(h.active, 0)) * b.c.weight / float64(b.c.Endpoints[i].Weight)
}

// refresh computes what may be picked now and with which weights: when that
// changes, and a hundred times during a warm-up, not for each request.
func (b *Balance) refresh(now int64) {
	c := b.c
	b.warming = 0
	if c.warm != nil {
		for _, h := range b.hosts {
			if now-h.since < c.warm.window {
				b.warming++
			}
		}
		if b.warming == len(b.hosts) && c.warm.even(b.hosts) {
			b.tick = now + c.warm.step // all of the same age: their shares are, too
			b.warming = -1
		}
	}
	if b.sets == nil {
		b.sets = make([]set, len(c.groups))
	}
	panics := b.share()
	for k := range c.groups {
		g := &c.groups[k]
		panic := panics>>min(g.level, 63)&1 != 0
		if b.warming <= 0 && (b.outs == 0 || panic) {
			b.sets[k] = g.set
			continue
		}
		if b.own == nil {
			b.own = make([]set, len(c.groups))
		}
		s := &b.own[k]
		if s.members == nil {
			s.members = make([]int32, 0, g.set.n)
		}
		s.members = s.members[:0]
		for p := range g.set.n {
			if i := g.set.at(p); panic || !b.Out(i) {
				s.members = append(s.members, int32(i))
			}
		}
		s.n = len(s.members)
		if b.warming > 0 {
			b.warmSet(s, now)
		} else {
			c.weigh(s)
		}
		b.sets[k] = *s
	}
	if b.warming > 0 {
		b.tick = now + c.warm.step
	} else if b.warming < 0 {
		b.warming = 1
	}
}

// overProvisioning is Envoy's: a priority is whole as long as 1/1.4 of it is
// healthy.
const overProvisioning = 140

// share computes the groups' shares as Envoy does (load_balancer_impl.cc,
// recalculatePerPriorityState), and returns the levels in panic as bits: there
// endpoints are picked whether they are out or not. Panic is at minHealthPercent
// and off by default (Istio's applyOutlierDetection).
func (b *Balance) share() (panics uint64) {
	c := b.c
	threshold := uint64(c.minHealth())
	last := c.groups[len(c.groups)-1].level
	if len(c.groups) == 1 {
		if total := uint64(len(b.hosts)); b.outs > 0 && (total-uint64(b.outs))*100 < threshold*total && health(total-uint64(b.outs), total) < 100 {
			return 1
		}
		return 0
	}
	type count struct{ total, well, health, load uint64 }
	levels := make([]count, last+1)
	wells := make([]uint64, len(c.groups))
	for k := range c.groups {
		g := &c.groups[k]
		for p := range g.set.n {
			if !b.Out(g.set.at(p)) {
				wells[k]++
			}
		}
		levels[g.level].total += uint64(g.set.n)
		levels[g.level].well += wells[k]
	}
	var whole, all uint64
	for i := range levels {
		l := &levels[i]
		l.health = health(l.well, l.total)
		whole += l.health
		all += l.total
	}
	whole = min(whole, 100)
	if whole > 0 {
		left := uint64(100)
		first := -1
		for i := range levels {
			l := &levels[i]
			if l.load = min(left, l.health*100/whole); l.health > 0 && first < 0 {
				first = i
			}
			left -= l.load
		}
		levels[first].load += left // rounding
	}
	if threshold > 0 && whole < 100 {
		total := true
		for i := range levels {
			if l := &levels[i]; l.well*100 < threshold*l.total {
				panics |= 1 << min(i, 63)
			} else {
				total = false
			}
		}
		if total && all > 0 {
			for i := range levels {
				levels[i].load = levels[i].total * 100 / all
			}
		}
	}
	if len(b.shares) != len(c.groups) {
		b.shares = make([]uint64, len(c.groups))
	}
	var sum uint64
	for k := 0; k < len(c.groups); {
		end := k
		var weights uint64
		for ; end < len(c.groups) && c.groups[end].level == c.groups[k].level; end++ {
			weights += c.effective(end, wells[end], panics)
		}
		l := &levels[c.groups[k].level]
		for ; k < end; k++ {
			if weights > 0 {
				sum += l.load * shareUnit * c.effective(k, wells[k], panics) / weights
			}
			b.shares[k] = sum
		}
	}
	return panics
}

// shareUnit is a hundredth, finely divided.
const shareUnit = 1 << 20

// effective is a group's weight for as much of it as is healthy (Envoy's
// effectiveLocalityWeight).
func (c *Cluster) effective(k int, well uint64, panics uint64) uint64 {
	g := &c.groups[k]
	if g.set.n == 0 {
		return 0
	}
	if panics&(1<<min(g.level, 63)) != 0 {
		return g.weight * 100
	}
	return g.weight * health(well, uint64(g.set.n))
}

// health is a percentage, 100 at most.
func health(well, total uint64) uint64 {
	if total == 0 {
		return 0
	}
	return min(100, overProvisioning*well/total)
}

// minHealth is outlierDetection's minHealthPercent.
func (c *Cluster) minHealth() uint32 {
	if c.Outlier == nil {
		return 0
	}
	return c.Outlier.MinHealthPercent
}

// reduce maps a uniform value onto [0,n).
func reduce(x, n uint64) uint64 {
	hi, _ := bits.Mul64(x, n)
	return hi
}

// mix makes another uniform value of one (splitmix64).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// warmup is a compiled slow start.
type warmup struct {
	window  int64 // ns
	step    int64 // between two computations of the weights
	least   float64
	inverse float64 // 1 / aggression
}

// factor is the share of its weight that an endpoint of that age gets (Envoy's
// applySlowStartFactor).
func (w *warmup) factor(age int64) float64 {
	if age >= w.window {
		return 1
	}
	f := float64(max(age, int64(time.Second))) / float64(w.window)
	if w.inverse != 1 {
		f = math.Pow(f, w.inverse)
	}
	return min(max(f, w.least), 1)
}

// even reports whether all are about equally old.
func (w *warmup) even(hosts []*Host) bool {
	for _, h := range hosts {
		if d := h.since - hosts[0].since; d > w.step || d < -w.step {
			return false
		}
	}
	return true
}

// warmSet weighs a set in which some are new. The picks are drawn then, also
// for ROUND_ROBIN.
func (b *Balance) warmSet(s *set, now int64) {
	var total uint64
	s.upto, s.order = s.upto[:0], nil
	for _, i := range s.members {
		w := float64(b.c.Endpoints[i].Weight) * (1 << 20) * b.c.warm.factor(now-b.hosts[i].since)
		total += uint64(max(w, 1))
		s.upto = append(s.upto, total)
	}
}
