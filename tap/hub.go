// Package tap brings live requests from proxies to whoever watches.
//
// What enters: queries of people, over HTTP, and records of proxies, each over a
// stream of its own beside its discovery stream (see proxy/tap). What leaves:
// which taps are on, to the proxies that a query selects, and lines of JSON, to
// who asked. A tap lives as long as its request. It must never let a slow watcher
// slow a proxy, or believe a proxy about anybody but itself.
package tap

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/decide"
	"github.com/seinemesh/seine/mesh"
)

const (
	maxWatchers = 16
	maxSessions = 10_000
	perProxy    = 4        // sessions: a new one may overlap one that is dying
	maxRecord   = 16 << 10 // bytes
	waiting     = 512      // requests that a watcher has not taken yet
	helloWait   = 5 * time.Second
)

// ErrBusy says that as many taps are on as there may be.
var ErrBusy = errors.New("tap: as many taps are on as this control plane allows; end one of them first")

// Options of New.
type Options struct {
	// Admit says whether who is at the other end of ctx's stream is the proxy
	// called node (NAMESPACE/INSTANCE), and until when its certificate says so.
	Admit   func(ctx context.Context, node string) (w *mesh.Workload, identity string, until time.Time, err error)
	Replica string // this control plane's name among its replicas; "": there is one
}

// Hub joins watchers and proxies. All methods may be called from any goroutine.
type Hub struct {
	opt   Options
	began time.Time

	mu       sync.Mutex
	next     uint64
	watchers map[uint64]*watcher
	sessions map[*session]struct{}
	ended    chan struct{} // closed by Close
	closed   bool
}

// New returns a hub without proxies.
func New(o Options) *Hub {
	return &Hub{opt: o, began: time.Now(), watchers: map[uint64]*watcher{}, sessions: map[*session]struct{}{}, ended: make(chan struct{})}
}

// Close ends all watchers; there will be no others.
func (h *Hub) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.closed {
		h.closed = true
		close(h.ended)
	}
}

// Watchers is how many taps are on.
func (h *Hub) Watchers() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.watchers)
}

// watcher is one tap.
type watcher struct {
	id       uint64
	query    *Query
	spec     *seinev1.TapSpec
	requests chan *Request
	changed  chan struct{} // of one: another number of proxies shows
	limit    *decide.RateLimit

	mu               sync.Mutex
	bucket           decide.Bucket
	limited, dropped atomic.Uint64
}

// watch puts a tap on. leave takes it off again.
func (h *Hub) watch(q *Query) (w *watcher, leave func(), err error) {
	w = &watcher{query: q, requests: make(chan *Request, waiting), changed: make(chan struct{}, 1)}
	w.limit, err = decide.CompileRateLimit(&seinev1.RateLimit{Id: "tap", Requests: uint64(q.MaxRPS), Per: durationpb.New(time.Second)})
	if err != nil {
		return nil, nil, fmt.Errorf("tap: %w", err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || len(h.watchers) >= maxWatchers {
		return nil, nil, ErrBusy
	}
	h.next++
	w.id = h.next
	w.spec = q.spec(w.id)
	h.watchers[w.id] = w
	h.tell(w)
	return w, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.watchers, w.id)
		h.tell(w)
	}, nil
}

// tell wakes the sessions that w is about. h.mu is held.
func (h *Hub) tell(w *watcher) {
	for s := range h.sessions {
		if w.query.selects(s.workload) {
			s.stir()
		}
	}
}

// proxies is how many proxies w reaches.
func (h *Hub) proxies(w *watcher) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	seen := map[string]struct{}{}
	for s := range h.sessions {
		if w.query.selects(s.workload) {
			seen[s.workload.Key()] = struct{}{}
		}
	}
	return len(seen)
}

// offer hands a request over, if the watcher takes it. now is since h.began.
func (w *watcher) offer(r *Request, now time.Duration) {
	w.mu.Lock()
	next, _, ok := w.limit.Take(w.bucket, int64(now))
	if ok {
		w.bucket = next
	}
	w.mu.Unlock()
	if !ok {
		w.limited.Add(1)
		return
	}
	select {
	case w.requests <- r:
	default:
		w.dropped.Add(1)
	}
}

// session is one proxy's stream.
type session struct {
	workload *mesh.Workload
	identity string
	wake     chan struct{}       // of one: other taps may be on
	on       map[uint64]*watcher // as the proxy was told; serve's
}

