package controlplane

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"github.com/seinemesh/seine/inject"
)

const (
	// settingsKey is the key of the settings' ConfigMap with the values, meshKey that
	// of the MeshConfig, whose defaultConfig they are laid over.
	settingsKey = "injector"
	meshKey     = "mesh"
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
	requests *prometheus.CounterVec
	// What anybody who asks can have this server do: ask the API server for a
	// namespace, and log.
	lookups, loud *rate.Limiter
}

func newInjection(s *server) *injection {
	c := s.opt.Cluster
	i := &injection{s: s, lookups: rate.NewLimiter(10, 50), loud: rate.NewLimiter(1, 20)}
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
			o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, c.settingsName()).String()
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
			i.take(m.Data[meshKey], m.Data[settingsKey])
		}
	}
	if _, err := i.settings.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: changed, UpdateFunc: func(_, o any) { changed(o) }, DeleteFunc: func(any) { i.take("", "") },
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
func (i *injection) take(mesh, text string) {
	next := i.defaults
	err := next.MeshConfig([]byte(mesh))
	if err == nil {
		err = next.Parse([]byte(text))
	}
	if err != nil {
		i.s.log.Error("the values of the injection were not taken; those before go on",
			"source", "ConfigMap "+i.s.opt.Cluster.Namespace+"/"+i.s.opt.Cluster.settingsName()+" keys "+meshKey+" and "+settingsKey, "error", err)
		return
	}
	i.values.Store(&next)
}

// namespace is from the cache, or asked for if it is too new for that. Names that
// nobody has are asked for so often only as a cluster makes namespaces.
func (i *injection) namespace(ctx context.Context, name string) (inject.Namespace, error) {
	if ns, ok := i.known(name); ok {
		return ns, nil
	}
	if err := i.lookups.Wait(ctx); err != nil {
		return inject.Namespace{}, fmt.Errorf("namespace %s: %w", name, err)
	}
	ns, err := i.s.opt.Cluster.Client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return inject.Namespace{}, fmt.Errorf("namespace %s: %w", name, err)
	}
	return inject.Namespace{Name: name, Labels: ns.Labels}, nil
}

// known is a namespace of the cache.
func (i *injection) known(name string) (inject.Namespace, bool) {
	o, ok, _ := i.spaces.GetStore().GetByKey(name)
	if !ok {
		return inject.Namespace{}, false
	}
	return inject.Namespace{Name: name, Labels: o.(*corev1.Namespace).Labels}, true
}

// answer answers an AdmissionReview. It writes nothing: nobody has shown that the
// API server asks. What is said of pods that were left alone, sidecars says, of pods
// that the API server has.
func (i *injection) answer(w http.ResponseWriter, r *http.Request, body []byte) {
	var review admissionv1.AdmissionReview
	if err := json.Unmarshal(body, &review); err != nil || review.Request == nil {
		http.Error(w, "not an AdmissionReview with a request", http.StatusBadRequest)
		return
	}
	q := review.Request
	ns, err := i.namespace(r.Context(), q.Namespace)
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
		if i.loud.Allow() {
			i.s.log.Warn("a pod was refused", "namespace", q.Namespace, "pod", podName(q), "error", a.Result.Message)
		}
	case result.Skip != nil:
		outcome = "skipped"
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
