package controlplane

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seinemesh/seine/history"
	"github.com/seinemesh/seine/mesh"
	"github.com/seinemesh/seine/stat"
	"github.com/seinemesh/seine/view"
)

// fakeProxy serves the metrics of frontend-1, which calls billing v1.
func fakeProxy(t *testing.T) (port uint16) {
	const edge = `reporter="source",source_workload="frontend-1",source_workload_namespace="default",source_principal="spiffe://cluster.local/ns/default/sa/frontend",` +
		`destination_workload="billing-v1-1",destination_workload_namespace="default",destination_principal="spiffe://cluster.local/ns/default/sa/billing",` +
		`destination_service="billing-service.default.svc.cluster.local",destination_service_name="billing-service",destination_service_namespace="default",destination_version="v1"`
	var n atomic.Int64
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v := n.Add(100)
		fmt.Fprintf(w, "istio_requests_total{%s,request_protocol=\"http\",response_code=\"200\",response_flags=\"-\",connection_security_policy=\"unknown\"} %d\n", edge, v)
		for _, le := range []string{"0.01", "+Inf"} {
			fmt.Fprintf(w, "seine_request_duration_seconds_bucket{%s,le=%q} %d\n", edge, le, v)
		}
		fmt.Fprintf(w, "process_resident_memory_bytes 1.835e+07\nprocess_cpu_seconds_total %g\nistio_build{component=\"proxy\",tag=\"9.9\"} 1\n", float64(v)/1e4)
		fmt.Fprintf(w, "seine_circuit_breaker_refused_total{cluster=\"outbound|8080||billing-service.default.svc.cluster.local\",limit=\"tcp.maxConnections\"} %d\n", v)
		fmt.Fprintf(w, "seine_proxy_certificate_expiry_seconds %d\n", time.Now().Add(time.Hour).Unix())
	}))
	t.Cleanup(proxy.Close)
	_, text, _ := net.SplitHostPort(proxy.Listener.Addr().String())
	_, _ = fmt.Sscan(text, &port)
	return port
}

// TestViews: what the dashboard asks for is there, of a mesh with one proxy.
func TestViews(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir)
	write(t, dir, "pool.yaml", `
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: frontend-pool}
spec: {host: frontend, trafficPolicy: {connectionPool: {tcp: {maxConnections: 3}}}}
`)
	port := fakeProxy(t)
	i := start(t, dir, func(o *Options) { o.StatusPort = port })
	c := i.join(func() string { return i.grpc })
	<-c.Ready()
	var g view.Graph
	eventually(t, "an edge", func() bool {
		g = view.Graph{}
		i.get("/api/v1/graph", &g)
		return len(g.Edges) == 1 && g.Edges[0].Requests > 0
	})
	if e := g.Edges[0]; e.Versions[0].Version != "v1" || *e.Versions[0].Wanted != 0.9 || e.MTLS != stat.MTLSYes || e.Protocol != "http" {
		t.Errorf("%+v", e)
	}
	var all struct {
		Series []struct {
			RPS []*float64 `json:"rps"`
			P99 []*float64 `json:"p99_ms"`
		}
		Points int
		Events []history.Event
	}
	eventually(t, "a point in the store", func() bool {
		all.Series = nil
		i.get("/api/v1/series?service=billing-service.default.svc.cluster.local&range=1m", &all)
		return len(all.Series) == 2 && len(all.Series[0].RPS) == all.Points && all.Series[0].RPS[all.Points-1] != nil && *all.Series[0].RPS[all.Points-1] > 0
	})
	if p := all.Series[0].P99[all.Points-1]; p == nil || *p < 9 || *p > 10 {
		t.Errorf("p99 %v", p)
	}
	if len(all.Events) == 0 || all.Events[0].Kind != "config" {
		t.Errorf("events %+v", all.Events)
	}
	var proxies []proxyState
	eventually(t, "what the proxy says of itself", func() bool {
		i.get("/api/v1/proxies?names=false", &proxies)
		return len(proxies) == 1 && proxies[0].Memory == 1.835e7 && proxies[0].Current && !proxies[0].LastAck.IsZero()
	})
	if p := proxies[0]; p.Workload != "default/frontend-1" || p.Certificate == nil || p.CPU == nil || p.ScrapeError != "" || len(p.Types[0].Names) != 0 {
		t.Errorf("%+v", p)
	}
	var o overview
	i.get("/api/v1/overview", &o)
	if o.Services != 2 || o.Proxies != (proxyCounts{Expected: 3, Connected: 1, Current: 1}) || o.Certificate == nil || o.RPS == 0 || o.History.Series == 0 {
		t.Errorf("%+v", o)
	}
	var cfg struct {
		Acknowledged struct{ Proxies, Current int }
		Changes      []struct {
			Generation uint64
			Has        int      `json:"acknowledged"`
			Seconds    *float64 `json:"all_acknowledged_seconds"`
		}
	}
	eventually(t, "the change is acknowledged by all", func() bool {
		i.get("/api/v1/config", &cfg)
		return len(cfg.Changes) > 0 && cfg.Changes[0].Has == 1 && cfg.Changes[0].Seconds != nil
	})
	if cfg.Acknowledged.Proxies != 1 || cfg.Acknowledged.Current != 1 {
		t.Errorf("%+v", cfg)
	}
	var certs struct {
		Roots  []issuer
		Leaves []leaf
	}
	i.get("/api/v1/certificates", &certs)
	if len(certs.Roots) != 1 || !certs.Roots[0].Signs || len(certs.Leaves) != 1 || certs.Leaves[0].Root != certs.Roots[0].ID || certs.Leaves[0].Identity != "spiffe://cluster.local/ns/default/sa/frontend" {
		t.Errorf("%+v", certs)
	}
	var b view.Breakers
	i.get("/api/v1/breakers", &b)
	if len(b.Breakers) != 1 || b.Breakers[0].Limits.Connections != 3 || b.Breakers[0].Policy != "DestinationRule default/frontend-pool" {
		t.Errorf("%+v", b)
	}
	for path, says := range map[string]string{
		"services": `"host":"billing-service.default.svc.cluster.local"`,
		"services/billing-service.default.svc.cluster.local": `"callers":[{"id":"default/frontend-1\u003ebilling-service`,
		"workloads":                           `"id":"default/billing-v1-1"`,
		"workloads/default/frontend-1":        `"proxy":{"id":"default/frontend-1"`,
		"routes":                              `"id":"VirtualService default/billing-route[0]"`,
		"resources":                           `"kind":"VirtualService","namespace":"default","name":"billing-route"`,
		"infrastructure":                      `"machines":[`,
		"authz?workload=default/billing-v1-1": `"mode":"PERMISSIVE"`,
		"series?workload=default/frontend-1&direction=out&range=6h": `"step_seconds":60`,
		"series?range=7d": `remembers six hours`,
	} {
		if code, body := ask(t, i, "/api/v1/"+path); code != http.StatusOK || !strings.Contains(body, says) {
			t.Errorf("%s: %d %.600s", path, code, body)
		}
	}
	for path, says := range map[string]string{
		"services/no.such":                 "there is no service",
		"workloads/no/such":                "NAMESPACE/NAME",
		"authz":                            "NAMESPACE/NAME",
		"series?range=99d":                 "at most 30d",
		"series?range=1s":                  "at most 30d",
		"series?source=default/frontend-1": "source= needs service=",
		"series?workload=a/b&service=c":    "alone",
		"series?workload=a/b&direction=up": "must be in or out",
	} {
		if code, body := ask(t, i, "/api/v1/"+path); code != http.StatusNotFound && code != http.StatusBadRequest || !strings.Contains(body, says) {
			t.Errorf("%s: %d %.600s", path, code, body)
		}
	}
}

