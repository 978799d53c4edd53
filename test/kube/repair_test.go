//go:build kube

package kube

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/seinemesh/seine/test/kube/kubetest"
)

// upgraded gives the mesh these values, until it is installed for another test.
func upgraded(t *testing.T, c *kubetest.Cluster, set ...string) {
	t.Helper()
	c.Install(t)
	args := []string{"upgrade", "--yes"}
	for _, s := range set {
		args = append(args, "--set", s)
	}
	c.Seine(t, args...)
}

// cniNamespace is where the chart puts the plugin's DaemonSet.
const cniNamespace = "kube-system"

// plugin brings the CNI plugin to all nodes, or takes it from all of them.
func plugin(t *testing.T, c *kubetest.Cluster, there bool) {
	t.Helper()
	selector := map[bool]string{true: "null", false: `"here"`}[there]
	sets := c.Client.AppsV1().DaemonSets(cniNamespace)
	patch := `{"spec":{"template":{"spec":{"nodeSelector":{"seine.dev/nowhere":` + selector + `}}}}}`
	if _, err := sets.Patch(t.Context(), "seine-cni", types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	kubetest.Wait(t, kubetest.Patience, "the plugin to be on all nodes, or on none", func(ctx context.Context) error {
		d, err := sets.Get(ctx, "seine-cni", metav1.GetOptions{})
		if err != nil {
			return err
		}
		pods, err := c.Client.CoreV1().Pods(cniNamespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=seine-cni"})
		s := d.Status
		if err == nil && (s.ObservedGeneration < d.Generation || there != (s.NumberAvailable > 0) || s.NumberAvailable != s.DesiredNumberScheduled || len(pods.Items) != int(s.NumberAvailable)) {
			err = fmt.Errorf("%d pods, status %+v", len(pods.Items), s)
		}
		return err
	})
}

// TestCNI: with the plugin no pod needs a capability, so a namespace that
// forbids them can be in the mesh.
func TestCNI(t *testing.T) {
	c := kubetest.Connect(t)
	upgraded(t, c, "cni.enabled=true")
	n := c.Namespace(t, "cni", map[string]string{"seine.dev/inject": "enabled", "pod-security.kubernetes.io/enforce": "baseline"})
	n.Apply(t, strict+"---"+server+"---"+client)
	outside := c.Namespace(t, "outside", nil)
	outside.Apply(t, client)
	n.WaitReady(t, "server", "client")
	outside.WaitReady(t, "client")
	for _, p := range n.Pods(t, "") {
		for _, one := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
			if one.Name == "seine-init" || one.SecurityContext != nil && one.SecurityContext.Capabilities != nil && len(one.SecurityContext.Capabilities.Add) > 0 {
				t.Errorf("%s has container %s, %+v", p.Name, one.Name, one.SecurityContext)
			}
		}
	}
	caller, outsider := n.ReadyPod(t, "app=client").Name, outside.ReadyPod(t, "app=client").Name
	for _, ip := range n.ReadyPod(t, "app=server").Status.PodIPs {
		url := "http://" + ip.IP + ":8080/"
		if strings.Contains(ip.IP, ":") {
			url = "http://[" + ip.IP + "]:8080/"
		}
		if out, err := n.Call(t.Context(), caller, url); err != nil || !strings.Contains(out, "spiffe://cluster.local/ns/"+n.Name+"/sa/default") {
			t.Errorf("in the mesh to %s: %q, %v", url, out, err)
		}
		if out, err := outside.Call(t.Context(), outsider, url); err == nil {
			t.Errorf("plaintext to %s was answered: %s", url, out)
		}
	}
	checked(t, c)
}

// TestNightlyLatePlugin: a pod that starts while its node has no plugin is not
// ready and says why, and starts again once there is one.
func TestNightlyLatePlugin(t *testing.T) {
	c := kubetest.Connect(t)
	upgraded(t, c, "cni.enabled=true", "injection.repair=true")
	n := c.Namespace(t, "late", injected)
	plugin(t, c, false)
	n.Apply(t, client)
	notReady(t, c, n.Name, "are not redirected to the sidecar")
	late := n.Pods(t, "app=client")
	if len(late) != 1 || slices.ContainsFunc(late[0].Status.ContainerStatuses, func(s corev1.ContainerStatus) bool { return s.State.Running != nil }) {
		t.Errorf("outside the mesh: %+v", late)
	}
	plugin(t, c, true)
	if p := n.ReadyPod(t, "app=client"); len(late) == 1 && p.UID == late[0].UID {
		t.Errorf("%s got ready without being evicted", p.Name)
	}
	said(t, n, "SidecarRepair")
}

// said waits for an Event of the namespace.
func said(t *testing.T, n *kubetest.Namespace, reason string) {
	t.Helper()
	kubetest.Wait(t, kubetest.Patience, "an Event "+reason, func(ctx context.Context) error {
		l, err := n.Client.CoreV1().Events(n.Name).List(ctx, metav1.ListOptions{FieldSelector: "reason=" + reason})
		if err == nil && len(l.Items) == 0 {
			err = errors.New("none")
		}
		return err
	})
}

// TestNightlyMissedByTheWebhook: with failure policy Ignore a pod that is
// created while no seined answers runs outside the mesh. It is named, and
// replaced when there is one again, one at a time; a pod that is older than its
// namespace's label stays.
func TestNightlyMissedByTheWebhook(t *testing.T) {
	c := kubetest.Connect(t)
	upgraded(t, c, "injection.failurePolicy=Ignore", "injection.repair=true")
	n, old := c.Namespace(t, "missed", injected), c.Namespace(t, "older", nil)
	old.Apply(t, client)
	old.WaitReady(t, "client")
	before := old.ReadyPod(t, "app=client")
	system := c.In(t, kubetest.System)
	scale(t, system, "seined", 0)
	system.WaitNone(t, "app=seined")
	n.Apply(t, strings.Replace(client, "spec:\n  selector", "spec:\n  replicas: 2\n  selector", 1))
	n.WaitReady(t, "client")
	for _, p := range n.Pods(t, "app=client") {
		if p.Annotations["seine.dev/status"] != "" {
			t.Fatalf("%s was injected while no seined was there", p.Name)
		}
	}
	if l := unwell(t, c)["pods without a sidecar"]; !strings.Contains(l.Detail, "2 pods") || !strings.Contains(l.Detail, n.Name+"/client-") || !strings.Contains(l.Mend, "kubectl rollout restart -n "+n.Name) {
		t.Errorf("seine check: %+v", l)
	}
	patch := []byte(`{"metadata":{"labels":{"seine.dev/inject":"enabled"}}}`)
	if _, err := c.Client.CoreV1().Namespaces().Patch(t.Context(), old.Name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	scale(t, system, "seined", 1)
	kubetest.Wait(t, 2*kubetest.Patience, "both pods to be replaced by ones with a sidecar", func(context.Context) error {
		pods := n.Pods(t, "app=client")
		for _, p := range pods {
			if p.Annotations["seine.dev/status"] == "" {
				return fmt.Errorf("%s has none", p.Name)
			}
		}
		if len(pods) != 2 {
			return fmt.Errorf("%d pods", len(pods))
		}
		return nil
	})
	said(t, n, "SidecarRepair")
	if now := old.Pods(t, "app=client"); len(now) != 1 || now[0].UID != before.UID {
		t.Errorf("a pod older than the label did not stay: %+v", now)
	}
}
