//go:build kube

package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/seinemesh/seine/test/kube/kubetest"
)

var injected = map[string]string{"seine.dev/inject": "enabled"}

// ordinary are a pod that calls a server the moment it starts, and a Job that
// does so and ends its sidecar, both with an ordinary sidecar.
const ordinary = `
apiVersion: v1
kind: Pod
metadata: {name: eager, labels: {app: eager}, annotations: {sidecar.istio.io/nativeSidecar: "false"}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers:
  - {name: app, image: IMAGE, command: [sh, -c, "wget -qO- http://server/first && exec /workload pause"]}
---
apiVersion: batch/v1
kind: Job
metadata: {name: once}
spec:
  backoffLimit: 0
  template:
    metadata: {annotations: {sidecar.istio.io/nativeSidecar: "false"}}
    spec:
      restartPolicy: Never
      containers:
      - {name: app, image: IMAGE, command: [sh, -c, "wget -qO- http://server/job && wget -qO- --post-data=end http://127.0.0.1:15020/quitquitquit"]}
---
apiVersion: batch/v1
kind: Job
metadata: {name: silent}
spec:
  backoffLimit: 0
  template:
    metadata: {labels: {app: silent}, annotations: {sidecar.istio.io/nativeSidecar: "false"}}
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 1
      containers: [{name: app, image: IMAGE, command: [ls, /]}]
`

// TestOrdinarySidecar: where the sidecar is an ordinary container, the
// application starts when it is ready, so that its first call is in the mesh;
// and a Job ends when its work ends the sidecar, and not before.
func TestOrdinarySidecar(t *testing.T) {
	c := kubetest.Connect(t)
	c.Install(t)
	n := c.Namespace(t, "ordinary", injected)
	n.Apply(t, strict+"---"+server)
	n.WaitReady(t, "server")
	n.Apply(t, ordinary)

	eager := n.ReadyPod(t, "app=eager")
	if got := eager.Spec.Containers; len(got) != 2 || got[0].Name != "seine-proxy" || len(eager.Spec.InitContainers) != 1 {
		t.Fatalf("containers %v, init containers %v", names(got), names(eager.Spec.InitContainers))
	}
	for _, s := range eager.Status.ContainerStatuses {
		if s.RestartCount != 0 {
			t.Errorf("container %s was restarted", s.Name)
		}
	}
	// It never tries twice, and the server takes no plaintext.
	out, err := n.Logs(t.Context(), eager.Name, "app")
	if err != nil || !strings.Contains(out, "spiffe://cluster.local/ns/"+n.Name+"/sa/default") {
		t.Errorf("the first call of the application: %q, %v", out, err)
	}

	succeeded(t, n, "once")
	kubetest.Wait(t, kubetest.Patience, "the work of a Job that leaves its sidecar alone to be done", func(context.Context) error {
		for _, p := range n.Pods(t, "app=silent") {
			for _, s := range p.Status.ContainerStatuses {
				if s.Name == "app" && s.State.Terminated != nil {
					return nil
				}
			}
		}
		return errors.New("not yet")
	})
	job, err := c.Client.BatchV1().Jobs(n.Name).Get(t.Context(), "silent", metav1.GetOptions{})
	if err != nil || job.Status.Succeeded != 0 || job.Status.Active != 1 {
		t.Errorf("a Job whose ordinary sidecar nobody ends: %v, %+v", err, job.Status)
	}
}

func names(containers []corev1.Container) (all []string) {
	for i := range containers {
		all = append(all, containers[i].Name)
	}
	return all
}

func succeeded(t *testing.T, n *kubetest.Namespace, job string) {
	t.Helper()
	kubetest.Wait(t, kubetest.Patience, "Job "+job, func(ctx context.Context) error {
		j, err := n.Client.BatchV1().Jobs(n.Name).Get(ctx, job, metav1.GetOptions{})
		if err == nil && j.Status.Succeeded != 1 {
			err = fmt.Errorf("status %+v", j.Status)
		}
		return err
	})
}

