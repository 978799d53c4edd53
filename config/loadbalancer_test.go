package config

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
)

func lbRule(lb string) []File {
	return []File{{"x.yaml", []byte("apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a}\nspec:\n  host: a\n  trafficPolicy:\n    loadBalancer: " + lb + "\n")}}
}

func TestLoadBalancer(t *testing.T) {
	for lb, want := range map[string]string{
		`{simple: UNSPECIFIED}`:                                                                      `{}`,
		`{simple: LEAST_CONN}`:                                                                       `{"balancer":"LEAST_REQUEST"}`,
		`{simple: LEAST_REQUEST}`:                                                                    `{"balancer":"LEAST_REQUEST"}`,
		`{simple: ROUND_ROBIN, warmupDurationSecs: 30s}`:                                             `{"balancer":"ROUND_ROBIN","warmup":{"duration":"30s","minimumPercent":10,"aggression":1}}`,
		`{simple: PASSTHROUGH}`:                                                                      `{"balancer":"PASSTHROUGH"}`,
		`{warmup: {duration: 1m, minimumPercent: 0, aggression: 2.5}}`:                               `{"warmup":{"duration":"60s","aggression":2.5}}`,
		`{consistentHash: {httpHeaderName: X-User}}`:                                                 `{"hash":{"header":"x-user"}}`,
		`{consistentHash: {useSourceIp: true, minimumRingSize: 5}}`:                                  `{"hash":{"sourceIp":true,"ringSize":"5"}}`,
		`{consistentHash: {httpQueryParameterName: id, ringHash: {minimumRingSize: 9}}}`:             `{"hash":{"query":"id","ringSize":"9"}}`,
		`{consistentHash: {useSourceIp: true, maglev: {}}}`:                                          `{"hash":{"sourceIp":true,"tableSize":65537}}`,
		`{consistentHash: {useSourceIp: true, maglev: {tableSize: 251}}}`:                            `{"hash":{"sourceIp":true,"tableSize":251}}`,
		`{consistentHash: {httpCookie: {name: u, path: /a, ttl: 0s, attributes: [{name: Secure}]}}}`: `{"hash":{"cookie":{"name":"u","path":"/a","ttl":"0s","attributes":[{"name":"Secure"}]}}}`,
		`{localityLbSetting: {enabled: false}}`:                                                      `{"locality":{"disabled":true}}`,
		`{localityLbSetting: {failover: [{from: eu, to: us}]}}`:                                      `{"locality":{"failover":[{"from":"eu","to":"us"}]}}`,
		`{localityLbSetting: {failoverPriority: ["a", "b=c"]}}`:                                      `{"locality":{"failoverPriority":["a","b=c"]}}`,
		`{localityLbSetting: {distribute: [{from: eu/*, to: {"eu/a/*": 80, us: 20}}]}}`:              `{"locality":{"distribute":[{"from":"eu/*","to":{"eu/a/*":80,"us":20}}]}}`,
	} {
		r := Build(lbRule(lb), Options{})
		for _, f := range r.Findings {
			if f.Code != codeRuleNoHost {
				t.Errorf("%s: %v", lb, f)
			}
		}
		if len(r.Snapshot.DestinationRules) != 1 {
			t.Errorf("%s: refused", lb)
			continue
		}
		got, err := protojson.Marshal(r.Snapshot.DestinationRules[0].Policy)
		if err != nil {
			t.Fatal(err)
		}
		if s := strings.ReplaceAll(string(got), " ", ""); s != want {
			t.Errorf("%s:\n got %s\nwant %s", lb, s, want)
		}
	}
}

