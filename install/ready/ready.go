// Package ready says whether a Deployment or DaemonSet is ready, and if it is
// not, why: what its pods wait for, and what a person can do about it.
//
// What enters is what the cluster says of the workload, its pods and their
// events; sentences leave. It changes nothing and never waits.
package ready

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"

	"github.com/seinemesh/seine/inject"
)

// State is one workload's state. A workload that does not exist has no Reason
// and is not ready.
type State struct {
	Ready      bool
	Have, Want int32
	Exists     bool
	Reasons    []Reason // why not ready; empty while there is nothing to say yet
}

// Reason is one thing that keeps a workload from being ready.
type Reason struct {
	Object string // pod/NAME or deployment/NAME
	Cause  string // image, scheduling, quota, admission, webhook, crash, probe, sidecar, volume, network, starting
	Detail string // what the cluster says
	Mend   string // what to do
}

// String is one line.
func (r Reason) String() string {
	s := r.Object + ": " + r.Detail
	if r.Mend != "" {
		s += "; " + r.Mend
	}
	return s
}

// Deployment looks at a Deployment.
func Deployment(ctx context.Context, kube kubernetes.Interface, namespace, name string) (State, error) {
	d, err := kube.AppsV1().Deployments(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return State{}, nil
	}
	if err != nil {
		return State{}, fmt.Errorf("read Deployment %s/%s: %w", namespace, name, err)
	}
	s := State{Exists: true, Want: 1, Have: d.Status.AvailableReplicas}
	if d.Spec.Replicas != nil {
		s.Want = *d.Spec.Replicas
	}
	// As `kubectl rollout status` has it: all are of the new kind, and none of the
	// old is left. Available counts both kinds: those of the old are no help.
	old := max(0, d.Status.Replicas-d.Status.UpdatedReplicas)
	current := d.Status.ObservedGeneration >= d.Generation && d.Status.UpdatedReplicas >= s.Want && old == 0
	s.Have = max(0, min(s.Have-old, d.Status.UpdatedReplicas))
	if s.Ready = current && s.Have >= s.Want; s.Ready {
		return s, nil
	}
	selector, set := d.Spec.Selector, newest(ctx, kube, d)
	if set != nil {
		selector = set.Spec.Selector
	}
	for _, c := range d.Status.Conditions {
		if c.Type == appsv1.DeploymentReplicaFailure && c.Status == corev1.ConditionTrue {
			s.Reasons = append(s.Reasons, refused("deployment/"+name, cmp.Or(lastRefusal(ctx, kube, set), c.Message)))
		}
	}
	pods, err := pods(ctx, kube, namespace, name, selector, &s)
	if err != nil {
		return s, err
	}
	if len(pods) == 0 && len(s.Reasons) == 0 {
		s.Reasons = append(s.Reasons, Reason{"deployment/" + name, "starting", "no pod has been created yet", ""})
	}
	return s, nil
}

// newest is the ReplicaSet of the Deployment's newest template, nil if it cannot
// be seen: why the pods before did not start no longer matters.
func newest(ctx context.Context, kube kubernetes.Interface, d *appsv1.Deployment) *appsv1.ReplicaSet {
	const revision = "deployment.kubernetes.io/revision"
	sets, err := kube.AppsV1().ReplicaSets(d.Namespace).List(ctx, metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(d.Spec.Selector)})
	if err != nil || d.Status.ObservedGeneration < d.Generation {
		return nil
	}
	for i := range sets.Items {
		if s := &sets.Items[i]; metav1.IsControlledBy(s, d) && s.Annotations[revision] == d.Annotations[revision] {
			return s
		}
	}
	return nil
}

// lastRefusal is why the ReplicaSet was refused a pod the last time: its
// condition keeps the first reason for as long as there is one.
func lastRefusal(ctx context.Context, kube kubernetes.Interface, set *appsv1.ReplicaSet) string {
	if set == nil {
		return ""
	}
	events, err := kube.CoreV1().Events(set.Namespace).List(ctx, metav1.ListOptions{FieldSelector: "reason=FailedCreate,involvedObject.uid=" + string(set.UID), Limit: 100})
	if err != nil {
		return ""
	}
	var last corev1.Event
	for _, e := range events.Items {
		if e.Reason == "FailedCreate" && e.InvolvedObject.UID == set.UID && !e.LastTimestamp.Before(&last.LastTimestamp) {
			last = e
		}
	}
	return strings.TrimPrefix(last.Message, "Error creating: ")
}

