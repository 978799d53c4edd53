package config

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/mesh"
)

// protocol is Istio's rule (pkg/config/kube, ConvertProtocol): appProtocol if it
// is set, otherwise the port name up to the first "-". What neither names is
// detected, but for the ports whose servers speak first.
func protocol(name, appProtocol string, port uint32) seinev1.Protocol {
	if appProtocol != "" {
		switch appProtocol {
		case "kubernetes.io/h2c":
			return seinev1.Protocol_PROTOCOL_HTTP2
		case "kubernetes.io/ws":
			return seinev1.Protocol_PROTOCOL_HTTP
		case "kubernetes.io/wss":
			return seinev1.Protocol_PROTOCOL_TLS
		}
		name = appProtocol
	}
	name = strings.ToLower(name)
	if strings.HasPrefix(name, "grpc-web") {
		return seinev1.Protocol_PROTOCOL_HTTP2
	}
	name, _, _ = strings.Cut(name, "-")
	switch name {
	case "http":
		return seinev1.Protocol_PROTOCOL_HTTP
	case "http2":
		return seinev1.Protocol_PROTOCOL_HTTP2
	case "grpc":
		return seinev1.Protocol_PROTOCOL_GRPC
	case "https", "tls":
		return seinev1.Protocol_PROTOCOL_TLS
	case "tcp", "mongo", "redis", "mysql":
		return seinev1.Protocol_PROTOCOL_TCP
	}
	switch port {
	case 25, 53, 3306, 27017: // SMTP, DNS, MySQL, MongoDB: Istio's wellKnownPorts
		return seinev1.Protocol_PROTOCOL_TCP
	}
	return seinev1.Protocol_PROTOCOL_DETECT
}

func exportTo(annotations map[string]string) []string {
	var out []string
	for _, s := range strings.Split(annotations["networking.istio.io/exportTo"], ",") {
		if s = strings.TrimSpace(s); s != "" {
			out = append(out, s)
		}
	}
	return out
}

func (b *builder) service(o *object) {
	var spec corev1.ServiceSpec
	d := &decoder{b: b, obj: o}
	if n := child(o.tree(), "spec"); !isNull(n) {
		d.value(n, reflect.ValueOf(&spec).Elem(), "spec", 0)
	}
	s := &mesh.Service{
		Ref: o.ref, Host: b.fqdn(strings.ReplaceAll(o.ref.Name, ".", "-"), o.ref.Namespace),
		Selector: spec.Selector, ExportTo: visible(exportTo(o.annotations), b.exports.service),
		Headless: spec.ClusterIP == corev1.ClusterIPNone,
	}
	if strings.Contains(o.ref.Name, ".") {
		d.fail(codeHeader, "metadata.name", nil, "the name of a Service must not hold a dot")
	}
	ips := spec.ClusterIPs
	if len(ips) == 0 && spec.ClusterIP != "" {
		ips = []string{spec.ClusterIP}
	}
	for i, ip := range ips {
		if ip == corev1.ClusterIPNone {
			s.Headless = true
			continue
		}
		a, err := netip.ParseAddr(ip)
		if err != nil {
			path := "spec.clusterIP"
			if len(spec.ClusterIPs) > 0 {
				path = item("spec.clusterIPs", i)
			}
			d.fail(codeInvalid, path, nil, "%q is not an IP address: write one, None for a headless service, or leave it out", clip(ip))
			continue
		}
		s.Addresses = append(s.Addresses, a.Unmap())
	}
	numbers, names := map[string]bool{}, map[string]bool{}
	for i, p := range spec.Ports {
		path := item("spec.ports", i)
		if p.Port < 1 || p.Port > 65535 {
			d.fail(codeInvalid, path+".port", nil, "a port must be between 1 and 65535 (it is %d)", p.Port)
			continue
		}
		if p.Protocol != "" && p.Protocol != corev1.ProtocolTCP {
			if p.Protocol != corev1.ProtocolUDP && p.Protocol != corev1.ProtocolSCTP {
				d.fail(codeType, path+".protocol", nil, "must be TCP, UDP or SCTP, not %q: what the port speaks is said by its name or appProtocol", clip(string(p.Protocol)))
				continue
			}
			b.note(o, codeUnsupported, Info, path+".protocol", "%s does not pass through the mesh: this port is left alone", p.Protocol)
			continue
		}
		number := fmt.Sprint(p.Port)
		if numbers[number] || p.Name != "" && names[p.Name] {
			d.fail(codeInvalid, path, nil, "the port %s is written twice: give each port a number and a name of its own", portName(p.Name, uint32(p.Port)))
			continue
		}
		numbers[number], names[p.Name] = true, true
		port := mesh.Port{Name: p.Name, Number: uint32(p.Port)}
		if p.AppProtocol != nil {
			port.Protocol = protocol(p.Name, *p.AppProtocol, port.Number)
		} else {
			port.Protocol = protocol(p.Name, "", port.Number)
		}
		if p.TargetPort.Type == intstr.String && p.TargetPort.StrVal != "" {
			port.TargetName = p.TargetPort.StrVal
		} else if t := p.TargetPort.IntVal; t < 0 || t > 65535 {
			d.fail(codeInvalid, path+".targetPort", nil, "a port must be between 1 and 65535 (it is %d)", t)
		} else {
			port.Target = uint32(t)
		}
		s.Ports = append(s.Ports, port)
	}
	if spec.Type == corev1.ServiceTypeExternalName {
		if !validHost(spec.ExternalName, false) {
			d.fail(codeInvalid, "spec.externalName", nil, "%q is not a DNS name", clip(spec.ExternalName))
		}
		s.External, s.Resolution, s.Selector = true, seinev1.Service_DNS, nil
		s.Endpoints = []mesh.Endpoint{{Address: strings.ToLower(strings.TrimSuffix(spec.ExternalName, "."))}}
	} else if len(spec.Ports) == 0 && !s.Headless {
		d.fail(codeInvalid, "spec.ports", nil, "a Service must have at least one port")
	}
	if spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		b.note(o, codeUnsupported, Info, "spec.sessionAffinity", "has no effect in a mesh, as in Istio: use a DestinationRule's consistentHash")
	}
	if p := spec.InternalTrafficPolicy; p != nil && *p == corev1.ServiceInternalTrafficPolicyLocal {
		if s.NodeLocal = b.opt.Cluster; !b.opt.Cluster {
			b.unsupported(o, "spec.internalTrafficPolicy") // files do not say who runs where
		}
	}
	if spec.TrafficDistribution != nil && !b.opt.Cluster { // there, EndpointSlices carry it as hints
		b.unsupported(o, "spec.trafficDistribution")
	}
	if !d.bad {
		b.parts.Services = append(b.parts.Services, s)
	}
}

