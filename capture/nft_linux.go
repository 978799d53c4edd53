package capture

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// TableName is the nftables table that holds the rules; nothing else is in it.
const TableName = "seine"

// Here, for Install, is the network namespace that the calling thread is in.
const Here = -1

// Install puts the rules in place in the network namespace that fd refers to,
// instead of those of an earlier Install, in one transaction: no connection
// sees half of them. It needs CAP_NET_ADMIN over that namespace, and
// CAP_SYS_ADMIN to enter one that is not Here.
func Install(fd int, r Rules) error {
	if err := r.Validate(); err != nil {
		return err
	}
	var options []nftables.ConnOption
	if fd != Here {
		options = append(options, nftables.WithNetNSFd(fd))
	}
	conn, err := nftables.New(options...)
	if err != nil {
		return fmt.Errorf("capture: open nftables: %w", err)
	}
	table := &nftables.Table{Name: TableName, Family: nftables.TableFamilyINet}
	// Added first, so that deleting never meets a missing table.
	conn.AddTable(table)
	conn.DelTable(table)
	conn.AddTable(table)
	accept := nftables.ChainPolicyAccept
	add := func(name string, hook *nftables.ChainHook, rules [][]expr.Any) {
		chain := conn.AddChain(&nftables.Chain{
			Name: name, Table: table, Type: nftables.ChainTypeNAT, Hooknum: hook,
			Priority: nftables.ChainPriorityNATDest, Policy: &accept,
		})
		for _, exprs := range rules {
			conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: exprs})
		}
	}
	add("outbound", nftables.ChainHookOutput, r.outbound())
	add("inbound", nftables.ChainHookPrerouting, r.inbound())
	switch err := conn.Flush(); {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("capture: write nftables rules: %w: this needs CAP_NET_ADMIN over the network namespace", err)
	case err != nil:
		return fmt.Errorf("capture: write nftables rules (does this kernel have nf_tables with NAT and redirect?): %w", err)
	}
	return nil
}

// Installed reports whether the calling thread's network namespace holds the
// table that Install makes. It needs CAP_NET_ADMIN.
func Installed() (bool, error) {
	conn, err := nftables.New()
	if err != nil {
		return false, fmt.Errorf("capture: open nftables: %w", err)
	}
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return false, fmt.Errorf("capture: list nftables tables: %w", err)
	}
	return slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == TableName }), nil
}

func (r *Rules) outbound() [][]expr.Any {
	var rules [][]expr.Any
	add := func(verdict []expr.Any, conds ...[]expr.Any) { rules = append(rules, join(verdict, conds...)) }

	if r.DNSPort == 0 {
		add(pass(), notTCP())
	} else {
		// Of UDP, only questions to port 53 get further down.
		add(pass(), notTCP(), notUDP())
		add(pass(), isUDP(), notToPort(53))
	}
	for _, sidecar := range r.sidecar() {
		if r.DNSPort != 0 {
			add(pass(), sidecar, isUDP())
		}
		if r.ProofPort != 0 {
			for _, a := range ProofAddresses() {
				add(redirect(r.OutboundPort), sidecar, inPrefix(destination, netip.PrefixFrom(a, a.BitLen())), toPort(r.ProofPort))
			}
		}
		// The sidecar to its own workload's address: the inbound side's business,
		// unless it is already the leg from sidecar to application.
		add(pass(), sidecar, onLoopback(unix.NFT_META_OIFNAME), inPrefix(destination, netip.MustParsePrefix("127.0.0.0/8")))
		add(pass(), sidecar, onLoopback(unix.NFT_META_OIFNAME), inPrefix(destination, netip.MustParsePrefix("::1/128")))
		add(pass(), sidecar, onLoopback(unix.NFT_META_OIFNAME), inPrefix(source, netip.MustParsePrefix("127.0.0.6/32")))
		add(pass(), sidecar, onLoopback(unix.NFT_META_OIFNAME), inPrefix(source, netip.PrefixFrom(AppSource6(), 128)))
		for _, p := range r.ExcludeInboundPorts {
			add(pass(), sidecar, onLoopback(unix.NFT_META_OIFNAME), toPort(p))
		}
		add(redirect(r.InboundPort), sidecar, onLoopback(unix.NFT_META_OIFNAME))
		add(pass(), sidecar)
	}
	add(pass(), onLoopback(unix.NFT_META_OIFNAME))
	for _, name := range r.ExcludeInterfaces {
		add(pass(), onDevice(unix.NFT_META_OIFNAME, name))
	}
	for _, uid := range r.ExcludeUID {
		add(pass(), metaU32(expr.MetaKeySKUID, uid))
	}
	for _, a := range r.ExcludeOutbound {
		add(pass(), inPrefix(destination, netip.PrefixFrom(a.Addr(), a.Addr().BitLen())), toPort(a.Port()))
	}
	for _, p := range r.ExcludeOutboundPorts {
		add(pass(), toPort(p))
	}
	for _, c := range r.ExcludeOutboundCIDRs {
		add(pass(), inPrefix(destination, c))
	}
	if r.DNSPort != 0 {
		add(redirect(r.DNSPort), toPort(53))
	}
	for _, p := range r.IncludeOutboundPorts {
		add(redirect(r.OutboundPort), isTCP(), toPort(p))
	}
	if r.IncludeOutboundCIDRs == nil {
		add(redirect(r.OutboundPort), isTCP())
		return rules
	}
	for _, c := range r.IncludeOutboundCIDRs {
		add(redirect(r.OutboundPort), isTCP(), inPrefix(destination, c))
	}
	return rules
}

