package tap_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/mesh"
	reporter "github.com/seinemesh/seine/proxy/tap"
	"github.com/seinemesh/seine/tap"
	"github.com/seinemesh/seine/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// plane is a hub with its two doors: gRPC for proxies, HTTP for people.
type plane struct {
	t    *testing.T
	hub  *tap.Hub
	lis  *bufconn.Listener
	http *httptest.Server
}

// admit knows proxies by name alone; their certificates are discovery's matter.
func admit(until time.Time) func(context.Context, string) (*mesh.Workload, string, time.Time, error) {
	return func(_ context.Context, node string) (*mesh.Workload, string, time.Time, error) {
		namespace, instance, _ := strings.Cut(node, "/")
		if namespace == "stranger" {
			return nil, "", time.Time{}, status.Error(codes.PermissionDenied, "who?")
		}
		app, _, _ := strings.Cut(instance, "-")
		return &mesh.Workload{Ref: mesh.Ref{Namespace: namespace}, Instance: instance, App: app}, "spiffe://cluster.local/ns/" + namespace + "/sa/" + app, until, nil
	}
}

func newPlane(t *testing.T, owner bool, until time.Time) *plane {
	p := &plane{t: t, hub: tap.New(tap.Options{Admit: admit(until), Replica: "seined-a"}), lis: bufconn.Listen(1 << 20)}
	srv := grpc.NewServer(grpc.WaitForHandlers(true))
	p.hub.Register(srv)
	served := make(chan struct{})
	go func() { defer close(served); _ = srv.Serve(p.lis) }()
	p.http = httptest.NewUnstartedServer(p.hub.Handler(owner))
	p.http.Config.ReadTimeout, p.http.Config.WriteTimeout = 100*time.Millisecond, 100*time.Millisecond // a tap outlives them
	p.http.Start()
	t.Cleanup(func() {
		p.hub.Close()
		p.http.Close()
		srv.Stop()
		<-served
	})
	return p
}

// conn is a proxy's connection.
func (p *plane) conn() *grpc.ClientConn {
	c, err := grpc.NewClient("passthrough:///plane", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return p.lis.DialContext(ctx) }))
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = c.Close() })
	return c
}

// proxy is a proxy's reporter, until the returned function is called.
func (p *plane) proxy(node string) (*reporter.Reporter, func()) {
	r, conn := reporter.New(node, 1, slog.New(slog.DiscardHandler)), p.conn()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); r.Run(ctx, conn) }()
	stop := func() { cancel(); <-done }
	p.t.Cleanup(stop)
	return r, stop
}

// watcher reads lines.
type watcher struct {
	t     *testing.T
	lines chan tap.Line
	stop  func()
}

func (p *plane) watch(query string) *watcher {
	p.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.http.URL+"/api/v1/tap?"+query, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		p.t.Fatal(err)
	}
	if res.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(res.Body)
		p.t.Fatalf("%s: %s", res.Status, body)
	}
	w := &watcher{t: p.t, lines: make(chan tap.Line)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(w.lines)
		defer res.Body.Close()
		for in := bufio.NewScanner(res.Body); in.Scan(); {
			var l tap.Line
			if err := json.Unmarshal(in.Bytes(), &l); err != nil {
				p.t.Errorf("%v: %s", err, in.Bytes())
			}
			select {
			case w.lines <- l:
			case <-ctx.Done():
				return
			}
		}
	}()
	w.stop = func() { cancel(); <-done }
	p.t.Cleanup(w.stop)
	return w
}

// next is the next line of a type; others are passed over.
func (w *watcher) next(kind string) tap.Line {
	w.t.Helper()
	late := time.NewTimer(20 * time.Second)
	defer late.Stop()
	for {
		select {
		case l, ok := <-w.lines:
			if !ok {
				w.t.Fatalf("the stream ended before a line %q", kind)
			}
			if l.Type == kind {
				return l
			}
		case <-late.C:
			w.t.Fatalf("no line %q", kind)
		}
	}
}

// proxies waits until n proxies are said to show.
func (w *watcher) proxies(n int) {
	w.t.Helper()
	for {
		if l := w.next(tap.TypeStarted); l.Replica != "seined-a" {
			w.t.Errorf("%+v", l)
		} else if l.Proxies == n {
			return
		}
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick, late := time.NewTicker(time.Millisecond), time.NewTimer(20*time.Second)
	defer tick.Stop()
	defer late.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-late.C:
			t.Fatal("not in time: " + what)
		}
	}
}

func event(path string) *reporter.Event {
	return &reporter.Event{
		Start: time.Unix(1700000000, 0), Duration: 1234567, Source: &seinev1.Workload{Namespace: "forged", Name: "forged", Workload: "forged"},
		Destination: &seinev1.Workload{Namespace: "shop", Workload: "billing", Name: "billing-1"}, Method: []byte("GET"), Path: []byte(path), GRPCStatus: -1,
		Code: 503, Flag: telemetry.FlagUF, Security: "none",
	}
}

