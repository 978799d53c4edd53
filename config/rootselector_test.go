package config

import (
	"strings"
	"testing"
)

// Istio: "PeerAuthentication policies with workload selectors are ignored when
// deployed in the root namespace". Nobody may believe that such a one protects
// something.
func TestSelectorInRootNamespace(t *testing.T) {
	r := Build([]File{{Name: "a.yaml", Data: []byte(`
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: finance, namespace: seine-system}
spec: {selector: {matchLabels: {app: finance}}, mtls: {mode: STRICT}}
`)}}, Options{})
	for _, f := range r.Findings {
		if f.Code == codePolicyTarget && f.Severity == Warning && strings.HasPrefix(f.Message, "has no effect: a selector in the root namespace") {
			return
		}
	}
	t.Errorf("%v", r.Findings)
}
