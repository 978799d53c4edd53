//go:build linux

package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/seinemesh/seine/proxy/http1"
	"github.com/seinemesh/seine/proxy/loop"
)

// established answers CONNECT and makes the two connections one stream.
func (x *exchange) established() {
	x.ticket.attached()
	x.host.connected()
	x.leg.again()
	if x.h1 == nil {
		x.established2()
		return
	}
	d := x.h1
	d.consume(x.head)
	x.status, x.headSent, x.reqDone = 200, true, true
	d.send(bytesOf(http1.Established), nil)
	d.beTunnel()
}

// beTunnel hands both connections to a relay.
func (d *downstream) beTunnel() {
	r := &relay{w: d.w, a: d.socket, tunnel: d, upstream: d.x.up, in: d.in}
	d.x.up, d.state, d.x.phase = nil, tunnelling, vacant
	r.start()
}

// outside reports whether connections to that address are made by the host
// dialer: all that leave the mesh, if there is one.
func (w *worker) outside(to netip.AddrPort) bool {
	return w.p.o.HostDialer != "" && !to.Addr().IsLoopback() && !w.current().Self.Local(to.Addr())
}

// dialOutside has the host dialer make u's connection.
func (w *worker) dialOutside(u *upstream, timeout time.Duration) {
	path, to := w.p.o.HostDialer, u.pool.key.addr
	go func() {
		fd, err := hostDial(path, to, timeout)
		taken := w.loop.Post(func() {
			if u.closed {
				if err == nil {
					loop.CloseFD(fd)
				}
				return
			}
			if err == nil {
				u.keepAlive(fd)
				if err = u.open(w, fd, u); err == nil {
					return
				}
			}
			u.fd, u.closed = -1, false // so that it is given up as any other
			u.gaveUp(fmt.Errorf("connect to %v outside the mesh: %w", to, err))
		})
		if !taken && err == nil {
			loop.CloseFD(fd)
		}
	}()
}

// hostDial asks the host dialer for a connection: "IP:PORT\n" out, 'k' with
// the descriptor or 'e' with the reason back.
func hostDial(path string, to netip.AddrPort, timeout time.Duration) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	c, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil {
		return -1, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(timeout))
	if _, err := fmt.Fprintf(c, "%v\n", to); err != nil {
		return -1, err
	}
	var said [1]byte
	oob := make([]byte, syscall.CmsgSpace(4))
	n, nOOB, _, _, err := c.(*net.UnixConn).ReadMsgUnix(said[:], oob)
	if err != nil {
		return -1, err
	}
	if n == 1 && said[0] == 'k' {
		messages, err := syscall.ParseSocketControlMessage(oob[:nOOB])
		if err != nil || len(messages) != 1 {
			return -1, errors.New("the host dialer sent no descriptor")
		}
		fds, err := syscall.ParseUnixRights(&messages[0])
		if err != nil || len(fds) != 1 {
			return -1, errors.New("the host dialer sent no descriptor")
		}
		syscall.CloseOnExec(fds[0])
		if err := syscall.SetNonblock(fds[0], true); err != nil {
			loop.CloseFD(fds[0])
			return -1, err
		}
		loop.NoDelay(fds[0])
		return fds[0], nil
	}
	reason, _ := io.ReadAll(io.LimitReader(c, 512))
	return -1, fmt.Errorf("host dialer: %s", bytes.TrimSpace(reason))
}
