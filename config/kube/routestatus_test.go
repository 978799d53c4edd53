package kube

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic/fake"
	clienttest "k8s.io/client-go/testing"
	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/seinemesh/seine/config"
	"github.com/seinemesh/seine/mesh"
)

var httpRoutes = schema.GroupVersionResource{Group: gateway.GroupName, Version: "v1", Resource: "httproutes"}

func TestRouteStatus(t *testing.T) {
	object := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
		"metadata": map[string]any{"name": "r", "namespace": "shop", "generation": int64(2)},
		"status": map[string]any{"parents": []any{map[string]any{
			"controllerName": "example.com/other", "parentRef": map[string]any{"name": "front"}, "conditions": []any{
				map[string]any{"type": "Accepted", "status": "True", "reason": "Accepted", "message": "theirs", "lastTransitionTime": "2026-11-01T11:00:00Z"},
			},
		}}},
	}}
	client := fake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), map[schema.GroupVersionResource]string{httpRoutes: "HTTPRouteList"}, object)
	writes, conflicts := 0, 1
	client.PrependReactor("update", "httproutes", func(clienttest.Action) (bool, runtime.Object, error) {
		writes++
		if conflicts > 0 {
			conflicts--
			return true, nil, apierrors.NewConflict(httpRoutes.GroupResource(), "r", errors.New("changed"))
		}
		return false, nil, nil
	})
	begin := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	now := begin
	w := &RouteStatus{client: client, now: func() time.Time { return now }, said: map[routeKey]string{}}
	core, kind := gateway.Group(""), gateway.Kind("Service")
	status := func(generation int64, resolved bool) []config.RouteStatus {
		return []config.RouteStatus{
			{Ref: mesh.Ref{Kind: "HTTPRoute", Namespace: "shop", Name: "gone"}, Version: "v1"},
			{
				Ref: mesh.Ref{Kind: "HTTPRoute", Namespace: "shop", Name: "r"}, Version: "v1", Generation: generation,
				Parents: []config.RouteParent{{
					Parent: gateway.ParentReference{Group: &core, Kind: &kind, Name: "echo"},
					Conditions: []config.Condition{
						{Type: config.RouteAccepted, Status: true, Reason: "Accepted"},
						{Type: config.RouteResolvedRefs, Status: resolved, Reason: "Any", Message: "why"},
					},
				}},
			},
		}
	}
	read := func() []gateway.RouteParentStatus {
		t.Helper()
		o, err := client.Resource(httpRoutes).Namespace("shop").Get(context.Background(), "r", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var s gateway.RouteStatus
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object["status"].(map[string]any), &s); err != nil {
			t.Fatal(err)
		}
		return s.Parents
	}
	write := func(generation int64, resolved bool, wantWrites int) {
		t.Helper()
		writes = 0
		if err := w.Write(context.Background(), status(generation, resolved), 9); err != nil {
			t.Fatal(err)
		}
		if writes != wantWrites {
			t.Errorf("%d writes, want %d", writes, wantWrites)
		}
	}
	condition := func(kind string, status metav1.ConditionStatus, reason, message string, generation int64, at time.Time) metav1.Condition {
		return metav1.Condition{Type: kind, Status: status, Reason: reason, Message: message, ObservedGeneration: generation, LastTransitionTime: metav1.NewTime(at)}
	}
	want := func(generation int64, resolved metav1.ConditionStatus, at time.Time) []gateway.RouteParentStatus {
		return []gateway.RouteParentStatus{
			{ParentRef: gateway.ParentReference{Name: "front"}, ControllerName: "example.com/other", Conditions: []metav1.Condition{
				condition("Accepted", metav1.ConditionTrue, "Accepted", "theirs", 0, begin.Add(-time.Hour)),
			}},
			{ParentRef: gateway.ParentReference{Group: &core, Kind: &kind, Name: "echo"}, ControllerName: config.RouteController, Conditions: []metav1.Condition{
				condition("Accepted", metav1.ConditionTrue, "Accepted", "", generation, begin),
				condition("ResolvedRefs", resolved, "Any", "why", generation, at),
			}},
		}
	}

	write(2, true, 2) // once more after the conflict
	now = begin.Add(time.Hour)
	if d := cmp.Diff(want(2, metav1.ConditionTrue, begin), read(), sameTimes); d != "" {
		t.Error(d)
	}
	write(2, true, 0) // nothing new
	write(3, false, 1)
	if d := cmp.Diff(want(3, metav1.ConditionFalse, now), read(), sameTimes); d != "" {
		t.Error(d)
	}
	w.said = map[routeKey]string{} // another replica leads now
	write(3, false, 0)

	// How many proxies have it is said when that is known, stays while a new leader
	// does not know, and is no news where all have it.
	reached := func(acknowledged, proxies, wantWrites int) {
		t.Helper()
		writes = 0
		routes := status(3, false)
		r := &routes[slices.IndexFunc(routes, func(r config.RouteStatus) bool { return r.Name == "r" })]
		for i := range r.Parents {
			p := &r.Parents[i]
			p.Conditions = append(p.Conditions, Programmed(3, true, Reach{Proxies: proxies, Acknowledged: acknowledged, Behind: []string{"shop/a"}}))
		}
		if err := w.Write(context.Background(), routes, 9); err != nil || writes != wantWrites {
			t.Errorf("%d writes, want %d, %v", writes, wantWrites, err)
		}
	}
	said := func(status metav1.ConditionStatus, message string) {
		t.Helper()
		list := read()[1].Conditions
		if c := list[len(list)-1]; len(list) != 3 || c.Type != ConditionProgrammed || c.Status != status || c.ObservedGeneration != 3 || c.Message != message {
			t.Errorf("%+v", list)
		}
	}
	reached(1, 2, 1)
	said(metav1.ConditionFalse, "1 of 2 proxies have acknowledged generation 3; behind: shop/a")
	reached(2, 2, 1)
	said(metav1.ConditionTrue, "2 of 2 proxies have acknowledged generation 3")
	reached(3, 3, 0)
	w.said = map[routeKey]string{}
	write(3, false, 0)
	said(metav1.ConditionTrue, "2 of 2 proxies have acknowledged generation 3")
	write(4, false, 1)
	if list := read()[1].Conditions; len(list) != 2 {
		t.Errorf("of another generation: %+v", list)
	}
	w.said, writes = map[routeKey]string{}, 0
	if err := w.Write(context.Background(), status(5, false), 0); err != nil || writes != 0 {
		t.Errorf("%d writes beyond the bound, %v", writes, err)
	}
}

var sameTimes = cmp.Comparer(func(a, b metav1.Time) bool { return a.Time.Equal(b.Time) })