func portName(name string, number uint32) string {
	if name == "" {
		return fmt.Sprint(number)
	}
	return fmt.Sprintf("%s (%d)", name, number)
}

// validHost reports whether s may be a host: a DNS name, with a wildcard as its
// first label if allowed.
func validHost(s string, wildcard bool) bool {
	if wildcard {
		if s == "*" {
			return true
		}
		s = strings.TrimPrefix(s, "*.")
	}
	s = strings.TrimSuffix(s, ".")
	if s == "" || len(s) > 253 {
		return false
	}
	for _, label := range strings.Split(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(label) {
			if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
	}
	return true
}

// place gives addresses to services that have none, and instances to what only
// stands on paper.
func (b *builder) place() {
	if b.opt.LocalInstances {
		described := map[string]bool{}
		taken := map[netip.Addr]bool{}
		for _, w := range b.parts.Workloads {
			described[w.Key()] = true
			for _, a := range w.Addresses {
				taken[a] = true
			}
		}
		var keys []string
		var paper []*mesh.Workload
		for _, w := range b.paper {
			if !described[w.Key()] {
				described[w.Key()] = true
				paper = append(paper, w)
				keys = append(keys, w.Key())
			}
		}
		addresses := Allocate(DefaultInstances, keys, taken)
		for _, w := range paper {
			if a, ok := addresses[w.Key()]; ok {
				w.Addresses = []netip.Addr{a}
			}
		}
		b.parts.Workloads = append(b.parts.Workloads, paper...)
		if len(paper) > 0 {
			b.prefix(DefaultInstances)
		}
	}
	taken := map[netip.Addr]bool{}
	owner := map[netip.Addr]*mesh.Service{}
	var names []string
	for _, s := range b.parts.Services {
		for _, a := range s.Addresses {
			if w := owner[a]; w != nil && w.Kind == "Service" {
				b.note(b.objects[s.Ref], codeServiceClash, Warning, "", "has the address %s, and so has %s, which gets the connections to it", a, name(w.Ref))
			} else if w == nil {
				owner[a] = s
			}
			taken[a] = true
		}
		if needsVIP(s) && (!b.opt.Cluster || s.Kind == "ServiceEntry") {
			names = append(names, vipKey(s))
		}
	}
	if b.opt.Cluster {
		b.allocate(names, taken)
		b.serviceClashes()
		return
	}
	vips := Allocate(b.opt.VIPs, names, taken)
	for _, s := range b.parts.Services {
		if a, ok := vips[vipKey(s)]; ok && needsVIP(s) {
			s.Addresses = []netip.Addr{a}
		} else if needsVIP(s) {
			b.note(b.objects[s.Ref], codeLimit, Error, "", "no address is left for it in %s: give it a clusterIP, or the mesh a larger prefix", b.opt.VIPs)
		}
	}
	b.serviceClashes()
}

// allocate gives the services of these names an address of each family, for those
// whose DNS the mesh answers. What has one keeps its meaning for everybody else: by
// its name, its port or its SNI.
func (b *builder) allocate(names []string, taken map[netip.Addr]bool) {
	if len(names) == 0 {
		return
	}
	for _, p := range Allocated() {
		b.prefix(p)
		addresses := Allocate(p, names, taken)
		for _, s := range b.parts.Services {
			if a, ok := addresses[vipKey(s)]; ok && s.Kind == "ServiceEntry" && needsVIP(s) {
				s.Allocated = append(s.Allocated, a)
			}
		}
	}
}

// needsVIP follows Istio: a ServiceEntry gets an address unless its host is a
// wildcard or its traffic goes where the application dialled.
func needsVIP(s *mesh.Service) bool {
	return len(s.Addresses) == 0 && len(s.CIDRs) == 0 && !s.Headless && !strings.HasPrefix(s.Host, "*") && s.Resolution != seinev1.Service_ORIGINAL
}

// vipKey is unique among the services that get an address. A Service's is its
// FQDN; ServiceEntries of several namespaces may share a host.
func vipKey(s *mesh.Service) string {
	if s.Kind == "Service" {
		return s.Host
	}
	return s.Host + "@" + s.Namespace
}

// serviceClashes reports hosts that two services of one namespace claim.
func (b *builder) serviceClashes() {
	type key struct{ host, namespace string }
	first := map[key]*mesh.Service{}
	out := b.parts.Services[:0]
	for _, s := range b.parts.Services {
		k := key{s.Host, s.Namespace}
		if w := first[k]; w != nil {
			b.note(b.objects[s.Ref], codeServiceClash, Warning, "", "claims the host %s, which %s has: that one holds; merge the two", s.Host, name(w.Ref))
			continue
		}
		first[k] = s
		out = append(out, s)
	}
	b.parts.Services = out
}
