package discovery

import (
	"context"
	"errors"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	xdsv3 "github.com/seinemesh/seine/api/xds/v3"
	"github.com/seinemesh/seine/mesh"
)

// stream is one proxy's stream. The goroutine of serve owns it; what the list
// of proxies shows is under mu.
type stream struct {
	server *Server
	peer   peer
	id     string // NAMESPACE/INSTANCE
	epoch  *epoch
	self   *mesh.Workload
	class  string
	bucket *bucket // of new names
	loud   *bucket // of what it makes the server log

	batch       batch
	planned     *epoch              // that the last batch was made of
	fresh       bool                // a newer epoch was taken since
	converging  *epoch              // the first with a change that is not acknowledged yet
	outstanding map[string]*pending // by nonce
	nonce       uint64
	dirty       [kinds]map[string]struct{} // subscriptions to look at; all of them after a new epoch
	refused     [kinds][]string            // names that will not be served, to be answered

	mu         sync.Mutex
	version    string // of the proxy's program
	since      time.Time
	held       [kinds]map[string]items // by subscribed name: what the proxy was sent
	acked      [kinds]uint64           // generation of the last response that was acknowledged
	ackedAt    time.Time               // when that was; zero: nothing was yet
	generation uint64                  // all of it sent and acknowledged
	rejected   map[string]Reject       // by type URL and name
	trust      string                  // the trust bundle that the proxy has in force
}

// batch is the differences of one epoch that are still to be sent. No new
// batch is made before it is through: that is the whole memory of a slow reader.
type batch struct {
	changed [kinds][]*resource
	removed [kinds][]string
}

func (b *batch) rest() bool {
	for k := range kinds {
		if len(b.changed[k]) > 0 || len(b.removed[k]) > 0 {
			return true
		}
	}
	return false
}

// pending is a response that is not acknowledged yet.
type pending struct {
	kind       kind
	resources  []*resource
	generation uint64
}

// helloWait is how long the first request of a stream may take: until then the
// stream holds a place without having said whose it is.
const helloWait = 5 * time.Second

// serve runs one stream until the proxy leaves, misbehaves or is not who it
// says any more.
func (s *Server) serve(st grpc.ServerStream) error {
	ctx := st.Context()
	p, err := s.peerOf(ctx)
	if err != nil {
		return status.Error(codes.Unauthenticated, err.Error())
	}
	if err := s.streams.enter(); err != nil {
		s.metrics.refused.WithLabelValues("streams").Inc()
		return status.Error(codes.ResourceExhausted, err.Error())
	}
	defer s.streams.leave()

	requests := make(chan *xdsv3.DeltaDiscoveryRequest)
	ended := make(chan error, 1)
	go func() { // ends with RecvMsg, which fails once serve has returned
		for {
			m := new(xdsv3.DeltaDiscoveryRequest)
			if err := st.RecvMsg(m); err != nil {
				ended <- err
				return
			}
			select {
			case requests <- m:
			case <-ctx.Done():
				ended <- ctx.Err()
				return
			}
		}
	}()
	var first *xdsv3.DeltaDiscoveryRequest
	hello := time.NewTimer(helloWait)
	defer hello.Stop()
	select {
	case first = <-requests:
	case err := <-ended:
		return gone(err)
	case <-hello.C:
		return status.Error(codes.DeadlineExceeded, "the first request did not come in time")
	}
	x, err := s.open(ctx, p, first)
	if ctx.Err() != nil {
		return gone(ctx.Err())
	}
	if err != nil {
		s.log.Warn("a proxy was refused", "proxy", logged(first.GetNode().GetId()), "identity", p.id, "address", p.address, "err", err)
		return err
	}
	if err := s.streams.add(x); err != nil {
		s.metrics.refused.WithLabelValues("streams").Inc()
		return status.Error(codes.ResourceExhausted, err.Error())
	}
	defer s.streams.remove(x)
	if err := st.SendHeader(metadata.Pairs(seinev1.AcceptedHeader, "1")); err != nil {
		return gone(err)
	}
	label := s.metrics.connected(x.version)
	defer s.metrics.disconnected(label)
	s.log.Info("proxy connected", "proxy", x.id, "identity", p.id, "address", p.address, "version", x.version)
	err = x.run(st, first, requests, ended)
	s.log.Info("proxy disconnected", "proxy", x.id, "address", p.address, "why", err)
	return err
}

