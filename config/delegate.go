package config

import (
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	networking "istio.io/api/networking/v1alpha3"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/mesh"
)

// A VirtualService may leave the rules behind some of its matches to others,
// which have no hosts of their own (Istio's route delegation: resolved once all
// resources are read, one level deep).

// delegate is a VirtualService without hosts.
type delegate struct {
	spec        *networking.VirtualService
	o           *object
	unsupported []string
	bad         bool
}

// root is a VirtualService some of whose rules are another's.
type root struct {
	vs          *mesh.VirtualService
	spec        *networking.VirtualService
	c           *routeConverter
	unsupported []string
}

// delegates reports whether a VirtualService has rules that are another's.
func delegates(spec *networking.VirtualService) bool {
	return slices.ContainsFunc(spec.Http, func(r *networking.HTTPRoute) bool { return r.Delegate != nil })
}

// checkDelegate checks what a delegate may not have.
func (c *routeConverter) checkDelegate(spec *networking.VirtualService) {
	if len(spec.Gateways) > 0 {
		c.d.fail(codeInvalid, "spec.gateways", nil, "a VirtualService without hosts is a delegate, and takes the gateways of those that delegate to it")
	}
	if len(spec.Tcp)+len(spec.Tls) > 0 || len(spec.Http) == 0 {
		c.d.fail(codeInvalid, "spec", nil, "a VirtualService must have at least one host; one without is a delegate, and must have http routes alone")
	}
	for i, r := range spec.Http {
		if r.Delegate != nil {
			c.d.fail(codeInvalid, item("spec.http", i)+".delegate", nil, "a delegate cannot delegate further")
		}
	}
}

// resolveDelegates writes the rules of every root, at the root's place in
// winning order.
func (b *builder) resolveDelegates() {
	for _, r := range b.roots {
		if !slices.Contains(b.parts.VirtualServices, r.vs) {
			continue
		}
		for i, route := range r.spec.Http {
			path := item("spec.http", i)
			if route.Delegate == nil {
				r.vs.HTTP = append(r.vs.HTTP, r.c.rule(route, i, path, r.unsupported))
				continue
			}
			r.vs.HTTP = append(r.vs.HTTP, b.delegated(r, route, i, path)...)
		}
		if r.c.d.bad {
			b.parts.VirtualServices = slices.DeleteFunc(b.parts.VirtualServices, func(vs *mesh.VirtualService) bool { return vs == r.vs })
		}
	}
}

// delegated are the rules that stand for the root's i-th.
func (b *builder) delegated(r *root, route *networking.HTTPRoute, i int, path string) []*seinev1.HttpRule {
	at := path + ".delegate"
	if len(route.Route) > 0 || route.Redirect != nil || route.DirectResponse != nil {
		r.c.d.fail(codeInvalid, path, nil, "delegate excludes route, redirect and directResponse: keep one of them")
		return nil
	}
	namespace := firstOf(route.Delegate.Namespace, r.vs.Namespace)
	d := b.delegates[namespace+"/"+route.Delegate.Name]
	switch {
	case d == nil:
		b.note(r.c.o, codeNoHost, Error, at, "there is no delegate %s/%s: a VirtualService of that name without hosts; requests that match here go on to the next rules", namespace, clip(route.Delegate.Name))
		return nil
	case d.bad:
		return nil // its own findings refuse it
	case !mesh.Visible(d.spec.ExportTo, namespace, r.vs.Namespace):
		b.note(r.c.o, codeNoHost, Error, at, "%s is not exported to namespace %s", name(d.o.ref), r.vs.Namespace)
		return nil
	}
	// Names that the root wrote mean what they mean there.
	over := proto.Clone(route).(*networking.HTTPRoute)
	if over.Mirror != nil {
		over.Mirror.Host = b.fqdn(over.Mirror.Host, r.vs.Namespace)
	}
	for _, m := range over.Mirrors {
		if m.Destination != nil {
			m.Destination.Host = b.fqdn(m.Destination.Host, r.vs.Namespace)
		}
	}
	c := &routeConverter{b: b, o: d.o, d: &decoder{b: b, obj: d.o}}
	var out []*seinev1.HttpRule
	for j, sub := range d.spec.Http {
		there := item("spec.http", j)
		merged := mergeDelegate(over, sub)
		if merged == nil {
			b.note(d.o, codeUnreachable, Warning, there+".match", "is not within what %s delegates at %s: no request gets here", name(r.vs.Ref), path)
			continue
		}
		rule := c.rule(merged, i, there, d.unsupported)
		rule.Delegate, rule.DelegateIndex = rule.Source, int32(j)
		rule.Source = r.c.ref(path)
		rule.Unsupported = append(rule.Unsupported, below(r.unsupported, path)...)
		out = append(out, rule)
	}
	if c.d.bad {
		d.bad = true
		return nil
	}
	return out
}

