package stat

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/seinemesh/seine/telemetry"
)

// Flow is what one workload's calls to one version of a service came to, from
// whichever side measured them, as counts that can be summed with those of others.
type Flow struct {
	Source, Destination Party
	Service             string // FQDN
	Name, Namespace     string // of the service
	Version             string
	Reporter            string // whose measurements these are; see Edge
	MTLS                string
	Sum
}

// Sum is counts over a span of time, of one flow or of several.
type Sum struct {
	Requests, Failed float64
	Rate             float64             // requests per second
	buckets          map[float64]float64 // cumulative, as scraped

	openedRate, sentRate, receivedRate float64
	opened, closed                     float64 // totals
	tcp                                bool    // there are series of TCP

	mutual, plain         float64 // requests and connections by security policy
	mutualEver, plainEver bool
	protocols             protocols
}

// protocols is a set of the values of the label request_protocol.
type protocols uint8

const (
	protocolHTTP protocols = 1 << iota
	protocolGRPC
	protocolTCP
)

func protocolsOf(label string) protocols {
	switch label {
	case "http":
		return protocolHTTP
	case "grpc":
		return protocolGRPC
	case "tcp":
		return protocolTCP
	}
	return 0
}

// Protocol names what was spoken: "http", "grpc", "tcp", several with commas
// between them; "" if nobody said.
func (s *Sum) Protocol() string {
	var names []string
	for i, name := range [...]string{"http", "grpc", "tcp"} {
		if s.protocols&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, ",")
}

// Add adds o to s.
func (s *Sum) Add(o *Sum) {
	s.Requests += o.Requests
	s.Failed += o.Failed
	s.Rate += o.Rate
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
	s.tcp = s.tcp || o.tcp
	s.mutual += o.mutual
	s.plain += o.plain
	s.mutualEver = s.mutualEver || o.mutualEver
	s.plainEver = s.plainEver || o.plainEver
	s.protocols |= o.protocols
}

// Traffic is s as the signals of a row.
func (s *Sum) Traffic() Traffic {
	t := Traffic{RPS: s.Rate, Requests: s.Requests}
	if s.Requests > 0 {
		ok := 1 - s.Failed/s.Requests
		t.Success = &ok
		t.Latency = quantiles(s.buckets)
	}
	if s.tcp {
		t.TCP = &TCP{Open: max(s.opened-s.closed, 0), OpenedPerSecond: s.openedRate,
			SentPerSecond: s.sentRate, ReceivedPerSecond: s.receivedRate}
	}
	return t
}

// Active says whether anything happened.
func (s *Sum) Active() bool {
	return s.Requests > 0 || s.openedRate > 0 || s.sentRate > 0 || s.receivedRate > 0
}

// MutualShare is the share of requests and connections that came by mutual TLS,
// 0..1, among those of which that is known; false if it is known of none.
func (s *Sum) MutualShare() (float64, bool) {
	if all := s.mutual + s.plain; all > 0 {
		return s.mutual / all, true
	}
	if s.mutualEver != s.plainEver {
		if s.mutualEver {
			return 1, true
		}
		return 0, true
	}
	return 0, false
}

// Histogram is how many requests took how long: upper bounds in seconds,
// ascending, the last +Inf, and the number within each bucket alone.
func (s *Sum) Histogram() (bounds, counts []float64) {
	for le := range s.buckets {
		bounds = append(bounds, le)
	}
	slices.Sort(bounds)
	below := 0.0
	for _, le := range bounds {
		counts = append(counts, max(s.buckets[le]-below, 0))
		below = max(below, s.buckets[le])
	}
	return bounds, counts
}

func (s *Sum) take(of *series, d, last, seconds float64) {
	rate := 0.0
	if seconds > 0 {
		rate = d / seconds
	}
	s.protocols |= of.protocol
	switch of.kind {
	case requests:
		s.Requests += d
		s.Rate += rate
		if of.failed {
			s.Failed += d
		}
		s.protect(of.security, d)
	case buckets:
		if s.buckets == nil {
			s.buckets = map[float64]float64{}
		}
		s.buckets[of.le] += d
	case opened:
		s.tcp = true
		s.opened += last
		s.openedRate += rate
		s.protect(of.security, d)
	case closed:
		s.closed += last
	case sent:
		s.sentRate += rate
	case received:
		s.receivedRate += rate
	}
}

func (s *Sum) protect(security string, d float64) {
	switch security {
	case telemetry.SecurityMutualTLS.String():
		s.mutual += d
		s.mutualEver = true
	case telemetry.SecurityNone.String():
		s.plain += d
		s.plainEver = true
	}
}

