package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
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
	P999      *float64 `json:"p999_us,omitempty"`
	CPU       *float64 `json:"cpu_us_per_request"`
	RSS       *float64 `json:"rss_mib"`
	Rate      *float64 `json:"mb_per_s,omitempty"`             // 10⁶ bytes of content
	Each      *float64 `json:"kib_per_connection,omitempty"`   // above the pair just started
	Syscalls  *float64 `json:"syscalls_per_request,omitempty"` // of the pair
	Open      *float64 `json:"half_open,omitempty"`            // connections that attackers still hold at the end
	Group     string   `json:"group,omitempty"`                // of the key exchange
	Steal     float64  `json:"steal_percent"`
	Requests  int      `json:"requests"`
	Processes int      `json:"processes"` // of the pair
}

// measureAll runs the rounds: in each, every setup, and in that every data
// plane once, starting with another one each time.
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
		for _, s := range o.chosen() {
			if s.rounds > 0 && round >= s.rounds {
				continue
			}
			for i := range chosen {
				p := chosen[(i+round)%len(chosen)]
				if _, lacks := p.lacks[s.name]; lacks || missing[p.name] || missing[s.name+" "+p.name] {
					continue
				}
				got, err := o.cell(ctx, s, p, round)
				switch {
				case ctx.Err() != nil:
					return nil, errors.New("interrupted; no results were written")
				case errors.Is(err, errMissing) && !o.named:
					fmt.Fprintf(os.Stderr, "%s, %s: left out: %v\n", s.name, p.name, err)
					missing[s.name+" "+p.name] = true
					continue
				case err != nil:
					// One peer's bad minute is shown, and does not cost the others theirs.
					err = fmt.Errorf("round %d, %s, %s: %w", round+1, s.name, p.name, err)
					fmt.Fprintln(os.Stderr, err)
					what, _, _ := strings.Cut(err.Error(), "\n")
					o.failures = append(o.failures, what)
				}
				samples = append(samples, got...)
				for _, s := range got {
					fmt.Fprintln(os.Stderr, s.line(o.rounds))
				}
			}
		}
	}
	return samples, nil
}

// line is what is shown of a sample while the benchmark runs.
func (s *sample) line(rounds int) string {
	line := fmt.Sprintf("%d/%d %-12s %-14s", s.Round, rounds, s.Plane, s.Case)
	for _, f := range []struct {
		before string
		of     *float64
		digits int
		after  string
	}{
		{"", s.RPS, 0, "rps"}, {"", s.Rate, 0, "MB/s"}, {"P50 ", s.P50, 0, "µs"}, {"P99 ", s.P99, 0, "µs"}, {"P99.9 ", s.P999, 0, "µs"},
		{"CPU ", s.CPU, 1, "µs"}, {"", s.Syscalls, 1, "syscalls"}, {"", s.RSS, 1, "MiB"}, {"", s.Each, 1, "KiB each"}, {"", s.Open, 0, "half open"},
	} {
		if f.of != nil {
			line += fmt.Sprintf("  %s%s %s", f.before, number(f.of, f.digits), f.after)
		}
	}
	return line + fmt.Sprintf("  %s steal %.1f %%", s.Group, s.Steal)
}

// cell measures a setup's cases of one data plane, started anew.
func (o *options) cell(ctx context.Context, s setup, p plane, round int) (_ []sample, err error) {
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
	e := &env{dir: dir, backend: addrs[0], tools: o.tools, mode: s.mode}
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
	if err := pair.ready(ctx, s.mode.proto); err != nil {
		return nil, err
	}
	m := &meter{o: o, pair: pair, plane: p.name, round: round, dir: dir}
	for _, step := range s.steps {
		if step.rounds > 0 && round >= step.rounds {
			continue
		}
		if err := step.run(m, ctx); err != nil {
			err = fmt.Errorf("%s: %w", step.name, err)
			for _, c := range pair.proxy {
				err = errors.Join(err, c.failure(errors.New("runs")))
			}
			return m.samples, err
		}
		for _, c := range append(slices.Clone(pair.proxy), pair.others...) {
			select {
			case <-c.done:
				return m.samples, c.failure(fmt.Errorf("ended: %v", c.err))
			default:
			}
		}
	}
	return m.samples, nil
}

// ready waits until a request is answered through the pair.
func (p *pair) ready(ctx context.Context, proto string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	protocols := new(http.Protocols)
	protocols.SetHTTP1(proto != "http2")
	protocols.SetUnencryptedHTTP2(proto == "http2")
	transport := &http.Transport{DisableKeepAlives: proto != "http2", Protocols: protocols}
	defer transport.CloseIdleConnections()
	if p.tunnel != "" {
		transport.DialContext = func(_ context.Context, _, addr string) (net.Conn, error) {
			c, err := net.DialTimeout("tcp", addr, 3*time.Second)
			if err != nil {
				return nil, err
			}
			r := bufio.NewReader(c)
			if err := connect(c, r, p.tunnel); err != nil {
				return nil, errors.Join(err, c.Close())
			}
			return c, nil // the backend says nothing before it is asked
		}
	}
	client := &http.Client{Timeout: 3 * time.Second, Transport: transport}
	for {
		last := p.probe(ctx, client, http.MethodGet, pathSmall, "")
		if last == nil && proto == "http2" {
			last = p.probe(ctx, client, http.MethodPost, pathGRPC, string(callGRPC()))
		}
		if last == nil {
			return nil
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

// probe sends one request and looks at its answer: 1 KiB, of gRPC with status 0.
func (p *pair) probe(ctx context.Context, client *http.Client, method, path, content string) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+p.target+path, strings.NewReader(content))
	if err != nil {
		return err
	}
	req.Host = p.host
	want := 1024
	if content != "" {
		req.Header.Set("Content-Type", "application/grpc")
		req.Header.Set("Te", "trailers")
		want += 5
	}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(res.Body)
	_ = res.Body.Close()
	if err == nil && (res.StatusCode != http.StatusOK || len(body) != want || content != "" && res.Trailer.Get("Grpc-Status") != "0") {
		err = fmt.Errorf("answered %s, %.200q, %v", res.Status, body, res.Trailer)
	}
	return err
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

// number renders a figure that may be absent.
func number(f *float64, digits int) string {
	if f == nil {
		return "-"
	}
	return strconv.FormatFloat(*f, 'f', digits, 64)
}
