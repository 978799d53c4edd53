package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

// features are what a user can say of a route, each by itself. None changes what
// the crossed requests are answered.
var features = map[string]func(*seinev1.HttpRule, *seinev1.TrafficPolicy){
	"nothing": func(*seinev1.HttpRule, *seinev1.TrafficPolicy) {},
	"timeout": func(r *seinev1.HttpRule, _ *seinev1.TrafficPolicy) { r.Timeout = durationpb.New(time.Minute) },
	"retry": func(r *seinev1.HttpRule, _ *seinev1.TrafficPolicy) {
		r.Retry = &seinev1.Retry{Attempts: 3, On: []string{"5xx"}, PerTryTimeout: durationpb.New(time.Minute), Backoff: durationpb.New(time.Millisecond), AnyHost: true}
	},
	"delay": func(r *seinev1.HttpRule, _ *seinev1.TrafficPolicy) {
		r.Fault = &seinev1.Fault{Delay: delay(time.Millisecond, all)}
	},
	"mirror": func(r *seinev1.HttpRule, _ *seinev1.TrafficPolicy) {
		r.Mirrors = []*seinev1.Mirror{{PerMillion: all, Destination: r.Destinations[0]}}
	},
	"cors": func(r *seinev1.HttpRule, _ *seinev1.TrafficPolicy) {
		r.Cors = &seinev1.Cors{Origins: origins("https://a.example")}
	},
	"headers": func(r *seinev1.HttpRule, _ *seinev1.TrafficPolicy) {
		r.RequestHeaders = &seinev1.HeaderOps{Set: []*seinev1.Header{{Name: "x-set", Value: "1"}}, Remove: []string{"x-gone"}}
		r.ResponseHeaders = &seinev1.HeaderOps{Add: []*seinev1.Header{{Name: "x-added", Value: "1"}}}
	},
	"rewrite": func(r *seinev1.HttpRule, _ *seinev1.TrafficPolicy) {
		r.Rewrite = &seinev1.Rewrite{Authority: "other.example"}
	},
	"hash": func(_ *seinev1.HttpRule, p *seinev1.TrafficPolicy) {
		p.Hash = &seinev1.ConsistentHash{Key: &seinev1.ConsistentHash_Cookie_{Cookie: &seinev1.ConsistentHash_Cookie{Name: "c", Ttl: durationpb.New(time.Hour)}}}
	},
	"pool": func(_ *seinev1.HttpRule, p *seinev1.TrafficPolicy) {
		p.Pool = &seinev1.ConnectionPool{MaxConnections: 1, MaxPending: 1000, MaxRequests: 1000, MaxRequestsPerConnection: 2}
	},
	"outlier": func(_ *seinev1.HttpRule, p *seinev1.TrafficPolicy) {
		p.Outlier = &seinev1.OutlierDetection{Consecutive_5Xx: 1000, Interval: durationpb.New(time.Second), BaseEjectionTime: durationpb.New(time.Second), MaxEjectionPercent: 100}
	},
	"upgrade": func(_ *seinev1.HttpRule, p *seinev1.TrafficPolicy) { p.H2Upgrade = seinev1.TrafficPolicy_H2_UPGRADE },
	"client":  func(_ *seinev1.HttpRule, p *seinev1.TrafficPolicy) { p.UseClientProtocol = true },
}

// temper is how an application treats a request.
type temper struct {
	name    string
	serve   http.HandlerFunc
	answers string        // statuses that a client may see
	ends    bool          // or it sees the connection or stream end
	within  time.Duration // the route's timeout; 0: the feature's
}

func tempers() []temper {
	var calls atomic.Int64
	whole := func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("X-Method", r.Method)
		fmt.Fprint(w, n)
	}
	return []temper{
		{"whole", whole, "200", false, 0},
		{"early", func(w http.ResponseWriter, r *http.Request) { w.Header().Set("X-Method", r.Method) }, "200", true, 0},
		{"refusing", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusServiceUnavailable) }, "503", true, 0},
		{"every other one fails", func(w http.ResponseWriter, r *http.Request) {
			if calls.Add(1)%2 == 0 {
				http.Error(w, "no", http.StatusInternalServerError)
				return
			}
			whole(w, r)
		}, "200 500", true, 0},
		{"aborting", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "502 503", true, 0},
		{"half an answer", func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, "half")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}, "200 502 503", true, 0},
		{"never", func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
		}, "504", true, 20 * time.Millisecond},
	}
}

// slowly gives its content piece by piece, each behind the scheduler's back.
type slowly struct {
	pieces int
	text   string
}

