package metrics

import (
	"cmp"
	"io"
	"math"
	"strconv"
	"strings"

	"github.com/seinemesh/seine/telemetry"
)

// ContentType is the Content-Type of what WriteTo writes.
const ContentType = "text/plain; version=0.0.4; charset=utf-8"

// ContentTypeOpenMetrics is the Content-Type of what WriteOpenMetrics writes.
const ContentTypeOpenMetrics = "application/openmetrics-text; version=1.0.0; charset=utf-8"

// WriteOpenMetrics writes all metrics as OpenMetrics 1.0 has them, with exemplars
// beside the buckets of durations. Bounds are written as in the text format
// (le="25", where the standard would rather have "25.0"): a series keeps its name
// whichever of the two a scraper asks for.
func (r *Registry) WriteOpenMetrics(w io.Writer) (int64, error) {
	o := newWriter(w, nil)
	o.open = true
	return r.write(o, true)
}

// WriteTo writes all metrics in the Prometheus text format. Any goroutine.
func (r *Registry) WriteTo(w io.Writer) (int64, error) { return r.WriteOnly(w) }

// WriteOnly writes the metrics of the given names, all if there are none. It
// is what a reader that needs few of them (the control plane) asks for.
func (r *Registry) WriteOnly(w io.Writer, names ...string) (int64, error) {
	return r.write(newWriter(w, names), true)
}

// WriteMesh writes all but the metrics of this process and its runtime, for
// an exposition that another program's are joined to.
func (r *Registry) WriteMesh(w io.Writer) (int64, error) { return r.write(newWriter(w, nil), false) }

func newWriter(w io.Writer, names []string) *writer {
	return &writer{w: w, names: names, buf: make([]byte, 0, flushAt+8<<10)}
}

func (r *Registry) write(out *writer, process bool) (int64, error) {
	r.mu.Lock()
	// Sets are only ever appended or left out of a new slice, and handles only
	// ever appended: a copy of the slices is all that the lock has to cover.
	requests := snapshot(r.requests)
	tcp := snapshot(r.tcp)
	routes := snapshot(r.routes)
	scalars := make([]family, len(r.families))
	for i, f := range r.families {
		scalars[i] = *f
	}
	r.mu.Unlock()

	out.build(r.component, r.version)
	out.requests(requests)
	out.tcp(tcp)
	out.routes(routes)
	for i := range scalars {
		out.scalar(&scalars[i])
	}
	if process {
		out.process()
	}
	if out.proto != nil {
		out.buf = out.proto.end(out.buf)
	}
	if out.open {
		out.buf = append(out.buf, "# EOF\n"...)
	}
	out.flush()
	return out.n, out.err
}

func snapshot[H any](sets []*labelSet[H]) []labelSet[H] {
	c := make([]labelSet[H], len(sets))
	for i, s := range sets {
		c[i] = *s
	}
	return c
}

// flushAt is the size at which the writer's buffer goes out.
const flushAt = 32 << 10

type writer struct {
	w     io.Writer
	names []string
	proto *message // the format is protobuf
	open  bool     // the format is OpenMetrics
	buf   []byte
	block []byte // labels of the series being written
	n     int64
	err   error
}

func (o *writer) flush() {
	if o.err == nil && len(o.buf) > 0 {
		n, err := o.w.Write(o.buf)
		o.n += int64(n)
		o.err = err
	}
	o.buf = o.buf[:0]
}

// head writes HELP and TYPE; false: this family is not asked for.
func (o *writer) head(name, kind, help string) bool {
	if len(o.names) > 0 {
		asked := false
		for _, n := range o.names {
			asked = asked || n == name
		}
		if !asked {
			return false
		}
	}
	if o.proto != nil {
		o.buf = o.proto.end(o.buf)
		if len(o.buf) >= flushAt {
			o.flush()
		}
		o.proto.begin(name, kind, help)
		return true
	}
	escaper := helpEscaper
	if o.open {
		// A counter's samples are called like its family, with "_total"; what is
		// not so called is none there.
		escaper = openEscaper
		if base, ok := strings.CutSuffix(name, "_total"); kind == "counter" && ok {
			name = base
		} else if kind == "counter" {
			kind = "unknown"
		}
	}
	o.buf = append(o.buf, "# HELP "...)
	o.buf = append(o.buf, name...)
	o.buf = append(o.buf, ' ')
	o.buf = append(o.buf, escaper.Replace(help)...)
	o.buf = append(o.buf, "\n# TYPE "...)
	o.buf = append(o.buf, name...)
	o.buf = append(o.buf, ' ')
	o.buf = append(o.buf, kind...)
	o.buf = append(o.buf, '\n')
	return true
}

