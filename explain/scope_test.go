package explain

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/seinemesh/seine/config"
	"github.com/seinemesh/seine/mesh"
)

// built is the Snapshot of a configuration that is written in a test.
func built(t *testing.T, yaml string) *mesh.Snapshot {
	t.Helper()
	r := config.Build([]config.File{{Name: "mesh.yaml", Data: []byte(yaml)}}, config.Options{LocalInstances: true})
	if err := r.Findings.Err(); err != nil {
		t.Fatal(err)
	}
	return r.Snapshot
}

const twoSubsets = `
apiVersion: v1
kind: Service
metadata: {name: billing}
spec: {selector: {app: billing}, ports: [{name: http, port: 8080}, {name: tcp-db, port: 5432}]}
---
apiVersion: local.seine.dev/v1
kind: Workload
metadata: {name: v1, labels: {app: billing, version: v1}}
spec: {command: [x], ports: [8080, 5432]}
---
apiVersion: local.seine.dev/v1
kind: Workload
metadata: {name: v2, labels: {app: billing, version: v2}}
spec: {command: [x], ports: [8080, 5432]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: billing}
spec:
  hosts: [billing]
  http:
  - match: [{uri: {prefix: /v2}}]
    route: [{destination: {host: billing, port: {number: 8080}, subset: v2}}]
  - route: [{destination: {host: billing, port: {number: 8080}, subset: v1}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: billing}
spec:
  host: billing
  trafficPolicy:
    portLevelSettings:
    - {port: {number: 5432}, connectionPool: {http: {http2KeepAlive: {}}}}
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}, trafficPolicy: {connectionPool: {http: {http2KeepAlive: {}}}}}
`

// A field that is not implemented concerns the calls that it is written for,
// and no others.
func TestUnsupportedOfAnother(t *testing.T) {
	s := built(t, twoSubsets)
	for _, c := range []struct{ url, outcome, path string }{
		{"http://billing:8080/", Forward, ""},
		{"http://billing:8080/v2", Unsupported, "spec.subsets[1]"},
		{"tcp://billing:5432", Unsupported, "spec.trafficPolicy.portLevelSettings[0]"},
	} {
		a, err := Explain(s, Question{From: "default,app=x", URL: c.url})
		if err != nil {
			t.Fatal(c.url, err)
		}
		if a.Outcome != c.outcome || len(a.Unsupported) > 0 != (c.path != "") || c.path != "" && !strings.HasPrefix(a.Unsupported[0], c.path) {
			t.Errorf("%s: %s %q", c.url, a.Outcome, a.Unsupported)
		}
	}
}

// Istio routes a VirtualService's host on port 80, too, where its service has no
// such port: the answer names the service, not what the client wrote.
func TestHostWithoutThatPort(t *testing.T) {
	a, err := Explain(built(t, twoSubsets), Question{From: "default,app=x", URL: "http://billing/"})
	if err != nil {
		t.Fatal(err)
	}
	if a.Outcome != Forward || a.Service != "billing.default.svc.cluster.local" || a.Port != 80 {
		t.Errorf("%s %s:%d", a.Outcome, a.Service, a.Port)
	}
	if !slices.ContainsFunc(a.Steps, func(s string) bool { return strings.Contains(s, "which has no port 80") }) {
		t.Errorf("%q", a.Steps)
	}
}

func TestCallerChecked(t *testing.T) {
	s := built(t, twoSubsets)
	for field, q := range map[string]Question{
		"principal": {From: "default,app=x", URL: "http://billing:8080/", Principal: "somebody"},
		"sourceIP":  {From: "default,app=x", URL: "http://billing:8080/", SourceIP: "here"},
	} {
		for _, to := range []string{"", "default/v1:8080"} {
			q.To = to
			var wrong *QuestionError
			if _, err := Explain(s, q); !errors.As(err, &wrong) || wrong.Field != field {
				t.Errorf("%s %q: %v", field, to, err)
			}
		}
	}
}

const strictBilling = `
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: seine-system}
spec: {mtls: {mode: STRICT}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: plain, namespace: careless}
spec: {host: billing.default.svc.cluster.local, trafficPolicy: {tls: {mode: DISABLE}}}
`

// At the receiving end only a certificate of the mesh passes STRICT: neither
// somebody's TLS, nor a caller whose DestinationRule makes it speak plaintext.
func TestInboundStrict(t *testing.T) {
	s := built(t, twoSubsets+strictBilling)
	for _, c := range []struct {
		q       Question
		outcome string
		step    string
	}{
		{Question{URL: "tls://billing:8080"}, Reject, "no certificate of the mesh"},
		{Question{From: "careless,app=x"}, Reject, "a DestinationRule tells"},
		{Question{From: "default,app=x"}, Forward, "mutual TLS as spiffe://cluster.local/ns/default/sa/default"},
	} {
		c.q.To = "default/v1:8080"
		a, err := Explain(s, c.q)
		if err != nil {
			t.Fatal(err)
		}
		if a.Outcome != c.outcome || !slices.ContainsFunc(a.Steps, func(s string) bool { return strings.Contains(s, c.step) }) {
			t.Errorf("%+v: %s %q", c.q, a.Outcome, a.Steps)
		}
	}
}
