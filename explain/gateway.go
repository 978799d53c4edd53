package explain

import (
	"fmt"
	"strings"

	"github.com/seinemesh/seine/decide"
	"github.com/seinemesh/seine/message"
	"github.com/seinemesh/seine/plan"
)

// tellAddress says that the address that was dialled decides, and why.
func (e *explanation) tellAddress(a *decide.Answer) {
	e.a.Service, e.a.Port = a.Proto.Service, uint32(e.dialled.Port())
	var names []string
	whose := "the Service's own namespace (a producer's)"
	for _, r := range e.gatewayRules(uint32(e.dialled.Port())) {
		if name := decide.Source(r.Route.Proto()); len(names) == 0 || names[len(names)-1] != name {
			names = append(names, name)
		}
		if svc := e.s.Service(e.a.Service, e.from.Namespace); svc != nil && r.Route.Namespace != svc.Namespace {
			whose = "the caller's namespace (a consumer's)"
		}
	}
	e.say("The address %s decides, whatever the Host: it is %s, and Gateway API routes of %s hold for it: %s.", e.dialled, e.a.Service, whose, strings.Join(unique(names), ", "))
}

func unique(list []string) []string {
	var out []string
	seen := map[string]bool{}
	for _, s := range list {
		if !seen[s] {
			seen[s] = true
			out = append(out, s)
		}
	}
	return out
}

// gatewayRules are the rules for the service that was found, in their order.
func (e *explanation) gatewayRules(port uint32) []plan.GatewayRule {
	svc := e.s.Service(e.a.Service, e.from.Namespace)
	if svc == nil {
		return nil
	}
	for i := range svc.Ports {
		if svc.Ports[i].Number == port {
			return plan.GatewayRules(e.s, e.from, svc, &svc.Ports[i])
		}
	}
	return nil
}

// tellGatewayRules says why each match before the one that was taken was not.
func (e *explanation) tellGatewayRules(a *decide.Answer, r *decide.Rule, head *message.Request, port uint16) {
	for i, g := range e.gatewayRules(uint32(port)) {
		m := g.Rule.Match[g.Match]
		name := fmt.Sprintf("spec.rules[%d].matches[%d]", g.Rule.Index, m.Index)
		if g.Rule.Name != "" {
			name += fmt.Sprintf(" (rule %q)", g.Rule.Name)
		}
		name += " of " + decide.Source(g.Rule.Source)
		if i < len(a.Rules) && a.Rules[i] == r {
			e.say("%s matches: %s. It is the most specific that does.", name, Describe(m))
			return
		}
		e.say("%s does not match: %s.", name, mismatch(m, head, uint32(port)))
	}
}
