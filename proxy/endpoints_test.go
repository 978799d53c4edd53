//go:build linux

package proxy

import (
	"encoding/json"
	"net/http/httptest"
	"testing"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

// TestEndpointsView: the administrator sees limits, counts and ejections.
func TestEndpointsView(t *testing.T) {
	bad, good := newSwitchable(t, 502), newSwitchable(t, 200)
	policy := watched(&seinev1.OutlierDetection{ConsecutiveGateway: 1})
	policy.Pool = &seinev1.ConnectionPool{MaxConnections: 7}
	p := start(t, Options{Loops: 1, Explicit: localhost()}, limited(t, policy, toBilling(),
		endpoint("bad", bad.at, workload("billing", "")), endpoint("good", good.at, workload("billing", ""))).build())
	c := dial(t, p.Addresses()[0].String())
	for range 2 {
		c.get("/")
	}
	sh := p.sharedOf(t)
	eventually(t, "one is ejected", func() bool { return sh.ejected.Load() != nil })
	s := &Status{}
	s.Serving(p.Proxy)
	w := httptest.NewRecorder()
	s.endpoints(w, nil)
	var got []ClusterView
	must(t, json.Unmarshal(w.Body.Bytes(), &got))
	if len(got) != 1 || got[0].Connections.Limit != 7 || got[0].Connections.Now == 0 || len(got[0].Endpoints) != 2 {
		t.Fatalf("%s", w.Body)
	}
	for _, e := range got[0].Endpoints {
		if out := e.Ejected != nil; out != (e.ID == "bad") {
			t.Errorf("%+v", e)
		}
	}
	if e := got[0].Endpoints[0]; e.Ejected == nil || e.Ejected.Cause != "consecutive_gateway_failure" || !e.Ejected.Until.After(e.Ejected.Since) || e.Times != 1 {
		t.Errorf("%s", w.Body)
	}
}

// TestMaxRetries: no more retries are under way than maxRetries.
func TestMaxRetries(t *testing.T) {
	g := newGate(t)
	bad := newSwitchable(t, 503)
	policy := pooled(&seinev1.ConnectionPool{MaxRetries: 1})
	policy.Balancer = seinev1.TrafficPolicy_ROUND_ROBIN
	rule := retried(1, "5xx")
	p := start(t, Options{Loops: 1, Explicit: localhost()}, limited(t, policy, rule,
		endpoint("bad", bad.at, workload("billing", "")), endpoint("gate", g.at, workload("billing", ""))).build())
	addr := p.Addresses()[0].String()
	var held []*client
	refused := false
	for i := 0; !refused && i < 6; i++ { // every second one meets the bad endpoint first
		c := dial(t, addr)
		before := bad.served.Load()
		c.write("GET / HTTP/1.1\r\nHost: billing:8080\r\n\r\n")
		sh := p.sharedOf(t)
		eventually(t, "it is somewhere", func() bool {
			return len(g.entered) > len(held) || bad.served.Load() > before && sh.refused[boundRetries].Value() > 0
		})
		if refused = sh.refused[boundRetries].Value() > 0; refused {
			if res, _ := c.response("GET"); res.StatusCode != 503 {
				t.Error(res.Status)
			}
			break
		}
		held = append(held, c)
	}
	if !refused {
		t.Error("a second retry is under way")
	}
	close(g.open)
	for _, c := range held {
		if res, _ := c.response("GET"); res.StatusCode != 200 {
			t.Error(res.Status)
		}
	}
	if n := p.sharedOf(t).retries.Value(); n != 0 {
		t.Errorf("%d retries are still counted", n)
	}
	p.flagged(t, "UO")
}