// TestNightlyCronJobEnds waits for the minute to be full.
func TestNightlyCronJobEnds(t *testing.T) {
	c := kubetest.Connect(t)
	c.Install(t)
	n := c.Namespace(t, "cron", injected)
	n.Apply(t, `
apiVersion: batch/v1
kind: CronJob
metadata: {name: minutely}
spec:
  schedule: "* * * * *"
  jobTemplate:
    spec:
      backoffLimit: 0
      template:
        spec:
          restartPolicy: Never
          containers: [{name: app, image: IMAGE, command: [ls, /]}]
`)
	kubetest.Wait(t, 2*kubetest.Patience, "a run of the CronJob to succeed", func(ctx context.Context) error {
		cron, err := c.Client.BatchV1().CronJobs(n.Name).Get(ctx, "minutely", metav1.GetOptions{})
		if err == nil && cron.Status.LastSuccessfulTime == nil {
			err = fmt.Errorf("status %+v", cron.Status)
		}
		return err
	})
}

const everything = `
apiVersion: v1
kind: Pod
metadata:
  name: whole
  labels: {app: whole, version: v1}
  annotations:
    prometheus.io/scrape: "true"
    prometheus.io/port: "8080"
    traffic.sidecar.istio.io/excludeOutboundPorts: "5432"
    sidecar.istio.io/proxyCPU: 20m
spec:
  initContainers: [{name: first, image: IMAGE, command: [ls, /]}]
  containers:
  - name: app
    image: IMAGE
    args: [serve]
    ports: [{name: web, containerPort: 8080}]
    readinessProbe: {httpGet: {path: /, port: web}}
    livenessProbe: {tcpSocket: {port: 9000}}
    lifecycle: {preStop: {httpGet: {path: /stopping, port: 8080}}}
  - {name: other, image: IMAGE, args: [pause], readinessProbe: {exec: {command: [ls, /]}}}
`

// TestInjectByHand: `seine inject -f` with the mesh's own values makes the pod
// that the webhook makes.
func TestInjectByHand(t *testing.T) {
	c := kubetest.Connect(t)
	c.Install(t)
	text := strings.ReplaceAll(everything, "IMAGE", kubetest.Image())
	manifest := filepath.Join(t.TempDir(), "pod.yaml")
	if err := os.WriteFile(manifest, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	byHand := c.Seine(t, "inject", "--values", valuesOf(t, c, func(map[string]any) {}), "-f", manifest)

	var pods []*corev1.Pod
	for _, one := range []struct {
		labels map[string]string
		text   string
	}{{injected, text}, {nil, byHand}} {
		n := c.Namespace(t, "byhand", one.labels)
		kubetest.Wait(t, kubetest.Patience, "the pod to be taken", func(ctx context.Context) error {
			p := &corev1.Pod{}
			if err := yaml.UnmarshalStrict([]byte(one.text), p); err != nil {
				t.Fatal(err)
			}
			made, err := c.Client.CoreV1().Pods(n.Name).Create(ctx, p, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
			if err == nil {
				pods = append(pods, alike(made))
			}
			return err // a new namespace has no service account for a moment
		})
	}
	if _, ok := pods[0].Annotations["seine.dev/status"]; !ok {
		t.Fatal("the webhook did not inject")
	}
	if diff := cmp.Diff(pods[0], pods[1]); diff != "" {
		t.Errorf("the webhook's pod and the one by hand (+) differ:\n%s", diff)
	}
}

// alike is a pod without what Kubernetes makes up for each, and with the
// volumes in order: the API server adds its own before or after a webhook's.
func alike(p *corev1.Pod) *corev1.Pod {
	p.ObjectMeta = metav1.ObjectMeta{Name: p.Name, Labels: p.Labels, Annotations: p.Annotations}
	rename := func(name *string) {
		if strings.HasPrefix(*name, "kube-api-access-") {
			*name = "kube-api-access"
		}
	}
	for i := range p.Spec.Volumes {
		rename(&p.Spec.Volumes[i].Name)
	}
	slices.SortFunc(p.Spec.Volumes, func(a, b corev1.Volume) int { return strings.Compare(a.Name, b.Name) })
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			for m := range list[i].VolumeMounts {
				rename(&list[i].VolumeMounts[m].Name)
			}
			slices.SortFunc(list[i].VolumeMounts, func(a, b corev1.VolumeMount) int { return strings.Compare(a.Name, b.Name) })
		}
	}
	return p
}

// apart is the client with annotations, each of which keeps some of its
// connections out of the mesh, where a STRICT server does not answer them.
const apart = `
apiVersion: v1
kind: Pod
metadata: {name: NAME, labels: {app: NAME}, annotations: {NOTES}}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: app, image: IMAGE, args: [pause]}]
---
`

