package controlplane

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/seinemesh/seine/mesh"
	"github.com/seinemesh/seine/telemetry/metrics"
)

// target is one of Prometheus' HTTP service discovery.
type target struct {
	Targets []string          `json:"targets"`
	Labels  map[string]string `json:"labels"`
}

// targets answers /api/v1/sd: this control plane's metrics and those of every
// connected proxy, read through it. So a Prometheus that cannot reach the
// proxies (they live in namespaces of `seine up`) scrapes one address.
func (s *server) targets(w http.ResponseWriter, r *http.Request) {
	list := []target{{[]string{r.Host}, map[string]string{"job": "seined", "__metrics_path__": "/metrics"}}}
	for _, id := range s.discovery.Connected() {
		namespace, name, ok := strings.Cut(id, "/")
		if !ok {
			continue
		}
		list = append(list, target{[]string{r.Host}, map[string]string{
			"job": "seine-proxy", "instance": id, "namespace": namespace, "pod": name,
			"__metrics_path__": "/api/v1/proxies/" + id + "/metrics",
		}})
	}
	answer(w, list)
}

// proxyMetrics relays the metrics of one connected proxy.
func (s *server) proxyMetrics(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("namespace") + "/" + r.PathValue("name")
	var found *mesh.Workload
	for _, c := range s.discovery.Connected() {
		if c == id {
			found = s.discovery.Snapshot().Workload(id)
		}
	}
	if found == nil || len(found.Addresses) == 0 {
		fail(w, http.StatusNotFound, fmt.Errorf("no proxy %.200q is connected", id))
		return
	}
	body, kind, err := s.scraper.read(r.Context(), found.Addresses[0], "/stats/prometheus", r.Header.Get("Accept"))
	if err != nil {
		fail(w, http.StatusBadGateway, fmt.Errorf("the metrics of %s: %w", id, err))
		return
	}
	// A proxy has no say in how a browser takes what it says.
	if kind != metrics.ContentTypeOpenMetrics && kind != metrics.ContentTypeProtobuf {
		kind = metrics.ContentType
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write(body)
}

var errTooLarge = errors.New("the metrics are larger than is read")

// readAll reads at most scrapeBody bytes.
func readAll(r io.Reader) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r, scrapeBody+1))
	if err == nil && len(body) > scrapeBody {
		err = errTooLarge
	}
	return body, err
}
