package config

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	networking "istio.io/api/networking/v1alpha3"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/decide"
	"github.com/seinemesh/seine/mesh"
)

const trafficGroup = "traffic.seine.dev"

// rateLimitSpec is what a RateLimit says: buckets of tokens that each selected
// workload's own sidecar holds its callers to.
type rateLimitSpec struct {
	// Selector picks workloads of the namespace; none: all of them, or in the root
	// namespace those of the whole mesh.
	Selector struct {
		MatchLabels map[string]string `json:"matchLabels"`
	} `json:"selector"`
	Limits []rateLimit `json:"limits"`
}

type rateLimit struct {
	Ports []uint32 `json:"ports"`
	// Match is VirtualService's http.match, read by hand.
	Match    []any  `json:"match"`
	Requests uint64 `json:"requests"`
	Per      string `json:"per"`   // 1s if left out
	Burst    uint64 `json:"burst"` // requests if left out
	// Key gives each of its values a bucket of its own.
	Key *struct {
		Header string `json:"header"`
		Client bool   `json:"client"` // the caller's verified identity
	} `json:"key"`
	MaxKeys uint32 `json:"maxKeys"`
}

const (
	defaultKeys  = 1024
	mostKeys     = 65536
	mostLimits   = 32
	mostMatches  = 64
	shortestSpan = time.Millisecond
)

// limitMatchFields are those of VirtualService's match that say something about
// a request where it arrives.
var limitMatchFields = []string{"name", "uri", "scheme", "method", "authority", "headers", "withoutHeaders", "queryParams", "ignoreUriCase"}

func (b *builder) rateLimit(o *object) {
	var spec rateLimitSpec
	if !b.goSpec(o, &spec) {
		return
	}
	d := &decoder{b: b, obj: o}
	out := &mesh.RateLimit{Ref: o.ref, Selector: spec.Selector.MatchLabels}
	if len(spec.Limits) == 0 || len(spec.Limits) > mostLimits {
		d.fail(codeInvalid, "spec.limits", nil, "there must be between 1 and %d limits (there are %d)", mostLimits, len(spec.Limits))
	}
	for i := range spec.Limits {
		if l := b.oneLimit(o, d, &spec.Limits[i], i); l != nil {
			out.Limits = append(out.Limits, l)
		}
	}
	if !d.bad {
		b.parts.RateLimits = append(b.parts.RateLimits, out)
	}
}

func (b *builder) oneLimit(o *object, d *decoder, l *rateLimit, i int) *seinev1.RateLimit {
	at := item("spec.limits", i)
	per := time.Second
	if l.Per != "" {
		var err error
		if per, err = time.ParseDuration(l.Per); err != nil || per < shortestSpan {
			d.fail(codeDuration, at+".per", nil, "%q is no duration of at least 1ms: write 1s, 1m or 1h", clip(l.Per))
			return nil
		}
	}
	if l.Requests == 0 {
		d.fail(codeInvalid, at+".requests", nil, "must say how many requests are let in each %v, at least 1", per)
		return nil
	}
	ref := o.ref.Proto()
	ref.Line = int32(o.line(at))
	out := &seinev1.RateLimit{
		Id: fmt.Sprintf("%s/%s[%d]", o.ref.Namespace, o.ref.Name, i), Source: ref, Ports: l.Ports,
		Requests: l.Requests, Per: durationpb.New(per), Burst: l.Burst,
	}
	if out.Burst == 0 {
		out.Burst = l.Requests
	}
	for j, p := range l.Ports {
		if p < 1 || p > 65535 {
			d.fail(codeInvalid, item(at+".ports", j), nil, "a port must be between 1 and 65535 (it is %d)", p)
		}
	}
	c := &routeConverter{b: b, o: o, d: d}
	switch k := l.Key; {
	case k == nil:
		if l.MaxKeys != 0 {
			d.fail(codeInvalid, at+".maxKeys", nil, "has no meaning without key")
		}
	case k.Client == (k.Header != ""):
		d.fail(codeInvalid, at+".key", nil, "must say one of header and client")
	case k.Client:
		out.Key = &seinev1.RateLimit_Client{Client: true}
	case c.headerName(k.Header, at+".key.header"):
		out.Key = &seinev1.RateLimit_Header{Header: strings.ToLower(k.Header)}
	}
	if l.Key != nil {
		if out.MaxKeys = l.MaxKeys; out.MaxKeys == 0 {
			out.MaxKeys = defaultKeys
		}
		if out.MaxKeys > mostKeys {
			d.fail(codeInvalid, at+".maxKeys", nil, "must be at most %d (it is %d): each has its place in the sidecar's memory", mostKeys, out.MaxKeys)
		}
	}
	if len(l.Match) > mostMatches {
		d.fail(codeLimit, at+".match", nil, "%d matches are more than the %d allowed", len(l.Match), mostMatches)
		return nil
	}
	for j := range l.Match {
		if m := b.limitMatch(o, d, c, item(at+".match", j)); m != nil {
			out.Match = append(out.Match, m)
		}
	}
	if d.bad {
		return nil
	}
	if _, err := decide.CompileRateLimit(out); err != nil {
		d.fail(codeInvalid, at, nil, "%v", err)
		return nil
	}
	return out
}

// limitMatch reads one match as VirtualService's is read.
func (b *builder) limitMatch(o *object, d *decoder, c *routeConverter, path string) *seinev1.HttpMatch {
	n := o.node(path)
	if n == nil {
		return nil
	}
	var m networking.HTTPMatchRequest
	strict := &decoder{b: b, obj: o, known: fields(deep(limitMatchFields)...), strict: "has no meaning where a request arrives"}
	strict.message(n, m.ProtoReflect(), path, "", false, 0)
	d.bad = d.bad || strict.bad
	if d.bad {
		return nil
	}
	return c.match(&m, path)
}

func deep(names []string) []string {
	var out []string
	for _, n := range names {
		out = append(out, n+".**")
	}
	return out
}