// open finds out whose stream it is. A workload that the mesh does not know
// yet is waited for: its proxy may be faster than its resource.
func (s *Server) open(ctx context.Context, p peer, first *xdsv3.DeltaDiscoveryRequest) (*stream, error) {
	id := first.GetNode().GetId()
	if err := checkID(id); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	wait := time.NewTimer(s.opt.Limits.Wait)
	defer wait.Stop()
	for {
		e := s.current.Load()
		w, err := authorize(e.snap, id, &p)
		if err == nil {
			x := &stream{
				server: s, peer: p, id: id, epoch: e, self: w, class: class(w),
				bucket: s.streams.bucket(id), loud: newBucket(2, 50, time.Now()),
				outstanding: map[string]*pending{},
				version:     clean(first.Node.UserAgentVersion), since: time.Now(), rejected: map[string]Reject{},
			}
			for k := range kinds {
				x.held[k], x.dirty[k] = map[string]items{}, map[string]struct{}{}
			}
			return x, nil
		}
		if status.Code(err) == codes.PermissionDenied {
			s.metrics.refused.WithLabelValues("identity").Inc()
			return nil, err
		}
		select {
		case <-e.superseded:
		case <-wait.C:
			s.metrics.refused.WithLabelValues("unknown").Inc()
			return nil, err
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		}
	}
}

// gone is how serve ends once the proxy has left: without an error, for nobody is
// there to hear of one.
func gone(err error) error {
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, context.Canceled) || status.Code(err) == codes.Canceled {
		return nil
	}
	return err
}

func (x *stream) run(st grpc.ServerStream, first *xdsv3.DeltaDiscoveryRequest, requests <-chan *xdsv3.DeltaDiscoveryRequest, ended <-chan error) error {
	s := x.server
	responses := make(chan *xdsv3.DeltaDiscoveryResponse)
	taken := make(chan error, 1)
	defer close(responses)
	go func() { // SendMsg fails once serve has returned
		for m := range responses {
			taken <- st.SendMsg(m)
		}
	}()
	write, throttle := stopped(), stopped()
	defer write.Stop()
	defer throttle.Stop()
	expiry := time.NewTimer(time.Until(x.peer.notAfter))
	defer expiry.Stop()

	sending, throttled := false, false
	take := func(m *xdsv3.DeltaDiscoveryRequest) error {
		wait, err := x.request(m)
		if wait > 0 {
			s.metrics.throttled.Inc()
			throttled = true
			throttle.Reset(wait)
		}
		return err
	}
	if err := take(first); err != nil {
		return err
	}
	for {
		if !sending && len(x.outstanding) < s.opt.Limits.Window {
			if !x.batch.rest() && x.stale() {
				x.plan()
			}
			if x.batch.rest() {
				sending = true
				write.Reset(s.opt.Limits.Write)
				responses <- x.response() // the sender is idle and takes it at once
			}
		}
		in := requests
		if throttled {
			in = nil
		}
		select {
		case m := <-in:
			if err := take(m); err != nil {
				return err
			}
		case err := <-ended:
			return gone(err)
		case err := <-taken:
			if err != nil {
				return gone(err)
			}
			sending = false
			write.Stop()
		case <-write.C:
			s.metrics.writeTimeout.Inc()
			return status.Errorf(codes.DeadlineExceeded, "the proxy has not read for %s", s.opt.Limits.Write)
		case <-throttle.C:
			throttled = false
		case <-expiry.C:
			return status.Error(codes.Unauthenticated, "the certificate that this stream began with has expired; connect again with a new one")
		case <-x.epoch.superseded:
			if err := x.advance(); err != nil {
				return err
			}
		}
	}
}

func stopped() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

// stale reports whether there may be something to send.
func (x *stream) stale() bool {
	if x.fresh {
		return true
	}
	for k := range kinds {
		if len(x.dirty[k]) > 0 || len(x.refused[k]) > 0 {
			return true
		}
	}
	return false
}

