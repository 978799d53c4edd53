package decide

import (
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"time"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

// RetryOn is a set of conditions under which a request is sent again.
type RetryOn uint32

// The conditions of VirtualService retryOn: Envoy's x-envoy-retry-on and
// x-envoy-retry-grpc-on.
const (
	On5xx                  RetryOn = 1 << iota // a 5xx, or no answer at all
	OnGatewayError                             // 502, 503, 504, or no answer at all
	OnReset                                    // no answer at all
	OnResetBeforeRequest                       // the connection went before anything of the request was sent
	OnConnectFailure                           // no connection, or not in time
	OnRefusedStream                            // HTTP/2's REFUSED_STREAM
	OnRetriable4xx                             // 409
	OnRetriableStatusCodes                     // the codes that are listed
	OnRetriableHeaders                         // listed by header names; Istio's resources cannot list any
	OnRateLimited                              // the answer says x-envoy-ratelimited
	OnCancelled                                // grpc-status 1
	OnDeadlineExceeded                         // grpc-status 4
	OnResourceExhausted                        // grpc-status 8
	OnInternal                                 // grpc-status 13
	OnUnavailable                              // grpc-status 14
)

var conditions = []struct {
	name string
	on   RetryOn
}{
	{"5xx", On5xx}, {"gateway-error", OnGatewayError}, {"reset", OnReset}, {"reset-before-request", OnResetBeforeRequest},
	{"connect-failure", OnConnectFailure}, {"refused-stream", OnRefusedStream}, {"retriable-4xx", OnRetriable4xx},
	{"retriable-status-codes", OnRetriableStatusCodes}, {"retriable-headers", OnRetriableHeaders}, {"envoy-ratelimited", OnRateLimited},
	{"http3-post-connect-failure", 0}, // there is no HTTP/3 to fail
	{"cancelled", OnCancelled}, {"deadline-exceeded", OnDeadlineExceeded}, {"internal", OnInternal},
	{"resource-exhausted", OnResourceExhausted}, {"unavailable", OnUnavailable},
}

// grpcStatus is the condition of a grpc-status.
var grpcStatus = map[string]RetryOn{
	"1": OnCancelled, "4": OnDeadlineExceeded, "8": OnResourceExhausted, "13": OnInternal, "14": OnUnavailable,
}

const onGRPC = OnCancelled | OnDeadlineExceeded | OnResourceExhausted | OnInternal | OnUnavailable

// Istio's defaults of today (pilot/pkg/networking/core/route/retry; 503 left the
// list in 1.24), and Envoy's back-off.
const (
	DefaultRetryAttempts = 2
	DefaultRetryOn       = OnConnectFailure | OnRefusedStream | OnUnavailable | OnCancelled
	DefaultBackoff       = 25 * time.Millisecond
)

// backoffSpan bounds the back-off by a multiple of its base, as in Envoy.
const backoffSpan = 10

// Retry is a compiled retry policy. It is immutable.
type Retry struct {
	Attempts int           // after the first try; at least 1
	PerTry   time.Duration // 0: the route's timeout alone
	On       RetryOn
	Codes    []int // with OnRetriableStatusCodes; sorted
	Backoff  time.Duration
	// AnyHost: may choose an endpoint that was tried before. OtherHost: never,
	// not even where a hash chooses. See Avoids.
	AnyHost, OtherHost bool
	Remote             bool // rather another locality
	// Written: the user named the conditions, and so decided that what they
	// describe may be repeated. Otherwise only a request that is idempotent, or
	// of which nothing can have reached the application, is.
	Written bool
	// Configured: the resource has a retry policy.
	Configured bool
	// Hedge: a try whose PerTry has passed goes on while the next one is made; the
	// first good answer is the outcome.
	Hedge bool
}

// DefaultRetry is the policy of a rule that says nothing.
var DefaultRetry = &Retry{Attempts: DefaultRetryAttempts, On: DefaultRetryOn, Backoff: DefaultBackoff}

// ParseRetryOn reads one condition or status code of retryOn.
func ParseRetryOn(s string) (on RetryOn, code int, ok bool) {
	if n, err := strconv.Atoi(s); err == nil && n >= 100 && n <= 599 && len(s) == 3 {
		return OnRetriableStatusCodes, n, true
	}
	for _, c := range conditions {
		if c.name == s {
			return c.on, 0, true
		}
	}
	return 0, 0, false
}

// RetryConditions are the words of retryOn.
func RetryConditions() []string {
	var out []string
	for _, c := range conditions {
		out = append(out, c.name)
	}
	return out
}

// compileRetry returns nil for a policy that never retries.
func compileRetry(p *seinev1.Retry) (*Retry, error) {
	if p == nil {
		return DefaultRetry, nil
	}
	if p.Attempts == 0 {
		return nil, nil
	}
	r := *DefaultRetry
	r.Configured = true
	r.Attempts = int(min(p.Attempts, 1<<30))
	r.AnyHost, r.OtherHost, r.Remote, r.Hedge = p.AnyHost, p.OtherHost, p.RemoteLocalities, p.Hedge
	if t := p.PerTryTimeout; t != nil {
		if err := t.CheckValid(); err != nil || t.AsDuration() < 0 {
			return nil, invalid("perTryTimeout %v is no duration", t)
		}
		r.PerTry = t.AsDuration()
	}
	if t := p.Backoff; t != nil {
		if err := t.CheckValid(); err != nil || t.AsDuration() <= 0 {
			return nil, invalid("backoff %v is no duration", t)
		}
		r.Backoff = t.AsDuration()
	}
	if len(p.On) > 0 {
		r.On, r.Written = 0, true
		for _, s := range p.On {
			on, code, ok := ParseRetryOn(s)
			if !ok {
				return nil, invalid("retryOn %q is no condition", s)
			}
			r.On |= on
			if code != 0 {
				r.Codes = append(r.Codes, code)
			}
		}
		slices.Sort(r.Codes)
		r.Codes = slices.Compact(r.Codes)
	}
	return &r, nil
}

// Conditions are the policy's conditions and codes in Istio's words.
func (r *Retry) Conditions() string {
	var out []string
	for _, c := range conditions {
		if c.on == 0 || r.On&c.on == 0 || c.on == OnRetriableStatusCodes && len(r.Codes) > 0 {
			continue
		}
		out = append(out, c.name)
	}
	for _, code := range r.Codes {
		out = append(out, strconv.Itoa(code))
	}
	return strings.Join(out, ",")
}

// Failure is how a try ended.
type Failure uint8

const (
	Answered      Failure = iota // with a response's head
	ConnectFailed                // no connection: refused, not in time, no handshake
	Reset                        // the connection ended before an answer
	Refused                      // HTTP/2's REFUSED_STREAM: the peer has not looked at it
	TryTimeout                   // the time for one try has passed
)

// String says it in a word or two.
func (f Failure) String() string {
	switch f {
	case ConnectFailed:
		return "no connection"
	case Reset:
		return "connection ended"
	case Refused:
		return "stream refused"
	case TryTimeout:
		return "perTryTimeout"
	}
	return "answered"
}

// Try is what there is to know of a try that ended.
type Try struct {
	Failure Failure
	// Of an answer.
	Status      int
	GRPCStatus  []byte // of its head; nil: none
	Overloaded  bool   // it says x-envoy-overloaded
	RateLimited bool   // it says x-envoy-ratelimited
	// Of the request.
	Number     int  // 1 is the first try
	Sent       bool // bytes of the request went onto a connection that was up
	Idempotent bool // RFC 9110 §9.2.2
	Kept       bool // all that was sent is still there to be sent again
}

// Sequel is what follows from a try that ended.
type Sequel uint8

const (
	Final     Sequel = iota // no condition of the policy holds: it is the outcome
	Again                   // send it again, if the budget allows
	Exhausted               // a condition holds, but every attempt is used up: flag URX
	Unsafe                  // a condition holds, but what reached the application must not be repeated
	TooLarge                // a condition holds, but the request is no longer there
)

// String is the value of the metric's label.
func (s Sequel) String() string {
	return [...]string{"final", "retried", "exhausted", "unsafe", "too_large"}[s]
}

// Next decides what follows from a try. A nil policy never retries.
//
// It is Envoy's RetryStateImpl (wouldRetryFromHeaders, wouldRetryFromReset), and
// stricter in one point: see Retry.Written.
func (r *Retry) Next(t *Try) Sequel {
	switch {
	case r == nil || !r.matches(t):
		return Final
	case t.Sent && !t.Idempotent && t.Failure != Refused && !r.Written:
		return Unsafe
	case t.Number > r.Attempts:
		return Exhausted
	case !t.Kept:
		return TooLarge
	}
	return Again
}

// May reports whether a request may have to be sent again once it was sent, so
// that it must be kept.
func (r *Retry) May(idempotent bool) bool {
	return r != nil && (idempotent || r.Written)
}

func (r *Retry) matches(t *Try) bool {
	switch t.Failure {
	case Answered:
		return r.answered(t)
	case ConnectFailed:
		return r.On&(OnConnectFailure|OnReset|On5xx|OnGatewayError|OnResetBeforeRequest) != 0
	case Refused:
		return r.On&(OnRefusedStream|OnReset|On5xx|OnGatewayError) != 0
	}
	if t.Failure == TryTimeout && r.Hedge {
		return true // Envoy's shouldHedgeRetryPerTryTimeout: whatever the conditions
	}
	// Reset or TryTimeout: an answer that does not come counts as a 5xx.
	on := OnReset | On5xx | OnGatewayError
	if !t.Sent {
		on |= OnResetBeforeRequest
	}
	return r.On&on != 0
}

func (r *Retry) answered(t *Try) bool {
	switch {
	case t.Overloaded:
		return false
	case t.RateLimited:
		return r.On&OnRateLimited != 0
	case r.On&On5xx != 0 && t.Status >= 500 && t.Status <= 599,
		r.On&OnGatewayError != 0 && t.Status >= 502 && t.Status <= 504,
		r.On&OnRetriable4xx != 0 && t.Status == 409:
		return true
	}
	if r.On&OnRetriableStatusCodes != 0 {
		if _, ok := slices.BinarySearch(r.Codes, t.Status); ok {
			return true
		}
	}
	return r.On&onGRPC != 0 && len(t.GRPCStatus) > 0 && r.On&grpcStatus[string(t.GRPCStatus)] != 0
}

// Pause is how long to wait before the n-th retry (1 is the first): uniformly
// random below min(2^n-1, 10) times the base (Envoy's fully jittered
// exponential back-off). draw is uniform over uint64.
func (r *Retry) Pause(n int, draw uint64) time.Duration {
	span := uint64(backoffSpan)
	if n < 4 {
		span = min(uint64(1)<<max(n, 1)-1, backoffSpan)
	}
	limit := uint64(min(r.Backoff, 1<<56)) * span
	d, _ := bits.Mul64(draw, limit)
	return time.Duration(d)
}

// Avoids reports whether a retry goes to an endpoint that was not tried. Where
// requests are bound to endpoints by a hash, it does so only if the user wrote it
// (Istio's DefaultConsistentHashPolicy).
func (r *Retry) Avoids(c *Cluster) bool {
	return !r.AnyHost && (r.OtherHost || c.HashKey() == nil)
}

// reselect is how often a pick is asked for another endpoint (Istio's
// hostSelectionRetryMaxAttempts) before they are looked at one by one.
const reselect = 5

// PickAgain is Pick for a retry: endpoints in tried are chosen only if there is
// no other in the groups that get traffic; with remote, rather one of a locality
// that was not tried, in whichever group.
func (b *Balance) PickAgain(q *Ask, tried []*Endpoint, remote bool) int {
	if len(tried) == 0 {
		return b.Pick(q)
	}
	best, fit := -1, 0
	for range reselect {
		i := b.Pick(q)
		if i < 0 {
			return -1
		}
		if f := fitness(b.c.Endpoints[i], tried, remote); f == 2 {
			return i
		} else if best < 0 || f > fit {
			best, fit = i, f
		}
		q.Draw = mix(q.Draw)
		q.Attempt++
	}
	before := uint64(0)
	for g := range b.sets {
		used := b.shares == nil || b.shares[g] > before
		if b.shares != nil {
			before = b.shares[g]
		}
		s := &b.sets[g]
		if s.n == 0 || !used && !remote {
			continue
		}
		from := int(reduce(q.Draw, uint64(s.n)))
		for k := range s.n {
			i := s.at((from + k) % s.n)
			if f := fitness(b.c.Endpoints[i], tried, remote); f == 2 {
				return i
			} else if f > fit {
				best, fit = i, f
			}
		}
	}
	return best
}

// fitness of an endpoint for a retry: 0, it was tried; 1, it is in a locality
// that was tried and should not be; 2.
func fitness(e *Endpoint, tried []*Endpoint, remote bool) int {
	fit := 2
	for _, t := range tried {
		switch {
		case t == nil:
		case t == e || t.Proto.Id == e.Proto.Id:
			return 0
		case remote && t.Proto.Locality == e.Proto.Locality:
			fit = 1
		}
	}
	return fit
}
