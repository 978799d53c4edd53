package decide

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"google.golang.org/protobuf/types/known/durationpb"
)

func ops(s string) *seinev1.HeaderOps {
	if s == "" {
		return nil
	}
	o := &seinev1.HeaderOps{}
	for _, f := range strings.Fields(s) {
		name, value, _ := strings.Cut(f[1:], "=")
		switch f[0] {
		case '-':
			o.Remove = append(o.Remove, name)
		case '=':
			o.Set = append(o.Set, &seinev1.Header{Name: name, Value: value})
		case '+':
			o.Add = append(o.Add, &seinev1.Header{Name: name, Value: value})
		}
	}
	return o
}

// apply writes headers "a=1 b=2" with the edits, as a codec does.
func apply(e *Edits, headers string) string {
	var out []string
	for _, f := range strings.Fields(headers) {
		name, _, _ := strings.Cut(f, "=")
		if !e.Drops([]byte(name)) {
			out = append(out, f)
		}
	}
	for _, p := range e.Added() {
		out = append(out, p.Name+"="+p.Value)
	}
	return strings.Join(out, " ")
}

func TestEdits(t *testing.T) {
	tests := []struct {
		name             string
		rule, dest, also string // also: a second destination makes the first a weighted one
		headers, want    string
	}{
		{name: "nothing", headers: "a=1", want: "a=1"},
		{name: "remove", rule: "-A", headers: "a=1 A=2 b=3", want: "b=3"},
		{name: "set replaces all", rule: "=a=9", headers: "a=1 b=2 A=3", want: "b=2 a=9"},
		{name: "set makes", rule: "=a=9", headers: "b=2", want: "b=2 a=9"},
		{name: "add keeps", rule: "+a=9", headers: "a=1", want: "a=1 a=9"},
		{name: "remove, then set, then add", rule: "+a=3 =a=2 -a", headers: "a=1", want: "a=2 a=3"},
		{name: "names are lower case", rule: "=X-Up=1", headers: "x-up=0", want: "x-up=1"},
		{name: "an empty value adds nothing", rule: "=a=", headers: "a=1", want: "a=1"},
		{name: "lone destination comes after the rule", rule: "=a=rule", dest: "=a=dest", headers: "a=0", want: "a=dest"},
		{name: "lone destination: one level, set before add", rule: "+a=rule", dest: "=a=dest", headers: "a=0", want: "a=dest a=rule"},
		{name: "weighted: the rule is applied last", rule: "=a=rule", dest: "=a=dest", also: "b", headers: "a=0", want: "a=rule"},
		{name: "weighted: the rule adds to the destination's", rule: "+a=rule", dest: "=a=dest", also: "b", headers: "a=0", want: "a=dest a=rule"},
		{name: "weighted: the rule removes the destination's", rule: "-a", dest: "=a=dest", also: "b", headers: "a=0", want: ""},
		{name: "framing is the proxy's own", rule: "-content-length =transfer-encoding=chunked -Connection", headers: "content-length=3 connection=close", want: "content-length=3 connection=close"},
		{name: "host is no field", rule: "=Host=x -host", headers: "a=1", want: "a=1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := &seinev1.HttpRule{Destinations: to("d"), RequestHeaders: ops(tt.rule), ResponseHeaders: ops(tt.rule)}
			if tt.also != "" {
				r.Destinations = append(r.Destinations, to(tt.also)...)
			}
			r.Destinations[0].RequestHeaders, r.Destinations[0].ResponseHeaders = ops(tt.dest), ops(tt.dest)
			a := compile(t, &seinev1.Answer{Http: []*seinev1.HttpRule{r}})
			d := &a.Rules[0].Destinations[0]
			if got := apply(d.Request, tt.headers); got != tt.want {
				t.Errorf("request: %q, want %q", got, tt.want)
			}
			if got := apply(d.Response, tt.headers); got != tt.want {
				t.Errorf("response: %q, want %q", got, tt.want)
			}
		})
	}
}

