package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/seinemesh/seine/config"
)

// Kind is a custom resource kind as an API server serves it.
type Kind struct {
	schema.GroupVersionResource
	Name       string
	Namespaced bool
}

// FindKind finds one of the mesh's kinds by its name, plural, singular or short
// name (virtualservice, vs), with ".GROUP" where several have one, as kubectl does.
func FindKind(cfg *rest.Config, name string) (Kind, error) {
	client, err := discovery.NewDiscoveryClientForConfig(cfg)
	if err != nil {
		return Kind{}, fmt.Errorf("cluster: %w", err)
	}
	lists, err := client.ServerPreferredResources()
	if err != nil && len(lists) == 0 { // some groups may be out of order
		return Kind{}, fmt.Errorf("cluster: kinds of %s: %w", cfg.Host, err)
	}
	wanted, group, qualified := strings.Cut(strings.ToLower(name), ".")
	var found []Kind
	for _, l := range lists {
		gv, err := schema.ParseGroupVersion(l.GroupVersion)
		if err != nil || config.Kinds(gv.Group) == nil || qualified && gv.Group != group {
			continue
		}
		for _, r := range l.APIResources {
			if !strings.Contains(r.Name, "/") && (r.Name == wanted || r.SingularName == wanted || strings.ToLower(r.Kind) == wanted || slices.Contains(r.ShortNames, wanted)) {
				found = append(found, Kind{gv.WithResource(r.Name), r.Kind, r.Namespaced})
			}
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return Kind{}, fmt.Errorf("cluster: %s serves no kind of the mesh called %q: are its definitions installed (seine install)?", cfg.Host, name)
	}
	var names []string
	for _, k := range found {
		names = append(names, k.Resource+"."+k.Group)
	}
	return Kind{}, fmt.Errorf("cluster: %q may be any of %s: write one of these", name, strings.Join(names, ", "))
}

// Progress is what the status of a resource says of one condition.
type Progress struct {
	Generation int64  // metadata.generation
	Observed   int64  // that the condition is about
	Known      bool   // the condition is there
	True       bool   // of all parents, where the kind has a status for each
	Reason     string // of the first that is not true, or of the first
	Message    string
}

// Done reports whether the condition is true of the resource as it is now.
func (p *Progress) Done() bool { return p.Known && p.True && p.Observed >= p.Generation }

// ConditionOf reads a condition, whatever the case of its name.
func ConditionOf(ctx context.Context, cfg *rest.Config, k Kind, namespace, name, condition string) (*Progress, error) {
	client, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	if !k.Namespaced {
		namespace = ""
	}
	o, err := client.Resource(k.GroupVersionResource).Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	return progress(o.Object, condition)
}

// progress finds a condition in status.conditions, or in those of each parent.
func progress(object map[string]any, condition string) (*Progress, error) {
	raw, err := json.Marshal(object)
	if err != nil {
		return nil, err
	}
	type conditions []struct {
		Type, Status, Reason, Message string
		ObservedGeneration            json.Number
	}
	var o struct {
		Metadata struct{ Generation int64 }
		Status   struct {
			Conditions conditions
			Parents    []struct{ Conditions conditions }
		}
	}
	if err := json.Unmarshal(raw, &o); err != nil {
		return nil, fmt.Errorf("cluster: the status of the resource cannot be read: %w", err)
	}
	p := &Progress{Generation: o.Metadata.Generation}
	lists := []conditions{o.Status.Conditions}
	for _, parent := range o.Status.Parents {
		lists = append(lists, parent.Conditions)
	}
	for _, l := range lists {
		for _, c := range l {
			if !strings.EqualFold(c.Type, condition) {
				continue
			}
			observed, _ := c.ObservedGeneration.Int64()
			if yes := c.Status == "True"; !p.Known || p.True && !yes {
				p.True, p.Reason, p.Message = yes, c.Reason, c.Message
			}
			if !p.Known || observed < p.Observed {
				p.Observed = observed
			}
			p.Known = true
		}
	}
	return p, nil
}
