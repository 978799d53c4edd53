//go:build kube

package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/seinemesh/seine/test/kube/kubetest"
)

// routeTo answers the paths that match a regular expression with 418.
func routeTo(regex string) *unstructured.Unstructured {
	var o unstructured.Unstructured
	o.SetUnstructuredContent(map[string]any{
		"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": map[string]any{"name": "billing"},
		"spec": map[string]any{"hosts": []any{"billing-service"}, "http": []any{map[string]any{
			"match":          []any{map[string]any{"uri": map[string]any{"regex": regex}}},
			"directResponse": map[string]any{"status": int64(418)},
		}}},
	})
	return &o
}

// TestResources is the life of one resource: refused when it is bad, waited for
// when it is good, and held in its last good version when it becomes bad past the
// control plane's back.
func TestResources(t *testing.T) {
	c := kubetest.Connect(t)
	c.Install(t)
	shop := c.Namespace(t, "resources", map[string]string{"seine.dev/inject": "enabled"})
	shop.Apply(t, billing)
	shop.WaitReady(t, "billing-v1", "billing-v2")
	routes := c.Dynamic.Resource(schema.GroupVersionResource{Group: "networking.istio.io", Version: "v1", Resource: "virtualservices"}).Namespace(shop.Name)

	bad := routeTo("(")
	_, err := routes.Create(t.Context(), bad, metav1.CreateOptions{})
	if err == nil {
		t.Fatal("a resource that cannot be was stored")
	}
	var sentence struct {
		Findings []struct{ Path, Message string }
	}
	if err := json.Unmarshal(analyze(t, bad), &sentence); err != nil || len(sentence.Findings) == 0 {
		t.Fatalf("seine analyze: %v, %+v", err, sentence)
	}
	if f := sentence.Findings[0]; !strings.Contains(err.Error(), f.Path+": "+f.Message) {
		t.Errorf("admission says %q, analyze %q", err, f)
	}

	if _, err := routes.Create(t.Context(), routeTo("/old.*"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	var waited struct {
		Met     bool
		Message string
	}
	out := c.Seine(t, "wait", "--for=programmed", "virtualservice/billing", "-n", shop.Name, "-o", "json")
	if err := json.Unmarshal([]byte(out), &waited); err != nil || !waited.Met || !strings.Contains(waited.Message, "proxies have acknowledged generation 1") {
		t.Errorf("seine wait: %v, %s", err, out)
	}
	if out := c.Seine(t, "explain", "--context", current(t), "--from", shop.Name+"/billing-v1", "http://billing-service:8080/old/1"); !strings.Contains(out, "418") {
		t.Errorf("seine explain does not know the new route:\n%s", out)
	}
	if out := c.Seine(t, "proxies", "--context", current(t)); !strings.Contains(out, shop.Name+"/billing-v1-") {
		t.Errorf("seine proxies does not list the sidecars:\n%s", out)
	}

	// Nobody judges any more: the resource becomes bad.
	hooks := c.Client.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	judge, err := hooks.Get(t.Context(), "seine-validator", metav1.GetOptions{})
	if err == nil {
		err = hooks.Delete(t.Context(), judge.Name, metav1.DeleteOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		judge.ResourceVersion, judge.UID = "", ""
		if _, err := hooks.Create(context.WithoutCancel(t.Context()), judge, metav1.CreateOptions{}); err != nil {
			t.Error(err)
		}
	})
	spec, err := json.Marshal([]map[string]any{{"op": "replace", "path": "/spec", "value": bad.Object["spec"]}})
	if err == nil {
		_, err = routes.Patch(t.Context(), "billing", types.JSONPatchType, spec, metav1.PatchOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
	kubetest.Wait(t, kubetest.Patience, "the status to say that it is bad", func(ctx context.Context) error {
		return says(ctx, routes, "Accepted", "False", "the version before it still holds")
	})
	if out := c.Seine(t, "explain", "--context", current(t), "--from", shop.Name+"/billing-v1", "http://billing-service:8080/old/1"); !strings.Contains(out, "418") {
		t.Errorf("the last good version does not hold:\n%s", out)
	}
	invalid(t, shop, "vs/billing")

	// A seined that starts later never saw the good version.
	kubetest.Wait(t, kubetest.Patience, "the good version to be kept", func(ctx context.Context) error {
		_, err := c.Client.CoreV1().ConfigMaps(kubetest.System).Get(ctx, "seine-kept", metav1.GetOptions{})
		return err
	})
	system := c.In(t, kubetest.System)
	restart(t, system, "seined")
	system.WaitReady(t, "seined")
	kubetest.Wait(t, kubetest.Patience, "the restarted seined to answer", func(context.Context) error {
		r := c.Run(t, "explain", "--context", current(t), "--from", shop.Name+"/billing-v1", "http://billing-service:8080/old/1")
		if r.Code != 0 || !strings.Contains(r.Stdout, "418") {
			return fmt.Errorf("%s%s", r.Stdout, r.Stderr)
		}
		return nil
	})
	// Mended, nothing is kept any more.
	if err := routes.Delete(t.Context(), "billing", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	kubetest.Wait(t, kubetest.Patience, "nothing to be kept", func(ctx context.Context) error {
		_, err := c.Client.CoreV1().ConfigMaps(kubetest.System).Get(ctx, "seine-kept", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("it is there: %w", err)
	})
}

// invalid fails unless `seine wait` says that a resource is bad.
func invalid(t *testing.T, n *kubetest.Namespace, what string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), kubetest.Program(), "wait", "--for=programmed", what, "-n", n.Name)
	var exit *exec.ExitError
	if out, err := cmd.CombinedOutput(); !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Errorf("waiting for %s, which is bad: %v, %s", what, err, out)
	}
}

// awaited is a resource of each kind that has a status.
const awaited = `
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80}, {name: grpc, port: 81}, {name: tcp, port: 82}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: http}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 80}]
  rules: [{backendRefs: [{name: web, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: grpc}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 81}]
  rules: [{backendRefs: [{name: web, port: 81}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: bad}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 82}]
  rules: [{backendRefs: [{name: web, port: 82}]}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web}
spec: {host: web}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: web}
spec: {hosts: [web.example.com], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}]}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: web}
spec: {address: 192.0.2.1}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: web}
spec: {egress: [{hosts: ["./*"]}]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: web}
spec: {mtls: {mode: PERMISSIVE}}
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: web}
spec: {tracing: [{randomSamplingPercentage: 1}]}
`

// TestWait: whatever kind carries status can be waited for, routes of the Gateway API
// among them.
func TestWait(t *testing.T) {
	c := kubetest.Connect(t)
	c.Install(t)
	n := c.Namespace(t, "wait", nil)
	n.Apply(t, awaited)
	for _, what := range []string{
		"httproute/http", "grpcroute/grpc", "destinationrule/web", "se/web", "we/web", "sidecar/web", "pa/web", "telemetry/web",
	} {
		if out := c.Seine(t, "wait", "--for=programmed", what, "-n", n.Name); !strings.Contains(out, "proxies have acknowledged generation 1") {
			t.Errorf("%s: %s", what, out)
		}
	}
	c.Seine(t, "wait", "--for=resolvedrefs", "httproute/http", "-n", n.Name)
	invalid(t, n, "httproute/bad")
}

func says(ctx context.Context, routes dynamic.ResourceInterface, kind, status, message string) error {
	o, err := routes.Get(ctx, "billing", metav1.GetOptions{})
	if err != nil {
		return err
	}
	conditions, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
	for _, c := range conditions {
		if c, ok := c.(map[string]any); ok && c["type"] == kind && c["status"] == status && strings.Contains(fmt.Sprint(c["message"]), message) {
			return nil
		}
	}
	return fmt.Errorf("its conditions are %v", conditions)
}

// analyze gives what `seine analyze` says of an object in a file.
func analyze(t *testing.T, o *unstructured.Unstructured) []byte {
	t.Helper()
	data, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "resource.json")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	out, _ := exec.CommandContext(t.Context(), kubetest.Program(), "analyze", "-f", path, "-o", "json").Output() // it exits 1: there is an error
	return out
}

// current is KUBECONFIG's context: naming it keeps the program from asking a mesh
// that runs on this machine.
func current(t *testing.T) string {
	t.Helper()
	return kubetest.Connect(t).Context(t)
}
