package config

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

func TestMeshDefaults(t *testing.T) {
	const resources = `apiVersion: v1
kind: Service
metadata: {name: a}
spec: {ports: [{port: 80, name: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: b, annotations: {networking.istio.io/exportTo: "*"}}
spec: {ports: [{port: 80, name: http}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a}
spec: {hosts: [a], http: [{route: [{destination: {host: a}}]}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: a}
spec: {host: a}
`
	for _, c := range []struct {
		mc       string
		upstream *seinev1.TrafficPolicy
		exports  string
		says     string
	}{
		{"trustDomain: a", nil, "[] [*] [] []", ""},
		{"connectTimeout: 3s\ntcpKeepalive: {probes: 3, time: 60s}\nh2UpgradePolicy: UPGRADE",
			&seinev1.TrafficPolicy{ConnectTimeout: durationpb.New(3 * time.Second), H2Upgrade: seinev1.TrafficPolicy_H2_UPGRADE,
				Pool: &seinev1.ConnectionPool{Keepalive: &seinev1.ConnectionPool_Keepalive{Probes: 3, Time: durationpb.New(time.Minute)}}}, "[] [*] [] []", ""},
		{"defaultServiceExportTo: ['.']\ndefaultVirtualServiceExportTo: [x]\ndefaultDestinationRuleExportTo: ['y']", nil, "[.] [*] [x] [y]", ""},
		{"connectTimeout: 0s", nil, "[] [*] [] []", "connectTimeout: must be above 0"},
		{"tcpKeepalive: {time: -1s}", nil, "[] [*] [] []", "tcpKeepalive.time: a duration must not be negative"},
	} {
		r := Build([]File{{"a.yaml", []byte(resources)}}, Options{MeshConfig: &File{"mc", []byte(c.mc + "\n")}})
		s := r.Snapshot
		if got := strings.Join([]string{bracketed(s.Services[0].ExportTo), bracketed(s.Services[1].ExportTo), bracketed(s.VirtualServices[0].ExportTo), bracketed(s.DestinationRules[0].ExportTo)}, " "); got != c.exports {
			t.Errorf("%s: exported to %s, want %s", c.mc, got, c.exports)
		}
		if !proto.Equal(s.Upstream, c.upstream) {
			t.Errorf("%s: %v, want %v", c.mc, s.Upstream, c.upstream)
		}
		says := ""
		for _, f := range r.Findings {
			if f.Kind == "MeshConfig" {
				says += f.Path + ": " + f.Message + "\n"
			}
		}
		if !strings.Contains(says, c.says) || (c.says == "") != (says == "") {
			t.Errorf("%s: %q, want %q", c.mc, says, c.says)
		}
	}
}

func bracketed(s []string) string { return "[" + strings.Join(s, " ") + "]" }
