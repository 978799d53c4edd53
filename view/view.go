// Package view makes what a person looks at: the graph of services, and the pages
// of a service, a workload, its rules, its bounds and its machines.
//
// What enters: a Moment, which is one mesh.Snapshot and what was measured of it.
// What leaves: values with stable JSON forms, bounded, in a fixed order; fields
// are only added. It is pure: no clock, no socket, nothing kept between calls.
package view

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/seinemesh/seine/diagnose"
	"github.com/seinemesh/seine/mesh"
	"github.com/seinemesh/seine/stat"
	"github.com/seinemesh/seine/telemetry"
)

// What a list holds at most; what is cut off is counted beside it.
const (
	maxNodes  = 2000
	maxEdges  = 5000
	maxList   = 2000 // services, workloads, routes, bounds
	maxWithin = 500  // callers, instances and the like within one element
)

// Moment is what there is to see. Snapshot is not nil; the rest may be empty.
type Moment struct {
	At        time.Time
	Snapshot  *mesh.Snapshot
	Flows     []stat.Flow             // of the last seconds
	Rules     map[stat.Rule]*stat.Sum // of the same
	Window    float64                 // how many seconds
	Ejected   []stat.Ejected
	Diagnoses []diagnose.Diagnosis
}

// Health is how something fares, in a word.
type Health string

// The words, the worst first.
const (
	Down    Health = "down"    // there are instances, and none may be called
	Failing Health = "failing" // more than one request in a hundred fails
	Slow    Health = "slow"    // slower than usual: a diagnosis holds
	Ejected Health = "ejected" // callers do without some of its endpoints
	OK      Health = "ok"
	Idle    Health = "idle" // nothing is asked of it
)

// failingBelow is the success rate under which something is failing.
const failingBelow = 0.99

func healthOf(t *stat.Sum, instances, ready int, slow, ejected bool) Health {
	switch {
	case instances > 0 && ready == 0:
		return Down
	case t.Requests > 0 && 1-t.Failed/t.Requests < failingBelow:
		return Failing
	case slow:
		return Slow
	case ejected:
		return Ejected
	case t.Active():
		return OK
	}
	return Idle
}

// workload is the instances of one application.
type workload struct {
	id               string // NAMESPACE/NAME
	instances        []*mesh.Workload
	ready, sidecars  int
	version, account string
	services         []*mesh.Service
}

// index is what the views look things up in.
type index struct {
	*Moment
	workloads map[string]*workload
	ordered   []*workload
	services  map[string]*mesh.Service // by host; of several the first
	byService map[string][]*stat.Flow
	wanted    map[wantedKey]*wantedShares
}

func (m *Moment) index() *index {
	x := &index{Moment: m, workloads: map[string]*workload{}, services: map[string]*mesh.Service{},
		byService: map[string][]*stat.Flow{}, wanted: map[wantedKey]*wantedShares{}}
	for _, w := range m.Snapshot.Workloads {
		id := ID(w.Namespace, appOf(w))
		a := x.workloads[id]
		if a == nil {
			a = &workload{id: id, version: versionOf(w), account: w.ServiceAccount, services: m.Snapshot.ServicesOf(w)}
			x.workloads[id] = a
			x.ordered = append(x.ordered, a)
		}
		a.instances = append(a.instances, w)
		if !w.Unhealthy {
			a.ready++
		}
		if w.Sidecar {
			a.sidecars++
		}
	}
	slices.SortFunc(x.ordered, func(a, b *workload) int { return cmp.Compare(a.id, b.id) })
	for _, svc := range m.Snapshot.Services {
		if x.services[svc.Host] == nil {
			x.services[svc.Host] = svc
		}
	}
	for i := range m.Flows {
		f := &m.Flows[i]
		x.byService[f.Service] = append(x.byService[f.Service], f)
	}
	return x
}

// ID names a workload.
func ID(namespace, name string) string { return namespace + "/" + name }

func appOf(w *mesh.Workload) string { return cmp.Or(w.App, w.Instance) }

func versionOf(w *mesh.Workload) string {
	return cmp.Or(w.Labels["version"], telemetry.Unknown)
}

// known says whether an end of a flow is a workload of the mesh.
func known(p stat.Party) bool { return p.Workload != telemetry.Unknown && p.Workload != "" }

func partyID(p stat.Party) string { return ID(p.Namespace, p.Workload) }

// slow says whether a diagnosis is about a service.
func (x *index) slow(host string) bool {
	return slices.ContainsFunc(x.Diagnoses, func(d diagnose.Diagnosis) bool { return d.Service == host })
}

func (x *index) ejected(host string) int {
	n := 0
	for i := range x.Ejected {
		if x.Ejected[i].Service == host {
			n++
		}
	}
	return n
}

// sumOf adds flows up.
func sumOf(flows []*stat.Flow) *stat.Sum {
	s := &stat.Sum{}
	for _, f := range flows {
		s.Add(&f.Sum)
	}
	return s
}

// protection joins what flows say of mutual TLS: those with traffic, or all if
// there was none.
func protection(flows []*stat.Flow) string {
	join := func(idle bool) string {
		got := stat.MTLSUnknown
		for _, f := range flows {
			switch {
			case !idle && !f.Active(), f.MTLS == stat.MTLSUnknown, f.MTLS == got:
			case got == stat.MTLSUnknown:
				got = f.MTLS
			default:
				got = stat.MTLSMixed
			}
		}
		return got
	}
	if got := join(false); got != stat.MTLSUnknown {
		return got
	}
	return join(true)
}

func shareOf(s *stat.Sum) *float64 {
	if v, ok := s.MutualShare(); ok {
		return &v
	}
	return nil
}

// cut shortens a list, and says by how much.
func cut[T any](list []T, most int) ([]T, int) {
	if len(list) <= most {
		return list, 0
	}
	return list[:most], len(list) - most
}

func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// in says whether namespace is the one that is asked for; "" asks for all.
func in(wanted, namespace string) bool { return wanted == "" || wanted == namespace }

// refName is KIND NAMESPACE/NAME.
func refName(kind, namespace, name string) string {
	return strings.TrimSpace(kind + " " + strings.TrimPrefix(namespace+"/"+name, "/"))
}
