package kube

import (
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/seinemesh/seine/config"
)

// checkedTogether is up to how many resources one that is to be judged is looked
// at among: a build of them must fit into the time of an admission.
const checkedTogether = 2000

// Check says what there would be to say of an object if it were stored: among
// all others or, where they are too many or not read yet, what there is to say of
// it alone.
func (s *Source) Check(o *config.Object) (config.Findings, error) {
	data, err := o.JSON()
	if err != nil {
		return nil, err
	}
	r := &resource{id: id{schema.FromAPIVersionAndKind(o.APIVersion, o.Kind).Group, o.Kind, o.Namespace, o.Name}, created: time.Now(), data: data}
	s.mu.Lock()
	in := &input{settings: s.state.settings}
	alone := len(s.state.resources) > checkedTogether || !s.asked || len(s.unread()) > 0
	if !alone {
		in = s.state.input()
	}
	s.mu.Unlock()
	put := false
	for i, other := range in.resources {
		if other.id == r.id {
			r.created = other.created
			in.resources[i], in.data[i], put = r, data, true
		}
	}
	if !put {
		in.resources, in.data = append(in.resources, r), append(in.data, data)
	}
	var out config.Findings
	for _, f := range in.build(s.opt.Config).Findings {
		if f.Kind == o.Kind && f.Namespace == o.Namespace && f.Name == o.Name && (f.Refused || !alone) {
			out = append(out, f)
		}
	}
	return out, nil
}