var (
	helpEscaper = strings.NewReplacer("\\", `\\`, "\n", `\n`)
	openEscaper = strings.NewReplacer("\\", `\\`, "\n", `\n`, `"`, `\"`)
)

// start begins a line up to and with the space before the value. le may be "".
func (o *writer) start(name, suffix string, labels []byte, le string) {
	if o.proto != nil {
		if o.proto.suffix, o.proto.le = suffix, le; suffix != "_bucket" {
			o.proto.labels = string(labels)
		}
		return
	}
	if len(o.buf) >= flushAt {
		o.flush()
	}
	b := append(o.buf, name...)
	b = append(b, suffix...)
	if len(labels) > 0 || le != "" {
		b = append(b, '{')
		b = append(b, labels...)
		if le != "" {
			if len(labels) > 0 {
				b = append(b, ',')
			}
			b = append(b, `le="`...)
			b = append(b, le...)
			b = append(b, '"')
		}
		b = append(b, '}')
	}
	o.buf = append(b, ' ')
}

func (o *writer) uint(v uint64) {
	if o.proto != nil {
		o.proto.value(float64(v))
		return
	}
	o.buf = strconv.AppendUint(o.buf, v, 10)
	o.buf = append(o.buf, '\n')
}

func (o *writer) int(v int64) {
	if o.proto != nil {
		o.proto.value(float64(v))
		return
	}
	o.buf = strconv.AppendInt(o.buf, v, 10)
	o.buf = append(o.buf, '\n')
}

func (o *writer) float(v float64) {
	if o.proto != nil {
		o.proto.value(v)
		return
	}
	o.buf = strconv.AppendFloat(o.buf, v, 'g', -1, 64)
	o.buf = append(o.buf, '\n')
}

// fixed writes v / 10^digits.
func (o *writer) fixed(v uint64, digits int) {
	if o.proto != nil {
		o.proto.value(float64(v) / math.Pow10(digits))
		return
	}
	o.buf = appendFixed(o.buf, v, digits)
	o.buf = append(o.buf, '\n')
}

func (o *writer) build(component, version string) {
	if component == "" || !o.head(telemetry.Build, "gauge", "Istio component build info") {
		return
	}
	o.block = appendLabel(o.block[:0], "component", component)
	o.block = appendLabel(o.block, "tag", version)
	o.start(telemetry.Build, "", o.block, "")
	o.uint(1)
}

func (o *writer) requests(sets []labelSet[Requests]) {
	if len(sets) == 0 {
		return
	}
	if o.head(telemetry.RequestsTotal, "counter", "Requests.") {
		eachOutcome(sets, func(labels string, key uint32, same []*outcome) {
			o.outcomeLabels(labels, key)
			var n uint64
			for _, c := range same {
				for i := range c.duration {
					n += c.duration[i].Load()
				}
			}
			o.start(telemetry.RequestsTotal, "", o.block, "")
			o.uint(n)
		})
	}
	if o.head(telemetry.RequestDuration, "histogram", "Duration of requests, milliseconds.") {
		eachOutcome(sets, func(labels string, key uint32, same []*outcome) {
			o.outcomeLabels(labels, key)
			var fine [durationBuckets]uint64
			var marks [sizeBuckets]traced
			var sum uint64
			for _, c := range same {
				sum += c.addDurations(&fine)
				c.newest(&marks)
			}
			var total uint64
			next := 0
			for i, b := range istioBounds {
				for ; next < coarse[i]; next++ {
					total += fine[next]
				}
				o.bucket(telemetry.RequestDuration, b.text, total, &marks[i], 3)
			}
			for ; next < len(fine); next++ {
				total += fine[next]
			}
			o.end(telemetry.RequestDuration, total, sum, 3, &marks[len(marks)-1])
		})
	}
	o.sizes(sets, telemetry.RequestBytes, "Size of request bodies, bytes.", func(c *outcome) (*[sizeBuckets]counter, uint64) {
		return &c.request, c.reqSum.Load()
	})
	o.sizes(sets, telemetry.ResponseBytes, "Size of response bodies, bytes.", func(c *outcome) (*[sizeBuckets]counter, uint64) {
		return &c.response, c.respSum.Load()
	})
	if o.head(telemetry.FineDuration, "histogram", "Duration of requests in fine buckets, without the labels of the outcome.") {
		for i := range sets {
			var fine [durationBuckets]uint64
			var marks [sizeBuckets]traced
			var sum uint64
			for _, h := range sets[i].handles {
				for c := h.first.Load(); c != nil; c = c.next.Load() {
					sum += c.addDurations(&fine)
					c.newest(&marks)
				}
			}
			o.block = append(o.block[:0], sets[i].labels...)
			o.durations(telemetry.FineDuration, &fine, &marks, sum)
		}
	}
	if o.proto != nil && o.head(telemetry.NativeDuration, "histogram", "Duration of requests as a native histogram, without the labels of the outcome.") {
		for i := range sets {
			var sum exponentialSum
			for _, h := range sets[i].handles {
				sum.add(h)
			}
			sum.count += sum.zero
			o.proto.native(sets[i].labels, &sum)
		}
	}
}

