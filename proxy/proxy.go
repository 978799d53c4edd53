//go:build linux

// Package proxy is the data plane beside one workload: it takes the
// connections that the workload makes and those that are made to it, and
// carries each request or stream to where the mesh's configuration says,
// encrypted and measured.
//
// What enters: accepted connections (redirected, sent to it as a proxy, or of
// published ports), the table of proxy/control, certificates of mtls.
// What leaves: connections to endpoints and to the local application, metrics,
// access log entries.
//
// Each event loop owns its connections, pools, timers and counters; a request
// runs to completion on the loop that accepted its connection. Nothing on a
// request's path locks, allocates in the steady state or waits. What may wait
// (names, files, the host dialer) runs in goroutines of its own and comes
// back through the loop's mailbox.
//
// What it must never do: send to a destination that the control plane has not
// answered for, send plaintext where the table says mutual TLS, let a request
// that breaks HTTP's grammar through, or grow with what a peer sends.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seinemesh/seine/decide"
	"github.com/seinemesh/seine/mtls"
	"github.com/seinemesh/seine/proxy/capture"
	"github.com/seinemesh/seine/proxy/control"
	"github.com/seinemesh/seine/proxy/http1"
	"github.com/seinemesh/seine/proxy/loop"
	"github.com/seinemesh/seine/proxy/tap"
	"github.com/seinemesh/seine/telemetry/accesslog"
	"github.com/seinemesh/seine/telemetry/metrics"
)

// Tables is where the proxy's knowledge comes from: control.Client, or a fixed
// table in tests. The methods mean what they mean there.
type Tables interface {
	Table() *decide.Table
	Want(name string) bool
	Use(name string) *control.Use
	Notify(func(*decide.Table))
	Connected() (bool, time.Time)
}

// Options say what a proxy serves and how. Zero durations mean the defaults.
type Options struct {
	Loops int // event loops; 0: 2
	// Redirected listeners: the original destination is asked of the kernel.
	Outbound, Inbound netip.AddrPort
	// Explicit is an HTTP proxy port.
	Explicit netip.AddrPort
	// Forwards are inbound listeners with a fixed application address.
	Forwards []Forward
	// Published are inherited listeners whose connections are calls to a service.
	Published []Published
	// Divert, if not nil, is shown every redirected connection before anything
	// is read from it, on a loop: it must not wait. Where it returns true, the
	// descriptor is its own from then on.
	Divert func(fd int, dialled netip.AddrPort, inbound bool) bool
	// Mark is set on every upstream socket (SO_MARK); 0: none.
	Mark int
	// NoSplice copies the bytes of opaque connections through the process even
	// where the kernel could pass them on by itself.
	NoSplice bool
	// HostDialer is the unix socket that makes connections out of the mesh; "": none.
	HostDialer string
	// Credentials is the folder with the Secrets that TLS is begun with, a folder
	// for each.
	Credentials string

	AnswerWait     time.Duration // for the control plane to answer a new name; 2 s
	HeadTimeout    time.Duration // for a whole head, and for a connection to say what it is; 10 s
	TLSWait        time.Duration // for a client to begin TLS where it need not; 1 s
	DownstreamIdle time.Duration // between requests of a client; 10 min
	UpstreamIdle   time.Duration // in a pool; 90 s
	StreamIdle     time.Duration // within an exchange; 5 min
	TCPIdle        time.Duration // of an opaque connection; 1 h
	AppConnect     time.Duration // to the local application; 10 s
	MaxHead        int           // bytes of a request's head; 64 KiB
	// MaxConnections bounds the accepted ones; 0: as many as half of the descriptors
	// allow (each needs one upstream), 65,536 at most.
	MaxConnections int
	// MaxHalfOpen bounds those that have not said what they are, handshake included; 4,096.
	MaxHalfOpen int
	// MaxBuffers bounds what connections hold in buffers, in bytes; 256 MiB.
	MaxBuffers int64
	Pulse      time.Duration // silence after which an HTTP/2 connection with streams is asked by PING; 30 s

	Factory   *mtls.Factory
	Registry  *metrics.Registry
	AccessLog *accesslog.Writer // nil: none
	Taps      *tap.Reporter     // nil: nobody ever watches
	Log       *slog.Logger
	Resolver  Resolver // nil: net.DefaultResolver

	carry int // see carryFrom; zero: that
}

