//go:build linux

package proxy

import (
	"encoding/binary"
	"math/rand/v2"
	"sync/atomic"
	"unsafe"

	"github.com/seinemesh/seine/decide"
	"github.com/seinemesh/seine/message"
	"github.com/seinemesh/seine/mtls"
	"github.com/seinemesh/seine/proxy/http1"
	"github.com/seinemesh/seine/proxy/http2"
	"github.com/seinemesh/seine/proxy/loop"
	"github.com/seinemesh/seine/proxy/tap"
	"github.com/seinemesh/seine/telemetry/accesslog"
	"github.com/seinemesh/seine/telemetry/metrics"
	"github.com/seinemesh/seine/telemetry/span"
)

const scratchSize = 64 << 10

// worker is one loop's world: every connection, pool, timer, counter shard and
// scratch buffer here belongs to that loop alone.
type worker struct {
	p     *Proxy
	index int // among the proxy's workers
	loop  *loop.Loop
	shard *metrics.Shard
	rules map[*decide.Rule]*metrics.Route // of the table
	ring  *accesslog.Ring
	rng   *rand.PCG

	// Scratch memory, valid within one turn of one socket (see socket).
	plain        []byte
	cipher       []byte
	out          []byte // heads to send
	borrower     *socket
	cipherHolder *socket
	buffers      buffers
	pipes        pipes

	question decide.Ask

	req      message.Request
	res      message.Response
	edit     http1.Edit
	text     []byte // rewritten path and authority
	text2    []byte
	text3    []byte // x-forwarded-for
	name     []byte // lookup names
	ids      [64]byte
	count    []byte          // the number of a try
	expected []byte          // how long it may take, in ms
	quota    []byte          // a rate limit's fields
	extra    []message.Field // of an answer of our own

	// enforced is the Self whose inbound policy the open connections satisfy.
	enforced *decide.Self
	table    *decide.Table
	targets  map[*decide.Cluster]*target
	pools    map[poolKey]*pool
	dialling map[*upstream]struct{} // not up yet
	lanes    map[*shared]*lane
	queued   int // requests in the lanes' queues
	sweepAt  int // when pools without a connection are looked for
	// parked are the machines that wait for an answer of the control plane.
	parked    map[parker]struct{}
	conns     map[*downstream]struct{}
	relays    map[*relay]struct{}
	arrivals  map[*arrival]struct{}
	crowd     crowd // of the arrivals
	weighing  loop.Timer
	draining  bool
	sockets   int
	inflight  atomic.Int64 // requests and opaque connections under way
	upstreams atomic.Int64 // connections that this loop opened
	wake      func(*mtls.Session)
	opening   []*socket // handshakes of ours that wait for their first turn
	shaking   []*socket // others that wait for theirs
	shakes    uint32    // turns of handshakes
	shookAt   uint64    // the turn of the last one
	shakeDue  bool      // the next one is among what the loop put off
	preambles []byte    // what a client sends first on a seine-* connection
	passed    *metrics.Requests
	entry     accesslog.Entry
	shown     tap.Event
	record    []byte     // of a tap
	untapped  *tapped    // unused ones
	tracer    *tracer    // nil: nothing is traced
	spans     *span.Ring // the tracer's, which outlives it
	names     map[string]*resolution
	// Copies of requests for mirrors.
	copies  map[*shadow]struct{} // under way
	copying *copying             // unused ones
	shadow  *shadow
	guarded struct { // the guard, as of self
		self *decide.Self
		by   *guard
	}
	limited struct { // the limiters of the workload's ports, as of self
		self *decide.Self
		by   map[uint16][]*limiter
	}

	// HTTP/2.
	bundles  map[*bundle]struct{}
	frames   http2.Scratch
	event    http2.Event
	feeding  bool // a link's bytes are being taken: nobody else may read
	edit2    http2.Edit
	fields   []message.Field // of heads that were kept
	crumbs   []byte          // a cookie that was cut
	links    []*link         // to be written at the end of the turn
	lent     []*pipe         // whose sinks have yet to frame what lies in scratch memory
	heads    []*pipe         // whose heads wait for content until the end of the turn
	finished []*stream       // exchanges that ended in this turn
	unused   *stream
}

// parker is a machine that waits for an answer.
type parker interface{ answered() }

func newWorker(p *Proxy, seed1, seed2 uint64) (*worker, error) {
	l, err := loop.New()
	if err != nil {
		return nil, err
	}
	w := &worker{
		p: p, index: len(p.workers), loop: l, shard: p.registry.Shard(), rules: map[*decide.Rule]*metrics.Route{}, ring: p.o.AccessLog.Ring(),
		rng:     rand.NewPCG(seed1, seed2),
		plain:   make([]byte, scratchSize),
		cipher:  make([]byte, scratchSize),
		out:     make([]byte, 0, scratchSize),
		targets: map[*decide.Cluster]*target{}, pools: map[poolKey]*pool{}, dialling: map[*upstream]struct{}{}, lanes: map[*shared]*lane{},
		parked: map[parker]struct{}{}, conns: map[*downstream]struct{}{}, relays: map[*relay]struct{}{}, arrivals: map[*arrival]struct{}{},
		names: map[string]*resolution{}, bundles: map[*bundle]struct{}{}, copies: map[*shadow]struct{}{},
	}
	w.pipes.off = p.o.NoSplice
	w.crowd.most = max(1, p.o.MaxHalfOpen/p.o.Loops)
	w.weighing.Fire = w.weigh
	l.AtEnd(w.flush)
	w.retrace()
	w.wake = func(s *mtls.Session) {
		l.Post(func() {
			if k, ok := s.Tag.(*socket); ok {
				k.woken(s)
			}
		})
	}
	return w, nil
}

// lend gives the plaintext scratch to s; whoever had data there moves it away.
func (w *worker) lend(s *socket) {
	if w.borrower != nil && w.borrower != s {
		w.borrower.settle()
	}
	w.borrower = s
}

// lendCipher gives the ciphertext scratch to s (nil: only for the moment).
func (w *worker) lendCipher(s *socket) []byte {
	if h := w.cipherHolder; h != nil && h != s {
		h.session.Hold()
	}
	w.cipherHolder = s
	return w.cipher
}

// current is the table of this moment. A new one drops what was derived from
// the clusters that are gone.
func (w *worker) current() *decide.Table {
	t := w.p.tables.Table()
	if t == w.table {
		return t
	}
	w.table = t
	w.retarget(t)
	clear(w.rules)
	return t
}

// published runs when the control plane has sent something: what waited for it
// looks again.
func (w *worker) published() {
	w.retrace()
	if s := w.current().Self; s != w.enforced {
		w.enforced = s
		w.enforce(s)
	}
	if len(w.parked) == 0 {
		return
	}
	waiting := w.parked
	w.parked = map[parker]struct{}{}
	for m := range waiting {
		m.answered()
	}
}

const hexDigits = "0123456789abcdef"

// requestID writes a random UUID (version 4) into the worker's memory.
func (w *worker) requestID() []byte {
	var raw [16]byte
	binary.LittleEndian.PutUint64(raw[:8], w.rng.Uint64())
	binary.LittleEndian.PutUint64(raw[8:], w.rng.Uint64())
	raw[6] = raw[6]&0x0f | 0x40
	raw[8] = raw[8]&0x3f | 0x80
	b := w.ids[:0]
	for i, c := range raw {
		if i == 4 || i == 6 || i == 8 || i == 10 {
			b = append(b, '-')
		}
		b = append(b, hexDigits[c>>4], hexDigits[c&15])
	}
	return b
}

// bytesOf is s as bytes that are only read.
func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }
