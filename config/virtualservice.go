package config

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/mesh"
)

// virtualServiceFields are those that the data plane implements. Everything
// else that Istio's schema has is recorded as unsupported.
var virtualServiceFields = fields("hosts", "gateways", "exportTo",
	"http.name", "http.match.name", "http.match.uri.**", "http.match.scheme.**", "http.match.method.**", "http.match.authority.**",
	"http.match.headers.**", "http.match.port", "http.match.sourceLabels.**", "http.match.gateways", "http.match.queryParams.**",
	"http.match.ignoreUriCase", "http.match.withoutHeaders.**", "http.match.sourceNamespace",
	"http.route.destination.host", "http.route.destination.subset", "http.route.destination.port.number", "http.route.weight", "http.route.headers.**",
	"http.redirect.**", "http.directResponse.**", "http.rewrite.**", "http.timeout", "http.headers.**", "http.retries.**", "http.delegate.**",
	"http.fault.**", "http.corsPolicy.**", "http.mirror.host", "http.mirror.subset", "http.mirror.port.number", "http.mirrorPercent", "http.mirrorPercentage.**",
	"http.mirrors.destination.host", "http.mirrors.destination.subset", "http.mirrors.destination.port.number", "http.mirrors.percentage.**",
	"tcp.match.destinationSubnets", "tcp.match.port", "tcp.match.sourceLabels.**", "tcp.match.gateways", "tcp.match.sourceNamespace",
	"tcp.route.destination.host", "tcp.route.destination.subset", "tcp.route.destination.port.number", "tcp.route.weight",
	"tls.match.sniHosts", "tls.match.destinationSubnets", "tls.match.port", "tls.match.sourceLabels.**", "tls.match.gateways", "tls.match.sourceNamespace",
	"tls.route.destination.host", "tls.route.destination.subset", "tls.route.destination.port.number", "tls.route.weight")

func (b *builder) virtualService(o *object) {
	var spec networking.VirtualService
	unsupported, ok := b.spec(o, &spec, virtualServiceFields)
	c := &routeConverter{b: b, o: o, d: &decoder{b: b, obj: o}}
	if !ok {
		return
	}
	vs := &mesh.VirtualService{Ref: o.ref, ExportTo: visible(spec.ExportTo, b.exports.virtualService)}
	seen := map[string]bool{}
	for i, h := range spec.Hosts {
		path := item("spec.hosts", i)
		if _, err := netip.ParseAddr(h); err != nil && !validHost(h, true) {
			c.d.fail(codeInvalid, path, nil, "%q is not a host: write a service's name, a DNS name, or a wildcard such as *.example.com", clip(h))
			continue
		}
		host := b.fqdn(h, o.ref.Namespace)
		if seen[host] {
			c.d.fail(codeInvalid, path, nil, "the host %s is written twice", host)
			continue
		}
		seen[host] = true
		vs.Hosts = append(vs.Hosts, host)
	}
	if len(spec.Hosts) == 0 {
		c.checkDelegate(&spec)
		b.delegates[o.ref.Namespace+"/"+o.ref.Name] = &delegate{&spec, o, unsupported, c.d.bad || o.bad}
		return
	}
	vs.Gateways = c.gateways(spec.Gateways, "spec.gateways")
	if len(vs.Gateways) == 0 {
		vs.Gateways = []string{"mesh"}
	}
	if delegates(&spec) {
		b.roots = append(b.roots, &root{vs, &spec, c, unsupported})
	} else {
		for i, r := range spec.Http {
			vs.HTTP = append(vs.HTTP, c.rule(r, i, item("spec.http", i), unsupported))
		}
	}
	for i, r := range spec.Tcp {
		vs.TCP = append(vs.TCP, c.tcp(r, i, item("spec.tcp", i)))
	}
	for i, r := range spec.Tls {
		vs.TLS = append(vs.TLS, c.tls(r, i, item("spec.tls", i), &spec))
	}
	for _, p := range unsupported {
		if !strings.HasPrefix(p, "spec.http[") {
			vs.Unsupported = append(vs.Unsupported, p)
		}
	}
	if len(spec.Http)+len(spec.Tcp)+len(spec.Tls) == 0 {
		c.d.fail(codeInvalid, "spec", nil, "a VirtualService must have http, tcp or tls routes")
	}
	if c.d.bad {
		return
	}
	b.parts.VirtualServices = append(b.parts.VirtualServices, vs)
}

