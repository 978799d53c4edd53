package config

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/seinemesh/seine/mesh"
)

// TestDecoded: whatever changes, a Build that keeps what it decoded says what one that
// decodes everything says.
func TestDecoded(t *testing.T) {
	one := func(apiVersion, kind, name, spec string) *Resource {
		return &Resource{Data: []byte(fmt.Sprintf(`{"apiVersion":%q,"kind":%q,"metadata":{"name":%q,"namespace":"shop","labels":{"a":"b"}},"spec":%s}`, apiVersion, kind, name, spec)), Decoded: &Decoded{}}
	}
	const networking = "networking.istio.io/v1"
	routed := `{"hosts":["web"],"http":[{"route":[{"destination":{"host":"web","subset":"v1"}}]}]}`
	resources := map[string]*Resource{
		"web":      one("v1", "Service", "web", `{"clusterIP":"10.96.0.1","selector":{"app":"web"},"ports":[{"name":"http","port":80}]}`),
		"tea":      one("v1", "Service", "tea", `{"clusterIP":"10.96.0.2","ports":[{"name":"http","port":80,"targetPort":"web"}]}`),
		"outside":  one(networking, "ServiceEntry", "outside", `{"hosts":["a.example.com","b.example.com"],"resolution":"DNS","ports":[{"number":80,"name":"http","protocol":"HTTP"}]}`),
		"route":    one(networking, "VirtualService", "route", routed),
		"mirrored": one(networking, "VirtualService", "mirrored", `{"hosts":["tea"],"http":[{"mirror":{"host":"nowhere"},"route":[{"destination":{"host":"tea"}}]}]}`),
		"root":     one(networking, "VirtualService", "root", `{"hosts":["delegated.example.com"],"http":[{"match":[{"uri":{"prefix":"/a"}}],"delegate":{"name":"leaf"}}]}`),
		"leaf":     one(networking, "VirtualService", "leaf", `{"http":[{"route":[{"destination":{"host":"web"}}]}]}`),
		"refused":  one(networking, "VirtualService", "refused", `{"hosts":["tea"],"http":[{"match":[{"uri":{"regex":"("}}],"route":[{"destination":{"host":"tea"}}]}]}`),
		"rule":     one(networking, "DestinationRule", "rule", `{"host":"web","trafficPolicy":{"loadBalancer":{"simple":"RANDOM"},"portLevelSettings":[{"port":{"number":80},"connectionPool":{"tcp":{"maxConnections":3}}}]},"subsets":[{"name":"v1","labels":{"version":"v1"}}]}`),
		"second":   one(networking, "DestinationRule", "second", `{"host":"web","trafficPolicy":{"loadBalancer":{"simple":"ROUND_ROBIN"}},"subsets":[{"name":"v2","labels":{"version":"v2"},"trafficPolicy":{"connectionPool":{"tcp":{"maxConnections":7}}}},{"name":"v1"}]}`),
		"strict":   one("security.istio.io/v1", "PeerAuthentication", "strict", `{"mtls":{"mode":"STRICT"}}`),
		"attached": one("gateway.networking.k8s.io/v1", "HTTPRoute", "attached", `{"parentRefs":[{"group":"","kind":"Service","name":"tea"}],"rules":[{"backendRefs":[{"name":"web","port":80}]}]}`),
		"odd":      one(networking, "VirtualService", "odd", `{"hosts":["web"],"unknownField":1}`),
	}
	order := []string{"web", "tea", "outside", "route", "mirrored", "root", "leaf", "refused", "rule", "second", "strict", "attached", "odd"}
	var meshConfig *File
	build := func(keep bool) *Result {
		opt := Options{Cluster: true, MeshConfig: meshConfig, Backends: map[string][]mesh.Backend{}, Workloads: []*mesh.Workload{
			{Ref: mesh.Ref{Kind: "Pod", Namespace: "shop", Name: "p"}, Instance: "p", Labels: map[string]string{"app": "web", "version": "v1"}}}}
		for i, name := range order {
			if r := resources[name]; r != nil {
				r := *r
				if r.Created = time.Unix(int64(i), 0); !keep {
					r.Decoded = nil
				}
				opt.Resources = append(opt.Resources, r)
			}
		}
		return Build(nil, opt)
	}
	check := func(what string) {
		t.Helper()
		for range 2 { // the second one decodes nothing
			kept, anew := build(true), build(false)
			opts := cmp.Options{protocmp.Transform(), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})}
			if d := cmp.Diff(anew.Snapshot.Parts, kept.Snapshot.Parts, opts); d != "" {
				t.Fatalf("%s: %s", what, d)
			}
			if d := cmp.Diff(anew.Findings, kept.Findings); d != "" {
				t.Fatalf("%s: %s", what, d)
			}
			if d := cmp.Diff(anew.Routes, kept.Routes); d != "" {
				t.Fatalf("%s: %s", what, d)
			}
		}
	}
	check("at first")
	if x, y := build(true), build(true); x.Snapshot.Services[0] != y.Snapshot.Services[0] {
		t.Error("a Service that did not change is another one")
	}
	for name, spec := range map[string]string{
		"route":   `{"hosts":["web"],"http":[{"timeout":"3s","route":[{"destination":{"host":"web","subset":"v3"}}]}]}`,
		"web":     `{"clusterIP":"10.96.0.1","selector":{"app":"web"},"ports":[{"name":"tcp","port":81}]}`,
		"leaf":    `{"http":[{"timeout":"1s","route":[{"destination":{"host":"web"}}]}]}`,
		"rule":    `{"host":"web","subsets":[{"name":"v3","labels":{"version":"v3"}}]}`,
		"refused": `{"hosts":["tea"],"http":[{"route":[{"destination":{"host":"tea"}}]}]}`,
		"odd":     `{"hosts":["web"],"http":[{"match":[{"uri":{"regex":"("}}]}]}`,
	} {
		var kind, apiVersion string
		switch name {
		case "web":
			apiVersion, kind = "v1", "Service"
		case "rule":
			apiVersion, kind = networking, "DestinationRule"
		default:
			apiVersion, kind = networking, "VirtualService"
		}
		was := resources[name]
		now := one(apiVersion, kind, name, spec)
		now.Decoded = was.Decoded // as a good version takes the place of a bad one
		resources[name] = now
		check(name + " changed")
	}
	meshConfig = &File{Name: "mesh", Data: []byte("defaultVirtualServiceExportTo: ['.']\nrootNamespace: shop\n")}
	check("other settings")
	delete(resources, "second")
	check("one is gone")
	meshConfig = nil
	check("the settings of before")
}
