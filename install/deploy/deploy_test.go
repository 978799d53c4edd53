package deploy

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/seinemesh/seine/install"
)

func object(kind, name string) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": kind}}
	u.SetName(name)
	return u
}

// Whose a definition is decides whether it is touched.
func TestCompare(t *testing.T) {
	crds, err := install.CRDs()
	if err != nil {
		t.Fatal(err)
	}
	var route *unstructured.Unstructured
	for _, u := range crds {
		if u.GetName() == "httproutes.gateway.networking.k8s.io" {
			route = u
		}
	}
	const bundle = "gateway.networking.k8s.io/bundle-version"
	live := func(change func(u *unstructured.Unstructured)) *unstructured.Unstructured {
		u := route.DeepCopy()
		u.Object["status"] = map[string]any{"conditions": []any{map[string]any{"type": "Established", "status": "True"}}}
		change(u)
		return u
	}
	note := func(u *unstructured.Unstructured, key, value string) {
		m := u.GetAnnotations()
		m[key] = value
		u.SetAnnotations(m)
	}
	for name, c := range map[string]struct {
		live *unstructured.Unstructured
		want CRD
	}{
		"absent":   {nil, CRD{Apply: true}},
		"the same": {live(func(*unstructured.Unstructured) {}), CRD{Owner: "seine", Established: true}},
		"ours, other content": {live(func(u *unstructured.Unstructured) { note(u, "seine.dev/content", "x") }),
			CRD{Owner: "seine", Established: true, Apply: true}},
		"ours, never established": {live(func(u *unstructured.Unstructured) { delete(u.Object, "status") }), CRD{Owner: "seine", Apply: true}},
		"ours, newer": {live(func(u *unstructured.Unstructured) { note(u, bundle, "v9.0.0"); note(u, "seine.dev/content", "x") }),
			CRD{Owner: "seine", Established: true, Newer: true}},
		"helm's, with our label": {live(func(u *unstructured.Unstructured) {
			note(u, "meta.helm.sh/release-name", "gw")
			note(u, "meta.helm.sh/release-namespace", "infra")
		}), CRD{Owner: "Helm release gw in infra", Established: true}},
		"ours, going": {live(func(u *unstructured.Unstructured) { u.SetDeletionTimestamp(&metav1.Time{Time: time.Unix(1, 0)}) }),
			CRD{Owner: "seine", Established: true, Going: true}},
		"Istio's": {live(func(u *unstructured.Unstructured) { u.SetLabels(map[string]string{"app": "istio-pilot"}) }), CRD{Owner: "Istio", Established: true}},
		"kubectl's, older": {live(func(u *unstructured.Unstructured) {
			u.SetLabels(nil)
			u.SetManagedFields([]metav1.ManagedFieldsEntry{{Manager: "kube-apiserver"}, {Manager: "kubectl-client-side-apply"}})
			versions, _, _ := unstructured.NestedSlice(u.Object, "spec", "versions")
			versions[0].(map[string]any)["served"] = false
			_ = unstructured.SetNestedSlice(u.Object, versions, "spec", "versions")
		}), CRD{Owner: "field manager kubectl-client-side-apply", Established: true, Missing: []string{"v1"}}},
	} {
		t.Run(name, func(t *testing.T) {
			got := compare(route, c.live)
			got.Object = nil
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// The history survives its Secret, keeps the last few, and lets no two
// installations write at once.
func TestHistory(t *testing.T) {
	c := &Cluster{Kube: fake.NewClientset()}
	ctx := t.Context()
	h, err := c.history(ctx, "seine-system", "canary")
	if err != nil || h.last() != nil {
		t.Fatalf("%v %v", h.last(), err)
	}
	for n := 1; n <= 7; n++ {
		status := Deployed
		if n == 6 {
			status = Applying
		}
		r := Release{Number: n, Version: "v1", Status: status, Time: time.Unix(int64(n), 0).UTC(), Values: map[string]any{"replicas": int64(n)}, Objects: []*unstructured.Unstructured{object("ConfigMap", "a")}}
		if err := c.put(ctx, h, r); err != nil {
			t.Fatal(err)
		}
	}
	again, err := c.history(ctx, "seine-system", "canary")
	if err != nil {
		t.Fatal(err)
	}
	var numbers []int
	for _, r := range again.releases {
		numbers = append(numbers, r.Number)
	}
	if diff := cmp.Diff([]int{3, 4, 5, 6, 7}, numbers); diff != "" {
		t.Error(diff)
	}
	if got := again.good(7); got == nil || got.Number != 5 {
		t.Errorf("release to go back to: %+v", got)
	}
	if !same(again.last().Values, map[string]any{"replicas": 7}) || same(again.last().Values, map[string]any{"replicas": 8}) {
		t.Errorf("values after a trip through the history: %v", again.last().Values)
	}
	first := &history{namespace: "seine-system", revision: "canary"}
	if err := c.put(ctx, first, Release{Number: 1}); err == nil {
		t.Error("a second installation that saw no history wrote one")
	}
}

func TestMissing(t *testing.T) {
	a, b, ns := object("ConfigMap", "a"), object("ConfigMap", "b"), object("Namespace", "n")
	got := missing([]*unstructured.Unstructured{ns, a, b, b}, []*unstructured.Unstructured{a})
	if len(got) != 1 || got[0] != b {
		t.Errorf("to remove: %v", got)
	}
}

// A webhook without a caBundle cannot be called.
func TestWithoutBundle(t *testing.T) {
	u := object("MutatingWebhookConfiguration", "x")
	hook := func(name, bundle string) map[string]any {
		return map[string]any{"name": name, "clientConfig": map[string]any{"caBundle": bundle}}
	}
	u.Object["webhooks"] = []any{hook("a", "eA=="), hook("b", "")}
	if got := withoutBundle(u); got != "b" {
		t.Errorf("%q", got)
	}
	u.Object["webhooks"] = []any{hook("a", "eA==")}
	if got := withoutBundle(u); got != "" {
		t.Errorf("%q", got)
	}
	if withoutBundle(nil) == "" {
		t.Error("a configuration that is gone has a caBundle")
	}
}

func TestUnified(t *testing.T) {
	a, b := object("ConfigMap", "a"), object("ConfigMap", "a")
	a.SetResourceVersion("1")
	b.SetResourceVersion("2")
	b.SetManagedFields([]metav1.ManagedFieldsEntry{{Manager: "seine"}})
	if d, err := unified(a, b); d != "" || err != nil {
		t.Errorf("the API server's own fields are a difference: %q %v", d, err)
	}
	b.Object["data"] = map[string]any{"k": "v"}
	if d, err := unified(a, b); err != nil || d == "" {
		t.Errorf("%q %v", d, err)
	}
}
