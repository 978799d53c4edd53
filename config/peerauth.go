package config

import (
	"slices"
	"strconv"
	"strings"

	security "istio.io/api/security/v1beta1"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/mesh"
)

var peerAuthenticationFields = fields("selector.**", "mtls.**", "portLevelMtls.**")

var mtlsModes = map[security.PeerAuthentication_MutualTLS_Mode]seinev1.MtlsMode{
	security.PeerAuthentication_MutualTLS_DISABLE:    seinev1.MtlsMode_MTLS_DISABLE,
	security.PeerAuthentication_MutualTLS_PERMISSIVE: seinev1.MtlsMode_MTLS_PERMISSIVE,
	security.PeerAuthentication_MutualTLS_STRICT:     seinev1.MtlsMode_MTLS_STRICT,
}

func (b *builder) peerAuthentication(o *object) {
	var spec security.PeerAuthentication
	if _, ok := b.spec(o, &spec, peerAuthenticationFields); !ok {
		return
	}
	d := &decoder{b: b, obj: o}
	pa := &mesh.PeerAuthentication{Ref: o.ref, Selector: spec.GetSelector().GetMatchLabels(), Mode: mtlsModes[spec.GetMtls().GetMode()]}
	for n, m := range spec.PortLevelMtls {
		if n < 1 || n > 65535 {
			d.fail(codeInvalid, sub("spec.portLevelMtls", strconv.FormatUint(uint64(n), 10)), nil, "a port must be between 1 and 65535 (it is %d)", n)
			continue
		}
		if pa.Ports == nil {
			pa.Ports = map[uint32]seinev1.MtlsMode{}
		}
		pa.Ports[n] = mtlsModes[m.GetMode()]
	}
	if len(pa.Ports) > 0 && len(pa.Selector) == 0 {
		d.fail(codeInvalid, "spec.portLevelMtls", nil, "needs a selector: ports are those of workloads, not of a namespace")
	}
	if len(pa.Selector) > 0 && o.ref.Namespace == b.settings.RootNamespace {
		b.note(o, codePolicyTarget, Warning, "spec.selector", "has no effect: a selector in the root namespace (%s) selects nothing, as in Istio; remove the selector, so that it holds for the whole mesh, or move it to the workloads' namespace", o.ref.Namespace)
	}
	if o.ref.Namespace == "istio-system" && b.settings.RootNamespace != "istio-system" && len(pa.Selector) == 0 {
		b.note(o, codeRootNamespace, Warning, "metadata.namespace", "holds for istio-system only, which is not this mesh's root namespace: for the whole mesh, move it to %s", b.settings.RootNamespace)
	}
	if !d.bad {
		b.parts.PeerAuth = append(b.parts.PeerAuth, pa)
	}
}

// legacyPolicySpec is Policy of authentication.istio.io/v1alpha1, as Istio 1.1
// had it (istio.io/api/authentication/v1alpha1/policy.proto).
type legacyPolicySpec struct {
	Targets          []legacyTarget `json:"targets"`
	Peers            []legacyPeer   `json:"peers"`
	PeerIsOptional   bool           `json:"peerIsOptional"`
	Origins          []any          `json:"origins"`
	OriginIsOptional bool           `json:"originIsOptional"`
	PrincipalBinding string         `json:"principalBinding"`
}

type legacyTarget struct {
	Name   string             `json:"name"`
	Ports  []legacyTargetPort `json:"ports"`
	Subset string             `json:"subset"`
	Labels map[string]string  `json:"labels"`
}

type legacyTargetPort struct {
	Number uint32 `json:"number"`
	Name   string `json:"name"`
}

type legacyPeer struct {
	MTLS *legacyMTLS `json:"mtls"`
	JWT  any         `json:"jwt"`
}

type legacyMTLS struct {
	Mode     string `json:"mode"`
	AllowTLS bool   `json:"allowTls"`
}

