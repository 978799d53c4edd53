//go:build linux

// Package proof shows that a sidecar's redirect rules hold.
//
// In: the redirected connections that the proxy offers (Divert), and the time.
// Out: an HTTP listener that serves those of them that are for the sidecar
// itself, and Failure, a sentence on what does not hold.
//
// Three things are shown. What leaves is caught: the sidecar connects to an
// address that nobody has, and meets itself. What it sends to its own
// workload's address passes the inbound half: likewise. What comes from outside
// is caught: the kubelet's own readiness requests arrive at the inbound
// listener; one that comes straight to the readiness port has come past it.
//
// The package never decides what happens to a workload; it only says.
package proof

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

// Path answers a connection that was caught with this process's token.
const Path = "/proof"

// Options say what to prove.
type Options struct {
	// Port is the sidecar's readiness port; inbound connections to it, and
	// outbound ones to it at one of Addresses, are for the sidecar itself.
	Port uint16
	// Addresses are what the sidecar dials to meet itself: one for IPv4, one
	// for IPv6 (capture.ProofAddresses).
	Addresses []netip.Addr
	// Own returns the workload's own addresses at this moment; nil: those of
	// the machine's interfaces.
	Own func() ([]netip.Addr, error)
	// Every is how often it is proved again; 0: 15 s.
	Every time.Duration
	// Changed is told when that changes ("": it holds); nil: not.
	Changed func(failure string)
}

// Proof is one sidecar's. Make it with New.
type Proof struct {
	o        Options
	token    string
	accepted chan net.Conn
	closed   chan struct{}
	once     sync.Once
	client   http.Client

	mu      sync.Mutex
	failure string // "": holds
}

// pending bounds connections that nobody has served yet.
const pending = 64

// New returns a proof of which nothing holds yet.
func New(o Options) *Proof {
	if o.Every == 0 {
		o.Every = 15 * time.Second
	}
	if o.Own == nil {
		o.Own = interfaceAddresses
	}
	return &Proof{
		o: o, token: rand.Text(), accepted: make(chan net.Conn, pending), closed: make(chan struct{}),
		failure: "the redirect has not been proved yet",
		client: http.Client{
			Timeout: 3 * time.Second,
			// Its own connection for each proof, and never a proxy's.
			Transport:     &http.Transport{DisableKeepAlives: true, DialContext: (&net.Dialer{Timeout: 2 * time.Second}).DialContext},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// Divert takes a redirected connection that is for the sidecar itself; it does
// not wait. It is proxy.Options.Divert.
func (p *Proof) Divert(fd int, dialled netip.AddrPort, inbound bool) bool {
	if dialled.Port() != p.o.Port || (!inbound && !p.reserved(dialled.Addr())) {
		return false
	}
	f := os.NewFile(uintptr(fd), "diverted")
	c, err := net.FileConn(f) // a duplicate
	_ = f.Close()
	if err != nil {
		return true
	}
	select {
	case <-p.closed:
		_ = c.Close()
	case p.accepted <- caught{c, inbound}:
	default:
		_ = c.Close()
	}
	return true
}

func (p *Proof) reserved(a netip.Addr) bool {
	for _, r := range p.o.Addresses {
		if a == r {
			return true
		}
	}
	return false
}

// caught is a connection that the rules brought. Its local address tells, so
// that it is known under whatever a server wraps around it.
type caught struct {
	net.Conn
	inbound bool
}

// LocalAddr is a caughtAddr.
func (c caught) LocalAddr() net.Addr { return caughtAddr{c.Conn.LocalAddr(), c.inbound} }

type caughtAddr struct {
	net.Addr
	inbound bool
}

// Accept, Close and Addr make a listener of the connections that were caught.
func (p *Proof) Accept() (net.Conn, error) {
	select {
	case c := <-p.accepted:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

// Close ends Accept.
func (p *Proof) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

// Addr is of the readiness port.
func (p *Proof) Addr() net.Addr { return &net.TCPAddr{Port: int(p.o.Port)} }

type contextKey struct{}

// ConnContext is for the http.Server that serves caught and direct connections.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	if a, ok := c.LocalAddr().(caughtAddr); ok {
		return context.WithValue(ctx, contextKey{}, a.inbound)
	}
	return ctx
}

// Bypassed reports whether a request came from another machine straight to the
// readiness port: inbound connections are not redirected then.
func Bypassed(r *http.Request) bool {
	if _, ok := r.Context().Value(contextKey{}).(bool); ok {
		return false
	}
	a, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || a.Addr().Unmap().IsLoopback() {
		return false
	}
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return false
	}
	l, err := netip.ParseAddrPort(local.String())
	return err == nil && l.Addr().Unmap() != a.Addr().Unmap()
}

// ServeHTTP answers Path: with the token where the connection was caught.
func (p *Proof) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	inbound, ok := r.Context().Value(contextKey{}).(bool)
	if !ok {
		http.Error(w, "not redirected", http.StatusNotFound)
		return
	}
	_, _ = fmt.Fprintf(w, "%s %s", p.token, direction(inbound))
}

func direction(inbound bool) string {
	if inbound {
		return "inbound"
	}
	return "outbound"
}

// Failure is what does not hold, as a sentence; "" if all does.
func (p *Proof) Failure() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.failure
}

