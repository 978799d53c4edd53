//go:build linux

package proxy

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

// poolModel says what a cluster with maxConnections and http1MaxPendingRequests does
// with requests of HTTP/1.1: each has a connection, waits in turn for one, or is
// refused.
type poolModel struct {
	most, mayWait int
	active        map[int]bool
	queue         []int
}

// come reports whether a request is let in.
func (m *poolModel) come(id int) bool {
	switch {
	case len(m.queue) == 0 && len(m.active) < m.most:
		m.active[id] = true
	case len(m.queue) < m.mayWait:
		m.queue = append(m.queue, id)
	default:
		return false
	}
	return true
}

// leave takes a request out, answered or given up by its client.
func (m *poolModel) leave(id int) {
	delete(m.active, id)
	m.queue = slices.DeleteFunc(m.queue, func(q int) bool { return q == id })
	m.serve()
}

func (m *poolModel) serve() {
	for len(m.queue) > 0 && len(m.active) < m.most {
		m.active[m.queue[0]] = true
		m.queue = m.queue[1:]
	}
}

// holder is an application that keeps each request until it is told to answer.
type holder struct {
	mu   sync.Mutex
	free map[int]chan struct{} // requests under way
}

func (h *holder) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var id int
	_, _ = fmt.Sscanf(r.URL.Path, "/%d", &id)
	free := make(chan struct{})
	h.mu.Lock()
	h.free[id] = free
	h.mu.Unlock()
	select {
	case <-free:
	case <-r.Context().Done():
	}
	h.mu.Lock()
	delete(h.free, id)
	h.mu.Unlock()
}

func (h *holder) under() map[int]bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := map[int]bool{}
	for id := range h.free {
		out[id] = true
	}
	return out
}

func (h *holder) answer(id int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	close(h.free[id])
}

// TestPoolModel runs random histories through a proxy and the model: requests come,
// are answered and given up, limits are raised. With one event loop requests are served
// in their order, with several as many of them.
func TestPoolModel(t *testing.T) {
	for _, loops := range []int{1, 3} {
		for seed := range uint64(6) {
			t.Run(fmt.Sprintf("%d loops, seed %d", loops, seed), func(t *testing.T) {
				t.Parallel()
				rng := rand.New(rand.NewPCG(seed, uint64(loops)))
				app := &holder{free: map[int]chan struct{}{}}
				at := app2(t, app.ServeHTTP)
				m := &poolModel{most: 1 + rng.IntN(3), mayWait: 1 + rng.IntN(3), active: map[int]bool{}}
				of := func() *tableOf {
					return limited(t, pooled(&seinev1.ConnectionPool{MaxConnections: uint32(m.most), MaxPending: uint32(m.mayWait)}), toBilling(), endpoint("1", at, workload("billing", "")))
				}
				p := start(t, Options{Loops: loops, Explicit: localhost()}, of().build())
				clients := map[int]*client{}
				var history []string
				ordered := loops == 1
				settles := func() {
					t.Helper()
					eventually(t, fmt.Sprintf("%d under way and %d waiting, after %s; the application has %v", len(m.active), len(m.queue), strings.Join(history, ", "), app.under()), func() bool {
						under := app.under()
						if ordered && !maps.Equal(under, m.active) || len(under) != len(m.active) {
							return false
						}
						for id := range under { // the application may not have heard yet who left
							if !m.active[id] && !slices.Contains(m.queue, id) {
								return false
							}
						}
						if sh := p.shared(p.tables.Table().Cluster(billing+"/8080", "")); len(clients) > 0 && sh.pending.Value() != int64(len(m.queue)) {
							return false
						}
						return true
					})
					if !ordered { // which of those that wait is served is the loops' business
						under := app.under()
						all := append(slices.Collect(maps.Keys(m.active)), m.queue...)
						m.active, m.queue = under, slices.DeleteFunc(all, func(id int) bool { return under[id] })
					}
				}
				for id := range 80 {
					var open []int
					open = append(append(open, slices.Sorted(maps.Keys(m.active))...), m.queue...)
					switch k := rng.IntN(10); {
					case k < 5 || len(open) == 0:
						history = append(history, fmt.Sprint("come ", id))
						c := p.dial(t)
						c.write("GET /%d HTTP/1.1\r\nHost: billing:8080\r\n\r\n", id)
						if m.come(id) {
							clients[id] = c
						} else if res, body := c.response("GET"); res.StatusCode != 503 {
							t.Fatalf("%s %q after %v", res.Status, body, history)
						}
					case k < 8 && len(m.active) > 0:
						who := slices.Sorted(maps.Keys(m.active))[rng.IntN(len(m.active))]
						history = append(history, fmt.Sprint("answer ", who))
						app.answer(who)
						if res, _ := clients[who].response("GET"); res.StatusCode != 200 {
							t.Fatalf("%s after %v", res.Status, history)
						}
						_ = clients[who].Close()
						delete(clients, who)
						m.leave(who)
					case k < 9:
						who := open[rng.IntN(len(open))]
						history = append(history, fmt.Sprint("leave ", who))
						_ = clients[who].SetLinger(0)
						_ = clients[who].Close()
						delete(clients, who)
						m.leave(who)
					case m.most < 5:
						m.most, m.mayWait = m.most+rng.IntN(2), m.mayWait+rng.IntN(2)
						history = append(history, fmt.Sprint("limits ", m.most, " ", m.mayWait))
						p.tables.publish(of().build())
						eventually(t, "the limits are known", func() bool {
							l := p.shared(p.tables.Table().Cluster(billing+"/8080", "")).limits.Load()
							return int(l.MaxConnections) == m.most && int(l.MaxPending) == m.mayWait
						})
						m.serve()
					}
					settles()
				}
				for _, c := range clients {
					_ = c.SetLinger(0)
					_ = c.Close()
				}
				eventually(t, "nothing is under way", func() bool { return p.inflight() == 0 && len(app.under()) == 0 })
				sh := p.shared(p.tables.Table().Cluster(billing+"/8080", ""))
				if sh.pending.Value() != 0 || sh.waiting.Value() != 0 || int(sh.conns.Value()) > m.most {
					t.Errorf("%d pending, %d waiting, %d connections of %d", sh.pending.Value(), sh.waiting.Value(), sh.conns.Value(), m.most)
				}
			})
		}
	}
}
