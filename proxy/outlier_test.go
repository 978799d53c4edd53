//go:build linux

package proxy

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

// switchable is an application with a status that can be changed.
type switchable struct {
	at     netip.AddrPort
	status atomic.Int64
	served atomic.Int64
}

func newSwitchable(t testing.TB, status int64) *switchable {
	s := &switchable{}
	s.status.Store(status)
	s.at = app(t, func(w http.ResponseWriter, _ *http.Request) {
		s.served.Add(1)
		w.WriteHeader(int(s.status.Load()))
	})
	return s
}

func watched(o *seinev1.OutlierDetection) *seinev1.TrafficPolicy {
	if o.Interval == nil {
		o.Interval = durationpb.New(10 * time.Millisecond)
	}
	if o.BaseEjectionTime == nil {
		o.BaseEjectionTime = durationpb.New(time.Hour)
	}
	if o.MaxEjectionPercent == 0 {
		o.MaxEjectionPercent = 100
	}
	return &seinev1.TrafficPolicy{Outlier: o, Balancer: seinev1.TrafficPolicy_ROUND_ROBIN}
}

// closedPort is an address at which nobody listens.
func closedPort(t testing.TB) netip.AddrPort {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return netip.MustParseAddrPort(l.Addr().String())
}

// logLines is a log that a test reads.
type logLines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logLines) has(parts ...string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.b.String()) {
		all := true
		for _, p := range parts {
			all = all && strings.Contains(line, p)
		}
		if all {
			return true
		}
	}
	return false
}

// TestEjection: an endpoint that answers with errors gets no requests of any
// loop until its time is over, and is tried again then.
func TestEjection(t *testing.T) {
	for _, loops := range []int{1, 4} {
		t.Run(fmt.Sprint(loops), func(t *testing.T) {
			bad, good := newSwitchable(t, 500), newSwitchable(t, 200)
			var log logLines
			policy := watched(&seinev1.OutlierDetection{Consecutive_5Xx: 3})
			p := start(t, Options{Loops: loops, Explicit: localhost(), Log: slog.New(slog.NewTextHandler(&log, nil))},
				limited(t, policy, toBilling(), endpoint("bad", bad.at, workload("billing", "")), endpoint("good", good.at, workload("billing", ""))).build())
			var clients []*client
			for range 8 {
				clients = append(clients, dial(t, p.Addresses()[0].String()))
			}
			failed := 0
			sh := (*shared)(nil)
			for i := 0; sh == nil || sh.ejected.Load() == nil; i++ {
				if res, _ := clients[i%8].get("/"); res.StatusCode == 500 {
					failed++
				}
				if sh == nil {
					sh = p.allShared()[0]
				}
				if i > 1000 {
					t.Fatal("never ejected")
				}
			}
			if failed < 3 {
				t.Errorf("ejected after %d errors", failed)
			}
			before := bad.served.Load()
			for i := range 100 {
				if res, _ := clients[i%8].get("/"); res.StatusCode != 200 {
					t.Error(res.Status)
				}
			}
			if n := bad.served.Load() - before; n != 0 {
				t.Errorf("%d requests went to an ejected endpoint", n)
			}
			p.shows(t, `seine_outlier_ejections_total{cluster="outbound|8080||`+billing+`",cause="consecutive_5xx"} 1`,
				`seine_outlier_ejections_active{cluster="outbound|8080||`+billing+`"} 1`,
				`seine_outlier_ejected_until_timestamp_seconds{cluster="outbound|8080||`+billing+`",endpoint="bad",address="`+bad.at.String()+`",cause="consecutive_5xx"} 1`)
			eventually(t, "the log says so", func() bool {
				return log.has("endpoint ejected", "endpoint=bad", "address="+bad.at.String(), "cause=consecutive_5xx", "errors=3", "for=1h0m0s", "default/billing", "outlierDetection.consecutive5xxErrors")
			})
			// Its time is shortened: it returns.
			bad.status.Store(200)
			policy.Outlier.BaseEjectionTime = durationpb.New(time.Millisecond)
			p.tables.publish(limited(t, policy, toBilling(), endpoint("bad", bad.at, workload("billing", "")), endpoint("good", good.at, workload("billing", ""))).build())
			eventually(t, "it is back", func() bool { return sh.ejected.Load() == nil })
			eventually(t, "the log says so", func() bool { return log.has("endpoint returned", "endpoint=bad") })
			for range 8 {
				clients[0].get("/")
			}
			if bad.served.Load() == before {
				t.Error("it gets no requests after its return")
			}
			p.shows(t, `seine_outlier_ejections_active{cluster="outbound|8080||`+billing+`"} 0`)
			if strings.Contains(p.metrics(t), "seine_outlier_ejected_until_timestamp_seconds{") {
				t.Error("an endpoint that is back is shown as ejected")
			}
		})
	}
}

