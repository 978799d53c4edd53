package view

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/mesh"
	"github.com/seinemesh/seine/plan"
	"github.com/seinemesh/seine/stat"
)

// Breakers are the bounds that DestinationRules set, and who is out.
type Breakers struct {
	At       time.Time  `json:"at"`
	Breakers []Breaker  `json:"breakers"`
	Ejected  []Ejection `json:"ejected"`
	LeftOut  int        `json:"left_out"`
}

// Breaker is the bounds of one port of a service, or of one subset of it.
type Breaker struct {
	Service    string             `json:"service"`
	Port       uint32             `json:"port"`
	Subset     string             `json:"subset,omitempty"`
	Policy     string             `json:"policy"`
	Limits     Limits             `json:"limits"`
	Refused    map[string]float64 `json:"refused"` // in the window, by the limit's name
	RefusedAll float64            `json:"refused_per_second"`
	Proxies    []string           `json:"proxies"` // that refused
	Outlier    *Outlier           `json:"outlier,omitempty"`
}

// Limits are a connectionPool's; 0: none is written.
type Limits struct {
	Connections uint32 `json:"max_connections,omitempty"`
	Pending     uint32 `json:"max_pending,omitempty"`
	Requests    uint32 `json:"max_requests,omitempty"`
	Retries     uint32 `json:"max_retries,omitempty"`
}

// Outlier is an outlierDetection's.
type Outlier struct {
	Consecutive5xx     uint32  `json:"consecutive_5xx,omitempty"`
	ConsecutiveGateway uint32  `json:"consecutive_gateway,omitempty"`
	Interval           float64 `json:"interval_ms,omitempty"`
	BaseEjection       float64 `json:"base_ejection_ms,omitempty"`
	MaxPercent         uint32  `json:"max_ejection_percent,omitempty"`
}

// Ejection is an endpoint that is out, and why in a sentence.
type Ejection struct {
	stat.Ejected
	Reason string `json:"reason"`
}

// Refusals are what proxies refused in the last seconds, by bound and proxy.
type Refusals struct {
	Seconds float64
	By      map[stat.Bound]map[string]float64
}

// limitNames are the API's names of the fields that proxies count by.
var limitNames = map[string]string{
	"tcp.maxConnections": "connections", "http.http1MaxPendingRequests": "pending", "http.http2MaxRequests": "requests", "http.maxRetries": "retries",
}

// maxRefusers is how many proxies a bound names.
const maxRefusers = 20

// Breakers lists the bounds of the mesh.
func (m *Moment) Breakers(refused Refusals) *Breakers {
	x := m.index()
	out := &Breakers{At: m.At, Breakers: []Breaker{}, Ejected: []Ejection{}}
	for _, svc := range x.sortedServices() {
		out.Breakers = append(out.Breakers, x.breakersOf(svc, refused)...)
	}
	for i := range m.Ejected {
		out.Ejected = append(out.Ejected, ejectionOf(&m.Ejected[i]))
	}
	var over int
	out.Breakers, out.LeftOut = cut(out.Breakers, maxList)
	out.Ejected, over = cut(out.Ejected, maxList)
	out.LeftOut += over
	return out
}

func (x *index) breakersOf(svc *mesh.Service, refused Refusals) []Breaker {
	w := someone(svc.Namespace)
	var out []Breaker
	for i := range svc.Ports {
		s := plan.Service(x.Snapshot, w, seinev1.ServiceKey(svc.Host, svc.Ports[i].Number))
		if s == nil || s.Source == nil {
			continue
		}
		add := func(subset string, p *seinev1.TrafficPolicy) {
			if p.GetPool() == nil && p.GetOutlier() == nil {
				return
			}
			b := Breaker{Service: svc.Host, Port: s.Port, Subset: subset, Policy: refName(s.Source.Kind, s.Source.Namespace, s.Source.Name),
				Refused: map[string]float64{}, Proxies: []string{}, Outlier: outlierOf(p.GetOutlier())}
			pool := p.GetPool()
			b.Limits = Limits{pool.GetMaxConnections(), pool.GetMaxPending(), pool.GetMaxRequests(), pool.GetMaxRetries()}
			if b.Limits == (Limits{}) && b.Outlier == nil {
				return
			}
			b.count(refused)
			out = append(out, b)
		}
		add("", s.Policy)
		for _, sub := range s.Subsets {
			add(sub.Name, sub.Policy)
		}
	}
	return out
}

func (b *Breaker) count(refused Refusals) {
	total := 0.0
	for field, name := range limitNames {
		for proxy, n := range refused.By[stat.Bound{Service: b.Service, Port: b.Port, Subset: b.Subset, Limit: field}] {
			if n <= 0 {
				continue
			}
			b.Refused[name] += n
			total += n
			if !slices.Contains(b.Proxies, proxy) {
				b.Proxies = append(b.Proxies, proxy)
			}
		}
	}
	slices.Sort(b.Proxies)
	b.Proxies, _ = cut(b.Proxies, maxRefusers)
	if refused.Seconds > 0 {
		b.RefusedAll = total / refused.Seconds
	}
}

func outlierOf(o *seinev1.OutlierDetection) *Outlier {
	if o == nil {
		return nil
	}
	out := &Outlier{Consecutive5xx: o.Consecutive_5Xx, ConsecutiveGateway: o.ConsecutiveGateway, MaxPercent: o.MaxEjectionPercent}
	if o.Interval != nil {
		out.Interval = milliseconds(o.Interval)
	}
	if o.BaseEjectionTime != nil {
		out.BaseEjection = milliseconds(o.BaseEjectionTime)
	}
	return out
}

// causes are what outlier detection counts, in words.
var causes = map[string]string{
	"consecutive_5xx":                  "server errors in a row",
	"consecutive_gateway_failure":      "502, 503 or 504 in a row, or no answer",
	"consecutive_local_origin_failure": "failures to connect in a row",
}

func ejectionOf(e *stat.Ejected) Ejection {
	var words []string
	for _, c := range e.Causes {
		words = append(words, cmp.Or(causes[c], c))
	}
	who := "one proxy"
	if e.Proxies != 1 {
		who = fmt.Sprintf("%d proxies", e.Proxies)
	}
	return Ejection{*e, fmt.Sprintf("%s, as seen by %s", strings.Join(words, "; "), who)}
}
