package plan

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/mesh"
)

const (
	// defaultSampling is Istio's (PILOT_TRACE_SAMPLING), in percent.
	defaultSampling = 1
	// defaultSlow is what counts as slow where nobody says.
	defaultSlow = time.Second
)

// tracing is how the requests are traced that w makes, and those that it
// serves; nil: not at all.
//
// Istio's precedence (Telemetries.Tracing): what MeshConfig says, the Telemetry
// of the root namespace, that of w's namespace, that which selects w; of several
// at one level the first holds; what one does not say, the wider one does. With
// neither a Telemetry nor a default provider it is enableTracing and
// defaultConfig that count.
func tracing(s *mesh.Snapshot, w *mesh.Workload) (client, server *seinev1.Tracing) {
	t := s.Tracing
	if t == nil {
		t = &mesh.Tracing{}
	}
	rules, source := telemetry(s, w)
	legacy := len(rules) == 0 && t.Default == ""
	side := func(concerns func(*mesh.TracingRule) bool) *seinev1.Tracing {
		out := &seinev1.Tracing{Sampling: defaultSampling, MeshTags: true, KeepErrors: true, KeepSlower: durationpb.New(defaultSlow), Source: source}
		own := w.Tracing
		if own == nil {
			own = &mesh.ProxyTracing{}
		}
		for _, p := range [...]*mesh.ProxyTracing{&t.ProxyTracing, own} {
			if p.Sampling != nil {
				out.Sampling = *p.Sampling
			}
			if len(p.Tags) > 0 {
				out.Tags = p.Tags
			}
			if p.MeshTags != nil {
				out.MeshTags = *p.MeshTags
			}
			if p.MaxTagLength != 0 {
				out.MaxTagLength = p.MaxTagLength
			}
		}
		provider := t.Providers[t.Default]
		if legacy {
			if provider = t.Legacy; own.Zipkin != nil && provider != nil {
				provider = own.Zipkin // of the pod, in place of the mesh's
			}
		}
		disabled := false
		for _, r := range rules {
			if !concerns(r) {
				continue
			}
			if r.Provider != "" {
				provider = t.Providers[r.Provider]
			}
			if r.Sampling != nil {
				out.Sampling = *r.Sampling
			}
			if r.Disabled != nil {
				disabled = *r.Disabled
			}
			if len(r.Tags) > 0 {
				out.Tags = r.Tags
			}
			if r.MeshTags != nil {
				out.MeshTags = *r.MeshTags
			}
			if r.DropContext != nil {
				out.DropContext = *r.DropContext
			}
			if r.KeepErrors != nil {
				out.KeepErrors = *r.KeepErrors
			}
			if r.KeepSlower != nil {
				out.KeepSlower = r.KeepSlower
			}
		}
		if provider == nil {
			return nil
		}
		if out.KeepSlower.AsDuration() == 0 {
			out.KeepSlower = nil
		}
		if !disabled { // else what requests say of their traces still goes on
			out.Collector = provider.Collector
		}
		out.W3C, out.B3, out.ShortIds = provider.W3C, provider.B3, provider.ShortIDs
		if provider.MaxTagLength != 0 {
			out.MaxTagLength = provider.MaxTagLength
		}
		return out
	}
	return side(func(r *mesh.TracingRule) bool { return r.Client }), side(func(r *mesh.TracingRule) bool { return r.Server })
}

// telemetry is what the Telemetry resources say of w's tracing, from the widest
// to the narrowest, and the narrowest of them.
func telemetry(s *mesh.Snapshot, w *mesh.Workload) (rules []*mesh.TracingRule, source *seinev1.Ref) {
	var root, namespace, own *mesh.Telemetry
	for _, t := range s.Telemetries {
		switch {
		case len(t.Selector) > 0:
			if own == nil && t.Namespace == w.Namespace && mesh.Selects(t.Selector, w.Labels) {
				own = t
			}
		case t.Namespace == s.Settings.RootNamespace:
			if root == nil {
				root = t
			}
		case t.Namespace == w.Namespace:
			if namespace == nil {
				namespace = t
			}
		}
	}
	for _, t := range [...]*mesh.Telemetry{root, namespace, own} {
		if t == nil || len(t.Tracing) == 0 {
			continue
		}
		source = t.Proto()
		for i := range t.Tracing {
			rules = append(rules, &t.Tracing[i])
		}
	}
	return rules, source
}
