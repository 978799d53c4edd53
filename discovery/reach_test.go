package discovery

import (
	"strings"
	"sync/atomic"
	"testing"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/mesh"
)

// TestOnlyWhatIsReached: what a change does not reach is not computed again, neither
// for who has it nor for who comes; and who is told of two changes at once, or of one
// that nobody can tell, is told all that is other.
func TestOnlyWhatIsReached(t *testing.T) {
	b := newBench(t, Limits{})
	var computed, tea atomic.Int32
	was := b.server.opt.Plan.Endpoints
	b.server.opt.Plan.Endpoints = func(s *mesh.Snapshot, w *mesh.Workload, key string) []*seinev1.Endpoint {
		computed.Add(1)
		if strings.HasPrefix(key, "tea") {
			tea.Add(1)
		}
		return was(s, w, key)
	}
	b.server.opt.Plan.Reached = func(_ *mesh.Snapshot, d *mesh.Delta, _ *mesh.Workload, _, name string) bool {
		host, _, _ := strings.Cut(name, "/")
		_, is := d.Services[host]
		return is
	}
	at := func(tea, coffee uint32) *content {
		c := &content{endpoints: map[string][]*seinev1.Endpoint{"tea/80": someEndpoints(2), "coffee/80": someEndpoints(2)}}
		c.endpoints["tea/80"][0].Weight, c.endpoints["coffee/80"][0].Weight = tea, coffee
		return c
	}
	publish := func(g uint64, c *content, touched ...string) *mesh.Snapshot {
		b.world.mu.Lock()
		b.world.gens[g] = c
		b.world.mu.Unlock()
		s := mesh.New(g, mesh.Parts{Settings: mesh.DefaultSettings(), Workloads: workloads()})
		if touched != nil {
			s.Delta = &mesh.Delta{Base: g - 1, Services: map[string]struct{}{}}
			for _, host := range touched {
				s.Delta.Services[host] = struct{}{}
			}
		}
		b.server.Publish(s)
		return s
	}
	publish(1, at(1, 1))
	c := b.frontend()
	c.subscribe(seinev1.TypeEndpoint, "tea/80/*", "coffee/80/*")
	c.take(seinev1.TypeEndpoint)
	b.until("all", func(p Proxy) bool { return p.Generation == 1 })

	before := computed.Load()
	publish(2, at(2, 1), "tea")
	if got, _ := c.take(seinev1.TypeEndpoint); len(got) != 1 {
		t.Errorf("sent %v", got)
	}
	b.until("the first change", func(p Proxy) bool { return p.Generation == 2 })
	if n := computed.Load() - before; n != 1 {
		t.Errorf("%d collections were computed for a change of one", n)
	}
	publish(3, at(2, 2), "coffee")
	c.take(seinev1.TypeEndpoint)
	b.until("the second change", func(p Proxy) bool { return p.Generation == 3 })
	before = tea.Load()
	publish(4, at(3, 3), "tea") // of what is said alone
	if got, _ := c.take(seinev1.TypeEndpoint); len(got) != 1 {
		t.Errorf("sent %v", got)
	}
	if tea.Load() != before+1 {
		t.Errorf("tea was computed %d times", tea.Load()-before)
	}
	// A change that nobody can tell: everything is looked at, and coffee found.
	publish(5, at(3, 3))
	if got, _ := c.take(seinev1.TypeEndpoint); len(got) != 1 || got["coffee/80/default/b-00000"] == "" {
		t.Errorf("sent %v", got)
	}
	b.until("that one", func(p Proxy) bool { return p.Generation == 5 })
	// Two at once: both.
	publish(6, at(4, 3), "tea")
	publish(7, at(4, 4), "coffee")
	got := map[string]string{}
	for len(got) < 2 {
		some, _ := c.take(seinev1.TypeEndpoint)
		for k, v := range some {
			got[k] = v
		}
	}
	b.until("both", func(p Proxy) bool { return p.Generation == 7 })
	// One whose base nobody saw.
	s := publish(9, at(5, 5), "tea")
	if s.Delta.Base == 7 {
		t.Fatal("the base is known")
	}
	if got, _ := c.take(seinev1.TypeEndpoint); len(got) != 2 {
		t.Errorf("sent %v", got)
	}
}
