package kube

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	certificatesv1beta1 "k8s.io/api/certificates/v1beta1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
)

const (
	// Signer is the signerName of the ClusterTrustBundle.
	Signer = "seine.dev/ca"
	// ClusterBundle is its name: the signer's with ':' for '/', as Kubernetes wants it.
	ClusterBundle = "seine.dev:ca:root"
)

// Bundles keeps the trust bundle in the ConfigMap BundleName of every namespace with
// injection, and in a ClusterTrustBundle where the cluster serves those. Exactly one
// replica runs it: the leader.
type Bundles struct {
	Client    kubernetes.Interface
	Namespace string        // seined's own, which always has the ConfigMap
	Bundle    func() []byte // PEM of this moment
	Log       *slog.Logger  // nil: discards
	// Again is how often everything is looked at although nothing changed; 0: 10 minutes.
	Again time.Duration
}

// Wanted says whether a namespace has injection by its labels: ours, or Istio's.
func Wanted(labels map[string]string) bool {
	switch labels["seine.dev/inject"] {
	case "enabled", "true":
		return true
	case "disabled", "false":
		return false
	}
	if v, ok := labels["istio-injection"]; ok {
		return v == "enabled"
	}
	return labels["seine.dev/revision"] != "" || labels["istio.io/rev"] != ""
}

// pods that ask for a sidecar by themselves, in a namespace without a label.
var podSelectors = []string{"sidecar.istio.io/inject=true", "seine.dev/inject in (enabled,true)"}

// Run keeps the bundles until ctx ends. changed receives whenever Bundle returns
// something else than before.
func (b *Bundles) Run(ctx context.Context, changed <-chan struct{}) error {
	if b.Log == nil {
		b.Log = slog.New(slog.DiscardHandler)
	}
	again := b.Again
	if again <= 0 {
		again = 10 * time.Minute
	}
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[string](50*time.Millisecond, time.Minute))
	c := &bundles{Bundles: b, queue: queue, cluster: b.servesClusterBundles()}
	var factories []informers.SharedInformerFactory
	factory := func(tweak func(*metav1.ListOptions)) informers.SharedInformerFactory {
		f := informers.NewSharedInformerFactoryWithOptions(b.Client, again, informers.WithTweakListOptions(tweak), informers.WithTransform(slim))
		factories = append(factories, f)
		return f
	}
	c.namespaces = factory(func(*metav1.ListOptions) {}).Core().V1().Namespaces().Informer()
	c.maps = factory(func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, BundleName).String()
	}).Core().V1().ConfigMaps().Informer()
	for _, s := range podSelectors {
		c.pods = append(c.pods, factory(func(o *metav1.ListOptions) { o.LabelSelector = s }).Core().V1().Pods().Informer())
	}
	watched := append([]cache.SharedIndexInformer{c.namespaces, c.maps}, c.pods...)
	if c.cluster {
		// One without a namespace is the cluster's, to the handler as to the queue.
		watched = append(watched, factory(func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, ClusterBundle).String()
		}).Certificates().V1beta1().ClusterTrustBundles().Informer())
	}
	synced := []cache.InformerSynced{}
	for _, i := range watched {
		h, err := i.AddEventHandler(c.handler())
		if err != nil {
			return fmt.Errorf("kube: watch: %w", err)
		}
		synced = append(synced, h.HasSynced)
	}
	for _, f := range factories {
		f.Start(ctx.Done())
	}
	defer func() {
		queue.ShutDown()
		for _, f := range factories {
			f.Shutdown()
		}
	}()
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		return nil
	}
	done := make(chan struct{})
	go func() { defer close(done); c.work(ctx) }()
	defer func() { queue.ShutDown(); <-done }()
	tick := time.NewTicker(again)
	defer tick.Stop()
	for {
		c.everything()
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-tick.C:
		}
	}
}

// slim forgets what is not looked at: a cache of all pods' specs would be large.
func slim(o any) (any, error) {
	if p, ok := o.(*corev1.Pod); ok {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: p.Name, Namespace: p.Namespace, ResourceVersion: p.ResourceVersion, Labels: p.Labels}}, nil
	}
	return o, nil
}

// servesClusterBundles asks the API server, which does not by default.
func (b *Bundles) servesClusterBundles() bool {
	list, err := b.Client.Discovery().ServerResourcesForGroupVersion(certificatesv1beta1.SchemeGroupVersion.String())
	if err != nil {
		return false
	}
	for _, r := range list.APIResources {
		if r.Name == "clustertrustbundles" {
			return true
		}
	}
	return false
}

