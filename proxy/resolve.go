//go:build linux

package proxy

import (
	"context"
	"net/netip"
	"time"

	"github.com/seinemesh/seine/decide"
	"github.com/seinemesh/seine/telemetry"
)

// Resolver turns a name into addresses; net.Resolver is one, tests bring
// another.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// resolution is what a loop knows of a name.
type resolution struct {
	addrs   []netip.Addr
	expires int64 // on the loop's clock
	asking  bool
	failed  bool
	next    uint32
}

const (
	maxNames     = 1024
	resolveFor   = 5 * time.Second // how long an address is used (the resolver tells no TTL)
	resolveAgain = time.Second     // after a failure
)

// resolved returns an address of host. ok is false while it is asked for; an
// invalid address with ok means that there is none.
func (w *worker) resolved(host string) (addr netip.Addr, ok bool) {
	r := w.names[host]
	now := w.loop.Now()
	if r != nil && !r.asking && now < r.expires {
		if r.failed {
			return netip.Addr{}, true
		}
		r.next++
		return r.addrs[int(r.next)%len(r.addrs)], true
	}
	if r == nil {
		if len(w.names) >= maxNames {
			for k, v := range w.names {
				if !v.asking {
					delete(w.names, k)
				}
			}
			if len(w.names) >= maxNames {
				return netip.Addr{}, true
			}
		}
		r = &resolution{}
		w.names[host] = r
	}
	if !r.asking {
		r.asking = true
		wait := w.p.o.AnswerWait
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), wait)
			defer cancel()
			addrs, err := w.p.o.Resolver.LookupNetIP(ctx, "ip4", host)
			if err != nil || len(addrs) == 0 {
				addrs, err = w.p.o.Resolver.LookupNetIP(ctx, "ip6", host)
			}
			w.loop.Post(func() {
				r.asking = false
				r.failed = err != nil || len(addrs) == 0
				r.addrs = addrs
				r.expires = w.loop.Now() + int64(resolveFor)
				if r.failed {
					r.expires = w.loop.Now() + int64(resolveAgain)
				}
				w.published()
			})
		}()
	}
	return netip.Addr{}, false
}

// resolve sends the request to an endpoint that is a name.
func (x *exchange) resolve(ep *decide.Endpoint) bool {
	k := x.pool.key
	return x.resolveTo(ep.DNS, ep.Port, k, x.pool.alts)
}

// resolveHost sends the request to a host outside the mesh.
func (x *exchange) resolveHost(host string, port uint16) bool {
	if addr, ok := x.w.resolved(host); ok && addr.IsValid() && x.w.table.Self.Local(addr) {
		// The name is of the world, the address of the mesh: never in plaintext
		// unless the control plane says so of the address.
		x.w.name = decide.AppendAddressName(x.w.name[:0], netip.AddrPortFrom(addr, port))
		a, ok := x.ask(x.w.table)
		if !ok {
			return false
		}
		switch decide.NextAddress(a) {
		case decide.Refuse:
			x.refused(a)
			return false
		case decide.Pass:
			return x.resolveTo(host, port, poolKey{sh: x.sharing(), h2: x.wide()}, nil)
		case decide.Direct:
			return x.routed(a, x.w.req.Authority, port, true)
		}
		return x.routed(a, x.w.req.Authority, port, false)
	}
	return x.resolveTo(host, port, poolKey{sh: x.sharing(), h2: x.wide()}, nil)
}

func (x *exchange) resolveTo(host string, port uint16, k poolKey, alts []string) bool {
	addr, ok := x.w.resolved(host)
	x.resolving = !ok
	if !ok {
		x.park()
		return false
	}
	if !addr.IsValid() {
		x.details = "dns_resolution_failure"
		x.reply(503, telemetry.FlagDF, "the name "+host+" could not be resolved")
		return false
	}
	k.addr = netip.AddrPortFrom(addr.Unmap(), port)
	if x.w.p.own(k.addr) {
		x.w.p.counters.selfCalls.Inc()
		x.reply(503, telemetry.FlagLR, "the request would come back to this proxy")
		return false
	}
	x.pool = x.w.pool(k, alts)
	return true
}