// mtls reads the protection: of this span, or of before if it was idle.
func (s *Sum) mtls() string {
	mutual, plain := s.mutual > 0, s.plain > 0
	if !mutual && !plain {
		mutual, plain = s.mutualEver, s.plainEver
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

// seen is what a span came to.
type seen struct {
	flows     []Flow
	instances int
	seconds   float64 // the longest that one instance was looked at
}

// Flows are the edges of the span from cut, exclusive, to now, in a fixed order.
// A time before the window's begin is the whole window. Spans that meet count
// each request once. Flows of which nothing happened in the span are there too,
// with counts of zero.
func (w *Window) Flows(now, cut time.Time) []Flow {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.between(now, cut).flows
}

// between sums what the instances reported from cut to now. Those that were not
// scraped in the span do not count. w.mu is held.
func (w *Window) between(now, cut time.Time) (out seen) {
	bySource, byDestination := map[edgeKey]*Sum{}, map[edgeKey]*Sum{}
	for _, in := range w.instances {
		n := len(in.scrapes)
		if last := in.scrapes[n-1].at; now.Sub(last) > w.span || !last.After(cut) {
			continue
		}
		out.instances++
		first := in.since(cut)
		seconds := in.scrapes[n-1].at.Sub(in.scrapes[first-1].at).Seconds()
		out.seconds = max(out.seconds, seconds)
		for i, s := range in.series {
			if s.kind == routed {
				continue
			}
			sums := bySource
			if s.reporter == telemetry.Destination.String() {
				sums = byDestination
			}
			e := sums[s.edge]
			if e == nil {
				e = &Sum{}
				sums[s.edge] = e
			}
			e.take(s, in.increase(i, first), in.last(i), seconds)
		}
	}
	out.flows = merge(bySource, byDestination)
	return out
}

// identityless is an edge without what the two reporters may know differently.
func (k edgeKey) identityless() edgeKey {
	k.source.Identity, k.destination.Identity = "", ""
	return k
}

// merge joins the two reporters of each edge: measurements of the source, if
// it reported, protection as the destination saw it.
func merge(bySource, byDestination map[edgeKey]*Sum) []Flow {
	type both struct {
		source, destination *Sum
		key                 edgeKey
	}
	all := map[edgeKey]*both{}
	take := func(m map[edgeKey]*Sum, of func(*both) **Sum) {
		for k, s := range m {
			id := k.identityless()
			b := all[id]
			if b == nil {
				b = &both{key: k}
				all[id] = b
			}
			if to := of(b); *to == nil {
				*to = &Sum{}
			}
			(*of(b)).Add(s)
			learn(&b.key.source.Identity, k.source.Identity)
			learn(&b.key.destination.Identity, k.destination.Identity)
		}
	}
	take(bySource, func(b *both) **Sum { return &b.source })
	take(byDestination, func(b *both) **Sum { return &b.destination })

	flows := make([]Flow, 0, len(all))
	for _, b := range all {
		k := b.key
		f := Flow{Source: k.source.shown(), Destination: k.destination.shown(), Service: k.host, Name: k.name, Namespace: k.ns, Version: k.version}
		if b.source == nil {
			f.Sum, f.Reporter = *b.destination, telemetry.Destination.String()
		} else {
			f.Sum, f.Reporter = *b.source, telemetry.Source.String()
		}
		s := &f.Sum
		if d := b.destination; d != nil {
			f.MTLS = d.mtls()
			s.mutual, s.plain, s.mutualEver, s.plainEver = d.mutual, d.plain, d.mutualEver, d.plainEver
		} else if f.MTLS = MTLSUnknown; f.Source.Identity != "" && f.Destination.Identity != "" {
			// The client checked the server's identity. How many connections it
			// opened in the span is known as a rate alone: one is as good as all.
			f.MTLS, s.mutualEver = MTLSYes, true
			if s.mutual = s.Requests; s.mutual == 0 && s.openedRate > 0 {
				s.mutual = 1
			}
		}
		flows = append(flows, f)
	}
	slices.SortFunc(flows, func(a, b Flow) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Version, b.Version),
			cmp.Compare(a.Destination.Namespace, b.Destination.Namespace), cmp.Compare(a.Destination.Workload, b.Destination.Workload),
			cmp.Compare(a.Source.Namespace, b.Source.Namespace), cmp.Compare(a.Source.Workload, b.Source.Workload),
			cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return flows
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
