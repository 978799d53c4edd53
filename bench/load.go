package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// paced is what the open-loop generator reports on standard output.
type paced struct {
	Requests int     `json:"requests"`
	Failed   int     `json:"failed"` // other than 200, or a connection that broke
	Seconds  float64 `json:"seconds"`
	P50      float64 `json:"p50_us"`
	P90      float64 `json:"p90_us"`
	P99      float64 `json:"p99_us"`
	P999     float64 `json:"p999_us"`
	Max      float64 `json:"max_us"`
}

// generator sends requests from one thread over a fixed set of connections.
type generator struct {
	epoll   int
	request []byte
	conns   map[int]*conn
	idle    []*conn
	busy    int
	buf     []byte
}

type conn struct {
	fd       int
	intended time.Duration // of the request in flight
	in       []byte        // the head of its answer, until that is whole
	left     int           // content that has yet to come, once the head is there
	ok       bool          // the answer is a 200
	busy     bool
}

func newGenerator(addr, host, path string, connections int) (*generator, error) {
	runtime.LockOSThread()
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	g := &generator{
		epoll: epoll, conns: map[int]*conn{}, buf: make([]byte, 64<<10),
		request: get(host, path),
	}
	sa, err := sockaddr(addr)
	if err != nil {
		return nil, err
	}
	for range connections {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		if err := unix.Connect(fd, sa); err != nil {
			return nil, fmt.Errorf("connect %s: %w", addr, err)
		}
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		if err := errors.Join(unix.SetNonblock(fd, true), watch(epoll, fd, unix.EPOLLIN)); err != nil {
			return nil, err
		}
		c := &conn{fd: fd, in: make([]byte, 0, 4096)}
		g.conns[fd] = c
		g.idle = append(g.idle, c)
	}
	return g, nil
}

// get is a request.
func get(host, path string) []byte {
	return fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", path, host)
}

// send begins one request; false if every connection is busy.
func (g *generator) send(intended time.Duration) (bool, error) {
	if len(g.idle) == 0 {
		return false, nil
	}
	c := g.idle[0] // in turn, so that all of a proxy's threads take part
	g.idle = append(g.idle[:0], g.idle[1:]...)
	c.intended, c.busy, c.in, c.left, c.ok = intended, true, c.in[:0], 0, false
	g.busy++
	n, err := unix.Write(c.fd, g.request)
	if err == nil && n != len(g.request) {
		err = io.ErrShortWrite
	}
	return true, err
}

// receive takes in what a connection has; done once its answer is complete.
func (g *generator) receive(fd int) (c *conn, done, ok bool, err error) {
	c = g.conns[fd]
	n, err := unix.Read(fd, g.buf)
	switch {
	case err == unix.EAGAIN || err == unix.EINTR:
		return c, false, false, nil
	case err != nil:
		return c, false, false, err
	case n == 0 && c.busy:
		return c, false, false, io.ErrUnexpectedEOF
	case n == 0:
		return c, false, false, errors.New("an idle connection was closed")
	}
	if c.left > 0 {
		c.left -= n
	} else {
		c.in = append(c.in, g.buf[:n]...)
		size, content, ok := parseHead(c.in)
		if size == 0 {
			return c, false, false, nil
		}
		c.left, c.ok = content-(len(c.in)-size), ok
	}
	if c.left > 0 {
		return c, false, false, nil
	}
	c.busy = false
	g.busy--
	g.idle = append(g.idle, c)
	return c, true, c.ok && c.left == 0, nil
}

// parseHead reads an answer's head: its size (0: not yet whole), its
// Content-Length, and whether it is a 200 that has one.
func parseHead(b []byte) (size, content int, ok bool) {
	head, _, found := bytes.Cut(b, []byte("\r\n\r\n"))
	if !found {
		return 0, 0, false
	}
	size = len(head) + 4
	const field = "\r\ncontent-length:"
	for i := 0; i+len(field) <= len(head); i++ {
		if head[i] == '\r' && bytes.EqualFold(head[i:i+len(field)], []byte(field)) {
			value, _, _ := bytes.Cut(head[i+len(field):], []byte("\r"))
			n, err := strconv.Atoi(string(bytes.TrimSpace(value)))
			if err != nil {
				return size, 0, false
			}
			return size, n, bytes.HasPrefix(head, []byte("HTTP/1.1 200 "))
		}
	}
	return size, 0, false // no length: nothing that this generator asked for
}

