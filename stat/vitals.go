package stat

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"github.com/seinemesh/seine/telemetry"
)

// Vitals is how one proxy's own process fares, by its metrics. What they did not
// say is zero.
type Vitals struct {
	Version             string
	Memory              float64 // resident bytes
	CPUSeconds          float64
	Started             float64 // Unix time
	CertificateNotAfter float64 // Unix time
	Connections         float64 // upstream, to hosts with a connectionPool
	// Refused counts requests and connections that a bound of a DestinationRule's
	// connectionPool refused, since the start.
	Refused map[Bound]float64
}

// Bound is one field of one cluster's connectionPool.
type Bound struct {
	Service string // FQDN
	Port    uint32
	Subset  string
	Limit   string // the field: maxConnections, http1MaxPendingRequests, …
}

// Metrics that Vitals are read from.
const (
	metricBuild       = telemetry.Build
	metricMemory      = "process_resident_memory_bytes"
	metricCPU         = "process_cpu_seconds_total"
	metricStarted     = "process_start_time_seconds"
	metricCertificate = "seine_proxy_certificate_expiry_seconds"
	metricConnections = "seine_upstream_connections"
	metricRefused     = "seine_circuit_breaker_refused_total"
)

// maxBounds bounds what is read of one proxy's Refused.
const maxBounds = 1000

// ReadVitals reads one scrape of a proxy. Errors wrap ErrSyntax.
func ReadVitals(body []byte) (Vitals, error) {
	v := Vitals{}
	for line := range bytes.Lines(body) {
		name, rest, labelled := line, []byte(nil), false
		if i := bytes.IndexAny(line, "{ "); i > 0 {
			name, rest, labelled = line[:i], line[i+1:], line[i] == '{'
		}
		switch string(name) {
		case metricBuild, metricMemory, metricCPU, metricStarted, metricCertificate, metricConnections, metricRefused:
		default:
			continue
		}
		var labels []byte
		if labelled {
			end := bytes.LastIndexByte(rest, '}')
			if end < 0 {
				return Vitals{}, fmt.Errorf("%s: labels do not end: %w", name, ErrSyntax)
			}
			labels, rest = rest[:end], rest[end+1:]
		}
		f := bytes.Fields(rest)
		if len(f) == 0 {
			return Vitals{}, fmt.Errorf("%s: no value: %w", name, ErrSyntax)
		}
		n, err := strconv.ParseFloat(string(f[0]), 64)
		if err != nil || !(n >= 0 && n < maxValue) {
			return Vitals{}, fmt.Errorf("%s: value %.32q: %w", name, f[0], ErrSyntax)
		}
		if err := v.take(string(name), labels, n); err != nil {
			return Vitals{}, fmt.Errorf("%s: %w", name, err)
		}
	}
	return v, nil
}

func (v *Vitals) take(name string, labels []byte, n float64) error {
	switch name {
	case metricMemory:
		v.Memory = n
	case metricCPU:
		v.CPUSeconds = n
	case metricStarted:
		v.Started = n
	case metricCertificate:
		v.CertificateNotAfter = n
	case metricConnections:
		v.Connections += n
	case metricBuild:
		return eachLabel(labels, func(label, value string) error {
			if label == "tag" {
				v.Version = value
			}
			return nil
		})
	case metricRefused:
		cluster, limit := "", ""
		err := eachLabel(labels, func(label, value string) error {
			switch label {
			case "cluster":
				cluster = value
			case "limit":
				limit = value
			}
			return nil
		})
		b, ok := boundOf(cluster, limit)
		if err != nil || !ok || len(v.Refused) >= maxBounds {
			return err
		}
		if v.Refused == nil {
			v.Refused = map[Bound]float64{}
		}
		v.Refused[b] = n
	}
	return nil
}

// boundOf reads Envoy's name of a cluster: outbound|PORT|SUBSET|HOST.
func boundOf(cluster, limit string) (Bound, bool) {
	part := strings.SplitN(cluster, "|", 4)
	if len(part) != 4 {
		return Bound{}, false
	}
	port, err := strconv.ParseUint(part[1], 10, 16)
	if err != nil {
		return Bound{}, false
	}
	return Bound{Service: part[3], Port: uint32(port), Subset: part[2], Limit: limit}, true
}
