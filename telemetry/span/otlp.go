package span

import (
	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	resourcev1 "go.opentelemetry.io/proto/otlp/resource/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/version"
)

// reported is a span and how its side is reported.
type reported struct {
	*Span
	side *side
}

// otlp is a batch as OTLP has it. The request of its service is, field for field,
// TracesData: that service's own package would bring a gateway with it.
func otlp(self *seinev1.Workload, batch []reported) *tracev1.TracesData {
	resource := &resourcev1.Resource{}
	for _, a := range [...][2]string{
		{"service.name", serviceName(self)}, {"service.namespace", self.GetNamespace()}, {"service.version", self.GetVersion()},
		{"service.instance.id", self.GetNamespace() + "/" + self.GetName()},
		{"k8s.namespace.name", self.GetNamespace()}, {"k8s.pod.name", self.GetName()}, {"k8s.cluster.name", self.GetCluster()},
		{"telemetry.sdk.name", "seine"}, {"telemetry.sdk.language", "go"}, {"telemetry.sdk.version", version.String()},
	} {
		if a[1] != "" {
			resource.Attributes = append(resource.Attributes, pair(&attribute{name: a[0], text: a[1]}))
		}
	}
	scope := &tracev1.ScopeSpans{Scope: &commonv1.InstrumentationScope{Name: "github.com/seinemesh/seine/proxy", Version: version.String()}}
	for _, s := range batch {
		scope.Spans = append(scope.Spans, s.otlp(self))
	}
	return &tracev1.TracesData{ResourceSpans: []*tracev1.ResourceSpans{{Resource: resource, ScopeSpans: []*tracev1.ScopeSpans{scope}}}}
}

func (s *reported) otlp(self *seinev1.Workload) *tracev1.Span {
	start := uint64(s.Start.UnixNano())
	flags := uint32(tracev1.SpanFlags_SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK)
	out := &tracev1.Span{
		TraceId: s.Trace[:], SpanId: s.ID[:], TraceState: clean(s.State, maxValue), Name: s.name(),
		Kind: tracev1.Span_SPAN_KIND_CLIENT, StartTimeUnixNano: start, EndTimeUnixNano: start + uint64(s.Duration),
		Status: &tracev1.Status{},
	}
	if s.Parent != [8]byte{} {
		out.ParentSpanId = s.Parent[:]
		flags |= uint32(tracev1.SpanFlags_SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK)
	}
	if !s.Late {
		flags |= 1 // sampled
	}
	out.Flags = flags
	if s.Server {
		out.Kind = tracev1.Span_SPAN_KIND_SERVER
	}
	if s.failed() {
		out.Status.Code = tracev1.Status_STATUS_CODE_ERROR
		out.Status.Message = clean([]byte(s.Cause), maxValue)
	}
	for _, a := range s.attributes(s.side, self) {
		out.Attributes = append(out.Attributes, pair(&a))
	}
	for i := range s.Events {
		e := &s.Events[i]
		ev := &tracev1.Span_Event{TimeUnixNano: start + uint64(e.At), Name: e.Kind.String()}
		for _, a := range e.attributes() {
			ev.Attributes = append(ev.Attributes, pair(&a))
		}
		out.Events = append(out.Events, ev)
	}
	return out
}

func pair(a *attribute) *commonv1.KeyValue {
	v := &commonv1.AnyValue{}
	switch a.is {
	case isNumber:
		v.Value = &commonv1.AnyValue_IntValue{IntValue: a.number}
	case isTrue:
		v.Value = &commonv1.AnyValue_BoolValue{BoolValue: true}
	default:
		v.Value = &commonv1.AnyValue_StringValue{StringValue: a.text}
	}
	return &commonv1.KeyValue{Key: a.name, Value: v}
}
