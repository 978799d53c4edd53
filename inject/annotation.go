package inject

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/yaml"

	"github.com/seinemesh/seine/capture"
	"github.com/seinemesh/seine/config"
	"github.com/seinemesh/seine/mesh"
)

// settings are the values with what a pod's annotations change.
type settings struct {
	Values
	native       bool
	redirect     []string // flags of `seine-proxy redirect`
	prometheus   bool     // merge metrics
	probe        probeTimes
	volumes      []corev1.Volume
	mounts       []corev1.VolumeMount
	explicitTime bool // the drain time was asked for
	warnings     []string
}

// probeTimes are those of the sidecar's readiness probe.
type probeTimes struct{ initialDelay, period, threshold int32 }

// annotated reads a pod's annotations. What they name and nobody implements is
// a warning; what cannot be read is an error: a sidecar that differs from what
// its owner wrote is worse than none.
func annotated(annotations map[string]string, v *Values) (*settings, error) {
	s := &settings{Values: *v, probe: probeTimes{period: 15, threshold: 4}}
	s.Resources = *v.Resources.DeepCopy()
	s.native = v.NativeSidecar == Always || v.NativeSidecar != Never && v.Native
	s.prometheus = v.MergeMetrics
	// The order decides which of several mistakes is named, and that ProxyConfig
	// does not undo an annotation of its own.
	keys := slices.Sorted(maps.Keys(annotations))
	if i := slices.Index(keys, proxyConfigKey); i > 0 {
		keys = slices.Insert(slices.Delete(keys, i, i+1), 0, proxyConfigKey)
	}
	for _, k := range keys {
		read, known := readers[k]
		switch {
		case known && read == nil: // of others, or read elsewhere
		case known:
			if err := read(s, strings.TrimSpace(annotations[k])); err != nil {
				return nil, fmt.Errorf("annotation %s: %w", k, err)
			}
		case ours(k):
			s.warnings = append(s.warnings, "annotation "+k+" is not implemented and changes nothing")
		}
	}
	if _, err := mesh.ParseIntroduced(annotations[annotationProxyProtocol], annotations[annotationProxyProtocolFrom]); err != nil {
		return nil, fmt.Errorf("annotations %s, %s: %w", annotationProxyProtocol, annotationProxyProtocolFrom, err)
	}
	if s.StatusPort == 15001 || s.StatusPort == 15006 || s.StatusPort == readinessPort || s.StatusPort == metricsPort {
		return nil, fmt.Errorf("annotation status.sidecar.istio.io/port: %d is another port of the sidecar", s.StatusPort)
	}
	for _, f := range [...]struct{ flag, value, none string }{
		{"include-outbound-cidrs", s.IncludeOutboundIPRanges, "*"},
		{"exclude-outbound-cidrs", s.ExcludeOutboundIPRanges, ""},
		{"include-outbound-ports", s.IncludeOutboundPorts, ""},
		{"exclude-outbound-ports", s.ExcludeOutboundPorts, ""},
		{"include-inbound-ports", s.IncludeInboundPorts, "*"},
		{"exclude-inbound-ports", s.ExcludeInboundPorts, ""},
	} {
		if f.value != f.none {
			s.redirect = append(s.redirect, "--"+f.flag+"="+f.value)
		}
	}
	if v := strings.TrimSpace(annotations["traffic.sidecar.istio.io/excludeInterfaces"]); v != "" {
		s.redirect = append(s.redirect, "--exclude-interfaces="+v)
	}
	if s.DNSCapture {
		s.redirect = append(s.redirect, "--dns-port="+strconv.Itoa(dnsPort))
	}
	if s.StatusPort != 15020 {
		s.redirect = append(s.redirect, "--status-port="+strconv.Itoa(int(s.StatusPort)))
	}
	if _, err := capture.ParseFlags(s.redirect); err != nil {
		return nil, fmt.Errorf("annotations traffic.sidecar.istio.io: %w", err)
	}
	return s, nil
}

const (
	proxyConfigKey              = config.AnnotationProxyConfig
	annotationProxyProtocol     = "seine.dev/proxy-protocol"
	annotationProxyProtocolFrom = "seine.dev/proxy-protocol-from"
	annotationCredentials       = "seine.dev/credentials"
)

// ours reports whether an annotation is meant for a mesh.
func ours(key string) bool {
	domain, name, ok := strings.Cut(key, "/")
	if !ok || name == "status" {
		return false
	}
	switch domain {
	case "sidecar.istio.io", "traffic.sidecar.istio.io", "status.sidecar.istio.io", "readiness.status.sidecar.istio.io",
		"proxy.istio.io", "prometheus.istio.io", "inject.istio.io", "seine.dev":
		return true
	}
	return false
}

