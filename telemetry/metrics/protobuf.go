package metrics

import (
	"io"
	"math"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
)

// ContentTypeProtobuf is the Content-Type of what WriteProtobuf writes: messages
// MetricFamily of io.prometheus.client, each behind its length.
const ContentTypeProtobuf = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"

// WriteProtobuf writes all metrics in Prometheus' protobuf format, native
// histograms among them, which only this format has. They are counted from the
// first such scrape on: a proxy that nobody asks for them does not pay for them.
func (r *Registry) WriteProtobuf(w io.Writer) (int64, error) {
	r.native.Store(true)
	return r.write(&writer{w: w, proto: &message{}, buf: make([]byte, 0, flushAt+8<<10)}, true)
}

// message is the MetricFamily that is being written. The format is written by
// hand: client_model would make the proxy only 37 KB larger, but a scrape would
// make an object for each bucket and label of its ten thousand series.
type message struct {
	family  []byte // fields of the MetricFamily so far
	kind    string
	metric  []byte // fields of the Metric so far
	hist    []byte // of its Histogram
	scratch []byte
	labels  string // of the line that is being written
	suffix  string
	le      string
	marked  *traced // the bucket's exemplar; nil: none
	digits  int     // of its value
}

// Numbers of the enum MetricType.
var kindNumbers = map[string]uint64{"counter": 0, "gauge": 1, "histogram": 4}

func (m *message) begin(name, kind, help string) {
	m.kind = kind
	m.family = appendText(m.family[:0], 1, name)
	m.family = appendText(m.family, 2, help)
	m.family = protowire.AppendVarint(protowire.AppendTag(m.family, 3, protowire.VarintType), kindNumbers[kind])
}

// end appends the family to dst.
func (m *message) end(dst []byte) []byte {
	if len(m.family) == 0 {
		return dst
	}
	dst = protowire.AppendBytes(dst, m.family)
	m.family = m.family[:0]
	return dst
}

// value takes the value of the line that start began.
func (m *message) value(v float64) {
	switch {
	case m.suffix == "_bucket" && m.le == "+Inf" && m.marked == nil: // the count says it
	case m.suffix == "_bucket":
		bound, _ := strconv.ParseFloat(m.le, 64) // our own text
		m.scratch = appendNumber(m.scratch[:0], 1, uint64(v))
		m.scratch = appendDouble(m.scratch, 2, bound)
		if m.marked != nil {
			m.scratch = appendMessage(m.scratch, 3, m.marked.message(m.digits))
		}
		m.hist = appendMessage(m.hist, 3, m.scratch)
	case m.suffix == "_sum":
		m.hist = appendDouble(m.hist, 2, v)
	case m.suffix == "_count":
		m.hist = appendNumber(m.hist, 1, uint64(v))
		m.histogram()
	default:
		field := protowire.Number(3) // counter
		if m.kind == "gauge" {
			field = 2
		}
		m.scratch = appendDouble(m.scratch[:0], 1, v)
		m.begun()
		m.metric = appendMessage(m.metric, field, m.scratch)
		m.family = appendMessage(m.family, 4, m.metric)
	}
}

// message is the exemplar as an Exemplar.
func (t *traced) message(digits int) []byte {
	pair := func(name string, value []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(appendText(nil, 1, name), 2, protowire.BytesType), value)
	}
	b := appendMessage(nil, 1, pair("trace_id", t.appendTrace(nil)))
	b = appendMessage(b, 1, pair("span_id", t.appendSpan(nil)))
	b = appendDouble(b, 2, float64(t.micros)/math.Pow10(digits))
	at := appendNumber(nil, 1, uint64(t.at/1e6))
	return appendMessage(b, 3, appendNumber(at, 2, uint64(t.at%1e6)*1000))
}

