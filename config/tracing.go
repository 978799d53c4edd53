package config

import (
	"maps"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	meshv1 "istio.io/api/mesh/v1alpha1"
	telemetryv1 "istio.io/api/telemetry/v1alpha1"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/mesh"
	"github.com/seinemesh/seine/message"
)

// Fields of MeshConfig and Telemetry that are about tracing.
var (
	proxyTracingFields = []string{"zipkin.address", "sampling", "customTags.**", "maxPathTagLength", "enableIstioTags", "openCensusAgent.**"}
	meshTracingFields  = append(prefixed("defaultConfig.tracing.", proxyTracingFields),
		"enableTracing", "defaultProviders.tracing", "extensionProviders.name",
		"extensionProviders.opentelemetry.service", "extensionProviders.opentelemetry.port", "extensionProviders.opentelemetry.maxTagLength",
		"extensionProviders.opentelemetry.http.**", "extensionProviders.opentelemetry.grpc.**", "extensionProviders.zipkin.**", "extensionProviders.opencensus.**")
	telemetryFields = fields("selector.matchLabels.**", "tracing.match.mode", "tracing.providers.name", "tracing.randomSamplingPercentage",
		"tracing.disableSpanReporting", "tracing.customTags.**", "tracing.enableIstioTags", "tracing.disableContextPropagation")
)

// AnnotationProxyConfig is a pod's: Istio's ProxyConfig for its sidecar.
const AnnotationProxyConfig = "proxy.istio.io/config"

// kindAnnotation stands for it where a finding has a resource's kind.
const kindAnnotation = "annotation"

// Annotations of a Telemetry: what is reported although it was not sampled.
const (
	// AnnotationKeepErrors is "false" where failed requests are not.
	AnnotationKeepErrors = "tracing.seine.dev/keep-errors"
	// AnnotationKeepSlower is a duration; slower requests are; "0": none is.
	AnnotationKeepSlower = "tracing.seine.dev/keep-slower-than"
)

const (
	openCensus  = "OpenCensus has ended and is not spoken here: name an opentelemetry provider in extensionProviders, which an OpenTelemetry Collector takes"
	mostHeaders = 32
	mostTags    = 32
)

func prefixed(prefix string, names []string) []string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = prefix + n
	}
	return out
}

// meshTracing reads what a MeshConfig says of tracing.
func (b *builder) meshTracing(d *decoder, mc *meshv1.MeshConfig) {
	t := &mesh.Tracing{Providers: map[string]*mesh.TracingProvider{}}
	for i, p := range mc.ExtensionProviders {
		path := item("extensionProviders", i)
		switch {
		case p.Name == "":
			d.fail(codeTraceProvider, path+".name", nil, "a provider must have a name")
		case t.Providers[p.Name] != nil:
			d.fail(codeTraceProvider, path+".name", nil, "the provider %q is written twice", clip(p.Name))
		//lint:ignore SA1019 it is refused by name
		case p.GetOpencensus() != nil:
			d.fail(codeTraceProvider, path+".opencensus", nil, "%s", openCensus)
		case p.GetOpentelemetry() != nil:
			t.Providers[p.Name] = otelProvider(d, p.Name, p.GetOpentelemetry(), path+".opentelemetry")
		case p.GetZipkin() != nil:
			t.Providers[p.Name] = zipkinProvider(d, p.Name, p.GetZipkin(), path+".zipkin")
		}
	}
	if names := mc.GetDefaultProviders().GetTracing(); len(names) > 0 {
		t.Default = names[0]
		if t.Providers[names[0]] == nil && !d.bad {
			d.fail(codeTraceProvider, item("defaultProviders.tracing", 0), nil, "extensionProviders has no opentelemetry or zipkin provider %q%s", clip(names[0]), didYouMean(names[0], slices.Collect(maps.Keys(t.Providers))))
		}
		if len(names) > 1 {
			b.note(d.obj, codeUnsupported, Warning, item("defaultProviders.tracing", 1), "is not used: spans go to the first provider alone, as in Istio")
		}
	}
	t.ProxyTracing = proxyTracing(d, mc.GetDefaultConfig().GetTracing(), "defaultConfig.tracing")
	if mc.EnableTracing {
		t.Legacy = t.Zipkin
		if t.Legacy == nil && t.Default == "" {
			b.note(d.obj, codeTraceProvider, Info, "enableTracing", "has no effect: nothing says where spans go; name a provider in defaultProviders.tracing, or defaultConfig.tracing.zipkin.address")
		}
	}
	t.Zipkin = nil
	if !d.bad {
		b.parts.Tracing = t
	}
}