// rule is http with what of it is not implemented.
func (c *routeConverter) rule(r *networking.HTTPRoute, i int, path string, unsupported []string) *seinev1.HttpRule {
	rule := c.http(r, i, path)
	rule.Unsupported = append(below(unsupported, path), c.unsupported...)
	c.unsupported = nil
	return rule
}

func below(paths []string, prefix string) []string {
	var out []string
	for _, p := range paths {
		if strings.HasPrefix(p, prefix) && (len(p) == len(prefix) || p[len(prefix)] == '.' || p[len(prefix)] == '[') {
			out = append(out, p)
		}
	}
	return out
}

// routeConverter turns one VirtualService's rules into the model's.
type routeConverter struct {
	b           *builder
	o           *object
	d           *decoder
	unsupported []string // of the rule that is being converted
}

func (c *routeConverter) notImplemented(path, why string) {
	c.unsupported = append(c.unsupported, path)
	c.b.note(c.o, codeUnsupported, Warning, path, "%s is not implemented in this version", why)
}

// gateways are named NAMESPACE/NAME; "mesh" are the sidecars.
func (c *routeConverter) gateways(names []string, path string) []string {
	var out []string
	for i, g := range names {
		switch {
		case g == "mesh":
		case g == "" || strings.Count(g, "/") > 1:
			c.d.fail(codeInvalid, item(path, i), nil, "%q is no gateway: write mesh, NAME or NAMESPACE/NAME", clip(g))
			continue
		case !strings.Contains(g, "/"):
			g = c.o.ref.Namespace + "/" + strings.TrimSuffix(g, "."+c.o.ref.Namespace+".svc."+c.b.settings.ClusterDomain)
		}
		out = append(out, g)
	}
	return out
}

