//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/proxy"
	"github.com/seinemesh/seine/telemetry"
	"github.com/seinemesh/seine/telemetry/metrics"
)

// TestNativeHistograms has a real Prometheus with native histograms scrape what a
// proxy's metrics port serves, and reads quantiles from them; the classic buckets,
// which dashboards read, are there as before.
func TestNativeHistograms(t *testing.T) {
	registry := metrics.New(metrics.Options{Component: "proxy", Version: "test"})
	status := &proxy.Status{Registry: registry}
	served := httptest.NewServer(status.Metrics())
	defer served.Close()
	h := registry.Shard().Requests(&telemetry.RequestLabels{
		Source: &seinev1.Workload{Namespace: "shop", Workload: "frontend"}, Destination: &seinev1.Workload{Namespace: "shop", Workload: "billing"},
		Service: "billing.shop.svc.cluster.local", Protocol: telemetry.ProtocolHTTP,
	})
	p := runPrometheus(t, fmt.Sprintf(`
global: {scrape_interval: 1s, scrape_timeout: 1s}
scrape_configs:
- job_name: seine
  metrics_path: /stats/prometheus
  static_configs: [{targets: ["%s"]}]
`, strings.TrimPrefix(served.URL, "http://")), "--enable-feature=native-histograms")

	m := &mesh{t: t, out: &tail{}, done: make(chan struct{})}
	observe := func() { // 12.3 ms, but for one in fifty of 3 s
		for i := range 100 {
			micros := int64(12_300)
			if i%50 == 0 {
				micros = 3_000_000
			}
			h.Observe(http.StatusOK, telemetry.FlagNone, micros, 0, 0)
		}
	}
	observe()
	m.await("the scrapes", func() error { observe(); return p.some(`count_over_time(up[20s]) > 3`) })
	for query, want := range map[string][2]float64{
		`histogram_quantile(0.5, sum(rate(seine_request_duration_native_seconds[1m])))`:          {0.0115, 0.0135},
		`histogram_quantile(0.99, sum(rate(seine_request_duration_native_seconds[1m])))`:         {2.7, 3.3},
		`histogram_count(sum(seine_request_duration_native_seconds))`:                            {100, 1e9},
		`histogram_quantile(0.5, sum by (le) (rate(seine_request_duration_seconds_bucket[1m])))`: {0.010, 0.0126},
		`sum(istio_requests_total{destination_service="billing.shop.svc.cluster.local"})`:        {100, 1e9},
		`count(istio_request_duration_milliseconds_bucket{le=~"25(.0)?"})`:                       {1, 1},
		`count(go_goroutines)`: {1, 1},
	} {
		m.await(query, func() error {
			observe()
			found, err := p.query(query)
			if err != nil {
				return err
			}
			for _, s := range found {
				var v float64
				if _, err := fmt.Sscan(fmt.Sprint(s.Value[1]), &v); err == nil && v >= want[0] && v <= want[1] {
					return nil
				}
			}
			return fmt.Errorf("%v is not within %v", found, want)
		})
	}
}
