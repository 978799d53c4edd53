package stat

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/seinemesh/seine/telemetry"
)

// Window keeps the scrapes of a span of time. Safe for any goroutine.
type Window struct {
	span time.Duration

	mu        sync.Mutex
	interned  map[string]*series // by the text of the series
	instances map[string]*instance
}

// instance is what one proxy reported. The values of scrapes are columns: the
// n-th is that of series[n].
type instance struct {
	series  []*series
	index   map[*series]int
	scrapes []scrape   // oldest first
	ejected []ejection // of the last scrape
}

type scrape struct {
	at     time.Time
	values []float64
}

// maxInterned bounds the texts that are remembered to save parsing them again.
const maxInterned = 1 << 20

// NewWindow returns a window over the last span.
func NewWindow(span time.Duration) *Window {
	return &Window{span: span, interned: map[string]*series{}, instances: map[string]*instance{}}
}

// Add takes in one scrape of one proxy. Bodies of an instance come in the
// order of their times. An error wraps ErrSyntax and leaves the window as it was.
func (w *Window) Add(name string, at time.Time, body []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	in := w.instances[name]
	if in == nil {
		in = &instance{index: map[*series]int{}}
	}
	known := len(in.series)
	values := make([]float64, known, known+8)
	var out []ejection
	err := parse(body, func(k kind, text, labels []byte, v float64) error {
		if k == ejected { // they come and go: no columns
			e, err := parseEjection(labels, v)
			if len(out) < maxEjected {
				out = append(out, e)
			}
			return err
		}
		s := w.interned[string(text)]
		if s == nil {
			var err error
			if s, err = parseSeries(k, labels); err != nil {
				return err
			}
			if len(w.interned) >= maxInterned {
				clear(w.interned)
			}
			w.interned[string(text)] = s
		}
		i, ok := in.index[s]
		if !ok {
			if i = len(in.series); i >= maxSeries {
				return fmt.Errorf("more than %d series", maxSeries)
			}
			in.index[s] = i
			in.series = append(in.series, s)
			values = append(values, 0)
		}
		values[i] = v
		return nil
	})
	if n := len(in.scrapes); err == nil && n > 0 && !at.After(in.scrapes[n-1].at) {
		err = fmt.Errorf("time %s is not after the last one's", at.Format(time.RFC3339Nano))
	}
	if err != nil {
		for _, s := range in.series[known:] {
			delete(in.index, s)
		}
		in.series = in.series[:known]
		return fmt.Errorf("metrics of %s: %w", name, err)
	}
	in.scrapes = append(in.scrapes, scrape{at, values})
	in.ejected = out
	// One scrape from before the window stays: it is where the window's
	// increase is counted from.
	drop := 0
	for drop+1 < len(in.scrapes) && !in.scrapes[drop+1].at.After(at.Add(-w.span)) {
		drop++
	}
	in.scrapes = slices.Delete(in.scrapes, 0, drop)
	w.instances[name] = in
	return nil
}

// Remove forgets an instance.
func (w *Window) Remove(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.instances, name)
}

// sum is what one edge did, seen by one reporter.
type sum struct {
	requests, failed, rate             float64
	buckets                            map[float64]float64 // cumulative, as scraped
	openedRate, sentRate, receivedRate float64
	opened, closed                     float64 // totals
	sentAny                            bool    // there are TCP series
	mutual, plain                      float64 // increase by security policy
	mutualEver, plainEver              bool
}

func (s *sum) add(o *sum) {
	s.requests += o.requests
	s.failed += o.failed
	s.rate += o.rate
	for le, n := range o.buckets {
		if s.buckets == nil {
			s.buckets = map[float64]float64{}
		}
		s.buckets[le] += n
	}
	s.openedRate += o.openedRate
	s.sentRate += o.sentRate
	s.receivedRate += o.receivedRate
	s.opened += o.opened
	s.closed += o.closed
	s.sentAny = s.sentAny || o.sentAny
	s.mutual += o.mutual
	s.plain += o.plain
	s.mutualEver = s.mutualEver || o.mutualEver
	s.plainEver = s.plainEver || o.plainEver
}

// Table computes the signals of the window that ends at now. Instances that
// were not scraped within the window do not count.
func (w *Window) Table(now time.Time) *Table {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := &Table{At: now, Services: []Service{}, Edges: []Edge{}}
	bySource, byDestination := map[edgeKey]*sum{}, map[edgeKey]*sum{}
	for _, in := range w.instances {
		n := len(in.scrapes)
		if last := in.scrapes[n-1].at; now.Sub(last) > w.span {
			continue
		}
		t.Instances++
		seconds := in.scrapes[n-1].at.Sub(in.scrapes[0].at).Seconds()
		t.WindowSeconds = max(t.WindowSeconds, seconds)
		for i, s := range in.series {
			sums := bySource
			if s.reporter == telemetry.Destination.String() {
				sums = byDestination
			}
			e := sums[s.edge]
			if e == nil {
				e = &sum{}
				sums[s.edge] = e
			}
			e.take(s, in.increase(i), in.last(i), seconds)
		}
	}
	t.Ejected = w.ejectedAt(now)
	edges := t.merge(bySource, byDestination)
	t.services(edges)
	return t
}

