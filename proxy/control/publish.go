package control

import (
	"cmp"
	"slices"
	"time"

	"github.com/seinemesh/seine/decide"
)

// publish returns the next view, or nil if there is none now; then look again
// at the time it returns, unless that is zero.
//
// An answer becomes visible together with all that it names. While the
// successor of a visible answer is not complete everything waits, so that no
// request is sent by an old answer to a service that has already changed for
// the new one; patience bounds that wait.
func (st *state) publish(old *view, now time.Time) (*view, time.Time) {
	if st.self == nil || !st.dirty {
		return nil, time.Time{}
	}
	if !st.half.IsZero() {
		if until := st.half.Add(patience); now.Before(until) {
			return nil, until
		}
	}
	var ready []*answer
	stale := map[string]struct{}{} // keys of visible answers whose successors wait
	waits := false
	for a := range st.changed {
		if st.complete(a.deps) {
			ready = append(ready, a)
		} else if a.visible != nil {
			waits = true
			for _, key := range a.old {
				stale[key] = struct{}{}
			}
		}
	}
	if waits {
		if st.blocked.IsZero() {
			st.blocked = now
		}
		if until := st.blocked.Add(patience); now.Before(until) {
			return nil, until
		}
	} else {
		st.blocked = time.Time{}
	}
	for _, a := range ready {
		st.show(a.old, -1)
		a.visible, a.old = a.latest, a.deps
		st.show(a.old, 1)
		delete(st.changed, a)
		st.rebuild = true
	}
	st.dirty = false
	news := old == nil || st.rebuild || old.table.Self != st.self
	for key, s := range st.services {
		if s.shown == 0 || !s.dirty || !s.complete() {
			continue
		}
		// What a waiting answer's predecessor names stays as it was.
		if _, keep := stale[key]; keep && s.latest == nil && s.clusters != nil {
			continue
		}
		s.build(now)
		news = true
	}
	if !news {
		return nil, time.Time{}
	}

	t := &decide.Table{Self: st.self, Generation: st.generation}
	v := &view{table: t}
	if old != nil && !st.rebuild {
		t.Answers, v.uses = old.table.Answers, old.uses
	} else {
		t.Answers, v.uses = make(map[string]*decide.Answer, len(st.answers)), make(map[string]*Use, len(st.answers))
		for name, a := range st.answers {
			if a.visible != nil {
				t.Answers[name], v.uses[name] = a.visible, a.use
			}
		}
		st.rebuild = false
	}
	t.Clusters = make(map[string]map[string]*decide.Cluster, len(st.services))
	for key, s := range st.services {
		if s.shown > 0 {
			t.Clusters[key] = s.clusters
		}
	}
	return v, time.Time{}
}

func (st *state) complete(keys []string) bool {
	for _, key := range keys {
		if !st.services[key].complete() {
			return false
		}
	}
	return true
}

// build makes the clusters anew; those that did not change keep their pointers.
func (s *service) build(now time.Time) {
	s.dirty = false
	if s.latest == nil {
		s.clusters = map[string]*decide.Cluster{}
		return
	}
	eps := make([]*decide.Endpoint, 0, len(s.endpoints))
	for _, e := range s.endpoints {
		if e.compiled.Since.IsZero() {
			e.compiled.Since = now
		}
		eps = append(eps, e.compiled)
	}
	slices.SortFunc(eps, func(a, b *decide.Endpoint) int { return cmp.Compare(a.Proto.Id, b.Proto.Id) })
	s.clusters = s.latest.Update(s.clusters, eps)
}
