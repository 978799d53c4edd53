//go:build linux

package proxy

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"testing"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/decide"
)

func guarded(t testing.TB, protocol seinev1.Protocol, policies ...*seinev1.AuthorizationPolicy) *decide.Table {
	t.Helper()
	s, err := decide.CompileSelf(&seinev1.Self{
		Workload: workload("billing", billingID), TrustDomain: "cluster.local", DefaultMtls: seinev1.MtlsMode_MTLS_PERMISSIVE, Authorization: policies,
		Inbound: []*seinev1.InboundPort{{Port: 8080, Protocol: protocol, Service: billing, ServiceName: "billing", ServiceNamespace: "default", ServicePort: 8080}},
	})
	must(t, err)
	return (&tableOf{t: t, self: s}).build()
}

func rulesOf(action seinev1.AuthorizationPolicy_Action, id string, from, to []*seinev1.Condition) *seinev1.AuthorizationPolicy {
	r := &seinev1.AuthorizationRule{}
	if from != nil {
		r.From = []*seinev1.Conditions{{All: from}}
	}
	if to != nil {
		r.To = []*seinev1.Conditions{{All: to}}
	}
	return &seinev1.AuthorizationPolicy{Id: id, Action: action, Rules: []*seinev1.AuthorizationRule{r}}
}

func is(key string, values ...string) []*seinev1.Condition {
	return []*seinev1.Condition{{Key: key, Values: values}}
}

// TestAuthorization: who a caller is, is what its certificate proves, and what it
// may do, changes while its connection is open.
func TestAuthorization(t *testing.T) {
	at := app(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.URL.Path) })
	ca := newAuthority(t)
	f := &tables{}
	public := rulesOf(seinev1.AuthorizationPolicy_ALLOW, "default/public", is("source.principal", "cluster.local/ns/default/sa/frontend"), is("request.path", "/public*"))
	f.cur.Store(guarded(t, seinev1.Protocol_PROTOCOL_HTTP, public))
	server := startWith(t, Options{Loops: 1, Forwards: []Forward{{Listen: localhost(), App: at, Port: 8080}}, Factory: ca.factory(t, billingID)}, f, func(*Proxy) {})
	client := start(t, Options{Loops: 1, Explicit: localhost(), Factory: ca.factory(t, frontendID)},
		billingTable(t, []*seinev1.HttpRule{toBilling()}, endpoint("b", server.Addresses()[0], workload("billing", billingID))).build())
	c, raw := dial(t, client.Addresses()[0].String()), dial(t, server.Addresses()[0].String())
	want := func(c interface {
		get(string) (*http.Response, string)
	}, path string, status int, body string) {
		t.Helper()
		if res, got := c.get(path); res.StatusCode != status || got != body {
			t.Fatalf("%s: %s %q, want %d %q", path, res.Status, got, status, body)
		}
	}
	want(c, "/public/x", 200, "/public/x")
	want(c, "/admin", 403, deniedBody)
	want(c, "/public/x", 200, "/public/x") // the connection goes on
	want(c, "/public/../admin", 400, oddCause+"\n")
	want(raw, "/public/x", 403, deniedBody) // plaintext proves nothing
	server.shows(t, `seine_authorization_denied_total{policy="none"} 2`, "seine_authorization_odd_paths_total 1")

	f.publish(guarded(t, seinev1.Protocol_PROTOCOL_HTTP, public, rulesOf(seinev1.AuthorizationPolicy_DENY, "default/closed", is("source.namespace", "default"), nil)))
	eventually(t, "the new policy holds on the open connection", func() bool {
		res, _ := c.get("/public/x")
		return res.StatusCode == 403
	})
	server.shows(t, `seine_authorization_denied_total{policy="default/closed"}`)

	f.publish(guarded(t, seinev1.Protocol_PROTOCOL_HTTP))
	eventually(t, "without policies everybody may", func() bool {
		res, _ := raw.get("/admin")
		return res.StatusCode == 200
	})
	dry := rulesOf(seinev1.AuthorizationPolicy_DENY, "default/dry", nil, nil)
	dry.DryRun = true
	f.publish(guarded(t, seinev1.Protocol_PROTOCOL_HTTP, dry, rulesOf(seinev1.AuthorizationPolicy_AUDIT, "default/heard", nil, is("request.method", "GET"))))
	eventually(t, "a dry run and an audit tell", func() bool {
		want(raw, "/x", 200, "/x")
		m := server.metrics(t)
		return bytes.Contains([]byte(m), []byte(`seine_authorization_dry_run_denied_total{policy="default/dry"}`)) && bytes.Contains([]byte(m), []byte(`seine_authorization_audited_total{policy="default/heard"}`))
	})
}

// TestAuthorizationByClient: remote.ip is whom the last proxy saw.
func TestAuthorizationByClient(t *testing.T) {
	f := &tables{}
	f.cur.Store(guarded(t, seinev1.Protocol_PROTOCOL_HTTP, rulesOf(seinev1.AuthorizationPolicy_ALLOW, "default/p", is("remote.ip", "203.0.113.0/24"), nil)))
	server := startWith(t, Options{Loops: 1, Forwards: []Forward{{Listen: localhost(), App: app(t, echo), Port: 8080}}, Factory: newAuthority(t).factory(t, billingID)}, f, func(*Proxy) {})
	c := dial(t, server.Addresses()[0].String())
	for forwarded, status := range map[string]int{"": 403, "203.0.113.9": 200, "203.0.113.9, 192.0.2.1": 403, "192.0.2.1,203.0.113.9": 200, "x": 403} {
		c.write("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: %s\r\n\r\n", forwarded)
		if res, _ := c.response("GET"); res.StatusCode != status {
			t.Errorf("%q: %s", forwarded, res.Status)
		}
	}
}

// TestOpaqueAuthorization: a connection that is no HTTP is denied before a byte
// passes, and one that is open ends with the policy that let it in.
func TestOpaqueAuthorization(t *testing.T) {
	at := rawApp(t, func(c net.Conn) { _, _ = io.Copy(c, c) })
	f := &tables{}
	f.cur.Store(guarded(t, seinev1.Protocol_PROTOCOL_TCP, rulesOf(seinev1.AuthorizationPolicy_ALLOW, "default/a", is("source.ip", "127.0.0.0/8"), is("destination.port", "8080"))))
	p := startWith(t, Options{Loops: 1, Forwards: []Forward{{Listen: localhost(), App: at, Port: 8080}}, Factory: newAuthority(t).factory(t, billingID)}, f, func(*Proxy) {})
	echoes := func(c net.Conn) bool {
		if _, err := io.WriteString(c, "hi"); err != nil {
			return false
		}
		b := make([]byte, 2)
		_, err := io.ReadFull(c, b)
		return err == nil && string(b) == "hi"
	}
	c := dial(t, p.Addresses()[0].String())
	if !echoes(c) {
		t.Fatal("it is not let in")
	}
	f.publish(guarded(t, seinev1.Protocol_PROTOCOL_TCP, rulesOf(seinev1.AuthorizationPolicy_DENY, "default/d", nil, is("request.method", "DELETE"))))
	c.ends()
	if echoes(dial(t, p.Addresses()[0].String())) {
		t.Error("a new connection is let in")
	}
	p.shows(t, `seine_authorization_denied_total{policy="default/d"}`)
}
