package discovery

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

// Proxy is the state of one connected proxy. Its JSON form is that of
// /api/v1/proxies.
type Proxy struct {
	ID         string    `json:"id"`       // NAMESPACE/INSTANCE
	Identity   string    `json:"identity"` // of its certificate
	Version    string    `json:"version,omitempty"`
	Address    string    `json:"address"` // that the stream comes from
	Connected  time.Time `json:"connected"`
	Generation uint64    `json:"generation"` // everything up to it is sent and acknowledged
	// Current: Generation is the newest there is.
	Current  bool           `json:"current"`
	LastAck  time.Time      `json:"last_ack,omitzero"` // of any response; zero: none yet
	Types    []Subscription `json:"types"`
	Rejected []Reject       `json:"rejected,omitempty"`
}

// Subscription is what a proxy holds of one type.
type Subscription struct {
	Type       string   `json:"type"`
	Generation uint64   `json:"generation"` // of the last response that it acknowledged
	Count      int      `json:"count"`      // resources held
	Names      []string `json:"names"`      // as subscribed
}

// Reject is a resource that a proxy refused (NACK) or that could not be
// planned for it. It is a bug, shown against the resource that caused it.
type Reject struct {
	Type       string    `json:"type"`
	Name       string    `json:"name"`
	Version    string    `json:"version,omitempty"` // empty: it was never sent
	Generation uint64    `json:"generation"`
	Message    string    `json:"message"`
	At         time.Time `json:"at"`
	Source     string    `json:"source,omitempty"` // FILE:LINE KIND NAMESPACE/NAME
}

func sourceOf(r *seinev1.Ref) string {
	if r == nil {
		return ""
	}
	s := fmt.Sprintf("%s %s/%s", r.Kind, r.Namespace, r.Name)
	if r.File != "" {
		s = fmt.Sprintf("%s:%d %s", r.File, r.Line, s)
	}
	return s
}

// Proxies are the connected proxies by ID.
func (s *Server) Proxies() []Proxy { return s.each((*stream).state) }

// Progress is Proxies without their subscriptions, which cost the most: for who
// looks each second.
func (s *Server) Progress() []Proxy { return s.each((*stream).progress) }

func (s *Server) each(of func(x *stream, newest uint64) Proxy) []Proxy {
	var newest uint64
	if snap := s.Snapshot(); snap != nil {
		newest = snap.Generation
	}
	out := []Proxy{}
	for _, x := range s.streams.list() {
		out = append(out, of(x, newest))
	}
	slices.SortFunc(out, func(a, b Proxy) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), a.Connected.Compare(b.Connected))
	})
	return out
}

// Acknowledged is how many streams there are, and a generation that all of them have
// acknowledged; the newest there is if there are none.
func (s *Server) Acknowledged() (proxies int, least uint64) {
	if snap := s.Snapshot(); snap != nil {
		least = snap.Generation
	}
	for _, x := range s.streams.list() {
		x.mu.Lock()
		least = min(least, x.generation)
		x.mu.Unlock()
		proxies++
	}
	return proxies, least
}

// Connected are the IDs of the proxies that have a stream, sorted.
func (s *Server) Connected() []string {
	s.streams.mu.Lock()
	defer s.streams.mu.Unlock()
	return slices.Sorted(maps.Keys(s.streams.byID))
}

func (x *stream) progress(newest uint64) Proxy {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.reached(newest)
}

// reached is how far the proxy has come, and what it refused. x.mu is held.
func (x *stream) reached(newest uint64) Proxy {
	p := Proxy{
		ID: x.id, Identity: x.peer.id, Version: x.version, Address: x.peer.address, Connected: x.since,
		Generation: x.generation, Current: x.generation == newest, LastAck: x.ackedAt,
	}
	for _, key := range slices.Sorted(maps.Keys(x.rejected)) {
		p.Rejected = append(p.Rejected, x.rejected[key])
	}
	return p
}

func (x *stream) state(newest uint64) Proxy {
	x.mu.Lock()
	defer x.mu.Unlock()
	p := x.reached(newest)
	for k := range kinds {
		sub := Subscription{Type: kindURL[k], Generation: x.acked[k], Names: slices.Sorted(maps.Keys(x.held[k]))}
		if sub.Names == nil {
			sub.Names = []string{}
		}
		for _, it := range x.held[k] {
			sub.Count += len(it)
		}
		p.Types = append(p.Types, sub)
	}
	return p
}

// streamSet counts streams and keeps what outlives one of them.
type streamSet struct {
	limits *Limits

	mu      sync.Mutex
	count   int // also those that have not said who they are
	byID    map[string][]*stream
	buckets map[string]*bucket
}

func (s *streamSet) init(l *Limits) {
	s.limits, s.byID, s.buckets = l, map[string][]*stream{}, map[string]*bucket{}
}

func (s *streamSet) enter() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.count >= s.limits.Streams {
		return fmt.Errorf("%d streams are open and this control plane takes no more", s.count)
	}
	s.count++
	return nil
}

func (s *streamSet) leave() {
	s.mu.Lock()
	s.count--
	s.mu.Unlock()
}

func (s *streamSet) add(x *stream) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.byID[x.id]); n >= s.limits.StreamsPerProxy {
		return fmt.Errorf("workload %s has %d streams already", x.id, n)
	}
	s.byID[x.id] = append(s.byID[x.id], x)
	return nil
}

func (s *streamSet) remove(x *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rest := slices.DeleteFunc(s.byID[x.id], func(o *stream) bool { return o == x })
	if len(rest) == 0 {
		delete(s.byID, x.id)
	} else {
		s.byID[x.id] = rest
	}
}

func (s *streamSet) list() []*stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*stream
	for _, l := range s.byID {
		out = append(out, l...)
	}
	return out
}

// bucket returns the allowance of a proxy, which a new stream does not renew.
func (s *streamSet) bucket(id string) *bucket {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if b := s.buckets[id]; b != nil {
		return b
	}
	if len(s.buckets) > s.limits.Streams {
		maps.DeleteFunc(s.buckets, func(_ string, b *bucket) bool { return b.full(now) })
	}
	b := newBucket(s.limits.NamesPerSecond, s.limits.NamesBurst, now)
	s.buckets[id] = b
	return b
}

// bucket is a token bucket that lets its owner go into debt once and then wait.
type bucket struct {
	rate, burst float64

	mu     sync.Mutex
	tokens float64
	at     time.Time
}

func newBucket(rate float64, burst int, now time.Time) *bucket {
	return &bucket{rate: rate, burst: float64(burst), tokens: float64(burst), at: now}
}

// allow takes a token if there is one.
func (b *bucket) allow(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fill(now)
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

func (b *bucket) fill(now time.Time) {
	b.tokens = min(b.burst, b.tokens+b.rate*now.Sub(b.at).Seconds())
	b.at = now
}

// take takes n tokens and returns how long to wait before taking more.
func (b *bucket) take(n int, now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fill(now)
	b.tokens -= float64(n)
	if b.tokens >= 0 {
		return 0
	}
	return time.Duration(-b.tokens / b.rate * float64(time.Second))
}

func (b *bucket) full(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fill(now)
	return b.tokens >= b.burst
}