func (s *session) stir() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Register adds the service to a gRPC server whose credentials verify client
// certificates.
func (h *Hub) Register(r grpc.ServiceRegistrar) { r.RegisterService(&serviceDesc, h) }

// serviceDesc is written by hand, as no generated code is linked.
var serviceDesc = grpc.ServiceDesc{
	ServiceName: "seine.v1.Taps",
	HandlerType: (*reporter)(nil),
	Streams: []grpc.StreamDesc{{
		StreamName:    "Report",
		Handler:       func(srv any, st grpc.ServerStream) error { return srv.(reporter).serve(st) },
		ServerStreams: true, ClientStreams: true,
	}},
	Metadata: "seine/v1/tap.proto",
}

// reporter exists because grpc.ServiceDesc wants an interface type.
type reporter interface{ serve(grpc.ServerStream) error }

// serve runs one proxy's stream until it leaves.
func (h *Hub) serve(st grpc.ServerStream) error {
	reports := make(chan *seinev1.TapReport)
	failed := make(chan error, 1)
	ctx := st.Context()
	go func() { // ends with RecvMsg, which fails once serve has returned
		for {
			m := new(seinev1.TapReport)
			if err := st.RecvMsg(m); err != nil {
				failed <- err
				return
			}
			select {
			case reports <- m:
			case <-ctx.Done():
				failed <- ctx.Err()
				return
			}
		}
	}()
	hello := time.NewTimer(helloWait)
	defer hello.Stop()
	var first *seinev1.TapReport
	select {
	case first = <-reports:
	case <-failed:
		return nil
	case <-hello.C:
		return status.Error(codes.DeadlineExceeded, "the first report did not come in time")
	}
	w, identity, until, err := h.opt.Admit(ctx, first.Node)
	if err != nil {
		return err
	}
	s := &session{workload: w, identity: identity, wake: make(chan struct{}, 1)}
	if err := h.enter(s); err != nil {
		return err
	}
	defer h.leave(s)
	expiry := time.NewTimer(time.Until(until))
	defer expiry.Stop()
	for {
		select {
		case m := <-reports:
			h.take(s, m)
		case <-s.wake:
			if err := h.update(s, st); err != nil {
				return err
			}
		case <-failed:
			return nil
		case <-h.ended:
			return status.Error(codes.Unavailable, "this control plane ends")
		case <-expiry.C:
			return status.Error(codes.Unauthenticated, "the certificate that this stream began with has expired; connect again with a new one")
		}
	}
}

func (h *Hub) enter(s *session) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	same := 0
	for o := range h.sessions {
		if o.workload.Key() == s.workload.Key() {
			same++
		}
	}
	if len(h.sessions) >= maxSessions || same >= perProxy {
		return status.Error(codes.ResourceExhausted, "this control plane takes no more streams of taps from you")
	}
	h.sessions[s] = struct{}{}
	s.stir()
	h.count(s)
	return nil
}

func (h *Hub) leave(s *session) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.sessions, s)
	h.count(s)
}

// count tells the watchers that s comes or goes. h.mu is held.
func (h *Hub) count(s *session) {
	for _, w := range h.watchers {
		if w.query.selects(s.workload) {
			select {
			case w.changed <- struct{}{}:
			default:
			}
		}
	}
}

// update sends the taps that are on for s, unless it knows that none are.
func (h *Hub) update(s *session, st grpc.ServerStream) error {
	h.mu.Lock()
	on := map[uint64]*watcher{}
	for id, w := range h.watchers {
		if w.query.selects(s.workload) {
			on[id] = w
		}
	}
	h.mu.Unlock()
	before := s.on
	s.on = on
	if len(on) == 0 && len(before) == 0 {
		return nil
	}
	set := &seinev1.TapSet{}
	for _, id := range slices.Sorted(maps.Keys(on)) {
		set.Taps = append(set.Taps, on[id].spec)
	}
	return st.SendMsg(set)
}

// take hands a proxy's report to those whom the proxy was asked to show to.
func (h *Hub) take(s *session, m *seinev1.TapReport) {
	now := time.Since(h.began)
	for _, b := range m.Records {
		r := &seinev1.TapRecord{}
		if len(b) > maxRecord || proto.Unmarshal(b, r) != nil {
			continue
		}
		if w := s.on[r.Tap]; w != nil {
			w.offer(request(r, s.workload, s.identity), now)
		}
	}
	for _, l := range m.Losses {
		if w := s.on[l.Tap]; w != nil {
			w.limited.Add(l.Limited)
			w.dropped.Add(l.Dropped)
		}
	}
}
