package http2

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/seinemesh/seine/message"
	"github.com/seinemesh/seine/proxy/http2/hpack"
	"golang.org/x/net/http2"
)

// wire builds what a peer sends with x/net's framer, which is told to allow everything.
type wire struct {
	*http2.Framer
	b   *bytes.Buffer
	enc hpack.Encoder
}

func newWire(preface bool) *wire {
	b := new(bytes.Buffer)
	if preface {
		b.WriteString(Preface)
	}
	w := &wire{http2.NewFramer(b, nil), b, hpack.NewEncoder()}
	w.AllowIllegalWrites = true
	w.WriteSettings()
	return w
}

// block encodes "name: value" pairs.
func (w *wire) block(fields ...string) []byte {
	var out []byte
	for _, p := range fields {
		i := strings.Index(p[1:], ": ") + 1
		f := message.Field{Name: []byte(p[:i]), Value: []byte(p[i+2:])}
		// Upper case must reach the wire.
		if strings.ToLower(p[:i]) != p[:i] {
			out = append(append(append(out, 0, byte(i)), f.Name...), byte(len(f.Value)))
			out = append(out, f.Value...)
			continue
		}
		out = w.enc.Append(out, &f)
	}
	return out
}

func (w *wire) headers(id uint32, end bool, fields ...string) *wire {
	w.WriteHeaders(http2.HeadersFrameParam{StreamID: id, EndStream: end, EndHeaders: true, BlockFragment: w.block(fields...)})
	return w
}

var get = []string{":method: GET", ":scheme: http", ":authority: billing:8080", ":path: /pay?id=7"}
var post = []string{":method: POST", ":scheme: http", ":authority: billing:8080", ":path: /pay"}

func with(fields []string, more ...string) []string {
	return append(fields[:len(fields):len(fields)], more...)
}

// transcript says what happened in words. Data that comes in pieces is joined:
// where the bytes are cut must not show.
type transcript struct {
	b    strings.Builder
	data map[uint32]*strings.Builder
}

func (t *transcript) add(ev *Event) {
	if ev.Kind == Data {
		if t.data[ev.ID] == nil {
			t.data[ev.ID] = new(strings.Builder)
		}
		t.data[ev.ID].Write(ev.Data)
		if ev.End {
			fmt.Fprintf(&t.b, "data %d %q\n", ev.ID, t.data[ev.ID].String())
		}
		return
	}
	switch ev.Kind {
	case Request:
		r := ev.Request
		fmt.Fprintf(&t.b, "request %d %s %s %s %s %s end=%v\n", ev.ID, r.Method, r.Scheme, r.Authority, r.Path, ev.Protocol, ev.End)
		t.fields(r.Fields)
	case Response:
		fmt.Fprintf(&t.b, "response %d %d end=%v\n", ev.ID, ev.Response.Status, ev.End)
		t.fields(ev.Response.Fields)
	case Trailers:
		fmt.Fprintf(&t.b, "trailers %d\n", ev.ID)
		t.fields(ev.Fields)
	case Reset, Refused, Failed, GoAway:
		fmt.Fprintf(&t.b, "kind %d stream %d %v %v\n", ev.Kind, ev.ID, ev.Code, ev.Err)
	default:
		fmt.Fprintf(&t.b, "kind %d stream %d\n", ev.Kind, ev.ID)
	}
}

func (t *transcript) fields(fields []message.Field) {
	for _, f := range fields {
		fmt.Fprintf(&t.b, "  %s: %s\n", f.Name, f.Value)
	}
}

// run feeds in to c in steps, consuming all data, and returns what happened and what c sent.
func run(c *Conn, in []byte, step int) (string, []byte) { return runFrom(c, in, step, step) }

// runFrom is run with a first piece of another length.
func runFrom(c *Conn, in []byte, first, step int) (string, []byte) {
	t := transcript{data: map[uint32]*strings.Builder{}}
	var out, pending []byte
	var ev Event
	for k := first; ; k = step {
		k = min(k, len(in))
		pending, in = append(pending, in[:k]...), in[k:]
		data := pending
		for {
			n := c.Next(data, &ev)
			data = data[n:]
			if ev.Kind == NeedMore {
				break
			}
			t.add(&ev)
			if ev.Kind == Data {
				c.Consume(ev.Stream, len(ev.Data))
			}
		}
		if len(data) > MaxPending {
			panic("Next leaves more than MaxPending")
		}
		pending = append(pending[:0:0], data...)
		if len(in) == 0 {
			for more := c.Append(nil, 1<<20); len(more) > 0; more = c.Append(nil, 1<<20) {
				out = append(out, more...)
			}
			return t.b.String(), out
		}
	}
}

func newServer(l Limits) *Conn {
	return New(NewOptions(Options{Limits: l, ExtendedConnect: true}), new(Scratch))
}

func newClient() *Conn {
	return New(NewOptions(Options{Role: Client}), new(Scratch))
}

// ask opens a stream of a client.
func ask(t testing.TB, c *Conn, method string) *Stream {
	t.Helper()
	req := message.Request{Method: []byte(method), Scheme: []byte("http"), Authority: []byte("billing:8080"), Path: []byte("/pay")}
	if method == "CONNECT" {
		req.Scheme, req.Path = nil, nil
	}
	_, s, err := c.AppendRequest(nil, &req, nil, true)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// frames lists what is in out: "HEADERS 1 …".
func frames(t testing.TB, out []byte) (list []http2.Frame) {
	t.Helper()
	f := http2.NewFramer(nil, bytes.NewReader(bytes.TrimPrefix(out, []byte(Preface))))
	f.AllowIllegalReads = true
	f.SetMaxReadFrameSize(1<<24 - 1)
	for {
		fr, err := f.ReadFrame()
		if err != nil {
			if err.Error() != "EOF" {
				t.Fatalf("we send what x/net cannot read: %v", err)
			}
			return list
		}
		switch p := fr.(type) { // a frame's bytes are valid only until the next one
		case *http2.DataFrame:
			list = append(list, p)
		default:
			list = append(list, fr)
		}
	}
}

// sent is the first RST_STREAM or GOAWAY with an error in out.
func sentError(t testing.TB, out []byte) (stream uint32, code http2.ErrCode, any bool) {
	t.Helper()
	f := http2.NewFramer(nil, bytes.NewReader(bytes.TrimPrefix(out, []byte(Preface))))
	for {
		fr, err := f.ReadFrame()
		if err != nil {
			return 0, 0, false
		}
		switch p := fr.(type) {
		case *http2.RSTStreamFrame:
			return p.StreamID, p.ErrCode, true
		case *http2.GoAwayFrame:
			return 0, p.ErrCode, true
		}
	}
}
