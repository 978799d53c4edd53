//go:build linux

package proxy

import (
	"net/netip"

	"github.com/seinemesh/seine/decide"
	"github.com/seinemesh/seine/message"
	"github.com/seinemesh/seine/mtls"
	"github.com/seinemesh/seine/proxy/control"
	"github.com/seinemesh/seine/proxy/http1"
	"github.com/seinemesh/seine/proxy/http2"
	"github.com/seinemesh/seine/proxy/loop"
	"github.com/seinemesh/seine/telemetry"
	"github.com/seinemesh/seine/telemetry/metrics"
)

// phase is where an exchange stands.
type phase uint8

const (
	vacant     phase = iota // there is none
	deciding                // a head has come
	waiting                 // for an answer of the control plane or a name
	connecting              // for an upstream connection, or a pause between two tries
	exchanging              // request and response are under way
)

// caller is what the exchanges of one connection of a client have in common.
type caller struct {
	door    *door
	dialled netip.AddrPort // the address that the client meant; zero at an explicit proxy port
	remote  netip.AddrPort
	in      *inbound // set if requests go to the local application
	sock    *socket
	behind  bool // remote is what a load balancer's PROXY header says

	addressed addressed
	// The answer for the host of the last request, valid for one table.
	cached struct {
		table     *decide.Table
		authority []byte
		answer    *decide.Answer
		use       *control.Use
	}
}

// leg is the client's side of an exchange: a connection of HTTP/1, or a stream
// of HTTP/2.
type leg interface {
	// again makes worker.req the request's head once more, after a wait.
	again()
	// answer sends a whole answer of our own; over follows.
	answer(status int, body string, extra ...message.Field)
	// over: the exchange is at its end, and was reported.
	over()
	// abort ends what the client has begun to receive, or nobody waits for,
	// so that it is seen to be cut short. The exchange was reported.
	abort()
	// gone reports whether the client has left.
	gone() bool
	// ready does whatever can be done now.
	ready()
}

// exchange is one request and its response: what was decided, how far both
// have come, and what is to be reported. A connection of HTTP/1 has one, which
// it uses again and again (see reset).
type exchange struct {
	w      *worker
	caller *caller
	leg    leg
	h1     *downstream // the client's connection of HTTP/1; nil over HTTP/2
	stall  *loop.Timer // fires when nothing has moved for too long: see stalled
	limit  loop.Timer  // the route's timeout, the wait for an answer
	try    loop.Timer  // the timeout of one try, the pause before the next

	phase   phase
	last    bool // the client's connection closes after this exchange
	up      *upstream
	start   int64 // when the head's first byte was seen; the loop's clock
	sentAt  int64 // when the head went upstream
	moved   int64 // when something last moved
	dialled netip.AddrPort

	// The request, as it came.
	head       int // length of its head
	framing    http1.Framing
	idempotent bool
	connects   bool // CONNECT at an explicit proxy port

	// The decision.
	decided   bool
	resolving bool // waits for a name, not for the control plane
	rule      *decide.Rule
	match     int
	dest      *decide.Destination
	target    *target // nil: inbound or passthrough
	ep        int     // index of the endpoint in target
	counted   bool    // target.balance counts this request
	hash      uint64  // of what binds the request to an endpoint, if hashed
	hashed    bool
	cookie    bool  // the client gets a cookie for it
	host      *host // the endpoint, if outlier detection watches it
	ticket    ticket
	retries   *shared // counts a retry of this request as under way
	pool      *pool
	local     netip.AddrPort // our end of the upstream connection; only with an access log
	cluster   string         // its name in Envoy's form, for the access log
	timeout   int64
	connect   int64
	handle    *metrics.Requests
	perRule   *metrics.Route // nil: no rule decided

	// HTTP/2, on either leg.
	bridged    bool          // convey sent it: content goes by the pipes
	tunnels    bool          // extended CONNECT (RFC 8441)
	raw        bool          // a tunnel: what the upstream says is passed on as it is
	queued     bool          // in the loop's queue of put-off work
	pulling    bool          // within pullResponse
	tail       bool          // the end of an answer of our own has yet to be framed
	clocked    bool          // startClocks was called for the whole request
	us         *http2.Stream // the upstream's
	req, res   pipe
	section    []byte // pooled: an answer's trailer section, as far as it has come
	kept       kept   // the request's head, if it waits or may be sent again
	grpc       bool
	grpcStatus int      // of the answer; -1: none came
	deadline   int64    // how long the caller waits (grpc-timeout); 0: for ever
	id         [36]byte // the request ID that we made
	named      bool     // id is set

	// Progress.
	transmitted bool // the head was sent upstream
	unsent      bool // the kernel took nothing of it
	reqBody     http1.Body
	reqDone     bool
	resFraming  http1.Framing
	resBody     http1.Body
	resStarted  bool // a byte of a response has come
	headSent    bool // the final head was sent downstream
	resDone     bool
	chunk       bool // we frame a close-delimited body in chunks
	unchunk     bool // we take the chunks off for an HTTP/1.0 client
	retried     bool // was sent again on a fresh connection

	// replay holds what was sent upstream on a reused connection, for as long
	// as it may have to be sent again.
	replay     []byte
	replayable bool

	rivals *rival // tries that go on beside the present one; nil: none
	hedged bool   // there was one

	retry retrying
	shape shape

	// The outcome.
	status   int
	flag     telemetry.Flag
	cause    string
	details  string
	reqExtra int64 // body bytes of the request that were counted outside reqBody
	resExtra int64 // body bytes of a local reply
	line     logLine
	tapped   *tapped // somebody watches
	trace    traced
}

// tooLargeToRepeat bounds what is kept of a request, head and body, for another
// attempt.
const tooLargeToRepeat = 64 << 10

// remember keeps sent bytes for a second attempt.
func (x *exchange) remember(w *worker, p []byte) {
	if !x.replayable || len(p) == 0 {
		return
	}
	if len(x.replay)+len(p) > tooLargeToRepeat {
		x.forget(w)
		return
	}
	if x.replay == nil {
		x.replay = w.buffers.get(len(p))
	}
	x.replay = w.buffers.append(x.replay, p)
}

// forget gives up the second attempt.
func (x *exchange) forget(w *worker) {
	x.replayable = false
	if x.replay != nil {
		w.buffers.put(x.replay[:0])
		x.replay = nil
	}
}

// release takes the request out of its endpoint's count.
func (x *exchange) release() {
	x.ticket.leave()
	if x.counted {
		x.counted = false
		x.target.balance.Done(x.ep)
	}
}

func idempotent(method []byte) bool {
	switch string(method) {
	case "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE":
		return true
	}
	return false
}

// call is what the choice of the upstream's HTTP version looks at.
func (x *exchange) call() decide.Call {
	return decide.Call{HTTP2: x.h1 == nil && !x.caller.carried(), GRPC: x.grpc, Upgrade: x.framing.Upgrade}
}

// carried reports whether the caller's streams are exchanges of HTTP/1.1.
func (c *caller) carried() bool {
	return c.in != nil && c.sock.session != nil && c.sock.session.ALPN() == mtls.ALPNShared
}

// wide reports whether a request to an address that no service is known of goes
// over HTTP/2: as it came.
func (x *exchange) wide() bool { return x.h1 == nil && !x.connects }
