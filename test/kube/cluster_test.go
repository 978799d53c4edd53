//go:build kube

package kube

import (
	"strings"
	"testing"

	"github.com/seinemesh/seine/test/kube/kubetest"
)

// server is every protocol of the workload behind one Service.
const server = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: server}
spec:
  replicas: 2
  selector: {matchLabels: {app: server}}
  template:
    metadata: {labels: {app: server}}
    spec:
      terminationGracePeriodSeconds: 5
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
  ipFamilyPolicy: PreferDualStack
  selector: {app: server}
  ports:
  - {name: http, port: 80, targetPort: 8080}
  - {name: http2-h2c, port: 8080, targetPort: 8082}
  - {name: grpc, port: 8081}
  - {name: tcp-echo, port: 9000}
  - {name: tcp-first, port: 9001}
`

const client = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: client}
spec:
  selector: {matchLabels: {app: client}}
  template:
    metadata: {labels: {app: client}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: app, image: IMAGE, args: [pause]}
`

// TestWithoutMesh shows that the cluster and the workload themselves are sound:
// what fails in another test and not in this one is the mesh's.
func TestWithoutMesh(t *testing.T) {
	t.Parallel()
	n := kubetest.Connect(t).Namespace(t, "plain", nil)
	n.Apply(t, server+"---"+client)
	n.WaitReady(t, "server", "client")
	pod := n.ReadyPod(t, "app=client").Name
	everyProtocol(t, n, pod)
	l := n.Load(t, "load", 50, "http://server/")
	if c := l.During(t, func() { everyProtocol(t, n, pod) }); c.Failed() > 0 {
		t.Errorf("failures %v", c.Failures)
	}
}

// everyProtocol calls the server once by each protocol.
func everyProtocol(t *testing.T, n *kubetest.Namespace, pod string) {
	t.Helper()
	for _, c := range []struct{ protocol, address, want string }{
		{"http", "http://server/hello", `"Proto":"HTTP/1.1"`},
		{"h2c", "http://server:8080/hello", `"Proto":"HTTP/2.0"`},
		{"grpc", "server:8081", "server-"},
		{"tcp", "server:9000", "ok"},
		{"server-first", "server:9001", "server-"},
	} {
		out, err := n.Call(t.Context(), pod, "-protocol", c.protocol, c.address)
		if err != nil || !strings.Contains(out, c.want) {
			t.Errorf("%s to %s: %q, %v; want %s", c.protocol, c.address, out, err, c.want)
		}
	}
}
