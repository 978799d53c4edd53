package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/mesh"
)

// analyze reports what is wrong between resources. Nothing here refuses one: a
// route to a host that does not exist is answered with 503, as in Istio, and the
// rest of the mesh runs.
func (b *builder) analyze() {
	a := &analysis{b: b, s: b.snapshot, byNamespace: map[string][]*mesh.Workload{}}
	for _, w := range b.paper {
		if b.snapshot.Workload(w.Key()) == nil {
			a.paper = append(a.paper, w)
		}
	}
	a.workloads = append(slices.Clone(b.parts.Workloads), a.paper...)
	for _, w := range a.workloads {
		a.byNamespace[w.Namespace] = append(a.byNamespace[w.Namespace], w)
	}
	a.rules = map[string][]*mesh.DestinationRule{}
	for _, dr := range b.parts.DestinationRules {
		if strings.HasPrefix(dr.Host, "*") {
			a.wildRules = append(a.wildRules, dr)
		} else {
			a.rules[dr.Host] = append(a.rules[dr.Host], dr)
		}
	}
	a.services = map[string][]*mesh.Service{}
	for _, s := range b.parts.Services {
		a.services[s.Host] = append(a.services[s.Host], s)
	}
	for _, s := range b.parts.Services {
		a.service(s)
	}
	a.routes()
	for _, dr := range b.parts.DestinationRules {
		a.rule(dr)
	}
	for _, p := range b.parts.PeerAuth {
		a.policy(p)
	}
	for _, p := range b.parts.Authorizations {
		a.authorization(p)
	}
	a.mtls()
}

type analysis struct {
	b           *builder
	s           *mesh.Snapshot
	workloads   []*mesh.Workload // also those that only stand on paper
	paper       []*mesh.Workload
	services    map[string][]*mesh.Service // by host
	byNamespace map[string][]*mesh.Workload
	rules       map[string][]*mesh.DestinationRule // by host
	wildRules   []*mesh.DestinationRule
}

func (a *analysis) note(r mesh.Ref, code string, s Severity, path, format string, args ...any) {
	if o := a.b.objects[r]; o != nil {
		a.b.note(o, code, s, path, format, args...)
	}
}

// members are the workloads that a service selects, on paper too.
func (a *analysis) members(s *mesh.Service) []*mesh.Workload {
	if len(a.paper) == 0 || len(s.Selector) == 0 {
		return a.s.Members(s)
	}
	out := slices.Clone(a.s.Members(s))
	for _, w := range a.paper {
		if w.Namespace == s.Namespace && mesh.Selects(s.Selector, w.Labels) {
			out = append(out, w)
		}
	}
	return out
}

// known reports whether workloads are described at all: a folder that holds only
// Istio's resources says nothing about which pods there are.
func (a *analysis) known() bool { return len(a.workloads) > 0 }

func (a *analysis) service(s *mesh.Service) {
	if len(s.Selector) == 0 || !a.known() {
		return
	}
	members := a.members(s)
	if len(members) == 0 {
		a.note(s.Ref, codeEmptyService, Warning, "spec.selector", "selects no workload of namespace %s: no workload has the labels %s%s", s.Namespace, labels(s.Selector), a.nearLabels(s.Selector, a.byNamespace[s.Namespace]))
		return
	}
	for i, p := range s.Ports {
		if p.TargetName == "" {
			continue
		}
		for _, w := range members {
			if _, ok := p.TargetOn(w); !ok {
				a.note(s.Ref, codeTargetPort, Warning, item("spec.ports", i)+".targetPort", "the workload %s has no port named %s: it gets no traffic on this port", w.Key(), p.TargetName)
				break
			}
		}
	}
}

func labels(m map[string]string) string {
	var out []string
	for _, k := range sortedKeys(m) {
		out = append(out, k+"="+m[k])
	}
	return strings.Join(out, ",")
}

// nearLabels says which of the wanted pairs is the one that no candidate has.
func (a *analysis) nearLabels(want map[string]string, candidates []*mesh.Workload) string {
	for _, k := range sortedKeys(want) {
		values := map[string]bool{}
		for _, w := range candidates {
			if v, ok := w.Labels[k]; ok {
				values[v] = true
			}
		}
		if values[want[k]] {
			continue
		}
		if len(values) == 0 {
			return fmt.Sprintf(" (none has a label %s)", k)
		}
		names := sortedKeys(values)
		if hint := didYouMean(want[k], names); hint != "" {
			return hint
		}
		if len(names) > 5 {
			names = append(names[:5], "…")
		}
		return fmt.Sprintf(" (%s is one of %s)", k, strings.Join(names, ", "))
	}
	return ""
}

