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
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/protobuf/types/known/durationpb"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

// TestStreamsAreBalanced: one connection of a client reaches every endpoint.
func TestStreamsAreBalanced(t *testing.T) {
	var eps []*seinev1.Endpoint
	for i := range 3 {
		at := app2(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, i) })
		eps = append(eps, endpoint(fmt.Sprint(i), at, workload("billing", "")))
	}
	table := billingTable(t, []*seinev1.HttpRule{toBilling()}, eps...)
	table.service[0].Protocol = seinev1.Protocol_PROTOCOL_GRPC
	table.service[0].Policy = &seinev1.TrafficPolicy{Balancer: seinev1.TrafficPolicy_ROUND_ROBIN}
	r := start(t, Options{Loops: 1, Explicit: localhost()}, table.build())
	c := client2(t, r.Addresses()[0].String())
	var turn strings.Builder
	for range 6 {
		_, body := get2(t, c, "/")
		turn.WriteString(body)
	}
	if s := turn.String(); !strings.Contains("012012012", s) {
		t.Errorf("round robin: %s", s)
	}
}

// TestForgedXFCC: over HTTP/2, too, the caller's own word about its certificate
// does not pass.
func TestForgedXFCC(t *testing.T) {
	at := app2(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, strings.Join(r.Header["X-Forwarded-Client-Cert"], "|"))
	})
	p := speaks(t, seinev1.Protocol_PROTOCOL_HTTP2, at, nil)
	req, err := http.NewRequest("GET", "http://billing:8080/", nil)
	must(t, err)
	req.Header.Set("X-Forwarded-Client-Cert", "URI=spiffe://cluster.local/ns/default/sa/admin")
	res, err := client2(t, p.addr).Do(req)
	must(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	must(t, err)
	if s := string(body); strings.Contains(s, "admin") || strings.Contains(s, "|") || !strings.Contains(s, frontendID) {
		t.Error(s)
	}
}

// grpcCall is one call of a client that speaks gRPC by hand.
func grpcCall(t testing.TB, c *http.Client, header ...string) (status, message string, res *http.Response) {
	t.Helper()
	req, err := http.NewRequest("POST", "http://billing:8080/pay.Pay/Now", strings.NewReader("\x00\x00\x00\x00\x00"))
	must(t, err)
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("Te", "trailers")
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err = c.Do(req)
	must(t, err)
	defer res.Body.Close()
	_, err = io.ReadAll(res.Body)
	must(t, err)
	status, message = res.Trailer.Get("Grpc-Status"), res.Trailer.Get("Grpc-Message")
	if status == "" {
		status, message = res.Header.Get("Grpc-Status"), res.Header.Get("Grpc-Message")
	}
	return status, message, res
}

// grpcApp answers each call with the statuses that it is given, one after the
// other, the last for all that follow.
func grpcApp(t testing.TB, calls *atomic.Int32, statuses ...string) netip.AddrPort {
	return app2(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadAll(r.Body)
		n := int(calls.Add(1)) - 1
		status := statuses[min(n, len(statuses)-1)]
		w.Header().Set("Content-Type", "application/grpc")
		if status == "0" {
			w.Header().Set("Trailer", "Grpc-Status")
			_, _ = w.Write([]byte("\x00\x00\x00\x00\x00"))
		}
		w.Header().Set("Grpc-Status", status)
	})
}

// TestGRPCStatus: a call's outcome is its grpc-status, from trailers or from an
// answer without content, in the metrics of both sides.
func TestGRPCStatus(t *testing.T) {
	var calls atomic.Int32
	p := speaks(t, seinev1.Protocol_PROTOCOL_GRPC, grpcApp(t, &calls, "0", "5"), nil)
	c := client2(t, p.addr)
	for _, want := range []string{"0", "5"} {
		if got, _, res := grpcCall(t, c); got != want || res.StatusCode != 200 {
			t.Fatalf("status %q of %v, want %s", got, res, want)
		}
	}
	for _, r := range []*running{p.client, p.server} {
		eventually(t, "both statuses in "+r.metrics(t), func() bool {
			m := r.metrics(t)
			return strings.Contains(m, `grpc_response_status="0"`) && strings.Contains(m, `grpc_response_status="5"`) &&
				strings.Contains(m, `request_protocol="grpc"`)
		})
	}
}

