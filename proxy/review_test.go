//go:build linux

package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

// What passes the first sidecar does not fail at the second for what the first added.
func TestFieldsNearTheLimit(t *testing.T) {
	p := startPair(t, app(t, func(http.ResponseWriter, *http.Request) {}), nil, nil)
	for n := 90; n <= maxFields-1; n++ {
		c := dial(t, p.addr)
		c.write("GET http://billing:8080/ HTTP/1.1\r\nHost: billing:8080\r\n%s\r\n", strings.Repeat("a: b\r\n", n))
		if res, body := c.response("GET"); res.StatusCode != 200 {
			t.Fatalf("%d fields: %d %s", n+1, res.StatusCode, body)
		}
	}
	for n := 65300; n < 65540; n += 6 {
		c := dial(t, p.addr)
		c.write("GET http://billing:8080/ HTTP/1.1\r\nHost: billing:8080\r\na: %s\r\n\r\n", strings.Repeat("x", n))
		res, _ := c.response("GET")
		if res.StatusCode != 200 && res.StatusCode != 431 {
			t.Fatalf("%d bytes: %d", n, res.StatusCode)
		}
		if strings.Contains(p.server.metrics(t), `response_code="431"`) {
			t.Fatalf("%d bytes: refused by the second sidecar", n)
		}
	}
}

// The answer of an application with as many fields as are allowed arrives.
func TestResponseFieldsNearTheLimit(t *testing.T) {
	at := rawApp(t, func(c net.Conn) {
		_, _ = c.Read(make([]byte, 4096))
		_, _ = io.WriteString(c, "HTTP/1.0 200 OK\r\n"+strings.Repeat("a: b\r\n", maxFields)+"\r\nbody")
	})
	c := dial(t, startPair(t, at, nil, nil).addr)
	if res, body := c.get("/"); res.StatusCode != 200 || body != "body" {
		t.Fatal(res.StatusCode, body)
	}
}

// HTTP/1.0 without Host: the address dialled is what it means.
func TestNoHost(t *testing.T) {
	at := app(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Host) })
	p := tcpPair(t, at, seinev1.Protocol_PROTOCOL_HTTP)
	table := *p.client.tables.Table()
	table.Answers = maps.Clone(table.Answers)
	table.Answers["http/8080/10.9.9.9"] = table.Answers["addr/10.9.9.9:8080"]
	p.client.tables.publish(&table)
	c := dial(t, p.addr)
	c.write("GET / HTTP/1.0\r\n\r\n")
	if res, body := c.response("GET"); res.StatusCode != 200 || body != "10.9.9.9:8080" {
		t.Fatal(res.StatusCode, body)
	}
}

// A client that says all it has to say and ends at once is heard.
func TestShortStream(t *testing.T) {
	got := make(chan string, 1)
	at := rawApp(t, func(c net.Conn) { b, _ := io.ReadAll(c); got <- string(b) })
	p := tcpPair(t, at, seinev1.Protocol_PROTOCOL_TCP)
	for range 50 {
		c := dial(t, p.addr)
		c.write("one line\n")
		_ = c.CloseWrite()
		select {
		case s := <-got:
			if s != "one line\n" {
				t.Fatalf("%q", s)
			}
		case <-time.After(3 * time.Second):
			t.Fatal("the application heard nothing")
		}
		c.ends()
	}
}

// Connections that PERMISSIVE let in do not outlive it.
func TestStrictEndsPlaintext(t *testing.T) {
	for _, protocol := range []seinev1.Protocol{seinev1.Protocol_PROTOCOL_HTTP, seinev1.Protocol_PROTOCOL_TCP} {
		ca := newAuthority(t)
		of := func(m seinev1.MtlsMode) *tableOf {
			return &tableOf{t: t, self: self(t, "billing", billingID, m, &seinev1.InboundPort{Port: 8080, Protocol: protocol, Mtls: m})}
		}
		s := start(t, Options{
			Loops: 1, Forwards: []Forward{{Listen: localhost(), App: app(t, echo), Port: 8080}}, Factory: ca.factory(t, billingID),
		}, of(seinev1.MtlsMode_MTLS_PERMISSIVE).build())
		c := dial(t, s.Addresses()[0].String())
		c.write("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n")
		if res, _ := c.response("GET"); res.StatusCode != 200 {
			t.Fatal(res.StatusCode)
		}
		s.tables.publish(of(seinev1.MtlsMode_MTLS_STRICT).build())
		must(t, c.SetReadDeadline(time.Now().Add(5*time.Second)))
		if b, err := io.ReadAll(c.r); len(b) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("%v: still open: %q, %v", protocol, b, err)
		}
	}
}

