//go:build linux

package proxy

import (
	"bytes"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seinemesh/seine/decide"
	"github.com/seinemesh/seine/message"
	"github.com/seinemesh/seine/proxy/http1"
	"github.com/seinemesh/seine/telemetry"
	"github.com/seinemesh/seine/telemetry/metrics"
	"github.com/seinemesh/seine/telemetry/span"
)

// maxTried is how many endpoints an exchange remembers as tried.
const maxTried = 6

// retrying is where an exchange stands with its tries. Whether there is another
// one, where and when, decide says; here it is only done.
type retrying struct {
	policy  *decide.Retry // nil: one try
	number  int           // of tries begun; 0: nothing was sent anywhere
	stamped int           // the number that the kept head says, 0: none
	head    int           // length of the kept head
	direct  bool          // the endpoint is the one that was dialled
	pausing bool          // until the next try
	sequel  decide.Sequel // of the last try that ended
	denied  string        // why there was no further try although the policy has one
	tried   [maxTried]*decide.Endpoint
}

// retryCounters are process-wide, and apart from the requests' own metrics.
type retryCounters struct {
	sequel          [decide.TooLarge + 1]*metrics.Counter
	success, budget *metrics.Counter
}

func newRetryCounters(r *metrics.Registry) retryCounters {
	counter := func(outcome string) *metrics.Counter {
		return r.Counter("seine_retries_total", "Requests that a retry policy was about, by outcome: retried (sent again, each time), success (answered well after a retry), exhausted, budget (the retry budget was empty), unsafe (not idempotent), too_large (no longer kept).", "outcome", outcome)
	}
	c := retryCounters{success: counter("success"), budget: counter("budget")}
	for s := decide.Again; s <= decide.TooLarge; s++ {
		c.sequel[s] = counter(s.String())
	}
	return c
}

// budget is a cluster's retry budget, which all loops share: one word.
type budget struct {
	_    [64]byte
	word atomic.Uint64
	_    [56]byte
}

// requested notes a request. now is a loop's clock: those of one process
// started together, and one that is behind lets no time pass.
func (b *budget) requested(now int64) {
	for {
		old := b.word.Load()
		if b.word.CompareAndSwap(old, uint64(decide.Budget(old).Requested(now))) {
			return
		}
	}
}

// take takes one retry out, if there is one.
func (b *budget) take(now int64) bool {
	for {
		old := b.word.Load()
		next, ok := decide.Budget(old).Take(now)
		if b.word.CompareAndSwap(old, uint64(next)) {
			return ok
		}
	}
}

// budgets are the process's by cluster. A loop asks when it first uses a
// cluster of a new table, never for a request.
type budgets struct {
	mu      sync.Mutex
	m       map[budgetKey]*budget
	sweepAt int
}

type budgetKey struct{ service, subset string }

func (b *budgets) of(w *worker, c *decide.Cluster) *budget {
	k := budgetKey{c.Service.Key, c.Subset}
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.m[k]; p != nil {
		return p
	}
	if b.m == nil {
		b.m = map[budgetKey]*budget{}
	}
	if len(b.m) >= b.sweepAt { // clusters that are gone
		t := w.p.tables.Table()
		for k := range b.m {
			if t.Cluster(k.service, k.subset) == nil {
				delete(b.m, k)
			}
		}
		b.sweepAt = 2*len(b.m) + 64
	}
	p := &budget{}
	b.m[k] = p
	return p
}

// firstTry notes that the request goes upstream for the first time.
func (x *exchange) firstTry() {
	x.retry.number = 1
	if x.target != nil {
		x.target.budget.requested(x.w.loop.Now())
	}
	x.clockWhole()
}

// clockWhole starts the clocks if the whole request is there already.
func (x *exchange) clockWhole() {
	if x.timeout == 0 && (x.retry.policy == nil || x.retry.policy.PerTry == 0) {
		return
	}
	whole := x.framing.Kind == http1.None || x.reqDone || x.h1 == nil && x.req.end
	if !whole && x.h1 != nil && !x.transmitted {
		var b http1.Body
		b.Reset(x.framing)
		_, done, perr := b.Next(x.h1.data[x.head:])
		whole = done || perr != nil
	}
	if whole {
		x.startClocks()
	}
}

