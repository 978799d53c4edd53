package controlplane

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/seinemesh/seine/config/kube"
	"github.com/seinemesh/seine/inject"
)

const (
	// settingsKey is the key of ConfigMap kube.SettingsName with the values.
	settingsKey = "injector"
	// nativeSince is the minor version of Kubernetes 1 with native sidecars.
	nativeSince = 29
	// maxReview bounds what an API server may ask: it holds objects to 3 MiB.
	maxReview = 8 << 20
)

// injection answers the API server's questions about new pods.
type injection struct {
	s        *server
	values   atomic.Pointer[inject.Values]
	defaults inject.Values
	spaces   cache.SharedIndexInformer
	settings cache.SharedIndexInformer
	events   record.EventRecorder
	requests *prometheus.CounterVec
}

func newInjection(s *server, events record.EventRecorder) *injection {
	c := s.opt.Cluster
	i := &injection{s: s, events: events}
	i.defaults = inject.Defaults("seinemesh/seine-proxy:" + s.opt.Version)
	i.defaults.Revision, i.defaults.RootNamespace = c.Revision, c.Namespace
	i.defaults.TrustDomain = s.authority.TrustDomain()
	i.defaults.Control = c.service() + "." + c.Namespace + ".svc:15012"
	first := i.defaults
	i.values.Store(&first)
	// What a namespace has but its name and labels is nobody's business here.
	slim := informers.WithTransform(func(o any) (any, error) {
		if ns, ok := o.(*corev1.Namespace); ok {
			return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns.Name, Labels: ns.Labels, ResourceVersion: ns.ResourceVersion, UID: ns.UID}}, nil
		}
		return o, nil
	})
	i.spaces = informers.NewSharedInformerFactoryWithOptions(c.Client, 0, slim).Core().V1().Namespaces().Informer()
	i.settings = informers.NewSharedInformerFactoryWithOptions(c.Client, 0, informers.WithNamespace(c.Namespace),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, kube.SettingsName).String()
		})).Core().V1().ConfigMaps().Informer()
	i.requests = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "seine_injection_requests_total", Help: "Pods that the API server asked about, by what became of them: injected, unchanged, skipped, refused.",
	}, []string{"outcome"})
	for _, o := range [...]string{"injected", "unchanged", "skipped", "refused"} {
		i.requests.WithLabelValues(o)
	}
	s.registry.MustRegister(i.requests)
	return i
}

// service is the name of seined's Service.
func (c *Cluster) service() string { return "seined" + c.suffix() }

// suffix tells the objects of a revision that is not the default one apart.
func (c *Cluster) suffix() string {
	if c.Revision == "" || c.Revision == "default" {
		return ""
	}
	return "-" + c.Revision
}

// run keeps namespaces and values current until ctx ends.
func (i *injection) run(ctx context.Context) error {
	i.learnVersion(ctx)
	changed := func(o any) {
		if m, ok := o.(*corev1.ConfigMap); ok {
			i.take(m.Data[settingsKey])
		}
	}
	if _, err := i.settings.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: changed, UpdateFunc: func(_, o any) { changed(o) }, DeleteFunc: func(any) { i.take("") },
	}); err != nil {
		return fmt.Errorf("seined: values of the injection: %w", err)
	}
	done := make(chan struct{})
	go func() { defer close(done); i.settings.RunWithContext(ctx) }()
	i.spaces.RunWithContext(ctx)
	<-done
	return nil
}

// learnVersion asks whether the cluster has native sidecars. Until it answers,
// pods are made for the one that every supported Kubernetes is.
func (i *injection) learnVersion(ctx context.Context) {
	for wait := time.Second; ; wait = min(2*wait, time.Minute) {
		v, err := i.s.opt.Cluster.Client.Discovery().ServerVersion()
		if err == nil {
			major, minor := leadingNumber(v.Major), leadingNumber(v.Minor)
			i.defaults.Native = major > 1 || major == 1 && minor >= nativeSince
			next := *i.values.Load()
			next.Native = i.defaults.Native
			i.values.Store(&next)
			return
		}
		i.s.log.Warn("cannot ask the API server for its version", "error", err)
		again := time.NewTimer(wait)
		select {
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
			return
		}
	}
}

