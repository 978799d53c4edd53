package http2

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// FuzzServer holds of whatever a client sends: where it is cut changes nothing,
// what we send x/net can read, and each request that we show x/net's framer has read, too,
// with the same fields.
func FuzzServer(f *testing.F) {
	skip := newWire(true).b.Len()
	f.Add(conversation()[skip:], uint8(7))
	for _, v := range violations {
		w := newWire(true)
		v.send(w)
		if b := w.b.Bytes(); len(b) > skip && len(b) < 2000 {
			f.Add(bytes.Clone(b[skip:]), uint8(1))
		}
	}
	f.Fuzz(func(t *testing.T, in []byte, step uint8) {
		if len(in) > 8192 {
			return
		}
		w := newWire(true)
		w.b.Write(in)
		all := w.b.Bytes()
		small := Limits{Resets: 20, Idle: 50, Head: 4096, Block: 4096}
		whole, out := run(newServer(small), all, len(all))
		c := newServer(small)
		cut, sent := run(c, all, 1+int(step))
		if cut != whole || !bytes.Equal(sent, out) {
			t.Fatalf("in steps of %d:\n%s\nwhole:\n%s", 1+int(step), cut, whole)
		}
		for _, fr := range frames(t, out) {
			if fr.Header().Length > maxFrame {
				t.Fatalf("we send %v", fr.Header())
			}
		}
		for s := c.Any(); s != nil; s = c.Any() {
			c.Release(s)
		}
		if c.Err() == nil && c.recv+int64(c.credit) > int64(c.o.ConnWindow) {
			t.Fatalf("the window grew to %d", c.recv+int64(c.credit))
		}
		sameAsNet(t, all[len(Preface):], whole)
	})
}

// sameAsNet compares each request in what happened with x/net's reading of in.
func sameAsNet(t *testing.T, in []byte, happened string) {
	fr := http2.NewFramer(nil, bytes.NewReader(in))
	fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	theirs := map[string]bool{}
	for {
		frame, err := fr.ReadFrame()
		if _, stream := err.(http2.StreamError); err != nil && !stream {
			break
		}
		if h, ok := frame.(*http2.MetaHeadersFrame); ok && err == nil {
			var b strings.Builder
			fmt.Fprintf(&b, "request %d", h.StreamID)
			for _, p := range []string{"method", "scheme", "path"} {
				fmt.Fprintf(&b, " %s", h.PseudoValue(p))
			}
			fmt.Fprintf(&b, " end=%v\n", h.StreamEnded())
			for _, p := range h.RegularFields() {
				fmt.Fprintf(&b, "  %s: %s\n", p.Name, p.Value)
			}
			theirs[b.String()] = true
		}
	}
	// Ours, without authority (it may come from Host) and protocol.
	lines := strings.SplitAfter(happened, "\n")
	for i := 0; i < len(lines); i++ {
		if !strings.HasPrefix(lines[i], "request ") {
			continue
		}
		p := strings.Split(lines[i], " ") // request ID METHOD SCHEME AUTHORITY PATH PROTOCOL end
		ours := fmt.Sprintf("request %s %s %s %s %s", p[1], p[2], p[3], p[5], p[7])
		for i+1 < len(lines) && strings.HasPrefix(lines[i+1], "  ") {
			i++
			ours += lines[i]
		}
		if !theirs[ours] {
			t.Fatalf("x/net has not read %q\n%v", ours, theirs)
		}
	}
}

// FuzzClient holds the same of whatever a server sends.
func FuzzClient(f *testing.F) {
	w := newWire(false)
	skip := w.b.Len()
	w.headers(1, false, ":status: 103", "link: x").headers(1, false, ":status: 200", "content-length: 2")
	w.WriteData(1, false, []byte("hi"))
	w.headers(1, true, "grpc-status: 0").headers(3, true, ":status: 204")
	w.WriteGoAway(3, http2.ErrCodeNo, nil)
	f.Add(bytes.Clone(w.b.Bytes()[skip:]), uint8(3))
	f.Fuzz(func(t *testing.T, in []byte, step uint8) {
		if len(in) > 8192 {
			return
		}
		w := newWire(false)
		w.b.Write(in)
		all := w.b.Bytes()
		open := func() *Conn {
			c := newClient()
			ask(t, c, "GET")
			ask(t, c, "HEAD")
			ask(t, c, "CONNECT")
			return c
		}
		whole, out := run(open(), all, len(all))
		if cut, sent := run(open(), all, 1+int(step)); cut != whole || !bytes.Equal(sent, out) {
			t.Fatalf("in steps of %d:\n%s\nwhole:\n%s", 1+int(step), cut, whole)
		}
		frames(t, out)
	})
}

// BenchmarkExchange is a gRPC-like request and its response, both ends.
func BenchmarkExchange(b *testing.B) {
	for _, n := range []int{1, 16} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			once := exchanges(b, n)
			once()
			b.ReportAllocs()
			for b.Loop() {
				once()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/request")
		})
	}
}

// benchWire is one request of 1 KiB behind another, whose table has settled.
func benchWire() (first, again []byte) {
	w := newWire(true)
	send := func(id uint32) {
		w.headers(id, false, with(post, "content-type: application/grpc", "te: trailers", "user-agent: grpc-go/1.85.0", "grpc-timeout: 1S",
			"x-request-id: 9e2f3a5e-60c4-4d2b-8f6b-3f0e6a1c2d3b")...)
		w.WriteData(id, true, make([]byte, 1024))
	}
	send(1)
	first = bytes.Clone(w.b.Bytes())
	w.b.Reset()
	send(3)
	return first, w.b.Bytes()
}

// BenchmarkRead reads a request's frames, with all that is checked of them.
func BenchmarkRead(b *testing.B) {
	first, again := benchWire()
	c := newServer(Limits{Streams: 1000})
	var ev Event
	eat := func(in []byte) {
		for {
			in = in[c.Next(in, &ev):]
			switch ev.Kind {
			case NeedMore:
				return
			case Failed:
				b.Fatal(ev.Err)
			case Data:
				c.Consume(ev.Stream, len(ev.Data))
				if ev.End {
					ev.Stream.state |= closed
					c.Release(ev.Stream)
				}
			}
		}
	}
	eat(first)
	out := c.Append(nil, 1<<20)
	b.ReportAllocs()
	for b.Loop() {
		c.lastPeer = 1 // the same bytes again
		eat(again)
		out = c.Append(out[:0], 1<<20)
	}
}

// BenchmarkReadNet reads the same with x/net's framer, which does less.
func BenchmarkReadNet(b *testing.B) {
	first, again := benchWire()
	r := bytes.NewReader(first[len(Preface):])
	fr := http2.NewFramer(nil, r)
	fr.SetReuseFrames()
	fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	eat := func(n int) {
		for range n {
			if _, err := fr.ReadFrame(); err != nil {
				b.Fatal(err)
			}
		}
	}
	eat(3)
	b.ReportAllocs()
	for b.Loop() {
		r.Reset(again)
		eat(2)
	}
}
