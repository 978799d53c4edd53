//go:build linux

package proxy

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

// named is an application that answers with its name.
func named(t testing.TB, name string) netip.AddrPort {
	return app(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, name) })
}

// several starts a proxy before n applications, called 0, 1, ….
func several(t testing.TB, n int, p *seinev1.TrafficPolicy) (*running, string, *tableOf) {
	t.Helper()
	var eps []*seinev1.Endpoint
	for i := range n {
		eps = append(eps, endpoint(fmt.Sprint(i), named(t, fmt.Sprint(i)), workload("billing", "")))
	}
	table := billingTable(t, []*seinev1.HttpRule{toBilling()}, eps...)
	table.service[0].Policy = p
	r := start(t, Options{Loops: 1, Explicit: localhost()}, table.build())
	return r, r.Addresses()[0].String(), table
}

func (c *client) with(header string) (*http.Response, string) {
	c.t.Helper()
	c.write("GET /a?id=7 HTTP/1.1\r\nHost: billing:8080\r\n%s\r\n", header)
	return c.response("GET")
}

func TestBalancers(t *testing.T) {
	_, addr, _ := several(t, 3, &seinev1.TrafficPolicy{Balancer: seinev1.TrafficPolicy_ROUND_ROBIN})
	c := dial(t, addr)
	var turn strings.Builder
	for range 6 {
		_, body := c.get("/")
		turn.WriteString(body)
	}
	if s := turn.String(); !strings.Contains("012012012", s) {
		t.Errorf("round robin: %s", s)
	}
	for _, b := range []seinev1.TrafficPolicy_Balancer{seinev1.TrafficPolicy_DEFAULT, seinev1.TrafficPolicy_LEAST_REQUEST, seinev1.TrafficPolicy_RANDOM} {
		_, addr, _ := several(t, 3, &seinev1.TrafficPolicy{Balancer: b})
		c := dial(t, addr)
		seen := map[string]int{}
		for range 150 {
			_, body := c.get("/")
			seen[body]++
		}
		if len(seen) != 3 {
			t.Errorf("%v: %v", b, seen)
		}
	}
}

func TestConsistentHash(t *testing.T) {
	for name, h := range map[string]*seinev1.ConsistentHash{
		"ring":   {Key: &seinev1.ConsistentHash_Header{Header: "x-user"}},
		"maglev": {Key: &seinev1.ConsistentHash_Header{Header: "x-user"}, TableSize: 251},
		"query":  {Key: &seinev1.ConsistentHash_Query{Query: "id"}},
		"source": {Key: &seinev1.ConsistentHash_SourceIp{SourceIp: true}},
	} {
		_, addr, _ := several(t, 5, &seinev1.TrafficPolicy{Hash: h})
		used := map[string]bool{}
		for user := range 20 {
			var first string
			for try := range 3 {
				_, body := dial(t, addr).with(fmt.Sprintf("X-User: user-%d\r\n", user))
				if try > 0 && body != first {
					t.Fatalf("%s: user %d went to %s, then to %s", name, user, first, body)
				}
				first = body
			}
			used[first] = true
		}
		if one := name == "query" || name == "source"; one != (len(used) == 1) {
			t.Errorf("%s: endpoints %v", name, used)
		}
	}
}

// TestCookieIsSetOnce: who comes without gets one, and with it comes back to
// the same endpoint over any connection; who has one gets none.
func TestCookieIsSetOnce(t *testing.T) {
	_, addr, _ := several(t, 5, &seinev1.TrafficPolicy{Hash: &seinev1.ConsistentHash{Key: &seinev1.ConsistentHash_Cookie_{
		Cookie: &seinev1.ConsistentHash_Cookie{Name: "user", Path: "/", Ttl: durationpb.New(time.Hour)}}}})
	for range 10 {
		c := dial(t, addr)
		res, first := c.with("Cookie: other=1\r\n")
		set := res.Header.Get("Set-Cookie")
		value, rest, _ := strings.Cut(strings.TrimPrefix(set, `user="`), `"`)
		if len(value) != 16 || rest != "; Max-Age=3600; Path=/; HttpOnly" {
			t.Fatalf("Set-Cookie: %s", set)
		}
		if again, body := c.with(""); body != first || again.Header.Get("Set-Cookie") != set {
			t.Errorf("the same connection gets another: %s, %s", body, again.Header.Get("Set-Cookie"))
		}
		for range 3 {
			res, body := dial(t, addr).with("Cookie: a=b; user=" + value + "\r\n")
			if body != first || res.Header.Get("Set-Cookie") != "" {
				t.Errorf("with the cookie: %s instead of %s, Set-Cookie %q", body, first, res.Header.Get("Set-Cookie"))
			}
		}
	}
}

// TestChurnKeepsWhatIsInFlight: when an endpoint comes, those that are busy are
// still known to be.
func TestChurnKeepsWhatIsInFlight(t *testing.T) {
	release := make(chan struct{})
	var held atomic.Int32
	busy := app(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hold" {
			held.Add(1)
			<-release
		}
		fmt.Fprint(w, "busy")
	})
	table := billingTable(t, []*seinev1.HttpRule{toBilling()}, endpoint("1", busy, workload("billing", "")))
	table.service[0].Policy = &seinev1.TrafficPolicy{Balancer: seinev1.TrafficPolicy_LEAST_REQUEST}
	r := start(t, Options{Loops: 1, Explicit: localhost()}, table.build())
	addr := r.Addresses()[0].String()
	var holding []*client
	for range 3 {
		c := dial(t, addr)
		c.write("GET /hold HTTP/1.1\r\nHost: billing:8080\r\n\r\n")
		holding = append(holding, c)
	}
	eventually(t, "three requests", func() bool { return held.Load() == 3 })
	key := billing + "/8080"
	table.eps[key] = append(table.eps[key], endpoint("2", named(t, "idle"), workload("billing", "")))
	r.tables.publish(table.build())
	c := dial(t, addr)
	for range 20 {
		if _, body := c.get("/"); body != "idle" {
			t.Fatalf("a request went to the %s endpoint", body)
		}
	}
	close(release)
	for _, h := range holding {
		if _, body := h.response("GET"); body != "busy" {
			t.Error(body)
		}
	}
	eventually(t, "the busy one is used again", func() bool { _, body := c.get("/"); return body == "busy" })
}

