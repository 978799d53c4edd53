package decide

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

// split sorts the endpoints into groups, by localityLbSetting. The rules are
// those of Istio's loadbalancer.ApplyLocalityLoadBalancer: where shares are
// written for the caller's locality they hold; otherwise, and only together
// with outlierDetection, endpoints further away wait in reserve.
func (c *Cluster) split() []group {
	l := c.Policy.Locality
	one := []group{{weight: 1}}
	switch {
	case l == nil || l.Disabled:
		return one
	case len(l.Distribute) > 0:
		for _, d := range l.Distribute {
			if within(l.Caller, d.From) {
				return c.distribute(d)
			}
		}
		return one
	case !l.FailoverActive:
		return one
	}
	level := make([]int, len(c.Endpoints))
	for i, e := range c.Endpoints {
		if len(l.FailoverPriority) > 0 {
			level[i] = byLabels(l, e)
		} else {
			level[i] = byPlace(l, e.Proto.Locality)
		}
	}
	used := slices.Compact(slices.Sorted(slices.Values(level)))
	if len(used) < 2 {
		return one
	}
	out := make([]group, len(used)) // without gaps
	for k := range out {
		out[k] = group{level: k, weight: 1}
	}
	for i, l := range level {
		k, _ := slices.BinarySearch(used, l)
		out[k].members = append(out[k].members, int32(i))
	}
	return out
}

// distribute gives each locality the share that is written for it; those that
// none is written for get nothing.
func (c *Cluster) distribute(d *seinev1.Locality_Distribute) []group {
	byName := map[string][]int32{}
	for i, e := range c.Endpoints {
		byName[e.Proto.Locality] = append(byName[e.Proto.Locality], int32(i))
	}
	left := slices.Sorted(maps.Keys(byName))
	sum := func(name string) (n uint64) {
		for _, i := range byName[name] {
			n += uint64(c.Endpoints[i].Weight)
		}
		return n
	}
	var out []group
	// the most specific first, so that the outcome is always the same
	to := slices.SortedFunc(maps.Keys(d.To), func(a, b string) int {
		return cmp.Or(cmp.Compare(strings.Count(b, "/"), strings.Count(a, "/")), cmp.Compare(strings.Count(a, "*"), strings.Count(b, "*")), cmp.Compare(a, b))
	})
	for _, place := range to {
		var total uint64
		var take, keep []string
		for _, name := range left {
			if within(name, place) {
				take = append(take, name)
				total += sum(name)
			} else {
				keep = append(keep, name)
			}
		}
		left = keep
		for _, name := range take {
			w := sum(name) * uint64(d.To[place])
			if w = (w + total - 1) / total; w > 0 {
				out = append(out, group{weight: w, members: byName[name]})
			}
		}
	}
	if len(out) == 0 {
		return []group{{weight: 1, members: []int32{}}}
	}
	return out
}

// Tier is a group of endpoints as localityLbSetting makes them.
type Tier struct {
	Level      int    // 0 is used first, the others are in reserve
	Weight, Of uint64 // share among those of its level
	Endpoints  []*Endpoint
}

// Tiers are the groups of the cluster's endpoints: one unless localityLbSetting
// says otherwise.
func (c *Cluster) Tiers() []Tier {
	var out []Tier
	for i := range c.groups {
		g := &c.groups[i]
		t := Tier{Level: g.level, Weight: g.weight}
		for p := range g.set.n {
			t.Endpoints = append(t.Endpoints, c.Endpoints[g.set.at(p)])
		}
		for _, o := range c.groups {
			if o.level == g.level {
				t.Of += o.weight
			}
		}
		out = append(out, t)
	}
	return out
}

// within reports whether a locality is meant by a rule's "region/zone/subzone",
// in which "*" and what is left out mean any (Istio's LocalityMatch).
func within(locality, rule string) bool {
	for k := range 3 {
		want := part(rule, k)
		if want == "*" || want == "" && k > 0 {
			continue
		}
		if part(locality, k) != want {
			return false
		}
	}
	return true
}

// part is the k-th of region, zone and subzone.
func part(locality string, k int) string {
	for ; k > 0; k-- {
		_, rest, ok := strings.Cut(locality, "/")
		if !ok {
			return ""
		}
		locality = rest
	}
	first, _, _ := strings.Cut(locality, "/")
	return first
}

// byPlace is the priority of an endpoint by how near it is.
func byPlace(l *seinev1.Locality, place string) int {
	near := 0
	for near < 3 && part(place, near) == part(l.Caller, near) {
		near++
	}
	if near > 0 {
		return 3 - near
	}
	for _, f := range l.Failover {
		if f.From == part(l.Caller, 0) {
			if part(place, 0) != f.To {
				return 4
			}
			break
		}
	}
	return 3
}

// byLabels is the priority of an endpoint by how many of the labels, from the
// first on, are as they should be.
func byLabels(l *seinev1.Locality, e *Endpoint) int {
	for k, text := range l.FailoverPriority {
		name, want, written := strings.Cut(text, "=")
		if !written {
			want = l.CallerLabels[name]
			if v, ok := PlaceLabel(l.Caller, name); ok {
				want = v
			}
		}
		got, ok := PlaceLabel(e.Proto.Locality, name)
		if !ok {
			got = e.Proto.Labels[name]
			if name == "topology.istio.io/cluster" && got == "" {
				got = e.Proto.Workload.GetCluster()
			}
		}
		if got != want {
			return len(l.FailoverPriority) - k
		}
	}
	return 0
}

// PlaceLabel is the value of a label that stands for a part of the locality.
func PlaceLabel(locality, label string) (string, bool) {
	switch label {
	case "topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region":
		return part(locality, 0), true
	case "topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone":
		return part(locality, 1), true
	case "topology.istio.io/subzone":
		return part(locality, 2), true
	}
	return "", false
}

// Dialled is the endpoint that PASSTHROUGH means: the one at the address that
// was dialled; -1: that address is none of them (a service's, for which one is
// drawn, as kube-proxy would).
func (c *Cluster) Dialled(a netip.AddrPort) int {
	if c.dialed != nil {
		if i, ok := c.dialed[netip.AddrPortFrom(a.Addr().Unmap(), a.Port())]; ok {
			return int(i)
		}
	}
	return -1
}
