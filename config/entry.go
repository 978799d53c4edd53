package config

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/mesh"
)

var serviceEntryFields = fields("hosts", "addresses", "ports.number", "ports.protocol", "ports.name", "ports.targetPort",
	"location", "resolution", "endpoints.address", "endpoints.ports.**", "endpoints.labels.**", "endpoints.locality",
	"endpoints.weight", "endpoints.serviceAccount", "workloadSelector.labels.**", "exportTo", "subjectAltNames")

func (b *builder) serviceEntry(o *object) {
	var spec networking.ServiceEntry
	_, ok := b.spec(o, &spec, serviceEntryFields)
	if !ok {
		return
	}
	d := &decoder{b: b, obj: o}
	base := mesh.Service{
		Ref: o.ref, External: spec.Location == networking.ServiceEntry_MESH_EXTERNAL,
		ExportTo: visible(spec.ExportTo, b.exports.service), SANs: spec.SubjectAltNames, Selector: spec.GetWorkloadSelector().GetLabels(),
	}
	switch spec.Resolution {
	case networking.ServiceEntry_NONE:
		base.Resolution = seinev1.Service_ORIGINAL
	case networking.ServiceEntry_STATIC:
		base.Resolution = seinev1.Service_STATIC
	default:
		base.Resolution = seinev1.Service_DNS
		if spec.Resolution == networking.ServiceEntry_DNS_ROUND_ROBIN {
			b.note(o, codeUnsupported, Info, "spec.resolution", "is treated as DNS: requests are balanced over all addresses of the name")
		} else if spec.Resolution != networking.ServiceEntry_DNS {
			b.unsupported(o, "spec.resolution")
		}
	}
	for i, a := range spec.Addresses {
		path := item("spec.addresses", i)
		if p, err := netip.ParsePrefix(a); err == nil {
			if p.IsSingleIP() {
				base.Addresses = append(base.Addresses, p.Addr().Unmap())
			} else {
				base.CIDRs = append(base.CIDRs, p.Masked())
			}
		} else if ip, err := netip.ParseAddr(a); err == nil {
			base.Addresses = append(base.Addresses, ip.Unmap())
		} else {
			d.fail(codeInvalid, path, nil, "%q is neither an IP address nor a CIDR such as 10.0.0.0/8", clip(a))
		}
	}
	seen := map[uint32]bool{}
	for i, p := range spec.Ports {
		path := item("spec.ports", i)
		switch {
		case p.Number < 1 || p.Number > 65535:
			d.fail(codeInvalid, path+".number", nil, "a port must be between 1 and 65535 (it is %d)", p.Number)
			continue
		case p.TargetPort > 65535:
			d.fail(codeInvalid, path+".targetPort", nil, "a port must be between 1 and 65535 (it is %d)", p.TargetPort)
			continue
		case seen[p.Number]:
			d.fail(codeInvalid, path+".number", nil, "the port %d is written twice", p.Number)
			continue
		}
		seen[p.Number] = true
		if p.Protocol != "" && !slices.Contains(istioProtocols, strings.ToUpper(p.Protocol)) {
			d.fail(codeInvalid, path+".protocol", nil, "%q is not a protocol: write one of %s%s", clip(p.Protocol), strings.Join(istioProtocols, ", "), didYouMean(p.Protocol, istioProtocols))
		}
		if strings.EqualFold(p.Protocol, "UDP") {
			b.note(o, codeUnsupported, Info, path+".protocol", "UDP does not pass through the mesh: this port is left alone")
			continue
		}
		base.Ports = append(base.Ports, mesh.Port{Name: p.Name, Number: p.Number, Target: p.TargetPort, Protocol: protocol(p.Name, p.Protocol, p.Number)})
	}
	if len(spec.Ports) == 0 {
		d.fail(codeInvalid, "spec.ports", nil, "a ServiceEntry must have at least one port")
	}
	if len(spec.Endpoints) > 0 && base.Selector != nil {
		d.fail(codeInvalid, "spec.endpoints", nil, "excludes workloadSelector: keep one of them")
	}
	if spec.WorkloadSelector != nil && len(base.Selector) == 0 {
		d.fail(codeInvalid, "spec.workloadSelector", nil, "must have labels: an empty one would select every workload of the namespace")
	}
	for i, e := range spec.Endpoints {
		path := item("spec.endpoints", i)
		ip, err := netip.ParseAddr(e.Address)
		switch {
		case e.Address == "" || strings.HasPrefix(e.Address, "unix://"):
			d.fail(codeInvalid, path+".address", nil, "must be an IP address or a DNS name (it is %q)", clip(e.Address))
		case err == nil && base.Resolution == seinev1.Service_ORIGINAL:
			d.fail(codeInvalid, path, nil, "resolution NONE sends each connection where it was dialled, so that endpoints cannot be: write resolution: STATIC")
		case err != nil && base.Resolution == seinev1.Service_STATIC:
			d.fail(codeInvalid, path+".address", nil, "%q is not an IP address: with names, write resolution: DNS", clip(e.Address))
		case err != nil && (!validHost(e.Address, false) || strings.Trim(e.Address, "0123456789.") == ""):
			d.fail(codeInvalid, path+".address", nil, "%q is neither an IP address nor a DNS name", clip(e.Address))
		}
		for _, name := range sortedKeys(e.Ports) {
			if !slices.ContainsFunc(spec.Ports, func(p *networking.ServicePort) bool { return p.Name == name }) {
				d.fail(codeInvalid, sub(path+".ports", name), nil, "no port of the ServiceEntry has the name %q", clip(name))
			}
			if e.Ports[name] < 1 || e.Ports[name] > 65535 {
				d.fail(codeInvalid, sub(path+".ports", name), nil, "a port must be between 1 and 65535 (it is %d)", e.Ports[name])
			}
		}
		address := strings.ToLower(e.Address)
		if err == nil {
			address = ip.Unmap().String()
		}
		base.Endpoints = append(base.Endpoints, mesh.Endpoint{
			Address: address, Ports: e.Ports, Labels: e.Labels, ServiceAccount: e.ServiceAccount,
			Namespace: o.ref.Namespace, Locality: place(e.Locality, e.Labels), Weight: e.Weight,
		})
	}
	if base.Resolution == seinev1.Service_STATIC && len(spec.Endpoints) == 0 && base.Selector == nil {
		b.note(o, codeEmptyService, Warning, "spec.resolution", "STATIC without endpoints and workloadSelector: nothing can be reached")
	}
	if len(spec.Hosts) == 0 {
		d.fail(codeInvalid, "spec.hosts", nil, "a ServiceEntry must have at least one host")
	}
	var services []*mesh.Service
	for i, h := range spec.Hosts {
		path := item("spec.hosts", i)
		if !validHost(h, true) || h == "*" {
			d.fail(codeInvalid, path, nil, "%q is not a DNS name (a wildcard is *.example.com)", clip(h))
			continue
		}
		s := base
		s.Host = strings.ToLower(strings.TrimSuffix(h, "."))
		if base.Resolution == seinev1.Service_DNS && len(base.Endpoints) == 0 && base.Selector == nil {
			if strings.HasPrefix(h, "*") {
				d.fail(codeInvalid, "spec.resolution", nil, "the wildcard %s cannot be resolved by DNS: write resolution: NONE, or endpoints", h)
				continue
			}
			s.Endpoints = []mesh.Endpoint{{Address: s.Host, Namespace: o.ref.Namespace}}
		}
		services = append(services, &s)
	}
	if !d.bad {
		b.parts.Services = append(b.parts.Services, services...)
	}
}

