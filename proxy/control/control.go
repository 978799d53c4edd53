// Package control is a proxy's side of the control plane: a client of the
// delta discovery service that turns what it is sent into decide.Tables.
//
// In come the names that the data path wants and the control plane's
// resources; out goes an immutable decide.Table, published by an atomic
// pointer. A Table is always whole: an Answer is in it only together with
// every service and endpoint set that the Answer names, so that a request
// never meets half a configuration. While the control plane is away the last
// Table stays. What could not be compiled is refused (NACK) with a sentence
// and the version before it stays in use.
//
// What the package must never do: make a request wait, take a lock for a name
// that the data path knows already, or grow with the number of names that
// somebody invents.
package control

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/decide"
)

// Options say where the control plane is and who asks.
type Options struct {
	Address string      // HOST:PORT of seined
	TLS     *tls.Config // client side; presents the proxy's certificate and checks seined's
	// Certified is closed once TLS can present a certificate; the client dials
	// no earlier. nil: it can already.
	Certified <-chan struct{}
	// Dial opens the connection; nil: a net.Dialer. A sidecar marks its own
	// sockets here so that they are not captured.
	Dial    func(ctx context.Context, address string) (net.Conn, error)
	Node    string       // NAMESPACE/INSTANCE
	Version string       // of this program, shown in the control plane's list of proxies
	Log     *slog.Logger // nil: discard
	// Trust is called with each Self that is new, before it is acknowledged: who
	// acknowledges a trust bundle has it in force. With an error the Self is refused.
	// nil: nothing is done with it.
	Trust func(*seinev1.Self) error
	// Beside is called with each connection over which discovery was accepted, for
	// other streams over it: in a goroutine, with a ctx that ends with the
	// connection. It returns when ctx ends, or before. nil: there is nothing else.
	Beside func(ctx context.Context, conn grpc.ClientConnInterface)

	Idle    time.Duration // an Answer not used for so long is given back; 0: 10 minutes
	Patient time.Duration // a name that nobody answers is given up after so long; 0: 10 seconds
	Answers int           // most names held at once; 0: 4,096
	Unknown int           // most answers held at once that say "refuse this"; 0: 1,024
	Rate    float64       // new names per second; 0: 50. Those that turn out to exist are given back.
	Burst   int           // new names at once; 0: 500
}

func (o *Options) defaults() {
	set(&o.Idle, 10*time.Minute)
	set(&o.Patient, 10*time.Second)
	set(&o.Answers, 4096)
	set(&o.Unknown, 1024)
	set(&o.Rate, 50)
	set(&o.Burst, 500)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Dial == nil {
		o.Dial = func(ctx context.Context, address string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		}
	}
}

func set[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

// Client holds one stream to the control plane and what came over it. Create
// it with New and start it with Run. All methods may be called from any
// goroutine.
type Client struct {
	opt       Options
	log       *slog.Logger
	ready     chan struct{}
	readyOnce sync.Once
	view      atomic.Pointer[view]
	stats     counters

	mu     sync.Mutex
	state  state         // under mu
	cut    func()        // ends the stream; nil: there is none
	again  bool          // Reconnect ended it
	wake   chan struct{} // the sender has something to do
	recall chan struct{} // the keeper has a deadline to look at
	notify []func(*decide.Table)
	// publishing keeps Notify's calls in order without holding mu over them.
	publishing sync.Mutex
}

// view is what is read without a lock. Immutable.
type view struct {
	table *decide.Table
	uses  map[string]*Use // of every answer in table
}

// New returns a client that is not running yet.
func New(o Options) (*Client, error) {
	switch {
	case o.TLS == nil:
		return nil, errors.New("control: Options.TLS is missing: the control plane is only spoken to over mutual TLS")
	case o.Address == "":
		return nil, errors.New("control: Options.Address is missing: say where seined is (HOST:15012)")
	case strings.Count(o.Node, "/") != 1:
		return nil, errors.New("control: Options.Node must be NAMESPACE/INSTANCE, not " + o.Node)
	}
	o.defaults()
	c := &Client{
		opt: o, log: o.Log, ready: make(chan struct{}),
		wake: make(chan struct{}, 1), recall: make(chan struct{}, 1),
	}
	c.state.init(&c.opt)
	return c, nil
}

// Table returns what the proxy knows now: one atomic load. Never nil once
// Ready is closed; before that it may be.
//
// Every destination of every Answer has its key in Clusters. The subsets there
// are empty if the control plane says that there is no such service (flag NC).
func (c *Client) Table() *decide.Table {
	v := c.view.Load()
	if v == nil {
		return nil
	}
	return v.table
}

// Ready is closed when the first Table, which holds Self, is published.
func (c *Client) Ready() <-chan struct{} { return c.ready }

// Want asks for an Answer by its name ("http/PORT/HOST", "addr/IP:PORT") and
// returns at once. When the whole set that the Answer needs has arrived, a
// new Table with it is published and Notify's functions are called. Wanting a
// name that is there or under way already is cheap and marks it used.
//
// It reports false if no answer will come of it: the name is malformed, or
// there are too many new names; the caller need not wait then.
func (c *Client) Want(name string) bool {
	if v := c.view.Load(); v != nil {
		if u := v.uses[name]; u != nil {
			u.Touch()
			return true
		}
	}
	if _, err := seinev1.ParseAnswerName(name); err != nil {
		c.stats.refused.Add(1)
		return false
	}
	c.mu.Lock()
	ok := c.state.want(name, time.Now())
	c.mu.Unlock()
	if !ok {
		c.stats.refused.Add(1)
		return false
	}
	c.kick()
	return true
}

// Reconnect ends the stream, if there is one, and begins another at once: with the
// certificate of this moment, so that the control plane sees which one it is.
func (c *Client) Reconnect() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cut != nil {
		c.again = true
		c.cut()
	}
}

