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
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/template"
	"time"

	"sigs.k8s.io/yaml"
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

func TestParseHead(t *testing.T) {
	whole := string(answer())
	head := strings.Index(whole, "\r\n\r\n") + 4
	for _, c := range []struct {
		in            string
		size, content int
		ok            bool
	}{
		{"", 0, 0, false},
		{whole[:20], 0, 0, false},
		{whole[:head], head, 1024, true},
		{whole, head, 1024, true},
		{strings.Replace(whole, "Content-Length", "content-LENGTH", 1), head, 1024, true},
		{strings.Replace(whole, "200 OK", "503 No", 1), head, 1024, false},
		{"HTTP/1.1 200 OK\r\n\r\n", 19, 0, false},
		{"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", 38, 0, false},
	} {
		if size, content, ok := parseHead([]byte(c.in)); size != c.size || content != c.content || ok != c.ok {
			t.Errorf("%.40q: %v %v %v, want %v %v %v", c.in, size, content, ok, c.size, c.content, c.ok)
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

func TestParseH2load(t *testing.T) {
	const out = `starting benchmark...
finished in 3.00s, 31234.33 req/s, 33.02MB/s
requests: 93703 total, 93959 started, 93703 done, 93703 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 93703 2xx, 0 3xx, 0 4xx, 0 5xx
`
	r, err := parseH2load(out)
	if err != nil || *r != (closedLoop{93703, 31234.33, 0, 0}) {
		t.Errorf("%+v %v", r, err)
	}
	for _, bad := range []string{"", strings.Replace(out, "0 failed", "1 failed", 1), strings.Replace(out, "93703 succeeded", "0 succeeded", 1)} {
		if _, err := parseH2load(bad); err == nil {
			t.Errorf("%.60q is taken for a good report", bad)
		}
	}
	log := filepath.Join(t.TempDir(), h2loadLog)
	if err := os.WriteFile(log, []byte("1\t200\t30\n2\t200\t10\n3\t200\t20\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if p50, p99, err := quantiles(log); p50 != 20 || p99 != 30 || err != nil {
		t.Errorf("%v %v %v", p50, p99, err)
	}
}

// TestBackend asks the real backend, over each protocol, for each answer.
func TestBackend(t *testing.T) {
	addr := startBackend(t)
	for _, proto := range []string{"http1", "http2"} {
		p := &pair{target: addr, host: hostHeader}
		if err := p.ready(t.Context(), proto); err != nil {
			t.Errorf("%s: %v", proto, err)
		}
	}
	b, err := download(addr, "a", "", 2, time.Millisecond)
	if err != nil || b.Bodies < 2 || b.Bytes != int64(b.Bodies)*bodySize {
		t.Errorf("%+v %v", b, err)
	}
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			res, err := http.Get("http://" + addr + pathTogether + "/3")
			if err != nil {
				t.Error(err)
				return
			}
			if n, err := io.Copy(io.Discard, res.Body); n != 1024 || err != nil {
				t.Errorf("%d bytes, %v", n, err)
			}
			_ = res.Body.Close()
		})
	}
	all.Wait()
}

func TestFramesInPieces(t *testing.T) {
	request := appendFrame([]byte(preface), frameSettings, 0, 0, nil)
	for stream := uint32(1); stream < 200; stream += 2 { // more than the window holds
		request = appendFrame(request, frameHeaders, flagEndHeaders, stream, []byte{0x83})
		request = appendFrame(request, frameData, flagEndStream, stream, callGRPC())
	}
	whole, err := newFrames().take(nil, request)
	if err != nil {
		t.Fatal(err)
	}
	f := newFrames()
	var got []byte
	for i := range request {
		if got, err = f.take(got, request[i:i+1]); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(got, whole) {
		t.Errorf("byte by byte %d bytes are answered, at once %d", len(got), len(whole))
	}
	if n := bytes.Count(got, tailGRPC); n != 65535/len(bodyGRPC) {
		t.Errorf("%d calls were answered within the window", n)
	}
	if got, err = f.take(nil, appendFrame(nil, frameWindow, 0, 0, []byte{0, 16, 0, 0})); err != nil || bytes.Count(got, tailGRPC) != 100-65535/len(bodyGRPC) {
		t.Errorf("the others were not answered when the window grew: %v", err)
	}
}

func TestChoose(t *testing.T) {
	var o options
	if err := o.choose("h1-c*,services-10"); err != nil || strings.Join(o.cases, " ") != "h1-c1 h1-c64 h1-c1000 h1-c64-log services-10" {
		t.Errorf("%v %v", o.cases, err)
	}
	if o.choose("") != nil || len(o.cases) != len(caseNames()) {
		t.Errorf("no names are not all cases: %v", o.cases)
	}
	if o.choose("h3") == nil {
		t.Error("a case that does not exist is taken")
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
	if want := 4 * len(planes()); len(rows) != want {
		t.Errorf("%d rows, want %d", len(rows), want)
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
	for _, setup := range setups() {
		e.mode = setup.mode
		v, err := e.values()
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"envoy-client.yaml", "envoy-server.yaml", "envoy-istio-client.yaml", "envoy-istio-server.yaml",
			"nginx-client.conf", "nginx-server.conf", "haproxy-client.cfg", "haproxy-server.cfg"} {
			path, err := e.render(name, v)
			if err != nil {
				t.Errorf("%s, %s: %v", setup.name, name, err)
				continue
			}
			b, err := os.ReadFile(path)
			if err != nil || bytes.Contains(b, []byte("no value")) {
				t.Errorf("%s, %s: %v\n%s", setup.name, name, err, b)
			}
			var config any
			if filepath.Ext(name) == ".yaml" && len(b) < 1<<20 {
				if err := yaml.Unmarshal(b, &config); err != nil {
					t.Errorf("%s, %s: %v", setup.name, name, err)
				}
			}
		}
	}
	v := values{}
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
