// Package capture redirects a network namespace's TCP through a sidecar, with
// nftables rules written over netlink.
//
// In: a namespace and Rules. Out: one nftables table, "seine", put in place in
// one transaction, or nothing. It is used for pods and for local workloads
// alike; it starts no process and touches no other table.
//
// The rules are Istio's, in nftables' words:
//
//   - outbound TCP goes to OutboundPort, except what the sidecar itself sends
//     (told apart by a socket mark or by uid), what stays on the loopback
//     device, and the exclusions;
//   - inbound TCP goes to InboundPort, except the exclusions;
//   - what the sidecar sends to its own workload's address meets the inbound
//     side too, so that a workload that calls its own Service is treated like
//     any other caller. The last leg, from sidecar to application, leaves that
//     loop by its destination (127.0.0.0/8) or its source (127.0.0.6, ::6).
package capture

import (
	"fmt"
	"net/netip"
)

// Rules say what is redirected. The zero value redirects nothing useful: start
// from Default.
type Rules struct {
	OutboundPort uint16 // where outbound TCP goes on the loopback
	InboundPort  uint16 // where inbound TCP goes

	// What the sidecar sends is known by any of these. Mark 0 and empty lists
	// match nothing.
	Mark       uint32
	SidecarUID []uint32
	SidecarGID []uint32

	// Outbound exclusions. IncludeOutboundCIDRs, if not nil, limits the
	// redirection to these (traffic.sidecar.istio.io/includeOutboundIPRanges);
	// IncludeOutboundPorts are redirected even so, wherever they lead.
	ExcludeOutboundPorts []uint16
	ExcludeOutboundCIDRs []netip.Prefix
	IncludeOutboundCIDRs []netip.Prefix
	IncludeOutboundPorts []uint16
	ExcludeOutbound      []netip.AddrPort // exactly this address and port
	ExcludeUID           []uint32         // an application's own uid that is left alone

	// Inbound exclusions. IncludeInboundPorts, if not nil, limits the
	// redirection to these (traffic.sidecar.istio.io/includeInboundPorts).
	ExcludeInboundPorts []uint16
	IncludeInboundPorts []uint16

	// ExcludeInterfaces are network devices whose traffic is left alone in both
	// directions (traffic.sidecar.istio.io/excludeInterfaces).
	ExcludeInterfaces []string

	// DNSPort, if not 0, is where the workload's questions to port 53 go, over UDP
	// and TCP, wherever they are sent but to the loopback device. What is excluded
	// stays excluded; what only the Include fields leave out does not.
	DNSPort uint16

	// ProofPort, if not 0, is redirected whatever else is said: inbound, and
	// where the sidecar itself connects to it at one of ProofAddresses. By such
	// connections the sidecar finds out that these rules hold.
	ProofPort uint16
}

// AppSource6 is where the last leg from sidecar to application comes from in
// IPv6, as 127.0.0.6 in IPv4; unlike that it must be given to the loopback
// device first (AddSource).
func AppSource6() netip.Addr { return netip.MustParseAddr("::6") }

// ProofAddresses are where a sidecar connects to in order to see its own
// outbound rules at work. Nobody else is there: they are of RFC 5737 and RFC
// 3849, reserved for documentation.
func ProofAddresses() []netip.Addr {
	return []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, 127}), netip.MustParseAddr("2001:db8::5e1e")}
}

// Pod are Default's rules for a sidecar without capabilities: its uid and gid
// tell its traffic apart, no mark, and readiness at 15021 proves the redirect.
func Pod() Rules {
	r := Default()
	r.Mark, r.ProofPort = 0, 15021
	r.ExcludeInboundPorts = []uint16{15020, 15090}
	return r
}

// Default are Istio's ports and the sidecar's mark and uid 1337.
func Default() Rules {
	return Rules{
		OutboundPort: 15001, InboundPort: 15006, Mark: 1337, SidecarUID: []uint32{1337}, SidecarGID: []uint32{1337},
		// The sidecar's own doors: health and metrics, readiness, Envoy-style metrics.
		ExcludeInboundPorts: []uint16{15020, 15021, 15090},
	}
}

// Validate reports the first thing that the rules cannot mean.
func (r *Rules) Validate() error {
	if r.OutboundPort == 0 || r.InboundPort == 0 {
		return fmt.Errorf("capture: outbound port %d and inbound port %d must both be set", r.OutboundPort, r.InboundPort)
	}
	if r.OutboundPort == r.InboundPort {
		return fmt.Errorf("capture: outbound and inbound port are both %d", r.OutboundPort)
	}
	if r.Mark == 0 && len(r.SidecarUID) == 0 && len(r.SidecarGID) == 0 {
		return fmt.Errorf("capture: neither mark, uid nor gid tells the sidecar's own traffic apart: it would be redirected to itself")
	}
	for _, p := range append(append([]netip.Prefix(nil), r.ExcludeOutboundCIDRs...), r.IncludeOutboundCIDRs...) {
		if !p.IsValid() {
			return fmt.Errorf("capture: %q is not a CIDR", p)
		}
	}
	for _, name := range r.ExcludeInterfaces {
		// IFNAMSIZ counts the zero byte at the end.
		if name == "" || len(name) > 15 {
			return fmt.Errorf("capture: %q is not the name of a network device", name)
		}
	}
	for _, a := range r.ExcludeOutbound {
		if !a.IsValid() {
			return fmt.Errorf("capture: %q is not an address and port", a)
		}
	}
	return nil
}
