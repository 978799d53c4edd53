//go:build linux

package proxy

import (
	"fmt"
	"strings"
)

// state describes what a proxy holds, for a test that failed.
func (r *running) state() string {
	var b strings.Builder
	for i, w := range r.workers {
		done := make(chan struct{})
		w.loop.Post(func() {
			defer close(done)
			fmt.Fprintf(&b, "loop %d: inflight %d, count %d, sockets %d, buffers %d, arrivals %d, relays %d, parked %d\n", i, w.inflight.Load(), w.loop.Count(), w.sockets, w.buffers.inUse, len(w.arrivals), len(w.relays), len(w.parked))
			for c := range w.bundles {
				fmt.Fprintf(&b, "  bundle %v count %d streams %d out %d data %d %s\n", c.remote, c.count, c.h2.Streams(), len(c.out), len(c.data), c.flags())
				if s := c.h2.Any(); s != nil {
					if x, ok := s.Owner.(*exchange); ok {
						fmt.Fprintf(&b, "    one: phase %d status %d request %+v response %+v rest %d window %d\n", x.phase, x.status,
							[]any{x.req.open, x.req.end, x.req.done, len(x.req.held)}, []any{x.res.open, x.res.end, x.res.done, len(x.res.held)}, len(s.Rest()), s.Window())
						if x.up != nil {
							fmt.Fprintf(&b, "    upstream data %d %s up %v served %d user %v replay %d queued %v try %v\n", len(x.up.data), x.up.flags(), x.up.up, x.up.served, x.up.user == x, len(x.replay), x.queued,
								[]any{x.transmitted, x.retried, x.replayable, x.resStarted, x.reqDone, x.framing})
						}
					}
				}
			}
			for d := range w.conns {
				fmt.Fprintf(&b, "  downstream %v phase %d state %d partial %v data %d %s budget %d queued %v x %+v\n", d.remote, d.x.phase, d.state, d.partial, len(d.data), d.socket.flags(), d.budget, d.queued,
					[]any{d.x.transmitted, d.x.reqDone, d.x.resStarted, d.x.headSent, d.x.resDone, d.x.retried, d.x.status})
				if d.x.up != nil {
					fmt.Fprintf(&b, "    upstream data %d %s connecting %v up %v served %d\n", len(d.x.up.data), d.x.up.flags(), d.x.up.connecting, d.x.up.up, d.x.up.served)
				}
			}
		})
		<-done
	}
	return b.String()
}

func (s *socket) flags() string {
	return fmt.Sprintf("[readable %v writable %v hup %v eof %v clean %v undrained %v finished %v blocked %v err %v lost %v]",
		s.readable, s.writable, s.hup, s.eof, s.clean, s.undrained, s.finished, s.blocked(), s.err, s.lost)
}
