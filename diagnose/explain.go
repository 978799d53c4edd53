package diagnose

import (
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/seinemesh/seine/stat"
)

// explain gives each server and edge that is slow now its cause. An edge whose
// server is slow by itself is not said twice.
func (d *Detector) explain() []Diagnosis {
	list := []Diagnosis{}
	for _, k := range sortedKeys(d.servers, compareServers) {
		if s := d.servers[k]; s.verdict != nil {
			list = append(list, d.server(k, s))
		}
	}
	for _, k := range sortedKeys(d.edges, compareEdges) {
		s := d.edges[k]
		if s.verdict == nil || d.slowServer(k.service, k.version) != nil {
			continue
		}
		list = append(list, d.edge(k, s))
	}
	return list
}

// unusual is what is wrong with a series now, confirmed or not: where another
// one is confirmed, the first window of this one tells enough.
func (s *series) unusual() *verdict {
	if s.verdict != nil {
		return s.verdict
	}
	return s.latest
}

// slowServer is the series of a server that its own sidecars find slow, if any.
func (d *Detector) slowServer(service, version string) *series {
	for k, s := range d.servers {
		if k.service == service && k.version == version && s.unusual() != nil {
			return s
		}
	}
	return nil
}

// describe fills in what is the same for every cause.
func describe(v *verdict, service, version string, workload stat.Party) Diagnosis {
	return Diagnosis{
		Since: v.since, Service: service, Version: version, Workload: workload,
		Shape: v.shape, Before: v.before, After: v.after, Slower: v.slower,
	}
}

// server explains a workload that answers late, as its own sidecar measures:
// the time is spent in the application, in what it calls, or in waiting for the
// machine.
func (d *Detector) server(k serverKey, s *series) Diagnosis {
	g := describe(s.verdict, k.service, k.version, s.answers)
	name := label(k.service, k.version)
	measured := fmt.Sprintf("the sidecar before %s measured it: the time passes behind it, not on the network", name)

	if dep, v, at := d.dependency(k, s.verdict); at != nil {
		g.Cause, g.Culprit = Dependency, label(dep.service, dep.version)
		g.Evidence = []string{
			fmt.Sprintf("%s calls %s, whose P99 went from %s to %s at the same time", name, g.Culprit, millis(v.before.P99), millis(v.after.P99)), measured}
		// What makes the dependency slow is to blame in the end.
		if root := d.slowServer(dep.service, dep.version); root == nil {
			g.Evidence = append(g.Evidence, "its own sidecar does not find it slow: look between the two")
		}
		g.Explanation = fmt.Sprintf("%s waits for %s", name, g.Culprit)
		return g
	}

	troubles := d.troubles(s.proxies)
	neighbours, alsoSlow := d.neighbours(k, s)
	well := d.otherVersions(k)
	for _, t := range troubles {
		if t.signal == GC || neighbours > 0 && 2*alsoSlow < neighbours && t.signal.causedBy(len(well) > 0) {
			continue
		}
		g.blameMachine(t, name)
		g.add(troubles[1:], t.signal)
		if neighbours > 0 {
			g.Evidence = append(g.Evidence, fmt.Sprintf("%d of %d other workloads on that machine are slower too", alsoSlow, neighbours))
		}
		if t.signal.ofDisk() && 2*alsoSlow < neighbours {
			g.Evidence = append(g.Evidence, "who does not use the disk does not wait for it; whether this workload wears it out or a neighbour does, its sidecar cannot see")
		}
		return g
	}

	if len(well) > 0 {
		g.Cause, g.Culprit = Version, name
		g.Evidence = append(g.Evidence, fmt.Sprintf("%s of the same service answers as usual", list(well)))
		g.Explanation = fmt.Sprintf("version %s of %s is slow; %s is not", k.version, k.service, list(well))
	} else {
		g.Cause, g.Culprit = Application, k.namespace+"/"+k.workload
		g.Explanation = fmt.Sprintf("the code of %s is slow", g.Culprit)
		if g.Shape == Tail {
			g.Explanation = fmt.Sprintf("some requests wait inside %s: pauses of its runtime, locks, or a slow path", g.Culprit)
		}
	}
	g.Evidence = append(g.Evidence, measured)
	if len(troubles) == 0 {
		g.Evidence = append(g.Evidence, "its machine shows neither steal nor pressure nor throttling above the usual")
	} else {
		g.add(troubles, NumSignals)
		if neighbours > 0 {
			g.Evidence = append(g.Evidence, fmt.Sprintf("%d of %d other workloads on that machine are slower: the load is its own", alsoSlow, neighbours))
		}
	}
	return g
}

