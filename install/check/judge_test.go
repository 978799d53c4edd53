package check

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"strings"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/seinemesh/seine/host"
	"github.com/seinemesh/seine/install/deploy"
)

// expect checks one judgement: its status, and what it must say.
func expect(t *testing.T, what string, want Status, says string) func(Status, string, string, string) {
	return func(status Status, name, detail, mend string) {
		t.Helper()
		if status != want || !strings.Contains(detail+" → "+mend, says) {
			t.Errorf("%s: %s: %s → %s, want %s with %q", what, status, detail, mend, want, says)
		}
		if name == "" || status != OK && mend == "" {
			t.Errorf("%s: a line without a name or without what to do: %q %q", what, name, mend)
		}
	}
}

func TestVersion(t *testing.T) {
	expect(t, "old", Failed, "upgrade the cluster")(judgeVersion("v1.27.16"))
	expect(t, "no native sidecars", Warning, "1.29")(judgeVersion("v1.28.3-eks-1"))
	expect(t, "new", OK, "")(judgeVersion("v1.34.4+k3s1"))
	expect(t, "no version", Unknown, "")(judgeVersion("new"))
}

func node(change func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Status: corev1.NodeStatus{
		NodeInfo:    corev1.NodeSystemInfo{OperatingSystem: "linux", Architecture: "arm64", KernelVersion: "5.15.0-91-generic"},
		Conditions:  []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		Allocatable: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourceMemory: resource.MustParse("4Gi")},
	}}
	change(n)
	return n
}

func TestNode(t *testing.T) {
	expect(t, "good", OK, "5.15")(judgeNode(node(func(*corev1.Node) {})))
	expect(t, "old kernel", Failed, "5.2")(judgeNode(node(func(n *corev1.Node) { n.Status.NodeInfo.KernelVersion = "4.18.0-513.el8.x86_64" })))
	expect(t, "kernel with a plus", OK, "")(judgeNode(node(func(n *corev1.Node) { n.Status.NodeInfo.KernelVersion = "6.1+" })))
	expect(t, "strange kernel", Unknown, "")(judgeNode(node(func(n *corev1.Node) { n.Status.NodeInfo.KernelVersion = "gvisor" })))
	expect(t, "architecture", Failed, "s390x")(judgeNode(node(func(n *corev1.Node) { n.Status.NodeInfo.Architecture = "s390x" })))
	expect(t, "windows", Warning, "Linux")(judgeNode(node(func(n *corev1.Node) { n.Status.NodeInfo.OperatingSystem = "windows" })))
	expect(t, "not ready", Warning, "kubelet stopped")(judgeNode(node(func(n *corev1.Node) {
		n.Status.Conditions[0].Status, n.Status.Conditions[0].Message = corev1.ConditionUnknown, "kubelet stopped"
	})))
	expect(t, "pressure", Warning, "MemoryPressure")(judgeNode(node(func(n *corev1.Node) {
		n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: corev1.NodeMemoryPressure, Status: corev1.ConditionTrue})
	})))
}

func TestRoom(t *testing.T) {
	pod := corev1.Pod{Spec: corev1.PodSpec{NodeName: "a", Containers: []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1950m")}}}}}}
	free, tainted := node(func(*corev1.Node) {}), node(func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Effect: corev1.TaintEffectNoSchedule}} })
	expect(t, "free", OK, "")(judgeRoom([]corev1.Node{*free}, nil))
	expect(t, "full", Failed, "50m")(judgeRoom([]corev1.Node{*free}, []corev1.Pod{pod}))
	expect(t, "tainted", Failed, "tolerate")(judgeRoom([]corev1.Node{*tainted}, nil))
}

func TestCilium(t *testing.T) {
	expect(t, "eats the redirect", Failed, "hostNamespaceOnly")(judgeCilium(map[string]string{"kube-proxy-replacement": "true"}))
	expect(t, "mended", OK, "")(judgeCilium(map[string]string{"kube-proxy-replacement": "true", "bpf-lb-sock-hostns-only": "true", "cni-exclusive": "false"}))
	expect(t, "exclusive", Warning, "cni.exclusive=false")(judgeCilium(map[string]string{"cni-exclusive": "true"}))
}

// The API server's own sentences about a webhook that it cannot call.
func TestCall(t *testing.T) {
	prefix := `Internal error occurred: failed calling webhook "pod.injector.seine.dev": failed to call webhook: Post "https://seined.seine-system.svc:443/inject?timeout=5s": `
	for message, want := range map[string]string{
		"context deadline exceeded":                                       "15017",
		"dial tcp 10.0.0.1:15017: connect: no route to host":              "15017",
		"tls: failed to verify certificate: x509: unknown authority":      "caBundle",
		`no endpoints available for service "seined"`:                     "control plane above",
		"dial tcp 10.0.0.1:443: connect: connection refused":              "control plane above",
		"an unexpected answer":                                            "kubectl logs",
		"net/http: request canceled (Client.Timeout exceeded while await": "15017",
	} {
		expect(t, message, Failed, want)(judgeCall("call", errors.New(prefix+message)))
	}
	expect(t, "forbidden", Unknown, "create pods")(judgeCall("call", errors.New(`pods is forbidden: User "x" cannot create resource "pods"`)))
}

