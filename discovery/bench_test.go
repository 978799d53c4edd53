package discovery

import (
	"testing"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

// One endpoint of 10,000 changes: from Publish to the proxy having the one
// resource, with what the fake plan costs left in.
func BenchmarkOneEndpointOfTenThousand(b *testing.B) {
	bench := newBench(b, Limits{})
	key := "big.default.svc.cluster.local/80"
	at := func(g uint64) *content {
		c := &content{endpoints: map[string][]*seinev1.Endpoint{key: someEndpoints(10_000)}}
		c.endpoints[key][g%10_000].Weight = uint32(g)
		return c
	}
	bench.publish(1, at(1))
	c := bench.frontend()
	c.subscribe(seinev1.TypeEndpoint, key+"/*")
	c.take(seinev1.TypeEndpoint)
	g := uint64(1)
	b.ReportAllocs()
	for b.Loop() {
		g++
		bench.publish(g, at(g))
		m := c.recv()
		c.ack(m)
		if len(m.Resources) != 2 { // the one that changed and the one that changed back
			b.Fatalf("%d resources", len(m.Resources))
		}
	}
}
