package kube

import (
	"context"
	"maps"
	"sync/atomic"
	"testing"
	"time"

	certificatesv1beta1 "k8s.io/api/certificates/v1beta1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("waited in vain: " + what)
		}
	}
}

func TestWanted(t *testing.T) {
	for _, tc := range []struct {
		labels map[string]string
		want   bool
	}{
		{nil, false},
		{map[string]string{"seine.dev/inject": "enabled"}, true},
		{map[string]string{"seine.dev/inject": "true"}, true},
		{map[string]string{"seine.dev/inject": "disabled", "istio-injection": "enabled"}, false},
		{map[string]string{"istio-injection": "enabled"}, true},
		{map[string]string{"istio-injection": "disabled", "istio.io/rev": "a"}, false},
		{map[string]string{"istio.io/rev": "a"}, true},
		{map[string]string{"seine.dev/revision": "a"}, true},
	} {
		if got := Wanted(tc.labels); got != tc.want {
			t.Errorf("%v: %v", tc.labels, got)
		}
	}
}

// TestBundles: each namespace with injection has the ConfigMap, others have not, and
// whatever is done to it is undone.
func TestBundles(t *testing.T) {
	client := fake.NewClientset()
	namespaces := client.CoreV1().Namespaces()
	create := func(name string, labels map[string]string) *corev1.Namespace {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
		if _, err := namespaces.Create(t.Context(), ns, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		return ns
	}
	create(home, nil)
	plain := create("plain", nil)
	create("by-pod", nil)
	create("shop", map[string]string{"istio-injection": "enabled"})
	var bundle atomic.Pointer[string]
	set := func(s string) { bundle.Store(&s) }
	set("one")
	changed := signal()
	ctx, cancel := context.WithCancel(t.Context())
	done := signal()
	go func() {
		defer close(done)
		b := &Bundles{Client: client, Namespace: home, Bundle: func() []byte { return []byte(*bundle.Load()) }}
		if err := b.Run(ctx, changed); err != nil {
			t.Error(err)
		}
	}()
	defer func() { cancel(); <-done }()
	holds := func(ns, want string) {
		t.Helper()
		eventually(t, ns+" holds "+want, func() bool {
			m, err := client.CoreV1().ConfigMaps(ns).Get(ctx, BundleName, metav1.GetOptions{})
			return err == nil && maps.Equal(m.Data, map[string]string{BundleKey: want}) && m.Labels[managedBy] == managedByUs
		})
	}
	holds("shop", "one")
	holds(home, "one")
	if _, err := client.CoreV1().ConfigMaps("plain").Get(ctx, BundleName, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Error("a namespace without injection got it")
	}
	// A label that comes later, and a pod that asks by itself.
	plain.Labels = map[string]string{"seine.dev/inject": "enabled"}
	if _, err := namespaces.Update(ctx, plain, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	holds("plain", "one")
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "by-pod", Name: "a", Labels: map[string]string{"sidecar.istio.io/inject": "true"}}}
	if _, err := client.CoreV1().Pods("by-pod").Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	holds("by-pod", "one")
	// Deleted, and changed by somebody else.
	if err := client.CoreV1().ConfigMaps("shop").Delete(ctx, BundleName, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	holds("shop", "one")
	m, err := client.CoreV1().ConfigMaps("shop").Get(ctx, BundleName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	m.Data = map[string]string{BundleKey: "evil", "more": "x"}
	if _, err := client.CoreV1().ConfigMaps("shop").Update(ctx, m, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	holds("shop", "one")
	// Another bundle.
	set("two")
	changed <- struct{}{}
	for _, ns := range []string{home, "shop", "plain", "by-pod"} {
		holds(ns, "two")
	}
}

// TestClusterBundle: where the API server serves ClusterTrustBundles one holds the
// bundle, and is put back when somebody deletes it or changes it.
func TestClusterBundle(t *testing.T) {
	client := fake.NewClientset()
	client.Fake.Resources = []*metav1.APIResourceList{{
		GroupVersion: certificatesv1beta1.SchemeGroupVersion.String(), APIResources: []metav1.APIResource{{Name: "clustertrustbundles"}},
	}}
	ctx, cancel := context.WithCancel(t.Context())
	done := signal()
	go func() {
		defer close(done)
		b := &Bundles{Client: client, Namespace: home, Bundle: func() []byte { return []byte("roots") }}
		if err := b.Run(ctx, signal()); err != nil {
			t.Error(err)
		}
	}()
	defer func() { cancel(); <-done }()
	api := client.CertificatesV1beta1().ClusterTrustBundles()
	holds := func() bool {
		b, err := api.Get(ctx, ClusterBundle, metav1.GetOptions{})
		return err == nil && b.Spec.TrustBundle == "roots" && b.Spec.SignerName == Signer
	}
	eventually(t, "the ClusterTrustBundle", holds)
	if err := api.Delete(ctx, ClusterBundle, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the ClusterTrustBundle again", holds)
	b, err := api.Get(ctx, ClusterBundle, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	b.Spec.TrustBundle = "evil"
	if _, err := api.Update(ctx, b, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "what was there before", holds)
}

// signal is a channel that only tells.
func signal() chan struct{} { return make(chan struct{}) }
