package config

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	gateway "sigs.k8s.io/gateway-api/apis/v1"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/decide"
)

// complete adds what filters and backends make of a rule. What cannot be done
// as written is never skipped: the requests get 500 (HTTPRouteFilter).
func (c *gatewayConverter) complete(r *routeRule) *seinev1.HttpRule {
	out := r.rule
	broken := ""
	for i := range r.filters {
		f, at := &r.filters[i], item(r.path+".filters", i)
		if twice := slices.IndexFunc(r.filters[:i], func(g gateway.HTTPRouteFilter) bool { return g.Type == f.Type }); twice >= 0 && !repeatable(f.Type) {
			broken = c.drop(at, "the filter %s must not be there twice", f.Type)
			continue
		}
		if why := c.filter(out, r, f, at); why != "" {
			broken = why
		}
	}
	if r.persistent {
		at := r.path + ".sessionPersistence"
		out.Unsupported = append(out.Unsupported, at)
		c.b.unsupported(c.o, at)
	}
	switch {
	case broken != "":
		out.Redirect, out.Rewrite = nil, nil
		out.Destinations = []*seinev1.Destination{{Status: 500, Weight: 1, Reason: broken}}
	case out.Redirect != nil:
		if len(r.backends) > 0 || out.Rewrite != nil {
			out.Redirect, out.Rewrite = nil, nil
			out.Destinations = []*seinev1.Destination{{Status: 500, Weight: 1, Reason: c.drop(r.path, "a redirect has no place beside backendRefs or urlRewrite")}}
		}
	default:
		out.Destinations = c.backends(r)
	}
	return out
}

// drop records that a rule cannot be done as written, and why.
func (c *gatewayConverter) drop(path, format string, args ...any) string {
	why := fmt.Sprintf(format, args...)
	c.b.note(c.o, codeRouteBackend, Error, path, "%s: the requests of this rule get 500", why)
	c.dropped = append(c.dropped, path+": "+why)
	return path + " of " + c.o.ref.Kind + " " + c.o.ref.Namespace + "/" + c.o.ref.Name + ": " + why
}

func repeatable(t gateway.HTTPRouteFilterType) bool {
	return t == gateway.HTTPRouteFilterRequestMirror || t == gateway.HTTPRouteFilterExtensionRef
}

// filter adds one filter to the rule; it returns why it cannot.
func (c *gatewayConverter) filter(out *seinev1.HttpRule, r *routeRule, f *gateway.HTTPRouteFilter, path string) string {
	switch {
	case f.Type == gateway.HTTPRouteFilterRequestHeaderModifier && f.RequestHeaderModifier != nil:
		ops, why := c.modifier(f.RequestHeaderModifier, path+".requestHeaderModifier")
		out.RequestHeaders = ops
		return why
	case f.Type == gateway.HTTPRouteFilterResponseHeaderModifier && f.ResponseHeaderModifier != nil:
		ops, why := c.modifier(f.ResponseHeaderModifier, path+".responseHeaderModifier")
		out.ResponseHeaders = ops
		return why
	case f.Type == gateway.HTTPRouteFilterRequestRedirect && f.RequestRedirect != nil:
		return c.requestRedirect(out, r, f.RequestRedirect, path+".requestRedirect")
	case f.Type == gateway.HTTPRouteFilterURLRewrite && f.URLRewrite != nil:
		return c.urlRewrite(out, r, f.URLRewrite, path+".urlRewrite")
	case f.Type == gateway.HTTPRouteFilterRequestMirror && f.RequestMirror != nil:
		return c.requestMirror(out, f.RequestMirror, path+".requestMirror")
	case f.Type == gateway.HTTPRouteFilterCORS && f.CORS != nil:
		out.Cors = corsFilter(f.CORS)
		return ""
	case f.Type == gateway.HTTPRouteFilterExtensionRef && f.ExtensionRef != nil:
		c.unresolved = append(c.unresolved, condition(RouteResolvedRefs, false, string(gateway.RouteReasonInvalidKind), path+": there are no filters of other kinds in this version"))
	}
	return c.drop(path, "the filter %s is not implemented in this version, or lacks its settings", clip(string(f.Type)))
}

