//go:build linux

package proxy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

// startOpaque is a redirected listener in front of plaintext endpoints; every
// connection to it was meant for 10.9.9.9:8080.
func startOpaque(t *testing.T, declared seinev1.Protocol, apps ...netip.AddrPort) *running {
	t.Helper()
	dest := []*seinev1.Destination{{Host: billing, Port: 8080, Weight: 1}}
	var eps []*seinev1.Endpoint
	for i, at := range apps {
		eps = append(eps, endpoint(fmt.Sprint(i), at, workload(fmt.Sprint("billing-", i), "")))
	}
	table := billingTable(t, []*seinev1.HttpRule{{Destinations: dest}}, eps...)
	table.answers["addr/10.9.9.9:8080"] = &seinev1.Answer{
		Kind: seinev1.Answer_ROUTES, Protocol: declared, Service: billing,
		Http: []*seinev1.HttpRule{{Destinations: dest}}, Tcp: []*seinev1.TcpRule{{Destinations: dest}},
	}
	f := &tables{}
	f.cur.Store(table.build())
	return startWith(t, Options{Loops: 1, Outbound: localhost()}, f, func(p *Proxy) {
		p.original = func(int) (netip.AddrPort, error) { return netip.MustParseAddrPort("10.9.9.9:8080"), nil }
	})
}

// TestOpaqueElsewhere: a connection whose endpoint cannot be reached is begun with
// another one, whichever side is to speak first, and counted for that one alone.
func TestOpaqueElsewhere(t *testing.T) {
	greets := rawApp(t, func(c net.Conn) {
		_, _ = io.WriteString(c, "hello\n")
		_, _ = io.Copy(c, c)
	})
	for _, declared := range declarations {
		p := startOpaque(t, declared, nobody(t), greets, nobody(t))
		const connections = 20
		for range connections {
			c := p.dial(t)
			if line, err := c.r.ReadString('\n'); line != "hello\n" {
				t.Fatalf("%v: %q, %v", declared, line, err)
			}
			c.write("ping\n")
			if line, err := c.r.ReadString('\n'); line != "ping\n" {
				t.Fatalf("%v: %q, %v", declared, line, err)
			}
			_ = c.Close()
		}
		eventually(t, "all are closed", func() bool { return p.inflight() == 0 })
		for line := range strings.Lines(p.metrics(t)) {
			if strings.HasPrefix(line, "istio_tcp_connections_") && strings.HasSuffix(line, " 0\n") == strings.Contains(line, `destination_workload="billing-1"`) {
				t.Errorf("%v: tries that failed are counted as connections: %s", declared, line)
			}
		}
		if p.counters.redialled.Value() == 0 {
			t.Errorf("%v: no connection went to another endpoint", declared)
		}
	}
}

// TestOpaqueNowhere: a connection is tried so often and no more, and never twice with
// the same endpoint.
func TestOpaqueNowhere(t *testing.T) {
	for n, redialled := range map[int]uint64{1: 0, 2: 1, 5: maxMissed - 1} {
		var apps []netip.AddrPort
		for range n {
			apps = append(apps, nobody(t))
		}
		p := startOpaque(t, seinev1.Protocol_PROTOCOL_TCP, apps...)
		c, err := net.Dial("tcp", p.Addresses()[0].String())
		if err == nil { // else it was reset already
			_, err = c.Read(make([]byte, 1))
			_ = c.Close()
		}
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%d endpoints: it was not reset: %v", n, err)
		}
		if got := p.counters.redialled.Value(); got != redialled {
			t.Errorf("%d endpoints: begun again %d times, want %d", n, got, redialled)
		}
	}
}
