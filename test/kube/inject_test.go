//go:build kube

package kube

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/seinemesh/seine/test/kube/kubetest"
)

const strict = `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default}
spec: {mtls: {mode: STRICT}}
`

// probed has a probe of every kind, on ports that take no plaintext.
const probed = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: NAME}
spec:
  selector: {matchLabels: {app: NAME}}
  template:
    metadata:
      labels: {app: NAME}
      annotations: {prometheus.io/scrape: "true", prometheus.io/port: "8080"}
    spec:
      terminationGracePeriodSeconds: 10
      containers:
      - name: app
        image: IMAGE
        args: [serve, -https, ":8443", -version, probed]
        ports: [{name: web, containerPort: 8080}]
        PROBES
        lifecycle:
          postStart: {httpGet: {path: /started, port: web}}
          preStop: {httpGet: {path: /stopping, port: 8080}}
`

// TestProbesUnderStrict: each kind of probe reaches an application whose ports
// demand mutual TLS, and one that fails is seen to fail.
func TestProbesUnderStrict(t *testing.T) {
	c := kubetest.Connect(t)
	c.Install(t)
	n := c.Namespace(t, "probes", map[string]string{"seine.dev/inject": "enabled"})
	n.Apply(t, strict)
	every := map[string]string{
		"http":  "httpGet: {path: /ready, port: web}",
		"https": "httpGet: {path: /ready, port: 8443, scheme: HTTPS}",
		"tcp":   "tcpSocket: {port: 9000}",
		"grpc":  "grpc: {port: 8081}",
		"exec":  "exec: {command: [ls, /]}",
	}
	names := []string{}
	for name, probe := range every {
		probes := ""
		for _, kind := range []string{"startupProbe", "readinessProbe", "livenessProbe"} {
			probes += kind + ": {" + probe + ", periodSeconds: 1}\n        "
		}
		n.Apply(t, strings.NewReplacer("NAME", name, "PROBES", probes).Replace(probed))
		names = append(names, name)
	}
	n.Apply(t, strings.NewReplacer("NAME", "sick", "PROBES", "readinessProbe: {httpGet: {path: '/?status=500', port: 8080}, periodSeconds: 1}").Replace(probed))
	n.WaitReady(t, names...)

	outside := c.Namespace(t, "outside", nil)
	outside.Apply(t, client)
	outside.WaitReady(t, "client")
	caller := outside.ReadyPod(t, "app=client").Name
	pod := n.ReadyPod(t, "app=http")
	if out, err := outside.Call(t.Context(), caller, "http://"+net.JoinHostPort(pod.Status.PodIP, "8080")+"/"); err == nil {
		t.Errorf("plaintext was answered: %s", out)
	}
	sick := n.Pods(t, "app=sick")
	if len(sick) != 1 {
		t.Fatalf("%d pods", len(sick))
	}
	kubetest.Wait(t, kubetest.Patience, "the sidecar of a sick application to be ready, and the application not", func(ctx context.Context) error {
		p, err := c.Client.CoreV1().Pods(n.Name).Get(ctx, sick[0].Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if len(p.Status.ContainerStatuses) == 0 || p.Status.ContainerStatuses[0].Started == nil || !*p.Status.ContainerStatuses[0].Started {
			return errors.New("not started")
		}
		if p.Status.ContainerStatuses[0].Ready {
			t.Fatal("an application that answers 500 is ready")
		}
		return nil
	})

	// One scrape has both sides' metrics.
	if p := pod.Annotations["prometheus.io/port"]; p != "15020" {
		t.Errorf("prometheus.io/port is %s", p)
	}
	out, err := outside.Exec(t.Context(), caller, "app", "wget", "-qO-", "http://"+net.JoinHostPort(pod.Status.PodIP, "15020")+pod.Annotations["prometheus.io/path"])
	if err != nil || !strings.Contains(out, `workload_info{version="probed"} 1`) || !strings.Contains(out, "seine_proxy_redirect_holds 1") {
		t.Errorf("%v, %d bytes of metrics", err, len(out))
	}
}

// TestCallsItself: a workload that calls its own Service, its own address and
// another's, in both address families, where it listens on [::], on its own
// address, and on 127.0.0.1, and never comes back to itself in a circle.
func TestCallsItself(t *testing.T) {
	c := kubetest.Connect(t)
	c.Install(t)
	n := c.Namespace(t, "itself", map[string]string{"seine.dev/inject": "enabled"})
	n.Apply(t, strict+"---"+strings.NewReplacer("replicas: 2", "replicas: 1", `args: [serve]