// startClocks begins the route's timeout and that of the try, both of which
// count from when the whole request has come (Envoy's router: how long a client
// takes to send it is not the upstream's fault).
func (x *exchange) startClocks() {
	x.copyWhole()
	w := x.w
	now := w.loop.Now()
	if x.timeout > 0 && (!x.limit.Armed() || now+x.timeout < x.limit.When()) {
		w.loop.Arm(&x.limit, now+x.timeout)
	}
	if p := x.retry.policy; p != nil && p.PerTry > 0 && !x.headSent && !x.try.Armed() {
		w.loop.Arm(&x.try, now+int64(p.PerTry))
	}
}

// keeps reports whether what is sent must be kept, to be sent again.
func (x *exchange) keeps(u *upstream) bool {
	if x.framing.Kind == http1.Length && x.framing.Length > tooLargeToRepeat {
		return false
	}
	return u.served > 0 || x.retry.policy.May(x.idempotent)
}

// retriesFailure has a try that failed followed by another one, after a pause,
// or says that it is the outcome. The upstream connection was left already.
func (x *exchange) retriesFailure(f decide.Failure) bool {
	if x.retry.policy == nil || x.connects || !x.live() {
		return false
	}
	t := decide.Try{
		Failure: f, Number: x.retry.number, Sent: x.transmitted && !x.unsent,
		Idempotent: x.idempotent, Kept: !x.transmitted || x.replayable,
	}
	if !x.another(x.retry.policy.Next(&t)) {
		return x.fallsBack()
	}
	x.tells(span.Retry, span.Event{Attempt: x.retry.number + 1, Text: f.String()})
	x.pause()
	return true
}

// retriesAnswer is retriesFailure for the answer whose head is in worker.res.
func (x *exchange) retriesAnswer(n int, f http1.Framing) bool {
	w := x.w
	r := x.retry.policy
	t := decide.Try{
		Failure: decide.Answered, Status: w.res.Status, Number: x.retry.number, Sent: true,
		Idempotent: x.idempotent, Kept: x.replayable,
	}
	if is, surely := x.handedBack(); is {
		t.Failure, t.Sent = decide.ConnectFailed, !surely
	}
	t.GRPCStatus, _ = message.Get(w.res.Fields, message.GRPCStatus)
	if r.On&decide.OnRateLimited != 0 {
		_, t.RateLimited = message.Lookup(w.res.Fields, "x-envoy-ratelimited")
	}
	s := r.Next(&t)
	if s != decide.Final {
		_, t.Overloaded = message.Lookup(w.res.Fields, "x-envoy-overloaded")
		_, t.RateLimited = message.Lookup(w.res.Fields, "x-envoy-ratelimited")
		s = r.Next(&t)
	}
	if f.Kind == http1.Tunnel || !x.another(s) {
		if s != decide.Final && x.rivals != nil {
			x.discard(n, f)
			return x.fallsBack()
		}
		w.loop.Disarm(&x.try)
		x.forget(w)
		switch {
		case x.retry.denied != "":
			x.flag, x.cause = telemetry.FlagUO, x.told("answered "+strconv.Itoa(w.res.Status))
		case s == decide.Exhausted:
			x.flag, x.cause = telemetry.FlagURX, x.told("answered "+strconv.Itoa(w.res.Status))
		}
		return false
	}
	x.tells(span.Retry, span.Event{Attempt: x.retry.number + 1, Status: x.status})
	x.discard(n, f)
	x.pause()
	return true
}

// another does the accounts of a sequel and reports whether there is another try.
func (x *exchange) another(s decide.Sequel) bool {
	w := x.w
	x.retry.sequel = s
	x.retryOver()
	if s == decide.Final {
		return false
	}
	c := &w.p.retries
	if s == decide.Again && x.target != nil && !x.target.sh.budgeted() && !x.target.budget.take(w.loop.Now()) {
		x.retry.denied = "the retry budget is empty"
		c.budget.Inc()
		return false
	}
	if s == decide.Again && !x.retryBegins() {
		x.retry.denied = x.target.sh.causes.Load()[boundRetries]
		return false
	}
	c.sequel[s].Inc()
	return s == decide.Again
}

