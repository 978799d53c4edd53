package deploy

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/seinemesh/seine/install"
	"github.com/seinemesh/seine/install/ready"
)

var (
	// ErrInstalled is wrapped where another version or other values are there.
	ErrInstalled = errors.New("already installed")
	// ErrNotInstalled is wrapped where there is nothing to work on.
	ErrNotInstalled = errors.New("not installed")
)

// Event is one step of the work, or news of it.
type Event struct {
	Step   string        // "definitions", "control plane", …
	Detail string        // what it waits for and why, or what came of it
	Done   bool          // the step has ended well
	Note   bool          // beside the steps: something that a person should know
	At     time.Duration // since the beginning
}

// Work is one installation, upgrade or removal.
type Work struct {
	Cluster   *Cluster
	Namespace string
	Revision  string
	Version   string // of the program, and of the images unless values name a tag
	Say       func(Event)
	Now       func() time.Time

	begun time.Time
}

// Result is what an installation came to.
type Result struct {
	Release   int           `json:"release"`
	Namespace string        `json:"namespace"`
	Revision  string        `json:"revision"`
	Version   string        `json:"version"`
	Added     []string      `json:"definitionsApplied"`
	Left      []string      `json:"definitionsLeft"` // with whose they are
	Removed   []string      `json:"removed,omitempty"`
	Took      time.Duration `json:"tookNanoseconds"`
}

func (w *Work) start() { w.begun = w.Now() }

func (w *Work) say(step, detail string, done bool) {
	w.Say(Event{Step: step, Detail: detail, Done: done, At: w.Now().Sub(w.begun)})
}

func (w *Work) note(detail string) {
	w.Say(Event{Detail: detail, Note: true, At: w.Now().Sub(w.begun)})
}

// Current returns the newest release; nil if there is none.
func (w *Work) Current(ctx context.Context) (*Release, error) {
	h, err := w.Cluster.history(ctx, w.Namespace, w.Revision)
	if err != nil {
		return nil, err
	}
	return h.last(), nil
}

// Render renders values for this work.
func (w *Work) Render(ctx context.Context, values map[string]any) ([]*unstructured.Unstructured, error) {
	values = mergeNamespace(values)
	return install.Render(ctx, install.Options{Namespace: w.Namespace, Values: values, Version: w.Version})
}

// mergeNamespace has the chart make the namespace, unless values say otherwise.
func mergeNamespace(values map[string]any) map[string]any {
	if _, ok := values["namespace"]; ok {
		return values
	}
	out := map[string]any{"namespace": map[string]any{"create": true}}
	for k, v := range values {
		out[k] = v
	}
	return out
}

// Install installs what values ask for, or, where the very same is there, makes
// it whole again. Anything else that is there is ErrInstalled: Upgrade shows
// what would change.
func (w *Work) Install(ctx context.Context, values map[string]any) (*Result, error) {
	last, err := w.Current(ctx)
	if err != nil {
		return nil, err
	}
	if last != nil && last.Status == Deployed && (last.Version != w.Version || !same(last.Values, values)) {
		return nil, fmt.Errorf("%w: version %s as release %d, with another version or other values than these; `seine upgrade` shows what would change and changes it", ErrInstalled, last.Version, last.Number)
	}
	objects, err := w.Render(ctx, values)
	if err != nil {
		return nil, err
	}
	return w.deploy(ctx, Release{Version: w.Version, Values: values, Objects: objects})
}

// Upgrade installs what values ask for over what is there.
func (w *Work) Upgrade(ctx context.Context, values map[string]any) (*Result, error) {
	last, err := w.Current(ctx)
	if err != nil {
		return nil, err
	}
	if last == nil {
		return nil, fmt.Errorf("%w: no release of revision %s in %s; `seine install` makes one", ErrNotInstalled, w.Revision, w.Namespace)
	}
	objects, err := w.Render(ctx, values)
	if err != nil {
		return nil, err
	}
	return w.deploy(ctx, Release{Version: w.Version, Values: values, Objects: objects})
}

