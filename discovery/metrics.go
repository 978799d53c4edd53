package discovery

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics have Istio's names where Istio has them, and Istio's values of
// "type" (see kindLabel).
type metrics struct {
	all []prometheus.Collector

	proxies      *prometheus.GaugeVec
	services     prometheus.Gauge
	updates      prometheus.Counter
	debounce     prometheus.Histogram
	convergence  prometheus.Histogram
	expired      prometheus.Counter
	internal     prometheus.Counter
	writeTimeout prometheus.Counter
	refused      *prometheus.CounterVec
	throttled    prometheus.Counter
	pushes       [kinds]prometheus.Counter
	rejects      [kinds]prometheus.Counter
	pushTime     [kinds]prometheus.Observer
	size         [kinds]prometheus.Observer

	mu       sync.Mutex
	versions map[string]int
}

func newMetrics() *metrics {
	m := &metrics{versions: map[string]int{}}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
		m.all = append(m.all, c)
		return c
	}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets})
		m.all = append(m.all, h)
		return h
	}
	m.proxies = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "pilot_xds", Help: "Proxies connected to this control plane."}, []string{"version"})
	m.services = prometheus.NewGauge(prometheus.GaugeOpts{Name: "pilot_services", Help: "Services known to this control plane."})
	m.updates = counter("seine_discovery_snapshots_total", "Snapshots handed over by the configuration.")
	m.debounce = histogram("pilot_debounce_time", "Seconds from the first of a burst of changes to its being sent.", []float64{.001, .01, .05, .1, .2, .5, 1})
	m.convergence = histogram("pilot_proxy_convergence_time", "Seconds from a change of configuration to a proxy having acknowledged all of it.",
		[]float64{.01, .025, .05, .1, .25, .5, 1, 3, 5, 10, 20, 30})
	m.expired = counter("pilot_xds_expired_nonce", "Acknowledgements of responses that nobody waits for.")
	m.internal = counter("pilot_total_xds_internal_errors", "Resources that could not be planned or encoded.")
	m.writeTimeout = counter("pilot_xds_write_timeout", "Streams ended because the proxy did not read.")
	m.refused = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "seine_discovery_refused_total",
		Help: "What was refused: streams (too many), identity (not the workload's), unknown (workload), name (malformed), names (too many on a stream)."}, []string{"reason"})
	m.throttled = counter("seine_discovery_throttled_total", "Requests after which a stream had to wait because it asked for too many new names.")
	pushes := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pilot_xds_pushes", Help: "Responses sent: lds Self, rds Answer, cds Service, eds Endpoint."}, []string{"type"})
	rejects := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pilot_total_xds_rejects", Help: "Responses that proxies refused (NACK)."}, []string{"type"})
	pushTime := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "pilot_xds_push_time", Help: "Seconds to compute one subscription.",
		Buckets: []float64{.0001, .001, .01, .1, 1, 3}}, []string{"type"})
	size := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "pilot_xds_config_size_bytes", Help: "Size of responses.",
		Buckets: []float64{100, 1000, 10000, 100000, 1e6, 4e6}}, []string{"type"})
	m.all = append(m.all, m.proxies, m.services, m.refused, pushes, rejects, pushTime, size)
	for k := range kinds {
		m.pushes[k] = pushes.WithLabelValues(kindLabel[k])
		m.rejects[k] = rejects.WithLabelValues(kindLabel[k])
		m.pushTime[k] = pushTime.WithLabelValues(kindLabel[k])
		m.size[k] = size.WithLabelValues(kindLabel[k])
	}
	return m
}

// Collectors are the server's metrics, to be registered by its owner.
func (s *Server) Collectors() []prometheus.Collector { return s.metrics.all }

// versionsMost bounds a label that proxies choose.
const versionsMost = 32

func (m *metrics) connected(version string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.versions[version] == 0 && len(m.versions) >= versionsMost {
		version = "other"
	}
	m.versions[version]++
	m.proxies.WithLabelValues(version).Inc()
	return version
}

func (m *metrics) disconnected(version string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.proxies.WithLabelValues(version).Dec()
	if m.versions[version]--; m.versions[version] <= 0 {
		delete(m.versions, version)
		m.proxies.DeleteLabelValues(version)
	}
}