// DaemonSet looks at a DaemonSet.
func DaemonSet(ctx context.Context, kube kubernetes.Interface, namespace, name string) (State, error) {
	d, err := kube.AppsV1().DaemonSets(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return State{}, nil
	}
	if err != nil {
		return State{}, fmt.Errorf("read DaemonSet %s/%s: %w", namespace, name, err)
	}
	s := State{Exists: true, Want: d.Status.DesiredNumberScheduled, Have: min(d.Status.NumberAvailable, d.Status.UpdatedNumberScheduled)}
	if s.Ready = d.Status.ObservedGeneration >= d.Generation && s.Have >= s.Want; s.Ready {
		return s, nil
	}
	_, err = pods(ctx, kube, namespace, name, d.Spec.Selector, &s)
	return s, err
}

// pods adds the reasons of the workload's pods that are not ready.
func pods(ctx context.Context, kube kubernetes.Interface, namespace, name string, selector *metav1.LabelSelector, s *State) ([]corev1.Pod, error) {
	sel, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		return nil, fmt.Errorf("selector of %s/%s: %w", namespace, name, err)
	}
	list, err := kube.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: sel.String()})
	if err != nil {
		return nil, fmt.Errorf("list the pods of %s/%s: %w", namespace, name, err)
	}
	for i := range list.Items {
		if r, ok := Why(ctx, kube, &list.Items[i]); ok {
			s.Reasons = append(s.Reasons, r)
		}
	}
	// what a person can mend first
	slices.SortStableFunc(s.Reasons, func(a, b Reason) int { return cmp.Compare(weight(a), weight(b)) })
	return list.Items, nil
}

func weight(r Reason) int {
	if r.Cause == "starting" {
		return 1
	}
	return 0
}

// refused is why no pod could be created at all.
func refused(object, message string) Reason {
	switch {
	case strings.Contains(message, "exceeded quota"):
		return Reason{object, "quota", message, "raise the ResourceQuota of the namespace, or ask for less (--set resources.requests.memory=…)"}
	case strings.Contains(message, "violates PodSecurity"):
		return Reason{object, "admission", message, "the namespace's Pod Security level forbids it: label it as the message says, or choose another namespace"}
	case strings.Contains(message, "failed calling webhook"):
		return Reason{object, "webhook", message, "that webhook does not answer: mend or remove it, or exempt this namespace"}
	case strings.Contains(message, "serviceaccount"):
		return Reason{object, "admission", message, "the ServiceAccount is missing: install again"}
	}
	return Reason{object, "admission", message, "an admission rule of this cluster forbids the pod: change the rule or the values"}
}

// Why is Pod, made more telling by the pod's events.
func Why(ctx context.Context, kube kubernetes.Interface, p *corev1.Pod) (Reason, bool) {
	r, ok := Pod(p)
	if ok && (r.Cause == "starting" || r.Cause == "probe") {
		r = fromEvents(ctx, kube, p, r)
	}
	return r, ok
}

// Pod says why a pod is not ready; false if it is, or is on its way out.
func Pod(p *corev1.Pod) (Reason, bool) {
	object := "pod/" + p.Name
	if p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodSucceeded {
		return Reason{}, false
	}
	if p.Status.Phase == corev1.PodFailed {
		return Reason{object, "crash", strings.TrimSpace("failed: " + p.Status.Reason + " " + p.Status.Message), "kubectl describe " + object + " -n " + p.Namespace}, true
	}
	for _, c := range p.Status.Conditions {
		switch {
		case c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue:
			return Reason{}, false
		case c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse:
			return Reason{object, "scheduling", "no node takes it: " + c.Message, "free or add what the message names (taints: --set tolerations…)"}, true
		}
	}
	statuses := slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses)
	for _, c := range statuses {
		if w := c.State.Waiting; w != nil {
			switch w.Reason {
			case "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable":
				return Reason{object, "image", fmt.Sprintf("image %s cannot be pulled: %s", c.Image, cmp.Or(w.Message, w.Reason)),
					"is the name right, may the node reach the registry, is a pull secret needed (--set image.registry, image.tag, image.pullSecrets)?"}, true
			case "CrashLoopBackOff", "CreateContainerConfigError", "CreateContainerError", "RunContainerError":
				detail := cmp.Or(w.Message, w.Reason)
				if t := c.LastTerminationState.Terminated; t != nil {
					detail = terminated(t)
				}
				return Reason{object, "crash", fmt.Sprintf("container %s does not run: %s", c.Name, detail), fmt.Sprintf("kubectl logs -n %s %s -c %s --previous", p.Namespace, p.Name, c.Name)}, true
			}
		}
		if t := c.State.Terminated; t != nil && t.ExitCode != 0 {
			return Reason{object, "crash", fmt.Sprintf("container %s ended: %s", c.Name, terminated(t)), fmt.Sprintf("kubectl logs -n %s %s -c %s", p.Namespace, p.Name, c.Name)}, true
		}
	}
	for _, c := range statuses {
		if c.State.Running != nil && !c.Ready {
			return Reason{object, "probe", "container " + c.Name + " runs, but is not ready yet", fmt.Sprintf("kubectl logs -n %s %s -c %s", p.Namespace, p.Name, c.Name)}, true
		}
	}
	return Reason{object, "starting", "is being started", ""}, true
}