func TestCertificates(t *testing.T) {
	now := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	cert := func(life, left time.Duration) *x509.Certificate {
		return &x509.Certificate{Subject: pkix.Name{CommonName: "root"}, NotBefore: now.Add(left - life), NotAfter: now.Add(left)}
	}
	expect(t, "years", OK, "")(judgeRoot("root", cert(3650*day, 900*day), now, "seine ca rotate"))
	expect(t, "29 days", Warning, "29 days → seine ca rotate")(judgeRoot("root", cert(3650*day, 29*day+time.Hour), now, "seine ca rotate"))
	expect(t, "6 days", Failed, "6 days")(judgeRoot("root", cert(3650*day, 6*day+time.Hour), now, "seine ca rotate"))
	expect(t, "ended", Failed, "has ended")(judgeRoot("root", cert(3650*day, -time.Hour), now, "seine ca rotate"))
	expect(t, "not yet", Failed, "clock")(judgeRoot("root", cert(day, 2*day), now, "seine ca rotate"))
	expect(t, "fresh", OK, "")(judgeLeaf("leaf", cert(24*time.Hour, 20*time.Hour), now))
	expect(t, "overdue", Warning, "overdue")(judgeLeaf("leaf", cert(24*time.Hour, 3*time.Hour), now))
	expect(t, "ended", Failed, "could not renew")(judgeLeaf("leaf", cert(24*time.Hour, -time.Hour), now))
}

func TestProxies(t *testing.T) {
	good := proxy{ID: "shop/a", Version: "v2", Current: true}
	expect(t, "good", OK, "1 connected")(judgeProxies([]proxy{good}, []string{"shop/a"}, "v2"))
	expect(t, "lost", Failed, "shop/b")(judgeProxies([]proxy{good}, []string{"shop/a", "shop/b"}, "v2"))
	expect(t, "behind", Warning, "1 of 2")(judgeProxies([]proxy{good, {ID: "shop/b"}}, nil, "v2"))
	expect(t, "other version", Warning, "shop/a (v2)")(judgeProxies([]proxy{good}, nil, "v3"))
	bad := good
	bad.Rejected = append(bad.Rejected, struct {
		Name    string `json:"name"`
		Message string `json:"message"`
		Source  string `json:"source"`
	}{"http/80/x", "no such thing", "VirtualService shop/x"})
	expect(t, "refused", Failed, "VirtualService shop/x")(judgeProxies([]proxy{good, bad}, nil, "v2"))
}

// A missing permission is named with its verbs.
func TestPermissions(t *testing.T) {
	kube := fake.NewClientset()
	kube.PrependReactor("create", "selfsubjectaccessreviews", func(a clienttesting.Action) (bool, runtime.Object, error) {
		r := a.(clienttesting.CreateAction).GetObject().(*authorizationv1.SelfSubjectAccessReview)
		at := r.Spec.ResourceAttributes
		r.Status.Allowed = at.Resource != "clusterroles" || at.Verb == "get"
		return true, r, nil
	})
	var lines []Line
	c := &Checker{Cluster: &deploy.Cluster{Kube: kube}, Namespace: "seine-system", Say: func(l Line) { lines = append(lines, l) }, Now: time.Now}
	c.run(t.Context(), "permissions", c.permissions)
	if len(lines) != 1 || lines[0].Status != Failed || !strings.Contains(lines[0].Detail, "list,create,patch,delete clusterroles.rbac.authorization.k8s.io") || strings.Contains(lines[0].Detail, "deployments") {
		t.Errorf("%+v", lines)
	}
}

