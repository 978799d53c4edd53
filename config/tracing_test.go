package config

import (
	"strings"
	"testing"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

// built is what one MeshConfig and one file of resources come to.
func built(t *testing.T, meshConfig, resources string) *Result {
	t.Helper()
	opt := Options{}
	if meshConfig != "" {
		opt.MeshConfig = &File{Name: "mesh.yaml", Data: []byte(meshConfig)}
	}
	return Build([]File{{Name: "r.yaml", Data: []byte(resources)}}, opt)
}

func said(r *Result) string {
	var out []string
	for _, f := range r.Findings {
		out = append(out, string(f.Code)+" "+f.Path+" "+f.Message)
	}
	return strings.Join(out, "\n")
}

const otelConfig = `
defaultProviders: {tracing: [otel]}
defaultConfig:
  tracing: {sampling: 5, maxPathTagLength: 99, enableIstioTags: false, customTags: {team: {literal: {value: pay}}}}
extensionProviders:
- name: otel
  opentelemetry: {service: observability/otel-collector.observability.svc.cluster.local, port: 4317, grpc: {timeout: 3s, initialMetadata: [{name: X-Key, envName: KEY}]}}
- name: otel-http
  opentelemetry: {service: otel.example.com, port: 4318, http: {path: v1/traces, headers: [{name: a, value: b}]}}
- name: zipkin
  zipkin: {service: zipkin.istio-system.svc.cluster.local, port: 9411, traceContextOption: USE_B3_WITH_W3C_PROPAGATION, enable64bitTraceId: true}
`

func TestMeshTracing(t *testing.T) {
	r := built(t, otelConfig, "")
	if len(r.Findings) != 0 {
		t.Fatal(said(r))
	}
	tr := r.Snapshot.Tracing
	if tr.Default != "otel" || *tr.Sampling != 5 || tr.MaxTagLength != 99 || *tr.MeshTags || len(tr.Tags) != 1 || tr.Tags[0].GetLiteral() != "pay" || tr.Legacy != nil {
		t.Errorf("%+v", tr)
	}
	o := tr.Providers["otel"]
	if c := o.Collector; c.Protocol != seinev1.Collector_OTLP_GRPC || c.Host != "otel-collector.observability.svc.cluster.local" || c.Port != 4317 ||
		c.Timeout.AsDuration().Seconds() != 3 || c.Headers[0].Name != "x-key" || c.Headers[0].GetEnvironment() != "KEY" || !o.W3C || o.B3 {
		t.Errorf("%+v", o)
	}
	if c := tr.Providers["otel-http"].Collector; c.Protocol != seinev1.Collector_OTLP_HTTP || c.Path != "/v1/traces" || c.Headers[0].GetLiteral() != "b" {
		t.Errorf("%v", c)
	}
	if z := tr.Providers["zipkin"]; z.Collector.Protocol != seinev1.Collector_ZIPKIN || z.Collector.Path != "/api/v2/spans" || !z.W3C || !z.B3 || !z.ShortIDs {
		t.Errorf("%+v", z)
	}

	legacy := built(t, "enableTracing: true\ndefaultConfig: {tracing: {zipkin: {address: zipkin.istio-system:9411}}}", "").Snapshot.Tracing.Legacy
	if legacy == nil || legacy.Collector.Host != "zipkin.istio-system" || legacy.Collector.Port != 9411 || !legacy.B3 || legacy.W3C {
		t.Errorf("%+v", legacy)
	}
}

func TestMeshTracingFindings(t *testing.T) {
	for name, k := range map[string]struct{ config, want string }{
		"census":    {"defaultConfig: {tracing: {openCensusAgent: {address: a:1}}}", "SEINE0401 defaultConfig.tracing.openCensusAgent OpenCensus has ended"},
		"census 2":  {"extensionProviders: [{name: a, opencensus: {service: a, port: 1}}]", "SEINE0401 extensionProviders[0].opencensus OpenCensus has ended"},
		"default":   {"defaultProviders: {tracing: [otle]}\nextensionProviders: [{name: otel, opentelemetry: {service: a.b, port: 1}}]", `no opentelemetry or zipkin provider "otle" (did you mean otel?)`},
		"port":      {"extensionProviders: [{name: a, zipkin: {service: a.b}}]", "extensionProviders[0].zipkin.port a port must be between"},
		"service":   {"extensionProviders: [{name: a, zipkin: {service: 'a b', port: 1}}]", "extensionProviders[0].zipkin.service"},
		"twice":     {"extensionProviders: [{name: a, zipkin: {service: a.b, port: 1}}, {name: a, zipkin: {service: a.b, port: 1}}]", "written twice"},
		"sampling":  {"defaultConfig: {tracing: {sampling: 101}}", "defaultConfig.tracing.sampling must be between 0 and 100"},
		"address":   {"defaultConfig: {tracing: {zipkin: {address: here}}}", "defaultConfig.tracing.zipkin.address"},
		"nowhere":   {"enableTracing: true", "nothing says where spans go"},
		"datadog":   {"defaultConfig: {tracing: {datadog: {address: a:1}}}", "defaultConfig.tracing.datadog is not implemented"},
		"lightstep": {"extensionProviders: [{name: a, lightstep: {service: a.b, port: 1}}]", "extensionProviders[0].lightstep is not implemented"},
		"header":    {"extensionProviders: [{name: a, zipkin: {service: a.b, port: 1, headers: [{name: 'a b', value: c}]}}]", "SEINE0017 extensionProviders[0].zipkin.headers[0]"},
	} {
		if got := said(built(t, k.config, "")); !strings.Contains(got, k.want) {
			t.Errorf("%s: %q, want %q", name, got, k.want)
		}
	}
}

func TestTelemetry(t *testing.T) {
	r := built(t, otelConfig, `
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: t, namespace: shop, annotations: {tracing.seine.dev/keep-slower-than: 300ms, tracing.seine.dev/keep-errors: "false"}}
spec:
  selector: {matchLabels: {app: cart}}
  tracing:
  - match: {mode: CLIENT}
    providers: [{name: zipkin}]
    randomSamplingPercentage: 0
    disableSpanReporting: true
    enableIstioTags: true
    disableContextPropagation: true
    customTags:
      b: {header: {name: X-Tenant, defaultValue: none}}
      a: {environment: {name: ZONE}}
  - customTags: {}
`)
	if len(r.Findings) != 0 || len(r.Snapshot.Telemetries) != 1 {
		t.Fatal(said(r))
	}
	got := r.Snapshot.Telemetries[0]
	c := got.Tracing[0]
	if !c.Client || c.Server || c.Provider != "zipkin" || *c.Sampling != 0 || !*c.Disabled || !*c.MeshTags || !*c.DropContext || *c.KeepErrors || c.KeepSlower.AsDuration().Milliseconds() != 300 {
		t.Errorf("%+v", c)
	}
	if len(c.Tags) != 2 || c.Tags[0].GetEnvironment() != "ZONE" || c.Tags[1].GetHeader() != "x-tenant" || c.Tags[1].Fallback != "none" {
		t.Errorf("%v", c.Tags)
	}
	if d := got.Tracing[1]; !d.Client || !d.Server || d.Sampling != nil || d.Provider != "" {
		t.Errorf("%+v", d)
	}
}

func TestTelemetryFindings(t *testing.T) {
	head := "apiVersion: telemetry.istio.io/v1alpha1\nkind: Telemetry\nmetadata: {name: t, namespace: shop}\nspec:\n  "
	for name, k := range map[string]struct{ resource, want string }{
		"provider":   {head + "tracing: [{providers: [{name: zipkn}]}]", `no opentelemetry or zipkin provider "zipkn" (did you mean zipkin?)`},
		"two":        {head + "tracing: [{providers: [{name: zipkin}, {name: otel}]}]", "spec.tracing[0].providers[1] is not used"},
		"percentage": {head + "tracing: [{randomSamplingPercentage: 300}]", "must be between 0 and 100"},
		"formatter":  {head + "tracing: [{customTags: {a: {formatter: {value: x}}}}]", "spec.tracing[0].customTags.a.formatter is not implemented"},
		"empty tag":  {head + "tracing: [{customTags: {a: {literal: {value: ''}}}}]", "must say one of literal"},
		"metrics":    {head + "metrics: [{providers: [{name: prometheus}]}]", "spec.metrics[0] is not implemented"},
		"request id": {head + "tracing: [{useRequestIdForTraceSampling: true}]", "spec.tracing[0].useRequestIdForTraceSampling has no effect"},
		"slow": {strings.Replace(head, "shop}", "shop, annotations: {tracing.seine.dev/keep-slower-than: soon}}", 1) + "tracing: [{}]",
			"metadata.annotations.tracing.seine.dev/keep-slower-than"},
		"clash": {head + "tracing: [{}]\n---\n" + strings.Replace(head, "name: t", "name: u", 1) + "tracing: [{}]", "SEINE0402"},
	} {
		if got := said(built(t, otelConfig, k.resource)); !strings.Contains(got, k.want) {
			t.Errorf("%s: %q, want %q", name, got, k.want)
		}
	}
}

func TestProxyTracing(t *testing.T) {
	got, problems := ProxyTracing("concurrency: 2\ntracing:\n  sampling: 50\n  zipkin: {address: 'z:9411'}\n  customTags: {a: {literal: {value: b}}}\n")
	if len(problems) != 0 || *got.Sampling != 50 || got.Zipkin.Collector.Host != "z" || len(got.Tags) != 1 {
		t.Errorf("%+v, %v", got, problems)
	}
	for text, want := range map[string]string{
		"concurrency: 2":                  "",
		"tracing: {sampling: 1000}":       "tracing.sampling must be",
		"tracing: {samplng: 1}":           "samplng",
		"tracing: {openCensusAgent: {}}":  "OpenCensus",
		"tracing: {lightstep: {}}":        "tracing.lightstep is not implemented",
		"tracing: [":                      "no YAML",
		"tracing: {zipkin: {address: x}}": "HOST:PORT",
	} {
		if got, problems := ProxyTracing(text); !strings.Contains(strings.Join(problems, "\n"), want) || (want == "") != (len(problems) == 0) || want == "" && got != nil {
			t.Errorf("%s: %+v, %q", text, got, problems)
		}
	}
	entry := built(t, "", `
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: w, namespace: shop, annotations: {proxy.istio.io/config: "{tracing: {sampling: 7}}"}}
spec: {address: 10.0.0.1}
`)
	if w := entry.Snapshot.Workloads[0]; w.Tracing == nil || *w.Tracing.Sampling != 7 {
		t.Errorf("%+v %s", w.Tracing, said(entry))
	}
}

// FuzzProxyTracing: an annotation is whatever a pod's author wrote.
func FuzzProxyTracing(f *testing.F) {
	f.Add("tracing: {sampling: 1, zipkin: {address: 'a:1'}}")
	f.Add("tracing: {customTags: {a: {header: {name: b}}}}")
	f.Fuzz(func(t *testing.T, text string) {
		got, problems := ProxyTracing(text)
		if got != nil && got.Sampling != nil && !(*got.Sampling >= 0 && *got.Sampling <= 100) {
			t.Errorf("%q: %g, %v", text, *got.Sampling, problems)
		}
	})
}
