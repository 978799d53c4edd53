package controlplane

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/seinemesh/seine/inject"
)

// missedPods is a cluster whose namespace shop was labelled at labelled.
type missedPods struct {
	*missed
	t      *testing.T
	client *fake.Clientset
	events *record.FakeRecorder
	store  cache.Store
	values inject.Values
}

var labelled = time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)

func newMissedPods(t *testing.T) *missedPods {
	t.Helper()
	at := metav1.NewTime(labelled)
	f := &missedPods{t: t, events: record.NewFakeRecorder(16), store: cache.NewStore(cache.MetaNamespaceKeyFunc), values: inject.Defaults("proxy:1")}
	f.values.Repair = true
	f.client = fake.NewClientset(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", ManagedFields: []metav1.ManagedFieldsEntry{
		{Manager: "kubectl-create", Time: &metav1.Time{Time: labelled.Add(-time.Hour)}, FieldsV1: metav1.NewFieldsV1(`{"f:metadata":{"f:labels":{"f:kubernetes.io/metadata.name":{}}}}`)},
		{Manager: "kubectl-label", Time: &at, FieldsV1: metav1.NewFieldsV1(`{"f:metadata":{"f:labels":{"f:seine.dev/inject":{}}}}`)},
	}}})
	s := &server{opt: Options{Cluster: &Cluster{Client: f.client}}, log: slog.New(slog.DiscardHandler)}
	f.missed = newMissed(s, f.events, func(name string) (inject.Namespace, bool) {
		return inject.Namespace{Name: name, Labels: map[string]string{inject.LabelInject: "enabled"}}, name == "shop"
	})
	return f
}

// add puts a pod into the watched ones, made so long after the label.
func (f *missedPods) add(name, owner string, after time.Duration, change func(*corev1.Pod)) {
	f.t.Helper()
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(name), CreationTimestamp: metav1.NewTime(labelled.Add(after))},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app"}}}, Status: corev1.PodStatus{Phase: corev1.PodRunning},
	}
	if owner != "" {
		set := &metav1.ObjectMeta{Name: owner, UID: types.UID(owner)}
		p.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(set, appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))}
	}
	if change != nil {
		change(p)
	}
	slim, err := slimSidecar(p)
	if err == nil {
		err = f.store.Add(slim)
	}
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *missedPods) gone(name string) {
	f.t.Helper()
	if err := f.store.Delete(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}}); err != nil {
		f.t.Fatal(err)
	}
}

// lookAt returns the Events of a look so long after the label.
func (f *missedPods) lookAt(after time.Duration) (said []string) {
	f.repair(f.t.Context(), f.store.List(), &f.values, labelled.Add(after))
	for {
		select {
		case e := <-f.events.Events:
			said = append(said, e)
		default:
			return said
		}
	}
}

func (f *missedPods) evictions() (names []string) {
	for _, a := range f.client.Actions() {
		if c, ok := a.(k8stesting.CreateAction); ok && c.GetSubresource() == "eviction" {
			names = append(names, c.GetObject().(metav1.Object).GetName())
		}
	}
	return names
}

