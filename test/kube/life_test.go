//go:build kube

package kube

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/seinemesh/seine/test/kube/kubetest"
)

// replicas of a server whose containers see each other's processes, so that one
// can kill another.
const replicas = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: server}
spec:
  replicas: 3
  selector: {matchLabels: {app: server}}
  template:
    metadata: {labels: {app: server}}
    spec:
      shareProcessNamespace: true
      terminationGracePeriodSeconds: 10
      containers:
      - name: app
        image: IMAGE
        args: [serve]
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: server}
spec:
  selector: {app: server}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: server}
spec: {maxUnavailable: 1, selector: {matchLabels: {app: server}}}
`

// patient is how long a request may take where it is asked whether it fails at all,
// not how quickly a busy machine answers.
const patient = "20s"

// TestLife has a steady load see no failure through what happens to a mesh.
func TestLife(t *testing.T) {
	c := kubetest.Connect(t)
	c.Install(t)
	n := c.Namespace(t, "life", map[string]string{"seine.dev/inject": "enabled"})
	n.Apply(t, replicas)
	n.WaitReady(t, "server")
	load := n.Load(t, "load", 50, "-timeout", patient, "-host", "server", serviceURL(t, n, "server"))
	fresh := n.Load(t, "fresh", 20, "-timeout", patient, "-keepalive=false", "-host", "server", serviceURL(t, n, "server"))

	for _, event := range []struct {
		name   string
		happen func(t *testing.T)
	}{
		{"nothing", func(t *testing.T) {}},
		{"rolling restart", func(t *testing.T) {
			restart(t, n, "server")
			n.WaitReady(t, "server")
		}},
		{"scale down and up", func(t *testing.T) {
			scale(t, n, "server", 1)
			scale(t, n, "server", 3)
		}},
		{"eviction", func(t *testing.T) {
			evict(t, n, n.ReadyPod(t, "app=server"))
			n.WaitReady(t, "server")
		}},
		{"drain of a node", func(t *testing.T) { drain(t, n) }},
		{"crash of a sidecar", func(t *testing.T) {
			pod := n.ReadyPod(t, "app=server").Name
			if _, err := n.Exec(t.Context(), pod, "app", "/bin/busybox", "sh", "-c", "kill -9 $(busybox pidof seine-proxy)"); err != nil {
				t.Fatal(err)
			}
			kubetest.Wait(t, kubetest.Patience, "the sidecar to be restarted", func(ctx context.Context) error {
				p, err := c.Client.CoreV1().Pods(n.Name).Get(ctx, pod, metav1.GetOptions{})
				if err != nil {
					return err
				}
				for _, s := range p.Status.InitContainerStatuses {
					if s.Name == "seine-proxy" && s.RestartCount > 0 && s.Ready {
						return nil
					}
				}
				return fmt.Errorf("%+v", p.Status.InitContainerStatuses)
			})
			n.WaitReady(t, "server")
		}},
		{"crash of seined", func(t *testing.T) { crash(t, c.In(t, kubetest.System), "app=seined", "seined") }},
		{"API server away", func(t *testing.T) { withoutAPI(t, 2*time.Minute) }},
	} {
		t.Run(event.name, func(t *testing.T) {
			other := fresh.Counts(t)
			got := load.During(t, func() { event.happen(t) })
			renewed := fresh.Counts(t).Since(other)
			t.Logf("%d requests on kept connections, %d on new ones", got.Sent, renewed.Sent)
			if got.Failed()+renewed.Failed() > 0 {
				t.Errorf("failures on kept connections %v, on new ones %v", got.Failures, renewed.Failures)
			}
		})
	}
}

// restart does what `kubectl rollout restart` does.
func restart(t *testing.T, n *kubetest.Namespace, deployment string) {
	t.Helper()
	patch := fmt.Appendf(nil, `{"spec":{"template":{"metadata":{"annotations":{"kubectl.kubernetes.io/restartedAt":%q}}}}}`, time.Now().Format(time.RFC3339Nano))
	_, err := n.Client.AppsV1().Deployments(n.Name).Patch(t.Context(), deployment, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// scale waits until exactly so many pods are left and ready.
func scale(t *testing.T, n *kubetest.Namespace, deployment string, replicas int) {
	t.Helper()
	patch := fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, replicas)
	_, err := n.Client.AppsV1().Deployments(n.Name).Patch(t.Context(), deployment, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	n.WaitReady(t, deployment)
	kubetest.Wait(t, kubetest.Patience, "the old pods to be gone", func(ctx context.Context) error {
		list, err := n.Client.CoreV1().Pods(n.Name).List(ctx, metav1.ListOptions{LabelSelector: "app=" + deployment})
		if err == nil && len(list.Items) != replicas {
			err = fmt.Errorf("%d pods", len(list.Items))
		}
		return err
	})
}

// evict asks until the disruption budget allows it.
func evict(t *testing.T, n *kubetest.Namespace, pod corev1.Pod) {
	t.Helper()
	kubetest.Wait(t, kubetest.Patience, "the eviction of "+pod.Name, func(ctx context.Context) error {
		return n.Client.PolicyV1().Evictions(n.Name).Evict(ctx, &policyv1.Eviction{
			ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: n.Name},
		})
	})
}

// drain takes the servers off the node that has most of them, and lets pods
// back on it.
func drain(t *testing.T, n *kubetest.Namespace) {
	nodes, err := n.Client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(nodes.Items) < 2 {
		t.Skip("the cluster has one node")
	}
	node := n.ReadyPod(t, "app=server").Spec.NodeName
	cordon := func(ctx context.Context, on bool) {
		_, err := n.Client.CoreV1().Nodes().Patch(ctx, node, types.MergePatchType, fmt.Appendf(nil, `{"spec":{"unschedulable":%t}}`, on), metav1.PatchOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	cordon(t.Context(), true)
	defer cordon(context.WithoutCancel(t.Context()), false)
	for _, pod := range n.Pods(t, "app=server") {
		if pod.Spec.NodeName == node {
			evict(t, n, pod)
		}
	}
	n.WaitReady(t, "server")
}

// crash kills pods without letting them end, and waits until others are ready.
func crash(t *testing.T, n *kubetest.Namespace, selector, deployment string) {
	t.Helper()
	now := int64(0)
	old := n.Pods(t, selector)
	for _, pod := range old {
		if err := n.Client.CoreV1().Pods(n.Name).Delete(t.Context(), pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
			t.Fatal(err)
		}
	}
	kubetest.Wait(t, kubetest.Patience, "pods in place of those that crashed", func(context.Context) error {
		if young := n.ReadyPod(t, selector); slices.ContainsFunc(old, func(p corev1.Pod) bool { return p.UID == young.UID }) {
			return fmt.Errorf("%s is still there", young.Name)
		}
		return nil
	})
	n.WaitReady(t, deployment)
}

// withoutAPI has the API server away for a while.
func withoutAPI(t *testing.T, away time.Duration) {
	script := os.Getenv("SEINE_CLUSTER")
	if script == "" {
		t.Skip("SEINE_CLUSTER does not name what can stop the API server")
	}
	run := func(ctx context.Context, args ...string) {
		if out, err := exec.CommandContext(ctx, script, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	run(t.Context(), "stop", "kube-apiserver")
	back := func(ctx context.Context) { run(ctx, "api") }
	defer back(context.WithoutCancel(t.Context())) // whatever happens meanwhile
	select {
	case <-time.After(away): // that is the event
	case <-t.Context().Done():
	}
	back(t.Context())
	// Nodes that could not tell of themselves may be taken for lost at first.
	kubetest.Wait(t, 2*time.Minute, "the API server, and its nodes", func(ctx context.Context) error {
		nodes, err := kubetest.Connect(t).Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, n := range nodes.Items {
			if !slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
				return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
			}) {
				return fmt.Errorf("node %s is not ready", n.Name)
			}
		}
		return nil
	})
}
