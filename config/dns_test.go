package config

import (
	"fmt"
	"strings"
	"testing"
)

const dnsConfig = `
apiVersion: v1
kind: Service
metadata: {name: billing}
spec: {clusterIP: 10.0.0.1, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {clusterIP: None, selector: {app: db}, ports: [{port: 5432}]}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: db-0, namespace: shop, labels: {app: db}}
spec: {address: 10.1.0.1}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: db-1, namespace: shop, labels: {app: db}, annotations: {seine.dev/healthy: "false"}}
spec: {address: 10.1.0.2}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: out, namespace: shop}
spec: {hosts: [api.example.com, "*.w.example.com"], addresses: [10.0.0.9], ports: [{number: 443, name: tls}], location: MESH_EXTERNAL}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: mine, namespace: shop}
spec: {hosts: [mine.example.com], exportTo: ["."], addresses: [10.0.0.8], ports: [{number: 443, name: tls}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: asdialled}
spec: {hosts: [dialled.example.com], ports: [{number: 443, name: tls}]}
`

func TestLookup(t *testing.T) {
	r := Build([]File{{Name: "dns.yaml", Data: []byte(dnsConfig)}}, Options{})
	if err := r.Findings.Err(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ from, name, want string }{
		{"default", "billing", "10.0.0.1"},
		{"default", "Billing.Default", "10.0.0.1"},
		{"shop", "billing.default.svc", "10.0.0.1"},
		{"shop", "billing.default.svc.cluster.local", "10.0.0.1"},
		{"shop", "billing.default.svc.cluster.local.", "10.0.0.1"},
		{"shop", "billing.", "elsewhere"},
		{"shop", "billing", "elsewhere"},
		{"shop", "db", "10.1.0.1"},
		{"shop", "db-1.db", "10.1.0.2"},
		{"default", "db-0.db.shop.svc.cluster.local", "10.1.0.1"},
		{"default", "db-7.db.shop", "elsewhere"},
		{"default", "nothing.shop.svc.cluster.local", "none"},
		{"default", "api.example.com", "10.0.0.9"},
		{"default", "x.w.example.com", "elsewhere"},
		{"default", "mine.example.com", "elsewhere"},
		{"shop", "mine.example.com", "10.0.0.8"},
		{"default", "dialled.example.com", "elsewhere"},
		{"default", "example.org", "elsewhere"},
		{"default", "", "elsewhere"},
	} {
		addrs, known := Lookup(r.Snapshot, c.from, c.name)
		got := strings.Trim(fmt.Sprint(addrs), "[]")
		if !known {
			got = "elsewhere"
		} else if got == "" {
			got = "none"
		}
		if got != c.want {
			t.Errorf("%s from %s: %s, want %s", c.name, c.from, got, c.want)
		}
	}
}
