//go:build linux

package proxy

import (
	"hash/maphash"
	"slices"
	"strconv"
	"sync"
	"time"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/decide"
	"github.com/seinemesh/seine/message"
	"github.com/seinemesh/seine/proxy/bucket"
	"github.com/seinemesh/seine/telemetry"
	"github.com/seinemesh/seine/telemetry/metrics"
)

// limiter is a rate limit with its bucket, or its buckets by key. All loops
// share it.
type limiter struct {
	limit   *decide.RateLimit
	bucket  *bucket.Bucket // nil: by key
	table   *bucket.Table
	cause   string
	refused *metrics.Counter
	shared  *metrics.Counter
}

// limiters are the process's, by their limit's ID: a limit keeps its buckets
// through changes of its numbers. A loop asks for them when its workload's
// policy has changed, never for a request.
type limiters struct {
	mu   sync.Mutex
	by   map[string]*limiter
	seed maphash.Seed
}

// of returns the limiters of a Self's limits for one port.
func (ls *limiters) of(r *metrics.Registry, self *decide.Self, port uint16) []*limiter {
	list := self.RateLimits(port)
	if len(list) == 0 {
		return nil
	}
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.by == nil {
		ls.by, ls.seed = map[string]*limiter{}, maphash.MakeSeed()
	}
	var out []*limiter
	for _, l := range list {
		old := ls.by[l.Proto.Id]
		if old == nil || old.limit != l {
			old = newLimiter(r, l, old)
			ls.by[l.Proto.Id] = old
		}
		out = append(out, old)
	}
	for id := range ls.by { // limits that are gone; a few stay, as another loop may be behind
		if len(ls.by) > 2*len(self.Proto.RateLimits)+16 && !slices.ContainsFunc(self.Proto.RateLimits, func(p *seinev1.RateLimit) bool { return p.Id == id }) {
			delete(ls.by, id)
		}
	}
	return out
}

func newLimiter(r *metrics.Registry, l *decide.RateLimit, old *limiter) *limiter {
	p := l.Proto
	n := &limiter{
		limit: l, cause: "rate limit " + p.Id + ": " + strconv.FormatUint(p.Requests, 10) + " requests each " + p.Per.AsDuration().String(),
		refused: r.Counter("seine_rate_limited_total", "Requests answered with 429 because a RateLimit's bucket was empty.", "limit", p.Id),
		shared:  r.Counter("seine_rate_limit_shared_total", "Requests whose key found no bucket of its own, so that they shared one: maxKeys was met.", "limit", p.Id),
	}
	switch keyed := p.Key != nil; {
	case !keyed && old != nil && old.bucket != nil:
		n.bucket = old.bucket
	case !keyed:
		n.bucket = &bucket.Bucket{}
	case old != nil && old.table != nil && old.limit.Proto.MaxKeys == p.MaxKeys:
		n.table = old.table
	default:
		n.table = bucket.NewTable(int(max(p.MaxKeys, 1)))
	}
	return n
}

// limits are the limiters for connections to one of the workload's ports.
func (w *worker) limits(port uint16) []*limiter {
	self := w.current().Self
	if w.limited.self != self {
		w.limited.self, w.limited.by = self, map[uint16][]*limiter{}
	}
	list, known := w.limited.by[port]
	if !known {
		list = w.p.limiters.of(w.p.registry, self, port)
		w.limited.by[port] = list
	}
	return list
}

// take takes a token for the request in worker.req, if the limit is about it.
func (l *limiter) take(x *exchange) (tokens decide.Tokens, about, ok bool) {
	w, in := x.w, x.caller.in
	if !l.limit.Matches(&w.req, uint32(in.number)) {
		return tokens, false, true
	}
	now := w.loop.Now()
	if l.bucket != nil {
		tokens, ok = l.bucket.Take(l.limit, now)
		return tokens, true, ok
	}
	var key uint64
	if h := l.limit.Proto.GetHeader(); h != "" {
		v, _ := message.Lookup(w.req.Fields, h)
		key = maphash.Bytes(w.p.limiters.seed, v)
	} else {
		key = maphash.String(w.p.limiters.seed, in.peer.GetIdentity())
	}
	tokens, ok, shared := l.table.Take(l.limit, key, now)
	if shared {
		l.shared.Inc()
	}
	return tokens, true, ok
}

// quota is what the answer says of the limit that leaves least.
type quota struct {
	limit *decide.RateLimit // nil: none was about the request
	left  uint64
	reset time.Duration
}

// overLimit holds an inbound request to the workload's limits. True: it was
// answered.
func (x *exchange) overLimit(list []*limiter) bool {
	q := &x.shape.quota
	for _, l := range list {
		tokens, about, ok := l.take(x)
		if !about {
			continue
		}
		if !ok {
			*q = quota{l.limit, 0, tokens.Full}
			x.refuseRate(l, tokens)
			return true
		}
		if q.limit == nil || tokens.Left < q.left {
			*q = quota{l.limit, tokens.Left, tokens.Full}
		}
	}
	return false
}

// refuseRate answers 429 (RFC 6585 §4) with Envoy's flag and field.
func (x *exchange) refuseRate(l *limiter, tokens decide.Tokens) {
	w := x.w
	l.refused.Inc()
	x.details = "local_rate_limited"
	w.text = strconv.AppendInt(w.text[:0], seconds(tokens.Next), 10)
	extra := append(w.extra[:0], message.Field{Name: bytesOf("x-envoy-ratelimited"), Value: bytesOf("true")},
		message.Field{Name: bytesOf("retry-after"), Value: w.text},
		message.Field{Name: bytesOf("x-seine-cause"), Value: bytesOf(l.cause)})
	w.extra = extra
	x.respond(429, telemetry.FlagRL, l.cause, "local_rate_limited", extra...)
}

// seconds rounds up.
func seconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }

// append appends the fields that tell a client where it stands: the bucket's
// size, the tokens that are left, and the seconds until it is full again
// (draft-ietf-httpapi-ratelimit-headers-03). The values lie in worker memory
// until the next head.
func (q *quota) append(w *worker, dst []message.Field) []message.Field {
	if q.limit == nil {
		return dst
	}
	w.quota = strconv.AppendUint(w.quota[:0], q.limit.Burst, 10)
	a := len(w.quota)
	w.quota = strconv.AppendUint(w.quota, q.left, 10)
	b := len(w.quota)
	w.quota = strconv.AppendInt(w.quota, seconds(q.reset), 10)
	return append(dst, message.Field{Name: bytesOf("ratelimit-limit"), Value: w.quota[:a]},
		message.Field{Name: bytesOf("ratelimit-remaining"), Value: w.quota[a:b]},
		message.Field{Name: bytesOf("ratelimit-reset"), Value: w.quota[b:]})
}
