//go:build kube

package kube

import (
	"context"
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/seinemesh/seine/test/kube/kubetest"
)

const echoRoute = `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: billing}
spec:
  parentRefs: [{group: "", kind: Service, name: billing-service, port: 8080}]
  rules:
  - backendRefs: [{name: BACKEND, port: 8080}]
`

// TestRouteStatus: how a Gateway API route fares is written into its status, of
// the generation that it speaks of.
func TestRouteStatus(t *testing.T) {
	c := kubetest.Connect(t)
	c.Install(t)
	n := c.Namespace(t, "routes", nil)
	n.Apply(t, strings.Split(billing, "---")[0])
	routes := c.Dynamic.Resource(schema.GroupVersionResource{Group: "gateway.networking.k8s.io", Version: "v1", Resource: "httproutes"}).Namespace(n.Name)
	for i, step := range []struct{ backend, accepted, resolved string }{
		{"billing-service", "True Accepted", "True ResolvedRefs"},
		{"billing-servise", "True Accepted", "False BackendNotFound"},
	} {
		n.Apply(t, strings.ReplaceAll(echoRoute, "BACKEND", step.backend))
		want := map[string]string{"Accepted": step.accepted, "ResolvedRefs": step.resolved}
		kubetest.Wait(t, kubetest.Patience, "the status of generation "+fmt.Sprint(i+1), func(ctx context.Context) error {
			o, err := routes.Get(ctx, "billing", metav1.GetOptions{})
			if err != nil {
				return err
			}
			parents, _, _ := unstructured.NestedSlice(o.Object, "status", "parents")
			if len(parents) != 1 {
				return fmt.Errorf("%d parents", len(parents))
			}
			parent := parents[0].(map[string]any)
			if parent["controllerName"] != "seine.dev/mesh-controller" {
				return fmt.Errorf("by %v", parent["controllerName"])
			}
			for _, x := range parent["conditions"].([]any) {
				k := x.(map[string]any)
				if k["type"] == "Programmed" {
					continue // TestWait
				}
				if got := fmt.Sprint(k["status"], " ", k["reason"]); got != want[fmt.Sprint(k["type"])] || k["observedGeneration"] != int64(i+1) {
					return fmt.Errorf("%v is %s of generation %v: %v", k["type"], got, k["observedGeneration"], k["message"])
				}
			}
			return nil
		})
	}
}
