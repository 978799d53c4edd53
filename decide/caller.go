package decide

import (
	"bytes"
	"slices"
	"time"

	"github.com/seinemesh/seine/message"
)

// Caller is one of Envoy's request fields by which a caller has a say in how
// its own sidecar sends the request.
type Caller uint8

const (
	NotCaller Caller = iota
	callerRetryOn
	callerRetryGRPCOn
	callerMaxRetries
	callerStatusCodes
	callerHeaderNames // without effect, as retriable-headers
	callerTimeout
	callerPerTry
	callerHedge
	callerAlternative // x-envoy-upstream-rq-timeout-alt-response: without effect
	// ProxySays are fields by which the caller's sidecar tells the server of a try;
	// what the caller itself says under their names is dropped there.
	ProxySays
	// Nobody's word: where a request comes from is not for a field to say.
	callerInternal
)

// Wish reports whether the caller asks for something.
func (c Caller) Wish() bool { return c != NotCaller && c < ProxySays }

var callers = [...]struct {
	name string
	is   Caller
}{
	{"x-envoy-retry-on", callerRetryOn},
	{"x-envoy-retry-grpc-on", callerRetryGRPCOn},
	{"x-envoy-max-retries", callerMaxRetries},
	{"x-envoy-retriable-status-codes", callerStatusCodes},
	{"x-envoy-retriable-header-names", callerHeaderNames},
	{"x-envoy-upstream-rq-timeout-ms", callerTimeout},
	{"x-envoy-upstream-rq-per-try-timeout-ms", callerPerTry},
	{"x-envoy-hedge-on-per-try-timeout", callerHedge},
	{"x-envoy-upstream-rq-timeout-alt-response", callerAlternative},
	{"x-envoy-attempt-count", ProxySays},
	{"x-envoy-expected-rq-timeout-ms", ProxySays},
	{"x-envoy-internal", callerInternal},
}

// CallerField says which of them a name is. Such a field is for the caller's
// own sidecar and goes no further: a receiving sidecar drops it too (but
// ProxySays), or an application that passes headers on would let strangers set
// its policy.
func CallerField(name []byte) Caller {
	const prefix = "x-envoy-"
	if len(name) <= len(prefix) || name[0]|0x20 != 'x' || name[1] != '-' || name[7] != '-' {
		return NotCaller
	}
	for i := range callers {
		if len(callers[i].name) == len(name) && message.EqualFold(name, callers[i].name) {
			return callers[i].is
		}
	}
	return NotCaller
}

// maxCallerCodes bounds the status codes that a caller may name.
const maxCallerCodes = 16

// Wishes are what a request's own fields ask for. The zero value asks nothing.
// It holds no memory of the request.
type Wishes struct {
	Any bool // a field is there, whether it is understood or not

	timeout, perTry       time.Duration
	hasTimeout, hasPerTry bool
	on                    RetryOn
	attempts              int
	hasAttempts           bool
	hedge, hasHedge       bool
	codes                 [maxCallerCodes]int
	ncodes                int
	retry                 Retry
}

// Read takes what the fields ask for. What is not understood is left out, as
// Envoy does. It allocates nothing.
func (w *Wishes) Read(fields []message.Field) {
	for i := range fields {
		is := CallerField(fields[i].Name)
		if !is.Wish() {
			continue
		}
		if !w.Any {
			*w = Wishes{Any: true}
		}
		v := fields[i].Value
		switch is {
		case callerRetryOn, callerRetryGRPCOn:
			for part := range bytes.SplitSeq(v, comma) {
				w.on |= condition(bytes.TrimSpace(part), is == callerRetryGRPCOn)
			}
		case callerMaxRetries:
			if n, ok := number(v); ok {
				w.attempts, w.hasAttempts = n, true
			}
		case callerStatusCodes:
			for part := range bytes.SplitSeq(v, comma) {
				if n, ok := number(bytes.TrimSpace(part)); ok && n >= 100 && n <= 599 && w.ncodes < maxCallerCodes {
					w.codes[w.ncodes] = n
					w.ncodes++
				}
			}
		case callerTimeout:
			if n, ok := number(v); ok {
				w.timeout, w.hasTimeout = time.Duration(n)*time.Millisecond, true
			}
		case callerPerTry:
			if n, ok := number(v); ok {
				w.perTry, w.hasPerTry = time.Duration(n)*time.Millisecond, true
			}
		case callerHedge:
			w.hedge = string(v) == "true"
			w.hasHedge = w.hedge || string(v) == "false"
		}
	}
}

var comma = []byte(",")

// condition is one of retry-on's, or of retry-grpc-on's.
func condition(name []byte, grpc bool) RetryOn {
	for i := range conditions {
		if c := &conditions[i]; c.name == string(name) && (c.on&onGRPC != 0) == grpc {
			return c.on
		}
	}
	return 0
}

// number reads an unsigned number of up to nine digits.
func number(b []byte) (int, bool) {
	if len(b) == 0 || len(b) > 9 {
		return 0, false
	}
	n := 0
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return n, true
}

// Over lays the wishes over a route's timeout and retry policy: Envoy's
// FilterUtility::finalTimeout and RetryStateImpl. The policy that it returns is
// good as long as w is left alone.
//
// A timeout of 0 is none. Conditions come beside the route's, a number of
// retries replaces the route's (and is 1 where the route has no policy); what
// the caller names itself may be repeated even if it is not idempotent.
func (w *Wishes) Over(timeout time.Duration, route *Retry) (time.Duration, *Retry) {
	if !w.Any {
		return timeout, route
	}
	if w.hasTimeout {
		timeout = w.timeout
	}
	r := &w.retry
	switch {
	case route != nil:
		*r = *route
	case w.on == 0 && !w.hasPerTry:
		return timeout, nil
	default: // only a time for the one try, if no condition is named
		*r = Retry{Backoff: DefaultBackoff}
		if w.on != 0 {
			r.Attempts = 1
		}
	}
	if w.on != 0 {
		r.On |= w.on
		r.Written, r.Configured = true, true
	}
	if w.hasAttempts && r.On != 0 {
		r.Attempts = w.attempts
	}
	if w.ncodes > 0 && r.On&OnRetriableStatusCodes != 0 {
		codes := w.codes[:w.ncodes]
		for _, c := range r.Codes {
			if len(codes) == maxCallerCodes {
				break
			}
			codes = append(codes, c)
		}
		slices.Sort(codes)
		r.Codes = codes
	}
	if w.hasPerTry {
		r.PerTry = w.perTry
	}
	if w.hasHedge {
		r.Hedge = w.hedge
	}
	if timeout > 0 && r.PerTry >= timeout {
		r.PerTry = 0
	}
	return timeout, r
}
