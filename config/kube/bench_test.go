package kube

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/seinemesh/seine/mesh"
)

// fill makes a mesh of services with a route and perService pods each.
func fill(b *bench, services, perService int) {
	for i := range services {
		name := fmt.Sprintf("svc-%d", i)
		s := service(name)
		ip := netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}).String()
		s.UID, s.Spec.ClusterIP, s.Spec.ClusterIPs = types.UID(name), ip, []string{ip}
		b.apply(s)
		b.apply(custom("networking.istio.io/v1", "VirtualService", name, 2000, `{"hosts":["`+name+`"],"http":[{"route":[{"destination":{"host":"`+name+`"}}]}]}`))
		var list []mesh.Backend
		for j := range perService {
			p := podOf(name, i, j)
			b.s.state.putPod(p)
			list = append(list, backend(p.Name, p.Status.PodIP, true))
		}
		b.s.state.putSlice("shop/"+name, slice{"shop/" + name, list})
	}
}

func podOf(name string, i, j int) *corev1.Pod {
	return somePod(fmt.Sprintf("%s-%d", name, j), netip.AddrFrom4([4]byte{10, 128 + byte(j), byte(i >> 8), byte(i)}).String(), func(p *corev1.Pod) {
		p.Labels = map[string]string{"app": name, "version": "v1", "pod-template-hash": "7c9f6d5b8"}
		p.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", Name: name + "-7c9f6d5b8", Controller: yes()}}
	})
}

// BenchmarkEndpoint is what one pod's readiness costs among 5,000 of 500 services
// with a route each: nothing is decoded, and what did not change is shared.
func BenchmarkEndpoint(b *testing.B) {
	x := newBench(b)
	fill(x, 500, 10)
	x.next()
	b.ReportAllocs()
	b.ResetTimer()
	for n := range b.N {
		p := podOf("svc-7", 7, 3)
		if n%2 == 0 {
			p.Status.Conditions[0].Status = corev1.ConditionFalse
		}
		x.s.state.putPod(p)
		list := append([]mesh.Backend(nil), x.s.state.slices["shop/svc-7"].backends...)
		list[3].Ready = n%2 != 0
		x.s.state.putSlice("shop/svc-7", slice{"shop/svc-7", list})
		if e := x.next(); !e.EndpointsOnly {
			b.Fatal("resources were decoded")
		}
		x.events = x.events[:0]
	}
}

// BenchmarkResource is what a change of one route costs among 500 services with a
// route each and 5,000 pods.
func BenchmarkResource(b *testing.B) {
	x := newBench(b)
	fill(x, 500, 10)
	x.next()
	b.ReportAllocs()
	b.ResetTimer()
	for n := range b.N {
		x.apply(custom("networking.istio.io/v1", "VirtualService", "svc-7", 2000, fmt.Sprintf(`{"hosts":["svc-7"],"http":[{"timeout":"%ds","route":[{"destination":{"host":"svc-7"}}]}]}`, n+1)))
		x.next()
		x.events = x.events[:0]
	}
}

// BenchmarkMemory says what a mesh of 1,000 services and 10,000 pods holds.
func BenchmarkMemory(b *testing.B) {
	for range b.N {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		x := newBench(b)
		fill(x, 1000, 10)
		x.next()
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/(1<<20), "MiB")
		runtime.KeepAlive(x)
	}
}
