// Package hostdial connects in the host's network on behalf of programs that
// have none, and hands the connected socket over.
//
// The protocol, over a stream unix socket, one request for each connection:
// the client writes "IP:PORT\n"; the server answers with one byte 'k', the
// connected descriptor attached by SCM_RIGHTS, or with 'e' and the reason as
// text until the end. The server never opens what Refuse forbids, and never
// keeps more than a bounded number of attempts.
package hostdial

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Server answers requests.
type Server struct {
	// Refuse says why an address may not be dialled; "" allows it. nil: Refuse.
	Refuse func(netip.AddrPort) string
	// Dial connects; nil: a net.Dialer. It must return a *net.TCPConn.
	Dial    func(context.Context, netip.AddrPort) (net.Conn, error)
	Limit   int           // attempts at once; 256 if zero
	Timeout time.Duration // for one attempt; 10 s if zero
	Log     *slog.Logger  // nil: discard
}

// maxRequest bounds the request line: "[v6%zone]:port".
const maxRequest = 128

// Serve answers on l until ctx ends, and closes l. It returns once every
// attempt has ended.
func (s *Server) Serve(ctx context.Context, l *net.UnixListener) error {
	log := s.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	limit := s.Limit
	if limit == 0 {
		limit = 256
	}
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	slots, refusals := make(chan struct{}, limit), make(chan struct{}, limit)
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return ctx.Err()
			}
			log.Warn("host dialer: accept", "err", err)
			select { // out of descriptors: give others time to close theirs
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		select {
		case slots <- struct{}{}:
			wg.Go(func() {
				defer func() { <-slots }()
				defer c.Close()
				if err := s.answer(ctx, c); err != nil {
					log.Debug("host dialer", "err", err)
					refuse(c, err.Error())
				}
			})
			continue
		default:
		}
		select {
		case refusals <- struct{}{}:
			wg.Go(func() {
				defer func() { <-refusals }()
				defer c.Close()
				refuse(c, "too many connections are being opened at once")
			})
		default:
			c.Close()
		}
	}
}

// refuse says why, and reads what the client still sends: closing with that
// unread would take the answer away from it.
func refuse(c *net.UnixConn, why string) {
	_, _ = io.WriteString(c, "e"+why)
	_ = c.CloseWrite()
	_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	_, _ = io.CopyN(io.Discard, c, 64<<10)
}

func (s *Server) answer(ctx context.Context, c *net.UnixConn) error {
	timeout := s.Timeout
	if timeout == 0 {
		timeout = 10 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	// A client that goes away, or ctx, ends the wait for its request.
	stop := context.AfterFunc(ctx, func() { c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	to, err := readRequest(c)
	if err != nil {
		return err
	}
	refuse := s.Refuse
	if refuse == nil {
		refuse = func(a netip.AddrPort) string { return Refuse(a, nil) }
	}
	if why := refuse(to); why != "" {
		return fmt.Errorf("%s: %s", to, why)
	}
	dial := s.Dial
	if dial == nil {
		dial = func(ctx context.Context, a netip.AddrPort) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", a.String())
		}
	}
	conn, err := dial(ctx, to)
	if err != nil {
		return err
	}
	defer conn.Close()
	return send(c, conn)
}

// readRequest reads one line.
func readRequest(r io.Reader) (netip.AddrPort, error) {
	line, err := bufio.NewReaderSize(io.LimitReader(r, maxRequest), maxRequest).ReadString('\n')
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("request: want IP:PORT and a line feed within %d bytes", maxRequest)
	}
	to, err := netip.ParseAddrPort(strings.TrimSuffix(line, "\n"))
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("request: want IP:PORT: %w", err)
	}
	return netip.AddrPortFrom(to.Addr().Unmap(), to.Port()), nil
}

// Refuse is the rule for what the outside is: not the mesh's own prefixes, which
// mean something else on the host, and not the host's loopback.
func Refuse(a netip.AddrPort, mesh []netip.Prefix) string {
	switch ip := a.Addr(); {
	case a.Port() == 0:
		return "port 0 cannot be dialled"
	case ip.IsLoopback():
		return "the host's loopback is not reachable from the mesh"
	case ip.IsUnspecified() || ip.IsMulticast() || ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "not an address of one host"
	default:
		for _, p := range mesh {
			if p.Contains(ip) {
				return fmt.Sprintf("is in %s, which is the mesh's own: nothing outside has it", p)
			}
		}
	}
	return ""
}

// send hands conn's descriptor over.
func send(c *net.UnixConn, conn net.Conn) error {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return fmt.Errorf("host dialer: %T is not a TCP connection", conn)
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return err
	}
	var sendErr error
	if err := raw.Control(func(fd uintptr) {
		_, _, sendErr = c.WriteMsgUnix([]byte{'k'}, syscall.UnixRights(int(fd)), nil)
	}); err != nil {
		return err
	}
	return sendErr
}
