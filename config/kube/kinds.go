package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
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

// kindsEvery is how often the cluster is asked which kinds it serves, if
// nothing says that they changed.
const kindsEvery = 30 * time.Second

// followKinds starts a feed for each kind of config's that the cluster serves
// and ends those of kinds that went, until ctx ends.
func (s *Source) followKinds(ctx context.Context, wg *sync.WaitGroup, logger logr.Logger) {
	s.watchDefinitions(ctx, wg, logger)
	type running struct {
		f      *feed
		cancel context.CancelFunc
	}
	now := map[served]running{}
	var said string
	for {
		kinds, err := s.servedKinds(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && err.Error() != said:
			said = err.Error()
			s.log.Warn("it cannot be said which kinds the cluster serves; what was known stays", "err", err)
		case err == nil:
			said = ""
			for k, r := range now {
				if !slices.Contains(kinds, k) {
					r.cancel()
					s.end(r.f)
					delete(now, k)
					s.log.Info("a kind is not served any more", "kind", k.GroupResource(), "version", k.Version)
				}
			}
			for _, k := range kinds {
				if _, runs := now[k]; runs {
					continue
				}
				one, cancel := context.WithCancel(ctx)
				f := s.customFeed(k)
				now[k] = running{f, cancel}
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
	s.feeds = slices.DeleteFunc(s.feeds, func(o *feed) bool { return o == f })
	s.mu.Unlock()
	f.forget()
}

func (s *Source) customFeed(k served) *feed {
	return &feed{
		name: k.GroupResource().String(), optional: !k.taken,
		trim: func(o any) any { return o },
		put: func(o any) error {
			r, err := customOf(o.(*unstructured.Unstructured))
			if err == nil {
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
// newest version that both know.
func (s *Source) servedKinds(ctx context.Context) ([]served, error) {
	var groups metav1.APIGroupList
	if err := s.ask(ctx, "/apis", &groups); err != nil {
		return nil, err
	}
	var out []served
	for _, g := range groups.Groups {
		kinds := config.Kinds(g.Name)
		if len(kinds) == 0 {
			continue
		}
		best := map[string]served{}
		for _, v := range g.Versions {
			var list metav1.APIResourceList
			if err := s.ask(ctx, "/apis/"+v.GroupVersion, &list); apierrors.IsNotFound(err) {
				continue // it went meanwhile
			} else if err != nil {
				return nil, err
			}
			for _, r := range list.APIResources {
				k, ok := kinds[r.Kind]
				versions := k.Versions
				if !ok || !slices.Contains(r.Verbs, "watch") {
					continue
				}
				rank := slices.Index(versions, v.Version)
				if len(versions) > 0 && rank < 0 {
					continue
				}
				if old, ok := best[r.Kind]; ok && (len(versions) == 0 || slices.Index(versions, old.Version) > rank) {
					continue // the server's preferred version comes first
				}
				best[r.Kind] = served{schema.GroupVersionResource{Group: g.Name, Version: v.Version, Resource: r.Name}, r.Kind, k.Taken}
			}
		}
		for _, kind := range slices.Sorted(maps.Keys(best)) {
			out = append(out, best[kind])
		}
	}
	return out, nil
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
