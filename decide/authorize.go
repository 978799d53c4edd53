package decide

import (
	"bytes"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/message"
)

// Subject is who asks, and where: what policies look at beside a request.
type Subject struct {
	// What the peer's certificate proves; empty: nothing.
	Principal, TrustDomain, Namespace, ServiceAccount string
	Source, Remote                                    netip.Addr // of the connection; of the client behind it
	Destination                                       netip.AddrPort
	SNI                                               string
}

// Proven makes s the bearer of a SPIFFE ID, spiffe://TRUST-DOMAIN/ns/NS/sa/SA.
func (s *Subject) Proven(id string) {
	name, ok := strings.CutPrefix(id, "spiffe://")
	if !ok {
		return
	}
	domain, rest, _ := strings.Cut(name, "/")
	s.Principal, s.TrustDomain = name, domain
	if rest, ok = strings.CutPrefix(rest, "ns/"); ok {
		s.Namespace, s.ServiceAccount, _ = strings.Cut(rest, "/sa/")
	}
}

// Authorization are the AuthorizationPolicies that hold for a workload.
// Immutable.
type Authorization struct {
	audit, deny, allow []*Policy
	shadowAllow        bool // dry-run policies ALLOW something
	enforcedAllow      bool
	slots              slots
	// LooksAtPaths: a path that is not in its normal form could mean another to
	// the application than to a policy (see NormalPath).
	LooksAtPaths bool
	// LooksAtRemote: who is behind the connection matters (remote.ip).
	LooksAtRemote bool
}

// Policy is a compiled AuthorizationPolicy.
type Policy struct {
	Proto *seinev1.AuthorizationPolicy
	// Details is Envoy's response code detail for each rule of a DENY.
	Details []string
	rules   []authRule
}

type authRule struct {
	from, to [][]term
	when     []term
	// An opaque connection can never be let in by it, for it asks for something
	// of a request.
	request bool
}

// Judgement is what policies say of a request or a connection.
type Judgement struct {
	Denied  bool
	By      *Policy // that denies; nil: no ALLOW policy lets it in
	Rule    int     // of By
	Audited *Policy // the first AUDIT policy that it matches
	// Would says what dry-run policies would do: WouldBy denies, or (nil) none
	// of those that ALLOW lets it in.
	Would   bool
	WouldBy *Policy
}

// Details is Envoy's response code detail of a denial.
func (j *Judgement) Details() string {
	if j.By == nil {
		return "rbac_access_denied_matched_policy[none]"
	}
	return j.By.Details[j.Rule]
}

// CompileAuthorization checks and compiles a workload's policies; nil where
// there are none.
func CompileAuthorization(list []*seinev1.AuthorizationPolicy) (*Authorization, error) {
	if len(list) == 0 {
		return nil, nil
	}
	a := &Authorization{}
	for _, p := range list {
		c := &Policy{Proto: p}
		for i, r := range p.Rules {
			rule, err := a.compile(r)
			if err != nil {
				return nil, invalid("authorization policy %q, rule %d: %v", p.Id, i, err)
			}
			c.rules = append(c.rules, rule)
			ns, name, _ := strings.Cut(p.Id, "/")
			c.Details = append(c.Details, fmt.Sprintf("rbac_access_denied_matched_policy[ns[%s]-policy[%s]-rule[%d]]", ns, name, i))
		}
		switch p.Action {
		case seinev1.AuthorizationPolicy_ALLOW:
			a.allow = append(a.allow, c)
			a.shadowAllow = a.shadowAllow || p.DryRun
			a.enforcedAllow = a.enforcedAllow || !p.DryRun
		case seinev1.AuthorizationPolicy_DENY:
			a.deny = append(a.deny, c)
		case seinev1.AuthorizationPolicy_AUDIT:
			a.audit = append(a.audit, c)
		default: // of a newer control plane: nothing is let in that it might bar
			return nil, invalid("authorization policy %q: unknown action %v", p.Id, p.Action)
		}
	}
	return a, nil
}