var istioProtocols = []string{"HTTP", "HTTPS", "HTTP2", "GRPC", "GRPC-WEB", "MONGO", "MYSQL", "REDIS", "TCP", "TLS", "UDP", "HTTP_PROXY"}

// The labels and annotations by which a WorkloadEntry says what it stands for.
const (
	LabelWorkload     = "seine.dev/workload" // the App that the instance belongs to
	AnnotationSidecar = "seine.dev/sidecar"  // "true": a proxy that speaks mutual TLS stands before it
	AnnotationHealthy = "seine.dev/healthy"  // "false": not to be picked
	AnnotationGateway = "seine.dev/gateway"  // "true": it is a gateway
	// Ports on which connections begin with a PROXY header, "8080,8443", and the
	// networks from which they do, "10.0.0.0/8,192.0.2.1"; none: from everywhere.
	AnnotationProxyProtocol     = "seine.dev/proxy-protocol"
	AnnotationProxyProtocolFrom = "seine.dev/proxy-protocol-from"
	// "true": the sidecar answers what its pod asks DNS.
	AnnotationDNS  = "seine.dev/dns-capture"
	labelTLSMode   = "security.istio.io/tlsMode"
	labelIstioName = "service.istio.io/workload-name"
)

var workloadEntryFields = fields("address", "ports.**", "labels.**", "locality", "weight", "serviceAccount")

