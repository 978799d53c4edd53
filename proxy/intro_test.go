//go:build linux

package proxy

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/proxy/proxyproto"
)

// introduced reads the PROXY header at the beginning of a stream.
func introduced(r *bufio.Reader) (proxyproto.Header, error) {
	for n := 1; ; n++ {
		b, err := r.Peek(n)
		if err != nil {
			return proxyproto.Header{}, err
		}
		switch h, n, s := proxyproto.Parse(b); s {
		case proxyproto.Complete:
			_, _ = r.Discard(n)
			return h, nil
		case proxyproto.Invalid:
			return h, fmt.Errorf("no header: %q", b)
		}
	}
}

var fivefourthree = netip.MustParseAddrPort("192.0.2.1:443")

// TestIntroduce holds that an opaque connection begins with the client's
// addresses, in both versions, to plain endpoints and before TLS that the
// sidecar begins.
func TestIntroduce(t *testing.T) {
	ca := newWebCA(t)
	cert, _, _ := ca.leaf(t, "db.example.com")
	for _, secured := range []bool{false, true} {
		for version := uint32(1); version <= 2; version++ {
			heard := make(chan string, 1)
			at := rawApp(t, func(c net.Conn) {
				r := bufio.NewReader(c)
				h, err := introduced(r)
				if err != nil {
					heard <- err.Error()
					return
				}
				var rest io.Reader = r
				if secured {
					rest = tls.Server(peeked{c, r}, &tls.Config{Certificates: []tls.Certificate{cert}})
				}
				b := make([]byte, 5)
				_, _ = io.ReadFull(rest, b)
				heard <- fmt.Sprint(h.Source, " ", h.Destination, " ", string(b))
			})
			policy := &seinev1.TrafficPolicy{ProxyProtocol: version}
			if secured {
				policy.Tls, policy.Originate = seinev1.TrafficPolicy_SIMPLE, &seinev1.OriginateTls{CaCertificates: ca.file}
			}
			_, addr := passing(t, at, Options{Factory: newAuthority(t).factory(t, frontendID)}, policy)
			c := dial(t, addr)
			c.write("hello")
			if got, want := <-heard, fmt.Sprint(c.LocalAddr(), " ", fivefourthree, " hello"); got != want {
				t.Errorf("version %d, TLS %t: %q, want %q", version, secured, got, want)
			}
		}
	}
}

// peeked is a connection of which some was read ahead.
type peeked struct {
	net.Conn
	r *bufio.Reader
}

func (p peeked) Read(b []byte) (int, error) { return p.r.Read(b) }

// TestIntroduceHTTP holds that requests of different clients never share a
// connection that begins with the address of one.
func TestIntroduceHTTP(t *testing.T) {
	at := rawApp(t, func(c net.Conn) {
		r := bufio.NewReader(c)
		h, err := introduced(r)
		for err == nil {
			var line string
			if line, err = r.ReadString('\n'); line == "\r\n" {
				who := h.Source.String()
				_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(who), who)
			}
		}
	})
	table := billingTable(t, []*seinev1.HttpRule{toBilling()}, endpoint("1", at, nil))
	table.service[0].Policy = &seinev1.TrafficPolicy{ProxyProtocol: 2}
	p := start(t, Options{Loops: 1, Explicit: localhost()}, table.build())
	for range 2 {
		a, b := dial(t, p.Addresses()[0].String()), dial(t, p.Addresses()[0].String())
		for range 2 {
			for _, c := range []*client{a, b} {
				if _, body := c.get("/"); body != "" && body != c.LocalAddr().String() {
					t.Errorf("%q, want %s", body, c.LocalAddr())
				}
			}
		}
	}
}

