package capture

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var comparePrefixes = cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })

func TestParseFlags(t *testing.T) {
	prefixes := func(s ...string) []netip.Prefix {
		out := []netip.Prefix{}
		for _, p := range s {
			out = append(out, netip.MustParsePrefix(p))
		}
		return out
	}
	for _, k := range []struct {
		args   string
		change func(*Rules)
	}{
		{"", func(*Rules) {}},
		{"--include-outbound-cidrs=*", func(*Rules) {}},
		{"--include-outbound-cidrs=", func(r *Rules) { r.IncludeOutboundCIDRs = prefixes() }},
		{"--include-outbound-cidrs=10.0.0.1/8,fd00::/8", func(r *Rules) { r.IncludeOutboundCIDRs = prefixes("10.0.0.0/8", "fd00::/8") }},
		{"--exclude-outbound-cidrs=10.1.2.3", func(r *Rules) { r.ExcludeOutboundCIDRs = prefixes("10.1.2.3/32") }},
		{"--exclude-outbound-cidrs=*", func(r *Rules) { r.ExcludeOutboundCIDRs = prefixes("0.0.0.0/0", "::/0") }},
		{"--exclude-outbound-ports=3306,,6379", func(r *Rules) { r.ExcludeOutboundPorts = []uint16{3306, 6379} }},
		{"--include-outbound-ports=80", func(r *Rules) { r.IncludeOutboundPorts = []uint16{80} }},
		{"--include-inbound-ports=", func(r *Rules) { r.IncludeInboundPorts = []uint16{} }},
		{"--include-inbound-ports=*", func(*Rules) {}},
		{"--exclude-inbound-ports=22", func(r *Rules) { r.ExcludeInboundPorts = []uint16{15020, 15090, 22} }},
		{"--status-port=8020", func(r *Rules) { r.ExcludeInboundPorts = []uint16{8020, 15090} }},
		{"--dns-port=15053", func(r *Rules) { r.DNSPort = 15053 }},
		{"--exclude-interfaces=net1", func(r *Rules) { r.ExcludeInterfaces = []string{"net1"} }},
		{"--exclude-uids=0,1000", func(r *Rules) { r.ExcludeUID = []uint32{0, 1000} }},
	} {
		got, err := ParseFlags(strings.Fields(k.args))
		if err != nil {
			t.Errorf("%s: %v", k.args, err)
			continue
		}
		want := Pod()
		k.change(&want)
		if d := cmp.Diff(want, got, comparePrefixes); d != "" {
			t.Errorf("%s:\n%s", k.args, d)
		}
	}
}

func TestParseFlagsRefuses(t *testing.T) {
	for args, want := range map[string]string{
		"--include-outbound-cidrs=ten":                    `"ten" is not a CIDR`,
		"--exclude-outbound-ports=0":                      `"0" is not a port`,
		"--exclude-outbound-ports=*":                      "name the ports",
		"--exclude-inbound-ports=65536":                   "is not a port",
		"--exclude-uids=root":                             "not a uid",
		"--exclude-interfaces=" + strings.Repeat("x", 16): "network device",
		"surplus":       "unexpected argument",
		"--unknown=1":   "unknown",
		"--dns-port=*":  "is not a port",
		"--status-port": "status-port",
	} {
		if _, err := ParseFlags([]string{args}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", args, err, want)
		}
	}
}

func FuzzParseFlags(f *testing.F) {
	f.Add("--exclude-outbound-ports=1,2 --include-inbound-ports=*")
	f.Add("--include-outbound-cidrs=fe80::1%eth0/64")
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseFlags(strings.Fields(s))
		if err == nil {
			if err := r.Validate(); err != nil {
				t.Error(err)
			}
		}
	})
}