// mergeDelegate is Istio's mergeHTTPRoute; nil if the two can never both match.
func mergeDelegate(root, leaf *networking.HTTPRoute) *networking.HTTPRoute {
	out := proto.Clone(leaf).(*networking.HTTPRoute)
	var ok bool
	if out.Match, ok = mergeMatches(root.Match, leaf.Match); !ok {
		return nil
	}
	switch {
	case out.Name == "":
		out.Name = root.Name
	case root.Name != "":
		out.Name = root.Name + "-" + out.Name
	}
	if out.Rewrite == nil {
		out.Rewrite = root.Rewrite
	}
	if out.Timeout == nil {
		out.Timeout = root.Timeout
	}
	if out.Retries == nil {
		out.Retries = root.Retries
	}
	if out.Fault == nil {
		out.Fault = root.Fault
	}
	if out.Mirror == nil && len(out.Mirrors) == 0 {
		//lint:ignore SA1019 it is what older resources use
		out.Mirror, out.MirrorPercent, out.MirrorPercentage, out.Mirrors = root.Mirror, root.MirrorPercent, root.MirrorPercentage, root.Mirrors
	}
	if out.CorsPolicy == nil {
		out.CorsPolicy = root.CorsPolicy
	}
	if out.Headers == nil {
		out.Headers = root.Headers
	}
	return out
}

// mergeMatches is Istio's mergeHTTPMatchRequests: each match of the leaf must be
// within one of the root's.
func mergeMatches(root, leaf []*networking.HTTPMatchRequest) ([]*networking.HTTPMatchRequest, bool) {
	if len(root) == 0 {
		return leaf, true
	}
	if len(leaf) == 0 {
		return root, true
	}
	var out []*networking.HTTPMatchRequest
	for _, l := range leaf {
		found := false
		for _, r := range root {
			if contradict(r, l) {
				continue
			}
			found = true
			out = append(out, mergeMatch(r, l))
		}
		if !found {
			return nil, false
		}
	}
	return out, true
}

func mergeMatch(root, leaf *networking.HTTPMatchRequest) *networking.HTTPMatchRequest {
	out := proto.Clone(leaf).(*networking.HTTPMatchRequest)
	switch {
	case out.Name == "":
		out.Name = root.Name
	case root.Name != "":
		out.Name = root.Name + "-" + out.Name
	}
	for _, f := range []struct{ to, from **networking.StringMatch }{
		{&out.Uri, &root.Uri}, {&out.Scheme, &root.Scheme}, {&out.Method, &root.Method}, {&out.Authority, &root.Authority},
	} {
		if *f.to == nil {
			*f.to = *f.from
		}
	}
	out.Headers = mergedMap(root.Headers, leaf.Headers)
	out.WithoutHeaders = mergedMap(root.WithoutHeaders, leaf.WithoutHeaders)
	out.QueryParams = mergedMap(root.QueryParams, leaf.QueryParams)
	out.SourceLabels = mergedMap(root.SourceLabels, leaf.SourceLabels)
	if out.Port == 0 {
		out.Port = root.Port
	}
	out.SourceNamespace = firstOf(out.SourceNamespace, root.SourceNamespace)
	if len(out.Gateways) == 0 {
		out.Gateways = root.Gateways
	}
	return out
}

func mergedMap[V any](root, leaf map[string]V) map[string]V {
	out := maps.Clone(root)
	if out == nil {
		return leaf
	}
	maps.Copy(out, leaf)
	return out
}

// contradict is Istio's hasConflict.
func contradict(root, leaf *networking.HTTPMatchRequest) bool {
	if outside(root.Uri, leaf.Uri) || outside(root.Scheme, leaf.Scheme) || outside(root.Method, leaf.Method) || outside(root.Authority, leaf.Authority) ||
		root.IgnoreUriCase != leaf.IgnoreUriCase || root.Port > 0 && leaf.Port > 0 && root.Port != leaf.Port ||
		root.SourceNamespace != "" && leaf.SourceNamespace != root.SourceNamespace {
		return true
	}
	for _, m := range []struct {
		root, leaf map[string]*networking.StringMatch
	}{
		{root.Headers, leaf.Headers}, {root.WithoutHeaders, leaf.WithoutHeaders}, {root.QueryParams, leaf.QueryParams},
	} {
		for k, l := range m.leaf {
			if outside(m.root[k], l) {
				return true
			}
		}
	}
	for k, l := range leaf.SourceLabels {
		if r, ok := root.SourceLabels[k]; ok && r != l {
			return true
		}
	}
	return len(root.Gateways) > 0 && slices.ContainsFunc(leaf.Gateways, func(g string) bool { return !slices.Contains(root.Gateways, g) })
}

// outside is Istio's stringMatchConflict: whether leaf is not within root.
func outside(root, leaf *networking.StringMatch) bool {
	switch {
	case root == nil || leaf == nil:
		return false
	case root.GetRegex() != "" || leaf.GetRegex() != "":
		return true
	case root.GetExact() != "":
		return leaf.GetPrefix() != "" || leaf.GetExact() != root.GetExact()
	case root.GetPrefix() != "" && leaf.GetPrefix() != "":
		return !strings.HasPrefix(leaf.GetPrefix(), root.GetPrefix())
	case root.GetPrefix() != "" && leaf.GetExact() != "":
		return !strings.HasPrefix(leaf.GetExact(), root.GetPrefix())
	}
	return true
}
