package view

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/seinemesh/seine/config"
	"github.com/seinemesh/seine/diagnose"
	"github.com/seinemesh/seine/mesh"
	"github.com/seinemesh/seine/stat"
)

var update = flag.Bool("update", false, "write the golden files")

var at = time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC)

const (
	billing = "billing-service.shop.svc.cluster.local"
	ledger  = "ledger.books.svc.cluster.local"
)

// snapshot is testdata/mesh.yaml with workloads.
func snapshot(t testing.TB) *mesh.Snapshot {
	t.Helper()
	data, err := os.ReadFile("testdata/mesh.yaml")
	if err != nil {
		t.Fatal(err)
	}
	r := config.Build([]config.File{{Name: "mesh.yaml", Data: data}}, config.Options{})
	if n := r.Findings.Count(config.Error); n > 0 {
		t.Fatal(r.Findings)
	}
	parts := r.Snapshot.Parts
	for i, w := range []struct {
		namespace, app, version string
		sidecar, ill            bool
	}{
		{"shop", "load", "v1", true, false}, {"shop", "frontend", "v1", true, false},
		{"shop", "billing-v1", "v1", true, false}, {"shop", "billing-v1", "v1", true, true}, {"shop", "billing-v2", "v2", true, false},
		{"books", "ledger", "v1", false, false},
	} {
		name := strings.TrimRight(w.app, "-v12")
		if w.app == "frontend" || w.app == "load" || w.app == "ledger" {
			name = w.app
		}
		instance := fmt.Sprintf("%s-%d", w.app, i)
		parts.Workloads = append(parts.Workloads, &mesh.Workload{
			Ref: mesh.Ref{Kind: "Pod", Namespace: w.namespace, Name: instance}, Instance: instance, App: w.app, ServiceAccount: name,
			Labels:    map[string]string{"app": name, "version": w.version},
			Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)})}, Sidecar: w.sidecar, Unhealthy: w.ill, Node: "node-1",
		})
	}
	for i, svc := range parts.Services {
		svc.Addresses = []netip.Addr{netip.AddrFrom4([4]byte{10, 9, 0, byte(i + 1)})}
	}
	return mesh.New(7, parts)
}

// line is one series of a proxy's metrics.
func line(name, reporter, from, to, service, version, more string, v float64) string {
	party := func(side, id string) string {
		ns, app, _ := strings.Cut(id, "/")
		principal := "unknown"
		if app != "unknown" && app != "ledger" { // it has no sidecar
			principal = "spiffe://cluster.local/ns/" + ns + "/sa/" + app
		}
		return fmt.Sprintf(`%s_workload=%q,%s_workload_namespace=%q,%s_principal=%q,`, side, app, side, ns, side, principal)
	}
	host := strings.SplitN(service, ".", 3)
	return fmt.Sprintf("%s{reporter=%q,%s%sdestination_service=%q,destination_service_name=%q,destination_service_namespace=%q,destination_version=%q,%s} %g\n",
		name, reporter, party("source", from), party("destination", to), service, host[0], host[1], version, more, v)
}

