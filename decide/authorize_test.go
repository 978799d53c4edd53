package decide

import (
	"net/netip"
	"strings"
	"testing"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/message"
)

// terms are written KEY=a,b and KEY!=a,b.
func terms(list ...string) []*seinev1.Condition {
	var out []*seinev1.Condition
	for _, s := range list {
		key, value, not := strings.Cut(s, "!=")
		if !not {
			key, value, _ = strings.Cut(s, "=")
		}
		c := &seinev1.Condition{Key: key}
		if not {
			c.NotValues = strings.Split(value, ",")
		} else {
			c.Values = strings.Split(value, ",")
		}
		out = append(out, c)
	}
	return out
}

func asks(list ...string) *seinev1.AuthorizationRule {
	return &seinev1.AuthorizationRule{From: []*seinev1.Conditions{{All: terms(list...)}}}
}

func does(list ...string) *seinev1.AuthorizationRule {
	return &seinev1.AuthorizationRule{To: []*seinev1.Conditions{{All: terms(list...)}}}
}

func given(list ...string) *seinev1.AuthorizationRule {
	return &seinev1.AuthorizationRule{When: terms(list...)}
}

func authPolicy(action seinev1.AuthorizationPolicy_Action, rules ...*seinev1.AuthorizationRule) *seinev1.AuthorizationPolicy {
	return &seinev1.AuthorizationPolicy{Id: "shop/p", Action: action, Rules: rules}
}

func dry(p *seinev1.AuthorizationPolicy) *seinev1.AuthorizationPolicy { p.DryRun = true; return p }

