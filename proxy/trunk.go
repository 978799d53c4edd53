//go:build linux

package proxy

import (
	"errors"
	"fmt"
	"slices"

	"github.com/seinemesh/seine/mtls"
	"github.com/seinemesh/seine/proxy/http2"
)

// trunk is an upstream connection of HTTP/2, which exchanges share.
type trunk struct {
	link
	u       *upstream
	waiting []*exchange // until it is up
	opened  int         // streams so far
	going   bool        // takes no new streams: the peer's GOAWAY, or its time is over
	resting bool        // no stream: counted as idle in its lane
}

var errNotHTTP2 = errors.New("the peer does not speak HTTP/2 here")

// dialTrunk opens a connection for x, and for others that come meanwhile. The
// place for it is taken.
func (w *worker) dialTrunk(p *pool, x *exchange) (*upstream, error) {
	t := &trunk{}
	u, err := w.dialTaken(p, durationOf(x.connect), t, true)
	if err != nil {
		return nil, err
	}
	t.u, u.trunk = u, t
	p.trunks = append(p.trunks, t)
	t.waiting = append(t.waiting, x)
	return u, nil
}

// trunk returns a connection that takes one more stream, up or being opened.
func (p *pool) trunk() *trunk {
	for i := len(p.trunks) - 1; i >= 0; i-- {
		if t := p.trunks[i]; t.takes() {
			return t
		}
	}
	return nil
}

func (t *trunk) takes() bool {
	switch {
	case t.going || t.u.closed:
		return false
	case !t.u.up:
		return len(t.waiting) < t.most()
	}
	if t.spent() {
		t.retire()
		return false
	}
	return t.h2.Streams() < t.most() && t.h2.MayOpen() && t.err == nil && !t.hup
}

// spent reports whether the connection may carry no further request.
func (t *trunk) spent() bool {
	l := t.u.pool.lane
	if l == nil {
		return false
	}
	limits := l.sh.limits.Load()
	return limits.PerConnection > 0 && t.opened >= int(limits.PerConnection) ||
		limits.MaxAge > 0 && t.w.loop.Now()-t.u.born >= int64(limits.MaxAge)
}

// most is how many streams the connection carries at once.
func (t *trunk) most() int {
	if n := t.u.pool.streams; n > 0 {
		return min(n, streamsEach)
	}
	return streamsEach
}

// retire lets the connection end once its streams have.
func (t *trunk) retire() {
	if t.going {
		return
	}
	t.going = true
	t.mark()
}

// join gives x a place, now or once the connection is up.
func (t *trunk) join(x *exchange) *upstream {
	if !t.u.up {
		t.waiting = append(t.waiting, x)
	}
	return t.u
}

// connected begins HTTP/2, and serves who waits.
func (t *trunk) connected(u *upstream) {
	if s := u.session; s != nil {
		switch s.ALPN() {
		case "seine-http/2", mtls.ALPNShared, "istio-h2", "istio", "h2", "":
		default:
			u.gaveUp(fmt.Errorf("%w: %q was agreed", errNotHTTP2, s.ALPN()))
			return
		}
	}
	t.begin(&u.socket, upstreamH2, t)
	if g := u.greeting(); g != nil {
		t.out = append(t.room(len(g)), g...)
	}
	waiting := t.waiting
	t.waiting = nil
	for _, x := range waiting {
		if x.up != u {
			continue
		}
		if !t.takes() { // the peer's limit, or a bound of the DestinationRule
			x.up = nil
			x.release()
			x.forwardAgain()
			continue
		}
		x.connected(u)
	}
	if t.h2.Streams() == 0 {
		t.rest()
	}
	t.ready()
}

func (t *trunk) connectFailed(u *upstream, err error) {
	if u.pool.key.carries && !u.connecting { // it is there, and TLS came to nothing
		t.single()
		return
	}
	waiting := t.waiting
	t.waiting = nil
	for _, x := range waiting {
		if x.up == u {
			x.connectFailed(u, err)
		}
	}
}