// Forward is a listener of the workload's own port where nothing is
// redirected: connections to Listen go to App, under Listen's port's policy.
type Forward struct {
	Listen, App netip.AddrPort
	Port        uint16 // the workload's port whose policy holds; 0: Listen's
}

// Published is a listening descriptor whose connections are routed as calls to
// Host:Port.
type Published struct {
	FD   int
	Host string
	Port uint16
}

// Bounds that are not the user's to set.
const (
	maxParked   = 4096                 // requests that wait for the control plane, for each loop
	maxIdle     = 4096                 // idle connections to one endpoint, for each loop
	turnBudget  = 64 << 10             // bytes that a connection moves before others have their turn
	recordSize  = 16 << 10             // head and body up to here share a TLS record
	copyBelow   = 4 << 10              // a body up to here is copied behind its head instead of writev
	lingerBytes = 1 << 20              // thrown away of a client that goes on after its last answer
	lingerTime  = 2 * time.Second      // and for how long
	closeTime   = 30 * time.Second     // for a client to take its last answer
	maxFields   = 100                  // field lines of a head
	maxLine     = 16 << 10             // bytes of a request line
	addedFields = 32                   // what another sidecar and its rules may have added to a head
	addedHead   = 8 << 10              // and in bytes
	graceTime   = 5 * time.Millisecond // before a silent client's destination is dialled
	goneTime    = time.Second          // for a connection under way to an endpoint that is gone
)

// doorKind is how a listener's connections are understood.
type doorKind uint8

const (
	doorOutbound doorKind = iota
	doorInbound
	doorExplicit
	doorFixed     // inbound with a fixed application address
	doorPublished // a port that is a call to one service
)

// door is a listener.
type door struct {
	kind   doorKind
	at     netip.AddrPort
	target netip.AddrPort // doorFixed: the application
	host   string         // doorPublished
	port   uint16         // doorPublished: of the service; doorFixed: of the workload
	limits http1.Limits
	fd     int
	inner  bool // of the proxy itself: what goes through is not measured
}

// Proxy is one data plane. Make it with New, run it with Run.
type Proxy struct {
	o        Options
	tables   Tables
	factory  *mtls.Factory
	registry *metrics.Registry
	log      *slog.Logger
	counters counters
	retries  retryCounters
	hedges   hedgeCounters
	shapes   shapeCounters
	limiters limiters
	copies   copyCounters
	budgets  budgets
	shares   shares
	warden   *warden
	tracing  *tracing
	workers  []*worker
	doors    []*door
	ports    map[uint16]bool // our own listeners' ports
	draining atomic.Bool
	// original is capture.OriginalDst; tests, where nothing redirects, bring
	// their own.
	original func(fd int) (netip.AddrPort, error)
}

// counters are process-wide; none of them is on the path of a request that
// goes well.
type counters struct {
	selfCalls, refusedPlaintext, failedHandshakes, badPreambles, unanswered, unroutedTCP *metrics.Counter
	badRequests, badResponses, repeated, acceptFailures, overConnections, overParked     *metrics.Counter
	badIntroductions, redialled, slowConnections                                         *metrics.Counter
	shedHalfOpen, shedIdle, shedBuffers, deadPeers                                       *metrics.Counter
}

