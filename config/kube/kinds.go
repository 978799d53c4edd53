package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/seinemesh/seine/config"
)

// served is a custom kind that the cluster serves, in the version it is read in.
type served struct {
	schema.GroupVersionResource
	kind  string
	taken bool
}

// running is a kind that is followed.
type running struct {
	served
	f      *feed
	cancel context.CancelFunc
}

// kindsEvery is how often the cluster is asked which kinds it serves, if
// nothing says that they changed.
const kindsEvery = 30 * time.Second

// followKinds starts a feed for each kind of config's that the cluster serves
// and ends those of kinds that went, until ctx ends.
func (s *Source) followKinds(ctx context.Context, wg *sync.WaitGroup, logger logr.Logger) {
	s.watchDefinitions(ctx, wg, logger)
	now := map[schema.GroupResource]running{}
	var said string
	for {
		kinds, err := s.servedKinds(ctx, now)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && err.Error() != said:
			said = err.Error()
			s.log.Warn("it cannot be said which kinds the cluster serves; what was known stays", "err", err)
		case err == nil:
			said = ""
			for of, r := range now {
				k, still := kinds[of]
				if still && k == r.served {
					continue
				}
				r.cancel()
				s.end(r.f)
				if !still {
					r.f.forget()
					delete(now, of)
					s.log.Info("a kind is not served any more", "kind", of)
				} // else in another version: what was read of it stays until the new feed has it
			}
			for of, k := range kinds {
				old, was := now[of]
				if was && old.served == k {
					continue
				}
				f := s.customFeed(k)
				if was {
					f.keys = old.f.keys
				}
				one, cancel := context.WithCancel(ctx)
				now[of] = running{k, f, cancel}
				s.start(one, wg, logger, f, s.customListWatch(k), &unstructured.Unstructured{})
			}
			s.mu.Lock()
			s.asked = true
			s.mu.Unlock()
		}
		wait := kindsEvery
		if err != nil {
			wait = time.Second
		}
		select {
		case <-ctx.Done():
			for _, r := range now {
				r.cancel()
			}
			return
		case <-s.refresh:
		case <-time.After(wait):
		}
	}
}

func (s *Source) end(f *feed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.feeds = slices.DeleteFunc(s.feeds, func(o *feed) bool { return o == f })
	f.ended = true
}

func (s *Source) customFeed(k served) *feed {
	return &feed{
		name: k.GroupResource().String(), optional: !k.taken,
		trim: func(o any) any { return o },
		put: func(o any) error {
			r, err := customOf(o.(*unstructured.Unstructured))
			if err == nil {
				r.version, r.resource = k.Version, k.Resource
				s.state.putResource(r)
			}
			return err
		},
		drop: func(key string) { s.state.dropResource(named(k.Group, k.kind, key)) },
	}
}

func (s *Source) customListWatch(k served) *cache.ListWatch {
	c := s.custom.Resource(k.GroupVersionResource)
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return c.List(ctx, o) },
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return c.Watch(ctx, o)
		},
	}
}

// servedKinds asks which of config's kinds the cluster serves, each in the
// version that it is followed in or, if it is not or that one is not served any
// more, in the newest that both know.
func (s *Source) servedKinds(ctx context.Context, now map[schema.GroupResource]running) (map[schema.GroupResource]served, error) {
	var groups metav1.APIGroupList
	if err := s.ask(ctx, "/apis", &groups); err != nil {
		return nil, err
	}
	best := map[schema.GroupResource]served{}
	for _, g := range groups.Groups {
		kinds := config.Kinds(g.Name)
		if len(kinds) == 0 {
			continue
		}
		for _, v := range g.Versions { // the preferred one comes first
			var list metav1.APIResourceList
			if err := s.ask(ctx, "/apis/"+v.GroupVersion, &list); apierrors.IsNotFound(err) {
				continue // it went meanwhile
			} else if err != nil {
				return nil, err
			}
			for _, r := range list.APIResources {
				k, ok := kinds[r.Kind]
				rank := slices.Index(k.Versions, v.Version)
				if !ok || !slices.Contains(r.Verbs, "watch") || len(k.Versions) > 0 && rank < 0 {
					continue
				}
				of := schema.GroupResource{Group: g.Name, Resource: r.Name}
				this := served{of.WithVersion(v.Version), r.Kind, k.Taken}
				old, found := best[of]
				if !found || now[of].served == this || now[of].served != old && rank > slices.Index(k.Versions, old.Version) {
					best[of] = this
				}
			}
		}
	}
	return best, nil
}

func (s *Source) ask(ctx context.Context, path string, into any) error {
	body, err := s.core.Get().AbsPath(path).SetHeader("Accept", "application/json").Do(ctx).Raw()
	if err != nil {
		return fmt.Errorf("kube: %s: %w", path, err)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("kube: %s: %w", path, err)
	}
	return nil
}

// watchDefinitions asks anew when a CustomResourceDefinition changes. Only its
// metadata is read.
func (s *Source) watchDefinitions(ctx context.Context, wg *sync.WaitGroup, logger logr.Logger) {
	crds := s.crds.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	again := func() {
		select {
		case s.refresh <- struct{}{}:
		default:
		}
	}
	s.start(ctx, wg, logger, &feed{
		name: "customresourcedefinitions.apiextensions.k8s.io", optional: true,
		trim: func(o any) any {
			m, ok := o.(*metav1.PartialObjectMetadata)
			if !ok {
				return o
			}
			return &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: m.Name, ResourceVersion: m.ResourceVersion}}
		},
		put:  func(any) error { again(); return nil },
		drop: func(string) { again() },
	}, &cache.ListWatch{
		ListWithContextFunc:  func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return crds.List(ctx, o) },
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) { return crds.Watch(ctx, o) },
	}, &metav1.PartialObjectMetadata{})
}
