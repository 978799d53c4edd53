package explain

import (
	"fmt"
	"net/netip"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/decide"
	"github.com/seinemesh/seine/message"
)

// denied tells what AuthorizationPolicies say, and whether they deny it. proven:
// the caller has shown its certificate.
func (e *explanation) denied(self *decide.Self, p *decide.InboundPort, proven bool) bool {
	rules := self.Authorization
	if rules == nil {
		e.say("No AuthorizationPolicy holds here: everybody who reaches the port may ask anything.")
		return false
	}
	opaque := p.Proto.Protocol == seinev1.Protocol_PROTOCOL_TCP || p.Proto.Protocol == seinev1.Protocol_PROTOCOL_TLS
	if e.q.URL == "" && !opaque {
		for _, p := range rules.Policies() {
			e.say("%s (%v) holds here: ask with a method and a URL whether it lets a request in.", decide.Source(p.Proto.Source), p.Proto.Action)
		}
		return false
	}
	s := decide.Subject{Destination: netip.AddrPortFrom(netip.Addr{}, uint16(e.a.Port))}
	if proven && e.q.Principal != "" {
		s.Proven(spiffe(e.q.Principal))
	}
	var head *message.Request
	if !opaque {
		head = e.head()
		if rules.LooksAtPaths && !decide.NormalPath(head.Path, self.Proto.MergeSlashes) {
			e.a.Outcome, e.a.Reason, e.a.Status = Reject, Policy, 400
			e.say("The path is not in its normal form, and a policy looks at paths: 400.")
			return true
		}
	}
	e.say("Conditions about addresses count as not met here, for the question has none.")
	j := rules.Judge(&s, head)
	out := &Authorization{Verdict: "allow"}
	e.a.Authorization = out
	if j.Audited != nil {
		e.say("%s (AUDIT) counts it.", decide.Source(j.Audited.Proto.Source))
	}
	if j.Would {
		name := "no ALLOW policy would let it in"
		if j.WouldBy != nil {
			name = decide.Source(j.WouldBy.Proto.Source) + " would deny it"
		}
		e.say("In dry run: %s.", name)
	}
	if !j.Denied {
		e.say("The AuthorizationPolicies let it in.")
		return false
	}
	out.Verdict = "deny"
	e.a.Outcome, e.a.Reason = Reject, Policy
	if !opaque {
		e.a.Status = 403
	}
	if j.By == nil {
		e.say("No ALLOW policy lets it in: it is denied.")
		return true
	}
	out.Policy, out.Rule = j.By.Proto.Id, fmt.Sprintf("spec.rules[%d]", j.Rule)
	e.say("%s denies it by %s.", decide.Source(j.By.Proto.Source), out.Rule)
	return true
}
