package metrics

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/seinemesh/seine/telemetry"
)

// scrapeProtobuf decodes what WriteProtobuf writes with Prometheus' own messages.
func scrapeProtobuf(t testing.TB, r *Registry) map[string]*dto.MetricFamily {
	t.Helper()
	var b bytes.Buffer
	if _, err := r.WriteProtobuf(&b); err != nil {
		t.Fatal(err)
	}
	out := map[string]*dto.MetricFamily{}
	for {
		f := &dto.MetricFamily{}
		if err := protodelim.UnmarshalFrom(&b, f); errors.Is(err, io.EOF) {
			return out
		} else if err != nil {
			t.Fatal(err)
		}
		if len(f.ProtoReflect().GetUnknown()) > 0 || out[f.GetName()] != nil {
			t.Fatalf("family %s", f)
		}
		out[f.GetName()] = f
	}
}

// TestProtobufIsText: the two formats say the same.
func TestProtobufIsText(t *testing.T) {
	r := New(Options{Component: "proxy", Version: "1"})
	s := r.Shard()
	l := labels()
	l.Source.App = "a \"quoted\"\\ name,\nin two lines"
	for i, code := range []int{200, 200, 503} {
		s.Requests(l).Observe(code, telemetry.FlagNone, int64(i)*1700, int64(i), 1024)
		s.Requests(labels()).ObserveGRPC(code, i, telemetry.FlagUF, int64(i)*90_000, 3, 4)
	}
	s.TCP(l).Opened()
	s.TCP(l).Sent(7)
	r.Counter("seine_x_total", "X.").Add(3)
	r.Gauge("seine_g", "G.", "of", "a").Set(-5)
	got, want := scrapeProtobuf(t, r), scrape(t, r)
	native := got[telemetry.NativeDuration]
	delete(got, telemetry.NativeDuration)
	for name, f := range want {
		if strings.HasPrefix(name, "go_") || strings.HasPrefix(name, "process_") {
			if got[name] == nil || len(got[name].Metric) != len(f.Metric) || got[name].GetType() != f.GetType() {
				t.Errorf("%s is missing", name)
			}
			continue
		}
		for _, m := range f.Metric { // the count says it
			if h := m.Histogram; h != nil {
				h.Bucket = h.Bucket[:len(h.Bucket)-1]
			}
		}
		if d := cmp.Diff(f, got[name], protocmp.Transform()); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d families, %d in text", len(got), len(want))
	}
	if len(native.GetMetric()) != 2 || native.Metric[0].Histogram.GetSampleCount() != 3 {
		t.Errorf("native: %v", native)
	}
}

// TestNative holds the native histogram to client_golang's.
func TestNative(t *testing.T) {
	r := New(Options{})
	scrapeProtobuf(t, r) // somebody reads them, from now on they are counted
	oracle := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "x", NativeHistogramBucketFactor: 1.1})
	h := r.Shard().Requests(labels())
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 5000 {
		micros := int64(rng.ExpFloat64() * 3000)
		if i%500 == 0 {
			micros *= 100_000
		}
		h.Observe(200, telemetry.FlagNone, micros, 0, 0)
		oracle.Observe(float64(micros) / 1e6)
	}
	for _, exact := range []int64{1, 1_000_000, 2_000_000, 500_000} { // bounds
		h.Observe(200, telemetry.FlagNone, exact, 0, 0)
		oracle.Observe(float64(exact) / 1e6)
	}
	m := &dto.Metric{}
	if err := oracle.Write(m); err != nil {
		t.Fatal(err)
	}
	got, want := scrapeProtobuf(t, r)[telemetry.NativeDuration].Metric[0].Histogram, m.Histogram
	if got.GetSampleCount() != want.GetSampleCount() || got.GetZeroCount() != want.GetZeroCount() || got.GetSchema() != want.GetSchema() || got.GetZeroThreshold() != want.GetZeroThreshold() {
		t.Errorf("got %v\nwant %v", got, want)
	}
	if d := cmp.Diff(buckets(want), buckets(got)); d != "" {
		t.Error(d)
	}
}

// buckets are the counts of a native histogram by index.
func buckets(h *dto.Histogram) map[int32]int64 {
	out := map[int32]int64{}
	at, n, i := int32(0), int64(0), 0
	for _, s := range h.PositiveSpan {
		at += s.GetOffset()
		for range s.GetLength() {
			n += h.PositiveDelta[i]
			i++
			if n != 0 {
				out[at] = n
			}
			at++
		}
	}
	return out
}

// TestNativeSeed: what was counted before somebody asked is there, at the upper
// bounds of the classic buckets; and what nobody touches since, too.
func TestNativeSeed(t *testing.T) {
	r := New(Options{})
	s := r.Shard()
	h := s.Requests(labels())
	for range 10 {
		h.Observe(200, telemetry.FlagNone, 90, 0, 0)
		h.Observe(500, telemetry.FlagNone, 100, 0, 0)
	}
	first := scrapeProtobuf(t, r)[telemetry.NativeDuration].Metric[0].Histogram
	if b := buckets(first); len(b) != 1 || first.GetSampleCount() != 20 {
		t.Errorf("%v", first)
	}
	h.Observe(200, telemetry.FlagNone, 90, 0, 0)
	h.Observe(200, telemetry.FlagNone, 100, 0, 0)
	if n := scrapeProtobuf(t, r)[telemetry.NativeDuration].Metric[0].Histogram; n.GetSampleCount() != 22 || !proto.Equal(&dto.Histogram{SampleSum: n.SampleSum}, &dto.Histogram{SampleSum: proto.Float64(20*0.000095 + 0.00019)}) && (*n.SampleSum < 0.00208 || *n.SampleSum > 0.0021) {
		t.Errorf("%v", n)
	}
}

func TestAccepted(t *testing.T) {
	const protobuf = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
	for accept, want := range map[string]Format{
		"":       Text,
		"*/*":    Text,
		protobuf: Protobuf,
		protobuf + ";q=0.7,text/plain;version=0.0.4;q=0.5":                                                                                      Protobuf,
		protobuf + ",application/openmetrics-text;version=1.0.0;q=0.8,*/*;q=0.1":                                                                Protobuf,
		"application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5":                                                             OpenMetrics,
		"application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1": OpenMetrics,
		"application/openmetrics-text;version=2.0.0,text/plain;q=0.1":                                                                           Text,
		"application/openmetrics-text;q=0":                                                                                                      Text,
		"text/plain;q=0.6, " + protobuf + ";q=0.5":                                                                                              Text,
		"application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily":                                                               Text,
		"application/vnd.google.protobuf;proto=other;encoding=delimited":                                                                        Text,
		protobuf + ";q=0":                   Text,
		protobuf + ";q=x":                   Text,
		protobuf + ";q=NaN":                 Text,
		strings.Repeat("x,", 20) + protobuf: Text,
	} {
		if got := Accepted(accept); got != want {
			t.Errorf("%q: %v", accept, got)
		}
	}
}
