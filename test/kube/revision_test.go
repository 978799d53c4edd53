//go:build kube

package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/seinemesh/seine/test/kube/kubetest"
)

// TestRevisions: two control planes side by side, namespaces that belong to the one
// and the other and call each other, one of them moved there and back under load,
// and the second control plane taken away without a trace.
func TestRevisions(t *testing.T) {
	const canary = "canary"
	c := kubetest.Connect(t)
	c.Install(t)
	servers := c.Namespace(t, "rev", map[string]string{"seine.dev/inject": "enabled"})
	servers.Apply(t, replicas)
	servers.WaitReady(t, "server")

	c.Install(t, "--revision", canary)
	removed := false
	t.Cleanup(func() {
		if !removed {
			c.Seine(t, "uninstall", "--revision", canary, "--yes", "--force")
		}
	})
	callers := c.Namespace(t, "rev", map[string]string{"istio.io/rev": canary})
	at := serviceURL(t, servers, "server")
	load := callers.Load(t, "load", 20, "-timeout", patient, "-host", "server."+servers.Name, at)
	fresh := callers.Load(t, "fresh", 10, "-timeout", patient, "-keepalive=false", "-host", "server."+servers.Name, at)
	follows(t, callers, "app=load", canary)
	follows(t, servers, "app=server", "default")

	move := func(label map[string]any, revision string) {
		t.Helper()
		noFailure(t, load, fresh, func() {
			relabel(t, servers, label)
			restart(t, servers, "server")
			servers.WaitReady(t, "server")
		})
		follows(t, servers, "app=server", revision)
	}
	move(map[string]any{"seine.dev/inject": nil, "seine.dev/revision": canary}, canary)
	move(map[string]any{"seine.dev/inject": "enabled", "seine.dev/revision": nil}, "default")

	// The callers go back, too, and the second control plane goes.
	relabel(t, callers, map[string]any{"istio.io/rev": nil, "seine.dev/inject": "enabled"})
	for _, d := range []string{"load", "fresh"} {
		restart(t, callers, d)
	}
	callers.WaitReady(t, "load", "fresh")
	follows(t, callers, "app=load", "default")
	// It refuses while a pod from before is still ending.
	kubetest.Wait(t, kubetest.Patience, "the canary's end", func(context.Context) error {
		if r := c.Run(t, "uninstall", "--revision", canary, "--yes"); r.Code != 0 {
			return fmt.Errorf("%s", r.Stderr)
		}
		return nil
	})
	removed = true
	left, err := c.Client.AppsV1().Deployments(kubetest.System).List(t.Context(), metav1.ListOptions{LabelSelector: "seine.dev/revision=" + canary})
	if err != nil || len(left.Items) > 0 {
		t.Errorf("%d deployments of the revision are left, %v", len(left.Items), err)
	}
	hooks, err := c.Client.AdmissionregistrationV1().MutatingWebhookConfigurations().List(t.Context(), metav1.ListOptions{LabelSelector: "seine.dev/revision=" + canary})
	if err != nil || len(hooks.Items) > 0 {
		t.Errorf("%d webhooks of the revision are left, %v", len(hooks.Items), err)
	}
	// The default one still injects and serves.
	noFailure(t, callers.Load(t, "after", 20, "-timeout", patient, "-host", "server."+servers.Name, at), callers.Load(t, "after2", 5, "-timeout", patient, "-keepalive=false", "-host", "server."+servers.Name, at), func() {})
}

// follows waits until all pods that are selected have the sidecar of a revision, and
// nobody's else.
func follows(t *testing.T, n *kubetest.Namespace, selector, revision string) {
	t.Helper()
	service := "--control=seined.seine-system.svc:15012"
	if revision != "default" {
		service = "--control=seined-" + revision + ".seine-system.svc:15012"
	}
	kubetest.Wait(t, kubetest.Patience, "pods of revision "+revision, func(context.Context) error {
		pods := n.Pods(t, selector)
		for _, p := range pods {
			i := slices.IndexFunc(p.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == "seine-proxy" })
			if i < 0 || !slices.Contains(p.Spec.InitContainers[i].Args, service) {
				return fmt.Errorf("%s does not follow it", p.Name)
			}
			if status := p.Annotations["seine.dev/status"]; !strings.Contains(status, fmt.Sprintf("%q", revision)) {
				return fmt.Errorf("%s says %s", p.Name, status)
			}
		}
		if len(pods) == 0 {
			return fmt.Errorf("no pods")
		}
		return nil
	})
}

// relabel changes labels of the namespace; nil takes one away.
func relabel(t *testing.T, n *kubetest.Namespace, labels map[string]any) {
	t.Helper()
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": labels}})
	if err == nil {
		_, err = n.Client.CoreV1().Namespaces().Patch(t.Context(), n.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
}
