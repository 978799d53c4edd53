package kube

import (
	"bytes"
	"cmp"
	"encoding/json"
	"slices"

	"k8s.io/apimachinery/pkg/types"
)

// Kept is the version of a refused resource that holds in its place: what must
// outlive the process, because the API server does not have it any more.
type Kept struct {
	Group     string          `json:"group,omitempty"`
	Kind      string          `json:"kind"`
	Namespace string          `json:"namespace,omitempty"`
	Name      string          `json:"name"`
	UID       types.UID       `json:"uid"`
	Data      json.RawMessage `json:"data,omitempty"` // as config decodes it
}

func (k *Kept) id() id { return id{k.Group, k.Kind, k.Namespace, k.Name} }

// giveTo lets r be held by the version, if it is one of that very object.
func (k *Kept) giveTo(r *resource) bool {
	if r.uid != k.UID || r.good != nil || r.before != nil || len(k.Data) == 0 || bytes.Equal(r.data, k.Data) {
		return false
	}
	r.before = k.Data
	return true
}

// Kept are the versions that hold in the place of what the last build refused, and
// those resources that it refused and for which there is none, without Data. ok is
// false before the first build, when nothing is known.
func (s *Source) Kept() (good, without []Kept, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.sets) == 0 {
		return nil, nil, false
	}
	for _, r := range s.state.resources {
		if !r.refused {
			continue
		}
		k := Kept{r.id.group, r.id.kind, r.id.namespace, r.id.name, r.uid, r.good}
		if r.good == nil {
			without = append(without, k)
		} else {
			good = append(good, k)
		}
	}
	for _, list := range [][]Kept{good, without} {
		slices.SortFunc(list, func(a, b Kept) int {
			return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Group, b.Group))
		})
	}
	return good, without, true
}

// Recall gives versions that were good before to what is refused, or will be, and has
// none. One that is refused itself by now does not hold.
func (s *Source) Recall(list []Kept) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range list {
		k := &list[i]
		r := s.state.resources[k.id()]
		if r == nil {
			if s.state.recalled == nil {
				s.state.recalled = map[id]Kept{}
			}
			s.state.recalled[k.id()] = *k
			continue
		}
		if r.refused && k.giveTo(r) {
			s.state.changed |= changedConfig
			s.changed()
		}
	}
}