// TestGRPCLocalAnswer: what the proxy answers by itself is a gRPC status to a
// gRPC client, with the cause as its message.
func TestGRPCLocalAnswer(t *testing.T) {
	r := startRetrying(t, retried(0, ""), nobody(t))
	c := client2(t, r.Addresses()[0].String())
	status, message, res := grpcCall(t, c)
	if res.StatusCode != 200 || status != "14" || !strings.Contains(message, "connect") {
		t.Errorf("%v: status %q, message %q", res, status, message)
	}
	r.shows(t, `grpc_response_status="14"`, `response_flags="UF"`)
}

// TestGRPCDeadline: grpc-timeout ends a call although no route has a timeout.
func TestGRPCDeadline(t *testing.T) {
	at := app2(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	p := speaks(t, seinev1.Protocol_PROTOCOL_GRPC, at, nil)
	status, _, _ := grpcCall(t, client2(t, p.addr), "Grpc-Timeout", "50m")
	if status != "4" {
		t.Errorf("status %q, want DEADLINE_EXCEEDED", status)
	}
	p.client.flagged(t, "UT")
}

// TestGRPCRetry: the conditions of gRPC are about the status of an answer that
// is nothing but a head, and hold for what is not idempotent where the user named
// them.
func TestGRPCRetry(t *testing.T) {
	for status, on := range map[string]string{"1": "cancelled", "4": "deadline-exceeded", "13": "internal", "8": "resource-exhausted", "14": "unavailable"} {
		t.Run(on, func(t *testing.T) {
			var calls atomic.Int32
			at := grpcApp(t, &calls, status, status, "0")
			table := billingTable(t, []*seinev1.HttpRule{retried(3, on)}, endpoint("1", at, workload("billing", "")))
			table.service[0].Protocol = seinev1.Protocol_PROTOCOL_GRPC
			r := start(t, Options{Loops: 1, Explicit: localhost()}, table.build())
			if got, _, _ := grpcCall(t, client2(t, r.Addresses()[0].String())); got != "0" || calls.Load() != 3 {
				t.Errorf("status %q after %d calls", got, calls.Load())
			}
		})
	}
	t.Run("not asked for", func(t *testing.T) {
		var calls atomic.Int32
		at := grpcApp(t, &calls, "13", "0")
		table := billingTable(t, []*seinev1.HttpRule{retried(3, "unavailable")}, endpoint("1", at, workload("billing", "")))
		table.service[0].Protocol = seinev1.Protocol_PROTOCOL_GRPC
		r := start(t, Options{Loops: 1, Explicit: localhost()}, table.build())
		if got, _, _ := grpcCall(t, client2(t, r.Addresses()[0].String())); got != "13" || calls.Load() != 1 {
			t.Errorf("status %q after %d calls", got, calls.Load())
		}
	})
}

// frames serves a connection of HTTP/2 frame by frame.
func frames(t testing.TB, serve func(*http2.Framer, net.Conn)) netip.AddrPort {
	return rawApp(t, func(c net.Conn) {
		if _, err := io.ReadFull(c, make([]byte, len(http2.ClientPreface))); err != nil {
			return
		}
		f := http2.NewFramer(c, c)
		f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
		if f.WriteSettings() != nil {
			return
		}
		serve(f, c)
	})
}

func respond2(f *http2.Framer, id uint32, end bool, fields ...string) error {
	var b strings.Builder
	e := hpack.NewEncoder(&b)
	for i := 0; i < len(fields); i += 2 {
		_ = e.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: []byte(b.String()), EndHeaders: true, EndStream: end})
}

