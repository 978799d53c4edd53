//go:build linux && !race

package proxy

import (
	"bytes"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/seinemesh/seine/telemetry/accesslog"
	"github.com/seinemesh/seine/telemetry/span"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

// quietApp answers each request with the same bytes and allocates nothing.
func quietApp(t testing.TB) netip.AddrPort {
	answer := append([]byte("HTTP/1.1 200 OK\r\nContent-Length: 1024\r\nServer: quiet\r\nDate: Mon, 23 Nov 2026 00:00:00 GMT\r\n\r\n"), bytes.Repeat([]byte("a"), 1024)...)
	return rawApp(t, func(c net.Conn) {
		buf := make([]byte, 4096)
		at := 0
		for {
			n, err := c.Read(buf[at:])
			if err != nil {
				return
			}
			if at += n; !bytes.HasSuffix(buf[:at], []byte("\r\n\r\n")) {
				continue
			}
			at = 0
			if _, err := c.Write(answer); err != nil {
				return
			}
		}
	})
}

// allocations is how many objects the whole process makes for each request.
func allocations(t *testing.T, addr string) float64 {
	t.Helper()
	c := dial(t, addr)
	request := []byte("GET /pay?id=7 HTTP/1.1\r\nHost: billing:8080\r\nUser-Agent: test\r\nAccept: */*\r\n\r\n")
	buf := make([]byte, 8192)
	once := func() {
		if _, err := c.TCPConn.Write(request); err != nil {
			t.Fatal(err)
		}
		for at := 0; ; {
			n, err := c.TCPConn.Read(buf[at:])
			if err != nil {
				t.Fatal(err)
			}
			if at += n; bytes.HasSuffix(buf[:at], []byte("aaaa")) && at > 1024 {
				return
			}
		}
	}
	for range 100 {
		once()
	}
	const n = 2000
	best := 1e9
	for range 3 { // the runtime allocates now and then, too
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range n {
			once()
		}
		runtime.ReadMemStats(&after)
		best = min(best, float64(after.Mallocs-before.Mallocs)/n)
	}
	return best
}

// TestAllocationsPlain: the steady state of one proxy allocates nothing, with
// routing, metrics, request IDs and an access log.
func TestAllocationsPlain(t *testing.T) {
	out, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	must(t, err)
	defer out.Close()
	logs := accesslog.New(accesslog.Options{Out: out})
	defer logs.Close()
	at := quietApp(t)
	p := start(t, Options{Loops: 1, Explicit: localhost(), AccessLog: logs},
		billingTable(t, []*seinev1.HttpRule{toBilling()}, endpoint("1", at, workload("billing", ""))).build())
	if n := allocations(t, p.Addresses()[0].String()); n >= 0.05 {
		t.Errorf("%.3f allocations for each request", n)
	}
}

// TestAllocationsPair: between two sidecars only crypto/tls allocates: one
// object for each record that it reads, so two for each request (the request's
// record at the server, the response's at the client).
func TestAllocationsPair(t *testing.T) {
	for name, edit := range map[string]func(client, server *Options){"single": nil, "shared": alwaysCarry} {
		p := startPair(t, quietApp(t), nil, edit)
		if n := allocations(t, p.addr); n > 2.05 {
			t.Errorf("%s connections: %.3f allocations for each request", name, n)
		}
	}
}

// TestAllocationsShaped: rate limits, and copies for a mirror, allocate nothing
// either.
func TestAllocationsShaped(t *testing.T) {
	at := quietApp(t)
	limit := &seinev1.RateLimit{Id: "default/x[0]", Requests: 1_000_000, Per: durationpb.New(time.Second), Key: &seinev1.RateLimit_Header{Header: "user-agent"}, MaxKeys: 16}
	p, _ := startLimited(t, 1, at, limit)
	if n := allocations(t, p.Addresses()[0].String()); n >= 0.05 {
		t.Errorf("%.3f allocations for each limited request", n)
	}
	p = startMirrored(t, at, nil, all, quietApp(t))
	if n := allocations(t, p.Addresses()[0].String()); n >= 0.05 {
		t.Errorf("%.3f allocations for each mirrored request", n)
	}
}

// TestAllocationsTapped: nor does a tap on everything, whose records are sent or
// dropped by another goroutine.
func TestAllocationsTapped(t *testing.T) {
	taps, _ := watch(t, &seinev1.TapSpec{Id: 1, MaxRps: 1, Path: "/pay*", Headers: []*seinev1.TapHeader{{Name: "user-agent", Value: true}}})
	p := start(t, Options{Loops: 1, Explicit: localhost(), Taps: taps},
		billingTable(t, []*seinev1.HttpRule{toBilling()}, endpoint("1", quietApp(t), workload("billing", ""))).build())
	if n := allocations(t, p.Addresses()[0].String()); n >= 0.05 {
		t.Errorf("%.3f allocations for each request", n)
	}
}

// TestAllocationsTraced: a request that is traced and not sampled allocates
// nothing, and neither does its loop for one that is.
func TestAllocationsTraced(t *testing.T) {
	c := newCollector(t)
	p := start(t, Options{Loops: 1, Explicit: localhost()},
		billingTable(t, []*seinev1.HttpRule{toBilling()}, endpoint("1", quietApp(t), workload("billing", ""))).build())
	tr := c.tracing(0)
	tr.KeepSlower = durationpb.New(time.Minute)
	c.trace(t, p, tr, nil)
	if n := allocations(t, p.Addresses()[0].String()); n >= 0.05 {
		t.Errorf("%.3f allocations for each request that is not sampled", n)
	}
	w := p.workers[0]
	done := make(chan float64)
	w.loop.Post(func() {
		x := &exchange{w: w, caller: &caller{door: &door{}}}
		x.trace.on = w.tracer.sides.client
		done <- testing.AllocsPerRun(1000, func() {
			x.trace.on, x.trace.sampled = w.tracer.sides.client, true
			x.tells(span.Retry, span.Event{Attempt: 2})
			x.endTrace(w.loop.Now(), 0, 0)
			x.trace.drop(w)
		})
	})
	if n := <-done; n != 0 {
		t.Errorf("%.3f allocations on the loop for each span", n)
	}
}
