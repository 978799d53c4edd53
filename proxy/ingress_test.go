//go:build linux

package proxy

import (
	"io"
	"net"
	"net/http"
	"net/netip"
	"testing"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/decide"
)

// TestIngressEndpoint: a Sidecar's defaultEndpoint is where requests and opaque
// connections go, and a change holds for the next request of an open connection.
func TestIngressEndpoint(t *testing.T) {
	at := func(name string) netip.AddrPort {
		return app(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, name) })
	}
	dialled, first, second := at("dialled"), at("first"), at("second")
	echo := rawApp(t, func(c net.Conn) { _, _ = io.Copy(c, c) })
	table := func(protocol seinev1.Protocol, endpoint string) *decide.Table {
		s, err := decide.CompileSelf(&seinev1.Self{Workload: workload("billing", billingID), TrustDomain: "cluster.local", DefaultMtls: seinev1.MtlsMode_MTLS_PERMISSIVE,
			Inbound: []*seinev1.InboundPort{{Port: 8080, Protocol: protocol, Endpoint: endpoint}}})
		must(t, err)
		return (&tableOf{t: t, self: s}).build()
	}
	f := &tables{}
	f.cur.Store(table(seinev1.Protocol_PROTOCOL_HTTP, first.String()))
	p := startWith(t, Options{Loops: 1, Forwards: []Forward{{Listen: localhost(), App: dialled, Port: 8080}}, Factory: newAuthority(t).factory(t, billingID)}, f, func(*Proxy) {})
	c := dial(t, p.Addresses()[0].String())
	if _, body := c.get("/"); body != "first" {
		t.Fatal(body)
	}
	for endpoint, want := range map[string]string{second.String(): "second", netip.AddrPortFrom(netip.IPv4Unspecified(), second.Port()).String(): "second", "": "dialled"} {
		f.publish(table(seinev1.Protocol_PROTOCOL_HTTP, endpoint))
		eventually(t, "the next request goes to "+want, func() bool { _, body := c.get("/"); return body == want })
	}
	f.publish(table(seinev1.Protocol_PROTOCOL_TCP, echo.String()))
	eventually(t, "opaque bytes go there, too", func() bool {
		c := dial(t, p.Addresses()[0].String())
		c.write("hi\n")
		b := make([]byte, 3)
		_, err := io.ReadFull(c, b)
		return err == nil && string(b) == "hi\n"
	})
	if _, err := decide.CompileSelf(&seinev1.Self{Inbound: []*seinev1.InboundPort{{Port: 1, Endpoint: "192.0.2.1:80"}}}); err == nil {
		t.Error("an endpoint elsewhere is taken")
	}
}
