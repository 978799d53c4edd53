package metrics

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seinemesh/seine/telemetry"
)

func openMetrics(t testing.TB, r *Registry) string {
	t.Helper()
	var b bytes.Buffer
	if _, err := r.WriteOpenMetrics(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// observed counts a request of a trace.
func observed(h *Requests, code int, micros int64, trace byte, at time.Time) {
	h.Observe(code, telemetry.FlagNone, micros, 0, 0)
	h.Exemplar([16]byte{15: trace}, [8]byte{7: trace + 1}, micros, at)
}

func TestExemplars(t *testing.T) {
	r := New(Options{Component: "proxy", Version: "test"})
	one, two := r.Shard().Requests(labels()), r.Shard().Requests(labels())
	at := time.UnixMilli(1_700_000_000_250)
	observed(one, 200, 12_300, 0xa0, at)
	observed(one, 200, 12_400, 0xa1, at.Add(time.Second)) // the same bucket
	observed(two, 200, 24_000, 0xb0, at)                  // Istio's too; older than 0xa1
	observed(two, 503, 90, 0xc0, at)
	observed(two, 200, 7_200_000_000, 0xd0, at) // above all bounds
	one.Observe(200, telemetry.FlagNone, 400, 0, 0)

	text := openMetrics(t, r)
	if !strings.HasSuffix(text, "\n# EOF\n") || strings.Count(text, "# EOF") != 1 {
		t.Errorf("it ends in %q", text[max(0, len(text)-40):])
	}
	id := func(trace, span string) string {
		return `{trace_id="000000000000000000000000000000` + trace + `",span_id="00000000000000` + span + `"}`
	}
	for _, want := range []struct{ name, code, le, rest string }{
		{telemetry.RequestDuration, "200", "25", " 4 # " + id("a1", "a2") + " 12.400 1700000001.250000"},
		{telemetry.RequestDuration, "200", "+Inf", " 5 # " + id("d0", "d1") + " 7200000.000 1700000000.250000"},
		{telemetry.RequestDuration, "503", "0.5", " 1 # " + id("c0", "c1") + " 0.090 1700000000.250000"},
		{telemetry.RequestDuration, "200", "50", " 4"},
		{telemetry.FineDuration, "", "0.0001", " 1 # " + id("c0", "c1") + " 0.000090 1700000000.250000"},
		{telemetry.FineDuration, "", "0.0125", " 4 # " + id("a1", "a2") + " 0.012400 1700000001.250000"},
		{telemetry.FineDuration, "", "0.025", " 5"},
		{telemetry.FineDuration, "", "+Inf", " 6 # " + id("d0", "d1") + " 7200.000000 1700000000.250000"},
	} {
		found := false
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, want.name+"_bucket{") && strings.Contains(line, `le="`+want.le+`"`) && (want.code == "" || strings.Contains(line, `response_code="`+want.code+`"`)) {
				found = strings.HasSuffix(line, "}"+want.rest+"\n")
				if !found {
					t.Errorf("%s", line)
				}
				break
			}
		}
		if !found {
			t.Errorf("no %s le %s with %q", want.name, want.le, want.rest)
		}
	}
	if n := strings.Count(text, " # {"); n != 6 {
		t.Errorf("%d exemplars, want 6", n)
	}
	var plain bytes.Buffer
	if _, err := r.WriteTo(&plain); err != nil || strings.Contains(plain.String(), " # {") {
		t.Errorf("the text format has exemplars, %v", err)
	}
	// Both texts hold the same series.
	samples := func(text string) (n int) {
		for line := range strings.Lines(text) {
			if !strings.HasPrefix(line, "#") {
				n++
			}
		}
		return n
	}
	if a, b := samples(plain.String()), samples(text); a != b {
		t.Errorf("%d samples in text, %d in OpenMetrics", a, b)
	}
	family := scrapeProtobuf(t, r)[telemetry.RequestDuration]
	var found int
	for _, m := range family.Metric {
		for _, b := range m.Histogram.Bucket {
			if e := b.Exemplar; e != nil {
				if found++; len(e.Label) != 2 || e.Label[0].GetName() != "trace_id" || len(e.Label[0].GetValue()) != 32 || e.Timestamp.AsTime().Before(at) {
					t.Errorf("%v", e)
				}
			}
		}
	}
	if found != 3 { // that above all bounds has a bucket of its own, +Inf
		t.Errorf("%d exemplars by protobuf", found)
	}
}

// In OpenMetrics a counter's family has its name without "_total", and each name is
// there once.
func TestOpenMetricsFamilies(t *testing.T) {
	r := New(Options{Component: "proxy", Version: "test"})
	r.Counter("oddly_named_count", `a "counter" of what`)
	r.Shard().Requests(labels()).Observe(200, telemetry.FlagNone, 400, 0, 0)
	text := openMetrics(t, r)
	kinds := map[string]string{}
	family := ""
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		switch {
		case strings.HasPrefix(line, "# HELP "):
			if family = f[2]; kinds[family] != "" {
				t.Errorf("%s is there twice", family)
			}
		case strings.HasPrefix(line, "# TYPE "):
			if kinds[f[2]] = f[3]; f[2] != family || f[3] == "counter" && strings.HasSuffix(f[2], "_total") {
				t.Errorf("%s", line)
			}
		case strings.HasPrefix(line, "#"):
		case kinds[family] == "counter" && !strings.HasPrefix(line, family+"_total{") && !strings.HasPrefix(line, family+"_total "):
			t.Errorf("a counter of %s: %s", family, line)
		}
	}
	if kinds["istio_requests"] != "counter" || kinds["oddly_named_count"] != "unknown" || !strings.Contains(text, `a \"counter\" of what`) {
		t.Errorf("%v", kinds)
	}
}

func TestExemplarsAllocateOnce(t *testing.T) {
	r := New(Options{})
	h := r.Shard().Requests(labels())
	at := time.Now()
	observed(h, 200, 300, 1, at)
	if n := testing.AllocsPerRun(100, func() { observed(h, 200, 300, 1, at) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	r.Shard().Requests(labels()).Exemplar([16]byte{}, [8]byte{}, 1, at) // before anything was observed
}

// A scrape beside a loop that writes sees whole exemplars.
func TestExemplarsBesideScrapes(t *testing.T) {
	r := New(Options{})
	h := r.Shard().Requests(labels())
	var done sync.WaitGroup
	done.Go(func() {
		for i := range 20_000 {
			b := byte(i)
			h.Observe(200, telemetry.FlagNone, 300, 0, 0)
			h.Exemplar([16]byte{b, b, b, b, b, b, b, b, b, b, b, b, b, b, b, b}, [8]byte{b, b, b, b, b, b, b, b}, 300, time.UnixMilli(1_700_000_000_000))
		}
	})
	for range 20 {
		text := openMetrics(t, r)
		for line := range strings.Lines(text) {
			_, e, ok := strings.Cut(line, `trace_id="`)
			if !ok {
				continue
			}
			if span := e[strings.Index(e, `span_id="`)+9:]; strings.Trim(e[:32], e[:2]) != "" && strings.Count(e[:32], e[:2]) != 16 || span[:2] != e[:2] {
				t.Fatalf("torn: %s", line)
			}
		}
	}
	done.Wait()
}