func (in *instance) last(i int) float64 {
	if v := in.scrapes[len(in.scrapes)-1].values; i < len(v) {
		return v[i]
	}
	return 0
}

// increase is how much series i grew over the scrapes. A value that fell means
// a proxy that started anew; a series that was not there counts from zero.
func (in *instance) increase(i int) (d float64) {
	for n := 1; n < len(in.scrapes); n++ {
		var before, after float64
		if v := in.scrapes[n-1].values; i < len(v) {
			before = v[i]
		}
		if v := in.scrapes[n].values; i < len(v) {
			after = v[i]
		}
		if after < before {
			before = 0
		}
		d += after - before
	}
	return d
}

func (e *sum) take(s *series, d, last, seconds float64) {
	rate := 0.0
	if seconds > 0 {
		rate = d / seconds
	}
	switch s.kind {
	case requests:
		e.requests += d
		e.rate += rate
		if s.failed {
			e.failed += d
		}
		e.protect(s.security, d)
	case buckets:
		if e.buckets == nil {
			e.buckets = map[float64]float64{}
		}
		e.buckets[s.le] += d
	case opened:
		e.sentAny = true
		e.opened += last
		e.openedRate += rate
		e.protect(s.security, d)
	case closed:
		e.closed += last
	case sent:
		e.sentRate += rate
	case received:
		e.receivedRate += rate
	}
}

func (e *sum) protect(security string, d float64) {
	switch security {
	case telemetry.SecurityMutualTLS.String():
		e.mutual += d
		e.mutualEver = true
	case telemetry.SecurityNone.String():
		e.plain += d
		e.plainEver = true
	}
}

// mtls reads the protection: of this window, or of before if it was idle.
func (e *sum) mtls() string {
	mutual, plain := e.mutual > 0, e.plain > 0
	if !mutual && !plain {
		mutual, plain = e.mutualEver, e.plainEver
	}
	switch {
	case mutual && plain:
		return MTLSMixed
	case mutual:
		return MTLSYes
	case plain:
		return MTLSNo
	}
	return MTLSUnknown
}

// pair is an edge with the sums that its row shows.
type pair struct {
	key      edgeKey
	sum      *sum
	mtls     string
	reporter string
}

// identityless is an edge without what the two reporters may know differently.
func (k edgeKey) identityless() edgeKey {
	k.source.Identity, k.destination.Identity = "", ""
	return k
}

// merge joins the two reporters of each edge: measurements of the source, if
// it reported, protection as the destination saw it.
func (t *Table) merge(bySource, byDestination map[edgeKey]*sum) []pair {
	type both struct {
		source, destination *sum
		key                 edgeKey
	}
	all := map[edgeKey]*both{}
	take := func(m map[edgeKey]*sum, of func(*both) **sum) {
		for k, s := range m {
			id := k.identityless()
			b := all[id]
			if b == nil {
				b = &both{key: k}
				all[id] = b
			}
			if to := of(b); *to == nil {
				*to = &sum{}
			}
			(*of(b)).add(s)
			learn(&b.key.source.Identity, k.source.Identity)
			learn(&b.key.destination.Identity, k.destination.Identity)
		}
	}
	take(bySource, func(b *both) **sum { return &b.source })
	take(byDestination, func(b *both) **sum { return &b.destination })

	var pairs []pair
	for _, b := range all {
		p := pair{key: b.key, mtls: MTLSUnknown}
		switch {
		case b.source == nil:
			p.sum, p.reporter = b.destination, telemetry.Destination.String()
		default:
			p.sum, p.reporter = b.source, telemetry.Source.String()
		}
		if b.destination != nil {
			p.mtls = b.destination.mtls()
		} else if id := b.key; id.source.Identity != telemetry.Unknown && id.destination.Identity != telemetry.Unknown {
			p.mtls = MTLSYes // the client checked the server's identity
		}
		pairs = append(pairs, p)
	}
	slices.SortFunc(pairs, func(a, b pair) int {
		return cmp.Or(cmp.Compare(a.key.host, b.key.host), cmp.Compare(a.key.version, b.key.version),
			cmp.Compare(a.key.destination.Namespace, b.key.destination.Namespace),
			cmp.Compare(a.key.destination.Workload, b.key.destination.Workload),
			cmp.Compare(a.key.source.Namespace, b.key.source.Namespace),
			cmp.Compare(a.key.source.Workload, b.key.source.Workload),
			cmp.Compare(a.key.ns, b.key.ns), cmp.Compare(a.key.name, b.key.name))
	})
	for _, p := range pairs {
		t.Edges = append(t.Edges, Edge{
			Source: p.key.source.shown(), Destination: p.key.destination.shown(),
			Service: p.key.host, Version: p.key.version,
			Traffic: p.sum.traffic(), MTLS: p.mtls, Reporter: p.reporter,
		})
	}
	return pairs
}

