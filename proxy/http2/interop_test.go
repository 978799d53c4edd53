package http2_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	nethttp "net/http"
	"strings"
	"sync"
	"testing"

	"github.com/seinemesh/seine/message"
	"github.com/seinemesh/seine/proxy/http2"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func priorKnowledge() *nethttp.Protocols {
	p := new(nethttp.Protocols)
	p.SetUnencryptedHTTP2(true)
	return p
}

// once is a listener of one connection.
type once struct {
	conn chan net.Conn
	addr net.Addr
}

func (l once) Accept() (net.Conn, error) {
	if c, ok := <-l.conn; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}
func (l once) Close() error   { return nil }
func (l once) Addr() net.Addr { return l.addr }

// TestNetHTTPClient: net/http's client drives our server, many streams at once,
// bodies larger than every window.
func TestNetHTTPClient(t *testing.T) {
	for name, o := range map[string]http2.Options{"plain": {}, "Huffman": {Huffman: true}} {
		t.Run(name, func(t *testing.T) {
			tr := &nethttp.Transport{Protocols: priorKnowledge(), DialContext: func(context.Context, string, string) (net.Conn, error) {
				ours, theirs := net.Pipe()
				go serve(ours, http2.NewOptions(o))
				return theirs, nil
			}}
			defer tr.CloseIdleConnections()
			client := &nethttp.Client{Transport: tr}
			var wg sync.WaitGroup
			for i := range 40 {
				wg.Add(1)
				go func() {
					defer wg.Done()
					body := bytes.Repeat([]byte{byte('a' + i%26)}, 1000*i*i%700_001)
					want := body
					if len(body) == 0 {
						want = []byte("hello, world")
					}
					res, err := client.Post(fmt.Sprintf("http://billing:8080/pay?id=%d", i), "text/plain", bytes.NewReader(body))
					if err != nil {
						t.Error(err)
						return
					}
					got, err := io.ReadAll(res.Body)
					res.Body.Close()
					if err != nil || res.StatusCode != 200 || !bytes.Equal(got, want) || res.Header.Get("Content-Type") != "text/plain" {
						t.Errorf("%d: %v, %d of %d bytes", i, err, len(got), len(want))
					}
				}()
			}
			wg.Wait()
		})
	}
}

// caller is a small client around a Conn: its requests one after another or at once.
type caller struct {
	c       *http2.Conn
	conn    net.Conn
	in      <-chan []byte
	pending []byte
	out     []byte
}

// call is one request and what came of it.
type call struct {
	status   int
	interim  []int
	got      []byte
	trailers string
	done     bool
	code     http2.Code
}

func (c *caller) open(t testing.TB, method, path string, body []byte) *call {
	t.Helper()
	req := message.Request{Method: []byte(method), Scheme: []byte("http"), Authority: []byte("billing:8080"), Path: []byte(path),
		Fields: []message.Field{
			{ID: message.Connection, Name: []byte("Connection"), Value: []byte("close")},
			{ID: message.TE, Name: []byte("TE"), Value: []byte("trailers")},
			{Name: []byte("X-Caller"), Value: []byte("test")},
			{Name: []byte("X-Large"), Value: bytes.Repeat([]byte("v"), 20000)}, // several frames
		}}
	var s *http2.Stream
	var err *http2.Error
	if c.out, s, err = c.c.AppendRequest(c.out, &req, nil, body == nil); err != nil {
		t.Fatal(err)
	}
	x := &call{}
	s.Owner = x
	if body != nil {
		if err = c.c.Send(s, body, true); err != nil {
			t.Fatal(err)
		}
	}
	return x
}