// routes checks VirtualServices and who owns which host.
func (a *analysis) routes() {
	type key struct{ host, gateway string }
	owner := map[key]*mesh.VirtualService{}
	for _, vs := range a.b.parts.VirtualServices {
		for i, h := range vs.Hosts {
			path := item("spec.hosts", i)
			for _, g := range vs.Gateways {
				w := owner[key{h, g}]
				switch {
				case w == nil:
					owner[key{h, g}] = vs
				case !overlap(w, vs):
				case g == "mesh":
					a.note(vs.Ref, codeHostConflict, Error, path, "the host %s has a VirtualService already, %s, which alone holds for sidecars: this one has no effect for it; merge the two", h, name(w.Ref))
				default:
					a.note(vs.Ref, codeHostConflict, Info, path, "the host %s has a VirtualService at gateway %s already, %s: their rules are merged, those first", h, g, name(w.Ref))
				}
			}
			if routes := a.s.GatewayRoutesOf(h); len(routes) > 0 && slices.Contains(vs.Gateways, "mesh") {
				a.note(vs.Ref, codeRouteConflict, Warning, path, "the Service %s has a Gateway API route, %s: where that holds, this has no effect; keep one of the two", h, name(routes[0].Ref))
			}
			if slices.Contains(vs.Gateways, "mesh") && !strings.HasPrefix(h, "*") && a.s.Service(h, vs.Namespace) == nil {
				a.note(vs.Ref, codeRouteNoHost, Warning, path, "there is no service with the host %s%s: only requests that name exactly this host, on a port that the mesh knows, take these routes", h, a.b.nearHosts(h, vs.Namespace))
			}
		}
		for _, r := range vs.HTTP {
			for j, d := range r.Destinations {
				a.destination(vs, d, fmt.Sprintf("spec.http[%d].route[%d].destination", r.Index, j))
			}
			for j, m := range r.Mirrors {
				at := fmt.Sprintf("spec.http[%d].mirror", r.Index)
				if o := a.b.objects[vs.Ref]; o == nil || !o.has(at) {
					at = fmt.Sprintf("spec.http[%d].mirrors[%d].destination", r.Index, j)
				}
				a.destination(vs, m.Destination, at)
			}
			a.gateways(vs, r)
		}
		for _, r := range vs.TCP {
			for j, d := range r.Destinations {
				a.destination(vs, d, fmt.Sprintf("spec.tcp[%d].route[%d].destination", r.Index, j))
			}
		}
		for _, r := range vs.TLS {
			for j, d := range r.Destinations {
				a.destination(vs, d, fmt.Sprintf("spec.tls[%d].route[%d].destination", r.Index, j))
			}
		}
		a.streams(vs)
		a.unreachable(vs)
	}
}

// overlap reports whether some namespace sees both.
func overlap(x, y *mesh.VirtualService) bool {
	for _, from := range append(append([]string{x.Namespace, y.Namespace}, x.ExportTo...), y.ExportTo...) {
		if from != "*" && from != "." && mesh.Visible(x.ExportTo, x.Namespace, from) && mesh.Visible(y.ExportTo, y.Namespace, from) {
			return true
		}
	}
	return false
}

func (a *analysis) gateways(vs *mesh.VirtualService, r *seinev1.HttpRule) {
	for j, m := range r.Match {
		for k, g := range m.Gateways {
			if !slices.Contains(vs.Gateways, g) {
				a.note(vs.Ref, codeUnreachable, Warning, fmt.Sprintf("spec.http[%d].match[%d].gateways[%d]", r.Index, j, k), "%s is not among the resource's gateways (%s): the match can never hold there; add it to spec.gateways", g, strings.Join(vs.Gateways, ", "))
			}
		}
	}
}