// edge explains calls that the caller's sidecar finds slow and the server's does not.
func (d *Detector) edge(k edgeKey, s *series) Diagnosis {
	g := describe(s.verdict, k.service, k.version, s.answers)
	g.Caller = k.caller()
	name := label(k.service, k.version)
	proxies := slices.Clone(s.proxies)
	measured := false
	for key, server := range d.servers {
		if key.service == k.service && key.version == k.version && server.seen == d.windows {
			proxies = append(proxies, server.proxies...)
			measured = true
		}
	}
	if !measured {
		// Nobody stands before the server: what is behind the caller's sidecar is one.
		g.Cause, g.Culprit = Dependency, name
		g.Evidence = []string{name + " has no sidecar: the time passes on the network or in it"}
		g.Explanation = fmt.Sprintf("%s answers %s late", name, g.Caller)
		return g
	}
	inside := fmt.Sprintf("the sidecar before %s does not find it slow", name)
	for _, t := range d.troubles(proxies) {
		if t.signal == GC {
			continue
		}
		g.blameMachine(t, name)
		g.Evidence = append(g.Evidence, inside)
		return g
	}
	g.Cause, g.Culprit = Network, g.Caller+" → "+name
	g.Evidence = []string{inside, "the machines of both sides show neither steal nor pressure nor throttling above the usual"}
	g.Explanation = fmt.Sprintf("the time passes between the sidecars of %s and %s", g.Caller, name)
	return g
}

// ofDisk reports whether a signal says that tasks wait for the disk.
func (s Signal) ofDisk() bool { return s == IOStall || s == IOWait }

// causedBy reports whether a slow workload is taken to have raised the signal by
// itself where most of its neighbours are well. Everybody needs the CPU: who uses it
// up lets the neighbours wait. The disk is waited for by those alone who use it,
// so that there the neighbours say nothing; other versions of the same service,
// which do the same work, do.
func (s Signal) causedBy(otherVersionsAreWell bool) bool {
	return s == CPUStall || s == RunQueue || s.ofDisk() && otherVersionsAreWell
}

func (g *Diagnosis) blameMachine(t trouble, name string) {
	g.Cause, g.Signal = Node, t.signal.String()
	g.Culprit = "the machine of " + t.proxy
	if t.signal == Throttled {
		g.Culprit = "the CPU limit of " + t.proxy
	}
	g.Evidence = append(g.Evidence, t.signal.say(t.value, t.usual))
	g.Explanation = fmt.Sprintf("%s is slow because of its machine: %s", name, t.signal.say(t.value, t.usual))
}

// add appends the sentences of further signals.
func (g *Diagnosis) add(more []trouble, but Signal) {
	for _, t := range more {
		if t.signal != but {
			g.Evidence = append(g.Evidence, t.signal.say(t.value, t.usual))
		}
	}
}

// dependency finds the call of k's workload that became slower with it and by
// enough to be the reason, the largest first.
func (d *Detector) dependency(k serverKey, v *verdict) (edgeKey, *verdict, *series) {
	var best *series
	var key edgeKey
	grown := func(v *verdict) float64 { return math.Max(v.after.P99-v.before.P99, v.after.P50-v.before.P50) }
	for e, s := range d.edges {
		if e.namespace != k.namespace || e.workload != k.workload || s.unusual() == nil {
			continue
		}
		// A caller waits at least as long as what it waits for; half leaves room
		// for buckets and for calls that only some requests make.
		if grown(s.unusual()) < grown(v)/2 {
			continue
		}
		if best == nil || grown(s.unusual()) > grown(best.unusual()) || grown(s.unusual()) == grown(best.unusual()) && compareEdges(e, key) < 0 {
			best, key = s, e
		}
	}
	if best == nil {
		return edgeKey{}, nil, nil
	}
	return key, best.unusual(), best
}

// neighbours counts the other workloads with traffic on the machines of k, and
// those that are slower too.
func (d *Detector) neighbours(k serverKey, s *series) (n, slow int) {
	boots := map[string]bool{}
	for _, name := range s.proxies {
		if p := d.proxies[name]; p != nil && p.boot != "" {
			boots[p.boot] = true
		}
	}
	type workload struct{ namespace, name string }
	others := map[workload]bool{} // slower too
	for other, o := range d.servers {
		w := workload{other.namespace, other.workload}
		if o.seen != d.windows || o.now.total < minRequests || w == (workload{k.namespace, k.workload}) {
			continue
		}
		if !slices.ContainsFunc(o.proxies, func(name string) bool { p := d.proxies[name]; return p != nil && boots[p.boot] }) {
			continue
		}
		// Whoever waits for k is slower because of it, not of the machine.
		if d.calls(w.namespace, w.name, k.service) {
			continue
		}
		others[w] = others[w] || o.unusual() != nil
	}
	for _, s := range others {
		n++
		if s {
			slow++
		}
	}
	return n, slow
}

func (d *Detector) calls(namespace, workload, service string) bool {
	for e := range d.edges {
		if e.namespace == namespace && e.workload == workload && e.service == service {
			return true
		}
	}
	return false
}

// otherVersions are those of k's service that are as usual now.
func (d *Detector) otherVersions(k serverKey) []string {
	var well []string
	for _, other := range sortedKeys(d.servers, compareServers) {
		s := d.servers[other]
		if other.service == k.service && other.version != k.version && s.seen == d.windows && s.now.total >= minRequests &&
			s.unusual() == nil && len(s.recent) >= learnWindows {
			well = append(well, other.version)
		}
	}
	return slices.Compact(well)
}

func label(service, version string) string {
	if version == "" || version == "unknown" {
		return service
	}
	return service + " " + version
}

func list(names []string) string {
	s := names[0]
	for i, n := range names[1:] {
		if i == len(names)-2 {
			s += " and " + n
		} else {
			s += ", " + n
		}
	}
	return s
}

func millis(ms float64) string { return strconv.FormatFloat(ms, 'f', 1, 64) + " ms" }