// bundles is one run.
type bundles struct {
	*Bundles
	queue            workqueue.TypedRateLimitingInterface[string] // namespaces; "" is the cluster's bundle
	namespaces, maps cache.SharedIndexInformer
	pods             []cache.SharedIndexInformer
	cluster          bool
}

func (c *bundles) handler() cache.ResourceEventHandler {
	add := func(o any) {
		if d, ok := o.(cache.DeletedFinalStateUnknown); ok {
			o = d.Obj
		}
		switch o := o.(type) {
		case *corev1.Namespace:
			c.queue.Add(o.Name)
		case metav1.Object:
			c.queue.Add(o.GetNamespace())
		}
	}
	return cache.ResourceEventHandlerFuncs{AddFunc: add, UpdateFunc: func(_, o any) { add(o) }, DeleteFunc: add}
}

func (c *bundles) everything() {
	for _, name := range c.namespaces.GetStore().ListKeys() {
		c.queue.Add(name)
	}
	if c.cluster {
		c.queue.Add("")
	}
}

func (c *bundles) work(ctx context.Context) {
	for {
		name, stop := c.queue.Get()
		if stop {
			return
		}
		var err error
		if name == "" {
			err = c.clusterBundle(ctx)
		} else {
			err = c.ensure(ctx, name)
		}
		if err != nil && ctx.Err() == nil {
			c.Log.Warn("the trust bundle was not written; it is tried again", "namespace", name, "err", err)
			c.queue.AddRateLimited(name)
		} else {
			c.queue.Forget(name)
		}
		c.queue.Done(name)
	}
}

// ensure makes one namespace's ConfigMap what it should be. Where nothing asks for it
// any more it stays, and is kept right: pods may still mount it.
func (c *bundles) ensure(ctx context.Context, name string) error {
	o, there, _ := c.namespaces.GetStore().GetByKey(name)
	if !there {
		return nil
	}
	ns := o.(*corev1.Namespace)
	if ns.Status.Phase == corev1.NamespaceTerminating || ns.DeletionTimestamp != nil {
		return nil // nothing may be made there any more
	}
	data := map[string]string{BundleKey: string(c.Bundle())}
	api := c.Client.CoreV1().ConfigMaps(name)
	old, there, _ := c.maps.GetStore().GetByKey(name + "/" + BundleName)
	if !there {
		if !c.wanted(ns) {
			return nil
		}
		_, err := api.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: BundleName, Namespace: name, Labels: map[string]string{managedBy: managedByUs}}, Data: data,
		}, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("kube: ConfigMap %s/%s came meanwhile: %w", name, BundleName, err)
		}
		return err
	}
	m := old.(*corev1.ConfigMap)
	if len(m.Data) == 1 && m.Data[BundleKey] == data[BundleKey] && len(m.BinaryData) == 0 && m.Labels[managedBy] == managedByUs {
		return nil
	}
	next := m.DeepCopy()
	next.Data, next.BinaryData = data, nil
	if next.Labels == nil {
		next.Labels = map[string]string{}
	}
	next.Labels[managedBy] = managedByUs
	if m.Immutable != nil && *m.Immutable {
		// Somebody made it immutable: only a new one can be right.
		if err := api.Delete(ctx, BundleName, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &m.UID}}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
		return nil // its deletion comes back here
	}
	_, err := api.Update(ctx, next, metav1.UpdateOptions{})
	return err
}

func (c *bundles) wanted(ns *corev1.Namespace) bool {
	if ns.Name == c.Namespace || Wanted(ns.Labels) {
		return true
	}
	for _, i := range c.pods {
		if keys, err := i.GetIndexer().IndexKeys(cache.NamespaceIndex, ns.Name); err == nil && len(keys) > 0 {
			return true
		}
	}
	return false
}

func (c *bundles) clusterBundle(ctx context.Context) error {
	api := c.Client.CertificatesV1beta1().ClusterTrustBundles()
	want := certificatesv1beta1.ClusterTrustBundleSpec{SignerName: Signer, TrustBundle: string(c.Bundle())}
	old, err := api.Get(ctx, ClusterBundle, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = api.Create(ctx, &certificatesv1beta1.ClusterTrustBundle{
			ObjectMeta: metav1.ObjectMeta{Name: ClusterBundle, Labels: map[string]string{managedBy: managedByUs}}, Spec: want,
		}, metav1.CreateOptions{})
		return err
	}
	if err != nil || old.Spec == want {
		return err
	}
	old.Spec = want
	_, err = api.Update(ctx, old, metav1.UpdateOptions{})
	return err
}
