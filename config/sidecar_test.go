package config

import (
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
		{"{ingress: [{port: {number: 80, protocol: HTTP, name: h}, defaultEndpoint: '127.0.0.1:8080'}]}", &mesh.Sidecar{}, "is not implemented: each port"},
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
		if d := cmp.Diff(c.want, got); d != "" || !strings.Contains(says, c.says) || (c.says == "") != (says == "") {
			t.Errorf("%s: %s\n%s", c.spec, d, says)
		}
	}
}
