package decide

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/message"
)

// pathed is how much of a path a match is about, for rewriting: a prefix's
// length, or all of it. A prefix of whole elements is joined to what follows by
// one slash (the table at HTTPPathModifier in the Gateway API).
type pathed struct {
	whole    bool
	prefix   int
	elements bool
}

// rewrite is a compiled Rewrite's path.
type rewrite struct {
	uri      string
	whole    bool // uri replaces all of the path
	regex    *regexp.Regexp
	template []segment
}

// segment is literal text, or a group if text is empty.
type segment struct {
	text  string
	group int
}

func sourceName(r *seinev1.Ref) string {
	if r == nil {
		return "no resource"
	}
	return r.Kind + " " + r.Namespace + "/" + r.Name
}

// ruleID names a rule: "default/billing-route[0]"; that of a service without
// routes is the service's own name.
func ruleID(r *seinev1.Ref, index int32) string {
	switch {
	case r == nil:
		return "[" + strconv.Itoa(int(index)) + "]"
	case r.Kind == "VirtualService", r.Kind == "HTTPRoute", r.Kind == "GRPCRoute":
		return fmt.Sprintf("%s/%s[%d]", r.Namespace, r.Name, index)
	}
	return r.Namespace + "/" + r.Name
}

func compileRule(p *seinev1.HttpRule) (*Rule, error) {
	r := &Rule{Proto: p, ID: ruleID(p.Source, p.Index), Redirect: p.Redirect, Direct: p.DirectResponse}
	if d := p.Timeout; d != nil {
		if err := d.CheckValid(); err != nil || d.AsDuration() < 0 {
			return nil, invalid("timeout %v is no duration", d)
		}
		r.Timeout = d.AsDuration()
	}
	for _, m := range p.Match {
		r.pathed = append(r.pathed, pathOf(m))
	}
	var err error
	if r.Request, err = compose(level{p.RequestHeaders}); err != nil {
		return nil, err
	}
	if r.Response, err = compose(level{p.ResponseHeaders}); err != nil {
		return nil, err
	}
	if w := p.Rewrite; w != nil {
		if r.rewrite, err = compileRewrite(w); err != nil {
			return nil, err
		}
	}
	// Istio's order: what the rule rewrites, then what the rule's headers set.
	r.authority = p.Rewrite.GetAuthority()
	if r.authority == "" {
		r.authority = authorityOf(p.RequestHeaders)
	}
	if !fieldText(r.authority) {
		return nil, invalid("the rewritten authority holds a control character")
	}
	if r.Fault, err = compileFault(p.Fault); err != nil {
		return nil, err
	}
	if r.Cors, err = compileCors(p.Cors); err != nil {
		return nil, err
	}
	switch {
	case r.Redirect != nil:
		return r, checkRedirect(r.Redirect)
	case r.Direct != nil:
		if r.Direct.Status < 200 || r.Direct.Status > 599 {
			return nil, invalid("direct response status %d", r.Direct.Status)
		}
		return r, nil
	}
	if r.Retry, err = compileRetry(p.Retry); err != nil {
		return nil, err
	}
	if r.Retry != nil && r.Timeout > 0 && r.Retry.PerTry >= r.Timeout {
		r.Retry.PerTry = 0 // as Envoy: the timeout of the whole comes first
	}
	r.Destinations, r.total, err = compileDestinations(p.Destinations)
	if err != nil {
		return nil, err
	}
	if r.Mirrors, err = compileMirrors(p.Mirrors); err != nil {
		return nil, err
	}
	single := len(p.Destinations) == 1
	n := 0
	for _, d := range p.Destinations {
		if !single && d.Weight == 0 {
			continue
		}
		dst := &r.Destinations[n]
		n++
		if dst.Request, err = composeFor(single, p.RequestHeaders, d.RequestHeaders); err != nil {
			return nil, err
		}
		if dst.Response, err = composeFor(single, p.ResponseHeaders, d.ResponseHeaders); err != nil {
			return nil, err
		}
		// The rule's authority wins, with one destination or several.
		if dst.authority = r.authority; dst.authority == "" {
			dst.authority = authorityOf(d.RequestHeaders)
		}
		if !fieldText(dst.authority) {
			return nil, invalid("the authority of destination %s holds a control character", d.Host)
		}
	}
	return r, nil
}