// Who is outside the mesh without having asked for it, and who is left alone.
func TestMissedFinds(t *testing.T) {
	note := func(p *corev1.Pod, key, value string) { metav1.SetMetaDataAnnotation(&p.ObjectMeta, key, value) }
	for name, c := range map[string]struct {
		after   time.Duration
		change  func(*corev1.Pod)
		evicted bool
	}{
		"made since the label":    {time.Minute, nil, true},
		"older than the label":    {-time.Minute, nil, false},
		"older, and asked itself": {-time.Minute, func(p *corev1.Pod) { metav1.SetMetaDataLabel(&p.ObjectMeta, inject.LabelInject, "enabled") }, true},
		"made this moment":        {time.Hour - time.Second, nil, false},
		"with a sidecar":          {time.Minute, func(p *corev1.Pod) { note(p, inject.AnnotationStatus, "{}") }, false},
		"with one by hand":        {time.Minute, func(p *corev1.Pod) { p.Spec.Containers[0].Name = inject.ProxyName }, false},
		"refuses one":             {time.Minute, func(p *corev1.Pod) { metav1.SetMetaDataLabel(&p.ObjectMeta, inject.LabelInject, "disabled") }, false},
		"the node's network":      {time.Minute, func(p *corev1.Pod) { p.Spec.HostNetwork = true }, false},
		"another mesh's":          {time.Minute, func(p *corev1.Pod) { p.Spec.InitContainers = []corev1.Container{{Name: "istio-proxy"}} }, false},
		"another revision's":      {time.Minute, func(p *corev1.Pod) { metav1.SetMetaDataLabel(&p.ObjectMeta, inject.LabelRevision, "canary") }, false},
		"a static pod":            {time.Minute, func(p *corev1.Pod) { note(p, corev1.MirrorPodAnnotationKey, "x") }, false},
		"nobody's":                {time.Minute, func(p *corev1.Pod) { p.OwnerReferences = nil }, false},
		"of an unknown namespace": {time.Minute, func(p *corev1.Pod) { p.Namespace = "new" }, false},
		"done":                    {time.Minute, func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }, false},
		"going":                   {time.Minute, func(p *corev1.Pod) { p.DeletionTimestamp = &p.CreationTimestamp }, false},
	} {
		t.Run(name, func(t *testing.T) {
			f := newMissedPods(t)
			f.add("a", "set", c.after, c.change)
			said := strings.Join(f.lookAt(time.Hour), "\n")
			if e := f.evictions(); len(e) == 1 != c.evicted || strings.Contains(said, "SidecarRepair") != c.evicted {
				t.Errorf("evicted %q, said %q", e, said)
			}
			f = newMissedPods(t)
			f.values.Repair = false
			f.add("a", "set", c.after, c.change)
			if said := f.lookAt(time.Hour); len(said) > 0 || len(f.evictions()) > 0 {
				t.Errorf("although nobody wants a repair: %q, %q", said, f.evictions())
			}
		})
	}
}

// Evicted is one of each controller's at a time, and none whose predecessor was
// evicted in vain.
func TestMissedInTurn(t *testing.T) {
	f := newMissedPods(t)
	f.add("a-1", "a", time.Minute, nil)
	f.add("a-2", "a", time.Minute, nil)
	f.add("b-1", "b", time.Minute, nil)
	f.lookAt(time.Hour)
	first := f.evictions()
	if len(first) != 2 {
		t.Fatalf("evicted %q", first)
	}
	if f.lookAt(time.Hour + time.Second); len(f.evictions()) != 2 {
		t.Errorf("evicted at once: %q", f.evictions())
	}
	// Those that were evicted go; a's comes back with a sidecar, b's without.
	for _, name := range first {
		f.gone(name)
	}
	f.add("b-2", "b", time.Hour, nil)
	said := strings.Join(f.lookAt(time.Hour+missedLook), "\n")
	if e := f.evictions(); len(e) != 3 || !strings.HasPrefix(e[2], "a-") || !strings.Contains(said, "has none either, so it stays") {
		t.Errorf("evicted %q, said %s", e, said)
	}
	f.gone(f.evictions()[2])
	for i := 2; i < 100; i++ {
		if said := f.lookAt(time.Hour + time.Duration(i)*missedLook); len(said) > 0 {
			t.Errorf("said again: %q", said)
		}
	}
	if e := f.evictions(); len(e) != 3 {
		t.Errorf("evicted in vain: %q", e)
	}
	f.gone("b-2")
	if f.lookAt(9 * time.Hour); len(f.tried) != 0 || len(f.vain) != 0 {
		t.Errorf("kept: %v, %v", f.tried, f.vain)
	}
}