// turn writes what there is to write, and reads once.
func (c *caller) turn(t testing.TB) {
	t.Helper()
	for out := c.c.Append(c.out, 32<<10); len(out) > 0; out = c.c.Append(out[:0], 32<<10) {
		if _, err := c.conn.Write(out); err != nil {
			t.Fatal(err)
		}
	}
	c.out = c.out[:0]
	for s, _ := c.c.Moved(); s != nil; s, _ = c.c.Moved() {
		_ = s
	}
	p, ok := <-c.in
	if !ok {
		t.Fatal("the server has closed")
	}
	c.pending = append(c.pending, p...)
	data := c.pending
	var ev http2.Event
	for {
		n := c.c.Next(data, &ev)
		data = data[n:]
		if ev.Kind == http2.NeedMore {
			break
		}
		if ev.Kind == http2.Failed {
			t.Fatal(ev.Err)
		}
		if ev.Stream == nil || ev.Stream.Owner == nil {
			continue
		}
		x := ev.Stream.Owner.(*call)
		switch ev.Kind {
		case http2.Response:
			if ev.Response.Status < 200 {
				x.interim = append(x.interim, ev.Response.Status)
				continue
			}
			x.status = ev.Response.Status
		case http2.Data:
			x.got = append(x.got, ev.Data...)
			c.c.Consume(ev.Stream, len(ev.Data))
		case http2.Trailers:
			for _, f := range ev.Fields {
				x.trailers += fmt.Sprintf("%s: %s\n", f.Name, f.Value)
			}
		case http2.Reset:
			x.code, x.done = ev.Code, true
		}
		x.done = x.done || ev.End
		if x.done {
			c.c.Release(ev.Stream)
		}
	}
	c.pending = append(c.pending[:0:0], data...)
}

// TestNetHTTPServer: our client drives net/http's server.
func TestNetHTTPServer(t *testing.T) {
	ours, theirs := net.Pipe()
	l := once{make(chan net.Conn, 1), theirs.LocalAddr()}
	l.conn <- theirs
	var served sync.WaitGroup
	served.Add(1)
	go func() {
		defer served.Done()
		s := &nethttp.Server{Protocols: priorKnowledge(), Handler: nethttp.HandlerFunc(func(w nethttp.ResponseWriter, r *nethttp.Request) {
			if r.Host != "billing:8080" || r.Header.Get("X-Caller") != "test" || r.Header.Get("Connection") != "" || len(r.Header.Get("X-Large")) != 20000 {
				t.Errorf("%+v", r)
			}
			switch r.URL.Path {
			case "/reset":
				panic(nethttp.ErrAbortHandler)
			case "/hints":
				w.WriteHeader(103)
			case "/trailers":
				w.Header().Set("Trailer", "Grpc-Status")
				w.Write([]byte("x"))
				w.Header().Set("Grpc-Status", "0")
				return
			}
			io.Copy(w, r.Body)
		})}
		s.Serve(l)
	}()
	c := &caller{c: http2.New(http2.NewOptions(http2.Options{Role: http2.Client}), new(http2.Scratch)), conn: ours, in: reads(ours)}
	var calls []*call
	for i := range 30 {
		calls = append(calls, c.open(t, "POST", "/echo", bytes.Repeat([]byte{byte('a' + i%26)}, i*i*300)))
	}
	hints, trailers, reset := c.open(t, "GET", "/hints", nil), c.open(t, "GET", "/trailers", nil), c.open(t, "GET", "/reset", nil)
	for all := append(calls, hints, trailers, reset); len(all) > 0; {
		if all[0].done {
			all = all[1:]
			continue
		}
		c.turn(t)
	}
	for i, x := range calls {
		if x.status != 200 || len(x.got) != i*i*300 || strings.Trim(string(x.got), string('a'+rune(i%26))) != "" {
			t.Errorf("%d: %d, %d bytes, %v", i, x.status, len(x.got), x.code)
		}
	}
	if hints.status != 200 || len(hints.interim) != 1 || hints.interim[0] != 103 {
		t.Errorf("hints: %+v", hints)
	}
	if trailers.trailers != "grpc-status: 0\n" || string(trailers.got) != "x" {
		t.Errorf("trailers: %+v", trailers)
	}
	if reset.code != http2.InternalError {
		t.Errorf("reset: %+v", reset)
	}
	if c.c.Streams() != 0 {
		t.Errorf("%d streams are left", c.c.Streams())
	}
	ours.Close()
	close(l.conn)
	served.Wait()
	for range c.in {
	}
}