// TestExclusions: ports and addresses that annotations exclude go past the
// sidecar, in both directions and address families, and all others through it.
func TestExclusions(t *testing.T) {
	c := kubetest.Connect(t)
	c.Install(t)
	n := c.Namespace(t, "exclude", injected)
	n.Apply(t, strict+"---"+strings.NewReplacer("replicas: 2", "replicas: 1",
		"metadata: {labels: {app: server}}", `metadata: {labels: {app: server}, annotations: {traffic.sidecar.istio.io/excludeInboundPorts: "9000"}}`).Replace(server))
	service, err := c.Client.CoreV1().Services(n.Name).Get(t.Context(), "server", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	bits := map[bool]string{true: "/128", false: "/32"}
	var ranges []string
	for _, ip := range service.Spec.ClusterIPs {
		ranges = append(ranges, ip+bits[strings.Contains(ip, ":")])
	}
	all := strings.Join(ranges, ",")
	manifest := ""
	for name, notes := range map[string]string{
		"every": "", "no-port": `traffic.sidecar.istio.io/excludeOutboundPorts: "80,443"`,
		"no-range": fmt.Sprintf("traffic.sidecar.istio.io/excludeOutboundIPRanges: %q", all), "only-range": fmt.Sprintf("traffic.sidecar.istio.io/includeOutboundIPRanges: %q", all),
	} {
		manifest += strings.NewReplacer("NAME", name, "NOTES", notes).Replace(apart)
	}
	n.Apply(t, manifest)
	outside := c.Namespace(t, "outside", nil)
	outside.Apply(t, client)
	n.WaitReady(t, "server")
	outside.WaitReady(t, "client")
	pod := n.ReadyPod(t, "app=server")

	// inbound: the excluded port takes plaintext, and only that.
	outsider := outside.ReadyPod(t, "app=client").Name
	for _, ip := range pod.Status.PodIPs {
		if out, err := outside.Call(t.Context(), outsider, "-protocol", "tcp", net.JoinHostPort(ip.IP, "9000")); err != nil || !strings.Contains(out, "ok") {
			t.Errorf("plaintext to the excluded port at %s: %q, %v", ip.IP, out, err)
		}
		if out, err := outside.Call(t.Context(), outsider, "http://"+net.JoinHostPort(ip.IP, "8080")+"/"); err == nil {
			t.Errorf("plaintext to another port at %s was answered: %s", ip.IP, out)
		}
	}
	const servicePort, otherPort, podIP = "by Service", "by another port", "by pod address"
	targets := map[string][]string{}
	for _, ip := range service.Spec.ClusterIPs {
		targets[servicePort] = append(targets[servicePort], "http://"+net.JoinHostPort(ip, "80")+"/")
		targets[otherPort] = append(targets[otherPort], "http://"+net.JoinHostPort(ip, "8080")+"/")
	}
	for _, ip := range pod.Status.PodIPs {
		targets[podIP] = append(targets[podIP], "http://"+net.JoinHostPort(ip.IP, "8080")+"/")
	}
	for _, from := range []struct {
		name   string
		passes map[string]bool // through the sidecar
	}{
		{"every", map[string]bool{servicePort: true, otherPort: true, podIP: true}},
		{"no-port", map[string]bool{otherPort: true, podIP: true}},
		{"no-range", map[string]bool{podIP: true}},
		{"only-range", map[string]bool{servicePort: true, otherPort: true}},
	} {
		caller := n.ReadyPod(t, "app="+from.name).Name
		for kind, addresses := range targets {
			for _, a := range addresses {
				args := []string{a}
				if kind == otherPort {
					args = []string{"-protocol", "h2c", a}
				}
				out, err := n.Call(t.Context(), caller, args...)
				if passed := err == nil && strings.Contains(out, "spiffe://"); passed != from.passes[kind] || err == nil != passed {
					t.Errorf("%s %s, %s: through the sidecar: %v, want %v (%q, %v)", from.name, kind, a, passed, from.passes[kind], out, err)
				}
			}
		}
	}
}

// valuesOf are the values of the injection that hold now, changed.
func valuesOf(t *testing.T, c *kubetest.Cluster, change func(map[string]any)) string {
	t.Helper()
	settings, err := c.Client.CoreV1().ConfigMaps(kubetest.System).Get(t.Context(), "seine", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]any{}
	if err := yaml.Unmarshal([]byte(settings.Data["injector"]), &values); err != nil {
		t.Fatal(err)
	}
	change(values)
	text, err := json.Marshal(values)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "values.json")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
