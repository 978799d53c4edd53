package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/miekg/dns"
)

// Upstream asks the resolvers that a resolv.conf names, in their order.
type Upstream struct{ Servers []netip.AddrPort }

// ReadUpstream reads resolv.conf(5). A file that is missing or names no server
// gives an Upstream that answers with ErrNoResolver.
func ReadUpstream(path string) *Upstream {
	u := &Upstream{}
	c, err := dns.ClientConfigFromFile(path)
	if err != nil {
		return u
	}
	for _, s := range c.Servers {
		if a, err := netip.ParseAddr(s); err == nil {
			u.Servers = append(u.Servers, netip.AddrPortFrom(a, 53))
		}
	}
	return u
}

// Exchange asks over UDP, and over TCP if the answer does not fit.
func (u *Upstream) Exchange(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
	err := ErrNoResolver
	for _, server := range u.Servers {
		var reply *dns.Msg
		reply, err = exchange(ctx, q, server.String())
		if err == nil {
			return reply, nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, err
}

func exchange(ctx context.Context, q *dns.Msg, server string) (*dns.Msg, error) {
	c := dns.Client{Net: "udp", Timeout: 2 * time.Second}
	reply, _, err := c.ExchangeContext(ctx, q, server)
	if err == nil && !reply.Truncated {
		return reply, nil
	}
	if err != nil && !errors.Is(err, dns.ErrBuf) {
		return nil, fmt.Errorf("ask %s: %w", server, err)
	}
	c.Net = "tcp"
	if reply, _, err = c.ExchangeContext(ctx, q, server); err != nil {
		return nil, fmt.Errorf("ask %s over TCP: %w", server, err)
	}
	return reply, nil
}

// ServeUnix answers on l, with DNS's TCP framing, by asking what upstream gives
// for each question (a host changes its resolvers with its networks), until ctx
// ends; it closes l. It is the host's side of DialUnix.
func ServeUnix(ctx context.Context, l net.Listener, upstream func() *Upstream) error {
	s := &dns.Server{Listener: l, ReadTimeout: 5 * time.Second, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		reply, err := upstream().Exchange(ctx, q)
		if err != nil {
			reply = new(dns.Msg)
			reply.SetRcode(q, dns.RcodeServerFailure)
			if errors.Is(err, ErrNoResolver) {
				reply.Rcode = dns.RcodeRefused
			}
		}
		_ = w.WriteMsg(reply)
	})}
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	if err := s.ActivateAndServe(); ctx.Err() == nil {
		return fmt.Errorf("dns: serve for the mesh: %w", err)
	}
	return ctx.Err()
}

// DialUnix gives a forwarder that asks what listens on the socket path.
func DialUnix(path string) func(context.Context, *dns.Msg) (*dns.Msg, error) {
	return func(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
		if err != nil {
			return nil, fmt.Errorf("reach the host's resolver: %w", err)
		}
		defer conn.Close()
		if deadline, ok := ctx.Deadline(); ok {
			if err := conn.SetDeadline(deadline); err != nil {
				return nil, err
			}
		}
		c := &dns.Conn{Conn: conn}
		if err := c.WriteMsg(q); err != nil {
			return nil, fmt.Errorf("ask the host's resolver: %w", err)
		}
		reply, err := c.ReadMsg()
		if err != nil {
			return nil, fmt.Errorf("ask the host's resolver: %w", err)
		}
		if reply.Rcode == dns.RcodeRefused {
			return nil, ErrNoResolver
		}
		return reply, nil
	}
}