// modifier turns set, add and remove into the wire's.
func (c *gatewayConverter) modifier(f *gateway.HTTPHeaderFilter, path string) (*seinev1.HeaderOps, string) {
	out := &seinev1.HeaderOps{}
	pairs := func(list []gateway.HTTPHeader, path string) (to []*seinev1.Header, why string) {
		for i, h := range list {
			at := item(path, i)
			switch {
			case h.Name == "" || strings.ContainsFunc(string(h.Name), func(r rune) bool { return !token(r) }):
				return nil, c.drop(at, "%q is no name of a header", clip(string(h.Name)))
			case strings.ContainsFunc(h.Value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }):
				return nil, c.drop(at, "a header's value must not hold line breaks or control characters")
			case strings.EqualFold(string(h.Name), "host"):
				return nil, c.drop(at, "the host is changed by the filter URLRewrite")
			case !decide.Editable(string(h.Name)):
				return nil, c.drop(at, "the header %s is the proxy's own", clip(string(h.Name)))
			}
			to = append(to, &seinev1.Header{Name: strings.ToLower(string(h.Name)), Value: h.Value})
		}
		return to, ""
	}
	var why string
	if out.Set, why = pairs(f.Set, path+".set"); why != "" {
		return nil, why
	}
	if out.Add, why = pairs(f.Add, path+".add"); why != "" {
		return nil, why
	}
	for i, n := range f.Remove {
		if !decide.Editable(n) {
			return nil, c.drop(item(path+".remove", i), "the header %s cannot be removed", clip(n))
		}
		out.Remove = append(out.Remove, strings.ToLower(n))
	}
	return out, ""
}

// path reads a path modifier: whole says that to replaces all of it.
func (c *gatewayConverter) path(m *gateway.HTTPPathModifier, r *routeRule, path string) (to string, whole bool, why string) {
	switch {
	case m.Type == gateway.FullPathHTTPPathModifier && m.ReplaceFullPath != nil:
		to, whole = *m.ReplaceFullPath, true
	case m.Type == gateway.PrefixMatchHTTPPathModifier && m.ReplacePrefixMatch != nil:
		if to = *m.ReplacePrefixMatch; !r.prefixed {
			return "", false, c.drop(path, "ReplacePrefixMatch needs matches of the type PathPrefix only")
		}
	default:
		return "", false, c.drop(path, "must be ReplaceFullPath or ReplacePrefixMatch, with its value")
	}
	if strings.ContainsFunc(to, func(c rune) bool { return c <= ' ' || c == 0x7f }) {
		return "", false, c.drop(path, "must not hold spaces, line breaks or control characters")
	}
	if !strings.HasPrefix(to, "/") {
		to = "/" + to
	}
	return to, whole, ""
}

func (c *gatewayConverter) hostname(h *gateway.PreciseHostname, path string) (string, string) {
	if h == nil {
		return "", ""
	}
	if !validHost(string(*h), false) {
		return "", c.drop(path, "%q is not a host", clip(string(*h)))
	}
	return string(*h), ""
}

// requestRedirect has the port of its scheme, if it names one, otherwise the
// one that was dialled; 302 unless it says otherwise.
func (c *gatewayConverter) requestRedirect(out *seinev1.HttpRule, r *routeRule, f *gateway.HTTPRequestRedirectFilter, path string) (why string) {
	to := &seinev1.Redirect{Code: 302, ExactPort: true}
	if to.Authority, why = c.hostname(f.Hostname, path+".hostname"); why != "" {
		return why
	}
	if f.StatusCode != nil {
		if to.Code = uint32(*f.StatusCode); !slices.Contains([]uint32{301, 302, 303, 307, 308}, to.Code) {
			return c.drop(path+".statusCode", "must be 301, 302, 303, 307 or 308 (it is %d)", *f.StatusCode)
		}
	}
	if f.Scheme != nil {
		if to.Scheme = *f.Scheme; to.Scheme != "http" && to.Scheme != "https" {
			return c.drop(path+".scheme", "must be http or https (it is %q)", clip(to.Scheme))
		}
	}
	switch {
	case f.Port != nil && (*f.Port < 1 || *f.Port > 65535):
		return c.drop(path+".port", "a port must be between 1 and 65535 (it is %d)", *f.Port)
	case f.Port != nil:
		to.Port = uint32(*f.Port)
	case f.Scheme == nil:
		to.PortFromRequest = true
	}
	if f.Path != nil {
		with, whole, why := c.path(f.Path, r, path+".path")
		if why != "" {
			return why
		}
		if whole {
			to.Uri = with
		} else {
			to.PrefixRewrite = with
		}
	}
	out.Redirect = to
	return ""
}

