package config

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/mesh"
)

// maxCompared bounds the comparisons of one VirtualService's matches.
const maxCompared = 200_000

// unreachable reports rules of which every match is covered by an earlier rule,
// and matches that an earlier one of the same rule covers.
func (a *analysis) unreachable(vs *mesh.VirtualService) {
	type earlier struct {
		rule, match int // match -1: the rule has none and takes everything
		m           *seinev1.HttpMatch
	}
	var before []earlier
	compared := 0
	covering := func(m *seinev1.HttpMatch, list []earlier) *earlier {
		for i := range list {
			if compared++; compared > maxCompared {
				return nil
			}
			if covers(list[i].m, m, vs.Gateways) {
				return &list[i]
			}
		}
		return nil
	}
	for i, r := range vs.HTTP {
		matches := r.Match
		if len(matches) == 0 {
			matches = []*seinev1.HttpMatch{{}}
		}
		var own []earlier
		var first *earlier
		dead := 0
		for j, m := range matches {
			match := j
			if len(r.Match) == 0 {
				match = -1
			}
			if e := covering(m, before); e != nil {
				dead++
				if first == nil {
					first = e
				}
				continue
			}
			if e := covering(m, own); e != nil {
				a.note(vs.Ref, codeUselessMatch, Info, fmt.Sprintf("spec.http[%d].match[%d]", i, j), "has no effect: match[%d] of the same rule covers all that it matches", e.match)
				continue
			}
			own = append(own, earlier{i, match, m})
		}
		if dead == len(matches) {
			by := fmt.Sprintf("http[%d]", first.rule)
			if first.match >= 0 {
				by += fmt.Sprintf(".match[%d]", first.match)
			}
			if n := vs.HTTP[first.rule].Name; n != "" {
				by += " (" + n + ")"
			}
			what := "takes all that it would match"
			if first.match < 0 || empty(first.m) {
				what = "matches every request"
			}
			a.note(vs.Ref, codeUnreachable, Warning, fmt.Sprintf("spec.http[%d]", i), "can never be reached: %s before it %s; move this rule before it, or remove it", by, what)
		}
		before = append(before, own...)
	}
	for _, list := range []struct {
		kind  string
		rules []*seinev1.TcpRule
	}{{"tcp", vs.TCP}, {"tls", vs.TLS}} {
		var before []*seinev1.TcpMatch
		for i, r := range list.rules {
			matches := r.Match
			if len(matches) == 0 {
				matches = []*seinev1.TcpMatch{{}}
			}
			dead := 0
			for _, m := range matches {
				if compared += len(before); compared <= maxCompared && slices.ContainsFunc(before, func(e *seinev1.TcpMatch) bool { return coversTCP(e, m) }) {
					dead++
				}
			}
			if dead == len(matches) {
				a.note(vs.Ref, codeUnreachable, Warning, fmt.Sprintf("spec.%s[%d]", list.kind, i), "can never be reached: a rule before it takes all that it would match; move this rule before it, or remove it")
			}
			before = append(before, matches...)
		}
	}
}

func empty(m *seinev1.HttpMatch) bool {
	return m.Scheme == nil && m.Method == nil && m.Authority == nil && len(m.Headers) == 0 && len(m.Query) == 0 && m.Port == 0 &&
		len(m.SourceLabels) == 0 && m.SourceNamespace == "" && (m.Uri == nil || m.Uri.GetPrefix() == "/")
}

