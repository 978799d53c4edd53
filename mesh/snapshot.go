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

	*resourceIndex
	workloads map[string]*Workload
	byIP      map[netip.Addr]*Workload
	members   map[*Service][]*Workload
	services  map[*Workload][]*Service
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
		for _, a := range svc.Addresses {
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
	s.indexWorkloads()
	return s
}

// With is s with other workloads and backends: services, routes and policies,
// and what is known about them, are shared with s.
func (s *Snapshot) With(generation uint64, workloads []*Workload, backends map[string][]Backend) *Snapshot {
	out := &Snapshot{Parts: s.Parts, Generation: generation, resourceIndex: s.resourceIndex}
	out.Workloads, out.Backends = workloads, backends
	out.indexWorkloads()
	return out
}

// label is one pair of a workload's labels.
type label struct{ namespace, key, value string }

// indexWorkloads finds out who is who, and which service selects whom. A
// service looks only at the workloads that have the rarest pair of its selector.
func (s *Snapshot) indexWorkloads() {
	s.workloads = make(map[string]*Workload, len(s.Workloads))
	s.byIP = make(map[netip.Addr]*Workload, len(s.Workloads))
	s.members = make(map[*Service][]*Workload, len(s.Services))
	s.services = make(map[*Workload][]*Service, len(s.Workloads))
	for _, list := range s.Backends {
		for i := range list {
			s.NodeHints = s.NodeHints || len(list[i].Nodes) > 0
		}
	}
	wanted := map[label][]*Workload{}
	for _, svc := range s.Services {
		for k, v := range svc.Selector {
			wanted[label{svc.Namespace, k, v}] = nil
		}
	}
	for _, w := range s.Workloads {
		s.workloads[w.Key()] = w
		if !w.HostNetwork {
			for _, a := range w.Addresses {
				s.byIP[a] = w
			}
		}
		for k, v := range w.Labels {
			l := label{w.Namespace, k, v}
			if list, ok := wanted[l]; ok {
				wanted[l] = append(list, w)
			}
		}
	}
	for _, svc := range s.Services {
		var among []*Workload
		first := true
		for k, v := range svc.Selector {
			if list := wanted[label{svc.Namespace, k, v}]; first || len(list) < len(among) {
				among, first = list, false
			}
		}
		for _, w := range among {
			if Selects(svc.Selector, w.Labels) {
				s.members[svc] = append(s.members[svc], w)
				s.services[w] = append(s.services[w], svc)
			}
		}
	}
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
func (s *Snapshot) Workload(key string) *Workload { return s.workloads[key] }

// WorkloadAt returns the instance with that address, or nil.
func (s *Snapshot) WorkloadAt(a netip.Addr) *Workload { return s.byIP[a] }

// Members are the workloads that a service selects.
func (s *Snapshot) Members(svc *Service) []*Workload { return s.members[svc] }

// ServicesOf are the services that select w.
func (s *Snapshot) ServicesOf(w *Workload) []*Service { return s.services[w] }

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
