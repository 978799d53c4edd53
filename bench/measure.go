package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Cases, in the order of the table. caseIdle is kept with the rounds and in
// the table; latest.json holds the other four.
const (
	caseC64   = "h1-c64"
	caseC1    = "h1-c1"
	casePaced = "1000rps"
	caseHeld  = "idle-1000"
	caseIdle  = "idle"
)

const (
	pacedRate        = 1000
	pacedConnections = 32
	heldConnections  = 1000
)

// sample is one case of one data plane in one round. A figure that a case does
// not have is absent.
type sample struct {
	Case      string   `json:"case"`
	Plane     string   `json:"dataplane"`
	Round     int      `json:"round"`
	RPS       *float64 `json:"rps"`
	P50       *float64 `json:"p50_us"`
	P99       *float64 `json:"p99_us"`
	CPU       *float64 `json:"cpu_us_per_request"`
	RSS       *float64 `json:"rss_mib"`
	Steal     float64  `json:"steal_percent"`
	Requests  int      `json:"requests"`
	Processes int      `json:"processes"` // of the pair
}

// measureAll runs the rounds: in each, every data plane once, starting with
// another one each time.
func (o *options) measureAll(ctx context.Context) ([]sample, error) {
	var chosen []plane
	for _, p := range planes() {
		if slices.Contains(o.planes, p.name) {
			chosen = append(chosen, p)
		}
	}
	var samples []sample
	missing := map[string]bool{}
	for round := range o.rounds {
		for i := range chosen {
			p := chosen[(i+round)%len(chosen)]
			if missing[p.name] {
				continue
			}
			got, err := o.cell(ctx, p, round)
			switch {
			case ctx.Err() != nil:
				return nil, errors.New("interrupted; no results were written")
			case errors.Is(err, errMissing) && !o.named:
				fmt.Fprintf(os.Stderr, "%-12s left out: %v\n", p.name, err)
				missing[p.name] = true
				continue
			case err != nil:
				return nil, fmt.Errorf("round %d, %s: %w", round+1, p.name, err)
			}
			samples = append(samples, got...)
			for _, s := range got {
				fmt.Fprintf(os.Stderr, "%d/%d %-12s %-10s %8s rps  P50 %8s µs  P99 %8s µs  CPU %7s µs  %6s MiB  steal %.1f %%\n", round+1, o.rounds,
					s.Plane, s.Case, number(s.RPS, 0), number(s.P50, 0), number(s.P99, 0), number(s.CPU, 1), number(s.RSS, 1), s.Steal)
			}
		}
	}
	return samples, nil
}

// cell measures all cases of one data plane, started anew.
func (o *options) cell(ctx context.Context, p plane, round int) (_ []sample, err error) {
	dir, err := os.MkdirTemp("", "seine-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if err := writePKI(dir, time.Now()); err != nil {
		return nil, err
	}
	addrs, err := freePorts("127.0.0.1", 1)
	if err != nil {
		return nil, err
	}
	e := &env{dir: dir, backend: addrs[0], tools: o.tools}
	back, err := start(dir, o.tools.self, "backend", e.backend)
	if err != nil {
		return nil, err
	}
	defer back.stop()
	if err := waitListen(ctx, back, e.backend); err != nil {
		return nil, err
	}
	pair, err := p.start(ctx, e)
	if err != nil {
		return nil, err
	}
	defer pair.stop()
	if err := pair.ready(ctx); err != nil {
		return nil, err
	}
	m := &meter{o: o, pair: pair, plane: p.name, round: round}
	for _, step := range []func(context.Context) error{m.idle, m.held, m.warm, m.c1, m.paced, m.c64} {
		if err := step(ctx); err != nil {
			return nil, err
		}
		for _, c := range append(slices.Clone(pair.proxy), pair.others...) {
			select {
			case <-c.done:
				return nil, c.failure(fmt.Errorf("ended: %v", c.err))
			default:
			}
		}
	}
	return m.samples, nil
}

// ready waits until a request is answered through the pair.
func (p *pair) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	client := &http.Client{Timeout: 3 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	var last error
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.target+"/", nil)
		if err != nil {
			return err
		}
		req.Host = p.host
		res, err := client.Do(req)
		if err == nil {
			body, readErr := io.ReadAll(res.Body)
			_ = res.Body.Close()
			if res.StatusCode == http.StatusOK && len(body) == 1024 {
				return readErr
			}
			err = fmt.Errorf("answered %s, %.200q", res.Status, body)
		}
		if ctx.Err() == nil {
			last = err
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			all := fmt.Errorf("no good answer at %s: %w", p.target, last)
			for _, c := range append(p.others, p.proxy...) {
				all = errors.Join(all, c.failure(errors.New("was running")))
			}
			return all
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// meter takes the samples of one cell.
type meter struct {
	o       *options
	pair    *pair
	plane   string
	round   int
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

func (m *meter) idle(ctx context.Context) error {
	then := readSteal()
	if err := pause(ctx, m.o.settle); err != nil {
		return err
	}
	_, err := m.sample(caseIdle, then)
	return err
}

// held measures the memory while 1,000 connections that have been used are open.
func (m *meter) held(ctx context.Context) error {
	then := readSteal()
	cmd := exec.CommandContext(ctx, m.o.tools.self, "hold", m.pair.target, m.pair.host, strconv.Itoa(heldConnections))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
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
			_, err = m.sample(caseHeld, then)
		}
	}
	_ = in.Close()
	if waitErr := cmd.Wait(); err == nil {
		err = waitErr
	}
	if err != nil || line != "ready\n" {
		return fmt.Errorf("%d connections: %v: %s", heldConnections, err, strings.TrimSpace(stderr.String()))
	}
	return nil
}