func TestAppendPath(t *testing.T) {
	tests := []struct {
		name    string
		uri     *seinev1.StringMatch
		rewrite *seinev1.Rewrite
		path    string
		want    string
	}{
		{"none", prefix("/a"), nil, "/a?b", "/a?b"},
		{"authority only", prefix("/a"), &seinev1.Rewrite{Authority: "x"}, "/a?b", "/a?b"},
		{"prefix", prefix("/api"), &seinev1.Rewrite{Uri: "/v1"}, "/api/x?q", "/v1/x?q"},
		{"prefix is replaced as text", prefix("/api"), &seinev1.Rewrite{Uri: "/"}, "/api/x", "//x"},
		{"prefix with slash", prefix("/api/"), &seinev1.Rewrite{Uri: "/"}, "/api/x", "/x"},
		{"prefix without case", fold(prefix("/API")), &seinev1.Rewrite{Uri: "/v"}, "/aPi/x", "/v/x"},
		{"exact replaces all but the query", exact("/a/b"), &seinev1.Rewrite{Uri: "/c"}, "/a/b?q=1", "/c?q=1"},
		{"regex replaces all but the query", regex("/a.*"), &seinev1.Rewrite{Uri: "/c"}, "/abc?q=1", "/c?q=1"},
		{"no uri is the prefix /", nil, &seinev1.Rewrite{Uri: "/new/"}, "/abc?q", "/new/abc?q"},
		{"no uri, no slash at the end", nil, &seinev1.Rewrite{Uri: "/new"}, "/abc", "/newabc"},
		{"regex rewrite", prefix("/"), &seinev1.Rewrite{RegexMatch: "^/service/([^/]+)(/.*)$", RegexRewrite: `\2/instance/\1`}, "/service/foo/v1/api?q", "/v1/api/instance/foo?q"},
		{"regex rewrite of each", prefix("/"), &seinev1.Rewrite{RegexMatch: "one", RegexRewrite: "two"}, "/xxx/one/yyy/one/zzz", "/xxx/two/yyy/two/zzz"},
		{"regex rewrite, no match", prefix("/"), &seinev1.Rewrite{RegexMatch: "x", RegexRewrite: "two"}, "/abc", "/abc"},
		{"regex rewrite to nothing leaves the path", prefix("/"), &seinev1.Rewrite{RegexMatch: ".*", RegexRewrite: ""}, "/abc?q", "/abc?q"},
		{"regex rewrite, whole match and backslash", prefix("/"), &seinev1.Rewrite{RegexMatch: "b", RegexRewrite: `<\0\\>`}, "/abc", `/a<b\>c`},
		{"regex rewrite comes before uri", prefix("/"), &seinev1.Rewrite{Uri: "/x", RegexMatch: "a", RegexRewrite: "b"}, "/a", "/b"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rule := &seinev1.HttpRule{Destinations: to("d"), Rewrite: tt.rewrite}
			if tt.uri != nil {
				rule.Match = []*seinev1.HttpMatch{{Uri: tt.uri}}
			}
			a := compile(t, &seinev1.Answer{Http: []*seinev1.HttpRule{rule}})
			r, m := a.Match(request("GET", "h", tt.path), 80)
			if r == nil {
				t.Fatal("no match")
			}
			if got := string(r.AppendPath([]byte("-"), m, []byte(tt.path))); got != "-"+tt.want {
				t.Errorf("%q, want %q", got, "-"+tt.want)
			}
		})
	}
}

func TestAppendAuthority(t *testing.T) {
	tests := []struct {
		name, rewrite, rule, dest, want string
		weighted                        bool
	}{
		{name: "kept", want: "h:80"},
		{name: "rewrite", rewrite: "x", rule: "=host=y", dest: "=host=z", want: "x"},
		{name: "the rule's Host", rule: "=Host=y", dest: "=host=z", want: "y"},
		{name: "set before add", rule: "+host=a =:authority=s", want: "s"},
		{name: "the destination's Host", dest: "=HOST=z", want: "z"},
		{name: "weighted: the rule wins", rule: "=host=y", dest: "=host=z", weighted: true, want: "y"},
		{name: "weighted: the destination's", dest: "=host=z", weighted: true, want: "z"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rule := &seinev1.HttpRule{Destinations: to("d"), RequestHeaders: ops(tt.rule), Rewrite: &seinev1.Rewrite{Authority: tt.rewrite}}
			rule.Destinations[0].RequestHeaders = ops(tt.dest)
			if tt.weighted {
				rule.Destinations = append(rule.Destinations, to("e")...)
			}
			r := compile(t, &seinev1.Answer{Http: []*seinev1.HttpRule{rule}}).Rules[0]
			d := &r.Destinations[0]
			if got := string(r.AppendAuthority(nil, d, []byte("h:80"))); got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
			if r.RewritesAuthority(d) != (tt.want != "h:80") {
				t.Error("RewritesAuthority disagrees")
			}
		})
	}
}

