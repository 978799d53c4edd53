package config

import (
	"fmt"
	"strings"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/mesh"
)

// mtls finds DestinationRules that make callers speak what servers refuse: the
// classic 503 of Istio's users.
func (a *analysis) mtls() {
	for _, dr := range a.b.parts.DestinationRules {
		if a.policyTLS(dr, dr.Policy, 0, "spec.trafficPolicy.tls.mode") {
			continue
		}
		for _, p := range sortedPorts(dr.PortPolicies) {
			a.policyTLS(dr, dr.PortPolicies[p], p, "spec.trafficPolicy.portLevelSettings")
		}
		for i, s := range a.ownSubsets(dr) {
			path := item("spec.subsets", i) + ".trafficPolicy.tls.mode"
			if s.Policy.GetTls() != dr.Policy.GetTls() { // its own, not the host's
				a.policyTLS(dr, s.Policy, 0, path)
			}
		}
	}
}

// policyTLS reports one conflict of policy p on port (0: all) and whether there was one.
func (a *analysis) policyTLS(dr *mesh.DestinationRule, p *seinev1.TrafficPolicy, port uint32, path string) bool {
	mode := p.GetTls()
	if mode != seinev1.TrafficPolicy_TLS_DISABLE && mode != seinev1.TrafficPolicy_ISTIO_MUTUAL {
		return false
	}
	services := a.services[dr.Host]
	if strings.HasPrefix(dr.Host, "*") {
		services = a.b.parts.Services
	}
	for _, s := range services {
		if s.Host != dr.Host && !strings.HasSuffix(s.Host, dr.Host[1:]) || !mesh.Visible(dr.ExportTo, dr.Namespace, s.Namespace) && dr.Namespace != s.Namespace {
			continue
		}
		if s.External && mode == seinev1.TrafficPolicy_ISTIO_MUTUAL && len(s.SANs) == 0 {
			a.note(dr.Ref, codeMTLSConflict, Warning, path, "%s is outside the mesh (MESH_EXTERNAL), where nobody speaks the mesh's mutual TLS: use DISABLE, or SIMPLE", s.Host)
			return true
		}
		for _, w := range a.members(s) {
			for _, sp := range s.Ports {
				target, ok := sp.TargetOn(w)
				if !ok || port != 0 && sp.Number != port || p != dr.PortPolicies[sp.Number] && dr.PortPolicies[sp.Number] != nil {
					continue
				}
				server, source := a.serverMode(w, target, s, sp.Number)
				switch {
				case mode == seinev1.TrafficPolicy_TLS_DISABLE && server == seinev1.MtlsMode_MTLS_STRICT && w.Sidecar:
					a.note(dr.Ref, codeMTLSConflict, Error, path, "callers of %s send plaintext because of this, but %s makes its workload %s STRICT on port %d, so that every request fails (503): remove tls, or write ISTIO_MUTUAL", s.Host, name(source.Ref), w.Key(), target)
					return true
				case mode == seinev1.TrafficPolicy_ISTIO_MUTUAL && !w.Sidecar:
					a.note(dr.Ref, codeMTLSConflict, Warning, path, "callers of %s use mutual TLS because of this, but its workload %s has no sidecar, so that requests to it fail (503): leave tls out, and each endpoint gets what it can", s.Host, w.Key())
					return true
				case mode == seinev1.TrafficPolicy_ISTIO_MUTUAL && server == seinev1.MtlsMode_MTLS_DISABLE:
					a.note(dr.Ref, codeMTLSConflict, Error, path, "callers of %s use mutual TLS because of this, but %s makes its workload %s take plaintext on port %d, so that every request fails (503): remove tls, or change the policy", s.Host, name(source.Ref), w.Key(), target)
					return true
				}
			}
		}
	}
	return false
}

// serverMode is what w's port demands, by Istio's precedence: the port of a
// workload's policy, the workload, the namespace, the mesh; legacy targets are
// policies of workloads. It is only for messages: what runs is decided elsewhere.
func (a *analysis) serverMode(w *mesh.Workload, port uint32, s *mesh.Service, servicePort uint32) (seinev1.MtlsMode, *mesh.PeerAuthentication) {
	level := func(p *mesh.PeerAuthentication) int {
		switch {
		case len(p.Services) > 0:
			ports, ok := p.Services[s.Host]
			if !ok {
				return 0
			}
			for _, n := range ports {
				if n == servicePort {
					return 4
				}
			}
			if len(ports) == 0 {
				return 3
			}
			return 0
		case len(p.Selector) > 0:
			if p.Namespace != w.Namespace || p.Namespace == a.b.settings.RootNamespace || !mesh.Selects(p.Selector, w.Labels) {
				return 0
			}
			if p.Ports[port] != seinev1.MtlsMode_MTLS_UNSPECIFIED {
				return 4
			}
			return 3
		case p.MeshWide || p.Kind == "PeerAuthentication" && p.Namespace == a.b.settings.RootNamespace:
			return 1
		case p.Namespace == w.Namespace:
			return 2
		}
		return 0
	}
	mode, best := seinev1.MtlsMode_MTLS_PERMISSIVE, 0
	var source *mesh.PeerAuthentication
	for _, p := range a.b.parts.PeerAuth {
		l, m := level(p), p.Mode
		if l == 4 && len(p.Selector) > 0 {
			m = p.Ports[port]
		}
		if l > best && m != seinev1.MtlsMode_MTLS_UNSPECIFIED {
			mode, best, source = m, l, p
		}
	}
	if source == nil {
		source = &mesh.PeerAuthentication{Ref: mesh.Ref{Kind: fmt.Sprintf("the default (%s)", mode)}}
	}
	return mode, source
}