func learn(to *string, id string) {
	if *to == "" || *to == telemetry.Unknown {
		*to = id
	}
}

func (p Party) shown() Party {
	if p.Identity == telemetry.Unknown {
		p.Identity = ""
	}
	return p
}

// services sums the edges by service and version.
func (t *Table) services(pairs []pair) {
	type id struct{ ns, name, host, version string }
	type row struct {
		Service
		sum        sum
		busy, idle []string // protection of the edges with and without traffic
	}
	rows := map[id]*row{}
	var order []*row
	total := map[string]*sum{}
	for _, p := range pairs {
		k := id{p.key.ns, p.key.name, p.key.host, p.key.version}
		r := rows[k]
		if r == nil {
			r = &row{Service: Service{Namespace: k.ns, Name: k.name, Host: k.host, Version: k.version,
				Sources: []string{}, Destinations: []string{}}}
			rows[k] = r
			order = append(order, r)
		}
		r.sum.add(p.sum)
		if p.sum.requests > 0 || p.sum.openedRate > 0 {
			r.busy = append(r.busy, p.mtls)
		} else {
			r.idle = append(r.idle, p.mtls)
		}
		from, to := p.key.source.shown().Identity, p.key.destination.shown().Identity
		if from != "" && !slices.Contains(r.Sources, from) {
			r.Sources = append(r.Sources, from)
		}
		if to != "" && !slices.Contains(r.Destinations, to) {
			r.Destinations = append(r.Destinations, to)
		}
		if total[k.host] == nil {
			total[k.host] = &sum{}
		}
		total[k.host].requests += p.sum.requests
		total[k.host].openedRate += p.sum.openedRate
	}
	for _, r := range order {
		if r.Version == telemetry.Unknown && r.sum.requests == 0 && !r.sum.sentAny {
			continue // requests of long ago that reached no workload
		}
		r.Traffic = r.sum.traffic()
		if all := total[r.Host]; all.requests > 0 {
			r.Share = r.sum.requests / all.requests
		} else if all.openedRate > 0 {
			r.Share = r.sum.openedRate / all.openedRate
		}
		if r.MTLS = combine(r.busy); len(r.busy) == 0 {
			r.MTLS = combine(r.idle)
		}
		slices.Sort(r.Sources)
		slices.Sort(r.Destinations)
		t.Services = append(t.Services, r.Service)
	}
	slices.SortStableFunc(t.Services, func(a, b Service) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name),
			cmp.Compare(a.Host, b.Host), cmp.Compare(a.Version, b.Version))
	})
}

func combine(edges []string) string {
	got := MTLSUnknown
	for _, m := range edges {
		switch {
		case m == MTLSUnknown || m == got:
		case got == MTLSUnknown:
			got = m
		default:
			got = MTLSMixed
		}
	}
	return got
}

func (e *sum) traffic() Traffic {
	t := Traffic{RPS: e.rate, Requests: e.requests}
	if e.requests > 0 {
		ok := 1 - e.failed/e.requests
		t.Success = &ok
		t.Latency = quantiles(e.buckets)
	}
	if e.sentAny {
		t.TCP = &TCP{Open: max(e.opened-e.closed, 0), OpenedPerSecond: e.openedRate,
			SentPerSecond: e.sentRate, ReceivedPerSecond: e.receivedRate}
	}
	return t
}

// quantiles interpolates within a bucket, as Prometheus's histogram_quantile
// does; nil without requests.
func quantiles(cumulative map[float64]float64) *Latency {
	bounds := make([]float64, 0, len(cumulative))
	for le := range cumulative {
		bounds = append(bounds, le)
	}
	slices.Sort(bounds)
	if len(bounds) == 0 || cumulative[bounds[len(bounds)-1]] == 0 {
		return nil
	}
	total := cumulative[bounds[len(bounds)-1]]
	at := func(q float64) float64 {
		rank := q * total
		var low, below float64
		for _, le := range bounds {
			n := cumulative[le]
			if n >= rank && n > below {
				if math.IsInf(le, 1) {
					return low * 1000
				}
				return (low + (le-low)*(rank-below)/(n-below)) * 1000
			}
			low, below = le, max(below, n)
		}
		return low * 1000
	}
	return &Latency{P50: at(0.5), P90: at(0.9), P99: at(0.99)}
}
