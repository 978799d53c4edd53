//go:build linux

package proxy

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

// witness is an application that keeps what it was sent.
type witness struct {
	mu   sync.Mutex
	seen []string
	hold chan struct{} // if set, it never answers until closed
}

func (s *witness) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	s.mu.Lock()
	s.seen = append(s.seen, fmt.Sprintf("%s %s %s %s %q %v", r.Method, r.Host, r.URL, r.Header.Get("X-Set"), body, err))
	s.mu.Unlock()
	if s.hold != nil {
		<-s.hold
	}
	w.WriteHeader(500)
	fmt.Fprint(w, strings.Repeat("nobody reads this", 10_000))
}

func (s *witness) saw() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.seen...)
}

const shadowHost = "shadow.default.svc.cluster.local"

// startMirrored is a proxy for a rule whose mirrors get that share each.
func startMirrored(t testing.TB, at netip.AddrPort, edit func(*seinev1.HttpRule), share uint32, mirrors ...netip.AddrPort) *running {
	t.Helper()
	r := toBilling()
	r.Rewrite = &seinev1.Rewrite{Uri: "/rewritten", Authority: "other.example"}
	r.RequestHeaders = &seinev1.HeaderOps{Set: []*seinev1.Header{{Name: "x-set", Value: "by-the-rule"}}, Remove: []string{"x-secret"}}
	if edit != nil {
		edit(r)
	}
	table := billingTable(t, []*seinev1.HttpRule{r}, endpoint("1", at, workload("billing", "")))
	for i, m := range mirrors {
		host := fmt.Sprint(i) + shadowHost
		r.Mirrors = append(r.Mirrors, &seinev1.Mirror{PerMillion: share, Destination: &seinev1.Destination{Host: host, Port: 80}})
		table.service = append(table.service, &seinev1.Service{Host: host, Name: "shadow", Namespace: "default", Port: 80, Policy: &seinev1.TrafficPolicy{}})
		table.eps[host+"/80"] = []*seinev1.Endpoint{endpoint("s", m, workload("shadow", ""))}
	}
	return start(t, Options{Loops: 1, Explicit: localhost()}, table.build())
}