// Judge decides as Istio's filters do: what a DENY policy matches is denied;
// where there are ALLOW policies one must match. req is nil for an opaque
// connection: there a condition about requests never holds in an ALLOW policy,
// and is left out of the others (Istio's "HTTP-only fields").
func (a *Authorization) Judge(s *Subject, req *message.Request) (j Judgement) {
	var q question
	if req != nil {
		q.init(req, uint32(s.Destination.Port()))
	}
	for _, p := range a.audit {
		if p.matches(a, s, &q) >= 0 {
			j.Audited = p
			break
		}
	}
	for _, p := range a.deny {
		if p.Proto.DryRun && j.Would || !p.Proto.DryRun && j.Denied {
			continue
		}
		if i := p.matches(a, s, &q); i >= 0 && p.Proto.DryRun {
			j.Would, j.WouldBy = true, p
		} else if i >= 0 {
			j.Denied, j.By, j.Rule = true, p, i
		}
	}
	in, would := !a.enforcedAllow || j.Denied, !a.shadowAllow || j.Would
	for _, p := range a.allow {
		if p.Proto.DryRun && !would {
			would = p.matches(a, s, &q) >= 0
		} else if !p.Proto.DryRun && !in {
			in = p.matches(a, s, &q) >= 0
		}
	}
	j.Denied = j.Denied || !in
	j.Would = j.Would || !would
	return j
}

// Policies are all that hold, in the order in which they are asked.
func (a *Authorization) Policies() []*Policy {
	if a == nil {
		return nil
	}
	var out []*Policy
	return append(append(append(out, a.audit...), a.deny...), a.allow...)
}

// matches is the first rule that matches, or -1.
func (p *Policy) matches(a *Authorization, s *Subject, q *question) int {
	strict := p.Proto.Action == seinev1.AuthorizationPolicy_ALLOW
	for i := range p.rules {
		r := &p.rules[i]
		if q.req == nil && strict && r.request {
			continue
		}
		if a.any(r.from, s, q) && a.any(r.to, s, q) && a.all(r.when, s, q) {
			return i
		}
	}
	return -1
}

func (a *Authorization) any(list [][]term, s *Subject, q *question) bool {
	for _, c := range list {
		if a.all(c, s, q) {
			return true
		}
	}
	return len(list) == 0
}

func (a *Authorization) all(list []term, s *Subject, q *question) bool {
	for i := range list {
		c := &list[i]
		if c.request && q.req == nil {
			continue
		}
		if len(c.values) > 0 && !c.holds(c.values, a, s, q) || len(c.not) > 0 && c.holds(c.not, a, s, q) {
			return false
		}
	}
	return true
}

// attribute is what a condition looks at.
type attribute uint8

const (
	sourcePrincipal attribute = iota
	sourceNamespace
	sourceServiceAccount
	sourceTrustDomain
	sourceIP
	remoteIP
	requestMethod
	requestPath
	requestHost
	requestHeader
	destinationIP
	destinationPort
	connectionSNI
)

var attributes = map[string]attribute{
	"source.principal": sourcePrincipal, "source.namespace": sourceNamespace, "source.serviceAccount": sourceServiceAccount,
	"source.trustDomain": sourceTrustDomain, "source.ip": sourceIP, "remote.ip": remoteIP,
	"request.method": requestMethod, "request.path": requestPath, "request.host": requestHost,
	"destination.ip": destinationIP, "destination.port": destinationPort, "connection.sni": connectionSNI,
}

// term compares one attribute.
type term struct {
	of          attribute
	request     bool // of a request, not of a connection
	header      int32
	values, not []pattern
}

func (c *term) holds(list []pattern, a *Authorization, s *Subject, q *question) bool {
	for i := range list {
		p := &list[i]
		var ok bool
		switch c.of {
		case sourcePrincipal:
			ok = p.matchString(s.Principal)
		case sourceNamespace:
			ok = p.matchString(s.Namespace)
		case sourceServiceAccount:
			ok = s.Namespace == p.namespace && s.ServiceAccount == p.text
		case sourceTrustDomain:
			ok = p.matchString(s.TrustDomain)
		case sourceIP:
			ok = p.net.Contains(s.Source.Unmap())
		case remoteIP:
			ok = p.net.Contains(s.Remote.Unmap())
		case destinationIP:
			ok = p.net.Contains(s.Destination.Addr().Unmap())
		case destinationPort:
			ok = p.port == s.Destination.Port()
		case connectionSNI:
			ok = p.matchString(s.SNI)
		case requestMethod:
			ok = p.match(q.req.Method)
		case requestPath:
			ok = p.match(q.path)
		case requestHost:
			ok = p.match(q.req.Authority)
		case requestHeader:
			v, found := q.header(a.slots.list, c.header)
			ok = found && (p.kind == somePattern || p.match(v))
		}
		if ok {
			return true
		}
	}
	return false
}

