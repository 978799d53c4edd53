package controlplane

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"

	"github.com/seinemesh/seine/inject"
)

func TestSidecars(t *testing.T) {
	const ip = "127.0.0.77"
	l, err := net.Listen("tcp", net.JoinHostPort(ip, readinessPort))
	if err != nil {
		t.Fatal(err)
	}
	var answer atomic.Pointer[string]
	says := func(s string) { answer.Store(&s) }
	proxy := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, *answer.Load())
	})}
	served := make(chan struct{})
	go func() { defer close(served); _ = proxy.Serve(l) }()
	defer func() { _ = proxy.Close(); <-served }()

	start := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	pod := func(name string, ready bool) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: "uid-1", Annotations: map[string]string{inject.AnnotationStatus: "{}"}},
			Status: corev1.PodStatus{PodIP: ip, InitContainerStatuses: []corev1.ContainerStatus{
				{Name: inject.InitName},
				{Name: inject.ProxyName, Ready: ready, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(start)}}},
			}},
		}
	}
	client := fake.NewClientset()
	events := record.NewFakeRecorder(16)
	values := inject.Values{}
	i := &injection{spaces: informers.NewSharedInformerFactory(client, 0).Core().V1().Namespaces().Informer()}
	i.values.Store(&values)
	w := newSidecars(&server{opt: Options{Cluster: &Cluster{Client: client}}, log: slog.New(slog.DiscardHandler)}, events, i)
	store := func(p *corev1.Pod) {
		t.Helper()
		slim, err := slimSidecar(p)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.pods.GetStore().Replace([]any{slim}, ""); err != nil {
			t.Fatal(err)
		}
	}
	look := func(after time.Duration) string {
		w.look(t.Context(), start.Add(after))
		select {
		case e := <-events.Events:
			return e
		default:
			return ""
		}
	}
	evictions := func() (n int) {
		for _, a := range client.Actions() {
			if c, ok := a.(k8stesting.CreateAction); ok && c.GetSubresource() == "eviction" {
				n++
			}
		}
		return n
	}
	const redirect = `{"ready":false,"reason":"outbound connections are not redirected","redirect":"outbound connections are not redirected"}`

	says(`{"ready":false,"reason":"waiting for the first certificate"}`)
	others := pod("a", false)
	others.Annotations[inject.AnnotationStatus] = `{"revision":"canary"}`
	store(others)
	if e := look(sidecarPatience); e != "" {
		t.Errorf("spoke of a pod of another revision: %s", e)
	}
	store(pod("a", false))
	if e := look(sidecarPatience - time.Second); e != "" {
		t.Errorf("too early: %s", e)
	}
	if e := look(sidecarPatience); !strings.Contains(e, "SidecarNotReady waiting for the first certificate") {
		t.Errorf("%q", e)
	}
	if e := look(sidecarPatience + time.Second); e != "" {
		t.Errorf("said twice: %s", e)
	}
	says(redirect)
	if e := look(sidecarPatience + 2*time.Second); !strings.Contains(e, "are not redirected") {
		t.Errorf("%q", e)
	}
	if look(sidecarPatience + repairPatience + 3*time.Second); evictions() != 0 {
		t.Error("evicted although nobody wants that")
	}
	values.Repair = true
	if e := look(sidecarPatience + repairPatience + 4*time.Second); !strings.Contains(e, "SidecarRepair") || evictions() != 1 {
		t.Errorf("%q, %d evictions", e, evictions())
	}
	if look(sidecarPatience + repairPatience + 5*time.Second); evictions() != 1 {
		t.Error("evicted twice at once")
	}
	says("nonsense")
	if e := look(2 * time.Minute); !strings.Contains(e, "cannot be read") {
		t.Errorf("%q", e)
	}
	store(pod("a", true))
	if e := look(3 * time.Minute); e != "" || len(w.said) != 0 {
		t.Errorf("%q, %v", e, w.said)
	}
	p := pod("b", false)
	p.Annotations = nil
	store(p)
	if e := look(4 * time.Minute); e != "" {
		t.Errorf("a pod without a sidecar: %s", e)
	}

	// A pod that is there without the sidecar that was asked for.
	space := func(labels map[string]string) {
		t.Helper()
		if err := i.spaces.GetStore().Replace([]any{&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: labels}}}, ""); err != nil {
			t.Fatal(err)
		}
	}
	asked, mine := map[string]string{inject.LabelInject: "enabled"}, true
	for _, tc := range []struct {
		name   string
		labels map[string]string
		change func(*corev1.Pod)
		want   string // "": nothing is said
	}{
		{"nobody asked", nil, func(*corev1.Pod) {}, ""},
		{"made meanwhile", asked, func(*corev1.Pod) {}, "SidecarMissing pod"},
		{"hostNetwork", asked, func(p *corev1.Pod) { p.Spec.HostNetwork = true }, "SidecarSkipped pod hostNetwork: no sidecar for a pod with hostNetwork"},
		{"hostNetwork, not asked", nil, func(p *corev1.Pod) { p.Spec.HostNetwork = true }, ""},
		{"old", asked, func(p *corev1.Pod) { p.CreationTimestamp = metav1.NewTime(start.Add(-time.Hour)) }, ""},
		{"of a DaemonSet", asked, func(p *corev1.Pod) {
			p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "DaemonSet", Name: "agent", UID: "d1", Controller: &mine}}
		}, "SidecarMissing"},
		{"refuses", asked, func(p *corev1.Pod) { p.Labels = map[string]string{inject.LabelInject: "disabled"} }, ""},
	} {
		space(tc.labels)
		p := pod(strings.ReplaceAll(tc.name, ", not asked", ""), false)
		p.Annotations, p.UID, p.CreationTimestamp = nil, types.UID(tc.name), metav1.NewTime(start)
		tc.change(p)
		store(p)
		if e := look(5 * time.Minute); !strings.Contains(e, tc.want) || (tc.want == "") != (e == "") {
			t.Errorf("%s: %q", tc.name, e)
		}
		if e := look(5 * time.Minute); e != "" {
			t.Errorf("%s: said again: %s", tc.name, e)
		}
	}
}

// TestSidecarsFollowNobody: a pod that is asked for its readiness sends nobody on to
// another address, which it could not reach by itself.
func TestSidecarsFollowNobody(t *testing.T) {
	const ip = "127.0.0.78"
	var asked atomic.Int32
	secret := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		_, _ = io.WriteString(w, `{"reason":"of somebody else"}`)
	}))
	defer secret.Close()
	l, err := net.Listen("tcp", net.JoinHostPort(ip, readinessPort))
	if err != nil {
		t.Fatal(err)
	}
	hostile := httptest.NewUnstartedServer(http.RedirectHandler(secret.URL, http.StatusFound))
	_ = hostile.Listener.Close()
	hostile.Listener = l
	hostile.Start()
	defer hostile.Close()
	i := &injection{spaces: informers.NewSharedInformerFactory(fake.NewClientset(), 0).Core().V1().Namespaces().Informer()}
	w := newSidecars(&server{opt: Options{Cluster: &Cluster{Client: fake.NewClientset()}}}, record.NewFakeRecorder(1), i)
	a := w.ask(t.Context(), &corev1.Pod{Status: corev1.PodStatus{PodIP: ip}})
	if asked.Load() != 0 || a.Ready || strings.Contains(a.Reason, "somebody else") {
		t.Errorf("asked elsewhere %d times: %+v", asked.Load(), a)
	}
}
