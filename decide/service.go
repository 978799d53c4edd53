package decide

import (
	"fmt"
	"math/bits"
	"net/netip"
	"time"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

// DefaultConnectTimeout is Istio's.
const DefaultConnectTimeout = 10 * time.Second

// maxOrder bounds the rotation of weighted round robin.
const maxOrder = 1024

// Endpoint is a compiled endpoint. The control client keeps the pointer while
// the endpoint is unchanged, so that pools may be keyed by it.
type Endpoint struct {
	Proto    *seinev1.Endpoint
	Addr     netip.AddrPort // zero if DNS is set
	DNS      string         // a name to be resolved
	Port     uint16
	Identity string // SPIFFE ID; empty: no sidecar
	Weight   uint32 // at least 1
}

// Service is one compiled port of a service.
type Service struct {
	Proto *seinev1.Service
	Key   string // "FQDN/PORT"
}

// Cluster is the healthy endpoints of one subset of a service, and how they
// are spoken to.
type Cluster struct {
	Service        *Service
	Subset         string
	Policy         *seinev1.TrafficPolicy // never nil
	Endpoints      []*Endpoint            // healthy, of that subset
	ConnectTimeout time.Duration
	SNI            string

	all   []*Endpoint // of the service, healthy or not
	upto  []uint64    // cumulative weights; nil if all are the same
	order []int32     // one turn of weighted round robin; nil if all are the same
}

// CompileEndpoint checks and compiles an endpoint.
func CompileEndpoint(e *seinev1.Endpoint) (*Endpoint, error) {
	if e.Id == "" || e.Port == 0 || e.Port > 65535 || e.Address == "" {
		return nil, invalid("endpoint %q at %q, port %d", e.Id, e.Address, e.Port)
	}
	c := &Endpoint{Proto: e, Port: uint16(e.Port), Identity: e.Workload.GetIdentity(), Weight: max(e.Weight, 1)}
	if a, err := netip.ParseAddr(e.Address); err == nil {
		c.Addr = netip.AddrPortFrom(a.Unmap(), c.Port)
	} else {
		c.DNS = e.Address
	}
	return c, nil
}

// CompileService checks and compiles a service.
func CompileService(s *seinev1.Service) (*Service, error) {
	if s.Host == "" || s.Port == 0 || s.Port > 65535 {
		return nil, invalid("service %q, port %d", s.Host, s.Port)
	}
	for _, p := range append([]*seinev1.TrafficPolicy{s.Policy}, subsetPolicies(s)...) {
		if t := p.GetConnectTimeout(); t != nil {
			if err := t.CheckValid(); err != nil || t.AsDuration() <= 0 {
				return nil, invalid("connectTimeout %v of %s", t, s.Host)
			}
		}
	}
	return &Service{Proto: s, Key: Key(s.Host, s.Port)}, nil
}

func subsetPolicies(s *seinev1.Service) []*seinev1.TrafficPolicy {
	var out []*seinev1.TrafficPolicy
	for _, sub := range s.Subsets {
		out = append(out, sub.Policy)
	}
	return out
}

// Clusters sorts endpoints into the service's subsets; "" is the host as a
// whole and is always there. The order of endpoints is kept.
func (s *Service) Clusters(eps []*Endpoint) map[string]*Cluster {
	out := make(map[string]*Cluster, 1+len(s.Proto.Subsets))
	out[""] = s.cluster("", nil, s.Proto.Policy, eps)
	for _, sub := range s.Proto.Subsets {
		policy := sub.Policy
		if policy == nil {
			policy = s.Proto.Policy
		}
		out[sub.Name] = s.cluster(sub.Name, sub.Labels, policy, eps)
	}
	return out
}

func (s *Service) cluster(name string, labels map[string]string, policy *seinev1.TrafficPolicy, eps []*Endpoint) *Cluster {
	if policy == nil {
		policy = &seinev1.TrafficPolicy{}
	}
	c := &Cluster{Service: s, Subset: name, Policy: policy, ConnectTimeout: DefaultConnectTimeout, SNI: policy.Sni, all: eps}
	if t := policy.ConnectTimeout; t != nil {
		c.ConnectTimeout = t.AsDuration()
	}
	if c.SNI == "" && (policy.Tls == seinev1.TrafficPolicy_AUTO || policy.Tls == seinev1.TrafficPolicy_ISTIO_MUTUAL) {
		c.SNI = fmt.Sprintf("outbound_.%d_.%s_.%s", s.Proto.Port, name, s.Proto.Host)
	}
	for _, e := range eps {
		if !e.Proto.Unhealthy && hasLabels(e.Proto, labels) {
			c.Endpoints = append(c.Endpoints, e)
		}
	}
	c.weigh()
	return c
}

func hasLabels(e *seinev1.Endpoint, want map[string]string) bool {
	for k, v := range want {
		if got, ok := e.Labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// weigh prepares weighted picks; nothing is needed where all weights are equal.
func (c *Cluster) weigh() {
	same := true
	for _, e := range c.Endpoints {
		same = same && e.Weight == c.Endpoints[0].Weight
	}
	if same {
		return
	}
	var total uint64
	c.upto = make([]uint64, len(c.Endpoints))
	for i, e := range c.Endpoints {
		total += uint64(e.Weight)
		c.upto[i] = total
	}
	if c.Policy.Balancer == seinev1.TrafficPolicy_ROUND_ROBIN {
		c.order = rotation(c.Endpoints, total)
	}
}

// rotation is one turn of smooth weighted round robin (nginx's): the heaviest
// are spread over the turn, not in runs. Nil if the turn were too long: then
// the pick is drawn.
func rotation(eps []*Endpoint, total uint64) []int32 {
	var div uint64
	for _, e := range eps {
		div = gcd(div, uint64(e.Weight))
	}
	if total/div > maxOrder {
		return nil
	}
	turn := int64(total / div)
	credit := make([]int64, len(eps))
	order := make([]int32, 0, turn)
	for range turn {
		best := 0
		for i, e := range eps {
			credit[i] += int64(uint64(e.Weight) / div)
			if credit[i] > credit[best] {
				best = i
			}
		}
		credit[best] -= turn
		order = append(order, int32(best))
	}
	return order
}

func gcd(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// Pick returns the index of an endpoint, or -1 if there is none (503, flag UH).
// draw is uniform over uint64; cursor is the caller's own for this cluster
// (ROUND_ROBIN; start it at random so that proxies do not march in step; nil
// draws instead); active are the requests in flight by index (LEAST_REQUEST;
// nil counts none; a shorter slice counts the rest as none).
func (c *Cluster) Pick(draw uint64, cursor *uint32, active []int32) int {
	n := len(c.Endpoints)
	if n <= 1 {
		return n - 1
	}
	switch c.Policy.Balancer {
	case seinev1.TrafficPolicy_ROUND_ROBIN:
		if cursor == nil || c.upto != nil && c.order == nil {
			return c.drawn(draw)
		}
		at := *cursor
		*cursor++
		if c.order != nil {
			return int(c.order[at%uint32(len(c.order))])
		}
		return int(at % uint32(n))
	case seinev1.TrafficPolicy_RANDOM, seinev1.TrafficPolicy_PASSTHROUGH:
		return c.drawn(draw)
	}
	// Power of two choices: of two drawn by weight, the one with less in flight
	// for its weight. On a tie the first, so that an idle cluster keeps to the
	// weights.
	a := c.drawn(draw)
	b := c.drawn(draw<<32 | draw>>32)
	if c.upto == nil {
		// two different ones: a second draw over the others
		b = int(draw & 0xffffffff * uint64(n-1) >> 32)
		if b >= a {
			b++
		}
	}
	if load(active, b)*uint64(c.Endpoints[a].Weight) < load(active, a)*uint64(c.Endpoints[b].Weight) {
		return b
	}
	return a
}

func load(active []int32, i int) uint64 {
	if i >= len(active) || active[i] < 0 {
		return 0
	}
	return uint64(active[i])
}

func (c *Cluster) drawn(draw uint64) int {
	if c.upto == nil {
		at, _ := bits.Mul64(draw, uint64(len(c.Endpoints)))
		return int(at)
	}
	at, _ := bits.Mul64(draw, c.upto[len(c.upto)-1])
	lo, hi := 0, len(c.upto)-1
	for lo < hi {
		if mid := (lo + hi) / 2; at < c.upto[mid] {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	return lo
}

// Endpoint returns the service's endpoint with that ID, or nil. One that is not
// to be picked is found too: who dials a workload's own address wants that one.
func (c *Cluster) Endpoint(id string) *Endpoint {
	for _, e := range c.all {
		if e.Proto.Id == id {
			return e
		}
	}
	return nil
}

// Original reports whether connections go to the address that was dialled and
// not to one of Endpoints: a ServiceEntry with resolution NONE, or the balancer
// PASSTHROUGH for a service outside the mesh. Within the mesh that balancer
// draws an endpoint instead: a virtual address is nobody's, and an endpoint has
// an identity.
func (c *Cluster) Original() bool {
	p := c.Service.Proto
	return p.Resolution == seinev1.Service_ORIGINAL || p.External && c.Policy.Balancer == seinev1.TrafficPolicy_PASSTHROUGH
}

// Transport is how a connection to an endpoint is made.
type Transport uint8

const (
	Plain  Transport = iota
	Mutual           // the mesh's mutual TLS; the peer must be as Expect says
	Simple           // TLS as any client begins it (DestinationRule SIMPLE); not implemented yet
	Custom           // TLS with the user's own client certificate (MUTUAL); not implemented yet
)

// Transport decides how c speaks to e: mutual TLS exactly where the endpoint
// has an identity, unless a DestinationRule says otherwise. A Simple or Custom
// one that the caller cannot make is to be refused, never spoken in plaintext.
func (c *Cluster) Transport(e *Endpoint) Transport {
	switch c.Policy.Tls {
	case seinev1.TrafficPolicy_TLS_DISABLE:
		return Plain
	case seinev1.TrafficPolicy_ISTIO_MUTUAL:
		return Mutual
	case seinev1.TrafficPolicy_SIMPLE:
		return Simple
	case seinev1.TrafficPolicy_MUTUAL:
		return Custom
	}
	if e != nil && e.Identity != "" {
		return Mutual
	}
	return Plain
}

// Expect says who the peer of a Mutual connection to e may be: id, or one of
// alts. The names of a DestinationRule replace the endpoint's own identity; a
// ServiceEntry's come beside it. Both empty: nobody, the connection must fail.
func (c *Cluster) Expect(e *Endpoint) (id string, alts []string) {
	if len(c.Policy.SubjectAltNames) > 0 {
		return "", c.Policy.SubjectAltNames
	}
	return e.Identity, c.Service.Proto.SubjectAltNames
}
