package controlplane

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"github.com/seinemesh/seine/ca/kube"
	"github.com/seinemesh/seine/cluster"
	"github.com/seinemesh/seine/mtls"
	"github.com/seinemesh/seine/mtls/caclient"
)

// podToken is a pod's token, as the API in memory knows it.
func podToken(t testing.TB, name, account string) string {
	t.Helper()
	body, err := json.Marshal(map[string]any{"aud": []string{kube.Audience}, "exp": 4e9, "pod": name, "sa": account})
	if err != nil {
		t.Fatal(err)
	}
	return "e30." + base64.RawURLEncoding.EncodeToString(body) + ".c2ln"
}

// fakeCluster is an API in memory that knows the pods of accounts and their tokens.
func fakeCluster(t testing.TB) (*Cluster, string) {
	t.Helper()
	objects := []runtime.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: cluster.Namespace}},
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default", Labels: map[string]string{"seine.dev/inject": "enabled"}}},
	}
	known := map[string]authenticationv1.UserInfo{}
	for name, account := range accounts {
		objects = append(objects, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("uid-" + name)},
			Spec:       corev1.PodSpec{ServiceAccountName: account, NodeName: "node-1"},
		})
		known[podToken(t, name, account)] = authenticationv1.UserInfo{Username: "system:serviceaccount:default:" + account, Extra: map[string]authenticationv1.ExtraValue{
			"authentication.kubernetes.io/pod-name": {name}, "authentication.kubernetes.io/pod-uid": {"uid-" + name},
		}}
	}
	client := fake.NewClientset(objects...)
	client.PrependReactor("create", "tokenreviews", func(a k8stesting.Action) (bool, runtime.Object, error) {
		r := a.(k8stesting.CreateAction).GetObject().(*authenticationv1.TokenReview).DeepCopy()
		if user, ok := known[r.Spec.Token]; ok {
			r.Status = authenticationv1.TokenReviewStatus{Authenticated: true, Audiences: []string{kube.Audience}, User: user}
		}
		return true, r, nil
	})
	// The tracker does not count versions, and what compares them would never see a change.
	version := 0
	client.PrependReactor("*", "secrets", func(a k8stesting.Action) (bool, runtime.Object, error) {
		if w, ok := a.(k8stesting.CreateAction); ok { // updates, too
			version++
			w.GetObject().(*corev1.Secret).ResourceVersion = strconv.Itoa(version)
		}
		return false, nil, nil
	})
	token := podToken(t, "frontend-1", "frontend")
	return &Cluster{Client: client, Namespace: cluster.Namespace, Pod: "seined-1", Revision: "default"}, token
}

// TestPodGetsItsIdentity: two replicas on an empty cluster, one root, and a pod that
// knows them by the ConfigMap gets its certificate from either, for its token alone.
func TestPodGetsItsIdentity(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir)
	world, token := fakeCluster(t)
	in := func(pod string) *instance {
		return start(t, dir, func(o *Options) {
			c := *world
			c.Pod = pod
			o.Cluster, o.State, o.Socket, o.HTTP = &c, "", "", ""
			o.Log = slog.New(slog.DiscardHandler)
		})
	}
	one, two := in("seined-1"), in("seined-2")
	var bundle string
	eventually(t, "the ConfigMap", func() bool {
		m, err := world.Client.CoreV1().ConfigMaps("default").Get(t.Context(), kube.BundleName, metav1.GetOptions{})
		if err == nil {
			bundle = m.Data[kube.BundleKey]
		}
		return bundle != ""
	})
	write := func(name, text string) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, i := range []*instance{one, two} {
		for _, tc := range []struct {
			token, account string
			good           bool
		}{{token, "frontend", true}, {token, "billing", false}, {token + "x", "frontend", false}} {
			c, err := caclient.New(caclient.Options{
				Address: i.grpc, TrustDomain: "cluster.local", BundleFile: write("roots", bundle), TokenFile: write("token", tc.token),
				ID: "spiffe://cluster.local/ns/default/sa/" + tc.account,
			})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			id, err := c.Request(ctx)
			cancel()
			if (err == nil) != tc.good {
				t.Errorf("%s as %s: %v", i.opt.Cluster.Pod, tc.account, err)
			}
			if err == nil {
				if err := mtls.NewSource(mtls.SourceOptions{}).Set(id); err != nil {
					t.Error(err)
				}
				if len(id.Certificate.Certificate) != 2 {
					t.Errorf("%d certificates: no intermediate of the replica's own", len(id.Certificate.Certificate))
				}
			}
		}
	}
}