func (a *Authorization) compile(r *seinev1.AuthorizationRule) (out authRule, err error) {
	group := func(list []*seinev1.Conditions) (all [][]term) {
		for _, g := range list {
			all = append(all, a.conditions(g.All, &out, &err))
		}
		return all
	}
	out.from, out.to = group(r.From), group(r.To)
	out.when = a.conditions(r.When, &out, &err)
	return out, err
}

func (a *Authorization) conditions(list []*seinev1.Condition, r *authRule, err *error) []term {
	out := []term{}
	for _, p := range list {
		c, e := a.condition(p)
		if e != nil && *err == nil {
			*err = e
		}
		r.request = r.request || c.request
		out = append(out, c)
	}
	return out
}

// CheckCondition reports what is wrong with a condition.
func CheckCondition(p *seinev1.Condition) error {
	_, err := (&Authorization{}).condition(p)
	return err
}

func (a *Authorization) condition(p *seinev1.Condition) (term, error) {
	of, known := attributes[p.Key]
	c := term{of: of}
	if name, ok := strings.CutPrefix(p.Key, "request.headers["); ok && strings.HasSuffix(name, "]") && len(name) > 1 {
		name = name[:len(name)-1]
		if !message.ValidName([]byte(name)) {
			return c, fmt.Errorf("%q is no header", name)
		}
		c.of, c.header, known = requestHeader, a.slots.of(name), true
	}
	if !known {
		return c, fmt.Errorf("there is no attribute %q", p.Key)
	}
	if len(p.Values)+len(p.NotValues) == 0 {
		return c, fmt.Errorf("%s has neither values nor notValues", p.Key)
	}
	c.request = c.of >= requestMethod && c.of <= requestHeader
	a.LooksAtPaths = a.LooksAtPaths || c.of == requestPath
	a.LooksAtRemote = a.LooksAtRemote || c.of == remoteIP
	for _, v := range p.Values {
		x, err := newPattern(c.of, v)
		if err != nil {
			return c, fmt.Errorf("%s: %w", p.Key, err)
		}
		c.values = append(c.values, x)
	}
	for _, v := range p.NotValues {
		x, err := newPattern(c.of, v)
		if err != nil {
			return c, fmt.Errorf("%s: %w", p.Key, err)
		}
		c.not = append(c.not, x)
	}
	return c, nil
}

type patternKind uint8

const (
	exactPattern patternKind = iota
	prefixPattern
	suffixPattern
	somePattern // "*": anything but nothing
	regexPattern
)

// pattern is a value of Istio's: exact, "abc*", "*abc" or "*".
type pattern struct {
	kind      patternKind
	fold      bool
	text      string
	namespace string // of a service account
	re        *regexp.Regexp
	net       netip.Prefix
	port      uint16
}

