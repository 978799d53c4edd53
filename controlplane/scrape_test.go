package controlplane

import (
	"strconv"
	"sync"
	"testing"

	"github.com/seinemesh/seine/mesh"
)

// TestProxiesLeaveWhileOthersAsk: the API reads why proxies cannot be scraped
// while rounds forget those that have left. For the race detector.
func TestProxiesLeaveWhileOthersAsk(t *testing.T) {
	var list comingAndGoing
	s := newScraper(&list, 1, quiet) // nobody listens there
	stop, asked := make(chan struct{}), sync.WaitGroup{}
	asked.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				_ = s.why("default/p0")
			}
		}
	})
	for n := range 20 {
		list.set(n)
		s.round(t.Context())
	}
	close(stop)
	asked.Wait()
	if len(s.down) != 1 || s.why("default/p19") == "" {
		t.Errorf("of the proxies that were there %d are remembered: %v", len(s.down), s.down)
	}
}

// comingAndGoing has one proxy, another one each round.
type comingAndGoing struct {
	fakeConnected
	id string
}

func (c *comingAndGoing) set(n int) {
	name := "p" + strconv.Itoa(n)
	c.id = "default/" + name
	c.snap = mesh.New(1, mesh.Parts{Workloads: []*mesh.Workload{{Ref: mesh.Ref{Namespace: "default", Name: name}, Instance: name, Addresses: loopback}}})
}

func (c *comingAndGoing) Connected() []string { return []string{c.id} }
