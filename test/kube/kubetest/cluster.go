// Package kubetest is what end-to-end tests on a real Kubernetes cluster need:
// objects applied, conditions waited for, commands run in pods, paced loads, and
// a namespace's whole story when its test fails. The cluster is the one that
// KUBECONFIG names; nothing here depends on how it was made.
package kubetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	// Patience is how long Wait waits for what usually takes seconds.
	Patience = 90 * time.Second
	interval = 100 * time.Millisecond
	// fieldManager owns the fields that tests apply.
	fieldManager = "seine-test"
)

// A Cluster is a connection to the cluster under test.
type Cluster struct {
	Config  *rest.Config
	Client  kubernetes.Interface
	Dynamic dynamic.Interface
	mapper  *restmapper.DeferredDiscoveryRESTMapper
}

// Connect returns the cluster that KUBECONFIG names; without one the test fails.
func Connect(t testing.TB) *Cluster {
	t.Helper()
	path := os.Getenv("KUBECONFIG")
	if path == "" {
		t.Fatal("KUBECONFIG is not set: run `make e2e-cluster`, or name a cluster of yours")
	}
	config, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		t.Fatal(err)
	}
	config.QPS, config.Burst = 200, 400
	config.WarningHandler = rest.NoWarnings{}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	dyn, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return &Cluster{
		Config: config, Client: client, Dynamic: dyn,
		mapper: restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(client.Discovery())),
	}
}

// Image returns the image that tests run as their workload: SEINE_TEST_IMAGE,
// or the one that the project's own cluster has.
func Image() string {
	if image := os.Getenv("SEINE_TEST_IMAGE"); image != "" {
		return image
	}
	return "cluster.test/workload:1"
}

// Wait calls done every 100 ms until it returns nil. When timeout has passed
// the test fails with what, and with done's last error.
func Wait(t testing.TB, timeout time.Duration, what string, done func(context.Context) error) {
	t.Helper()
	var last error
	err := wait.PollUntilContextTimeout(t.Context(), interval, timeout, true, func(ctx context.Context) (bool, error) {
		err := done(ctx)
		if err != nil && ctx.Err() == nil {
			last = err
		}
		return err == nil, nil
	})
	if err != nil {
		t.Fatalf("waited %s for %s: %v", timeout, what, errors.Join(last, err))
	}
}

// Apply applies the documents in manifest server-side, as seine-test; IMAGE in
// it stands for the workload's image. Those without a namespace go to "default".
func (c *Cluster) Apply(t testing.TB, manifest string) {
	t.Helper()
	c.apply(t, "default", manifest)
}

// Delete deletes the objects named in manifest and does not wait; absent ones
// are left so.
func (c *Cluster) Delete(t testing.TB, manifest string) {
	t.Helper()
	c.delete(t, "default", manifest)
}

func (c *Cluster) apply(t testing.TB, namespace, manifest string) {
	t.Helper()
	for _, o := range objects(t, manifest) {
		r, err := c.resource(o, namespace)
		if err == nil {
			_, err = r.Apply(t.Context(), o.GetName(), o, metav1.ApplyOptions{FieldManager: fieldManager, Force: true})
		}
		if err != nil {
			t.Fatalf("apply %s %s: %v", o.GetKind(), o.GetName(), err)
		}
	}
}

func (c *Cluster) delete(t testing.TB, namespace, manifest string) {
	t.Helper()
	for _, o := range objects(t, manifest) {
		r, err := c.resource(o, namespace)
		if err == nil {
			err = ignoreAbsent(r.Delete(context.WithoutCancel(t.Context()), o.GetName(), metav1.DeleteOptions{}))
		}
		if err != nil && !meta.IsNoMatchError(err) {
			t.Errorf("delete %s %s: %v", o.GetKind(), o.GetName(), err)
		}
	}
}

// resource returns the client for o's kind, which a CRD may have brought a
// moment ago.
func (c *Cluster) resource(o *unstructured.Unstructured, namespace string) (dynamic.ResourceInterface, error) {
	kind := o.GroupVersionKind()
	m, err := c.mapper.RESTMapping(kind.GroupKind(), kind.Version)
	if meta.IsNoMatchError(err) {
		c.mapper.Reset()
		m, err = c.mapper.RESTMapping(kind.GroupKind(), kind.Version)
	}
	if err != nil {
		return nil, err
	}
	if m.Scope.Name() != meta.RESTScopeNameNamespace {
		return c.Dynamic.Resource(m.Resource), nil
	}
	if n := o.GetNamespace(); n != "" {
		namespace = n
	}
	return c.Dynamic.Resource(m.Resource).Namespace(namespace), nil
}

// objects decodes the documents of manifest.
func objects(t testing.TB, manifest string) []*unstructured.Unstructured {
	t.Helper()
	manifest = strings.ReplaceAll(manifest, "IMAGE", Image())
	var all []*unstructured.Unstructured
	for d := yaml.NewYAMLOrJSONDecoder(strings.NewReader(manifest), 4096); ; {
		o := &unstructured.Unstructured{}
		err := d.Decode(&o.Object)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(fmt.Errorf("manifest: %w", err))
		}
		if len(o.Object) > 0 {
			all = append(all, o)
		}
	}
}

// Context is the current context of KUBECONFIG.
func (c *Cluster) Context(t testing.TB) string {
	t.Helper()
	config, err := clientcmd.LoadFromFile(os.Getenv("KUBECONFIG"))
	if err != nil {
		t.Fatal(err)
	}
	return config.CurrentContext
}