// leadingNumber reads "34" and "34+".
func leadingNumber(s string) int {
	end := 0
	for end < len(s) && s[end] >= '0' && s[end] <= '9' {
		end++
	}
	n, _ := strconv.Atoi(s[:end])
	return n
}

// take makes other values current; wrong ones are said, and change nothing.
func (i *injection) take(text string) {
	next := i.defaults
	if err := next.Parse([]byte(text)); err != nil {
		i.s.log.Error("the values of the injection were not taken; those before go on",
			"source", "ConfigMap "+i.s.opt.Cluster.Namespace+"/"+kube.SettingsName+" key "+settingsKey, "error", err)
		return
	}
	i.values.Store(&next)
}

// namespace is from the cache, or asked for if it is too new for that.
func (i *injection) namespace(ctx context.Context, name string) (inject.Namespace, *corev1.Namespace, error) {
	if o, ok, _ := i.spaces.GetStore().GetByKey(name); ok {
		ns := o.(*corev1.Namespace)
		return inject.Namespace{Name: name, Labels: ns.Labels}, ns, nil
	}
	ns, err := i.s.opt.Cluster.Client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return inject.Namespace{}, nil, fmt.Errorf("namespace %s: %w", name, err)
	}
	return inject.Namespace{Name: name, Labels: ns.Labels}, ns, nil
}

// ServeHTTP answers an AdmissionReview.
func (i *injection) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxReview))
	if err != nil {
		http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
		return
	}
	var review admissionv1.AdmissionReview
	if err := json.Unmarshal(body, &review); err != nil || review.Request == nil {
		http.Error(w, "not an AdmissionReview with a request", http.StatusBadRequest)
		return
	}
	q := review.Request
	ns, object, err := i.namespace(r.Context(), q.Namespace)
	if err != nil {
		code := http.StatusInternalServerError
		if apierrors.IsNotFound(err) {
			code = http.StatusNotFound
		}
		http.Error(w, err.Error(), code)
		return
	}
	a, result := inject.Review(q, ns, i.values.Load())
	outcome := "injected"
	switch {
	case result == nil:
		outcome = "refused"
		i.s.log.Warn("a pod was refused", "namespace", q.Namespace, "pod", podName(q), "error", a.Result.Message)
	case result.Skip != nil:
		outcome = "skipped"
		if result.Skip.Asked && (q.DryRun == nil || !*q.DryRun) {
			i.events.Event(owner(q, object), corev1.EventTypeWarning, "SidecarSkipped", podName(q)+": "+result.Skip.Detail)
		}
	case len(result.Patch) == 0:
		outcome = "unchanged"
	}
	i.requests.WithLabelValues(outcome).Inc()
	review.Request, review.Response = nil, a
	answer(w, &review)
}

// podName is what is known of a pod's name before it has one.
func podName(q *admissionv1.AdmissionRequest) string {
	var m metav1.PartialObjectMetadata
	if q.Name == "" && json.Unmarshal(q.Object.Raw, &m) == nil {
		if m.Name == "" {
			return "pod " + m.GenerateName + "…"
		}
		return "pod " + m.Name
	}
	return "pod " + q.Name
}

// owner is whom an Event about a pod that does not exist yet is about: what
// makes such pods, or its namespace.
func owner(q *admissionv1.AdmissionRequest, ns *corev1.Namespace) runtime.Object {
	var m metav1.PartialObjectMetadata
	if json.Unmarshal(q.Object.Raw, &m) == nil {
		if c := metav1.GetControllerOf(&m); c != nil {
			return &corev1.ObjectReference{APIVersion: c.APIVersion, Kind: c.Kind, Name: c.Name, UID: c.UID, Namespace: q.Namespace}
		}
	}
	return &corev1.ObjectReference{APIVersion: "v1", Kind: "Namespace", Name: ns.Name, UID: types.UID(ns.Name), Namespace: ns.Name}
}
