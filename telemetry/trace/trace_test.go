package trace

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/seinemesh/seine/message"
)

const (
	tid   = "4bf92f3577b34da6a3ce929d0e0e4736"
	sid   = "00f067aa0ba902b7"
	other = "11111111111111111111111111111111"
)

// fields are "name: value" pairs.
func fields(lines ...string) []message.Field {
	var out []message.Field
	for _, l := range lines {
		n, v, _ := strings.Cut(l, ": ")
		out = append(out, message.Field{ID: message.Intern([]byte(n)), Name: []byte(n), Value: []byte(v)})
	}
	return out
}

// describe is a context in short.
func describe(c Context) string {
	if c.Formats == 0 && !c.Forced {
		return "none"
	}
	s := fmt.Sprintf("%x-%x %d f%d", c.Trace, c.Parent, c.Decision, c.Formats)
	if c.Trace == (ID{}) {
		s = fmt.Sprintf("no ID %d f%d", c.Decision, c.Formats)
	}
	for word, is := range map[string]bool{" short": c.Short} {
		if is {
			s += word
		}
	}
	if c.Random {
		s += " random"
	}
	if c.Forced {
		s += " forced"
	}
	if c.State != nil {
		s += " state=" + string(c.State)
	}
	return s
}

func TestExtract(t *testing.T) {
	parent := "traceparent: 00-" + tid + "-" + sid + "-01"
	ids := tid + "-" + sid
	for _, k := range []struct {
		name   string
		prefer Formats
		fields []string
		want   string
	}{
		{"nothing", W3C, nil, "none"},
		{"w3c", W3C, []string{parent}, ids + " 2 f1"},
		{"w3c in any case of the name", W3C, []string{"TraceParent: 00-" + tid + "-" + sid + "-00"}, ids + " 1 f1"},
		{"w3c random", W3C, []string{"traceparent: 00-" + tid + "-" + sid + "-03"}, ids + " 2 f1 random"},
		{"w3c twice", W3C, []string{parent, parent}, "none"},
		{"w3c upper case", W3C, []string{"traceparent: 00-" + strings.ToUpper(tid) + "-" + sid + "-01"}, "none"},
		{"w3c version ff", W3C, []string{"traceparent: ff-" + tid + "-" + sid + "-01"}, "none"},
		{"w3c version 00 with more", W3C, []string{"traceparent: 00-" + tid + "-" + sid + "-01-x"}, "none"},
		{"w3c a later version with more", W3C, []string{"traceparent: cc-" + tid + "-" + sid + "-01-what"}, ids + " 2 f1"},
		{"w3c a later version, malformed", W3C, []string{"traceparent: cc-" + tid + "-" + sid + "-01what"}, "none"},
		{"w3c zero trace", W3C, []string{"traceparent: 00-" + strings.Repeat("0", 32) + "-" + sid + "-01"}, "none"},
		{"w3c zero span", W3C, []string{"traceparent: 00-" + tid + "-0000000000000000-01"}, "none"},
		{"w3c short", W3C, []string{"traceparent: 00-" + tid[1:] + "-" + sid + "-01"}, "none"},
		{"w3c empty", W3C, []string{"traceparent: "}, "none"},
		{"state", W3C, []string{parent, "tracestate: a=1,b@c=2"}, ids + " 2 f1 state=a=1,b@c=2"},
		{"state with a bad parent", W3C, []string{"traceparent: x", "tracestate: a=1"}, "none"},
		{"bad state", W3C, []string{parent, "tracestate: A=1"}, ids + " 2 f1"},
		{"b3", W3C, []string{"b3: " + ids + "-1"}, ids + " 2 f2"},
		{"b3 with parent", W3C, []string{"b3: " + ids + "-0-" + sid}, ids + " 1 f2"},
		{"b3 debug", W3C, []string{"b3: " + ids + "-d"}, ids + " 3 f2"},
		{"b3 undecided", W3C, []string{"b3: " + ids}, ids + " 0 f2"},
		{"b3 decision alone", W3C, []string{"b3: 0"}, "no ID 1 f2"},
		{"b3 of 64 bits", W3C, []string{"b3: " + sid + "-" + sid + "-1"}, "0000000000000000" + sid + "-" + sid + " 2 f2 short"},
		{"b3 upper case", W3C, []string{"b3: " + strings.ToUpper(ids) + "-1"}, ids + " 2 f2"},
		{"b3 unknown state", W3C, []string{"b3: " + ids + "-2"}, "none"},
		{"b3 empty state", W3C, []string{"b3: " + ids + "-"}, "none"},
		{"b3 bad parent", W3C, []string{"b3: " + ids + "-1-xyz"}, "none"},
		{"multi", W3C, []string{"X-B3-TraceId: " + tid, "X-B3-SpanId: " + sid, "X-B3-Sampled: 1"}, ids + " 2 f4"},
		{"multi true", W3C, []string{"x-b3-traceid: " + tid, "x-b3-spanid: " + sid, "x-b3-sampled: true", "x-b3-parentspanid: " + sid}, ids + " 2 f4"},
		{"multi flags", W3C, []string{"x-b3-traceid: " + tid, "x-b3-spanid: " + sid, "x-b3-flags: 1"}, ids + " 3 f4"},
		{"multi decision alone", W3C, []string{"x-b3-sampled: 0"}, "no ID 1 f4"},
		{"multi without span", W3C, []string{"x-b3-traceid: " + tid}, "none"},
		{"multi twice", W3C, []string{"x-b3-traceid: " + tid, "x-b3-traceid: " + other, "x-b3-spanid: " + sid}, "none"},
		{"multi bad sampled", W3C, []string{"x-b3-traceid: " + tid, "x-b3-spanid: " + sid, "x-b3-sampled: yes"}, "none"},
		{"both, w3c first", W3C, []string{parent, "b3: " + other + "-" + sid + "-0"}, ids + " 2 f3"},
		{"both, b3 first", B3Multi, []string{parent, "b3: " + other + "-" + sid + "-0"}, other + "-" + sid + " 1 f3"},
		{"both b3", AnyB3, []string{"x-b3-traceid: " + tid, "x-b3-spanid: " + sid, "b3: " + ids + "-1"}, ids + " 2 f6"},
		{"b3 decision beside w3c", B3Multi, []string{parent, "b3: 0"}, ids + " 2 f3"},
		{"forced", W3C, []string{"x-envoy-force-trace: true"}, strings.Repeat("", 1) + "no ID 0 f0 forced"},
	} {
		t.Run(k.name, func(t *testing.T) {
			if got := describe(Extract(fields(k.fields...), k.prefer)); got != k.want {
				t.Errorf("%s, want %s", got, k.want)
			}
		})
	}
}

