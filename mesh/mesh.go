// Package mesh is the model of a whole mesh at one moment: an immutable
// Snapshot of services, workloads, routes and policies, already validated,
// with every default applied and every short name resolved.
//
// Plain values in, plain values out: no I/O, no clock, no goroutine. Routing
// rules and traffic policies are held in the vocabulary of the wire (api), so
// that the file, the control plane, explain and the proxy speak of the same
// rule in the same words. Messages in a Snapshot are shared and never written.
package mesh

import (
	"net/netip"
	"time"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

// Ref names the resource that something was read from.
type Ref struct {
	Kind, Namespace, Name string
	File                  string // "" if it came from a cluster
	Line                  int
	Created               time.Time // zero for files; older wins a conflict, then namespace/name
}

// Proto returns the wire form of r.
func (r Ref) Proto() *seinev1.Ref {
	return &seinev1.Ref{Kind: r.Kind, Namespace: r.Namespace, Name: r.Name, File: r.File, Line: int32(r.Line)}
}

// Settings are what holds for the mesh as a whole (Istio's MeshConfig).
type Settings struct {
	TrustDomain   string // "cluster.local"
	ClusterDomain string // "cluster.local"
	ClusterID     string // "Kubernetes" as in Istio
	RootNamespace string // where a policy without selector holds for the whole mesh
	RegistryOnly  bool   // outboundTrafficPolicy REGISTRY_ONLY
	AccessLog     seinev1.AccessLog_Format
	MergeSlashes  bool // pathNormalization says that // and / are one
	// Prefixes hold the mesh's own addresses: service VIPs and workloads.
	Prefixes []netip.Prefix
}

// DefaultSettings are those of a mesh that says nothing.
func DefaultSettings() Settings {
	return Settings{
		TrustDomain: "cluster.local", ClusterDomain: "cluster.local", ClusterID: "Kubernetes",
		RootNamespace: "seine-system",
	}
}

// Service is a Kubernetes Service or one host of a ServiceEntry.
type Service struct {
	Ref
	Host      string // FQDN in lower case; may be a wildcard ("*.example.com") for a ServiceEntry
	Addresses []netip.Addr
	CIDRs     []netip.Prefix // of a ServiceEntry
	// Allocated are addresses of a ServiceEntry that has none of its own: what the
	// mesh's own answers to its name lead to, and nobody dials without having asked.
	Allocated  []netip.Addr
	Ports      []Port
	Selector   map[string]string // workloads of the same namespace; nil: only Endpoints
	Endpoints  []Endpoint        // written out by a ServiceEntry
	Resolution seinev1.Service_Resolution
	External   bool // MESH_EXTERNAL
	Headless   bool
	NodeLocal  bool     // internalTrafficPolicy Local: it leads to endpoints of the caller's node alone
	ExportTo   []string // namespaces; empty or "*": all; ".": its own
	SANs       []string // ServiceEntry's subjectAltNames
}

// Port is one port of a service.
type Port struct {
	Name       string
	Number     uint32
	Target     uint32 // the workload's port; 0: look TargetName up, or the same as Number
	TargetName string
	Protocol   seinev1.Protocol
}

// Endpoint is one that a ServiceEntry writes out.
type Endpoint struct {
	Address        string // IP or DNS name
	Ports          map[string]uint32
	Labels         map[string]string
	ServiceAccount string
	Namespace      string
	Locality       string
	Weight         uint32
}

// Workload is one instance of an application: a Pod, a WorkloadEntry.
type Workload struct {
	Ref
	Instance       string // "billing-v1-1"; unique in its namespace
	App            string // the workload that it is an instance of: "billing-v1"
	Labels         map[string]string
	ServiceAccount string
	Addresses      []netip.Addr
	Ports          map[string]uint32 // named ports
	Sidecar        bool              // a seine-proxy (or another mTLS-speaking sidecar) stands before it
	Gateway        bool
	Unhealthy      bool
	Locality       string
	Weight         uint32
	Node           string // that it runs on; "" if that is not known
	// Unheard: nobody has heard of its node, and so it counts as not ready; when it
	// was last heard of, it was.
	Unheard bool
	// HostNetwork: its addresses are its node's, shared with whatever else runs
	// there, so that they do not name it.
	HostNetwork bool
	// Tracing is what its annotations say of it; nil: nothing.
	Tracing    *ProxyTracing
	Introduced *Introduced // nil: no port of it takes PROXY headers
	// DNS: its sidecar answers what it asks DNS.
	DNS bool
}

// Namespaced is the key of a workload instance: NAMESPACE/INSTANCE.
func (w *Workload) Key() string { return w.Namespace + "/" + w.Instance }

// Backend is one endpoint that a cluster lists for a Service (EndpointSlice).
type Backend struct {
	Address netip.Addr
	// Workload is the Key of the Pod that it is; "" if the list names none.
	Workload string
	Ports    map[string]uint32 // by the names of the Service's ports
	Ready    bool
	// Draining: it ends, but still serves: picked only where nothing is ready.
	Draining bool
	// Zones and Nodes are topology hints: the callers that it is meant for.
	Zones, Nodes []string
	Locality     string
	Node         string // that it runs on; "" if the list does not say
}

// VirtualService is Istio's, with hosts made FQDNs.
type VirtualService struct {
	Ref
	Hosts    []string
	Gateways []string // "mesh" if none were named
	ExportTo []string
	HTTP     []*seinev1.HttpRule // each with its source, and unsupported fields by path
	TCP      []*seinev1.TcpRule
	TLS      []*seinev1.TcpRule // each with tls set, and at least one match
	// Unsupported are paths of fields of the resource as a whole.
	Unsupported []string
}

// GatewayRoute is an HTTPRoute or GRPCRoute of the Gateway API whose parents are
// Services. It is about the calls of every namespace if such a Service is of its
// own (a producer's route), otherwise only about those of its own namespace (a
// consumer's; GEP-1426).
type GatewayRoute struct {
	Ref
	Parents []Parent
	Rules   []*seinev1.HttpRule // as written, each with at least one match
}

// Parent is a Service that a GatewayRoute is attached to.
type Parent struct {
	Host string // FQDN of the Service
	Port uint32 // 0: every port
}

// DestinationRule is Istio's, with its host made an FQDN and each subset's
// policy laid over the host's.
type DestinationRule struct {
	Ref
	Host             string
	ExportTo         []string
	WorkloadSelector map[string]string // of the callers it holds for
	Policy           *seinev1.TrafficPolicy
	PortPolicies     map[uint32]*seinev1.TrafficPolicy // complete, laid over Policy
	Subsets          []Subset
	Unsupported      []Unsupported
}

// Unsupported is a field of a DestinationRule that is not implemented, and the
// calls for which that matters.
type Unsupported struct {
	Path   string
	Subset string // empty: calls to every subset, and to the host as a whole
	Port   uint32 // 0: on every port
}

// Holds reports whether it matters for calls to a subset ("" is the host as a
// whole) on a port.
func (u *Unsupported) Holds(subset string, port uint32) bool {
	return (u.Subset == "" || u.Subset == subset) && (u.Port == 0 || u.Port == port)
}

// Subset is a named part of a host's endpoints.
type Subset struct {
	Name         string
	Labels       map[string]string
	Policy       *seinev1.TrafficPolicy
	PortPolicies map[uint32]*seinev1.TrafficPolicy
}

// PeerAuthentication says what inbound connections must be. It stands for
// Istio's PeerAuthentication and for the legacy Policy and MeshPolicy.
type PeerAuthentication struct {
	Ref
	Selector map[string]string // empty: the whole namespace, or the mesh in the root namespace
	Mode     seinev1.MtlsMode  // MTLS_UNSPECIFIED inherits
	Ports    map[uint32]seinev1.MtlsMode
	// MeshWide is set for MeshPolicy, which has no namespace.
	MeshWide bool
	// Services are the targets of a legacy Policy, by FQDN, each with the
	// ports it names (none: all). A workload is meant if such a service selects it.
	Services map[string][]uint32
}

// Sidecar is Istio's: whether the workloads that it is about may call what is
// not named.
type Sidecar struct {
	Ref
	Selector     map[string]string // empty: the whole namespace, or the mesh in the root namespace
	Egress       []Egress          // what they are meant to call; none: everything that they see
	RegistryOnly *bool             // outboundTrafficPolicy; nil: as the mesh's settings say
	Ingress      []Ingress
}

// Ingress says how what comes to one of the workload's ports is read, and where
// the application takes it.
type Ingress struct {
	Port     uint32
	Protocol seinev1.Protocol
	Endpoint netip.AddrPort // zero: at the port itself; an unspecified address: at the one that was dialled
}

// Egress names services: by namespace and host, of which either may be "*", on a
// port or (0) on all. A host may begin with "*.".
type Egress struct {
	Port            uint32
	Namespace, Host string
}

// RateLimit is what the sidecars of the workloads that it selects hold their
// callers to.
type RateLimit struct {
	Ref
	Selector map[string]string // empty: the whole namespace, or the mesh in the root namespace
	Limits   []*seinev1.RateLimit
}

// Authorization is Istio's AuthorizationPolicy.
type Authorization struct {
	Ref
	Selector map[string]string // empty: the whole namespace, or the mesh in the root namespace
	Policy   *seinev1.AuthorizationPolicy
}

// CredentialsDir is where a sidecar has the Secrets that its pod lets it have, a
// folder for each. The control plane never reads or carries one: Kubernetes puts
// them there, and it alone decides who gets them.
const CredentialsDir = "/etc/seine/credentials"

// Parts are what a Snapshot is made of.
type Parts struct {
	Settings         Settings
	Services         []*Service
	Workloads        []*Workload
	VirtualServices  []*VirtualService
	GatewayRoutes    []*GatewayRoute
	DestinationRules []*DestinationRule
	PeerAuth         []*PeerAuthentication
	RateLimits       []*RateLimit
	Authorizations   []*Authorization
	Sidecars         []*Sidecar
	Telemetries      []*Telemetry
	Tracing          *Tracing // of MeshConfig; nil: it says nothing
	// Backends are what a cluster lists for its Services, by NAMESPACE/NAME. nil:
	// there are no such lists, and a Service's pods are those that it selects.
	Backends map[string][]Backend
	Locality *seinev1.Locality // for hosts whose DestinationRule has none (MeshConfig); nil: Istio's default, enabled
	// Upstream is what holds of a TrafficPolicy where the DestinationRule says
	// nothing (MeshConfig connectTimeout, tcpKeepalive, h2UpgradePolicy); nil: nothing.
	Upstream     *seinev1.TrafficPolicy
	DefaultRetry *seinev1.Retry // of HTTP rules that have none (MeshConfig defaultHttpRetryPolicy); nil: Istio's default
}
