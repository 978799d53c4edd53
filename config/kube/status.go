package kube

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/seinemesh/seine/config"
)

// The types of the conditions on Istio's resources.
const (
	ConditionAccepted   = "Accepted"   // the resource is in the mesh as it is written
	ConditionProgrammed = "Programmed" // every connected proxy has acknowledged it
)

// Taken is a custom resource as the last build took it, and what there was to
// say of it.
type Taken struct {
	schema.GroupVersionResource
	Kind, Namespace, Name string
	Generation            int64  // metadata.generation
	Since                 uint64 // the first generation of the mesh that has it so
	Findings              config.Findings
}

// Taken are the custom resources of the last build that have conditions of ours:
// all but the Gateway API's, whose status is of another form.
func (s *Source) Taken() []Taken { return s.taken(false) }

// TakenRoutes are the Gateway API's.
func (s *Source) TakenRoutes() []Taken { return s.taken(true) }

func (s *Source) taken(routes bool) []Taken {
	s.mu.Lock()
	defer s.mu.Unlock()
	of := map[string]config.Findings{}
	for _, f := range s.findings {
		name := f.Resource()
		of[name] = append(of[name], f)
	}
	var out []Taken
	for _, r := range s.state.resources {
		if r.since == 0 || r.resource == "" || (r.id.group == gateway.GroupName) != routes {
			continue
		}
		t := Taken{
			GroupVersionResource: schema.GroupVersionResource{Group: r.id.group, Version: r.version, Resource: r.resource},
			Kind:                 r.id.kind, Namespace: r.id.namespace, Name: r.id.name, Generation: r.generation, Since: r.since,
		}
		f := config.Finding{Kind: t.Kind, Namespace: t.Namespace, Name: t.Name}
		t.Findings = of[f.Resource()]
		out = append(out, t)
	}
	slices.SortFunc(out, func(a, b Taken) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Group, b.Group))
	})
	return out
}

// Reach is how far a generation of the mesh has come.
type Reach struct {
	Proxies      int      // connected
	Acknowledged int      // of these, those that have it
	Behind       []string // some of the others
	Refused      string   // what a proxy refused the resource with; "": none did
}

// Conditions are what t's status should say.
func (t *Taken) Conditions(r Reach) []metav1.Condition {
	accepted := metav1.Condition{Type: ConditionAccepted, Status: metav1.ConditionTrue, Reason: "Accepted", Message: "taken as it is written"}
	var said []string
	for i := range t.Findings {
		f := &t.Findings[i]
		text := f.Message
		if f.Path != "" {
			text = f.Path + ": " + text
		}
		switch {
		case f.Refused:
			accepted.Status, accepted.Reason = metav1.ConditionFalse, "Invalid"
			said = append(said, text)
		case f.Severity != config.Info && accepted.Status == metav1.ConditionTrue:
			said = append(said, text)
			switch {
			case config.Conflict(f.Code):
				accepted.Reason = "Conflicted" // the message names the resource that holds
			case accepted.Reason == "Conflicted":
			case f.Severity == config.Error:
				accepted.Reason = "HasErrors"
			case accepted.Reason == "Accepted":
				accepted.Reason = "HasWarnings"
			}
		}
	}
	if len(said) > 0 {
		accepted.Message = clipped(strings.Join(said, "\n"))
	}
	programmed := Programmed(t.Generation, accepted.Status == metav1.ConditionTrue, r)
	out := []metav1.Condition{accepted, {Type: ConditionProgrammed, Status: metav1.ConditionFalse, Reason: programmed.Reason, Message: programmed.Message}}
	if programmed.Status {
		out[1].Status = metav1.ConditionTrue
	}
	for i := range out {
		out[i].ObservedGeneration = t.Generation
	}
	return out
}

// Programmed is the condition of that name of a generation of a resource.
func Programmed(generation int64, accepted bool, r Reach) config.Condition {
	out := config.Condition{Type: ConditionProgrammed, Status: true, Reason: "Programmed",
		Message: fmt.Sprintf("%d of %d proxies have acknowledged generation %d", r.Acknowledged, r.Proxies, generation)}
	switch {
	case !accepted:
		out.Status, out.Reason = false, "Invalid"
		out.Message = fmt.Sprintf("generation %d is not served: it is not accepted", generation)
	case r.Refused != "":
		out.Status, out.Reason, out.Message = false, "Refused", clipped(r.Refused)
	case r.Acknowledged < r.Proxies:
		out.Status, out.Reason = false, "Pending"
		out.Message += "; behind: " + strings.Join(r.Behind, ", ")
	}
	return out
}

// fieldManager owns the conditions that are written.
const fieldManager = "seined"

