package explain

import (
	"fmt"
	"net/netip"
	"strings"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/decide"
	"github.com/seinemesh/seine/mesh"
	"github.com/seinemesh/seine/plan"
)

// stream explains a connection that is not HTTP: by its address and, where TLS
// begins it, by the name that its ClientHello asks for.
func (e *explanation) stream(byAddress *decide.Answer) error {
	e.sni = e.serverName()
	if byAddress != nil && (!byAddress.Proto.BySni || e.sni == "") {
		return e.connection(byAddress)
	}
	if e.sni == "" {
		return wrong("url", "the address of %s is not known: name it with --address IP:PORT", e.url.host)
	}
	port := e.url.port
	if e.dialled.IsValid() {
		port = e.dialled.Port()
	}
	byName, err := e.ask(string(decide.AppendTLSName(nil, port, e.sni)))
	if err != nil {
		return err
	}
	routed := byName.Proto.Kind == seinev1.Answer_ROUTES
	switch {
	case routed && byName.MatchTCP(e.at(), e.sni) != nil:
		e.say("On port %d outside the mesh the server's name decides: %s.", port, e.sni)
		e.a.Service = byName.Proto.Service
		return e.streamRule(byName)
	case byAddress == nil:
		e.say("No service on port %d has the name %s: the address decides.", port, e.sni)
		return wrong("url", "the address of %s is not known: name it with --address IP:PORT", e.url.host)
	case routed:
		e.say("The rules for the name %s on port %d hold for other addresses: the address decides.", e.sni, port)
	default:
		e.say("No service on port %d has the name %s: the address decides.", port, e.sni)
	}
	return e.connection(byAddress)
}

// serverName is the name that the application's ClientHello asks for: that of
// --sni, or the URL's host where it is tls:// or https://.
func (e *explanation) serverName() string {
	if e.q.SNI != "" {
		return decide.ServerName([]byte(strings.TrimSuffix(e.q.SNI, ".")))
	}
	if e.url.scheme != "tls" {
		return ""
	}
	return decide.ServerName([]byte(e.url.host))
}

// at is the address dialled, or any address with its port.
func (e *explanation) at() netip.AddrPort {
	if e.dialled.IsValid() {
		return e.dialled
	}
	return netip.AddrPortFrom(netip.IPv4Unspecified(), e.url.port)
}

// streamRule explains the rules of an answer to a connection.
func (e *explanation) streamRule(a *decide.Answer) error {
	r := a.MatchTCP(e.at(), e.sni)
	for _, other := range a.TCP {
		if other == r {
			continue
		}
		if why := e.unlike(other); why != "" {
			e.say("%s does not match: %s.", tcpName(other), why)
		} else if other.Proto.Source.GetKind() == "VirtualService" {
			e.say("%s matches, too, but another rule is more specific.", tcpName(other))
		}
	}
	if r == nil {
		e.reject(NoRoute, 0, "NR")
		e.say("No rule matches.")
		return nil
	}
	e.route(r.Proto.Source, r.Proto.Index)
	if r.Proto.Source.GetKind() == "VirtualService" {
		e.say("%s matches.", tcpName(r))
	}
	if err := e.upstream(r.Destinations, a, nil); err != nil {
		return err
	}
	e.ignored(a)
	return nil
}

// unlike says why a rule does not match; "" if it does. Each of its conditions is
// asked of decide by itself.
func (e *explanation) unlike(r *decide.TCPRule) string {
	holds := func(list []*seinev1.TcpMatch) bool {
		a, err := decide.CompileAnswer(&seinev1.Answer{Tcp: []*seinev1.TcpRule{{Match: list}}})
		return err == nil && a.MatchTCP(e.at(), e.sni) != nil
	}
	if holds(r.Proto.Match) {
		return ""
	}
	var subnets, names []*seinev1.TcpMatch
	for _, m := range r.Proto.Match {
		subnets = append(subnets, &seinev1.TcpMatch{DestinationSubnets: m.DestinationSubnets})
		names = append(names, &seinev1.TcpMatch{SniHosts: m.SniHosts})
	}
	if !holds(subnets) {
		return fmt.Sprintf("%s is in none of its destinationSubnets", e.at().Addr())
	}
	if !holds(names) {
		if e.sni == "" {
			return "no server's name is asked for (--sni names one)"
		}
		return e.sni + " is none of its sniHosts"
	}
	return "none of its matches holds as a whole"
}

// ignored says what VirtualServices of the service ask for that a connection
// does not get in this version.
func (e *explanation) ignored(a *decide.Answer) {
	e.s.VirtualServicesOf(a.Proto.Service, func(_ string, list []*mesh.VirtualService) bool {
		for _, vs := range list {
			if plan.Unseen(vs, e.from) != "" {
				continue
			}
			for _, p := range vs.Unsupported {
				tls := strings.HasPrefix(p, "spec.tls")
				if strings.HasPrefix(p, "spec.http") || tls && e.url.scheme != "tls" && a.Proto.Protocol != seinev1.Protocol_PROTOCOL_TLS {
					continue
				}
				e.unsupported(p, "%s: %s is not implemented in this version.", decide.Source(vs.Proto()), p)
			}
		}
		return true
	})
}

func tcpName(r *decide.TCPRule) string {
	list := "tcp"
	if r.Proto.Tls {
		list = "tls"
	}
	return fmt.Sprintf("spec.%s[%d] of %s", list, r.Proto.Index, decide.Source(r.Proto.Source))
}
