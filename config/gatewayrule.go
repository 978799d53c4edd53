package config

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	gateway "sigs.k8s.io/gateway-api/apis/v1"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/mesh"
)

// gatewayConverter turns the rules of one Gateway API route into the model's.
type gatewayConverter struct {
	*routeConverter
	services map[string]*mesh.Service // by host; while references are looked up

	unresolved []Condition // ResolvedRefs=False, in the order of the route
	dropped    []string    // rules that cannot be done as written
}

func (c *gatewayConverter) httpRule(r *gateway.HTTPRouteRule, i int, path string) routeRule {
	out := routeRule{
		rule: &seinev1.HttpRule{Index: int32(i), Source: c.ref(path)}, path: path, prefixed: true,
		filters: r.Filters, backends: r.BackendRefs, persistent: r.SessionPersistence != nil,
	}
	if r.Name != nil {
		out.rule.Name = string(*r.Name)
	}
	matches := r.Matches
	if len(matches) == 0 {
		matches = []gateway.HTTPRouteMatch{{}}
	}
	for j := range matches {
		m := c.httpMatch(&matches[j], item(path+".matches", j))
		m.Index = int32(j)
		out.prefixed = out.prefixed && m.PathElements
		out.rule.Match = append(out.rule.Match, m)
	}
	c.times(r, out.rule, path)
	c.checkRefs(&out)
	return out
}

func (c *gatewayConverter) grpcRule(r *gateway.GRPCRouteRule, i int, path string) routeRule {
	out := routeRule{
		rule: &seinev1.HttpRule{Index: int32(i), Source: c.ref(path)}, path: path,
		filters: grpcFilters(r.Filters), persistent: r.SessionPersistence != nil,
	}
	if r.Name != nil {
		out.rule.Name = string(*r.Name)
	}
	matches := r.Matches
	if len(matches) == 0 {
		matches = []gateway.GRPCRouteMatch{{}}
	}
	for j := range matches {
		m := c.grpcMatch(&matches[j], item(path+".matches", j))
		m.Index = int32(j)
		out.rule.Match = append(out.rule.Match, m)
	}
	for _, b := range r.BackendRefs {
		out.backends = append(out.backends, gateway.HTTPBackendRef{BackendRef: b.BackendRef, Filters: grpcFilters(b.Filters)})
	}
	c.checkRefs(&out)
	return out
}

func grpcFilters(list []gateway.GRPCRouteFilter) []gateway.HTTPRouteFilter {
	var out []gateway.HTTPRouteFilter
	for _, f := range list {
		out = append(out, gateway.HTTPRouteFilter{
			Type: gateway.HTTPRouteFilterType(f.Type), RequestHeaderModifier: f.RequestHeaderModifier,
			ResponseHeaderModifier: f.ResponseHeaderModifier, RequestMirror: f.RequestMirror, ExtensionRef: f.ExtensionRef,
		})
	}
	return out
}

// checkRefs holds backendRefs to the schema.
func (c *gatewayConverter) checkRefs(r *routeRule) {
	for i := range r.backends {
		ref, at := &r.backends[i], item(r.path+".backendRefs", i)
		if ref.Name == "" {
			c.d.fail(codeInvalid, at+".name", nil, "a backendRef must name its backend")
		}
		if group, kind := backendKind(&ref.BackendObjectReference); group == "" && kind == "Service" && ref.Port == nil {
			c.d.fail(codeInvalid, at+".port", nil, "a Service needs the port that is meant")
		}
		if ref.Port != nil && (*ref.Port < 1 || *ref.Port > 65535) {
			c.d.fail(codeInvalid, at+".port", nil, "a port must be between 1 and 65535 (it is %d)", *ref.Port)
		}
		if ref.Weight != nil && (*ref.Weight < 0 || *ref.Weight > 1_000_000) {
			c.d.fail(codeWeights, at+".weight", nil, "a weight must be between 0 and 1000000 (it is %d)", *ref.Weight)
		}
	}
}