func otelProvider(d *decoder, name string, p *meshv1.MeshConfig_ExtensionProvider_OpenTelemetryTracingProvider, path string) *mesh.TracingProvider {
	c := collector(d, name, p.Service, p.Port, path)
	if h := p.GetHttp(); h != nil {
		c.Protocol, c.Timeout = seinev1.Collector_OTLP_HTTP, h.Timeout
		c.Path = pathOf(d, h.Path, "/v1/traces", path+".http.path")
		c.Headers = traceHeaders(d, h.Headers, path+".http.headers")
		if p.GetGrpc() != nil {
			d.fail(codeTraceProvider, path+".grpc", nil, "excludes http, which is set too: keep one of them")
		}
	} else if g := p.GetGrpc(); g != nil {
		c.Timeout = g.Timeout
		c.Headers = traceHeaders(d, g.InitialMetadata, path+".grpc.initialMetadata")
	}
	return &mesh.TracingProvider{Collector: c, W3C: true, MaxTagLength: p.MaxTagLength}
}

func zipkinProvider(d *decoder, name string, p *meshv1.MeshConfig_ExtensionProvider_ZipkinTracingProvider, path string) *mesh.TracingProvider {
	c := collector(d, name, p.Service, p.Port, path)
	c.Protocol, c.Timeout = seinev1.Collector_ZIPKIN, p.Timeout
	c.Path = pathOf(d, p.Path, "/api/v2/spans", path+".path")
	c.Headers = traceHeaders(d, p.Headers, path+".headers")
	both := p.TraceContextOption == meshv1.MeshConfig_ExtensionProvider_ZipkinTracingProvider_USE_B3_WITH_W3C_PROPAGATION
	return &mesh.TracingProvider{Collector: c, B3: true, W3C: both, ShortIDs: p.Enable_64BitTraceId, MaxTagLength: p.MaxTagLength}
}

