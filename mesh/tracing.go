package mesh

import (
	"google.golang.org/protobuf/types/known/durationpb"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

// Tracing is what holds of tracing for the mesh as a whole (Istio's MeshConfig).
type Tracing struct {
	Providers map[string]*TracingProvider // extensionProviders, by name
	Default   string                      // defaultProviders.tracing's first; "": none
	// Legacy is defaultConfig.tracing's own collector: used where enableTracing is
	// set and nothing names a provider. nil: there is none.
	Legacy *TracingProvider
	ProxyTracing
}

// TracingProvider is a collector, and how traces that begin are told to others.
type TracingProvider struct {
	Collector    *seinev1.Collector
	W3C, B3      bool
	ShortIDs     bool
	MaxTagLength uint32 // 0: nobody says
}

// ProxyTracing is the tracing of Istio's ProxyConfig: of the mesh
// (defaultConfig), or of a pod (annotation proxy.istio.io/config).
type ProxyTracing struct {
	Sampling     *float64 // percent; nil: nobody says
	Tags         []*seinev1.TraceTag
	MeshTags     *bool
	MaxTagLength uint32
	Zipkin       *TracingProvider // of a pod: instead of the mesh's Legacy
}

// Telemetry is Istio's, as far as it is about tracing. Without a selector it
// holds for its namespace, or in the root namespace for the mesh.
type Telemetry struct {
	Ref
	Selector map[string]string
	Tracing  []TracingRule
}

// TracingRule is one of a Telemetry's; nil means that it does not say.
type TracingRule struct {
	Client, Server bool // which side it is about
	Provider       string
	Sampling       *float64
	Disabled       *bool
	Tags           []*seinev1.TraceTag // instead of those of wider rules; nil: does not say
	MeshTags       *bool
	DropContext    *bool
	KeepErrors     *bool
	KeepSlower     *durationpb.Duration // zero: nothing is kept for being slow
}