func (c *routeConverter) http(r *networking.HTTPRoute, i int, path string) *seinev1.HttpRule {
	rule := &seinev1.HttpRule{Name: r.Name, Index: int32(i), Source: c.ref(path), Timeout: r.Timeout}
	if r.Timeout.AsDuration() == 0 {
		rule.Timeout = nil // "0s" and nothing both mean none
	}
	actions := 0
	for _, set := range []bool{len(r.Route) > 0, r.Redirect != nil, r.DirectResponse != nil} {
		if set {
			actions++
		}
	}
	switch {
	case actions == 0 && r.Delegate == nil:
		c.d.fail(codeInvalid, path, nil, "a rule must say what to do: route, redirect or directResponse")
	case actions > 1:
		c.d.fail(codeInvalid, path, nil, "route, redirect and directResponse exclude each other: keep one of them")
	}
	for j, m := range r.Match {
		rule.Match = append(rule.Match, c.match(m, item(path+".match", j)))
	}
	c.weights(len(r.Route), func(j int) int32 { return r.Route[j].Weight }, path)
	for j, w := range r.Route {
		at := item(path+".route", j)
		d := c.destination(w.Destination, at+".destination")
		d.Weight = uint32(w.Weight)
		if len(r.Route) == 1 && w.Weight == 0 {
			d.Weight = 100
		}
		d.RequestHeaders = c.headers(w.Headers.GetRequest(), at+".headers.request", nil)
		d.ResponseHeaders = c.headers(w.Headers.GetResponse(), at+".headers.response", nil)
		rule.Destinations = append(rule.Destinations, d)
	}
	if rd := r.Redirect; rd != nil {
		rule.Redirect = c.redirect(rd, path+".redirect")
	}
	if dr := r.DirectResponse; dr != nil {
		rule.DirectResponse = &seinev1.DirectResponse{Status: dr.Status}
		if dr.Status < 200 || dr.Status > 599 {
			c.d.fail(codeInvalid, path+".directResponse.status", nil, "must be between 200 and 599 (it is %d)", dr.Status)
		}
		if s := dr.GetBody().GetString_(); s != "" {
			rule.DirectResponse.Body = []byte(s)
		} else {
			rule.DirectResponse.Body = dr.GetBody().GetBytes()
		}
		if len(rule.DirectResponse.Body) > 1<<20 {
			c.d.fail(codeInvalid, path+".directResponse.body", nil, "must not be larger than 1 MiB")
		}
	}
	if rw := r.Rewrite; rw != nil {
		at := path + ".rewrite"
		rule.Rewrite = &seinev1.Rewrite{Uri: rw.Uri, Authority: rw.Authority}
		if x := rw.UriRegexRewrite; x != nil {
			rule.Rewrite.RegexMatch, rule.Rewrite.RegexRewrite = x.Match, x.Rewrite
			c.regex(x.Match, at+".uriRegexRewrite.match")
			if rw.Uri != "" {
				c.d.fail(codeInvalid, at, nil, "uri and uriRegexRewrite exclude each other: keep one of them")
			}
		}
		if rw.Uri == "" && rw.Authority == "" && rw.UriRegexRewrite == nil {
			c.d.fail(codeInvalid, at, nil, "must say uri, uriRegexRewrite or authority")
		}
		if r.Redirect != nil {
			c.d.fail(codeInvalid, at, nil, "has no place beside a redirect: use redirect.uri and redirect.authority")
		}
		c.plain(rw.Uri, at+".uri")
		c.plain(rw.Authority, at+".authority")
	}
	if f := r.Fault; f != nil {
		rule.Fault = c.fault(f, path+".fault")
		if r.Redirect != nil || r.DirectResponse != nil {
			c.d.fail(codeInvalid, path+".fault", nil, "has no place beside redirect or directResponse")
		}
	}
	if p := r.CorsPolicy; p != nil {
		rule.Cors = c.cors(p, path+".corsPolicy")
	}
	rule.Mirrors = c.mirrors(r, path)
	if rt := r.Retries; rt != nil {
		rule.Retry = c.retry(rt, r.Timeout, path+".retries")
	}
	authority := ""
	rule.RequestHeaders = c.headers(r.Headers.GetRequest(), path+".headers.request", &authority)
	rule.ResponseHeaders = c.headers(r.Headers.GetResponse(), path+".headers.response", nil)
	if authority != "" { // Istio rewrites the host where a header operation sets it
		if rule.Rewrite == nil {
			rule.Rewrite = &seinev1.Rewrite{}
		}
		if rule.Rewrite.Authority != "" {
			c.d.fail(codeInvalid, path+".headers.request", nil, "sets the host, which rewrite.authority sets already: keep one of them")
		}
		rule.Rewrite.Authority = authority
	}
	return rule
}

// ref is the resource with the line of path.
func (c *routeConverter) ref(path string) *seinev1.Ref {
	r := c.o.ref.Proto()
	r.Line = int32(c.o.line(path))
	return r
}

func (c *routeConverter) weights(n int, weight func(int) int32, path string) {
	if n == 0 {
		return
	}
	sum := int64(0)
	for i := range n {
		if w := weight(i); w < 0 {
			c.d.fail(codeWeights, item(path+".route", i)+".weight", nil, "must not be negative (it is %d)", w)
			return
		} else {
			sum += int64(w)
		}
	}
	if n == 1 {
		return
	}
	switch {
	case sum == 0:
		c.d.fail(codeWeights, path+".route", nil, "none of the %d destinations has a weight: give each one, such that they add up to 100", n)
	case sum > 1<<32-1:
		c.d.fail(codeWeights, path+".route", nil, "the weights add up to %d, which is too much", sum)
	case sum != 100:
		c.b.note(c.o, codeWeights, Warning, path+".route", "the weights add up to %d, not 100: they are taken relative to %d (Istio before 1.18 refuses them)", sum, sum)
	}
}

func (c *routeConverter) destination(t *networking.Destination, path string) *seinev1.Destination {
	if t == nil {
		c.d.fail(codeInvalid, path, nil, "a route must have a destination")
		return &seinev1.Destination{}
	}
	if !validHost(t.Host, false) {
		c.d.fail(codeInvalid, path+".host", nil, "%q is not a host: write the name of a service", clip(t.Host))
	}
	port := t.Port.GetNumber()
	if t.Port != nil && (port < 1 || port > 65535) {
		c.d.fail(codeInvalid, path+".port.number", nil, "a port must be between 1 and 65535 (it is %d)", port)
	}
	return &seinev1.Destination{Host: c.b.fqdn(t.Host, c.o.ref.Namespace), Port: port, Subset: t.Subset}
}

