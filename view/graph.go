package view

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/seinemesh/seine/mesh"
	"github.com/seinemesh/seine/stat"
)

// Graph is who calls whom.
type Graph struct {
	At            time.Time `json:"at"`
	Generation    uint64    `json:"generation"`
	WindowSeconds float64   `json:"window_seconds"`
	Nodes         []Node    `json:"nodes"`
	Edges         []Edge    `json:"edges"`
	LeftOut       int       `json:"left_out"` // nodes and edges over the bounds
}

// Kinds of nodes.
const (
	KindService  = "service"
	KindWorkload = "workload" // that stands behind no service, or behind several
	KindOutside  = "outside"  // whoever has no sidecar of the mesh
)

// Node is a service with the workloads behind it, or a workload of its own.
type Node struct {
	ID        string   `json:"id"`
	Kind      string   `json:"kind"`
	Namespace string   `json:"namespace"`
	Name      string   `json:"name"`
	Host      string   `json:"host,omitempty"`
	Workloads []string `json:"workloads"`
	Instances int      `json:"instances"`
	Ready     int      `json:"ready"`
	Sidecars  int      `json:"sidecars"`
	Protocol  string   `json:"protocol,omitempty"`
	Health    Health   `json:"health"`
	Ejected   int      `json:"ejected"`
	External  bool     `json:"external,omitempty"`
	MTLS      string   `json:"mtls,omitempty"`
	stat.Traffic
}

// Edge is one workload's calls to one service.
type Edge struct {
	ID             string    `json:"id"`
	Source         string    `json:"source"`      // node
	Destination    string    `json:"destination"` // node
	SourceWorkload string    `json:"source_workload"`
	SourceIdentity string    `json:"source_identity,omitempty"`
	Service        string    `json:"service"`
	Protocol       string    `json:"protocol"`
	MTLS           string    `json:"mtls"`
	MTLSShare      *float64  `json:"mtls_share"`
	Versions       []Version `json:"versions"`
	Route          string    `json:"route,omitempty"` // whose weights are wanted
	stat.Traffic
}

// Version is the part of the traffic that one version got.
type Version struct {
	Version  string   `json:"version"`
	Workload string   `json:"workload,omitempty"`
	Share    *float64 `json:"share"`            // 0..1, measured
	Wanted   *float64 `json:"wanted,omitempty"` // 0..1, by the rule that catches all
	MTLS     string   `json:"mtls"`
	// Instances and Ready are of a service's page.
	Instances *int `json:"instances,omitempty"`
	Ready     *int `json:"ready,omitempty"`
	stat.Traffic
}

// Graph is the graph of a namespace and its neighbours; "": of the whole mesh.
func (m *Moment) Graph(namespace string) *Graph {
	x := m.index()
	g := &Graph{At: m.At, Generation: m.Snapshot.Generation, WindowSeconds: m.Window, Nodes: []Node{}, Edges: []Edge{}}
	edges := x.edges(func(*stat.Flow) bool { return true })
	needed := map[string]bool{}
	for _, e := range edges {
		if from, to := x.namespaceOf(e.Source), x.namespaceOf(e.Destination); in(namespace, from) || in(namespace, to) {
			needed[e.Source], needed[e.Destination] = true, true
			g.Edges = append(g.Edges, e)
		}
	}
	g.Edges, g.LeftOut = cut(g.Edges, maxEdges)
	folded := map[string]bool{}
	for host, svc := range x.services {
		node := x.serviceNode(host, svc)
		for _, id := range node.Workloads {
			folded[id] = folded[id] || x.nodeOf(id) == node.ID
		}
		if in(namespace, node.Namespace) || needed[node.ID] {
			g.Nodes = append(g.Nodes, node)
			delete(needed, node.ID)
		}
	}
	for _, w := range x.ordered {
		if id := KindWorkload + ":" + w.id; !folded[w.id] && (in(namespace, w.instances[0].Namespace) || needed[id]) {
			g.Nodes = append(g.Nodes, x.workloadNode(w))
			delete(needed, id)
		}
	}
	// What has traffic, and is not in the snapshot (any more).
	for id := range needed {
		g.Nodes = append(g.Nodes, x.strange(id))
	}
	slices.SortFunc(g.Nodes, func(a, b Node) int { return cmp.Compare(a.ID, b.ID) })
	var over int
	g.Nodes, over = cut(g.Nodes, maxNodes)
	if over > 0 {
		there := map[string]bool{}
		for i := range g.Nodes {
			there[g.Nodes[i].ID] = true
		}
		before := len(g.Edges)
		g.Edges = slices.DeleteFunc(g.Edges, func(e Edge) bool { return !there[e.Source] || !there[e.Destination] })
		over += before - len(g.Edges)
	}
	g.LeftOut += over
	return g
}

// nodeOf is the node that a workload is shown in: that of the one service that it
// stands behind, or its own.
func (x *index) nodeOf(id string) string {
	if w := x.workloads[id]; w != nil && len(w.services) == 1 {
		return KindService + ":" + w.services[0].Host
	}
	return KindWorkload + ":" + id
}

func (x *index) namespaceOf(node string) string {
	for _, kind := range [...]string{KindService, KindWorkload} {
		if rest, ok := strings.CutPrefix(node, kind+":"); ok {
			if svc := x.services[rest]; svc != nil {
				return svc.Namespace
			}
			return before(rest, '/')
		}
	}
	return ""
}

