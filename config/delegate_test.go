package config

import (
	"fmt"
	"strings"
	"testing"
)

const delegating = `
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop, namespace: front}
spec:
  hosts: [shop.example.com]
  http:
  - name: product
    match: [{uri: {prefix: /product}}]
    timeout: 5s
    mirror: {host: shadow}
    delegate: {name: product, namespace: back}
  - match: [{uri: {prefix: /gone}}]
    delegate: {name: nobody, namespace: back}
  - route: [{destination: {host: home}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: product, namespace: back}
spec:
  http:
  - name: v2
    match: [{uri: {prefix: /product/v2}, method: {exact: GET}}]
    route: [{destination: {host: product, subset: v2}}]
  - match: [{uri: {prefix: /other}}]
    route: [{destination: {host: other}}]
  - timeout: 1s
    route: [{destination: {host: product}}]
`

func TestDelegates(t *testing.T) {
	r := Build([]File{{"a.yaml", []byte(delegating)}}, Options{})
	if n := len(r.Snapshot.VirtualServices); n != 1 {
		t.Fatalf("%d VirtualServices: %v", n, r.Findings)
	}
	var got []string
	for _, rule := range r.Snapshot.VirtualServices[0].HTTP {
		match := ""
		for _, m := range rule.Match {
			match += m.Uri.GetPrefix() + m.Method.GetExact()
		}
		by := ""
		if rule.Delegate != nil {
			by = fmt.Sprintf("%s/%s[%d]", rule.Delegate.Namespace, rule.Delegate.Name, rule.DelegateIndex)
		}
		mirror := ""
		for _, m := range rule.Mirrors {
			mirror = m.Destination.Host
		}
		got = append(got, fmt.Sprintf("%d %q %s %s %s %s %v %s", rule.Index, rule.Name, match, rule.Destinations[0].Host, rule.Destinations[0].Subset, by, rule.Timeout.AsDuration(), mirror))
		if rule.Source.Name != "shop" || len(rule.Unsupported) > 0 {
			t.Errorf("%v %v", rule.Source, rule.Unsupported)
		}
	}
	want := []string{
		`0 "product-v2" /product/v2GET product.back.svc.cluster.local v2 back/product[0] 5s shadow.front.svc.cluster.local`,
		`0 "product" /product product.back.svc.cluster.local  back/product[2] 1s shadow.front.svc.cluster.local`,
		`2 ""  home.front.svc.cluster.local   0s `,
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	says := ""
	for _, f := range r.Findings {
		says += fmt.Sprintf("%s %s: %s\n", f.Name, f.Path, f.Message)
	}
	for _, s := range []string{"shop spec.http[1].delegate: there is no delegate back/nobody", "product spec.http[1].match: is not within what"} {
		if !strings.Contains(says, s) {
			t.Errorf("no %q in %s", s, says)
		}
	}
}

func TestDelegatesRefused(t *testing.T) {
	const leaf = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: leaf}\nspec: "
	for spec, says := range map[string]string{
		"{http: [{delegate: {name: x}}]}":                                         "cannot delegate further",
		"{gateways: [mesh], http: [{route: [{destination: {host: a}}]}]}":         "is a delegate",
		"{tcp: [{route: [{destination: {host: a}}]}]}":                            "http routes alone",
		"{hosts: [a], http: [{delegate: {name: x}, redirect: {uri: /}}]}":         "excludes",
		"{hosts: [a], http: [{delegate: {name: x}, route: [{destination: {}}]}]}": "excludes",
	} {
		r := Build([]File{{"a.yaml", []byte(leaf + spec + "\n")}}, Options{})
		found := false
		for _, f := range r.Findings {
			found = found || strings.Contains(f.Message, says) && f.Refused
		}
		if !found || len(r.Snapshot.VirtualServices) != 0 {
			t.Errorf("%s: no %q in %v", spec, says, r.Findings)
		}
	}
}
