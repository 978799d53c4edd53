package tap

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/decide"
	"github.com/seinemesh/seine/message"
	"github.com/seinemesh/seine/telemetry"
)

// Bounds of one tap, whatever the control plane asks for.
const (
	maxPattern = 256
	maxNames   = 16   // header fields
	maxAny     = 32   // methods, ranges of codes
	maxRate    = 1000 // records a second
)

// ErrSpec is what every tap is that cannot be put on.
var ErrSpec = errors.New("tap: the filter cannot be applied")

// filter is a compiled TapSpec.
type filter struct {
	*seinev1.TapSpec
	least time.Duration
	limit *decide.RateLimit
}

func compile(p *seinev1.TapSpec) (*filter, error) {
	f := &filter{TapSpec: p, least: p.MinLatency.AsDuration()}
	switch {
	case len(p.Path) > maxPattern, len(p.Authority) > maxPattern:
		return nil, fmt.Errorf("%w: a pattern is longer than %d bytes", ErrSpec, maxPattern)
	case len(p.Headers) > maxNames, len(p.Methods) > maxAny, len(p.Statuses) > maxAny:
		return nil, fmt.Errorf("%w: more than %d header fields, or more than %d methods or codes", ErrSpec, maxNames, maxAny)
	case p.MaxRps == 0 || p.MaxRps > maxRate:
		return nil, fmt.Errorf("%w: %d requests a second; 1 to %d can be shown", ErrSpec, p.MaxRps, maxRate)
	}
	for _, h := range p.Headers {
		if !message.ValidName([]byte(h.GetName())) || h.Name != strings.ToLower(h.Name) {
			return nil, fmt.Errorf("%w: %.100q is no name of a header field in lower case", ErrSpec, h.GetName())
		}
	}
	var err error
	f.limit, err = decide.CompileRateLimit(&seinev1.RateLimit{Id: "tap", Requests: uint64(p.MaxRps), Per: durationpb.New(time.Second)})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSpec, err)
	}
	return f, nil
}

// matches reports whether a request is one to show. What costs least is asked first.
func (f *filter) matches(e *Event) bool {
	if f.Direction != seinev1.TapSpec_BOTH && (f.Direction == seinev1.TapSpec_INBOUND) != e.Inbound || e.Duration < f.least {
		return false
	}
	if len(f.Statuses) > 0 {
		found := false
		for _, s := range f.Statuses {
			found = found || uint32(e.Code) >= s.Least && uint32(e.Code) <= s.Most
		}
		if !found {
			return false
		}
	}
	if len(f.Methods) > 0 {
		found := false
		for _, m := range f.Methods {
			found = found || m == string(e.Method)
		}
		if !found {
			return false
		}
	}
	if !party(f.From, e.Source) || !party(f.To, e.Destination) || !f.calls(e) {
		return false
	}
	path, _, _ := bytes.Cut(e.Path, query)
	return (f.Path == "" || glob(f.Path, path, false)) && (f.Authority == "" || glob(f.Authority, e.Authority, true))
}

var query = []byte("?")

// calls reports whether the service is the one that is asked for.
func (f *filter) calls(e *Event) bool {
	want := f.To.GetService()
	if want == "" {
		return true
	}
	if ns := f.To.Namespace; ns != "" && e.ServiceNamespace != "" && ns != e.ServiceNamespace {
		return false
	}
	return want == e.Service || want == e.ServiceName
}

// party reports whether w is who is asked for. A destination that was never
// found (no route, no endpoint) has no workload and is none in particular.
func party(want *seinev1.TapParty, w *seinev1.Workload) bool {
	if want == nil {
		return true
	}
	if want.Namespace != "" && want.Namespace != w.GetNamespace() && (want.Service == "" || w != nil) {
		return false
	}
	return (want.Workload == "" || want.Workload == w.GetWorkload()) && (want.Instance == "" || want.Instance == w.GetName())
}

// glob reports whether pattern, in which * stands for any bytes, is all of s; fold:
// without regard to ASCII case.
func glob(pattern string, s []byte, fold bool) bool {
	star, mark := -1, 0
	p := 0
	for i := 0; i < len(s); {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, i
			p++
		case p < len(pattern) && (pattern[p] == s[i] || fold && lower(pattern[p]) == lower(s[i])):
			p++
			i++
		case star >= 0: // the last * takes one more
			mark++
			p, i = star+1, mark
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c |= 0x20
	}
	return c
}

// shown says how much of a field a tap shows.
type shown uint8

const (
	absent shown = iota
	redacted
	plain
)

// shows is what the filter shows of a field.
func (f *filter) shows(name string) shown {
	for _, h := range f.Headers {
		if h.Name != name {
			continue
		}
		if h.Value && !telemetry.Sensitive(name) {
			return plain
		}
		return redacted
	}
	return absent
}
