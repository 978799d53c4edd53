package controlplane

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"sync"
)

// An API server shows no certificate to a webhook unless its administrator told it
// to (--webhook-client-ca), so whoever reaches the port may ask. What that costs is
// bounded here; that it writes nothing is the handlers' part.
const (
	// reviewOwn of each body are held beside what all of them share: as many as
	// there are connections (webhookConnections). Few pods are larger.
	reviewOwn = 256 << 10
	// reviewRoom is what larger bodies share, and reviewShare one address' part.
	reviewRoom  = 64 << 20
	reviewShare = reviewRoom / 4
)

var errReviewRoom = errors.New("too many large reviews at once: ask again")

// reviews takes in the bodies that the webhooks are asked with.
type reviews struct {
	mu   sync.Mutex
	held int64
	by   map[netip.Addr]int64
}

func newReviews() *reviews { return &reviews{by: map[netip.Addr]int64{}} }

// handler answers POSTs of at most most bytes; answer may use body until it returns.
func (v *reviews) handler(most int64, answer func(w http.ResponseWriter, r *http.Request, body []byte)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from := remote(r)
		body, held, err := v.read(http.MaxBytesReader(w, r.Body, most), from)
		defer v.give(from, held)
		var large *http.MaxBytesError
		switch {
		case errors.As(err, &large):
			fail(w, http.StatusRequestEntityTooLarge, fmt.Errorf("a review has at most %d bytes", most))
		case errors.Is(err, errReviewRoom):
			fail(w, http.StatusServiceUnavailable, err)
		case err != nil:
			fail(w, http.StatusBadRequest, fmt.Errorf("the review did not arrive: %w", err))
		default:
			answer(w, r, body)
		}
	})
}

// remote is the address that a request came from.
func remote(r *http.Request) netip.Addr {
	a, _ := netip.ParseAddrPort(r.RemoteAddr)
	return a.Addr().Unmap()
}

// read reads all of b; held is what is to be given back, also with an error.
func (v *reviews) read(b io.Reader, from netip.Addr) (body []byte, held int64, err error) {
	body = make([]byte, 0, 16<<10)
	for {
		if len(body) == cap(body) {
			size := 2 * cap(body)
			if beyond := int64(size - reviewOwn); beyond > held {
				if !v.take(from, beyond-held) {
					return nil, held, errReviewRoom
				}
				held = beyond
			}
			body = append(make([]byte, 0, size), body...)
		}
		n, err := b.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		if errors.Is(err, io.EOF) {
			return body, held, nil
		}
		if err != nil {
			return nil, held, err
		}
	}
}

func (v *reviews) take(from netip.Addr, n int64) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.held+n > reviewRoom || v.by[from]+n > reviewShare {
		return false
	}
	v.held += n
	v.by[from] += n
	return true
}

func (v *reviews) give(from netip.Addr, n int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.held -= n
	if v.by[from] -= n; v.by[from] == 0 {
		delete(v.by, from)
	}
}
