package config

import (
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/seinemesh/seine/mesh"
)

var sidecarFields = fields("workloadSelector.labels.**", "egress.hosts", "egress.port.number", "egress.port.name", "egress.port.protocol",
	"outboundTrafficPolicy.mode")

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
