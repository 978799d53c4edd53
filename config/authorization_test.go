package config

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
)

func TestAuthorizationPolicy(t *testing.T) {
	for spec, want := range map[string]string{
		`{}`:                          `{"id":"shop/p"}`,
		`{action: DENY, rules: [{}]}`: `{"id":"shop/p","action":"DENY","rules":[{}]}`,
		`{rules: [{from: [{source: {principals: ["cluster.local/ns/a/sa/b", "*"], notNamespaces: [x]}}], to: [{operation: {methods: [GET], paths: ["/a*"]}}], when: [{key: "request.headers[x]", values: [y]}]}]}`: `{"id":"shop/p","rules":[{"from":[{"all":[{"key":"source.principal","values":["td.example/ns/a/sa/b","*"]},{"key":"source.namespace","notValues":["x"]}]}],"to":[{"all":[{"key":"request.method","values":["GET"]},{"key":"request.path","values":["/a*"]}]}],"when":[{"key":"request.headers[x]","values":["y"]}]}]}`,
		`{rules: [{from: [{source: {serviceAccounts: [b, c/d]}}]}]}`: `{"id":"shop/p","rules":[{"from":[{"all":[{"key":"source.serviceAccount","values":["shop/b","c/d"]}]}]}]}`,

		`{action: CUSTOM, provider: {name: x}, rules: [{}]}`:                  "SEINE0008 spec.action",
		`{rules: [{from: [{source: {requestPrincipals: ["*"]}}]}]}`:           "SEINE0008 spec.rules[0].from[0].source.requestPrincipals",
		`{rules: [{from: [{source: {notRequestPrincipals: ["*"]}}]}]}`:        "SEINE0008 spec.rules[0].from[0].source.notRequestPrincipals",
		`{rules: [{when: [{key: "request.auth.claims[iss]", values: [x]}]}]}`: "SEINE0008 spec.rules[0].when[0]",
		`{rules: [{when: [{key: source.user, values: [x]}]}]}`:                "SEINE0014 spec.rules[0].when[0]",
		`{rules: [{from: [{source: {ipBlocks: [x]}}]}]}`:                      "SEINE0014 spec.rules[0].from[0].source.ipBlocks",
		`{rules: [{from: [{}]}]}`:                                             "SEINE0014 spec.rules[0].from[0].source",
		`{rules: [{to: [{operation: {ports: ["http"]}}]}]}`:                   "SEINE0014 spec.rules[0].to[0].operation.ports",
		`{selector: {}, rules: [{}]}`:                                         "SEINE0014 spec.selector",
	} {
		r := Build([]File{{"x.yaml", []byte("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: shop}\nspec: " + spec + "\n")}}, Options{MeshConfig: &File{"m", []byte("trustDomain: td.example\n")}})
		got := ""
		for _, p := range r.Snapshot.Authorizations {
			p.Policy.Source = nil
			b, err := protojson.Marshal(p.Policy)
			if err != nil {
				t.Fatal(err)
			}
			got = strings.ReplaceAll(string(b), " ", "")
		}
		for _, f := range r.Findings {
			if f.Refused {
				got += f.Code + " " + f.Path
			}
		}
		if got != want {
			t.Errorf("%s\n got %s\nwant %s", spec, got, want)
		}
	}
}