func (c *gatewayConverter) httpMatch(m *gateway.HTTPRouteMatch, path string) *seinev1.HttpMatch {
	out := &seinev1.HttpMatch{}
	kind, value := gateway.PathMatchPathPrefix, "/"
	if m.Path != nil {
		if m.Path.Type != nil {
			kind = *m.Path.Type
		}
		if m.Path.Value != nil {
			value = *m.Path.Value
		}
	}
	at := path + ".path.value"
	switch kind {
	case gateway.PathMatchExact:
		c.absolute(value, at)
		out.Uri = &seinev1.StringMatch{Match: &seinev1.StringMatch_Exact{Exact: value}}
	case gateway.PathMatchPathPrefix:
		c.absolute(value, at)
		out.Uri, out.PathElements = &seinev1.StringMatch{Match: &seinev1.StringMatch_Prefix{Prefix: value}}, true
	case gateway.PathMatchRegularExpression:
		c.regex(value, at)
		out.Uri = &seinev1.StringMatch{Match: &seinev1.StringMatch_Regex{Regex: value}}
	default:
		c.d.fail(codeType, path+".path.type", nil, "must be Exact, PathPrefix or RegularExpression, not %q", clip(string(kind)))
	}
	if m.Method != nil {
		if *m.Method == "" || strings.ContainsFunc(string(*m.Method), func(r rune) bool { return r < 'A' || r > 'Z' }) {
			c.d.fail(codeInvalid, path+".method", nil, "%q is no method: write GET, POST or another in capitals", clip(string(*m.Method)))
		}
		out.Method = &seinev1.StringMatch{Match: &seinev1.StringMatch_Exact{Exact: string(*m.Method)}}
	}
	for i, h := range m.Headers {
		kind := gateway.HeaderMatchExact
		if h.Type != nil {
			kind = *h.Type
		}
		c.headerMatch(out, string(h.Name), string(kind), h.Value, item(path+".headers", i))
	}
	seen := map[string]bool{}
	for i, q := range m.QueryParams {
		at := item(path+".queryParams", i)
		if seen[string(q.Name)] {
			c.b.note(c.o, codeRouteNoEffect, Warning, at, "has no effect: the query parameter %s is matched already", clip(string(q.Name)))
			continue
		}
		seen[string(q.Name)] = true
		kind := gateway.QueryParamMatchExact
		if q.Type != nil {
			kind = *q.Type
		}
		out.Query = append(out.Query, &seinev1.QueryMatch{Name: string(q.Name), Value: c.valueMatch(string(kind), q.Value, at)})
	}
	return out
}

// headerMatch adds the match of a header; a second one of the same name is
// ignored (HTTPHeaderMatch).
func (c *gatewayConverter) headerMatch(out *seinev1.HttpMatch, name, kind, value, path string) {
	lower := strings.ToLower(name)
	if !c.headerName(name, path+".name") {
		return
	}
	for _, h := range out.Headers {
		if h.Name == lower {
			c.b.note(c.o, codeRouteNoEffect, Warning, path, "has no effect: the header %s is matched already", clip(name))
			return
		}
	}
	out.Headers = append(out.Headers, &seinev1.HeaderMatch{Name: lower, Value: c.valueMatch(kind, value, path)})
}

func (c *gatewayConverter) valueMatch(kind, value, path string) *seinev1.StringMatch {
	switch kind {
	case "Exact":
		return &seinev1.StringMatch{Match: &seinev1.StringMatch_Exact{Exact: value}}
	case "RegularExpression":
		c.regex(value, path+".value")
		return &seinev1.StringMatch{Match: &seinev1.StringMatch_Regex{Regex: value}}
	}
	c.d.fail(codeType, path+".type", nil, "must be Exact or RegularExpression, not %q", clip(kind))
	return nil
}

func (c *gatewayConverter) absolute(value, path string) {
	if !strings.HasPrefix(value, "/") {
		c.d.fail(codeInvalid, path, nil, "a path must begin with / (it is %q)", clip(value))
	}
	c.plain(value, path)
}