func (o *writer) sizes(sets []labelSet[Requests], name, help string, of func(*outcome) (*[sizeBuckets]counter, uint64)) {
	if !o.head(name, "histogram", help) {
		return
	}
	eachOutcome(sets, func(labels string, key uint32, same []*outcome) {
		o.outcomeLabels(labels, key)
		var n [sizeBuckets]uint64
		var sum, total uint64
		for _, c := range same {
			buckets, s := of(c)
			sum += s
			for i := range buckets {
				n[i] += buckets[i].Load()
			}
		}
		for i, b := range istioBounds {
			total += n[i]
			o.start(name, "_bucket", o.block, b.text)
			o.uint(total)
		}
		o.end(name, total+n[len(n)-1], sum, 0, &traced{})
	})
}

// durations writes a histogram of durations in fine buckets, in seconds, with the
// labels of o.block.
func (o *writer) durations(name string, fine *[durationBuckets]uint64, marks *[sizeBuckets]traced, sum uint64) {
	var at [durationBuckets]*traced // by the fine bucket that each lies in
	for i := range marks {
		if t := &marks[i]; t.at != 0 {
			at[durationBucket(t.micros)] = t
		}
	}
	none, total := &traced{}, uint64(0)
	for j, text := range durationText {
		total += fine[j]
		o.bucket(name, text, total, cmp.Or(at[j], none), 6)
	}
	o.end(name, total+fine[len(fine)-1], sum, 6, cmp.Or(at[len(at)-1], none))
}

// end writes the last bucket, with its exemplar, the sum and the count of a histogram.
func (o *writer) end(name string, count, sum uint64, digits int, last *traced) {
	o.bucket(name, "+Inf", count, last, digits)
	o.start(name, "_sum", o.block, "")
	if digits == 0 {
		o.uint(sum)
	} else {
		o.fixed(sum, digits)
	}
	o.start(name, "_count", o.block, "")
	o.uint(count)
}

func (c *outcome) addDurations(to *[durationBuckets]uint64) (sum uint64) {
	for i := range c.duration {
		to[i] += c.duration[i].Load()
	}
	return c.durationSum.Load()
}

// eachOutcome calls f once for each set and outcome, with that outcome's
// counters of all shards. Nothing is gathered: shards are few, outcomes fewer.
func eachOutcome(sets []labelSet[Requests], f func(labels string, key uint32, same []*outcome)) {
	var same []*outcome
	for i := range sets {
		handles := sets[i].handles
		for j, h := range handles {
		next:
			for c := h.first.Load(); c != nil; c = c.next.Load() {
				for _, earlier := range handles[:j] {
					if earlier.lookup(c.key) != nil {
						continue next
					}
				}
				same = append(same[:0], c)
				for _, later := range handles[j+1:] {
					if d := later.lookup(c.key); d != nil {
						same = append(same, d)
					}
				}
				f(sets[i].labels, c.key, same)
			}
		}
	}
}

