package inject

import (
	"cmp"
	"encoding/json"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Namespace is what decides of a pod's namespace.
type Namespace struct {
	Name   string
	Labels map[string]string
}

// Labels and annotations that ask for a sidecar, or refuse one.
const (
	LabelInject          = "seine.dev/inject" // enabled or disabled, on namespaces and pods
	LabelRevision        = "seine.dev/revision"
	LabelIstioInjection  = "istio-injection" // on namespaces
	LabelIstioInject     = "sidecar.istio.io/inject"
	LabelIstioRevision   = "istio.io/rev"
	AnnotationStatus     = "seine.dev/status"   // on injected pods: what was added
	AnnotationRedirect   = "seine.dev/redirect" // on injected pods: the flags of `seine-proxy redirect`
	AnnotationProxyImage = "seine.dev/proxyImage"
)

// Names of what is added.
const (
	ProxyName = "seine-proxy"
	InitName  = "seine-init"
)

// system are namespaces that nobody injects into: without them there is no
// cluster to mend.
var system = [...]string{"kube-system", "kube-public", "kube-node-lease"}

// Skip says why a pod is left alone.
type Skip struct {
	Reason string // one word: HostNetwork, AlreadyInjected, …
	Detail string // a sentence
	// Asked reports whether somebody asked for a sidecar: worth an Event.
	Asked bool
}

func (s *Skip) String() string { return s.Detail }

// Skipped says why a pod has no sidecar; nil: it is to have one. It reads of the pod
// its labels and annotations, hostNetwork, os and the containers' names.
func Skipped(pod *corev1.Pod, ns Namespace, v *Values) *Skip {
	asked, why := wanted(pod, ns, v)
	if !asked {
		return &Skip{Reason: "NotAsked", Detail: why}
	}
	skip := func(reason, detail string) *Skip { return &Skip{Reason: reason, Detail: detail, Asked: true} }
	if slices.Contains(system[:], ns.Name) || ns.Name == v.RootNamespace || slices.Contains(v.NeverInject, ns.Name) {
		return skip("SystemNamespace", "no sidecars in namespace "+ns.Name+": it is the cluster's or the control plane's own")
	}
	if pod.Spec.HostNetwork {
		return skip("HostNetwork", "no sidecar for a pod with hostNetwork: redirecting its connections would redirect its node's; it stays outside the mesh")
	}
	if name := otherSidecar(pod); name != "" {
		return skip("AlreadyInjected", "no sidecar: container "+name+" is another mesh's")
	}
	if pod.Spec.OS != nil && pod.Spec.OS.Name == corev1.Windows {
		return skip("Windows", "no sidecar for a Windows pod: the sidecar is for Linux")
	}
	return nil
}

// wanted applies the labels: a pod's own go before its namespace's, Seine's
// before Istio's.
func wanted(pod *corev1.Pod, ns Namespace, v *Values) (asked bool, why string) {
	if on, said := enabled(ns.Labels[LabelInject]); said && !on {
		return false, "namespace " + ns.Name + " has the label " + LabelInject + "=" + ns.Labels[LabelInject]
	}
	on, said := enabled(pod.Labels[LabelInject])
	key := LabelInject
	if !said && v.IstioLabels {
		key = LabelIstioInject
		// The label wins over the annotation, as with Istio.
		value, ok := pod.Labels[key]
		if !ok {
			value = pod.Annotations[key]
		}
		on, said = enabled(value)
	}
	switch {
	case said && !on:
		return false, "the pod says " + key + ": no"
	case said:
		return revision(pod.Labels, v, "the pod asks for revision ")
	}
	if on, _ := enabled(ns.Labels[LabelInject]); on {
		return revision(pod.Labels, v, "the pod asks for revision ")
	}
	if v.IstioLabels {
		switch ns.Labels[LabelIstioInjection] {
		case "enabled":
			return revision(pod.Labels, v, "the pod asks for revision ")
		case "disabled":
			return false, "namespace " + ns.Name + " has the label " + LabelIstioInjection + "=disabled"
		}
	}
	if revisionOf(ns.Labels, v) != "" {
		return revision(ns.Labels, v, "namespace "+ns.Name+" asks for revision ")
	}
	return false, "neither the pod nor namespace " + ns.Name + " asks for a sidecar: label the namespace " + LabelInject + "=enabled"
}

// revision reports whether labels, if they name a revision, name this one.
func revision(labels map[string]string, v *Values, who string) (bool, string) {
	if r := revisionOf(labels, v); r != "" && r != v.revision() {
		return false, who + r + ", this is " + v.revision()
	}
	return true, ""
}

func revisionOf(labels map[string]string, v *Values) string {
	if r := labels[LabelRevision]; r != "" {
		return r
	}
	if v.IstioLabels {
		return labels[LabelIstioRevision]
	}
	return ""
}

// Injected reports whether the revision of v gave a pod its sidecar. One that does
// not say by whom has it from the default one.
func (v *Values) Injected(pod *corev1.Pod) bool {
	var s status
	text := pod.Annotations[AnnotationStatus]
	return text != "" && json.Unmarshal([]byte(text), &s) == nil && cmp.Or(s.Revision, "default") == v.revision()
}

func (v *Values) revision() string {
	if v.Revision == "" {
		return "default"
	}
	return v.Revision
}

// enabled reads the words that people use; said is false for any other.
func enabled(s string) (on, said bool) {
	switch strings.ToLower(s) {
	case "enabled", "true", "yes", "y", "on":
		return true, true
	case "disabled", "false", "no", "n", "off":
		return false, true
	}
	return false, false
}

// otherSidecar is the name of another mesh's sidecar, "" if there is none.
func otherSidecar(pod *corev1.Pod) string {
	others := []string{"istio-proxy", "linkerd-proxy", "kuma-sidecar", "consul-dataplane"}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if slices.Contains(others, list[i].Name) {
				return list[i].Name
			}
		}
	}
	return ""
}

// own returns the sidecar that is there already, and where; nil: none.
func own(pod *corev1.Pod) (c *corev1.Container, pointer string) {
	for _, l := range [...]struct {
		list    []corev1.Container
		pointer string
	}{{pod.Spec.InitContainers, "/spec/initContainers/"}, {pod.Spec.Containers, "/spec/containers/"}} {
		for i := range l.list {
			if l.list[i].Name == ProxyName {
				return &l.list[i], l.pointer + index(i)
			}
		}
	}
	return nil, ""
}
