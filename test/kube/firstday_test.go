//go:build kube

package kube

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/seinemesh/seine/test/kube/kubetest"
)

// billing is the application of examples/billing as Deployments.
const billing = `
apiVersion: v1
kind: Service
metadata: {name: billing-service}
spec:
  selector: {app: billing}
  ports: [{name: http, port: 8080}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: billing-v1}
spec:
  selector: {matchLabels: {app: billing, version: v1}}
  template:
    metadata: {labels: {app: billing, version: v1}}
    spec:
      containers:
      - name: app
        image: IMAGE
        args: [serve, -version, v1]
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: billing-v2}
spec:
  selector: {matchLabels: {app: billing, version: v2}}
  template:
    metadata: {labels: {app: billing, version: v2}}
    spec:
      containers:
      - name: app
        image: IMAGE
        args: [serve, -version, v2]
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
`

// TestFirstDay is what a guide to Istio of 2019 has a reader do, with the
// README's own resources: install, label a namespace, deploy two versions, split
// the traffic, require mutual TLS.
func TestFirstDay(t *testing.T) {
	c := kubetest.Connect(t)
	t.Logf("the control plane was ready in %s", c.Install(t).Round(100*time.Millisecond))
	c.ControlPlaneArg(t, "--cert-ttl=20s")

	start := time.Now()
	shop := c.Namespace(t, "shop", map[string]string{"seine.dev/inject": "enabled"})
	outside := c.Namespace(t, "outside", nil)
	shop.Apply(t, billing)
	outside.Apply(t, client)
	shop.WaitReady(t, "billing-v1", "billing-v2")
	t.Logf("two applications with sidecars were ready in %s", time.Since(start).Round(100*time.Millisecond))
	outside.WaitReady(t, "client")
	outsider := outside.ReadyPod(t, "app=client").Name
	url := "http://billing-service." + shop.Name + ":8080/invoice"
	kubetest.Wait(t, kubetest.Patience, "an answer to plaintext while nothing forbids it", func(ctx context.Context) error {
		_, err := outside.Call(ctx, outsider, url)
		return err
	})

	manifest, err := os.ReadFile("../../examples/billing/mesh.yaml")
	if err != nil {
		t.Fatal(err)
	}
	shop.Apply(t, string(manifest))
	t.Cleanup(func() { shop.Delete(t, string(manifest)) }) // its MeshPolicy is the whole cluster's
	load := shop.Load(t, "frontend", 100, "http://billing-service:8080/invoice")

	kubetest.Wait(t, kubetest.Patience, "plaintext to be refused", func(ctx context.Context) error {
		if out, err := outside.Call(ctx, outsider, url); err == nil {
			return fmt.Errorf("answered: %s", out)
		}
		return nil
	})
	kubetest.Wait(t, kubetest.Patience, "calls to both versions", func(context.Context) error {
		if got := load.Counts(t).OK; got["v1"] == 0 || got["v2"] == 0 {
			return fmt.Errorf("answered %v", got)
		}
		return nil
	})

	const requests, share = 2000, 0.1
	split := load.During(t, func() {
		from := load.Counts(t).Answered()
		kubetest.Wait(t, kubetest.Patience, "2000 answers", func(context.Context) error {
			if n := load.Counts(t).Answered() - from; n < requests {
				return fmt.Errorf("%d", n)
			}
			return nil
		})
	})
	t.Logf("of %d requests %v, failed %v", split.Sent, split.OK, split.Failures)
	n := float64(split.Answered())
	if off := math.Abs(float64(split.OK["v2"])/n - share); off > 4*math.Sqrt(share*(1-share)/n) {
		t.Errorf("v2 has %d of %.0f answers, want %.0f%%", split.OK["v2"], n, 100*share)
	}
	if split.Failed() > 0 {
		t.Errorf("failures: %v", split.Failures)
	}

	caller := shop.ReadyPod(t, "app=frontend").Name
	out, err := shop.Call(t.Context(), caller, "http://billing-service:8080/invoice")
	if want := "spiffe://cluster.local/ns/" + shop.Name + "/sa/default"; err != nil || !strings.Contains(out, want) {
		t.Errorf("the server does not see its caller %s: %s, %v", want, out, err)
	}

	rotated := load.During(t, func() {
		const certificates = 9 // three for each of three sidecars
		from := issued(t, c)
		kubetest.Wait(t, 2*kubetest.Patience, "certificates to rotate", func(context.Context) error {
			if n := issued(t, c) - from; n < certificates {
				return fmt.Errorf("%g issued", n)
			}
			return nil
		})
	})
	if rotated.Failed() > 0 {
		t.Errorf("while certificates rotated: %v", rotated.Failures)
	}
}

// issued is how many certificates the control plane has signed.
func issued(t *testing.T, c *kubetest.Cluster) float64 {
	t.Helper()
	n := c.In(t, kubetest.System)
	var total float64
	for _, pod := range n.Pods(t, "app=seined") {
		v, err := metric(t.Context(), "http://"+n.Forward(t, pod.Name, 15014)+"/metrics", "citadel_server_success_cert_issuance_count")
		if err != nil {
			t.Fatalf("metrics of %s: %v", pod.Name, err)
		}
		total += v
	}
	return total
}

var errNoMetric = errors.New("no such metric")

// metric returns the value of the first sample of name at url.
func metric(ctx context.Context, url, name string) (float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		var v float64
		if _, err := fmt.Sscanf(lines.Text(), name+" %g", &v); err == nil {
			return v, nil
		}
	}
	return 0, fmt.Errorf("%s: %w", name, errNoMetric)
}
