//go:build linux

package proxy

import (
	"fmt"
	"net/http"
	_ "net/http/pprof"
	"net/netip"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"
	"testing"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

// TestServe is no test: with SEINE_SERVE=APP-ADDRESS it serves a pair in front
// of that application until SIGINT, for a load generator, a profiler (pprof on
// SEINE_PPROF) or a tracer. SEINE_LOOPS is the number of loops of each side.
func TestServe(t *testing.T) {
	to := os.Getenv("SEINE_SERVE")
	if to == "" {
		t.Skip("SEINE_SERVE is not set")
	}
	loops, _ := strconv.Atoi(os.Getenv("SEINE_LOOPS"))
	runtime.GOMAXPROCS(2*max(loops, 2) + 2)
	p := startPair(t, netip.MustParseAddrPort(to), []*seinev1.HttpRule{toBilling()}, func(c, s *Options) {
		c.Loops, s.Loops = loops, loops
		c.Explicit = netip.MustParseAddrPort(os.Getenv("SEINE_LISTEN"))
	})
	fmt.Println("serving", p.addr)
	if at := os.Getenv("SEINE_PPROF"); at != "" {
		go func() { _ = http.ListenAndServe(at, nil) }()
	}
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGINT)
	<-c
	for i, k := range []*running{p.client, p.server} {
		for _, w := range k.workers {
			s := w.loop.Stats()
			fmt.Println(i, "turns", s.Turns.Load(), "events", s.Events.Load(), "waits", s.Waits.Load())
		}
	}
}
