//go:build linux

package proxy

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// TestMergedIsBounded: each scrape holds the application's metrics in memory,
// and anybody may scrape.
func TestMergedIsBounded(t *testing.T) {
	began, release := make(chan struct{}, 64), make(chan struct{})
	s := &Status{Registry: newRegistry(), App: func(*http.Request) ([]byte, error) {
		began <- struct{}{}
		<-release
		return []byte("app_total 1\n"), nil
	}}
	h := s.Public()
	ask := func() *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/stats/prometheus", nil))
		return w
	}
	answers := make(chan *httptest.ResponseRecorder, mergedAtOnce)
	var all sync.WaitGroup
	for range mergedAtOnce {
		all.Go(func() { answers <- ask() })
		<-began
	}
	done := make(chan *httptest.ResponseRecorder, 1)
	all.Go(func() { done <- ask() })
	select {
	case w := <-done:
		if w.Code != http.StatusServiceUnavailable {
			t.Errorf("one too many: %d", w.Code)
		}
	case <-began:
		t.Error("one too many was served")
	}
	close(release)
	all.Wait()
	for range mergedAtOnce {
		if w := <-answers; w.Code != 200 || !strings.HasSuffix(w.Body.String(), "app_total 1\n") {
			t.Errorf("%d %q", w.Code, w.Body)
		}
	}
	if w := ask(); w.Code != 200 {
		t.Errorf("afterwards: %d", w.Code)
	}
}

// TestQuit: the workload may end its sidecar, and nobody else, and only where
// that was wanted.
func TestQuit(t *testing.T) {
	quits := 0
	with := (&Status{Registry: newRegistry(), Quit: func() { quits++ }}).Public()
	without := (&Status{Registry: newRegistry()}).Public()
	for _, tc := range []struct {
		h            http.Handler
		method, from string
		code, quits  int
	}{
		{with, "POST", "10.244.0.7:4711", http.StatusForbidden, 0},
		{with, "POST", "[fd44::7]:4711", http.StatusForbidden, 0},
		{with, "POST", "somewhere", http.StatusForbidden, 0},
		{with, "GET", "127.0.0.1:4711", http.StatusMethodNotAllowed, 0},
		{without, "POST", "127.0.0.1:4711", http.StatusNotFound, 0},
		{with, "POST", "127.0.0.1:4711", http.StatusOK, 1},
		{with, "POST", "[::1]:4711", http.StatusOK, 1},
		{with, "POST", "[::ffff:127.0.0.1]:4711", http.StatusOK, 1},
	} {
		quits = 0
		q := httptest.NewRequest(tc.method, "/quitquitquit", nil)
		q.RemoteAddr = tc.from
		w := httptest.NewRecorder()
		tc.h.ServeHTTP(w, q)
		if w.Code != tc.code || quits != tc.quits {
			t.Errorf("%s from %s: %d, ended %d times", tc.method, tc.from, w.Code, quits)
		}
	}
}
