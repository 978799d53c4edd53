// Package gate lets connections in without one address keeping the others out.
//
// What enters: a listener, and how many connections there may be at once. What
// leaves: a listener whose places are shared out by address. It must never know
// what is spoken on a connection.
package gate

import (
	"container/list"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
)

// Listener accepts what another listener accepts, but holds only so many
// connections at once. When all places are taken, a connection from an address
// that has fewer than the one that has most takes the oldest place of that one,
// whose connection is closed; from any other address it is closed at once. So who
// has one connection or none, as a kubelet's probe, finds a place however many
// somebody else holds open. Its methods may be called from any goroutine.
type Listener struct {
	net.Listener
	places int
	turned atomic.Uint64

	mu    sync.Mutex
	open  int
	from  map[netip.Addr]*list.List // *conn, oldest first; no empty ones
	sizes []int                     // how many addresses have so many connections
	most  int                       // the last of sizes that is not zero
}

// New returns l with places places, at least one.
func New(l net.Listener, places int) *Listener {
	return &Listener{Listener: l, places: max(places, 1), from: map[netip.Addr]*list.List{}, sizes: make([]int, 2)}
}

// Turned returns how many connections were closed for want of a place.
func (l *Listener) Turned() uint64 { return l.turned.Load() }

// Accept waits for the next connection that has a place.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		own := &conn{Conn: c, gate: l, from: address(c.RemoteAddr())}
		in, out := l.enter(own)
		if out != nil {
			_ = out.Close()
		}
		if in {
			return own, nil
		}
		l.turned.Add(1)
		_ = c.Close()
	}
}

// address is without port and zone; what is no IP address is one address.
func address(a net.Addr) netip.Addr {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	ip, _ := netip.AddrFromSlice(t.IP)
	return ip.Unmap()
}

// enter gives c a place if it can; out, if not nil, has lost its own for that.
func (l *Listener) enter(c *conn) (in bool, out *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open >= l.places {
		has := 0
		if q := l.from[c.from]; q != nil {
			has = q.Len()
		}
		if has >= l.most {
			return false, nil
		}
		out = l.oldest()
		l.leave(out)
		l.turned.Add(1)
	}
	q := l.from[c.from]
	if q == nil {
		q = list.New()
		l.from[c.from] = q
	}
	l.resize(q.Len(), q.Len()+1)
	c.place = q.PushBack(c)
	l.open++
	return true, out
}

// oldest is the first connection of an address that has most.
func (l *Listener) oldest() *conn {
	for _, q := range l.from {
		if q.Len() == l.most {
			return q.Front().Value.(*conn)
		}
	}
	return nil // not reached: most counts what from holds
}

// leave gives c's place up; a second time does nothing.
func (l *Listener) leave(c *conn) {
	if c.place == nil {
		return
	}
	q := l.from[c.from]
	l.resize(q.Len(), q.Len()-1)
	q.Remove(c.place)
	c.place = nil
	if q.Len() == 0 {
		delete(l.from, c.from)
	}
	l.open--
}

// resize notes that an address has other many connections.
func (l *Listener) resize(before, after int) {
	if after >= len(l.sizes) {
		l.sizes = append(l.sizes, 0)
	}
	l.sizes[before]--
	l.sizes[after]++
	l.most = max(l.most, after)
	for l.most > 0 && l.sizes[l.most] == 0 {
		l.most--
	}
}

type conn struct {
	net.Conn
	gate  *Listener
	from  netip.Addr
	place *list.Element // nil: none any more; the gate's
}

func (c *conn) Close() error {
	c.gate.mu.Lock()
	c.gate.leave(c)
	c.gate.mu.Unlock()
	return c.Conn.Close()
}