// TestTap goes all the way: a person watches, a proxy learns of it, a request
// ends, a line comes; and when the person has gone the proxy shows nothing.
func TestTap(t *testing.T) {
	p := newPlane(t, true, time.Now().Add(time.Hour))
	r, stop := p.proxy("shop/frontend-1")
	other, _ := p.proxy("shop/billing-1")
	w := p.watch("namespace=shop&workload=frontend&path=/pay&maxRps=5")
	eventually(t, "the tap is on", func() bool { return r.Set() != nil })
	if other.Set() != nil {
		t.Error("a proxy that was not asked for shows")
	}
	w.proxies(1)
	r.Set().Show(0, 0, event("/other"), nil)
	r.Set().Show(0, 0, event("/pay\x1b[2J?card=1"), nil)
	got := w.next(tap.TypeRequest)
	want := &tap.Request{
		Time: time.Unix(1700000000, 0).UTC(), Proxy: "shop/frontend-1", Direction: "outbound",
		Source: tap.Party{Namespace: "shop", Workload: "frontend", Pod: "frontend-1"}, Destination: tap.Party{Namespace: "shop", Workload: "billing", Pod: "billing-1"},
		Method: "GET", Path: "/pay\x1b[2J?redacted", Status: 503, LatencyMS: 1.234, Flags: "UF", Reason: telemetry.FlagUF.Meaning(), Security: "none",
	}
	if !reflect.DeepEqual(got.Request, want) {
		t.Errorf("got  %+v\nwant %+v", got.Request, want)
	}
	for range 10 {
		r.Set().Show(0, 0, event("/pay"), nil)
	}
	if l := w.next(tap.TypeLost); l.Limited != 6 || l.Dropped != 0 {
		t.Errorf("%+v", l.Lost)
	}
	stop()
	if r.Set() != nil {
		t.Error("a tap outlives its proxy's stream")
	}
	w.proxies(0)
	again, _ := p.proxy("shop/frontend-1")
	eventually(t, "the tap is on after the proxy came back", func() bool { return again.Set() != nil })
	w.stop()
	eventually(t, "the tap is off", func() bool { return again.Set() == nil && p.hub.Watchers() == 0 })
}

// TestForeignRecords: a proxy reaches only the taps that it was asked for.
func TestForeignRecords(t *testing.T) {
	p := newPlane(t, true, time.Now().Add(time.Hour))
	w := p.watch("namespace=shop")
	good, _ := p.proxy("shop/frontend-1")
	eventually(t, "the tap is on", func() bool { return good.Set() != nil })
	desc := grpc.StreamDesc{ClientStreams: true, ServerStreams: true}
	st, err := p.conn().NewStream(t.Context(), &desc, "/seine.v1.Taps/Report")
	if err != nil {
		t.Fatal(err)
	}
	// A proxy of another namespace, that shows without having been asked.
	junk := [][]byte{{0xff}, make([]byte, 64<<10), {8, 1}}
	for _, m := range []*seinev1.TapReport{{Node: "evil/x-1"}, {Records: junk, Losses: []*seinev1.TapLoss{{Tap: 1, Limited: 99}, nil}}} {
		if err := st.SendMsg(m); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
	}
	if err := st.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := st.RecvMsg(new(seinev1.TapSet)); !errors.Is(err, io.EOF) { // all of it was taken
		t.Fatal(err)
	}
	good.Set().Show(0, 0, event("/"), nil)
	if l := w.next(tap.TypeRequest); l.Proxy != "shop/frontend-1" {
		t.Errorf("%+v", l.Request)
	}

	st, err = p.conn().NewStream(t.Context(), &desc, "/seine.v1.Taps/Report")
	if err != nil {
		t.Fatal(err)
	}
	_ = st.SendMsg(&seinev1.TapReport{Node: "stranger/x"})
	if err := st.RecvMsg(new(seinev1.TapSet)); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a stranger: %v", err)
	}
}

// TestExpired: a stream does not outlive the certificate that it began with.
func TestExpired(t *testing.T) {
	p := newPlane(t, true, time.Now())
	st, err := p.conn().NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/seine.v1.Taps/Report")
	if err != nil {
		t.Fatal(err)
	}
	_ = st.SendMsg(&seinev1.TapReport{Node: "shop/x-1"})
	if err := st.RecvMsg(new(seinev1.TapSet)); status.Code(err) != codes.Unauthenticated {
		t.Error(err)
	}
}

func TestEnded(t *testing.T) {
	p := newPlane(t, true, time.Now().Add(time.Hour))
	w := p.watch("")
	w.next(tap.TypeStarted)
	p.hub.Close()
	if l := w.next(tap.TypeEnded); l.Error == "" {
		t.Error("no reason")
	}
}

