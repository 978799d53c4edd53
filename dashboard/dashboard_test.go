package dashboard

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestDoor: who has no token reads pages and, if that is wanted, metrics; who has
// it reads all; nobody changes anything, and the token goes no further.
func TestDoor(t *testing.T) {
	seined := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Authorization"); got != "" {
			t.Errorf("the control plane was given %q", got)
		}
		_, _ = io.WriteString(w, r.Method+" "+r.URL.Path+" "+r.Host)
	}))
	defer seined.Close()
	dial := func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", seined.Listener.Addr().String())
	}
	token := NewToken()
	if len(token) != 32 || token == NewToken() {
		t.Fatalf("token %q", token)
	}
	for _, metrics := range []bool{true, false} {
		h := Handler(Options{Dial: dial, Token: token, Metrics: metrics})
		for _, c := range []struct {
			method, path    string
			without, having int
		}{
			{"GET", "/", 200, 200},
			{"GET", "/assets/x.js", 200, 200},
			{"GET", "/api/v1/stat", 401, 200},
			{"HEAD", "/api/v1/graph", 401, 200},
			{"GET", "/api", 401, 200},
			{"GET", "/api/v1/proxies", 401, 200},
			{"GET", "/api/v1/tap", 401, 200},
			{"POST", "/api/v1/explain", 401, 200},
			{"POST", "/api/v1/ca/rotate", 403, 403},
			{"POST", "/api/v1/ca%2Frotate", 403, 403},
			{"POST", "/api/v1/explain/../ca/rotate", 403, 403},
			{"PUT", "/api/v1/explain", 403, 403},
			{"DELETE", "/api/v1/config", 403, 403},
			{"GET", "/api/v1/proxies/shop/a-1/metrics", 401, 200},
			{"GET", "/api/v1/proxies/../stat/metrics", 401, 200},
			{"GET", "/metrics", 401, 200},
			{"GET", "/api/v1/sd", 401, 200},
		} {
			if metrics && (strings.HasSuffix(c.path, "a-1/metrics") || c.path == "/metrics" || c.path == "/api/v1/sd") {
				c.without = 200
			}
			for header, want := range map[string]int{"": c.without, "Bearer " + token: c.having, "Bearer x": c.without, token: c.without, "Bearer ": c.without} {
				r := httptest.NewRequest(c.method, "http://127.0.0.1:15016"+c.path, strings.NewReader("{}"))
				if header != "" {
					r.Header.Set("Authorization", header)
				}
				w := httptest.NewRecorder()
				h.ServeHTTP(w, r)
				if w.Code != want {
					t.Errorf("metrics %v: %s %s with %q: %d, want %d", metrics, c.method, c.path, header, w.Code, want)
				}
				if want == 200 && c.method != "HEAD" && !strings.HasSuffix(w.Body.String(), " 127.0.0.1:15016") {
					t.Errorf("%s %s: %q: the name that the browser used is lost", c.method, c.path, w.Body)
				}
			}
		}
	}
	w := httptest.NewRecorder()
	Handler(Options{Dial: dial}).ServeHTTP(w, httptest.NewRequest("GET", "/api/v1/stat", nil))
	if w.Code != 401 {
		t.Errorf("without a token at all: %d", w.Code)
	}
}

func TestAway(t *testing.T) {
	w := httptest.NewRecorder()
	h := Handler(Options{Token: "x", Dial: func(context.Context) (net.Conn, error) { return nil, net.ErrClosed }})
	h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	if w.Code != 502 || !strings.Contains(w.Body.String(), "does not answer") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestServe(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		done <- Serve(ctx, l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }))
	}()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Get("http://" + l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
