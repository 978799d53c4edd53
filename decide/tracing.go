package decide

import (
	"math"
	"strings"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/message"
	"github.com/seinemesh/seine/telemetry/trace"
)

// Tracing is how the requests of one side of a workload are traced.
type Tracing struct {
	Proto      *seinev1.Tracing
	Share      trace.Sampler // of the traces that begin here
	Begin      trace.Formats // how those are told
	Prefer     trace.Formats // which format holds where two contradict each other
	Headers    []TraceHeader // that a user wants on the spans
	KeepSlower int64         // nanoseconds; 0: nothing is kept for being slow
}

// TraceHeader is a field of the request that is put on its span.
type TraceHeader struct {
	Tag      string
	Name     string // lower case
	Fallback string
}

// mostTags bounds the tags of a span.
const mostTags = 32

// CompileTracing checks and compiles one side's; nil for nil.
func CompileTracing(t *seinev1.Tracing) (*Tracing, error) {
	if t == nil {
		return nil, nil
	}
	if math.IsNaN(t.Sampling) || t.Sampling < 0 || t.Sampling > 100 {
		return nil, invalid("tracing: a share of %v %% is none", t.Sampling)
	}
	if len(t.Tags) > mostTags {
		return nil, invalid("tracing: %d tags are more than the %d allowed", len(t.Tags), mostTags)
	}
	if c := t.Collector; c != nil {
		if _, known := seinev1.Collector_Protocol_name[int32(c.Protocol)]; !known || c.Host == "" || c.Port == 0 || c.Port > 65535 {
			return nil, invalid("tracing: collector %q has no protocol, host or port that could be used", c.Name)
		}
		if c.Path != "" && (c.Path[0] != '/' || !message.ValidValue([]byte(c.Path)) || strings.ContainsAny(c.Path, " \t")) {
			return nil, invalid("tracing: %q is no path", c.Path)
		}
		for _, h := range c.Headers {
			if !message.ValidName([]byte(h.Name)) || !message.ValidValue([]byte(h.GetLiteral())) {
				return nil, invalid("tracing: %q is no header, or its value is none", h.Name)
			}
		}
	}
	out := &Tracing{Proto: t, Share: trace.Share(t.Sampling)}
	if t.W3C {
		out.Begin |= trace.W3C
		out.Prefer = trace.W3C
	}
	if t.B3 {
		out.Begin |= trace.B3Multi
	}
	if !t.W3C {
		out.Prefer = trace.AnyB3
	}
	if t.KeepSlower != nil {
		out.KeepSlower = int64(t.KeepSlower.AsDuration())
	}
	for _, tag := range t.Tags {
		if tag.Name == "" {
			return nil, invalid("tracing: a tag has no name")
		}
		if name := tag.GetHeader(); name != "" {
			if name != strings.ToLower(name) {
				return nil, invalid("tracing: header %q is not in lower case", name)
			}
			out.Headers = append(out.Headers, TraceHeader{tag.Name, name, tag.Fallback})
		}
	}
	return out, nil
}
