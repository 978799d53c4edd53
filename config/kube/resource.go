package kube

import (
	"encoding/json"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
)

// resource is one object that goes through config's decoder.
type resource struct {
	id         id
	uid        types.UID
	generation int64
	created    time.Time
	data       []byte // JSON: what config decodes
	// good is the version of data that was last taken, where data was refused;
	// before is the version that data has replaced since the last build.
	good, before []byte
}

// id names a resource.
type id struct{ group, kind, namespace, name string }

// document is a resource as config reads it.
type document struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   header `json:"metadata"`
	Spec       any    `json:"spec,omitempty"`
}

type header struct {
	Name        string            `json:"name"`
	Namespace   string            `json:"namespace,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// trimService keeps of a Service what config reads. A field that a newer
// Kubernetes adds never reaches the strict decoder: it would refuse the Service.
func trimService(s *corev1.Service) *corev1.Service {
	out := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Name: s.Name, Namespace: s.Namespace, UID: s.UID, ResourceVersion: s.ResourceVersion, CreationTimestamp: s.CreationTimestamp,
			Labels: s.Labels, Annotations: ours(s.Annotations),
		},
		Spec: corev1.ServiceSpec{
			Type: s.Spec.Type, Selector: s.Spec.Selector, ClusterIP: s.Spec.ClusterIP, ClusterIPs: s.Spec.ClusterIPs,
			ExternalName: s.Spec.ExternalName, SessionAffinity: s.Spec.SessionAffinity, TrafficDistribution: s.Spec.TrafficDistribution,
		},
	}
	for _, p := range s.Spec.Ports {
		out.Spec.Ports = append(out.Spec.Ports, corev1.ServicePort{Name: p.Name, Protocol: p.Protocol, AppProtocol: p.AppProtocol, Port: p.Port, TargetPort: p.TargetPort})
	}
	return out
}

// ours are the annotations that can say something to a mesh.
func ours(annotations map[string]string) map[string]string {
	var out map[string]string
	for k, v := range annotations {
		domain, _, _ := strings.Cut(k, "/")
		if domain == "seine.dev" || strings.HasSuffix(domain, ".seine.dev") || strings.HasSuffix(domain, "istio.io") {
			if out == nil {
				out = map[string]string{}
			}
			out[k] = v
		}
	}
	return out
}

func serviceOf(s *corev1.Service) (*resource, error) {
	s = trimService(s)
	data, err := json.Marshal(document{
		APIVersion: "v1", Kind: "Service", Spec: s.Spec,
		Metadata: header{Name: s.Name, Namespace: s.Namespace, Labels: s.Labels, Annotations: s.Annotations},
	})
	if err != nil {
		return nil, err
	}
	return &resource{id: id{"", "Service", s.Namespace, s.Name}, uid: s.UID, created: s.CreationTimestamp.Time, data: data}, nil
}

// customOf converts a custom resource. Its spec is as the API server has it; what
// config does not know in it is for config to report.
func customOf(u *unstructured.Unstructured) (*resource, error) {
	data, err := json.Marshal(document{
		APIVersion: u.GetAPIVersion(), Kind: u.GetKind(), Spec: u.Object["spec"],
		Metadata: header{Name: u.GetName(), Namespace: u.GetNamespace(), Labels: u.GetLabels(), Annotations: ours(u.GetAnnotations())},
	})
	if err != nil {
		return nil, err
	}
	return &resource{
		id:  id{u.GroupVersionKind().Group, u.GetKind(), u.GetNamespace(), u.GetName()},
		uid: u.GetUID(), generation: u.GetGeneration(), created: u.GetCreationTimestamp().Time, data: data,
	}, nil
}