// legacyPolicy reads the MeshPolicy and the Policy of 2019: mtls {} is STRICT,
// no peers at all are plaintext.
func (b *builder) legacyPolicy(o *object) {
	var spec legacyPolicySpec
	if !b.goSpec(o, &spec) {
		return
	}
	d := &decoder{b: b, obj: o}
	meshWide := o.ref.Kind == "MeshPolicy"
	pa := &mesh.PeerAuthentication{Ref: o.ref, MeshWide: meshWide, Mode: seinev1.MtlsMode_MTLS_DISABLE}
	if len(spec.Origins) > 0 {
		d.fail(codeSecurity, "spec.origins", nil, "authentication by token is not implemented in this version: refused rather than run open")
	}
	if spec.PeerIsOptional {
		b.note(o, codeUnsupported, Warning, "spec.peerIsOptional", "is not implemented in this version: the peer is required")
	}
	if spec.PrincipalBinding != "" && !slices.Contains([]string{"USE_PEER", "USE_ORIGIN"}, spec.PrincipalBinding) {
		d.fail(codeType, "spec.principalBinding", nil, "must be USE_PEER or USE_ORIGIN, not %q", clip(spec.PrincipalBinding))
	}
	peers := child(child(o.tree(), "spec"), "peers")
	for i, p := range spec.Peers {
		path := item("spec.peers", i)
		if p.JWT != nil {
			d.fail(codeSecurity, path+".jwt", nil, "authentication by token is not implemented in this version: refused rather than run open")
			continue
		}
		if p.MTLS == nil {
			// "mtls:" alone is the empty message, which is STRICT, as in Istio
			if peers != nil && i < len(peers.Content) && child(resolve(peers.Content[i]), "mtls") != nil {
				p.MTLS = &legacyMTLS{}
			} else {
				d.fail(codeInvalid, path, nil, "a peer must say how it is authenticated: mtls: {}")
				continue
			}
		}
		if i > 0 {
			b.note(o, codePolicyClash, Warning, path, "has no effect: the first peer holds")
			continue
		}
		switch p.MTLS.Mode {
		case "", "STRICT":
			pa.Mode = seinev1.MtlsMode_MTLS_STRICT
		case "PERMISSIVE":
			pa.Mode = seinev1.MtlsMode_MTLS_PERMISSIVE
		default:
			modes := []string{"STRICT", "PERMISSIVE"}
			d.fail(codeType, path+".mtls.mode", nil, "must be STRICT or PERMISSIVE, not %q%s", clip(p.MTLS.Mode), didYouMean(p.MTLS.Mode, modes))
		}
		if p.MTLS.AllowTLS {
			b.note(o, codeUnsupported, Warning, path+".mtls.allowTls", "is not implemented in this version: clients must present a certificate")
		}
	}
	for i, t := range spec.Targets {
		path := item("spec.targets", i)
		if t.Name == "" || strings.Contains(t.Name, ".") || !validHost(t.Name, false) {
			d.fail(codeInvalid, path+".name", nil, "must be the short name of a service of namespace %s (it is %q)", o.ref.Namespace, clip(t.Name))
			continue
		}
		if t.Subset != "" || len(t.Labels) > 0 {
			d.fail(codeSecurity, path, nil, "targets by subset or labels are not implemented in this version: refused; use a PeerAuthentication with a selector")
		}
		if pa.Services == nil {
			pa.Services = map[string][]uint32{}
		}
		host := b.fqdn(t.Name, o.ref.Namespace)
		ports := pa.Services[host]
		for j, p := range t.Ports {
			at := item(path+".ports", j)
			switch {
			case p.Name != "":
				b.namedTargets = append(b.namedTargets, namedTarget{pa, o, host, p.Name, at})
				ports = slices.Clip(ports)
			case p.Number < 1 || p.Number > 65535:
				d.fail(codeInvalid, at+".number", nil, "a port must be between 1 and 65535 (it is %d)", p.Number)
			default:
				ports = append(ports, p.Number)
			}
		}
		pa.Services[host] = ports
	}
	switch {
	case meshWide && o.ref.Name != "default":
		d.fail(codeInvalid, "metadata.name", nil, "the MeshPolicy must have the name default, as there is only one")
	case meshWide && len(spec.Targets) > 0:
		d.fail(codeInvalid, "spec.targets", nil, "a MeshPolicy holds for the whole mesh and has no targets: use a Policy")
	case !meshWide && (o.ref.Name == "default") != (len(spec.Targets) == 0):
		d.fail(codeInvalid, "spec.targets", nil, "a Policy with the name default has no targets and holds for its namespace; every other must have targets")
	}
	if !d.bad {
		b.note(o, codeDeprecated, Info, "apiVersion", "Istio has replaced %s by PeerAuthentication (security.istio.io/v1) since 1.5; it is still read", o.ref.Kind)
		b.parts.PeerAuth = append(b.parts.PeerAuth, pa)
	}
}

// namedTarget is a port that a legacy Policy names; its number is known when all
// services are.
type namedTarget struct {
	policy *mesh.PeerAuthentication
	o      *object
	host   string
	port   string
	path   string
}

// mergePolicies resolves named ports and drops policies that another one at the
// same place beats: PeerAuthentication before the legacy kinds, then the first.
func (b *builder) mergePolicies() {
	for _, t := range b.namedTargets {
		var number uint32
		for _, s := range b.parts.Services {
			if s.Host != t.host || s.Namespace != t.o.ref.Namespace {
				continue
			}
			for _, p := range s.Ports {
				if p.Name == t.port {
					number = p.Number
				}
			}
		}
		if number == 0 {
			// An empty list would mean every port: the policy would hold for more
			// than it says.
			b.refuse(t.o, codeNoPort, t.path+".name", "no service %s with a port named %q: write the number, or name the port", t.host, clip(t.port))
			b.parts.PeerAuth = slices.DeleteFunc(b.parts.PeerAuth, func(p *mesh.PeerAuthentication) bool { return p == t.policy })
			continue
		}
		t.policy.Services[t.host] = append(t.policy.Services[t.host], number)
	}
	place := func(p *mesh.PeerAuthentication) (string, bool) {
		switch {
		case len(p.Selector) > 0 || len(p.Services) > 0:
			return "", false
		case p.MeshWide || p.Namespace == b.settings.RootNamespace:
			return "the whole mesh", true
		}
		return "namespace " + p.Namespace, true
	}
	legacy := func(p *mesh.PeerAuthentication) bool { return p.Kind != "PeerAuthentication" }
	first := map[string]*mesh.PeerAuthentication{}
	for _, p := range b.parts.PeerAuth {
		if where, ok := place(p); ok && (first[where] == nil || legacy(first[where]) && !legacy(p)) {
			first[where] = p
		}
	}
	var out []*mesh.PeerAuthentication
	for _, p := range b.parts.PeerAuth {
		if where, ok := place(p); ok && first[where] != p {
			w := first[where]
			b.note(b.objects[p.Ref], codePolicyClash, Warning, "", "has no effect: %s holds for %s; remove one of them", name(w.Ref), where)
			continue
		}
		out = append(out, p)
	}
	b.parts.PeerAuth = out
}
