//go:build linux

package wire

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/summerwind/h2spec"
	"github.com/summerwind/h2spec/config"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/test/sidecars"
)

// application speaks HTTP/1.1 and HTTP/2 and answers everything.
func application(t *testing.T) netip.AddrPort {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	s := &http.Server{Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		fmt.Fprintln(w, "hello, world")
	})}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	return netip.MustParseAddrPort(l.Addr().String())
}

// TestH2spec: the suite passes in strict mode (which holds the other one) on the
// outbound and the inbound listener, whatever the application behind speaks.
func TestH2spec(t *testing.T) {
	for name, protocol := range map[string]seinev1.Protocol{"http2": seinev1.Protocol_PROTOCOL_HTTP2, "http": seinev1.Protocol_PROTOCOL_HTTP} {
		s := sidecars.Start(t, sidecars.Options{App: application(t), Protocol: protocol})
		for side, at := range map[string]string{"outbound": s.Outbound, "inbound": s.Inbound} {
			t.Run(side+" to "+name, func(t *testing.T) {
				a := netip.MustParseAddrPort(at)
				ok, err := h2spec.Run(&config.Config{
					Host: a.Addr().String(), Port: int(a.Port()), Path: "/", Timeout: 2 * time.Second, MaxHeaderLen: 4000, Strict: true,
				})
				if err != nil || !ok {
					t.Errorf("h2spec: %v, %v: see its report above", ok, err)
				}
			})
		}
	}
}
