//go:build linux

package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/decide"
)

// TestUnsentIsSidecarsWord: that nothing of a request was sent is for a sidecar
// of the mesh to say. An application that says it is not asked twice, and
// nobody hears it of one.
func TestUnsentIsSidecarsWord(t *testing.T) {
	var asked atomic.Int32
	lies := app2(t, func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.Header().Set("X-Seine-Unsent", "true")
		w.WriteHeader(503)
	})
	for _, c := range []struct {
		name, addr string
	}{
		{"plaintext", startRetrying(t, toBilling(), lies).Addresses()[0].String()},
		{"behind a sidecar", startPair(t, lies, nil, nil).addr},
		{"behind a sidecar, over HTTP/2", startPairOf(t, lies, seinev1.Protocol_PROTOCOL_HTTP2, &seinev1.TrafficPolicy{}, nil, nil).addr},
	} {
		for _, method := range []string{"GET", "POST"} {
			asked.Store(0)
			d := dial(t, c.addr)
			d.write("%s /pay HTTP/1.1\r\nHost: billing:8080\r\nContent-Length: 1\r\n\r\nx", method)
			res, _ := d.response(method)
			if n := asked.Load(); res.StatusCode != 503 || n != 1 || res.Header.Get("X-Seine-Unsent") != "" {
				t.Errorf("%s, %s: %s, asked %d times, %v", method, c.name, res.Status, n, res.Header)
			}
		}
	}
}

// TestRetryUnsent: a server's sidecar whose application is gone says that nothing
// of the request reached it, and the client's sends it again: the last moment of a
// pod costs no request.
func TestRetryUnsent(t *testing.T) {
	for _, protocol := range []seinev1.Protocol{seinev1.Protocol_PROTOCOL_HTTP, seinev1.Protocol_PROTOCOL_HTTP2} {
		p := startPairOf(t, nobody(t), protocol, &seinev1.TrafficPolicy{}, nil, nil)
		res, body := dial(t, p.addr).get("/")
		if res.StatusCode != 503 || res.Header.Get("X-Seine-Unsent") != "" || !strings.HasPrefix(res.Header.Get("X-Seine-Cause"), "upstream connect: connection refused") {
			t.Errorf("%v: %s %q %v", protocol, res.Status, body, res.Header)
		}
		p.client.retriesAre(t, "retried", 2)
		p.client.retriesAre(t, "exhausted", 1)
	}
}

// TestWhoHandsBackIsAvoided: a sidecar whose application is gone answers faster than
// any application does, and is not chosen for that.
func TestWhoHandsBackIsAvoided(t *testing.T) {
	const requests = 200
	for _, protocol := range []seinev1.Protocol{seinev1.Protocol_PROTOCOL_HTTP, seinev1.Protocol_PROTOCOL_HTTP2} {
		ca := newAuthority(t)
		sidecar := func(app netip.AddrPort) netip.AddrPort {
			return start(t, Options{Loops: 1, Forwards: []Forward{{Listen: localhost(), App: app, Port: 8080}}, Factory: ca.factory(t, billingID)},
				(&tableOf{t: t, self: self(t, "billing", billingID, seinev1.MtlsMode_MTLS_STRICT, &seinev1.InboundPort{
					Port: 8080, Protocol: protocol, Mtls: seinev1.MtlsMode_MTLS_STRICT, Service: billing, ServiceName: "billing", ServiceNamespace: "default", ServicePort: 8080,
				})}).build()).Addresses()[0]
		}
		works := app2(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
		table := billingTable(t, []*seinev1.HttpRule{toBilling()},
			endpoint("1", sidecar(nobody(t)), workload("billing", billingID)), endpoint("2", sidecar(works), workload("billing", billingID)))
		table.service[0].Protocol, table.service[0].Policy = protocol, &seinev1.TrafficPolicy{}
		client := start(t, Options{Loops: 1, Explicit: localhost(), Factory: ca.factory(t, frontendID)}, table.build())
		c := dial(t, client.Addresses()[0].String())
		for range requests {
			if res, body := c.get("/"); res.StatusCode != 200 {
				t.Fatalf("%v: %s %q", protocol, res.Status, body)
			}
		}
		if n := client.retries.sequel[decide.Again].Value(); n > requests/5 {
			t.Errorf("%v: %d of %d requests went where no application was", protocol, n, requests)
		}
	}
}

// TestRetryPerhapsSent: an application that ends closes the connection on which its
// sidecar has just sent a request, and nobody listens any more. The client's sidecar
// sends it again if it is idempotent, and only then.
func TestRetryPerhapsSent(t *testing.T) {
	for method, retried := range map[string]uint64{"GET": 2, "POST": 0} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		ended := make(chan error, 1)
		go func() { // one answer, and then the end under the next request
			c, err := l.Accept()
			if err != nil {
				ended <- err
				return
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(10 * time.Second))
			r := bufio.NewReader(c)
			if _, err = http.ReadRequest(r); err == nil {
				_, err = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			}
			if err == nil {
				_, err = http.ReadRequest(r)
			}
			_ = l.Close()
			ended <- err
		}()
		p := startPair(t, netip.MustParseAddrPort(l.Addr().String()), nil, nil)
		d := dial(t, p.addr)
		if res, body := d.get("/"); res.StatusCode != 200 {
			t.Fatalf("%s %q", res.Status, body)
		}
		d.write("%s /pay HTTP/1.1\r\nHost: billing:8080\r\nContent-Length: 0\r\n\r\n", method)
		res, _ := d.response(method)
		must(t, <-ended)
		if res.StatusCode < 500 || res.Header.Get("X-Seine-Unsent") != "" {
			t.Errorf("%s: %s %v", method, res.Status, res.Header)
		}
		if n := p.client.retries.sequel[decide.Again].Value(); n != retried {
			t.Errorf("%s: sent again %d times, want %d", method, n, retried)
		}
	}
}
