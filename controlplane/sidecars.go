package controlplane

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/seinemesh/seine/inject"
)

const (
	// sidecarPatience is how long a sidecar may be not ready before it is asked why,
	// and sidecarAgain how often one that has not changed is spoken of.
	sidecarPatience = 10 * time.Second
	sidecarAgain    = 5 * time.Minute
	// repairPatience is how long a redirect may fail before the pod is evicted.
	repairPatience = 30 * time.Second
	sidecarLook    = 5 * time.Second
	// outsideYoung is how old a pod without a sidecar may be to be spoken of: about
	// older ones was spoken already, for as long as Events live.
	outsideYoung  = time.Hour
	sidecarsAsked = 16 // at once
	readinessPort = "15021"
)

// sidecars watches the sidecars of the cluster: of one that is not ready it asks
// the reason and says it in an Event of its pod. A pod whose redirect does not
// hold is outside the mesh; it is evicted, if that is wanted, so that it starts
// again where a CNI plugin is there by now. Of a pod that has no sidecar although
// somebody asked for one, it says why.
type sidecars struct {
	s         *server
	events    record.EventRecorder
	values    func() *inject.Values
	namespace func(name string) (inject.Namespace, bool)
	pods      cache.SharedIndexInformer
	client    http.Client
	// These are of this goroutine's looks alone.
	said    map[types.UID]saying
	without map[types.UID]bool // pods without a sidecar that were looked at
}

// saying is what was last said of a pod.
type saying struct {
	reason string
	at     time.Time
	unheld time.Time // since when the redirect does not hold; zero: it does
}

func newSidecars(s *server, events record.EventRecorder, i *injection) *sidecars {
	w := &sidecars{
		s: s, events: events, values: i.values.Load, namespace: i.known,
		said: map[types.UID]saying{}, without: map[types.UID]bool{},
	}
	w.pods = informers.NewSharedInformerFactoryWithOptions(s.opt.Cluster.Client, 0, informers.WithTransform(slimSidecar)).Core().V1().Pods().Informer()
	w.client = http.Client{
		Timeout:   2 * time.Second,
		Transport: &http.Transport{DisableKeepAlives: true, Proxy: nil, MaxResponseHeaderBytes: 16 << 10},
		// A pod must not send this server to where the pod itself cannot go.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return w
}

// slimSidecar keeps of a pod what tells how its sidecar is; of one that has none,
// what inject.Skipped reads, and who made it.
func slimSidecar(o any) (any, error) {
	p, ok := o.(*corev1.Pod)
	if !ok {
		return o, nil
	}
	slim := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace: p.Namespace, Name: p.Name, UID: p.UID, ResourceVersion: p.ResourceVersion,
		CreationTimestamp: p.CreationTimestamp, DeletionTimestamp: p.DeletionTimestamp,
	}}
	if p.DeletionTimestamp != nil {
		return slim, nil
	}
	if _, injected := p.Annotations[inject.AnnotationStatus]; !injected {
		slim.Labels = pick(p.Labels, inject.LabelInject, inject.LabelRevision, inject.LabelIstioInject, inject.LabelIstioRevision)
		slim.Annotations = pick(p.Annotations, inject.LabelIstioInject, corev1.MirrorPodAnnotationKey)
		slim.OwnerReferences, slim.Status.Phase = p.OwnerReferences, p.Status.Phase
		slim.Spec.HostNetwork, slim.Spec.OS = p.Spec.HostNetwork, p.Spec.OS
		slim.Spec.InitContainers, slim.Spec.Containers = names(p.Spec.InitContainers), names(p.Spec.Containers)
		return slim, nil
	}
	slim.Annotations = pick(p.Annotations, inject.AnnotationStatus)
	slim.Status.PodIP = p.Status.PodIP
	for _, c := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		if c.Name == inject.ProxyName {
			slim.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: c.Name, Ready: c.Ready, State: c.State}}
		}
	}
	return slim, nil
}

// pick returns the entries of m with these keys; nil if it has none.
func pick(m map[string]string, keys ...string) (out map[string]string) {
	for _, k := range keys {
		if v, ok := m[k]; ok {
			if out == nil {
				out = map[string]string{}
			}
			out[k] = v
		}
	}
	return out
}

func names(list []corev1.Container) (out []corev1.Container) {
	for i := range list {
		out = append(out, corev1.Container{Name: list[i].Name})
	}
	return out
}

// run looks after sidecars until ctx ends.
func (w *sidecars) run(ctx context.Context) error {
	done := make(chan struct{})
	go func() { defer close(done); w.pods.RunWithContext(ctx) }()
	defer func() { <-done }()
	tick, missed := time.NewTicker(sidecarLook), time.NewTicker(missedLook)
	defer tick.Stop()
	defer missed.Stop()
	m := newMissed(w.s, w.events, w.namespace)
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			w.look(ctx, now)
		case now := <-missed.C:
			m.repair(ctx, w.pods.GetStore().List(), w.values(), now)
		}
	}
}

// unready reports whether a sidecar runs and has not been ready for too long.
func unready(p *corev1.Pod, now time.Time) bool {
	for _, c := range p.Status.ContainerStatuses {
		if c.State.Running != nil && !c.Ready && p.Status.PodIP != "" {
			return now.Sub(c.State.Running.StartedAt.Time) >= sidecarPatience
		}
	}
	return false
}

