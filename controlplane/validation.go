package controlplane

import (
	"net/http"
	"net/netip"
	"sync"

	"github.com/seinemesh/seine/config/admission"
)

// validationsAtOnce bounds the builds that the API server's questions cost at a
// time; others wait for as long as the API server does. One address has at most
// validationsEach of them, so that another finds one soon.
const (
	validationsAtOnce = 2
	validationsEach   = validationsAtOnce - 1
)

// validation answers the API server's questions about resources that are about to
// be stored.
func validation(in *reviews, check admission.Check) http.Handler {
	places := make(chan struct{}, validationsAtOnce)
	queue := queues{by: map[netip.Addr]*turn{}}
	return in.handler(admission.MaxBytes, func(w http.ResponseWriter, r *http.Request, body []byte) {
		leave, ok := queue.enter(r)
		if !ok {
			return
		}
		defer leave()
		select {
		case places <- struct{}{}:
			defer func() { <-places }()
		case <-r.Context().Done():
			return
		}
		answer, err := admission.Review(body, check)
		if err != nil {
			fail(w, http.StatusBadRequest, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(answer)
	})
}

// queues has the requests of one address wait for each other.
type queues struct {
	mu sync.Mutex
	by map[netip.Addr]*turn
}

// turn is an address', for as long as it asks.
type turn struct {
	places chan struct{}
	users  int
}

// enter waits for a place of r's address, or until r ends.
func (q *queues) enter(r *http.Request) (leave func(), ok bool) {
	from := remote(r)
	q.mu.Lock()
	t := q.by[from]
	if t == nil {
		t = &turn{places: make(chan struct{}, validationsEach)}
		q.by[from] = t
	}
	t.users++
	q.mu.Unlock()
	gone := func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		if t.users--; t.users == 0 {
			delete(q.by, from)
		}
	}
	select {
	case t.places <- struct{}{}:
		return func() { <-t.places; gone() }, true
	case <-r.Context().Done():
		gone()
		return nil, false
	}
}