// moment is a mesh in which 90 % and 10 % of the calls to billing go to its
// versions, one in twenty of v2's fails, and one caller is outside the mesh.
func moment(t testing.TB) *Moment {
	t.Helper()
	w := stat.NewWindow(10 * time.Second)
	scrape := func(n float64) string {
		var b strings.Builder
		http := func(reporter, from, to, service, version, security, code string, v float64) {
			b.WriteString(line("istio_requests_total", reporter, from, to, service, version,
				fmt.Sprintf(`request_protocol="http",response_code=%q,response_flags="-",connection_security_policy=%q`, code, security), v))
			b.WriteString(line("seine_request_duration_seconds_bucket", reporter, from, to, service, version, `le="0.01"`, v))
			b.WriteString(line("seine_request_duration_seconds_bucket", reporter, from, to, service, version, `le="+Inf"`, v))
		}
		http("source", "shop/load", "shop/frontend", "frontend.shop.svc.cluster.local", "v1", "unknown", "200", 100*n)
		http("source", "shop/frontend", "shop/billing-v1", billing, "v1", "unknown", "200", 90*n)
		http("destination", "shop/frontend", "shop/billing-v1", billing, "v1", "mutual_tls", "200", 90*n)
		http("source", "shop/frontend", "shop/billing-v2", billing, "v2", "unknown", "200", 19*n/2)
		http("destination", "shop/frontend", "shop/billing-v2", billing, "v2", "mutual_tls", "200", 19*n/2)
		b.WriteString(line("istio_requests_total", "source", "shop/frontend", "shop/billing-v2", billing, "v2",
			`request_protocol="http",response_code="503",response_flags="-",connection_security_policy="unknown"`, n/2))
		http("destination", "unknown/unknown", "shop/billing-v1", billing, "v1", "none", "200", n)
		for _, name := range []string{"istio_tcp_connections_opened_total", "istio_tcp_sent_bytes_total", "istio_tcp_received_bytes_total"} {
			b.WriteString(line(name, "source", "shop/billing-v1", "books/ledger", ledger, "v1", `request_protocol="tcp",connection_security_policy="unknown"`, n))
		}
		rule := func(id, host, class string, n float64) {
			for _, bucket := range []struct {
				le string
				n  float64
			}{{"0.0005", 0}, {"0.001", n / 2}, {"0.005", n}, {"+Inf", n}} {
				fmt.Fprintf(&b, "seine_route_duration_seconds_bucket{route=%q,destination_service=%q,destination_port=\"8080\",classification=%q,le=%q} %g\n", id, host, class, bucket.le, bucket.n)
			}
		}
		rule("VirtualService shop/billing-route[0]", billing, "success", 97*n)
		rule("VirtualService shop/billing-route[0]", billing, "failure", 3*n)
		rule("VirtualService shop/gone[0]", billing, "success", n)
		b.WriteString(`seine_outlier_ejected_until_timestamp_seconds{cluster="outbound|8080|v2|` + billing + `",endpoint="billing-v2-4",address="10.0.0.5:8080",cause="consecutive_5xx"} ` + fmt.Sprint(at.Add(time.Minute).Unix()) + "\n")
		return b.String()
	}
	for i := range 3 {
		if err := w.Add("shop/x", at.Add(time.Duration(i-2)*5*time.Second), []byte(scrape(float64(10*i)))); err != nil {
			t.Fatal(err)
		}
	}
	return &Moment{
		At: at, Snapshot: snapshot(t), Flows: w.Flows(at, time.Time{}), Rules: w.Rules(at), Window: 10, Ejected: w.Ejected(at),
		Diagnoses: []diagnose.Diagnosis{{Service: "frontend.shop.svc.cluster.local", Version: "v1", Workload: stat.Party{Namespace: "shop", Workload: "frontend"},
			Cause: diagnose.Node, Culprit: "node-1", Explanation: "the machine is slow"}},
	}
}

func golden(t *testing.T, name string, v any) {
	t.Helper()
	got, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	path := filepath.Join("testdata", name+".json")
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs (run with -update to accept):\n%s", path, got)
	}
}

func TestViews(t *testing.T) {
	m := moment(t)
	refused := Refusals{Seconds: 10, By: map[stat.Bound]map[string]float64{
		{Service: billing, Port: 8080, Subset: "v2", Limit: "tcp.maxConnections"}: {"shop/frontend-1": 12, "shop/load-0": 3},
	}}
	golden(t, "graph", m.Graph(""))
	golden(t, "graph-books", m.Graph("books"))
	golden(t, "services", m.Services(""))
	golden(t, "service", m.Service(billing, refused))
	golden(t, "workloads", m.Workloads("shop"))
	golden(t, "workload", m.Workload("shop/billing-v1"))
	golden(t, "routes", m.Routes(""))
	golden(t, "breakers", m.Breakers(refused))
	golden(t, "authz", []*Authz{m.Authz("shop/billing-v1"), m.Authz("books/ledger")})
	if m.Service("no.such", refused) != nil || m.Workload("no/such") != nil || m.Authz("") != nil {
		t.Error("something is there that is not")
	}
}

