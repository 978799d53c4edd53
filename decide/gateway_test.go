package decide

import (
	"errors"
	"net/netip"
	"testing"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

func elements(path string) *seinev1.HttpMatch {
	return &seinev1.HttpMatch{Uri: prefix(path), PathElements: true}
}

// TestPathElements holds HTTPPathMatch's PathPrefix.
func TestPathElements(t *testing.T) {
	for _, tt := range []struct {
		prefix, path string
		want         bool
	}{
		{"/", "/", true}, {"/", "/any", true}, {"/v2", "/v2", true}, {"/v2", "/v2/", true}, {"/v2", "/v2/x", true},
		{"/v2", "/v2?q=1", true}, {"/v2", "/v2x", false}, {"/v2", "/", false}, {"/v2", "/x/v2", false},
		{"/v2/", "/v2", true}, {"/v2/", "/v2/x", true}, {"/v2/", "/v2x", false},
	} {
		a := oneRule(t, elements(tt.prefix))
		r, _ := a.Match(request("GET", "echo", tt.path), 80)
		if (r != nil) != tt.want {
			t.Errorf("%s of %s: %v", tt.prefix, tt.path, r != nil)
		}
		many := &seinev1.Answer{}
		for range linearMax + 1 { // by the tree, too
			many.Http = append(many.Http, &seinev1.HttpRule{Match: []*seinev1.HttpMatch{{Uri: exact("/none")}}, Destinations: to("x")})
		}
		many.Http = append(many.Http, &seinev1.HttpRule{Match: []*seinev1.HttpMatch{elements(tt.prefix)}, Destinations: to("y")})
		r, _ = compile(t, many).Match(request("GET", "echo", tt.path), 80)
		if (r != nil) != tt.want {
			t.Errorf("%s of %s among many: %v", tt.prefix, tt.path, r != nil)
		}
	}
}

// TestReplacePrefixMatch holds the table at the Gateway API's HTTPPathModifier.
func TestReplacePrefixMatch(t *testing.T) {
	for _, tt := range []struct{ path, prefix, with, want string }{
		{"/foo/bar", "/foo", "/xyz", "/xyz/bar"},
		{"/foo/bar", "/foo", "/xyz/", "/xyz/bar"},
		{"/foo/bar", "/foo/", "/xyz", "/xyz/bar"},
		{"/foo/bar", "/foo/", "/xyz/", "/xyz/bar"},
		{"/foo", "/foo", "/xyz", "/xyz"},
		{"/foo/", "/foo", "/xyz", "/xyz/"},
		{"/foo/bar", "/foo", "/", "/bar"},
		{"/foo/", "/foo", "/", "/"},
		{"/foo", "/foo", "/", "/"},
		{"/foo?q=/x", "/foo", "/", "/?q=/x"},
		{"/foo?q=/x", "/foo", "/xyz", "/xyz?q=/x"},
		{"/bar", "/", "/xyz", "/xyz/bar"},
		{"/", "/", "/xyz", "/xyz/"},
	} {
		rule := &seinev1.HttpRule{Match: []*seinev1.HttpMatch{elements(tt.prefix)}, Destinations: to("x"), Rewrite: &seinev1.Rewrite{Uri: tt.with}}
		a := compile(t, &seinev1.Answer{Http: []*seinev1.HttpRule{rule}})
		r, m := a.Match(request("GET", "echo", tt.path), 80)
		if r == nil {
			t.Fatalf("%s does not match %s", tt.prefix, tt.path)
		}
		if got := string(r.AppendPath(nil, m, []byte(tt.path))); got != tt.want {
			t.Errorf("%s, %s → %s: %s, want %s", tt.path, tt.prefix, tt.with, got, tt.want)
		}
		redirect := &seinev1.HttpRule{Match: rule.Match, Redirect: &seinev1.Redirect{PrefixRewrite: tt.with, ExactPort: true, PortFromRequest: true}}
		a = compile(t, &seinev1.Answer{Http: []*seinev1.HttpRule{redirect}})
		req := request("GET", "echo", tt.path)
		r, m = a.Match(req, 80)
		if got := string(r.AppendLocation(nil, m, req, "http", 80)); got != "http://echo"+tt.want {
			t.Errorf("redirect of %s, %s → %s: %s, want %s", tt.path, tt.prefix, tt.with, got, tt.want)
		}
	}
}

func TestReplaceFullPath(t *testing.T) {
	rule := &seinev1.HttpRule{Match: []*seinev1.HttpMatch{elements("/a")}, Destinations: to("x"), Rewrite: &seinev1.Rewrite{Uri: "/new", WholePath: true}}
	r := compile(t, &seinev1.Answer{Http: []*seinev1.HttpRule{rule}}).Rules[0]
	if got := string(r.AppendPath(nil, 0, []byte("/a/b/c?q=1"))); got != "/new?q=1" || !r.RewritesPath() {
		t.Error(got)
	}
}

// TestExactPort holds the rules at HTTPRequestRedirectFilter's port.
func TestExactPort(t *testing.T) {
	for _, tt := range []struct {
		name     string
		redirect *seinev1.Redirect
		host     string
		dialled  uint16
		want     string
	}{
		{"the port dialled", &seinev1.Redirect{PortFromRequest: true}, "echo", 8080, "http://echo:8080/x"},
		{"80 of http is left out", &seinev1.Redirect{PortFromRequest: true}, "echo:80", 80, "http://echo/x"},
		{"the scheme's own", &seinev1.Redirect{Scheme: "https"}, "echo:8080", 8080, "https://echo/x"},
		{"of http, too", &seinev1.Redirect{Scheme: "http"}, "echo:8080", 8080, "http://echo/x"},
		{"a port", &seinev1.Redirect{Port: 8083}, "echo:80", 80, "http://echo:8083/x"},
		{"a port and a host", &seinev1.Redirect{Port: 8083, Authority: "example.org"}, "echo", 80, "http://example.org:8083/x"},
		{"443 of https is left out", &seinev1.Redirect{Port: 443, Scheme: "https"}, "echo:80", 80, "https://echo/x"},
		{"443 of http is not", &seinev1.Redirect{Port: 443}, "echo", 80, "http://echo:443/x"},
		{"a host", &seinev1.Redirect{Authority: "example.org", PortFromRequest: true}, "echo", 80, "http://example.org/x"},
		{"an IPv6 host", &seinev1.Redirect{PortFromRequest: true}, "[::1]:80", 81, "http://[::1]:81/x"},
	} {
		tt.redirect.ExactPort = true
		r := compile(t, &seinev1.Answer{Http: []*seinev1.HttpRule{{Match: []*seinev1.HttpMatch{elements("/")}, Redirect: tt.redirect}}}).Rules[0]
		if got := string(r.AppendLocation(nil, 0, request("GET", tt.host, "/x"), "http", tt.dialled)); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestDestinationThatIsNone(t *testing.T) {
	a := compile(t, &seinev1.Answer{Http: []*seinev1.HttpRule{{Destinations: []*seinev1.Destination{
		{Host: "a", Port: 80, Weight: 1}, {Status: 500, Reason: "there is no b", Weight: 1},
	}}}})
	r := a.Rules[0]
	if d := r.Pick(0); d.Status != 0 || d.Key != "a/80" {
		t.Error(d)
	}
	if d := r.Pick(1<<64 - 1); d.Status != 500 || d.Reason != "there is no b" {
		t.Error(d)
	}
	_, err := CompileAnswer(&seinev1.Answer{Http: []*seinev1.HttpRule{{Destinations: []*seinev1.Destination{{Status: 99, Weight: 1}}}}})
	if !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
}

// TestNextByAddress holds that Gateway API routes belong to whoever dials their
// Service: an answer to the Host that has them holds only where nothing was
// dialled.
func TestNextByAddress(t *testing.T) {
	self := &Self{}
	a := compile(t, &seinev1.Answer{Kind: seinev1.Answer_ROUTES, ByAddress: true, Http: []*seinev1.HttpRule{{Destinations: to("a")}}})
	if got := self.Next(a, netip.Addr{}); got != Route {
		t.Error("nothing dialled:", got)
	}
	if got := self.Next(a, netip.MustParseAddr("192.0.2.1")); got != AskAddress {
		t.Error("dialled:", got)
	}
	if !a.ByAddress() || NextAddress(a) != Route {
		t.Error("the answer to the address does not decide")
	}
}
