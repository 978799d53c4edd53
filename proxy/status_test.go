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
