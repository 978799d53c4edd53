package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/template"
	"time"
)

// TestMain lets the tests run this program's own subcommands as processes.
func TestMain(m *testing.M) {
	if os.Getenv("SEINE_BENCH_BACKEND") != "" {
		_ = backend(os.Getenv("SEINE_BENCH_BACKEND"))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func TestHeadEnd(t *testing.T) {
	request := "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
	stream := strings.Repeat(request, 5) + "GET /\r\r\n\r\n"
	for cut := 1; cut <= len(stream); cut++ {
		var h headEnd
		n := 0
		for b := []byte(stream); len(b) > 0; b = b[min(cut, len(b)):] {
			n += h.count(b[:min(cut, len(b))])
		}
		if n != 6 {
			t.Errorf("cut every %d bytes: %d heads, want 6", cut, n)
		}
	}
}

func TestComplete(t *testing.T) {
	whole := string(answer())
	for _, c := range []struct {
		in       string
		done, ok bool
	}{
		{"", false, false},
		{whole[:20], false, false},
		{whole[:len(whole)-1], false, false},
		{whole, true, true},
		{strings.Replace(whole, "Content-Length", "content-LENGTH", 1), true, true},
		{strings.Replace(whole, "200 OK", "503 No", 1), true, false},
		{"HTTP/1.1 200 OK\r\n\r\n", true, false},
		{"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", true, false},
	} {
		if done, ok := complete([]byte(c.in)); done != c.done || ok != c.ok {
			t.Errorf("%.40q: %v %v, want %v %v", c.in, done, ok, c.done, c.ok)
		}
	}
}

// startBackend runs the real backend as a process.
func startBackend(t *testing.T) string {
	t.Helper()
	addrs, err := freePorts("127.0.0.1", 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("SEINE_BENCH_BACKEND", addrs[0])
	p, err := start(t.TempDir(), os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.stop)
	if err := waitListen(t.Context(), p, addrs[0]); err != nil {
		t.Fatal(err)
	}
	if n := len(p.pids()); n != 1 {
		t.Errorf("the backend is %d processes", n)
	}
	if used, err := cpu([]*proc{p}); err != nil || used <= 0 {
		t.Errorf("CPU time %v, %v", used, err)
	}
	if b, err := memory([]*proc{p}); err != nil || b < 1<<20 {
		t.Errorf("memory %v, %v", b, err)
	}
	return addrs[0]
}

func TestOpenLoop(t *testing.T) {
	addr := startBackend(t)
	p, err := openLoop(addr, "a", 500, 4, 20*time.Millisecond, 200*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	if p.Requests != 100 || p.Failed != 0 || p.P50 <= 0 || p.P99 < p.P50 || p.Max < p.P99 {
		t.Errorf("%+v", p)
	}
}

// TestNoCoordinatedOmission stalls one answer: every request that was due
// meanwhile must be late.
func TestNoCoordinatedOmission(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // nothing to lose
	const stall = 200 * time.Millisecond
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close() // nothing to lose
		buf := make([]byte, 4096)
		for i := 0; ; i++ {
			if _, err := c.Read(buf); err != nil {
				return
			}
			if i == 10 {
				<-time.After(stall)
			}
			if _, err := c.Write(answer()); err != nil {
				return
			}
		}
	}()
	p, err := openLoop(l.Addr().String(), "a", 1000, 1, 0, 300*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	if p.Requests != 300 || p.P50 < 30_000 {
		t.Errorf("half of the requests were due during a stall of %v, yet: %+v", stall, p)
	}
}

func TestParseWrk(t *testing.T) {
	const out = `Running 4s test @ http://127.0.0.1:1/
  2 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.05ms    1.18ms  22.32ms   89.96%
    Req/Sec    38.35k     7.21k   52.61k    65.00%
  Latency Distribution
     50%  650.00us
     75%    1.30ms
     90%    2.40ms
     99%    1.02s
  305292 requests in 4.00s, 318.38MB read
Requests/sec:  76284.53
Transfer/sec:     79.55MB
`
	r, err := parseWrk(out)
	if err != nil || *r != (closedLoop{305292, 76284.53, 650, 1.02e6}) {
		t.Errorf("%+v %v", r, err)
	}
	for _, bad := range []string{"", out + "  Socket errors: connect 0, read 1, write 0, timeout 0\n", out + "  Non-2xx or 3xx responses: 7\n"} {
		if _, err := parseWrk(bad); err == nil {
			t.Errorf("%.60q is taken for a good report", bad)
		}
	}
}

func ptr(f float64) *float64 { return &f }

func samples() (all []sample) {
	for _, p := range planes() {
		for round := range 3 {
			for i, c := range []string{caseIdle, caseHeld, caseC1, casePaced, caseC64} {
				s := sample{Case: c, Plane: p.name, Round: round + 1, RSS: ptr(float64(10 + i))}
				if i > 1 {
					s.CPU, s.P50, s.P99, s.RPS = ptr(float64(20+round*round)), ptr(50), ptr(90), ptr(1000)
				}
				all = append(all, s)
			}
		}
	}
	return all
}

func TestResults(t *testing.T) {
	dir := t.TempDir()
	stdout := os.Stdout
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	os.Stdout = null
	err = writeResults(dir, samples(), describe(t.Context(), &options{}, time.Unix(0, 0)), planes())
	os.Stdout = stdout
	if err := errors.Join(err, null.Close()); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "latest.json"))
	if err != nil {
		t.Fatal(err)
	}
	var rows []map[string]any
	if err := json.Unmarshal(b, &rows); err != nil {
		t.Fatal(err)
	}
	if len(rows) != 4*6 {
		t.Errorf("%d rows, want 24", len(rows))
	}
	for _, r := range rows {
		var keys []string
		for k := range r {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		if strings.Join(keys, " ") != "case cpu_us_per_request dataplane p50_us p99_us rounds rps rss_mib" {
			t.Errorf("keys %v", keys)
		}
		if r["rounds"] != 3. || r["case"] == caseC64 && r["cpu_us_per_request"] != 21. {
			t.Errorf("row %v", r)
		}
	}
	if b, err = os.ReadFile(filepath.Join(dir, "rounds.json")); err != nil || !json.Valid(b) {
		t.Errorf("rounds.json: %v", err)
	}
	if b, err = os.ReadFile(filepath.Join(dir, "latest.md")); err != nil || !bytes.Contains(b, []byte("| seine | 21.0 | 1.00 |")) {
		t.Errorf("latest.md: %v\n%s", err, b)
	}
	if b, err = os.ReadFile(filepath.Join(dir, "latest.svg")); err != nil {
		t.Fatal(err)
	}
	for d := xml.NewDecoder(bytes.NewReader(b)); ; {
		if _, err := d.Token(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatalf("latest.svg: %v", err)
		}
	}
}

func TestMedian(t *testing.T) {
	if median([]float64{9, 1, 5}) != 5 || median([]float64{4, 1, 9, 2}) != 3 {
		t.Error("the median is not the middle")
	}
}

func TestTemplates(t *testing.T) {
	e := &env{dir: t.TempDir(), backend: "127.0.0.1:80"}
	v, err := e.values()
	if err != nil {
		t.Fatal(err)
	}
	if err := writePKI(e.dir, time.Now()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"envoy-client.yaml", "envoy-server.yaml", "envoy-istio-client.yaml", "envoy-istio-server.yaml",
		"nginx-client.conf", "nginx-server.conf", "haproxy-client.cfg", "haproxy-server.cfg"} {
		path, err := e.render(name, v)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if b, err := os.ReadFile(path); err != nil || bytes.Contains(b, []byte("no value")) {
			t.Errorf("%s: %v\n%s", name, err, b)
		}
	}
	var missing template.ExecError
	if _, err := e.render("nothing", v); err == nil || errors.As(err, &missing) {
		t.Errorf("a template that does not exist: %v", err)
	}
}

func TestStopEndsChildren(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("no shell")
	}
	p, err := start(t.TempDir(), sh, "-c", "trap '' TERM; sleep 100 & wait; wait")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for len(p.pids()) < 2 {
		if pause(ctx, time.Millisecond) != nil {
			t.Fatal("no child")
		}
	}
	child := p.pids()[1]
	p.stop()
	for {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", child))
		if err != nil || bytes.Contains(b, []byte(") Z ")) {
			break
		}
		if pause(ctx, time.Millisecond) != nil {
			t.Fatal("the child lives on")
		}
	}
}