// TestSlowEndpointIsAvoided: by default latency counts.
func TestSlowEndpointIsAvoided(t *testing.T) {
	slow := app(t, func(w http.ResponseWriter, r *http.Request) {
		select { // longer than anything here takes
		case <-time.After(40 * time.Millisecond):
		case <-r.Context().Done():
		}
		fmt.Fprint(w, "slow")
	})
	table := billingTable(t, []*seinev1.HttpRule{toBilling()}, endpoint("1", slow, workload("billing", "")), endpoint("2", named(t, "quick"), workload("billing", "")))
	r := start(t, Options{Loops: 1, Explicit: localhost()}, table.build())
	c := dial(t, r.Addresses()[0].String())
	run := 0
	eventually(t, "a run of quick answers", func() bool {
		if _, body := c.get("/"); body == "quick" {
			run++
		} else {
			run = 0
		}
		return run >= 50 // by chance: 2^-50
	})
}

// TestPassthroughWithinTheMesh: what is dialled is an endpoint of the service,
// and that one it is.
func TestPassthroughWithinTheMesh(t *testing.T) {
	_, addr, table := several(t, 4, &seinev1.TrafficPolicy{Balancer: seinev1.TrafficPolicy_PASSTHROUGH})
	a := table.answers["http/8080/billing"]
	for i, e := range table.eps[billing+"/8080"] {
		table.answers[fmt.Sprintf("http/%d/%s", e.Port, e.Address)] = a
		_ = i
	}
	r := start(t, Options{Loops: 1, Explicit: localhost()}, table.build())
	for i, e := range table.eps[billing+"/8080"] {
		for range 5 {
			c := dial(t, r.Addresses()[0].String())
			c.write("GET / HTTP/1.1\r\nHost: %s:%d\r\n\r\n", e.Address, e.Port)
			if _, body := c.response("GET"); body != fmt.Sprint(i) {
				t.Fatalf("%s:%d was dialled, and %s answered", e.Address, e.Port, body)
			}
		}
	}
	if _, body := dial(t, addr).get("/"); len(body) != 1 {
		t.Errorf("by the service's own address: %q", body)
	}
}

// TestOpaqueHashesTheSource: all connections of one address end at one endpoint.
func TestOpaqueHashesTheSource(t *testing.T) {
	var eps []*seinev1.Endpoint
	for i := range 5 {
		at := rawApp(t, func(c net.Conn) { fmt.Fprint(c, i) })
		eps = append(eps, endpoint(fmt.Sprint(i), at, workload("billing", "")))
	}
	table := billingTable(t, nil, eps...)
	table.answers["http/8080/billing"].Tcp = []*seinev1.TcpRule{{Destinations: toBilling().Destinations}}
	table.answers["http/8080/billing"].Http = nil
	table.service[0].Policy = &seinev1.TrafficPolicy{Hash: &seinev1.ConsistentHash{Key: &seinev1.ConsistentHash_SourceIp{SourceIp: true}}}
	r := start(t, Options{Loops: 1, Explicit: localhost()}, table.build())
	var first []byte
	for i := range 5 {
		c := dial(t, r.Addresses()[0].String())
		c.write("CONNECT billing:8080 HTTP/1.1\r\nHost: billing:8080\r\n\r\n")
		got, err := io.ReadAll(c.r)
		must(t, err)
		if i > 0 && !bytes.Equal(got, first) {
			t.Fatalf("%q, then %q", first, got)
		}
		first = got
	}
	if !bytes.Contains(first, []byte("200")) {
		t.Errorf("%q", first)
	}
}

// TestFailsOver: the nearest endpoint gets everything until it is ejected.
func TestFailsOver(t *testing.T) {
	bad := app(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/bad" {
			w.WriteHeader(500)
		}
		fmt.Fprint(w, "near")
	})
	near, far := endpoint("1", bad, workload("billing", "")), endpoint("2", named(t, "far"), workload("billing", ""))
	near.Locality, far.Locality = "eu/a", "us/a"
	table := billingTable(t, []*seinev1.HttpRule{toBilling()}, near, far)
	table.service[0].Policy = &seinev1.TrafficPolicy{
		Outlier:  &seinev1.OutlierDetection{Consecutive_5Xx: 3, Interval: durationpb.New(10 * time.Second), BaseEjectionTime: durationpb.New(time.Hour), MaxEjectionPercent: 100},
		Locality: &seinev1.Locality{Caller: "eu/a", FailoverActive: true},
	}
	r := start(t, Options{Loops: 1, Explicit: localhost()}, table.build())
	c := dial(t, r.Addresses()[0].String())
	for range 30 {
		if _, body := c.get("/"); body != "near" {
			t.Fatalf("%s, with a healthy endpoint nearby", body)
		}
	}
	for range 3 {
		c.get("/bad")
	}
	eventually(t, "failover", func() bool { _, body := c.get("/"); return body == "far" })
	for range 30 {
		if _, body := c.get("/"); body != "far" {
			t.Fatalf("%s, which is ejected", body)
		}
	}
}
