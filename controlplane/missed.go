package controlplane

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"

	"github.com/seinemesh/seine/inject"
)

const (
	// missedLook is how often pods without a sidecar are looked for, and so how
	// long a controller's next one waits for its turn.
	missedLook = 30 * time.Second
	// missedPatience is how old such a pod must be: what is made this moment may
	// not have been seen whole.
	missedPatience = 10 * time.Second
	// missedMemory is how long an eviction in vain is remembered.
	missedMemory = time.Hour
)

// missed evicts, where repair is wanted, pods that the webhook missed: created
// after their namespace, or they themselves, asked for a sidecar, while no
// seined answered and the failure policy was Ignore. They do serve, so one of
// each controller's goes at a time.
//
// Pods that are older than the label are left alone: when they restart is for
// whoever set it to say (`seine check` names them).
type missed struct {
	s         *server
	events    record.EventRecorder
	namespace func(name string) (inject.Namespace, bool)
	tried     map[types.UID]time.Time // controllers, when a pod of theirs was last evicted
	vain      map[types.UID]bool      // pods that replace an evicted one and lack a sidecar, too
}

func newMissed(s *server, events record.EventRecorder, namespace func(string) (inject.Namespace, bool)) *missed {
	return &missed{s: s, events: events, namespace: namespace, tried: map[types.UID]time.Time{}, vain: map[types.UID]bool{}}
}

// repair looks at pods as slimSidecar has them.
func (m *missed) repair(ctx context.Context, pods []any, v *inject.Values, now time.Time) {
	since := map[string]time.Time{} // namespaces, when they began to ask
	vain := map[types.UID]bool{}
	maps.DeleteFunc(m.tried, func(_ types.UID, at time.Time) bool { return now.Sub(at) >= missedMemory })
	for _, o := range pods {
		p, controller := o.(*corev1.Pod), metav1.GetControllerOf(o.(*corev1.Pod))
		// One without a controller would not be made again.
		if !v.Repair || controller == nil || !m.outside(p, v, now) || !m.asked(ctx, p, since) {
			continue
		}
		last, before := m.tried[controller.UID]
		switch ref := reference(p); {
		// The API server notes whole seconds.
		case before && !p.CreationTimestamp.Time.Before(last.Truncate(time.Second)):
			if vain[p.UID] = true; !m.vain[p.UID] {
				m.events.Event(ref, corev1.EventTypeWarning, "SidecarMissing", "it replaces a pod that was evicted because it had no sidecar, and has none either, so it stays: `seine check` tells why the webhook is not called")
			}
		case before && now.Sub(last) < missedLook: // its turn comes
		default:
			if err := m.s.evict(ctx, p); err != nil {
				m.s.log.Warn("a pod without a sidecar could not be evicted", "pod", p.Namespace+"/"+p.Name, "error", err)
				continue
			}
			m.tried[controller.UID] = now
			m.events.Event(ref, corev1.EventTypeWarning, "SidecarRepair", "evicted so that it starts again: it was created without the sidecar that it should have")
		}
	}
	m.vain = vain
}

func reference(p *corev1.Pod) *corev1.ObjectReference {
	return &corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID}
}

// outside reports whether a pod runs without a sidecar and would be given one if
// it were created now.
func (m *missed) outside(p *corev1.Pod, v *inject.Values, now time.Time) bool {
	if p.DeletionTimestamp != nil || now.Sub(p.CreationTimestamp.Time) < missedPatience || p.Annotations[inject.AnnotationStatus] != "" ||
		p.Status.Phase != corev1.PodRunning && p.Status.Phase != corev1.PodPending || p.Annotations[corev1.MirrorPodAnnotationKey] != "" {
		return false
	}
	if slices.ContainsFunc(slices.Concat(p.Spec.InitContainers, p.Spec.Containers), func(c corev1.Container) bool { return c.Name == inject.ProxyName }) {
		return false // by hand
	}
	ns, known := m.namespace(p.Namespace)
	return known && inject.Skipped(p, ns, v) == nil
}

// asked reports whether the pod was created after a sidecar was asked for. Its
// own labels it had from the start.
func (m *missed) asked(ctx context.Context, p *corev1.Pod, since map[string]time.Time) bool {
	if p.Labels[inject.LabelInject] != "" || p.Labels[inject.LabelIstioInject] != "" || p.Annotations[inject.LabelIstioInject] != "" {
		return true
	}
	from, known := since[p.Namespace]
	if !known {
		from = m.askedSince(ctx, p.Namespace)
		since[p.Namespace] = from
	}
	return !from.IsZero() && p.CreationTimestamp.After(from)
}

// askedSince is when the labels by which a namespace asks for sidecars were last
// changed, as the API server noted it; zero if that cannot be told.
func (m *missed) askedSince(ctx context.Context, name string) (last time.Time) {
	ns, err := m.s.opt.Cluster.Client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		m.s.log.Warn("cannot tell since when a namespace asks for sidecars", "namespace", name, "error", err)
		return time.Time{}
	}
	for _, f := range ns.ManagedFields {
		if f.Time == nil || f.FieldsV1 == nil {
			continue
		}
		for _, key := range [...]string{inject.LabelInject, inject.LabelIstioInjection, inject.LabelRevision, inject.LabelIstioRevision} {
			if strings.Contains(f.FieldsV1.GetRawString(), fmt.Sprintf("%q", "f:"+key)) && f.Time.After(last) {
				last = f.Time.Time
			}
		}
	}
	return last
}
