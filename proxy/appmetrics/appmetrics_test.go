//go:build linux

package appmetrics

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestScrape(t *testing.T) {
	var accept, from string
	app := http.NewServeMux()
	app.HandleFunc("/metrics", func(w http.ResponseWriter, r *http.Request) {
		accept, from = r.Header.Get("Accept"), r.RemoteAddr
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		_, _ = w.Write([]byte("# TYPE orders_total counter\norders_total 7"))
	})
	app.HandleFunc("/open", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/openmetrics-text; version=1.0.0")
	})
	app.HandleFunc("/moved", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://169.254.169.254/", http.StatusFound)
	})
	s := httptest.NewServer(app)
	defer s.Close()
	at := netip.MustParseAddrPort(s.Listener.Addr().String())
	get := func(p Place) (string, error) {
		p.Scheme, p.Port = "http", at.Port()
		x := New(at.Addr(), netip.MustParseAddr("127.0.0.6"), &p)
		defer x.client.CloseIdleConnections()
		b, err := x.Scrape(httptest.NewRequest("GET", "/stats/prometheus", nil))
		return string(b), err
	}
	got, err := get(Place{Path: "/metrics"})
	if err != nil || got != "# TYPE orders_total counter\norders_total 7\n" {
		t.Errorf("%q, %v", got, err)
	}
	if !strings.HasPrefix(accept, "text/plain") || !strings.HasPrefix(from, "127.0.0.6:") {
		t.Errorf("asked for %q from %s", accept, from)
	}
	for path, want := range map[string]string{"/open": "openmetrics", "/moved": "302", "/none": "404"} {
		if _, err := get(Place{Path: path}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
}

func TestParse(t *testing.T) {
	for in, want := range map[string]Place{
		`{"port":9090}`:                          {Scheme: "http", Port: 9090, Path: "/metrics"},
		`{"scheme":"HTTPS","port":1,"path":"m"}`: {Scheme: "https", Port: 1, Path: "/m"},
	} {
		if got, err := Parse(in); err != nil || *got != want {
			t.Errorf("%s: %+v, %v", in, got, err)
		}
	}
	for _, in := range []string{`{`, `{}`, `{"port":70000}`, `{"port":1,"scheme":"ftp"}`, `{"port":1,"host":"x"}`} {
		if _, err := Parse(in); err == nil {
			t.Errorf("%s passes", in)
		}
	}
}

func TestLimit(t *testing.T) {
	for in, want := range map[string]time.Duration{"": 10 * time.Second, "x": 10 * time.Second, "-1": 10 * time.Second, "NaN": 10 * time.Second, "20": 18 * time.Second} {
		if got := limit(in); got != want {
			t.Errorf("%q: %v, want %v", in, got, want)
		}
	}
}