// composeFor joins the rule's operations and a destination's. Istio puts those
// of a lone destination into the route, after the route's own; those of a
// weighted one become a level of their own, which Envoy applies first, so that
// there the rule's "set" wins.
func composeFor(single bool, rule, dest *seinev1.HeaderOps) (*Edits, error) {
	if single {
		return compose(level{rule, dest})
	}
	return compose(level{dest}, level{rule})
}

// compileDestinations leaves out those of weight 0, unless there is only one.
func compileDestinations(list []*seinev1.Destination) ([]Destination, uint64, error) {
	var dests []Destination
	var total uint64
	for _, d := range list {
		weight := d.Weight
		if len(list) == 1 {
			weight = max(weight, 1)
		}
		if weight == 0 {
			continue
		}
		if d.Status != 0 && (d.Status < 200 || d.Status > 599) {
			return nil, 0, invalid("destination status %d", d.Status)
		}
		if d.Status == 0 && (d.Host == "" || d.Port == 0 || d.Port > 65535) {
			return nil, 0, invalid("destination %q has port %d", d.Host, d.Port)
		}
		total += uint64(weight)
		dests = append(dests, Destination{
			Key: Key(d.Host, d.Port), Host: d.Host, Port: d.Port, Subset: d.Subset, Weight: weight, upto: total,
			Status: int(d.Status), Reason: d.Reason,
		})
	}
	return dests, total, nil
}

// Key names one port of a service: "FQDN/PORT".
func Key(host string, port uint32) string { return host + "/" + strconv.Itoa(int(port)) }

func compileTCPRule(p *seinev1.TcpRule) (*TCPRule, error) {
	r := &TCPRule{Proto: p, ID: ruleID(p.Source, p.Index)}
	if p.Tls {
		r.ID = fmt.Sprintf("%s/%s.tls[%d]", p.Source.GetNamespace(), p.Source.GetName(), p.Index)
	}
	for _, m := range p.Match {
		c, err := compileTCPMatch(m)
		if err != nil {
			return nil, invalid("%v", err)
		}
		r.matches = append(r.matches, c)
	}
	var err error
	r.Destinations, r.total, err = compileDestinations(p.Destinations)
	return r, err
}

func (x *index) add(rule int32, matches []*seinev1.HttpMatch) error {
	if len(matches) == 0 {
		x.entries = append(x.entries, entry{rule: rule, match: -1})
		return nil
	}
	for i, m := range matches {
		c, err := compileMatch(m, &x.slots)
		if err != nil {
			return invalid("match %d: %v", i, err)
		}
		e := entry{rule: rule, match: int32(i), m: &c}
		if c.catchesAll() {
			e.m = nil
		}
		x.entries = append(x.entries, e)
	}
	return nil
}

// pathOf is what a rewrite replaces: the matched prefix, or the whole path of
// an exact or regular-expression match. A match without URI is the prefix "/"
// in Istio, so there the first slash alone is replaced.
func pathOf(m *seinev1.HttpMatch) pathed {
	elements := m.PathElements
	switch m := m.Uri.GetMatch().(type) {
	case *seinev1.StringMatch_Exact, *seinev1.StringMatch_Regex:
		return pathed{whole: true}
	case *seinev1.StringMatch_Prefix:
		if elements {
			return pathed{prefix: len(strings.TrimSuffix(m.Prefix, "/")), elements: true}
		}
		return pathed{prefix: len(m.Prefix)}
	}
	return pathed{prefix: 1}
}

