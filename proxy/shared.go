//go:build linux

package proxy

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seinemesh/seine/decide"
	"github.com/seinemesh/seine/decide/outlier"
	"github.com/seinemesh/seine/proxy/breaker"
	"github.com/seinemesh/seine/telemetry"
	"github.com/seinemesh/seine/telemetry/metrics"
)

// errFull: the cluster has all the connections that its DestinationRule allows.
var errFull = errors.New("connectionPool.tcp.maxConnections is met")

// bound is one of the numbers that a DestinationRule's connectionPool bounds.
type bound uint8

const (
	boundConnections bound = iota
	boundPending
	boundRequests
	boundRetries
	bounds
)

var boundFields = [bounds]string{"tcp.maxConnections", "http.http1MaxPendingRequests", "http.http2MaxRequests", "http.maxRetries"}

// shared is what all loops of the process share of one cluster (host, subset
// and port) that a DestinationRule bounds or watches: one atomic word for each
// number that a user wrote. It outlives changes of the table, so that counts
// and ejections do.
type shared struct {
	p    *Proxy
	name string // Envoy's name of the cluster

	conns    breaker.Count // open or being opened
	pending  breaker.Count // requests that wait for a connection
	requests breaker.Count // requests with a connection, where they are bounded
	retries  breaker.Count // retries under way
	waiting  breaker.Count // requests in the loops' queues: those of pending that wait for room

	limits  atomic.Pointer[decide.Limits]       // never nil
	outlier atomic.Pointer[outlier.Settings]    // nil: nobody is ejected
	ejected atomic.Pointer[map[string]struct{}] // by endpointKey; nil: none is out
	causes  atomic.Pointer[[bounds]string]      // what a client is told at each bound
	cells   []cell                              // by loop
	refused [bounds]*metrics.Counter            // requests and connections, by bound

	mu       sync.Mutex // never held on a request's path
	detector *outlier.Detector
	cluster  *decide.Cluster // as it was last
	sweep    time.Time       // the next one; zero: none
}

// cell is what other loops need to know of one loop's part.
type cell struct {
	_      [64]byte
	idle   atomic.Int64 // idle connections
	oldest atomic.Int64 // since when its first queued request waits (Unix time, ns); 0: nobody waits
	_      [48]byte
}

// host is one endpoint as outlier detection sees it.
type host struct {
	sh      *shared
	key     string
	counter *outlier.Counter
	met     outlier.Causes // the bounds that the last outcome met; the loop's, for the span
}

// shares finds the shared part of a cluster by its name.
type shares struct {
	mu sync.Mutex
	by map[string]*shared
}

// shared is the shared part of a cluster; nil if there is nothing to share.
func (p *Proxy) shared(c *decide.Cluster) *shared {
	p.shares.mu.Lock()
	defer p.shares.mu.Unlock()
	name := clusterName(c)
	sh := p.shares.by[name]
	if sh != nil || !c.Limited() {
		return sh
	}
	sh = &shared{p: p, name: name, cells: make([]cell, p.o.Loops)}
	for i, field := range boundFields {
		sh.refused[i] = p.registry.Counter("seine_circuit_breaker_refused_total",
			"Requests and connections refused at a bound of a DestinationRule's connectionPool.", "cluster", name, "limit", field)
	}
	gauge := func(what, help string, c *breaker.Count) {
		p.registry.GaugeFunc("seine_upstream_"+what, help, func() float64 { return float64(c.Value()) }, "cluster", name)
	}
	gauge("connections", "Connections to a cluster that are open or being opened.", &sh.conns)
	gauge("pending_requests", "Requests that wait for a connection to a cluster.", &sh.pending)
	gauge("active_requests", "Requests under way to a cluster, where a DestinationRule bounds them.", &sh.requests)
	gauge("active_retries", "Retries under way to a cluster.", &sh.retries)
	sh.update(c, time.Now())
	if p.shares.by == nil {
		p.shares.by = map[string]*shared{}
	}
	p.shares.by[name] = sh
	return sh
}

func (p *Proxy) allShared() []*shared {
	p.shares.mu.Lock()
	defer p.shares.mu.Unlock()
	out := make([]*shared, 0, len(p.shares.by))
	for _, sh := range p.shares.by {
		out = append(out, sh)
	}
	return out
}

