//go:build linux

package proxy

import (
	"net/netip"
	"testing"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

// TestAddressDecides: Gateway API routes belong to the Service that is dialled,
// whatever the Host; without them the Host decides; and a connection that is
// kept alive notices when they come and go.
func TestAddressDecides(t *testing.T) {
	const dialled = "10.9.9.9:8080"
	respond := func(body string) []*seinev1.HttpRule {
		return []*seinev1.HttpRule{{DirectResponse: &seinev1.DirectResponse{Status: 200, Body: []byte(body)}}}
	}
	table := func(byAddress, byHost bool) *tableOf {
		b := billingTable(t, nil)
		b.answers = map[string]*seinev1.Answer{
			"addr/" + dialled: {Kind: seinev1.Answer_ROUTES, Protocol: seinev1.Protocol_PROTOCOL_HTTP, Http: respond("address"), ByAddress: byAddress},
			"http/8080/other": {Kind: seinev1.Answer_ROUTES, Protocol: seinev1.Protocol_PROTOCOL_HTTP, Http: respond("host"), ByAddress: byHost},
		}
		return b
	}
	p := startStream(t, Options{Loops: 1}, table(false, false), dialled)
	c := dial(t, p.Addresses()[0].String())
	for _, step := range []struct {
		byAddress, byHost bool
		want              string
	}{
		{false, false, "host"},
		{true, false, "address"},
		{true, true, "address"},
		{false, true, "address"}, // the Host names a Service with such routes, and another is dialled
		{false, false, "host"},
	} {
		next := table(step.byAddress, step.byHost).build()
		p.tables.publish(next)
		for range 2 {
			c.write("GET / HTTP/1.1\r\nHost: other\r\n\r\n")
			if _, body := c.response("GET"); body != step.want {
				t.Errorf("by address %v, by host %v: %q, want %q", step.byAddress, step.byHost, body, step.want)
			}
		}
	}
}

// TestDestinationThatIsNone: the share of a backend that is none gets its
// status, and the reason.
func TestDestinationThatIsNone(t *testing.T) {
	rule := &seinev1.HttpRule{Destinations: []*seinev1.Destination{{Status: 500, Reason: "there is no Service echo-v3", Weight: 1}}}
	p := start(t, Options{Loops: 1, Explicit: localhost()}, billingTable(t, []*seinev1.HttpRule{rule}, endpoint("1", netip.MustParseAddrPort("127.0.0.1:1"), nil)).build())
	c := dial(t, p.Addresses()[0].String())
	if res, _ := c.get("/"); res.StatusCode != 500 || res.Header.Get("X-Seine-Cause") != "there is no Service echo-v3" {
		t.Error(res.Status, res.Header)
	}
}
