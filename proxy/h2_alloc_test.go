//go:build linux && !race

package proxy

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"

	"github.com/seinemesh/seine/message"
	"github.com/seinemesh/seine/proxy/http2"
	"github.com/seinemesh/seine/telemetry/accesslog"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

// quietApp2 answers each HTTP/2 request with the same kilobyte and trailers, and
// allocates nothing in the steady state.
func quietApp2(t testing.TB) netip.AddrPort {
	body := bytes.Repeat([]byte("a"), 1024)
	o := http2.NewOptions(http2.Options{})
	return rawApp(t, func(c net.Conn) {
		h := http2.New(o, new(http2.Scratch))
		buf, at := make([]byte, 64<<10), 0
		out := h.Append(nil, 64<<10)
		var ev http2.Event
		res := message.Response{Status: 200, Fields: []message.Field{{Name: []byte("content-type"), Value: []byte("application/grpc")}}}
		trailers := []message.Field{{Name: []byte("grpc-status"), Value: []byte("0")}}
		for {
			if len(out) > 0 {
				if _, err := c.Write(out); err != nil {
					return
				}
			}
			out = out[:0]
			n, err := c.Read(buf[at:])
			if err != nil {
				return
			}
			at += n
			data := buf[:at]
			for {
				n := h.Next(data, &ev)
				data = data[n:]
				if ev.Kind == http2.NeedMore {
					break
				}
				s := ev.Stream
				if ev.Kind == http2.Data {
					h.Consume(s, len(ev.Data))
				}
				if s == nil || !ev.End {
					continue
				}
				if out, _ = h.AppendResponse(out, s, &res, nil, false); h.Send(s, body, false) == nil {
					out = h.Append(out, 64<<10)
					out, _ = h.AppendTrailers(out, s, trailers)
				}
				for m, _ := h.Moved(); m != nil; m, _ = h.Moved() {
				}
				h.Release(s)
			}
			at = copy(buf, data)
			out = h.Append(out, 64<<10)
		}
	})
}

// allocations2 is how many objects the whole process makes for each of n streams
// at once of one connection.
func allocations2(t *testing.T, addr string, width int) float64 {
	t.Helper()
	c := dial(t, addr).TCPConn
	h := http2.New(http2.NewOptions(http2.Options{Role: http2.Client}), new(http2.Scratch))
	req := message.Request{Method: []byte("POST"), Scheme: []byte("http"), Authority: []byte("billing:8080"), Path: []byte("/pay.Pay/Now"), Fields: []message.Field{
		{ID: message.ContentType, Name: []byte("content-type"), Value: []byte("application/grpc")},
		{ID: message.TE, Name: []byte("te"), Value: []byte("trailers")},
		{ID: message.UserAgent, Name: []byte("user-agent"), Value: []byte("test")},
	}}
	content := []byte("\x00\x00\x00\x00\x05hello")
	var ev http2.Event
	buf, at := make([]byte, 64<<10), 0
	out := h.Append(nil, 64<<10)
	once := func() {
		for range width {
			var s *http2.Stream
			var err *http2.Error
			if out, s, err = h.AppendRequest(out, &req, nil, false); err != nil {
				t.Fatal(err)
			}
			_ = h.Send(s, content, true)
		}
		for done := 0; done < width; {
			if out = h.Append(out, 64<<10); len(out) > 0 {
				if _, err := c.Write(out); err != nil {
					t.Fatal(err)
				}
				out = out[:0]
			}
			n, err := c.Read(buf[at:])
			if err != nil {
				t.Fatal(err)
			}
			at += n
			data := buf[:at]
			for {
				n := h.Next(data, &ev)
				data = data[n:]
				if ev.Kind == http2.NeedMore {
					break
				}
				switch ev.Kind {
				case http2.Data:
					h.Consume(ev.Stream, len(ev.Data))
				case http2.Trailers:
					done++
					h.Release(ev.Stream)
				case http2.Reset, http2.Failed:
					t.Fatal(ev.Kind, ev.Code, ev.Err)
				}
			}
			at = copy(buf, data)
		}
	}
	for range 200 {
		once()
	}
	const n = 1000
	best := 1e9
	for range 3 { // the runtime allocates now and then, too
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range n {
			once()
		}
		runtime.ReadMemStats(&after)
		best = min(best, float64(after.Mallocs-before.Mallocs)/n/float64(width))
	}
	return best
}

// TestAllocations2: the steady state over HTTP/2 allocates nothing for a call,
// with routing, metrics, request IDs and an access log.
func TestAllocations2(t *testing.T) {
	logs := accesslog.New(accesslog.Options{Out: devNull(t)})
	defer logs.Close()
	at := quietApp2(t)
	table := billingTable(t, []*seinev1.HttpRule{toBilling()}, endpoint("1", at, workload("billing", "")))
	table.service[0].Protocol = seinev1.Protocol_PROTOCOL_GRPC
	p := start(t, Options{Loops: 1, Explicit: localhost(), AccessLog: logs}, table.build())
	for _, width := range []int{1, 16} {
		if n := allocations2(t, p.Addresses()[0].String(), width); n >= 0.3 { // one for each call would be 1; the rest of the program allocates now and then
			t.Errorf("%.3f allocations for each of %d calls at once", n, width)
		}
	}
}

// TestAllocationsPair2: between two sidecars only crypto/tls allocates, one object
// for each record that it reads: less than two for a call where calls share them.
func TestAllocationsPair2(t *testing.T) {
	p := speaks(t, seinev1.Protocol_PROTOCOL_GRPC, quietApp2(t), nil)
	for width, most := range map[int]float64{1: 2.05, 16: 1} {
		if n := allocations2(t, p.addr, width); n > most {
			t.Errorf("%.3f allocations for each of %d calls at once, at most %.2f", n, width, most)
		}
	}
}

func devNull(t *testing.T) io.Writer {
	f, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	must(t, err)
	t.Cleanup(func() { _ = f.Close() })
	return f
}