type reader = func(s *settings, value string) error

// readers are the annotations that are known, Istio's by name.
var readers = map[string]reader{
	"sidecar.istio.io/inject":                               nil,
	AnnotationRedirect:                                      nil,
	"traffic.sidecar.istio.io/excludeInterfaces":            nil,
	"sidecar.istio.io/proxyCPU":                             request(corev1.ResourceCPU),
	"sidecar.istio.io/proxyMemory":                          request(corev1.ResourceMemory),
	"sidecar.istio.io/proxyCPULimit":                        limit(corev1.ResourceCPU),
	"sidecar.istio.io/proxyMemoryLimit":                     limit(corev1.ResourceMemory),
	"traffic.sidecar.istio.io/includeOutboundIPRanges":      text(func(s *settings) *string { return &s.IncludeOutboundIPRanges }),
	"traffic.sidecar.istio.io/excludeOutboundIPRanges":      text(func(s *settings) *string { return &s.ExcludeOutboundIPRanges }),
	"traffic.sidecar.istio.io/includeOutboundPorts":         text(func(s *settings) *string { return &s.IncludeOutboundPorts }),
	"traffic.sidecar.istio.io/excludeOutboundPorts":         text(func(s *settings) *string { return &s.ExcludeOutboundPorts }),
	"traffic.sidecar.istio.io/includeInboundPorts":          text(func(s *settings) *string { return &s.IncludeInboundPorts }),
	"traffic.sidecar.istio.io/excludeInboundPorts":          text(func(s *settings) *string { return &s.ExcludeInboundPorts }),
	"sidecar.istio.io/rewriteAppHTTPProbers":                truth(func(s *settings) *bool { return &s.RewriteAppHTTPProbers }),
	config.AnnotationDNS:                                    truth(func(s *settings) *bool { return &s.DNSCapture }),
	"prometheus.istio.io/merge-metrics":                     truth(func(s *settings) *bool { return &s.prometheus }),
	"sidecar.istio.io/nativeSidecar":                        truth(func(s *settings) *bool { return &s.native }),
	"status.sidecar.istio.io/port":                          number(1, 65535, func(s *settings) *int32 { return &s.StatusPort }),
	"readiness.status.sidecar.istio.io/initialDelaySeconds": number(0, 3600, func(s *settings) *int32 { return &s.probe.initialDelay }),
	"readiness.status.sidecar.istio.io/periodSeconds":       number(1, 3600, func(s *settings) *int32 { return &s.probe.period }),
	"readiness.status.sidecar.istio.io/failureThreshold":    number(1, 1000, func(s *settings) *int32 { return &s.probe.threshold }),
	"sidecar.istio.io/logLevel":                             func(s *settings, v string) (err error) { s.LogLevel, err = logLevel(v); return err },
	"sidecar.istio.io/agentLogLevel":                        func(s *settings, v string) (err error) { s.LogLevel, err = logLevel(v); return err },
	annotationProxyProtocol:                                 nil, // read below, and by seined
	annotationProxyProtocolFrom:                             nil,
	annotationCredentials:                                   (*settings).credentials,
	proxyConfigKey:                                          (*settings).proxyConfig,
	AnnotationProxyImage:                                    text(func(s *settings) *string { return &s.Image }),
	"sidecar.istio.io/proxyImage": func(s *settings, _ string) error {
		s.warnings = append(s.warnings, "annotation sidecar.istio.io/proxyImage names an image of Istio's and changes nothing: use "+AnnotationProxyImage)
		return nil
	},
	"sidecar.istio.io/interceptionMode": func(s *settings, v string) error {
		if v != "REDIRECT" {
			s.warnings = append(s.warnings, "annotation sidecar.istio.io/interceptionMode: "+v+" is not implemented, REDIRECT is used")
		}
		return nil
	},
	"sidecar.istio.io/userVolume": func(s *settings, v string) error {
		volumes, err := byName[corev1.Volume](v)
		for _, name := range slices.Sorted(maps.Keys(volumes)) {
			one := volumes[name]
			one.Name = name
			s.volumes = append(s.volumes, one)
		}
		return err
	},
	"sidecar.istio.io/userVolumeMount": func(s *settings, v string) error {
		mounts, err := byName[corev1.VolumeMount](v)
		for _, name := range slices.Sorted(maps.Keys(mounts)) {
			one := mounts[name]
			one.Name = name
			s.mounts = append(s.mounts, one)
		}
		return err
	},
}