// TestRefusedStream: what the upstream has not looked at is sent again, also if
// it is not idempotent: a refused stream, and one above the last of a GOAWAY.
func TestRefusedStream(t *testing.T) {
	for name, refuse := range map[string]func(*http2.Framer, uint32){
		"REFUSED_STREAM": func(f *http2.Framer, id uint32) { _ = f.WriteRSTStream(id, http2.ErrCodeRefusedStream) },
		"GOAWAY":         func(f *http2.Framer, _ uint32) { _ = f.WriteGoAway(0, http2.ErrCodeNo, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			var heads atomic.Int32
			at := frames(t, func(f *http2.Framer, _ net.Conn) {
				for {
					fr, err := f.ReadFrame()
					if err != nil {
						return
					}
					if h, ok := fr.(*http2.MetaHeadersFrame); ok {
						if heads.Add(1) == 1 {
							refuse(f, h.StreamID)
							continue
						}
					}
					if fr.Header().Flags.Has(http2.FlagDataEndStream) && (fr.Header().Type == http2.FrameData) && heads.Load() > 1 {
						_ = respond2(f, fr.Header().StreamID, true, ":status", "204")
					}
				}
			})
			table := billingTable(t, []*seinev1.HttpRule{toBilling()}, endpoint("1", at, workload("billing", "")))
			table.service[0].Protocol = seinev1.Protocol_PROTOCOL_HTTP2
			r := start(t, Options{Loops: 1, Explicit: localhost()}, table.build())
			res, err := client2(t, r.Addresses()[0].String()).Post("http://billing:8080/", "text/plain", strings.NewReader("seven francs"))
			must(t, err)
			defer res.Body.Close()
			if res.StatusCode != 204 || heads.Load() != 2 {
				t.Errorf("%v after %d heads", res, heads.Load())
			}
		})
	}
}

// TestSlowReader: a client that does not read holds the upstream back: what the
// proxies keep is bounded by the windows, and other streams go on.
func TestSlowReader(t *testing.T) {
	var sent atomic.Int64
	at := app2(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/flood" {
			fmt.Fprint(w, "well")
			return
		}
		chunk := make([]byte, 16<<10)
		for range 4096 { // 64 MiB
			if _, err := w.Write(chunk); err != nil {
				return
			}
			sent.Add(int64(len(chunk)))
		}
	})
	p := speaks(t, seinev1.Protocol_PROTOCOL_HTTP2, at, nil)
	c := dial(t, p.addr)
	_, err := io.WriteString(c.TCPConn, http2.ClientPreface)
	must(t, err)
	f := http2.NewFramer(c.TCPConn, c.TCPConn)
	must(t, f.WriteSettings())
	var b strings.Builder
	e := hpack.NewEncoder(&b)
	for _, h := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", "billing:8080"}, {":path", "/flood"}} {
		must(t, e.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]}))
	}
	must(t, f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte(b.String()), EndHeaders: true, EndStream: true}))
	// The window of the client's stream is all that may ever come to it.
	got := 0
	for got < 65535 {
		fr, err := f.ReadFrame()
		must(t, err)
		if d, ok := fr.(*http2.DataFrame); ok {
			got += len(d.Data())
		}
	}
	if _, body := get2(t, client2(t, p.addr), "/"); body != "well" {
		t.Errorf("another client: %q", body)
	}
	var last int64
	eventually(t, "the application to be held back", func() bool {
		now := sent.Load()
		still := now == last
		last = now
		return still && now > 0
	})
	// Three windows of 64 KiB (the client's, and one between the sidecars and
	// one to the application, each with what is on its way) and net/http's buffers.
	if n := sent.Load(); n > 1<<20 {
		t.Errorf("%d bytes were taken for a client that took 64 KiB", n)
	}
	for _, r := range []*running{p.client, p.server} {
		w := r.workers[0]
		held := make(chan int64)
		w.loop.Post(func() { held <- w.buffers.inUse })
		if n := <-held; n > 512<<10 {
			t.Errorf("%d bytes are held", n)
		}
	}
}

