package kubetest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A Namespace is one of the cluster's, made for a test.
type Namespace struct {
	*Cluster
	Name string
}

// Namespace makes a namespace whose name begins with prefix. It goes with the
// test; if that failed, its pods, events and logs are printed before.
func (c *Cluster) Namespace(t testing.TB, prefix string, labels map[string]string) *Namespace {
	t.Helper()
	made, err := c.Client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{GenerateName: prefix + "-", Labels: labels},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatalf("make namespace: %v", err)
	}
	n := &Namespace{Cluster: c, Name: made.Name}
	t.Cleanup(func() {
		if t.Failed() {
			n.Describe(t)
		}
		err := c.Client.CoreV1().Namespaces().Delete(context.WithoutCancel(t.Context()), n.Name, metav1.DeleteOptions{})
		if ignoreAbsent(err) != nil {
			t.Errorf("delete namespace %s: %v", n.Name, err)
		}
	})
	return n
}

// In returns a namespace that is there already. The test leaves it there; if it
// fails, the namespace's story is printed.
func (c *Cluster) In(t testing.TB, name string) *Namespace {
	n := &Namespace{Cluster: c, Name: name}
	t.Cleanup(func() {
		if t.Failed() {
			n.Describe(t)
		}
	})
	return n
}

// Apply is Cluster.Apply for documents that name no namespace.
func (n *Namespace) Apply(t testing.TB, manifest string) {
	t.Helper()
	n.apply(t, n.Name, manifest)
}

// Delete is Cluster.Delete for documents that name no namespace.
func (n *Namespace) Delete(t testing.TB, manifest string) {
	t.Helper()
	n.delete(t, n.Name, manifest)
}

// WaitReady waits until the deployments of these names are rolled out: pod after
// pod, and so for longer than for one thing.
func (n *Namespace) WaitReady(t testing.TB, deployments ...string) {
	t.Helper()
	for _, name := range deployments {
		Wait(t, 3*Patience, "deployment "+name, func(ctx context.Context) error {
			d, err := n.Client.AppsV1().Deployments(n.Name).Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			return rolledOut(d)
		})
	}
}

func rolledOut(d *appsv1.Deployment) error {
	s := d.Status
	if s.ObservedGeneration < d.Generation || s.UpdatedReplicas < *d.Spec.Replicas ||
		s.Replicas > s.UpdatedReplicas || s.AvailableReplicas < s.UpdatedReplicas {
		return fmt.Errorf("%d of %d replicas updated, %d available, %d old",
			s.UpdatedReplicas, *d.Spec.Replicas, s.AvailableReplicas, s.Replicas-s.UpdatedReplicas)
	}
	return nil
}

// Pods returns the pods that selector selects and that are not being deleted.
func (n *Namespace) Pods(t testing.TB, selector string) []corev1.Pod {
	t.Helper()
	list, err := n.Client.CoreV1().Pods(n.Name).List(t.Context(), metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		t.Fatalf("list pods %s: %v", selector, err)
	}
	return slices.DeleteFunc(list.Items, func(p corev1.Pod) bool { return p.DeletionTimestamp != nil })
}

// ReadyPod waits until a pod that selector selects is Ready, and returns it.
func (n *Namespace) ReadyPod(t testing.TB, selector string) corev1.Pod {
	t.Helper()
	var ready corev1.Pod
	Wait(t, Patience, "a ready pod "+selector, func(context.Context) error {
		pods := n.Pods(t, selector)
		i := slices.IndexFunc(pods, podReady)
		if i < 0 {
			return fmt.Errorf("%d pods, none ready", len(pods))
		}
		ready = pods[i]
		return nil
	})
	return ready
}

func podReady(p corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// Logs returns what the container has logged.
func (n *Namespace) Logs(ctx context.Context, pod, container string) (string, error) {
	tail := int64(60)
	out, err := n.Client.CoreV1().Pods(n.Name).GetLogs(pod, &corev1.PodLogOptions{Container: container, TailLines: &tail}).DoRaw(ctx)
	return string(out), err
}

// Describe logs the namespace's pods, their containers' last lines, and the events.
func (n *Namespace) Describe(t testing.TB) {
	ctx := context.WithoutCancel(t.Context())
	pods, err := n.Client.CoreV1().Pods(n.Name).List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Logf("describe %s: %v", n.Name, err)
		return
	}
	var out strings.Builder
	fmt.Fprintf(&out, "namespace %s:\n", n.Name)
	for _, p := range pods.Items {
		fmt.Fprintf(&out, "pod %s: %s on %s, %v\n", p.Name, p.Status.Phase, p.Spec.NodeName, p.Status.PodIPs)
		for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
			fmt.Fprintf(&out, "  %s: ready %t, restarts %d, %s\n", s.Name, s.Ready, s.RestartCount, state(s.State))
			if logs, err := n.Logs(ctx, p.Name, s.Name); err == nil {
				fmt.Fprintf(&out, "    %s\n", strings.ReplaceAll(strings.TrimSpace(logs), "\n", "\n    "))
			}
		}
	}
	events, err := n.Client.CoreV1().Events(n.Name).List(ctx, metav1.ListOptions{})
	if err == nil {
		for _, e := range events.Items {
			fmt.Fprintf(&out, "event %s/%s %s: %s\n", e.InvolvedObject.Kind, e.InvolvedObject.Name, e.Reason, e.Message)
		}
	}
	t.Log(out.String())
}

func state(s corev1.ContainerState) string {
	switch {
	case s.Running != nil:
		return "running"
	case s.Terminated != nil:
		return fmt.Sprintf("ended with %d %s %s", s.Terminated.ExitCode, s.Terminated.Reason, s.Terminated.Message)
	case s.Waiting != nil:
		return fmt.Sprintf("waiting: %s %s", s.Waiting.Reason, s.Waiting.Message)
	}
	return "unknown"
}

func ignoreAbsent(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
