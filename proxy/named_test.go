//go:build linux

package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

// secure serves TLS with a certificate of its own for name, and says back what
// it hears.
func secure(t *testing.T, ca *webCA, name string) netip.AddrPort {
	pair, _, _ := ca.leaf(t, name)
	return rawApp(t, func(c net.Conn) {
		s := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{pair}})
		_, _ = io.Copy(s, s)
	})
}

// external is a service outside the mesh with one endpoint.
func (b *tableOf) external(host string, at *seinev1.Endpoint) {
	b.service = append(b.service, &seinev1.Service{Host: host, Name: host, Namespace: "default", Port: 443, Protocol: seinev1.Protocol_PROTOCOL_TLS, External: true})
	if b.eps == nil {
		b.eps = map[string][]*seinev1.Endpoint{}
	}
	b.eps[host+"/443"] = []*seinev1.Endpoint{at}
}

func byName(index int32, sni string, dests ...*seinev1.Destination) *seinev1.Answer {
	return &seinev1.Answer{Kind: seinev1.Answer_ROUTES, Protocol: seinev1.Protocol_PROTOCOL_TLS, Service: sni, Tcp: []*seinev1.TcpRule{{
		Index: index, Tls: true, Match: []*seinev1.TcpMatch{{SniHosts: []string{sni}}}, Destinations: dests,
	}}}
}

// dialled makes every connection of a proxy one that was meant for at.
func dialled(at netip.AddrPort) func(*Proxy) {
	return func(p *Proxy) { p.original = func(int) (netip.AddrPort, error) { return at, nil } }
}

// says does a whole handshake for name through the proxy with the server that
// has certificate, and echoes a line.
func says(t *testing.T, ca *webCA, addr, name, certificate string) {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	c := dial(t, addr)
	s := tls.Client(c.TCPConn, &tls.Config{ServerName: name, RootCAs: roots, InsecureSkipVerify: true, VerifyConnection: func(cs tls.ConnectionState) error {
		_, err := cs.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, DNSName: certificate})
		return err
	}})
	_, err := s.Write([]byte("hello"))
	must(t, err)
	must(t, s.CloseWrite())
	if b, err := io.ReadAll(s); string(b) != "hello" || err != nil {
		t.Fatalf("%s: %q, %v", name, b, err)
	}
	_ = c.Close()
}

// TestSNI routes TLS that the application began by the name in its ClientHello,
// without a key to it, and counts it.
func TestSNI(t *testing.T) {
	ca := newWebCA(t)
	one, two, other := secure(t, ca, "one.org"), secure(t, ca, "two.org"), secure(t, ca, "other.org")
	to := func(host string, weight uint32) *seinev1.Destination {
		return &seinev1.Destination{Host: host, Port: 443, Weight: weight}
	}
	b := &tableOf{t: t, self: self(t, "frontend", frontendID, seinev1.MtlsMode_MTLS_STRICT), answers: map[string]*seinev1.Answer{
		"addr/" + other.String():                  {Kind: seinev1.Answer_PASSTHROUGH, Protocol: seinev1.Protocol_PROTOCOL_TCP, BySni: true},
		"tls/" + portText(other) + "/one.org":     byName(0, "one.org", to("one.org", 100)),
		"tls/" + portText(other) + "/two.org":     byName(0, "two.org", to("one.org", 50), to("two.org", 50)),
		"tls/" + portText(other) + "/unknown.org": {Kind: seinev1.Answer_UNKNOWN},
		"tls/" + portText(other) + "/elsewhere.org": {Kind: seinev1.Answer_ROUTES, Tcp: []*seinev1.TcpRule{{
			Match:        []*seinev1.TcpMatch{{SniHosts: []string{"elsewhere.org"}, DestinationSubnets: []string{"192.0.2.0/24"}}},
			Destinations: []*seinev1.Destination{to("one.org", 1)},
		}}},
	}}
	b.external("one.org", endpoint("1", one, nil))
	b.external("two.org", endpoint("1", two, nil))
	f := &tables{}
	f.cur.Store(b.build())
	p := startWith(t, Options{Loops: 1, Outbound: localhost()}, f, dialled(other))
	addr := p.Addresses()[0].String()

	says(t, ca, addr, "ONE.org", "one.org")
	says(t, ca, addr, "unknown.org", "other.org")   // no service has the name: where it was dialled
	says(t, ca, addr, "elsewhere.org", "other.org") // the rule is for other addresses
	says(t, ca, addr, "10.0.0.1", "other.org")      // an address is no server's name
	p.shows(t, `destination_service="one.org"`, `destination_service_name="PassthroughCluster"`)

	seen := map[string]int{}
	for range 40 {
		c := dial(t, addr)
		s := tls.Client(c.TCPConn, &tls.Config{ServerName: "two.org", InsecureSkipVerify: true})
		must(t, s.Handshake())
		seen[s.ConnectionState().PeerCertificates[0].Subject.CommonName]++
		_ = c.Close()
	}
	if len(seen) != 2 || seen["one.org"] == 0 || seen["two.org"] == 0 {
		t.Errorf("weights of 50 and 50 gave %v", seen)
	}
	p.shows(t, `destination_service="two.org"`)

	// What is no TLS goes where it was dialled; the server sees it as it is.
	c := dial(t, addr)
	c.write("\x00no TLS")
	if _, err := io.ReadAll(c.r); err != nil && !strings.Contains(err.Error(), "reset") {
		t.Error(err)
	}
}

func portText(a netip.AddrPort) string {
	_, port, _ := net.SplitHostPort(a.String())
	return port
}

