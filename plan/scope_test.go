package plan

import (
	"testing"

	"github.com/seinemesh/seine/mesh"
)

// TestSidecar: which Sidecar holds for a workload, and what it bars it from.
func TestSidecar(t *testing.T) {
	yes, no := true, false
	sidecar := func(namespace, name string, only *bool, egress ...mesh.Egress) *mesh.Sidecar {
		return &mesh.Sidecar{Ref: ref("Sidecar", namespace, name), RegistryOnly: only, Egress: egress}
	}
	own := mesh.Egress{Namespace: "default", Host: "*"}
	selecting := sidecar("default", "a", &yes, mesh.Egress{Namespace: "*", Host: "*.example.com"})
	selecting.Selector = map[string]string{"team": "a"}
	others := sidecar("default", "b", &yes, mesh.Egress{Namespace: "~", Host: "*"})
	others.Selector = map[string]string{"team": "b"}
	const (
		billing   = "ROUTES HTTP billing.default | billing[0]/0 billing.default:80"
		elsewhere = "ROUTES HTTP billing.other | billing[0]/0 billing.other:80"
		api       = "ROUTES HTTP api.example.com | api[0]/0 api.example.com:80"
		pod       = "ROUTES HTTP billing.default direct billing.default/80/billing-1 | billing-1[0]/0 billing.default:80"
	)
	for name, c := range map[string]struct {
		mesh     bool
		sidecars []*mesh.Sidecar
		want     map[string]string
	}{
		"none": {false, nil, map[string]string{"http/80/billing": billing, "http/80/billing.other": elsewhere, "http/80/www.example.org": "PASSTHROUGH"}},
		"under ALLOW_ANY nothing is barred": {false, []*mesh.Sidecar{sidecar("default", "d", nil, own)}, map[string]string{
			"http/80/billing.other": elsewhere, "addr/10.96.0.3:80": elsewhere, "http/80/www.example.org": "PASSTHROUGH"}},
		"of the namespace": {false, []*mesh.Sidecar{sidecar("default", "d", &yes, own)}, map[string]string{
			"http/80/billing":         billing,
			"addr/10.244.0.11:8080":   pod,
			"http/80/billing.other":   `BLACKHOLE (billing.other.svc.cluster.local is not among the egress hosts of Sidecar "default/d" (d.yaml:1), and outboundTrafficPolicy is REGISTRY_ONLY)`,
			"addr/10.96.0.3:80":       `BLACKHOLE (billing.other.svc.cluster.local is not among the egress hosts of Sidecar "default/d" (d.yaml:1), and outboundTrafficPolicy is REGISTRY_ONLY)`,
			"http/80/10.96.0.3":       `BLACKHOLE (billing.other.svc.cluster.local is not among the egress hosts of Sidecar "default/d" (d.yaml:1), and outboundTrafficPolicy is REGISTRY_ONLY)`,
			"http/80/www.example.org": "BLACKHOLE (www.example.org is no service of the mesh, and outboundTrafficPolicy is REGISTRY_ONLY)"}},
		"the mesh's policy, the Sidecar's hosts": {true, []*mesh.Sidecar{sidecar("default", "d", nil, mesh.Egress{Namespace: "other", Host: "*"})}, map[string]string{
			"http/80/billing.other": elsewhere,
			"http/80/billing":       `BLACKHOLE (billing.default.svc.cluster.local is not among the egress hosts of Sidecar "default/d" (d.yaml:1), and outboundTrafficPolicy is REGISTRY_ONLY)`,
			"addr/10.244.0.11:8080": `BLACKHOLE (every service of default/billing-1 is not among the egress hosts of Sidecar "default/d" (d.yaml:1), and outboundTrafficPolicy is REGISTRY_ONLY)`}},
		"against the mesh's policy":   {true, []*mesh.Sidecar{sidecar("default", "d", &no, own)}, map[string]string{"http/80/billing.other": elsewhere, "http/80/www.example.org": "PASSTHROUGH"}},
		"of the mesh":                 {false, []*mesh.Sidecar{sidecar("seine-system", "m", &yes, mesh.Egress{Namespace: "other", Host: "*"})}, map[string]string{"http/80/billing.other": elsewhere}},
		"the namespace's before it":   {false, []*mesh.Sidecar{sidecar("seine-system", "m", &yes, mesh.Egress{Namespace: "~", Host: "*"}), sidecar("default", "d", &yes, own)}, map[string]string{"http/80/billing": billing}},
		"one that selects before it":  {false, []*mesh.Sidecar{sidecar("default", "d", &yes, own), others, selecting}, map[string]string{"http/80/api.example.com": api}},
		"one without egress":          {false, []*mesh.Sidecar{sidecar("default", "d", &yes)}, map[string]string{"http/80/billing": billing, "http/80/billing.other": elsewhere}},
		"on one port":                 {false, []*mesh.Sidecar{sidecar("default", "d", &yes, mesh.Egress{Port: 81, Namespace: "*", Host: "*"}, mesh.Egress{Port: 80, Namespace: "other", Host: fqdn("billing.other")})}, map[string]string{"http/80/billing.other": elsewhere}},
		"of another namespace is not": {false, []*mesh.Sidecar{sidecar("other", "o", &yes, mesh.Egress{Namespace: "~", Host: "*"})}, map[string]string{"http/80/billing": billing}},
	} {
		t.Run(name, func(t *testing.T) {
			parts := fixture()
			parts.Settings.RegistryOnly, parts.Sidecars = c.mesh, c.sidecars
			s := snapshot(parts)
			for name, want := range c.want {
				if got := short(Answer(s, caller(s), name)); got != want {
					t.Errorf("%s:\n got %s\nwant %s", name, got, want)
				}
			}
		})
	}
}