func (m *meter) warm(ctx context.Context) error {
	_, err := m.wrk(ctx, 2, 64, time.Second)
	return err
}

func (m *meter) c1(ctx context.Context) error  { return m.closed(ctx, caseC1, 1, 1, m.o.c1) }
func (m *meter) c64(ctx context.Context) error { return m.closed(ctx, caseC64, 2, 64, m.o.c64) }

// closed is the closed loop: as many requests as the whole machine serves.
func (m *meter) closed(ctx context.Context, name string, threads, connections int, length time.Duration) error {
	then := readSteal()
	before, err := cpu(m.pair.proxy)
	if err != nil {
		return err
	}
	stopProfile := m.profile(ctx, name, length)
	r, err := m.wrk(ctx, threads, connections, length)
	if err != nil {
		return err
	}
	stopProfile()
	after, err := cpu(m.pair.proxy)
	if err != nil {
		return err
	}
	s, err := m.sample(name, then)
	if err != nil {
		return err
	}
	used := float64((after - before).Nanoseconds()) / 1000 / float64(r.requests)
	s.RPS, s.P50, s.P99, s.CPU, s.Requests = &r.rps, &r.p50, &r.p99, &used, r.requests
	return nil
}

// paced is the open loop at 1,000 requests per second.
func (m *meter) paced(ctx context.Context) error {
	then := readSteal()
	const warmup = 500 * time.Millisecond
	before, err := cpu(m.pair.proxy)
	if err != nil {
		return err
	}
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, m.o.tools.self, "paced", m.pair.target, m.pair.host, strconv.Itoa(pacedRate),
		strconv.Itoa(pacedConnections), warmup.String(), m.o.paced.String())
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("1,000 requests per second: %w: %s", err, strings.TrimSpace(stderr.String()))
	}
	after, err := cpu(m.pair.proxy)
	if err != nil {
		return err
	}
	var r paced
	if err := json.Unmarshal(out, &r); err != nil {
		return err
	}
	if r.Failed > 0 {
		return fmt.Errorf("1,000 requests per second: %d of %d failed", r.Failed, r.Requests)
	}
	s, err := m.sample(casePaced, then)
	if err != nil {
		return err
	}
	all := r.Requests + int(warmup.Seconds()*pacedRate) // the CPU time is theirs too
	used := float64((after - before).Nanoseconds()) / 1000 / float64(all)
	rps := float64(r.Requests) / r.Seconds
	s.RPS, s.P50, s.P99, s.CPU, s.Requests = &rps, &r.P50, &r.P99, &used, r.Requests
	return nil
}

// closedLoop is what wrk reports.
type closedLoop struct {
	requests      int
	rps, p50, p99 float64
}

func (m *meter) wrk(ctx context.Context, threads, connections int, length time.Duration) (*closedLoop, error) {
	cmd := exec.CommandContext(ctx, m.o.tools.wrk, "-t", strconv.Itoa(threads), "-c", strconv.Itoa(connections),
		"-d", strconv.Itoa(int(length.Seconds()))+"s", "--latency", "-H", "Host: "+m.pair.host, "http://"+m.pair.target+"/")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("wrk: %w: %s", err, out)
	}
	return parseWrk(string(out))
}

var (
	wrkRequests = regexp.MustCompile(`(\d+) requests in `)
	wrkRate     = regexp.MustCompile(`Requests/sec:\s+([\d.]+)`)
	wrkQuantile = regexp.MustCompile(`\b(50|99)%\s+([\d.]+)(us|ms|s)\b`)
	wrkTrouble  = regexp.MustCompile(`(?m)^\s*(Socket errors: .*|Non-2xx .*)$`)
)

// parseWrk reads wrk's report; one with failed requests is an error.
func parseWrk(out string) (*closedLoop, error) {
	if bad := wrkTrouble.FindString(out); bad != "" {
		return nil, fmt.Errorf("wrk: %s", strings.TrimSpace(bad))
	}
	r := &closedLoop{}
	n, rate := wrkRequests.FindStringSubmatch(out), wrkRate.FindStringSubmatch(out)
	quantiles := wrkQuantile.FindAllStringSubmatch(out, -1)
	if n == nil || rate == nil || len(quantiles) != 2 {
		return nil, fmt.Errorf("wrk: cannot read its report:\n%s", out)
	}
	r.requests, _ = strconv.Atoi(n[1])
	r.rps, _ = strconv.ParseFloat(rate[1], 64)
	for i, to := range []*float64{&r.p50, &r.p99} {
		v, _ := strconv.ParseFloat(quantiles[i][2], 64)
		*to = v * map[string]float64{"us": 1, "ms": 1e3, "s": 1e6}[quantiles[i][3]]
	}
	if r.requests == 0 {
		return nil, errors.New("wrk: no request was answered")
	}
	return r, nil
}

// number renders a figure that may be absent.
func number(f *float64, digits int) string {
	if f == nil {
		return "-"
	}
	return strconv.FormatFloat(*f, 'f', digits, 64)
}