// grpcName is a service's or a method's name as the schema has it.
var grpcName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.]*$`)

// grpcMatch turns a method into the path that gRPC gives it:
// /PACKAGE.SERVICE/METHOD.
func (c *gatewayConverter) grpcMatch(m *gateway.GRPCRouteMatch, path string) *seinev1.HttpMatch {
	out := &seinev1.HttpMatch{Uri: &seinev1.StringMatch{Match: &seinev1.StringMatch_Prefix{Prefix: "/"}}, PathElements: true}
	if m.Method != nil {
		c.grpcMethod(out, m.Method, path+".method")
	}
	for i, h := range m.Headers {
		kind := gateway.GRPCHeaderMatchExact
		if h.Type != nil {
			kind = *h.Type
		}
		c.headerMatch(out, string(h.Name), string(kind), h.Value, item(path+".headers", i))
	}
	return out
}

func (c *gatewayConverter) grpcMethod(out *seinev1.HttpMatch, m *gateway.GRPCMethodMatch, path string) {
	text := func(s *string) string {
		if s == nil {
			return ""
		}
		return *s
	}
	service, method := text(m.Service), text(m.Method)
	if service == "" && method == "" {
		c.d.fail(codeInvalid, path, nil, "must say a service, a method or both")
		return
	}
	regex := m.Type != nil && *m.Type == gateway.GRPCMethodMatchRegularExpression
	if m.Type != nil && !regex && *m.Type != gateway.GRPCMethodMatchExact {
		c.d.fail(codeType, path+".type", nil, "must be Exact or RegularExpression, not %q", clip(string(*m.Type)))
		return
	}
	for _, part := range []struct{ value, at string }{{service, path + ".service"}, {method, path + ".method"}} {
		if part.value == "" {
			continue
		}
		if regex {
			c.regex(part.value, part.at)
		} else if !grpcName.MatchString(part.value) {
			c.d.fail(codeInvalid, part.at, nil, "%q is no name: write it as in the .proto file, such as helloworld.Greeter", clip(part.value))
		}
	}
	switch {
	case !regex && method == "":
		out.Uri.Match = &seinev1.StringMatch_Prefix{Prefix: "/" + service + "/"}
		return
	case !regex && service != "":
		out.Uri.Match = &seinev1.StringMatch_Exact{Exact: "/" + service + "/" + method}
	default:
		part := func(s string) string {
			switch {
			case s == "":
				return "[^/]+"
			case !regex:
				return regexp.QuoteMeta(s)
			}
			return "(?:" + s + ")"
		}
		out.Uri.Match = &seinev1.StringMatch_Regex{Regex: "/" + part(service) + "/" + part(method)}
	}
	out.PathElements = false
}

// gatewayDuration is the API's form of a duration (GEP-2257).
var gatewayDuration = regexp.MustCompile(`^([0-9]{1,5}(h|m|s|ms)){1,4}$`)

func (c *gatewayConverter) duration(d *gateway.Duration, path string) *durationpb.Duration {
	if d == nil {
		return nil
	}
	v, err := time.ParseDuration(string(*d))
	if err != nil || !gatewayDuration.MatchString(string(*d)) {
		c.d.fail(codeDuration, path, nil, "%q is not a duration: write whole numbers with their units, such as 500ms, 10s or 1h30m", clip(string(*d)))
		return nil
	}
	return durationpb.New(v)
}

// times reads timeouts and retries. backendRequest bounds each try; where none
// is configured it bounds the request, as in Istio.
func (c *gatewayConverter) times(r *gateway.HTTPRouteRule, out *seinev1.HttpRule, path string) {
	var request, backend *durationpb.Duration
	if t := r.Timeouts; t != nil {
		request, backend = c.duration(t.Request, path+".timeouts.request"), c.duration(t.BackendRequest, path+".timeouts.backendRequest")
		if all, one := request.AsDuration(), backend.AsDuration(); all > 0 && one > all {
			c.d.fail(codeDuration, path+".timeouts.backendRequest", nil, "must not be longer than request (%v is longer than %v)", one, all)
		}
	}
	if request.AsDuration() == 0 {
		request = nil
	}
	if backend.AsDuration() == 0 {
		backend = nil
	}
	if r.Retry != nil {
		out.Retry = c.routeRetry(r.Retry, path+".retry")
		out.Retry.PerTryTimeout = backend
	} else if backend != nil {
		request = backend
	}
	out.Timeout = request
}

// routeRetry follows GEP-1731: the codes that are named, and connections that
// fail.
func (c *gatewayConverter) routeRetry(r *gateway.HTTPRouteRetry, path string) *seinev1.Retry {
	out := &seinev1.Retry{Attempts: 2, On: []string{"connect-failure", "refused-stream", "reset"}, Backoff: c.duration(r.Backoff, path+".backoff")}
	if out.Backoff.AsDuration() == 0 {
		out.Backoff = nil
	}
	if r.Attempts != nil {
		if *r.Attempts < 1 {
			c.d.fail(codeInvalid, path+".attempts", nil, "must be at least 1 (it is %d)", *r.Attempts)
		}
		out.Attempts = uint32(max(*r.Attempts, 0))
	}
	for i, code := range r.Codes {
		if code < 400 || code > 599 {
			c.d.fail(codeInvalid, item(path+".codes", i), nil, "must be between 400 and 599 (it is %d)", code)
			continue
		}
		out.On = append(out.On, fmt.Sprint(int(code)))
	}
	return out
}
