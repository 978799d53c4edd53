package capture

import (
	"net/netip"
	"strings"
	"testing"
)

func TestValidate(t *testing.T) {
	for _, tt := range []struct {
		name string
		edit func(*Rules)
		want string
	}{
		{"default", func(*Rules) {}, ""},
		{"no outbound port", func(r *Rules) { r.OutboundPort = 0 }, "must both be set"},
		{"one port for both", func(r *Rules) { r.InboundPort = r.OutboundPort }, "both 15001"},
		{"a loop", func(r *Rules) { r.Mark, r.SidecarUID, r.SidecarGID = 0, nil, nil }, "redirected to itself"},
		{"no prefix", func(r *Rules) { r.ExcludeOutboundCIDRs = []netip.Prefix{{}} }, "not a CIDR"},
		{"no address", func(r *Rules) { r.ExcludeOutbound = []netip.AddrPort{{}} }, "not an address and port"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := Default()
			tt.edit(&r)
			err := r.Validate()
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}