// kick wakes the sender.
func (c *Client) kick() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Use returns the mark of a held Answer's use, to be kept beside the *Answer
// for as long as the caller caches that; nil if the name is not held. It takes
// no lock.
func (c *Client) Use(name string) *Use {
	v := c.view.Load()
	if v == nil {
		return nil
	}
	return v.uses[name]
}

// Use records that an Answer is in use. The zero value is ready; a nil *Use
// does nothing.
type Use struct{ used atomic.Bool }

// Touch marks the answer used: one atomic load in the steady state, no
// allocation, no lock. Call it for each request.
func (u *Use) Touch() {
	if u != nil && !u.used.Load() {
		u.used.Store(true)
	}
}

// Notify has f called after each publish, from the client's goroutine: f must
// not block (loops post to their mailbox). Register before Run.
func (c *Client) Notify(f func(*decide.Table)) {
	c.mu.Lock()
	c.notify = append(c.notify, f)
	c.mu.Unlock()
}

// Connected reports whether the stream is up and has been answered, and since
// when that is so, or since when it is not.
func (c *Client) Connected() (bool, time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state.connected, c.state.since
}

// counters are the client's own, read by Stats.
type counters struct {
	refused, rejected, connects, publishes, acks atomic.Uint64
	lastAck                                      atomic.Int64 // Unix nanoseconds
}

// Stats are the client's figures at one moment, for metrics and readiness.
type Stats struct {
	Connected  bool
	Since      time.Time // of Connected or of its contrary
	LastError  string    // why the last stream ended
	LastAck    time.Time // when a response was acknowledged last; zero: never
	Generation uint64    // of the last whole batch; the Table is older if it changed nothing visible
	Answers    int       // held, of any kind
	Unknown    int       // of them, those that say "refuse this"
	Pending    int       // asked for and not answered yet
	Services   int
	Endpoints  int
	Connects   uint64 // streams opened
	Publishes  uint64 // Tables
	Acks       uint64
	Rejected   uint64 // resources refused because they did not compile
	Refused    uint64 // names not asked for: malformed, or too many
}

// Stats returns the figures of this moment.
func (c *Client) Stats() Stats {
	s := Stats{
		Connects: c.stats.connects.Load(), Publishes: c.stats.publishes.Load(), Acks: c.stats.acks.Load(),
		Rejected: c.stats.rejected.Load(), Refused: c.stats.refused.Load(),
	}
	if ns := c.stats.lastAck.Load(); ns != 0 {
		s.LastAck = time.Unix(0, ns)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s.Generation = c.state.generation
	s.Connected, s.Since, s.LastError = c.state.connected, c.state.since, c.state.lastError
	s.Answers, s.Unknown, s.Services = len(c.state.answers), c.state.unknown, len(c.state.services)
	for _, a := range c.state.answers {
		if a.visible == nil {
			s.Pending++
		}
	}
	for _, v := range c.state.services {
		s.Endpoints += len(v.endpoints)
	}
	return s
}
