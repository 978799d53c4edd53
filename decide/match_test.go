package decide

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/message"
)

func exact(s string) *seinev1.StringMatch {
	return &seinev1.StringMatch{Match: &seinev1.StringMatch_Exact{Exact: s}}
}

func prefix(s string) *seinev1.StringMatch {
	return &seinev1.StringMatch{Match: &seinev1.StringMatch_Prefix{Prefix: s}}
}

func regex(s string) *seinev1.StringMatch {
	return &seinev1.StringMatch{Match: &seinev1.StringMatch_Regex{Regex: s}}
}

func present() *seinev1.StringMatch {
	return &seinev1.StringMatch{Match: &seinev1.StringMatch_Present{Present: true}}
}

func fold(m *seinev1.StringMatch) *seinev1.StringMatch {
	m.IgnoreCase = true
	return m
}

// request reads "METHOD AUTHORITY PATH name: value|name: value".
func request(method, authority, path string, headers ...string) *message.Request {
	r := &message.Request{Method: []byte(method), Authority: []byte(authority), Path: []byte(path), Minor: 1}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Fields = append(r.Fields, message.Field{ID: message.Intern([]byte(name)), Name: []byte(name), Value: []byte(value)})
	}
	return r
}

func to(hosts ...string) []*seinev1.Destination {
	var out []*seinev1.Destination
	for _, h := range hosts {
		out = append(out, &seinev1.Destination{Host: h, Port: 80, Weight: 1})
	}
	return out
}

