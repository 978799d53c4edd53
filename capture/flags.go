package capture

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
)

// ParseFlags reads the Rules of a pod: what `seine-proxy redirect` and the CNI
// plugin are told. What no flag names is as in Pod. The lists are Istio's:
// separated by commas, "*" is everything, "" nothing.
func ParseFlags(args []string) (Rules, error) {
	r := Pod()
	f := flag.NewFlagSet("redirect", flag.ContinueOnError)
	f.SetOutput(io.Discard) // the caller prints the error
	f.Func("include-outbound-cidrs", "only to these `CIDRs`; *: all", func(s string) (err error) {
		r.IncludeOutboundCIDRs, err = parseCIDRs(s)
		return err
	})
	f.Func("exclude-outbound-cidrs", "not to these `CIDRs`", func(s string) error {
		c, err := parseCIDRs(s)
		if c == nil && err == nil {
			c = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
		}
		r.ExcludeOutboundCIDRs = c
		return err
	})
	ports := func(name, usage string, to func([]uint16) error) {
		f.Func(name, usage, func(s string) error {
			p, err := parsePorts(s)
			if err != nil {
				return err
			}
			return to(p)
		})
	}
	some := func(to *[]uint16) func([]uint16) error {
		return func(p []uint16) error {
			if p == nil {
				return errors.New("* is not possible here: name the ports")
			}
			*to = append(*to, p...)
			return nil
		}
	}
	ports("include-inbound-ports", "only these `ports`; *: all", func(p []uint16) error { r.IncludeInboundPorts = p; return nil })
	ports("exclude-inbound-ports", "not these `ports`", some(&r.ExcludeInboundPorts))
	ports("include-outbound-ports", "to these `ports` everywhere", some(&r.IncludeOutboundPorts))
	ports("exclude-outbound-ports", "not to these `ports`", some(&r.ExcludeOutboundPorts))
	f.Func("exclude-interfaces", "not on these `devices`", func(s string) error {
		r.ExcludeInterfaces = fields(s)
		return nil
	})
	f.Func("exclude-uids", "not what these `uids` send", func(s string) error {
		for _, u := range fields(s) {
			n, err := strconv.ParseUint(u, 10, 32)
			if err != nil {
				return fmt.Errorf("%q is not a uid", u)
			}
			r.ExcludeUID = append(r.ExcludeUID, uint32(n))
		}
		return nil
	})
	f.Func("dns-port", "where questions to port 53 go, UDP and TCP; none: nowhere", func(s string) error {
		p, err := parsePorts(s)
		if err != nil || len(p) != 1 {
			return fmt.Errorf("%q is not a port", s)
		}
		r.DNSPort = p[0]
		return nil
	})
	f.Func("status-port", "the sidecar's `port` of health and metrics instead of 15020", func(s string) error {
		p, err := parsePorts(s)
		if err != nil || len(p) != 1 {
			return fmt.Errorf("%q is not a port", s)
		}
		r.ExcludeInboundPorts[0] = p[0]
		return nil
	})
	if err := f.Parse(args); err != nil {
		return Rules{}, fmt.Errorf("capture: %w", err)
	}
	if f.NArg() > 0 {
		return Rules{}, fmt.Errorf("capture: unexpected argument %q", f.Arg(0))
	}
	return r, r.Validate()
}

// fields are the parts of a list, without the spaces that people leave.
func fields(s string) []string {
	out := []string{}
	for part := range strings.SplitSeq(s, ",") {
		if part = strings.TrimSpace(part); part != "" {
			out = append(out, part)
		}
	}
	return out
}

// parseCIDRs returns nil for everything, and an empty list for nothing. An
// address alone is the CIDR of itself, as Istio has it.
func parseCIDRs(s string) ([]netip.Prefix, error) {
	if strings.TrimSpace(s) == "*" {
		return nil, nil
	}
	out := []netip.Prefix{}
	for _, part := range fields(s) {
		if a, err := netip.ParseAddr(part); err == nil && a.Zone() == "" {
			out = append(out, netip.PrefixFrom(a, a.BitLen()))
			continue
		}
		p, err := netip.ParsePrefix(part)
		if err != nil {
			return nil, fmt.Errorf("%q is not a CIDR such as 10.0.0.0/8", part)
		}
		out = append(out, p.Masked())
	}
	return out, nil
}

// parsePorts returns nil for everything, and an empty list for nothing.
func parsePorts(s string) ([]uint16, error) {
	if strings.TrimSpace(s) == "*" {
		return nil, nil
	}
	out := []uint16{}
	for _, part := range fields(s) {
		n, err := strconv.ParseUint(part, 10, 16)
		if err != nil || n == 0 {
			return nil, fmt.Errorf("%q is not a port between 1 and 65535", part)
		}
		out = append(out, uint16(n))
	}
	return out, nil
}