func (a *analysis) destination(vs *mesh.VirtualService, d *seinev1.Destination, path string) {
	s := a.s.Service(d.Host, vs.Namespace)
	if s == nil {
		a.note(vs.Ref, codeNoHost, Error, path+".host", "there is no service with the host %s%s", d.Host, a.b.nearHosts(d.Host, vs.Namespace))
		return
	}
	if d.Port == 0 && len(s.Ports) > 1 {
		a.note(vs.Ref, codeAmbiguous, Info, path, "%s has the ports %s: without port.number, traffic goes to the port on which it was called", s.Host, portNames(s))
	}
	if d.Port != 0 && !slices.ContainsFunc(s.Ports, func(p mesh.Port) bool { return p.Number == d.Port }) {
		a.note(vs.Ref, codeNoPort, Error, path+".port.number", "the service %s has no port %d: it has %s%s", s.Host, d.Port, portNames(s), targetHint(s, d.Port))
	}
	if d.Subset == "" {
		return
	}
	var names []string
	rules := a.rulesFor(d.Host, vs.Namespace, s)
	for _, dr := range rules {
		for _, sub := range dr.Subsets {
			if sub.Name == d.Subset {
				return
			}
			names = append(names, sub.Name)
		}
	}
	what := "no DestinationRule for " + d.Host + " exists that could define it"
	if len(rules) > 0 {
		what = name(rules[0].Ref) + " defines " + strings.Join(names, ", ")
		if len(names) == 0 {
			what = name(rules[0].Ref) + " defines none"
		}
	}
	a.note(vs.Ref, codeNoSubset, Error, path+".subset", "the subset %s is not defined%s: %s", clip(d.Subset), didYouMean(d.Subset, names), what)
}

func targetHint(s *mesh.Service, port uint32) string {
	for _, p := range s.Ports {
		if p.Target == port {
			return fmt.Sprintf(" (%d is where its workloads listen: write %d)", port, p.Number)
		}
	}
	return ""
}

// rulesFor are the DestinationRules that may hold for calls of host from a
// namespace: Istio looks in the caller's namespace, the service's, the root's.
func (a *analysis) rulesFor(host, from string, s *mesh.Service) []*mesh.DestinationRule {
	var out []*mesh.DestinationRule
	candidates := slices.Clone(a.rules[host])
	for _, dr := range a.wildRules {
		if strings.HasSuffix(host, dr.Host[1:]) {
			candidates = append(candidates, dr)
		}
	}
	for _, dr := range candidates {
		near := dr.Namespace == from || s != nil && dr.Namespace == s.Namespace || dr.Namespace == a.b.settings.RootNamespace
		if near && (dr.Namespace == from || mesh.Visible(dr.ExportTo, dr.Namespace, from)) {
			out = append(out, dr)
		}
	}
	return out
}

// nearHosts is a hint for a host that no service has.
func (b *builder) nearHosts(host, namespace string) string {
	if b.hints++; b.hints*len(b.parts.Services) > 1_000_000 {
		return "" // many names, many mistakes: the first ones are explained
	}
	short, rest, dotted := strings.Cut(host, ".")
	for _, s := range b.parts.Services {
		if s.Kind == "Service" && s.Name == short && (s.Namespace != namespace || dotted) {
			full := b.fqdn(s.Name, s.Namespace)
			if rest == s.Namespace || rest == s.Namespace+".svc" {
				return " (only names without a dot are short ones: write " + full + ")"
			}
			if strings.HasPrefix(rest, namespace+".svc.") {
				return " (it is in namespace " + s.Namespace + ": write " + full + ")"
			}
		}
	}
	var names []string
	for _, s := range b.parts.Services {
		if s.Kind == "Service" && s.Namespace == namespace && strings.HasSuffix(host, "."+namespace+".svc."+b.settings.ClusterDomain) {
			names = append(names, s.Name)
		} else {
			names = append(names, s.Host)
		}
	}
	word := strings.TrimSuffix(host, "."+namespace+".svc."+b.settings.ClusterDomain)
	return didYouMean(word, names)
}