// openLoop sends rate requests each second at even times, whatever the answers
// do, and counts each latency from the time at which its request was due: a
// stall is felt by every request that it delays.
func openLoop(addr, host string, rate, connections int, warmup, length time.Duration) (*paced, error) {
	g, err := newGenerator(addr, host, pathSmall, connections)
	if err != nil {
		return nil, err
	}
	timer, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	interval := time.Second / time.Duration(rate)
	spec := unix.NsecToTimespec(int64(interval))
	if err := errors.Join(unix.TimerfdSettime(timer, 0, &unix.ItimerSpec{Interval: spec, Value: spec}, nil), watch(g.epoll, timer, unix.EPOLLIN)); err != nil {
		return nil, err
	}
	skip := int(warmup / interval)
	total := skip + int(length/interval)
	p := &paced{}
	latencies := make([]time.Duration, 0, total)
	events := make([]unix.EpollEvent, 64)
	start := time.Now()
	var began time.Duration
	sent, ended := 0, 0
	for ended < total {
		n, err := unix.EpollWait(g.epoll, events, 5000)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return nil, fmt.Errorf("no answer for 5 s after %d of %d requests", ended, total)
		}
		for _, e := range events[:n] {
			if int(e.Fd) == timer {
				_, _ = unix.Read(timer, g.buf[:8])
				continue
			}
			c, done, ok, err := g.receive(int(e.Fd))
			if err != nil {
				return nil, err
			}
			if !done {
				continue
			}
			if ended++; ended <= skip {
				began = time.Since(start)
				continue
			}
			p.Requests++
			if !ok {
				p.Failed++
			}
			latencies = append(latencies, time.Since(start)-c.intended)
		}
		for due := min(int(time.Since(start)/interval), total); sent < due; sent++ {
			began, err := g.send(time.Duration(sent+1) * interval)
			if err != nil {
				return nil, err
			}
			if !began {
				break // it is sent when a connection is free, late by its own clock
			}
		}
	}
	p.Seconds = (time.Since(start) - began).Seconds()
	slices.Sort(latencies)
	at := func(q float64) float64 {
		return float64(latencies[min(int(q*float64(len(latencies))), len(latencies)-1)].Nanoseconds()) / 1000
	}
	p.P50, p.P90, p.P99, p.P999, p.Max = at(0.5), at(0.9), at(0.99), at(0.999), at(1)
	return p, nil
}

// hold opens connections, has one request for path answered on each, says
// "ready" and keeps them open until standard input ends. No more than inFlight
// requests wait at a time, and one begins each interval.
func hold(addr, host, path string, connections, inFlight int, interval time.Duration) error {
	g, err := newGenerator(addr, host, path, connections)
	if err != nil {
		return err
	}
	waiting := g.idle
	g.idle = nil
	events := make([]unix.EpollEvent, 64)
	var next, heard time.Time
	for heard = time.Now(); len(waiting) > 0 || g.busy > 0; {
		now := time.Now()
		for g.busy < inFlight && len(waiting) > 0 && !now.Before(next) {
			g.idle = append(g.idle[:0], waiting[0])
			waiting = waiting[1:]
			if _, err := g.send(0); err != nil {
				return err
			}
			heard, next = now, now.Add(interval)
		}
		wait := 10_000
		if len(waiting) > 0 && g.busy < inFlight {
			wait = 1
		}
		n, err := unix.EpollWait(g.epoll, events, wait)
		if err != nil && err != unix.EINTR {
			return err
		}
		if n > 0 {
			heard = time.Now()
		} else if time.Since(heard) > 10*time.Second {
			return fmt.Errorf("no answer for 10 s; %d connections wait for one", g.busy)
		}
		for _, e := range events[:max(n, 0)] {
			_, done, ok, err := g.receive(int(e.Fd))
			if err != nil {
				return err
			}
			if done && !ok {
				return errors.New("a request failed")
			}
		}
	}
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

func printJSON(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = fmt.Printf("%s\n", b)
	return err
}

func sockaddr(addr string) (unix.Sockaddr, error) {
	a, err := netip.ParseAddrPort(addr)
	if err != nil || !a.Addr().Is4() {
		return nil, fmt.Errorf("%q is not IPv4:PORT", addr)
	}
	return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}, nil
}
