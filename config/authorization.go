package config

import (
	"slices"
	"strconv"
	"strings"

	security "istio.io/api/security/v1beta1"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/decide"
	"github.com/seinemesh/seine/mesh"
)

var authorizationFields = fields("selector.matchLabels.**", "rules.**", "action")

// AnnotationDryRun is "true" at an AuthorizationPolicy that only tells what it
// would do.
const AnnotationDryRun = "istio.io/dry-run"

// Bounds of an AuthorizationPolicy, which every request is held to.
const (
	mostRules  = 256
	mostValues = 1024
)

// attributePrefix is what attributes begin with that a JSON Web Token fills.
const attributePrefix = "request.auth."

// authorization reads Istio's AuthorizationPolicy. What it asks for and is not
// done here refuses it: a policy of which a part is left out protects something
// else than it says.
func (b *builder) authorization(o *object) {
	var spec security.AuthorizationPolicy
	if _, ok := b.spec(o, &spec, authorizationFields); !ok {
		return
	}
	d := &decoder{b: b, obj: o}
	out := &seinev1.AuthorizationPolicy{Id: o.ref.Namespace + "/" + o.ref.Name, Source: o.ref.Proto()}
	switch spec.Action {
	case security.AuthorizationPolicy_ALLOW:
	case security.AuthorizationPolicy_DENY:
		out.Action = seinev1.AuthorizationPolicy_DENY
	case security.AuthorizationPolicy_AUDIT:
		out.Action = seinev1.AuthorizationPolicy_AUDIT
	default:
		d.fail(codeSecurity, "spec.action", nil, "%v asks an authorization service, which is not implemented in this version: refused rather than run open; say by ALLOW and DENY who may do what", spec.Action)
	}
	if v, ok := o.annotations[AnnotationDryRun]; ok {
		dry, err := strconv.ParseBool(v)
		if err != nil {
			d.fail(codeType, "metadata.annotations."+AnnotationDryRun, nil, "must be true or false, not %q", clip(v))
		}
		out.DryRun = dry
	}
	if spec.Selector != nil && len(spec.Selector.MatchLabels) == 0 {
		d.fail(codeInvalid, "spec.selector", nil, "must have matchLabels: leave it out, if every workload of the namespace is meant")
	}
	if len(spec.Rules) > mostRules {
		d.fail(codeLimit, "spec.rules", nil, "%d rules are more than the %d allowed", len(spec.Rules), mostRules)
		return
	}
	if out.Action == seinev1.AuthorizationPolicy_DENY && len(spec.Rules) == 0 {
		b.note(o, codeNoEffect, Warning, "spec.rules", "is empty, so that nothing is denied: write rules: [{}] to deny everything")
	}
	c := &authorizationConverter{b: b, d: d, o: o}
	for i, r := range spec.Rules {
		out.Rules = append(out.Rules, c.rule(r, item("spec.rules", i)))
	}
	if !d.bad {
		b.parts.Authorizations = append(b.parts.Authorizations, &mesh.Authorization{Ref: o.ref, Selector: spec.GetSelector().GetMatchLabels(), Policy: out})
	}
}

type authorizationConverter struct {
	b      *builder
	d      *decoder
	o      *object
	values int
}

