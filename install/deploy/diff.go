package deploy

import (
	"context"
	"fmt"
	"strings"

	"github.com/pmezard/go-difflib/difflib"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// Change is what an upgrade would do to one object.
type Change struct {
	Name string `json:"name"` // kind namespace/name
	Do   string `json:"do"`   // create, change or delete
	Diff string `json:"diff,omitempty"`
}

// Changes says what applying objects would do, by the API server's own dry run:
// defaults and other owners' fields are no differences. What the last releases
// had and objects have not would be deleted.
func (w *Work) Changes(ctx context.Context, objects []*unstructured.Unstructured) ([]Change, error) {
	h, err := w.Cluster.history(ctx, w.Namespace, w.Revision)
	if err != nil {
		return nil, err
	}
	crds, err := w.Cluster.CRDs(ctx)
	if err != nil {
		return nil, err
	}
	var all []*unstructured.Unstructured
	for _, d := range crds {
		if d.Apply {
			all = append(all, d.Object)
		}
	}
	var changes []Change
	for _, u := range append(all, objects...) {
		live, err := w.Cluster.get(ctx, u)
		if err != nil {
			return nil, err
		}
		if live == nil {
			changes = append(changes, Change{Name: name(u), Do: "create"})
			continue
		}
		after, err := w.Cluster.apply(ctx, u, true)
		if err != nil {
			return nil, err
		}
		diff, err := unified(live, after)
		if err != nil {
			return nil, fmt.Errorf("compare %s: %w", name(u), err)
		}
		if diff != "" {
			changes = append(changes, Change{Name: name(u), Do: "change", Diff: diff})
		}
	}
	last := 0
	if r := h.last(); r != nil {
		last = r.Number + 1
	}
	for _, u := range missing(objectsOf(h, last), objects) {
		if live, err := w.Cluster.get(ctx, u); err != nil {
			return nil, err
		} else if live != nil {
			changes = append(changes, Change{Name: name(u), Do: "delete"})
		}
	}
	return changes, nil
}

// unified is the difference of two states of an object as YAML, without what the
// API server keeps for itself.
func unified(a, b *unstructured.Unstructured) (string, error) {
	x, err := plain(a)
	if err != nil {
		return "", err
	}
	y, err := plain(b)
	if err != nil || x == y {
		return "", err
	}
	return difflib.GetUnifiedDiffString(difflib.UnifiedDiff{
		A: difflib.SplitLines(x), B: difflib.SplitLines(y), FromFile: "now", ToFile: "then", Context: 3,
	})
}

func plain(u *unstructured.Unstructured) (string, error) {
	u = u.DeepCopy()
	for _, f := range []string{"managedFields", "resourceVersion", "generation", "uid", "creationTimestamp"} {
		unstructured.RemoveNestedField(u.Object, "metadata", f)
	}
	unstructured.RemoveNestedField(u.Object, "status")
	data, err := yaml.Marshal(u.Object)
	return strings.TrimSpace(string(data)) + "\n", err
}