func TestAppendLocation(t *testing.T) {
	tests := []struct {
		name      string
		uri       *seinev1.StringMatch
		redirect  *seinev1.Redirect
		scheme    string
		authority string
		path      string
		want      string
	}{
		{"path", nil, &seinev1.Redirect{Uri: "/new"}, "http", "h:8080", "/old", "http://h:8080/new"},
		{"query is kept", nil, &seinev1.Redirect{Uri: "/new"}, "http", "h", "/old?q=1", "http://h/new?q=1"},
		{"own query", nil, &seinev1.Redirect{Uri: "/new?a=b"}, "http", "h", "/old?q=1", "http://h/new?a=b"},
		{"no slash", nil, &seinev1.Redirect{Uri: "new"}, "http", "h", "/old", "http://h/new"},
		{"authority", nil, &seinev1.Redirect{Authority: "other"}, "http", "h:8080", "/old?q", "http://other/old?q"},
		{"scheme drops the old default port", nil, &seinev1.Redirect{Scheme: "https"}, "http", "h:80", "/", "https://h/"},
		{"scheme keeps another port", nil, &seinev1.Redirect{Scheme: "https"}, "http", "h:8080", "/", "https://h:8080/"},
		{"same scheme keeps :80", nil, &seinev1.Redirect{Uri: "/x"}, "http", "h:80", "/", "http://h:80/x"},
		{"port", nil, &seinev1.Redirect{Port: 8443, Scheme: "https"}, "http", "h:80", "/", "https://h:8443/"},
		{"default port is left out", nil, &seinev1.Redirect{Port: 443, Scheme: "https"}, "http", "h:80", "/", "https://h/"},
		{"default port of http leaves the request's", nil, &seinev1.Redirect{Port: 80}, "http", "h:8080", "/", "http://h:8080/"},
		{"port of the request", nil, &seinev1.Redirect{PortFromRequest: true, Authority: "o"}, "http", "h", "/", "http://o:15080/"},
		{"IPv6", nil, &seinev1.Redirect{Scheme: "https"}, "http", "[::1]:80", "/", "https://[::1]/"},
		{"IPv6 without port", nil, &seinev1.Redirect{Port: 81}, "http", "[::1]", "/", "http://[::1]:81/"},
		{"prefix", prefix("/old"), &seinev1.Redirect{PrefixRewrite: "/new"}, "http", "h", "/old/x?q", "http://h/new/x?q"},
		{"request scheme", nil, &seinev1.Redirect{Uri: "/x"}, "https", "h", "/", "https://h/x"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rule := &seinev1.HttpRule{Redirect: tt.redirect}
			if tt.uri != nil {
				rule.Match = []*seinev1.HttpMatch{{Uri: tt.uri}}
			}
			a := compile(t, &seinev1.Answer{Http: []*seinev1.HttpRule{rule}})
			req := request("GET", tt.authority, tt.path)
			r, m := a.Match(req, 15080)
			if got := string(r.AppendLocation(nil, m, req, tt.scheme, 15080)); got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
			if r.RedirectStatus() != 301 {
				t.Error(r.RedirectStatus())
			}
		})
	}
}