func (x *index) serviceNode(host string, svc *mesh.Service) Node {
	flows := x.byService[host]
	n := Node{ID: KindService + ":" + host, Kind: KindService, Namespace: svc.Namespace, Name: svc.Name, Host: host, Workloads: []string{},
		External: svc.External, MTLS: protection(flows), Ejected: x.ejected(host)}
	for _, w := range x.Snapshot.Members(svc) {
		if id := ID(w.Namespace, appOf(w)); !slices.Contains(n.Workloads, id) {
			n.Workloads = append(n.Workloads, id)
		}
		n.Instances++
		if !w.Unhealthy {
			n.Ready++
		}
		if w.Sidecar {
			n.Sidecars++
		}
	}
	slices.Sort(n.Workloads)
	s := sumOf(flows)
	if n.Protocol = s.Protocol(); n.Protocol == "" {
		n.Protocol = protocolOf(svc)
	}
	n.Traffic = s.Traffic()
	n.Health = healthOf(s, n.Instances, n.Ready, x.slow(host), n.Ejected > 0)
	return n
}

// workloadNode is a workload's own node: its signals are of what it asks.
func (x *index) workloadNode(w *workload) Node {
	var flows []*stat.Flow
	for i := range x.Flows {
		if f := &x.Flows[i]; partyID(f.Source) == w.id {
			flows = append(flows, f)
		}
	}
	s := sumOf(flows)
	return Node{ID: KindWorkload + ":" + w.id, Kind: KindWorkload, Namespace: w.instances[0].Namespace, Name: appOf(w.instances[0]),
		Workloads: []string{w.id}, Instances: len(w.instances), Ready: w.ready, Sidecars: w.sidecars,
		Protocol: s.Protocol(), MTLS: protection(flows), Traffic: s.Traffic(),
		Health: healthOf(s, len(w.instances), w.ready, false, false)}
}

// strange is a node of which nothing but its name is known.
func (x *index) strange(id string) Node {
	n := Node{ID: id, Kind: KindOutside, Name: "outside the mesh", Workloads: []string{}, Health: Idle}
	if host, ok := strings.CutPrefix(id, KindService+":"); ok {
		flows := x.byService[host]
		s := sumOf(flows)
		n.Kind, n.Name, n.Host, n.External = KindService, host, host, true
		n.Traffic, n.MTLS, n.Protocol, n.Health = s.Traffic(), protection(flows), s.Protocol(), healthOf(s, 0, 0, false, false)
	} else if w, ok := strings.CutPrefix(id, KindWorkload+":"); ok {
		n.Kind, n.Namespace, n.Name, n.Workloads = KindWorkload, before(w, '/'), w[len(before(w, '/'))+1:], []string{w}
	}
	return n
}

// edges joins the flows that are kept by caller and service.
func (x *index) edges(keep func(*stat.Flow) bool) []Edge {
	type key struct{ source, host string }
	joined := map[key][]*stat.Flow{}
	for i := range x.Flows {
		f := &x.Flows[i]
		if f.Requests == 0 && f.Service == "" || !keep(f) {
			continue
		}
		k := key{KindOutside, f.Service}
		if known(f.Source) {
			k.source = partyID(f.Source)
		}
		joined[k] = append(joined[k], f)
	}
	var out []Edge
	for k, flows := range joined {
		s := sumOf(flows)
		e := Edge{ID: k.source + ">" + k.host, Source: KindOutside, Destination: KindService + ":" + k.host, SourceWorkload: k.source,
			Service: k.host, Protocol: s.Protocol(), MTLS: protection(flows), MTLSShare: shareOf(s), Traffic: s.Traffic()}
		if k.source != KindOutside {
			e.Source = x.nodeOf(k.source)
		}
		for _, f := range flows {
			e.SourceIdentity = cmp.Or(e.SourceIdentity, f.Source.Identity)
		}
		var wanted *wantedShares
		if k.source != KindOutside { // who has no sidecar follows no route
			if wanted = x.wantedOf(k.source, k.host); wanted != nil {
				e.Route = wanted.route
			}
		}
		e.Versions = versions(flows, wanted)
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b Edge) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// versions splits flows to one service by version.
func versions(flows []*stat.Flow, wanted *wantedShares) []Version {
	by := map[string][]*stat.Flow{}
	for _, f := range flows {
		by[f.Version] = append(by[f.Version], f)
	}
	all := sumOf(flows)
	list := []Version{}
	for version, of := range by {
		s := sumOf(of)
		v := Version{Version: version, MTLS: protection(of), Traffic: s.Traffic()}
		if known(of[0].Destination) {
			v.Workload = partyID(of[0].Destination)
		} else if !s.Active() {
			continue // requests of long ago that reached no workload
		}
		if all.Requests > 0 {
			share := s.Requests / all.Requests
			v.Share = &share
		}
		list = append(list, v)
	}
	if wanted != nil {
		for version, share := range wanted.shares {
			i := slices.IndexFunc(list, func(v Version) bool { return v.Version == version })
			if i < 0 {
				list = append(list, Version{Version: version, MTLS: stat.MTLSUnknown})
				i = len(list) - 1
			}
			list[i].Wanted = &share
		}
	}
	slices.SortFunc(list, func(a, b Version) int { return cmp.Compare(a.Version, b.Version) })
	return list
}