// Run proves again and again until ctx ends: every second until it holds, and
// then every Options.Every.
func (p *Proof) Run(ctx context.Context) {
	for {
		failure := ""
		if err := p.prove(ctx); err != nil {
			failure = err.Error()
		}
		if ctx.Err() != nil {
			return
		}
		p.mu.Lock()
		changed := failure != p.failure
		p.failure = failure
		p.mu.Unlock()
		if changed && p.o.Changed != nil {
			p.o.Changed(failure)
		}
		wait := p.o.Every
		if failure != "" {
			wait = time.Second
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// prove shows both halves for each address family that the workload has.
func (p *Proof) prove(ctx context.Context) error {
	own, err := p.o.Own()
	if err != nil {
		return fmt.Errorf("cannot read the workload's own addresses: %w", err)
	}
	for _, is4 := range []bool{true, false} {
		mine, ok := first(own, is4)
		if !ok {
			continue
		}
		if reserved, ok := first(p.o.Addresses, is4); ok {
			// Without a route to anywhere nothing leaves, and nothing needs to be caught.
			if err := p.meet(ctx, reserved, "outbound"); err != nil && !errors.Is(err, syscall.ENETUNREACH) {
				return fmt.Errorf("outbound connections are not redirected to the sidecar (%s): %w", family(is4), err)
			}
		}
		if err := p.meet(ctx, mine, "inbound"); err != nil {
			return fmt.Errorf("connections to the workload's own address are not redirected to the sidecar (%s): %w", family(is4), err)
		}
	}
	return nil
}

func family(is4 bool) string {
	if is4 {
		return "IPv4"
	}
	return "IPv6"
}

func first(list []netip.Addr, is4 bool) (netip.Addr, bool) {
	for _, a := range list {
		if a.Is4() == is4 {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// meet dials and expects this very process, come by the listener named.
func (p *Proof) meet(ctx context.Context, to netip.Addr, by string) error {
	ctx, cancel := context.WithTimeout(ctx, p.client.Timeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+netip.AddrPortFrom(to, p.o.Port).String()+Path, nil)
	if err != nil {
		return err
	}
	answer, err := p.client.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	got, err := io.ReadAll(io.LimitReader(answer.Body, 256))
	if err != nil {
		return err
	}
	if string(got) != p.token+" "+by {
		return fmt.Errorf("%v was answered by something else", netip.AddrPortFrom(to, p.o.Port))
	}
	return nil
}

// interfaceAddresses are the global addresses of this machine's devices.
func interfaceAddresses() ([]netip.Addr, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var out []netip.Addr
	for _, n := range all {
		if ip, ok := n.(*net.IPNet); ok {
			if a, ok := netip.AddrFromSlice(ip.IP); ok {
				a = a.Unmap()
				if a.IsGlobalUnicast() && a != netip.AddrFrom16([16]byte{15: 6}) {
					out = append(out, a)
				}
			}
		}
	}
	return out, nil
}