// TestConnectFailureEjects: nobody listening counts as an error, as a gateway's
// where failures are not split, by itself where they are.
func TestConnectFailureEjects(t *testing.T) {
	for cause, o := range map[string]*seinev1.OutlierDetection{
		"consecutive_gateway_failure":      {ConsecutiveGateway: 2},
		"consecutive_5xx":                  {Consecutive_5Xx: 2},
		"consecutive_local_origin_failure": {Consecutive_5Xx: 1, SplitLocal: true, ConsecutiveLocal: 2},
	} {
		t.Run(cause, func(t *testing.T) {
			good := newSwitchable(t, 200)
			p := start(t, Options{Loops: 2, Explicit: localhost()}, limited(t, watched(o), toBilling(),
				endpoint("bad", closedPort(t), workload("billing", "")), endpoint("good", good.at, workload("billing", ""))).build())
			c := dial(t, p.Addresses()[0].String())
			for i := 0; len(p.allShared()) == 0 || p.allShared()[0].ejected.Load() == nil; i++ {
				c.get("/")
				if i > 1000 {
					t.Fatal("never ejected")
				}
			}
			for range 10 {
				if res, _ := c.get("/"); res.StatusCode != 200 {
					t.Error(res.Status)
				}
			}
			p.shows(t, `cause="`+cause+`"} 1`)
		})
	}
}

// TestAllEjected: with everybody out there is nobody to ask, unless
// minHealthPercent says that all are used then.
func TestAllEjected(t *testing.T) {
	for _, health := range []uint32{0, 50} {
		t.Run(fmt.Sprint(health), func(t *testing.T) {
			bad := newSwitchable(t, 503)
			p := start(t, Options{Loops: 1, Explicit: localhost()},
				limited(t, watched(&seinev1.OutlierDetection{Consecutive_5Xx: 1, MinHealthPercent: health}), toBilling(), endpoint("bad", bad.at, workload("billing", ""))).build())
			c := dial(t, p.Addresses()[0].String())
			c.get("/")
			sh := p.sharedOf(t)
			eventually(t, "it is ejected", func() bool { return sh.ejected.Load() != nil })
			res, _ := c.get("/")
			cause := res.Header.Get("X-Seine-Cause")
			if health == 0 && (res.StatusCode != 503 || !strings.Contains(cause, "outlierDetection has ejected 1")) {
				t.Errorf("%s %q", res.Status, cause)
			}
			if health > 0 && (bad.served.Load() != 2 || cause != "") {
				t.Errorf("%d served, %q", bad.served.Load(), cause)
			}
		})
	}
}

// TestMaxEjectionPercent: no more are ejected than the percentage allows.
func TestMaxEjectionPercent(t *testing.T) {
	var eps []*seinev1.Endpoint
	for i := range 4 {
		eps = append(eps, endpoint(fmt.Sprint(i), newSwitchable(t, 500).at, workload("billing", "")))
	}
	p := start(t, Options{Loops: 4, Explicit: localhost()},
		limited(t, watched(&seinev1.OutlierDetection{Consecutive_5Xx: 1, MaxEjectionPercent: 50}), toBilling(), eps...).build())
	var all sync.WaitGroup
	for range 8 {
		c := dial(t, p.Addresses()[0].String())
		all.Go(func() {
			for range 25 {
				c.get("/")
			}
		})
	}
	all.Wait()
	sh := p.sharedOf(t)
	p.shows(t, "seine_outlier_ejections_overflow_total", `seine_outlier_ejections_active{cluster="outbound|8080||`+billing+`"} 2`)
	if n := len(*sh.ejected.Load()); n != 2 {
		t.Errorf("%d of 4 are out, 50 %% may be", n)
	}
}

