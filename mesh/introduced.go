package mesh

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Introduced are ports of a workload on which connections begin with a PROXY
// header, and the networks from which they do (none: all).
type Introduced struct {
	Ports []uint32
	From  []netip.Prefix
}

// ParseIntroduced reads "8080,8443" and "10.0.0.0/8,192.0.2.1"; nil if both are
// empty.
func ParseIntroduced(ports, from string) (*Introduced, error) {
	if ports == "" {
		if from != "" {
			return nil, errors.New("networks are named, but no ports")
		}
		return nil, nil
	}
	out := &Introduced{}
	for _, p := range strings.Split(ports, ",") {
		n, err := strconv.ParseUint(strings.TrimSpace(p), 10, 16)
		if err != nil || n == 0 {
			return nil, fmt.Errorf("%.20q is no port", p)
		}
		out.Ports = append(out.Ports, uint32(n))
	}
	if from == "" {
		return out, nil
	}
	for _, s := range strings.Split(from, ",") {
		s = strings.TrimSpace(s)
		if a, err := netip.ParseAddr(s); err == nil {
			out.From = append(out.From, netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()))
		} else if p, err := netip.ParsePrefix(s); err == nil {
			out.From = append(out.From, p.Masked())
		} else {
			return nil, fmt.Errorf("%.40q is neither an IP address nor a CIDR such as 10.0.0.0/8", s)
		}
	}
	return out, nil
}