// advance takes the newest epoch.
func (x *stream) advance() error {
	e := x.server.current.Load()
	w, err := authorize(e.snap, x.id, &x.peer)
	if err != nil {
		return err
	}
	// What the change does not reach is not looked at, where it is the one change
	// since this stream looked, and this proxy is to others what it was.
	delta := e.delta
	if e.number != x.epoch.number+1 {
		delta = nil
	}
	x.epoch = e
	if w != x.self {
		was := x.class + x.self.Node
		x.self, x.class = w, class(w)
		if was != x.class+w.Node {
			delta = nil
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for k := range kinds {
		for name := range x.held[k] {
			if delta == nil || x.server.opt.Plan.Reached(e.snap, delta, w, kindURL[k], name) {
				x.dirty[k][name] = struct{}{}
			}
		}
	}
	x.fresh = true
	return nil
}

// request takes one request: an acknowledgement, subscriptions, or both. The
// stream is not read again before wait is over.
func (x *stream) request(m *xdsv3.DeltaDiscoveryRequest) (wait time.Duration, err error) {
	k, ok := kindOf(m.TypeUrl)
	if !ok {
		return 0, status.Errorf(codes.InvalidArgument, "type %s is not served here", logged(m.TypeUrl))
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if m.ResponseNonce != "" {
		x.answered(k, m)
	}
	for _, name := range m.ResourceNamesUnsubscribe {
		delete(x.held[k], name)
		delete(x.dirty[k], name)
		delete(x.rejected, rejectKey(k, name))
	}
	if len(m.ResourceNamesSubscribe) == 0 {
		return 0, nil
	}
	initial := initialItems(k, m.InitialResourceVersions)
	total := 0
	for k := range kinds {
		total += len(x.held[k])
	}
	for _, name := range m.ResourceNamesSubscribe {
		reason := ""
		if _, again := x.held[k][name]; !again {
			if k.check(name) != nil {
				reason = "name"
			} else if total >= x.server.opt.Limits.Names {
				reason = "names"
			}
		}
		if reason != "" {
			// "There is no such thing" is what the protocol has for no.
			x.server.metrics.refused.WithLabelValues(reason).Inc()
			if len(name) <= seinev1.MaxName && len(x.refused[k]) < x.server.opt.Limits.Names {
				x.refused[k] = append(x.refused[k], name)
			}
			continue
		}
		if _, again := x.held[k][name]; !again {
			total++
		}
		// Subscribing again asks for the resource again.
		x.held[k][name] = initial[name]
		x.dirty[k][name] = struct{}{}
	}
	return x.bucket.take(len(m.ResourceNamesSubscribe), time.Now()), nil
}

// initialItems turns the versions that a proxy has kept into what it holds, by
// the name that it subscribes by.
func initialItems(k kind, versions map[string]string) map[string]items {
	held := make(map[string]items, len(versions))
	for name, v := range versions {
		by := name
		if k == kindEndpoint {
			key, _, err := seinev1.ParseEndpointName(name)
			if err != nil {
				continue
			}
			by = seinev1.CollectionName(key)
		}
		held[by] = append(held[by], &resource{name: name, version: v})
	}
	for _, it := range held {
		sortItems(it)
	}
	return held
}

// answered takes an ACK or a NACK. x.mu is held.
func (x *stream) answered(k kind, m *xdsv3.DeltaDiscoveryRequest) {
	p := x.outstanding[m.ResponseNonce]
	if p == nil || p.kind != k {
		x.server.metrics.expired.Inc()
		return
	}
	delete(x.outstanding, m.ResponseNonce)
	now := time.Now()
	if m.ErrorDetail != nil {
		x.reject(p, m.ErrorDetail.Message, now)
	} else {
		x.acked[k], x.ackedAt = p.generation, now
		for _, r := range p.resources {
			delete(x.rejected, rejectKey(k, r.name))
			if k == kindSelf {
				x.trust = r.trust
			}
		}
	}
	x.settle(now)
}

// settle notes that the proxy has everything there is for it. x.mu is held.
func (x *stream) settle(now time.Time) {
	if len(x.outstanding) > 0 || x.batch.rest() || x.planned == nil {
		return
	}
	x.generation = x.planned.snap.Generation
	if x.converging != nil {
		x.server.metrics.convergence.Observe(now.Sub(x.converging.published).Seconds())
		x.converging = nil
	}
}

// plan makes a new batch of what differs.
func (x *stream) plan() {
	x.mu.Lock()
	defer x.mu.Unlock()
	b := batch{removed: x.refused}
	x.refused = [kinds][]string{}
	for k := range kinds {
		for name := range x.dirty[k] {
			key := rejectKey(k, name)
			now, err := x.server.resolve(x.epoch, k, x.self, x.class, name)
			if err != nil {
				if len(x.rejected) < rejectedMost {
					x.rejected[key] = Reject{Type: kindURL[k], Name: name, Generation: x.epoch.snap.Generation, Message: bounded(err.Error()), At: time.Now()}
				}
				continue
			}
			if r, ok := x.rejected[key]; ok && r.Version == "" {
				delete(x.rejected, key)
			}
			held := x.held[k][name]
			if held == nil && len(now) == 0 {
				b.removed[k] = append(b.removed[k], name) // the first answer: there is none
				now = items{}
			}
			if !identical(held, now) {
				changed, removed := diff(held, now)
				b.changed[k] = append(b.changed[k], changed...)
				b.removed[k] = append(b.removed[k], removed...)
			}
			x.held[k][name] = now
		}
		clear(x.dirty[k])
	}
	x.batch, x.planned = b, x.epoch
	if x.fresh && x.converging == nil && b.rest() {
		x.converging = x.epoch
	}
	x.fresh = false
	x.settle(time.Now())
}

// response cuts the next response off the batch.
func (x *stream) response() *xdsv3.DeltaDiscoveryResponse {
	b := &x.batch
	k := kindSelf
	for len(b.changed[k]) == 0 && len(b.removed[k]) == 0 {
		k++
	}
	x.nonce++
	generation := x.planned.snap.Generation
	m := &xdsv3.DeltaDiscoveryResponse{TypeUrl: kindURL[k], Nonce: strconv.FormatUint(x.nonce, 36)}
	p := &pending{kind: k, generation: generation}
	size, n := 0, 0
	for _, r := range b.changed[k] {
		cost := len(r.name) + len(r.body) + 2*len(kindURL[k])
		if n > 0 && size+cost > x.server.opt.Limits.ResponseBytes {
			break
		}
		size += cost
		n++
		m.Resources = append(m.Resources, &xdsv3.Resource{Name: r.name, Version: r.version, Resource: &anypb.Any{TypeUrl: kindURL[k], Value: r.body}})
	}
	p.resources = b.changed[k][:n:n]
	b.changed[k] = b.changed[k][n:]
	if len(b.changed[k]) == 0 {
		n = 0
		for _, name := range b.removed[k] {
			if n > 0 && size+len(name) > x.server.opt.Limits.ResponseBytes {
				break
			}
			size += len(name)
			n++
		}
		m.RemovedResources = b.removed[k][:n:n]
		b.removed[k] = b.removed[k][n:]
	}
	x.outstanding[m.Nonce] = p
	m.SystemVersionInfo = seinev1.SystemVersion(generation, b.rest())
	x.server.metrics.pushes[k].Inc()
	x.server.metrics.size[k].Observe(float64(size))
	return m
}

func rejectKey(k kind, name string) string { return kindLabel[k] + " " + name }

// reject takes a NACK. Our proxies say on a line of its own "NAME: what is
// wrong" for each resource and keep the others; of anybody else's sentence
// every resource of the response is meant. x.mu is held.
func (x *stream) reject(p *pending, sentence string, now time.Time) {
	s := x.server
	s.metrics.rejects[p.kind].Inc()
	said := map[string]string{}
	for line := range strings.Lines(sentence) {
		if name, what, ok := strings.Cut(strings.TrimSpace(line), ": "); ok && len(said) < 1024 {
			said[name] = what
		}
	}
	named := false
	for _, r := range p.resources {
		_, ok := said[r.name]
		named = named || ok
	}
	for _, r := range p.resources {
		what, ok := said[r.name]
		if !ok {
			if named {
				delete(x.rejected, rejectKey(p.kind, r.name))
				continue
			}
			what = sentence
		}
		if len(x.rejected) >= rejectedMost {
			continue
		}
		x.rejected[rejectKey(p.kind, r.name)] = Reject{
			Type: kindURL[p.kind], Name: r.name, Version: r.version, Generation: p.generation,
			Message: bounded(what), At: now, Source: sourceOf(r.source),
		}
		if !x.loud.allow(now) {
			continue
		}
		s.log.Error("a proxy refused a resource", "proxy", x.id, "type", kindURL[p.kind], "name", r.name,
			"version", r.version, "source", sourceOf(r.source), "message", logged(what))
	}
	if len(p.resources) == 0 && x.loud.allow(now) {
		s.log.Error("a proxy refused a response", "proxy", x.id, "type", kindURL[p.kind], "message", logged(sentence))
	}
}

const rejectedMost = 256 // shown for one stream