// New returns a proxy that listens (its ports are open when New returns) and
// serves nothing yet.
func New(o Options, tables Tables) (*Proxy, error) {
	o.defaults()
	p := &Proxy{o: o, tables: tables, factory: o.Factory, registry: o.Registry, log: o.Log, ports: map[uint16]bool{}, original: capture.OriginalDst}
	p.warden = newWarden(p)
	p.tracing = newTracing(p)
	p.tracing.published(tables.Table())
	r := p.registry
	p.counters = counters{
		selfCalls:        r.Counter("seine_proxy_self_calls_total", "Connections refused because their destination is this proxy."),
		refusedPlaintext: r.Counter("seine_proxy_refused_plaintext_total", "Inbound connections refused by the port's mTLS policy."),
		failedHandshakes: r.Counter("seine_proxy_failed_handshakes_total", "Inbound TLS handshakes that failed."),
		badIntroductions: r.Counter("seine_proxy_bad_proxy_headers_total", "Inbound connections refused because their PROXY header was missing or malformed."),
		badPreambles:     r.Counter("seine_proxy_bad_preambles_total", "Inbound connections with a malformed Peer message."),
		unanswered:       r.Counter("seine_proxy_unanswered_total", "Connections refused because the control plane did not answer for their address."),
		redialled:        r.Counter("seine_proxy_redialled_tcp_total", "Opaque connections begun again with another endpoint because one could not be reached."),
		unroutedTCP:      r.Counter("seine_proxy_unrouted_tcp_total", "Opaque connections refused because nothing routes them."),
		badRequests:      r.Counter("seine_proxy_bad_requests_total", "Requests refused for breaking HTTP's grammar or a bound."),
		badResponses:     r.Counter("seine_proxy_bad_responses_total", "Responses refused for breaking HTTP's grammar."),
		repeated:         r.Counter("seine_proxy_reused_connection_retries_total", "Requests sent once more because a kept connection had been closed."),
		acceptFailures:   r.Counter("seine_proxy_accept_failures_total", "Accepts that failed, as for want of descriptors."),
		overParked:       r.Counter("seine_proxy_over_parked_total", "Requests and connections refused because too many wait for the control plane."),
		slowConnections:  r.Counter("seine_proxy_slow_connections_total", "Connections ended because a handshake, or a head, took too long."),
		shedHalfOpen:     r.Counter("seine_proxy_shed_half_open_total", "Connections ended at the bound of those that have not said what they are, the oldest first."),
		shedIdle:         r.Counter("seine_proxy_shed_idle_total", "Idle connections ended at the bound of open connections, in favour of a new one."),
		shedBuffers:      r.Counter("seine_proxy_shed_buffers_total", "Connections ended at the bound of what connections hold in buffers, those that hold most first."),
		deadPeers:        r.Counter("seine_proxy_ping_timeouts_total", "HTTP/2 connections ended because a PING was not answered."),
		overConnections:  r.Counter("seine_proxy_over_connections_total", "Connections refused at the bound of open connections."),
	}
	p.retries, p.hedges = newRetryCounters(r), newHedgeCounters(r)
	p.shapes = newShapeCounters(r)
	p.copies = newCopyCounters(r)
	r.GaugeFunc("seine_proxy_connections", "Accepted connections that are open.", func() float64 { return float64(p.connections()) })
	r.GaugeFunc("seine_proxy_upstream_connections", "Connections towards endpoints and the application that are open or being opened, kept ones among them.", func() float64 { return float64(p.upstreams()) })
	r.GaugeFunc("seine_proxy_inflight", "Requests and opaque connections under way.", func() float64 { return float64(p.inflight()) })
	r.GaugeFunc("seine_proxy_spliced_bytes", "Bytes of opaque connections that the kernel passed on by itself, since the start.", func() float64 { return float64(p.spliced()) })
	for range o.Loops {
		w, err := newWorker(p, rand.Uint64(), rand.Uint64())
		if err != nil {
			p.discard()
			return nil, err
		}
		p.workers = append(p.workers, w)
	}
	if err := p.listen(); err != nil {
		p.discard()
		return nil, err
	}
	tables.Notify(func(t *decide.Table) {
		p.warden.published(t)
		p.tracing.published(t)
		for _, w := range p.workers {
			w.loop.Post(w.published)
		}
	})
	return p, nil
}

