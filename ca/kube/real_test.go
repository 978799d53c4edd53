package kube

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/seinemesh/seine/ca"
	"github.com/seinemesh/seine/ca/rotation"
)

// realCluster is the one whose API server SEINE_API_KUBECONFIG names: `make cluster-up`
// makes one. What an API server says of tokens, versions and names, no fake knows.
func realCluster(t *testing.T) (kubernetes.Interface, string) {
	path := os.Getenv("SEINE_API_KUBECONFIG")
	if path == "" {
		t.Skip("SEINE_API_KUBECONFIG names no cluster")
	}
	config, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		t.Fatal(err)
	}
	config.QPS, config.Burst = 200, 400
	web, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { utilnet.CloseIdleConnectionsFor(web.Transport) })
	client, err := kubernetes.NewForConfigAndClient(config, web)
	if err != nil {
		t.Fatal(err)
	}
	ns, err := client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "seine-ca-test-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.CoreV1().Namespaces().Delete(context.Background(), ns.Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	return client, ns.Name
}

// TestRealTokens: tokens as an API server makes them and judges them.
func TestRealTokens(t *testing.T) {
	client, ns := realCluster(t)
	ctx := t.Context()
	for _, name := range []string{"cart", "other"} {
		if _, err := client.CoreV1().ServiceAccounts(ns).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	no := false
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "cart-1"}, Spec: corev1.PodSpec{
		ServiceAccountName: "cart", NodeName: "nowhere", AutomountServiceAccountToken: &no,
		Containers: []corev1.Container{{Name: "a", Image: "none"}},
	}}
	create := func() *corev1.Pod {
		p, err := client.CoreV1().Pods(ns).Create(ctx, pod, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	live := create()
	mint := func(audience string, bound *corev1.Pod) string {
		spec := authenticationv1.TokenRequestSpec{Audiences: []string{audience}}
		if bound != nil {
			spec.BoundObjectRef = &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: bound.Name, UID: bound.UID}
		}
		r, err := client.CoreV1().ServiceAccounts(ns).CreateToken(ctx, "cart", &authenticationv1.TokenRequest{Spec: spec}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return r.Status.Token
	}
	a := &Attestor{Client: client}
	good := mint(Audience, live)
	got, err := a.Attest(ctx, good)
	if want := (ca.Claims{Namespace: ns, ServiceAccount: "cart", Workload: "cart-1"}); err != nil || got != want {
		t.Fatalf("%+v, %v", got, err)
	}
	forged := good[:strings.LastIndexByte(good, '.')+1] + "AAAA"
	for name, tc := range map[string]struct {
		token string
		want  error
	}{
		"of another audience": {mint("https://kubernetes.default.svc", live), ca.ErrToken},
		"not bound":           {mint(Audience, nil), ca.ErrToken},
		"forged":              {forged, ca.ErrToken},
	} {
		if got, err := a.Attest(ctx, tc.token); !errors.Is(err, tc.want) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	// The pod is replaced by one of the same name: its token is worth nothing any more.
	zero := int64(0)
	if err := client.CoreV1().Pods(ns).Delete(ctx, "cart-1", metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
		t.Fatal(err)
	}
	create()
	// The API server remembers its verdicts for some seconds; ours looks at the pod.
	if got, err := a.Attest(ctx, good); !errors.Is(err, ErrPod) && !errors.Is(err, ca.ErrToken) {
		t.Errorf("a predecessor's token: %+v, %v", got, err)
	}
}

// TestRealSecretAndReports: compare and swap, watches and Leases as an API server has them.
func TestRealSecretAndReports(t *testing.T) {
	client, ns := realCluster(t)
	ctx, cancel := context.WithCancel(t.Context())
	roots := &Roots{Client: client, Namespace: ns, TrustDomain: "cluster.local"}
	if err := roots.Make(ctx); err != nil {
		t.Fatal(err)
	}
	if err := roots.Make(ctx); err != nil {
		t.Fatal(err)
	}
	taken := make(chan *Root, 16)
	done := make(chan struct{})
	go func() { defer close(done); _ = roots.Watch(ctx, func(r *Root) { taken <- r }) }()
	defer func() { cancel(); <-done }()
	first := <-taken
	store := Records{Roots: roots}
	record, err := store.Load(ctx)
	if err != nil {
		t.Fatal(err)
	}
	next, err := ca.Generate("cluster.local", 0, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	begun, err := rotation.Begin(record, next, false, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Save(ctx, begun); err != nil {
		t.Fatal(err)
	}
	if err := store.Save(ctx, begun); !errors.Is(err, rotation.ErrConflict) {
		t.Errorf("a second writer: %v", err)
	}
	for seen, deadline := false, time.After(20*time.Second); !seen; {
		select {
		case r := <-taken: // also of before, each time that something is heard
			seen = r.State.Step == rotation.Prepare && r.Next != nil && r.Version != first.Version
		case <-deadline:
			t.Fatal("the change was not seen")
		}
	}
	reports := &Reports{Client: client, Namespace: ns, Replica: "seined-1"}
	for range 2 {
		if err := reports.Write(ctx, rotation.Report{Replica: "seined-1", Connected: 3}, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	list, err := reports.Read(ctx, time.Now())
	if err != nil || len(list) != 1 || list[0].Connected != 3 {
		t.Errorf("%+v, %v", list, err)
	}
	if list, err = reports.Read(ctx, time.Now().Add(time.Minute)); err != nil || len(list) != 0 {
		t.Errorf("of a dead replica: %+v, %v", list, err)
	}
	if err := reports.Remove(ctx); err != nil {
		t.Fatal(err)
	}
}

// TestRealBundles: ConfigMaps in every namespace with injection, by field selectors and
// caches as an API server serves them.
func TestRealBundles(t *testing.T) {
	client, ns := realCluster(t)
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := client.CoreV1().Namespaces().Patch(ctx, ns, "application/merge-patch+json", []byte(`{"metadata":{"labels":{"seine.dev/inject":"enabled"}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	b := &Bundles{Client: client, Namespace: "default", Bundle: func() []byte { return []byte("roots") }}
	done := make(chan struct{})
	go func() { defer close(done); _ = b.Run(ctx, signal()) }()
	defer func() { cancel(); <-done }()
	holds := func() bool {
		m, err := client.CoreV1().ConfigMaps(ns).Get(ctx, BundleName, metav1.GetOptions{})
		return err == nil && m.Data[BundleKey] == "roots"
	}
	eventually(t, "the ConfigMap", holds)
	if err := client.CoreV1().ConfigMaps(ns).Delete(ctx, BundleName, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the ConfigMap again", holds)
}