func (c *routeConverter) redirect(r *networking.HTTPRedirect, path string) *seinev1.Redirect {
	out := &seinev1.Redirect{Uri: r.Uri, Authority: r.Authority, Scheme: r.Scheme, Code: r.RedirectCode, PrefixRewrite: r.PrefixRewrite}
	switch p := r.RedirectPort.(type) {
	case *networking.HTTPRedirect_Port:
		out.Port = p.Port
		if p.Port < 1 || p.Port > 65535 {
			c.d.fail(codeInvalid, path+".port", nil, "a port must be between 1 and 65535 (it is %d)", p.Port)
		}
	case *networking.HTTPRedirect_DerivePort:
		out.PortFromRequest = p.DerivePort == networking.HTTPRedirect_FROM_REQUEST_PORT
	}
	if !slices.Contains([]uint32{0, 301, 302, 303, 307, 308}, r.RedirectCode) {
		c.d.fail(codeInvalid, path+".redirectCode", nil, "must be 301, 302, 303, 307 or 308 (it is %d)", r.RedirectCode)
	}
	if out.Code == 0 {
		out.Code = 301
	}
	if r.Uri != "" && r.PrefixRewrite != "" {
		c.d.fail(codeInvalid, path, nil, "uri and prefixRewrite exclude each other: keep one of them")
	}
	if r.Uri == "" && r.Authority == "" && r.Scheme == "" && r.PrefixRewrite == "" && r.RedirectPort == nil && r.RedirectCode == 0 {
		c.d.fail(codeInvalid, path, nil, "must say where to: uri, authority, scheme, port or prefixRewrite")
	}
	if r.Scheme != "" && r.Scheme != "http" && r.Scheme != "https" {
		c.d.fail(codeInvalid, path+".scheme", nil, "must be http or https (it is %q)", clip(r.Scheme))
	}
	c.plain(r.Uri, path+".uri")
	c.plain(r.Authority, path+".authority")
	c.plain(r.PrefixRewrite, path+".prefixRewrite")
	if strings.Contains(r.Uri, "%") && envoyOperator.MatchString(strings.ReplaceAll(r.Uri, "%%", "")) {
		c.notImplemented(path+".uri", "a substitution such as %REQ(name)%")
	}
	return out
}

func (c *routeConverter) port(p uint32, path string) {
	if p > 65535 {
		c.d.fail(codeInvalid, path, nil, "a port must be between 1 and 65535 (it is %d)", p)
	}
}

// plain refuses what would break out of a request line or a header.
func (c *routeConverter) plain(s, path string) {
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r == ' ' }) {
		c.d.fail(codeHeaderName, path, nil, "must not hold spaces, line breaks or control characters")
	}
}

const maxRegex = 4096

func (c *routeConverter) regex(s, path string) {
	if len(s) > maxRegex {
		c.d.fail(codeRegex, path, nil, "is longer than the %d bytes allowed", maxRegex)
		return
	}
	if s == "" {
		c.d.fail(codeRegex, path, nil, "a regular expression must not be empty: .* matches everything")
		return
	}
	if _, err := regexp.Compile(s); err != nil {
		hint := ""
		if s == "*" {
			hint = ": write .* to match everything"
		} else if strings.Contains(s, "(?!") || strings.Contains(s, "(?=") || strings.Contains(s, "(?<") {
			hint = ": RE2, as Envoy and Istio, has no look-around"
		}
		c.d.fail(codeRegex, path, nil, "not a regular expression (RE2): %s%s", strings.TrimPrefix(err.Error(), "error parsing regexp: "), hint)
	}
}