func (r *Rules) inbound() [][]expr.Any {
	var rules [][]expr.Any
	add := func(verdict []expr.Any, conds ...[]expr.Any) { rules = append(rules, join(verdict, conds...)) }

	add(pass(), notTCP())
	add(pass(), onLoopback(unix.NFT_META_IIFNAME))
	if r.ProofPort != 0 {
		add(redirect(r.InboundPort), isTCP(), toPort(r.ProofPort))
	}
	for _, name := range r.ExcludeInterfaces {
		add(pass(), onDevice(unix.NFT_META_IIFNAME, name))
	}
	for _, p := range r.ExcludeInboundPorts {
		add(pass(), toPort(p))
	}
	if r.IncludeInboundPorts == nil {
		add(redirect(r.InboundPort), isTCP())
		return rules
	}
	for _, p := range r.IncludeInboundPorts {
		add(redirect(r.InboundPort), isTCP(), toPort(p))
	}
	return rules
}

func (r *Rules) sidecar() [][]expr.Any {
	var out [][]expr.Any
	if r.Mark != 0 {
		out = append(out, metaU32(expr.MetaKeyMARK, r.Mark))
	}
	for _, u := range r.SidecarUID {
		out = append(out, metaU32(expr.MetaKeySKUID, u))
	}
	for _, g := range r.SidecarGID {
		out = append(out, metaU32(expr.MetaKeySKGID, g))
	}
	return out
}

// The pieces of a rule: each condition loads register 1 and compares it.

func join(verdict []expr.Any, conds ...[]expr.Any) []expr.Any {
	var out []expr.Any
	for _, c := range conds {
		out = append(out, c...)
	}
	return append(out, verdict...)
}

func pass() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}} }

func redirect(port uint16) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: binaryutil.BigEndian.PutUint16(port)},
		&expr.Redir{RegisterProtoMin: 1},
	}
}

func isTCP() []expr.Any { return metaByte(expr.MetaKeyL4PROTO, expr.CmpOpEq, unix.IPPROTO_TCP) }

func notTCP() []expr.Any { return metaByte(expr.MetaKeyL4PROTO, expr.CmpOpNeq, unix.IPPROTO_TCP) }

func isUDP() []expr.Any { return metaByte(expr.MetaKeyL4PROTO, expr.CmpOpEq, unix.IPPROTO_UDP) }

func notUDP() []expr.Any { return metaByte(expr.MetaKeyL4PROTO, expr.CmpOpNeq, unix.IPPROTO_UDP) }

func metaByte(key expr.MetaKey, op expr.CmpOp, v byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: op, Register: 1, Data: []byte{v}}}
}

func metaU32(key expr.MetaKey, v uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(v)},
	}
}

func onLoopback(key expr.MetaKey) []expr.Any { return onDevice(key, "lo") }

// onDevice compares the whole interface name, as the kernel pads it.
func onDevice(key expr.MetaKey, device string) []expr.Any {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, device)
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: name}}
}

// toPort compares the destination port, at offset 2 of TCP's header as of UDP's.
func toPort(p uint16) []expr.Any { return comparePort(expr.CmpOpEq, p) }

func notToPort(p uint16) []expr.Any { return comparePort(expr.CmpOpNeq, p) }

func comparePort(op expr.CmpOp, p uint16) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: op, Register: 1, Data: binaryutil.BigEndian.PutUint16(p)},
	}
}

type field uint8

const (
	source field = iota
	destination
)

// inPrefix compares an address of the IP header: RFC 791 has the source at 12
// and the destination at 16, RFC 8200 at 8 and 24.
func inPrefix(f field, p netip.Prefix) []expr.Any {
	p = p.Masked()
	family, offset, size := byte(unix.NFPROTO_IPV4), uint32(12), uint32(4)
	if f == destination {
		offset = 16
	}
	if p.Addr().Is6() {
		family, offset, size = unix.NFPROTO_IPV6, 8, 16
		if f == destination {
			offset = 24
		}
	}
	mask := make([]byte, size)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return append(metaByte(expr.MetaKeyNFPROTO, expr.CmpOpEq, family),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: size, Mask: mask, Xor: make([]byte, size)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: p.Addr().AsSlice()},
	)
}
