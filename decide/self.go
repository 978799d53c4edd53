package decide

import (
	"net/netip"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

// Self is what a proxy knows of its own workload.
type Self struct {
	Proto *seinev1.Self

	ports    map[uint16]*InboundPort
	prefixes []netip.Prefix
}

// InboundPort is how connections to one of the workload's ports are received.
type InboundPort struct {
	Proto    *seinev1.InboundPort
	Declared bool // a service or a policy names it

	verdicts [arrivals]Verdict
}

// CompileSelf checks and compiles a Self.
func CompileSelf(s *seinev1.Self) (*Self, error) { return &Self{Proto: s}, nil }

// Inbound returns the port's settings, the defaults if it is not declared;
// never nil.
func (s *Self) Inbound(port uint16) *InboundPort { return nil }

// Local reports whether a is one of the mesh's own addresses.
func (s *Self) Local(a netip.Addr) bool { return false }

// Arrival is what the first bytes of an inbound connection turned out to be.
type Arrival uint8

const (
	Plaintext Arrival = iota // not TLS
	OtherTLS                 // a ClientHello without the mesh's ALPN
	MeshTLS                  // a ClientHello that offers seine-*, istio or istio-*
	arrivals
)

// Action is what to do with an inbound connection.
type Action uint8

const (
	Reject    Action = iota // close it (reset); nothing reaches the application
	Forward                 // pass the bytes to the application as they are
	Terminate               // end TLS here; a client certificate of the mesh is required
)

// Verdict is the decision on an inbound connection.
type Verdict struct {
	Action Action
	Reason string // a sentence that names the policy
}

// Admit decides on a connection.
func (p *InboundPort) Admit(a Arrival) Verdict { return p.verdicts[a] }
