package config

import (
	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/seinemesh/seine/mesh"
)

// RouteController is the name by which Seine signs the status of Gateway API
// routes.
const RouteController = "seine.dev/mesh-controller"

// The types of a route's conditions.
const (
	RouteAccepted         = string(gateway.RouteConditionAccepted)
	RouteResolvedRefs     = string(gateway.RouteConditionResolvedRefs)
	RoutePartiallyInvalid = string(gateway.RouteConditionPartiallyInvalid)
)

// RouteStatus is how an HTTPRoute or a GRPCRoute fares that has Services as
// parents: what its status.parents should say under RouteController.
type RouteStatus struct {
	mesh.Ref
	Version    string // of the API that it was read in
	Generation int64  // metadata.generation; 0 for files
	Parents    []RouteParent
}

// RouteParent is the status towards one parent.
type RouteParent struct {
	Parent     gateway.ParentReference // as written
	Conditions []Condition
}

// Condition is one condition of a status, without its times.
type Condition struct {
	Type    string
	Status  bool
	Reason  string
	Message string
}

func condition(kind string, status bool, reason, message string) Condition {
	return Condition{Type: kind, Status: status, Reason: reason, Message: message}
}