func (b *builder) workloadEntry(o *object) {
	var spec networking.WorkloadEntry
	if _, ok := b.spec(o, &spec, workloadEntryFields); !ok {
		return
	}
	labels := maps.Clone(spec.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, o.labels) // as Istio: the metadata's win
	marked := func(key string) bool { return o.annotations[key] == "true" || labels[key] == "true" }
	w := &mesh.Workload{
		Ref: o.ref, Instance: o.ref.Name, App: firstOf(labels[LabelWorkload], o.annotations[LabelWorkload], labels[labelIstioName], o.ref.Name),
		Labels: labels, ServiceAccount: firstOf(spec.ServiceAccount, "default"), Ports: spec.Ports,
		Sidecar:   marked(AnnotationSidecar) || labels[labelTLSMode] == "istio",
		Gateway:   marked(AnnotationGateway),
		Unhealthy: o.annotations[AnnotationHealthy] == "false" || labels[AnnotationHealthy] == "false",
		Locality:  place(spec.Locality, labels), Weight: spec.Weight,
	}
	if v := o.annotations[AnnotationProxyConfig]; v != "" {
		var problems []string
		w.Tracing, problems = ProxyTracing(v)
		for _, p := range problems {
			b.note(o, codeUnsupported, Warning, "metadata.annotations."+AnnotationProxyConfig, "%s", p)
		}
	}
	for _, name := range sortedKeys(spec.Ports) {
		if p := spec.Ports[name]; p < 1 || p > 65535 {
			b.refuse(o, codeInvalid, sub("spec.ports", name), "a port must be between 1 and 65535 (it is %d)", p)
			return
		}
	}
	intro, err := introduced(o.annotations)
	if err != nil {
		b.refuse(o, codeInvalid, "metadata.annotations", "%v", err)
		return
	}
	w.Introduced = intro
	a, err := netip.ParseAddr(spec.Address)
	switch {
	case err == nil:
		w.Addresses = []netip.Addr{a.Unmap()}
	case spec.Address == "":
		b.refuse(o, codeInvalid, "spec.address", "a WorkloadEntry must have an address")
		return
	case validHost(spec.Address, false) && strings.Trim(spec.Address, "0123456789.") != "":
		b.note(o, codeUnsupported, Warning, "spec.address", "a DNS name as the address of a WorkloadEntry is not implemented in this version: write an IP address, or the name as an endpoint of a ServiceEntry")
	default:
		b.refuse(o, codeInvalid, "spec.address", "%q is not an IP address", clip(spec.Address))
		return
	}
	b.parts.Workloads = append(b.parts.Workloads, w)
}

func firstOf(s ...string) string {
	for _, v := range s {
		if v != "" {
			return v
		}
	}
	return ""
}

// podTemplate takes the workloads that a Deployment, a Pod … would make.
func (b *builder) podTemplate(o *object) {
	b.note(o, codeKindSkipped, Info, "", "a %s is not run from files: only its pods' labels are looked at", o.ref.Kind)
	if o.ref.Name == "" {
		return
	}
	meta, spec := child(o.tree(), "metadata"), child(o.tree(), "spec")
	replicas := 1
	if o.ref.Kind != "Pod" {
		if n := text(child(spec, "replicas")); n != "" {
			_, _ = fmt.Sscan(n, &replicas)
		}
		t := child(spec, "template")
		meta, spec = child(t, "metadata"), child(t, "spec")
	}
	pairs := func(n any) map[string]string {
		out := map[string]string{}
		if m, ok := n.(map[string]any); ok {
			for k, v := range m {
				out[k] = fmt.Sprint(v)
			}
		}
		return out
	}
	d := &decoder{b: &builder{result: &Result{}, perFile: map[string]int{}}, obj: o}
	labels, annotations := map[string]string{}, map[string]string{}
	if n := child(meta, "labels"); !isNull(n) {
		labels = pairs(d.any(n, "", 0))
	}
	if n := child(meta, "annotations"); !isNull(n) {
		annotations = pairs(d.any(n, "", 0))
	}
	ports := map[string]uint32{}
	if containers, ok := d.any(child(spec, "containers"), "", 0).([]any); ok {
		for _, c := range containers {
			c, _ := c.(map[string]any)
			list, _ := c["ports"].([]any)
			for _, p := range list {
				p, _ := p.(map[string]any)
				name, _ := p["name"].(string)
				number, _ := p["containerPort"].(float64)
				if name != "" && number > 0 && number < 65536 {
					ports[name] = uint32(number)
				}
			}
		}
	}
	sidecar := annotations["sidecar.istio.io/inject"] != "false" && labels["sidecar.istio.io/inject"] != "false"
	for i := range max(0, min(replicas, maxReplicas)) {
		instance := instanceName(o.ref.Name, i+1)
		if o.ref.Kind == "Pod" {
			instance = o.ref.Name
		}
		b.paper = append(b.paper, &mesh.Workload{
			Ref: o.ref, Instance: instance, App: o.ref.Name, Labels: labels, Ports: ports, Sidecar: sidecar,
			ServiceAccount: firstOf(text(child(spec, "serviceAccountName")), text(child(spec, "serviceAccount")), "default"),
		})
	}
}

// introduced reads a workload's annotations about the PROXY protocol.
func introduced(annotations map[string]string) (*mesh.Introduced, error) {
	i, err := mesh.ParseIntroduced(annotations[AnnotationProxyProtocol], annotations[AnnotationProxyProtocolFrom])
	if err != nil {
		return nil, fmt.Errorf("%s, %s: %w", AnnotationProxyProtocol, AnnotationProxyProtocolFrom, err)
	}
	return i, nil
}
