package explain

import (
	"fmt"
	"strconv"
	"strings"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/decide"
	"github.com/seinemesh/seine/mesh"
	"github.com/seinemesh/seine/plan"
)

// inbound explains what a workload's sidecar does with a connection to one of
// its ports.
func inbound(s *mesh.Snapshot, q Question) (*Answer, error) {
	i := strings.LastIndexByte(q.To, ':')
	if i < 0 {
		return nil, wrong("to", "%q names no port: write NAMESPACE/WORKLOAD:PORT or NAMESPACE,label=value:PORT", q.To)
	}
	port, err := strconv.ParseUint(q.To[i+1:], 10, 16)
	if err != nil || port == 0 {
		return nil, wrong("to", "%q is no port", q.To[i+1:])
	}
	to, gateway, err := party(s, "to", q.To[:i])
	if err != nil {
		return nil, err
	}
	e := &explanation{s: snapshotWith(s, to), from: to, q: q, a: &Answer{}, url: target{scheme: "http"}}
	if q.URL != "" {
		if e.url, err = parseURL(q); err != nil {
			return nil, err
		}
	}
	if gateway {
		e.unsupported("Gateway", "Gateways are not implemented in this version: what enters through one is not explained")
		return e.a, nil
	}
	self, err := decide.CompileSelf(plan.Self(e.s, to))
	if err != nil {
		return nil, err
	}
	p := self.Inbound(uint16(port))
	e.a.Service, e.a.Port, e.a.Mtls = p.Proto.Service, uint32(port), modeName(p.Mode())
	if p.Declared && p.Proto.Service != "" {
		e.say("Port %d of %s is port %d of %s, %s.", port, to.Key(), p.Proto.ServicePort, p.Proto.Service, protocolName(p.Proto.Protocol))
	} else {
		e.say("No service targets port %d of %s: its protocol is detected.", port, to.Key())
	}
	if !to.Sidecar {
		e.a.Outcome, e.a.Mtls = Passthrough, ""
		e.say("%s has no sidecar: connections reach the application as they come, and no policy is enforced.", to.Key())
		return e.a, nil
	}
	e.say("It receives %s by %s.", e.a.Mtls, decide.Source(p.Proto.MtlsSource))
	arrival, who, err := e.arrives(self)
	if err != nil {
		return nil, err
	}
	e.say("%s", who)
	v := p.Admit(arrival)
	e.say("%s.", strings.ToUpper(v.Reason[:1])+v.Reason[1:])
	switch {
	case v.Action == decide.Reject:
		e.a.Outcome, e.a.Reason = Reject, Policy
		e.say("The connection is reset; nothing reaches the application.")
	case v.Action == decide.Terminate && arrival == decide.OtherTLS:
		e.a.Outcome, e.a.Reason = Reject, Policy
		e.say("The caller has no certificate of the mesh: the handshake fails, and nothing reaches the application.")
	case v.Action == decide.Terminate && !e.trusted(self):
		e.a.Outcome, e.a.Reason = Reject, Policy
		e.say("The caller's certificate is of another trust domain than %s: the handshake fails.", self.Proto.TrustDomain)
	default:
		e.a.Outcome = Forward
		if e.denied(self, p, v.Action == decide.Terminate) {
			break
		}
		e.rateLimits(self, uint16(port))
		e.say("It goes to the application on port %d.", port)
	}
	if len(q.Claims) > 0 {
		e.say("Nothing in this version looks at the claims of a token.")
	}
	return e.a, nil
}

// snapshotWith adds a workload that only the question describes, so that
// services and policies select it.
func snapshotWith(s *mesh.Snapshot, w *mesh.Workload) *mesh.Snapshot {
	if s.Workload(w.Key()) == w {
		return s
	}
	parts := s.Parts
	parts.Workloads = append(parts.Workloads[:len(parts.Workloads):len(parts.Workloads)], w)
	return mesh.New(s.Generation, parts)
}

// arrives says how the connection comes: with the identity that is given, as a
// caller with a sidecar, or in plaintext.
func (e *explanation) arrives(self *decide.Self) (decide.Arrival, string, error) {
	switch {
	case e.q.Principal != "":
		return decide.MeshTLS, fmt.Sprintf("The caller comes in mutual TLS as %s.", spiffe(e.q.Principal)), nil
	case e.q.From != "":
		from, _, err := party(e.s, "from", e.q.From)
		if err != nil {
			return 0, "", err
		}
		if !from.Sidecar {
			return decide.Plaintext, fmt.Sprintf("%s has no sidecar: it comes in plaintext.", from.Key()), nil
		}
		if p := self.Inbound(uint16(e.a.Port)); p.Mode() == seinev1.MtlsMode_MTLS_DISABLE {
			return decide.Plaintext, fmt.Sprintf("%s comes in plaintext, as its sidecar knows that mutual TLS is disabled here.", from.Key()), nil
		}
		if e.sendsPlaintext(from, self) {
			return decide.Plaintext, fmt.Sprintf("%s comes in plaintext, as a DestinationRule tells its sidecar.", from.Key()), nil
		}
		e.q.Principal = mesh.SPIFFE(e.s.Settings.TrustDomain, from.Namespace, from.ServiceAccount)
		return decide.MeshTLS, fmt.Sprintf("%s comes in mutual TLS as %s.", from.Key(), e.q.Principal), nil
	case e.url.scheme == "tls":
		return decide.OtherTLS, "The caller comes in TLS of its own, not the mesh's.", nil
	}
	return decide.Plaintext, "The caller comes in plaintext (--principal or --from make it mutual TLS).", nil
}

// sendsPlaintext reports whether a DestinationRule makes from call the port's
// service in plaintext.
func (e *explanation) sendsPlaintext(from *mesh.Workload, self *decide.Self) bool {
	p := self.Inbound(uint16(e.a.Port))
	svc := plan.Service(e.s, from, seinev1.ServiceKey(p.Proto.Service, p.Proto.ServicePort))
	return p.Declared && svc.GetPolicy().GetTls() == seinev1.TrafficPolicy_TLS_DISABLE
}

// spiffe takes an identity with or without its scheme, as policies write it.
func spiffe(p string) string {
	if strings.HasPrefix(p, "spiffe://") {
		return p
	}
	return "spiffe://" + p
}

func (e *explanation) trusted(self *decide.Self) bool {
	return e.q.Principal == "" || strings.HasPrefix(spiffe(e.q.Principal), "spiffe://"+self.Proto.TrustDomain+"/")
}
