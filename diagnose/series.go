package diagnose

import (
	"math"
	"slices"
	"time"

	"github.com/seinemesh/seine/stat"
)

// What a judgement needs. alarmAt is the evidence, in nats, at which a window
// counts as slow: e^-6 is one in four hundred for each of four
// bounds, and that beside one of the worst of the usual windows. Two of the last three must be slow before
// anything is said.
const (
	learnWindows  = 18  // of the usual, before judging
	learnRequests = 200 // of the usual
	minRequests   = 20  // in the window that is judged
	keepWindows   = 60  // that make up the usual: ten minutes of ten seconds
	acceptAfter   = 90  // slow windows in a row that then are the usual: fifteen minutes
	alarmAt       = 6   // nats
	slowerBy      = 1.5 // times the usual quantile, so that a small real change is no alarm
	flat          = 1.3 // times the usual median is still called flat
	minSlow       = 3   // requests beyond the bound
)

// histogram counts requests by bucket. Its bounds are those of the proxies.
type histogram struct {
	bounds []float64 // seconds, ascending, the last +Inf
	counts []float64
	total  float64
}

// add sums o into h. Bounds that differ (another version of the proxy) start anew.
func (h *histogram) add(bounds, counts []float64, sign float64) {
	if !slices.Equal(h.bounds, bounds) {
		*h = histogram{bounds: slices.Clone(bounds), counts: make([]float64, len(counts))}
		if sign < 0 {
			return
		}
	}
	for i, n := range counts {
		h.counts[i] = max(h.counts[i]+sign*n, 0)
	}
	h.total = 0
	for _, n := range h.counts {
		h.total += n
	}
}

// quantile interpolates within a bucket; 0 without requests.
func (h *histogram) quantile(q float64) float64 {
	if h.total == 0 {
		return 0
	}
	rank, below, low := q*h.total, 0.0, 0.0
	for i, n := range h.counts {
		if n > 0 && below+n >= rank {
			if math.IsInf(h.bounds[i], 1) {
				return low
			}
			return low + (h.bounds[i]-low)*(rank-below)/n
		}
		below += n
		low = h.bounds[i]
	}
	return low
}

// beyond is how many requests took longer than bound, one of the bounds.
func (h *histogram) beyond(bound float64) (n float64) {
	for i := len(h.bounds) - 1; i >= 0 && h.bounds[i] > bound; i-- {
		n += h.counts[i]
	}
	return n
}

// boundAbove is the smallest bound that is at least v.
func (h *histogram) boundAbove(v float64) float64 {
	for _, b := range h.bounds {
		if b >= v {
			return b
		}
	}
	return math.Inf(1)
}

// series is what is known of one server's or edge's latency.
type series struct {
	now     histogram   // this window
	usual   histogram   // the sum of recent
	recent  []histogram // quiet windows, oldest first
	seen    int         // the window with the latest traffic
	proxies []string    // that reported this window
	answers stat.Party  // who answers

	slow    [3]bool     // the latest windows, latest first
	held    []histogram // slow windows that nothing has confirmed yet
	inARow  int         // slow windows
	since   time.Time
	latest  *verdict // of this window alone; nil: it is as usual
	verdict *verdict // what is wrong now, confirmed; nil: nothing
}

// verdict is how a window differs from the usual.
type verdict struct {
	shape         Shape
	before, after Quantiles
	slower        float64 // share of requests beyond the bound
	nats          float64
	since         time.Time
}

func (s *series) add(t *stat.Distribution, window int) {
	if s.seen != window {
		s.now, s.proxies = histogram{}, s.proxies[:0]
		s.seen = window
	}
	s.now.add(t.Bounds, t.Counts, +1)
}

