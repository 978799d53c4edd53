package config

import "testing"

// Names are Kubernetes': what its API server refuses is refused here, too, and
// not served under a host that no look-up finds.
func TestNames(t *testing.T) {
	for name, ok := range map[string]bool{
		"a": true, "a-b.c1": true, "0": true, "Billing": false, "a_b": false, "-a": false, "a-": false, "a..b": false, "a/b": false, "a b": false,
	} {
		r := Build([]File{{Name: "a.yaml", Data: []byte("apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: \"" + name + "\"}\n")}}, Options{})
		if (r.Findings.Err() == nil) != ok {
			t.Errorf("name %q: %v", name, r.Findings)
		}
		if name == "a-b.c1" {
			continue
		}
		r = Build([]File{{Name: "a.yaml", Data: []byte("apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: a, namespace: \"" + name + "\"}\n")}}, Options{})
		if (r.Findings.Err() == nil) != ok {
			t.Errorf("namespace %q: %v", name, r.Findings)
		}
	}
}
