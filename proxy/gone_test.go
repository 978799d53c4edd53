//go:build linux

package proxy

import (
	"net/http"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/proxy/loop"
)

// mute is an address that answers no SYN: a listener whose queue is full.
func mute(t *testing.T) netip.AddrPort {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { _ = syscall.Close(fd) })
	must(t, syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	must(t, syscall.Listen(fd, 0))
	at := loop.LocalAddr(fd)
	dial(t, at.String()) // the one that there is room for
	return at
}

// A request whose endpoint goes while it is being connected to is sent to
// another one, long before the connect timeout.
func TestEndpointGoneWhileConnecting(t *testing.T) {
	there := app(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) })
	of := func(id string, at netip.AddrPort) *tableOf {
		b := billingTable(t, []*seinev1.HttpRule{toBilling()}, endpoint(id, at, nil))
		b.service[0].Policy = &seinev1.TrafficPolicy{ConnectTimeout: durationpb.New(time.Hour)}
		return b
	}
	p := start(t, Options{Loops: 1, Explicit: localhost()}, of("1", mute(t)).build())
	c := p.dial(t)
	c.write("GET http://billing:8080/ HTTP/1.1\r\nHost: billing:8080\r\n\r\n")
	eventually(t, "the connection is begun", func() bool {
		n := make(chan int, 1)
		w := p.workers[0]
		w.loop.Post(func() { n <- len(w.dialling) })
		return <-n == 1
	})
	p.tables.publish(of("2", there).build())
	if res, body := c.response("GET"); res.StatusCode != 204 {
		t.Fatal(res.Status, body)
	}
}
