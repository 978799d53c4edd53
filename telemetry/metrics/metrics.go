// Package metrics counts what a proxy does and writes it in the Prometheus
// text format, under Istio's names, labels and buckets.
//
// What enters: outcomes of requests and connections, each event loop through a
// Shard of its own. What leaves: a text exposition that merges the shards. It
// never locks, allocates or formats on a request's path, and it never starts a
// goroutine: labels are resolved once to a handle, the handle's counters are
// atomic words of one writer, and everything else happens at the scrape.
package metrics

import (
	"sync"
	"sync/atomic"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/telemetry"
)

// defaultMaxSeries is the bound of label sets where Options names none.
const defaultMaxSeries = 2000

// Options of New. The zero value is usable.
type Options struct {
	// Component and Version are the labels of istio_build.
	Component, Version string
	// MaxSeries bounds the label sets of requests and connections; those
	// over it are counted in an overflow series. 2000 if zero.
	MaxSeries int
}

// Registry holds all metrics of a process.
type Registry struct {
	component, version string
	maxSeries          int
	foldedLabels       *Counter
	foldedOutcomes     *Counter
	gone               *Counter

	native atomic.Bool // a scrape has asked for native histograms: see Requests.wide

	sweeps   atomic.Uint64 // that expired something
	mu       sync.Mutex    // held on first use of a label set, by a scrape and by Sweep
	requests []*labelSet[Requests]
	tcp      []*labelSet[TCP]
	routes   []*labelSet[Route]
	byKey    map[string]*labelSet[Requests]
	tcpByKey map[string]*labelSet[TCP]
	families []*family

	routeByKey map[string]*labelSet[Route]
}

// counter is a word that one loop adds to and a scrape reads.
type counter = atomic.Uint64

// labelSet is one set of labels and its handle in each shard that uses it.
type labelSet[H any] struct {
	labels  string // rendered, without those of the outcome
	handles []*H
}

// New returns an empty registry.
func New(o Options) *Registry {
	r := &Registry{
		component: o.Component,
		version:   o.Version,
		maxSeries: o.MaxSeries,
		byKey:     map[string]*labelSet[Requests]{},
		tcpByKey:  map[string]*labelSet[TCP]{},

		routeByKey: map[string]*labelSet[Route]{},
	}
	if r.maxSeries <= 0 {
		r.maxSeries = defaultMaxSeries
	}
	const help = "Label sets and outcomes that were counted in an overflow series because a bound was met."
	r.foldedLabels = r.Counter(telemetry.MetricsOverflow, help, "kind", "labels")
	r.foldedOutcomes = r.Counter(telemetry.MetricsOverflow, help, "kind", "outcomes")
	r.gone = r.Counter(telemetry.MetricsExpired, "Label sets that went because nobody used them; one that is used again begins at zero.")
	return r
}

// Shard returns a new shard, to be used by one goroutine at a time (one loop).
func (r *Registry) Shard() *Shard {
	return &Shard{
		registry: r,
		requests: map[string]*Requests{},
		tcp:      map[string]*TCP{},
		routes:   map[string]*Route{},
	}
}

// Shard is one loop's part of the metrics.
type Shard struct {
	registry *Registry
	requests map[string]*Requests
	tcp      map[string]*TCP
	routes   map[string]*Route
	swept    uint64 // Registry.sweeps, when the maps were last looked through
	scratch  []byte
}

// Requests returns the handle of one label set. It allocates on first use of
// the set: call it when a connection or a route is resolved, keep the pointer.
func (s *Shard) Requests(l *telemetry.RequestLabels) *Requests {
	s.scratch = appendLabels(s.scratch[:0], l)
	if h := s.requests[string(s.scratch)]; h != nil {
		return h
	}
	s.forget()
	r := s.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	set, folded := r.requestSet(string(s.scratch), l)
	if folded {
		if h := s.requests[set.labels]; h != nil && h.state.Load() != expired {
			return h
		}
	}
	h := &Requests{registry: r, labels: string(s.scratch), few: few{l.Reporter, l.Protocol, l.Security}}
	if folded {
		h.labels = set.labels
	}
	set.handles = append(set.handles, h)
	s.requests[set.labels] = h
	return h
}

