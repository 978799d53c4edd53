package plan

import (
	"strings"
	"testing"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/mesh"
)

// TestAuthorizations: those of the workload's namespace and, with Istio, of the
// root namespace, whose selectors mean workloads of any.
func TestAuthorizations(t *testing.T) {
	policy := func(namespace, name string, selector map[string]string) *mesh.Authorization {
		return &mesh.Authorization{Ref: ref("AuthorizationPolicy", namespace, name), Selector: selector, Policy: &seinev1.AuthorizationPolicy{Id: namespace + "/" + name}}
	}
	settings := mesh.DefaultSettings()
	settings.MergeSlashes = true
	app := map[string]string{"app": "a"}
	w := &mesh.Workload{Ref: ref("Pod", "shop", "a-1"), Instance: "a-1", Labels: app}
	other := &mesh.Workload{Ref: ref("Pod", "away", "b-1"), Instance: "b-1", Labels: map[string]string{"app": "b"}}
	s := mesh.New(1, mesh.Parts{Settings: settings, Workloads: []*mesh.Workload{w, other}, Authorizations: []*mesh.Authorization{
		policy("shop", "whole", nil), policy("shop", "mine", app), policy("shop", "others", map[string]string{"app": "x"}),
		policy("elsewhere", "a", nil), policy("seine-system", "selected", app),
	}})
	for _, c := range []struct {
		w    *mesh.Workload
		want string
	}{{w, "shop/whole shop/mine seine-system/selected"}, {other, ""}} {
		self := Self(s, c.w)
		var got []string
		for _, p := range self.Authorization {
			got = append(got, p.Id)
		}
		if strings.Join(got, " ") != c.want || self.MergeSlashes != (c.want != "") {
			t.Errorf("%s: %v, merge slashes %v", c.w.Instance, got, self.MergeSlashes)
		}
	}
}
