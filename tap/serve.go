package tap

import (
	"encoding/json"
	"errors"
	"net/http"
	"time"
)

const (
	aliveEvery = 10 * time.Second
	lostEvery  = time.Second
	writeWait  = 10 * time.Second // for a watcher to take a line
	atOnce     = 64               // lines before a flush
)

// Handler serves GET /api/v1/tap: lines of JSON until the client goes. values says
// whether this client may see values of header fields and queries.
func (h *Hub) Handler(values bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q, err := ParseQuery(r.URL.Query())
		if err != nil {
			refuse(w, http.StatusBadRequest, err)
			return
		}
		if !values && (q.FullPath || len(q.HeaderValues) > 0) {
			refuse(w, http.StatusForbidden, errors.New("values of header fields and queries are only shown over the socket (--socket), or by a forwarded port in a cluster: every user of this machine can reach this address"))
			return
		}
		t, leave, err := h.watch(q)
		if err != nil {
			refuse(w, http.StatusTooManyRequests, err)
			return
		}
		defer leave()
		// The server's bounds are for answers that end by themselves. A reader
		// that stalls is ended by the deadline of each write.
		rc := http.NewResponseController(w)
		_ = rc.SetReadDeadline(time.Time{})
		w.Header().Set("Content-Type", "application/x-ndjson")
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		s := &stream{hub: h, tap: t, rc: rc, out: json.NewEncoder(w)}
		s.out.SetEscapeHTML(false)
		s.run(r.Context().Done())
	})
}

func refuse(w http.ResponseWriter, code int, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": err.Error()})
}

// stream writes one watcher's lines.
type stream struct {
	hub   *Hub
	tap   *watcher
	rc    *http.ResponseController
	out   *json.Encoder
	lost  Lost // as last said
	shown int  // proxies, as last said
}

// run writes until gone is closed, the watcher does not read, or the hub ends.
func (s *stream) run(gone <-chan struct{}) {
	alive, lost := time.NewTicker(aliveEvery), time.NewTicker(lostEvery)
	defer alive.Stop()
	defer lost.Stop()
	s.shown = -1
	if !s.started() {
		return
	}
	for {
		ok := true
		select {
		case <-gone:
			return
		case <-s.hub.ended:
			s.write(&Line{Type: TypeEnded, Error: "the control plane ends"})
			return
		case r := <-s.tap.requests:
			if ok = s.requests(r); ok {
				alive.Reset(aliveEvery)
			}
		case <-s.tap.changed:
			ok = s.started()
		case <-lost.C:
			if now := (Lost{s.tap.limited.Load(), s.tap.dropped.Load()}); now != s.lost {
				s.lost = now
				ok = s.write(&Line{Type: TypeLost, Lost: &now})
			}
		case <-alive.C:
			ok = s.write(&Line{Type: TypeAlive})
		}
		if !ok {
			return
		}
	}
}

func (s *stream) started() bool {
	n := s.hub.proxies(s.tap)
	if n == s.shown {
		return true
	}
	s.shown = n
	return s.write(&Line{Type: TypeStarted, Started: &Started{n, s.hub.opt.Replica}})
}

// requests writes r and those that wait behind it, and then flushes.
func (s *stream) requests(r *Request) bool {
	_ = s.rc.SetWriteDeadline(time.Now().Add(writeWait))
	for range atOnce {
		if s.out.Encode(&Line{Type: TypeRequest, Request: r}) != nil {
			return false
		}
		select {
		case r = <-s.tap.requests:
			continue
		default:
		}
		return s.rc.Flush() == nil
	}
	return s.out.Encode(&Line{Type: TypeRequest, Request: r}) == nil && s.rc.Flush() == nil
}

func (s *stream) write(l *Line) bool {
	_ = s.rc.SetWriteDeadline(time.Now().Add(writeWait))
	return s.out.Encode(l) == nil && s.rc.Flush() == nil
}
