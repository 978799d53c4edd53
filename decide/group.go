package decide

import (
	"math/bits"
	"net/netip"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

// maxOrder bounds the rotation of weighted round robin.
const maxOrder = 1024

// balancer is how an endpoint is chosen.
type balancer uint8

const (
	peakEWMA balancer = iota // docs/decisions/007
	roundRobin
	leastRequest
	random
	hashed
)

// group is a part of a cluster's endpoints that gets a share of its own:
// those of one priority, or of one locality where shares are written for them.
type group struct {
	level   int    // priority: 0 before 1
	weight  uint64 // share among the groups of its level
	members []int32
	set     set    // when every member may be picked
	table   lookup // nil unless the cluster hashes
}

// set is what may be picked of a group at a moment.
type set struct {
	members []int32  // indexes of Cluster.Endpoints; nil: all, in order
	n       int      // how many
	upto    []uint64 // cumulative weights; nil if all are the same
	order   []int32  // one turn of weighted round robin; nil if all are the same or the turn is long
}

// at is the endpoint at position p of the set.
func (s *set) at(p int) int {
	if s.members == nil {
		return p
	}
	return int(s.members[p])
}

// drawn is a position, by weight.
func (s *set) drawn(draw uint64) int {
	if s.upto == nil {
		at, _ := bits.Mul64(draw, uint64(s.n))
		return int(at)
	}
	at, _ := bits.Mul64(draw, s.upto[len(s.upto)-1])
	lo, hi := 0, len(s.upto)-1
	for lo < hi {
		if mid := (lo + hi) / 2; at < s.upto[mid] {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	return lo
}

// balance prepares everything about balancing that can be known before a
// request comes. Hash tables are taken from old where they would be the same.
func (c *Cluster) balance(old *Cluster) {
	switch c.Policy.Balancer {
	case seinev1.TrafficPolicy_ROUND_ROBIN:
		c.kind = roundRobin
	case seinev1.TrafficPolicy_LEAST_REQUEST:
		c.kind = leastRequest
	case seinev1.TrafficPolicy_RANDOM:
		c.kind = random
	case seinev1.TrafficPolicy_PASSTHROUGH:
		c.kind = random
		c.dialed = make(map[netip.AddrPort]int32, len(c.Endpoints))
		for i, e := range c.Endpoints {
			c.dialed[e.Addr] = int32(i)
		}
	}
	if h := c.Policy.Hash; h != nil {
		c.kind, c.hash = hashed, newHashKey(h)
	}
	if c.kind <= leastRequest {
		c.warm = newWarmup(c.Policy.Warmup)
	}
	var sum float64
	for _, e := range c.Endpoints {
		sum += float64(e.Weight)
	}
	c.weight = sum / float64(max(len(c.Endpoints), 1))
	c.groups = c.split()
	for i := range c.groups {
		g := &c.groups[i]
		g.set = set{members: g.members, n: len(g.members)}
		if g.members == nil {
			g.set.n = len(c.Endpoints)
		}
		c.weigh(&g.set)
		if c.kind == hashed {
			g.table = c.buildTable(g)
		}
	}
}

// weigh prepares weighted picks; nothing is needed where all weights are equal.
func (c *Cluster) weigh(s *set) {
	same := true
	for p := range s.n {
		same = same && c.Endpoints[s.at(p)].Weight == c.Endpoints[s.at(0)].Weight
	}
	s.upto, s.order = s.upto[:0], nil
	if same {
		s.upto = nil
		return
	}
	var total uint64
	for p := range s.n {
		total += uint64(c.Endpoints[s.at(p)].Weight)
		s.upto = append(s.upto, total)
	}
	if c.kind == roundRobin {
		s.order = rotation(c.Endpoints, s, total)
	}
}

// rotation is one turn of smooth weighted round robin (nginx's), as positions
// of the set: the heaviest are spread over the turn, not in runs. Nil if the
// turn were too long: then the pick is drawn.
func rotation(eps []*Endpoint, s *set, total uint64) []int32 {
	var div uint64
	for p := range s.n {
		div = gcd(div, uint64(eps[s.at(p)].Weight))
	}
	if total/div > maxOrder {
		return nil
	}
	turn := int64(total / div)
	credit := make([]int64, s.n)
	order := make([]int32, 0, turn)
	for range turn {
		best := 0
		for p := range s.n {
			credit[p] += int64(uint64(eps[s.at(p)].Weight) / div)
			if credit[p] > credit[best] {
				best = p
			}
		}
		credit[best] -= turn
		order = append(order, int32(best))
	}
	return order
}

func gcd(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