// discard leaves an answer that nobody gets; the connection is of use if all
// of it has come.
func (x *exchange) discard(n int, f http1.Framing) {
	u := x.up
	if u.trunk != nil {
		x.dropUpstream(true)
		return
	}
	x.up = nil
	x.release()
	var b http1.Body
	b.Reset(f)
	k, done, perr := b.Next(u.data[n:])
	if perr == nil && x.reqDone && f.KeepAlive && (done || f.Kind == http1.None) {
		u.consume(n + k)
		u.served++
		u.release()
		return
	}
	u.drop(true)
}

// pause waits before the next try.
func (x *exchange) pause() {
	w := x.w
	r := &x.retry
	if x.target != nil && x.ep >= 0 && x.ep < len(x.target.edges) {
		r.tried[(r.number-1)%maxTried] = x.target.edges[x.ep].ep
	}
	r.pausing = true
	x.resStarted, x.status, x.details = false, 0, ""
	x.resBody, x.resFraming = http1.Body{}, http1.Framing{}
	x.grpcStatus = -1
	x.res.detach()
	x.phase = connecting
	w.loop.Arm(&x.try, w.loop.Now()+int64(r.policy.Pause(r.number, w.rng.Uint64())))
}

// tryOver: the time of a try has passed, or the pause before the next.
func (x *exchange) tryOver() {
	switch {
	case !x.live():
		return
	case x.shape.injecting == holding:
		x.released()
		return
	case x.retry.pausing:
		x.retry.pausing = false
		x.again()
		x.leg.ready()
		return
	case x.headSent || x.phase != connecting && x.phase != exchanging:
		return
	case x.retry.policy.Hedge && x.hedges():
		return
	}
	x.failed(x.w.loop.Now())
	if x.up != nil {
		x.host.failed(504)
	}
	x.dropUpstream(true)
	if x.retriesFailure(decide.TryTimeout) {
		return
	}
	x.details = "upstream_per_try_timeout"
	x.reply(504, x.flagged(telemetry.FlagUT), x.told("no answer within the route's perTryTimeout"))
	x.leg.ready()
}

// again begins the next try.
func (x *exchange) again() {
	x.retry.number++
	x.retried, x.retry.denied = false, ""
	if x.target != nil && x.ep >= 0 && !x.retry.direct && !x.elsewhere() {
		return
	}
	x.begun()
	x.clockWhole()
	u, ok := x.obtain(false)
	if !ok {
		return
	}
	x.up = u
	switch {
	case u == nil || !u.up:
		x.waitsFor(u)
		x.phase = connecting
	case x.transmitted:
		x.repeat()
	default:
		x.leg.again()
		x.transmit()
	}
}

// elsewhere picks the endpoint of the next try, of the cluster as it is now.
// False: there is none, and the request was answered.
func (x *exchange) elsewhere() bool {
	w := x.w
	c := x.target.cluster
	if now := w.current().Cluster(c.Service.Key, c.Subset); now != nil {
		c = now
	}
	t, r := w.target(c), x.retry.policy
	t.eject(w.loop.Now())
	tried := x.retry.tried[:min(x.retry.number-1, maxTried)]
	if !r.Avoids(c) {
		tried = nil
	}
	i := c.Dialled(x.dialled)
	if i < 0 {
		w.question = decide.Ask{Draw: w.rng.Uint64(), Now: w.loop.Now(), Hash: x.hash, Hashed: x.hashed}
		i = t.balance.PickAgain(&w.question, tried, r.Remote)
	}
	if i < 0 {
		if x.fallsBack() {
			return false
		}
		x.ep = -1
		x.details = "no_healthy_upstream"
		x.reply(503, telemetry.FlagUH, x.told("no healthy endpoint is left"))
		return false
	}
	e := t.edge(w, c.Endpoints[i], i)
	to := t.to(w, e, x)
	switch tr := c.Transport(e.ep); {
	case c.Policy.GetOriginate() == nil && (tr == decide.Simple || tr == decide.Custom):
		x.reply(503, telemetry.FlagUF, x.told("this proxy does not know how TLS is begun"))
		return false
	case e.ep.DNS != "":
		if a, ok := w.resolved(e.ep.DNS); ok && a.IsValid() {
			k := to.key
			k.addr = netip.AddrPortFrom(a.Unmap(), e.ep.Port)
			to = w.pool(k, e.alts)
		} else { // not known yet: the address that was tried may be back
			e, i, t, to = nil, x.ep, x.target, x.pool
		}
	}
	if e != nil {
		x.handle = t.requests(w, e, x.grpc)
	}
	if x.host = nil; e != nil {
		x.host = e.host
	}
	x.target, x.ep, x.pool, x.cluster = t, i, to, t.name()
	return true
}

