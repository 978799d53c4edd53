//go:build linux

package proxy

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/proxy/tap"
)

// watching is a control plane that has taps put on, and keeps what comes of them.
type watching struct {
	grpc.ClientStream
	ctx     context.Context
	sets    chan *seinev1.TapSet
	records chan *seinev1.TapRecord
}

// watch has a reporter with these taps on; its records come in the channel.
func watch(t testing.TB, specs ...*seinev1.TapSpec) (*tap.Reporter, <-chan *seinev1.TapRecord) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w := &watching{ctx: ctx, sets: make(chan *seinev1.TapSet, 1), records: make(chan *seinev1.TapRecord, 10_000)}
	r := tap.New("default/x-1", 1, slog.New(slog.DiscardHandler))
	done := make(chan struct{})
	go func() { defer close(done); r.Run(ctx, w) }()
	t.Cleanup(func() { cancel(); <-done })
	w.sets <- &seinev1.TapSet{Taps: specs}
	eventually(t, "the taps are on", func() bool { return r.Set() != nil })
	return r, w.records
}

func (w *watching) Invoke(context.Context, string, any, any, ...grpc.CallOption) error {
	panic("not called")
}

func (w *watching) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return w, nil
}

func (w *watching) RecvMsg(m any) error {
	select {
	case s := <-w.sets:
		proto.Merge(m.(*seinev1.TapSet), s)
		return nil
	case <-w.ctx.Done():
		return w.ctx.Err()
	}
}

func (w *watching) SendMsg(m any) error {
	for _, b := range m.(*seinev1.TapReport).Records {
		r := &seinev1.TapRecord{}
		if err := proto.Unmarshal(b, r); err != nil {
			return err
		}
		select {
		case w.records <- r:
		default:
		}
	}
	return nil
}

func nextRecord(t testing.TB, records <-chan *seinev1.TapRecord) *seinev1.TapRecord {
	t.Helper()
	late := time.NewTimer(20 * time.Second)
	defer late.Stop()
	select {
	case r := <-records:
		return r
	case <-late.C:
		t.Fatal("no record came")
		return nil
	}
}

// TestTapped: what both sidecars show of a call, whichever HTTP the client speaks.
func TestTapped(t *testing.T) {
	at := app(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(w, "short and stout")
	})
	spec := func() *seinev1.TapSpec {
		return &seinev1.TapSpec{Id: 3, MaxRps: 1000, Path: "/pay*", Headers: []*seinev1.TapHeader{{Name: "cookie", Value: true}, {Name: "x-user", Value: true}, {Name: "user-agent"}}}
	}
	clientTaps, sent := watch(t, spec())
	serverTaps, received := watch(t, spec())
	p := startPair(t, at, nil, func(client, server *Options) { client.Taps, server.Taps = clientTaps, serverTaps })

	for _, two := range []bool{false, true} {
		transport := &http.Transport{Protocols: &http.Protocols{}}
		transport.Protocols.SetUnencryptedHTTP2(two)
		transport.Protocols.SetHTTP1(!two)
		ask := func(path string) {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+p.addr+path, strings.NewReader("12345"))
			must(t, err)
			req.Host = "billing:8080"
			req.Header = http.Header{
				"X-User": {"joe"}, "Cookie": {"session=secret"}, "User-Agent": {"test"},
				"Traceparent": {"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}, "X-Request-Id": {"r-1"},
			}
			res, err := transport.RoundTrip(req)
			must(t, err)
			_, err = io.Copy(io.Discard, res.Body)
			must(t, err)
			must(t, res.Body.Close())
		}
		ask("/other")
		ask("/pay/7?card=4111")
		transport.CloseIdleConnections()
		protocol := "HTTP/1.1"
		if two {
			protocol = "HTTP/2"
		}
		for name, r := range map[string]*seinev1.TapRecord{"client": nextRecord(t, sent), "server": nextRecord(t, received)} {
			if time.Since(time.Unix(0, r.Start)) > time.Hour || r.Duration <= 0 || r.Upstream <= 0 || r.Upstream > r.Duration {
				t.Errorf("%s: times of %v", name, r)
			}
			if r.Source.Address == "" || r.Destination.Address == "" {
				t.Errorf("%s: addresses of %v", name, r)
			}
			r.Start, r.Duration, r.Upstream, r.Source.Address, r.Destination.Address = 0, 0, 0, "", ""
			want := &seinev1.TapRecord{
				Tap: 3, Inbound: name == "server",
				Source:      &seinev1.TapParty{Namespace: "default", Workload: "frontend", Instance: "frontend-1", Version: "v1", Identity: frontendID},
				Destination: &seinev1.TapParty{Namespace: "default", Workload: "billing", Instance: "billing-1", Version: "v1", Identity: billingID},
				Service:     billing, Method: []byte("POST"), Authority: []byte("billing:8080"), Path: []byte("/pay/7?redacted"), Protocol: protocol,
				Code: 418, Details: "via_upstream", Attempts: r.Attempts, RequestBytes: 5, ResponseBytes: 15, Security: "mutual_tls",
				RequestId: []byte("r-1"), TraceId: "4bf92f3577b34da6a3ce929d0e0e4736", Rule: r.Rule,
				Fields: []*seinev1.TapField{{Name: "cookie", Redacted: true}, {Name: "x-user", Value: []byte("joe")}, {Name: "user-agent", Redacted: true}},
			}
			if name == "server" && two { // which leg the client's sidecar chose is its own matter
				want.Protocol = r.Protocol
			}
			if !proto.Equal(r, want) {
				t.Errorf("%s over %s:\ngot  %v\nwant %v", name, protocol, r, want)
			}
		}
	}
	if n := len(sent) + len(received); n != 0 {
		t.Errorf("%d requests were shown that nobody asked for", n)
	}
}

// TestTappedFailure: a request that goes nowhere is shown with the reason.
func TestTappedFailure(t *testing.T) {
	taps, shown := watch(t, &seinev1.TapSpec{Id: 1, MaxRps: 100, Statuses: []*seinev1.TapStatus{{Least: 400, Most: 599}}})
	p := start(t, Options{Loops: 1, Explicit: localhost(), Taps: taps}, billingTable(t, []*seinev1.HttpRule{toBilling()}).build())
	c := dial(t, p.Addresses()[0].String())
	c.write("GET /pay HTTP/1.1\r\nHost: billing:8080\r\n\r\n")
	if res, _ := c.response("GET"); res.StatusCode != 503 {
		t.Fatal(res.Status)
	}
	if r := nextRecord(t, shown); r.Flag != "UH" || len(r.Cause) == 0 || r.Security != "unknown" || r.Upstream != 0 || string(r.Path) != "/pay" {
		t.Errorf("%v", r)
	}
}
