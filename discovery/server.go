// Package discovery serves the mesh to its proxies: Envoy's delta aggregated
// discovery service over gRPC.
//
// In come mesh.Snapshots (Publish) and the proxies' subscriptions; out goes, to
// each proxy and for each snapshot, what changed of what it subscribes to and
// nothing else. A proxy is who its client certificate says, and gets only what
// a Plan gives that workload.
//
// It is level-triggered: a stream holds what the proxy was sent, never a queue
// of changes, so that a slow reader costs one message and one list of pointers
// and gets the latest state when it reads again. Everything that a proxy can
// make grow has a bound in Limits.
//
// It must never let one proxy's behaviour, or one broken resource, end or slow
// another's stream.
package discovery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/mesh"
)

// Plan computes resources; package plan has the functions. They are pure, and
// two workloads with the same namespace, service account, labels, App,
// locality and Gateway get the same Answer, Service and Endpoints.
type Plan struct {
	Self      func(*mesh.Snapshot, *mesh.Workload) *seinev1.Self
	Answer    func(*mesh.Snapshot, *mesh.Workload, string) *seinev1.Answer
	Service   func(*mesh.Snapshot, *mesh.Workload, string) *seinev1.Service // nil: there is none
	Endpoints func(*mesh.Snapshot, *mesh.Workload, string) []*seinev1.Endpoint
	// Reached reports whether a resource may be another in a Snapshot than before a
	// Delta; nil: each may.
	Reached func(s *mesh.Snapshot, d *mesh.Delta, w *mesh.Workload, typeURL, name string) bool
}

// Limits bound what proxies can make the server hold and do. Zero fields take
// the defaults.
type Limits struct {
	Streams         int           // at once; 10,000
	StreamsPerProxy int           // at once; 4 (a new stream may overlap an old one that is dying)
	Names           int           // subscribed on one stream; 16,384
	NamesPerSecond  float64       // new names of one proxy; 200
	NamesBurst      int           // 16,384: a proxy that returns asks for all it knows
	Window          int           // responses sent and not yet acknowledged; 8
	ResponseBytes   int           // of one response, about; 1 MiB
	ResourceBytes   int           // of one resource; larger ones are not sent; 2 MiB
	Write           time.Duration // for a response to be taken by the transport; 30 s
	Wait            time.Duration // for an unknown workload to appear; 5 s
}

func (l *Limits) defaults() {
	set(&l.Streams, 10_000)
	set(&l.StreamsPerProxy, 4)
	set(&l.Names, 16_384)
	set(&l.NamesPerSecond, 200)
	set(&l.NamesBurst, 16_384)
	set(&l.Window, 8)
	set(&l.ResponseBytes, 1<<20)
	set(&l.ResourceBytes, 2<<20)
	set(&l.Write, 30*time.Second)
	set(&l.Wait, 5*time.Second)
}

