package config

import (
	"fmt"
	"slices"

	gateway "sigs.k8s.io/gateway-api/apis/v1"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/mesh"
)

const gatewayGroup = "gateway.networking.k8s.io"

// gatewayRoute is an HTTPRoute or a GRPCRoute whose schema is sound, before its
// parents and backends are looked up.
type gatewayRoute struct {
	o       *object
	parents []gateway.ParentReference
	rules   []routeRule
	refused bool
}

// routeRule is what HTTPRouteRule and GRPCRouteRule have in common.
type routeRule struct {
	rule       *seinev1.HttpRule // but for what filters and backends add
	path       string            // spec.rules[0]
	prefixed   bool              // every match is a path's prefix
	filters    []gateway.HTTPRouteFilter
	backends   []gateway.HTTPBackendRef
	persistent bool
}

func (b *builder) httpRoute(o *object) {
	var spec gateway.HTTPRouteSpec
	ok := b.goSpec(o, &spec)
	c := &gatewayConverter{routeConverter: &routeConverter{b: b, o: o, d: &decoder{b: b, obj: o}}}
	r := &gatewayRoute{o: o, parents: spec.ParentRefs}
	if ok {
		if len(spec.Rules) == 0 { // the schema's default
			spec.Rules = []gateway.HTTPRouteRule{{}}
		}
		for i := range spec.Rules {
			r.rules = append(r.rules, c.httpRule(&spec.Rules[i], i, item("spec.rules", i)))
		}
		c.hostnames(r, len(spec.Hostnames))
	}
	c.keep(r, ok)
}

func (b *builder) grpcRoute(o *object) {
	var spec gateway.GRPCRouteSpec
	ok := b.goSpec(o, &spec)
	c := &gatewayConverter{routeConverter: &routeConverter{b: b, o: o, d: &decoder{b: b, obj: o}}}
	r := &gatewayRoute{o: o, parents: spec.ParentRefs}
	if ok {
		if len(spec.Rules) == 0 {
			spec.Rules = []gateway.GRPCRouteRule{{}}
		}
		for i := range spec.Rules {
			r.rules = append(r.rules, c.grpcRule(&spec.Rules[i], i, item("spec.rules", i)))
		}
		c.hostnames(r, len(spec.Hostnames))
	}
	c.keep(r, ok)
}

// keep holds the route for when all Services are known. One that is refused is
// kept for its status.
func (c *gatewayConverter) keep(r *gatewayRoute, ok bool) {
	for i, p := range r.parents {
		at := item("spec.parentRefs", i)
		if p.Name == "" {
			c.d.fail(codeInvalid, at+".name", nil, "a parentRef must name its parent")
		}
		if p.Port != nil && (*p.Port < 1 || *p.Port > 65535) {
			c.d.fail(codeInvalid, at+".port", nil, "a port must be between 1 and 65535 (it is %d)", *p.Port)
		}
	}
	r.refused = !ok || c.d.bad || c.o.bad
	c.b.gatewayRoutes = append(c.b.gatewayRoutes, r)
}

// hostnames says that a mesh does not look at them (GEP-1426).
func (c *gatewayConverter) hostnames(r *gatewayRoute, n int) {
	for i := range r.parents {
		if n > 0 && isService(&r.parents[i]) {
			c.b.note(c.o, codeRouteNoEffect, Warning, "spec.hostnames", "has no effect where a Service is the parent: what is dialled decides; match the header host to choose by it")
			return
		}
	}
}

func parentKind(p *gateway.ParentReference) (group, kind string) {
	group, kind = gatewayGroup, "Gateway"
	if p.Group != nil {
		group = string(*p.Group)
	}
	if p.Kind != nil {
		kind = string(*p.Kind)
	}
	return group, kind
}

func isService(p *gateway.ParentReference) bool {
	group, kind := parentKind(p)
	return group == "" && kind == "Service"
}

