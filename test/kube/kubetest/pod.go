package kubetest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"

	"github.com/seinemesh/seine/test/workload/load"
)

// Exec runs a command in a container of a pod and returns what it printed;
// the error holds what it printed to stderr.
func (n *Namespace) Exec(ctx context.Context, pod, container string, command ...string) (string, error) {
	req := n.Client.CoreV1().RESTClient().Post().Resource("pods").Namespace(n.Name).Name(pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Container: container, Command: command, Stdout: true, Stderr: true}, scheme.ParameterCodec)
	exec, err := remotecommand.NewSPDYExecutor(n.Config, http.MethodPost, req.URL())
	if err != nil {
		return "", fmt.Errorf("exec in %s: %w", pod, err)
	}
	var stdout, stderr bytes.Buffer
	err = exec.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &stdout, Stderr: &stderr})
	if err != nil {
		return stdout.String(), fmt.Errorf("exec %s in %s: %w: %s", strings.Join(command, " "), pod, err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// Call runs the workload's `call` with args in a pod's container "app".
func (n *Namespace) Call(ctx context.Context, pod string, args ...string) (string, error) {
	return n.Exec(ctx, pod, "app", append([]string{"/workload", "call"}, args...)...)
}

// Forward returns a local address that leads to the port of a pod, by way of
// the API server, until the test ends.
func (n *Namespace) Forward(t testing.TB, pod string, port int) string {
	t.Helper()
	transport, upgrader, err := spdy.RoundTripperFor(n.Config)
	if err != nil {
		t.Fatal(err)
	}
	url := n.Client.CoreV1().RESTClient().Post().Resource("pods").Namespace(n.Name).Name(pod).SubResource("portforward").URL()
	stop, ready := make(chan struct{}), make(chan struct{})
	pf, err := portforward.New(spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, url),
		[]string{"0:" + strconv.Itoa(port)}, stop, ready, io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- pf.ForwardPorts() }()
	t.Cleanup(func() { close(stop); <-ended })
	select {
	case <-ready:
	case err := <-ended:
		ended <- err
		t.Fatalf("forward %s:%d: %v", pod, port, err)
	}
	ports, err := pf.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	return "127.0.0.1:" + strconv.Itoa(int(ports[0].Local))
}

// A Load is a pod that sends requests at a steady pace.
type Load struct {
	ns   *Namespace
	name string
}

// Load starts a deployment of one pod, of the app label name, that sends rate
// requests a second. The flags and the last argument are those of the
// workload's `load`. It returns when the first request has been answered.
func (n *Namespace) Load(t testing.TB, name string, rate float64, args ...string) *Load {
	t.Helper()
	args = append([]string{"load", "-rate", strconv.FormatFloat(rate, 'g', -1, 64)}, args...)
	quoted, err := json.Marshal(args)
	if err != nil {
		t.Fatal(err)
	}
	n.Apply(t, fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s}
spec:
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
      - {name: app, image: IMAGE, args: %[2]s}
`, name, quoted))
	n.WaitReady(t, name)
	l := &Load{n, name}
	Wait(t, Patience, "the first answer to "+name, func(ctx context.Context) error {
		c, err := l.counts(ctx, t)
		if err == nil && c.Answered() == 0 {
			err = fmt.Errorf("%d sent, failures %v", c.Sent, c.Failures)
		}
		return err
	})
	return l
}

// Counts returns what came of the load's requests so far.
func (l *Load) Counts(t testing.TB) load.Counts {
	t.Helper()
	c, err := l.counts(t.Context(), t)
	if err != nil {
		t.Fatalf("load %s: %v", l.name, err)
	}
	return c
}

func (l *Load) counts(ctx context.Context, t testing.TB) (load.Counts, error) {
	t.Helper()
	pod := l.ns.ReadyPod(t, "app="+l.name)
	out, err := l.ns.Exec(ctx, pod.Name, "app", "/workload", "counts")
	if err != nil {
		return load.Counts{}, err
	}
	var c load.Counts
	return c, json.Unmarshal([]byte(out), &c)
}

// During runs f under the load and returns the counts of the requests that
// were answered or failed from its start until more have been, after its end,
// by as many as a second's.
func (l *Load) During(t testing.TB, f func()) load.Counts {
	t.Helper()
	before := l.Counts(t)
	f()
	atEnd := l.Counts(t)
	var after load.Counts
	Wait(t, Patience, "the load to go on", func(ctx context.Context) error {
		var err error
		if after, err = l.counts(ctx, t); err != nil {
			return err
		}
		if after.Sent < atEnd.Sent+20 {
			return fmt.Errorf("%d requests since", after.Sent-atEnd.Sent)
		}
		return nil
	})
	return after.Since(before)
}
