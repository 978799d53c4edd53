package config

import (
	meshv1 "istio.io/api/mesh/v1alpha1"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

// meshDefaultFields are those of MeshConfig that hold where a resource says
// nothing.
var meshDefaultFields = []string{"connectTimeout", "tcpKeepalive.**", "h2UpgradePolicy",
	"defaultServiceExportTo", "defaultVirtualServiceExportTo", "defaultDestinationRuleExportTo"}

// exports are MeshConfig's default…ExportTo.
type exports struct{ service, virtualService, destinationRule []string }

// meshDefaults reads them.
func (b *builder) meshDefaults(d *decoder, mc *meshv1.MeshConfig) {
	b.exports = exports{mc.DefaultServiceExportTo, mc.DefaultVirtualServiceExportTo, mc.DefaultDestinationRuleExportTo}
	u := &seinev1.TrafficPolicy{}
	if t := mc.ConnectTimeout; t != nil {
		if t.AsDuration() <= 0 {
			d.fail(codeDuration, "connectTimeout", nil, "must be above 0 (it is %v)", t.AsDuration())
		} else {
			u.ConnectTimeout = t
		}
	}
	if k := mc.TcpKeepalive; k != nil {
		u.Pool = &seinev1.ConnectionPool{Keepalive: &seinev1.ConnectionPool_Keepalive{Probes: k.Probes, Time: k.Time, Interval: k.Interval}}
	}
	if mc.H2UpgradePolicy == meshv1.MeshConfig_UPGRADE {
		u.H2Upgrade = seinev1.TrafficPolicy_H2_UPGRADE
	}
	if d.bad {
		return
	}
	if u.ConnectTimeout != nil || u.Pool != nil || u.H2Upgrade != 0 {
		b.parts.Upstream = u
	}
}

// visible are the namespaces that a resource is exported to: those that it
// names, or else the mesh's default.
func visible(written, byDefault []string) []string {
	if len(written) == 0 {
		return byDefault
	}
	return written
}