// stringMatch is nil for what matches everything.
func (c *routeConverter) stringMatch(m *networking.StringMatch, path string, ignoreCase bool) *seinev1.StringMatch {
	out := &seinev1.StringMatch{IgnoreCase: ignoreCase}
	switch v := m.GetMatchType().(type) {
	case *networking.StringMatch_Exact: // an empty one is the empty value: queryParams {key: {exact: ""}}
		out.Match = &seinev1.StringMatch_Exact{Exact: v.Exact}
	case *networking.StringMatch_Prefix:
		if v.Prefix == "" {
			if !strings.HasSuffix(path, ".uri") { // as Istio: Envoy takes an empty prefix for paths only
				c.d.fail(codeInvalid, path+".prefix", nil, "must not be empty: write {} if any value will do")
			}
			return nil
		}
		out.Match = &seinev1.StringMatch_Prefix{Prefix: v.Prefix}
	case *networking.StringMatch_Regex:
		c.regex(v.Regex, path+".regex")
		out.Match = &seinev1.StringMatch_Regex{Regex: v.Regex}
	default:
		return nil
	}
	return out
}

// presence is stringMatch, where an empty one asks whether the thing is there
// at all, as does the regex "*" (Istio's isCatchAllStringMatch).
func (c *routeConverter) presence(m *networking.StringMatch, path string) *seinev1.StringMatch {
	if m.GetRegex() == "*" {
		m = nil
	}
	if out := c.stringMatch(m, path, false); out != nil {
		return out
	}
	return &seinev1.StringMatch{Match: &seinev1.StringMatch_Present{Present: true}}
}

func (c *routeConverter) match(m *networking.HTTPMatchRequest, path string) *seinev1.HttpMatch {
	out := &seinev1.HttpMatch{
		Name: m.Name, Port: m.Port, SourceLabels: m.SourceLabels, SourceNamespace: m.SourceNamespace,
		Gateways: c.gateways(m.Gateways, path+".gateways"),
		Uri:      c.stringMatch(m.Uri, path+".uri", m.IgnoreUriCase && m.GetUri().GetRegex() == ""),
		Scheme:   c.stringMatch(m.Scheme, path+".scheme", false), Method: c.stringMatch(m.Method, path+".method", false),
		Authority: c.stringMatch(m.Authority, path+".authority", false),
	}
	c.port(m.Port, path+".port")
	if m.Uri != nil && out.Uri == nil {
		c.b.note(c.o, codeUselessMatch, Info, path+".uri", "is empty and matches every path")
	} else if out.Uri.GetMatch() != nil && m.GetUri().GetExact()+m.GetUri().GetPrefix()+m.GetUri().GetRegex() == "" {
		c.b.note(c.o, codeUnreachable, Warning, path+".uri", "is the empty path, which no request has: it can never match")
	}
	if p := firstOf(m.GetUri().GetExact(), m.GetUri().GetPrefix()); p != "" && p[0] != '/' && p != "*" {
		c.b.note(c.o, codeUnreachable, Warning, path+".uri", "does not begin with a slash, as every path does: it can never match")
	} else if strings.ContainsAny(p, "?#") {
		c.b.note(c.o, codeUnreachable, Warning, path+".uri", "holds %q: only the path is compared, without query and fragment; use queryParams", p[strings.IndexAny(p, "?#"):][:1])
	}
	for _, name := range sortedKeys(m.Headers) {
		c.header(out, name, m.Headers[name], sub(path+".headers", name), false)
	}
	for _, name := range sortedKeys(m.WithoutHeaders) {
		c.header(out, name, m.WithoutHeaders[name], sub(path+".withoutHeaders", name), true)
	}
	for _, name := range sortedKeys(m.QueryParams) {
		at := sub(path+".queryParams", name)
		if name == "" {
			c.d.fail(codeInvalid, at, nil, "a query parameter must have a name")
			continue
		}
		out.Query = append(out.Query, &seinev1.QueryMatch{Name: name, Value: c.presence(m.QueryParams[name], at)})
	}
	return out
}

