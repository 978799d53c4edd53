package config

import (
	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"net/netip"

	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/seinemesh/seine/mesh"
)

func TestSidecar(t *testing.T) {
	yes := true
	for _, c := range []struct {
		spec string
		want *mesh.Sidecar
		says string
	}{
		{"{}", &mesh.Sidecar{}, ""},
		{"{outboundTrafficPolicy: {mode: REGISTRY_ONLY}, workloadSelector: {labels: {app: a}}, egress: [{hosts: [./*, 'other/Billing.other.svc.cluster.local']}, {port: {number: 80, protocol: HTTP, name: http}, hosts: ['*/*.example.com']}]}",
			&mesh.Sidecar{RegistryOnly: &yes, Selector: map[string]string{"app": "a"}, Egress: []mesh.Egress{
				{Namespace: "shop", Host: "*"}, {Namespace: "other", Host: "billing.other.svc.cluster.local"}, {Port: 80, Namespace: "*", Host: "*.example.com"}}}, ""},
		{"{egress: [{hosts: [billing]}]}", nil, "is not NAMESPACE/HOST"},
		{"{egress: [{hosts: [/x]}]}", nil, "is not NAMESPACE/HOST"},
		{"{egress: [{hosts: ['*/a b']}]}", nil, "is not NAMESPACE/HOST"},
		{"{egress: [{hosts: []}]}", nil, "at least one host"},
		{"{egress: [{port: {number: 70000}, hosts: ['*/*']}]}", nil, "between 1 and 65535"},
		{"{ingress: [{port: {number: 80, protocol: HTTP, name: h}, defaultEndpoint: '127.0.0.1:8080'}, {port: {number: 81, protocol: TCP, name: t}, defaultEndpoint: '0.0.0.0:82'}, {port: {number: 83, name: grpc}}]}",
			&mesh.Sidecar{Ingress: []mesh.Ingress{{Port: 80, Protocol: seinev1.Protocol_PROTOCOL_HTTP, Endpoint: netip.MustParseAddrPort("127.0.0.1:8080")},
				{Port: 81, Protocol: seinev1.Protocol_PROTOCOL_TCP, Endpoint: netip.MustParseAddrPort("0.0.0.0:82")}, {Port: 83, Protocol: seinev1.Protocol_PROTOCOL_GRPC}}}, ""},
		{"{ingress: [{port: {number: 80}, defaultEndpoint: '192.0.2.1:80'}]}", nil, "no place of the application's own"},
		{"{ingress: [{port: {number: 80}, defaultEndpoint: 'unix:///x'}]}", nil, "not reached by a unix socket"},
		{"{ingress: [{port: {number: 80}, defaultEndpoint: '127.0.0.1'}]}", nil, "no place of the application's own"},
		{"{ingress: [{port: {number: 0}}]}", nil, "between 1 and 65535"},
		{"{ingress: [{port: {number: 80}}, {port: {number: 80}}]}", nil, "written twice"},
		{"{ingress: [{port: {number: 80, protocol: HTTP, name: h}, captureMode: NONE}]}", &mesh.Sidecar{Ingress: []mesh.Ingress{{Port: 80, Protocol: seinev1.Protocol_PROTOCOL_HTTP}}}, "is not implemented: connections are taken"},
	} {
		r := Build([]File{{"a.yaml", []byte("apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: s, namespace: shop}\nspec: " + c.spec + "\n")}}, Options{})
		var got *mesh.Sidecar
		for _, s := range r.Snapshot.Sidecars {
			s.Ref = mesh.Ref{}
			got = s
		}
		says := ""
		for _, f := range r.Findings {
			says += f.Path + ": " + f.Message + "\n"
		}
		if d := cmp.Diff(c.want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); d != "" || !strings.Contains(says, c.says) || (c.says == "") != (says == "") {
			t.Errorf("%s: %s\n%s", c.spec, d, says)
		}
	}
}
