package mesh

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
)

// Snapshot is one immutable picture of the mesh with its indexes. It may be
// read from any number of goroutines.
type Snapshot struct {
	Parts
	Generation uint64
	// NodeHints: some Backends are meant for callers of one node, so that two
	// callers that differ in nothing but their node may have different endpoints.
	NodeHints bool

	// Delta says what is other than in the Snapshot that this one was patched from;
	// nil: it was made anew.
	Delta *Delta

	*resourceIndex
	byKey      layered[string, *Workload]
	byIP       layered[netip.Addr, *Workload]
	members    layered[*Service, []*Workload]
	servicesOf layered[*Workload, []*Service]
	irregular  layered[*Service, struct{}]   // see odd
	contested  layered[netip.Addr, struct{}] // that several workloads have had
	strays     []netip.Addr
}

// resourceIndex is what is known of everything but workloads. Snapshots that
// differ in workloads alone share it.
type resourceIndex struct {
	byHost    map[string][]*Service // exact hosts; several where namespaces or exportTo differ
	wildcards []*Service            // longest suffix first
	byAddress map[netip.Addr]*Service
	cidrs     []cidrService // longest prefix first

	virtual     hostIndex[*VirtualService]
	destination hostIndex[*DestinationRule]
	attached    map[string][]*GatewayRoute // by the host of a parent
	httpPorts   map[uint32]bool
	named       map[uint32][]*Service // by port: TLS, and no address to know them by
	byName      map[string]*Service   // Kubernetes' Services, by NAMESPACE/NAME
	byPair      map[label][]*Service  // by one pair of the selector
	order       map[*Service]int      // in Parts
	nodeLocal   bool                  // a service is
}

type cidrService struct {
	prefix  netip.Prefix
	service *Service
}

// New indexes parts. The parts belong to the Snapshot from then on.
func New(generation uint64, parts Parts) *Snapshot {
	s := &Snapshot{Parts: parts, Generation: generation, resourceIndex: &resourceIndex{byHost: map[string][]*Service{}, byAddress: map[netip.Addr]*Service{}}}
	for _, svc := range parts.Services {
		if strings.HasPrefix(svc.Host, "*") {
			s.wildcards = append(s.wildcards, svc)
		} else {
			s.byHost[svc.Host] = append(s.byHost[svc.Host], svc)
		}
		for _, a := range slices.Concat(svc.Addresses, svc.Allocated) {
			if _, taken := s.byAddress[a]; !taken {
				s.byAddress[a] = svc
			}
		}
		for _, c := range svc.CIDRs {
			s.cidrs = append(s.cidrs, cidrService{c, svc})
		}
	}
	slices.SortStableFunc(s.wildcards, func(a, b *Service) int { return cmp.Compare(len(b.Host), len(a.Host)) })
	slices.SortStableFunc(s.cidrs, func(a, b cidrService) int { return cmp.Compare(b.prefix.Bits(), a.prefix.Bits()) })
	s.indexRules()
	s.indexSelectors()
	s.indexWorkloads()
	return s
}

// label is one pair of a workload's labels.
type label struct{ namespace, key, value string }

// indexSelectors finds services by one pair of their selectors, so that a workload
// is held against few of them.
func (s *Snapshot) indexSelectors() {
	s.byName, s.byPair = make(map[string]*Service, len(s.Services)), map[label][]*Service{}
	s.order = make(map[*Service]int, len(s.Services))
	uses := map[label]int{}
	for i, svc := range s.Services {
		s.order[svc] = i
		s.nodeLocal = s.nodeLocal || svc.NodeLocal
		if svc.Kind == "Service" {
			s.byName[svc.Namespace+"/"+svc.Name] = svc
		}
		for k, v := range svc.Selector {
			uses[label{svc.Namespace, k, v}]++
		}
	}
	for _, svc := range s.Services {
		var rarest label
		for k, v := range svc.Selector {
			l := label{svc.Namespace, k, v}
			if n := uses[l]; rarest.key == "" || n < uses[rarest] || n == uses[rarest] && k < rarest.key {
				rarest = l
			}
		}
		if len(svc.Selector) > 0 {
			s.byPair[rarest] = append(s.byPair[rarest], svc)
		}
	}
}

// selecting are the services that select w, in the order of Services.
func (s *Snapshot) selecting(w *Workload) (out []*Service) {
	for k, v := range w.Labels {
		for _, svc := range s.byPair[label{w.Namespace, k, v}] {
			if Selects(svc.Selector, w.Labels) {
				out = append(out, svc)
			}
		}
	}
	slices.SortFunc(out, func(a, b *Service) int { return cmp.Compare(s.order[a], s.order[b]) })
	return out
}

