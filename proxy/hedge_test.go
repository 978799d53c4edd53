//go:build linux

package proxy

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

// racing is an application whose tries of a request answer as they are told to: by
// the number of the try.
type racing struct {
	begun chan int       // tries as they come
	gone  chan int       // tries that were reset
	say   [4]chan string // what a try answers: a status
}

func (a *racing) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	var n int
	_, _ = fmt.Sscan(r.Header.Get("X-Envoy-Attempt-Count"), &n)
	a.begun <- n
	select {
	case s := <-a.say[n]:
		var status int
		_, _ = fmt.Sscan(s, &status)
		w.Header().Set("X-Try", fmt.Sprint(n))
		w.WriteHeader(status)
		_, _ = w.Write(body)
	case <-r.Context().Done():
		a.gone <- n
	}
}

// TestHedging: a try whose time has passed goes on beside the next one; the first good
// answer is the client's, and the other try is reset.
func TestHedging(t *testing.T) {
	type step struct {
		await int    // the try that has to come first
		try   int    // who answers then
		say   string // with what
	}
	for _, c := range []struct {
		name     string
		attempts uint32
		steps    []step
		status   int
		by       string
		gone     int // how many tries are reset
		late     uint64
	}{
		{"the second answers", 1, []step{{2, 2, "200"}}, 200, "2", 1, 0},
		{"the first answers after all", 1, []step{{2, 1, "200"}}, 200, "1", 1, 1},
		{"a bad answer of the first is not waited for", 1, []step{{2, 1, "503"}, {2, 2, "200"}}, 200, "2", 0, 0},
		{"the first is better than a bad answer of the second", 1, []step{{2, 2, "503"}, {2, 1, "200"}}, 200, "1", 0, 0},
		{"three race", 2, []step{{3, 2, "200"}}, 200, "2", 2, 1},
		{"nobody in time", 1, nil, 504, "", 2, 0},
		{"both are bad", 1, []step{{2, 1, "503"}, {2, 2, "503"}}, 503, "1 or 2", 0, 0},
		{"before its time", 1, []step{{1, 1, "200"}}, 200, "1", 0, 0},
	} {
		for _, upstream := range []seinev1.Protocol{seinev1.Protocol_PROTOCOL_HTTP, seinev1.Protocol_PROTOCOL_HTTP2} {
			for _, version := range []int{1, 2} {
				t.Run(fmt.Sprintf("%s, HTTP/%d to %v", c.name, version, upstream), func(t *testing.T) {
					t.Parallel()
					a := &racing{begun: make(chan int, 8), gone: make(chan int, 8)}
					for i := range a.say {
						a.say[i] = make(chan string, 1)
					}
					rule := retried(c.attempts, "5xx")
					rule.Retry.Hedge, rule.Retry.PerTryTimeout = true, durationpb.New(30*time.Millisecond)
					rule.Timeout = durationpb.New(10 * time.Second)
					if c.name == "nobody in time" {
						rule.Timeout = durationpb.New(300 * time.Millisecond)
					}
					if c.name == "before its time" {
						rule.Retry.PerTryTimeout = durationpb.New(5 * time.Second)
					}
					table := billingTable(t, []*seinev1.HttpRule{rule}, endpoint("1", app2(t, a.ServeHTTP), workload("billing", "")))
					table.service[0].Protocol = upstream
					p := start(t, Options{Loops: 1, Explicit: localhost()}, table.build())
					type result struct {
						status   int
						by, body string
					}
					out := make(chan result, 1)
					go func() {
						if version == 2 {
							res, err := client2(t, p.Addresses()[0].String()).Post("http://billing:8080/", "text/plain", strings.NewReader("body"))
							if err != nil {
								out <- result{body: err.Error()}
								return
							}
							b, _ := io.ReadAll(res.Body)
							_ = res.Body.Close()
							out <- result{res.StatusCode, res.Header.Get("X-Try"), string(b)}
							return
						}
						d := p.dial(t)
						d.write("POST / HTTP/1.1\r\nHost: billing:8080\r\nContent-Length: 4\r\n\r\nbody")
						res, body := d.response("POST")
						out <- result{res.StatusCode, res.Header.Get("X-Try"), body}
					}()
					come := 0
					for _, s := range c.steps {
						for come < s.await {
							come = max(come, <-a.begun)
						}
						a.say[s.try] <- s.say
					}
					got := <-out
					if got.status != c.status || !strings.Contains(c.by, got.by) || c.status == 200 && got.body != "body" {
						t.Errorf("%+v, want %d by %q", got, c.status, c.by)
					}
					for range c.gone {
						<-a.gone
					}
					if n := p.hedges.late.Value(); n != c.late && len(c.steps) == 1 {
						t.Errorf("%d answers came late, want %d", n, c.late)
					}
					eventually(t, "nothing is under way", func() bool { return p.inflight() == 0 })
				})
			}
		}
	}
}

// TestHedgingIsSafe: what must not be repeated is not sent a second time, and the
// caller may ask for hedging by Envoy's field.
func TestHedgingIsSafe(t *testing.T) {
	for _, c := range []struct {
		name, head string
		rule       func(*seinev1.HttpRule)
		tries      int
	}{
		{"POST, nothing written", "POST / HTTP/1.1\r\nContent-Length: 0\r\n", func(r *seinev1.HttpRule) { r.Retry.On, r.Retry.Hedge = nil, true }, 1},
		{"by field", "GET / HTTP/1.1\r\nx-envoy-hedge-on-per-try-timeout: true\r\n", func(r *seinev1.HttpRule) {}, 2},
		{"not, by field", "GET / HTTP/1.1\r\nx-envoy-hedge-on-per-try-timeout: false\r\nx-envoy-max-retries: 0\r\n", func(r *seinev1.HttpRule) { r.Retry.Hedge = true }, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := &racing{begun: make(chan int, 8), gone: make(chan int, 8)}
			rule := retried(1, "connect-failure")
			rule.Retry.PerTryTimeout, rule.Timeout = durationpb.New(20*time.Millisecond), durationpb.New(200*time.Millisecond)
			c.rule(rule)
			p := startRetrying(t, rule, app(t, a.ServeHTTP))
			d := p.dial(t)
			d.write("%sHost: billing:8080\r\n\r\n", c.head)
			if res, body := d.response("GET"); res.StatusCode != 504 {
				t.Errorf("%s %q", res.Status, body)
			}
			for range c.tries {
				<-a.gone
			}
			if n := len(a.begun); n != c.tries {
				t.Errorf("%d tries, want %d", n, c.tries)
			}
		})
	}
}
