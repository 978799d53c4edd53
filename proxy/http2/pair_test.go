package http2

import (
	"bytes"
	"testing"

	"github.com/seinemesh/seine/message"
)

// both is a stream as its two ends see it.
type both struct {
	client, server *Stream
	sent, got      [2]int  // to the server, to the client
	queued         [2]bool // the end has been lent
	ended          [2]bool
	reset          bool
	unread         [2]int
}

// FuzzPair lets a client and a server do what they may in any order, in pieces
// of any size: neither ever takes the other for wrong, every byte arrives once and in
// its order, and in the end all windows are whole.
func FuzzPair(f *testing.F) {
	f.Add([]byte{0, 0, 1, 9, 17, 3, 2, 10, 3, 11, 4, 12, 7, 250, 249, 3, 5, 7})
	f.Add([]byte{0, 0xf9, 0xf9, 0xf9, 3, 3, 0xfb, 4, 3, 2, 0xfa, 0xfa, 3, 6, 6, 7})
	f.Add(bytes.Repeat([]byte{0, 0xf9, 0xfa, 0xfb, 0xf4, 6, 14}, 20))
	f.Fuzz(func(t *testing.T, ops []byte) {
		if len(ops) > 300 {
			return
		}
		p := newPair(t, Limits{ConnWindow: 100_000, Resets: 1 << 20, Updates: 1 << 20, Idle: 1 << 20, Replies: 1 << 20})
		var all []*both
		live := map[uint32]*both{}
		free := func(b *both) {
			if b.client != nil && b.client.Closed() && b.unread[1] == 0 {
				p.client.Release(b.client)
				b.client = nil
			}
			if b.server != nil && b.server.Closed() && b.unread[0] == 0 {
				p.server.Release(b.server)
				b.server = nil
			}
		}
		heard := func(ev *Event, side int) {
			b := live[ev.ID]
			switch ev.Kind {
			case Request:
				b.server = ev.Stream
			case Data:
				for _, c := range ev.Data {
					if c != byte(b.got[side]*7) {
						t.Fatalf("stream %d: byte %d is %d", ev.ID, b.got[side], c)
					}
					b.got[side]++
				}
				b.unread[side] += len(ev.Data)
			case Reset:
				b.reset = true
			case Refused:
				t.Fatal("refused")
			}
			if b != nil && ev.End {
				b.ended[side] = true
			}
		}
		p.onServer = func(ev *Event) { heard(ev, 0) }
		p.onClient = func(ev *Event) { heard(ev, 1) }
		send := func(c *Conn, s *Stream, b *both, side, n int, end bool) {
			if s == nil || s.Closed() || b.queued[side] {
				return
			}
			rest := bytes.Clone(s.Rest())
			for range n {
				rest = append(rest, byte(b.sent[side]*7))
				b.sent[side]++
			}
			if err := c.Send(s, rest, end); err != nil {
				t.Fatal(err)
			}
			b.queued[side] = end
		}
		consume := func(b *both, side, n int) {
			n = min(n, b.unread[side])
			b.unread[side] -= n
			if side == 0 && b.server != nil {
				p.server.Consume(b.server, n)
			} else if side == 1 && b.client != nil {
				p.client.Consume(b.client, n)
			}
		}
		step := func(room int) {
			p.toServer = p.give(p.server, p.client.Append(p.toServer, room), p.onServer)
			p.toClient = p.give(p.client, p.server.Append(p.toClient, room), p.onClient)
			for s, _ := p.client.Moved(); s != nil; s, _ = p.client.Moved() {
			}
			for s, _ := p.server.Moved(); s != nil; s, _ = p.server.Moved() {
			}
		}
		for i, op := range ops {
			arg := int(op >> 3)
			var b *both
			if len(all) > 0 {
				b = all[(i*7+arg)%len(all)]
			}
			switch op & 7 {
			case 0:
				if p.client.MayOpen() && p.server.Streams() < 90 && p.client.Streams() < 90 {
					s := p.open("POST", false)
					b := &both{client: s}
					all, live[s.id] = append(all, b), b
				}
			case 1:
				if b != nil {
					send(p.client, b.client, b, 0, arg*arg*50, arg&1 == 1)
				}
			case 2:
				if b != nil && b.server != nil && !b.server.Closed() {
					if b.server.state&headSent == 0 {
						p.toClient, _ = p.server.AppendResponse(p.toClient, b.server, &message.Response{Status: 200}, nil, false)
					}
					send(p.server, b.server, b, 1, arg*arg*50, arg&1 == 1)
				}
			case 3:
				step(20 + arg*arg*40)
			case 4:
				if b != nil {
					consume(b, arg&1, arg*arg*30)
				}
			case 5:
				if b != nil {
					b.reset = true
					if arg&1 == 0 && b.client != nil {
						p.client.Reset(b.client, Cancel)
					} else if b.server != nil {
						p.server.Reset(b.server, Cancel)
					}
				}
			case 6:
				if b != nil {
					free(b)
				}
			case 7:
				for range 4 {
					step(32 << 10)
				}
			}
		}
		for _, b := range all { // what is begun is ended
			send(p.client, b.client, b, 0, 3, true)
		}
		for range 3 {
			p.pump()
			for _, b := range all {
				if b.server != nil && !b.server.Closed() {
					if b.server.state&headSent == 0 {
						p.toClient, _ = p.server.AppendResponse(p.toClient, b.server, &message.Response{Status: 200}, nil, false)
					}
					send(p.server, b.server, b, 1, 3, true)
				}
			}
		}
		for moving := true; moving; {
			p.pump()
			moving = false
			for _, b := range all {
				for side := range 2 {
					moving = moving || b.unread[side] > 0
					consume(b, side, b.unread[side])
				}
			}
		}
		for i, b := range all {
			if !b.reset && (b.sent != b.got || !b.ended[0] || !b.ended[1]) {
				t.Fatalf("stream %d: sent %v, got %v, ended %v", 2*i+1, b.sent, b.got, b.ended)
			}
			free(b)
		}
		p.pump()
		for name, c := range map[string]*Conn{"client": p.client, "server": p.server} {
			if c.Err() != nil || c.Streams() != 0 || c.turn != nil || c.moved != nil {
				t.Fatalf("%s: %v, %d streams", name, c.Err(), c.Streams())
			}
			if c.recv+int64(c.credit) != 100_000 {
				t.Fatalf("%s: %d + %d of the window", name, c.recv, c.credit)
			}
		}
		if p.client.mine != 0 || p.client.send != p.server.recv || p.server.send != p.client.recv {
			t.Fatalf("%d open; windows %d %d, %d %d", p.client.mine, p.client.send, p.server.recv, p.server.send, p.client.recv)
		}
	})
}
