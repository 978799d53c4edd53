package http1

import (
	"bytes"
	"strings"
	"testing"
)

const chunkedBody = "5\r\nhello\r\n" +
	"00A;name;x=token;y=\"quo\\\"ted, \xe9\"\r\n, world...\r\n" +
	"1;a\r\n!\r\n" +
	"0;last\r\nX-Sum: abc\tdef \r\ngrpc-status: 0\r\nx-very-long-trailer-name-beyond-what-is-kept:\r\n\r\n"

const chunkedPayload = "hello, world...!"

func TestChunkedBodyCutAnywhere(t *testing.T) {
	in := []byte(chunkedBody + "NEXT")
	for i := 0; i <= len(chunkedBody); i++ {
		for j := i; j <= len(chunkedBody); j++ {
			var b Body
			b.Reset(Framing{Kind: Chunked})
			at := 0
			for _, end := range []int{i, j, len(in)} {
				n, done, err := b.Next(in[at:end])
				if err != nil {
					t.Fatalf("cut at %d and %d: %v", i, j, err)
				}
				at += n
				if done != (at == len(chunkedBody)) || b.Done() != done || !done && at != end {
					t.Fatalf("cut at %d and %d: at %d of %d, done %v", i, j, at, end, done)
				}
			}
			if at != len(chunkedBody) || b.Payload() != int64(len(chunkedPayload)) || b.End() != nil {
				t.Fatalf("cut at %d and %d: %d bytes, payload %d", i, j, at, b.Payload())
			}
		}
	}
}

// decode gives b the bytes of in, step at a time, and returns the payload.
func decode(b *Body, in []byte, step int) (payload []byte, n int, done bool, err *Error) {
	for n < len(in) && !done && err == nil {
		part := in[n:min(n+step, len(in))]
		for len(part) > 0 && !done && err == nil {
			var p []byte
			var k int
			p, k, done, err = b.Decode(part)
			payload = append(payload, p...)
			if k == 0 && !done && err == nil {
				panic("Decode stands still")
			}
			part = part[k:]
			n += k
		}
	}
	return payload, n, done, err
}

func TestDecode(t *testing.T) {
	for step := 1; step <= len(chunkedBody)+4; step++ {
		var b Body
		b.Reset(Framing{Kind: Chunked})
		p, n, done, err := decode(&b, []byte(chunkedBody+"NEXT"), step)
		if err != nil || !done || n != len(chunkedBody) || string(p) != chunkedPayload {
			t.Fatalf("step %d: %q, %d of %d, %v, %v", step, p, n, len(chunkedBody), done, err)
		}
	}
	var b Body
	b.Reset(Framing{Kind: Length, Length: 5})
	if p, n, done, err := b.Decode([]byte("hello, world")); string(p) != "hello" || n != 5 || !done || err != nil {
		t.Errorf("%q, %d, %v, %v", p, n, done, err)
	}
}

func TestPlainBodies(t *testing.T) {
	for _, c := range []struct {
		name string
		f    Framing
		in   []string
		n    []int
		done bool
		end  *Error
	}{
		{"none", Framing{}, []string{"next"}, []int{0}, true, nil},
		{"length", Framing{Kind: Length, Length: 5}, []string{"hel", "lo", "next"}, []int{3, 2, 0}, true, nil},
		{"length in one", Framing{Kind: Length, Length: 5}, []string{"hellonext"}, []int{5}, true, nil},
		{"length cut", Framing{Kind: Length, Length: 5}, []string{"hell"}, []int{4}, false, lawBodyCut.on(request)},
		{"length cut in a response", Framing{Kind: Length, Length: 5, side: response}, []string{""}, []int{0}, false, lawBodyCut.on(response)},
		{"chunked cut", Framing{Kind: Chunked, side: response}, []string{"5\r\nhello\r\n"}, []int{10}, false, lawBodyCut.on(response)},
		{"close", Framing{Kind: Close}, []string{"a", "bc"}, []int{1, 2}, false, nil},
		{"tunnel", Framing{Kind: Tunnel}, []string{"a", "bc"}, []int{1, 2}, false, nil},
	} {
		var b Body
		b.Reset(c.f)
		sum := 0
		for i, s := range c.in {
			n, done, err := b.Next([]byte(s))
			if n != c.n[i] || err != nil || done != b.Done() {
				t.Errorf("%s: %q: %d, %v, %v", c.name, s, n, done, err)
			}
			sum += n
		}
		if b.Done() != c.done || b.End() != c.end {
			t.Errorf("%s: done %v, end %v", c.name, b.Done(), b.End())
		}
		if c.f.Kind != Chunked && b.Payload() != int64(sum) {
			t.Errorf("%s: payload %d, want %d", c.name, b.Payload(), sum)
		}
	}
	var zero Body
	if !zero.Done() || zero.End() != nil {
		t.Error("the zero Body is not an ended one")
	}
}

func TestChunkLimits(t *testing.T) {
	for name, in := range map[string]string{
		"largest size":               "7fffffffffffffff\r\nabc",
		"sixteen digits":             "0000000000000001\r\na\r\n0\r\n\r\n",
		"long extension":             "1;" + strings.Repeat("a", 4000) + "\r\na\r\n0\r\n\r\n",
		"many extensions with data":  strings.Repeat("80;"+strings.Repeat("a", 100)+"\r\n"+strings.Repeat("x", 128)+"\r\n", 1000) + "0\r\n\r\n",
		"a trailer below the limit":  "0\r\nX: " + strings.Repeat("y", 16000) + "\r\n\r\n",
		"trailers that are harmless": "0\r\nServer-Timing: a\r\nDigest: b\r\nx: y\r\n\r\n",
	} {
		for _, step := range []int{1 << 20, 1} {
			var b Body
			b.Reset(Framing{Kind: Chunked})
			n, _, err := feed(&b, []byte(in), step)
			if err != nil || n != len(in) {
				t.Errorf("%s: %d of %d, %v", name, n, len(in), err)
			}
		}
	}
}

func TestAppendChunk(t *testing.T) {
	var out []byte
	for _, s := range []string{"hello", strings.Repeat("x", 5000)} {
		out = append(append(AppendChunk(out, len(s)), s...), CRLF...)
	}
	out = append(out, LastChunk...)
	var b Body
	b.Reset(Framing{Kind: Chunked})
	if n, done, err := b.Next(out); n != len(out) || !done || err != nil || b.Payload() != 5005 {
		t.Errorf("%d of %d, %v, %v", n, len(out), done, err)
	}
}

func TestBodyDoesNotAllocate(t *testing.T) {
	in := []byte(chunkedBody)
	var b Body
	if n := testing.AllocsPerRun(100, func() {
		b.Reset(Framing{Kind: Chunked})
		b.Next(in[:20])
		b.Next(in[20:])
		b.Reset(Framing{Kind: Chunked})
		for at := 0; at < len(in); {
			_, n, _, _ := b.Decode(in[at:])
			at += n
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkBody(b *testing.B) {
	var body Body
	for name, size := range map[string]int{"chunks of 64": 64, "chunks of 4096": 4096} {
		var in []byte
		for len(in) < 16<<10 {
			in = append(append(AppendChunk(in, size), bytes.Repeat([]byte{'x'}, size)...), CRLF...)
		}
		in = append(in, LastChunk...)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(in)))
			for b.Loop() {
				body.Reset(Framing{Kind: Chunked})
				if _, done, err := body.Next(in); !done || err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