// Previous returns the release that a roll back would go to.
func (w *Work) Previous(ctx context.Context) (*Release, error) {
	h, err := w.Cluster.history(ctx, w.Namespace, w.Revision)
	if err != nil {
		return nil, err
	}
	last := h.last()
	if last == nil {
		return nil, fmt.Errorf("%w: no release of revision %s in %s", ErrNotInstalled, w.Revision, w.Namespace)
	}
	to := h.good(last.Number)
	if to == nil {
		return nil, fmt.Errorf("%w: no earlier release than %d became ready: there is nothing to go back to", ErrNotInstalled, last.Number)
	}
	return to, nil
}

// Rollback makes a new release of what Previous returned.
func (w *Work) Rollback(ctx context.Context, to *Release) (*Result, error) {
	return w.deploy(ctx, Release{Version: to.Version, Values: to.Values, Objects: to.Objects})
}

// same compares values, absent and empty alike.
func same(a, b map[string]any) bool {
	return len(a) == 0 && len(b) == 0 || reflect.DeepEqual(normal(a), normal(b))
}

// normal is v as it looks after a trip through the history.
func normal(v map[string]any) map[string]any {
	u := &unstructured.Unstructured{}
	data, err := (&unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Values", "values": v}}).MarshalJSON()
	if err != nil || u.UnmarshalJSON(data) != nil {
		return v
	}
	m, _ := u.Object["values"].(map[string]any)
	return m
}

// deploy applies a release and waits until it is ready.
func (w *Work) deploy(ctx context.Context, r Release) (*Result, error) {
	w.start()
	c := w.Cluster
	result := &Result{Namespace: w.Namespace, Revision: w.Revision, Version: r.Version}
	if err := w.mine(ctx); err != nil {
		return nil, err
	}
	if err := w.definitions(ctx, result); err != nil {
		return nil, w.unfinished(err)
	}

	early, late := split(r.Objects)
	if len(early) > 0 && early[0].GetKind() == "Namespace" {
		if err := w.namespace(ctx, early[0]); err != nil {
			return nil, err
		}
		early = early[1:]
	}
	h, err := c.history(ctx, w.Namespace, w.Revision)
	if err != nil {
		return nil, err
	}
	before := h.last()
	r.Number, r.Status, r.Time = 1, Applying, w.Now().UTC()
	if before != nil {
		r.Number = before.Number + 1
		if before.Status == Applying || before.Version == r.Version && same(before.Values, r.Values) {
			r.Number = before.Number // made whole, not made new
		}
	}
	old := objectsOf(h, r.Number)
	if err := c.put(ctx, h, r); err != nil {
		return nil, err
	}
	result.Release = r.Number

	if err := w.applyAll(ctx, "components", early); err != nil {
		return nil, w.unfinished(err)
	}
	if err := w.waitReady(ctx, early); err != nil {
		return nil, w.unfinished(err)
	}
	if err := w.applyAll(ctx, "webhooks", late); err != nil {
		return nil, w.unfinished(err)
	}
	if err := w.waitWebhooks(ctx, late); err != nil {
		return nil, w.unfinished(err)
	}
	for _, u := range slices.Backward(missing(old, r.Objects)) {
		if err := c.remove(ctx, u); err != nil {
			return nil, w.unfinished(err)
		}
		result.Removed = append(result.Removed, name(u))
	}
	r.Status = Deployed
	if err := c.put(ctx, h, r); err != nil {
		return nil, err
	}
	result.Took = w.Now().Sub(w.begun)
	return result, nil
}

// unfinished says how to go on after half of the work.
func (w *Work) unfinished(err error) error {
	return fmt.Errorf("%w\nit is half done: running the same command again goes on where it stopped; `seine check` says more, `seine upgrade --rollback` returns to the release before, `seine uninstall` removes it", err)
}

// mine fails where helm owns the installation.
func (w *Work) mine(ctx context.Context) error {
	d, err := w.Cluster.Kube.AppsV1().Deployments(w.Namespace).Get(ctx, install.Name("seined", w.Revision), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read Deployment seined: %w", hint(err))
	}
	if d.Labels[install.LabelManagedBy] == "Helm" {
		return fmt.Errorf("%w: release %s in %s; use helm upgrade and helm uninstall, or uninstall it there first", ErrHelm, d.Annotations["meta.helm.sh/release-name"], w.Namespace)
	}
	return nil
}

func (w *Work) definitions(ctx context.Context, result *Result) error {
	const step = "definitions"
	w.say(step, "compare with the cluster's", false)
	var all []CRD
	err := poll(ctx, func() (_ bool, err error) {
		if all, err = w.Cluster.CRDs(ctx); err != nil {
			return false, err
		}
		going := 0
		for _, d := range all {
			if d.Going {
				going++
			}
		}
		if going > 0 {
			w.say(step, fmt.Sprintf("%d still being deleted, with the resources of their kinds", going), false)
		}
		return going == 0, nil
	})
	if err != nil {
		return fmt.Errorf("definitions: %w", err)
	}
	var wait []string
	same := 0
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for _, d := range all {
		n := d.Object.GetName()
		switch {
		case d.Apply:
			g.Go(func() error { return w.Cluster.applyCRD(gctx, d) })
			wait = append(wait, n)
			result.Added = append(result.Added, n)
		case d.Newer:
			result.Left = append(result.Left, n+" (a newer release)")
		case d.Owner == install.PartOf:
			same++
		default:
			result.Left = append(result.Left, n+" ("+d.Owner+")")
		}
		if !d.Apply && len(d.Missing) > 0 {
			w.note(fmt.Sprintf("%s belongs to %s and does not serve %s: resources of these versions cannot be applied; have its owner upgrade it", n, d.Owner, strings.Join(d.Missing, ", ")))
		}
	}
	if len(wait) > 0 {
		w.say(step, fmt.Sprintf("apply %d", len(wait)), false)
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := w.Cluster.waitEstablished(ctx, wait, func(s string) { w.say(step, s, false) }); err != nil {
		return err
	}
	w.say(step, fmt.Sprintf("%d applied and established, %d there already, %d of others left alone", len(wait), same, len(result.Left)), true)
	return nil
}

// namespace applies the namespace's object, once one that is going has gone.
func (w *Work) namespace(ctx context.Context, u *unstructured.Unstructured) error {
	const step = "namespace"
	w.say(step, "apply "+u.GetName(), false)
	err := poll(ctx, func() (bool, error) {
		live, err := w.Cluster.get(ctx, u)
		if err != nil || live == nil || live.GetDeletionTimestamp() == nil {
			return true, err
		}
		w.say(step, u.GetName()+" is still being deleted", false)
		return false, nil
	})
	if err != nil {
		return fmt.Errorf("namespace %s: %w", u.GetName(), err)
	}
	if _, err := w.Cluster.apply(ctx, u, false); err != nil {
		return err
	}
	w.say(step, u.GetName(), true)
	return nil
}

func (w *Work) applyAll(ctx context.Context, step string, objects []*unstructured.Unstructured) error {
	if len(objects) == 0 {
		return nil
	}
	for _, u := range objects {
		w.say(step, "apply "+name(u), false)
		if _, err := w.Cluster.apply(ctx, u, false); err != nil {
			return err
		}
	}
	if step == "components" {
		w.say(step, fmt.Sprintf("%d objects applied", len(objects)), true)
	}
	return nil
}

// waitReady waits for the workloads among objects, saying why they are not ready.
func (w *Work) waitReady(ctx context.Context, objects []*unstructured.Unstructured) error {
	for _, u := range objects {
		look := ready.Deployment
		switch u.GetKind() {
		case "Deployment":
		case "DaemonSet":
			look = ready.DaemonSet
		default:
			continue
		}
		step := name(u)
		var last ready.State
		err := poll(ctx, func() (bool, error) {
			s, err := look(ctx, w.Cluster.Kube, u.GetNamespace(), u.GetName())
			if err != nil {
				if ctx.Err() == nil && !apierrors.IsForbidden(err) {
					w.say(step, err.Error(), false) // the API server may be away for a moment
					return false, nil
				}
				return false, err
			}
			last = s
			detail := fmt.Sprintf("%d of %d ready", s.Have, s.Want)
			if len(s.Reasons) > 0 {
				detail += ": " + s.Reasons[0].String()
			}
			w.say(step, detail, s.Ready)
			return s.Ready, nil
		})
		if err != nil {
			why := "nothing more is known"
			if len(last.Reasons) > 0 {
				why = last.Reasons[0].String()
			}
			return fmt.Errorf("%s is not ready (%d of %d): %s: %w", step, last.Have, last.Want, why, err)
		}
	}
	return nil
}

// waitWebhooks waits until seined has written its caBundle into every webhook:
// until then the API server cannot call it.
func (w *Work) waitWebhooks(ctx context.Context, objects []*unstructured.Unstructured) error {
	const step = "webhooks"
	for _, u := range objects {
		var without string
		err := poll(ctx, func() (bool, error) {
			live, err := w.Cluster.get(ctx, u)
			if err != nil {
				return false, err
			}
			without = withoutBundle(live)
			w.say(step, fmt.Sprintf("%s: wait until seined has written the caBundle", u.GetName()), false)
			return without == "", nil
		})
		if err != nil {
			return fmt.Errorf("%s: webhook %s has no caBundle: seined did not write it (kubectl logs -n %s deploy/%s): %w", name(u), without, w.Namespace, install.Name("seined", w.Revision), err)
		}
	}
	if len(objects) > 0 {
		w.say(step, fmt.Sprintf("%d registered, with seined's caBundle", len(objects)), true)
	}
	return nil
}

// withoutBundle names the first webhook that has no caBundle; empty if all have.
func withoutBundle(u *unstructured.Unstructured) string {
	if u == nil {
		return "(the configuration is gone)"
	}
	hooks, _, _ := unstructured.NestedSlice(u.Object, "webhooks")
	for _, h := range hooks {
		m, _ := h.(map[string]any)
		if b, _, _ := unstructured.NestedString(m, "clientConfig", "caBundle"); b == "" {
			n, _ := m["name"].(string)
			return n
		}
	}
	return ""
}

// split puts webhook configurations, which make no sense before something
// answers them, apart.
func split(objects []*unstructured.Unstructured) (early, late []*unstructured.Unstructured) {
	for _, u := range objects {
		if strings.HasSuffix(u.GetKind(), "WebhookConfiguration") {
			late = append(late, u)
		} else {
			early = append(early, u)
		}
	}
	return early, late
}

// objectsOf are those of the releases before number that may still be there:
// the last deployed one's and every unfinished one's after it.
func objectsOf(h *history, number int) []*unstructured.Unstructured {
	var objects []*unstructured.Unstructured
	for i := len(h.releases) - 1; i >= 0; i-- {
		r := h.releases[i]
		objects = append(objects, r.Objects...)
		if r.Status == Deployed && r.Number < number {
			break
		}
	}
	return objects
}

// missing returns the objects of old that are not in now, each once.
func missing(old, now []*unstructured.Unstructured) []*unstructured.Unstructured {
	seen := map[string]bool{}
	for _, u := range now {
		seen[name(u)] = true
	}
	var out []*unstructured.Unstructured
	for _, u := range old {
		if !seen[name(u)] && u.GetKind() != "Namespace" {
			seen[name(u)] = true
			out = append(out, u)
		}
	}
	return out
}
