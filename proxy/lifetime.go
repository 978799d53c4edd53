//go:build linux

package proxy

import (
	"strconv"

	"github.com/seinemesh/seine/proxy/loop"
	"github.com/seinemesh/seine/telemetry"
)

// keepAlive switches TCP keep-alive on where the DestinationRule wants it.
func (u *upstream) keepAlive(fd int) {
	if l := u.pool.lane; l != nil {
		if k := l.sh.limits.Load().Keepalive; k != nil {
			loop.KeepAlive(fd, int(k.Probes), k.Time, k.Interval)
		}
	}
}

// idleEvent: an idle connection has nothing to say. Data or an end retire it.
func (u *upstream) idleEvent() {
	for u.fill() {
		if u.eof || u.err != nil || len(u.data) > 0 {
			u.drop(u.err != nil)
			return
		}
	}
}

// release gives an unused or cleanly finished connection back to its pool.
func (u *upstream) release() {
	u.user = nil
	if u.closed {
		return
	}
	if u.eof || u.err != nil || u.hup || len(u.data) > 0 || u.blocked() || !u.http || u.pool.count >= maxIdle || u.spent() {
		u.drop(false)
		return
	}
	u.pool.put(u)
	u.idleTimer()
	// A request of another loop may have begun to wait since spent looked, and have
	// seen no idle connection here: it is looked for again now that there is one.
	if l := u.pool.lane; l != nil && !l.keep() {
		u.drop(false)
	}
}

// spent reports whether the connection may carry no further request.
func (u *upstream) spent() bool {
	l := u.pool.lane
	if l == nil {
		return false
	}
	limits := l.sh.limits.Load()
	return limits.PerConnection > 0 && u.served >= int(limits.PerConnection) ||
		limits.MaxAge > 0 && u.w.loop.Now()-u.born >= int64(limits.MaxAge) ||
		!l.keep()
}

const (
	// A connection that read a record of more than largeRecord bytes holds that much
	// as long as it lives (mtls.Session.Kept). Idle ones live for the largeShare-th part
	// of the time of others, where no DestinationRule says how long: what large answers
	// took goes while those that cost little are kept.
	largeRecord, largeShare = 4 << 10, 6
)

// idleTimer sets when a connection that was put into its pool ends.
func (u *upstream) idleTimer() {
	now, idle := u.w.loop.Now(), int64(u.w.p.o.UpstreamIdle)
	if u.session != nil && u.session.Kept() > largeRecord {
		idle /= largeShare
	}
	if l := u.pool.lane; l != nil {
		limits := l.sh.limits.Load()
		if limits.Idle != 0 {
			idle = int64(limits.Idle)
		}
		if limits.MaxAge > 0 {
			if left := u.born + int64(limits.MaxAge) - now; idle < 0 || left < idle {
				idle = left
			}
		}
	}
	if u.pool.key.intro.version != 0 && (idle < 0 || idle > int64(introIdle)) {
		idle = int64(introIdle) // it is of use to one client's connection alone
	}
	if idle < 0 {
		return
	}
	u.w.loop.Arm(&u.timer, now+idle)
}

// bound says how long the relay may last, and arms its timer.
func (r *relay) bound() {
	l := r.lane
	if l == nil && r.upstream != nil {
		l = r.upstream.pool.lane
	}
	r.idle = int64(r.w.p.o.TCPIdle)
	if l != nil {
		limits := l.sh.limits.Load()
		if limits.TCPIdle != 0 {
			r.idle = int64(limits.TCPIdle)
		}
		if limits.MaxAge > 0 {
			r.until = r.born + int64(limits.MaxAge)
		}
	}
	r.postpone()
}

// postpone arms the timer for when the relay may next have to end; false if
// that time has come.
func (r *relay) postpone() bool {
	var due int64
	if r.idle > 0 {
		due = r.moved + r.idle
	}
	if r.until > 0 && (due == 0 || r.until < due) {
		due = r.until
	}
	if due == 0 {
		return true
	}
	if due <= r.w.loop.Now() {
		return false
	}
	r.w.loop.Arm(&r.timer, due)
	return true
}

// full ends a stream for which there is no place: fail fast.
func (r *relay) full() {
	if r.lane != nil {
		r.lane.sh.refused[boundConnections].Inc()
		r.failure = r.lane.sh.causes.Load()[boundConnections]
	}
	r.end(telemetry.FlagUO, true)
}

// sharing is what the request's cluster shares; nil if nothing.
func (x *exchange) sharing() *shared {
	if x.target == nil {
		return nil
	}
	return x.target.sh
}

// noneHealthy says why there is nobody to pick.
func (t *target) noneHealthy(key, subset string) string {
	text := "no healthy endpoint of " + key + " " + subset
	if t.sh != nil {
		if out := t.sh.ejected.Load(); out != nil {
			text += ": outlierDetection has ejected " + strconv.Itoa(len(*out))
		}
	}
	return text
}
