package deploy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/seinemesh/seine/install"
)

// annotationStatus marks pods that were given a sidecar.
const annotationStatus = "seine.dev/status"

// ErrProxies is wrapped where pods with sidecars still run.
var ErrProxies = errors.New("proxies run")

// UninstallOptions say what Uninstall may take away.
type UninstallOptions struct {
	// Force goes on while pods with sidecars run. They keep the last
	// configuration and lose their certificates' renewal.
	Force bool
	// Purge also deletes definitions of ours that still have resources, with
	// those, and a namespace that holds what others put there.
	Purge bool
}

// Removed is what an uninstallation came to.
type Removed struct {
	Removed []string `json:"removed"`
	// Kept is what is still there, each with why and how to remove it.
	Kept []string `json:"kept"`
}

// kinds are those that a chart with every option on renders, in the order in
// which they go: what reaches into others' requests first.
var kinds = []schema.GroupVersionKind{
	{Group: "admissionregistration.k8s.io", Version: "v1", Kind: "MutatingWebhookConfiguration"},
	{Group: "admissionregistration.k8s.io", Version: "v1", Kind: "ValidatingWebhookConfiguration"},
	{Group: "apps", Version: "v1", Kind: "Deployment"},
	{Group: "apps", Version: "v1", Kind: "DaemonSet"},
	{Group: "policy", Version: "v1", Kind: "PodDisruptionBudget"},
	{Group: "monitoring.coreos.com", Version: "v1", Kind: "PodMonitor"},
	{Group: "monitoring.coreos.com", Version: "v1", Kind: "ServiceMonitor"},
	{Version: "v1", Kind: "Service"},
	{Version: "v1", Kind: "ConfigMap"},
	{Version: "v1", Kind: "Secret"},
	{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "RoleBinding"},
	{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "Role"},
	{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "ClusterRoleBinding"},
	{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "ClusterRole"},
	{Version: "v1", Kind: "ServiceAccount"},
}

// Proxies lists the pods that run a sidecar, as namespace/name: of one revision,
// or with revision "" of any.
func (c *Cluster) Proxies(ctx context.Context, revision string) ([]string, error) {
	var names []string
	o := metav1.ListOptions{Limit: 500}
	for {
		pods, err := c.Kube.CoreV1().Pods(metav1.NamespaceAll).List(ctx, o)
		if err != nil {
			return nil, fmt.Errorf("list pods: %w", hint(err))
		}
		for _, p := range pods.Items {
			note := p.Annotations[annotationStatus]
			if note == "" || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
				continue
			}
			var status struct {
				Revision string `json:"revision"`
			}
			// one that cannot be read counts for every revision
			if err := json.Unmarshal([]byte(note), &status); err == nil && status.Revision != "" && revision != "" && status.Revision != revision {
				continue
			}
			names = append(names, p.Namespace+"/"+p.Name)
		}
		if o.Continue = pods.Continue; o.Continue == "" {
			return names, nil
		}
	}
}

// Uninstall takes a revision away, and with the last one all that the revisions
// share. It waits until what it deleted is gone.
func (w *Work) Uninstall(ctx context.Context, o UninstallOptions) (*Removed, error) {
	w.start()
	if err := w.mine(ctx); err != nil {
		return nil, err
	}
	others, err := w.revisions(ctx)
	if err != nil {
		return nil, err
	}
	if !o.Force {
		whose := ""
		if len(others) > 0 {
			whose = w.Revision
		}
		proxies, err := w.Cluster.Proxies(ctx, whose)
		if err != nil {
			return nil, err
		}
		if len(proxies) > 0 {
			return nil, fmt.Errorf("%w in %d pods: %s; without a control plane they lose their certificates within a day and STRICT peers refuse them. Remove the labels (kubectl label namespace NAME seine.dev/inject-) and restart the workloads, or --force", ErrProxies, len(proxies), few(proxies, 10))
		}
	}
	r := &Removed{}
	selector := install.LabelPartOf + "=" + install.PartOf + "," + install.LabelRevision + "=" + w.Revision
	for _, k := range kinds {
		if err := w.deleteAll(ctx, r, k, metav1.ListOptions{LabelSelector: selector}); err != nil {
			return r, err
		}
	}
	if err := w.waitStopped(ctx); err != nil {
		return r, err
	}
	if len(others) > 0 {
		r.Kept = append(r.Kept, fmt.Sprintf("definitions, the root certificate and namespace %s: revision %s uses them", w.Namespace, strings.Join(others, ", ")))
	} else if err := w.shared(ctx, r, o); err != nil {
		return r, err
	}
	if len(r.Removed) == 0 && len(r.Kept) == 0 {
		return r, fmt.Errorf("%w: nothing of revision %s is in this cluster", ErrNotInstalled, w.Revision)
	}
	return r, nil
}