// Status writes conditions by server-side apply: they are its own, and those that
// somebody else has written are left alone. One goroutine at a time.
type Status struct {
	client dynamic.Interface
	now    func() time.Time
	said   map[statusKey]written
}

type statusKey struct{ group, kind, namespace, name string }

// written is what stands in the API server.
type written struct {
	conditions []metav1.Condition
	foreign    bool // somebody else owns them
}

// NewStatus returns one that has written nothing yet.
func NewStatus(c *rest.Config) (*Status, error) {
	client, err := dynamic.NewForConfig(c)
	if err != nil {
		return nil, fmt.Errorf("kube: client of %s: %w", c.Host, err)
	}
	return &Status{client: client, now: time.Now, said: map[statusKey]written{}}, nil
}

// Write puts conditions into t's status, if they say something new. What is only
// a count of proxies that come and go is said anew after a while.
func (w *Status) Write(ctx context.Context, t *Taken, conditions []metav1.Condition) (wrote bool, err error) {
	key := statusKey{t.Group, t.Kind, t.Namespace, t.Name}
	old, was := w.said[key]
	if was && (old.foreign || !news(old.conditions, conditions)) {
		return false, nil
	}
	c := w.client.Resource(t.GroupVersionResource).Namespace(t.Namespace)
	if !was {
		// What another leader wrote keeps its times.
		o, err := c.Get(ctx, t.Name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			return false, nil // it went meanwhile
		case err != nil:
			return false, fmt.Errorf("kube: status of %s %s/%s: %w", t.Kind, t.Namespace, t.Name, err)
		}
		if old.conditions = conditionsIn(o.Object); !news(old.conditions, conditions) {
			w.said[key] = old
			return false, nil
		}
	}
	now := metav1.NewTime(w.now().UTC().Truncate(time.Second))
	for i := range conditions {
		n := &conditions[i]
		n.LastTransitionTime = now
		for _, o := range old.conditions {
			if o.Type == n.Type && o.Status == n.Status && !o.LastTransitionTime.IsZero() {
				n.LastTransitionTime = o.LastTransitionTime
			}
		}
	}
	metadata := map[string]any{"name": t.Name}
	if t.Namespace != "" {
		metadata["namespace"] = t.Namespace
	}
	body, err := json.Marshal(map[string]any{
		"apiVersion": t.GroupVersion().String(), "kind": t.Kind, "metadata": metadata,
		"status": map[string]any{"conditions": conditions, "observedGeneration": t.Generation},
	})
	if err != nil {
		return false, fmt.Errorf("kube: status of %s %s/%s: %w", t.Kind, t.Namespace, t.Name, err)
	}
	_, err = c.Patch(ctx, t.Name, types.ApplyPatchType, body, metav1.PatchOptions{FieldManager: fieldManager}, "status")
	switch {
	case apierrors.IsNotFound(err): // it went, or its kind has no status
		return false, nil
	case apierrors.IsConflict(err):
		w.said[key] = written{foreign: true}
		return false, fmt.Errorf("kube: the conditions of %s %s/%s are somebody else's, and left alone: %w", t.Kind, t.Namespace, t.Name, err)
	case err != nil:
		return false, fmt.Errorf("kube: status of %s %s/%s: %w", t.Kind, t.Namespace, t.Name, err)
	}
	w.said[key] = written{conditions: conditions}
	return true, nil
}

// Keep forgets what is said of resources that are not there any more.
func (w *Status) Keep(list []Taken) {
	there := map[statusKey]bool{}
	for _, t := range list {
		there[statusKey{t.Group, t.Kind, t.Namespace, t.Name}] = true
	}
	for key := range w.said {
		if !there[key] {
			delete(w.said, key)
		}
	}
}

// news reports whether now says something that old does not: more than a number
// of proxies under an unchanged, true Programmed.
func news(old, now []metav1.Condition) bool {
	if len(old) != len(now) {
		return true
	}
	for i := range now {
		a, b := &old[i], &now[i]
		if a.Type != b.Type || a.Status != b.Status || a.Reason != b.Reason || a.ObservedGeneration != b.ObservedGeneration {
			return true
		}
		if a.Message != b.Message && (b.Type != ConditionProgrammed || b.Status != metav1.ConditionTrue) {
			return true
		}
	}
	return false
}

// conditionsIn reads status.conditions of an object.
func conditionsIn(object map[string]any) []metav1.Condition {
	status, _ := object["status"].(map[string]any)
	raw, err := json.Marshal(status["conditions"])
	var out []metav1.Condition
	if err != nil || json.Unmarshal(raw, &out) != nil {
		return nil
	}
	return out
}