// flagged is f, with URX if the retries are used up.
func (x *exchange) flagged(f telemetry.Flag) telemetry.Flag {
	if x.retry.sequel == decide.Exhausted {
		return f.Exhausted()
	}
	return f
}

// told is a cause with what the tries were about.
func (x *exchange) told(cause string) string {
	r := &x.retry
	switch {
	case r.policy == nil:
	case r.denied != "":
		cause += "; not sent again: " + r.denied
	case r.sequel == decide.Unsafe:
		cause += "; not sent again: the request is not idempotent"
	case r.sequel == decide.TooLarge:
		cause += "; not sent again: the request is too large to be kept"
	}
	if r.policy != nil && r.number > 1 {
		cause += "; attempt=" + strconv.Itoa(r.number) + "/" + strconv.Itoa(r.policy.Attempts+1)
	}
	return cause
}

// retryEnded counts an answer that a retry brought.
func (x *exchange) retryEnded() {
	if x.retry.number > 1 && x.flag == telemetry.FlagNone {
		x.w.p.retries.success.Inc()
	}
}

var attemptCount = "x-envoy-attempt-count"

// countTry puts the number of the try into the request's head, and how long the
// server has for it, as Istio has Envoy do. What a client says about either is
// dropped (dropWishes).
func (w *worker) countTry(x *exchange) {
	x.retry.stamped = x.retry.number
	w.count = strconv.AppendInt(w.count[:0], int64(x.retry.number), 10)
	w.edit.Add = append(w.edit.Add, message.Field{Name: bytesOf(attemptCount), Value: w.count})
	limit := x.timeout
	if p := x.retry.policy; p != nil && p.PerTry > 0 && !p.Hedge {
		limit = int64(p.PerTry)
	}
	if limit >= int64(time.Millisecond) {
		w.expected = strconv.AppendInt(w.expected[:0], limit/int64(time.Millisecond), 10)
		w.edit.Add = append(w.edit.Add, message.Field{Name: bytesOf("x-envoy-expected-rq-timeout-ms"), Value: w.expected})
	}
}

// headAgain is the kept head with the number of this try, behind the
// connection's greeting. It is good until the loop's next head.
func (w *worker) headAgain(x *exchange) []byte {
	u := x.up
	head := x.replay[:x.retry.head]
	out := append(w.out[:0], u.greeting()...)
	if x.retry.number > 1 && x.retry.number != x.retry.stamped {
		n := bytes.IndexByte(head, '\n') + 1
		out = append(append(append(out, head[:n]...), attemptCount...), ": "...)
		out = strconv.AppendInt(out, int64(x.retry.number), 10)
		out = append(out, http1.CRLF...)
		for head = head[n:]; len(head) > 0; head = head[n:] {
			n = bytes.IndexByte(head, '\n') + 1
			if n == 0 {
				n = len(head)
			}
			if i := len(attemptCount); n > i && head[i] == ':' && message.EqualFold(head[:i], attemptCount) {
				continue
			}
			out = append(out, head[:n]...)
		}
	} else {
		out = append(out, head...)
	}
	w.out = out[:0]
	return out
}
