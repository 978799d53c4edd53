package http2_test

import (
	"io"

	"github.com/seinemesh/seine/message"
	"github.com/seinemesh/seine/proxy/http2"
)

// origin is a small server around a Conn: it answers each request with its
// body, or with "hello, world" if it has none. It is what h2spec is run against, too.
type origin struct {
	c       *http2.Conn
	pending []byte // an incomplete frame
	out     []byte
	sent    int // requests answered
}

type answer struct {
	body     []byte
	trailers bool
}

func newOrigin(o *http2.Options) *origin {
	return &origin{c: http2.New(o, new(http2.Scratch))}
}

// feed takes what came and returns what is to be written; done: then close.
func (o *origin) feed(in []byte) (out []byte, done bool) {
	o.pending = append(o.pending, in...)
	data := o.pending
	var ev http2.Event
	o.out = o.out[:0]
	for {
		n := o.c.Next(data, &ev)
		data = data[n:]
		if ev.Kind == http2.NeedMore {
			break
		}
		if ev.Kind == http2.Failed {
			done = true
			continue
		}
		o.take(&ev)
	}
	o.pending = append(o.pending[:0], data...)
	o.out = o.c.Append(o.out, 1<<20)
	for s, _ := o.c.Moved(); s != nil; s, _ = o.c.Moved() {
		if s.Sent() {
			o.c.Release(s)
			o.sent++
		}
	}
	if extra := o.c.Append(nil, 1<<20); len(extra) > 0 {
		o.out = append(o.out, extra...)
	}
	return o.out, done
}

func (o *origin) take(ev *http2.Event) {
	switch ev.Kind {
	case http2.Request:
		a := &answer{}
		for _, f := range ev.Request.Fields {
			a.trailers = a.trailers || f.ID == message.TE
		}
		ev.Stream.Owner = a
		if ev.End {
			o.answer(ev.Stream)
		}
	case http2.Data:
		a := ev.Stream.Owner.(*answer)
		a.body = append(a.body, ev.Data...)
		o.c.Consume(ev.Stream, len(ev.Data))
		if ev.End {
			o.answer(ev.Stream)
		}
	case http2.Trailers:
		o.answer(ev.Stream)
	case http2.Reset:
		o.c.Release(ev.Stream)
	}
}

func (o *origin) answer(s *http2.Stream) {
	a := s.Owner.(*answer)
	if len(a.body) == 0 {
		a.body = []byte("hello, world")
	}
	res := message.Response{Status: 200, Fields: []message.Field{{Name: []byte("Content-Type"), Value: []byte("text/plain")}}}
	var err *http2.Error
	if o.out, err = o.c.AppendResponse(o.out, s, &res, nil, false); err != nil {
		panic(err)
	}
	if err = o.c.Send(s, a.body, true); err != nil {
		panic(err)
	}
}

// serve drives an origin over a connection of any kind until it ends.
func serve(conn io.ReadWriteCloser, o *http2.Options) {
	defer conn.Close()
	s := newOrigin(o)
	in := reads(conn)
	for out, done := s.feed(nil); ; {
		if _, err := conn.Write(out); err != nil || done {
			return
		}
		p, ok := <-in
		if !ok {
			return
		}
		out, done = s.feed(p)
	}
}

// reads passes on what comes, so that a pipe's peer is never held up.
func reads(conn io.Reader) <-chan []byte {
	in := make(chan []byte, 1<<14)
	go func() {
		defer close(in)
		for {
			buf := make([]byte, 4096)
			n, err := conn.Read(buf)
			if n > 0 {
				in <- buf[:n]
			}
			if err != nil {
				return
			}
		}
	}()
	return in
}
