//go:build linux

package proxy

import (
	"bytes"
	"net/netip"

	"github.com/seinemesh/seine/decide"
	"github.com/seinemesh/seine/message"
	"github.com/seinemesh/seine/telemetry"
	"github.com/seinemesh/seine/telemetry/metrics"
)

// guard holds what comes in to the workload's AuthorizationPolicies. One for each
// loop and Self; nil: there are none.
type guard struct {
	rules                  *decide.Authorization
	slashes                bool
	denied, would, audited map[*decide.Policy]*metrics.Counter // nil: no ALLOW policy lets it in
	odd                    *metrics.Counter
}

// What a caller is told: no more than Envoy's filter says. Which policy it was
// stands in the access log and the metrics, for those who own it.
const (
	deniedBody  = "RBAC: access denied"
	deniedCause = "denied by an AuthorizationPolicy of the workload"
	oddCause    = "the path is not in its normal form (RFC 3986 section 6.2.2), and an AuthorizationPolicy of the workload looks at paths"
)

// guard is that of the Self which holds now.
func (w *worker) guard() *guard {
	self := w.current().Self
	if w.guarded.self == self {
		return w.guarded.by
	}
	w.guarded.self, w.guarded.by = self, nil
	if rules := self.Authorization; rules != nil {
		g := &guard{rules: rules, slashes: self.Proto.MergeSlashes, denied: map[*decide.Policy]*metrics.Counter{}, would: map[*decide.Policy]*metrics.Counter{}, audited: map[*decide.Policy]*metrics.Counter{}}
		r := w.p.registry
		for _, p := range append(rules.Policies(), nil) {
			id := "none" // as Envoy says where no ALLOW policy matches
			if p != nil {
				id = p.Proto.Id
			}
			g.denied[p] = r.Counter("seine_authorization_denied_total", "Requests and opaque connections that AuthorizationPolicies denied, by the policy; none: no ALLOW policy let them in.", "policy", id)
			g.would[p] = r.Counter("seine_authorization_dry_run_denied_total", "What AuthorizationPolicies with istio.io/dry-run would have denied.", "policy", id)
			if p != nil {
				g.audited[p] = r.Counter("seine_authorization_audited_total", "Requests and opaque connections that AuthorizationPolicies of action AUDIT match.", "policy", id)
			}
		}
		g.odd = r.Counter("seine_authorization_odd_paths_total", "Requests refused because their path is not in its normal form, where an AuthorizationPolicy looks at paths.")
		w.guarded.by = g
	}
	return w.guarded.by
}

// judge decides on a request, or (nil) on an opaque connection.
func (g *guard) judge(in *inbound, req *message.Request, dialled, remote netip.AddrPort) decide.Judgement {
	s := decide.Subject{Source: remote.Addr(), Remote: remote.Addr(), Destination: netip.AddrPortFrom(dialled.Addr(), in.number), SNI: in.sni}
	s.Proven(in.peer.GetIdentity())
	if req != nil && g.rules.LooksAtRemote {
		s.Remote = clientOf(req, s.Remote)
	}
	j := g.rules.Judge(&s, req)
	if j.Audited != nil {
		g.audited[j.Audited].Inc()
	}
	if j.Would {
		g.would[j.WouldBy].Inc()
	}
	if j.Denied {
		g.denied[j.By].Inc()
	}
	return j
}

// clientOf is the last address of x-forwarded-for, which the peer wrote, as Envoy
// takes it in Istio's sidecars.
func clientOf(req *message.Request, peer netip.Addr) netip.Addr {
	v := field(req, message.XForwardedFor)
	if i := bytes.LastIndexByte(v, ','); i >= 0 {
		v = v[i+1:]
	}
	if a, err := netip.ParseAddr(string(bytes.TrimSpace(v))); err == nil {
		return a
	}
	return peer
}

// barred holds an inbound request to the workload's policies. True: it was
// answered.
func (x *exchange) barred(in *inbound) bool {
	g, req := in.guard, &x.w.req
	if g.rules.LooksAtPaths && !decide.NormalPath(req.Path, g.slashes) {
		g.odd.Inc()
		x.reply(400, telemetry.FlagNone, oddCause)
		return true
	}
	j := g.judge(in, req, x.caller.dialled, x.caller.remote)
	if !j.Denied {
		return false
	}
	x.details = j.Details()
	x.respond(403, telemetry.FlagNone, deniedCause, deniedBody, message.Field{Name: bytesOf("x-seine-cause"), Value: bytesOf(deniedCause)})
	return true
}

// barred reports whether policies deny an opaque connection.
func (in *inbound) barred(dialled, remote netip.AddrPort) bool {
	return in.guard != nil && in.guard.judge(in, nil, dialled, remote).Denied
}