// covers reports whether every request that b matches is matched by a as well:
// each condition of a is one of b's, or weaker. It may say no where yes is true,
// never the other way round.
func covers(a, b *seinev1.HttpMatch, gateways []string) bool {
	if a.Port != 0 && a.Port != b.Port || a.SourceNamespace != "" && a.SourceNamespace != b.SourceNamespace {
		return false
	}
	for k, v := range a.SourceLabels {
		if b.SourceLabels[k] != v {
			return false
		}
	}
	if len(a.Gateways) > 0 {
		theirs := b.Gateways
		if len(theirs) == 0 {
			theirs = gateways
		}
		for _, g := range theirs {
			if !slices.Contains(a.Gateways, g) {
				return false
			}
		}
	}
	if !coversText(a.Uri, b.Uri, true) || !coversText(a.Scheme, b.Scheme, false) || !coversText(a.Method, b.Method, false) || !coversText(a.Authority, b.Authority, false) {
		return false
	}
	for _, h := range a.Headers {
		if !slices.ContainsFunc(b.Headers, func(x *seinev1.HeaderMatch) bool {
			if h.Name != x.Name || h.Invert != x.Invert {
				return false
			}
			if h.Invert { // not matching the weaker one is the stronger condition
				return coversText(x.Value, h.Value, false)
			}
			return coversText(h.Value, x.Value, false)
		}) {
			return false
		}
	}
	for _, q := range a.Query {
		if !slices.ContainsFunc(b.Query, func(x *seinev1.QueryMatch) bool { return q.Name == x.Name && coversText(q.Value, x.Value, false) }) {
			return false
		}
	}
	return true
}

// coversText reports whether whatever b matches, a matches too.
func coversText(a, b *seinev1.StringMatch, path bool) bool {
	if a == nil {
		return true
	}
	if path && (a.GetPrefix() == "/" || a.GetRegex() == ".*") {
		return true // every path begins with a slash
	}
	if b == nil {
		return false
	}
	if a.GetPresent() || proto.Equal(a, b) {
		return true
	}
	if b.IgnoreCase && !a.IgnoreCase {
		return false
	}
	fold := func(s string) string {
		if a.IgnoreCase {
			return strings.ToLower(s)
		}
		return s
	}
	switch x := a.Match.(type) {
	case *seinev1.StringMatch_Exact:
		y, ok := b.Match.(*seinev1.StringMatch_Exact)
		return ok && fold(x.Exact) == fold(y.Exact)
	case *seinev1.StringMatch_Prefix:
		switch y := b.Match.(type) {
		case *seinev1.StringMatch_Exact:
			return strings.HasPrefix(fold(y.Exact), fold(x.Prefix))
		case *seinev1.StringMatch_Prefix:
			return strings.HasPrefix(fold(y.Prefix), fold(x.Prefix))
		case *seinev1.StringMatch_Regex:
			// what every match of the regex begins with
			re, err := regexp.Compile(y.Regex)
			if err != nil {
				return false
			}
			literal, _ := re.LiteralPrefix()
			return literal != "" && strings.HasPrefix(fold(literal), fold(x.Prefix))
		}
	case *seinev1.StringMatch_Regex:
		if y, ok := b.Match.(*seinev1.StringMatch_Exact); ok {
			re, err := regexp.Compile("^(?:" + x.Regex + ")$")
			return err == nil && !b.IgnoreCase && re.MatchString(y.Exact)
		}
		return x.Regex == ".*"
	}
	return false
}

func coversTCP(a, b *seinev1.TcpMatch) bool {
	if a.Port != 0 && a.Port != b.Port || a.SourceNamespace != "" && a.SourceNamespace != b.SourceNamespace {
		return false
	}
	for k, v := range a.SourceLabels {
		if b.SourceLabels[k] != v {
			return false
		}
	}
	if len(a.Gateways) > 0 && !slices.Equal(a.Gateways, b.Gateways) {
		return false
	}
	// The longest subnet and the most specific name hold, whatever the order: only
	// the same ones are taken away. Without a subnet nothing comes after it.
	if len(a.SniHosts) == 0 && len(a.DestinationSubnets) == 0 {
		return true
	}
	return within(b.DestinationSubnets, a.DestinationSubnets) && within(b.SniHosts, a.SniHosts)
}

func within(some, all []string) bool {
	return (len(some) == 0) == (len(all) == 0) && !slices.ContainsFunc(some, func(s string) bool { return !slices.Contains(all, s) })
}