// collector reads Istio's service, which is [NAMESPACE/]HOST, and its port.
func collector(d *decoder, name, service string, port uint32, path string) *seinev1.Collector {
	host := service
	if i := strings.IndexByte(host, '/'); i >= 0 {
		host = host[i+1:]
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if !validHost(host, false) && net.ParseIP(host) == nil {
		d.fail(codeTraceProvider, path+".service", nil, "%q is no service: write its full name, such as otel-collector.observability.svc.cluster.local", clip(service))
	}
	if port == 0 || port > 65535 {
		d.fail(codeTraceProvider, path+".port", nil, "a port must be between 1 and 65535 (it is %d)", port)
	}
	return &seinev1.Collector{Name: name, Host: host, Port: port}
}

func pathOf(d *decoder, path, other, at string) string {
	if path == "" {
		return other
	}
	if path[0] != '/' {
		path = "/" + path
	}
	if !message.ValidValue([]byte(path)) || strings.ContainsAny(path, " \t#") {
		d.fail(codeInvalid, at, nil, "%q is no path", clip(path))
	}
	return path
}

// traceHeaders are those that take spans to a collector. A value out of the
// environment is the proxy's: it is read there, and never leaves it otherwise.
func traceHeaders(d *decoder, list []*meshv1.MeshConfig_ExtensionProvider_HttpHeader, path string) []*seinev1.TraceTag {
	var out []*seinev1.TraceTag
	if len(list) > mostHeaders {
		d.fail(codeLimit, path, nil, "%d headers are more than the %d allowed", len(list), mostHeaders)
		return nil
	}
	for i, h := range list {
		name, value, env := h.GetName(), h.GetValue(), h.GetEnvName()
		if !message.ValidName([]byte(name)) || !message.ValidValue([]byte(value)) {
			d.fail(codeHeaderName, item(path, i), nil, "%q is no header, or its value is none", clip(name))
			continue
		}
		tag := &seinev1.TraceTag{Name: strings.ToLower(name), Value: &seinev1.TraceTag_Literal{Literal: value}}
		if env != "" {
			tag.Value = &seinev1.TraceTag_Environment{Environment: env}
		}
		out = append(out, tag)
	}
	return out
}

// proxyTracing reads ProxyConfig's tracing; t may be nil.
func proxyTracing(d *decoder, t *meshv1.Tracing, path string) mesh.ProxyTracing {
	var out mesh.ProxyTracing
	if t == nil {
		return out
	}
	if t.GetOpenCensusAgent() != nil {
		d.fail(codeTraceProvider, path+".openCensusAgent", nil, "%s", openCensus)
	}
	if z := t.GetZipkin(); z != nil {
		host, text, err := net.SplitHostPort(z.Address)
		port, bad := strconv.ParseUint(text, 10, 16)
		if err != nil || bad != nil {
			d.fail(codeTraceProvider, path+".zipkin.address", nil, "%q is no address: write HOST:PORT, such as zipkin.istio-system:9411", clip(z.Address))
		} else {
			c := collector(d, "zipkin", host, uint32(port), path+".zipkin")
			c.Protocol, c.Path = seinev1.Collector_ZIPKIN, "/api/v2/spans"
			out.Zipkin = &mesh.TracingProvider{Collector: c, B3: true}
		}
	}
	if t.Sampling != 0 { // as in Istio, 0 is the default
		out.Sampling = sampling(d, t.Sampling, path+".sampling")
	}
	if v := t.EnableIstioTags; v != nil {
		out.MeshTags = &v.Value
	}
	out.MaxTagLength = t.MaxPathTagLength
	tags := make(map[string]tag, len(t.CustomTags))
	for name, v := range t.CustomTags {
		tags[name] = tag{
			v.GetLiteral().GetValue(), v.GetEnvironment().GetName(), v.GetHeader().GetName(),
			v.GetEnvironment().GetDefaultValue() + v.GetHeader().GetDefaultValue(),
		}
	}
	out.Tags = traceTags(d, tags, path+".customTags")
	return out
}

func sampling(d *decoder, percent float64, path string) *float64 {
	if math.IsNaN(percent) || percent < 0 || percent > 100 {
		d.fail(codeInvalid, path, nil, "must be between 0 and 100 percent (it is %g)", percent)
	}
	return &percent
}

// tag is a custom tag, whichever of Istio's two messages it comes from.
type tag struct{ literal, environment, header, fallback string }

// traceTags are by name, so that the same resource gives the same plan.
func traceTags(d *decoder, tags map[string]tag, path string) []*seinev1.TraceTag {
	if len(tags) > mostTags {
		d.fail(codeLimit, path, nil, "%d tags are more than the %d allowed", len(tags), mostTags)
		return nil
	}
	var out []*seinev1.TraceTag
	for _, name := range slices.Sorted(maps.Keys(tags)) {
		t, at := tags[name], sub(path, name)
		one := &seinev1.TraceTag{Name: name, Fallback: t.fallback}
		switch {
		case t.header != "":
			if !message.ValidName([]byte(t.header)) {
				d.fail(codeHeaderName, at+".header.name", nil, "%q is no header", clip(t.header))
				continue
			}
			one.Value = &seinev1.TraceTag_Header{Header: strings.ToLower(t.header)}
		case t.environment != "":
			one.Value = &seinev1.TraceTag_Environment{Environment: t.environment}
		case t.literal != "":
			one.Value = &seinev1.TraceTag_Literal{Literal: t.literal}
		default:
			d.fail(codeInvalid, at, nil, "must say one of literal, environment and header, with a value")
			continue
		}
		out = append(out, one)
	}
	return out
}

// telemetry reads a Telemetry's tracing. What it says of metrics and access logs
// is reported as not implemented.
func (b *builder) telemetry(o *object) {
	var spec telemetryv1.Telemetry
	if _, ok := b.spec(o, &spec, telemetryFields); !ok {
		return
	}
	d := &decoder{b: b, obj: o}
	out := &mesh.Telemetry{Ref: o.ref, Selector: spec.GetSelector().GetMatchLabels()}
	if len(out.Selector) == 0 {
		for _, other := range b.parts.Telemetries {
			if other.Namespace == out.Namespace && len(other.Selector) == 0 {
				b.note(o, codeTelemetryClash, Warning, "metadata.name", "has no effect: %s holds for the whole namespace already; give one of them a selector, or make them one", name(other.Ref))
				break
			}
		}
	} else if o.ref.Namespace == b.settings.RootNamespace {
		b.note(o, codePolicyTarget, Warning, "spec.selector", "holds for workloads of the root namespace (%s) alone, as in Istio: for the whole mesh, remove the selector", o.ref.Namespace)
	}
	late := b.lateTraces(o, d)
	for i, t := range spec.Tracing {
		path := item("spec.tracing", i)
		rule := late
		mode := t.GetMatch().GetMode()
		rule.Client, rule.Server = mode != telemetryv1.WorkloadMode_SERVER, mode != telemetryv1.WorkloadMode_CLIENT
		if len(t.Providers) > 0 {
			rule.Provider = t.Providers[0].GetName()
			b.checkProvider(o, rule.Provider, path+".providers[0].name")
			if len(t.Providers) > 1 {
				b.note(o, codeUnsupported, Warning, path+".providers[1]", "is not used: spans go to the first provider alone, as in Istio")
			}
		}
		if v := t.RandomSamplingPercentage; v != nil {
			rule.Sampling = sampling(d, v.Value, path+".randomSamplingPercentage")
		}
		if v := t.DisableSpanReporting; v != nil {
			rule.Disabled = &v.Value
		}
		if v := t.EnableIstioTags; v != nil {
			rule.MeshTags = &v.Value
		}
		if v := t.DisableContextPropagation; v != nil {
			rule.DropContext = &v.Value
		}
		if t.CustomTags != nil {
			tags := make(map[string]tag, len(t.CustomTags))
			for name, v := range t.CustomTags {
				if v.GetFormatter() != nil {
					b.unsupported(o, sub(path+".customTags", name)+".formatter")
					continue
				}
				tags[name] = tag{
					v.GetLiteral().GetValue(), v.GetEnvironment().GetName(), v.GetHeader().GetName(),
					v.GetEnvironment().GetDefaultValue() + v.GetHeader().GetDefaultValue(),
				}
			}
			rule.Tags = append([]*seinev1.TraceTag{}, traceTags(d, tags, path+".customTags")...)
		}
		out.Tracing = append(out.Tracing, rule)
	}
	if len(spec.Tracing) == 0 && (late.KeepErrors != nil || late.KeepSlower != nil) {
		late.Client, late.Server = true, true
		out.Tracing = append(out.Tracing, late)
	}
	if !d.bad {
		b.parts.Telemetries = append(b.parts.Telemetries, out)
	}
}

// lateTraces reads the annotations of a Telemetry.
func (b *builder) lateTraces(o *object, d *decoder) (rule mesh.TracingRule) {
	at := func(key string) string { return "metadata.annotations." + key }
	switch v := o.annotations[AnnotationKeepErrors]; v {
	case "":
	case "true", "false":
		is := v == "true"
		rule.KeepErrors = &is
	default:
		d.fail(codeType, at(AnnotationKeepErrors), nil, "must be true or false, not %q", clip(v))
	}
	if v := o.annotations[AnnotationKeepSlower]; v != "" {
		if v == "0" {
			v = "0s"
		}
		long, err := time.ParseDuration(v)
		if err != nil || long < 0 {
			d.fail(codeDuration, at(AnnotationKeepSlower), nil, "%q is no duration: write 500ms or 2s, or 0 for none", clip(v))
		}
		rule.KeepSlower = durationpb.New(long)
	}
	return rule
}

// checkProvider reports a name that MeshConfig has no provider of. The rest of
// the Telemetry holds, and its workloads report nothing, as in Istio.
func (b *builder) checkProvider(o *object, name, path string) {
	var names []string
	if t := b.parts.Tracing; t != nil {
		if t.Providers[name] != nil {
			return
		}
		names = slices.Sorted(maps.Keys(t.Providers))
	}
	b.note(o, codeTraceProvider, Error, path, "MeshConfig's extensionProviders has no opentelemetry or zipkin provider %q%s: no spans are reported", clip(name), didYouMean(name, names))
}

// ProxyTracing reads the tracing of annotation proxy.istio.io/config; nil if it
// says nothing of it. problems are sentences about what is not taken.
func ProxyTracing(annotation string) (t *mesh.ProxyTracing, problems []string) {
	f := File{Name: "proxy.istio.io/config", Data: []byte(annotation)}
	docs, _, err := documents(f)
	if err != nil || len(docs) != 1 {
		return nil, []string{"it is no YAML"}
	}
	n := child(docs[0], "tracing")
	if isNull(n) {
		return nil, nil
	}
	b := &builder{result: &Result{}, perFile: map[string]int{}}
	o := &object{root: n, ref: mesh.Ref{Kind: kindAnnotation, Name: f.Name, File: f.Name}, size: len(f.Data)}
	d := &decoder{b: b, obj: o, known: fields(proxyTracingFields...)}
	var m meshv1.Tracing
	d.message(n, m.ProtoReflect(), "tracing", "", false, 0)
	out := proxyTracing(d, &m, "tracing")
	for _, f := range b.result.Findings {
		problems = append(problems, f.Path+" "+f.Message)
	}
	if d.bad {
		return nil, problems
	}
	return &out, problems
}
