package accesslog

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/seinemesh/seine/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func entry() *Entry {
	return &Entry{
		Start:    time.Date(2026, 11, 23, 1, 2, 3, 456_789_000, time.UTC),
		Duration: 12_900 * time.Microsecond, UpstreamServiceTime: 11 * time.Millisecond,
		Method: []byte("GET"), Path: []byte("/bills?id=1"), Authority: []byte("billing-service:8080"),
		Protocol: "HTTP/1.1", UserAgent: []byte("curl/8.0"), RequestID: []byte("8b7c0a7e-9d3c-4b8f-8a57-7a5d3f5f5b11"),
		Code: 200, Details: "via_upstream", BytesReceived: 5, BytesSent: 1024,
		UpstreamHost:     netip.MustParseAddrPort("10.0.0.7:8080"),
		UpstreamLocal:    netip.MustParseAddrPort("10.0.0.5:40112"),
		DownstreamLocal:  netip.MustParseAddrPort("10.96.0.3:8080"),
		DownstreamRemote: netip.MustParseAddrPort("[fd00::5]:40110"),
		UpstreamCluster:  "outbound|8080|v1|billing-service.default.svc.cluster.local",
		RouteName:        "default/billing-route[0]",
	}
}

// write returns what a writer makes of entries.
func write(t testing.TB, f Format, entries ...*Entry) string {
	t.Helper()
	var b bytes.Buffer
	w := New(Options{Out: &b, Format: f, Batch: time.Nanosecond})
	r := w.Ring()
	for _, e := range entries {
		if !r.Append(e) {
			t.Error("an entry was dropped")
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestText(t *testing.T) {
	blocked := &Entry{
		Start: entry().Start, UpstreamServiceTime: -1, Flag: telemetry.FlagUF,
		UpstreamFailure: "delayed connect error: Connection refused", Termination: "two words",
		ServerName: `outbound_.8080_.v1_.billing" evil`, UserAgent: []byte("a\"b\\c\r\nd"),
	}
	got := write(t, Text, entry(), blocked)
	want := `[2026-11-23T01:02:03.456Z] "GET /bills?id=1 HTTP/1.1" 200 - via_upstream - "-" 5 1024 12 11 "-" "curl/8.0" "8b7c0a7e-9d3c-4b8f-8a57-7a5d3f5f5b11" "billing-service:8080" "10.0.0.7:8080" outbound|8080|v1|billing-service.default.svc.cluster.local 10.0.0.5:40112 10.96.0.3:8080 [fd00::5]:40110 - default/billing-route[0]
[2026-11-23T01:02:03.456Z] "- - -" 0 UF - two\x20words "delayed connect error: Connection refused" 0 0 0 - "-" "a\x22b\x5Cc\x0D\x0Ad" "-" "-" "-" - - - - outbound_.8080_.v1_.billing\x22\x20evil -
`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestJSON(t *testing.T) {
	e := entry()
	e.UserAgent = []byte("a\"b\\c\r\n\x00\x7fü\xff…")
	got := write(t, JSON, e, &Entry{Start: e.Start, UpstreamServiceTime: -1, Flag: telemetry.FlagNR})
	dec := json.NewDecoder(strings.NewReader(got))
	var first, second map[string]any
	if err := errors.Join(dec.Decode(&first), dec.Decode(&second)); err != nil {
		t.Fatalf("%v in %s", err, got)
	}
	want := map[string]any{
		"authority": "billing-service:8080", "bytes_received": 5., "bytes_sent": 1024.,
		"connection_termination_details": nil, "downstream_local_address": "10.96.0.3:8080",
		"downstream_remote_address": "[fd00::5]:40110", "duration": 12., "method": "GET",
		"path": "/bills?id=1", "protocol": "HTTP/1.1", "request_id": "8b7c0a7e-9d3c-4b8f-8a57-7a5d3f5f5b11",
		"requested_server_name": nil, "response_code": 200., "response_code_details": "via_upstream",
		"response_flags": "-", "route_name": "default/billing-route[0]", "start_time": "2026-11-23T01:02:03.456Z",
		"upstream_cluster": "outbound|8080|v1|billing-service.default.svc.cluster.local",
		"upstream_host":    "10.0.0.7:8080", "upstream_local_address": "10.0.0.5:40112",
		"upstream_service_time": "11", "upstream_transport_failure_reason": nil,
		"user_agent": "a\"b\\c\r\n\x00\x7fü\uFFFD…", "x_forwarded_for": nil,
	}
	if len(first) != len(want) || len(second) != len(want) {
		t.Errorf("%d and %d keys, want %d", len(first), len(second), len(want))
	}
	for k, v := range want {
		if got, ok := first[k]; !ok || got != v {
			t.Errorf("%s is %v, want %v", k, got, v)
		}
	}
	if second["response_flags"] != "NR" || second["response_code"] != 0. || second["upstream_service_time"] != nil || second["path"] != nil {
		t.Errorf("an empty entry is %v", second)
	}
}

// A request that is traced says so, and others have no such key.
func TestTraceID(t *testing.T) {
	e := entry()
	e.TraceID = []byte("4bf92f3577b34da6a3ce929d0e0e4736")
	var got map[string]any
	if err := json.Unmarshal([]byte(write(t, JSON, e)), &got); err != nil {
		t.Fatal(err)
	}
	if got["trace_id"] != "4bf92f3577b34da6a3ce929d0e0e4736" || got["request_id"] != "8b7c0a7e-9d3c-4b8f-8a57-7a5d3f5f5b11" {
		t.Errorf("%v", got)
	}
}

func TestLongValuesAreCut(t *testing.T) {
	e := entry()
	e.Path = bytes.Repeat([]byte("x"), 100_000)
	e.RouteName = strings.Repeat("y", maxValue)
	e.ServerName = strings.Repeat("é", maxValue) // cut within a rune
	var got map[string]any
	if err := json.Unmarshal([]byte(write(t, JSON, e)), &got); err != nil {
		t.Fatal(err)
	}
	if p := got["path"].(string); len(p) != maxValue || !strings.HasSuffix(p, "x…") {
		t.Errorf("path of %d bytes ends in %q", len(p), p[len(p)-8:])
	}
	if got["route_name"] != e.RouteName {
		t.Error("a value of exactly the bound was cut")
	}
	if p := got["requested_server_name"].(string); !strings.HasSuffix(p, "…") {
		t.Errorf("server name ends in %q", p[len(p)-8:])
	}
}

// gate is an output that blocks until it is opened.
type gate struct {
	open    chan struct{}
	entered chan struct{}
	once    sync.Once
	bytes.Buffer
}

func (g *gate) Write(p []byte) (int, error) {
	g.once.Do(func() { close(g.entered) })
	<-g.open
	return g.Buffer.Write(p)
}

func TestFullRingDrops(t *testing.T) {
	g := &gate{open: make(chan struct{}), entered: make(chan struct{})}
	w := New(Options{Out: g, Batch: time.Nanosecond, CloseWait: time.Nanosecond, RingBytes: 1})
	r := w.Ring()
	r.Append(entry())
	<-g.entered // the writer is stuck in the output now
	kept, dropped := 1, 0
	for range 1000 {
		if r.Append(entry()) {
			kept++
		} else {
			dropped++
		}
	}
	if dropped == 0 || kept < 50 || w.Dropped() != uint64(dropped) {
		t.Errorf("kept %d, dropped %d, counted %d", kept, dropped, w.Dropped())
	}
	if err := w.Close(); !errors.Is(err, ErrStuck) {
		t.Errorf("Close says %v while the output blocks", err)
	}
	close(g.open)
	<-w.done
	if n := strings.Count(g.String(), "\n"); n != kept || w.Written() != uint64(kept) {
		t.Errorf("%d lines written, %d counted, want %d", n, w.Written(), kept)
	}
}

func TestManyLoops(t *testing.T) {
	pr, pw := io.Pipe()
	w := New(Options{Out: pw, Batch: time.Nanosecond, RingBytes: 1})
	const loops, each = 4, 3000
	var wg sync.WaitGroup
	for i := range loops {
		r := w.Ring()
		wg.Go(func() {
			e := entry()
			for j := range each {
				e.Path = fmt.Appendf(e.Path[:0], "/%d/%d/%s", i, j, strings.Repeat("p", j%700))
				for !r.Append(e) { // the ring is small: wait for the writer
					<-time.After(time.Microsecond)
				}
			}
		})
	}
	go func() {
		wg.Wait()
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		_ = pw.Close()
	}()
	next := [loops]int{}
	for sc := bufio.NewScanner(pr); sc.Scan(); {
		var line struct{ Path string }
		if err := json.Unmarshal(sc.Bytes(), &line); err != nil {
			t.Fatalf("%v in %q", err, sc.Text())
		}
		var i, j int
		if _, err := fmt.Sscanf(line.Path, "/%d/%d/", &i, &j); err != nil || next[i] != j {
			t.Fatalf("loop %d: line %d, want %d (%v)", i, j, next[i], err)
		}
		next[i]++
	}
	for i, n := range next {
		if n != each {
			t.Errorf("loop %d: %d lines, want %d", i, n, each)
		}
	}
}

func TestSleepingWriterWakes(t *testing.T) {
	pr, pw := io.Pipe()
	w := New(Options{Out: pw, Format: Text, Batch: time.Nanosecond})
	r := w.Ring()
	in := bufio.NewReader(pr)
	for range 200 { // each line is read before the next is appended
		r.Append(entry())
		if _, err := in.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
}

func TestErrorOfOutput(t *testing.T) {
	pr, pw := io.Pipe()
	_ = pr.CloseWithError(os.ErrClosed)
	w := New(Options{Out: pw})
	w.Ring().Append(entry())
	if err := w.Close(); !errors.Is(err, os.ErrClosed) || w.Written() != 0 {
		t.Errorf("Close says %v, %d lines written", err, w.Written())
	}
}

func TestNothingConfigured(t *testing.T) {
	var w *Writer
	if !w.Ring().Append(entry()) || w.Dropped() != 0 || w.Written() != 0 || w.Err() != nil || w.Close() != nil {
		t.Error("a log that is off is not silent")
	}
}

func TestOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.log")
	for range 2 {
		f, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(f, "x\n")
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 || st.Size() != 4 {
		t.Errorf("%v %v", st, err)
	}
	if _, err := Open(filepath.Join(path, "no")); err == nil {
		t.Error("no error for a file below a file")
	}
	if f, err := Open("-"); err != nil || f.Close() != nil {
		t.Error("standard output does not open")
	}
}

func TestAppendDoesNotAllocate(t *testing.T) {
	w := New(Options{Out: io.Discard})
	defer w.Close() // nothing to lose
	r, e := w.Ring(), entry()
	if n := testing.AllocsPerRun(2000, func() { r.Append(e) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzLine(f *testing.F) {
	f.Add([]byte("/a b\"\\\n"), []byte("ua\xff\xc3"), 200)
	f.Add(bytes.Repeat([]byte("é"), 600), []byte(nil), -1)
	f.Fuzz(func(t *testing.T, path, agent []byte, code int) {
		e := &Entry{Path: path, UserAgent: agent, Code: code, ServerName: string(agent), UpstreamServiceTime: -1}
		line := write(t, JSON, e)
		var m map[string]any
		if strings.Count(line, "\n") != 1 || json.Unmarshal([]byte(line), &m) != nil {
			t.Errorf("not one line of JSON: %q", line)
		}
		line = write(t, Text, e)
		if strings.Count(line, "\n") != 1 || strings.Count(line, `"`) != 14 {
			t.Errorf("not one line of fields: %q", line)
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	w := New(Options{Out: io.Discard, RingBytes: 1 << 20})
	defer w.Close() // nothing to lose
	r, e := w.Ring(), entry()
	b.ReportAllocs()
	for b.Loop() {
		r.Append(e)
	}
	b.ReportMetric(float64(w.Dropped())/float64(b.N), "drops/op")
}

func BenchmarkFormat(b *testing.B) {
	for name, f := range map[string]Format{"JSON": JSON, "Text": Text} {
		b.Run(name, func(b *testing.B) {
			encoded := make([]byte, 0, 16<<10)
			entry().encode(encoded)
			var rec record
			rec.decode(encoded[:cap(encoded)])
			var line []byte
			b.ReportAllocs()
			for b.Loop() {
				line = appendLine(line[:0], f, &rec)
			}
		})
	}
}
