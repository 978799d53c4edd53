// Package inject puts a sidecar into a pod.
//
// In: a pod (or a template of one), its namespace's name and labels, and
// Values. Out: a JSON patch, or the reason why the pod is left alone. The
// webhook and `seine inject` apply the same patch, so what they make is the
// same; fields that this version does not know stay as they are.
//
// The package is pure: no clock, no cluster, no file. What a pod's annotations
// ask for and nobody implements becomes a warning, what cannot be read an
// error; nothing is ignored in silence.
package inject

import (
	"encoding/json"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/seinemesh/seine/config"
)

// Result is what Pod says of a pod: either Skip, or a patch that may be empty.
type Result struct {
	Skip     *Skip
	Patch    []Operation
	Warnings []string // sentences for whoever created the pod
}

// status is the annotation AnnotationStatus: what was added, by name.
type status struct {
	Revision       string   `json:"revision"`
	InitContainers []string `json:"initContainers,omitempty"`
	Containers     []string `json:"containers,omitempty"`
	Volumes        []string `json:"volumes,omitempty"`
}

// Pod returns what has to be done so that pod has its sidecar. A pod that has
// it already gets nothing, but for containers that somebody else's webhook has
// added since: their probes are rewritten, too.
func Pod(pod *corev1.Pod, ns Namespace, v *Values) (*Result, error) {
	if skip := Skipped(pod, ns, v); skip != nil {
		return &Result{Skip: skip}, nil
	}
	s, err := annotated(pod.Annotations, v)
	if err != nil {
		return nil, err
	}
	p := &patch{}
	probes := rewriteProbes(p, pod, s)
	r := &Result{}
	if sidecar, at := own(pod); sidecar != nil {
		err = p.addProbes(sidecar, at, probes)
		r.Patch = p.ops
		return r, err
	}
	place := s.applicationMetrics(p, pod)
	if err := s.conflicts(pod); err != nil {
		return nil, err
	}
	added := status{Revision: v.revision()}
	proxy, err := s.proxy(pod, probes, place)
	if err != nil {
		return nil, err
	}
	var first []corev1.Container
	if !s.CNI {
		first = append(first, s.init())
		added.InitContainers = append(added.InitContainers, InitName)
	}
	have := len(pod.Spec.InitContainers)
	if s.native {
		first = append(first, proxy)
		added.InitContainers = append(added.InitContainers, ProxyName)
		list(p, "/spec/initContainers", have, true, first...)
	} else {
		// The pod's own init containers run before the sidecar does: what they
		// send must not be redirected to nobody. A CNI plugin leaves no such choice.
		list(p, "/spec/initContainers", have, false, first...)
		if have > 0 {
			s.warnings = append(s.warnings, s.initWarning())
		}
		list(p, "/spec/containers", len(pod.Spec.Containers), true, proxy)
		added.Containers = append(added.Containers, ProxyName)
	}
	volumes := append(s.own(), s.volumes...)
	for i := range volumes {
		added.Volumes = append(added.Volumes, volumes[i].Name)
	}
	list(p, "/spec/volumes", len(pod.Spec.Volumes), false, volumes...)
	list(p, "/spec/imagePullSecrets", len(pod.Spec.ImagePullSecrets), false, s.pullSecrets(pod)...)

	if err := s.annotate(p, pod, added); err != nil {
		return nil, err
	}
	r.Patch, r.Warnings = p.ops, s.warnings
	return r, p.err
}

func (s *settings) initWarning() string {
	if s.CNI {
		return "the pod's own init containers run while no sidecar does: their connections are refused, but for those of user 1337 (native sidecars, Kubernetes 1.29, do not have this limit)"
	}
	return "the pod's own init containers run before the redirect and outside the mesh (native sidecars, Kubernetes 1.29, do not have this limit)"
}

// conflicts refuses pods in which the sidecar cannot work.
func (s *settings) conflicts(pod *corev1.Pod) error {
	ours := []int32{15000, 15001, 15006, s.StatusPort, readinessPort, metricsPort}
	if s.DNSCapture {
		ours = append(ours, dnsPort)
	}
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		if c.Name == InitName {
			return fmt.Errorf("container %s has the name of the sidecar's init container: rename it", c.Name)
		}
		for _, p := range c.Ports {
			if (p.Protocol == "" || p.Protocol == corev1.ProtocolTCP) && slices.Contains(ours, p.ContainerPort) {
				return fmt.Errorf("container %s declares port %d, which is the sidecar's: use another one, or annotation status.sidecar.istio.io/port for 15020", c.Name, p.ContainerPort)
			}
		}
		if u := user(pod, c); u != nil && *u == proxyID {
			return fmt.Errorf("container %s runs as user %d, which is the sidecar's: its connections would go round the mesh; use another one", c.Name, proxyID)
		}
	}
	for _, v := range pod.Spec.Volumes {
		if v.Name == tokenVolume || v.Name == rootsVolume {
			return fmt.Errorf("volume %s has the name of one of the sidecar's: rename it", v.Name)
		}
	}
	return nil
}

// user is the uid that a container asks for, nil if its image decides.
func user(pod *corev1.Pod, c *corev1.Container) *int64 {
	if c.SecurityContext != nil && c.SecurityContext.RunAsUser != nil {
		return c.SecurityContext.RunAsUser
	}
	if pod.Spec.SecurityContext != nil {
		return pod.Spec.SecurityContext.RunAsUser
	}
	return nil
}

// annotate adds the annotations of an injected pod.
func (s *settings) annotate(p *patch, pod *corev1.Pod, added status) error {
	b, err := json.Marshal(added)
	if err != nil {
		return fmt.Errorf("inject: status: %w", err)
	}
	set := func(key, value string) { p.annotation(pod, key, value) }
	set(AnnotationStatus, string(b))
	if s.CNI {
		b, err := json.Marshal(append([]string{}, s.redirect...))
		if err != nil {
			return fmt.Errorf("inject: redirect: %w", err)
		}
		set(AnnotationRedirect, string(b))
	}
	if s.DNSCapture {
		set(config.AnnotationDNS, "true") // by which seined knows it, whatever asked for it
	}
	if _, ok := pod.Annotations[defaultContainer]; !ok && len(pod.Spec.Containers) > 0 {
		set(defaultContainer, pod.Spec.Containers[0].Name)
	}
	return nil
}

// defaultContainer is what `kubectl logs` and `exec` go by.
const defaultContainer = "kubectl.kubernetes.io/default-container"
