//go:build linux

package proxy

import (
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/seinemesh/seine/proxy/http1"
	"github.com/seinemesh/seine/proxy/loop"
)

// listen opens every listener.
func (p *Proxy) listen() error {
	o := &p.o
	limits := http1.Limits{Head: o.MaxHead, Fields: maxFields}
	add := func(d *door) error {
		fd, err := loop.Listen(d.at)
		if err != nil {
			return err
		}
		d.fd, d.at = fd, loop.LocalAddr(fd)
		d.limits = limits
		d.limits.Proxy = d.kind == doorExplicit
		if d.kind == doorInbound || d.kind == doorFixed {
			d.limits = inboundLimits(limits)
		}
		p.doors = append(p.doors, d)
		p.ports[d.at.Port()] = true
		return nil
	}
	var all []*door
	if o.Outbound.IsValid() {
		all = append(all, &door{kind: doorOutbound, at: o.Outbound})
	}
	if o.Inbound.IsValid() {
		all = append(all, &door{kind: doorInbound, at: o.Inbound})
	}
	if o.Explicit.IsValid() {
		all = append(all, &door{kind: doorExplicit, at: o.Explicit})
	}
	for _, f := range o.Forwards {
		all = append(all, &door{kind: doorFixed, at: f.Listen, target: f.App, port: f.Port})
	}
	for _, d := range all {
		if err := add(d); err != nil {
			return err
		}
		if d.kind == doorFixed && d.port == 0 {
			d.port = d.at.Port()
		}
	}
	for _, pub := range o.Published {
		if err := syscall.SetNonblock(pub.FD, true); err != nil {
			return err
		}
		syscall.CloseOnExec(pub.FD)
		p.doors = append(p.doors, &door{
			kind: doorPublished, fd: pub.FD, at: loop.LocalAddr(pub.FD), host: pub.Host, port: pub.Port, limits: limits,
		})
	}
	if len(p.doors) == 0 {
		return errNoListener
	}
	return nil
}

// inboundLimits are those of a head that has come through another sidecar: what
// that one let through and added to must not fail here.
func inboundLimits(l http1.Limits) http1.Limits {
	l.Head += addedHead
	l.Line = maxLine + addedHead
	l.Fields += addedFields
	return l
}

// Addresses are where the proxy listens, in the order outbound, inbound,
// explicit, forwards, published.
func (p *Proxy) Addresses() []netip.AddrPort {
	var out []netip.AddrPort
	for _, d := range p.doors {
		out = append(out, d.at)
	}
	return out
}

// own reports whether a is one of the proxy's own capture listeners on this
// machine: a connection there would come back.
func (p *Proxy) own(a netip.AddrPort) bool {
	if !p.ports[a.Port()] {
		return false
	}
	for _, d := range p.doors {
		if d.kind == doorPublished || d.at.Port() != a.Port() {
			continue
		}
		if d.at.Addr() == a.Addr() {
			return true
		}
		if d.at.Addr().IsUnspecified() && (a.Addr().IsLoopback() || p.local(a.Addr())) {
			return true
		}
	}
	return false
}

// local reports whether a is an address of this machine. It is asked only for
// destinations with the number of one of our own ports.
func (p *Proxy) local(a netip.Addr) bool {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return true
	}
	for _, n := range addrs {
		if ip, ok := n.(*net.IPNet); ok {
			if b, ok := netip.AddrFromSlice(ip.IP); ok && b.Unmap() == a.Unmap() {
				return true
			}
		}
	}
	return false
}

// acceptor takes connections in on the first loop and gives each to the loop
// with the fewest.
type acceptor struct {
	p     *Proxy
	w     *worker
	door  *door
	retry loop.Timer
}

func (p *Proxy) open(w *worker, d *door) {
	a := &acceptor{p: p, w: w, door: d}
	a.retry.Fire = a.Resume
	if err := w.loop.Add(d.fd, a); err != nil {
		p.log.Error("cannot serve a listener", "address", d.at, "error", err)
	}
}

// Ready is called when there are connections to accept.
func (a *acceptor) Ready(loop.Events) { a.Resume() }

// Resume accepts what there is, some at a time.
func (a *acceptor) Resume() {
	for range 64 {
		fd, errno := loop.Accept(a.door.fd)
		if errno == syscall.EAGAIN {
			return
		}
		if errno != 0 { // no descriptors or memory left: the edge does not come again
			a.p.counters.acceptFailures.Inc()
			a.w.loop.Arm(&a.retry, a.w.loop.Now()+int64(50*time.Millisecond))
			return
		}
		a.p.place(a.w, fd, a.door)
	}
	a.w.loop.Later(a)
}

// place hands an accepted descriptor over, once.
func (p *Proxy) place(here *worker, fd int, d *door) {
	to, least, all := here, here.loop.Count(), int64(0)
	for _, w := range p.workers {
		n := w.loop.Count()
		all += n
		if n < least {
			to, least = w, n
		}
	}
	if all >= int64(p.o.MaxConnections) {
		if here.shedIdle() {
			p.counters.shedIdle.Inc()
		} else {
			p.counters.overConnections.Inc()
			loop.Reset(fd)
			loop.CloseFD(fd)
			return
		}
	}
	to.loop.Reserve(1)
	if to == here {
		to.arrive(fd, d)
		return
	}
	if !to.loop.Post(func() { to.arrive(fd, d) }) {
		loop.CloseFD(fd)
	}
}

func localAddrOf(fd int) netip.AddrPort { return loop.LocalAddr(fd) }