func TestState(t *testing.T) {
	for v, want := range map[string]bool{
		"a=1": true, "a=1,b=2": true, " a=1 ,\tb=2": true, "a=1,,b=2": true, "0a@b=1": true, "a_-*/=!~": true,
		"": true, "0a=1": false, "a": false, "=1": false, "a=": false, "a=1=2": false, "a=\x7f": false, "a b=1": false, "a@=1": false, "@b=1": false,
		strings.Repeat("a", 256) + "=1": true, strings.Repeat("a", 257) + "=1": false,
		"a=" + strings.Repeat("x", 256): true, "a=" + strings.Repeat("x", 257): false,
		strings.Repeat("a=1,", 31) + "a=1": true, strings.Repeat("a=1,", 32) + "a=1": false,
	} {
		if _, ok := checkState([]byte(v)); ok != want {
			t.Errorf("%.40q: %v", v, ok)
		}
	}
}

// send writes what goes out after what came in.
func send(in []message.Field, c *Context, o *Out) string {
	Drop(in, c)
	add, _ := o.Append(nil, make([]byte, 0, OutSize))
	var b strings.Builder
	for _, f := range append(in, add...) {
		if !f.Drop {
			fmt.Fprintf(&b, "%s: %s\n", f.Name, f.Value)
		}
	}
	return b.String()
}

func TestAppend(t *testing.T) {
	mine := MakeSpanID(0x0102030405060708)
	in := fields("host: a", "traceparent: 00-"+tid+"-"+sid+"-01", "tracestate: a=1", "tracestate: BAD", "X-B3-TraceId: "+tid, "x-b3-spanid: "+sid, "x-b3-sampled: 1", "b3: "+tid+"-"+sid+"-1", "x-envoy-force-trace: 1")
	c := Extract(in, W3C)
	got := send(in, &c, &Out{Trace: c.Trace, Span: mine, Parent: c.Parent, Sampled: true, Formats: c.Formats})
	want := "host: a\ntracestate: a=1\ntraceparent: 00-" + tid + "-0102030405060708-01\nb3: " + tid + "-0102030405060708-1-" + sid +
		"\nx-b3-traceid: " + tid + "\nx-b3-spanid: 0102030405060708\nx-b3-parentspanid: " + sid + "\nx-b3-sampled: 1\n"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}

	in = fields("x-b3-traceid: "+sid, "x-b3-spanid: "+sid, "x-b3-flags: 1", "tracestate: a=1")
	c = Extract(in, AnyB3)
	got = send(in, &c, &Out{Trace: c.Trace, Span: mine, Sampled: true, Debug: true, Short: c.Short, Formats: c.Formats | W3C})
	want = "traceparent: 00-0000000000000000" + sid + "-0102030405060708-01\nx-b3-traceid: " + sid + "\nx-b3-spanid: 0102030405060708\nx-b3-flags: 1\n"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestSampler(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, share := range []float64{-1, 0, 0.1, 1, 50, 100, 200} {
		s, kept := Share(share), 0
		for range 100_000 {
			if s.Keep(MakeID(rng.Uint64(), rng.Uint64())) {
				kept++
			}
		}
		want := max(0, min(share, 100)) * 1000
		if d := float64(kept) - want; d*d > 25*want+1 { // five standard deviations
			t.Errorf("share %g: %d of 100000", share, kept)
		}
	}
	if counted := Share(10); counted.Keep(ID{15: 1}) && counted.Keep(ID{15: 2}) && counted.Keep(ID{15: 3}) {
		t.Error("IDs that were counted up are all kept")
	}
}