// TestBidirectional: both directions of a stream are open at once.
func TestBidirectional(t *testing.T) {
	at := app2(t, func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		_ = rc.EnableFullDuplex()
		_ = rc.Flush()
		buf := make([]byte, 1024)
		for {
			n, err := r.Body.Read(buf)
			if n > 0 {
				_, _ = w.Write(buf[:n])
				_ = rc.Flush()
			}
			if err != nil {
				return
			}
		}
	})
	p := speaks(t, seinev1.Protocol_PROTOCOL_GRPC, at, nil)
	pr, pw := io.Pipe()
	req, err := http.NewRequest("POST", "http://billing:8080/", pr)
	must(t, err)
	res, err := client2(t, p.addr).Do(req)
	must(t, err)
	defer res.Body.Close()
	for i := range 10 {
		want := fmt.Sprintf("message %d", i)
		_, err := io.WriteString(pw, want)
		must(t, err)
		got := make([]byte, len(want))
		_, err = io.ReadFull(res.Body, got)
		must(t, err)
		if string(got) != want {
			t.Fatalf("%q, want %q", got, want)
		}
	}
	must(t, pw.Close())
	rest, err := io.ReadAll(res.Body)
	must(t, err)
	if len(rest) > 0 {
		t.Errorf("%q", rest)
	}
}

// TestStreamTimeout: a route's timeout holds for streams.
func TestStreamTimeout(t *testing.T) {
	at := app2(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	rule := toBilling()
	rule.Timeout = durationpb.New(50 * time.Millisecond)
	p := startPairOf(t, at, seinev1.Protocol_PROTOCOL_HTTP2, nil, []*seinev1.HttpRule{rule}, nil)
	if res, _ := get2(t, client2(t, p.addr), "/"); res.StatusCode != 504 {
		t.Error(res.Status)
	}
	p.client.flagged(t, "UT")
}

// TestContentTimeout: a route's timeout and that of a try hold for a stream with
// content, and count from its end.
func TestContentTimeout(t *testing.T) {
	at := app2(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	})
	whole, try := toBilling(), toBilling()
	whole.Timeout = durationpb.New(50 * time.Millisecond)
	try.Retry = &seinev1.Retry{Attempts: 1, On: []string{"connect-failure"}, PerTryTimeout: durationpb.New(50 * time.Millisecond)}
	for name, rule := range map[string]*seinev1.HttpRule{"route": whole, "try": try} {
		t.Run(name, func(t *testing.T) {
			p := startPairOf(t, at, seinev1.Protocol_PROTOCOL_HTTP2, nil, []*seinev1.HttpRule{rule}, nil)
			pr, pw := io.Pipe()
			go func() { // on the upstream's own clock: the head is there long before the end
				_, _ = pw.Write([]byte("content"))
				_ = pw.Close()
			}()
			req, err := http.NewRequest("POST", "http://billing:8080/", pr)
			must(t, err)
			res, err := client2(t, p.addr).Do(req)
			must(t, err)
			defer res.Body.Close()
			if res.StatusCode != 504 {
				t.Error(res.Status)
			}
			p.client.flagged(t, "UT")
		})
	}
}

// TestDrainGoAway: a proxy that ends tells its HTTP/2 clients to go, and lets
// what is under way finish.
func TestDrainGoAway(t *testing.T) {
	in, out := make(chan struct{}), make(chan struct{})
	at := app2(t, func(w http.ResponseWriter, _ *http.Request) {
		close(in)
		<-out
		fmt.Fprint(w, "done")
	})
	p := speaks(t, seinev1.Protocol_PROTOCOL_HTTP2, at, nil)
	c := client2(t, p.addr)
	var all sync.WaitGroup
	all.Go(func() {
		res, err := c.Get("http://billing:8080/")
		if err != nil {
			t.Error(err)
			return
		}
		defer res.Body.Close()
		if body, err := io.ReadAll(res.Body); err != nil || string(body) != "done" {
			t.Errorf("%q, %v", body, err)
		}
	})
	<-in
	all.Go(p.client.stop)
	eventually(t, "draining", p.client.Draining)
	close(out)
	all.Wait()
}

