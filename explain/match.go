package explain

import (
	"fmt"
	"strings"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/decide"
	"github.com/seinemesh/seine/message"
)

// condition is one of a match's, as a match of its own and as words.
type condition struct {
	match       *seinev1.HttpMatch
	name, wants string
	got         func(*message.Request) string
}

func conditions(m *seinev1.HttpMatch) []condition {
	var out []condition
	add := func(c *seinev1.HttpMatch, name string, wants string, got func(*message.Request) string) {
		out = append(out, condition{c, name, wants, got})
	}
	if m.Uri != nil {
		text := wants(m.Uri)
		if m.PathElements {
			text += " of whole elements"
		}
		add(&seinev1.HttpMatch{Uri: m.Uri, PathElements: m.PathElements}, "the path", text, func(r *message.Request) string {
			path, _, _ := strings.Cut(string(r.Path), "?")
			return quoted(path)
		})
	}
	if m.Method != nil {
		add(&seinev1.HttpMatch{Method: m.Method}, "the method", wants(m.Method), func(r *message.Request) string { return quoted(string(r.Method)) })
	}
	if m.Scheme != nil {
		add(&seinev1.HttpMatch{Scheme: m.Scheme}, "the scheme", wants(m.Scheme), func(r *message.Request) string { return quoted(string(r.Scheme)) })
	}
	if m.Authority != nil {
		add(&seinev1.HttpMatch{Authority: m.Authority}, "the authority", wants(m.Authority), func(r *message.Request) string { return quoted(string(r.Authority)) })
	}
	for _, h := range m.Headers {
		text := wants(h.Value)
		if h.Invert {
			text = "not " + text
		}
		add(&seinev1.HttpMatch{Headers: []*seinev1.HeaderMatch{h}}, "the header "+h.Name, text, func(r *message.Request) string {
			var values []string
			for _, f := range r.Fields {
				if message.EqualFold(f.Name, h.Name) {
					values = append(values, string(f.Value))
				}
			}
			if h.Name == "host" {
				return quoted(string(r.Authority))
			}
			if len(values) == 0 {
				return "not there"
			}
			return quoted(strings.Join(values, ","))
		})
	}
	for _, q := range m.Query {
		add(&seinev1.HttpMatch{Query: []*seinev1.QueryMatch{q}}, "the query parameter "+q.Name, wants(q.Value), func(r *message.Request) string {
			_, query, _ := strings.Cut(string(r.Path), "?")
			v, ok := decide.Query([]byte(query), q.Name)
			if !ok {
				return "not there"
			}
			return quoted(string(v))
		})
	}
	return out
}

func quoted(s string) string { return fmt.Sprintf("%q", s) }

func wants(m *seinev1.StringMatch) string {
	text := "present"
	switch v := m.GetMatch().(type) {
	case *seinev1.StringMatch_Exact:
		text = fmt.Sprintf("exactly %q", v.Exact)
	case *seinev1.StringMatch_Prefix:
		text = fmt.Sprintf("prefix %q", v.Prefix)
	case *seinev1.StringMatch_Regex:
		if v.Regex != "*" {
			text = fmt.Sprintf("regex %q", v.Regex)
		}
	}
	if m.GetIgnoreCase() {
		text += " in any case"
	}
	return text
}

// Describe says what a match wants.
func Describe(m *seinev1.HttpMatch) string {
	var out []string
	for _, c := range conditions(m) {
		out = append(out, strings.TrimPrefix(c.name, "the ")+" "+c.wants)
	}
	if m.Port != 0 {
		out = append(out, fmt.Sprintf("port %d", m.Port))
	}
	for _, k := range sorted(m.SourceLabels) {
		out = append(out, "caller "+k+"="+m.SourceLabels[k])
	}
	if m.SourceNamespace != "" {
		out = append(out, "caller in namespace "+m.SourceNamespace)
	}
	if len(out) == 0 {
		return "everything"
	}
	return strings.Join(out, ", ")
}

// mismatch says which conditions the request fails. Each is asked of decide as
// a rule of its own.
func mismatch(m *seinev1.HttpMatch, head *message.Request, port uint32) string {
	var out []string
	for _, c := range conditions(m) {
		a, err := decide.CompileAnswer(&seinev1.Answer{Http: []*seinev1.HttpRule{{
			Match: []*seinev1.HttpMatch{c.match}, DirectResponse: &seinev1.DirectResponse{Status: 200},
		}}})
		if err != nil {
			return err.Error()
		}
		if r, _ := a.Match(head, port); r == nil {
			out = append(out, fmt.Sprintf("%s is %s, not %s", c.name, c.got(head), c.wants))
		}
	}
	return strings.Join(out, " and ")
}
