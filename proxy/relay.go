//go:build linux

package proxy

import (
	"errors"
	"net/netip"
	"time"

	"github.com/seinemesh/seine/proxy/loop"
	"github.com/seinemesh/seine/telemetry"
	"github.com/seinemesh/seine/telemetry/accesslog"
	"github.com/seinemesh/seine/telemetry/metrics"
)

// relay passes the bytes of two sockets on in both directions, each at the
// pace of its receiver, and ends of streams as ends of streams.
type relay struct {
	w        *worker
	a        *socket   // the client's side
	b        *socket   // nil until the upstream connection is there
	from     *arrival  // what chooses the endpoint; nil once there is a connection
	upstream *upstream // b's holder
	tunnel   *downstream
	door     *door
	in       *inbound // nil: outbound
	tcp      *metrics.TCP
	target   *target
	ep       int

	dialled, remote netip.AddrPort
	cluster         string
	sni             string
	born            int64
	moved           int64
	timer           loop.Timer
	turn            uint64
	queued, over    bool
	lost            bool // one side takes nothing more
	counted         bool // in tcp
	fromA, fromB    flow
	failure         string
	host            *host
	lane            *lane
	idle            int64 // how long nothing may move; <= 0: for ever
	until           int64 // when it ends whatever moves; 0: never
}

// start takes the client's side over, and the other one if it is there. A
// tunnel is counted as a request already.
func (r *relay) start() {
	w := r.w
	r.born = w.loop.Now()
	r.moved = r.born
	r.a.owner = r
	w.relays[r] = struct{}{}
	r.timer.Fire = r.idled
	r.bound()
	if d := r.tunnel; d != nil {
		w.loop.Drop(&d.idle)
		d.x.dropTimers()
		delete(w.conns, d)
	} else {
		w.inflight.Add(1)
		if r.target != nil {
			r.target.budget.requested(r.born)
		}
	}
	if r.upstream != nil {
		r.adopt(r.upstream)
		r.ready()
	}
}

// adopt makes u the relay's other side.
func (r *relay) adopt(u *upstream) {
	r.upstream = u
	u.user = r
	r.w.loop.Drop(&u.timer)
	if !u.up {
		return
	}
	r.from, r.failure = nil, ""
	if r.tunnel == nil {
		r.opened()
	}
	u.owner = r
	r.b = &u.socket
	if g := u.greeting(); g != nil {
		u.send(g, nil)
	}
}

// goes notes where the connection leads.
func (r *relay) goes(o *opaque) {
	r.tcp, r.target, r.ep, r.cluster, r.host, r.lane = o.handle, o.target, o.ep, o.cluster, o.host, o.pool.lane
}

// opened counts the connection, once it is known which endpoint has it.
func (r *relay) opened() {
	if !r.counted && r.tcp != nil {
		r.counted = true
		r.tcp.Opened()
	}
}

// dial begins the upstream connection of an opaque one.
func (r *relay) dial(o *opaque) {
	u, err := r.w.dial(o.pool, durationOf(o.connect), r, false)
	if err != nil {
		r.connectFailed(nil, err)
		return
	}
	r.upstream = u
}

func (r *relay) connected(u *upstream) {
	if r.over {
		return
	}
	r.host.streamed()
	if r.target != nil {
		now := r.w.loop.Now()
		r.target.balance.Took(r.ep, now-u.born, now, false)
	}
	r.adopt(u)
	r.ready()
}

func (r *relay) connectFailed(_ *upstream, err error) {
	if r.over {
		return
	}
	r.upstream = nil
	r.failure = connectCause(err)
	if errors.Is(err, errFull) {
		r.full()
		return
	}
	if r.elsewhere() {
		return
	}
	r.end(telemetry.FlagUF, true)
}

// Resume goes on after others had their turn.
func (r *relay) Resume() {
	r.queued = false
	r.ready()
}

func (r *relay) ready() {
	if r.over {
		return
	}
	if r.b == nil { // still connecting: only a client that resets is of interest
		if r.a.err != nil {
			r.end(telemetry.FlagDC, true)
		}
		return
	}
	if now := r.w.loop.Turn(); r.turn != now {
		r.turn, r.fromA.budget, r.fromB.budget = now, turnBudget, turnBudget
	}
	before := r.fromA.moved + r.fromB.moved
	if !r.pump(r.a, r.b, &r.fromA, telemetry.FlagDC, telemetry.FlagUC) || !r.pump(r.b, r.a, &r.fromB, telemetry.FlagUC, telemetry.FlagDC) {
		return
	}
	if r.fromA.moved+r.fromB.moved != before {
		r.moved = r.w.loop.Now()
		r.tell()
	}
	if r.a.finished && r.b.finished && !r.a.blocked() && !r.b.blocked() {
		r.end(telemetry.FlagNone, false)
		return
	}
	if (r.fromA.budget <= 0 || r.fromB.budget <= 0) && !r.queued {
		r.queued = true
		r.w.loop.Later(r)
	}
}