func (o *Options) defaults() {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	set(&o.AnswerWait, 2*time.Second)
	set(&o.HeadTimeout, 10*time.Second)
	set(&o.TLSWait, time.Second)
	set(&o.DownstreamIdle, 10*time.Minute)
	set(&o.UpstreamIdle, 90*time.Second)
	set(&o.StreamIdle, 5*time.Minute)
	set(&o.TCPIdle, time.Hour)
	set(&o.AppConnect, 10*time.Second)
	set(&o.Pulse, 30*time.Second)
	if o.Loops == 0 {
		o.Loops = 2
	}
	if o.MaxHead == 0 {
		o.MaxHead = 64 << 10
	}
	if o.MaxConnections == 0 {
		o.MaxConnections = affordable()
	}
	if o.MaxHalfOpen == 0 {
		o.MaxHalfOpen = 4096
	}
	if o.MaxBuffers == 0 {
		o.MaxBuffers = 256 << 20
	}
	if o.carry == 0 {
		o.carry = carryFrom
	}
	if o.Resolver == nil {
		o.Resolver = net.DefaultResolver
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
}

func (p *Proxy) discard() {
	p.tracing.close()
	for _, w := range p.workers {
		w.loop.Discard()
	}
	for _, d := range p.doors {
		loop.CloseFD(d.fd)
	}
}

// Processors is the GOMAXPROCS that a process with that many loops wants: a
// loop that wakes needs a free P beside the runtime's own work.
func Processors(loops int) int { return loops + 2 }

// Concurrency is how many loops fit limit CPUs (0: unknown), as Istio counts:
// the limit rounded up, and 2 without one.
func Concurrency(limit float64) int {
	if limit <= 0 {
		return min(2, runtime.NumCPU())
	}
	n := int(limit)
	if float64(n) < limit {
		n++
	}
	return max(n, 1)
}

// Run serves until ctx ends and then drains: it goes on accepting for at least
// minimum, tells clients to go (Connection: close), and returns when nothing
// is under way, at the latest after limit.
func (p *Proxy) Run(ctx context.Context, minimum, limit time.Duration) error {
	var running sync.WaitGroup
	failed := make(chan error, len(p.workers))
	for _, w := range p.workers {
		running.Add(1)
		go func() {
			defer running.Done()
			if err := w.loop.Run(); err != nil {
				failed <- err
			}
		}()
	}
	watch, unwatch := context.WithCancel(context.WithoutCancel(ctx))
	running.Go(func() { p.warden.run(watch) })
	first := p.workers[0]
	for _, d := range p.doors {
		first.loop.Post(func() { p.open(first, d) })
	}
	var err error
	select {
	case <-ctx.Done():
		p.drain(minimum, limit)
	case err = <-failed:
		err = fmt.Errorf("proxy: event loop: %w", err)
	}
	p.tracing.close()
	for _, w := range p.workers {
		w.loop.Post(w.shut)
		w.loop.Stop()
	}
	unwatch()
	running.Wait()
	return err
}

// drain waits for what is under way.
func (p *Proxy) drain(minimum, limit time.Duration) {
	p.draining.Store(true)
	p.log.Info("draining", "minimum", minimum, "limit", limit, "inflight", p.inflight())
	for _, w := range p.workers {
		w.loop.Post(func() {
			w.draining = true
			for b := range w.bundles {
				b.drain()
			}
		})
	}
	end := time.NewTimer(limit)
	defer end.Stop()
	least := time.NewTimer(minimum)
	defer least.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	passed := false
	for {
		select {
		case <-end.C:
			p.log.Warn("drain limit reached", "inflight", p.inflight())
			return
		case <-least.C:
			passed = true
		case <-tick.C:
		}
		if passed && p.inflight() == 0 {
			return
		}
	}
}

// shut closes everything that the loop holds.
func (w *worker) shut() {
	for d := range w.conns {
		d.end(d.state != reading)
	}
	for b := range w.bundles {
		b.end(b.count > 0)
	}
	for r := range w.relays {
		r.end(0, true)
	}
	for a := range w.arrivals {
		a.drop(true)
	}
	for s := range w.copies {
		if s.target != nil { // else it is queued, and holds nothing yet
			s.over(copyFailed)
		}
	}
	for _, p := range w.pools {
		for p.idle != nil {
			p.idle.drop(false)
		}
		for len(p.trunks) > 0 {
			p.trunks[0].u.drop(false)
		}
	}
	w.pipes.close()
	for _, d := range w.p.doors {
		if w == w.p.workers[0] {
			w.loop.Close(d.fd)
		}
	}
}

// Draining reports whether the proxy is on its way out.
func (p *Proxy) Draining() bool { return p.draining.Load() }

// Trim lets go the memory that the loops keep for the next use, and returns when
// each of them has done so, or has ended. Any goroutine but a loop's may call it.
func (p *Proxy) Trim() {
	for _, w := range p.workers {
		done := make(chan struct{})
		if !w.loop.Post(func() { w.buffers.trim(); close(done) }) {
			continue
		}
		select {
		case <-done:
		case <-w.loop.Done():
		}
	}
}

func (p *Proxy) connections() (n int64) {
	for _, w := range p.workers {
		n += w.loop.Count()
	}
	return n
}

func (p *Proxy) upstreams() (n int64) {
	for _, w := range p.workers {
		n += w.upstreams.Load()
	}
	return n
}

func (p *Proxy) spliced() (n int64) {
	for _, w := range p.workers {
		n += w.pipes.spliced.Load()
	}
	return n
}

func (p *Proxy) inflight() (n int64) {
	for _, w := range p.workers {
		n += w.inflight.Load()
	}
	return n
}

var errNoListener = errors.New("proxy: nothing to listen on: give an outbound, inbound, explicit, forwarding or published listener")
