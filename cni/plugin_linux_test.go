package cni

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seinemesh/seine/capture"
	"github.com/seinemesh/seine/inject"
	"github.com/seinemesh/seine/local/netns"
	"github.com/seinemesh/seine/local/netns/netnstest"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

func TestParseArgs(t *testing.T) {
	for in, want := range map[string]identity{
		"": {},
		"IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=abc;K8S_POD_UID=u1": {"shop", "web", "u1"},
		"K8S_POD_NAME=a=b;;=;K8S_POD_NAMESPACE": {"", "a=b", ""},
		"IP=10.0.0.1":                           {},
	} {
		if got := parseArgs(in); got != want {
			t.Errorf("%q: %v", in, got)
		}
	}
}

// injected is a pod as the webhook makes it for a CNI plugin.
func injected() *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "u1", Annotations: map[string]string{
			inject.AnnotationStatus:   `{"revision":"default"}`,
			inject.AnnotationRedirect: `["--exclude-outbound-ports=3306, 6379"]`,
		}},
		Spec: corev1.PodSpec{InitContainers: []corev1.Container{{Name: inject.ProxyName}}},
	}
}

func TestDecide(t *testing.T) {
	excluded := capture.Pod()
	excluded.ExcludeOutboundPorts = append(excluded.ExcludeOutboundPorts, 3306, 6379)
	plain := capture.Pod()
	for name, c := range map[string]struct {
		change func(*corev1.Pod)
		want   *capture.Rules
		err    string
	}{
		"with exclusions":   {func(*corev1.Pod) {}, &excluded, ""},
		"without":           {func(p *corev1.Pod) { p.Annotations[inject.AnnotationRedirect] = "[]" }, &plain, ""},
		"null":              {func(p *corev1.Pod) { p.Annotations[inject.AnnotationRedirect] = "null" }, &plain, ""},
		"ordinary sidecar":  {func(p *corev1.Pod) { p.Spec.Containers, p.Spec.InitContainers = p.Spec.InitContainers, nil }, &excluded, ""},
		"not injected":      {func(p *corev1.Pod) { p.Annotations, p.Spec.InitContainers = nil, nil }, nil, ""},
		"annotations alone": {func(p *corev1.Pod) { p.Spec.InitContainers = nil }, nil, ""},
		"name alone":        {func(p *corev1.Pod) { p.Annotations = nil }, nil, ""},
		"own init container": {func(p *corev1.Pod) {
			p.Spec.InitContainers = append(p.Spec.InitContainers, corev1.Container{Name: inject.InitName})
		}, nil, ""},
		"nobody redirects it": {func(p *corev1.Pod) { delete(p.Annotations, inject.AnnotationRedirect) }, nil, "create it anew"},
		"no list":             {func(p *corev1.Pod) { p.Annotations[inject.AnnotationRedirect] = "{}" }, nil, "not a list of flags"},
		"unknown flag":        {func(p *corev1.Pod) { p.Annotations[inject.AnnotationRedirect] = `["--mark=1"]` }, nil, "mark"},
		"help":                {func(p *corev1.Pod) { p.Annotations[inject.AnnotationRedirect] = `["-h"]` }, nil, "help"},
		"not a port":          {func(p *corev1.Pod) { p.Annotations[inject.AnnotationRedirect] = `["--exclude-inbound-ports=x"]` }, nil, "not a port"},
		"another pod":         {func(p *corev1.Pod) { p.UID = "u2" }, nil, "replaced"},
	} {
		t.Run(name, func(t *testing.T) {
			p := injected()
			c.change(p)
			got, err := decide(p, "u1")
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("error %v", err)
				}
				return
			}
			if diff := cmp.Diff(c.want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); err != nil || diff != "" {
				t.Errorf("%v %s", err, diff)
			}
		})
	}
}

// spaces are two pods' network namespaces that reach each other.
func spaces(t *testing.T) (pod, peer *netns.NS) {
	t.Helper()
	var all [3]*netns.NS
	for i := range all {
		ns, err := netns.New()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ns.Close() })
		all[i] = ns
	}
	var hub *netns.Hub
	err := all[2].Do(func() (err error) { hub, err = netns.NewHub(netip.MustParsePrefix("10.244.0.0/16")); return err })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(hub.Close)
	err = errors.Join(hub.Attach(all[0], "vpod", netip.MustParseAddr("10.244.0.10")), hub.Attach(all[1], "vpeer", netip.MustParseAddr("10.244.0.20")))
	if err != nil {
		t.Fatal(err)
	}
	return all[0], all[1]
}