// TCP returns the handle of one label set for opaque connections.
func (s *Shard) TCP(l *telemetry.RequestLabels) *TCP {
	s.scratch = appendLabels(s.scratch[:0], l)
	if h := s.tcp[string(s.scratch)]; h != nil {
		return h
	}
	s.forget()
	r := s.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	set, folded := r.tcpSet(string(s.scratch), l)
	if folded {
		if h := s.tcp[set.labels]; h != nil && h.state.Load() != expired {
			return h
		}
	}
	h := &TCP{registry: r, labels: string(s.scratch), few: few{l.Reporter, l.Protocol, l.Security}}
	if folded {
		h.labels = set.labels
	}
	set.handles = append(set.handles, h)
	s.tcp[set.labels] = h
	return h
}

// requestSet finds or makes the set of labels, or the overflow set if there are
// too many. r.mu is held.
func (r *Registry) requestSet(labels string, l *telemetry.RequestLabels) (set *labelSet[Requests], folded bool) {
	if set = r.byKey[labels]; set == nil && len(r.requests)+len(r.tcp) >= r.maxSeries {
		r.foldedLabels.Inc()
		labels, folded = string(appendLabels(nil, overflow(l))), true
		set = r.byKey[labels]
	}
	if set == nil {
		set = &labelSet[Requests]{labels: labels}
		r.requests = append(r.requests, set)
		r.byKey[labels] = set
	}
	return set, folded
}

// tcpSet is requestSet for connections.
func (r *Registry) tcpSet(labels string, l *telemetry.RequestLabels) (set *labelSet[TCP], folded bool) {
	if set = r.tcpByKey[labels]; set == nil && len(r.requests)+len(r.tcp) >= r.maxSeries {
		r.foldedLabels.Inc()
		labels, folded = string(appendLabels(nil, overflow(l))), true
		set = r.tcpByKey[labels]
	}
	if set == nil {
		set = &labelSet[TCP]{labels: labels}
		r.tcp = append(r.tcp, set)
		r.tcpByKey[labels] = set
	}
	return set, folded
}

// overflow returns the labels that stand for all sets over the bound: only
// what has few values is kept, so that there are few such series.
func overflow(l *telemetry.RequestLabels) *telemetry.RequestLabels {
	const name = "overflow"
	w := &seinev1.Workload{
		Namespace: name, Workload: name, CanonicalService: name,
		CanonicalRevision: name, App: name, Version: name, Cluster: name,
	}
	return &telemetry.RequestLabels{
		Reporter: l.Reporter, Protocol: l.Protocol, Security: l.Security,
		Source: w, Destination: w,
		Service: name, ServiceName: name, ServiceNamespace: name,
	}
}

// maxOutcomes bounds the exact response codes of one handle; an upstream that
// invents more has them counted by class ("5xx").
const maxOutcomes = 48

// Requests counts the HTTP requests of one label set. One writer.
type Requests struct {
	state    atomic.Uint32               // see expire.go
	last     *outcome                    // the writer's: the most recent one
	wide     atomic.Pointer[exponential] // the writer's, once somebody reads native histograms
	tail     *outcome
	first    atomic.Pointer[outcome] // oldest first; only ever appended to, until it expires
	n        int
	registry *Registry
	labels   string
	few      few
}

// outcome counts the requests that ended alike. Requests are not counted by
// themselves: every request is in exactly one bucket.
type outcome struct {
	next                         atomic.Pointer[outcome]
	key                          uint32 // code<<16 | grpc<<8 | flag
	durationSum, reqSum, respSum counter
	duration                     [durationBuckets]counter
	request, response            [sizeBuckets]counter
	traced                       atomic.Pointer[exemplars] // nil: none of them was traced
}

