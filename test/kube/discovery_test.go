//go:build kube

package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seinemesh/seine/test/kube/kubetest"
)

// findable is an application for each way to be found, two of them behind
// Services of every kind: one in each zone, under ports of the same names and
// other numbers.
const findable = `
apiVersion: v1
kind: Pod
metadata: {name: one, labels: {app: multi, who: one}}
spec:
  nodeSelector: {topology.kubernetes.io/zone: zone1}
  terminationGracePeriodSeconds: 1
  containers:
  - {name: app, image: IMAGE, args: [serve], ports: [{name: web, containerPort: 8080}, {name: echo, containerPort: 9000}]}
---
apiVersion: v1
kind: Pod
metadata: {name: two, labels: {app: multi, who: two}}
spec:
  nodeSelector: {topology.kubernetes.io/zone: zone2}
  terminationGracePeriodSeconds: 1
  containers:
  - {name: app, image: IMAGE, args: [serve, -http, ":9090", -tcp, ":9999"], ports: [{name: web, containerPort: 9090}, {name: echo, containerPort: 9999}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 2
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: app, image: IMAGE, args: [serve]}]
---
apiVersion: v1
kind: Pod
metadata: {name: alone, labels: {app: alone}}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: app, image: IMAGE, args: [serve]}]
---
apiVersion: v1
kind: Pod
metadata: {name: six, labels: {app: six}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: app
    image: IMAGE
    command: [sh, -c, 'exec /workload serve -http "[${IPS#*,}]:8080" -tcp "[${IPS#*,}]:9000"']
    env: [{name: IPS, valueFrom: {fieldRef: {fieldPath: status.podIPs}}}]
---
apiVersion: v1
kind: Pod
metadata: {name: lazy, labels: {app: lazy}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: app, image: IMAGE, args: [serve], readinessProbe: {exec: {command: [cat, /nothing]}}}
---
apiVersion: v1
kind: Pod
metadata: {name: ending, labels: {app: ending}}
spec:
  terminationGracePeriodSeconds: 20
  containers: [{name: app, image: IMAGE, args: [serve, -linger, 20s]}]
---
apiVersion: v1
kind: Service
metadata: {name: multi}
spec:
  type: NodePort
  ipFamilyPolicy: PreferDualStack
  selector: {app: multi}
  ports: [{name: http, port: 80, targetPort: web}, {name: tcp-echo, port: 81, targetPort: echo}, {name: said, port: 82, targetPort: 8081, appProtocol: grpc}]
---
apiVersion: v1
kind: Service
metadata: {name: near}
spec:
  trafficDistribution: PreferClose
  selector: {app: multi}
  ports: [{name: http, port: 80, targetPort: web}]
---
apiVersion: v1
kind: Service
metadata: {name: local}
spec:
  internalTrafficPolicy: Local
  selector: {app: multi}
  ports: [{name: http, port: 80, targetPort: web}]
---
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: None, selector: {app: db}, ports: [{name: http, port: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: alias}
spec: {type: ExternalName, externalName: multi.NAMESPACE.svc.cluster.local}
---
apiVersion: v1
kind: Service
metadata: {name: lazy}
spec: {selector: {app: lazy}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: eager}
spec: {publishNotReadyAddresses: true, selector: {app: lazy}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: ending}
spec: {selector: {app: ending}, ports: [{name: http, port: 80, targetPort: 8080}]}
`

// elsewhere needs addresses: of a pod outside the mesh, which is also a virtual
// machine and an external host, and of one in it.
const elsewhere = `
apiVersion: v1
kind: Service
metadata: {name: manual}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: manual, labels: {kubernetes.io/service-name: manual}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [ALONE]}]
---
apiVersion: v1
kind: Service
metadata: {name: legacy}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: legacy, labels: {kubernetes.io/service-name: legacy}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [OUTSIDE]}]
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: vm-1}
spec: {address: OUTSIDE, labels: {app: vm}, serviceAccount: vm}
---
apiVersion: v1
kind: Service
metadata: {name: vm}
spec: {selector: {app: vm}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: selected}
spec:
  hosts: [selected.example.com]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]
  workloadSelector: {labels: {app: vm}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: pods}
spec:
  hosts: [pods.example.com]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]
  workloadSelector: {labels: {app: alone}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: written}
spec:
  hosts: [written.example.com]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints: [{address: OUTSIDE, ports: {http: 8080}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: resolved}
spec:
  hosts: [RESOLVED]
  location: MESH_EXTERNAL
  resolution: DNS
  ports: [{number: 8080, name: http, protocol: HTTP}]
`

// found is one way to call something.
type found struct {
	name  string
	args  []string // of call
	who   []string // the pods that answer
	plain bool     // it is not in the mesh: nobody shows a certificate
	// What the caller's metric says: the service's FQDN ("": of no service), and the
	// workload.
	service, workload string
}

