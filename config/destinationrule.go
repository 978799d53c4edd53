package config

import (
	"maps"
	"slices"
	"strconv"

	networking "istio.io/api/networking/v1alpha3"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/mesh"
)

func policyFields(prefix string) []string {
	var out []string
	for _, p := range append(append([]string{
		"tls.mode", "tls.sni", "tls.subjectAltNames", "tls.caCertificates", "tls.caCrl", "tls.clientCertificate", "tls.privateKey", "tls.insecureSkipVerify", "tls.credentialName",
	}, balancerFields...), resilienceFields...) {
		out = append(out, prefix+"."+p, prefix+".portLevelSettings."+p)
	}
	return append(out, prefix+".proxyProtocol.version", prefix+".portLevelSettings.port.number", prefix+".retryBudget.percent", prefix+".retryBudget.minRetryConcurrency")
}

var destinationRuleFields = fields(append(append(policyFields("trafficPolicy"), policyFields("subsets.trafficPolicy")...),
	"host", "exportTo", "workloadSelector.matchLabels.**", "subsets.name", "subsets.labels.**")...)

func (b *builder) destinationRule(o *object) {
	var spec networking.DestinationRule
	unsupported, ok := b.spec(o, &spec, destinationRuleFields)
	if !ok {
		return
	}
	c := &policyConverter{b: b, o: o, d: &decoder{b: b, obj: o}, unsupported: unsupported}
	if !validHost(spec.Host, true) {
		c.d.fail(codeInvalid, "spec.host", nil, "%q is not a host: write the name of a service", clip(spec.Host))
	}
	dr := &mesh.DestinationRule{
		Ref: o.ref, Host: b.fqdn(spec.Host, o.ref.Namespace), ExportTo: visible(spec.ExportTo, b.exports.destinationRule),
		WorkloadSelector: spec.GetWorkloadSelector().GetMatchLabels(),
	}
	o.subsets = len(spec.Subsets)
	raw := &rawRule{rule: dr, host: c.policy(spec.TrafficPolicy, "spec.trafficPolicy")}
	seen := map[string]bool{}
	for i, s := range spec.Subsets {
		path := item("spec.subsets", i)
		switch {
		case s.Name == "":
			c.d.fail(codeInvalid, path+".name", nil, "a subset must have a name")
			continue
		case len(s.Name) > 63 || !validHost(s.Name, false):
			c.d.fail(codeInvalid, path+".name", nil, "%q is no name of a subset: use letters, digits and -", clip(s.Name))
			continue
		case seen[s.Name]:
			c.d.fail(codeInvalid, path+".name", nil, "the subset %s is written twice", s.Name)
			continue
		}
		seen[s.Name] = true
		raw.subsets = append(raw.subsets, c.policy(s.TrafficPolicy, path+".trafficPolicy"))
		dr.Subsets = append(dr.Subsets, mesh.Subset{Name: s.Name, Labels: s.Labels})
	}
	for _, path := range c.unsupported {
		dr.Unsupported = append(dr.Unsupported, whereUnsupported(&spec, path))
	}
	if !c.d.bad {
		b.rules = append(b.rules, raw)
	}
}

// whereUnsupported says for which calls a path of a DestinationRule matters.
func whereUnsupported(spec *networking.DestinationRule, path string) mesh.Unsupported {
	u := mesh.Unsupported{Path: path}
	policy := spec.TrafficPolicy
	at := segments(path)
	if len(at) > 2 && at[1] == "subsets" {
		if i, err := strconv.Atoi(at[2]); err == nil && i < len(spec.Subsets) {
			u.Subset, policy = spec.Subsets[i].Name, spec.Subsets[i].TrafficPolicy
		}
	}
	if i := slices.Index(at, "portLevelSettings"); i > 0 && i+1 < len(at) {
		if n, err := strconv.Atoi(at[i+1]); err == nil && n < len(policy.GetPortLevelSettings()) {
			u.Port = policy.PortLevelSettings[n].GetPort().GetNumber()
		}
	}
	return u
}

// rawRule is a DestinationRule whose policies are not laid over each other yet:
// that comes after rules for one host are merged.
type rawRule struct {
	rule    *mesh.DestinationRule
	host    *policy
	subsets []*policy // as rule.Subsets
}

