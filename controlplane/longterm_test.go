package controlplane

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seinemesh/seine/history"
	"github.com/seinemesh/seine/history/prometheus"
)

// TestPrometheusAway: that it is away is said once, it is left alone for a while,
// the own store answers meanwhile, and it is asked again.
func TestPrometheusAway(t *testing.T) {
	var up atomic.Bool
	var asked atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		if !up.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		fmt.Fprint(w, `{"status":"success","data":{"resultType":"matrix","result":[]}}`)
	}))
	defer s.Close()
	client, err := prometheus.New(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	var log bytes.Buffer
	v := &server{scraper: newScraper(fakeConnected{}, 1, quiet), longTerm: longTerm{client: client, log: slog.New(slog.NewTextHandler(&log, nil))}}
	now := time.Unix(1_800_000_000, 0)
	week := 7 * 24 * time.Hour
	for i := range 3 {
		a := v.series(t.Context(), history.Key{}, now.Add(time.Duration(i)*(askAgain+time.Second)), week)
		if a.From != "store" || !strings.Contains(a.Note, "Prometheus does not answer") {
			t.Errorf("%s: %s", a.From, a.Note)
		}
	}
	before := asked.Load()
	v.series(t.Context(), history.Key{}, now.Add(2*(askAgain+time.Second)), week)
	if asked.Load() != before {
		t.Error("it is asked again at once")
	}
	if n := strings.Count(log.String(), "does not answer"); n != 1 {
		t.Errorf("said %d times: %s", n, &log)
	}
	up.Store(true)
	later := now.Add(time.Hour)
	if a := v.series(t.Context(), history.Key{}, later, week); a.From != "prometheus" || a.Note != "" || a.Points != 360 {
		t.Errorf("%s %q %d", a.From, a.Note, a.Points)
	}
	if a := v.series(t.Context(), history.Key{}, later, time.Hour); a.From != "store" {
		t.Errorf("an hour from %s", a.From)
	}
	if !strings.Contains(log.String(), "answers again") || !v.longTerm.says().OK {
		t.Errorf("%s %+v", &log, v.longTerm.says())
	}
}
