// Package deploy puts what package install renders into a cluster, waits until
// it is ready, changes it, takes it back and takes it away.
//
// It applies by server-side apply under one field manager, so that what others
// write into the same objects (the caBundle, an autoscaler's replicas) stays
// theirs. It never changes a custom resource definition, or anything else, that
// it did not make.
package deploy

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
)

// FieldManager is the name under which installation owns fields.
const FieldManager = "seine"

// Cluster is a connection to one. Its methods may be used concurrently.
type Cluster struct {
	Kube    kubernetes.Interface
	Dynamic dynamic.Interface
	mapper  *restmapper.DeferredDiscoveryRESTMapper
}

// Connect makes the clients; nothing is asked of the cluster yet.
func Connect(cfg *rest.Config) (*Cluster, error) {
	kube, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to the cluster: %w", err)
	}
	dyn, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to the cluster: %w", err)
	}
	return &Cluster{Kube: kube, Dynamic: dyn, mapper: restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(kube.Discovery()))}, nil
}

// resource returns the interface to the kind and namespace of u.
func (c *Cluster) resource(u *unstructured.Unstructured) (dynamic.ResourceInterface, error) {
	gvk := u.GroupVersionKind()
	m, err := c.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if meta.IsNoMatchError(err) && gvk.Group == "monitoring.coreos.com" {
		return nil, fmt.Errorf("%s: this cluster does not serve %s: %w; install the Prometheus operator first, or leave monitoring.operator=false", name(u), gvk, err)
	}
	if meta.IsNoMatchError(err) {
		return nil, fmt.Errorf("%s: this cluster does not serve %s: %w; is it older than Kubernetes 1.28?", name(u), gvk, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: ask what the cluster serves: %w", name(u), hint(err))
	}
	if m.Scope.Name() == meta.RESTScopeNameRoot {
		return c.Dynamic.Resource(m.Resource), nil
	}
	return c.Dynamic.Resource(m.Resource).Namespace(u.GetNamespace()), nil
}

// apply makes the object as u says, and returns the result. With dry nothing is
// stored.
func (c *Cluster) apply(ctx context.Context, u *unstructured.Unstructured, dry bool) (*unstructured.Unstructured, error) {
	r, err := c.resource(u)
	if err != nil {
		return nil, err
	}
	o := metav1.ApplyOptions{FieldManager: FieldManager, Force: true}
	if dry {
		o.DryRun = []string{metav1.DryRunAll}
	}
	out, err := r.Apply(ctx, u.GetName(), u, o)
	if err != nil {
		return nil, fmt.Errorf("apply %s: %w", name(u), hint(err))
	}
	return out, nil
}

// Try asks the API server to apply u without storing it.
func (c *Cluster) Try(ctx context.Context, u *unstructured.Unstructured) error {
	_, err := c.apply(ctx, u, true)
	return err
}

// get returns the live object; nil if there is none.
func (c *Cluster) get(ctx context.Context, u *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	r, err := c.resource(u)
	if err != nil {
		return nil, err
	}
	live, err := r.Get(ctx, u.GetName(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name(u), hint(err))
	}
	return live, nil
}

// remove deletes the object, and what depends on it in the background; absent is
// fine, and so is a kind that is not served any more: its objects went with it.
func (c *Cluster) remove(ctx context.Context, u *unstructured.Unstructured) error {
	r, err := c.resource(u)
	if unserved(err) {
		return nil
	}
	if err != nil {
		return err
	}
	background := metav1.DeletePropagationBackground
	err = r.Delete(ctx, u.GetName(), metav1.DeleteOptions{PropagationPolicy: &background})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete %s: %w", name(u), hint(err))
	}
	return nil
}

// name is how messages name an object: kind/name, with its namespace.
func name(u *unstructured.Unstructured) string {
	if ns := u.GetNamespace(); ns != "" {
		return u.GetKind() + " " + ns + "/" + u.GetName()
	}
	return u.GetKind() + " " + u.GetName()
}

// hint adds what to do to an error of the API server.
func hint(err error) error {
	switch {
	case err == nil:
		return nil
	case apierrors.IsForbidden(err):
		return fmt.Errorf("%w; installing needs the rights of a cluster administrator: `seine check --pre` lists each that is missing", err)
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("%w; the cluster does not know you: renew the kubeconfig's credentials", err)
	case apierrors.IsTimeout(err), apierrors.IsServerTimeout(err), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w; the API server is slow or away: try again", err)
	}
	return err
}

// poll calls done until it says so, fails, or ctx ends, every half second.
func poll(ctx context.Context, done func() (bool, error)) error {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

var crdResource = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
