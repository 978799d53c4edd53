package inject

import (
	"strings"
	"testing"
	"time"
)

// TestMeshConfig: MeshConfig's defaults hold for every sidecar, an annotation over
// them.
func TestMeshConfig(t *testing.T) {
	v := Defaults("image")
	const mesh = `
trustDomain: example.org
enablePrometheusMerge: false
defaultConfig:
  concurrency: 3
  terminationDrainDuration: 21s
  holdApplicationUntilProxyStarts: false
  statusPort: 15030
  proxyMetadata: {A: b, ISTIO_META_DNS_CAPTURE: "true"}
`
	if err := v.MeshConfig([]byte(mesh)); err != nil {
		t.Fatal(err)
	}
	if v.Concurrency != 3 || v.DrainDuration.Duration != 21*time.Second || v.HoldApplicationUntilProxyStarts || v.StatusPort != 15030 || v.MergeMetrics || v.TrustDomain != "cluster.local" || !v.DNSCapture {
		t.Errorf("%+v", v)
	}
	s, err := annotated(map[string]string{"proxy.istio.io/config": "concurrency: 5", "prometheus.istio.io/merge-metrics": "true"}, &v)
	if err != nil {
		t.Fatal(err)
	}
	if s.Concurrency != 5 || s.StatusPort != 15030 || !s.prometheus {
		t.Errorf("%+v", s)
	}
	before := v
	for mesh, want := range map[string]string{
		"defaultConfig: {concurrency: -1}": "concurrency", "defaultConfig: {statusPort: 0}": "statusPort", "defaultConfig: {proxyMetadata: {ISTIO_META_DNS_CAPTURE: x}}": "neither true nor false",
		"defaultConfig: {concurrency: 9, terminationDrainDuration: 2h}": "terminationDrainDuration", "defaultConfig: [": "MeshConfig",
	} {
		if err := v.MeshConfig([]byte(mesh)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", mesh, err)
		}
	}
	if v.Concurrency != before.Concurrency {
		t.Error("half of what was refused was taken")
	}
	if err := v.MeshConfig(nil); err != nil {
		t.Error(err)
	}
}
