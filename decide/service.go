package decide

import (
	"net/netip"
	"time"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

// Endpoint is a compiled endpoint. The control client keeps the pointer while
// the endpoint is unchanged, so that pools may be keyed by it.
type Endpoint struct {
	Proto    *seinev1.Endpoint
	Addr     netip.AddrPort // zero if DNS is set
	DNS      string         // a name to be resolved, with Addr.Port()'s port in Port
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
	// AltNames are SPIFFE IDs or names that the peer may have besides the
	// endpoint's own identity.
	AltNames []string

	upto  []uint64
	order []int32
}

// CompileEndpoint checks and compiles an endpoint.
func CompileEndpoint(e *seinev1.Endpoint) (*Endpoint, error) { return &Endpoint{Proto: e}, nil }

// CompileService checks and compiles a service.
func CompileService(s *seinev1.Service) (*Service, error) { return &Service{Proto: s}, nil }

// Clusters sorts endpoints into the service's subsets; "" is the host as a
// whole and is always there.
func (s *Service) Clusters(eps []*Endpoint) map[string]*Cluster { return nil }

// Pick returns the index of an endpoint, or -1 if there is none (503, flag UH).
// draw is uniform over uint64; cursor is the caller's own for this cluster
// (ROUND_ROBIN; start it at random so that proxies do not march in step; nil
// draws instead); active are the requests in flight by index (LEAST_REQUEST;
// nil counts none; a shorter slice counts the rest as none).
func (c *Cluster) Pick(draw uint64, cursor *uint32, active []int32) int { return -1 }

// Endpoint returns the endpoint with that ID, or nil.
func (c *Cluster) Endpoint(id string) *Endpoint { return nil }

// Transport is how a connection to an endpoint is made.
type Transport uint8

const (
	Plain  Transport = iota
	Mutual           // the mesh's mutual TLS, the peer being Endpoint.Identity or one of AltNames
	Simple           // TLS as any client begins it (DestinationRule SIMPLE); not implemented yet
	Custom           // TLS with the user's own client certificate (MUTUAL); not implemented yet
)

// Transport decides how c speaks to e.
func (c *Cluster) Transport(e *Endpoint) Transport { return Plain }