// pump passes on what src has as far as dst takes it; false: the relay ended. The
// flags say which side it was.
func (r *relay) pump(src, dst *socket, f *flow, ofSrc, ofDst telemetry.Flag) bool {
	for f.budget > 0 && !dst.blocked() && dst.lost == nil {
		if f.splices(src, dst) {
			if !f.splice(r.w, src, dst) {
				break
			}
			continue
		}
		if len(src.data) == 0 && !src.fill() {
			break
		}
		n := len(src.data)
		if n == 0 {
			break
		}
		dst.send(src.data, nil)
		src.consume(n)
		f.copied(n)
	}
	switch {
	case src.err != nil, src.eof && !src.clean:
		r.end(ofSrc, true)
		return false
	case dst.lost != nil && (dst.eof || dst.err != nil):
		r.end(ofDst, true)
		return false
	case dst.lost != nil: // what it said before is still read, by the other direction
		return r.discard(src, f)
	case src.eof && !dst.finished && !dst.blocked() && f.pipe == nil:
		dst.finish()
	}
	return true
}

// lostTime is how long a relay may go on once one side takes nothing more.
const lostTime = 30 * time.Second

// discard drops what src says to a side that has gone: a server that nobody reads
// from may read nothing itself, and so never get what that side said before. false:
// the relay ended.
func (r *relay) discard(src *socket, f *flow) bool {
	if !r.lost {
		r.lost = true
		if end := r.w.loop.Now() + int64(lostTime); r.until == 0 || end < r.until {
			r.until = end
		}
		if !r.postpone() {
			r.end(telemetry.FlagSI, true)
			return false
		}
	}
	f.drop(r.w)
	for f.budget > 0 && (len(src.data) > 0 || src.fill()) && len(src.data) > 0 {
		f.budget -= len(src.data)
		src.consume(len(src.data))
	}
	return true
}

// tell reports bytes to the metrics.
func (r *relay) tell() {
	if r.tcp == nil {
		return
	}
	if n := r.fromA.moved - r.fromA.told; n > 0 {
		r.tcp.Received(n)
		r.fromA.told = r.fromA.moved
	}
	if n := r.fromB.moved - r.fromB.told; n > 0 {
		r.tcp.Sent(n)
		r.fromB.told = r.fromB.moved
	}
}

func (r *relay) idled() {
	if r.postpone() {
		return
	}
	r.end(telemetry.FlagSI, true)
}

// end closes both sides.
func (r *relay) end(flag telemetry.Flag, reset bool) {
	if r.over {
		return
	}
	r.over = true
	w := r.w
	r.tell()
	delete(w.relays, r)
	w.loop.Drop(&r.timer)
	r.fromA.drop(w)
	r.fromB.drop(w)
	if u := r.upstream; u != nil {
		u.drop(reset)
	}
	if r.target != nil {
		r.target.balance.Done(r.ep)
	}
	local := r.a.localAddr()
	r.a.close(reset)
	w.loop.Reserve(-1)
	if d := r.tunnel; d != nil {
		d.x.reqExtra, d.x.resExtra = r.fromA.moved, r.fromB.moved
		d.x.flag, d.x.details = flag, "via_upstream"
		d.x.observe()
		d.x.line.drop(w)
		d.x.release()
		return
	}
	w.inflight.Add(-1)
	if r.tcp != nil {
		r.opened()
		r.tcp.Closed(flag)
	}
	if w.ring == nil {
		return
	}
	e := accesslog.Entry{
		Start: w.loop.Wall(r.born), Duration: durationOf(w.loop.Now() - r.born), UpstreamServiceTime: -1,
		Flag: flag, BytesReceived: r.fromA.moved, BytesSent: r.fromB.moved, DownstreamLocal: local, DownstreamRemote: r.remote,
		UpstreamCluster: r.cluster, UpstreamFailure: r.failure, ServerName: r.sni,
	}
	if r.dialled.IsValid() {
		e.DownstreamLocal = r.dialled
	}
	if r.upstream != nil {
		e.UpstreamHost = r.upstream.pool.key.addr
	}
	w.ring.Append(&e)
}