func (c *authorizationConverter) rule(r *security.Rule, path string) *seinev1.AuthorizationRule {
	out := &seinev1.AuthorizationRule{}
	for i, f := range r.GetFrom() {
		at, s := item(path+".from", i)+".source", f.GetSource()
		g := &seinev1.Conditions{}
		c.add(g, at, "principals", "source.principal", s.GetPrincipals(), s.GetNotPrincipals())
		c.add(g, at, "requestPrincipals", "request.auth.principal", s.GetRequestPrincipals(), s.GetNotRequestPrincipals())
		c.add(g, at, "namespaces", "source.namespace", s.GetNamespaces(), s.GetNotNamespaces())
		c.add(g, at, "serviceAccounts", "source.serviceAccount", s.GetServiceAccounts(), s.GetNotServiceAccounts())
		c.add(g, at, "trustDomains", "source.trustDomain", s.GetTrustDomains(), s.GetNotTrustDomains())
		c.add(g, at, "ipBlocks", "source.ip", s.GetIpBlocks(), s.GetNotIpBlocks())
		c.add(g, at, "remoteIpBlocks", "remote.ip", s.GetRemoteIpBlocks(), s.GetNotRemoteIpBlocks())
		c.filled(g, at, "it would mean everybody: leave from out for that")
		out.From = append(out.From, g)
	}
	for i, t := range r.GetTo() {
		at, p := item(path+".to", i)+".operation", t.GetOperation()
		g := &seinev1.Conditions{}
		c.add(g, at, "hosts", "request.host", p.GetHosts(), p.GetNotHosts())
		c.add(g, at, "ports", "destination.port", p.GetPorts(), p.GetNotPorts())
		c.add(g, at, "methods", "request.method", p.GetMethods(), p.GetNotMethods())
		c.add(g, at, "paths", "request.path", p.GetPaths(), p.GetNotPaths())
		c.filled(g, at, "it would mean everything: leave to out for that")
		out.To = append(out.To, g)
	}
	for i, w := range r.GetWhen() {
		at := item(path+".when", i)
		g := &seinev1.Conditions{}
		if len(w.Values)+len(w.NotValues) == 0 {
			c.d.fail(codeInvalid, at, nil, "must have values or notValues")
			continue
		}
		c.condition(g, at, at, w.Key, w.Values, w.NotValues)
		out.When = append(out.When, g.All...)
	}
	return out
}

func (c *authorizationConverter) filled(g *seinev1.Conditions, path, why string) {
	if len(g.All) == 0 && !c.d.bad {
		c.d.fail(codeInvalid, path, nil, "is empty: %s", why)
	}
}

// add adds what a field and its notField say.
func (c *authorizationConverter) add(g *seinev1.Conditions, path, field, key string, values, not []string) {
	if len(values)+len(not) == 0 {
		return
	}
	at := path + "." + field
	if len(values) == 0 {
		at = path + ".not" + strings.ToUpper(field[:1]) + field[1:]
	}
	c.condition(g, path, at, key, values, not)
}

func (c *authorizationConverter) condition(g *seinev1.Conditions, path, at, key string, values, not []string) {
	if strings.HasPrefix(key, attributePrefix) || strings.HasPrefix(key, "experimental.") {
		c.d.fail(codeSecurity, at, nil, "asks for %s, which is not implemented in this version (JSON Web Tokens are not checked): refused rather than run open", clip(key))
		return
	}
	if c.values += len(values) + len(not); c.values > mostValues {
		c.d.fail(codeLimit, path, nil, "the policy has more than the %d values allowed", mostValues)
		return
	}
	p := &seinev1.Condition{Key: key, Values: c.local(key, values), NotValues: c.local(key, not)}
	if err := decide.CheckCondition(p); err != nil {
		c.d.fail(codeInvalid, at, nil, "%v", err)
		return
	}
	g.All = append(g.All, p)
}

// local writes names as this mesh has them: a principal of cluster.local is one
// of the mesh's own trust domain, whatever that is (Istio's
// ReplaceTrustDomainAliases); a service account without namespace is one of the
// policy's.
func (c *authorizationConverter) local(key string, values []string) []string {
	out := slices.Clone(values)
	for i, v := range out {
		switch key {
		case "source.principal":
			if rest, ok := strings.CutPrefix(v, "cluster.local/"); ok {
				out[i] = c.b.settings.TrustDomain + "/" + rest
			}
		case "source.serviceAccount":
			if !strings.Contains(v, "/") {
				out[i] = c.o.ref.Namespace + "/" + v
			}
		}
	}
	return out
}

// authorization reports a policy that no workload is meant by. One in the root
// namespace may be for workloads of any.
func (a *analysis) authorization(p *mesh.Authorization) {
	if len(p.Selector) == 0 || p.Namespace == a.s.Settings.RootNamespace || len(a.byNamespace[p.Namespace]) == 0 {
		return
	}
	for _, w := range a.byNamespace[p.Namespace] {
		if mesh.Selects(p.Selector, w.Labels) {
			return
		}
	}
	a.note(p.Ref, codePolicyTarget, Warning, "spec.selector", "selects no workload of namespace %s: none has the labels %s%s", p.Namespace, labels(p.Selector), a.nearLabels(p.Selector, a.byNamespace[p.Namespace]))
}