func ask(t *testing.T, i *instance, path string) (int, string) {
	t.Helper()
	res, err := i.socket.Get("http://seined" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

func TestColumn(t *testing.T) {
	got, err := json.Marshal(column{1, math.NaN(), 0.123456789, math.Inf(1), 0})
	if err != nil || string(got) != "[1,null,0.12346,null,0]" {
		t.Errorf("%s %v", got, err)
	}
}

var (
	loopback = []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	quiet    = slog.New(slog.DiscardHandler)
)

// fakeConnected is a discovery server with one proxy of its own.
type fakeConnected struct{ snap *mesh.Snapshot }

func (f fakeConnected) Connected() []string         { return []string{"default/here-1"} }
func (f fakeConnected) Snapshot() *mesh.Snapshot    { return f.snap }
func (f fakeConnected) Acknowledged() (int, uint64) { return 1, 1 }

// TestOtherReplicas: with other replicas, the proxies that are connected to them
// are read too; alone, a workload that is not connected is nobody's business.
func TestOtherReplicas(t *testing.T) {
	port := fakeProxy(t)
	local := func(name string, sidecar bool) *mesh.Workload {
		return &mesh.Workload{Ref: mesh.Ref{Namespace: "default", Name: name}, Instance: name, Sidecar: sidecar, Addresses: loopback}
	}
	snap := mesh.New(1, mesh.Parts{Settings: mesh.DefaultSettings(), Workloads: []*mesh.Workload{local("here-1", true), local("there-1", true), local("bare-1", false)}})
	for _, alone := range []bool{true, false} {
		s := newScraper(fakeConnected{snap}, port, quiet)
		s.alone = func() bool { return alone }
		s.round(t.Context())
		_, _, _, here := s.memory.vital("default/here-1")
		_, _, _, there := s.memory.vital("default/there-1")
		_, _, _, bare := s.memory.vital("default/bare-1")
		if !here || there == alone || bare {
			t.Errorf("alone %v: here %v, there %v, bare %v", alone, here, there, bare)
		}
		s.client.CloseIdleConnections()
	}
}
