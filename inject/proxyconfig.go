package inject

import (
	"fmt"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// dnsCapture is the variable by which Istio's agent is told to answer for names.
const dnsCapture = "ISTIO_META_DNS_CAPTURE"

// proxyConfig is what a sidecar has of Istio's ProxyConfig, but for its tracing,
// which seined reads.
type proxyConfig struct {
	Concurrency                     *int32           `json:"concurrency"`
	TerminationDrainDuration        *metav1.Duration `json:"terminationDrainDuration"`
	HoldApplicationUntilProxyStarts *bool            `json:"holdApplicationUntilProxyStarts"`
	StatusPort                      *int32           `json:"statusPort"`
	// Variables of Istio's agent, of which config.ProxyMetadata are heeded.
	ProxyMetadata map[string]string `json:"proxyMetadata"`
}

// apply lays c over v. With an error v is unchanged.
func (c *proxyConfig) apply(v *Values) error {
	if c := c.Concurrency; c != nil && (*c < 0 || *c > 1024) {
		return fmt.Errorf("concurrency %d is not between 0 and 1024", *c)
	}
	if d := c.TerminationDrainDuration; d != nil && (d.Duration < 0 || d.Duration > time.Hour) {
		return fmt.Errorf("terminationDrainDuration %v is not between 0 and 1h", d.Duration)
	}
	if p := c.StatusPort; p != nil && (*p < 1 || *p > 65535) {
		return fmt.Errorf("statusPort %d is not a port", *p)
	}
	if on, ok := c.ProxyMetadata[dnsCapture]; ok {
		capture, err := strconv.ParseBool(on)
		if err != nil {
			return fmt.Errorf("proxyMetadata.%s %q is neither true nor false", dnsCapture, on)
		}
		v.DNSCapture = capture
	}
	if c.Concurrency != nil {
		v.Concurrency = *c.Concurrency
	}
	if c.TerminationDrainDuration != nil {
		v.DrainDuration = *c.TerminationDrainDuration
	}
	if c.HoldApplicationUntilProxyStarts != nil {
		v.HoldApplicationUntilProxyStarts = *c.HoldApplicationUntilProxyStarts
	}
	if c.StatusPort != nil {
		v.StatusPort = *c.StatusPort
	}
	return nil
}

// MeshConfig lays over v what Istio's MeshConfig says of sidecars: defaultConfig and
// enablePrometheusMerge. What it says of other things, and what of these nobody
// implements, seined reports. With an error v is unchanged.
func (v *Values) MeshConfig(data []byte) error {
	var m struct {
		EnablePrometheusMerge *bool       `json:"enablePrometheusMerge"`
		DefaultConfig         proxyConfig `json:"defaultConfig"`
	}
	if err := yaml.Unmarshal(data, &m); err != nil {
		return fmt.Errorf("inject: MeshConfig: %w", err)
	}
	if err := m.DefaultConfig.apply(v); err != nil {
		return fmt.Errorf("inject: MeshConfig: defaultConfig: %w", err)
	}
	if m.EnablePrometheusMerge != nil {
		v.MergeMetrics = *m.EnablePrometheusMerge
	}
	return nil
}
