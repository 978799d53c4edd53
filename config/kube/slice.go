package kube

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seinemesh/seine/mesh"
)

// slice is one EndpointSlice as the model has it.
type slice struct {
	service  string // NAMESPACE/NAME; "": of none
	backends []mesh.Backend
}

func trimSlice(s *discoveryv1.EndpointSlice) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Name: s.Name, Namespace: s.Namespace, ResourceVersion: s.ResourceVersion,
			Labels: map[string]string{discoveryv1.LabelServiceName: s.Labels[discoveryv1.LabelServiceName]},
		},
		AddressType: s.AddressType, Endpoints: s.Endpoints, Ports: s.Ports,
	}
}

// sliceOf converts an EndpointSlice. Endpoints are what kube-proxy takes them
// for: a condition that is not set counts as ready and as serving, only the
// first address counts, and a slice of names (FQDN) is not served.
func sliceOf(s *discoveryv1.EndpointSlice, locality func(node, zone string) string) slice {
	out := slice{}
	if name := s.Labels[discoveryv1.LabelServiceName]; name != "" {
		out.service = s.Namespace + "/" + name
	}
	if s.AddressType == discoveryv1.AddressTypeFQDN {
		return out
	}
	ports := map[string]uint32{}
	for _, p := range s.Ports {
		if p.Port == nil || p.Protocol != nil && *p.Protocol != corev1.ProtocolTCP {
			continue
		}
		name := ""
		if p.Name != nil {
			name = *p.Name
		}
		ports[name] = uint32(*p.Port)
	}
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		if len(e.Addresses) == 0 {
			continue
		}
		a, err := netip.ParseAddr(e.Addresses[0])
		if err != nil {
			continue
		}
		said := func(v *bool, otherwise bool) bool {
			if v == nil {
				return otherwise
			}
			return *v
		}
		c := e.Conditions
		b := mesh.Backend{Address: a.Unmap(), Ports: ports, Ready: said(c.Ready, true)}
		b.Draining = said(c.Terminating, false) && said(c.Serving, b.Ready)
		if e.TargetRef != nil && e.TargetRef.Kind == "Pod" {
			b.Workload = s.Namespace + "/" + e.TargetRef.Name
		}
		node, zone := "", ""
		if e.NodeName != nil {
			node = *e.NodeName
		}
		if e.Zone != nil {
			zone = *e.Zone
		}
		b.Locality, b.Node = locality(node, zone), node
		if e.Hints != nil {
			for _, z := range e.Hints.ForZones {
				b.Zones = append(b.Zones, z.Name)
			}
			for _, n := range e.Hints.ForNodes {
				b.Nodes = append(b.Nodes, n.Name)
			}
		}
		out.backends = append(out.backends, b)
	}
	return out
}