func TestNoAllocation(t *testing.T) {
	in := fields("host: a", "accept: b", "traceparent: 00-"+tid+"-"+sid+"-01", "tracestate: a=1,b=2", "x-b3-traceid: "+tid, "x-b3-spanid: "+sid, "x-b3-sampled: 1")
	out, buf := make([]message.Field, 0, 16), make([]byte, 0, OutSize)
	if n := testing.AllocsPerRun(1000, func() {
		c := Extract(in, W3C)
		o := Out{Trace: c.Trace, Span: MakeSpanID(7), Parent: c.Parent, Formats: W3C | AnyB3}
		Drop(in, &c)
		o.Append(out, buf)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkUnsampled is what tracing costs a request that nobody records.
func BenchmarkUnsampled(b *testing.B) {
	in := fields("host: billing:8080", "user-agent: x/1", "accept: */*", "x-request-id: 8b7c0a7e-9d3c-4b8f-8a57-7a5d3f5f5b11", "x-forwarded-proto: http")
	out, buf := make([]message.Field, 0, 16), make([]byte, 0, OutSize)
	rng, share := rand.NewPCG(1, 2), Share(1)
	b.ReportAllocs()
	for b.Loop() {
		c := Extract(in, W3C)
		id := MakeID(rng.Uint64(), rng.Uint64())
		o := Out{Trace: id, Span: MakeSpanID(rng.Uint64()), Sampled: share.Keep(id), Formats: W3C}
		Drop(in, &c)
		o.Append(out, buf)
	}
}

// FuzzB3 holds that what is taken is well-formed, and comes back the same.
func FuzzB3(f *testing.F) {
	for _, s := range []string{"0", "d", tid + "-" + sid, tid + "-" + sid + "-1-" + sid, sid + "-" + sid + "-d", "-", "--", tid + "-" + sid + "-1-"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, v []byte) {
		var c Context
		if !ParseB3(v, &c) {
			if !isZero(c) {
				t.Fatalf("%q is refused, and left %+v", v, c)
			}
			return
		}
		if c.Trace == (ID{}) {
			if len(v) != 1 {
				t.Fatalf("%q has no ID", v)
			}
			return
		}
		back(t, c, B3Single)
		back(t, c, B3Multi)
	})
}

// FuzzParent is FuzzB3 for traceparent.
func FuzzParent(f *testing.F) {
	for _, s := range []string{"00-" + tid + "-" + sid + "-01", "01-" + tid + "-" + sid + "-03-x", "ff-" + tid + "-" + sid + "-01", "00-"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, v []byte) {
		var c Context
		if !ParseParent(v, &c) {
			if !isZero(c) {
				t.Fatalf("%q is refused, and left %+v", v, c)
			}
			return
		}
		back(t, c, W3C)
	})
}

// FuzzFields gives Extract any values, and holds that what it forwards is
// well-formed.
func FuzzFields(f *testing.F) {
	f.Add([]byte("00-"+tid+"-"+sid+"-01"), []byte("a=1"), []byte(tid+"-"+sid+"-1"), []byte(tid), []byte(sid), []byte("1"))
	f.Fuzz(func(t *testing.T, parent, state, b3, traceID, spanID, sampled []byte) {
		in := fields("traceparent: ", "tracestate: ", "b3: ", "x-b3-traceid: ", "x-b3-spanid: ", "x-b3-sampled: ")
		for i, v := range [][]byte{parent, state, b3, traceID, spanID, sampled} {
			in[i].Value = v
		}
		c := Extract(in, W3C)
		if (c.Trace == ID{}) != (c.Parent == SpanID{}) {
			t.Fatalf("%+v is half a context", c)
		}
		Drop(in, &c)
		for _, fl := range in {
			if !fl.Drop && (string(fl.Name) != "tracestate" || c.Formats&W3C == 0) {
				t.Fatalf("%s goes on", fl.Name)
			}
		}
	})
}

func isZero(c Context) bool {
	return c.Trace == ID{} && c.Parent == SpanID{} && c.Decision == 0 && c.Formats == 0
}

// back sends c out in a format and reads it again.
func back(t *testing.T, c Context, format Formats) {
	t.Helper()
	o := Out{Trace: c.Trace, Span: c.Parent, Sampled: c.Decision >= Sampled, Debug: c.Decision == Debug && format != W3C, Random: c.Random, Short: c.Short, Formats: format}
	add, buf := o.Append(nil, make([]byte, 0, OutSize))
	if len(buf) > OutSize {
		t.Fatalf("%d bytes", len(buf))
	}
	for i := range add {
		if !message.ValidValue(add[i].Value) || !bytes.Equal(bytes.ToLower(add[i].Name), add[i].Name) {
			t.Fatalf("%s: %s", add[i].Name, add[i].Value)
		}
	}
	d := Extract(add, format)
	if d.Trace != c.Trace || d.Parent != c.Parent || (d.Decision >= Sampled) != (c.Decision >= Sampled) || d.Formats != format {
		t.Fatalf("%+v went out as %+v", c, d)
	}
}