// update takes what holds for the cluster from now on.
func (sh *shared) update(c *decide.Cluster, now time.Time) (events []outlier.Event) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.cluster == c {
		return nil
	}
	sh.cluster = c
	rule := "a DestinationRule"
	if r := c.Service.Proto.Source; r != nil {
		rule = fmt.Sprintf("%s %s/%s", r.Kind, r.Namespace, r.Name)
	}
	l := c.Limits
	var causes [bounds]string
	for i, n := range [bounds]uint32{l.MaxConnections, l.MaxPending, l.MaxRequests, l.MaxRetries} {
		causes[i] = fmt.Sprintf("circuit breaker: connectionPool.%s (%d) of %s is met for %s", boundFields[i], n, rule, c.Service.Proto.Host)
	}
	if b := l.Budget; b != nil {
		causes[boundRetries] = fmt.Sprintf("circuit breaker: retryBudget (%g %% of the requests, at least %d) of %s is met for %s", b.Percent, b.Least, rule, c.Service.Proto.Host)
	}
	sh.causes.Store(&causes)
	sh.limits.Store(l)
	switch {
	case c.Outlier == nil && sh.detector != nil:
		events = sh.detector.Clear(now)
		sh.detector, sh.sweep = nil, time.Time{}
	case c.Outlier != nil:
		if sh.detector == nil {
			sh.detector = outlier.New(c.Outlier)
			sh.watch()
		}
		sh.detector.Set(c.Outlier)
		keys := make([]string, len(c.Endpoints))
		for i, e := range c.Endpoints {
			keys[i] = endpointKey(e)
		}
		events = sh.detector.Endpoints(keys, now)
		if due := now.Add(c.Outlier.Interval); sh.sweep.IsZero() || due.Before(sh.sweep) {
			sh.sweep = due
		}
	}
	sh.publish()
	sh.outlier.Store(c.Outlier)
	return events
}

// watch registers the metrics of outlier detection; sh.mu is held.
func (sh *shared) watch() {
	sh.p.registry.GaugeFunc("seine_outlier_ejections_active", "Endpoints of a cluster that are ejected at present.", func() float64 {
		if out := sh.ejected.Load(); out != nil {
			return float64(len(*out))
		}
		return 0
	}, "cluster", sh.name)
	sh.p.registry.GaugesFunc(telemetry.OutlierEjectedUntil, "Unix time when an endpoint that is ejected at present returns, at the earliest.", sh.p.ejections)
}

// publish shows every loop who is out; sh.mu is held.
func (sh *shared) publish() {
	var out map[string]struct{}
	if sh.detector != nil {
		out = sh.detector.Out()
	}
	if out == nil {
		if sh.ejected.Load() != nil {
			sh.ejected.Store(nil)
		}
		return
	}
	sh.ejected.Store(&out)
}

// host is the endpoint's, nil without outlier detection.
func (sh *shared) host(e *decide.Endpoint, s *outlier.Settings) *host {
	if sh == nil || e == nil || s == nil {
		return nil
	}
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.detector == nil {
		sh.detector = outlier.New(s)
		sh.watch()
	}
	key := endpointKey(e)
	return &host{sh: sh, key: key, counter: sh.detector.Counter(key)}
}

// endpointKey is what tells endpoints apart for outlier detection: the
// address, so that a workload that comes back at another one starts anew.
func endpointKey(e *decide.Endpoint) string {
	return net.JoinHostPort(e.Proto.Address, strconv.Itoa(int(e.Port)))
}

// status takes the status of the endpoint's answer.
func (h *host) status(code int) {
	if h == nil {
		return
	}
	if s := h.sh.outlier.Load(); s != nil {
		if met := h.counter.Status(s, code); met != 0 {
			h.met = met
			h.sh.p.warden.tell(h, met)
		}
	}
}

// failed takes a failure without an answer: the status is what the client
// gets (503, or 504 for one that took too long).
func (h *host) failed(status int) {
	if h == nil {
		return
	}
	if s := h.sh.outlier.Load(); s != nil {
		if met := h.counter.Failed(s, status); met != 0 {
			h.met = met
			h.sh.p.warden.tell(h, met)
		}
	}
}

// connected takes a connection that an attempt has got.
func (h *host) connected() {
	if h == nil {
		return
	}
	if s := h.sh.outlier.Load(); s != nil {
		h.counter.Connected(s)
	}
}

// streamed takes the connection of an opaque stream: all that is ever known
// of the endpoint's side.
func (h *host) streamed() {
	if h == nil {
		return
	}
	if s := h.sh.outlier.Load(); s != nil && s.SplitLocal {
		h.counter.Connected(s)
	} else if s != nil {
		h.status(200)
	}
}

// eject tells the balancer of a change of who is out.
func (t *target) eject(now int64) {
	if t.sh == nil {
		return
	}
	out := t.sh.ejected.Load()
	if out == t.seen {
		return
	}
	t.seen = out
	for i, e := range t.cluster.Endpoints {
		is := false
		if out != nil {
			_, is = (*out)[endpointKey(e)]
		}
		t.balance.SetOut(i, is, now)
	}
}
