//go:build linux

package proxy

import (
	"bufio"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

// tcpPair is a pair whose client side is a redirected listener; every
// connection to it was meant for the address 10.9.9.9:8080.
func tcpPair(t *testing.T, at netip.AddrPort, declared seinev1.Protocol) *pair {
	t.Helper()
	ca := newAuthority(t)
	server := start(t, Options{
		Loops: 1, Forwards: []Forward{{Listen: localhost(), App: at, Port: 8080}}, Factory: ca.factory(t, billingID),
	}, (&tableOf{t: t, self: self(t, "billing", billingID, seinev1.MtlsMode_MTLS_STRICT, &seinev1.InboundPort{
		Port: 8080, Protocol: declared, Mtls: seinev1.MtlsMode_MTLS_STRICT, Service: billing, ServiceName: "billing", ServiceNamespace: "default",
	})}).build())
	return tcpClient(t, ca, server, declared)
}

// tcpClient is the client's side of such a pair.
func tcpClient(t *testing.T, ca *authority, server *running, declared seinev1.Protocol) *pair {
	t.Helper()
	dest := []*seinev1.Destination{{Host: billing, Port: 8080, Weight: 1}}
	table := billingTable(t, []*seinev1.HttpRule{{Destinations: dest}}, endpoint("1", server.Addresses()[0], workload("billing", billingID)))
	table.answers["addr/10.9.9.9:8080"] = &seinev1.Answer{
		Kind: seinev1.Answer_ROUTES, Protocol: declared, Service: billing,
		Http: []*seinev1.HttpRule{{Destinations: dest}}, Tcp: []*seinev1.TcpRule{{Destinations: dest}},
	}
	f := &tables{}
	f.cur.Store(table.build())
	client := startWith(t, Options{Loops: 1, Outbound: localhost(), Factory: ca.factory(t, frontendID)}, f, func(p *Proxy) {
		p.original = func(int) (netip.AddrPort, error) { return netip.MustParseAddrPort("10.9.9.9:8080"), nil }
	})
	return &pair{ca: ca, client: client, server: server, addr: client.Addresses()[0].String()}
}

var declarations = []seinev1.Protocol{seinev1.Protocol_PROTOCOL_TCP, seinev1.Protocol_PROTOCOL_DETECT}

func TestOpaque(t *testing.T) {
	for _, declared := range declarations {
		t.Run(declared.String(), func(t *testing.T) {
			at := rawApp(t, func(c net.Conn) { _, _ = io.Copy(c, c) })
			p := tcpPair(t, at, declared)
			c := dial(t, p.addr)
			big := strings.Repeat("\x01\x02 not HTTP ", 200_000)
			go func() { _, _ = io.WriteString(c.TCPConn, big); _ = c.CloseWrite() }()
			b, err := io.ReadAll(c.r) // the application's end follows ours: half-close works
			if string(b) != big || err != nil {
				t.Fatalf("%d bytes of %d, %v", len(b), len(big), err)
			}
			for _, r := range []*running{p.client, p.server} {
				eventually(t, "the connection is counted", func() bool {
					m := r.metrics(t)
					return strings.Contains(m, "istio_tcp_connections_opened_total{") && strings.Contains(m, "istio_tcp_connections_closed_total{") &&
						strings.Contains(m, "2400000") && strings.Contains(m, `source_workload="frontend"`) && strings.Contains(m, `request_protocol="tcp"`)
				})
			}
		})
	}
}

func TestServerFirst(t *testing.T) {
	for _, declared := range declarations {
		t.Run(declared.String(), func(t *testing.T) {
			at := rawApp(t, func(c net.Conn) {
				_, _ = io.WriteString(c, "220 hello\r\n")
				line, _ := bufio.NewReader(c).ReadString('\n')
				_, _ = io.WriteString(c, "you said "+line)
			})
			p := tcpPair(t, at, declared)
			c := dial(t, p.addr)
			if line, err := c.r.ReadString('\n'); line != "220 hello\r\n" {
				t.Fatalf("%q, %v", line, err)
			}
			c.write("EHLO\n")
			if line, err := c.r.ReadString('\n'); line != "you said EHLO\n" {
				t.Fatalf("%q, %v", line, err)
			}
			c.ends()
		})
	}
}

func TestDetectHTTP(t *testing.T) {
	p := tcpPair(t, app(t, echo), seinev1.Protocol_PROTOCOL_DETECT)
	c := dial(t, p.addr)
	for range 3 {
		if res, body := c.get("/x"); res.StatusCode != 200 || !strings.HasPrefix(body, "GET /x") {
			t.Errorf("%s %q", res.Status, body)
		}
	}
	// A client that is silent for a while and then speaks HTTP: the
	// destination was dialled meanwhile, and HTTP it is.
	c = dial(t, p.addr)
	eventually(t, "the destination was dialled", func() bool { return p.server.connections() >= 2 })
	if res, _ := c.get("/late"); res.StatusCode != 200 {
		t.Error(res.Status)
	}
}

func TestOpaqueReset(t *testing.T) {
	closed := make(chan error, 1)
	at := rawApp(t, func(c net.Conn) {
		_, _ = io.WriteString(c, "x")
		_, err := c.Read(make([]byte, 1))
		closed <- err
	})
	p := tcpPair(t, at, seinev1.Protocol_PROTOCOL_TCP)
	c := dial(t, p.addr)
	_, err := c.Read(make([]byte, 1))
	must(t, err)
	_ = c.SetLinger(0)
	_ = c.Close()
	if err := <-closed; err == nil || err == io.EOF {
		t.Errorf("a reset became %v", err)
	}
}

func TestOpaqueUnanswered(t *testing.T) {
	f := &tables{}
	f.cur.Store(billingTable(t, nil).build())
	p := startWith(t, Options{Loops: 1, Outbound: localhost(), AnswerWait: 10 * time.Millisecond}, f, func(p *Proxy) {
		p.original = func(int) (netip.AddrPort, error) { return netip.MustParseAddrPort("10.9.9.9:8080"), nil }
	})
	c := dial(t, p.Addresses()[0].String())
	if _, err := c.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("it was not reset: %v", err)
	}
	if p.counters.unanswered.Value() != 1 || !p.tables.asked("addr/10.9.9.9:8080") {
		t.Error("it is not counted")
	}
}

func TestOpaqueBlackhole(t *testing.T) {
	table := billingTable(t, nil)
	table.answers["addr/10.9.9.9:8080"] = &seinev1.Answer{Kind: seinev1.Answer_UNKNOWN}
	f := &tables{}
	f.cur.Store(table.build())
	p := startWith(t, Options{Loops: 1, Outbound: localhost(), HeadTimeout: 20 * time.Millisecond}, f, func(p *Proxy) {
		p.original = func(int) (netip.AddrPort, error) { return netip.MustParseAddrPort("10.9.9.9:8080"), nil }
	})
	c := dial(t, p.Addresses()[0].String())
	c.write("\x00\x01\x02")
	if _, err := c.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("it was not reset: %v", err)
	}
	// Silence is refused too, in the end.
	c = dial(t, p.Addresses()[0].String())
	if _, err := c.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("it was not reset: %v", err)
	}
}
