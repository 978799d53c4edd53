// Package telemetry is the vocabulary that metrics, access logs, spans and
// explanations share: response flags, reporters, security policy values, label
// names and what the labels of one request or connection are made of.
//
// What enters: values that a proxy knows. What leaves: names and strings. It
// never reads a clock, opens a socket or holds state, and it imports nothing of
// ours but the wire types.
package telemetry

import (
	"strconv"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

// Unknown is the value of a label whose truth the reporter does not know.
const Unknown = "unknown"

// Reporter says which side of an edge measured.
type Reporter uint8

// The two sides: the client's sidecar and the server's.
const (
	Source Reporter = iota
	Destination
)

// String returns the value of the label reporter.
func (r Reporter) String() string {
	if r == Destination {
		return "destination"
	}
	return "source"
}

// Security is what the reporter knows of the connection's protection. As in
// Istio, a client reports SecurityUnknown whatever it did: the server decides.
type Security uint8

// Values of the label connection_security_policy.
const (
	SecurityUnknown Security = iota
	SecurityNone
	SecurityMutualTLS
)

// String returns the value of the label connection_security_policy.
func (s Security) String() string {
	switch s {
	case SecurityNone:
		return "none"
	case SecurityMutualTLS:
		return "mutual_tls"
	default:
		return Unknown
	}
}

// Values of the label request_protocol.
const (
	ProtocolHTTP = "http"
	ProtocolGRPC = "grpc"
	ProtocolTCP  = "tcp"
)

// RequestLabels are all labels of a request or connection but its outcome.
// The same struct serves HTTP and TCP.
type RequestLabels struct {
	Reporter Reporter
	// Source and Destination are the two workloads; nil is "unknown".
	Source, Destination *seinev1.Workload
	// Service is the FQDN called, ServiceName and ServiceNamespace its parts.
	// Empty is "unknown".
	Service, ServiceName, ServiceNamespace string
	// Protocol is one of ProtocolHTTP, ProtocolGRPC and ProtocolTCP.
	Protocol string
	Security Security
	// Plaintext says that the reporter knows the connection not to be mutual
	// TLS: both principals are then unknown, whatever the workloads' identities.
	Plaintext bool
}

// RuleID names a rule of HTTP routes: KIND NAMESPACE/NAME[INDEX], of the resource
// that a VirtualService delegates to where it does; a service without routes is
// KIND NAMESPACE/NAME.
func RuleID(r *seinev1.HttpRule) string {
	if r.GetDelegate() != nil {
		return ResourceID(r.Delegate, r.DelegateIndex)
	}
	return ResourceID(r.GetSource(), r.GetIndex())
}

// ResourceID is RuleID of the index-th rule of a resource.
func ResourceID(r *seinev1.Ref, index int32) string {
	name := r.GetKind() + " " + r.GetName()
	if r.GetNamespace() != "" {
		name = r.GetKind() + " " + r.GetNamespace() + "/" + r.GetName()
	}
	if r.GetKind() == "Service" || r.GetKind() == "ServiceEntry" {
		return name // no rule: as it comes
	}
	return name + "[" + strconv.Itoa(int(index)) + "]"
}
