package controlplane

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/seinemesh/seine/mesh"
	"github.com/seinemesh/seine/stat"
)

const (
	scrapeEvery = time.Second
	scrapeWait  = 900 * time.Millisecond // for one proxy
	scrapeBody  = 8 << 20
	scrapeAtOne = 16 // proxies at once
	statSpan    = 10 * time.Second
	// elsewhereEvery is how often a proxy is read that is connected to another
	// replica: each replica sees the whole mesh, at a fifth of the price.
	elsewhereEvery = 5 * time.Second
)

// connected is what the scraper knows proxies by.
type connected interface {
	Connected() []string // NAMESPACE/INSTANCE
	Snapshot() *mesh.Snapshot
	Acknowledged() (proxies int, least uint64)
}

// scraper reads the metrics of the proxies into a window: of those that are
// connected, and of those of other replicas.
type scraper struct {
	proxies connected
	port    uint16
	client  *http.Client
	window  *stat.Window
	judge   *judge
	memory  *memory
	log     *slog.Logger
	failed  prometheus.Counter
	took    prometheus.Histogram

	// alone says that there are no other replicas whose proxies are to be read.
	alone     func() bool
	elsewhere time.Time // when those were read last

	known map[string]struct{} // in the window
	mu    sync.Mutex
	down  map[string]string // proxies whose last scrape failed, and how
}

func newScraper(proxies connected, port uint16, log *slog.Logger) *scraper {
	m := newMemory()
	return &scraper{
		proxies: proxies, port: port, log: log, window: stat.NewWindow(statSpan), judge: newJudge(log, m.store), memory: m,
		alone: func() bool { return true },
		known: map[string]struct{}{}, down: map[string]string{},
		failed: prometheus.NewCounter(prometheus.CounterOpts{Name: "seine_scrape_failures_total", Help: "Scrapes of proxies that failed."}),
		took:   prometheus.NewHistogram(prometheus.HistogramOpts{Name: "seine_scrape_round_seconds", Help: "Seconds to scrape all connected proxies.", Buckets: []float64{.01, .05, .1, .25, .5, 1, 2.5, 5}}),
		client: &http.Client{
			Timeout: scrapeWait,
			// No proxy and no redirect: only what was asked is read.
			Transport:     &http.Transport{MaxIdleConnsPerHost: 1, MaxIdleConns: 1024, IdleConnTimeout: 30 * time.Second, MaxResponseHeaderBytes: 16 << 10, DisableCompression: true},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

func (s *scraper) collectors() []prometheus.Collector {
	return []prometheus.Collector{s.failed, s.took, s.judge.active}
}

// run scrapes once a second, or as often as it can, until ctx ends.
func (s *scraper) run(ctx context.Context) error {
	defer s.client.CloseIdleConnections()
	tick := time.NewTicker(scrapeEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			s.round(ctx)
		}
	}
}

// round scrapes every connected proxy once.
func (s *scraper) round(ctx context.Context) {
	start := time.Now()
	snap := s.proxies.Snapshot()
	if snap == nil {
		return
	}
	ids := s.proxies.Connected()
	now := make(map[string]struct{}, len(ids))
	var g errgroup.Group
	g.SetLimit(scrapeAtOne)
	for _, id := range ids {
		now[id] = struct{}{}
		w := snap.Workload(id)
		if w == nil || len(w.Addresses) == 0 {
			continue
		}
		g.Go(func() error { s.note(ctx, id, s.scrape(ctx, id, w.Addresses[0])); return nil })
	}
	others := s.others(snap, now)
	due := len(others) > 0 && start.Sub(s.elsewhere) >= elsewhereEvery
	if due {
		s.elsewhere = start
	}
	for _, w := range others {
		id := w.Key()
		now[id] = struct{}{}
		if due {
			// Whether it is there at all is for its own replica to say.
			g.Go(func() error { _ = s.scrape(ctx, id, w.Addresses[0]); return nil })
		}
	}
	_ = g.Wait()
	for id := range s.known {
		if _, still := now[id]; !still {
			s.window.Remove(id)
			s.judge.remove(id)
			s.memory.remove(id)
			s.mu.Lock()
			delete(s.down, id)
			s.mu.Unlock()
		}
	}
	s.known = now
	s.took.Observe(time.Since(start).Seconds())
	end := time.Now()
	s.memory.remember(end, s.window)
	_, least := s.proxies.Acknowledged()
	s.memory.acknowledged(least, end)
	if s.judge.due(end) {
		s.judge.judge(end, s.window.Distributions(end))
	}
}

// others are the proxies that are connected to other replicas, as far as the
// snapshot tells: sidecars that may be called, and are not connected here.
func (s *scraper) others(snap *mesh.Snapshot, here map[string]struct{}) []*mesh.Workload {
	if s.alone() {
		return nil
	}
	var out []*mesh.Workload
	for _, w := range snap.Workloads {
		if _, is := here[w.Key()]; !is && w.Sidecar && !w.Unhealthy && len(w.Addresses) > 0 {
			out = append(out, w)
		}
	}
	return out
}

// note logs a proxy that cannot be scraped once, and once that it can again.
func (s *scraper) note(ctx context.Context, id string, err error) {
	if ctx.Err() != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	before, was := s.down[id]
	if err == nil {
		if was {
			delete(s.down, id)
			s.log.Info("a proxy's metrics can be read again", "proxy", id)
		}
		return
	}
	s.failed.Inc()
	s.down[id] = err.Error()
	if before != err.Error() && !was {
		s.log.Warn("a proxy's metrics cannot be read", "proxy", id, "err", err)
	}
}

// scrape reads the proxy's own metrics: those of its application are nobody's here.
func (s *scraper) scrape(ctx context.Context, id string, at netip.Addr) error {
	body, _, err := s.read(ctx, at, "/metrics", "")
	if err != nil {
		return err
	}
	now := time.Now()
	return errors.Join(s.window.Add(id, now, body), s.judge.note(id, now, body), s.memory.note(id, now, body))
}

// read returns the metrics of the proxy at a, and their Content-Type: /metrics are
// its own, and /stats/prometheus with those of its application. accept is the header
// that asks for a format; "": text.
func (s *scraper) read(ctx context.Context, a netip.Addr, path, accept string) ([]byte, string, error) {
	at := netip.AddrPortFrom(a, s.port)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+at.String()+path, nil)
	if err != nil {
		return nil, "", err
	}
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	res, err := s.client.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer res.Body.Close() // read only
	if res.StatusCode != http.StatusOK {
		return nil, "", fmt.Errorf("%s answers %s", at, res.Status)
	}
	body, err := readAll(res.Body)
	return body, res.Header.Get("Content-Type"), err
}
