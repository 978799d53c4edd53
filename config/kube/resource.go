package kube

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/seinemesh/seine/config"
)

// resource is one object that goes through config's decoder.
type resource struct {
	id         id
	uid        types.UID
	generation int64
	created    time.Time
	// version and resource name the kind in the API, for a custom one.
	version, resource string
	since             uint64 // the first build that took data; 0: none yet
	data              []byte // JSON: what config decodes
	// good is the version of data that was last taken, where data was refused;
	// before is the version that data has replaced since the last build.
	good, before []byte
	refused      bool           // by the last build
	decoded      config.Decoded // the builder's alone
}

// id names a resource.
type id struct{ group, kind, namespace, name string }

// trimService keeps of a Service what config reads. A field that a newer
// Kubernetes adds never reaches the strict decoder: it would refuse the Service.
func trimService(s *corev1.Service) *corev1.Service {
	out := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Name: s.Name, Namespace: s.Namespace, UID: s.UID, ResourceVersion: s.ResourceVersion, CreationTimestamp: s.CreationTimestamp,
			Labels: s.Labels, Annotations: s.Annotations,
		},
		Spec: corev1.ServiceSpec{
			Type: s.Spec.Type, Selector: s.Spec.Selector, ClusterIP: s.Spec.ClusterIP, ClusterIPs: s.Spec.ClusterIPs,
			ExternalName: s.Spec.ExternalName, SessionAffinity: s.Spec.SessionAffinity, TrafficDistribution: s.Spec.TrafficDistribution,
			InternalTrafficPolicy: localOnly(s.Spec.InternalTrafficPolicy),
		},
	}
	for _, p := range s.Spec.Ports {
		out.Spec.Ports = append(out.Spec.Ports, corev1.ServicePort{Name: p.Name, Protocol: p.Protocol, AppProtocol: p.AppProtocol, Port: p.Port, TargetPort: p.TargetPort})
	}
	return out
}

// localOnly leaves the API server's default out.
func localOnly(p *corev1.ServiceInternalTrafficPolicy) *corev1.ServiceInternalTrafficPolicy {
	if p == nil || *p == corev1.ServiceInternalTrafficPolicyCluster {
		return nil
	}
	return p
}

func serviceOf(s *corev1.Service) (*resource, error) {
	s = trimService(s)
	o := config.Object{
		APIVersion: "v1", Kind: "Service", Namespace: s.Namespace, Name: s.Name, Labels: s.Labels, Annotations: s.Annotations, Spec: s.Spec,
	}
	data, err := o.JSON()
	if err != nil {
		return nil, err
	}
	return &resource{id: id{"", "Service", s.Namespace, s.Name}, uid: s.UID, created: s.CreationTimestamp.Time, data: data}, nil
}

// customOf converts a custom resource. Its spec is as the API server has it; what
// config does not know in it is for config to report.
func customOf(u *unstructured.Unstructured) (*resource, error) {
	o := config.Object{
		APIVersion: u.GetAPIVersion(), Kind: u.GetKind(), Namespace: u.GetNamespace(), Name: u.GetName(), Generation: u.GetGeneration(),
		Labels: u.GetLabels(), Annotations: u.GetAnnotations(), Spec: u.Object["spec"],
	}
	data, err := o.JSON()
	if err != nil {
		return nil, err
	}
	return &resource{
		id:  id{u.GroupVersionKind().Group, u.GetKind(), u.GetNamespace(), u.GetName()},
		uid: u.GetUID(), generation: u.GetGeneration(), created: u.GetCreationTimestamp().Time, data: data,
	}, nil
}
