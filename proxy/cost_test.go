//go:build linux && !race

package proxy

import (
	"bytes"
	"os"
	"syscall"
	"testing"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/telemetry/accesslog"
)

// BenchmarkCost is one request through two sidecars with mutual TLS, a client and
// an application, all in this process, with one feature off and on:
// bench/feature-cost.sh interleaves the two and compares them. CPU is that of the
// whole process, the client's and the application's share included.
func BenchmarkCost(b *testing.B) {
	jsonLog := func(b *testing.B, o *Options) {
		out, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
		must(b, err)
		logs := accesslog.New(accesslog.Options{Out: out})
		b.Cleanup(func() { _ = logs.Close(); _ = out.Close() })
		o.AccessLog = logs
	}
	tapped := func(path string) func(*testing.B, *Options) {
		return func(b *testing.B, o *Options) {
			o.Taps, _ = watch(b, &seinev1.TapSpec{Id: 1, MaxRps: 100, Path: path})
		}
	}
	// Spans of such a share of the requests go to a collector, which is this
	// process, too.
	traced := func(percent float64) func(*testing.B, *pair) {
		return func(b *testing.B, p *pair) {
			c := newCollector(b)
			c.trace(b, p.client, c.tracing(percent), nil)
			c.trace(b, p.server, nil, c.tracing(percent))
		}
	}
	for _, f := range []struct {
		name string
		on   func(*testing.B, *Options)
		then func(*testing.B, *pair)
	}{
		// Off is another build: see bench/feature-cost.sh.
		{"metrics", nil, nil},
		{"json-log", jsonLog, nil},
		{"tap-everything-100rps", tapped("*"), nil},
		{"tap-that-matches-nothing", tapped("/nowhere*"), nil},
		{"trace-unsampled", nil, traced(0)},
		{"trace-1-percent", nil, traced(1)},
	} {
		for _, state := range []string{"off", "on"} {
			b.Run(f.name+"/"+state, func(b *testing.B) {
				p := startPair(b, quietApp(b), nil, func(client, server *Options) {
					if state == "on" && f.on != nil {
						f.on(b, client)
						f.on(b, server)
					}
				})
				if state == "on" && f.then != nil {
					f.then(b, p)
				}
				c := dial(b, p.addr)
				request := []byte("GET /pay?id=7 HTTP/1.1\r\nHost: billing:8080\r\nUser-Agent: test\r\nAccept: */*\r\n\r\n")
				buf := make([]byte, 8192)
				once := func() {
					_, err := c.TCPConn.Write(request)
					must(b, err)
					for at := 0; at <= 1024 || !bytes.HasSuffix(buf[:at], []byte("aaaa")); {
						n, err := c.TCPConn.Read(buf[at:])
						must(b, err)
						at += n
					}
				}
				for range 200 {
					once()
				}
				b.ReportAllocs()
				var before, after syscall.Rusage
				must(b, syscall.Getrusage(syscall.RUSAGE_SELF, &before))
				n := 0
				for b.Loop() {
					once()
					n++
				}
				must(b, syscall.Getrusage(syscall.RUSAGE_SELF, &after))
				cpu := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
				b.ReportMetric(float64(cpu)/float64(n), "cpu-ns/op")
			})
		}
	}
}