// TestStrictEndsPlaintextStreams: an HTTP/2 connection that was let in without
// TLS does not outlive a policy that wants it.
func TestStrictEndsPlaintextStreams(t *testing.T) {
	at := app2(t, func(http.ResponseWriter, *http.Request) {})
	table := func(mode seinev1.MtlsMode) *tableOf {
		return &tableOf{t: t, self: self(t, "billing", billingID, mode, &seinev1.InboundPort{
			Port: 8080, Protocol: seinev1.Protocol_PROTOCOL_HTTP2, Mtls: mode, Service: billing,
		})}
	}
	r := start(t, Options{Loops: 1, Forwards: []Forward{{Listen: localhost(), App: at, Port: 8080}}}, table(seinev1.MtlsMode_MTLS_DISABLE).build())
	a := attack(t, r.Addresses()[0].String())
	must(t, a.f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: a.head(), EndHeaders: true, EndStream: true}))
	for {
		fr, err := a.f.ReadFrame()
		must(t, err)
		if fr.Header().Type == http2.FrameHeaders {
			break
		}
	}
	r.tables.publish(table(seinev1.MtlsMode_MTLS_STRICT).build())
	for {
		fr, err := a.f.ReadFrame()
		if err != nil {
			break // it has ended
		}
		if p, ok := fr.(*http2.PingFrame); ok && !p.IsAck() {
			must(t, a.f.WritePing(true, p.Data))
		}
	}
}

// TestTrunkLimits: what a DestinationRule's connectionPool bounds holds for
// streams as it does for connections of HTTP/1.1.
func TestTrunkLimits(t *testing.T) {
	var mu sync.Mutex
	from := map[string]bool{}
	in, out := make(chan struct{}, 8), make(chan struct{})
	at := app2(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		from[r.RemoteAddr] = true
		mu.Unlock()
		if r.URL.Path == "/wait" {
			in <- struct{}{}
			<-out
		}
	})
	serve := func(p *seinev1.TrafficPolicy) (*running, *http.Client) {
		clear(from)
		table := billingTable(t, []*seinev1.HttpRule{toBilling()}, endpoint("1", at, workload("billing", "")))
		table.service[0].Protocol, table.service[0].Policy = seinev1.Protocol_PROTOCOL_HTTP2, p
		r := start(t, Options{Loops: 1, Explicit: localhost()}, table.build())
		return r, client2(t, r.Addresses()[0].String())
	}
	_, c := serve(&seinev1.TrafficPolicy{Pool: &seinev1.ConnectionPool{MaxRequestsPerConnection: 2}})
	for range 6 {
		get2(t, c, "/")
	}
	if len(from) != 3 {
		t.Errorf("maxRequestsPerConnection 2: %d connections for 6 requests", len(from))
	}
	r, c := serve(&seinev1.TrafficPolicy{MaxConcurrentStreams: 1, Pool: &seinev1.ConnectionPool{MaxRequests: 3}})
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() { get2(t, c, "/wait") })
		<-in
	}
	mu.Lock()
	if len(from) != 3 {
		t.Errorf("maxConcurrentStreams 1: %d connections for 3 streams", len(from))
	}
	mu.Unlock()
	if res, _ := get2(t, c, "/"); res.StatusCode != 503 {
		t.Errorf("http2MaxRequests 3: the fourth got %s", res.Status)
	}
	r.flagged(t, "UO")
	close(out)
	all.Wait()
}