// finish lays each subset's policy over the host's.
func (r *rawRule) finish() *mesh.DestinationRule {
	if r.host != nil {
		r.rule.Policy = r.host.top.proto()
		for p, l := range r.host.ports {
			if r.rule.PortPolicies == nil {
				r.rule.PortPolicies = map[uint32]*seinev1.TrafficPolicy{}
			}
			l.budget, l.intro = r.host.top.budget, r.host.top.intro
			r.rule.PortPolicies[p] = l.protoOrDefault()
		}
	}
	for i := range r.rule.Subsets {
		s := &r.rule.Subsets[i]
		s.Policy = subsetPolicy(r.host, r.subsets[i], 0).proto()
		for _, p := range []*policy{r.host, r.subsets[i]} {
			if p == nil {
				continue
			}
			for n := range p.ports {
				if s.PortPolicies == nil {
					s.PortPolicies = map[uint32]*seinev1.TrafficPolicy{}
				}
				s.PortPolicies[n] = subsetPolicy(r.host, r.subsets[i], n).protoOrDefault()
			}
		}
	}
	return r.rule
}

// layer is one trafficPolicy's parts, each nil where it says nothing: Istio lays
// them over each other part by part, never field by field.
type layer struct {
	pool *networking.ConnectionPoolSettings
	lb   *networking.LoadBalancerSettings
	tls  *networking.ClientTLSSettings
	out  *networking.OutlierDetection
	// budget and intro are of the host or the subset: ports have none of their own.
	budget *seinev1.RetryBudget
	intro  *networking.TrafficPolicy_ProxyProtocol
}

// policy is a trafficPolicy with its ports.
type policy struct {
	top   layer
	ports map[uint32]layer
}

// at is the policy on a port: a port's settings do not inherit (DestinationRule
// portLevelSettings: "settings specified at the destination-level will not be
// inherited when overridden by port-level settings").
func (p *policy) at(port uint32) layer {
	if p == nil {
		return layer{}
	}
	if l, ok := p.ports[port]; ok {
		l.budget, l.intro = p.top.budget, p.top.intro
		return l
	}
	return p.top
}

// subsetPolicy is Istio's MergeSubsetTrafficPolicy.
func subsetPolicy(host, over *policy, port uint32) layer {
	l, o := host.at(port), over.at(port)
	if over != nil {
		if _, ok := over.ports[port]; ok {
			if o.budget == nil {
				o.budget = l.budget
			}
			if o.intro == nil {
				o.intro = l.intro
			}
			return o
		}
	}
	if o.pool != nil {
		l.pool = o.pool
	}
	if o.lb != nil {
		l.lb = o.lb
	}
	if o.tls != nil {
		l.tls = o.tls
	}
	if o.out != nil {
		l.out = o.out
	}
	if o.budget != nil {
		l.budget = o.budget
	}
	if o.intro != nil {
		l.intro = o.intro
	}
	return l
}

// protoOrDefault is never nil: a port's settings that say nothing still replace
// the host's.
func (l layer) protoOrDefault() *seinev1.TrafficPolicy {
	if p := l.proto(); p != nil {
		return p
	}
	return &seinev1.TrafficPolicy{}
}

// proto is nil for a layer that says nothing.
func (l layer) proto() *seinev1.TrafficPolicy {
	if l == (layer{}) {
		return nil
	}
	out := &seinev1.TrafficPolicy{ConnectTimeout: l.pool.GetTcp().GetConnectTimeout(), Pool: poolProto(l.pool), Outlier: outlierProto(l.out), RetryBudget: l.budget}
	balancing(out, l.lb)
	versionProto(out, l.pool)
	if l.intro != nil {
		out.ProxyProtocol = 1
		if l.intro.Version == networking.TrafficPolicy_ProxyProtocol_V2 {
			out.ProxyProtocol = 2
		}
	}
	if l.tls != nil {
		out.Sni, out.SubjectAltNames = l.tls.Sni, l.tls.SubjectAltNames
		out.Originate = originateProto(l.tls)
		out.Tls = map[networking.ClientTLSSettings_TLSmode]seinev1.TrafficPolicy_Tls{
			networking.ClientTLSSettings_DISABLE:      seinev1.TrafficPolicy_TLS_DISABLE,
			networking.ClientTLSSettings_SIMPLE:       seinev1.TrafficPolicy_SIMPLE,
			networking.ClientTLSSettings_MUTUAL:       seinev1.TrafficPolicy_MUTUAL,
			networking.ClientTLSSettings_ISTIO_MUTUAL: seinev1.TrafficPolicy_ISTIO_MUTUAL,
		}[l.tls.Mode]
	}
	return out
}

type policyConverter struct {
	b           *builder
	o           *object
	d           *decoder
	unsupported []string
}