// TestStreamConnectFailureEjects: opaque connections count, too.
func TestStreamConnectFailureEjects(t *testing.T) {
	const dialled = "10.9.9.9:8080"
	echo := rawApp(t, func(c net.Conn) { _, _ = io.Copy(c, c) })
	p := startStream(t, Options{Loops: 2}, streamed(t, watched(&seinev1.OutlierDetection{Consecutive_5Xx: 1}), dialled,
		endpoint("bad", closedPort(t), workload("billing", "")), endpoint("good", echo, workload("billing", ""))), dialled)
	addr := p.Addresses()[0].String()
	try := func() bool {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			return false
		}
		defer c.Close()
		_, _ = io.WriteString(c, "a")
		b := make([]byte, 1)
		_, err = io.ReadFull(c, b)
		return err == nil
	}
	for i := 0; len(p.allShared()) == 0 || p.allShared()[0].ejected.Load() == nil; i++ {
		try()
		if i > 1000 {
			t.Fatal("never ejected")
		}
	}
	for range 5 {
		if !try() {
			t.Error("a connection failed although the bad endpoint is out")
		}
	}
}

// TestEjectionByCodes: with outlierDetectionHttpErrorCodes these are the errors,
// and no others are.
func TestEjectionByCodes(t *testing.T) {
	limiting, failing := newSwitchable(t, 429), newSwitchable(t, 500)
	policy := watched(&seinev1.OutlierDetection{Consecutive_5Xx: 3, ErrorCodes: []uint32{429}})
	p := start(t, Options{Loops: 1, Explicit: localhost()},
		limited(t, policy, toBilling(), endpoint("limiting", limiting.at, workload("billing", "")), endpoint("failing", failing.at, workload("billing", ""))).build())
	c := dial(t, p.Addresses()[0].String())
	eventually(t, "the one that answers 429 to be ejected", func() bool {
		_, _ = c.get("/")
		return p.allShared()[0].ejected.Load() != nil
	})
	before := limiting.served.Load()
	for range 50 {
		if res, _ := c.get("/"); res.StatusCode != 500 {
			t.Fatal(res.Status)
		}
	}
	if n := limiting.served.Load() - before; n != 0 {
		t.Errorf("%d requests went to the ejected endpoint", n)
	}
}

// TestEjectionByGRPC: a call's outcome is its grpc-status, be it in the head of
// an answer that is nothing else or in its trailers.
func TestEjectionByGRPC(t *testing.T) {
	for name, content := range map[string]string{"in the head": "", "in trailers": "\x00\x00\x00\x00\x00"} {
		t.Run(name, func(t *testing.T) {
			var served [2]atomic.Int64
			serve := func(i int, status string) netip.AddrPort {
				return app2(t, func(w http.ResponseWriter, r *http.Request) {
					served[i].Add(1)
					w.Header().Set("Content-Type", "application/grpc")
					if content != "" {
						w.Header().Set("Trailer", "Grpc-Status")
						_, _ = io.WriteString(w, content)
					}
					w.Header().Set("Grpc-Status", status)
				})
			}
			table := billingTable(t, []*seinev1.HttpRule{toBilling()},
				endpoint("bad", serve(0, "14"), workload("billing", "")), endpoint("good", serve(1, "5"), workload("billing", "")))
			table.service[0].Policy, table.service[0].Protocol = watched(&seinev1.OutlierDetection{ConsecutiveGateway: 3}), seinev1.Protocol_PROTOCOL_GRPC
			p := start(t, Options{Loops: 1, Explicit: localhost()}, table.build())
			c := client2(t, p.Addresses()[0].String())
			eventually(t, "the ejection", func() bool {
				grpcCall(t, c)
				all := p.allShared()
				return len(all) > 0 && all[0].ejected.Load() != nil
			})
			p.shows(t, `cause="consecutive_gateway_failure"} 1`)
			before := served[0].Load()
			for range 20 {
				if status, _, _ := grpcCall(t, c); status != "5" {
					t.Errorf("status %q", status)
				}
			}
			if n := served[0].Load() - before; n != 0 {
				t.Errorf("%d calls went to an ejected endpoint", n)
			}
		})
	}
}