// attachRoutes looks up the parents and backends of the Gateway API routes, once
// all Services are known, and says how each route fares.
func (b *builder) attachRoutes() {
	if len(b.gatewayRoutes) == 0 {
		return
	}
	services := map[string]*mesh.Service{}
	for _, s := range b.parts.Services {
		if s.Kind == "Service" {
			services[s.Host] = s
		}
	}
	type result struct {
		r       *gatewayRoute
		route   *mesh.GatewayRoute
		status  RouteStatus
		parents []mesh.Parent // of each of status.Parents; no host: not accepted
	}
	var results []*result
	for _, r := range b.gatewayRoutes {
		c := &gatewayConverter{routeConverter: &routeConverter{b: b, o: r.o, d: &decoder{b: b, obj: r.o}}, services: services}
		x := &result{r: r, route: &mesh.GatewayRoute{Ref: r.o.ref}}
		x.status = RouteStatus{Ref: r.o.ref, Version: r.o.version, Generation: r.o.generation}
		for i := range r.parents {
			c.elsewhere(&r.parents[i], item("spec.parentRefs", i))
		}
		if !r.refused && slices.ContainsFunc(r.parents, func(p gateway.ParentReference) bool { return isService(&p) }) {
			for i := range r.rules {
				x.route.Rules = append(x.route.Rules, c.complete(&r.rules[i]))
			}
		}
		refs := c.references()
		for i := range r.parents {
			p := &r.parents[i]
			if !isService(p) {
				continue
			}
			parent, accepted := c.parent(p, item("spec.parentRefs", i))
			if r.refused {
				parent, accepted = mesh.Parent{}, condition(RouteAccepted, false, string(gateway.RouteReasonUnsupportedValue), "the route is invalid: "+b.firstRefusal(r.o))
			}
			x.parents = append(x.parents, parent)
			x.status.Parents = append(x.status.Parents, RouteParent{Parent: *p, Conditions: append([]Condition{accepted}, refs...)})
		}
		if len(x.status.Parents) > 0 {
			results = append(results, x)
		}
	}
	for _, x := range results {
		for i, p := range x.parents {
			if p.Host == "" {
				continue
			}
			rival := slices.IndexFunc(results, func(y *result) bool {
				return x.r.o.ref.Kind == "HTTPRoute" && y.r.o.ref.Kind == "GRPCRoute" && y.route.Namespace == x.route.Namespace &&
					slices.ContainsFunc(y.parents, func(q mesh.Parent) bool { return q.Host == p.Host && (q.Port == 0 || q.Port == p.Port) })
			})
			if rival >= 0 {
				message := fmt.Sprintf("%s is attached to the same ports of %s: of several kinds GRPCRoute is the one that counts", name(results[rival].route.Ref), p.Host)
				x.status.Parents[i].Conditions[0] = condition(RouteAccepted, false, "Conflicted", message)
				b.note(x.r.o, codeRouteConflict, Warning, "spec.parentRefs", "%s", message)
				continue
			}
			x.route.Parents = append(x.route.Parents, p)
		}
		b.result.Routes = append(b.result.Routes, x.status)
		if len(x.route.Parents) > 0 {
			b.parts.GatewayRoutes = append(b.parts.GatewayRoutes, x.route)
		}
	}
}

// elsewhere speaks of parents that are no Services.
func (c *gatewayConverter) elsewhere(p *gateway.ParentReference, path string) {
	group, kind := parentKind(p)
	switch {
	case isService(p):
	case kind == "Service" && p.Group == nil:
		c.b.note(c.o, codeRouteParent, Error, path+".group", `a Service is of the core group, which must be written here: group: ""`)
	default:
		c.b.note(c.o, codeUnsupported, Warning, path, "a parent of the kind %s (%s) is not implemented in this version: Services are", clip(kind), clip(group))
	}
}

// parent finds the Service that p names; without host if the route cannot be
// attached to it.
func (c *gatewayConverter) parent(p *gateway.ParentReference, path string) (mesh.Parent, Condition) {
	refuse := func(reason gateway.RouteConditionReason, format string, args ...any) (mesh.Parent, Condition) {
		message := fmt.Sprintf(format, args...)
		c.b.note(c.o, codeRouteParent, Error, path, "%s: the route has no effect on it", message)
		return mesh.Parent{}, condition(RouteAccepted, false, string(reason), message)
	}
	namespace := c.o.ref.Namespace
	if p.Namespace != nil {
		namespace = string(*p.Namespace)
	}
	svc := c.services[c.b.fqdn(string(p.Name), namespace)]
	switch {
	case svc == nil:
		return refuse(gateway.RouteReasonNoMatchingParent, "there is no Service %s/%s%s", namespace, p.Name, c.nearService(string(p.Name), namespace))
	case svc.External:
		return refuse(gateway.RouteReasonUnsupportedValue, "the Service %s/%s is an ExternalName, which has no address that could be dialled", namespace, p.Name)
	case svc.Headless:
		return refuse(gateway.RouteReasonUnsupportedValue, "the Service %s/%s is headless: it has no address of its own that could be dialled", namespace, p.Name)
	}
	out := mesh.Parent{Host: svc.Host}
	read := false
	for i := range svc.Ports {
		port := &svc.Ports[i]
		if p.Port != nil && uint32(*p.Port) != port.Number || p.SectionName != nil && string(*p.SectionName) != port.Name {
			continue
		}
		if p.Port != nil || p.SectionName != nil {
			out.Port = port.Number
		}
		switch port.Protocol {
		case seinev1.Protocol_PROTOCOL_TCP, seinev1.Protocol_PROTOCOL_TLS:
		default:
			read = true
		}
	}
	switch {
	case (p.Port != nil || p.SectionName != nil) && out.Port == 0:
		return refuse(gateway.RouteReasonNoMatchingParent, "the Service %s/%s has no such port", namespace, p.Name)
	case !read:
		return refuse(gateway.RouteReasonUnsupportedValue, "the Service %s/%s does not speak HTTP there: set the port's appProtocol or name", namespace, p.Name)
	}
	return out, condition(RouteAccepted, true, string(gateway.RouteReasonAccepted), "")
}

// nearService hints at a Service of a similar name.
func (c *gatewayConverter) nearService(name, namespace string) string {
	var names []string
	for _, s := range c.services {
		if s.Namespace == namespace {
			names = append(names, s.Name)
		}
	}
	slices.Sort(names)
	return didYouMean(name, names)
}

// firstRefusal is what keeps o out of the Snapshot.
func (b *builder) firstRefusal(o *object) string {
	for i := range b.result.Findings {
		f := &b.result.Findings[i]
		if f.Refused && f.Kind == o.ref.Kind && f.Namespace == o.ref.Namespace && f.Name == o.ref.Name {
			if f.Path != "" {
				return f.Path + ": " + f.Message
			}
			return f.Message
		}
	}
	return "see the findings of seine analyze"
}