func TestLoadBalancerFindings(t *testing.T) {
	for lb, want := range map[string]string{
		`{warmup: {minimumPercent: 5}}`:                                                                  "warmup.duration: must be written",
		`{warmup: {duration: 10s, minimumPercent: 101}}`:                                                 "minimumPercent: must be between 0 and 100",
		`{warmup: {duration: 10s, aggression: 0.5}}`:                                                     "aggression: must be 1 or more",
		`{warmupDurationSecs: 0.1s}`:                                                                     "warmupDurationSecs: must be one second",
		`{simple: RANDOM, warmupDurationSecs: 10s}`:                                                      "has no effect",
		`{consistentHash: {}}`:                                                                           "does not say what is hashed",
		`{consistentHash: {useSourceIp: false}}`:                                                         "does not say what is hashed",
		`{consistentHash: {httpHeaderName: ""}}`:                                                         "must be the name of a header",
		`{consistentHash: {httpQueryParameterName: ""}}`:                                                 "must be the name of a query parameter",
		`{consistentHash: {httpCookie: {ttl: 1s}}}`:                                                      `"" is no name of a cookie`,
		`{consistentHash: {httpCookie: {name: "a b"}}}`:                                                  "is no name of a cookie",
		`{consistentHash: {httpCookie: {name: a, path: "/; Domain=x"}}}`:                                 "cannot stand in a Set-Cookie",
		`{consistentHash: {httpCookie: {name: a, attributes: [{name: a, value: "x;y"}]}}}`:               "cannot stand in a Set-Cookie",
		`{consistentHash: {useSourceIp: true, maglev: {tableSize: 8}}}`:                                  "must be a prime number",
		`{consistentHash: {useSourceIp: true, minimumRingSize: 9000000}}`:                                "it gets 1048576",
		`{localityLbSetting: {failover: [{from: eu, to: us}], distribute: [{from: eu, to: {eu: 100}}]}}`: "distribute excludes failover",
		`{localityLbSetting: {failover: [{from: eu, to: eu}]}}`:                                          "must be different regions",
		`{localityLbSetting: {failover: [{from: eu/a, to: us}]}}`:                                        "is not a region alone",
		`{localityLbSetting: {distribute: [{from: eu, to: {eu: 90}}]}}`:                                  "must add up to 100",
		`{localityLbSetting: {distribute: [{from: eu, to: {eu: 0, us: 100}}]}}`:                          "must be between 1 and 100",
		`{localityLbSetting: {distribute: [{from: eu, to: {eu: 50, eu/a: 50}}]}}`:                        "covers the same places",
		`{localityLbSetting: {distribute: [{from: eu, to: {eu: 100}}, {from: eu, to: {us: 100}}]}}`:      "is written twice",
		`{localityLbSetting: {distribute: [{from: "*/a", to: {eu: 100}}]}}`:                              "a * stands alone, and at the end",
		`{localityLbSetting: {distribute: [{from: eu//b, to: {eu: 100}}]}}`:                              "has an empty part",
		`{localityLbSetting: {distribute: [{from: a/b/c/d, to: {eu: 100}}]}}`:                            "has more parts",
		`{localityLbSetting: {failoverPriority: ["=a"]}}`:                                                "is neither LABEL nor LABEL=VALUE",
	} {
		var all []string
		for _, f := range Build(lbRule(lb), Options{}).Findings {
			all = append(all, f.Path+": "+f.Message)
		}
		if !strings.Contains(strings.Join(all, "\n"), want) {
			t.Errorf("%s: %q, want %q", lb, all, want)
		}
	}
}

func TestMeshLocality(t *testing.T) {
	build := func(text string) *Result {
		return Build([]File{{"w.yaml", []byte("apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: w, labels: {istio-locality: eu.a.1}}\nspec: {address: 10.0.0.1, locality: us}\n")}},
			Options{MeshConfig: &File{"mesh.yaml", []byte(text)}})
	}
	r := build("localityLbSetting: {distribute: [{from: eu, to: {us: 100}}]}")
	if l := r.Snapshot.Locality; len(l.GetDistribute()) != 1 || l.Distribute[0].To["us"] != 100 {
		t.Errorf("%v, %v", l, r.Findings)
	}
	if w := r.Snapshot.Workloads[0]; w.Locality != "eu/a/1" {
		t.Error("the label istio-locality wins:", w.Locality)
	}
	if r := build("localityLbSetting: {distribute: [{from: eu, to: {us: 1}}]}"); r.Snapshot.Locality != nil {
		t.Error("a wrong setting holds")
	}
}