`, `args: [serve, -tcp, "$(POD_IP):9000", -server-first, "127.0.0.1:9001"]
        env: [{name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]
`).Replace(server)+"---"+client)
	n.WaitReady(t, "server", "client")
	own, other := n.ReadyPod(t, "app=server"), n.ReadyPod(t, "app=client")
	service, err := c.Client.CoreV1().Services(n.Name).Get(t.Context(), "server", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	addresses := []string{"server", "server." + n.Name + ".svc.cluster.local", "localhost:8080"}
	for _, ip := range service.Spec.ClusterIPs {
		addresses = append(addresses, net.JoinHostPort(ip, "80"))
	}
	var podIPs []string
	for _, ip := range own.Status.PodIPs {
		podIPs = append(podIPs, net.JoinHostPort(ip.IP, "8080"))
	}
	for _, from := range []corev1.Pod{own, other} {
		for _, a := range append(addresses, podIPs...) {
			if from.Name == other.Name && a == "localhost:8080" {
				continue
			}
			out, err := n.Call(t.Context(), from.Name, "http://"+a+"/itself")
			if err != nil || !strings.Contains(out, "server-") {
				t.Errorf("from %s to %s: %q, %v", from.Name, a, out, err)
				continue
			}
			// A certificate was shown: the call passed both halves of the sidecar. What
			// a pod sends to its own address does not leave it, as with Istio.
			want := a != "localhost:8080" && !(from.Name == own.Name && slices.Contains(podIPs, a))
			if got := strings.Contains(out, "spiffe://cluster.local/ns/"+n.Name+"/sa/default"); got != want {
				t.Errorf("from %s to %s: a certificate was shown: %v\n%s", from.Name, a, got, out)
			}
		}
		// Who listens on the pod's address alone is reached there.
		for _, address := range []string{"server:9000", net.JoinHostPort(own.Status.PodIP, "9000")} {
			if out, err := n.Call(t.Context(), from.Name, "-protocol", "tcp", address); err != nil {
				t.Errorf("from %s by %s: %q, %v", from.Name, address, out, err)
			}
		}
		// Who listens on the loopback address alone is not to be had from outside,
		// with or without a mesh; the connection ends, and does not go round.
		if _, err := n.Call(t.Context(), from.Name, "-protocol", "server-first", "-timeout", "5s", "server:9001"); err == nil {
			t.Errorf("from %s: what listens on 127.0.0.1 was reached by its Service", from.Name)
		}
	}
	if out, err := n.Exec(t.Context(), own.Name, "app", "wget", "-qO-", "http://127.0.0.1:15020/stats/prometheus"); err != nil || !strings.Contains(out, "seine_proxy_self_calls_total 0") {
		t.Errorf("calls to the sidecar itself: %v", err)
	}
}

// TestJobEnds: a sidecar does not outlive the work.
func TestJobEnds(t *testing.T) {
	c := kubetest.Connect(t)
	c.Install(t)
	n := c.Namespace(t, "job", map[string]string{"seine.dev/inject": "enabled"})
	n.Apply(t, `
apiVersion: batch/v1
kind: Job
metadata: {name: once}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      containers: [{name: app, image: IMAGE, command: [ls, /]}]
`)
	kubetest.Wait(t, kubetest.Patience, "the Job to be complete", func(ctx context.Context) error {
		j, err := c.Client.BatchV1().Jobs(n.Name).Get(ctx, "once", metav1.GetOptions{})
		if err == nil && j.Status.Succeeded != 1 {
			err = fmt.Errorf("status %+v", j.Status)
		}
		return err
	})
}

// TestSkippedPods: what was asked for and cannot be is said, in an Event.
func TestSkippedPods(t *testing.T) {
	c := kubetest.Connect(t)
	c.Install(t)
	n := c.Namespace(t, "skip", map[string]string{"istio-injection": "enabled"})
	n.Apply(t, `
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec: {hostNetwork: true, containers: [{name: app, image: IMAGE, args: [pause]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: refuses, labels: {sidecar.istio.io/inject: "false"}}
spec: {containers: [{name: app, image: IMAGE, args: [pause]}]}
`)
	kubetest.Wait(t, kubetest.Patience, "the Event", func(ctx context.Context) error {
		l, err := c.Client.CoreV1().Events(n.Name).List(ctx, metav1.ListOptions{FieldSelector: "reason=SidecarSkipped"})
		if err != nil {
			return err
		}
		for _, e := range l.Items {
			if e.InvolvedObject.Kind == "DaemonSet" && e.InvolvedObject.Name == "agent" && strings.Contains(e.Message, "hostNetwork") {
				return nil
			}
		}
		return fmt.Errorf("%d Events", len(l.Items))
	})
	for _, p := range n.Pods(t, "") {
		if len(p.Spec.InitContainers) > 0 {
			t.Errorf("%s was injected", p.Name)
		}
	}
}

// TestNobodyOutsideTheMeshUnnoticed: a pod whose redirect nobody made (as with a
// CNI plugin that came too late) does not run its application, and its sidecar
// says why.
func TestNobodyOutsideTheMeshUnnoticed(t *testing.T) {
	c := kubetest.Connect(t)
	c.Install(t)
	n := c.Namespace(t, "late", map[string]string{"seine.dev/inject": "enabled"})
	manifest := filepath.Join(t.TempDir(), "client.yaml")
	if err := os.WriteFile(manifest, []byte(client), 0o600); err != nil {
		t.Fatal(err)
	}
	n.Apply(t, c.Seine(t, "inject", "--values", valuesOf(t, c, func(v map[string]any) { v["cni"] = true }), "-f", manifest))
	notReady(t, c, n.Name, "are not redirected to the sidecar")
	for _, p := range n.Pods(t, "app=client") {
		for _, s := range p.Status.ContainerStatuses {
			if s.State.Running != nil {
				t.Errorf("container %s of %s runs", s.Name, p.Name)
			}
		}
	}
	if l := unwell(t, c)["pods that are not ready"]; !strings.Contains(l.Detail, n.Name+"/client-") || !strings.Contains(l.Detail, "are not redirected to the sidecar") || !strings.Contains(l.Mend, "injection.repair=true") {
		t.Errorf("seine check: %+v", l)
	}
}

// notReady waits for the Event in which seined says what a pod's sidecar says.
func notReady(t *testing.T, c *kubetest.Cluster, namespace, reason string) {
	t.Helper()
	kubetest.Wait(t, kubetest.Patience, "an Event about it", func(ctx context.Context) error {
		l, err := c.Client.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{FieldSelector: "reason=SidecarNotReady"})
		if err != nil {
			return err
		}
		for _, e := range l.Items {
			if e.InvolvedObject.Kind == "Pod" && strings.Contains(e.Message, reason) {
				return nil
			}
		}
		return fmt.Errorf("%d Events", len(l.Items))
	})
}

// TestWithoutControlPlane: while no seined answers, pods that asked for a
// sidecar wait, and the rest of the cluster goes on.
func TestWithoutControlPlane(t *testing.T) {
	c := kubetest.Connect(t)
	c.Install(t)
	in := c.Namespace(t, "in", map[string]string{"seine.dev/inject": "enabled"})
	out := c.Namespace(t, "out", nil)
	in.Apply(t, server)
	in.WaitReady(t, "server")
	scale := func(ctx context.Context, replicas int) {
		t.Helper()
		patch := fmt.Sprintf(`{"spec":{"replicas":%d}}`, replicas)
		if _, err := c.Client.AppsV1().Deployments(kubetest.System).Patch(ctx, "seined", types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	scale(t.Context(), 0)
	restored := false
	restore := func(ctx context.Context) {
		if !restored {
			restored = true
			scale(ctx, 1)
		}
	}
	t.Cleanup(func() { restore(context.WithoutCancel(t.Context())) })
	system := c.In(t, kubetest.System)
	kubetest.Wait(t, kubetest.Patience, "seined to be gone", func(ctx context.Context) error {
		// One that is being deleted still answers.
		list, err := c.Client.CoreV1().Pods(kubetest.System).List(ctx, metav1.ListOptions{LabelSelector: "app=seined"})
		if err == nil && len(list.Items) > 0 {
			err = fmt.Errorf("%d pods", len(list.Items))
		}
		return err
	})
	pod := func(namespace string) error {
		_, err := c.Client.CoreV1().Pods(namespace).Create(t.Context(), &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "probe"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "none"}}},
		}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err
	}
	if err := pod(in.Name); !apierrors.IsInternalError(err) || !strings.Contains(err.Error(), "injector.seine.dev") {
		t.Errorf("a pod that asked for a sidecar: %v", err)
	}
	for _, name := range []string{out.Name, "kube-system", kubetest.System} {
		if err := pod(name); err != nil && !apierrors.IsForbidden(err) { // Pod Security is another's no
			t.Errorf("a pod in %s: %v", name, err)
		}
	}
	// What runs goes on.
	out.Apply(t, client)
	out.WaitReady(t, "client")
	if _, err := out.Call(t.Context(), out.ReadyPod(t, "app=client").Name, "http://server."+in.Name+"/"); err != nil {
		t.Errorf("a call while seined is away: %v", err)
	}
	restore(t.Context())
	system.WaitReady(t, "seined")
	kubetest.Wait(t, kubetest.Patience, "pods to be injected again", func(context.Context) error { return pod(in.Name) })
}
