//go:build linux

package proxy

import (
	"time"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/message"
	"github.com/seinemesh/seine/mtls"
	"github.com/seinemesh/seine/proxy/http1"
)

// Requests of HTTP/1.1 share HTTP/2 connections between two sidecars while many
// are under way: several heads then travel in one record, one write and one
// wake-up. While few are, each has a connection of its own, which costs less
// and answers sooner. What was measured is in bench/README.md, the decision in
// docs/decisions/015-shared-connections.md.

// alpnShared is agreed on for a connection whose streams are exchanges of
// HTTP/1.1 on both ends: as far as the application can see they stay that.
var alpnShared = []string{mtls.ALPNShared}

// carryFrom is how many exchanges with one endpoint are under way on a loop, at
// least, when they begin to share connections. Fewer numbers were tried, and
// more (bench/README.md).
const carryFrom = 2

// aloneFor is how long a peer is left alone with which a shared connection came to
// nothing: an older sidecar never agrees, but one that was overloaded or
// restarted does, and costs one handshake to find out.
const aloneFor = time.Minute

// carrierFor returns the edge's pool of shared connections if x is to go over one,
// and its own pool otherwise.
func (t *target) carrierFor(w *worker, e *edge, x *exchange) *pool {
	p := e.pool
	if !p.seine || p.alone > w.loop.Now() || e.ep.DNS != "" || !x.carriable() || !t.mayCarry(p) || p.bulky(x) {
		return p
	}
	single, streams, ready := p.open-p.count, 0, false
	if e.carrier != nil {
		for _, k := range e.carrier.trunks {
			if streams += len(k.waiting); k.u.up {
				streams += k.h2.Streams()
				ready = true
			}
		}
	}
	switch {
	case x.transmitted: // another try of what is kept as HTTP/2 has it
	case streams == 0 && single+1 < w.p.o.carry: // this one counts, too
		return p
	}
	if e.carrier != nil && !ready && len(e.carrier.trunks) > 0 && p.idle != nil {
		return p // what is there need not wait for what is being opened
	}
	if e.carrier == nil {
		k := p.key
		k.h2, k.carries = true, true
		e.carrier = w.pool(k, e.alts)
	}
	e.carrier.single = p
	return e.carrier
}

// weigh notes the size of an exchange's content, which bulky asks for.
func (p *pool) weigh(content int64) {
	if p.single != nil {
		p = p.single
	}
	p.content += (content - p.content) / 8
}

// bulky reports whether the request has, or its answer likely has, more content
// than the window of a stream: frames and windows cost such content more than
// sharing spares.
func (p *pool) bulky(x *exchange) bool {
	return p.content > streamWindow || x.framing.Kind == http1.Length && x.framing.Length > streamWindow
}

// mayCarry reports whether the DestinationRule leaves the choice to us: it bounds
// no connections, and does not say which HTTP is to be spoken.
func (t *target) mayCarry(p *pool) bool {
	policy := t.cluster.Policy
	if policy.UseClientProtocol || policy.H2Upgrade != seinev1.TrafficPolicy_H2_DEFAULT {
		return false
	}
	if p.lane == nil {
		return true
	}
	l := p.lane.sh.limits.Load()
	return l.MaxConnections == 0 && l.MaxPending == 0 && l.PerConnection == 0
}

// carriable reports whether nothing of the request in worker.req would be lost
// over HTTP/2: what may become something else, wait for a 100, or carry trailers
// in either direction has a connection of its own. So has another try of what
// is kept in the form of HTTP/1.1.
func (x *exchange) carriable() bool {
	f := &x.framing
	if x.h1 == nil || x.transmitted && !x.bridged || f.Upgrade || f.ExpectContinue || f.Asked&http1.AskedOld != 0 || f.Kind != http1.None && f.Kind != http1.Length {
		return false
	}
	_, takes := message.Get(x.w.req.Fields, message.TE)
	return !takes
}

// single sends what waits for a shared connection, which came to nothing, over
// connections of their own, and asks that peer no more for aloneFor.
func (t *trunk) single() {
	p := t.u.pool.single
	p.alone = t.u.w.loop.Now() + int64(aloneFor)
	waiting := t.waiting
	t.waiting = nil
	for _, x := range waiting {
		if x.up != t.u {
			continue
		}
		x.up = nil
		x.release()
		x.pool = p
		x.forwardAgain()
	}
}
