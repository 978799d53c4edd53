package explain

import (
	"fmt"
	"strings"
	"testing"

	"github.com/seinemesh/seine/config"
)

// TestBalancer holds what is said of how endpoints are picked.
func TestBalancer(t *testing.T) {
	const mesh = `
apiVersion: v1
kind: Service
metadata: {name: billing}
spec: {selector: {app: billing}, ports: [{name: http, port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: billing-1, labels: {app: billing, istio-locality: eu.a}}
spec: {address: 10.244.0.1}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: billing-2, labels: {app: billing, istio-locality: us.a}}
spec: {address: 10.244.0.2}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: caller, labels: {app: caller, istio-locality: eu.a}, annotations: {seine.dev/sidecar: "true"}}
spec: {address: 10.244.0.3}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: billing}
spec: {host: billing, trafficPolicy: {%s}}
`
	for policy, want := range map[string][2]string{
		`tls: {mode: DISABLE}`:                                                                                             {"LEAST_REQUEST", "less latency × requests in flight"},
		`loadBalancer: {simple: LEAST_REQUEST}`:                                                                            {"LEAST_REQUEST", ""},
		`loadBalancer: {simple: ROUND_ROBIN, warmupDurationSecs: 30s}`:                                                     {"ROUND_ROBIN", "A new endpoint warms up for 30s, from 10 % of its share."},
		`loadBalancer: {simple: PASSTHROUGH}`:                                                                              {"PASSTHROUGH", "The endpoint at the address that was dialled"},
		`loadBalancer: {consistentHash: {httpHeaderName: X-User}}`:                                                         {"RING_HASH", "Equal values of the header x-user go to the same endpoint (ring hash)."},
		`loadBalancer: {consistentHash: {useSourceIp: true, minimumRingSize: 2048}}`:                                       {"RING_HASH", "Equal values of the caller's address go to the same endpoint (ring hash of 2048 entries)."},
		`loadBalancer: {consistentHash: {httpQueryParameterName: id, maglev: {tableSize: 251}}}`:                           {"MAGLEV", "Equal values of the query parameter id go to the same endpoint (Maglev of 251 entries)."},
		`loadBalancer: {consistentHash: {httpCookie: {name: user, ttl: 0s}}}`:                                              {"RING_HASH", "A client without the cookie user gets it with the answer."},
		`loadBalancer: {localityLbSetting: {distribute: [{from: eu/*, to: {eu: 80, us: 20}}]}}`:                            {"LEAST_REQUEST", "eu/a: 80 % of the requests from eu/a (localityLbSetting)."},
		`outlierDetection: {consecutive5xxErrors: 5}`:                                                                      {"LEAST_REQUEST", "In reserve 1: the endpoints in us/a."},
		`outlierDetection: {consecutive5xxErrors: 5}, loadBalancer: {simple: RANDOM, localityLbSetting: {enabled: false}}`: {"RANDOM", ""},
	} {
		r := config.Build([]config.File{{Name: "mesh.yaml", Data: fmt.Appendf(nil, mesh, policy)}}, config.Options{})
		a, err := Explain(r.Snapshot, Question{From: "default/caller", URL: "http://billing/"})
		if err != nil {
			t.Fatal(policy, err)
		}
		if len(a.Unsupported) > 0 {
			t.Errorf("%s: %v", policy, a.Unsupported)
		}
		if a.Upstream == nil || a.Upstream.LB != want[0] || !strings.Contains(strings.Join(a.Steps, "\n"), want[1]) {
			t.Errorf("%s: %+v\n%s", policy, a.Upstream, strings.Join(a.Steps, "\n"))
		}
	}
}
