package kube

import (
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seinemesh/seine/config"
	"github.com/seinemesh/seine/mesh"
)

// Names by which a pod is known to have a sidecar that speaks mutual TLS, and
// labels and annotations that say what it belongs to.
const (
	labelTLSMode      = "security.istio.io/tlsMode"
	labelWorkloadName = "service.istio.io/workload-name"
	labelTemplateHash = "pod-template-hash"
	labelLocality     = "istio-locality"
)

var sidecarNames = []string{"seine-proxy", "istio-proxy"}

// trimPod keeps of a pod what workload reads, so that a list of 10,000 pods
// does not hold their volumes, environments and managed fields.
func trimPod(p *corev1.Pod) *corev1.Pod {
	out := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: p.Name, Namespace: p.Namespace, UID: p.UID, ResourceVersion: p.ResourceVersion, Labels: p.Labels,
			CreationTimestamp: p.CreationTimestamp, DeletionTimestamp: p.DeletionTimestamp, OwnerReferences: p.OwnerReferences,
		},
		Spec: corev1.PodSpec{
			ServiceAccountName: p.Spec.ServiceAccountName, NodeName: p.Spec.NodeName, HostNetwork: p.Spec.HostNetwork,
			InitContainers: trimContainers(p.Spec.InitContainers), Containers: trimContainers(p.Spec.Containers),
		},
		Status: corev1.PodStatus{Phase: p.Status.Phase, PodIP: p.Status.PodIP, PodIPs: p.Status.PodIPs},
	}
	for _, key := range []string{
		config.AnnotationGateway, config.AnnotationHealthy, config.LabelWorkload, config.AnnotationProxyProtocol, config.AnnotationProxyProtocolFrom,
		config.AnnotationDNS,
	} {
		if v, ok := p.Annotations[key]; ok {
			if out.Annotations == nil {
				out.Annotations = map[string]string{}
			}
			out.Annotations[key] = v
		}
	}
	// Of the sidecar's own settings seined needs the tracing alone.
	if v := p.Annotations[config.AnnotationProxyConfig]; strings.Contains(v, "tracing") {
		if out.Annotations == nil {
			out.Annotations = map[string]string{}
		}
		out.Annotations[config.AnnotationProxyConfig] = v
	}
	for _, c := range p.Status.Conditions {
		// With gates, ready containers do not make a pod ready.
		if c.Type == corev1.PodReady || c.Type == corev1.ContainersReady && len(p.Spec.ReadinessGates) == 0 {
			out.Status.Conditions = append(out.Status.Conditions, corev1.PodCondition{Type: c.Type, Status: c.Status})
		}
	}
	return out
}

func trimContainers(list []corev1.Container) []corev1.Container {
	out := make([]corev1.Container, 0, len(list))
	for _, c := range list {
		out = append(out, corev1.Container{Name: c.Name, Ports: c.Ports, RestartPolicy: c.RestartPolicy})
	}
	return out
}

// workload is what a pod is to the mesh; nil for one that has ended. like is a
// pod of the same owner whose maps are shared where they are equal; nil: none.
// Locality is the node's, and set by who knows the nodes.
func workload(p *corev1.Pod, like *mesh.Workload) *mesh.Workload {
	if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return nil
	}
	w := &mesh.Workload{
		Ref:      mesh.Ref{Kind: "Pod", Namespace: p.Namespace, Name: p.Name, Created: p.CreationTimestamp.Time},
		Instance: p.Name, App: app(p), Labels: p.Labels, ServiceAccount: p.Spec.ServiceAccountName,
		Ports: namedPorts(p), Sidecar: sidecar(p), Gateway: p.Annotations[config.AnnotationGateway] == "true",
		Unhealthy: !ready(p), Unheard: unheard(p), Node: p.Spec.NodeName, HostNetwork: p.Spec.HostNetwork,
		DNS: p.Annotations[config.AnnotationDNS] == "true",
	}
	// What cannot be read was refused by the injector, which says so: no header is
	// believed then.
	w.Introduced, _ = mesh.ParseIntroduced(p.Annotations[config.AnnotationProxyProtocol], p.Annotations[config.AnnotationProxyProtocolFrom])
	if w.ServiceAccount == "" {
		w.ServiceAccount = "default"
	}
	if v := p.Annotations[config.AnnotationProxyConfig]; v != "" {
		w.Tracing, _ = config.ProxyTracing(v) // the injector has said what is wrong with it
	}
	ips := make([]string, 0, 2)
	for _, ip := range p.Status.PodIPs {
		ips = append(ips, ip.IP)
	}
	if len(ips) == 0 && p.Status.PodIP != "" {
		ips = append(ips, p.Status.PodIP)
	}
	for _, ip := range ips {
		if a, err := netip.ParseAddr(ip); err == nil {
			w.Addresses = append(w.Addresses, a.Unmap())
		}
	}
	if l := p.Labels[labelLocality]; l != "" {
		w.Locality = strings.ReplaceAll(l, ".", "/") // as Istio: a label's value holds no slash
	}
	if like != nil {
		if maps.Equal(like.Labels, w.Labels) {
			w.Labels = like.Labels
		}
		if maps.Equal(like.Ports, w.Ports) {
			w.Ports = like.Ports
		}
	}
	return w
}