func (c *gatewayConverter) urlRewrite(out *seinev1.HttpRule, r *routeRule, f *gateway.HTTPURLRewriteFilter, path string) (why string) {
	to := &seinev1.Rewrite{}
	if to.Authority, why = c.hostname(f.Hostname, path+".hostname"); why != "" {
		return why
	}
	if f.Path != nil {
		if to.Uri, to.WholePath, why = c.path(f.Path, r, path+".path"); why != "" {
			return why
		}
	}
	out.Rewrite = to
	return ""
}

// requestMirror adds a mirror. One whose backend is none is left out, and said
// in the status (HTTPRequestMirrorFilter).
func (c *gatewayConverter) requestMirror(out *seinev1.HttpRule, f *gateway.HTTPRequestMirrorFilter, path string) string {
	if len(out.Mirrors) == maxMirrors {
		return c.drop(path, "more than %d mirrors are not allowed", maxMirrors)
	}
	share := uint64(1_000_000)
	switch {
	case f.Percent != nil && f.Fraction != nil:
		return c.drop(path, "percent and fraction exclude each other")
	case f.Percent != nil && (*f.Percent < 0 || *f.Percent > 100):
		return c.drop(path+".percent", "must be between 0 and 100 (it is %d)", *f.Percent)
	case f.Percent != nil:
		share = uint64(*f.Percent) * 10_000
	case f.Fraction != nil:
		of := int32(100)
		if f.Fraction.Denominator != nil {
			of = *f.Fraction.Denominator
		}
		if n := f.Fraction.Numerator; n < 0 || of < 1 || n > of {
			return c.drop(path+".fraction", "must be between 0 and 1 (it is %d/%d)", n, of)
		}
		share = uint64(f.Fraction.Numerator) * 1_000_000 / uint64(of)
	}
	if f.BackendRef.Port == nil {
		return c.drop(path+".backendRef.port", "a Service needs the port that is meant")
	}
	if d, why := c.backend(&f.BackendRef, path+".backendRef", "nothing is copied there"); why == "" {
		out.Mirrors = append(out.Mirrors, &seinev1.Mirror{Destination: d, PerMillion: uint32(share)})
	}
	return ""
}

// corsFilter turns HTTPCORSFilter into the model's.
func corsFilter(f *gateway.HTTPCORSFilter) *seinev1.Cors {
	out := &seinev1.Cors{
		Methods: joined(f.AllowMethods), Headers: joined(f.AllowHeaders), Expose: joined(f.ExposeHeaders),
		Credentials: f.AllowCredentials != nil && *f.AllowCredentials, MaxAge: durationpb.New(5 * time.Second), // the schema's default
		AnswerUnmatched: true,
	}
	if f.MaxAge > 0 {
		out.MaxAge = durationpb.New(time.Duration(f.MaxAge) * time.Second)
	}
	if out.Credentials && out.Expose == "*" {
		out.Expose = "" // with credentials a browser takes it for the name of a field
	}
	for _, o := range f.AllowOrigins {
		m := &seinev1.StringMatch{Match: &seinev1.StringMatch_Exact{Exact: string(o)}}
		if o != "*" && strings.Contains(string(o), "*") {
			// The star stands for any labels of the host to its left.
			m.Match = &seinev1.StringMatch_Regex{Regex: strings.ReplaceAll(regexp.QuoteMeta(string(o)), `\*`, `[^/:@]+`)}
		}
		out.Origins = append(out.Origins, m)
	}
	return out
}

func joined[S ~string](list []S) string {
	var out []string
	for _, s := range list {
		out = append(out, string(s))
	}
	return strings.Join(out, ",")
}

func backendKind(r *gateway.BackendObjectReference) (group, kind string) {
	kind = "Service"
	if r.Group != nil {
		group = string(*r.Group)
	}
	if r.Kind != nil {
		kind = string(*r.Kind)
	}
	return group, kind
}