// judge compares this window with the usual and learns from it if it is quiet.
func (s *series) judge(at time.Time, window int) {
	s.latest = nil
	if s.seen != window {
		s.proxies = s.proxies[:0]
	}
	judged := s.seen == window && s.now.total >= minRequests
	if judged && len(s.recent) > 0 && !slices.Equal(s.now.bounds, s.usual.bounds) {
		s.recent, s.held, s.usual = nil, nil, histogram{}
	}
	if judged && s.learnt() {
		s.latest = s.compare()
	}
	s.shift(s.latest != nil)
	if s.latest == nil {
		s.inARow = 0
		if !s.slow[1] && !s.slow[2] {
			// A slow window that stayed alone was one of the usual ones: so it is
			// with programs that pause now and then.
			s.verdict = nil
			for _, h := range s.held {
				s.learn(h)
			}
			s.held = s.held[:0]
		}
		if judged {
			s.learn(s.now)
		}
		return
	}
	if s.inARow++; s.inARow == 1 && s.verdict == nil {
		s.since = at
	}
	if s.slow[1] || s.slow[2] {
		s.latest.since = s.since
		s.verdict = s.latest
		s.held = s.held[:0]
	} else if s.verdict == nil {
		s.held = append(s.held, s.now)
	}
	if s.inARow >= acceptAfter {
		// It has been so for a quarter of an hour: this is the usual now.
		*s = series{seen: s.seen, now: s.now, proxies: s.proxies, answers: s.answers}
	}
}

// learnt says whether enough of the usual is known to judge by it.
func (s *series) learnt() bool {
	return len(s.recent) >= learnWindows && s.usual.total >= learnRequests
}

func (s *series) shift(slow bool) { s.slow = [3]bool{slow, s.slow[0], s.slow[1]} }

func (s *series) learn(h histogram) {
	s.recent = append(s.recent, h)
	s.usual.add(h.bounds, h.counts, +1)
	if len(s.recent) > keepWindows {
		s.usual.add(s.recent[0].bounds, s.recent[0].counts, -1)
		s.recent = slices.Delete(s.recent, 0, 1)
	}
}

// beyondUsual are the bounds of the tail, in P99s: what adds a little to many
// requests is seen at the first, what holds a few for long at the last.
var beyondUsual = [...]float64{slowerBy, 2.5, 5, 10}

// compare tests this window against the usual, at bounds well above its P99 and
// at one well above its median; nil: nothing unusual.
func (s *series) compare() *verdict {
	p50, p99 := s.usual.quantile(0.5), s.usual.quantile(0.99)
	v := &verdict{before: Quantiles{p50 * 1e3, p99 * 1e3},
		after: Quantiles{s.now.quantile(0.5) * 1e3, s.now.quantile(0.99) * 1e3}}
	var tail excess
	for _, times := range beyondUsual {
		if e := s.excess(s.usual.boundAbove(p99 * times)); e.nats > tail.nats {
			tail = e
		}
	}
	shifted := s.excess(s.usual.boundAbove(p50 * slowerBy))
	moved := s.now.quantile(0.5) > p50*flat && shifted.nats >= alarmAt
	switch {
	case moved:
		v.shape, v.slower, v.nats = Shift, shifted.share, shifted.nats
	case tail.nats >= alarmAt && s.now.quantile(0.99) > p99*slowerBy:
		v.shape, v.slower, v.nats = Tail, tail.share, tail.nats
	default:
		return nil
	}
	return v
}

type excess struct{ share, nats float64 }

// excess says how unusual the share of requests beyond bound is.
//
// If each request were beyond it by itself with the usual share p, so many or
// more of n would be at most exp(-n·KL(x/n ‖ p)) likely (Chernoff's bound for the
// binomial). Requests are not independent: they come in bursts and share
// pauses, so that shares vary from window to window more than a binomial's
// would. So p is not the usual share but somewhat more than that of the usual
// windows' worst twentieth: what has happened before is no news.
func (s *series) excess(bound float64) excess {
	x, n := s.now.beyond(bound), s.now.total
	share := x / n
	if x < minSlow {
		return excess{share: share}
	}
	shares := make([]float64, len(s.recent))
	for i := range s.recent {
		shares[i] = s.recent[i].beyond(bound) / s.recent[i].total
	}
	slices.Sort(shares)
	worst := shares[len(shares)*19/20]
	// Half a request more than was seen, and half as much again: what never
	// happened is not impossible, and the worst is yet to come.
	p := worst*1.5 + 0.5/n
	if share <= p || p >= 1 {
		return excess{share: share}
	}
	return excess{share, n * divergence(share, p)}
}

// divergence is the Kullback–Leibler divergence of Bernoulli a from b, in nats.
func divergence(a, b float64) float64 {
	d := 0.0
	if a > 0 {
		d += a * math.Log(a/b)
	}
	if a < 1 {
		d += (1 - a) * math.Log((1-a)/(1-b))
	}
	return d
}
