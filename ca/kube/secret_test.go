package kube

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
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
		err     error
	}{
		"none":                    {err: ErrNone},
		"generated":               {secrets: []*corev1.Secret{secret(SecretGenerated, istio(a))}, want: a, source: SecretGenerated},
		"brought wins":            {secrets: []*corev1.Secret{secret(SecretGenerated, istio(a)), secret(SecretBrought, istio(b))}, want: b, source: SecretBrought},
		"cert-manager":            {secrets: []*corev1.Secret{secret(SecretBrought, certManager)}, want: b, source: SecretBrought},
		"cert-manager without ca": {secrets: []*corev1.Secret{secret(SecretBrought, without(certManager, "ca.crt"))}, err: ErrSecret},
		"no key":                  {secrets: []*corev1.Secret{secret(SecretGenerated, without(istio(a), ca.FileKey))}, err: ErrSecret},
		"empty":                   {secrets: []*corev1.Secret{secret(SecretGenerated, nil)}, err: ErrSecret},
		"a broken one that was brought is not passed over": {secrets: []*corev1.Secret{secret(SecretGenerated, istio(a)), secret(SecretBrought, nil)}, err: ErrSecret},
	} {
		t.Run(name, func(t *testing.T) {
			client := fake.NewClientset()
			for _, s := range tc.secrets {
				if err := client.Tracker().Add(s); err != nil {
					t.Fatal(err)
				}
			}
			r := &Roots{Client: client, Namespace: home, TrustDomain: "cluster.local"}
			got, err := r.Load(t.Context())
			if !errors.Is(err, tc.err) {
				t.Fatal(err)
			}
			if tc.err != nil {
				if err := r.Make(t.Context()); err != nil {
					t.Fatal(err)
				}
				if _, err := r.Load(t.Context()); (err == nil) != errors.Is(tc.err, ErrNone) {
					t.Errorf("a broken Secret was replaced, or none was made: %v", err)
				}
				return
			}
			if !bytes.Equal(got.Material.Key, tc.want.Key) || !strings.HasSuffix(got.Source, "/"+tc.source) || got.Brought != (tc.source == SecretBrought) {
				t.Errorf("%s", got.Source)
			}
			if _, err := ca.Open(ca.Options{Material: &got.Material, Source: got.Source, TrustDomain: "cluster.local"}); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestWatch: what is brought is taken when it comes and when it changes; what is
// broken or vanishes changes nothing.
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
	next := func() *Root {
		t.Helper()
		select {
		case root := <-taken:
			return root
		case <-time.After(20 * time.Second):
			t.Fatal("nothing was taken")
			return nil
		}
	}
	if root := next(); root.Brought {
		t.Fatal(root.Source)
	}
	m := material(t)
	secrets := client.CoreV1().Secrets(home)
	s := secret(SecretBrought, map[string][]byte{ca.FileRoot: m.Roots, ca.FileCert: m.Cert, ca.FileKey: m.Key})
	s.ResourceVersion = "1"
	if _, err := secrets.Create(ctx, s, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if root := next(); !root.Brought || !bytes.Equal(root.Material.Key, m.Key) {
		t.Fatal(root.Source)
	}
	broken := s.DeepCopy()
	broken.ResourceVersion, broken.Data[ca.FileKey] = "2", nil
	if _, err := secrets.Update(ctx, broken, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	m = material(t)
	s.ResourceVersion, s.Data = "3", map[string][]byte{"tls.crt": m.Cert, "tls.key": m.Key, "ca.crt": m.Roots}
	if _, err := secrets.Update(ctx, s, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if root := next(); !bytes.Equal(root.Material.Key, m.Key) {
		t.Fatal("the second one that was brought was not taken, or the broken one was")
	}
}
