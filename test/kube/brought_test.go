//go:build kube

package kube

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seinemesh/seine/test/kube/kubetest"
)

// TestBroughtRoot: a root that somebody brings in the Secret cacerts, and another one
// written over it at one stroke, come into force under load without a failed request.
// The second one ends soon: seine check, an Event and a metric say so. When the Secret
// goes, seine ca rotate makes a root again.
func TestBroughtRoot(t *testing.T) {
	c := kubetest.Connect(t)
	c.Install(t)
	n := c.Namespace(t, "brought", injected)
	n.Apply(t, strict+"---"+replicas)
	n.WaitReady(t, "server")
	load := n.Load(t, "load", 20, "-timeout", patient, "-host", "server", serviceURL(t, n, "server"))
	fresh := n.Load(t, "fresh", 10, "-timeout", patient, "-keepalive=false", "-host", "server", serviceURL(t, n, "server"))
	secrets := c.Client.CoreV1().Secrets(kubetest.System)
	remove := func(ctx context.Context) error {
		err := secrets.Delete(ctx, "cacerts", metav1.DeleteOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	}
	t.Cleanup(func() {
		if err := remove(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	inForce := func(subject string) {
		t.Helper()
		kubetest.Wait(t, 2*kubetest.Patience, "the root "+subject+" alone", func(context.Context) error {
			if r := roots(t, n); len(r) != 1 || r[0].Subject.CommonName != subject {
				return fmt.Errorf("%d roots, the first is %s", len(r), r[0].Subject)
			}
			return nil
		})
		kubetest.Wait(t, kubetest.Patience, "the end of the rotation", func(context.Context) error {
			if out := c.Seine(t, "ca", "status", "--context", current(t)); !strings.Contains(out, "the last one ended") {
				return errors.New(out)
			}
			return nil
		})
	}

	first := newAuthority(t, "brought first", 365*24*time.Hour)
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "cacerts"}, Data: map[string][]byte{
		"root-cert.pem": first.cert, "ca-cert.pem": first.cert, "ca-key.pem": first.key,
	}}
	noFailure(t, load, fresh, func() {
		if _, err := secrets.Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		inForce("brought first")
	})
	if r := c.Run(t, "ca", "rotate", "--context", current(t)); r.Code == 0 || !strings.Contains(r.Stderr, "replace it where it is kept") {
		t.Errorf("seine ca rotate where a root was brought: %d, %s", r.Code, r.Stderr)
	}

	// As cert-manager writes it.
	second := newAuthority(t, "brought second", 20*24*time.Hour)
	secret.Data = map[string][]byte{"ca.crt": second.cert, "tls.crt": second.cert, "tls.key": second.key}
	noFailure(t, load, fresh, func() {
		if _, err := secrets.Update(t.Context(), secret, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		inForce("brought second")
	})
	out := c.Run(t, "check", "--context", current(t)).Stdout
	if !strings.Contains(out, "brought second") || !strings.Contains(out, "in 19 days") || !strings.Contains(out, "replace it in Secret seine-system/cacerts") {
		t.Errorf("seine check does not say what ends:\n%s", out)
	}
	kubetest.Wait(t, kubetest.Patience, "an Event that says what ends", func(ctx context.Context) error {
		list, err := c.Client.CoreV1().Events(kubetest.System).List(ctx, metav1.ListOptions{FieldSelector: "reason=CertificateExpires"})
		if err != nil {
			return err
		}
		for _, e := range list.Items {
			if strings.Contains(e.Message, "brought second") && e.InvolvedObject.Name == "cacerts" {
				return nil
			}
		}
		return fmt.Errorf("%d of others", len(list.Items))
	})
	seined := c.In(t, kubetest.System).ReadyPod(t, "app=seined")
	metrics, err := c.Client.CoreV1().Pods(kubetest.System).ProxyGet("http", seined.Name, "15014", "/metrics", nil).DoRaw(t.Context())
	if err != nil || !strings.Contains(string(metrics), `seine_ca_expiring_certificates{days="30"} 1`) {
		t.Errorf("no metric of what ends: %v", err)
	}

	if err := remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	noFailure(t, load, fresh, func() { c.Seine(t, "ca", "rotate", "--context", current(t), "--timeout", "4m") })
	kubetest.Wait(t, kubetest.Patience, "a root of the mesh's own", func(context.Context) error {
		if r := roots(t, n); len(r) != 1 || r[0].Subject.CommonName != "Seine root CA" {
			return fmt.Errorf("%d roots, the first is %s", len(r), r[0].Subject)
		}
		return nil
	})
}

// authority is a root as PEM.
type authority struct{ cert, key []byte }

// newAuthority makes one that ends after left. It began long ago: what lives for less
// than two months is renewed by itself, and not warned of so early.
func newAuthority(t *testing.T, name string, left time.Duration) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-90 * 24 * time.Hour), NotAfter: time.Now().Add(left),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return authority{
		cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		key:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
	}
}
