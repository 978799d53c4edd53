package kube

import (
	"context"
	"fmt"
	"sync"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// feed takes what one reflector lists and watches into the Source's state. It is
// a cache.TransformingStore that keeps no object.
type feed struct {
	s        *Source
	name     string // plural.group, for people
	optional bool   // the mesh runs without it
	trim     func(any) any
	put      func(obj any) error // s.mu is held
	drop     func(key string)    // NAMESPACE/NAME or NAME; s.mu is held

	// Guarded by s.mu.
	keys   map[string]struct{}
	synced bool
	ended  bool  // what it still says does not count
	err    error // of the last list or watch; nil: it went well
}

func (f *feed) Transformer() cache.TransformFunc {
	return func(o any) (any, error) { return f.trim(o), nil }
}

func (f *feed) Add(o any) error {
	key, err := cache.MetaNamespaceKeyFunc(o)
	if err != nil {
		return err
	}
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	if f.ended {
		return nil
	}
	return f.take(key, o)
}

// take is Add with s.mu held.
func (f *feed) take(key string, o any) error {
	f.keys[key] = struct{}{}
	err := f.put(o)
	f.s.changed()
	return err
}

func (f *feed) Update(o any) error { return f.Add(o) }

func (f *feed) Delete(o any) error {
	key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(o)
	if err != nil {
		return err
	}
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	if f.ended {
		return nil
	}
	delete(f.keys, key)
	f.drop(key)
	f.s.changed()
	return nil
}

// Replace is the whole list: what is not in it is gone.
func (f *feed) Replace(list []any, _ string) error {
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	if f.ended {
		return nil
	}
	now := make(map[string]struct{}, len(list))
	for _, o := range list {
		key, err := cache.MetaNamespaceKeyFunc(o)
		if err == nil {
			now[key] = struct{}{}
			err = f.take(key, f.trim(o))
		}
		if err != nil {
			return fmt.Errorf("kube: %s: %w", f.name, err)
		}
	}
	for key := range f.keys {
		if _, still := now[key]; !still {
			f.drop(key)
		}
	}
	f.keys, f.synced = now, true
	f.s.changed()
	return nil
}

func (f *feed) Resync() error { return nil }

// forget drops all that came from f.
func (f *feed) forget() {
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	for key := range f.keys {
		f.drop(key)
	}
	clear(f.keys)
	f.s.changed()
}

// changed wakes who builds. s.mu is held.
func (s *Source) changed() {
	if s.state.changed == 0 {
		return
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// note keeps what a list or a watch said last, and logs what is new.
func (f *feed) note(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return err
	}
	f.s.mu.Lock()
	before := f.err
	f.err = err
	f.s.mu.Unlock()
	switch {
	case err != nil && before == nil:
		f.s.log.Warn("a kind cannot be read; what was known of it stays", "kind", f.name, "err", err)
	case err == nil && before != nil:
		f.s.log.Info("a kind can be read again", "kind", f.name)
	}
	return err
}

// listWatch is lw with its errors noted.
func (f *feed) listWatch(lw *cache.ListWatch) *cache.ListWatch {
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			out, err := lw.ListWithContext(ctx, o)
			return out, f.note(ctx, err)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			out, err := lw.WatchWithContext(ctx, o)
			return out, f.note(ctx, err)
		},
	}
}

// start runs f until ctx ends. s.mu is not held.
func (s *Source) start(ctx context.Context, wg *sync.WaitGroup, logger logr.Logger, f *feed, lw *cache.ListWatch, example runtime.Object) {
	if f.s = s; f.keys == nil {
		f.keys = map[string]struct{}{}
	}
	s.mu.Lock()
	s.feeds = append(s.feeds, f)
	s.mu.Unlock()
	r := cache.NewReflectorWithOptions(f.listWatch(lw), example, f, cache.ReflectorOptions{Name: f.name, Logger: &logger})
	wg.Go(func() { r.RunWithContext(ctx) })
}

// watchCore follows Kubernetes' own kinds.
func (s *Source) watchCore(ctx context.Context, wg *sync.WaitGroup, logger logr.Logger) {
	all := func(c *rest.RESTClient, resource string) *cache.ListWatch {
		return cache.NewListWatchFromClient(c, resource, metav1.NamespaceAll, fields.Everything())
	}
	st := s.state
	s.start(ctx, wg, logger, &feed{
		name: "nodes", optional: true,
		trim: func(o any) any {
			n, ok := o.(*corev1.Node)
			if !ok {
				return o
			}
			return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.Name, ResourceVersion: n.ResourceVersion, Labels: n.Labels}, Spec: corev1.NodeSpec{PodCIDRs: n.Spec.PodCIDRs}}
		},
		put:  func(o any) error { st.putNode(o.(*corev1.Node)); return nil },
		drop: st.dropNode,
	}, all(s.core, "nodes"), &corev1.Node{})
	s.start(ctx, wg, logger, &feed{
		name: "pods",
		trim: func(o any) any {
			if p, ok := o.(*corev1.Pod); ok {
				return trimPod(p)
			}
			return o
		},
		put:  func(o any) error { st.putPod(o.(*corev1.Pod)); return nil },
		drop: st.dropPod,
	}, all(s.core, "pods"), &corev1.Pod{})
	s.start(ctx, wg, logger, &feed{
		name: "endpointslices.discovery.k8s.io",
		trim: func(o any) any {
			if e, ok := o.(*discoveryv1.EndpointSlice); ok {
				return trimSlice(e)
			}
			return o
		},
		put: func(o any) error {
			e := o.(*discoveryv1.EndpointSlice)
			st.putSlice(e.Namespace+"/"+e.Name, sliceOf(e, st.placeOf))
			return nil
		},
		drop: st.dropSlice,
	}, all(s.slices, "endpointslices"), &discoveryv1.EndpointSlice{})
	s.start(ctx, wg, logger, &feed{
		name: "services",
		trim: func(o any) any {
			if v, ok := o.(*corev1.Service); ok {
				return trimService(v)
			}
			return o
		},
		put: func(o any) error {
			r, err := serviceOf(o.(*corev1.Service))
			if err == nil {
				st.putResource(r)
			}
			return err
		},
		drop: func(key string) { st.dropResource(named("", "Service", key)) },
	}, all(s.core, "services"), &corev1.Service{})
	s.start(ctx, wg, logger, &feed{
		name: "configmaps (" + s.opt.Namespace + "/" + s.opt.Settings + ")",
		trim: func(o any) any { return o },
		put:  func(o any) error { st.putSettings([]byte(o.(*corev1.ConfigMap).Data[SettingsKey])); return nil },
		drop: func(string) { st.putSettings([]byte{}) },
	}, cache.NewListWatchFromClient(s.core, "configmaps", s.opt.Namespace, fields.OneTermEqualSelector(metav1.ObjectNameField, s.opt.Settings)), &corev1.ConfigMap{})
}

func named(group, kind, key string) id {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return id{}
	}
	return id{group, kind, namespace, name}
}
