package config

import (
	"net/netip"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/seinemesh/seine/mesh"
)

var sidecarFields = fields("workloadSelector.labels.**", "egress.hosts", "egress.port.number", "egress.port.name", "egress.port.protocol",
	"outboundTrafficPolicy.mode", "ingress.port.number", "ingress.port.protocol", "ingress.port.name", "ingress.defaultEndpoint")

// sidecar reads Istio's Sidecar. Its lists of hosts are there to keep proxies
// small, which they are here without; they restrict what may be called only
// together with REGISTRY_ONLY, as under ALLOW_ANY Istio, too, lets everything pass.
func (b *builder) sidecar(o *object) {
	var spec networking.Sidecar
	if _, ok := b.spec(o, &spec, sidecarFields); !ok {
		return
	}
	d := &decoder{b: b, obj: o}
	out := &mesh.Sidecar{Ref: o.ref, Selector: spec.GetWorkloadSelector().GetLabels()}
	for i, e := range spec.Egress {
		path := item("spec.egress", i)
		if len(e.Hosts) == 0 {
			d.fail(codeInvalid, path+".hosts", nil, "must name at least one host: NAMESPACE/HOST, where either may be \"*\"")
		}
		if n := e.GetPort().GetNumber(); n > 65535 {
			d.fail(codeInvalid, path+".port.number", nil, "a port must be between 1 and 65535 (it is %d)", n)
		}
		for j, h := range e.Hosts {
			namespace, host, ok := strings.Cut(h, "/")
			host = strings.ToLower(host)
			if !ok || namespace == "" || !validHost(host, true) {
				d.fail(codeInvalid, item(path+".hosts", j), nil, "%q is not NAMESPACE/HOST: the namespace may be \"*\" (every one), \".\" (the Sidecar's own) or \"~\" (none), the host \"*\" or begin with \"*.\"", clip(h))
				continue
			}
			if namespace == "." {
				namespace = o.ref.Namespace
			}
			out.Egress = append(out.Egress, mesh.Egress{Port: e.GetPort().GetNumber(), Namespace: namespace, Host: host})
		}
	}
	for i, l := range spec.Ingress {
		if in, ok := ingress(d, l, item("spec.ingress", i)); ok {
			if slices.ContainsFunc(out.Ingress, func(other mesh.Ingress) bool { return other.Port == in.Port }) {
				d.fail(codeInvalid, item("spec.ingress", i)+".port.number", nil, "the port %d is written twice", in.Port)
			}
			out.Ingress = append(out.Ingress, in)
		}
	}
	if p := spec.OutboundTrafficPolicy; p != nil {
		only := p.Mode == networking.OutboundTrafficPolicy_REGISTRY_ONLY
		out.RegistryOnly = &only
	}
	if len(out.Selector) > 0 && o.ref.Namespace == b.settings.RootNamespace {
		b.note(o, codePolicyTarget, Warning, "spec.workloadSelector", "in the root namespace (%s) a Sidecar with a selector holds for workloads of that namespace alone", o.ref.Namespace)
	}
	if !d.bad {
		b.parts.Sidecars = append(b.parts.Sidecars, out)
	}
}

// ingress reads a listener for what comes in.
func ingress(d *decoder, l *networking.IstioIngressListener, path string) (in mesh.Ingress, ok bool) {
	p := l.GetPort()
	if p.GetNumber() < 1 || p.GetNumber() > 65535 {
		d.fail(codeInvalid, path+".port.number", nil, "a port must be between 1 and 65535 (it is %d)", p.GetNumber())
		return in, false
	}
	if v := p.GetProtocol(); v != "" && !slices.Contains(istioProtocols, strings.ToUpper(v)) {
		d.fail(codeInvalid, path+".port.protocol", nil, "%q is not a protocol: write one of %s%s", clip(v), strings.Join(istioProtocols, ", "), didYouMean(v, istioProtocols))
		return in, false
	}
	in = mesh.Ingress{Port: p.GetNumber(), Protocol: protocol(p.GetName(), p.GetProtocol(), p.GetNumber())}
	if l.DefaultEndpoint == "" {
		return in, true
	}
	at := path + ".defaultEndpoint"
	if strings.HasPrefix(l.DefaultEndpoint, "unix:") {
		d.fail(codeInvalid, at, nil, "an application is not reached by a unix socket in this version: let it listen at a port, and write 127.0.0.1:PORT")
		return in, false
	}
	to, err := netip.ParseAddrPort(l.DefaultEndpoint)
	if err != nil || to.Port() == 0 || !to.Addr().IsLoopback() && !to.Addr().IsUnspecified() {
		d.fail(codeInvalid, at, nil, "%q is no place of the application's own: write 127.0.0.1:PORT, [::1]:PORT, or 0.0.0.0:PORT for the address that was dialled", clip(l.DefaultEndpoint))
		return in, false
	}
	in.Endpoint = to
	return in, true
}
