//go:build kube

package kube

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/seinemesh/seine/test/kube/kubetest"
)

// TestVersions: a control plane that is upgraded while proxies are old, proxies that
// are upgraded after it, and a control plane that goes back while proxies are new. In
// each of the three a steady load sees nothing, and routes reach every proxy.
// SEINE_OLD_TAG names images of an earlier commit that the nodes have.
func TestVersions(t *testing.T) {
	old := os.Getenv("SEINE_OLD_TAG")
	if old == "" {
		t.Skip("SEINE_OLD_TAG does not name images of an earlier commit")
	}
	c := kubetest.Connect(t)
	c.Install(t)
	t.Cleanup(func() { upgrade(t, c, "--reset-values") })
	upgrade(t, c, "--set", "image.tag="+old)
	n := c.Namespace(t, "versions", map[string]string{"seine.dev/inject": "enabled"})
	n.Apply(t, replicas)
	n.WaitReady(t, "server")
	load := n.Load(t, "load", 20, "-timeout", patient, "-host", "server", serviceURL(t, n, "server"))
	fresh := n.Load(t, "fresh", 10, "-timeout", patient, "-keepalive=false", "-host", "server", serviceURL(t, n, "server"))
	const sidecars = 5
	runs(t, n, "app=server", old, true)
	proxies(t, n, sidecars)

	for i, step := range []struct {
		name   string
		happen func()
	}{
		{"the control plane is new, proxies are old", func() { upgrade(t, c, "--reset-values") }},
		{"proxies are new", func() {
			restart(t, n, "server")
			n.WaitReady(t, "server")
			runs(t, n, "app=server", old, false)
		}},
		{"the control plane is old again", func() { upgrade(t, c, "--set", "image.tag="+old) }},
	} {
		t.Run(step.name, func(t *testing.T) {
			noFailure(t, load, fresh, step.happen)
			proxies(t, n, sidecars)
			route(t, n, fmt.Sprintf("step-%d", i), sidecars)
		})
	}
}

// runs waits until the selected pods' sidecars are, or are not, of an image's tag.
func runs(t *testing.T, n *kubetest.Namespace, selector, tag string, are bool) {
	t.Helper()
	kubetest.Wait(t, kubetest.Patience, "pods with the sidecar wanted", func(context.Context) error {
		for _, p := range n.Pods(t, selector) {
			i := slices.IndexFunc(p.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == "seine-proxy" })
			if i < 0 || strings.HasSuffix(p.Spec.InitContainers[i].Image, ":"+tag) != are {
				return fmt.Errorf("%s has another", p.Name)
			}
		}
		return nil
	})
}