func TestMirror(t *testing.T) {
	at := app(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	for _, version := range []int{1, 2} {
		t.Run(fmt.Sprint("HTTP/", version), func(t *testing.T) {
			one, two := &witness{}, &witness{}
			p := startMirrored(t, at, nil, all, app(t, one.ServeHTTP), app(t, two.ServeHTTP))
			for i, c := range []struct {
				method, body string
				chunked      bool
			}{{"GET", "", false}, {"POST", "hello", false}, {"PUT", "in chunks", true}, {"POST", "", false}} {
				req, err := http.NewRequest(c.method, "http://billing:8080/?q=1", io.NopCloser(strings.NewReader(c.body)))
				must(t, err)
				req.Header.Set("X-Secret", "1")
				if !c.chunked {
					req.ContentLength = int64(len(c.body))
					if c.body == "" {
						req.Body = http.NoBody
					}
				}
				cl := client2(t, p.Addresses()[0].String())
				if version == 1 {
					cl.Transport = &http.Transport{DisableKeepAlives: true, DialContext: cl.Transport.(*http.Transport).DialContext}
				}
				res, err := cl.Do(req)
				must(t, err)
				got, _ := io.ReadAll(res.Body)
				_ = res.Body.Close()
				if res.StatusCode != 200 || string(got) != c.body {
					t.Fatalf("%s %q", res.Status, got)
				}
				want := fmt.Sprintf("%s other.example /rewritten?q=1 by-the-rule %q <nil>", c.method, c.body)
				for _, s := range []*witness{one, two} {
					eventually(t, want, func() bool { seen := s.saw(); return len(seen) == i+1 && seen[i] == want })
				}
			}
			p.shows(t, `seine_mirrored_requests_total{outcome="answered"} 8`, `seine_mirrored_requests_total{outcome="failed"} 0`)
			eventually(t, "the mirror's own metric", func() bool {
				return strings.Contains(p.metrics(t), `destination_service="0`+shadowHost)
			})
		})
	}
}

// TestMirrorNeverSlows: a mirror that does not answer, or does not exist, costs
// the original nothing, and no more than a bounded number of copies wait for it.
func TestMirrorNeverSlows(t *testing.T) {
	at := app(t, echo)
	stuck := &witness{hold: make(chan struct{})}
	dead := rawApp(t, func(c net.Conn) { _ = c.Close() })
	p := startMirrored(t, at, nil, all, app(t, stuck.ServeHTTP), dead, nobody(t))
	c := p.dial(t)
	for range maxCopies + 50 {
		if res, _ := c.get("/"); res.StatusCode != 200 {
			t.Fatal(res.Status)
		}
	}
	eventually(t, "copies beyond the bound", func() bool {
		return !strings.Contains(p.metrics(t), `seine_mirrored_requests_total{outcome="overflow"} 0`)
	})
	if n := len(stuck.saw()); n > maxCopies {
		t.Errorf("%d copies wait at once", n)
	}
	close(stuck.hold)
	eventually(t, "all copies to end", func() bool {
		var n int
		done := make(chan struct{})
		p.workers[0].loop.Post(func() { n = len(p.workers[0].copies); close(done) })
		<-done
		return n == 0
	})
}

func TestMirrorShareAndSize(t *testing.T) {
	at := app(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
	s := &witness{}
	p := startMirrored(t, at, nil, all/4, app(t, s.ServeHTTP))
	c := p.dial(t)
	const n = 400
	for range n {
		if res, _ := c.get("/"); res.StatusCode != 200 {
			t.Fatal(res.Status)
		}
	}
	eventually(t, "the copies", func() bool { return len(s.saw()) >= n/4-52 }) // six standard deviations
	if got := len(s.saw()); got > n/4+52 {
		t.Errorf("%d of %d copied, want about a quarter", got, n)
	}

	whole := &witness{}
	p = startMirrored(t, at, nil, all, app(t, whole.ServeHTTP))
	c = p.dial(t)
	c.write("POST / HTTP/1.1\r\nHost: billing:8080\r\nContent-Length: %d\r\n\r\n%s", maxCopy+1, strings.Repeat("x", maxCopy+1))
	if res, _ := c.response("POST"); res.StatusCode != 200 {
		t.Fatal(res.Status)
	}
	p.shows(t, `seine_mirrored_requests_total{outcome="too_large"} 1`)
	if len(whole.saw()) != 0 {
		t.Error("a part of a request was copied")
	}
}

// TestMirrorSecure: a copy goes to a mirror with a sidecar in mutual TLS, by the
// mirror's own identity.
func TestMirrorSecure(t *testing.T) {
	s := &witness{}
	p := startPair(t, app(t, s.ServeHTTP), nil, nil)
	at := app(t, echo)
	r := toBilling()
	r.Mirrors = []*seinev1.Mirror{{PerMillion: all, Destination: &seinev1.Destination{Host: shadowHost, Port: 80}}}
	table := billingTable(t, []*seinev1.HttpRule{r}, endpoint("1", at, workload("billing", "")))
	table.service = append(table.service, &seinev1.Service{Host: shadowHost, Name: "shadow", Namespace: "default", Port: 80, Policy: &seinev1.TrafficPolicy{}})
	table.eps[shadowHost+"/80"] = []*seinev1.Endpoint{endpoint("s", p.server.Addresses()[0], workload("billing", billingID))}
	client := start(t, Options{Loops: 1, Explicit: localhost(), Factory: p.ca.factory(t, frontendID)}, table.build())
	c := client.dial(t)
	for i := range 3 {
		if res, _ := c.get("/"); res.StatusCode != 200 {
			t.Fatal(res.Status)
		}
		eventually(t, "the copy", func() bool { return len(s.saw()) == i+1 })
	}
	client.shows(t, `seine_mirrored_requests_total{outcome="failed"} 0`)
}