func terminated(t *corev1.ContainerStateTerminated) string {
	s := fmt.Sprintf("exit status %d", t.ExitCode)
	if t.Reason != "" && t.Reason != "Error" {
		s += " (" + t.Reason + ")"
	}
	if m := strings.TrimSpace(t.Message); m != "" {
		s += ": " + lastLine(m)
	}
	return s
}

// telling are the events that say more of a pod than its status does.
var telling = map[string]string{
	"Unhealthy":              "probe",
	"FailedMount":            "volume",
	"FailedAttachVolume":     "volume",
	"FailedCreatePodSandBox": "network",
	"Failed":                 "image",
	"BackOff":                "crash",
	"Pulling":                "image",
	sidecarNotReady:          "sidecar",
}

// sidecarNotReady is the Event by which seined says what a sidecar says of itself.
const sidecarNotReady = "SidecarNotReady"

// sidecar reports whether a pod's sidecar runs and is not ready.
func sidecar(p *corev1.Pod) bool {
	return slices.ContainsFunc(slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses), func(c corev1.ContainerStatus) bool {
		return c.Name == inject.ProxyName && c.State.Running != nil && !c.Ready
	})
}

// fromEvents makes a reason more telling by the pod's latest event.
func fromEvents(ctx context.Context, kube kubernetes.Interface, p *corev1.Pod, r Reason) Reason {
	events, err := kube.CoreV1().Events(p.Namespace).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.uid=" + string(p.UID), Limit: 100})
	if err != nil {
		return r // events are a comfort, not a need
	}
	latest := func(counts func(reason string) bool) (last *corev1.Event) {
		for i := range events.Items {
			e := &events.Items[i]
			if counts(e.Reason) && e.InvolvedObject.UID == p.UID && (last == nil || !e.LastTimestamp.Before(&last.LastTimestamp)) {
				last = e
			}
		}
		return last
	}
	var last *corev1.Event
	if sidecar(p) {
		// The kubelet knows no more of it than a status code.
		last = latest(func(reason string) bool { return reason == sidecarNotReady })
	}
	if last == nil {
		last = latest(func(reason string) bool { return telling[reason] != "" && reason != sidecarNotReady })
	}
	if last == nil {
		return r
	}
	if cause := telling[last.Reason]; r.Cause == "probe" && cause != "probe" && cause != "sidecar" {
		return r // it runs: what was before no longer matters
	}
	r.Cause, r.Detail = telling[last.Reason], lastLine(last.Message)
	switch r.Cause {
	case "volume":
		r.Mend = "the volume's ConfigMap or Secret is missing: is the control plane up?"
	case "sidecar":
		r.Mend = "if it says that connections are not redirected: is the CNI plugin late, or does another take the rules away? delete the pod, or --set injection.repair=true"
	case "network":
		r.Mend = "the node's CNI plugin fails: kubectl describe pod -n " + p.Namespace + " " + p.Name
	}
	return r
}

// lastLine returns the last line of s that is not empty, at most 500 bytes of it.
func lastLine(s string) string {
	s = strings.TrimSpace(s)
	if i := strings.LastIndexByte(s, '\n'); i >= 0 {
		s = s[i+1:]
	}
	if len(s) > 500 {
		s = strings.ToValidUTF8(s[:500], "") + "…"
	}
	return s
}

// Endpoints counts the ready endpoints of a Service.
func Endpoints(ctx context.Context, kube kubernetes.Interface, namespace, service string) (int, error) {
	slices, err := kube.DiscoveryV1().EndpointSlices(namespace).List(ctx, metav1.ListOptions{LabelSelector: labels.Set{"kubernetes.io/service-name": service}.String()})
	if err != nil {
		return 0, fmt.Errorf("list the endpoints of %s/%s: %w", namespace, service, err)
	}
	n := 0
	for _, s := range slices.Items {
		for _, e := range s.Endpoints {
			if e.Conditions.Ready == nil || *e.Conditions.Ready {
				n++
			}
		}
	}
	return n, nil
}