// begun begins a Metric with its labels.
func (m *message) begun() {
	m.metric = m.metric[:0]
	eachRendered(m.labels, func(name, value string) {
		n := 2 + protowire.SizeBytes(len(name)) + protowire.SizeBytes(len(value))
		m.metric = protowire.AppendVarint(protowire.AppendTag(m.metric, 1, protowire.BytesType), uint64(n))
		m.metric = protowire.AppendString(protowire.AppendTag(m.metric, 1, protowire.BytesType), name)
		m.metric = protowire.AppendString(protowire.AppendTag(m.metric, 2, protowire.BytesType), value)
	})
}

// histogram ends a Metric that is one.
func (m *message) histogram() {
	m.begun()
	m.metric = appendMessage(m.metric, 7, m.hist)
	m.hist = m.hist[:0]
	m.family = appendMessage(m.family, 4, m.metric)
}

// native appends a native histogram: the spans of buckets that hold something,
// and their counts as differences.
func (m *message) native(labels string, e *exponentialSum) {
	m.labels = labels
	h := m.hist[:0]
	h = appendNumber(h, 1, e.count)
	h = appendDouble(h, 2, e.sum)
	h = protowire.AppendVarint(protowire.AppendTag(h, 5, protowire.VarintType), protowire.EncodeZigZag(schema))
	h = appendDouble(h, 6, zeroThreshold)
	h = protowire.AppendVarint(protowire.AppendTag(h, 7, protowire.VarintType), e.zero)
	var deltas []byte
	before := int64(0)
	next := 0 // the bucket that an offset of 0 means: the first span counts from bucket 0
	spans := 0
	for i := 0; i < len(e.buckets); {
		if e.buckets[i] == 0 {
			i++
			continue
		}
		from := i
		for ; i < len(e.buckets) && e.buckets[i] != 0; i++ {
			deltas = protowire.AppendVarint(protowire.AppendTag(deltas, 13, protowire.VarintType), protowire.EncodeZigZag(int64(e.buckets[i])-before))
			before = int64(e.buckets[i])
		}
		h = appendSpan(h, &m.scratch, firstBucket+from-next, i-from)
		next = firstBucket + i
		spans++
	}
	if spans == 0 { // an empty span says that the histogram is native, as the format has it
		h = appendSpan(h, &m.scratch, 0, 0)
	}
	m.hist = append(h, deltas...)
	m.histogram()
}

func appendSpan(h []byte, scratch *[]byte, offset, length int) []byte {
	b := (*scratch)[:0]
	b = protowire.AppendVarint(protowire.AppendTag(b, 1, protowire.VarintType), protowire.EncodeZigZag(int64(offset)))
	b = protowire.AppendVarint(protowire.AppendTag(b, 2, protowire.VarintType), uint64(length))
	*scratch = b
	return appendMessage(h, 12, b)
}

// zeroThreshold is client_golang's: what is not larger is in the zero bucket.
var zeroThreshold = math.Ldexp(1, -128)

func appendText(b []byte, field protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), s)
}

func appendMessage(b []byte, field protowire.Number, m []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), m)
}

func appendNumber(b []byte, field protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), v)
}

func appendDouble(b []byte, field protowire.Number, v float64) []byte {
	return protowire.AppendFixed64(protowire.AppendTag(b, field, protowire.Fixed64Type), math.Float64bits(v))
}

// eachRendered calls f for each of the labels that appendLabel rendered.
func eachRendered(labels string, f func(name, value string)) {
	for labels != "" {
		name, rest, _ := strings.Cut(labels, `="`)
		end, escaped := 0, false
		for rest[end] != '"' {
			if rest[end] == '\\' {
				escaped = true
				end++
			}
			end++
		}
		value := rest[:end]
		if escaped {
			value = unescaper.Replace(value)
		}
		f(name, value)
		labels = strings.TrimPrefix(rest[end+1:], ",")
	}
}

var unescaper = strings.NewReplacer(`\\`, `\`, `\"`, `"`, `\n`, "\n")
