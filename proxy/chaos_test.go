//go:build linux

package proxy

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// moody is an application that answers each request with the request's own ID
// and misbehaves now and then: it closes, resets, stalls, answers in chunks,
// before the body, or not at all. What it does is drawn from its seed.
func moody(t testing.TB, seed uint64) netip.AddrPort {
	var mu sync.Mutex
	conn := uint64(0)
	return rawApp(t, func(c net.Conn) {
		mu.Lock()
		conn++
		rng := rand.New(rand.NewPCG(seed, conn))
		mu.Unlock()
		r := bufio.NewReader(c)
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			id := req.URL.Path
			mood := rng.IntN(20)
			if mood == 0 {
				_ = c.(*net.TCPConn).SetLinger(0)
				return
			}
			if mood == 1 {
				return
			}
			if mood == 2 { // before the body
				fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(id), id)
				return
			}
			if _, err := io.Copy(io.Discard, req.Body); err != nil {
				return
			}
			pad := strings.Repeat("p", rng.IntN(100_000))
			switch mood {
			case 3:
				fmt.Fprintf(c, "HTTP/1.1 200 OK\r\n\r\n%s %s", id, pad) // until the close
				return
			case 4, 5, 6:
				fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
				for _, part := range []string{id, " ", pad} {
					if part != "" {
						fmt.Fprintf(c, "%x\r\n%s\r\n", len(part), part)
					}
				}
				fmt.Fprint(c, "0\r\n\r\n")
			case 7: // cut short
				fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(id)+100, id)
				return
			case 8:
				fmt.Fprintf(c, "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(id), id)
			default:
				body := id + " " + pad
				fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
			}
		}
	})
}

// TestChaos: whatever clients and application do, an answer that a client gets
// is the answer to its own request, and in the end nothing is left: no
// request under way, no buffer, no connection.
func TestChaos(t *testing.T) {
	t.Run("single", func(t *testing.T) { chaos(t, 1<<20) })
	t.Run("some shared", func(t *testing.T) { chaos(t, carryFrom) })
	t.Run("shared", func(t *testing.T) { chaos(t, 1) })
}

func chaos(t *testing.T, carry int) {
	seed := uint64(time.Now().UnixNano())
	t.Log("seed", seed)
	p := startPair(t, moody(t, seed), nil, func(c, s *Options) { c.Loops, s.Loops, c.carry = 2, 2, carry })
	clients, rounds := 12, 12
	if testing.Short() {
		rounds = 5
	}
	var all sync.WaitGroup
	for n := range clients {
		all.Add(1)
		go func() {
			defer all.Done()
			rng := rand.New(rand.NewPCG(seed, uint64(1_000_000+n)))
			for i := range rounds {
				chaoticClient(t, p.addr, rng, fmt.Sprintf("/%d-%d", n, i))
			}
		}()
	}
	all.Wait()
	defer func() {
		if t.Failed() {
			t.Logf("client\n%sserver\n%s", p.client.state(), p.server.state())
		}
	}()
	for _, r := range []*running{p.client, p.server} {
		eventually(t, "nothing is under way", func() bool {
			// Between the sidecars idle connections remain.
			return r.inflight() == 0 && (r == p.server || r.connections() == 0)
		})
		for _, w := range r.workers {
			eventually(t, "no buffer is held", func() bool {
				held := make(chan int64)
				w.loop.Post(func() { held <- w.buffers.inUse })
				return <-held == 0
			})
		}
	}
}

// chaoticClient makes some requests on one connection and leaves as it likes.
func chaoticClient(t *testing.T, addr string, rng *rand.Rand, id string) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	n := 1 + rng.IntN(6)
	var out strings.Builder
	for i := range n {
		path := id + "-" + strconv.Itoa(i)
		switch rng.IntN(4) {
		case 0:
			fmt.Fprintf(&out, "GET %s HTTP/1.1\r\nHost: billing:8080\r\n\r\n", path)
		case 1:
			b := strings.Repeat("b", rng.IntN(200_000))
			fmt.Fprintf(&out, "PUT %s HTTP/1.1\r\nHost: billing:8080\r\nContent-Length: %d\r\n\r\n%s", path, len(b), b)
		default:
			fmt.Fprintf(&out, "POST %s HTTP/1.1\r\nHost: billing:8080\r\nTransfer-Encoding: chunked\r\n\r\n", path)
			for range rng.IntN(5) {
				b := strings.Repeat("c", 1+rng.IntN(30_000))
				fmt.Fprintf(&out, "%x\r\n%s\r\n", len(b), b)
			}
			out.WriteString("0\r\n\r\n")
		}
	}
	data := out.String()
	cut := len(data)
	if rng.IntN(6) == 0 {
		cut = rng.IntN(len(data))
	}
	written := make(chan struct{})
	go func() {
		defer close(written)
		for at := 0; at < cut; {
			k := min(cut-at, 1+rng.IntN(60_000))
			if _, err := io.WriteString(c, data[at:at+k]); err != nil {
				return
			}
			at += k
		}
		if cut < len(data) {
			_ = c.Close() // leaves in the middle of something
		}
	}()
	defer func() { _ = c.Close(); <-written }()
	r := bufio.NewReader(c)
	for i := range n {
		res, err := http.ReadResponse(r, nil)
		for err == nil && res.StatusCode == 103 {
			res, err = http.ReadResponse(r, nil)
		}
		if err != nil {
			return
		}
		body, err := io.ReadAll(res.Body)
		if err != nil {
			return
		}
		if res.StatusCode == 200 {
			if got, _, _ := strings.Cut(string(body), " "); got != id+"-"+strconv.Itoa(i) {
				t.Errorf("request %s-%d got the answer to %q", id, i, got)
				return
			}
		} else if res.StatusCode != 503 {
			t.Errorf("status %d: %s", res.StatusCode, body)
		}
		if res.Close {
			return
		}
	}
}
