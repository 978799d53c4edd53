package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// meter takes the samples of one cell.
type meter struct {
	o       *options
	pair    *pair
	plane   string
	round   int
	dir     string
	samples []sample
}

func (m *meter) sample(name string, then steal) (*sample, error) {
	s := sample{Case: name, Plane: m.plane, Round: m.round + 1, Steal: readSteal().since(then)}
	for _, p := range m.pair.proxy {
		s.Processes += len(p.pids())
	}
	b, err := memory(m.pair.proxy)
	if err != nil {
		return nil, err
	}
	rss := float64(b) / (1 << 20)
	s.RSS = &rss
	m.samples = append(m.samples, s)
	return &m.samples[len(m.samples)-1], nil
}

// spent measures what the processes use while run runs, and takes the sample.
func (m *meter) spent(name string, of []*proc, run func() error) (s *sample, used time.Duration, err error) {
	then := readSteal()
	before, err := cpu(of)
	if err != nil {
		return nil, 0, err
	}
	if err := run(); err != nil {
		return nil, 0, err
	}
	after, err := cpu(of)
	if err != nil {
		return nil, 0, err
	}
	s, err = m.sample(name, then)
	return s, after - before, err
}

// per is time for each of n, in microseconds.
func per(used time.Duration, n int) *float64 {
	f := float64(used.Nanoseconds()) / 1000 / float64(n)
	return &f
}

func (m *meter) idle(ctx context.Context) error {
	then := readSteal()
	if err := pause(ctx, m.o.settle); err != nil {
		return err
	}
	_, err := m.sample(caseIdle, then)
	return err
}

// held measures the memory while 1,000 connections that have been used are
// open, 64 of them at a time.
func (m *meter) held(ctx context.Context) error {
	return m.holding(ctx, pathSmall, heldConnections, 64, 0, func() error {
		_, err := m.sample(caseHeld, readSteal())
		return err
	})
}

// crowded measures the memory of connections that all have a request under way
// at the same time, so that each has one of its own between the sidecars and to
// the application too, and then are idle.
func (m *meter) crowded(ctx context.Context, name, path string, connections int, interval time.Duration) error {
	if err := pause(ctx, m.o.settle); err != nil {
		return err
	}
	base, err := memory(m.pair.proxy)
	if err != nil {
		return err
	}
	return m.holding(ctx, path, connections, connections, interval, func() error {
		// Idle for a while, whoever collects garbage or gives memory back.
		if err := pause(ctx, 3*m.o.settle); err != nil {
			return err
		}
		s, err := m.sample(name, readSteal())
		if err != nil {
			return err
		}
		each := (*s.RSS*(1<<20) - float64(base)) / 1024 / float64(connections)
		s.Each, s.Requests = &each, connections
		return nil
	})
}

// holding runs measure while connections are held open, each of which has had
// one answer.
func (m *meter) holding(ctx context.Context, path string, connections, inFlight int, interval time.Duration, measure func() error) error {
	cmd := m.generator(ctx, "hold", path, strconv.Itoa(connections), strconv.Itoa(inFlight), interval.String())
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	line, _ := bufio.NewReader(out).ReadString('\n')
	if line == "ready\n" {
		if err = pause(ctx, m.o.settle); err == nil {
			err = measure()
		}
	}
	_ = in.Close()
	if waitErr := cmd.Wait(); err == nil {
		err = waitErr
	}
	if err != nil || line != "ready\n" {
		return fmt.Errorf("%d connections: %v: %s", connections, err, strings.TrimSpace(stderr.String()))
	}
	return nil
}

// generator is one of this program's own, called with where the load goes.
func (m *meter) generator(ctx context.Context, kind string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, m.o.tools.self, append([]string{kind, m.pair.target, m.pair.host}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// report runs a generator and reads what it says.
func report(cmd *exec.Cmd, to any) error {
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(stderr.String()))
	}
	return json.Unmarshal(out, to)
}

func (m *meter) warm(ctx context.Context) error {
	_, err := m.run(ctx, m.wrk(2, 64, time.Second), parseWrk)
	return err
}

func (m *meter) warm2(ctx context.Context) error {
	args, err := m.h2load(caseHTTP2, time.Second)
	if err == nil {
		_, err = m.run(ctx, args, parseH2load)
	}
	return err
}

// closed is the closed loop: as many requests as the whole machine serves.
func (m *meter) closed(ctx context.Context, name string, threads, connections int, length time.Duration) error {
	short := min(length, time.Second)
	return m.measured(ctx, name, length, m.wrk(threads, connections, length), m.wrk(threads, connections, short), parseWrk)
}