func compile(t testing.TB, a *seinev1.Answer) *Answer {
	t.Helper()
	c, err := CompileAnswer(a)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func oneRule(t testing.TB, m *seinev1.HttpMatch) *Answer {
	return compile(t, &seinev1.Answer{Kind: seinev1.Answer_ROUTES, Http: []*seinev1.HttpRule{{
		Match: []*seinev1.HttpMatch{m}, Destinations: to("a"),
	}}})
}

func TestMatchConditions(t *testing.T) {
	get := func(path string, h ...string) *message.Request { return request("GET", "shop:8080", path, h...) }
	header := func(name string, v *seinev1.StringMatch) *seinev1.HttpMatch {
		return &seinev1.HttpMatch{Headers: []*seinev1.HeaderMatch{{Name: name, Value: v}}}
	}
	without := func(name string, v *seinev1.StringMatch) *seinev1.HttpMatch {
		return &seinev1.HttpMatch{Headers: []*seinev1.HeaderMatch{{Name: name, Value: v, Invert: true}}}
	}
	query := func(name string, v *seinev1.StringMatch) *seinev1.HttpMatch {
		return &seinev1.HttpMatch{Query: []*seinev1.QueryMatch{{Name: name, Value: v}}}
	}
	uri := func(v *seinev1.StringMatch) *seinev1.HttpMatch { return &seinev1.HttpMatch{Uri: v} }
	tests := []struct {
		name  string
		match *seinev1.HttpMatch
		req   *message.Request
		want  bool
	}{
		{"empty match takes all", &seinev1.HttpMatch{}, get("/"), true},
		{"exact", uri(exact("/a")), get("/a"), true},
		{"exact does not see the query", uri(exact("/a")), get("/a?b=c"), true},
		{"exact does not see the fragment", uri(exact("/a")), get("/a#x"), true},
		{"exact is whole", uri(exact("/a")), get("/a/"), false},
		{"exact has case", uri(exact("/a")), get("/A"), false},
		{"exact without case", uri(fold(exact("/a"))), get("/A"), true},
		{"exact without case, longer", uri(fold(exact("/a"))), get("/Ab"), false},
		{"prefix", uri(prefix("/api")), get("/api/x"), true},
		{"prefix is plain text", uri(prefix("/api")), get("/apix"), true},
		{"prefix, shorter path", uri(prefix("/api")), get("/ap"), false},
		{"prefix does not see the query", uri(prefix("/a?")), get("/a?x"), false},
		{"prefix without case", uri(fold(prefix("/API"))), get("/aPi/x"), true},
		{"regex is whole", uri(regex("/a.")), get("/abc"), false},
		{"regex", uri(regex("/a.*")), get("/abc?x"), true},
		{"regex alternation is whole", uri(regex("/a|/b")), get("/bc"), false},
		{"regex alternation", uri(regex("/a|/b")), get("/b"), true},
		{"regex with flags", uri(regex("(?i)/ABC")), get("/abc"), true},
		{"regex keeps its case though ignoreUriCase", uri(fold(regex("/ABC"))), get("/abc"), false},
		{"regex with suffix", uri(regex(".*/users")), get("/v1/users"), true},
		{"regex with suffix, other", uri(regex(".*/users")), get("/v1/user"), false},
		{"regex star is presence", uri(regex("*")), get("/any"), true},
		{"method", &seinev1.HttpMatch{Method: exact("POST")}, get("/"), false},
		{"method regex", &seinev1.HttpMatch{Method: regex("GET|HEAD")}, get("/"), true},
		{"scheme defaults to http", &seinev1.HttpMatch{Scheme: exact("http")}, get("/"), true},
		{"scheme", &seinev1.HttpMatch{Scheme: exact("https")}, get("/"), false},
		{"authority holds the port, as in Istio", &seinev1.HttpMatch{Authority: exact("shop")}, get("/"), false},
		{"authority with port", &seinev1.HttpMatch{Authority: exact("shop:8080")}, get("/"), true},
		{"authority prefix", &seinev1.HttpMatch{Authority: prefix("shop")}, get("/"), true},
		{"port", &seinev1.HttpMatch{Port: 8080}, get("/"), true},
		{"other port", &seinev1.HttpMatch{Port: 8081}, get("/"), false},
		{"header", header("x-user", exact("a")), get("/", "X-User: a"), true},
		{"header value has case", header("x-user", exact("a")), get("/", "X-User: A"), false},
		{"header missing", header("x-user", exact("a")), get("/"), false},
		{"header missing is not empty", header("x-user", exact("")), get("/"), false},
		{"header regex that takes empty, missing", header("x-user", regex(".*")), get("/"), false},
		{"header present", header("x-user", present()), get("/", "x-user: "), true},
		{"header present by absent match", header("x-user", nil), get("/", "x-user: z"), true},
		{"header present by star", header("x-user", regex("*")), get("/", "x-user: z"), true},
		{"header not present", header("x-user", present()), get("/"), false},
		{"header prefix", header("x-user", prefix("ab")), get("/", "x-user: abc"), true},
		{"header twice is joined", header("x-user", exact("a,b")), get("/", "X-User: a", "x-user: b"), true},
		{"header twice, one value", header("x-user", exact("a")), get("/", "X-User: a", "x-user: b"), false},
		{"header thrice with others between", header("a", exact("1,2,3")), get("/", "a: 1", "b: x", "A: 2", "a: 3"), true},
		{"header host is the authority", header("host", exact("shop:8080")), get("/"), true},
		{"header :path has the query", header(":path", exact("/a?b")), get("/a?b"), true},
		{"header :method", header(":method", exact("GET")), get("/"), true},
		{"without, absent", without("x-user", present()), get("/"), true},
		{"without, present", without("x-user", present()), get("/", "x-user: a"), false},
		{"without value, absent", without("x-user", exact("a")), get("/"), true},
		{"without value, other", without("x-user", exact("a")), get("/", "x-user: b"), true},
		{"without value, same", without("x-user", exact("a")), get("/", "x-user: a"), false},
		{"without empty value, absent counts as empty", without("x-user", exact("")), get("/"), false},
		{"query", query("v", exact("1")), get("/?v=1"), true},
		{"query, second", query("v", exact("1")), get("/?a=2&v=1&v=2"), true},
		{"query takes the first value", query("v", exact("2")), get("/?v=1&v=2"), false},
		{"query missing", query("v", exact("1")), get("/?w=1"), false},
		{"query without value", query("v", exact("")), get("/?v"), true},
		{"query present", query("v", present()), get("/?v"), true},
		{"query present, missing", query("v", present()), get("/"), false},
		{"query is not decoded", query("v", exact("a b")), get("/?v=a%20b"), false},
		{"query regex", query("v", regex("[0-9]+")), get("/?v=42"), true},
		{"all conditions", &seinev1.HttpMatch{Uri: prefix("/a"), Method: exact("GET"), Port: 8080,
			Headers: []*seinev1.HeaderMatch{{Name: "x", Value: exact("1")}}}, get("/a", "x: 1"), true},
		{"all conditions but one", &seinev1.HttpMatch{Uri: prefix("/a"), Method: exact("GET"), Port: 8080,
			Headers: []*seinev1.HeaderMatch{{Name: "x", Value: exact("1")}}}, get("/a", "x: 2"), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, _ := oneRule(t, tt.match).Match(tt.req, 8080)
			if got := r != nil; got != tt.want {
				t.Errorf("match is %v, want %v", got, tt.want)
			}
		})
	}
}