func TestPickIsFair(t *testing.T) {
	a := compile(t, &seinev1.Answer{Http: []*seinev1.HttpRule{{Destinations: []*seinev1.Destination{
		{Host: "v1", Port: 80, Weight: 90}, {Host: "v2", Port: 80, Weight: 10}, {Host: "off", Port: 80},
	}}}})
	r := a.Rules[0]
	if len(r.Destinations) != 2 {
		t.Fatalf("%d destinations: weight 0 is left out", len(r.Destinations))
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	n := map[string]int{}
	for range 100_000 {
		n[r.Pick(rnd.Uint64()).Host]++
	}
	// Binomial with p=0.1: σ = 95; the seed is fixed, the bound is 4σ.
	if n["v2"] < 10_000-380 || n["v2"] > 10_000+380 {
		t.Errorf("v2 has %d of 100000", n["v2"])
	}
	if r.Pick(0).Host != "v1" || r.Pick(^uint64(0)).Host != "v2" {
		t.Error("the ends of the draw")
	}
}

func TestPickWithoutWeight(t *testing.T) {
	one := compile(t, &seinev1.Answer{Http: []*seinev1.HttpRule{{Destinations: []*seinev1.Destination{{Host: "a", Port: 80}}}}})
	if d := one.Rules[0].Pick(5); d == nil || d.Key != "a/80" {
		t.Errorf("a lone destination needs no weight: %v", d)
	}
	none := compile(t, &seinev1.Answer{Http: []*seinev1.HttpRule{{Destinations: []*seinev1.Destination{{Host: "a", Port: 80}, {Host: "b", Port: 80}}}}})
	if d := none.Rules[0].Pick(5); d != nil {
		t.Errorf("all weights zero: %v", d)
	}
}

func TestRuleIdentity(t *testing.T) {
	a := compile(t, &seinev1.Answer{Http: []*seinev1.HttpRule{
		{Index: 2, Source: &seinev1.Ref{Kind: "VirtualService", Namespace: "default", Name: "billing-route"}, Destinations: to("a"), Timeout: durationpb.New(3 * time.Second)},
		{Source: &seinev1.Ref{Kind: "Service", Namespace: "default", Name: "billing"}, Destinations: to("a")},
	}})
	if a.Rules[0].ID != "default/billing-route[2]" || a.Rules[1].ID != "default/billing" {
		t.Error(a.Rules[0].ID, a.Rules[1].ID)
	}
	if a.Rules[0].Timeout != 3*time.Second {
		t.Error(a.Rules[0].Timeout)
	}
}

func TestCompileRefuses(t *testing.T) {
	http := func(r *seinev1.HttpRule) *seinev1.Answer { return &seinev1.Answer{Http: []*seinev1.HttpRule{r}} }
	for name, a := range map[string]*seinev1.Answer{
		"bad regex":           http(&seinev1.HttpRule{Match: []*seinev1.HttpMatch{{Uri: regex("(")}}}),
		"unbalanced regex":    http(&seinev1.HttpRule{Match: []*seinev1.HttpMatch{{Uri: regex("a)(b")}}}),
		"bad header regex":    http(&seinev1.HttpRule{Match: []*seinev1.HttpMatch{{Headers: []*seinev1.HeaderMatch{{Name: "a", Value: regex("[")}}}}}),
		"line break":          http(&seinev1.HttpRule{RequestHeaders: &seinev1.HeaderOps{Set: []*seinev1.Header{{Name: "a", Value: "b\r\nc: d"}}}}),
		"no header name":      http(&seinev1.HttpRule{RequestHeaders: &seinev1.HeaderOps{Set: []*seinev1.Header{{Name: "a b", Value: "b"}}}}),
		"line break in host":  http(&seinev1.HttpRule{Rewrite: &seinev1.Rewrite{Authority: "a\n"}}),
		"space in path":       http(&seinev1.HttpRule{Rewrite: &seinev1.Rewrite{Uri: "/a b"}}),
		"no such group":       http(&seinev1.HttpRule{Rewrite: &seinev1.Rewrite{RegexMatch: "a", RegexRewrite: `\1`}}),
		"backslash at end":    http(&seinev1.HttpRule{Rewrite: &seinev1.Rewrite{RegexMatch: "a", RegexRewrite: `\`}}),
		"redirect code":       http(&seinev1.HttpRule{Redirect: &seinev1.Redirect{Code: 304}}),
		"redirect line break": http(&seinev1.HttpRule{Redirect: &seinev1.Redirect{Uri: "/\n"}}),
		"status":              http(&seinev1.HttpRule{DirectResponse: &seinev1.DirectResponse{Status: 99}}),
		"no port":             http(&seinev1.HttpRule{Destinations: []*seinev1.Destination{{Host: "a"}}}),
		"timeout":             http(&seinev1.HttpRule{Timeout: durationpb.New(-time.Second)}),
		"subnet":              {Tcp: []*seinev1.TcpRule{{Match: []*seinev1.TcpMatch{{DestinationSubnets: []string{"x"}}}}}},
	} {
		if _, err := CompileAnswer(a); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestMatchTCP(t *testing.T) {
	a := compile(t, &seinev1.Answer{Tcp: []*seinev1.TcpRule{
		{Index: 0, Match: []*seinev1.TcpMatch{{Port: 1}, {DestinationSubnets: []string{"10.1.0.0/16", "10.9.9.9"}}}, Destinations: to("a")},
		{Index: 1, Match: []*seinev1.TcpMatch{{Port: 2}}, Destinations: to("b")},
	}})
	for addr, want := range map[string]int{"9.9.9.9:1": 0, "10.1.2.3:5": 0, "[::ffff:10.9.9.9]:5": 0, "9.9.9.9:2": 1, "9.9.9.9:3": -1} {
		got := -1
		if r := a.MatchTCP(netip.MustParseAddrPort(addr), ""); r != nil {
			got = int(r.Proto.Index)
			if r.Pick(1) == nil {
				t.Error("no destination")
			}
		}
		if got != want {
			t.Errorf("%s: rule %d, want %d", addr, got, want)
		}
	}
}

// TestMatchTLS holds that rules are chosen as Envoy chooses filter chains.
func TestMatchTLS(t *testing.T) {
	rule := func(i int32, m ...*seinev1.TcpMatch) *seinev1.TcpRule {
		return &seinev1.TcpRule{Index: i, Tls: true, Match: m, Source: &seinev1.Ref{Kind: "VirtualService", Namespace: "ns", Name: "v"}, Destinations: to("a")}
	}
	sni := func(hosts ...string) *seinev1.TcpMatch { return &seinev1.TcpMatch{SniHosts: hosts} }
	a := compile(t, &seinev1.Answer{Tcp: []*seinev1.TcpRule{
		rule(0, sni("*.example.com")), rule(1, sni("A.example.com", "b.example.com")), rule(2, sni("*.eu.example.com")), rule(3, sni("*.eu.example.com")),
		rule(4, &seinev1.TcpMatch{SniHosts: []string{"*"}, DestinationSubnets: []string{"10.0.0.0/8"}}),
		rule(5, &seinev1.TcpMatch{SniHosts: []string{"x.org"}, DestinationSubnets: []string{"10.1.0.0/16", "10.2.0.0/16"}}),
		rule(6),
	}})
	if !a.Sniffed() || a.TCP[1].ID != "ns/v.tls[1]" {
		t.Error(a.Sniffed(), a.TCP[1].ID)
	}
	for _, c := range []struct {
		addr, sni string
		want      int32
	}{
		{"9.9.9.9:443", "a.example.com", 1},
		{"9.9.9.9:443", "b.example.com", 1},
		{"9.9.9.9:443", "c.example.com", 0},
		{"9.9.9.9:443", "x.y.example.com", 0},
		{"9.9.9.9:443", "a.eu.example.com", 2}, // the longest, then the first
		{"9.9.9.9:443", "eu.example.com", 0},
		{"9.9.9.9:443", "example.com", 6},
		{"9.9.9.9:443", "", 6},
		{"10.9.9.9:443", "a.example.com", 4}, // the subnet counts more
		{"10.9.9.9:443", "", 4},
		{"10.1.9.9:443", "x.org", 5},
		{"10.1.9.9:443", "a.example.com", 4},
	} {
		if r := a.MatchTCP(netip.MustParseAddrPort(c.addr), c.sni); r == nil || r.Proto.Index != c.want {
			t.Errorf("%s %q: %v, want %d", c.addr, c.sni, r.Proto, c.want)
		}
	}
}

func TestServerName(t *testing.T) {
	for in, want := range map[string]string{
		"A.Example.com": "a.example.com", "a_b-c.x1": "a_b-c.x1", "": "", "10.0.0.1": "", "::1": "", "*.example.com": "",
		"a..b": "", ".a": "", "a.": "", "-a": "", "a b": "", "a/b": "", "é.com": "", strings.Repeat("a", 254): "",
	} {
		if got := ServerName([]byte(in)); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		} else if _, err := seinev1.ParseAnswerName(string(AppendTLSName(nil, 443, got))); (err == nil) != (got != "") {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func TestNames(t *testing.T) {
	for authority, want := range map[string]string{
		"Shop:8080": "http/80/shop", "shop.": "http/80/shop", "shop.:80": "http/80/shop", "[::1]:80": "http/80/::1",
		"[::1]": "http/80/::1", "10.0.0.1:1": "http/80/10.0.0.1", "": "http/80/", "[bad": "http/80/[bad",
	} {
		if got := string(AppendHTTPName(nil, 80, []byte(authority))); got != want {
			t.Errorf("%q: %q, want %q", authority, got, want)
		}
	}
	if got := string(AppendAddressName(nil, netip.MustParseAddrPort("[::ffff:10.0.0.1]:80"))); got != "addr/10.0.0.1:80" {
		t.Error(got)
	}
	if got := string(AppendAddressName(nil, netip.MustParseAddrPort("[fd00::1]:80"))); got != "addr/[fd00::1]:80" {
		t.Error(got)
	}
}
