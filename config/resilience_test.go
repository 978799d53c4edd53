package config

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
)

func resilient(policy string) []File {
	return []File{{"x.yaml", []byte("apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a}\nspec:\n  host: a\n  trafficPolicy: " + policy + "\n")}}
}

// What the proxy gets, with Envoy's defaults where Istio writes nothing.
func TestResilience(t *testing.T) {
	const rest = `"interval":"10s","baseEjectionTime":"30s","maxEjectionPercent":10}}`
	for policy, want := range map[string]string{
		`{connectionPool: {tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 2, http2MaxRequests: 3, maxRequestsPerConnection: 4, maxRetries: 5}}}`: `{"pool":{"maxConnections":1,"maxPending":2,"maxRequests":3,"maxRetries":5,"maxRequestsPerConnection":4}}`,
		`{connectionPool: {tcp: {maxConnections: 0}}}`:                                                            `{}`,
		`{connectionPool: {tcp: {idleTimeout: 5s}}}`:                                                              `{"pool":{"idleTimeout":"5s","tcpIdleTimeout":"5s"}}`,
		`{connectionPool: {tcp: {idleTimeout: 5s}, http: {idleTimeout: 0s}}}`:                                     `{"pool":{"idleTimeout":"0s","tcpIdleTimeout":"5s"}}`,
		`{connectionPool: {tcp: {maxConnectionDuration: 1h, connectTimeout: 30ms}}}`:                              `{"connectTimeout":"0.030s","pool":{"maxConnectionDuration":"3600s"}}`,
		`{connectionPool: {tcp: {tcpKeepalive: {probes: 3, time: 7200s}}}}`:                                       `{"pool":{"keepalive":{"probes":3,"time":"7200s"}}}`,
		`{outlierDetection: {interval: 10s}}`:                                                                     `{"outlier":{"consecutive5xx":5,` + rest,
		`{outlierDetection: {consecutive5xxErrors: 0, consecutiveGatewayErrors: 2}}`:                              `{"outlier":{"consecutiveGateway":2,` + rest,
		`{outlierDetection: {consecutiveErrors: 7}}`:                                                              `{"outlier":{"consecutiveGateway":7,` + rest,
		`{outlierDetection: {consecutiveErrors: 7, consecutive5xxErrors: 3}}`:                                     `{"outlier":{"consecutive5xx":3,` + rest,
		`{outlierDetection: {splitExternalLocalOriginErrors: true}}`:                                              `{"outlier":{"consecutive5xx":5,"splitLocal":true,"consecutiveLocal":5,` + rest,
		`{outlierDetection: {consecutiveLocalOriginFailures: 3}}`:                                                 `{"outlier":{"consecutive5xx":5,` + rest,
		`{outlierDetection: {baseEjectionTime: 3m, interval: 1s, maxEjectionPercent: 100, minHealthPercent: 40}}`: `{"outlier":{"consecutive5xx":5,"interval":"1s","baseEjectionTime":"180s","maxEjectionPercent":100,"minHealthPercent":40}}`,
		`{retryBudget: {}}`: `{"retryBudget":{"percent":20,"minConcurrency":3}}`,
		`{retryBudget: {percent: 0, minRetryConcurrency: 1}, portLevelSettings: [{port: {number: 1}}]}`: `{"retryBudget":{"minConcurrency":1}}`,
		`{outlierDetection: {outlierDetectionHttpErrorCodes: [429, 503]}}`:                              `{"outlier":{"consecutive5xx":5,"interval":"10s","baseEjectionTime":"30s","maxEjectionPercent":10,"errorCodes":[429,503]}}`,
	} {
		r := Build(resilient(policy), Options{})
		for _, f := range r.Findings {
			if f.Code != codeRuleNoHost {
				t.Errorf("%s: %v", policy, f)
			}
		}
		if len(r.Snapshot.DestinationRules) != 1 {
			t.Errorf("%s: refused", policy)
			continue
		}
		got, err := protojson.Marshal(r.Snapshot.DestinationRules[0].Policy)
		if err != nil {
			t.Fatal(err)
		}
		if s := strings.ReplaceAll(string(got), " ", ""); s != want {
			t.Errorf("%s:\n got %s\nwant %s", policy, s, want)
		}
	}
}

func TestResilienceFindings(t *testing.T) {
	for policy, want := range map[string]string{
		`{connectionPool: {tcp: {maxConnections: -1}}}`:                                        "tcp.maxConnections: must not be negative",
		`{connectionPool: {http: {maxRetries: -1}}}`:                                           "http.maxRetries: must not be negative",
		`{connectionPool: {http: {maxRequestsPerConnection: 600000000}}}`:                      "must be at most 2^29",
		`{connectionPool: {tcp: {maxConnectionDuration: 0.0001s}}}`:                            "must be at least 1ms",
		`{outlierDetection: {maxEjectionPercent: 101}}`:                                        "maxEjectionPercent: must be between 0 and 100",
		`{outlierDetection: {minHealthPercent: -1}}`:                                           "minHealthPercent: must be between 0 and 100",
		`{outlierDetection: {interval: 0s}}`:                                                   "interval: must be at least 1ms",
		`{outlierDetection: {outlierDetectionHttpErrorCodes: [99]}}`:                           "must be between 100 and 599",
		`{connectionPool: {http: {maxConcurrentStreams: -1}}}`:                                 "must not be negative",
		`{outlierDetection: {consecutiveErrors: -1}}`:                                          "consecutiveErrors: must not be negative",
		`{portLevelSettings: [{port: {number: 1}, outlierDetection: {baseEjectionTime: 0s}}]}`: "baseEjectionTime: must be at least 1ms",
	} {
		found := false
		for _, f := range Build(resilient(policy), Options{}).Findings {
			found = found || strings.Contains(f.Path+": "+f.Message, want)
		}
		if !found {
			t.Errorf("%s: no finding says %q", policy, want)
		}
	}
}
