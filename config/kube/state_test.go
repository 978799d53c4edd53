package kube

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/seinemesh/seine/config"
	"github.com/seinemesh/seine/mesh"
)

// bench drives a builder over a state by hand, without an API server.
type bench struct {
	*builder
	t      testing.TB
	events []config.Event
}

func newBench(t testing.TB) *bench {
	b := &bench{t: t}
	s := &Source{state: newState(), domain: "cluster.local", wake: make(chan struct{}, 1)}
	b.builder = &builder{s: s, handle: func(e config.Event) { b.events = append(b.events, e) }}
	return b
}

// next takes what changed, and gives the event that came of it.
func (b *bench) next() config.Event {
	b.t.Helper()
	n := len(b.events)
	b.step(false)
	if len(b.events) != n+1 {
		b.t.Fatalf("%d events", len(b.events)-n)
	}
	return b.events[n]
}

func (b *bench) apply(v any) {
	b.t.Helper()
	var err error
	var r *resource
	switch v := v.(type) {
	case *corev1.Service:
		r, err = serviceOf(v)
	case *resource:
		r = v
	}
	if err != nil {
		b.t.Fatal(err)
	}
	b.s.state.putResource(r)
}

func service(name string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(name), CreationTimestamp: metav1.Unix(1000, 0)},
		Spec: corev1.ServiceSpec{Selector: map[string]string{"app": name}, ClusterIP: "10.96.0.9", ClusterIPs: []string{"10.96.0.9"},
			Ports: []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromString("web")}}},
	}
}

func custom(apiVersion, kind, name string, created int64, spec string) *resource {
	group, _, _ := strings.Cut(apiVersion, "/")
	o := config.Object{APIVersion: apiVersion, Kind: kind, Name: name, Namespace: "shop", Spec: json.RawMessage(spec)}
	data, err := o.JSON()
	if err != nil {
		panic(err)
	}
	return &resource{id: id{group, kind, "shop", name}, uid: types.UID(kind + name), created: time.Unix(created, 0), data: data}
}

func route(name string, created int64, weight string) *resource {
	return custom("networking.istio.io/v1", "VirtualService", name, created, `{"hosts":["billing"],"http":[{"route":[{"destination":{"host":"billing"},"weight":`+weight+`}]}]}`)
}

func backend(pod, ip string, ready bool) mesh.Backend {
	return mesh.Backend{Address: netip.MustParseAddr(ip), Workload: "shop/" + pod, Ports: map[string]uint32{"http": 8080}, Ready: ready}
}

func TestAnEndpointDecodesNothing(t *testing.T) {
	b := newBench(t)
	b.apply(service("billing"))
	b.apply(route("r", 2000, "100"))
	b.s.state.putPod(somePod("a", "10.0.0.1"))
	b.s.state.putSlice("shop/s", slice{"shop/billing", []mesh.Backend{backend("a", "10.0.0.1", true)}})
	first := b.next()
	if first.EndpointsOnly || len(first.Result.Snapshot.Workloads) != 1 || len(first.Result.Snapshot.VirtualServices) != 1 {
		t.Fatalf("%+v %v", first.Result.Snapshot.Parts, first.Findings)
	}
	b.s.state.putPod(somePod("b", "10.0.0.2"))
	b.s.state.putSlice("shop/s", slice{"shop/billing", []mesh.Backend{backend("a", "10.0.0.1", true), backend("b", "10.0.0.2", true)}})
	second := b.next()
	if !second.EndpointsOnly || !b.shape {
		t.Errorf("a second pod: %+v, analysis due: %v", second.EndpointsOnly, b.shape)
	}
	x, y := first.Result.Snapshot, second.Result.Snapshot
	if y.Generation != x.Generation+1 || x.Services[0] != y.Services[0] || x.VirtualServices[0] != y.VirtualServices[0] || x.Workloads[0] != y.Workloads[0] {
		t.Error("what did not change is not shared")
	}
	if len(x.Members(x.Services[0])) != 1 || len(y.Members(y.Services[0])) != 2 || len(y.Backends["shop/billing"]) != 2 || len(x.Backends["shop/billing"]) != 1 {
		t.Errorf("%v %v", y.Members(y.Services[0]), y.Backends)
	}
	// The same again is no change at all.
	b.s.state.putPod(somePod("b", "10.0.0.2", func(p *corev1.Pod) { p.ResourceVersion = "9" }))
	b.apply(service("billing"))
	if b.s.state.changed != 0 {
		t.Errorf("changed %b", b.s.state.changed)
	}
	b.s.state.putPod(somePod("b", "10.0.0.2", func(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse }))
	if b.s.state.changed != changedEndpoints {
		t.Errorf("readiness: %b", b.s.state.changed)
	}
	b.s.state.dropPod("shop/b")
	b.s.state.dropSlice("shop/s")
	if s := b.next().Result.Snapshot; len(s.Workloads) != 1 || len(s.Backends) != 0 || s.Backends == nil {
		t.Errorf("%v %v", s.Workloads, s.Backends)
	}
}