const stdin = `{"cniVersion":"1.0.0","name":"pods","type":"seine-cni","kubeconfig":"/k","skipNamespaces":["kube-system"],"prevResult":{"cniVersion":"1.0.0", "ips":[{"address":"10.244.0.10/16"}],"later":1e400}}`

const prevResult = `{"cniVersion":"1.0.0", "ips":[{"address":"10.244.0.10/16"}],"later":1e400}`

func TestPlugin(t *testing.T) {
	pod, peer := spaces(t)
	args := func(namespace string) *skel.CmdArgs {
		return &skel.CmdArgs{
			Netns: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), pod.FD()), StdinData: []byte(stdin),
			Args: "IgnoreUnknown=1;K8S_POD_NAMESPACE=" + namespace + ";K8S_POD_NAME=web;K8S_POD_UID=u1",
		}
	}
	var out bytes.Buffer
	answer, fail := injected(), error(nil)
	p := &Plugin{Out: &out, Pod: func(_ context.Context, path, namespace, name string) (*corev1.Pod, error) {
		if path != "/k" || namespace != "shop" || name != "web" {
			t.Errorf("asked for %s/%s with %s", namespace, name, path)
		}
		return answer, fail
	}}
	wantCode := func(err error, code uint, text string) {
		t.Helper()
		var e *types.Error
		if !errors.As(err, &e) || e.Code != code || !strings.Contains(e.Error(), text) {
			t.Errorf("error %v, want code %d with %q", err, code, text)
		}
	}

	// Not asked for, or not to be had: nothing is changed.
	if err := p.Add(args("kube-system")); err != nil || out.String() != prevResult {
		t.Errorf("kube-system: %v, %s", err, &out)
	}
	out.Reset()
	fail = errors.New("503 from the API server")
	wantCode(p.Add(args("shop")), types.ErrTryAgainLater, "503 from the API server")
	if out.Len() > 0 {
		t.Errorf("failed, and wrote %s", &out)
	}
	fail = nil
	wantCode(p.Check(args("shop")), types.ErrUnknown, "not redirected")
	first := args("shop")
	first.StdinData = []byte(`{"cniVersion":"1.0.0","name":"pods","type":"seine-cni"}`)
	wantCode(p.Add(first), types.ErrInvalidNetworkConfig, "after a plugin")
	gone := args("shop")
	gone.Netns = "/proc/self/fd/99999"
	wantCode(p.Add(gone), types.ErrTryAgainLater, "network namespace")

	if err := p.Add(args("shop")); err != nil || out.String() != prevResult {
		t.Fatalf("%v, %s", err, &out)
	}
	if err := p.Check(args("shop")); err != nil {
		t.Error(err)
	}
	if !redirected(t, pod, peer) {
		t.Error("a connection of the pod did not go to the sidecar's port")
	}
	if err := p.Del(args("shop")); err != nil {
		t.Error(err)
	}
}

// redirected reports whether a connection out of pod arrives at port 15001 there.
func redirected(t *testing.T, pod, peer *netns.NS) bool {
	t.Helper()
	var l net.Listener
	if err := pod.Do(func() (err error) { l, err = net.Listen("tcp", ":15001"); return err }); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var direct net.Listener
	if err := peer.Do(func() (err error) { direct, err = net.Listen("tcp", "10.244.0.20:8080"); return err }); err != nil {
		t.Fatal(err)
	}
	defer direct.Close()
	at := make(chan bool, 2)
	for l, sidecar := range map[net.Listener]bool{l: true, direct: false} {
		go func() {
			if c, err := l.Accept(); err == nil {
				at <- sidecar
				c.Close()
			}
		}()
	}
	err := pod.Do(func() error {
		c, err := net.Dial("tcp", "10.244.0.20:8080")
		if err == nil {
			c.Close()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return <-at
}