func (c *routeConverter) header(out *seinev1.HttpMatch, name string, m *networking.StringMatch, path string, invert bool) {
	if strings.HasPrefix(name, "@request.auth.claims") {
		// Kept as a header that no request can have: a request without a verified
		// token, which every one is as long as tokens are not verified.
		c.notImplemented(path, "a match of a token's claims")
		out.Headers = append(out.Headers, &seinev1.HeaderMatch{Name: name, Value: c.presence(m, path), Invert: invert})
		return
	}
	lower := strings.ToLower(name)
	switch lower { // Envoy's names for what has fields of its own
	case ":authority", ":method", ":scheme", ":path":
		if invert {
			c.notImplemented(path, "a pseudo-header in withoutHeaders")
			return
		}
		field := map[string]**seinev1.StringMatch{":authority": &out.Authority, ":method": &out.Method, ":scheme": &out.Scheme}[lower]
		if field == nil || *field != nil {
			c.notImplemented(path, "a match of the pseudo-header "+lower)
			out.Headers = append(out.Headers, &seinev1.HeaderMatch{Name: lower, Value: c.presence(m, path)}) // never there: never matches
			return
		}
		*field = c.stringMatch(m, path, false)
		return
	}
	if !c.headerName(name, path) {
		return
	}
	out.Headers = append(out.Headers, &seinev1.HeaderMatch{Name: lower, Value: c.presence(m, path), Invert: invert})
}

func (c *routeConverter) headerName(name, path string) bool {
	if name != "" && len(name) <= 256 && !strings.ContainsFunc(name, func(r rune) bool { return !token(r) }) {
		return true
	}
	c.d.fail(codeHeaderName, path, nil, "%q is not a header's name: use letters, digits and -", clip(name))
	return false
}

// token reports whether r may stand in a header's name (RFC 9110 §5.6.2).
func token(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r < 0x7f && strings.ContainsRune("!#$%&'*+-.^_`|~", r)
}

// envoyOperator is one of Envoy's substitutions in header values.
var envoyOperator = regexp.MustCompile(`%[A-Z0-9_]+(\([^)]*\))?(:[0-9]+)?%`)

// headers turns one side's operations into the model's. Where authority is not
// nil, setting the host is a rewrite of it.
func (c *routeConverter) headers(h *networking.Headers_HeaderOperations, path string, authority *string) *seinev1.HeaderOps {
	if h == nil {
		return nil
	}
	out := &seinev1.HeaderOps{}
	pairs := func(m map[string]string, path string) (list []*seinev1.Header) {
		for _, name := range sortedKeys(m) {
			at, value, lower := sub(path, name), m[name], strings.ToLower(name)
			if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
				c.d.fail(codeHeaderName, at, nil, "a header's value must not hold line breaks or control characters")
				continue
			}
			if strings.Contains(value, "%") {
				if envoyOperator.MatchString(strings.ReplaceAll(value, "%%", "")) {
					c.notImplemented(at, "a substitution such as %REQ(name)%")
				}
				value = strings.ReplaceAll(value, "%%", "%")
			}
			if lower == "host" || lower == ":authority" {
				if authority == nil {
					c.notImplemented(at, "changing the host here")
				} else if *authority != "" {
					c.d.fail(codeInvalid, at, nil, "sets the host a second time: keep one of them")
				} else {
					c.plain(value, at)
					*authority = value
				}
				continue
			}
			if !c.headerName(name, at) || !c.ours(lower, at) {
				continue
			}
			list = append(list, &seinev1.Header{Name: lower, Value: value})
		}
		return list
	}
	out.Set = pairs(h.Set, path+".set")
	out.Add = pairs(h.Add, path+".add")
	for i, name := range h.Remove {
		at := item(path+".remove", i)
		lower := strings.ToLower(name)
		if lower == "host" || strings.HasPrefix(lower, ":") {
			c.d.fail(codeHeaderName, at, nil, "%s cannot be removed", clip(name))
			continue
		}
		if c.headerName(name, at) && c.ours(lower, at) {
			out.Remove = append(out.Remove, lower)
		}
	}
	if len(out.Set)+len(out.Add)+len(out.Remove) == 0 {
		return nil
	}
	return out
}

// ours refuses headers by which the message is framed: to change them is to
// smuggle.
func (c *routeConverter) ours(lower, path string) bool {
	switch lower {
	case "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer", "keep-alive", "proxy-connection":
		c.d.fail(codeHeaderName, path, nil, "%s frames the message and cannot be changed by a route", lower)
		return false
	}
	return true
}