// outcomeLabels sets o.block to the labels of a set and an outcome.
func (o *writer) outcomeLabels(labels string, key uint32) {
	b := append(o.block[:0], labels...)
	b = append(b, ","+telemetry.LabelResponseCode+`="`...)
	if code := key >> 16; code < codeClass {
		b = strconv.AppendUint(b, uint64(code), 10)
	} else {
		b = strconv.AppendUint(b, uint64(code-codeClass), 10)
		b = append(b, "xx"...)
	}
	b = append(b, `",`+telemetry.LabelGRPCStatus+`="`...)
	switch grpc := key >> 8 & 0xff; grpc {
	case notGRPC:
	case grpcOther:
		b = append(b, "other"...)
	default:
		b = strconv.AppendUint(b, uint64(grpc-1), 10)
	}
	b = append(b, `",`+telemetry.LabelResponseFlags+`="`...)
	b = append(b, telemetry.Flag(key).String()...)
	o.block = append(b, '"')
}

func (o *writer) tcp(sets []labelSet[TCP]) {
	if len(sets) == 0 {
		return
	}
	one := func(name, help string, of func(*TCP) *counter) {
		if !o.head(name, "counter", help) {
			return
		}
		for i := range sets {
			var n uint64
			for _, h := range sets[i].handles {
				n += of(h).Load()
			}
			o.tcpLine(name, sets[i].labels, telemetry.FlagNone, n)
		}
	}
	one(telemetry.TCPConnectionsOpened, "TCP connections opened.", func(t *TCP) *counter { return &t.opened })
	if o.head(telemetry.TCPConnectionsClosed, "counter", "TCP connections closed.") {
		for i := range sets {
			for flag := range telemetry.NumFlags {
				var n uint64
				for _, h := range sets[i].handles {
					n += h.closed[flag].Load()
				}
				if n > 0 || flag == telemetry.FlagNone {
					o.tcpLine(telemetry.TCPConnectionsClosed, sets[i].labels, flag, n)
				}
			}
		}
	}
	one(telemetry.TCPSentBytes, "Bytes sent to the client over TCP connections.", func(t *TCP) *counter { return &t.sent })
	one(telemetry.TCPReceivedBytes, "Bytes received from the client over TCP connections.", func(t *TCP) *counter { return &t.received })
}

func (o *writer) tcpLine(name, labels string, flag telemetry.Flag, n uint64) {
	b := append(o.block[:0], labels...)
	b = append(b, ","+telemetry.LabelResponseFlags+`="`...)
	b = append(b, flag.String()...)
	o.block = append(b, '"')
	o.start(name, "", o.block, "")
	o.uint(n)
}

func (o *writer) scalar(f *family) {
	if !o.head(f.name, f.kind, f.help) {
		return
	}
	for _, s := range f.series {
		o.block = append(o.block[:0], s.labels...)
		o.start(f.name, "", o.block, "")
		switch {
		case s.f != nil:
			o.float(s.f())
		case s.counter != nil:
			o.uint(s.counter.Value())
		default:
			o.int(s.gauge.Value())
		}
	}
	if f.each != nil {
		f.each(func(v float64, labels ...string) {
			o.block = rendered(o.block[:0], f.name, labels)
			o.start(f.name, "", o.block, "")
			o.float(v)
		})
	}
}

// appendLabels renders all labels of l.
func appendLabels(dst []byte, l *telemetry.RequestLabels) []byte {
	l.EachLabel(func(name, value string) { dst = appendLabel(dst, name, value) })
	return dst
}

// appendLabel appends name="value", after a comma if dst is not empty. Values
// are cut at 256 bytes: nothing that names a workload or a service is longer.
func appendLabel(dst []byte, name, value string) []byte {
	if len(dst) > 0 {
		dst = append(dst, ',')
	}
	dst = append(dst, name...)
	dst = append(dst, `="`...)
	if len(value) > maxLabel {
		value = value[:maxLabel]
	}
	for _, r := range strings.ToValidUTF8(value, "\uFFFD") {
		switch r {
		case '\\':
			dst = append(dst, `\\`...)
		case '"':
			dst = append(dst, `\"`...)
		case '\n':
			dst = append(dst, `\n`...)
		default:
			dst = append(dst, string(r)...)
		}
	}
	return append(dst, '"')
}

const maxLabel = 256