func byName[T any](v string) (map[string]T, error) {
	var out map[string]T
	if err := json.Unmarshal([]byte(v), &out); err != nil {
		return nil, fmt.Errorf("is not a JSON object by name: %w", err)
	}
	return out, nil
}

func text(to func(*settings) *string) reader {
	return func(s *settings, v string) error { *to(s) = v; return nil }
}

func truth(to func(*settings) *bool) reader {
	return func(s *settings, v string) error {
		b, err := strconv.ParseBool(v)
		if err != nil {
			return fmt.Errorf("%q is neither true nor false", v)
		}
		*to(s) = b
		return nil
	}
}

func number(least, most int32, to func(*settings) *int32) reader {
	return func(s *settings, v string) error {
		n, err := strconv.ParseInt(v, 10, 32)
		if err != nil || int32(n) < least || int32(n) > most {
			return fmt.Errorf("%q is not a number between %d and %d", v, least, most)
		}
		*to(s) = int32(n)
		return nil
	}
}

func request(name corev1.ResourceName) reader {
	return quantity(name, func(s *settings) *corev1.ResourceList { return &s.Resources.Requests })
}

func limit(name corev1.ResourceName) reader {
	return quantity(name, func(s *settings) *corev1.ResourceList { return &s.Resources.Limits })
}

func quantity(name corev1.ResourceName, to func(*settings) *corev1.ResourceList) reader {
	return func(s *settings, v string) error {
		q, err := resource.ParseQuantity(v)
		if err != nil || q.Sign() <= 0 {
			return fmt.Errorf("%q is not an amount such as 100m or 64Mi", v)
		}
		l := to(s)
		if *l == nil {
			*l = corev1.ResourceList{}
		}
		(*l)[name] = q
		return nil
	}
}

// proxyConfig reads what this sidecar has of Istio's ProxyConfig.
func (s *settings) proxyConfig(v string) error {
	var all map[string]any
	if err := yaml.Unmarshal([]byte(v), &all); err != nil {
		return fmt.Errorf("is not YAML: %w", err)
	}
	var known proxyConfig
	if err := yaml.Unmarshal([]byte(v), &known); err != nil {
		return err
	}
	if err := known.apply(&s.Values); err != nil {
		return err
	}
	s.explicitTime = s.explicitTime || known.TerminationDrainDuration != nil
	for _, key := range slices.Sorted(maps.Keys(known.ProxyMetadata)) {
		if !slices.Contains(config.ProxyMetadata, key) {
			s.warnings = append(s.warnings, "annotation proxy.istio.io/config: proxyMetadata."+key+" is not implemented and changes nothing")
		}
	}
	// seined reads the pod's tracing itself; here its author is told what is wrong with it.
	_, problems := config.ProxyTracing(v)
	for _, p := range problems {
		s.warnings = append(s.warnings, "annotation proxy.istio.io/config: "+p)
	}
	for _, name := range [...]string{"concurrency", "terminationDrainDuration", "holdApplicationUntilProxyStarts", "statusPort", "tracing", "proxyMetadata"} {
		delete(all, name)
	}
	if len(all) > 0 {
		s.warnings = append(s.warnings, "annotation proxy.istio.io/config: not implemented and without effect: "+strings.Join(slices.Sorted(maps.Keys(all)), ", "))
	}
	return nil
}

// logLevel translates Envoy's levels; of several (component:level) the first
// without a component counts.
func logLevel(v string) (string, error) {
	for part := range strings.SplitSeq(v, ",") {
		if _, level, ok := strings.Cut(part, ":"); ok && level != "" && strings.TrimSpace(part[:strings.IndexByte(part, ':')]) != "default" {
			continue
		} else if ok {
			part = level
		}
		switch strings.ToLower(strings.TrimSpace(part)) {
		case "trace", "debug":
			return "DEBUG", nil
		case "info":
			return "INFO", nil
		case "warning", "warn":
			return "WARN", nil
		case "error", "critical", "off", "none", "fatal":
			return "ERROR", nil
		}
	}
	return "", fmt.Errorf("%q is none of trace, debug, info, warning, error, critical and off", v)
}

// requirements are requests and a memory limit. A CPU limit would throttle, in
// steps of 100 ms that every caller sees.
func requirements(cpu, memory, memoryLimit string) corev1.ResourceRequirements {
	return corev1.ResourceRequirements{
		Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)},
		Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(memoryLimit)},
	}
}