// TestDiscovery: whatever a Service can be, and whatever stands behind it, is
// reached, by mutual TLS where it is in the mesh, and metrics call it what Istio
// calls it.
func TestDiscovery(t *testing.T) {
	c := kubetest.Connect(t)
	c.Install(t)
	plain := c.Namespace(t, "outside", nil)
	plain.Apply(t, `
apiVersion: v1
kind: Pod
metadata: {name: outside, labels: {app: outside}}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: app, image: IMAGE, args: [serve]}]
---
apiVersion: v1
kind: Service
metadata: {name: outside}
spec: {selector: {app: outside}, ports: [{name: http, port: 80, targetPort: 8080}]}
`)
	n := c.Namespace(t, "found", injected)
	n.Apply(t, onZone(client, "zone1")+"---"+strings.ReplaceAll(findable, "NAMESPACE", n.Name)+`---
apiVersion: v1
kind: Service
metadata: {name: outer}
spec: {type: ExternalName, externalName: outside.`+plain.Name+`.svc.cluster.local}
`)
	outside, alone := plain.ReadyPod(t, "app=outside").Status.PodIP, n.ReadyPod(t, "app=alone").Status.PodIP
	resolved := strings.ReplaceAll(outside, ".", "-") + "." + plain.Name + ".pod.cluster.local"
	n.Apply(t, strings.NewReplacer("ALONE", alone, "OUTSIDE", outside, "RESOLVED", resolved).Replace(elsewhere))
	from, two, six := n.ReadyPod(t, "app=client"), n.ReadyPod(t, "who=two"), n.ReadyPod(t, "app=six")
	for _, l := range []string{"who=one", "statefulset.kubernetes.io/pod-name=db-0", "statefulset.kubernetes.io/pod-name=db-1", "app=ending"} {
		n.ReadyPod(t, l)
	}
	multi, err := c.Client.CoreV1().Services(n.Name).Get(t.Context(), "multi", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	fqdn := func(name string) string { return name + "." + n.Name + ".svc.cluster.local" }
	at := func(ip, port string) string { return "http://" + net.JoinHostPort(ip, port) + "/" }
	entry := func(host string) []string { return []string{"-host", host, "http://192.0.2.1/"} }
	const many = "-n=16"
	pair := []string{"one", "two"}
	cases := []found{
		{"ClusterIP, named ports that differ", []string{many, "http://multi/"}, pair, false, fqdn("multi"), "one"},
		{"its second family", []string{many, at(multi.Spec.ClusterIPs[1], "80")}, pair, false, fqdn("multi"), "two"},
		{"headless", []string{many, "http://db:8080/"}, []string{"db-0", "db-1"}, false, fqdn("db"), "db"},
		{"pod of a StatefulSet", []string{"-n=4", "http://db-1.db:8080/"}, []string{"db-1"}, false, fqdn("db"), "db"},
		{"the same in full", []string{"-n=4", "http://db-0." + fqdn("db") + ":8080/"}, []string{"db-0"}, false, fqdn("db"), "db"},
		{"pod of a Service", []string{at(two.Status.PodIP, "9090")}, []string{"two"}, false, fqdn("multi"), "two"},
		{"pod without a Service", []string{at(alone, "8080")}, []string{"alone"}, false, "", "alone"},
		{"second address of a pod", []string{at(six.Status.PodIPs[1].IP, "8080")}, []string{"six"}, false, "", "six"},
		{"ExternalName", []string{many, "http://alias/"}, pair, false, fqdn("multi"), "one"},
		{"ExternalName outside", []string{"http://outer/"}, []string{"outside"}, true, "outside." + plain.Name + ".svc.cluster.local", "outside"},
		{"publishNotReadyAddresses", []string{"http://eager/"}, []string{"lazy"}, false, fqdn("eager"), "lazy"},
		{"EndpointSlice by hand, in the mesh", []string{"http://manual/"}, []string{"alone"}, false, fqdn("manual"), "alone"},
		{"EndpointSlice by hand, outside", []string{"http://legacy/"}, []string{"outside"}, true, fqdn("legacy"), "outside"},
		{"WorkloadEntry of a Service", []string{"http://vm/"}, []string{"outside"}, true, fqdn("vm"), "vm-1"},
		{"ServiceEntry of WorkloadEntries", entry("selected.example.com"), []string{"outside"}, true, "selected.example.com", "vm-1"},
		{"ServiceEntry of pods", entry("pods.example.com"), []string{"alone"}, false, "pods.example.com", "alone"},
		{"ServiceEntry with endpoints", entry("written.example.com"), []string{"outside"}, true, "written.example.com", "outside"},
		{"ServiceEntry by DNS", []string{"http://" + resolved + ":8080/"}, []string{"outside"}, true, resolved, ""},
	}
	if from.Spec.NodeName != two.Spec.NodeName {
		cases = append(cases,
			found{"trafficDistribution", []string{many, "http://near/"}, []string{"one"}, false, fqdn("near"), "one"},
			found{"internalTrafficPolicy", []string{many, "http://local/"}, []string{"one"}, false, fqdn("local"), "one"})
	}
	for i := range cases {
		t.Run(cases[i].name, func(t *testing.T) { cases[i].call(t, n, from.Name) })
	}
	for _, tc := range []struct{ name, protocol, address string }{
		{"opaque TCP, named ports that differ", "tcp", "multi:81"}, {"appProtocol", "grpc", "multi:82"},
		{"TCP to the second address", "tcp", net.JoinHostPort(six.Status.PodIPs[1].IP, "9000")},
	} {
		for range 4 {
			if out, err := n.Call(t.Context(), from.Name, "-protocol", tc.protocol, tc.address); err != nil {
				t.Errorf("%s: %q, %v", tc.name, out, err)
			}
		}
	}
	// A node's port is outside of the mesh, as with Istio; kube-proxy leads it in.
	node, err := c.Client.CoreV1().Nodes().Get(t.Context(), two.Spec.NodeName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(node.Status.Addresses, func(a corev1.NodeAddress) bool { return a.Type == corev1.NodeInternalIP })
	(&found{args: []string{at(node.Status.Addresses[i].Address, fmt.Sprint(multi.Spec.Ports[0].NodePort))}, plain: true}).call(t, n, from.Name)
	// What must not be: an unready pod, and the first address of who listens on the second.
	for _, url := range []string{"http://lazy/", at(six.Status.PodIPs[0].IP, "8080")} {
		if out, err := n.Call(t.Context(), from.Name, url); err == nil || !strings.Contains(err.Error(), "status 503") {
			t.Errorf("%s: %q, %v", url, out, err)
		}
	}
	// The last one that serves goes on until it is gone.
	if err := c.Client.CoreV1().Pods(n.Name).Delete(t.Context(), "ending", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	kubetest.Wait(t, kubetest.Patience, "the slice to say that it ends", func(ctx context.Context) error {
		list, err := c.Client.DiscoveryV1().EndpointSlices(n.Name).List(ctx, metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=ending"})
		if err != nil {
			return err
		}
		for _, s := range list.Items {
			for _, e := range s.Endpoints {
				if t := e.Conditions.Terminating; t != nil && *t {
					return nil
				}
			}
		}
		return errors.New("not yet")
	})
	(&found{args: []string{many, "http://ending/"}, who: []string{"ending"}}).call(t, n, from.Name)

	metrics, err := n.Exec(t.Context(), from.Name, "app", "wget", "-qO-", "http://127.0.0.1:15020/stats/prometheus")
	if err != nil {
		t.Fatal(err)
	}
	for i := range cases {
		cases[i].counted(t, n.Name, metrics)
	}
}

// call calls until it is answered as it should be: who answers may not be known yet.
func (f *found) call(t *testing.T, n *kubetest.Namespace, from string) {
	t.Helper()
	kubetest.Wait(t, kubetest.Patience, strings.Join(f.args, " "), func(ctx context.Context) error {
		out, err := n.Call(ctx, from, f.args...)
		if err != nil {
			return err
		}
		var who []string
		for d := json.NewDecoder(strings.NewReader(out)); ; {
			var answer struct {
				Host   string
				Header http.Header
			}
			if err := d.Decode(&answer); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				return fmt.Errorf("%q: %w", out, err)
			}
			who = append(who, answer.Host)
			if shown := strings.Contains(answer.Header.Get("x-forwarded-client-cert"), "spiffe://cluster.local/ns/"+n.Name+"/sa/default"); shown == f.plain {
				return fmt.Errorf("%s: a certificate was shown: %v", answer.Host, shown)
			}
		}
		slices.Sort(who)
		if who = slices.Compact(who); f.who != nil && !slices.Equal(who, f.who) {
			return fmt.Errorf("%v answer, not %v", who, f.who)
		}
		return nil
	})
}

// counted looks for the caller's metric of the call.
func (f *found) counted(t *testing.T, namespace, metrics string) {
	t.Helper()
	want := []string{`reporter="source"`, `response_code="200"`, `destination_workload="` + f.workload + `"`}
	if f.workload == "" {
		want[2] = `destination_workload="unknown"`
	}
	if f.service != "" {
		name := f.service
		if strings.HasSuffix(name, ".svc.cluster.local") {
			name, _, _ = strings.Cut(name, ".")
		}
		want = append(want, `destination_service="`+f.service+`"`, `destination_service_name="`+name+`"`)
	}
	if !f.plain {
		want = append(want, `destination_principal="spiffe://cluster.local/ns/`+namespace+`/sa/default"`)
	}
	var near []string
	for line := range strings.Lines(metrics) {
		if !strings.HasPrefix(line, "istio_requests_total{") {
			continue
		}
		if !slices.ContainsFunc(want, func(w string) bool { return !strings.Contains(line, w) }) {
			return
		}
		if f.service == "" && strings.Contains(line, want[2]) || f.service != "" && strings.Contains(line, `"`+f.service+`"`) {
			near = append(near, line)
		}
	}
	t.Errorf("%s: no metric has %v; near it are\n%s", f.name, want, strings.Join(near, ""))
}
