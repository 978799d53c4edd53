package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/mesh"
)

// backends are the endpoints that the cluster's EndpointSlices list for a port
// of svc, as w is to use them, and the workloads among them. The rules are
// kube-proxy's (pkg/proxy/topology.go): what is ready is picked; where nothing
// is, what is draining but still serves; and beyond its rules, where nothing of
// that is either, what was ready until its node was not heard of: an API server
// that comes back after minutes takes all nodes for lost at first, and a server
// that is lost indeed is found out by the connection. Of these the ones that the topology
// hints mean for w, if every one has a hint and one of them is for w. Under
// internalTrafficPolicy Local only endpoints of w's node count at all, and hints do
// not. The others are kept aside, so that their own names still lead to them.
//
// A list that names a pod is believed only if that pod is known and has the
// address: a list that is older than its pod must not lend an address to an
// identity.
func backends(s *mesh.Snapshot, w *mesh.Workload, svc *mesh.Service, p *mesh.Port) ([]*seinev1.Endpoint, map[*mesh.Workload]bool) {
	if svc.Kind != "Service" || len(s.Backends) == 0 {
		return nil, nil
	}
	list := s.Backends[svc.Namespace+"/"+svc.Name]
	if len(list) == 0 {
		return nil, nil
	}
	near := func(b *mesh.Backend) bool { return !svc.NodeLocal || b.Node == w.Node && w.Node != "" }
	var ready, draining bool
	for i := range list {
		if near(&list[i]) {
			ready = ready || list[i].Ready
			draining = draining || list[i].Draining
		}
	}
	unheard := func(b *mesh.Backend) bool {
		if ready || draining || b.Workload == "" {
			return false
		}
		t := s.Workload(b.Workload)
		return t != nil && t.Unheard
	}
	picked := func(b *mesh.Backend) bool { return near(b) && (b.Ready || !ready && b.Draining || unheard(b)) }
	var meant func(*mesh.Backend) bool
	if !svc.NodeLocal {
		meant = hinted(list, picked, w)
	}
	var out []*seinev1.Endpoint
	listed := make(map[*mesh.Workload]bool, len(list))
	for i := range list {
		b := &list[i]
		port, ok := b.Ports[p.Name]
		if !ok || !ofFamily(svc, b.Address) {
			continue
		}
		t := s.Workload(b.Workload)
		switch {
		case b.Workload != "" && (t == nil || !slices.Contains(t.Addresses, b.Address)):
			continue
		case b.Workload == "":
			t = s.WorkloadAt(b.Address)
		}
		if t != nil && listed[t] {
			continue
		}
		var e *seinev1.Endpoint
		if t == nil {
			e = &seinev1.Endpoint{
				Id: fmt.Sprintf("%s:%d", b.Address, port), Port: port, Locality: b.Locality,
				Workload: labelled(s, svc.Namespace, "", nil),
			}
		} else {
			listed[t] = true
			e = member(s, t, b.Address, port)
		}
		e.Address = b.Address.String()
		e.Unhealthy, e.Aside = !picked(b), ""
		switch {
		case !near(b):
			e.Aside = "it is on another node (internalTrafficPolicy Local)"
		case b.Draining && !picked(b):
			e.Aside = "it is being taken down"
		case picked(b) && meant != nil && !meant(b):
			e.Unhealthy, e.Aside = true, "it is meant for callers of another zone or node (topology hints)"
		}
		out = append(out, e)
	}
	return out, listed
}

// ofFamily says whether a is of the family that svc's first address has: of a
// pod with two addresses one is enough.
func ofFamily(svc *mesh.Service, a netip.Addr) bool {
	return len(svc.Addresses) == 0 || svc.Addresses[0].Is4() == a.Is4()
}

// zoneOf is the zone of a locality REGION/ZONE/SUBZONE.
func zoneOf(locality string) string {
	_, rest, _ := strings.Cut(locality, "/")
	zone, _, _ := strings.Cut(rest, "/")
	return zone
}

// hinted tells what the topology hints mean for w; nil: they do not count.
// Hints for nodes come before those for zones.
func hinted(list []mesh.Backend, picked func(*mesh.Backend) bool, w *mesh.Workload) func(*mesh.Backend) bool {
	zone := zoneOf(w.Locality)
	byNode, byZone, nodeHit, zoneHit := w.Node != "", zone != "", false, false
	for i := range list {
		b := &list[i]
		if !picked(b) {
			continue
		}
		byNode, byZone = byNode && len(b.Nodes) > 0, byZone && len(b.Zones) > 0
		nodeHit = nodeHit || slices.Contains(b.Nodes, w.Node)
		zoneHit = zoneHit || slices.Contains(b.Zones, zone)
	}
	switch {
	case byNode && nodeHit:
		return func(b *mesh.Backend) bool { return slices.Contains(b.Nodes, w.Node) }
	case byZone && zoneHit:
		return func(b *mesh.Backend) bool { return slices.Contains(b.Zones, zone) }
	}
	return nil
}
