package local

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/seinemesh/seine/config"
)

const named = `
apiVersion: v1
kind: Service
metadata: {name: billing-service}
spec: {selector: {app: billing}, ports: [{name: http, port: 8080}], clusterIP: 10.96.7.7}
---
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {selector: {app: cart}, ports: [{name: http, port: 8080}], clusterIP: 10.96.7.8}
---
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: None, selector: {app: db}, ports: [{name: tcp, port: 5432}]}
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec: {clusterIP: None, selector: {app: nobody}, ports: [{name: tcp, port: 5432}]}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: db-1, labels: {app: db}}
spec: {address: 10.244.1.1}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: db-2, labels: {app: db}}
spec: {address: 10.244.1.2}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: cart-1, namespace: shop, labels: {app: cart}}
spec: {address: 10.244.2.1}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: outside}
spec:
  hosts: [api.example.com]
  ports: [{number: 443, name: tls, protocol: TLS}]
  location: MESH_EXTERNAL
  resolution: DNS
`

// TestNames: what has addresses, what is the mesh's and has none, and what is neither
// and is asked for outside.
func TestNames(t *testing.T) {
	n := &names{}
	if addrs, zone := n.lookup(netip.Addr{}, "billing-service"); len(addrs) > 0 || zone == "" {
		t.Errorf("before anything is known: %v, %q", addrs, zone)
	}
	build := func(text string) {
		t.Helper()
		r := config.Build([]config.File{{Name: "mesh.yaml", Data: []byte(text)}}, config.Options{})
		if err := r.Findings.Err(); err != nil {
			t.Fatal(err)
		}
		n.snapshot.Store(r.Snapshot)
	}
	build(named)
	const anybody, shop = "10.244.9.9", "10.244.2.1"
	billing := []string{"10.96.7.7"}
	for _, tt := range []struct {
		from, name string
		zone       string
		want       []string
	}{
		{anybody, "billing-service", "", billing},
		{anybody, "billing-service.default", "", billing},
		{anybody, "billing-service.default.svc", "", billing},
		{anybody, "billing-service.default.svc.cluster.local", "", billing},
		{anybody, "cart", "cluster.local", nil},
		{shop, "cart", "", []string{"10.96.7.8"}},
		{anybody, "cart.shop", "", []string{"10.96.7.8"}},
		{anybody, "db", "", []string{"10.244.1.1", "10.244.1.2"}},
		{anybody, "db-2.db", "", []string{"10.244.1.2"}},
		{anybody, "nobody", "cluster.local", nil},
		{anybody, "none.default.svc.cluster.local", "cluster.local", nil},
		{anybody, "www.example.com.default.svc.cluster.local", "cluster.local", nil},
		{anybody, "cluster.local", "cluster.local", nil},
		{anybody, "singlelabel", "cluster.local", nil},
		{anybody, "www.example.com", "", nil},
	} {
		addrs, zone := n.lookup(netip.MustParseAddr(tt.from), tt.name)
		var got []string
		for _, a := range addrs {
			got = append(got, a.String())
		}
		slices.Sort(got)
		if zone != tt.zone || !slices.Equal(got, tt.want) {
			t.Errorf("%s from %s: %v %q, want %v %q", tt.name, tt.from, got, zone, tt.want, tt.zone)
		}
	}
	// A host of a ServiceEntry has an address of the mesh's own.
	if got, _ := n.lookup(netip.MustParseAddr(anybody), "api.example.com"); len(got) != 1 || !config.DefaultVIPs.Contains(got[0]) {
		t.Errorf("a ServiceEntry's host: %v", got)
	}
	build(strings.ReplaceAll(named, "10.96.7.7", "10.96.9.9"))
	if got, _ := n.lookup(netip.MustParseAddr(anybody), "billing-service"); len(got) != 1 || got[0].String() != "10.96.9.9" {
		t.Errorf("after a change: %v", got)
	}
}