func compileRewrite(w *seinev1.Rewrite) (rewrite, error) {
	if w.RegexMatch == "" {
		if !pathText(w.Uri) {
			return rewrite{}, invalid("rewritten path %q holds a space or a control character", w.Uri)
		}
		return rewrite{uri: w.Uri, whole: w.WholePath}, nil
	}
	re, err := regexp.Compile(w.RegexMatch)
	if err != nil {
		return rewrite{}, invalid("uriRegexRewrite: %v", err)
	}
	t, err := parseTemplate(w.RegexRewrite, re.NumSubexp())
	if err != nil {
		return rewrite{}, err
	}
	return rewrite{regex: re, template: t}, nil
}

// parseTemplate reads a substitution of RE2: \1 is a group, \0 the match, \\
// a backslash.
func parseTemplate(s string, groups int) ([]segment, error) {
	if !pathText(s) {
		return nil, invalid("rewritten path %q holds a space or a control character", s)
	}
	var out []segment
	text := []byte{}
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			text = append(text, s[i])
			continue
		}
		if i++; i == len(s) {
			return nil, invalid("uriRegexRewrite %q ends in a backslash", s)
		}
		switch c := s[i]; {
		case c == '\\':
			text = append(text, c)
		case '0' <= c && c <= '9' && int(c-'0') <= groups:
			if len(text) > 0 {
				out = append(out, segment{text: string(text)})
				text = text[:0]
			}
			out = append(out, segment{group: int(c - '0')})
		default:
			return nil, invalid("uriRegexRewrite %q: \\%c names no group", s, c)
		}
	}
	if len(text) > 0 {
		out = append(out, segment{text: string(text)})
	}
	return out, nil
}

// pathText reports whether s may stand in a request line.
func pathText(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] == 0x7f {
			return false
		}
	}
	return true
}

// RewritesPath reports whether AppendPath may change the path.
func (r *Rule) RewritesPath() bool { return r.rewrite.uri != "" || r.rewrite.regex != nil }

// RewritesAuthority reports whether AppendAuthority to d changes it.
func (r *Rule) RewritesAuthority(d *Destination) bool { return d.authority != "" }

// AppendAuthority appends the authority as it is sent upstream to d, which
// Pick returned.
func (r *Rule) AppendAuthority(dst []byte, d *Destination, authority []byte) []byte {
	if d.authority != "" {
		return append(dst, d.authority...)
	}
	return append(dst, authority...)
}

// AppendPath appends the path as it is sent upstream, query kept. match is
// what Match returned. It allocates only for uriRegexRewrite.
func (r *Rule) AppendPath(dst []byte, match int, path []byte) []byte {
	switch {
	case r.rewrite.whole:
		return appendReplaced(dst, pathed{whole: true}, r.rewrite.uri, path)
	case r.rewrite.uri != "":
		return appendReplaced(dst, r.at(match), r.rewrite.uri, path)
	case r.rewrite.regex != nil:
		return r.rewrite.appendRegex(dst, path)
	}
	return append(dst, path...)
}

func (r *Rule) at(match int) pathed {
	if match >= 0 && match < len(r.pathed) {
		return r.pathed[match]
	}
	return pathed{prefix: 1}
}

func appendReplaced(dst []byte, p pathed, with string, path []byte) []byte {
	n := min(p.prefix, len(path))
	if p.whole {
		n = pathEnd(path)
	}
	if p.elements {
		if with = strings.TrimSuffix(with, "/"); with == "" && (n == len(path) || path[n] != '/') {
			with = "/"
		}
	}
	dst = append(dst, with...)
	return append(dst, path[n:]...)
}