func newPattern(of attribute, v string) (p pattern, err error) {
	if v == "" {
		return p, fmt.Errorf("a value must not be empty")
	}
	switch of {
	case sourceIP, remoteIP, destinationIP:
		if p.net, err = netip.ParsePrefix(v); err != nil {
			var one netip.Addr
			if one, err = netip.ParseAddr(v); err != nil {
				return p, fmt.Errorf("%q is neither an address nor a CIDR", v)
			}
			p.net = netip.PrefixFrom(one, one.BitLen())
		}
		p.net = p.net.Masked()
		return p, nil
	case destinationPort:
		n, err := strconv.ParseUint(v, 10, 16)
		if err != nil || n == 0 {
			return p, fmt.Errorf("%q is no port", v)
		}
		p.port = uint16(n)
		return p, nil
	case sourceServiceAccount:
		var ok bool
		if p.namespace, p.text, ok = strings.Cut(v, "/"); !ok || p.namespace == "" || p.text == "" || strings.Contains(v, "*") {
			return p, fmt.Errorf("%q is not NAMESPACE/NAME", v)
		}
		return p, nil
	case requestPath:
		if strings.Contains(v, "{") {
			p.kind = regexPattern
			p.re, err = template(v)
			return p, err
		}
	case requestHost:
		p.fold, v = true, strings.ToLower(v)
	}
	inner := strings.Trim(v, "*")
	switch {
	case v == "*":
		p.kind = somePattern
	case of == sourceNamespace && strings.Contains(v, "*") || of == sourceTrustDomain && strings.Contains(v, "*"):
		p.kind = regexPattern
		parts := strings.Split(v, "*")
		for i := range parts {
			parts[i] = regexp.QuoteMeta(parts[i])
		}
		p.re, err = CompileRegex(strings.Join(parts, "[^/]*"))
	case strings.HasPrefix(v, "*") && inner == v[1:]:
		p.kind, p.text = suffixPattern, inner
	case strings.HasSuffix(v, "*") && inner == v[:len(v)-1]:
		p.kind, p.text = prefixPattern, inner
	case strings.HasPrefix(v, "*") || strings.HasSuffix(v, "*"):
		return p, fmt.Errorf("%q has more than one asterisk", v)
	default:
		p.text = v
	}
	return p, err
}

// template compiles a path with {*}, one element, and {**}, any of them at the
// end or before a last one (Istio's path templates).
func template(v string) (*regexp.Regexp, error) {
	var b strings.Builder
	for rest := v; rest != ""; {
		i := strings.IndexAny(rest, "{}*")
		if i < 0 {
			b.WriteString(regexp.QuoteMeta(rest))
			break
		}
		b.WriteString(regexp.QuoteMeta(rest[:i]))
		rest = rest[i:]
		switch {
		case strings.HasPrefix(rest, "{**}"):
			b.WriteString(".*")
			rest = rest[4:]
		case strings.HasPrefix(rest, "{*}"):
			b.WriteString("[^/]+")
			rest = rest[3:]
		default:
			return nil, fmt.Errorf("%q is no path template: write {*} for one element, {**} for any number", v)
		}
	}
	return CompileRegex(b.String())
}

func (p *pattern) match(v []byte) bool {
	switch p.kind {
	case exactPattern:
		if p.fold {
			return len(v) == len(p.text) && message.EqualFold(v, p.text)
		}
		return string(v) == p.text
	case prefixPattern:
		return len(v) >= len(p.text) && p.same(v[:len(p.text)])
	case suffixPattern:
		return len(v) >= len(p.text) && p.same(v[len(v)-len(p.text):])
	case somePattern:
		return len(v) > 0
	}
	return p.re.Match(v)
}

func (p *pattern) same(v []byte) bool {
	if p.fold {
		return message.EqualFold(v, p.text)
	}
	return string(v) == p.text
}

func (p *pattern) matchString(v string) bool {
	switch p.kind {
	case exactPattern:
		return v == p.text
	case prefixPattern:
		return strings.HasPrefix(v, p.text) && v != ""
	case suffixPattern:
		return strings.HasSuffix(v, p.text) && v != ""
	case somePattern:
		return v != ""
	}
	return v != "" && p.re.MatchString(v)
}

// NormalPath reports whether a request's path can mean nothing else to an
// application that decodes and cleans it: no dot segments, no backslash, nothing
// percent-encoded that need not be (RFC 3986 §6.2.2); with slashes no two
// slashes in a row and no encoded slash either.
func NormalPath(path []byte, slashes bool) bool {
	path = path[:pathEnd(path)]
	for i := 0; i < len(path); i++ {
		switch path[i] {
		case '\\':
			return false
		case '/':
			next := path[i+1:]
			if end := bytes.IndexByte(next, '/'); end >= 0 {
				next = next[:end]
				if slashes && end == 0 {
					return false
				}
			}
			if string(next) == "." || string(next) == ".." {
				return false
			}
		case '%':
			if i+2 >= len(path) {
				return false
			}
			high, low := unhex(path[i+1]), unhex(path[i+2])
			if high > 15 || low > 15 {
				return false
			}
			c := high<<4 | low
			unreserved := c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == '_' || c == '~'
			if unreserved || c == '\\' || c == 0 || slashes && c == '/' {
				return false
			}
			i += 2
		}
	}
	return true
}

func unhex(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10
	}
	return 255
}
