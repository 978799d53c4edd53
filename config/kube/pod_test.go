package kube

import (
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func yes() *bool { v := true; return &v }
func no() *bool  { v := false; return &v }

// somePod is a ready pod of Deployment billing-v1.
func somePod(name, ip string, edit ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: name, UID: types.UID(name), Labels: map[string]string{"app": "billing", "version": "v1", "pod-template-hash": "7c9f6d5b8"},
			OwnerReferences: []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "billing-v1-7c9f6d5b8", Controller: yes()}},
		},
		Spec: corev1.PodSpec{
			ServiceAccountName: "billing", NodeName: "n1",
			Containers:     []corev1.Container{{Name: "app", Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: 8080}, {Name: "web", ContainerPort: 1}, {Name: "dns", ContainerPort: 53, Protocol: "UDP"}}}},
			InitContainers: []corev1.Container{{Name: "seine-proxy"}},
		},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
	}
	if ip != "" {
		p.Status.PodIP, p.Status.PodIPs = ip, []corev1.PodIP{{IP: ip}}
	}
	for _, f := range edit {
		f(p)
	}
	return p
}

// silent is what the node controller makes of a pod whose node it has not heard of.
func silent(p *corev1.Pod) {
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse}, {Type: corev1.ContainersReady, Status: corev1.ConditionTrue}}
}

func TestPodsBecomeWorkloads(t *testing.T) {
	w := workload(trimPod(somePod("billing-v1-7c9f6d5b8-x2x4z", "10.0.0.1", func(p *corev1.Pod) { p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: "fd00::1"}) })), nil)
	want := []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}
	if w.Key() != "shop/billing-v1-7c9f6d5b8-x2x4z" || w.App != "billing-v1" || w.ServiceAccount != "billing" || !w.Sidecar || w.Unhealthy ||
		w.Node != "n1" || !slices.Equal(w.Addresses, want) || len(w.Ports) != 1 || w.Ports["web"] != 8080 || w.Kind != "Pod" {
		t.Errorf("%+v", w)
	}
	for name, tc := range map[string]struct {
		edit                              func(*corev1.Pod)
		gone, unhealthy, outside, unheard bool
	}{
		"ended":              {edit: func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }, gone: true},
		"failed":             {edit: func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }, gone: true},
		"not ready":          {edit: func(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse }, unhealthy: true},
		"not heard of":       {edit: silent, unhealthy: true, unheard: true},
		"with a gate":        {edit: func(p *corev1.Pod) { silent(p); p.Spec.ReadinessGates = []corev1.PodReadinessGate{{}} }, unhealthy: true},
		"silent and deleted": {edit: func(p *corev1.Pod) { silent(p); p.DeletionTimestamp = &metav1.Time{} }, unhealthy: true},
		"starting":           {edit: func(p *corev1.Pod) { p.Status = corev1.PodStatus{Phase: corev1.PodPending} }, unhealthy: true},
		"being deleted":      {edit: func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{} }, unhealthy: true},
		"without sidecar":    {edit: func(p *corev1.Pod) { p.Spec.InitContainers = nil }, outside: true},
		"with Istio's":       {edit: func(p *corev1.Pod) { p.Spec.InitContainers = nil; p.Spec.Containers[0].Name = "istio-proxy" }},
		"by Istio's label":   {edit: func(p *corev1.Pod) { p.Spec.InitContainers = nil; p.Labels[labelTLSMode] = "istio" }},
		"an address nobody ": {edit: func(p *corev1.Pod) { p.Status.PodIPs = []corev1.PodIP{{IP: "nonsense"}} }},
	} {
		w := workload(trimPod(somePod("a", "10.0.0.1", tc.edit)), nil)
		if w == nil != tc.gone || w != nil && (w.Unhealthy != tc.unhealthy || w.Unheard != tc.unheard || w.Sidecar == tc.outside) {
			t.Errorf("%s: %+v", name, w)
		}
	}
}

func TestAppOfAPod(t *testing.T) {
	owner := func(kind, name string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.OwnerReferences[0].Kind, p.OwnerReferences[0].Name = kind, name }
	}
	for name, tc := range map[string]struct {
		edit func(*corev1.Pod)
		want string
	}{
		"Deployment":              {func(*corev1.Pod) {}, "billing-v1"},
		"ReplicaSet of its own":   {owner("ReplicaSet", "old"), "old"},
		"StatefulSet":             {owner("StatefulSet", "db"), "db"},
		"DaemonSet":               {owner("DaemonSet", "agent"), "agent"},
		"Job":                     {owner("Job", "migrate"), "migrate"},
		"CronJob":                 {owner("Job", "report-28123456"), "report"},
		"static":                  {owner("Node", "x"), "p"},
		"nobody's":                {func(p *corev1.Pod) { p.OwnerReferences = nil }, "p-x"},
		"an owner that is no one": {func(p *corev1.Pod) { p.OwnerReferences[0].Controller = nil }, "p-x"},
		"said":                    {func(p *corev1.Pod) { p.Labels[labelWorkloadName] = "told" }, "told"},
	} {
		if got := app(somePod("p-x", "", tc.edit)); got != tc.want {
			t.Errorf("%s: %s, want %s", name, got, tc.want)
		}
	}
}

func str(s string) *string { return &s }

func TestSlices(t *testing.T) {
	port := int32(8080)
	tcp, udp := corev1.ProtocolTCP, corev1.ProtocolUDP
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "shop", Name: "billing-1", Labels: map[string]string{discoveryv1.LabelServiceName: "billing"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: str("http"), Port: &port, Protocol: &tcp}, {Name: str("dns"), Port: &port, Protocol: &udp}, {Name: str("any")}},
		Endpoints: []discoveryv1.Endpoint{
			{Addresses: []string{"10.0.0.1"}, TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: "a"}, NodeName: str("n1")},
			{Addresses: []string{"10.0.0.2"}, Conditions: discoveryv1.EndpointConditions{Ready: no(), Serving: yes(), Terminating: yes()}, Zone: str("z2")},
			{Addresses: []string{"10.0.0.3"}, Conditions: discoveryv1.EndpointConditions{Ready: no(), Serving: no(), Terminating: yes()}},
			{Addresses: []string{"10.0.0.4"}, Hints: &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: "z1"}}, ForNodes: []discoveryv1.ForNode{{Name: "n1"}}}},
			{Addresses: []string{"nonsense"}}, {},
		},
	}
	place := func(node, zone string) string { return node + "|" + zone }
	got := sliceOf(trimSlice(s), place)
	if got.service != "shop/billing" || len(got.backends) != 4 {
		t.Fatalf("%+v", got)
	}
	a, b, c, d := got.backends[0], got.backends[1], got.backends[2], got.backends[3]
	if !a.Ready || a.Draining || a.Workload != "shop/a" || len(a.Ports) != 1 || a.Ports["http"] != 8080 || a.Locality != "n1|" {
		t.Errorf("%+v", a)
	}
	if b.Ready || !b.Draining || b.Locality != "|z2" || c.Ready || c.Draining || !slices.Equal(d.Zones, []string{"z1"}) || !slices.Equal(d.Nodes, []string{"n1"}) {
		t.Errorf("%+v %+v %+v", b, c, d)
	}
	s.AddressType = discoveryv1.AddressTypeFQDN
	if got := sliceOf(s, place); len(got.backends) != 0 {
		t.Errorf("names: %+v", got)
	}
}