// TestRefused: what is refused is refused before the stream begins.
func TestRefused(t *testing.T) {
	p := newPlane(t, false, time.Now().Add(time.Hour))
	get := func(query string) (int, string) {
		res, err := http.Get(p.http.URL + "/?" + query)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		var e struct{ Error string }
		if err := json.NewDecoder(res.Body).Decode(&e); err != nil || e.Error == "" {
			t.Errorf("%s: %v, %q", query, err, e)
		}
		return res.StatusCode, e.Error
	}
	defer http.DefaultClient.CloseIdleConnections()
	for query, code := range map[string]int{
		"colour=red": 400, "path=/a&path=/b": 400, "maxRps=1001": 400, "maxRps=x": 400, "minLatency=1": 400, "status=600": 400, "status=6xx": 400,
		"direction=up": 400, "pod=x": 400, "to=cow/x": 400, "from=svc/x": 400, "path=%1b": 400, "query=maybe": 400,
		"headerValue=Authorization": 400, "headerValue=x-auth-token": 400, "header=a%20b": 400,
		"headerValue=x-user": 403, "query=true": 403,
	} {
		if got, _ := get(query); got != code {
			t.Errorf("%s: %d, want %d", query, got, code)
		}
	}
	for range 16 {
		p.watch("").next(tap.TypeStarted)
	}
	if got, why := get(""); got != http.StatusTooManyRequests {
		t.Errorf("%d %s", got, why)
	}
}

func TestQuery(t *testing.T) {
	q := &tap.Query{
		Namespace: "shop", Workload: "frontend", Direction: "inbound", To: tap.Target{Service: "billing", Namespace: "x"}, From: tap.Target{Workload: "load"},
		Methods: []string{"GET", "PUT"}, Path: "/a", Authority: "b*", Status: []string{"5xx", "404", "200-299"}, MinLatency: time.Second, MaxRPS: 7,
		Headers: []string{"x-a"}, HeaderValues: []string{"x-b"}, FullPath: true,
	}
	got, err := tap.ParseQuery(q.Values())
	if err != nil || !reflect.DeepEqual(got, q) {
		t.Errorf("%v\ngot  %+v\nwant %+v", err, got, q)
	}
	for s, want := range map[string]tap.Target{
		"deploy/a": {Workload: "a"}, "sts/a": {Workload: "a"}, "svc/a": {Service: "a"}, "po/a": {Pod: "a"}, "ns/a": {Namespace: "a"}, "a": {Pod: "a"}, "": {},
	} {
		if got, err := tap.ParseTarget(s, "", "pod"); err != nil || got != want {
			t.Errorf("%q: %+v %v", s, got, err)
		}
	}
	for _, s := range []string{"a/", "/", "deploy/a b", "deploy/a/b", "x/y"} {
		if got, err := tap.ParseTarget(s, "", "pod"); !errors.Is(err, tap.ErrQuery) {
			t.Errorf("%q: %+v", s, got)
		}
	}
}

func FuzzQuery(f *testing.F) {
	f.Add("namespace=a&to=svc/b&status=5xx&header=c&maxRps=9&minLatency=1s")
	f.Add("status=200-100&path=*&method=&query=true")
	f.Fuzz(func(t *testing.T, s string) {
		v, err := url.ParseQuery(s)
		if err != nil {
			return
		}
		q, err := tap.ParseQuery(v)
		if err != nil {
			return
		}
		again, err := tap.ParseQuery(q.Values())
		if err != nil || !reflect.DeepEqual(again.Values(), q.Values()) {
			t.Fatalf("%v: %+v became %+v", err, q, again)
		}
	})
}

func TestWriteText(t *testing.T) {
	grpc := 14
	r := &tap.Request{
		Time: time.Unix(0, 0), Direction: "inbound", Proxy: "shop/billing-1", Source: tap.Party{Namespace: "shop", Pod: "frontend-1", Identity: "spiffe://a"},
		Destination: tap.Party{Address: "10.0.0.1:80"}, Method: "GET", Authority: "billing", Path: "/\x1b]0;owned\a\u009b2J", Status: 200, GRPCStatus: &grpc,
		LatencyMS: 12.3456, Flags: "UF", Reason: "It failed.", Cause: "refused\n", Security: "mutual_tls", TraceID: "abc",
		Headers: []tap.Field{{Name: "x-a", Value: "b\r\nc"}, {Name: "cookie", Redacted: true}, {Name: "x-empty"}},
	}
	var b strings.Builder
	if err := r.WriteText(&b, tap.TextOptions{Wide: true}); err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(b.String(), "  ") // the local time
	want := `in   shop/frontend-1 → 10.0.0.1:80  GET billing/\x1b]0;owned\a\u009b2J  200 grpc=14  12.35ms  mTLS  UF: It failed. (refused\n)  trace abc
    proxy        shop/billing-1
    source       spiffe://a
    destination  10.0.0.1:80
    bytes        0 in, 0 out
    x-a          b\r\nc
    cookie       (redacted)
    x-empty      ""
`
	if rest != want {
		t.Errorf("got:\n%s\nwant:\n%s", rest, want)
	}
	b.Reset()
	if err := r.WriteText(&b, tap.TextOptions{Color: true}); err != nil || !strings.Contains(b.String(), "\x1b[31m200 grpc=14\x1b[0m") {
		t.Errorf("%q", b.String())
	}
}