func (c *policyConverter) layer(l layer, path string) layer {
	c.pool(l.pool, path+".connectionPool")
	c.outlier(l.out, path+".outlierDetection")
	c.balancer(l.lb, path+".loadBalancer")
	tls := l.tls
	if tls != nil {
		switch tls.Mode {
		case networking.ClientTLSSettings_SIMPLE, networking.ClientTLSSettings_MUTUAL:
			c.credential(tls, path+".tls")
			if tls.Mode == networking.ClientTLSSettings_MUTUAL && tls.CredentialName == "" && (tls.ClientCertificate == "" || tls.PrivateKey == "") {
				c.d.fail(codeInvalid, path+".tls", nil, "MUTUAL needs clientCertificate and privateKey, or credentialName")
			}
		case networking.ClientTLSSettings_ISTIO_MUTUAL:
			if tls.ClientCertificate != "" || tls.PrivateKey != "" || tls.CaCertificates != "" || tls.CaCrl != "" || tls.CredentialName != "" {
				c.d.fail(codeInvalid, path+".tls", nil, "ISTIO_MUTUAL uses the mesh's own certificates: remove clientCertificate, privateKey, caCertificates, caCrl and credentialName, or write MUTUAL")
			}
		}
	}
	return l
}

func (c *policyConverter) policy(p *networking.TrafficPolicy, path string) *policy {
	if p == nil {
		return nil
	}
	out := &policy{top: c.layer(layer{pool: p.ConnectionPool, lb: p.LoadBalancer, tls: p.Tls, out: p.OutlierDetection, budget: c.retryBudget(p.RetryBudget, path+".retryBudget"), intro: p.ProxyProtocol}, path)}
	for i, s := range p.PortLevelSettings {
		at := item(path+".portLevelSettings", i)
		n := s.GetPort().GetNumber()
		if n < 1 || n > 65535 {
			c.d.fail(codeInvalid, at+".port.number", nil, "port-level settings must name a port between 1 and 65535 (it is %d)", n)
			continue
		}
		if _, twice := out.ports[n]; twice {
			c.b.note(c.o, codeRuleConflict, Warning, at, "the port %d is written twice: the first holds", n)
			continue
		}
		if out.ports == nil {
			out.ports = map[uint32]layer{}
		}
		out.ports[n] = c.layer(layer{pool: s.ConnectionPool, lb: s.LoadBalancer, tls: s.Tls, out: s.OutlierDetection}, at)
	}
	return out
}

// mergeRules merges the DestinationRules of one host in one namespace as Istio
// does (mergeDestinationRule): those with the same exportTo and selector become
// one, with all subsets of which the first of a name holds, and the first
// trafficPolicy.
func (b *builder) mergeRules() {
	type key struct{ namespace, host string }
	kept := map[key][]*rawRule{}
	var out []*rawRule
	for _, r := range b.rules {
		dr := r.rule
		k := key{dr.Namespace, dr.Host}
		var into *rawRule
		for _, w := range kept[k] {
			if maps.Equal(w.rule.WorkloadSelector, dr.WorkloadSelector) && sameExport(w.rule.ExportTo, dr.ExportTo) {
				into = w
				break
			}
		}
		if into == nil {
			kept[k] = append(kept[k], r)
			out = append(out, r)
			continue
		}
		o := b.objects[dr.Ref]
		b.note(o, codeRuleConflict, Info, "spec.host", "is for the same host as %s: their subsets are merged", name(into.rule.Ref))
		for i, s := range dr.Subsets {
			if slices.ContainsFunc(into.rule.Subsets, func(x mesh.Subset) bool { return x.Name == s.Name }) {
				b.note(o, codeRuleConflict, Warning, item("spec.subsets", i)+".name", "the subset %s is defined by %s, too: that one holds", s.Name, name(into.rule.Ref))
				continue
			}
			into.rule.Subsets = append(into.rule.Subsets, s)
			into.subsets = append(into.subsets, r.subsets[i])
		}
		switch {
		case r.host == nil:
		case into.host == nil:
			into.host = r.host
		default:
			b.note(o, codeRuleConflict, Warning, "spec.trafficPolicy", "has no effect: that of %s holds; merge the two", name(into.rule.Ref))
		}
		into.rule.Unsupported = append(into.rule.Unsupported, dr.Unsupported...)
	}
	for _, r := range out {
		b.parts.DestinationRules = append(b.parts.DestinationRules, r.finish())
	}
}

func sameExport(a, b []string) bool {
	norm := func(s []string) []string {
		if len(s) == 0 {
			return []string{"*"}
		}
		s = slices.Clone(s)
		slices.Sort(s)
		return slices.Compact(s)
	}
	return slices.Equal(norm(a), norm(b))
}