// forget: x waits no more.
func (t *trunk) forget(x *exchange) {
	if i := slices.Index(t.waiting, x); i >= 0 {
		t.waiting = slices.Delete(t.waiting, i, i+1)
	}
}

// rest: there is no stream. The connection is kept for a while, or ends.
func (t *trunk) rest() {
	if t.going || t.spent() {
		t.going = true
		t.mark()
		return
	}
	t.w.loop.Disarm(&t.u.timer)
	t.u.idleTimer()
	if l := t.u.pool.lane; l != nil && !t.resting {
		t.resting = true
		l.cell.idle.Add(1)
		if !l.keep() { // as in release
			t.retire()
		}
	}
}

// busy ends a rest.
func (t *trunk) busy() {
	t.w.loop.Arm(&t.u.timer, t.w.loop.Now()+int64(t.w.p.o.Pulse))
	t.notIdle()
}

func (t *trunk) notIdle() {
	if t.resting {
		t.resting = false
		t.u.pool.lane.cell.idle.Add(-1)
	}
}

// leave ends x's stream: of no use any more, or over.
func (t *trunk) leave(x *exchange) {
	s := x.us
	x.us = nil
	t.release(s)
}

// release ends a stream.
func (t *trunk) release(s *http2.Stream) {
	s.Owner = nil
	t.h2.Release(s)
	t.mark()
	t.u.served++
	if t.h2.Streams() == 0 {
		t.rest()
	}
	if l := t.u.pool.lane; l != nil && l.first != nil {
		l.wake()
	}
}

// timer: the connection idles for too long, or it is time for a sign of life.
func (t *trunk) expired() {
	switch {
	case t.h2.Streams() == 0:
		t.u.drop(false)
	case !t.alive():
		t.broken()
	default:
		t.w.loop.Arm(&t.u.timer, t.w.loop.Now()+int64(t.w.p.o.Pulse))
	}
}

// event is called for all that comes.
func (t *trunk) event(ev *http2.Event) {
	var x *exchange
	if ev.Stream != nil {
		switch o := ev.Stream.Owner.(type) {
		case *exchange:
			x = o
		case *rival:
			switch ev.Kind {
			case http2.Response:
				t.w.res = *ev.Response
				o.responded(ev.End)
			case http2.Reset:
				o.reset()
			}
			return
		}
	}
	switch ev.Kind {
	case http2.Response:
		if x != nil {
			t.w.res = *ev.Response
			x.response(ev.End)
		}
	case http2.Data:
		if x != nil {
			x.responseData(ev.Data, ev.End)
		}
	case http2.Trailers:
		if x != nil {
			x.responseTrailers(ev.Fields)
		}
	case http2.Reset:
		if x != nil {
			x.streamEnded(ev.Code, ev.Err)
		}
	case http2.Settings:
		if l := t.u.pool.lane; l != nil && l.first != nil {
			l.wake()
		}
	case http2.GoAway:
		t.retire()
	case http2.Failed:
		t.w.p.counters.badResponses.Inc()
		t.lost()
	}
}

// broken: the connection has ended.
func (t *trunk) broken() { t.lost() }

// lost ends the streams and the connection.
func (t *trunk) lost() {
	t.going = true
	for s := t.h2.Any(); s != nil; s = t.h2.Any() {
		if x, ok := s.Owner.(*exchange); ok && x.us == s {
			x.streamEnded(http2.InternalError, nil)
			if x.us != s {
				continue
			}
			x.us = nil
		} else if r, ok := s.Owner.(*rival); ok {
			r.reset()
			continue
		}
		t.h2.Release(s)
	}
	t.u.drop(t.err != nil)
}

// written: a connection that is of no further use ends.
func (t *trunk) written() {
	if t.going && t.h2.Streams() == 0 && !t.blocked() {
		t.u.drop(false)
	}
}

// gone: the upstream connection is closed.
func (t *trunk) gone() {
	t.notIdle()
	t.free()
	p := t.u.pool
	if i := slices.Index(p.trunks, t); i >= 0 {
		p.trunks = slices.Delete(p.trunks, i, i+1)
	}
}
