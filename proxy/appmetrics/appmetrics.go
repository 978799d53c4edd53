//go:build linux

// Package appmetrics reads the metrics of the application beside a sidecar, so
// that one scrape of the sidecar yields both.
//
// In: where the pod's prometheus.io annotations said the metrics are, and a
// scrape. Out: the application's own lines, unchanged. Its port takes no
// plaintext from outside; the sidecar asks over the loopback device.
package appmetrics

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Environment is the variable that says where the metrics are, as JSON.
const Environment = "SEINE_APP_METRICS"

// Place is where the application's metrics are.
type Place struct {
	Scheme string `json:"scheme,omitempty"` // http or https
	Port   uint16 `json:"port"`
	Path   string `json:"path,omitempty"`
}

// Parse reads what Environment holds; "" is none (nil).
func Parse(s string) (*Place, error) {
	if s == "" {
		return nil, nil
	}
	d := json.NewDecoder(strings.NewReader(s))
	d.DisallowUnknownFields()
	p := &Place{}
	if err := d.Decode(p); err != nil {
		return nil, fmt.Errorf("%s: %w", Environment, err)
	}
	if p.Port == 0 {
		return nil, fmt.Errorf("%s: port is missing", Environment)
	}
	switch p.Scheme = strings.ToLower(p.Scheme); p.Scheme {
	case "":
		p.Scheme = "http"
	case "http", "https":
	default:
		return nil, fmt.Errorf("%s: scheme %q is neither http nor https", Environment, p.Scheme)
	}
	if p.Path == "" {
		p.Path = "/metrics"
	}
	if !strings.HasPrefix(p.Path, "/") {
		p.Path = "/" + p.Path
	}
	return p, nil
}

// Scraper reads one application's metrics.
type Scraper struct {
	url    string
	client http.Client
}

// maxMetrics bounds what is read of an application: more is an error, and
// nothing of it is passed on.
const maxMetrics = 64 << 20

// ErrTooLarge is an application's answer over the bound.
var ErrTooLarge = errors.New("the application's metrics are larger than 64 MiB")

// New returns a scraper of the application at app, asked from source.
func New(app, source netip.Addr, p *Place) *Scraper {
	d := net.Dialer{Timeout: 5 * time.Second}
	if source.IsValid() {
		d.LocalAddr = &net.TCPAddr{IP: source.AsSlice()}
	}
	at := netip.AddrPortFrom(app, p.Port).String()
	return &Scraper{
		url: p.Scheme + "://" + at + p.Path,
		client: http.Client{
			Transport: &http.Transport{
				DialContext:     func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "tcp", at) },
				IdleConnTimeout: 90 * time.Second, MaxIdleConns: 1, ResponseHeaderTimeout: time.Minute,
				// The certificate of an application's own port is not the mesh's to judge;
				// the connection does not leave the pod.
				TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// Scrape returns the application's metrics in the text format, whole lines
// only. The request is the scrape that asked for them: its time limit
// (X-Prometheus-Scrape-Timeout-Seconds) holds, 10 seconds without one.
func (s *Scraper) Scrape(r *http.Request) ([]byte, error) {
	ctx, cancel := context.WithTimeout(r.Context(), limit(r.Header.Get("X-Prometheus-Scrape-Timeout-Seconds")))
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url, nil)
	if err != nil {
		return nil, fmt.Errorf("the application's metrics: %w", err)
	}
	// Two expositions can be joined in this format alone.
	q.Header.Set("Accept", "text/plain;version=0.0.4;q=1,*/*;q=0.1")
	q.Header.Set("User-Agent", r.UserAgent())
	answer, err := s.client.Do(q)
	if err != nil {
		return nil, fmt.Errorf("the application's metrics: %w", err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the application's metrics at %s: %s", s.url, answer.Status)
	}
	if t := answer.Header.Get("Content-Type"); strings.Contains(t, "openmetrics") || strings.Contains(t, "protobuf") {
		return nil, fmt.Errorf("the application's metrics at %s come as %s although text was asked for", s.url, t)
	}
	b, err := io.ReadAll(io.LimitReader(answer.Body, maxMetrics+1))
	if err != nil {
		return nil, fmt.Errorf("the application's metrics: %w", err)
	}
	if len(b) > maxMetrics {
		return nil, ErrTooLarge
	}
	if len(b) > 0 && !bytes.HasSuffix(b, []byte("\n")) {
		b = append(b, '\n')
	}
	return b, nil
}

// limit leaves a tenth of the scraper's time for the way back.
func limit(seconds string) time.Duration {
	f, err := strconv.ParseFloat(seconds, 64)
	if err != nil || !(f > 0) || f > 600 {
		return 10 * time.Second
	}
	return time.Duration(f * 0.9 * float64(time.Second))
}
