package deploy

import (
	"context"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/seinemesh/seine/install"
)

// CRD is what is to be done about one definition.
type CRD struct {
	Object *unstructured.Unstructured // ours
	// Owner says whose the one in the cluster is: "" for none, "seine", or who
	// else, as "Istio" or "Helm release istio-base in istio-system".
	Owner string
	// Apply is set where it is absent, or ours, of no newer release and not the
	// very same.
	Apply bool
	// Newer is set where the one there is ours, but of a newer release.
	Newer bool
	// Missing are versions that ours serves and theirs does not.
	Missing []string
	// Established says that the one in the cluster is served.
	Established bool
	// Going says that it is being deleted: it cannot be kept, nor made anew yet.
	Going bool
}

// CRDs compares our definitions with those of the cluster.
func (c *Cluster) CRDs(ctx context.Context) ([]CRD, error) {
	ours, err := install.CRDs()
	if err != nil {
		return nil, err
	}
	list, err := c.Dynamic.Resource(crdResource).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list custom resource definitions: %w", hint(err))
	}
	there := map[string]*unstructured.Unstructured{}
	for i := range list.Items {
		there[list.Items[i].GetName()] = &list.Items[i]
	}
	var out []CRD
	for _, u := range ours {
		out = append(out, compare(u, there[u.GetName()]))
	}
	return out, nil
}

// compare says what is to be done about ours, given the live one or nil.
func compare(ours, live *unstructured.Unstructured) CRD {
	d := CRD{Object: ours, Owner: Owner(live)}
	if live == nil {
		d.Apply = true
		return d
	}
	d.Established = established(live)
	d.Going = live.GetDeletionTimestamp() != nil
	d.Newer = install.Older(ours, live)
	d.Apply = d.Owner == install.PartOf && !d.Newer && !(d.Established && install.Same(ours, live))
	served := install.ServedVersions(live)
	for _, v := range install.ServedVersions(ours) {
		if !slices.Contains(served, v) {
			d.Missing = append(d.Missing, v)
		}
	}
	return d
}

// Owner says whose an object is: "" where it is nil, "seine" where an
// installation of Seine made it, or who else by the marks that tools leave.
func Owner(u *unstructured.Unstructured) string {
	if u == nil {
		return ""
	}
	labels, notes := u.GetLabels(), u.GetAnnotations()
	if r := notes["meta.helm.sh/release-name"]; r != "" {
		return fmt.Sprintf("Helm release %s in %s", r, notes["meta.helm.sh/release-namespace"])
	}
	if labels[install.LabelPartOf] == install.PartOf {
		return install.PartOf
	}
	if labels["app"] == "istio-pilot" || labels["operator.istio.io/component"] != "" || labels["install.operator.istio.io/owning-resource"] != "" {
		return "Istio"
	}
	for _, f := range u.GetManagedFields() {
		if f.Subresource == "" && f.Manager != "" && f.Manager != "kube-apiserver" {
			return "field manager " + f.Manager
		}
	}
	return "somebody else"
}

func established(crd *unstructured.Unstructured) bool {
	conditions, _, _ := unstructured.NestedSlice(crd.Object, "status", "conditions")
	for _, c := range conditions {
		if m, ok := c.(map[string]any); ok && m["type"] == "Established" && m["status"] == "True" {
			return true
		}
	}
	return false
}

// applyCRD creates an absent definition, which costs the API server far less than
// to apply it, and applies one that is there.
func (c *Cluster) applyCRD(ctx context.Context, d CRD) error {
	if d.Owner == "" {
		_, err := c.Dynamic.Resource(crdResource).Create(ctx, d.Object, metav1.CreateOptions{FieldManager: FieldManager})
		if err != nil {
			return fmt.Errorf("create %s: %w", name(d.Object), hint(err))
		}
		return nil
	}
	_, err := c.apply(ctx, d.Object, false)
	return err
}

// waitEstablished waits until every named definition is served; say is told how
// many are.
func (c *Cluster) waitEstablished(ctx context.Context, names []string, say func(string)) error {
	var left []string
	err := poll(ctx, func() (bool, error) {
		list, err := c.Dynamic.Resource(crdResource).List(ctx, metav1.ListOptions{})
		if err != nil {
			if apierrors.IsForbidden(err) {
				return false, hint(err)
			}
			return false, nil // it passes, or the time runs out
		}
		left = slices.Clone(names)
		for i := range list.Items {
			if established(&list.Items[i]) {
				left = slices.DeleteFunc(left, func(n string) bool { return n == list.Items[i].GetName() })
			}
		}
		say(fmt.Sprintf("%d of %d established", len(names)-len(left), len(names)))
		return len(left) == 0, nil
	})
	if err != nil {
		return fmt.Errorf("definitions are not established: %s: %w", few(left, 3), err)
	}
	c.mapper.Reset()
	return nil
}

// few joins the first n of s and says how many more there are.
func few(s []string, n int) string {
	if len(s) <= n {
		return strings.Join(s, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(s[:n], ", "), len(s)-n)
}