func TestTheOldestWins(t *testing.T) {
	b := newBench(t)
	b.apply(service("billing"))
	b.apply(route("a-younger", 3000, "100"))
	b.apply(route("z-older", 2000, "100"))
	e := b.next()
	if vs := e.Result.Snapshot.VirtualServices; len(vs) != 2 || vs[0].Name != "z-older" || !vs[0].Created.Equal(time.Unix(2000, 0)) || vs[0].File != "" || vs[0].Line != 0 {
		t.Fatalf("%+v", vs)
	}
	found := false
	for _, f := range e.Findings {
		found = found || f.Name == "a-younger" && strings.Contains(f.Message, "VirtualService shop/z-older") && f.Line == 0
	}
	if !found {
		t.Errorf("%v", e.Findings)
	}
}

func TestTheLastGoodHolds(t *testing.T) {
	b := newBench(t)
	b.apply(service("billing"))
	b.apply(route("r", 2000, "100"))
	b.next()
	weight := func(e config.Event) string {
		vs := e.Result.Snapshot.VirtualServices
		if len(vs) != 1 {
			return fmt.Sprint(len(vs), " routes")
		}
		return fmt.Sprint(vs[0].HTTP[0].Destinations[0].Weight)
	}
	said := func(e config.Event) (out string) {
		for _, f := range e.Findings {
			if f.Refused {
				out += f.String() + "\n"
			}
		}
		return out
	}
	b.apply(route("r", 2000, "-7"))
	for range 3 { // for as long as it is bad, and whatever else changes
		e := b.next()
		if weight(e) != "100" || !strings.Contains(said(e), "still holds") {
			t.Fatalf("%s %s", weight(e), said(e))
		}
		s := service("other")
		s.Spec.ClusterIP, s.Spec.ClusterIPs = "", nil
		s.ResourceVersion, s.Labels = fmt.Sprint(len(b.events)), map[string]string{"n": fmt.Sprint(len(b.events))}
		b.apply(s)
	}
	b.apply(route("r", 2000, "-8")) // bad in another way
	if e := b.next(); weight(e) != "100" || !strings.Contains(said(e), "still holds") {
		t.Errorf("%s %s", weight(e), said(e))
	}
	b.apply(route("r", 2000, "50"))
	if e := b.next(); weight(e) != "50" || said(e) != "" {
		t.Errorf("%s %s", weight(e), said(e))
	}
	again := route("r", 9000, "-1")
	again.uid = "another one of that name"
	b.s.state.dropResource(again.id)
	b.apply(again)
	if e := b.next(); weight(e) != "0 routes" || said(e) == "" || strings.Contains(said(e), "still holds") {
		t.Errorf("a new one inherits nothing: %s %s", weight(e), said(e))
	}
}

func TestSettings(t *testing.T) {
	b := newBench(t)
	b.s.state.putSettings([]byte("outboundTrafficPolicy: {mode: REGISTRY_ONLY}\n"))
	if e := b.next(); !e.Result.Snapshot.Settings.RegistryOnly {
		t.Errorf("%+v", e.Result.Snapshot.Settings)
	}
	b.s.state.putSettings([]byte("outboundTrafficPolicy: {mod: ALLOW_ANY}\n"))
	if e := b.next(); !e.Result.Snapshot.Settings.RegistryOnly || len(e.Findings) != 1 || !strings.Contains(e.Findings[0].Message, "still holds") {
		t.Errorf("%+v %v", e.Result.Snapshot.Settings, e.Findings)
	}
	b.s.state.putSettings([]byte("trustDomain: other.example\n"))
	if e := b.next(); e.Result.Snapshot.Settings.TrustDomain != "cluster.local" || !strings.Contains(fmt.Sprint(e.Findings), "start it again") {
		t.Errorf("%+v %v", e.Result.Snapshot.Settings, e.Findings)
	}
	b.s.state.putSettings([]byte{})
	if e := b.next(); e.Result.Snapshot.Settings.RegistryOnly || len(e.Findings) != 0 {
		t.Errorf("%+v %v", e.Result.Snapshot.Settings, e.Findings)
	}
}

func TestNodesGivePlaces(t *testing.T) {
	b := newBench(t)
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{corev1.LabelTopologyRegion: "eu", corev1.LabelTopologyZone: "eu-1"}}, Spec: corev1.NodeSpec{PodCIDRs: []string{"10.0.0.0/24"}}}
	b.s.state.putPod(somePod("a", "10.0.0.1"))
	b.s.state.putNode(n)
	b.s.state.putPod(somePod("b", "10.0.0.2"))
	b.s.state.putPod(somePod("c", "10.0.0.3", func(p *corev1.Pod) { p.Labels[labelLocality] = "us.us-1" }))
	s := b.next().Result.Snapshot
	for key, want := range map[string]string{"shop/a": "eu/eu-1", "shop/b": "eu/eu-1", "shop/c": "us/us-1"} {
		if got := s.Workload(key).Locality; got != want {
			t.Errorf("%s is in %q", key, got)
		}
	}
	if !s.Local(netip.MustParseAddr("10.0.0.77")) || s.Local(netip.MustParseAddr("10.0.1.77")) || s.Local(netip.MustParseAddr("10.96.0.1")) {
		t.Errorf("%v", s.Settings.Prefixes)
	}
	n.Labels[corev1.LabelTopologyZone] = "eu-2"
	b.s.state.putNode(n)
	if s := b.next().Result.Snapshot; s.Workload("shop/a").Locality != "eu/eu-2" || s.Workload("shop/c").Locality != "us/us-1" {
		t.Errorf("%+v", s.Workload("shop/a"))
	}
}