func TestFirstMatchWins(t *testing.T) {
	a := compile(t, &seinev1.Answer{Http: []*seinev1.HttpRule{
		{Index: 0, Match: []*seinev1.HttpMatch{{Uri: exact("/a/b")}, {Uri: prefix("/x")}}, Destinations: to("0")},
		{Index: 1, Match: []*seinev1.HttpMatch{{Uri: prefix("/a")}}, Destinations: to("1")},
		{Index: 2, Match: []*seinev1.HttpMatch{{Uri: exact("/a/c")}}, Destinations: to("2")},
		{Index: 3, Destinations: to("3")},
		{Index: 4, Match: []*seinev1.HttpMatch{{Uri: exact("/never")}}, Destinations: to("4")},
	}})
	for path, want := range map[string][2]int{"/a/b": {0, 0}, "/x/y": {0, 1}, "/a/c": {1, 0}, "/": {3, -1}, "/never": {3, -1}} {
		r, m := a.Match(request("GET", "h", path), 80)
		if r == nil || int(r.Proto.Index) != want[0] || m != want[1] {
			t.Errorf("%s: rule %v, match %d, want %v", path, r, m, want)
		}
	}
	if r, m := compile(t, &seinev1.Answer{}).Match(request("GET", "h", "/"), 80); r != nil || m != -1 {
		t.Errorf("no rules: %v, %d", r, m)
	}
}

// naive is the plain reading of the rules, in order, with nothing compiled but
// the regular expressions.
func naive(a *seinev1.Answer, req *message.Request, port uint32) (rule, match int) {
	for i, r := range a.Http {
		if len(r.Match) == 0 {
			return i, -1
		}
		for j, m := range r.Match {
			if naiveMatch(m, req, port) {
				return i, j
			}
		}
	}
	return -1, -1
}

func naiveValue(m *seinev1.StringMatch, v string) bool {
	switch k := m.GetMatch().(type) {
	case *seinev1.StringMatch_Exact:
		return v == k.Exact || m.IgnoreCase && strings.EqualFold(v, k.Exact)
	case *seinev1.StringMatch_Prefix:
		return strings.HasPrefix(v, k.Prefix) || m.IgnoreCase && strings.HasPrefix(strings.ToLower(v), strings.ToLower(k.Prefix))
	case *seinev1.StringMatch_Regex:
		return regexp.MustCompile("^(?:" + k.Regex + ")$").MatchString(v)
	}
	return true
}

func naiveMatch(m *seinev1.HttpMatch, req *message.Request, port uint32) bool {
	path := string(req.Path)
	if i := strings.IndexAny(path, "?#"); i >= 0 {
		path = path[:i]
	}
	if m.Port != 0 && m.Port != port || !m.PathElements && !naiveValue(m.Uri, path) || !naiveValue(m.Method, string(req.Method)) {
		return false
	}
	if p := strings.TrimSuffix(m.Uri.GetPrefix(), "/"); m.PathElements && path != p && !strings.HasPrefix(path, p+"/") && p != "" {
		return false
	}
	for _, h := range m.Headers {
		var vs []string
		for _, f := range req.Fields {
			if strings.EqualFold(string(f.Name), h.Name) {
				vs = append(vs, string(f.Value))
			}
		}
		ok := len(vs) > 0 && naiveValue(h.Value, strings.Join(vs, ","))
		if _, p := h.Value.GetMatch().(*seinev1.StringMatch_Present); !p && h.Invert && len(vs) == 0 {
			ok = naiveValue(h.Value, "")
		}
		if ok == h.Invert {
			return false
		}
	}
	return true
}

// randomRules makes rules out of a small alphabet, so that they overlap.
func randomRules(r *rand.Rand, n int) *seinev1.Answer {
	paths := []string{"/", "/a", "/a/", "/a/b", "/ab", "/ab/c", "/b", "/b/a", "/A", "/a/b/c"}
	exprs := []string{"/a.*", "/a|/b", ".*b", "/[ab]/.*", "/a(/b)?", ".*", "/ab+c?", "(?i)/A.*", "/a/.*/c", `/a\b.*`, "(/a)+.*"}
	pick := func(s []string) string { return s[r.IntN(len(s))] }
	value := func() *seinev1.StringMatch {
		m := []*seinev1.StringMatch{exact(pick(paths)), prefix(pick(paths)), regex(pick(exprs))}[r.IntN(3)]
		m.IgnoreCase = r.IntN(5) == 0 && m.GetRegex() == ""
		return m
	}
	a := &seinev1.Answer{}
	for i := range n {
		rule := &seinev1.HttpRule{Index: int32(i), Destinations: to(fmt.Sprint("h", i))}
		for range 1 + r.IntN(2) {
			m := &seinev1.HttpMatch{}
			if r.IntN(10) > 0 {
				m.Uri = value()
				m.PathElements = m.Uri.GetPrefix() != "" && !m.Uri.IgnoreCase && r.IntN(2) == 0
			}
			if r.IntN(3) == 0 {
				m.Method = exact("GET")
			}
			if r.IntN(2) == 0 {
				v := exact(pick([]string{"1", "2", "1,2", ""}))
				if r.IntN(4) == 0 {
					v = present()
				}
				m.Headers = append(m.Headers, &seinev1.HeaderMatch{
					Name: fmt.Sprint("h", r.IntN(24)), Value: v, Invert: r.IntN(3) == 0})
			}
			if r.IntN(6) == 0 {
				m.Port = 80
			}
			rule.Match = append(rule.Match, m)
		}
		a.Http = append(a.Http, rule)
	}
	return a
}

