package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// closedLoop is what a load program reports.
type closedLoop struct {
	requests      int
	rps, p50, p99 float64
}

// run runs a load program and reads its report.
func (m *meter) run(ctx context.Context, args []string, parse func(string) (*closedLoop, error)) (*closedLoop, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = m.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", filepath.Base(args[0]), err, out)
	}
	r, err := parse(string(out))
	if err == nil && r.p50 == 0 {
		r.p50, r.p99, err = quantiles(filepath.Join(m.dir, h2loadLog))
	}
	return r, err
}

func (m *meter) wrk(threads, connections int, length time.Duration) []string {
	return []string{m.o.tools.wrk, "-t", strconv.Itoa(threads), "-c", strconv.Itoa(connections),
		"-d", strconv.Itoa(int(max(length, time.Second).Seconds())) + "s", "--latency", "-H", "Host: " + m.pair.host, "http://" + m.pair.target + "/"}
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

const (
	pathGRPC   = "/bench.Bench/Unary"
	h2loadLog  = "h2load.log"
	h2loadBody = "call"
)

// callGRPC is the content of a call: 64 bytes and their length.
func callGRPC() []byte { return append([]byte{0, 0, 0, 0, 64}, content()[:64]...) }

// h2load is 16 connections with 16 streams each; gRPC calls have a body.
func (m *meter) h2load(name string, length time.Duration) ([]string, error) {
	if m.o.tools.h2load == "" {
		return nil, fmt.Errorf("h2load: %w", errMissing)
	}
	args := []string{m.o.tools.h2load, "-t", "2", "-c", "16", "-m", "16", "-D", strconv.FormatFloat(length.Seconds(), 'f', -1, 64) + "s",
		"--log-file", h2loadLog, "--connect-to", m.pair.target}
	path := pathSmall
	if name == caseGRPC {
		path = pathGRPC
		if err := os.WriteFile(filepath.Join(m.dir, h2loadBody), callGRPC(), 0o600); err != nil {
			return nil, err
		}
		args = append(args, "-d", h2loadBody, "-H", "content-type: application/grpc", "-H", "te: trailers")
	}
	if err := os.Remove(filepath.Join(m.dir, h2loadLog)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return append(args, "http://"+m.pair.host+path), nil
}

var (
	h2loadRate     = regexp.MustCompile(`finished in [\d.]+\w+, ([\d.]+) req/s`)
	h2loadRequests = regexp.MustCompile(`requests: \d+ total, \d+ started, \d+ done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout`)
)

// parseH2load reads h2load's report; one with failed requests is an error. Its
// quantiles are in its log.
func parseH2load(out string) (*closedLoop, error) {
	n, rate := h2loadRequests.FindStringSubmatch(out), h2loadRate.FindStringSubmatch(out)
	if n == nil || rate == nil {
		return nil, fmt.Errorf("h2load: cannot read its report:\n%s", out)
	}
	if n[2] != "0" || n[3] != "0" || n[4] != "0" {
		return nil, fmt.Errorf("h2load: %s", n[0])
	}
	r := &closedLoop{}
	r.requests, _ = strconv.Atoi(n[1])
	r.rps, _ = strconv.ParseFloat(rate[1], 64)
	if r.requests == 0 {
		return nil, errors.New("h2load: no request was answered")
	}
	return r, nil
}

// quantiles reads h2load's log (start, status, microseconds) for P50 and P99.
func quantiles(path string) (p50, p99 float64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close() // read only
	var all []float64
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) != 3 {
			continue
		}
		v, err := strconv.ParseFloat(fields[2], 64)
		if err != nil {
			return 0, 0, fmt.Errorf("h2load: its log: %w", err)
		}
		all = append(all, v)
	}
	if len(all) == 0 {
		return 0, 0, errors.New("h2load: its log is empty")
	}
	slices.Sort(all)
	return all[len(all)/2], all[len(all)*99/100], nil
}

// syscalls counts the pair's system calls for each request of a load, by perf.
func (m *meter) syscalls(ctx context.Context, load []string, parse func(string) (*closedLoop, error)) (*float64, error) {
	var pids []string
	for _, p := range m.pair.proxy {
		for _, pid := range p.pids() {
			pids = append(pids, strconv.Itoa(pid))
		}
	}
	out := filepath.Join(m.dir, "perf.csv")
	r, err := m.run(ctx, append([]string{m.o.tools.perf, "stat", "-x,", "-o", out, "-e", "raw_syscalls:sys_enter", "-p", strings.Join(pids, ","), "--"}, load...), parse)
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(out)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(b)) {
		if count, _, ok := strings.Cut(line, ","); ok {
			if n, err := strconv.ParseFloat(count, 64); err == nil {
				each := n / float64(r.requests)
				return &each, nil
			}
		}
	}
	return nil, fmt.Errorf("perf: cannot read its report: %s", b)
}