// TestIntroduceInMesh holds that in the mesh the header goes within mutual TLS, to
// the application.
func TestIntroduceInMesh(t *testing.T) {
	heard := make(chan string, 1)
	at := rawApp(t, func(c net.Conn) {
		r := bufio.NewReader(c)
		h, err := introduced(r)
		line, _ := r.ReadString('\n')
		heard <- fmt.Sprint(h.Source, " ", err, " ", line)
	})
	ca := newAuthority(t)
	server := permissive(t, ca, at, seinev1.Protocol_PROTOCOL_TCP, Options{})
	dest := []*seinev1.Destination{{Host: billing, Port: 8080, Weight: 1}}
	table := billingTable(t, nil, endpoint("1", server.Addresses()[0], workload("billing", billingID)))
	table.service[0].Policy = &seinev1.TrafficPolicy{ProxyProtocol: 1}
	table.answers["addr/192.0.2.1:443"] = &seinev1.Answer{Kind: seinev1.Answer_ROUTES, Protocol: seinev1.Protocol_PROTOCOL_TCP, Tcp: []*seinev1.TcpRule{{Destinations: dest}}}
	f := &tables{}
	f.cur.Store(table.build())
	p := startWith(t, Options{Loops: 1, Outbound: localhost(), Factory: ca.factory(t, frontendID)}, f, dialled(fivefourthree))
	c := dial(t, p.Addresses()[0].String())
	c.write("hello\n")
	if got, want := <-heard, fmt.Sprint(c.LocalAddr(), " <nil> hello\n"); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// introducing is a sidecar in front of at whose port takes PROXY headers.
func introducing(t *testing.T, ca *authority, at netip.AddrPort, mode seinev1.MtlsMode, from ...string) *running {
	return start(t, Options{Loops: 1, Factory: ca.factory(t, billingID), Forwards: []Forward{{Listen: localhost(), App: at, Port: 8080}}, HeadTimeout: 5 * time.Second},
		(&tableOf{t: t, self: self(t, "billing", billingID, mode, &seinev1.InboundPort{
			Port: 8080, Protocol: seinev1.Protocol_PROTOCOL_HTTP, Mtls: mode, ProxyProtocol: true, ProxyProtocolFrom: from,
		})}).build())
}

// TestIntroduced holds who is believed.
func TestIntroduced(t *testing.T) {
	ca := newAuthority(t)
	at := app(t, echo)
	header := (&proxyproto.Header{Source: netip.MustParseAddrPort("203.0.113.9:1234"), Destination: fivefourthree}).AppendV2(nil)
	request := "GET / HTTP/1.1\r\nHost: billing\r\n\r\n"
	for name, c := range map[string]struct {
		mode seinev1.MtlsMode
		from []string
		said string
		want string // of the answer; "": reset
	}{
		"believed":                {seinev1.MtlsMode_MTLS_PERMISSIVE, nil, string(header) + request, "Saw-X-Forwarded-For: 203.0.113.9"},
		"version 1":               {seinev1.MtlsMode_MTLS_DISABLE, []string{"127.0.0.0/8"}, "PROXY TCP4 203.0.113.9 192.0.2.1 1234 443\r\n" + request, "Saw-X-Forwarded-For: 203.0.113.9"},
		"the proxy's own":         {seinev1.MtlsMode_MTLS_PERMISSIVE, nil, "PROXY UNKNOWN\r\n" + request, "200 OK"},
		"missing":                 {seinev1.MtlsMode_MTLS_PERMISSIVE, nil, request, ""},
		"missing, not even TLS":   {seinev1.MtlsMode_MTLS_DISABLE, nil, "\x16\x03\x01\x00\x05hello", ""},
		"malformed":               {seinev1.MtlsMode_MTLS_PERMISSIVE, nil, "PROXY TCP4 203.0.113.9 192.0.2.1 01234 443\r\n" + request, ""},
		"STRICT all the same":     {seinev1.MtlsMode_MTLS_STRICT, nil, string(header) + request, ""},
		"others need none":        {seinev1.MtlsMode_MTLS_PERMISSIVE, []string{"192.0.2.0/24"}, request, "200 OK"},
		"others are not believed": {seinev1.MtlsMode_MTLS_PERMISSIVE, []string{"192.0.2.0/24"}, "PROXY TCP4 203.0.113.9 192.0.2.1 1234 443\r\n" + request, "closed"},
	} {
		t.Run(name, func(t *testing.T) {
			p := introducing(t, ca, at, c.mode, c.from...)
			k := dial(t, p.Addresses()[0].String())
			k.write("%s", c.said)
			b := make([]byte, 4096)
			n, err := k.Read(b)
			if c.want == "" {
				if n > 0 || err == nil || err == io.EOF {
					t.Errorf("%q, %v", b[:n], err)
				}
				return
			}
			if c.want == "closed" && n == 0 {
				return
			}
			if !strings.Contains(string(b[:n]), c.want) {
				t.Errorf("%q, %v, want %s", b[:n], err, c.want)
			}
		})
	}
	// The mesh's own mutual TLS needs no header, on any port.
	p := introducing(t, ca, at, seinev1.MtlsMode_MTLS_STRICT)
	raw := dial(t, p.Addresses()[0].String())
	id := ca.identity(t, frontendID)
	s := tls.Client(raw.TCPConn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"istio"}, Certificates: []tls.Certificate{id.Certificate}})
	_, err := io.WriteString(s, request)
	must(t, err)
	b := make([]byte, 4096)
	if n, err := s.Read(b); !strings.Contains(string(b[:n]), "200 OK") {
		t.Errorf("%q, %v", b[:n], err)
	}
	// And behind a header there may be TLS of the mesh, as through a load balancer.
	raw = dial(t, p.Addresses()[0].String())
	raw.write("%s", header)
	s = tls.Client(raw.TCPConn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"istio"}, Certificates: []tls.Certificate{id.Certificate}})
	if err := s.Handshake(); err != nil {
		t.Error(err)
	}
}