func (s *slowly) Read(p []byte) (int, error) {
	if s.pieces == 0 {
		return 0, io.EOF
	}
	s.pieces--
	return copy(p, s.text), nil
}

// TestCross has every feature meet every version on both sides, every kind of
// content and every temper of an application, several requests at once through
// two sidecars, while the endpoint is replaced all the time. Nothing may end a proxy, hang or be answered amiss.
func TestCross(t *testing.T) {
	big := strings.Repeat("0123456789", 20_000)
	contents := map[string]func() (method string, body io.Reader, n int){
		"none":    func() (string, io.Reader, int) { return "GET", nil, 0 },
		"head":    func() (string, io.Reader, int) { return "HEAD", nil, 0 },
		"empty":   func() (string, io.Reader, int) { return "POST", strings.NewReader(""), 0 },
		"short":   func() (string, io.Reader, int) { return "POST", strings.NewReader("short"), 5 },
		"long":    func() (string, io.Reader, int) { return "PUT", strings.NewReader(big), len(big) },
		"chunked": func() (string, io.Reader, int) { return "POST", io.MultiReader(strings.NewReader(big)), len(big) },
		"grpc":    func() (string, io.Reader, int) { return "POST", &slowly{3, "\x00\x00\x00\x00\x01a"}, 18 },
		"pieces":  func() (string, io.Reader, int) { return "POST", &slowly{20, "a piece"}, 140 },
	}
	for name, feature := range features {
		for n, protocol := range []seinev1.Protocol{seinev1.Protocol_PROTOCOL_HTTP, seinev1.Protocol_PROTOCOL_HTTP2} {
			for i, a := range tempers() {
				if i > 0 && (i+len(name))%2 != n {
					continue // a good application meets both versions, a bad one either
				}
				t.Run(fmt.Sprintf("%s/%v/%s", name, protocol, a.name), func(t *testing.T) {
					rule, policy := toBilling(), &seinev1.TrafficPolicy{}
					feature(rule, policy)
					if a.within > 0 {
						rule.Timeout = durationpb.New(a.within)
					}
					rules := []*seinev1.HttpRule{rule}
					p := startPairOf(t, app2(t, a.serve), protocol, policy, rules, func(client, _ *Options) { client.Loops = 2 })
					churn := time.NewTicker(2 * time.Millisecond)
					defer churn.Stop()
					quit, gone := make(chan struct{}), make(chan struct{})
					go func() {
						defer close(gone)
						for id := 2; ; id++ {
							select {
							case <-quit:
								return
							case <-churn.C:
							}
							table := billingTable(t, rules, endpoint(fmt.Sprint(id), p.server.Addresses()[0], workload("billing", billingID)))
							table.service[0].Protocol, table.service[0].Policy = protocol, policy
							p.client.tables.publish(table.build())
						}
					}()
					one := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
						return new(net.Dialer).DialContext(ctx, "tcp", p.addr)
					}}}
					defer one.CloseIdleConnections()
					var wg sync.WaitGroup
					for version, c := range map[int]*http.Client{1: one, 2: client2(t, p.addr)} {
						for content, make := range contents {
							method, body, n := make()
							wg.Go(func() {
								if err := crossed(c, a, content, method, body, n); err != nil {
									t.Errorf("HTTP/%d, %s: %v", version, content, err)
								}
							})
						}
					}
					wg.Wait()
					close(quit)
					<-gone
				})
			}
		}
	}
}

// crossed sends one request and says what is wrong with its answer.
func crossed(c *http.Client, a temper, content, method string, body io.Reader, n int) error {
	req, err := http.NewRequest(method, "http://billing:8080/x", body)
	if err != nil {
		return err
	}
	if content == "grpc" { // whose failures are statuses of its own
		req.Header.Set("Content-Type", "application/grpc")
		req.Header.Set("Te", "trailers")
		a.answers += " 200"
	}
	res, err := c.Do(req)
	var text []byte
	if err == nil {
		text, err = io.ReadAll(res.Body)
		_ = res.Body.Close()
	}
	var late net.Error
	switch {
	case errors.As(err, &late) && late.Timeout():
		return fmt.Errorf("no answer: %w", err)
	case err != nil && a.ends:
		return nil
	case err != nil:
		return err
	case !strings.Contains(a.answers, fmt.Sprint(res.StatusCode)):
		return fmt.Errorf("%s: %q", res.Status, text)
	case res.StatusCode == 200 && a.name == "whole" && (res.Header.Get("X-Method") != method || method != "HEAD" && string(text) != fmt.Sprint(n)):
		return fmt.Errorf("answered %q to %s of %d bytes", text, res.Header.Get("X-Method"), n)
	}
	return nil
}