func (a *analysis) rule(dr *mesh.DestinationRule) {
	s := a.s.Service(dr.Host, dr.Namespace)
	if strings.HasPrefix(dr.Host, "*") {
		found := slices.ContainsFunc(a.b.parts.Services, func(x *mesh.Service) bool { return strings.HasSuffix(x.Host, dr.Host[1:]) })
		if !found {
			a.note(dr.Ref, codeRuleNoHost, Warning, "spec.host", "no service's host matches %s: the rule has no effect", dr.Host)
		}
		return
	}
	if s == nil {
		a.note(dr.Ref, codeRuleNoHost, Warning, "spec.host", "there is no service with the host %s%s: the rule has no effect", dr.Host, a.b.nearHosts(dr.Host, dr.Namespace))
		return
	}
	for _, p := range sortedPorts(dr.PortPolicies) {
		if !slices.ContainsFunc(s.Ports, func(x mesh.Port) bool { return x.Number == p }) {
			a.note(dr.Ref, codeNoPort, Warning, "spec.trafficPolicy.portLevelSettings", "the service %s has no port %d: it has %s%s", s.Host, p, portNames(s), targetHint(s, p))
		}
	}
	if !a.known() || len(s.Selector) == 0 && len(s.Endpoints) == 0 {
		return
	}
	members := a.members(s)
	for i, sub := range a.ownSubsets(dr) {
		selects := slices.ContainsFunc(members, func(w *mesh.Workload) bool { return mesh.Selects(sub.Labels, w.Labels) }) ||
			slices.ContainsFunc(s.Endpoints, func(e mesh.Endpoint) bool { return mesh.Selects(sub.Labels, e.Labels) })
		if !selects && (len(members) > 0 || len(s.Endpoints) > 0) {
			a.note(dr.Ref, codeEmptySubset, Warning, item("spec.subsets", i)+".labels", "the subset %s selects no workload of %s: none has the labels %s%s", sub.Name, s.Host, labels(sub.Labels), a.nearLabels(sub.Labels, members))
		}
	}
}

// ownSubsets are those that stand in the resource itself; merged ones come after.
func (a *analysis) ownSubsets(dr *mesh.DestinationRule) []mesh.Subset {
	o := a.b.objects[dr.Ref]
	if o == nil {
		return nil
	}
	return dr.Subsets[:min(len(dr.Subsets), o.subsets)]
}

func sortedPorts[V any](m map[uint32]V) []uint32 { return slices.Sorted(maps.Keys(m)) }

func (a *analysis) policy(p *mesh.PeerAuthentication) {
	for _, host := range sortedKeys(p.Services) {
		s := a.s.Service(host, p.Namespace)
		if s == nil {
			a.note(p.Ref, codePolicyTarget, Warning, "spec.targets", "there is no service %s: the policy holds for nothing%s", host, a.b.nearHosts(host, p.Namespace))
			continue
		}
		for _, port := range p.Services[host] {
			if !slices.ContainsFunc(s.Ports, func(x mesh.Port) bool { return x.Number == port }) {
				a.note(p.Ref, codeNoPort, Warning, "spec.targets", "the service %s has no port %d: it has %s", host, port, portNames(s))
			}
		}
	}
	if len(p.Selector) == 0 || !a.known() {
		return
	}
	var selected []*mesh.Workload
	for _, w := range a.byNamespace[p.Namespace] {
		if mesh.Selects(p.Selector, w.Labels) {
			selected = append(selected, w)
		}
	}
	if len(selected) == 0 {
		a.note(p.Ref, codePolicyTarget, Warning, "spec.selector", "selects no workload of namespace %s: none has the labels %s%s", p.Namespace, labels(p.Selector), a.nearLabels(p.Selector, a.byNamespace[p.Namespace]))
		return
	}
	for _, port := range sortedPorts(p.Ports) {
		if ports, all := a.listens(selected); all && !ports[port] {
			hint := ""
			for _, s := range a.b.parts.Services {
				for _, sp := range s.Ports {
					if sp.Number == port && sp.Target != 0 && sp.Target != port && slices.ContainsFunc(selected, func(w *mesh.Workload) bool {
						return w.Namespace == s.Namespace && len(s.Selector) > 0 && mesh.Selects(s.Selector, w.Labels)
					}) {
						hint = fmt.Sprintf(" (%d is the port of the service %s; its workloads listen on %d)", port, s.Name, sp.Target)
					}
				}
			}
			a.note(p.Ref, codePolicyTarget, Warning, sub("spec.portLevelMtls", fmt.Sprint(port)), "no service leads to port %d of these workloads%s: ports are those on which workloads listen", port, hint)
		}
	}
}

// listens are the ports that services lead to on any of ws. all is false if no
// service selects them, so that nothing is known.
func (a *analysis) listens(ws []*mesh.Workload) (ports map[uint32]bool, all bool) {
	ports = map[uint32]bool{}
	for _, w := range ws {
		for _, n := range w.Ports {
			ports[n] = true
		}
		for _, s := range a.b.parts.Services {
			if s.Namespace != w.Namespace || len(s.Selector) == 0 || !mesh.Selects(s.Selector, w.Labels) {
				continue
			}
			all = true
			for _, p := range s.Ports {
				if n, ok := p.TargetOn(w); ok {
					ports[n] = true
				}
			}
		}
	}
	return ports, all
}
