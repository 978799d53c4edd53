package plan

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/mesh"
)

// route makes a Gateway API route NAMESPACE/NAME for parents "SERVICE[:PORT]";
// each rule is its matches "PATH [METHOD] [h…] [q…]" with | between them, where
// =PATH is exact, ~PATH a regular expression.
func gatewayRoute(kind, name string, parents []string, rules ...string) *mesh.GatewayRoute {
	namespace, n, _ := strings.Cut(name, "/")
	out := &mesh.GatewayRoute{Ref: ref(kind, namespace, n)}
	for _, p := range parents {
		host, number, _ := strings.Cut(p, ":")
		parent := mesh.Parent{Host: fqdn(host)}
		_, _ = fmt.Sscan(number, &parent.Port)
		out.Parents = append(out.Parents, parent)
	}
	for i, text := range rules {
		rule := &seinev1.HttpRule{Index: int32(i), Source: out.Proto(), Destinations: []*seinev1.Destination{{Host: fqdn("echo"), Port: 80, Weight: 1}}}
		for _, match := range strings.Split(text, "|") {
			m := &seinev1.HttpMatch{}
			for _, word := range strings.Fields(match) {
				switch {
				case word[0] == '=':
					m.Uri = &seinev1.StringMatch{Match: &seinev1.StringMatch_Exact{Exact: word[1:]}}
				case word[0] == '~':
					m.Uri = &seinev1.StringMatch{Match: &seinev1.StringMatch_Regex{Regex: word[1:]}}
				case word[0] == '/':
					m.Uri, m.PathElements = &seinev1.StringMatch{Match: &seinev1.StringMatch_Prefix{Prefix: word}}, true
				case word[0] == 'h':
					m.Headers = append(m.Headers, &seinev1.HeaderMatch{Name: word})
				case word[0] == 'q':
					m.Query = append(m.Query, &seinev1.QueryMatch{Name: word})
				default:
					m.Method = &seinev1.StringMatch{Match: &seinev1.StringMatch_Exact{Exact: word}}
				}
			}
			rule.Match = append(rule.Match, m)
		}
		out.Rules = append(out.Rules, rule)
	}
	return out
}

func gatewayMesh(routes ...*mesh.GatewayRoute) *mesh.Snapshot {
	echo := service("echo", "10.96.0.1", port("http", 80, 8080, http), port("alt", 8080, 0, detect), port("tcp", 9090, 0, tcp))
	echo.Selector = map[string]string{"app": "echo"}
	headless := service("none", "", port("http", 80, 0, http))
	headless.Headless = true
	return mesh.New(1, mesh.Parts{
		Settings: mesh.DefaultSettings(), Services: []*mesh.Service{echo, headless},
		Workloads:     []*mesh.Workload{workload("default", "echo-1", "10.0.0.1", "app=echo"), workload("default", "web-1", "10.0.0.2"), workload("client", "web-1", "10.0.0.3")},
		GatewayRoutes: routes,
	})
}

// order is how GatewayRules puts things: NAME[RULE.MATCH].
func order(s *mesh.Snapshot, caller string, number uint32) string {
	w := s.Workload(caller)
	svc := s.Service(fqdn("echo"), w.Namespace)
	var out []string
	for _, r := range GatewayRules(s, w, svc, portOf(svc, number)) {
		out = append(out, fmt.Sprintf("%s[%d.%d]", r.Route.Name, r.Rule.Index, r.Match))
	}
	return strings.Join(out, " ")
}