func ready(p *corev1.Pod) bool {
	if p.DeletionTimestamp != nil || p.Annotations[config.AnnotationHealthy] == "false" {
		return false
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// unheard reports whether a pod is not ready by its node's silence alone. A kubelet
// says "not ready" of containers and pod together; the node controller, of a node
// that it has not heard of, of the pod only (MarkPodsNotReady).
func unheard(p *corev1.Pod) bool {
	if p.DeletionTimestamp != nil || p.Annotations[config.AnnotationHealthy] == "false" {
		return false
	}
	var pod, containers bool
	for _, c := range p.Status.Conditions {
		pod = pod || c.Type == corev1.PodReady && c.Status == corev1.ConditionFalse
		containers = containers || c.Type == corev1.ContainersReady && c.Status == corev1.ConditionTrue
	}
	return pod && containers
}

func sidecar(p *corev1.Pod) bool {
	is := func(c corev1.Container) bool { return slices.Contains(sidecarNames, c.Name) }
	return p.Labels[labelTLSMode] == "istio" || slices.ContainsFunc(p.Spec.Containers, is) || slices.ContainsFunc(p.Spec.InitContainers, is)
}

// namedPorts are the TCP ports that a pod's containers name, those of native
// sidecars too. The first of a name holds.
func namedPorts(p *corev1.Pod) map[string]uint32 {
	var out map[string]uint32
	add := func(c corev1.Container) {
		for _, port := range c.Ports {
			if port.Name == "" || port.Protocol != "" && port.Protocol != corev1.ProtocolTCP {
				continue
			}
			if _, taken := out[port.Name]; taken {
				continue
			}
			if out == nil {
				out = map[string]uint32{}
			}
			out[port.Name] = uint32(port.ContainerPort)
		}
	}
	for _, c := range p.Spec.Containers {
		add(c)
	}
	for _, c := range p.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			add(c)
		}
	}
	return out
}

// cronJobName is how a CronJob names its Jobs: with the minute since 1970.
var cronJobName = regexp.MustCompile(`^(.+)-\d{8,10}$`)

// app is what a pod is an instance of: its Deployment, StatefulSet, CronJob …
// A ReplicaSet is named by its Deployment and the pods' template hash, so that
// no ReplicaSet has to be read (Istio's GetDeployMetaFromPod).
func app(p *corev1.Pod) string {
	for _, v := range []string{p.Labels[config.LabelWorkload], p.Annotations[config.LabelWorkload], p.Labels[labelWorkloadName]} {
		if v != "" {
			return v
		}
	}
	owner := metav1.GetControllerOfNoCopy(p)
	if owner == nil {
		return p.Name
	}
	switch owner.Kind {
	case "ReplicaSet", "ReplicationController":
		if hash := p.Labels[labelTemplateHash]; hash != "" {
			if name, ok := strings.CutSuffix(owner.Name, "-"+hash); ok && name != "" {
				return name
			}
		}
	case "Job":
		if m := cronJobName.FindStringSubmatch(owner.Name); m != nil {
			return m[1]
		}
	case "Node": // a static pod is named by its node
		return strings.TrimSuffix(p.Name, "-"+owner.Name)
	}
	return owner.Name
}