// indexWorkloads finds out who is who, and which service selects whom.
func (s *Snapshot) indexWorkloads() {
	byKey, byIP := make(map[string]*Workload, len(s.Workloads)), make(map[netip.Addr]*Workload, len(s.Workloads))
	members, servicesOf := make(map[*Service][]*Workload, len(s.Services)), make(map[*Workload][]*Service, len(s.Workloads))
	irregular, contested := map[*Service]struct{}{}, map[netip.Addr]struct{}{}
	s.NodeHints = s.nodeLocal
	for _, list := range s.Backends {
		for i := range list {
			s.NodeHints = s.NodeHints || len(list[i].Nodes) > 0
		}
	}
	for _, w := range s.Workloads {
		byKey[w.Key()] = w
		if !w.HostNetwork {
			for _, a := range w.Addresses {
				if _, twice := byIP[a]; twice {
					contested[a] = struct{}{}
				}
				byIP[a] = w
			}
		}
		if list := s.selecting(w); len(list) > 0 {
			servicesOf[w] = list
			for _, svc := range list {
				members[svc] = append(members[svc], w)
			}
		}
	}
	s.byKey, s.byIP = layered[string, *Workload]{base: byKey}, layered[netip.Addr, *Workload]{base: byIP}
	s.members, s.servicesOf = layered[*Service, []*Workload]{base: members}, layered[*Workload, []*Service]{base: servicesOf}
	s.contested = layered[netip.Addr, struct{}]{base: contested}
	for _, svc := range s.Services {
		if s.odd(svc) {
			irregular[svc] = struct{}{}
		}
	}
	s.irregular = layered[*Service, struct{}]{base: irregular}
	s.strays = straysOf(s)
}

// odd reports whether the endpoints of svc depend on more than its members and its
// backends: on whoever has an address that is written there, or on a pod that it
// does not select.
func (s *Snapshot) odd(svc *Service) bool {
	if len(svc.Endpoints) > 0 {
		return true
	}
	if svc.Kind != "Service" {
		return false
	}
	list := s.Backends[svc.Namespace+"/"+svc.Name]
	if len(list) == 0 {
		return false
	}
	members := s.Members(svc)
	known := make(map[string]struct{}, len(members))
	for _, m := range members {
		known[m.Key()] = struct{}{}
	}
	for i := range list {
		if _, ok := known[list[i].Workload]; !ok {
			return true
		}
	}
	return false
}

// straysOf are the addresses, sorted, that lie outside of the mesh's own prefixes.
func straysOf(s *Snapshot) (out []netip.Addr) {
	add := func(addresses []netip.Addr) {
		for _, a := range addresses {
			if !s.Local(a) {
				out = append(out, a)
			}
		}
	}
	for _, w := range s.Workloads {
		add(w.Addresses)
	}
	for _, svc := range s.Services {
		if svc.Kind == "Service" {
			add(svc.Addresses)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

// Selects reports whether labels hold every pair of selector.
func Selects(selector, labels map[string]string) bool {
	for k, v := range selector {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// Visible reports whether something of namespace owner with that exportTo can
// be seen from namespace from.
func Visible(exportTo []string, owner, from string) bool {
	if len(exportTo) == 0 {
		return true
	}
	for _, e := range exportTo {
		if e == "*" || e == from || (e == "." && owner == from) {
			return true
		}
	}
	return false
}

// Service returns the service of that exact or wildcard host that namespace
// from sees, its own namespace's first; nil if there is none.
func (s *Snapshot) Service(host, from string) *Service {
	var found *Service
	for _, svc := range s.byHost[host] {
		if !Visible(svc.ExportTo, svc.Namespace, from) {
			continue
		}
		if svc.Namespace == from {
			return svc
		}
		if found == nil {
			found = svc
		}
	}
	if found != nil {
		return found
	}
	for _, svc := range s.wildcards {
		if strings.HasSuffix(host, svc.Host[1:]) && Visible(svc.ExportTo, svc.Namespace, from) {
			return svc
		}
	}
	return nil
}

// ServiceAt returns the service whose virtual address or CIDR holds a.
func (s *Snapshot) ServiceAt(a netip.Addr) *Service {
	if svc := s.byAddress[a]; svc != nil {
		return svc
	}
	for _, c := range s.cidrs {
		if c.prefix.Contains(a) {
			return c.service
		}
	}
	return nil
}

// Workload returns the instance NAMESPACE/INSTANCE, or nil.
func (s *Snapshot) Workload(key string) *Workload { return s.byKey.get(key) }

// WorkloadAt returns the instance with that address, or nil.
func (s *Snapshot) WorkloadAt(a netip.Addr) *Workload { return s.byIP.get(a) }

// Members are the workloads that a service selects, in no order.
func (s *Snapshot) Members(svc *Service) []*Workload { return s.members.get(svc) }

// ServicesOf are the services that select w.
func (s *Snapshot) ServicesOf(w *Workload) []*Service { return s.servicesOf.get(w) }

// Strays are the addresses of workloads and Kubernetes' Services that lie outside of
// the mesh's own prefixes, sorted.
func (s *Snapshot) Strays() []netip.Addr { return s.strays }

// Local reports whether a lies in one of the mesh's own prefixes.
func (s *Snapshot) Local(a netip.Addr) bool {
	for _, p := range s.Settings.Prefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// Target is the port on which w serves p; false if w has no such named port.
func (p Port) TargetOn(w *Workload) (uint32, bool) {
	if p.TargetName != "" {
		n, ok := w.Ports[p.TargetName]
		return n, ok
	}
	if p.Target != 0 {
		return p.Target, true
	}
	return p.Number, true
}

// SPIFFE is the identity of a service account.
func SPIFFE(trustDomain, namespace, serviceAccount string) string {
	return "spiffe://" + trustDomain + "/ns/" + namespace + "/sa/" + serviceAccount
}