// TestShares: what is measured and what is wanted stand beside each other.
func TestShares(t *testing.T) {
	g := moment(t).Graph("")
	for i := range g.Edges {
		e := &g.Edges[i]
		if e.ID != "shop/frontend>"+billing {
			continue
		}
		if e.Route != "VirtualService shop/billing-route[1]" || len(e.Versions) != 2 || e.Source != "service:frontend.shop.svc.cluster.local" {
			t.Fatalf("%+v", e)
		}
		for i, want := range []float64{0.9, 0.1} {
			v := e.Versions[i]
			if *v.Wanted != want || *v.Share < want-0.001 || *v.Share > want+0.001 {
				t.Errorf("%s: share %g, wanted %g", v.Version, *v.Share, *v.Wanted)
			}
		}
		if e.MTLSShare == nil || *e.MTLSShare != 1 {
			t.Errorf("mTLS share %v", e.MTLSShare)
		}
		return
	}
	t.Error("no edge from frontend to billing")
}

// TestBounds: a mesh that is larger than a page shows as much as fits, says how
// much was left out, and no edge that leads to nothing.
func TestBounds(t *testing.T) {
	parts := mesh.Parts{Settings: mesh.DefaultSettings()}
	m := &Moment{At: at}
	for i := range maxNodes + 50 {
		host := fmt.Sprintf("s%05d.shop.svc.cluster.local", i)
		parts.Services = append(parts.Services, &mesh.Service{Ref: mesh.Ref{Kind: "Service", Namespace: "shop", Name: host}, Host: host, Ports: []mesh.Port{{Number: 80}}})
		m.Flows = append(m.Flows, stat.Flow{Source: stat.Party{Namespace: "shop", Workload: "caller"}, Destination: stat.Party{Namespace: "shop", Workload: "w"}, Service: host, Sum: stat.Sum{Requests: 1}})
	}
	m.Snapshot = mesh.New(1, parts)
	g := m.Graph("")
	if len(g.Nodes) != maxNodes || g.LeftOut == 0 {
		t.Errorf("%d nodes, %d left out", len(g.Nodes), g.LeftOut)
	}
	there := map[string]bool{}
	for _, n := range g.Nodes {
		there[n.ID] = true
	}
	for _, e := range g.Edges {
		if !there[e.Source] || !there[e.Destination] {
			t.Fatalf("edge %s leads to a node that is left out", e.ID)
		}
	}
	if s := m.Services(""); len(s.Services) != maxList || s.LeftOut != 50 {
		t.Errorf("%d services, %d left out", len(s.Services), s.LeftOut)
	}
}

// BenchmarkGraph is the graph of 500 services, each with two versions and three
// callers.
func BenchmarkGraph(b *testing.B) {
	parts := mesh.Parts{Settings: mesh.DefaultSettings()}
	m := &Moment{At: at}
	for i := range 500 {
		app := fmt.Sprintf("s%03d", i)
		host := app + ".shop.svc.cluster.local"
		parts.Services = append(parts.Services, &mesh.Service{Ref: mesh.Ref{Kind: "Service", Namespace: "shop", Name: app}, Host: host, Selector: map[string]string{"app": app}, Ports: []mesh.Port{{Number: 80}}})
		for _, v := range []string{"v1", "v2"} {
			name := app + "-" + v
			parts.Workloads = append(parts.Workloads, &mesh.Workload{Ref: mesh.Ref{Kind: "Pod", Namespace: "shop", Name: name}, Instance: name, App: name, Labels: map[string]string{"app": app, "version": v}, Sidecar: true})
			for c := range 3 {
				m.Flows = append(m.Flows, stat.Flow{Source: stat.Party{Namespace: "shop", Workload: fmt.Sprintf("s%03d-v1", (i+c+1)%500)},
					Destination: stat.Party{Namespace: "shop", Workload: name}, Service: host, Version: v, Sum: stat.Sum{Requests: 100}})
			}
		}
	}
	m.Snapshot = mesh.New(1, parts)
	for b.Loop() {
		m.Graph("")
	}
}
