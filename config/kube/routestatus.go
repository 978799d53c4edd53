package kube

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/seinemesh/seine/config"
)

// RouteStatus writes how Gateway API routes fare into their status.parents,
// under config.RouteController. Entries of other controllers are left alone. One
// goroutine at a time.
type RouteStatus struct {
	client dynamic.Interface
	now    func() time.Time
	// said is what stood in the API server last, so that what did not change
	// costs no request.
	said map[routeKey]string
}

type routeKey struct{ kind, namespace, name string }

// NewRouteStatus returns one that has written nothing yet.
func NewRouteStatus(c *rest.Config) (*RouteStatus, error) {
	client, err := dynamic.NewForConfig(c)
	if err != nil {
		return nil, fmt.Errorf("kube: client of %s: %w", c.Host, err)
	}
	return &RouteStatus{client: client, now: time.Now, said: map[routeKey]string{}}, nil
}

// Write brings the status of routes up to date, of at most as many that say
// something new; the next Write goes on. What cannot be written is in the error,
// and is tried again by the next Write; the others are written.
func (w *RouteStatus) Write(ctx context.Context, routes []config.RouteStatus, most int) error {
	var errs []error
	there := map[routeKey]bool{}
	for i := range routes {
		r := &routes[i]
		key := routeKey{r.Kind, r.Namespace, r.Name}
		there[key] = true
		text := routeNews(r)
		if w.said[key] == text || most == 0 {
			continue
		}
		most--
		if err := w.write(ctx, r); err != nil {
			errs = append(errs, fmt.Errorf("kube: status of %s %s/%s: %w", r.Kind, r.Namespace, r.Name, err))
			continue
		}
		w.said[key] = text
	}
	for key := range w.said {
		if !there[key] {
			delete(w.said, key)
		}
	}
	return errors.Join(errs...)
}

// routeNews is what is worth a write: not how many proxies there are, where all of
// them have a route.
func routeNews(r *config.RouteStatus) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d", r.Generation)
	for i := range r.Parents {
		p := &r.Parents[i]
		fmt.Fprintf(&b, "\n%+v", p.Parent)
		for _, c := range p.Conditions {
			if c.Type == ConditionProgrammed && c.Status {
				c.Message = ""
			}
			fmt.Fprintf(&b, "\n%+v", c)
		}
	}
	return b.String()
}

// writeTries bounds how often a status is written anew because the object
// changed meanwhile.
const writeTries = 4

func (w *RouteStatus) write(ctx context.Context, r *config.RouteStatus) error {
	resource := map[string]string{"HTTPRoute": "httproutes", "GRPCRoute": "grpcroutes"}[r.Kind]
	c := w.client.Resource(schema.GroupVersionResource{Group: gateway.GroupName, Version: r.Version, Resource: resource}).Namespace(r.Namespace)
	for try := 1; ; try++ {
		o, err := c.Get(ctx, r.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil // it went meanwhile
		}
		if err != nil {
			return err
		}
		changed, err := setParents(o, r, w.now())
		if err != nil || !changed {
			return err
		}
		if _, err = c.UpdateStatus(ctx, o, metav1.UpdateOptions{}); !apierrors.IsConflict(err) || try == writeTries {
			return err
		}
	}
}

// setParents puts r's parents into o's status; false if they stand there
// already. A condition keeps its time for as long as its status does.
func setParents(o *unstructured.Unstructured, r *config.RouteStatus, now time.Time) (bool, error) {
	var before gateway.RouteStatus
	if raw, ok := o.Object["status"].(map[string]any); ok {
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(raw, &before); err != nil {
			return false, fmt.Errorf("its status cannot be read: %w", err)
		}
	}
	after := gateway.RouteStatus{Parents: []gateway.RouteParentStatus{}}
	for _, p := range before.Parents {
		if p.ControllerName != config.RouteController {
			after.Parents = append(after.Parents, p)
		}
	}
	for _, p := range r.Parents {
		entry := gateway.RouteParentStatus{ParentRef: p.Parent, ControllerName: config.RouteController}
		old := ownEntry(before.Parents, &p.Parent)
		said := false
		for _, c := range p.Conditions {
			entry.Conditions = append(entry.Conditions, conditionOf(c, r.Generation, old, now))
			said = said || c.Type == ConditionProgrammed
		}
		if !said && old != nil { // a new leader does not know yet
			for _, o := range old.Conditions {
				if o.Type == ConditionProgrammed && o.ObservedGeneration == r.Generation {
					entry.Conditions = append(entry.Conditions, o)
				}
			}
		}
		after.Parents = append(after.Parents, entry)
	}
	if equalParents(before.Parents, after.Parents) {
		return false, nil
	}
	raw, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&after)
	if err != nil {
		return false, err
	}
	o.Object["status"] = raw
	return true, nil
}

func ownEntry(list []gateway.RouteParentStatus, p *gateway.ParentReference) *gateway.RouteParentStatus {
	for i := range list {
		if list[i].ControllerName == config.RouteController && sameParent(&list[i].ParentRef, p) {
			return &list[i]
		}
	}
	return nil
}

func sameParent(a, b *gateway.ParentReference) bool {
	return a.Name == b.Name && same(a.Group, b.Group) && same(a.Kind, b.Kind) && same(a.Namespace, b.Namespace) &&
		same(a.SectionName, b.SectionName) && same(a.Port, b.Port)
}

func same[T comparable](a, b *T) bool {
	return a == nil && b == nil || a != nil && b != nil && *a == *b
}

func conditionOf(c config.Condition, generation int64, old *gateway.RouteParentStatus, now time.Time) metav1.Condition {
	out := metav1.Condition{
		Type: c.Type, Status: metav1.ConditionFalse, ObservedGeneration: generation, Reason: c.Reason,
		Message: clipped(c.Message), LastTransitionTime: metav1.NewTime(now),
	}
	if c.Status {
		out.Status = metav1.ConditionTrue
	}
	if old != nil {
		for _, o := range old.Conditions {
			if o.Type == out.Type && o.Status == out.Status {
				out.LastTransitionTime = o.LastTransitionTime
			}
		}
	}
	return out
}

// clipped holds a message to what the API server takes.
func clipped(s string) string {
	const most = 32 << 10
	if len(s) > most {
		return s[:most]
	}
	return s
}

func equalParents(a, b []gateway.RouteParentStatus) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		x, y := &a[i], &b[i]
		if x.ControllerName != y.ControllerName || !sameParent(&x.ParentRef, &y.ParentRef) || len(x.Conditions) != len(y.Conditions) {
			return false
		}
		for j := range x.Conditions {
			c, d := x.Conditions[j], y.Conditions[j]
			if c.Type != d.Type || c.Status != d.Status || c.Reason != d.Reason || c.Message != d.Message || c.ObservedGeneration != d.ObservedGeneration {
				return false
			}
		}
	}
	return true
}
