//go:build linux

package proxy

import (
	"syscall"
	"time"

	"github.com/seinemesh/seine/proxy/http2"
	"github.com/seinemesh/seine/telemetry"
)

// What is done when a bound of the whole process is met: somebody has to go, and it
// is whoever costs most and matters least. docs/limits.md lists the bounds.

// spareFiles are the descriptors that are kept for what is no connection: the
// control plane, listeners, logs, files.
const spareFiles = 256

// affordable is how many connections may be accepted by default: each needs
// another descriptor towards where it goes, which established ones must find.
func affordable() int {
	const most = 65536
	var lim syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim); err != nil {
		return most
	}
	if lim.Cur > 2*most+spareFiles {
		return most
	}
	return max(64, (int(lim.Cur)-spareFiles)/2)
}

// crowd is the half-open connections of a loop, the oldest first: accepted, and
// not yet known for what they are.
type crowd struct {
	oldest, newest *arrival
	n, most        int
}

func (c *crowd) add(a *arrival) {
	a.older, a.counted = c.newest, true
	if c.newest != nil {
		c.newest.newer = a
	} else {
		c.oldest = a
	}
	c.newest = a
	if c.n++; c.n > c.most {
		victim := c.oldest
		// Who waits for us to compute is not the one who is slow. Few are looked at:
		// a flood of ClientHellos must not cost a walk for each.
		for v, i := c.oldest, 0; v != nil && i < 32; v, i = v.newer, i+1 {
			if !v.waits && v != a {
				victim = v
				break
			}
		}
		victim.w.p.counters.shedHalfOpen.Inc()
		victim.drop(true)
	}
}

func (c *crowd) remove(a *arrival) {
	if !a.counted {
		return
	}
	if a.older != nil {
		a.older.newer = a.newer
	} else {
		c.oldest = a.newer
	}
	if a.newer != nil {
		a.newer.older = a.older
	} else {
		c.newest = a.older
	}
	a.older, a.newer, a.counted = nil, nil, false
	c.n--
}

// shedIdle ends a client's connection that has nothing under way, and reports
// whether it found one among the few that it looked at.
func (w *worker) shedIdle() bool {
	const looks = 16 // Go walks a map from a place of its choice
	i := 0
	for d := range w.conns {
		if d.state == reading && !d.partial {
			d.end(false)
			return true
		}
		if i++; i == looks {
			break
		}
	}
	i = 0
	for b := range w.bundles {
		if b.count == 0 && !b.failed {
			b.end(false)
			return true
		}
		if i++; i == looks {
			break
		}
	}
	return false
}

const (
	// manySockets is how many a loop has before it looks at what they hold: fewer
	// cannot hold much.
	manySockets = 128
	// weighEvery is how often it looks.
	weighEvery = 200 * time.Millisecond
)

func (w *worker) weighLater() { w.loop.Arm(&w.weighing, w.loop.Now()+int64(weighEvery)) }

// weigh adds up what the loop's connections hold in buffers, and ends those that
// hold most if it is more than the loop's part of Options.MaxBuffers.
func (w *worker) weigh() {
	if w.sockets < manySockets {
		return
	}
	w.weighLater()
	most := w.p.o.MaxBuffers / int64(w.p.o.Loops)
	held := w.buffers.inUse
	for d := range w.conns {
		held += int64(d.sealed())
	}
	for b := range w.bundles {
		held += int64(b.sealed())
	}
	for r := range w.relays {
		held += int64(r.a.sealed())
		if r.b != nil {
			held += int64(r.b.sealed())
		}
	}
	if held <= most {
		return
	}
	excess := held - most*3/4 // so that it is not every time
	for floor := 64 << 10; excess > 0 && floor >= 1<<10; floor /= 4 {
		for d := range w.conns {
			if n := d.weight(); n >= floor && excess > 0 {
				excess -= int64(n)
				w.p.counters.shedBuffers.Inc()
				if d.state == serving && d.x.live() {
					d.x.shed()
				} else {
					d.end(true)
				}
			}
		}
		for b := range w.bundles {
			if n := b.weight(); n >= floor && excess > 0 {
				excess -= int64(n)
				w.p.counters.shedBuffers.Inc()
				for s := b.h2.Any(); s != nil; s = b.h2.Any() {
					if x, ok := s.Owner.(*exchange); ok {
						x.shed()
					} else {
						b.h2.Release(s)
					}
				}
				b.end(true)
			}
		}
		for r := range w.relays {
			n := r.a.sealed() + cap(r.a.store) + cap(r.a.held)
			if r.b != nil {
				n += r.b.sealed() + cap(r.b.store) + cap(r.b.held)
			}
			if n >= floor && excess > 0 {
				excess -= int64(n)
				w.p.counters.shedBuffers.Inc()
				r.end(telemetry.FlagOM, true)
			}
		}
	}
}

// shed ends an exchange, and with HTTP/1 its connection, for want of memory.
func (x *exchange) shed() {
	x.flag, x.details = telemetry.FlagOM, "buffers_overload"
	if !x.headSent {
		x.status = 0
	}
	x.dropUpstream(true)
	x.observe()
	x.leg.abort()
}

// sealed is what the TLS session over the socket holds.
func (s *socket) sealed() int {
	if s.session == nil {
		return 0
	}
	return s.session.Holds()
}

// weight is what the connection holds in buffers.
func (d *downstream) weight() int {
	return d.sealed() + cap(d.store) + cap(d.held) + d.x.weight()
}

// weight is what the exchange holds, its upstream connection included.
func (x *exchange) weight() int {
	n := cap(x.req.held) + cap(x.res.held) + cap(x.kept.buf)
	if u := x.up; u != nil && u.trunk == nil {
		n += u.sealed() + cap(u.store) + cap(u.held)
	}
	return n
}

// weight is what the connection holds, with all of its streams.
func (b *bundle) weight() int {
	n := b.sealed() + cap(b.store) + cap(b.held) + cap(b.out)
	b.h2.Each(func(s *http2.Stream) {
		if x, ok := s.Owner.(*exchange); ok {
			n += x.weight()
		}
	})
	return n
}