func TestGatewayPrecedence(t *testing.T) {
	a := gatewayRoute("HTTPRoute", "default/a", []string{"echo"},
		"/", "/v2|/v2/deep", "=/v2", "~/v2/.*", "/ h1", "/ POST", "/ q1", "/ h1 h2", "/ q1 q2", "/v2/ POST")
	const want = "a[2.0] a[1.1] a[9.0] a[1.0] a[3.0] a[5.0] a[7.0] a[4.0] a[8.0] a[6.0] a[0.0]"
	if got := order(gatewayMesh(a), "default/web-1", 80); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestGatewayTies(t *testing.T) {
	at := func(r *mesh.GatewayRoute, second int64) *mesh.GatewayRoute {
		r.Created = time.Unix(second, 0)
		return r
	}
	s := gatewayMesh(
		at(gatewayRoute("HTTPRoute", "default/new", []string{"echo"}, "/x", "/x"), 9),
		at(gatewayRoute("HTTPRoute", "default/b", []string{"echo:80"}, "/x"), 5),
		at(gatewayRoute("HTTPRoute", "default/a", []string{"echo"}, "/x"), 5),
	)
	if got := order(s, "default/web-1", 80); got != "a[0.0] b[0.0] new[0.0] new[1.0]" {
		t.Error(got)
	}
	if got := order(s, "default/web-1", 8080); got != "a[0.0] new[0.0] new[1.0]" {
		t.Error("of the other port:", got)
	}
}

func TestProducersAndConsumers(t *testing.T) {
	producer := gatewayRoute("HTTPRoute", "default/producer", []string{"echo"}, "/")
	consumer := gatewayRoute("HTTPRoute", "client/consumer", []string{"echo:80"}, "/")
	stranger := gatewayRoute("HTTPRoute", "other/stranger", []string{"echo"}, "/")
	s := gatewayMesh(producer, consumer, stranger)
	for _, tt := range []struct {
		caller string
		port   uint32
		want   string
	}{
		{"default/web-1", 80, "producer[0.0]"},
		{"client/web-1", 80, "consumer[0.0]"},
		{"client/web-1", 8080, "producer[0.0]"}, // the consumer's is about port 80
	} {
		if got := order(s, tt.caller, tt.port); got != tt.want {
			t.Errorf("%s on %d: %s, want %s", tt.caller, tt.port, got, tt.want)
		}
	}
	if got := order(gatewayMesh(consumer), "default/web-1", 80); got != "" {
		t.Error("a consumer's route holds for others:", got)
	}
}

func TestOneKindOfRoute(t *testing.T) {
	s := gatewayMesh(gatewayRoute("HTTPRoute", "default/http", []string{"echo"}, "/"), gatewayRoute("GRPCRoute", "default/grpc", []string{"echo:80"}, "=/a/b", "/"))
	if got := order(s, "default/web-1", 80); got != "grpc[0.0] grpc[1.0]" {
		t.Error(got)
	}
	if got := order(s, "default/web-1", 8080); got != "http[0.0]" {
		t.Error(got)
	}
}

// TestAttachedAnswers holds which lookups Gateway API routes decide: those of
// the Service's address and, where nothing is dialled, of its name; never those
// of a pod.
func TestAttachedAnswers(t *testing.T) {
	route := gatewayRoute("HTTPRoute", "default/r", []string{"echo", "none"}, "/v1|/v2")
	s := gatewayMesh(route)
	s.Parts.VirtualServices = []*mesh.VirtualService{{
		Ref: ref("VirtualService", "default", "vs"), Hosts: []string{fqdn("echo")}, Gateways: []string{"mesh"},
		HTTP: []*seinev1.HttpRule{{Destinations: []*seinev1.Destination{{Host: fqdn("none"), Port: 80, Weight: 1}}}},
	}}
	s = mesh.New(2, s.Parts)
	w := s.Workload("client/web-1")
	for name, want := range map[string]struct {
		decides bool
		rules   int
	}{
		"addr/10.96.0.1:80":                     {true, 2},
		"addr/10.96.0.1:8080":                   {true, 2},
		"addr/10.96.0.1:9090":                   {false, 0}, // TCP
		"addr/10.0.0.1:8080":                    {false, 1}, // the pod
		"http/80/echo.default":                  {true, 2},
		"http/80/10.96.0.1":                     {true, 2},
		"http/8080/10.0.0.1":                    {false, 1},
		"http/80/none.default":                  {false, 1}, // headless: nobody dials it
		"http/80/echo-1.none.default.svc.other": {false, 0},
	} {
		a := Answer(s, w, name)
		if a.ByAddress != want.decides || len(a.Http) != want.rules {
			t.Errorf("%s: by address %v with %d rules, want %v with %d", name, a.ByAddress, len(a.Http), want.decides, want.rules)
		}
		if a.ByAddress && (a.Source.Kind != "HTTPRoute" || slices.ContainsFunc(a.Http, func(r *seinev1.HttpRule) bool { return len(r.Match) != 1 })) {
			t.Errorf("%s: %v", name, a)
		}
	}
	if a := Answer(s, w, "addr/10.96.0.1:8080"); len(a.Tcp) != 1 {
		t.Error("bytes that are no HTTP have no route:", a)
	}
	if len(route.Rules[0].Match) != 2 || route.Rules[0].Retry != nil {
		t.Error("the Snapshot was written")
	}
}