// c1000 is the closed loop of 1,000 connections; those between the sidecars are
// opened before it is measured.
func (m *meter) c1000(ctx context.Context) error {
	path := fmt.Sprintf("%s/%d", pathTogether, heldConnections)
	if err := m.holding(ctx, path, heldConnections, heldConnections, 1500*time.Microsecond, func() error { return nil }); err != nil {
		return err
	}
	return m.closed(ctx, caseC1000, 2, 1000, m.o.length)
}

// multiplexed is the closed loop of 16 HTTP/2 connections with 16 requests
// under way on each.
func (m *meter) multiplexed(ctx context.Context, name string, length time.Duration) error {
	args, err := m.h2load(name, length)
	if err != nil {
		return err
	}
	short, err := m.h2load(name, min(length, time.Second))
	if err != nil {
		return err
	}
	return m.measured(ctx, name, length, args, short, parseH2load)
}

// measured takes the sample of a load program; in the first round it then
// counts system calls while the same load runs for a second more, since
// counting costs.
func (m *meter) measured(ctx context.Context, name string, length time.Duration, args, short []string, parse func(string) (*closedLoop, error)) error {
	var r *closedLoop
	s, used, err := m.spent(name, m.pair.proxy, func() (err error) {
		wait := m.profile(ctx, name, length)
		defer wait()
		r, err = m.run(ctx, args, parse)
		return err
	})
	if err != nil {
		return err
	}
	s.RPS, s.P50, s.P99, s.CPU, s.Requests = &r.rps, &r.p50, &r.p99, per(used, r.requests), r.requests
	if m.round == 0 && len(m.pair.proxy) > 0 && m.o.tools.perf != "" {
		s.Syscalls, err = m.syscalls(ctx, short, parse)
	}
	return err
}

// paced is the open loop at 1,000 requests per second.
func (m *meter) paced(ctx context.Context) error {
	const warmup = 500 * time.Millisecond
	var r paced
	s, used, err := m.spent(casePaced, m.pair.proxy, func() error {
		wait := m.profile(ctx, casePaced, m.o.paced)
		defer wait()
		return report(m.generator(ctx, "paced", strconv.Itoa(pacedRate), strconv.Itoa(pacedConnections), warmup.String(), m.o.paced.String()), &r)
	})
	if err != nil {
		return err
	}
	if r.Failed > 0 {
		return fmt.Errorf("%d of %d requests failed", r.Failed, r.Requests)
	}
	all := r.Requests + int(warmup.Seconds()*pacedRate) // the CPU time is theirs too
	rps := float64(r.Requests) / r.Seconds
	s.RPS, s.P50, s.P99, s.P999, s.CPU, s.Requests = &rps, &r.P50, &r.P99, &r.P999, per(used, all), r.Requests
	return nil
}

// bulk is how much content gets through, 10 MiB at a time.
func (m *meter) bulk(ctx context.Context, name string) error {
	var r bulk
	s, used, err := m.spent(name, m.pair.proxy, func() error {
		wait := m.profile(ctx, name, m.o.length)
		defer wait()
		return report(m.generator(ctx, "bulk", strconv.Itoa(bulkConnections), m.o.length.String(), m.pair.tunnel), &r)
	})
	if err != nil {
		return err
	}
	rps, rate := float64(r.Bodies)/r.Seconds, float64(r.Bytes)/1e6/r.Seconds
	s.RPS, s.Rate, s.CPU, s.Requests = &rps, &rate, per(used, r.Bodies), r.Bodies
	return nil
}

// connections is how many new connections the server's sidecar takes, and what
// each costs it: handshake, one request and its answer, end.
func (m *meter) connections(ctx context.Context, name string, resume bool) error {
	if len(m.pair.proxy) == 0 {
		return nil
	}
	var r handshakes
	s, used, err := m.spent(name, m.pair.proxy[:1], func() error {
		wait := m.profile(ctx, name, m.o.length)
		defer wait()
		cmd := exec.CommandContext(ctx, m.o.tools.self, "connect", m.pair.server, m.pair.host, m.dir, m.pair.alpn, strconv.FormatBool(resume), m.o.length.String())
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		return report(cmd, &r)
	})
	if err != nil {
		return err
	}
	rps := float64(r.Connections) / r.Seconds
	s.RPS, s.CPU, s.Requests, s.Group = &rps, per(used, r.Connections), r.Connections, r.Group
	if resume && r.Resumed < r.Connections*9/10 {
		return fmt.Errorf("%d of %d connections were resumed", r.Resumed, r.Connections)
	}
	if !resume && r.Resumed > 0 {
		return errors.New("a full handshake was asked for and a session resumed")
	}
	return nil
}
