package decide

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/decide/outlier"
)

// DefaultConnectTimeout is Istio's.
const DefaultConnectTimeout = 10 * time.Second

// Endpoint is a compiled endpoint. The control client keeps the pointer while
// the endpoint is unchanged, so that pools may be keyed by it.
type Endpoint struct {
	Proto    *seinev1.Endpoint
	Addr     netip.AddrPort // zero if DNS is set
	DNS      string         // a name to be resolved
	Port     uint16
	Identity string // SPIFFE ID; empty: no sidecar
	Weight   uint32 // at least 1
	// Since is when the endpoint came to be, or when the proxy first heard of it
	// (set before it is published); zero: not known.
	Since time.Time

	others []*Endpoint // the same one at each of its other addresses
}

// At is the endpoint at the address that was dialled, if that is another one of
// its own; otherwise e.
func (e *Endpoint) At(dialled netip.Addr) *Endpoint {
	for _, o := range e.others {
		if o.Addr.Addr() == dialled {
			return o
		}
	}
	return e
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
	Limits         *Limits           // never nil
	Outlier        *outlier.Settings // nil: none

	all    []*Endpoint // of that subset, healthy or not
	kind   balancer
	hash   *HashKey                 // nil: the balancer does not hash
	warm   *warmup                  // nil: new endpoints get their whole share at once
	groups []group                  // at least one
	weight float64                  // the mean weight
	dialed map[netip.AddrPort]int32 // PASSTHROUGH: index by address
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
	if e.Created > 0 {
		c.Since = time.Unix(e.Created, 0)
	}
	for _, other := range e.OtherAddresses {
		a, err := netip.ParseAddr(other)
		if err != nil {
			return nil, invalid("endpoint %q: its other address %q", e.Id, other)
		}
		o := *c
		o.Addr, o.DNS, o.others = netip.AddrPortFrom(a.Unmap(), c.Port), "", nil
		c.others = append(c.others, &o)
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
		if err := checkBalancing(p); err != nil {
			return nil, fmt.Errorf("%s: %w", s.Host, err)
		}
		if _, err := compileLimits(p.GetPool(), s.Host); err != nil {
			return nil, err
		}
		if b := p.GetRetryBudget(); b != nil && !(b.Percent >= 0 && b.Percent <= 100) {
			return nil, invalid("retryBudget of %s: %v %%", s.Host, b.Percent)
		}
		if _, err := compileOutlier(p.GetOutlier(), s.Host); err != nil {
			return nil, err
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
func (s *Service) Clusters(eps []*Endpoint) map[string]*Cluster { return s.Update(nil, eps) }

// Update is Clusters, but those of old that would be the same are kept: their
// pointers stay, and no hash table is built anew.
func (s *Service) Update(old map[string]*Cluster, eps []*Endpoint) map[string]*Cluster {
	out := make(map[string]*Cluster, 1+len(s.Proto.Subsets))
	out[""] = s.cluster(old[""], "", nil, s.Proto.Policy, eps)
	for _, sub := range s.Proto.Subsets {
		policy := sub.Policy
		if policy == nil {
			policy = s.Proto.Policy
		}
		out[sub.Name] = s.cluster(old[sub.Name], sub.Name, sub.Labels, policy, eps)
	}
	return out
}

func (s *Service) cluster(old *Cluster, name string, labels map[string]string, policy *seinev1.TrafficPolicy, eps []*Endpoint) *Cluster {
	var all, healthy []*Endpoint
	for _, e := range eps {
		if !hasLabels(e.Proto, labels) {
			continue
		}
		all = append(all, e)
		if !e.Proto.Unhealthy {
			healthy = append(healthy, e)
		}
	}
	if old != nil && old.Service == s && slices.Equal(old.Endpoints, healthy) && slices.Equal(old.all, all) {
		return old
	}
	if policy == nil {
		policy = &seinev1.TrafficPolicy{}
	}
	c := &Cluster{Service: s, Subset: name, Policy: policy, ConnectTimeout: DefaultConnectTimeout, SNI: policy.Sni, Endpoints: healthy, all: all}
	if t := policy.ConnectTimeout; t != nil {
		c.ConnectTimeout = t.AsDuration()
	}
	// CompileService has refused what cannot be compiled.
	if c.Limits, _ = compileLimits(policy.Pool, s.Proto.Host); c.Limits == nil {
		c.Limits = unlimited
	}
	c.Limits = withBudget(c.Limits, policy.RetryBudget)
	c.Outlier, _ = compileOutlier(policy.Outlier, s.Proto.Host)
	if c.SNI == "" && (policy.Tls == seinev1.TrafficPolicy_AUTO || policy.Tls == seinev1.TrafficPolicy_ISTIO_MUTUAL) {
		c.SNI = fmt.Sprintf("outbound_.%d_.%s_.%s", s.Proto.Port, name, s.Proto.Host)
	}
	c.balance(old)
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

// Endpoint returns the subset's endpoint with that ID, or nil. One that is not
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
	Simple           // TLS as any client begins it (DestinationRule SIMPLE)
	Custom           // TLS with the user's own client certificate (MUTUAL)
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

// Originate says which names the server of a Simple or Custom connection is
// asked for and may prove. sni is the DestinationRule's or the service's host,
// as Istio's auto SNI; "": there is none to be had (a wildcard host), and the
// connection must fail. alts replace it as the name to prove.
func (c *Cluster) Originate() (sni string, alts []string) {
	sni = c.Policy.Sni
	if host := c.Service.Proto.Host; sni == "" && !strings.HasPrefix(host, "*") {
		sni = host
	}
	if alts = c.Policy.SubjectAltNames; len(alts) == 0 {
		alts = c.Service.Proto.SubjectAltNames
	}
	return sni, alts
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