// backends are the rule's destinations. One that is none keeps its share of the
// requests, which get 500; so do all where nothing has a weight (HTTPRouteRule).
func (c *gatewayConverter) backends(r *routeRule) []*seinev1.Destination {
	var out []*seinev1.Destination
	total := uint64(0)
	for i := range r.backends {
		ref, at := &r.backends[i], item(r.path+".backendRefs", i)
		d, why := c.backend(&ref.BackendObjectReference, at, "its share of the requests gets 500")
		for j := range ref.Filters {
			f, fat := &ref.Filters[j], item(at+".filters", j)
			switch {
			case why != "":
			case f.Type == gateway.HTTPRouteFilterRequestHeaderModifier && f.RequestHeaderModifier != nil:
				d.RequestHeaders, why = c.modifier(f.RequestHeaderModifier, fat+".requestHeaderModifier")
			case f.Type == gateway.HTTPRouteFilterResponseHeaderModifier && f.ResponseHeaderModifier != nil:
				d.ResponseHeaders, why = c.modifier(f.ResponseHeaderModifier, fat+".responseHeaderModifier")
			default:
				why = c.drop(fat, "the filter %s of a single backend is not implemented in this version", clip(string(f.Type)))
			}
		}
		if why != "" {
			d = &seinev1.Destination{Status: 500, Reason: why}
		}
		d.Weight = 1
		if ref.Weight != nil {
			d.Weight = uint32(*ref.Weight)
		}
		total += uint64(d.Weight)
		out = append(out, d)
	}
	if total == 0 {
		why := r.path + " of " + c.o.ref.Kind + " " + c.o.ref.Namespace + "/" + c.o.ref.Name + " has no backend with a weight"
		c.b.note(c.o, codeRouteBackend, Warning, r.path, "has no backend with a weight: its requests get 500")
		return []*seinev1.Destination{{Status: 500, Weight: 1, Reason: why}}
	}
	return out
}

// backend looks a reference up; why says why there is none, and then is what
// becomes of it. Routes of a mesh may
// name Services of any namespace without a ReferenceGrant: they expose nothing
// that the caller could not reach by itself (GEP-1426).
func (c *gatewayConverter) backend(ref *gateway.BackendObjectReference, path, then string) (d *seinev1.Destination, why string) {
	none := func(reason gateway.RouteConditionReason, format string, args ...any) (*seinev1.Destination, string) {
		why := fmt.Sprintf(format, args...)
		c.unresolved = append(c.unresolved, condition(RouteResolvedRefs, false, string(reason), path+": "+why))
		code := codeNoHost
		if reason == gateway.RouteReasonInvalidKind {
			code = codeRouteBackend
		}
		c.b.note(c.o, code, Error, path, "%s: %s", why, then)
		return nil, path + " of " + c.o.ref.Kind + " " + c.o.ref.Namespace + "/" + c.o.ref.Name + ": " + why
	}
	if group, kind := backendKind(ref); group != "" || kind != "Service" {
		return none(gateway.RouteReasonInvalidKind, "a backend of the kind %s (%s) is not implemented in this version: Services are", clip(kind), clip(group))
	}
	namespace := c.o.ref.Namespace
	if ref.Namespace != nil {
		namespace = string(*ref.Namespace)
	}
	svc := c.services[c.b.fqdn(string(ref.Name), namespace)]
	switch {
	case svc == nil:
		return none(gateway.RouteReasonBackendNotFound, "there is no Service %s/%s%s", namespace, ref.Name, c.nearService(string(ref.Name), namespace))
	case svc.External:
		return none(gateway.RouteReasonInvalidKind, "the Service %s/%s is an ExternalName, which a route may not lead to", namespace, ref.Name)
	}
	for i := range svc.Ports {
		if svc.Ports[i].Number == uint32(*ref.Port) {
			return &seinev1.Destination{Host: svc.Host, Port: uint32(*ref.Port)}, ""
		}
	}
	return none(gateway.RouteReasonBackendNotFound, "the Service %s/%s has no port %d", namespace, ref.Name, *ref.Port)
}

// references are the conditions that hold towards every parent.
func (c *gatewayConverter) references() []Condition {
	out := []Condition{condition(RouteResolvedRefs, true, string(gateway.RouteReasonResolvedRefs), "")}
	if len(c.unresolved) > 0 {
		out[0] = c.unresolved[0]
		if n := len(c.unresolved) - 1; n > 0 {
			out[0].Message += fmt.Sprintf(" (and %d more)", n)
		}
	}
	if len(c.dropped) > 0 {
		out = append(out, condition(RoutePartiallyInvalid, true, string(gateway.RouteReasonUnsupportedValue), "Dropped Rule: "+strings.Join(c.dropped, "; ")))
	}
	return out
}