// waitStopped waits until no seined of the revision is left, which would make
// anew what is about to be deleted.
func (w *Work) waitStopped(ctx context.Context) error {
	var left []string
	err := poll(ctx, func() (bool, error) {
		pods, err := w.Cluster.Kube.CoreV1().Pods(w.Namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=seined," + install.LabelRevision + "=" + w.Revision})
		if err != nil {
			return false, fmt.Errorf("list the pods of seined: %w", hint(err))
		}
		left = left[:0]
		for _, p := range pods.Items {
			left = append(left, p.Name)
		}
		w.say("wait until stopped", few(left, 3), false)
		return len(left) == 0, nil
	})
	if err != nil {
		return fmt.Errorf("pods of seined do not end: %s: %w; run `seine uninstall` again", few(left, 3), err)
	}
	return nil
}

// revisions lists the other revisions' control planes.
func (w *Work) revisions(ctx context.Context) (others []string, err error) {
	list, err := w.Cluster.Kube.AppsV1().Deployments(metav1.NamespaceAll).List(ctx, metav1.ListOptions{LabelSelector: "app=seined," + install.LabelPartOf + "=" + install.PartOf})
	if err != nil {
		return nil, fmt.Errorf("list control planes: %w", hint(err))
	}
	for _, d := range list.Items {
		if rev := d.Labels[install.LabelRevision]; rev != w.Revision {
			others = append(others, rev)
		}
	}
	slices.Sort(others)
	return others, nil
}

// shared removes what no revision owns alone: what seined made, the definitions
// and the namespace.
func (w *Work) shared(ctx context.Context, r *Removed, o UninstallOptions) error {
	// seined marks what it makes itself.
	for _, k := range []schema.GroupVersionKind{
		{Version: "v1", Kind: "ConfigMap"},
		{Group: "coordination.k8s.io", Version: "v1", Kind: "Lease"},
		{Group: "certificates.k8s.io", Version: "v1beta1", Kind: "ClusterTrustBundle"},
	} {
		if err := w.deleteAll(ctx, r, k, metav1.ListOptions{LabelSelector: install.LabelManagedBy + "=seined"}); err != nil {
			return err
		}
	}
	for _, g := range []struct {
		gvk             schema.GroupVersionKind
		namespace, name string
	}{
		{schema.GroupVersionKind{Version: "v1", Kind: "Secret"}, w.Namespace, "seine-ca"},
		{schema.GroupVersionKind{Group: "certificates.k8s.io", Version: "v1beta1", Kind: "ClusterTrustBundle"}, "", "seine.dev:ca:root"},
	} {
		u := &unstructured.Unstructured{}
		u.SetGroupVersionKind(g.gvk)
		u.SetNamespace(g.namespace)
		u.SetName(g.name)
		if live, err := w.Cluster.get(ctx, u); unserved(err) || err == nil && live == nil {
			continue
		} else if err != nil {
			return err
		}
		if err := w.Cluster.remove(ctx, u); err != nil {
			return err
		}
		r.Removed = append(r.Removed, name(u))
	}
	if err := w.deleteDefinitions(ctx, r, o.Purge); err != nil {
		return err
	}
	return w.deleteNamespace(ctx, r, o.Purge)
}

// unserved says that the cluster does not know the kind at all.
func unserved(err error) bool { return meta.IsNoMatchError(err) }

// deleteAll deletes what of a kind the options select, in all namespaces.
func (w *Work) deleteAll(ctx context.Context, r *Removed, k schema.GroupVersionKind, o metav1.ListOptions) error {
	m, err := w.Cluster.mapper.RESTMapping(k.GroupKind(), k.Version)
	if unserved(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("delete %s objects: %w", k.Kind, hint(err))
	}
	list, err := w.Cluster.Dynamic.Resource(m.Resource).List(ctx, o)
	if err != nil {
		return fmt.Errorf("list %s objects: %w", k.Kind, hint(err))
	}
	for i := range list.Items {
		u := &list.Items[i]
		w.say("remove", name(u), false)
		if err := w.Cluster.remove(ctx, u); err != nil {
			return err
		}
		r.Removed = append(r.Removed, name(u))
	}
	return nil
}

// deleteDefinitions deletes the definitions that an installation made, unless
// somebody's resources would go with them.
func (w *Work) deleteDefinitions(ctx context.Context, r *Removed, purge bool) error {
	all, err := w.Cluster.CRDs(ctx)
	if err != nil {
		return err
	}
	var gone []*unstructured.Unstructured
	for _, d := range all {
		n := d.Object.GetName()
		switch d.Owner {
		case "":
			continue
		case install.PartOf:
		default:
			r.Kept = append(r.Kept, fmt.Sprintf("CustomResourceDefinition %s: it belongs to %s", n, d.Owner))
			continue
		}
		count, err := w.count(ctx, d.Object)
		if err != nil {
			return err
		}
		if count != "" && !purge {
			r.Kept = append(r.Kept, fmt.Sprintf("CustomResourceDefinition %s: %s would be deleted with it; delete them, or --purge", n, count))
			continue
		}
		w.say("remove", "definition "+n, false)
		if err := w.Cluster.remove(ctx, d.Object); err != nil {
			return err
		}
		gone = append(gone, d.Object)
		r.Removed = append(r.Removed, name(d.Object))
	}
	for _, u := range gone {
		if err := w.waitGone(ctx, u); err != nil {
			return err
		}
	}
	return nil
}

// count says how many resources a definition has: "" for none, "3 resources
// (shop/route, …)" otherwise.
func (w *Work) count(ctx context.Context, crd *unstructured.Unstructured) (string, error) {
	group, _, _ := unstructured.NestedString(crd.Object, "spec", "group")
	plural, _, _ := unstructured.NestedString(crd.Object, "spec", "names", "plural")
	var version string
	versions, _, _ := unstructured.NestedSlice(crd.Object, "spec", "versions")
	for _, v := range versions {
		if m, ok := v.(map[string]any); ok && m["storage"] == true {
			version, _ = m["name"].(string)
		}
	}
	list, err := w.Cluster.Dynamic.Resource(schema.GroupVersionResource{Group: group, Version: version, Resource: plural}).List(ctx, metav1.ListOptions{Limit: 11})
	if apierrors.IsNotFound(err) {
		return "", nil // not served (any more)
	}
	if err != nil {
		return "", fmt.Errorf("list resources of %s: %w", crd.GetName(), hint(err))
	}
	var names []string
	for i := range list.Items {
		names = append(names, strings.TrimPrefix(list.Items[i].GetNamespace()+"/"+list.Items[i].GetName(), "/"))
	}
	if len(names) == 0 {
		return "", nil
	}
	if len(names) > 10 {
		return "more than 10 resources (" + few(names, 3) + ")", nil
	}
	return fmt.Sprintf("%d resources (%s)", len(names), few(names, 3)), nil
}

// deleteNamespace deletes the namespace if an installation made it and nobody
// else put anything into it that would be missed.
func (w *Work) deleteNamespace(ctx context.Context, r *Removed, purge bool) error {
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(schema.GroupVersionKind{Version: "v1", Kind: "Namespace"})
	u.SetName(w.Namespace)
	live, err := w.Cluster.get(ctx, u)
	if err != nil || live == nil {
		return err
	}
	if Owner(live) != install.PartOf {
		r.Kept = append(r.Kept, fmt.Sprintf("Namespace %s: it belongs to %s", w.Namespace, Owner(live)))
		return nil
	}
	foreign, err := w.foreign(ctx)
	if err != nil {
		return err
	}
	if len(foreign) > 0 && !purge {
		r.Kept = append(r.Kept, fmt.Sprintf("Namespace %s: others' %s would be deleted with it; move or delete them, or --purge", w.Namespace, few(foreign, 5)))
		return nil
	}
	if err := w.Cluster.remove(ctx, u); err != nil {
		return err
	}
	r.Removed = append(r.Removed, name(u))
	return w.waitGone(ctx, u)
}

// foreign lists what others put into the namespace.
func (w *Work) foreign(ctx context.Context) ([]string, error) {
	var found []string
	own := func(m metav1.ObjectMeta) bool {
		return m.DeletionTimestamp != nil || m.Labels[install.LabelPartOf] == install.PartOf || m.Labels[install.LabelManagedBy] == "seined" || len(m.OwnerReferences) > 0
	}
	secrets, err := w.Cluster.Kube.CoreV1().Secrets(w.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list Secrets: %w", hint(err))
	}
	for _, s := range secrets.Items {
		if !own(s.ObjectMeta) && s.Name != "seine-ca" && s.Type != "kubernetes.io/service-account-token" {
			found = append(found, "Secret "+s.Name)
		}
	}
	maps, err := w.Cluster.Kube.CoreV1().ConfigMaps(w.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list ConfigMaps: %w", hint(err))
	}
	for _, m := range maps.Items {
		if !own(m.ObjectMeta) && m.Name != "kube-root-ca.crt" && m.Name != "seine-ca-root" {
			found = append(found, "ConfigMap "+m.Name)
		}
	}
	pods, err := w.Cluster.Kube.CoreV1().Pods(w.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list pods: %w", hint(err))
	}
	for _, p := range pods.Items {
		if !own(p.ObjectMeta) || p.Labels[install.LabelPartOf] != install.PartOf && p.DeletionTimestamp == nil {
			found = append(found, "Pod "+p.Name)
		}
	}
	return found, nil
}

// waitGone waits until an object that is being deleted has gone, saying what
// holds it.
func (w *Work) waitGone(ctx context.Context, u *unstructured.Unstructured) error {
	var why string
	err := poll(ctx, func() (bool, error) {
		live, err := w.Cluster.get(ctx, u)
		if live == nil || err != nil {
			return err == nil || unserved(err), err
		}
		why = terminating(live)
		w.say("wait until gone", name(u)+why, false)
		return false, nil
	})
	if err != nil {
		return fmt.Errorf("%s does not go%s: %w; run `seine uninstall` again", name(u), why, err)
	}
	return nil
}

// terminating says what holds an object that is being deleted: a namespace's
// conditions, or finalizers.
func terminating(u *unstructured.Unstructured) string {
	conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	for _, c := range conditions {
		if m, ok := c.(map[string]any); ok && m["status"] == "True" {
			if t, _ := m["type"].(string); t == "NamespaceContentRemaining" || t == "NamespaceFinalizersRemaining" || t == "NamespaceDeletionDiscoveryFailure" {
				s, _ := m["message"].(string)
				return ": " + s
			}
		}
	}
	if f := u.GetFinalizers(); len(f) > 0 {
		return ": finalizers " + strings.Join(f, ", ")
	}
	return ""
}
