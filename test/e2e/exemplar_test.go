//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/proxy"
	"github.com/seinemesh/seine/telemetry"
	"github.com/seinemesh/seine/telemetry/metrics"
)

// TestExemplars has a real Prometheus scrape what a proxy's metrics port serves: it
// asks for OpenMetrics, takes every family of it, and finds the traces of requests
// beside their buckets.
func TestExemplars(t *testing.T) {
	registry := metrics.New(metrics.Options{Component: "proxy", Version: "test"})
	status := &proxy.Status{Registry: registry}
	served := httptest.NewServer(status.Metrics())
	defer served.Close()
	shard := registry.Shard()
	h := shard.Requests(&telemetry.RequestLabels{
		Source: &seinev1.Workload{Namespace: "shop", Workload: "frontend"}, Destination: &seinev1.Workload{Namespace: "shop", Workload: "billing"},
		Service: "billing.shop.svc.cluster.local", Protocol: telemetry.ProtocolHTTP,
	})
	rule := shard.Route("VirtualService shop/billing[0]", "billing.shop.svc.cluster.local", 8080)
	began := time.Now()
	for i := range 100 {
		micros := int64(12_300)
		if i%50 == 0 {
			micros = 3_000_000
		}
		h.Observe(http.StatusOK, telemetry.FlagNone, micros, 0, 0)
		rule.Observe(http.StatusOK, telemetry.FlagNone, micros)
		if i%50 == 0 {
			h.Exemplar([16]byte{0x4b, 15: 0x36}, [8]byte{0x11}, micros, time.Now())
		}
	}
	p := runPrometheus(t, fmt.Sprintf(`
global: {scrape_interval: 1s, scrape_timeout: 1s}
scrape_configs:
- job_name: seine
  metrics_path: /stats/prometheus
  static_configs: [{targets: ["%s"]}]
`, strings.TrimPrefix(served.URL, "http://")), "--enable-feature=exemplar-storage")

	m := &mesh{t: t, out: &tail{}, done: make(chan struct{})}
	for _, query := range []string{
		`count_over_time(up[20s]) > 1 and up == 1`,
		`sum(istio_requests_total{destination_service="billing.shop.svc.cluster.local"}) == 100`,
		`istio_request_duration_milliseconds_bucket{le="25"} == 98`,
		`seine_route_duration_seconds_count{route="VirtualService shop/billing[0]",destination_port="8080",classification="success"} == 100`,
		`go_goroutines`,
	} {
		m.await(query, func() error { return p.some(query) })
	}
	for name, want := range map[string]string{telemetry.RequestDuration + "_bucket": "3000", telemetry.FineDuration + "_bucket": "3"} {
		m.await("exemplars of "+name, func() error {
			var data []struct {
				SeriesLabels map[string]string
				Exemplars    []struct {
					Labels map[string]string
					Value  string
				}
			}
			if err := p.get("/api/v1/query_exemplars", url.Values{"query": {name},
				"start": {fmt.Sprint(began.Add(-time.Minute).Unix())}, "end": {fmt.Sprint(time.Now().Add(time.Minute).Unix())}}, &data); err != nil {
				return err
			}
			for _, s := range data {
				for _, e := range s.Exemplars {
					if e.Labels["trace_id"] == "4b000000000000000000000000000036" && e.Labels["span_id"] == "1100000000000000" && strings.HasPrefix(e.Value, want) && s.SeriesLabels["destination_workload"] == "billing" {
						return nil
					}
				}
			}
			return fmt.Errorf("%+v", data)
		})
	}
}