// An edge in plaintext names no principals.
func TestPlaintextEdgeHasNoPrincipals(t *testing.T) {
	table := billingTable(t, []*seinev1.HttpRule{toBilling()}, endpoint("1", app(t, echo), workload("billing", billingID)))
	table.service[0].Policy = &seinev1.TrafficPolicy{Tls: seinev1.TrafficPolicy_TLS_DISABLE}
	r := start(t, Options{Loops: 1, Explicit: localhost(), Factory: newAuthority(t).factory(t, frontendID)}, table.build())
	if res, _ := r.dial(t).get("/"); res.StatusCode != 200 {
		t.Fatal(res.StatusCode)
	}
	r.shows(t, `destination_principal="unknown"`, `source_principal="unknown"`)
}

// An upstream that sends interim answers without end does not keep the loop.
func TestEndlessInterim(t *testing.T) {
	flowing := make(chan struct{})
	at := rawApp(t, func(c net.Conn) {
		many := strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 2000)
		for n := 0; ; n++ {
			if _, err := io.WriteString(c, many); err != nil {
				return
			}
			if n == 200 { // more than the sockets on the way hold: the sidecars read it
				close(flowing)
			}
		}
	})
	p := startPair(t, at, nil, nil)
	bad := dial(t, p.addr)
	bad.write("GET http://billing:8080/ HTTP/1.0\r\nHost: billing:8080\r\n\r\n") // nothing reaches it, nothing blocks
	<-flowing
	c := dial(t, p.addr)
	c.write("GET http://nobody/ HTTP/1.1\r\nHost: x y\r\n\r\n")
	if res, _ := c.response("GET"); res.StatusCode != 400 {
		t.Fatal(res.StatusCode)
	}
}

// A name of the world that leads to an address of the mesh is not called in plaintext.
func TestForeignNameOfMeshAddress(t *testing.T) {
	table := billingTable(t, nil)
	table.answers["http/80/evil.example"] = &seinev1.Answer{Kind: seinev1.Answer_PASSTHROUGH}
	table.answers["addr/10.1.2.3:80"] = &seinev1.Answer{Kind: seinev1.Answer_UNKNOWN}
	r := start(t, Options{
		Loops: 1, Explicit: localhost(), Factory: newAuthority(t).factory(t, frontendID), Resolver: inMesh{},
	}, table.build())
	c := r.dial(t)
	c.write("GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n")
	if res, body := c.response("GET"); res.StatusCode != 503 || !strings.Contains(body, "no such host") {
		t.Fatal(res.StatusCode, body)
	}
	r.flagged(t, "NC")
}

type inMesh struct{}

func (inMesh) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	return []netip.Addr{netip.MustParseAddr("10.1.2.3")}, nil
}

// A peer that calls its bytes opaque does not get requests with identities of
// its own making past the sidecar.
func TestOpaqueByWordAlone(t *testing.T) {
	ca := newAuthority(t)
	const undeclared = 9999
	s := start(t, Options{
		Loops: 1, Factory: ca.factory(t, billingID),
		Forwards: []Forward{{Listen: localhost(), App: app(t, echo), Port: undeclared}},
	}, (&tableOf{t: t, self: self(t, "billing", billingID, seinev1.MtlsMode_MTLS_STRICT)}).build())
	peer := ca.identity(t, "spiffe://cluster.local/ns/default/sa/mallory")
	c, err := tls.Dial("tcp", s.Addresses()[0].String(), &tls.Config{
		InsecureSkipVerify: true, NextProtos: []string{"seine-tcp"}, Certificates: []tls.Certificate{peer.Certificate},
	})
	must(t, err)
	defer c.Close()
	// The preamble, with nothing in it, and then a request.
	_, err = io.WriteString(c, "\x00\x00GET / HTTP/1.1\r\nHost: billing\r\nX-Forwarded-Client-Cert: URI=spiffe://cluster.local/ns/default/sa/admin\r\nConnection: close\r\n\r\n")
	must(t, err)
	answer, err := io.ReadAll(c)
	must(t, err)
	if text := string(answer); !strings.Contains(text, "200 OK") || !strings.Contains(text, "sa/mallory") || strings.Contains(text, "sa/admin") {
		t.Fatalf("%s", text)
	}
}
