package kube

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/seinemesh/seine/ca"
)

const home = "seine-system"

func material(t testing.TB) *ca.Material {
	t.Helper()
	m, err := ca.Generate("cluster.local", 0, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func secret(name string, data map[string][]byte) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: home, Name: name}, Data: data}
}

// TestOneRootOfMany: replicas that start at once all load one root.
func TestOneRootOfMany(t *testing.T) {
	client := fake.NewClientset()
	var wg sync.WaitGroup
	got := make([][]byte, 8)
	for i := range got {
		wg.Go(func() {
			r := &Roots{Client: client, Namespace: home, TrustDomain: "cluster.local"}
			if err := r.Make(t.Context()); err != nil {
				t.Error(err)
				return
			}
			root, err := r.Load(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			got[i] = root.Material.Key
		})
	}
	wg.Wait()
	for _, g := range got {
		if !bytes.Equal(g, got[0]) || len(g) == 0 {
			t.Error("two roots")
		}
	}
}

func TestLoad(t *testing.T) {
	a, b := material(t), material(t)
	istio := func(m *ca.Material) map[string][]byte {
		return map[string][]byte{ca.FileRoot: m.Roots, ca.FileCert: m.Cert, ca.FileKey: m.Key}
	}
	certManager := map[string][]byte{"tls.crt": b.Cert, "tls.key": b.Key, "ca.crt": b.Roots}
	without := func(d map[string][]byte, key string) map[string][]byte {
		out := map[string][]byte{}
		for k, v := range d {
			if k != key {
				out[k] = v
			}
		}
		return out
	}
	for name, tc := range map[string]struct {
		secrets []*corev1.Secret
		want    *ca.Material
		source  string
		err     error // of Make
		broken  bool  // and stays so
	}{
		"none":                    {source: SecretGenerated},
		"generated":               {secrets: []*corev1.Secret{secret(SecretGenerated, istio(a))}, want: a, source: SecretGenerated},
		"brought":                 {secrets: []*corev1.Secret{secret(SecretBrought, istio(b))}, want: b, source: SecretBrought},
		"brought since":           {secrets: []*corev1.Secret{secret(SecretGenerated, istio(a)), secret(SecretBrought, istio(b))}, want: a, source: SecretGenerated},
		"cert-manager":            {secrets: []*corev1.Secret{secret(SecretBrought, certManager)}, want: b, source: SecretBrought},
		"cert-manager without ca": {secrets: []*corev1.Secret{secret(SecretBrought, without(certManager, "ca.crt"))}, err: ErrSecret},
		"no key":                  {secrets: []*corev1.Secret{secret(SecretGenerated, without(istio(a), ca.FileKey))}, broken: true},
		"empty":                   {secrets: []*corev1.Secret{secret(SecretGenerated, nil)}, broken: true},
		"a broken one that was brought is not passed over": {secrets: []*corev1.Secret{secret(SecretBrought, nil)}, err: ErrSecret},
	} {
		t.Run(name, func(t *testing.T) {
			client := fake.NewClientset()
			for _, s := range tc.secrets {
				if err := client.Tracker().Add(s); err != nil {
					t.Fatal(err)
				}
			}
			r := &Roots{Client: client, Namespace: home, TrustDomain: "cluster.local"}
			_, before := r.Load(t.Context())
			if err := r.Make(t.Context()); !errors.Is(err, tc.err) {
				t.Fatal(err)
			}
			got, err := r.Load(t.Context())
			if tc.err != nil || tc.broken {
				if err == nil || errors.Is(before, ErrSecret) != errors.Is(err, ErrSecret) {
					t.Errorf("a broken Secret was replaced or passed over: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if tc.want != nil && !got.Material.Same(tc.want) || !strings.HasSuffix(got.Source, "/"+tc.source) || got.State.Brought != (tc.source == SecretBrought) {
				t.Errorf("%s, %+v", got.Source, got.State)
			}
			if _, err := ca.Open(ca.Options{Material: &got.Material, Source: got.Source, TrustDomain: "cluster.local"}); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestWatch: whoever watches is told of each change of either Secret; what is broken
// or vanishes changes nothing.
func TestWatch(t *testing.T) {
	client := fake.NewClientset()
	r := &Roots{Client: client, Namespace: home, TrustDomain: "cluster.local", Log: slog.New(slog.DiscardHandler)}
	if err := r.Make(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	taken := make(chan *Root, 16)
	done := make(chan struct{})
	go func() { defer close(done); _ = r.Watch(ctx, func(root *Root) { taken <- root }) }()
	defer func() { cancel(); <-done }()
	until := func(what string, is func(*Root) bool) {
		t.Helper()
		deadline := time.After(20 * time.Second)
		for {
			select {
			case root := <-taken:
				if is(root) {
					return
				}
			case <-deadline:
				t.Fatal("nobody was told of " + what)
			}
		}
	}
	until("the root", func(*Root) bool { return true })
	secrets := client.CoreV1().Secrets(home)
	m := material(t)
	own, err := secrets.Get(ctx, SecretGenerated, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	good := own.Data
	for i, data := range []map[string][]byte{nil, {ca.FileRoot: m.Roots, ca.FileCert: m.Cert, ca.FileKey: m.Key}} {
		own.ResourceVersion, own.Data = strconv.Itoa(i+1), data
		if _, err := secrets.Update(ctx, own, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	until("the new root", func(root *Root) bool {
		if len(root.Material.Key) == 0 {
			t.Error("a broken one was taken")
		}
		return bytes.Equal(root.Material.Key, m.Key)
	})
	// Events of before may still be on their way, each of which tells once.
	if _, err := secrets.Create(ctx, secret(SecretBrought, good), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	until("what was brought", func(root *Root) bool {
		brought, err := r.Brought(ctx)
		return err == nil && brought != nil && bytes.Equal(root.Material.Key, m.Key)
	})
}