// Pods that should have a sidecar and have not are found by the injector's own
// decision.
func TestDataPlane(t *testing.T) {
	pod := func(ns, name string, change func(*corev1.Pod)) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app"}}}}
		change(p)
		return p
	}
	kube := fake.NewClientset(
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{"seine.dev/inject": "enabled"}}},
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "other"}},
		pod("shop", "old", func(*corev1.Pod) {}),
		pod("shop", "host", func(p *corev1.Pod) { p.Spec.HostNetwork = true }),
		pod("shop", "refuses", func(p *corev1.Pod) { p.Labels = map[string]string{"seine.dev/inject": "disabled"} }),
		pod("shop", "done", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }),
		pod("shop", "sick", func(p *corev1.Pod) { p.Annotations = map[string]string{"seine.dev/status": "{}"} }),
		pod("other", "outside", func(*corev1.Pod) {}),
	)
	var lines []Line
	c := &Checker{Cluster: &deploy.Cluster{Kube: kube}, Namespace: "seine-system", Revision: "default", Say: func(l Line) { lines = append(lines, l) }, Now: time.Now}
	c.run(t.Context(), "data plane", func(ctx context.Context) { c.dataPlane(ctx, nil) })
	if len(lines) != 3 {
		t.Fatalf("%+v", lines)
	}
	if l := lines[0]; l.Status != Failed || !strings.Contains(l.Detail, "1 pod should have one and have not: shop/old") || !strings.Contains(l.Mend, "rollout restart -n shop") {
		t.Errorf("%+v", l)
	}
	if l := lines[1]; l.Status != Failed || !strings.Contains(l.Detail, "shop/sick") {
		t.Errorf("%+v", l)
	}
}

func TestSteal(t *testing.T) {
	expect(t, "none", OK, "at most 0.4 % on 2 machines in the last minute")(judgeSteal([]stolen{{"a", 0.001}, {"b", 0.004}}, 0, "the last minute"))
	expect(t, "exactly one percent", OK, "1.0 %")(judgeSteal([]stolen{{"a", 0.01}}, 0, "the last minute"))
	expect(t, "above one", Warning, "1.1 % on b in the last minute → the hypervisor")(judgeSteal([]stolen{{"a", 0.002}, {"b", 0.011}}, 0, "the last minute"))
	expect(t, "exactly two", Warning, "2.0 % on a")(judgeSteal([]stolen{{"a", 0.02}}, 0, "the last minute"))
	expect(t, "above two", Failed, "7.0 % on c, 1.5 % on a in 3s; of 1 machine it is not known → the hypervisor")(judgeSteal([]stolen{{"a", 0.015}, {"b", 0}, {"c", 0.07}}, 1, "3s"))
	expect(t, "nobody tells", Unknown, "of 2 machines it is not known")(judgeSteal(nil, 2, "3s"))
}

func TestStealBefore(t *testing.T) {
	at := time.Unix(1000, 0)
	reading := func(boot string, steal, idle time.Duration) host.Reading {
		return host.Reading{At: at, Boot: boot, CPU: &host.CPU{Steal: steal, Idle: idle}}
	}
	run := func(nodes ...runtime.Object) (got Line) {
		c := Checker{Cluster: &deploy.Cluster{Kube: fake.NewClientset(nodes...)}, Say: func(l Line) { got = l },
			Now:     func() time.Time { return at.Add(stealSpan) },
			Machine: func(time.Time) (host.Reading, error) { return reading("here", time.Second, 10*time.Second), nil }}
		c.stealBefore(t.Context(), reading("here", time.Second/2, 0))
		return got
	}
	boot := func(name, id string) *corev1.Node {
		n := node(func(n *corev1.Node) { n.Status.NodeInfo.BootID = id })
		n.Name = name
		return n
	}
	if l := run(boot("own", "here"), boot("far", "there")); l.Status != Failed || l.Detail != "4.8 % on own in 3s; of 1 machine it is not known" || l.Mend == "" {
		t.Errorf("%+v", l)
	}
	if l := run(boot("far", "there")); l.Status != Unknown || l.Mend == "" {
		t.Errorf("%+v", l)
	}
	got := exported([]byte("# HELP\nnode_cpu_seconds_total{cpu=\"0\",mode=\"idle\"} 90\nnode_cpu_seconds_total{cpu=\"0\",mode=\"steal\"} 4.5\nnode_cpu_seconds_total{cpu=\"1\",mode=\"user\"} 5.5\nnode_cpu_seconds_total{cpu=\"1\"} x\n"))
	if got != (cpuTime{100, 4.5}) {
		t.Errorf("%+v", got)
	}
}

func TestMonitors(t *testing.T) {
	expect(t, "no operator", OK, "annotations")(judgeMonitors(false, false))
	expect(t, "an operator", OK, "monitoring.operator=true")(judgeMonitors(true, false))
	expect(t, "both", OK, "PodMonitor")(judgeMonitors(true, true))
	expect(t, "monitors without an operator", Failed, "install the Prometheus operator first")(judgeMonitors(false, true))
	var got Line
	c := Checker{Cluster: &deploy.Cluster{Kube: fake.NewClientset()}, Say: func(l Line) { got = l }, Values: map[string]any{"monitoring": map[string]any{"operator": true}}}
	if c.monitors(t.Context()); got.Status != Failed {
		t.Errorf("%+v", got)
	}
}