func (w *sidecars) look(ctx context.Context, now time.Time) {
	var ill []*corev1.Pod
	seen := map[types.UID]bool{}
	without := map[types.UID]bool{}
	for _, o := range w.pods.GetStore().List() {
		p := o.(*corev1.Pod)
		if p.Annotations == nil || p.Annotations[inject.AnnotationStatus] == "" {
			without[p.UID] = w.without[p.UID] || w.outside(p, now)
		}
		if unready(p, now) && w.values().Injected(p) { // the others are another control plane's
			ill = append(ill, p)
			seen[p.UID] = true
		}
	}
	w.without = without
	for uid := range w.said {
		if !seen[uid] {
			delete(w.said, uid)
		}
	}
	answers := make([]ailment, len(ill))
	g := errgroup.Group{}
	g.SetLimit(sidecarsAsked)
	for i, p := range ill {
		g.Go(func() error { answers[i] = w.ask(ctx, p); return nil })
	}
	_ = g.Wait()
	for i, p := range ill {
		w.speak(ctx, p, answers[i], now)
	}
}

// outside says why a pod has no sidecar, if somebody asked for one; done means that
// there is no need to look again. Pods are looked at here and not when the API server
// asks about them, because anybody could ask about pods that are not.
func (w *sidecars) outside(p *corev1.Pod, now time.Time) (done bool) {
	if p.DeletionTimestamp != nil || now.Sub(p.CreationTimestamp.Time) > outsideYoung {
		return true
	}
	ns, ok := w.namespace(p.Namespace)
	if !ok {
		return false // the cache is behind
	}
	skip := inject.Skipped(p, ns, w.values())
	switch {
	case skip == nil:
		w.events.Event(owner(p), corev1.EventTypeWarning, "SidecarMissing", "pod "+p.Name+" has no sidecar although one is asked for: no seined answered when it was created, or nobody asked then; delete it, so that it is made again")
	case skip.Asked:
		w.events.Event(owner(p), corev1.EventTypeWarning, "SidecarSkipped", "pod "+p.Name+": "+skip.Detail)
	}
	return true
}

// owner is what makes such pods, or the pod itself.
func owner(p *corev1.Pod) *corev1.ObjectReference {
	if c := metav1.GetControllerOf(p); c != nil {
		return &corev1.ObjectReference{APIVersion: c.APIVersion, Kind: c.Kind, Name: c.Name, UID: c.UID, Namespace: p.Namespace}
	}
	return &corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Name: p.Name, UID: p.UID, Namespace: p.Namespace}
}

// ailment is what a sidecar says of itself (package proxy's readiness).
type ailment struct {
	Ready    bool   `json:"ready"`
	Reason   string `json:"reason"`
	Redirect string `json:"redirect"`
}

func (w *sidecars) ask(ctx context.Context, p *corev1.Pod) ailment {
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(p.Status.PodIP, readinessPort)+"/healthz/ready", nil)
	if err != nil {
		return ailment{Reason: err.Error()}
	}
	r, err := w.client.Do(q)
	if err != nil {
		return ailment{Reason: "it does not answer: " + err.Error()}
	}
	defer r.Body.Close()
	b, err := io.ReadAll(io.LimitReader(r.Body, 16<<10))
	var a ailment
	if err = errors.Join(err, json.Unmarshal(b, &a)); err != nil {
		return ailment{Reason: "its answer cannot be read: " + err.Error()}
	}
	return a
}

// speak says what has changed, and does something about it if that is wanted.
func (w *sidecars) speak(ctx context.Context, p *corev1.Pod, a ailment, now time.Time) {
	if a.Ready || ctx.Err() != nil {
		return // it has got better meanwhile
	}
	last := w.said[p.UID]
	ref := &corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID}
	if a.Reason != last.reason || now.Sub(last.at) >= sidecarAgain {
		w.events.Event(ref, corev1.EventTypeWarning, "SidecarNotReady", a.Reason)
		last.reason, last.at = a.Reason, now
	}
	switch {
	case a.Redirect == "":
		last.unheld = time.Time{}
	case last.unheld.IsZero():
		last.unheld = now
	case w.values().Repair && now.Sub(last.unheld) >= repairPatience:
		last.unheld = now // tried again after as long
		if err := w.s.evict(ctx, p); err != nil {
			w.s.log.Warn("a pod outside the mesh could not be evicted", "pod", p.Namespace+"/"+p.Name, "error", err)
			break
		}
		w.events.Event(ref, corev1.EventTypeWarning, "SidecarRepair", "evicted so that it starts again: "+a.Redirect)
	}
	w.said[p.UID] = last
}

// evict asks for the pod's end; a PodDisruptionBudget may say no.
func (s *server) evict(ctx context.Context, p *corev1.Pod) error {
	err := s.opt.Cluster.Client.PolicyV1().Evictions(p.Namespace).Evict(ctx, &policyv1.Eviction{
		ObjectMeta:    metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name},
		DeleteOptions: &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &p.UID}},
	})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // gone already, or another pod of that name by now
	}
	if err != nil {
		return fmt.Errorf("evict pod %s/%s: %w", p.Namespace, p.Name, err)
	}
	return nil
}