// appendRegex replaces every match in the path without its query, as RE2's
// GlobalReplace does; an empty result leaves the path as it was (Envoy).
func (w *rewrite) appendRegex(dst, path []byte) []byte {
	n, from := pathEnd(path), len(dst)
	last := 0
	for _, loc := range w.regex.FindAllSubmatchIndex(path[:n], -1) {
		dst = append(dst, path[last:loc[0]]...)
		for _, s := range w.template {
			if s.text != "" {
				dst = append(dst, s.text...)
			} else if loc[2*s.group] >= 0 {
				dst = append(dst, path[loc[2*s.group]:loc[2*s.group+1]]...)
			}
		}
		last = loc[1]
	}
	dst = append(dst, path[last:n]...)
	if len(dst) == from {
		return append(dst, path...)
	}
	return append(dst, path[n:]...)
}

func checkRedirect(p *seinev1.Redirect) error {
	switch p.Code {
	case 0, 301, 302, 303, 307, 308:
	default:
		return invalid("redirect code %d", p.Code)
	}
	if !pathText(p.Uri) || !pathText(p.Authority) || !pathText(p.Scheme) || !pathText(p.PrefixRewrite) || p.Port > 65535 {
		return invalid("the redirect holds a space, a control character or port %d", p.Port)
	}
	return nil
}

// RedirectStatus is the redirect's status, 301 by default.
func (r *Rule) RedirectStatus() int {
	if r.Redirect == nil || r.Redirect.Code == 0 {
		return 301
	}
	return int(r.Redirect.Code)
}

// AppendLocation appends the Location of a redirect. scheme is the request's
// if req.Scheme does not say it; port is the one that was dialled.
//
// It follows Istio's ApplyRedirect and Envoy's Utility::newUri: a port of the
// redirect replaces the request's, unless it is its scheme's default; a uri
// without a query keeps the request's.
func (r *Rule) AppendLocation(dst []byte, match int, req *message.Request, scheme string, port uint16) []byte {
	p := r.Redirect
	from := string(req.Scheme)
	if from == "" {
		from = scheme
	}
	to := from
	if p.Scheme != "" {
		to = p.Scheme
	}
	standard, newPort := p.Scheme, p.Port
	if p.PortFromRequest {
		newPort = uint32(port)
	}
	if standard == "" {
		standard = "http" // of a sidecar, which ends no TLS of the client's
		if p.ExactPort {
			standard = to
		}
	}
	if newPort == 80 && standard == "http" || newPort == 443 && standard == "https" {
		newPort = 0
	}
	dst = append(dst, to...)
	dst = append(dst, "://"...)
	if p.Authority != "" {
		dst = append(dst, p.Authority...)
	} else {
		host := req.Authority
		if i := portAt(host); i >= 0 {
			was := string(host[i:])
			if p.ExactPort || newPort != 0 || to != from && (from == "https" && was == ":443" || from == "http" && was == ":80") {
				host = host[:i]
			}
		}
		dst = append(dst, host...)
	}
	if newPort != 0 {
		dst = append(dst, ':')
		dst = strconv.AppendUint(dst, uint64(newPort), 10)
	}
	at := len(dst)
	switch {
	case p.PrefixRewrite != "":
		dst = appendReplaced(dst, r.at(match), p.PrefixRewrite, req.Path)
	case p.Uri != "":
		dst = append(dst, p.Uri...)
		if strings.IndexByte(p.Uri, '?') < 0 {
			for i, c := range req.Path {
				if c == '?' {
					dst = append(dst, req.Path[i:]...)
					break
				}
			}
		}
	default:
		dst = append(dst, req.Path...)
	}
	if len(dst) == at || dst[at] != '/' {
		dst = append(dst, 0)
		copy(dst[at+1:], dst[at:])
		dst[at] = '/'
	}
	return dst
}

// portAt is where ":PORT" begins in an authority, or -1.
func portAt(authority []byte) int {
	for i := len(authority) - 1; i >= 0; i-- {
		switch authority[i] {
		case ':':
			return i
		case ']':
			return -1
		}
	}
	return -1
}