func FuzzMatch(f *testing.F) {
	f.Add(uint64(1), 40, "/a/b", "POST", "h1", "1", "2")
	f.Add(uint64(2), 5, "/ab/c?x", "GET", "H2", "1", "")
	f.Add(uint64(3), 200, "/", "GET", "h3", "", "")
	f.Add(uint64(4), 12, "*", "OPTIONS", "h20", "2", "")
	f.Fuzz(func(t *testing.T, seed uint64, n int, path, method, name, v1, v2 string) {
		if n < 0 || n > 300 {
			return
		}
		for i := range len(path) {
			if path[i] < ' ' || path[i] >= 0x7f {
				return // a parser has refused it
			}
		}
		for i := range len(name) {
			if name[i] >= 0x7f {
				return
			}
		}
		p := randomRules(rand.New(rand.NewPCG(seed, 1)), n)
		a := compile(t, p)
		req := request(method, "h", path)
		for _, v := range []string{v1, v2} {
			if v != "" {
				req.Fields = append(req.Fields, message.Field{Name: []byte(name), Value: []byte(v)})
			}
		}
		for _, port := range []uint32{80, 81} {
			wantRule, wantMatch := naive(p, req, port)
			r, m := a.Match(req, port)
			rule := -1
			if r != nil {
				rule = int(r.Proto.Index)
			}
			if rule != wantRule || m != wantMatch {
				t.Fatalf("%s %s: rule %d match %d, want rule %d match %d", method, path, rule, m, wantRule, wantMatch)
			}
		}
	})
}

// TestMatchDiffers runs the fuzzer's property over many requests each time.
func TestMatchDiffers(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	paths := []string{"/", "/a", "/a/", "/a/b", "/ab", "/ab/c", "/b", "/A", "/A/B", "/a/b/c", "/abbbc", "/a/x/c", "/z?a", "/a?b", "*"}
	for round := range 300 {
		p := randomRules(r, []int{1, 5, 9, 30, 120}[round%5])
		a := compile(t, p)
		for range 60 {
			req := request([]string{"GET", "PUT"}[r.IntN(2)], "h", paths[r.IntN(len(paths))])
			for range r.IntN(4) {
				req.Fields = append(req.Fields, message.Field{
					Name: fmt.Append(nil, "H", r.IntN(24)), Value: []byte([]string{"1", "2"}[r.IntN(2)])})
			}
			wantRule, wantMatch := naive(p, req, 80)
			rule := -1
			got, m := a.Match(req, 80)
			if got != nil {
				rule = int(got.Proto.Index)
			}
			if rule != wantRule || m != wantMatch {
				t.Fatalf("round %d, %s %s %v: rule %d match %d, want %d %d", round, req.Method, req.Path, req.Fields, rule, m, wantRule, wantMatch)
			}
		}
	}
}

func FuzzLiterals(f *testing.F) {
	for _, s := range []string{"/a.*b", "a|b", "(ab)+c", "(?i)ab", "a?b", "^/a$", "x{2,3}y", `\Qa.b\E.*`, "[ab]c", "(?m)^a$", `\bab`, ""} {
		f.Add(s, "/axb")
		f.Add(s, "ababc")
	}
	f.Fuzz(func(t *testing.T, expr, text string) {
		re, err := CompileRegex(expr)
		if err != nil {
			return
		}
		l := findLiterals(expr)
		if re.MatchString(text) && !l.in([]byte(text)) {
			t.Fatalf("%q matches %q but lacks %q", expr, text, l)
		}
	})
}

func TestLiterals(t *testing.T) {
	for expr, want := range map[string]literals{
		"/svc1/.*":             {prefix: "/svc1/"},
		".*/users":             {suffix: "/users"},
		"/v[0-9]+/users/.*":    {prefix: "/v", inner: "/users/"},
		"^/a(/b)c$":            {prefix: "/a/bc", suffix: "/a/bc"},
		"(?i)/a":               {},
		"/a|/b":                {prefix: "/"}, // the parser factors it out
		".*session=jason(;.*)": {inner: "session=jason;"},
	} {
		if got := findLiterals(expr); got != want {
			t.Errorf("%s: %+v, want %+v", expr, got, want)
		}
	}
}
