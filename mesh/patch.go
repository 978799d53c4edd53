package mesh

import (
	"maps"
	"net/netip"
	"slices"
)

// Change is one workload before and after; nil: it is not there.
type Change struct{ Old, New *Workload }

// Patch is how what runs differs from a Snapshot's.
type Patch struct {
	Workloads []*Workload // all that there are now
	Changed   []Change    // of these, in which Old is of the Snapshot
	Backends  map[string][]Backend
	Listed    []string // the keys under which Backends differs
}

// Delta is what a Snapshot has other than the one that it was patched from.
type Delta struct {
	Base      uint64                  // generation of that one
	Services  map[string]struct{}     // hosts whose members or backends may be others
	Workloads map[string]struct{}     // keys
	Instances map[string]struct{}     // names of these in their namespaces
	Addresses map[netip.Addr]struct{} // that they had or have
	Strays    bool                    // Snapshot.Strays are others
}

// Then is d and then next: what both have changed. Neither is written.
func (d *Delta) Then(next *Delta) *Delta {
	out := &Delta{
		Base: d.Base, Services: maps.Clone(d.Services), Workloads: maps.Clone(d.Workloads),
		Instances: maps.Clone(d.Instances), Addresses: maps.Clone(d.Addresses), Strays: d.Strays || next.Strays,
	}
	maps.Copy(out.Services, next.Services)
	maps.Copy(out.Workloads, next.Workloads)
	maps.Copy(out.Instances, next.Instances)
	maps.Copy(out.Addresses, next.Addresses)
	return out
}

// Patched is s with other workloads and backends. What did not change is shared
// with s, and costs nothing: services, routes and policies, and what is known of
// other workloads.
func (s *Snapshot) Patched(generation uint64, p Patch) *Snapshot {
	out := *s
	out.Generation, out.Workloads, out.Backends = generation, p.Workloads, p.Backends
	d := &Delta{
		Base: s.Generation, Services: map[string]struct{}{}, Workloads: map[string]struct{}{}, Instances: map[string]struct{}{}, Addresses: map[netip.Addr]struct{}{},
	}
	out.Delta = d
	x := patching{s: s, out: &out, members: map[*Service][]*Workload{}, touched: map[*Service]struct{}{}}
	x.workloads(p.Changed)
	if len(p.Changed) > 0 {
		for svc := range s.irregular.keys() {
			x.touched[svc] = struct{}{}
		}
	}
	for _, key := range p.Listed {
		for i := range p.Backends[key] {
			out.NodeHints = out.NodeHints || len(p.Backends[key][i].Nodes) > 0
		}
		if svc := s.byName[key]; svc != nil {
			x.touched[svc] = struct{}{}
		}
	}
	x.services()
	return &out
}

// patching is the work of one Patched.
type patching struct {
	s, out  *Snapshot
	members map[*Service][]*Workload // of those whose are others
	touched map[*Service]struct{}
}

// workloads takes the changes into the indexes.
func (x *patching) workloads(changes []Change) {
	s, d := x.s, x.out.Delta
	keys, ips := map[string]laid[*Workload]{}, map[netip.Addr]laid[*Workload]{}
	selecting := map[*Workload]laid[[]*Service]{}
	contested := map[netip.Addr]laid[struct{}]{}
	strays := false
	holder := func(a netip.Addr) *Workload {
		if o, ok := ips[a]; ok {
			return o.v
		}
		return s.byIP.get(a)
	}
	for _, c := range changes {
		if w := c.Old; w != nil {
			keys[w.Key()] = laid[*Workload]{gone: true}
			selecting[w] = laid[[]*Service]{gone: true}
			for _, a := range w.Addresses {
				if holder(a) == w {
					ips[a] = laid[*Workload]{gone: true}
				}
			}
			for _, svc := range s.ServicesOf(w) {
				x.drop(svc, w)
			}
		}
	}
	for _, c := range changes {
		if w := c.New; w != nil {
			keys[w.Key()] = laid[*Workload]{v: w}
			list := s.selecting(w)
			selecting[w] = laid[[]*Service]{v: list, gone: len(list) == 0}
			for _, svc := range list {
				x.add(svc, w)
			}
			if !w.HostNetwork {
				for _, a := range w.Addresses {
					if holder(a) != nil {
						contested[a] = laid[struct{}]{}
					}
					ips[a] = laid[*Workload]{v: w}
				}
			}
		}
		for _, w := range []*Workload{c.Old, c.New} {
			if w == nil {
				continue
			}
			d.Workloads[w.Key()], d.Instances[w.Instance] = struct{}{}, struct{}{}
			for _, a := range w.Addresses {
				d.Addresses[a] = struct{}{}
				strays = strays || !s.Local(a)
			}
		}
	}
	// Of several that have an address the last one has it: looked up among all.
	for a := range ips {
		if _, now := contested[a]; now || s.contested.has(a) {
			for _, w := range x.out.Workloads {
				if !w.HostNetwork && slices.Contains(w.Addresses, a) {
					ips[a] = laid[*Workload]{v: w}
				}
			}
		}
	}
	x.out.byKey, x.out.byIP = s.byKey.with(keys), s.byIP.with(ips)
	x.out.servicesOf, x.out.contested = s.servicesOf.with(selecting), s.contested.with(contested)
	if strays {
		x.out.strays = straysOf(x.out)
		d.Strays = !slices.Equal(x.out.strays, s.strays)
	}
}

// list is the members of svc, to be written.
func (x *patching) list(svc *Service) []*Workload {
	list, ok := x.members[svc]
	if !ok {
		list = slices.Clone(x.s.Members(svc))
	}
	x.touched[svc] = struct{}{}
	return list
}

func (x *patching) drop(svc *Service, w *Workload) {
	x.members[svc] = slices.DeleteFunc(x.list(svc), func(m *Workload) bool { return m == w })
}

func (x *patching) add(svc *Service, w *Workload) { x.members[svc] = append(x.list(svc), w) }

// services takes the members in, and what is to be said of each service that was touched.
func (x *patching) services() {
	members := make(map[*Service]laid[[]*Workload], len(x.members))
	for svc, list := range x.members {
		members[svc] = laid[[]*Workload]{v: list, gone: len(list) == 0}
	}
	x.out.members = x.s.members.with(members)
	irregular := map[*Service]laid[struct{}]{}
	for svc := range x.touched {
		x.out.Delta.Services[svc.Host] = struct{}{}
		is := x.out.odd(svc)
		if is != x.s.irregular.has(svc) {
			irregular[svc] = laid[struct{}]{gone: !is}
		}
	}
	x.out.irregular = x.s.irregular.with(irregular)
}
