//go:build linux

package proxy

import (
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/decide"
)

func rateLimitOf(id string, burst uint64, per time.Duration) *seinev1.RateLimit {
	return &seinev1.RateLimit{Id: id, Requests: 1, Per: durationpb.New(per), Burst: burst}
}

func limitedSelf(t testing.TB, limits ...*seinev1.RateLimit) *decide.Table {
	t.Helper()
	s, err := decide.CompileSelf(&seinev1.Self{Workload: workload("billing", billingID), TrustDomain: "cluster.local", DefaultMtls: seinev1.MtlsMode_MTLS_PERMISSIVE, RateLimits: limits})
	must(t, err)
	return (&tableOf{t: t, self: s}).build()
}

func startLimited(t testing.TB, loops int, at netip.AddrPort, limits ...*seinev1.RateLimit) (*running, *tables) {
	t.Helper()
	f := &tables{}
	f.cur.Store(limitedSelf(t, limits...))
	o := Options{Loops: loops, Forwards: []Forward{{Listen: localhost(), App: at, Port: 8080}}, Factory: newAuthority(t).factory(t, billingID)}
	return startWith(t, o, f, func(*Proxy) {}), f
}

// TestRateLimitExact: a number is a number, with however many loops.
func TestRateLimitExact(t *testing.T) {
	for _, loops := range []int{1, 4} {
		t.Run(fmt.Sprint(loops, " loops"), func(t *testing.T) {
			var reached, refused atomic.Int64
			at := app(t, func(http.ResponseWriter, *http.Request) { reached.Add(1) })
			p, _ := startLimited(t, loops, at, rateLimitOf("default/x[0]", 50, time.Hour))
			var clients sync.WaitGroup
			for range 16 {
				c := p.dial(t)
				clients.Go(func() {
					for range 20 {
						res, _ := c.get("/")
						if res.StatusCode == 429 {
							refused.Add(1)
						}
					}
				})
			}
			clients.Wait()
			if reached.Load() != 50 || refused.Load() != 16*20-50 {
				t.Errorf("%d let in and %d refused, want 50 and %d", reached.Load(), refused.Load(), 16*20-50)
			}
			p.flagged(t, "RL")
			p.shows(t, fmt.Sprintf("seine_rate_limited_total{limit=\"default/x[0]\"} %d", 16*20-50))
		})
	}
}

func TestRateLimitHeaders(t *testing.T) {
	at := app(t, echo)
	p, f := startLimited(t, 1, at, rateLimitOf("default/wide[0]", 100, time.Hour), rateLimitOf("default/narrow[0]", 2, time.Minute))
	c := p.dial(t)
	for left := 1; left >= 0; left-- {
		res, _ := c.get("/")
		h := res.Header
		if res.StatusCode != 200 || h.Get("Ratelimit-Limit") != "2" || h.Get("Ratelimit-Remaining") != strconv.Itoa(left) || h.Get("Ratelimit-Reset") != strconv.Itoa((2-left)*60) || h.Get("X-Envoy-Ratelimited") != "" {
			t.Fatalf("%s %v", res.Status, h)
		}
	}
	c.write("POST / HTTP/1.1\r\nHost: billing:8080\r\nContent-Length: 2\r\n\r\nhi")
	res, body := c.response("POST")
	h := res.Header
	if res.StatusCode != 429 || body != "local_rate_limited" || h.Get("X-Envoy-Ratelimited") != "true" || h.Get("Ratelimit-Remaining") != "0" || h.Get("Retry-After") != "60" ||
		h.Get("X-Seine-Cause") != "rate limit default/narrow[0]: 1 requests each 1m0s" {
		t.Errorf("%s %q %v", res.Status, body, h)
	}
	// The connection is good for more, and a policy that changes holds for it; what
	// was taken stays taken.
	f.publish(limitedSelf(t, rateLimitOf("default/wide[0]", 100, time.Hour)))
	eventually(t, "the narrow limit to go", func() bool { res, _ := c.get("/"); return res.StatusCode == 200 })
	f.publish(limitedSelf(t, rateLimitOf("default/narrow[0]", 2, time.Minute)))
	eventually(t, "the narrow limit to come back, as empty as it was", func() bool { res, _ := c.get("/"); return res.StatusCode == 429 })
}

func TestRateLimitKeys(t *testing.T) {
	at := app(t, echo)
	byUser := rateLimitOf("default/user[0]", 2, time.Hour)
	byUser.Key, byUser.MaxKeys = &seinev1.RateLimit_Header{Header: "x-user"}, 64
	byUser.Match = []*seinev1.HttpMatch{{Uri: &seinev1.StringMatch{Match: &seinev1.StringMatch_Prefix{Prefix: "/api"}}}}
	p, _ := startLimited(t, 2, at, byUser)
	c := p.dial(t)
	count := func(path, header string) (let int) {
		for range 5 {
			c.write("GET %s HTTP/1.1\r\nHost: billing:8080\r\n%s\r\n", path, header)
			if res, _ := c.response("GET"); res.StatusCode == 200 {
				let++
			}
		}
		return let
	}
	for _, s := range []struct {
		path, header string
		want         int
	}{
		{"/api/a", "X-User: alice\r\n", 2}, {"/api/b", "x-user: bob\r\n", 2}, {"/api/a", "x-user: alice\r\n", 0},
		{"/api/a", "", 2}, {"/other", "x-user: alice\r\n", 5},
	} {
		if got := count(s.path, s.header); got != s.want {
			t.Errorf("%s %q: %d let in, want %d", s.path, s.header, got, s.want)
		}
	}
}

// TestRateLimitByClient: callers are told apart by their certificates.
func TestRateLimitByClient(t *testing.T) {
	limit := rateLimitOf("default/client[0]", 3, time.Hour)
	limit.Key, limit.MaxKeys = &seinev1.RateLimit_Client{Client: true}, 16
	ca := newAuthority(t)
	at := app(t, echo)
	server := start(t, Options{Loops: 1, Forwards: []Forward{{Listen: localhost(), App: at, Port: 8080}}, Factory: ca.factory(t, billingID)}, limitedSelf(t, limit))
	for _, id := range []string{frontendID, "spiffe://cluster.local/ns/default/sa/other"} {
		client := start(t, Options{Loops: 1, Explicit: localhost(), Factory: ca.factory(t, id)},
			billingTable(t, []*seinev1.HttpRule{toBilling()}, endpoint("1", server.Addresses()[0], workload("billing", billingID))).build())
		c, let := client.dial(t), 0
		for range 6 {
			if res, _ := c.get("/"); res.StatusCode == 200 {
				let++
			}
		}
		if let != 3 {
			t.Errorf("%s: %d let in, want 3", id, let)
		}
	}
}