// Values of the middle byte of an outcome's key.
const (
	notGRPC   = 0
	grpcOther = 255 // a status outside 0..16
)

// Classes of codes, outside what a status line can hold.
const codeClass = 1000

// Observe counts one finished request. code is the status sent downstream, 0
// if none was; durations are microseconds, sizes bytes of bodies.
func (h *Requests) Observe(code int, flag telemetry.Flag, durationMicros, reqBytes, respBytes int64) {
	h.observe(status(code)|uint32(flag), durationMicros, reqBytes, respBytes)
}

// ObserveGRPC is Observe for a gRPC request that ended with a grpc-status.
func (h *Requests) ObserveGRPC(code, grpcStatus int, flag telemetry.Flag, durationMicros, reqBytes, respBytes int64) {
	grpc := uint32(grpcOther)
	if grpcStatus >= 0 && grpcStatus <= 16 {
		grpc = uint32(grpcStatus) + 1
	}
	h.observe(status(code)|grpc<<8|uint32(flag), durationMicros, reqBytes, respBytes)
}

// status is a code's part of a key; what is no code is 0.
func status(code int) uint32 {
	if code < 0 || code > 999 {
		return 0
	}
	return uint32(code) << 16
}

func (h *Requests) observe(key uint32, micros, reqBytes, respBytes int64) {
	if !counting {
		return
	}
	if h.state.Load() != fresh {
		h.touch()
	}
	o := h.last
	if o == nil || o.key != key {
		o = h.find(key)
		h.last = o
	}
	micros, reqBytes, respBytes = max(micros, 0), max(reqBytes, 0), max(respBytes, 0)
	e := h.wide.Load()
	if e == nil && h.registry.native.Load() {
		e = h.widen()
	}
	o.duration[durationBucket(micros)].Add(1)
	o.durationSum.Add(uint64(micros))
	if e != nil {
		e.add(micros)
	}
	o.request[sizeBucket(reqBytes)].Add(1)
	if reqBytes != 0 { // most requests have no body; an addition is a locked instruction
		o.reqSum.Add(uint64(reqBytes))
	}
	o.response[sizeBucket(respBytes)].Add(1)
	o.respSum.Add(uint64(respBytes))
}

func (h *Requests) find(key uint32) *outcome {
	if o := h.lookup(key); o != nil {
		return o
	}
	if h.n >= maxOutcomes {
		h.registry.foldedOutcomes.Inc()
		class := key >> 16 / 100
		if class < 1 || class > 5 {
			class = 0
		}
		key = (codeClass+class)<<16 | key&0xffff
		if o := h.lookup(key); o != nil {
			return o
		}
	}
	o := &outcome{key: key}
	if h.tail == nil {
		h.first.Store(o)
	} else {
		h.tail.next.Store(o)
	}
	h.tail = o
	h.n++
	return o
}

func (h *Requests) lookup(key uint32) *outcome {
	for o := h.first.Load(); o != nil; o = o.next.Load() {
		if o.key == key {
			return o
		}
	}
	return nil
}

// TCP counts the connections of one label set. One writer.
type TCP struct {
	state                  atomic.Uint32 // see expire.go
	opened, sent, received counter
	closed                 [telemetry.NumFlags]counter
	registry               *Registry
	labels                 string
	few                    few
}

// Opened counts a connection that was opened.
func (t *TCP) Opened() {
	t.use()
	t.opened.Add(1)
}

// Closed counts a connection that was closed, and why.
func (t *TCP) Closed(flag telemetry.Flag) {
	if flag >= telemetry.NumFlags {
		flag = telemetry.FlagNone
	}
	t.use()
	t.closed[flag].Add(1)
}

// Sent counts bytes sent downstream (to the client), as Istio does.
func (t *TCP) Sent(n int64) {
	if n > 0 {
		t.use()
		t.sent.Add(uint64(n))
	}
}

// Received counts bytes received from downstream.
func (t *TCP) Received(n int64) {
	if n > 0 {
		t.use()
		t.received.Add(uint64(n))
	}
}