func set[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

// Options of New.
type Options struct {
	Plan    Plan
	Limits  Limits
	Quiet   time.Duration // a burst of snapshots is over after so long; 10 ms
	Longest time.Duration // the first of a burst waits no longer; 100 ms
	Log     *slog.Logger  // nil: discard
}

// Server serves discovery streams. Its methods may be called from any goroutine.
type Server struct {
	opt     Options
	log     *slog.Logger
	metrics *metrics

	current atomic.Pointer[epoch] // never nil; epoch.snap is nil before the first snapshot
	incoming
	streams streamSet
}

// New returns a server without a snapshot: streams wait for the first.
func New(o Options) (*Server, error) {
	p := o.Plan
	if p.Self == nil || p.Answer == nil || p.Service == nil || p.Endpoints == nil {
		return nil, errors.New("discovery: Options.Plan is incomplete")
	}
	o.Limits.defaults()
	set(&o.Quiet, 10*time.Millisecond)
	set(&o.Longest, 100*time.Millisecond)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{opt: o, log: o.Log, metrics: newMetrics()}
	s.incoming.wake = make(chan struct{}, 1)
	s.streams.init(&s.opt.Limits)
	s.current.Store(&epoch{superseded: make(chan struct{})})
	return s, nil
}

// incoming is the newest snapshot that streams do not see yet.
type incoming struct {
	mu    sync.Mutex
	snap  *mesh.Snapshot
	delta *mesh.Delta // from what streams see to snap; nil: not known
	again bool        // the current one is to be computed anew
	since time.Time   // when the burst began
	wake  chan struct{}
}

// Publish hands a snapshot over. It returns at once; of a burst only the last
// one is sent. Run must be running.
func (s *Server) Publish(snap *mesh.Snapshot) {
	s.mu.Lock()
	if s.snap == nil && !s.again {
		s.since = time.Now()
	}
	switch before, d := s.snap, snap.Delta; {
	case before == nil || d == nil:
		s.delta = d
	case s.delta != nil && d.Base == before.Generation:
		s.delta = s.delta.Then(d)
	default:
		s.delta = nil
	}
	s.snap = snap
	s.mu.Unlock()
	s.metrics.updates.Inc()
	s.stir()
}

// Republish computes everything anew although the snapshot is the same: what Plan
// depends on besides, the trust bundle, has changed. It returns at once.
func (s *Server) Republish() {
	s.mu.Lock()
	if s.snap == nil && !s.again {
		s.since = time.Now()
	}
	s.again = true
	s.mu.Unlock()
	s.stir()
}

func (s *Server) stir() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Run debounces what Publish hands over until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	quiet := time.NewTimer(0)
	quiet.Stop()
	defer quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
			wait := s.opt.Quiet
			s.mu.Lock()
			if left := s.opt.Longest - time.Since(s.since); left < wait {
				wait = left
			}
			s.mu.Unlock()
			if s.current.Load().snap == nil {
				wait = 0 // nobody has anything yet: do not hold the start up
			}
			quiet.Reset(max(wait, 0))
		case <-quiet.C:
			s.mu.Lock()
			snap, since, delta := s.snap, s.since, s.delta
			if s.again {
				delta = nil
			}
			if snap == nil && s.again {
				snap = s.current.Load().snap
			}
			s.snap, s.delta, s.again = nil, nil, false
			s.mu.Unlock()
			if snap != nil {
				s.advance(snap, delta, since)
			}
		}
	}
}

// advance makes snap, which differs from what they see by delta, what streams see.
// Only Run calls it.
func (s *Server) advance(snap *mesh.Snapshot, delta *mesh.Delta, since time.Time) {
	old := s.current.Load()
	next := &epoch{snap: snap, number: old.number + 1, published: since, superseded: make(chan struct{})}
	if s.opt.Plan.Reached != nil && delta != nil && old.snap != nil && delta.Base == old.snap.Generation && old.snap.NodeHints == snap.NodeHints {
		next.delta = delta
	}
	next.previous = old.drop()
	s.current.Store(next)
	close(old.superseded)
	s.metrics.services.Set(float64(len(snap.Services)))
	s.metrics.debounce.Observe(time.Since(since).Seconds())
}

// Snapshot is what streams see now; nil before the first.
func (s *Server) Snapshot() *mesh.Snapshot { return s.current.Load().snap }

// Register adds the service to a gRPC server, whose credentials must verify
// client certificates if there are any; streams without one are refused.
func (s *Server) Register(r grpc.ServiceRegistrar) { r.RegisterService(&serviceDesc, s) }

// serviceDesc is written by hand so that neither Envoy's package nor its
// generated names are linked; the method's path is Envoy's.
var serviceDesc = grpc.ServiceDesc{
	ServiceName: "envoy.service.discovery.v3.AggregatedDiscoveryService",
	HandlerType: (*deltaServer)(nil),
	Streams: []grpc.StreamDesc{{
		StreamName:    "DeltaAggregatedResources",
		Handler:       func(srv any, st grpc.ServerStream) error { return srv.(deltaServer).serve(st) },
		ServerStreams: true, ClientStreams: true,
	}},
	Metadata: "envoy/service/discovery/v3/ads.proto",
}

// deltaServer exists because grpc.ServiceDesc wants an interface type.
type deltaServer interface{ serve(grpc.ServerStream) error }

// logged shortens what a peer sent before it is logged or shown.
func logged(s string) string {
	const most = 512
	if len(s) > most {
		s = s[:most] + "…"
	}
	return fmt.Sprintf("%q", s)
}