// TestSNIAsked holds that a name is asked for when it is met, with the
// ClientHello in as many pieces as it likes, and that nothing passes while it is
// not answered.
func TestSNIAsked(t *testing.T) {
	ca := newWebCA(t)
	one := secure(t, ca, "one.org")
	b := &tableOf{t: t, self: self(t, "frontend", frontendID, seinev1.MtlsMode_MTLS_STRICT), answers: map[string]*seinev1.Answer{
		"addr/192.0.2.1:443": {Kind: seinev1.Answer_PASSTHROUGH, Protocol: seinev1.Protocol_PROTOCOL_TCP, BySni: true},
	}}
	b.external("one.org", endpoint("1", one, nil))
	f := &tables{}
	f.cur.Store(b.build())
	p := startWith(t, Options{Loops: 1, Outbound: localhost(), AnswerWait: 10 * time.Second}, f, dialled(netip.MustParseAddrPort("192.0.2.1:443")))
	done := make(chan struct{})
	go func() {
		defer close(done)
		raw, err := net.Dial("tcp", p.Addresses()[0].String())
		if err != nil {
			t.Error(err)
			return
		}
		defer raw.Close()
		_ = raw.SetDeadline(time.Now().Add(20 * time.Second))
		s := tls.Client(crumbs{raw}, &tls.Config{ServerName: "one.org", InsecureSkipVerify: true})
		if err := s.Handshake(); err != nil {
			t.Error(err)
		}
	}()
	eventually(t, "the name is asked for", func() bool { return f.asked("tls/443/one.org") })
	b.answers["tls/443/one.org"] = byName(0, "one.org", &seinev1.Destination{Host: "one.org", Port: 443, Weight: 1})
	f.publish(b.build())
	<-done

	// Without an answer in time it is refused.
	q := startWith(t, Options{Loops: 1, Outbound: localhost(), AnswerWait: 10 * time.Millisecond}, f, dialled(netip.MustParseAddrPort("192.0.2.1:443")))
	s := tls.Client(dial(t, q.Addresses()[0].String()).TCPConn, &tls.Config{ServerName: "nobody.org", InsecureSkipVerify: true})
	if err := s.Handshake(); err == nil || q.counters.unanswered.Value() != 1 {
		t.Errorf("%v, %d unanswered", err, int(q.counters.unanswered.Value()))
	}
}

// crumbs writes byte by byte.
type crumbs struct{ net.Conn }

func (c crumbs) Write(p []byte) (int, error) {
	for i := range p {
		if _, err := c.Conn.Write(p[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(p), nil
}

// TestSNIOfService is a service's own address on a TLS port: a rule by name, and
// the service itself, with its identity, for what none takes.
func TestSNIOfService(t *testing.T) {
	ca := newWebCA(t)
	one, two := secure(t, ca, "one.org"), secure(t, ca, "two.org")
	b := &tableOf{t: t, self: self(t, "frontend", frontendID, seinev1.MtlsMode_MTLS_STRICT), answers: map[string]*seinev1.Answer{
		"addr/10.9.9.9:443": {Kind: seinev1.Answer_ROUTES, Protocol: seinev1.Protocol_PROTOCOL_TLS, Tcp: []*seinev1.TcpRule{
			byName(0, "one.org", &seinev1.Destination{Host: "one.org", Port: 443, Weight: 1}).Tcp[0],
			{Destinations: []*seinev1.Destination{{Host: "two.org", Port: 443, Weight: 1}}},
		}},
	}}
	b.external("one.org", endpoint("1", one, nil))
	b.external("two.org", endpoint("1", two, nil))
	f := &tables{}
	f.cur.Store(b.build())
	p := startWith(t, Options{Loops: 1, Outbound: localhost()}, f, dialled(netip.MustParseAddrPort("10.9.9.9:443")))
	says(t, ca, p.Addresses()[0].String(), "one.org", "one.org")
	says(t, ca, p.Addresses()[0].String(), "any.org", "two.org")
	if f.asked("tls/443/any.org") {
		t.Error("a name was asked for that the address decides")
	}
}

// late answers once it is let.
type late struct {
	names
	let chan struct{}
}

func (l late) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	select {
	case <-l.let:
		return l.names.LookupNetIP(ctx, network, host)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// TestOpaqueResolved holds that the first connection to a service whose endpoint
// is a name waits for its address, whoever speaks first.
func TestOpaqueResolved(t *testing.T) {
	for _, declared := range declarations {
		at := greeter(t)
		b := &tableOf{t: t, self: self(t, "frontend", frontendID, seinev1.MtlsMode_MTLS_STRICT), answers: map[string]*seinev1.Answer{
			"addr/192.0.2.1:443": {Kind: seinev1.Answer_ROUTES, Protocol: declared, Tcp: []*seinev1.TcpRule{{Destinations: []*seinev1.Destination{{Host: "db.example.com", Port: 443, Weight: 1}}}}},
		}}
		b.external("db.example.com", &seinev1.Endpoint{Id: "1", Address: "db.example.com", Port: uint32(at.Port())})
		f := &tables{}
		f.cur.Store(b.build())
		r := late{names{"db.example.com": at.Addr()}, make(chan struct{})}
		p := startWith(t, Options{Loops: 1, Outbound: localhost(), Resolver: r, AnswerWait: 10 * time.Second}, f, dialled(netip.MustParseAddrPort("192.0.2.1:443")))
		c := dial(t, p.Addresses()[0].String())
		eventually(t, "it waits", func() bool {
			parked := make(chan int, 1)
			p.workers[0].loop.Post(func() { parked <- len(p.workers[0].parked) })
			return <-parked == 1
		})
		close(r.let)
		if b, err := io.ReadAll(c.r); string(b) != banner || err != nil {
			t.Fatalf("%v: %q, %v", declared, b, err)
		}
	}
}
