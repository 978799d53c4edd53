//go:build kube

package kube

import (
	"context"
	"errors"
	"fmt"
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
	l := n.Load(t, "load", 50, "http://server/")
	c := l.During(t, func() {
		if err := everyProtocol(t.Context(), n, pod); err != nil {
			t.Error(err)
		}
	})
	if c.Failed() > 0 {
		t.Errorf("failures %v", c.Failures)
	}
}

// everyProtocol calls the server once by each protocol.
func everyProtocol(ctx context.Context, n *kubetest.Namespace, pod string) error {
	var failed []error
	for _, c := range []struct{ protocol, address, want string }{
		{"http", "http://server/hello", `"Proto":"HTTP/1.1"`},
		{"h2c", "http://server:8080/hello", `"Proto":"HTTP/2.0"`},
		{"grpc", "server:8081", "server-"},
		{"tcp", "server:9000", "ok"},
		{"server-first", "server:9001", "server-"},
	} {
		out, err := n.Call(ctx, pod, "-protocol", c.protocol, c.address)
		if err == nil && !strings.Contains(out, c.want) {
			err = fmt.Errorf("answered %q, want %s", out, c.want)
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("%s to %s: %w", c.protocol, c.address, err))
		}
	}
	return errors.Join(failed...)
}
