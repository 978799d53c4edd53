package http2_test

import (
	"fmt"
	"slices"

	"github.com/seinemesh/seine/message"
	"github.com/seinemesh/seine/proxy/http2"
)

// hop is a proxy of one client and one upstream: what an event loop does with
// each connection's bytes, without the sockets.
type hop struct {
	down, up     *http2.Conn
	toDown, toUp []byte // written out by the loop after each turn
}

// peer is the other stream of an exchange.
func peer(s *http2.Stream) *http2.Stream { return s.Owner.(*http2.Stream) }

// fromClient takes bytes that the client sent and returns those to keep.
func (h *hop) fromClient(data []byte) []byte {
	var ev http2.Event
	for {
		n := h.down.Next(data, &ev)
		data = data[n:]
		switch ev.Kind {
		case http2.NeedMore:
			return data
		case http2.Request:
			edit := http2.Edit{Add: []message.Field{{Name: []byte("x-hop"), Value: []byte("1")}}}
			var s *http2.Stream
			h.toUp, s, _ = h.up.AppendRequest(h.toUp, ev.Request, &edit, ev.End)
			s.Owner, ev.Stream.Owner = ev.Stream, s
		case http2.Data:
			h.pass(h.up, peer(ev.Stream), ev.Data, ev.End)
		case http2.Reset:
			h.up.Release(peer(ev.Stream))
			h.down.Release(ev.Stream)
		}
	}
}

// fromUpstream is the same of the other side.
func (h *hop) fromUpstream(data []byte) []byte {
	var ev http2.Event
	for {
		n := h.up.Next(data, &ev)
		data = data[n:]
		switch ev.Kind {
		case http2.NeedMore:
			return data
		case http2.Response:
			h.toDown, _ = h.down.AppendResponse(h.toDown, peer(ev.Stream), ev.Response, nil, ev.End)
		case http2.Data:
			h.pass(h.down, peer(ev.Stream), ev.Data, ev.End)
		}
	}
}

// pass sends bytes on. The loop's buffer is about to be used again: what is not
// framed in this turn is kept behind what waits already.
func (h *hop) pass(c *http2.Conn, s *http2.Stream, p []byte, end bool) {
	c.Send(s, append(slices.Clone(s.Rest()), p...), end)
}

// turn frames what may go, and lets the sources of what has gone go on.
func (h *hop) turn() {
	h.toUp = h.up.Append(h.toUp, 32<<10)
	for s, n := h.up.Moved(); s != nil; s, n = h.up.Moved() {
		h.down.Consume(peer(s), n)
	}
	h.toDown = h.down.Append(h.toDown, 32<<10)
	for s, n := h.down.Moved(); s != nil; s, n = h.down.Moved() {
		h.up.Consume(peer(s), n)
		if s.Closed() && peer(s).Closed() {
			h.up.Release(peer(s))
			h.down.Release(s)
		}
	}
	h.toDown = h.down.Append(h.toDown, 32<<10)
}

// A proxy of one stream: a client's Conn, the proxy's two, an origin's.
func ExampleConn() {
	scratch := new(http2.Scratch) // one for each loop
	server, client := http2.NewOptions(http2.Options{}), http2.NewOptions(http2.Options{Role: http2.Client})
	h := &hop{down: http2.New(server, scratch), up: http2.New(client, scratch)}
	app := http2.New(client, scratch)
	origin := newOrigin(server)

	req := message.Request{Method: []byte("POST"), Scheme: []byte("http"), Authority: []byte("billing:8080"), Path: []byte("/pay")}
	out, s, _ := app.AppendRequest(nil, &req, nil, false)
	app.Send(s, []byte("7 francs"), true)
	var back []byte
	for range 4 { // as often as bytes come
		out = app.Append(out, 32<<10)
		h.fromClient(out)
		h.turn()
		answer, _ := origin.feed(h.toUp)
		h.fromUpstream(answer)
		h.turn()
		back = append(back[:0], h.toDown...)
		out, h.toUp, h.toDown = out[:0], h.toUp[:0], h.toDown[:0]
		var ev http2.Event
		for data := back; ; {
			data = data[app.Next(data, &ev):]
			if ev.Kind == http2.NeedMore {
				break
			}
			switch ev.Kind {
			case http2.Response:
				fmt.Println(ev.Response.Status)
			case http2.Data:
				fmt.Printf("%s end=%v\n", ev.Data, ev.End)
			}
		}
	}
	fmt.Println(h.down.Streams(), h.up.Streams(), origin.sent)
	// Output:
	// 200
	// 7 francs end=true
	// 0 0 1
}
