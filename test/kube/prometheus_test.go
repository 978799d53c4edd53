//go:build kube

package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/seinemesh/seine/install/grafana"
	"github.com/seinemesh/seine/tap"
	"github.com/seinemesh/seine/test/kube/kubetest"
)

// monitorKinds are the operator's two kinds, without the operator: whatever it
// would do with them is done here.
const monitorKinds = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: podmonitors.monitoring.coreos.com}
spec:
  group: monitoring.coreos.com
  scope: Namespaced
  names: {kind: PodMonitor, plural: podmonitors, singular: podmonitor}
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: servicemonitors.monitoring.coreos.com}
spec:
  group: monitoring.coreos.com
  scope: Namespaced
  names: {kind: ServiceMonitor, plural: servicemonitors, singular: servicemonitor}
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]
`

const strictNamespace = `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default}
spec: {mtls: {mode: STRICT}}
`

// TestPrometheus has a real Prometheus scrape a STRICT mesh, once by the pods'
// annotations and once by the monitors of the chart, as their own relabelings have
// it: sidecars, control plane, the application's own metrics; and the dashboards'
// queries find their series. Where the Prometheus has no discovery by Kubernetes
// (Debian's), its targets are listed for it with the labels that discovery gives.
func TestPrometheus(t *testing.T) {
	if _, err := exec.LookPath("prometheus"); err != nil {
		t.Fatal("there is no prometheus: test/deps.sh installs it")
	}
	c := kubetest.Connect(t)
	c.Apply(t, monitorKinds)
	t.Cleanup(func() { c.Delete(t, monitorKinds) })
	kubetest.Wait(t, kubetest.Patience, "the monitors' kinds", func(ctx context.Context) error {
		_, err := monitor(ctx, c, "podmonitors", "any")
		if err != nil && strings.Contains(err.Error(), `"any" not found`) {
			return nil
		}
		return fmt.Errorf("%w", err)
	})
	c.Install(t, "--set", "monitoring.operator=true")
	t.Cleanup(func() { c.Install(t) }) // without monitors
	shop := c.Namespace(t, "metrics", map[string]string{"seine.dev/inject": "enabled"})
	shop.Apply(t, strictNamespace)
	shop.Apply(t, strings.ReplaceAll(billing, "    metadata: {labels: {app: billing", "    metadata: {annotations: {prometheus.io/scrape: \"true\", prometheus.io/port: \"8080\"}, labels: {app: billing"))
	shop.WaitReady(t, "billing-v1", "billing-v2")
	shop.Load(t, "frontend", 50, "http://billing-service:8080/invoice")

	if l := checked(t, c)["Prometheus"]; !strings.Contains(l.Detail, "PodMonitor") {
		t.Errorf("seine check: %+v", l)
	}
	taps(t, shop)
	p := startPrometheus(t, scrapes(t, c))
	for _, q := range []string{
		// Three pods with sidecars, by either way, and the control plane.
		`count(up{job="annotations",namespace="` + shop.Name + `"} == 1) == 3`,
		`count(up{job="monitor",namespace="` + shop.Name + `"} == 1) == 3`,
		`count(up{job=~"annotations|service-monitor",namespace="seine-system"} == 1) == 2`,
		// The application's own beside the sidecar's, in one scrape.
		`count(workload_info{job="annotations",namespace="` + shop.Name + `"}) == 2`,
		`count(workload_info{job="monitor",namespace="` + shop.Name + `"}) == 2`,
		`sum(rate(istio_requests_total{job="monitor",reporter="destination",connection_security_policy="mutual_tls",destination_service_name="billing-service",destination_service_namespace="` + shop.Name + `"}[30s])) > 0`,
		`sum(rate(seine_route_duration_seconds_count{job="monitor",route="Service ` + shop.Name + `/billing-service"}[30s])) > 0`,
	} {
		kubetest.Wait(t, kubetest.Patience, q, func(ctx context.Context) error { return p.some(ctx, q) })
	}
	for _, d := range grafana.All() {
		d.Exprs(func(panel string, q grafana.Query) {
			if !q.Quiet {
				kubetest.Wait(t, kubetest.Patience, d.Title+", "+panel, func(ctx context.Context) error { return p.some(ctx, q.Expr) })
			}
		})
	}
}

// taps watches the load's requests over a port forwarded to the control plane.
func taps(t *testing.T, n *kubetest.Namespace) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), kubetest.Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, kubetest.Program(), "tap", "deploy/billing-v1", "-n", n.Name, "--direction", "inbound", "--context", n.Context(t), "-o", "json")
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	var r tap.Request
	if err := json.NewDecoder(out).Decode(&r); err != nil {
		t.Errorf("seine tap: %v, %v\n%s", err, cmd.Wait(), said.String())
		return
	}
	if r.Direction != "inbound" || !strings.HasPrefix(r.Proxy, n.Name+"/billing-v1-") || r.Path != "/invoice" || r.Status != 200 || r.Security != "mutual_tls" {
		t.Errorf("seine tap shows %+v", r)
	}
	_ = cmd.Process.Signal(os.Interrupt)
	_, _ = io.Copy(io.Discard, out)
	if err := cmd.Wait(); err != nil {
		t.Errorf("seine tap after Ctrl-C: %v\n%s", err, said.String())
	}
}

func monitor(ctx context.Context, c *kubetest.Cluster, plural, name string) (*unstructured.Unstructured, error) {
	return c.Dynamic.Resource(schema.GroupVersionResource{Group: "monitoring.coreos.com", Version: "v1", Resource: plural}).
		Namespace(kubetest.System).Get(ctx, name, metav1.GetOptions{})
}

// scrapes is a Prometheus' configuration: by annotations as Prometheus' own example
// for Kubernetes has it, and by the monitors as the operator would have it.
func scrapes(t *testing.T, c *kubetest.Cluster) string {
	t.Helper()
	pods, err := c.Client.CoreV1().Pods(metav1.NamespaceAll).List(t.Context(), metav1.ListOptions{FieldSelector: "status.phase=Running"})
	if err != nil {
		t.Fatal(err)
	}
	var targets []map[string]any
	for i := range pods.Items {
		targets = append(targets, scraped(&pods.Items[i])...)
	}
	type rule = map[string]any
	label := func(source, target string) rule {
		return rule{"action": "replace", "source_labels": []string{source}, "target_label": target}
	}
	common := []any{label("__meta_kubernetes_namespace", "namespace"), label("__meta_kubernetes_pod_name", "pod")}
	keep := func(source, regex string) rule {
		return rule{"action": "keep", "source_labels": []string{source}, "regex": regex}
	}
	annotations := append([]any{
		keep("__meta_kubernetes_pod_annotation_prometheus_io_scrape", "true"),
		rule{"action": "replace", "source_labels": []string{"__address__", "__meta_kubernetes_pod_annotation_prometheus_io_port"}, "regex": `(.+):\d+;(\d+)`, "replacement": "$1:$2", "target_label": "__address__"},
		rule{"action": "replace", "source_labels": []string{"__meta_kubernetes_pod_annotation_prometheus_io_path"}, "regex": "(.+)", "target_label": "__metrics_path__"},
	}, common...)
	jobs := []any{rule{"job_name": "annotations", "static_configs": targets, "relabel_configs": annotations}}

	proxies, err := monitor(t.Context(), c, "podmonitors", "seine-proxies")
	if err != nil {
		t.Fatal(err)
	}
	endpoints, _, err := unstructured.NestedSlice(proxies.Object, "spec", "podMetricsEndpoints")
	if err != nil || len(endpoints) != 1 {
		t.Fatalf("%v, %v", endpoints, err)
	}
	e := endpoints[0].(map[string]any)
	relabel := []any{keep("__meta_kubernetes_pod_container_port_name", fmt.Sprint(e["port"]))}
	for _, r := range e["relabelings"].([]any) { // the operator writes the same in Prometheus' own spelling
		out := rule{}
		for k, v := range r.(map[string]any) {
			out[regexp.MustCompile("[A-Z]").ReplaceAllStringFunc(k, func(s string) string { return "_" + strings.ToLower(s) })] = v
		}
		relabel = append(relabel, out)
	}
	jobs = append(jobs, rule{"job_name": "monitor", "static_configs": targets, "metrics_path": e["path"], "relabel_configs": append(relabel, common...)})

	control, err := monitor(t.Context(), c, "servicemonitors", "seined")
	if err != nil {
		t.Fatal(err)
	}
	selector, _, _ := unstructured.NestedStringMap(control.Object, "spec", "selector", "matchLabels")
	services, err := c.Client.CoreV1().Services(kubetest.System).List(t.Context(), metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(&metav1.LabelSelector{MatchLabels: selector})})
	if err != nil || len(services.Items) != 1 {
		t.Fatalf("the ServiceMonitor selects %v, %v", services, err)
	}
	ports, _, _ := unstructured.NestedSlice(control.Object, "spec", "endpoints")
	named := fmt.Sprint(ports[0].(map[string]any)["port"])
	for _, port := range services.Items[0].Spec.Ports {
		if port.Name == named {
			jobs = append(jobs, rule{"job_name": "service-monitor", "static_configs": []any{rule{
				"targets": []string{net.JoinHostPort(services.Items[0].Spec.ClusterIP, fmt.Sprint(port.Port))}, "labels": map[string]string{"namespace": kubetest.System}}}})
		}
	}
	out, err := yaml.Marshal(map[string]any{"global": map[string]string{"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": jobs})
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// scraped are the targets of a pod, one for each declared port, with the labels of
// Prometheus' discovery (its configuration's kubernetes_sd_configs, role pod).
func scraped(pod *corev1.Pod) []map[string]any {
	clean := regexp.MustCompile("[^a-zA-Z0-9_]")
	var out []map[string]any
	for _, container := range append(pod.Spec.Containers, pod.Spec.InitContainers...) {
		for _, port := range container.Ports {
			labels := map[string]string{
				"__meta_kubernetes_namespace": pod.Namespace, "__meta_kubernetes_pod_name": pod.Name,
				"__meta_kubernetes_pod_container_name": container.Name, "__meta_kubernetes_pod_container_port_name": port.Name,
			}
			for k, v := range pod.Annotations {
				labels["__meta_kubernetes_pod_annotation_"+clean.ReplaceAllString(k, "_")] = v
			}
			out = append(out, map[string]any{"targets": []string{net.JoinHostPort(pod.Status.PodIP, fmt.Sprint(port.ContainerPort))}, "labels": labels})
		}
	}
	return out
}

// prometheus is a real one, in the cluster's network.
type prometheus struct{ base string }

func startPrometheus(t *testing.T, config string) *prometheus {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().String()
	_ = l.Close()
	var said bytes.Buffer
	cmd := exec.Command("prometheus", "--config.file", filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path", filepath.Join(dir, "data"), "--web.listen-address", at, "--log.level", "warn")
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("prometheus said:\n%s\nits configuration:\n%s", said.String(), config)
		}
	})
	return &prometheus{"http://" + at}
}

// some is nil if an expression has a value that is a number.
func (p *prometheus) some(ctx context.Context, expr string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.base+"/api/v1/query?"+url.Values{"query": {expr}}.Encode(), nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	var answer struct {
		Error string
		Data  struct {
			Result []struct{ Value [2]any }
		}
	}
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil || answer.Error != "" {
		return fmt.Errorf("%s: %s %w", expr, answer.Error, err)
	}
	for _, s := range answer.Data.Result {
		if s.Value[1] != "NaN" {
			return nil
		}
	}
	return fmt.Errorf("%s: %d results, none a number", expr, len(answer.Data.Result))
}
