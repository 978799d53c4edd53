//go:build linux

package proxy

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

const banner = "220 hello\r\n"

// greeter greets each connection and ends it at once.
func greeter(t *testing.T) netip.AddrPort {
	return rawApp(t, func(c net.Conn) { _, _ = io.WriteString(c, banner) })
}

// permissive is a sidecar in front of at, whose ports take plaintext, too.
func permissive(t *testing.T, ca *authority, at netip.AddrPort, declared seinev1.Protocol, o Options) *running {
	o.Loops, o.Factory, o.Forwards = 1, ca.factory(t, billingID), []Forward{{Listen: localhost(), App: at, Port: 8080}}
	return start(t, o, (&tableOf{t: t, self: self(t, "billing", billingID, seinev1.MtlsMode_MTLS_PERMISSIVE, &seinev1.InboundPort{
		Port: 8080, Protocol: declared, Mtls: seinev1.MtlsMode_MTLS_PERMISSIVE, Service: billing, ServiceName: "billing", ServiceNamespace: "default",
	})}).build())
}

// Short connections in the mesh to a server that greets and goes: more at a
// time than the sidecars can handshake at once, so that some begin TLS late.
func TestServerFirstShort(t *testing.T) {
	for _, declared := range declarations {
		t.Run(declared.String(), func(t *testing.T) {
			ca := newAuthority(t)
			at := greeter(t)
			// A second is not enough for 200 of them under the race detector beside others.
			p := tcpClient(t, ca, permissive(t, ca, at, declared, Options{TLSWait: time.Minute}), declared)
			var all sync.WaitGroup
			for i := range 200 {
				all.Go(func() {
					c, err := net.Dial("tcp", p.addr)
					if err != nil {
						t.Error(err)
						return
					}
					defer c.Close()
					_ = c.SetDeadline(time.Now().Add(20 * time.Second))
					if i%2 == 0 {
						_ = c.(*net.TCPConn).CloseWrite()
					}
					if b, err := io.ReadAll(c); string(b) != banner || err != nil {
						t.Errorf("half-closed %t: %q, %v", i%2 == 0, b, err)
					}
				})
			}
			all.Wait()
			for _, r := range []*running{p.client, p.server} {
				eventually(t, "nothing is left", func() bool { return r.inflight() == 0 && r.connections() == 0 })
			}
		})
	}
}

// A client that is late with its ClientHello is not answered in plaintext, nor
// does the application hear of it before it is known what it speaks.
func TestServerFirstLateTLS(t *testing.T) {
	ca := newAuthority(t)
	for _, declared := range declarations {
		s := permissive(t, ca, greeter(t), declared, Options{TLSWait: time.Hour})
		raw, err := net.Dial("tcp", s.Addresses()[0].String())
		must(t, err)
		defer raw.Close()
		must(t, raw.SetReadDeadline(time.Now().Add(20*graceTime)))
		if n, err := raw.Read(make([]byte, 100)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("%v: %d bytes of plaintext, %v", declared, n, err)
		}
		must(t, raw.SetDeadline(time.Now().Add(10*time.Second)))
		id := ca.identity(t, frontendID)
		c := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"istio"}, Certificates: []tls.Certificate{id.Certificate}})
		if line, err := bufio.NewReader(c).ReadString('\n'); line != banner {
			t.Fatalf("%v: %q, %v", declared, line, err)
		}
	}
}

// A plaintext client that only ends will not begin TLS: there is nothing to
// wait for.
func TestServerFirstHalfClosed(t *testing.T) {
	ca := newAuthority(t)
	for _, declared := range declarations {
		s := permissive(t, ca, greeter(t), declared, Options{TLSWait: time.Hour})
		c := dial(t, s.Addresses()[0].String())
		must(t, c.CloseWrite())
		if b, err := io.ReadAll(c.r); string(b) != banner || err != nil {
			t.Fatalf("%v: %q, %v", declared, b, err)
		}
	}
}