func compiled(t testing.TB, list ...*seinev1.AuthorizationPolicy) *Authorization {
	a, err := CompileAuthorization(list)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func asker() *Subject {
	s := &Subject{
		Source: netip.MustParseAddr("10.1.2.3"), Remote: netip.MustParseAddr("203.0.113.9"),
		Destination: netip.MustParseAddrPort("10.9.9.9:8080"), SNI: "outbound_.80_._.billing.shop.svc.cluster.local",
	}
	s.Proven("spiffe://cluster.local/ns/shop/sa/frontend")
	return s
}

func authRequest() *message.Request {
	field := func(n, v string) message.Field { return message.Field{Name: []byte(n), Value: []byte(v)} }
	return &message.Request{Method: []byte("GET"), Path: []byte("/a/b/c?x=/admin"), Authority: []byte("Billing.shop:8080"), Fields: []message.Field{field("X-Team", "blue"), field("X-Empty", "")}}
}

// TestConditions: each is tried as the only rule of an ALLOW policy, and of a
// DENY policy, which must say the contrary.
func TestConditions(t *testing.T) {
	for rule, want := range map[*seinev1.AuthorizationRule]bool{
		{}: true,
		asks("source.principal=cluster.local/ns/shop/sa/frontend"):           true,
		asks("source.principal=spiffe://cluster.local/ns/shop/sa/frontend"):  false, // as in Istio
		asks("source.principal=*"):                                           true,
		asks("source.principal=cluster.local/ns/shop/*"):                     true,
		asks("source.principal=*/frontend"):                                  true,
		asks("source.principal=*/sa/back,x"):                                 false,
		asks("source.principal!=cluster.local/ns/shop/sa/frontend"):          false,
		asks("source.principal!=x,y"):                                        true,
		asks("source.namespace=shop"):                                        true,
		asks("source.namespace=sh*"):                                         true,
		asks("source.namespace=s*p"):                                         true,
		asks("source.namespace=hop"):                                         false,
		asks("source.namespace!=shop"):                                       false,
		asks("source.serviceAccount=shop/frontend"):                          true,
		asks("source.serviceAccount=other/frontend"):                         false,
		asks("source.trustDomain=cluster.local"):                             true,
		asks("source.trustDomain=*.local"):                                   true,
		asks("source.trustDomain=cluster"):                                   false,
		asks("source.ip=10.1.0.0/16"):                                        true,
		asks("source.ip=10.1.2.4"):                                           false,
		asks("source.ip!=10.1.2.3"):                                          false,
		asks("remote.ip=203.0.113.0/24"):                                     true,
		asks("remote.ip=10.1.2.3"):                                           false,
		asks("source.namespace=shop", "source.ip=10.1.2.3"):                  true,
		asks("source.namespace=shop", "source.ip=10.1.2.4"):                  false,
		does("request.method=GET,HEAD"):                                      true,
		does("request.method!=POST"):                                         true,
		does("request.path=/a/b/c"):                                          true,
		does("request.path=/a/*"):                                            true,
		does("request.path=*/c"):                                             true,
		does("request.path=/a"):                                              false,
		does("request.path=/admin"):                                          false,
		does("request.path=/a/{*}/c"):                                        true,
		does("request.path=/{*}/c"):                                          false,
		does("request.path=/{**}/c"):                                         true,
		does("request.path=/a/{**}"):                                         true,
		does("request.host=billing.shop:8080"):                               true, // without case
		does("request.host=BILLING.*"):                                       true,
		does("request.host=*.shop"):                                          false, // the port is part of it, as in Istio
		does("destination.port=8080"):                                        true,
		does("destination.port!=8080"):                                       false,
		given("destination.ip=10.9.0.0/16"):                                  true,
		given("connection.sni=outbound_*"):                                   true,
		given("request.headers[X-Team]=blue"):                                true,
		given("request.headers[x-team]=*"):                                   true,
		given("request.headers[x-team]=bl*", "request.headers[x-team]!=*ue"): false,
		given("request.headers[missing]=*"):                                  false,
		given("request.headers[missing]!=x"):                                 true,
		given("request.headers[x-empty]=*"):                                  true, // present
		{From: []*seinev1.Conditions{{All: terms("source.ip=1.1.1.1")}, {All: terms("source.namespace=shop")}}}: true, // any
	} {
		if got := !compiled(t, authPolicy(seinev1.AuthorizationPolicy_ALLOW, rule)).Judge(asker(), authRequest()).Denied; got != want {
			t.Errorf("ALLOW %v: let in %v, want %v", rule, got, want)
		}
		if j := compiled(t, authPolicy(seinev1.AuthorizationPolicy_DENY, rule)).Judge(asker(), authRequest()); j.Denied != want {
			t.Errorf("DENY %v: denied %v, want %v", rule, j.Denied, want)
		} else if want && j.Details() != "rbac_access_denied_matched_policy[ns[shop]-policy[p]-rule[0]]" {
			t.Error(j.Details())
		}
	}
	// Nobody has proved anything: what asks for an identity does not hold, what
	// asks for another one does.
	for rule, want := range map[*seinev1.AuthorizationRule]bool{
		asks("source.principal=*"): false, asks("source.namespace=*"): false, asks("source.principal!=x"): true, asks("source.trustDomain=*"): false,
	} {
		if got := !compiled(t, authPolicy(seinev1.AuthorizationPolicy_ALLOW, rule)).Judge(&Subject{}, authRequest()).Denied; got != want {
			t.Errorf("nobody, %v: let in %v, want %v", rule, got, want)
		}
	}
}

func TestPolicies(t *testing.T) {
	const allow, deny, audit = seinev1.AuthorizationPolicy_ALLOW, seinev1.AuthorizationPolicy_DENY, seinev1.AuthorizationPolicy_AUDIT
	shop, other := asks("source.namespace=shop"), asks("source.namespace=other")
	get, post := does("request.method=GET"), does("request.method=POST")
	for _, c := range []struct {
		name              string
		policies          []*seinev1.AuthorizationPolicy
		denied, would     bool
		deniedRaw, tagged bool // of an opaque connection; audited
	}{
		{"nothing is allowed", []*seinev1.AuthorizationPolicy{authPolicy(allow)}, true, false, true, false},
		{"nothing is denied", []*seinev1.AuthorizationPolicy{authPolicy(deny)}, false, false, false, false},
		{"one of several allows", []*seinev1.AuthorizationPolicy{authPolicy(allow, other), authPolicy(allow, shop)}, false, false, false, false},
		{"a denial wins", []*seinev1.AuthorizationPolicy{authPolicy(allow, shop), authPolicy(deny, get)}, true, false, true, false},
		// Istio: an ALLOW rule about requests never lets an opaque connection in; a
		// DENY rule denies it by what else it says.
		{"allowed as a request", []*seinev1.AuthorizationPolicy{authPolicy(allow, get)}, false, false, true, false},
		{"denied as a connection", []*seinev1.AuthorizationPolicy{authPolicy(deny, post)}, false, false, true, false},
		{"audit tells", []*seinev1.AuthorizationPolicy{authPolicy(audit, shop)}, false, false, false, true},
		{"dry denial", []*seinev1.AuthorizationPolicy{dry(authPolicy(deny, shop))}, false, true, false, false},
		{"dry allow", []*seinev1.AuthorizationPolicy{dry(authPolicy(allow, other))}, false, true, false, false},
		{"dry allow that holds", []*seinev1.AuthorizationPolicy{dry(authPolicy(allow, shop)), authPolicy(allow, other)}, true, false, true, false},
	} {
		a := compiled(t, c.policies...)
		j := a.Judge(asker(), authRequest())
		if j.Denied != c.denied || j.Would != c.would || (j.Audited != nil) != c.tagged {
			t.Errorf("%s: %+v", c.name, j)
		}
		if j := a.Judge(asker(), nil); j.Denied != c.deniedRaw {
			t.Errorf("%s, opaque: %+v", c.name, j)
		}
	}
	if a := compiled(t); a != nil || a.Policies() != nil {
		t.Error("no policies are something")
	}
}

func TestBadConditions(t *testing.T) {
	for _, c := range terms("source.ip=x", "source.ip=10.0.0.0/99", "destination.port=0", "destination.port=http", "source.serviceAccount=*", "source.serviceAccount=x",
		"request.path=/{a}", "request.path=/{*", "request.path=*a*", "request.headers[]=x", "request.headers[a b]=x", "request.headers=x", "request.auth.claims[iss]=x", "source.user=x", "source.principal=") {
		if err := CheckCondition(c); err == nil {
			t.Errorf("%v is taken", c)
		}
	}
	if err := CheckCondition(&seinev1.Condition{Key: "source.ip"}); err == nil {
		t.Error("no values are taken")
	}
}

func TestNormalPath(t *testing.T) {
	for path, want := range map[string][2]bool{
		"/": {true, true}, "/a/b": {true, true}, "/a?x=/../": {true, true}, "*": {true, true}, "/a/..b/.c/...": {true, true},
		"/a%20b": {true, true}, "/a%C3%A4": {true, true}, "/a%2Fb": {true, false}, "//a": {true, false}, "/a//b": {true, false},
		"/.": {}, "/..": {}, "/a/../b": {}, "/a/./b": {}, "/a/..": {}, "/a\\b": {}, "/%61dmin": {}, "/%2e%2e/a": {}, "/a%5Cb": {}, "/a%00": {}, "/a%2": {}, "/a%zz": {}, "/%7Ea": {},
	} {
		if got := [2]bool{NormalPath([]byte(path), false), NormalPath([]byte(path), true)}; got != want {
			t.Errorf("%s: %v, want %v", path, got, want)
		}
	}
}

func TestJudgeAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	a := compiled(t, authPolicy(seinev1.AuthorizationPolicy_DENY, asks("source.namespace=other"), does("request.path=/admin*")),
		authPolicy(seinev1.AuthorizationPolicy_ALLOW, given("request.headers[x-team]=green"), asks("source.principal=cluster.local/ns/shop/sa/frontend")))
	req := authRequest()
	if n := testing.AllocsPerRun(200, func() {
		var s Subject
		s.Proven("spiffe://cluster.local/ns/shop/sa/frontend")
		if !NormalPath(req.Path, true) || a.Judge(&s, req).Denied {
			t.Fatal("denied")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
