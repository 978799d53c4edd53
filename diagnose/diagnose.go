// Package diagnose answers "is it my code or my infrastructure?": when requests
// get slower, it says which application, version, dependency, stretch of
// network or machine makes them so, with the evidence.
//
// What enters: one Observation for each window of time, latency distributions
// as both sidecars of each edge measured them and the counters of the machines
// underneath. What leaves: Diagnoses. It is pure: no clock, no goroutine, no
// I/O; the same observations give the same answers. docs/diagnose.md states the
// method and how often it is wrong.
package diagnose

import (
	"cmp"
	"slices"
	"time"

	"github.com/seinemesh/seine/stat"
)

// Observation is what was seen in one window.
type Observation struct {
	At      time.Time // its end
	Seconds float64   // its length
	Traffic []stat.Distribution
	// Machines holds what each proxy said of its machine in the window.
	Machines map[string]Signals // by NAMESPACE/INSTANCE
}

// Cause is what makes requests slow.
type Cause string

// The causes.
const (
	Application Cause = "application" // the code of the workload that answers
	Version     Cause = "version"     // one version of it, while others of the same service are well
	Dependency  Cause = "dependency"  // a service that it calls
	Network     Cause = "network"     // between two sidecars that are both well
	Node        Cause = "node"        // the machine underneath
)

// Shape is how latency changed.
type Shape string

// The shapes.
const (
	Tail  Shape = "tail"  // P99 rose over a flat P50: some requests wait for something
	Shift Shape = "shift" // all requests became slower
)

// Milliseconds of the quantiles of a distribution.
type Quantiles struct {
	P50 float64 `json:"p50_ms"`
	P99 float64 `json:"p99_ms"`
}

// Diagnosis is one service (or edge) whose requests became slower, and why. Its
// JSON form is stable; fields are only added.
type Diagnosis struct {
	Since       time.Time  `json:"since"`
	Service     string     `json:"service"`          // FQDN
	Version     string     `json:"version"`          // of the workload that answers
	Workload    stat.Party `json:"workload"`         // that answers
	Caller      string     `json:"caller,omitempty"` // set where the callers see it, and the server does not
	Shape       Shape      `json:"shape"`
	Before      Quantiles  `json:"before"`
	After       Quantiles  `json:"after"`
	Slower      float64    `json:"slower"` // share of requests slower than nearly all were before, 0..1
	Cause       Cause      `json:"cause"`
	Culprit     string     `json:"culprit"`          // the name of what is to blame
	Signal      string     `json:"signal,omitempty"` // of the machine: "cpu-steal", "io-wait", …
	Evidence    []string   `json:"evidence"`         // sentences, the strongest first
	Explanation string     `json:"explanation"`      // one sentence
}

// Detector learns what is usual and says what is not. It is used by one
// goroutine.
type Detector struct {
	servers  map[serverKey]*series
	edges    map[edgeKey]*series
	machines map[string]*machine // by boot_id
	proxies  map[string]*proxy   // by NAMESPACE/INSTANCE
	windows  int
}

// New returns a Detector that knows nothing.
func New() *Detector {
	return &Detector{
		servers: map[serverKey]*series{}, edges: map[edgeKey]*series{},
		machines: map[string]*machine{}, proxies: map[string]*proxy{},
	}
}

// serverKey is one version of a service, as the sidecars before it see it.
type serverKey struct{ service, version, namespace, workload string }

// edgeKey is one workload's calls to such a version, as its own sidecar sees them.
type edgeKey struct {
	namespace, workload string // the caller's
	service, version    string
}

func (k edgeKey) caller() string { return k.namespace + "/" + k.workload }

// maxSeries bounds what is remembered; traffic beyond it is not judged.
const maxSeries = 20_000

// forgetAfter is how many windows a series without traffic is remembered.
const forgetAfter = 180

// Observe takes in one window and returns what is wrong at its end, the same
// order for the same observations.
func (d *Detector) Observe(o Observation) []Diagnosis {
	d.windows++
	d.takeMachines(o)
	d.takeTraffic(o)
	for _, s := range d.servers {
		s.judge(o.At, d.windows)
	}
	for _, s := range d.edges {
		s.judge(o.At, d.windows)
	}
	d.forget()
	return d.explain()
}

// Learning is how far the Detector is with what is usual. Its JSON form is stable;
// fields are only added.
type Learning struct {
	Windows int `json:"windows"` // that are known, where most are
	Needed  int `json:"needed"`  // before anything is judged
	Judged  int `json:"judged"`  // versions and calls with requests whose usual is known
	Waiting int `json:"waiting"` // those whose usual is not
}

// Learning says so as of the latest window.
func (d *Detector) Learning() Learning {
	l := Learning{Needed: learnWindows}
	take := func(s *series) {
		switch {
		case s.seen != d.windows:
			return
		case s.learnt():
			l.Judged++
		default:
			l.Waiting++
		}
		l.Windows = max(l.Windows, min(len(s.recent), learnWindows))
	}
	for _, s := range d.servers {
		take(s)
	}
	for _, s := range d.edges {
		take(s)
	}
	return l
}

// takeTraffic sums the window's distributions by server and by edge.
func (d *Detector) takeTraffic(o Observation) {
	for i := range o.Traffic {
		t := &o.Traffic[i]
		var s *series
		if t.AtDestination {
			s = find(d.servers, serverKey{t.Service, t.Version, t.Destination.Namespace, t.Destination.Workload})
		} else {
			s = find(d.edges, edgeKey{t.Source.Namespace, t.Source.Workload, t.Service, t.Version})
		}
		if s == nil {
			continue // over the bound
		}
		s.add(t, d.windows)
		s.proxies = append(s.proxies, t.Instance)
		s.answers = t.Destination
	}
}

func find[K comparable](m map[K]*series, k K) *series {
	s := m[k]
	if s == nil && len(m) < maxSeries {
		s = &series{}
		m[k] = s
	}
	return s
}

func (d *Detector) forget() {
	for k, s := range d.servers {
		if d.windows-s.seen > forgetAfter {
			delete(d.servers, k)
		}
	}
	for k, s := range d.edges {
		if d.windows-s.seen > forgetAfter {
			delete(d.edges, k)
		}
	}
	for k, p := range d.proxies {
		if d.windows-p.seen > forgetAfter {
			delete(d.proxies, k)
		}
	}
	for k, m := range d.machines {
		if d.windows-m.seen > forgetAfter {
			delete(d.machines, k)
		}
	}
}

func sortedKeys[K comparable, V any](m map[K]V, less func(a, b K) int) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, less)
	return keys
}

func compareServers(a, b serverKey) int {
	return cmp.Or(cmp.Compare(a.service, b.service), cmp.Compare(a.version, b.version),
		cmp.Compare(a.namespace, b.namespace), cmp.Compare(a.workload, b.workload))
}

func compareEdges(a, b edgeKey) int {
	return cmp.Or(cmp.Compare(a.service, b.service), cmp.Compare(a.version, b.version),
		cmp.Compare(a.namespace, b.namespace), cmp.Compare(a.workload, b.workload))
}
