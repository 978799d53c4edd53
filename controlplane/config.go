package controlplane

import (
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/seinemesh/seine/config"
	"github.com/seinemesh/seine/mesh"
)

// configuration is what the source said last, and what runs.
type configuration struct {
	publish func(*mesh.Snapshot)
	changed func(change) // told what was taken; set before take is called
	domain  string
	log     *slog.Logger

	accepted, refused prometheus.Counter
	findings          *prometheus.GaugeVec
	generation        prometheus.Gauge

	mu    sync.Mutex
	state ConfigState
	snap  *mesh.Snapshot
	said  map[string]struct{} // findings of the event before, which were logged then

	routes        []config.RouteStatus // of what runs
	routesChanged chan struct{}        // holds a token if routes may have changed; for one reader
}

// ConfigState is the answer of GET /api/v1/config.
type ConfigState struct {
	// Generation is what runs: the last that was good. 0: there never was one.
	Generation uint64    `json:"generation"`
	Loaded     time.Time `json:"loaded"` // when it was taken
	Services   int       `json:"services"`
	Workloads  int       `json:"workloads"`
	Healthy    int       `json:"healthy"` // of the workloads, those that may be called
	// Read is when files were read last; they are what runs if Error is empty.
	Read     time.Time       `json:"read"`
	Error    string          `json:"error,omitempty"` // why they were not taken
	Findings config.Findings `json:"findings"`
}

func newConfiguration(publish func(*mesh.Snapshot), domain string, log *slog.Logger) *configuration {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	return &configuration{
		publish: publish, changed: func(change) {}, domain: domain, log: log,
		accepted:   counter("seine_config_accepted_total", "Changes of the resources that were taken."),
		refused:    counter("seine_config_refused_total", "Changes of the resources that were not taken; what ran before went on."),
		findings:   prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "seine_config_findings", Help: "Findings in the resources as they were read last."}, []string{"severity"}),
		generation: prometheus.NewGauge(prometheus.GaugeOpts{Name: "seine_config_generation", Help: "Generation of the configuration that runs."}),
		state:      ConfigState{Findings: config.Findings{}}, routesChanged: make(chan struct{}, 1),
	}
}

func (c *configuration) collectors() []prometheus.Collector {
	return []prometheus.Collector{c.accepted, c.refused, c.findings, c.generation}
}

// loggedMost bounds what one change of the files writes to the log.
const loggedMost = 50

// take is what the source calls with each change.
func (c *configuration) take(e config.Event) {
	now := time.Now()
	err := e.Err
	if err == nil && e.Result.Snapshot.Settings.TrustDomain != c.domain {
		err = fmt.Errorf("trustDomain is %s now, but this control plane signs for %s: start it again to change that", e.Result.Snapshot.Settings.TrustDomain, c.domain)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !e.EndpointsOnly { // which have the findings of the event before
		c.report(e.Findings)
	}
	c.state.Read, c.state.Error, c.state.Findings = now, "", e.Findings
	if e.Findings == nil {
		c.state.Findings = config.Findings{}
	}
	if err != nil {
		c.refused.Inc()
		c.state.Error = err.Error()
		c.log.Error("the configuration was not taken; what ran before goes on", "generation", c.state.Generation, "err", err)
		return
	}
	snap := e.Result.Snapshot
	c.accepted.Inc()
	c.generation.Set(float64(snap.Generation))
	c.snap = snap
	if !e.EndpointsOnly {
		c.routes = e.Result.Routes
		select {
		case c.routesChanged <- struct{}{}:
		default:
		}
	}
	c.state.Generation, c.state.Loaded = snap.Generation, now
	c.state.Services, c.state.Workloads = len(snap.Services), len(snap.Workloads)
	c.state.Healthy = 0
	for _, w := range snap.Workloads {
		if !w.Unhealthy {
			c.state.Healthy++
		}
	}
	log := c.log.Info
	if e.EndpointsOnly {
		log = c.log.Debug
	}
	log("configuration taken", "generation", snap.Generation, "services", len(snap.Services), "workloads", len(snap.Workloads), "findings", len(e.Findings))
	c.publish(snap)
	c.changed(change{Generation: snap.Generation, At: now, EndpointsOnly: e.EndpointsOnly, Services: len(snap.Services), Workloads: len(snap.Workloads)})
}

// report logs what was not said of the files before. c.mu is held.
func (c *configuration) report(fs config.Findings) {
	said := make(map[string]struct{}, len(fs))
	written := 0
	for i := range fs {
		f := &fs[i]
		text := f.String()
		_, before := c.said[text]
		said[text] = struct{}{}
		if before || f.Severity == config.Info {
			continue
		}
		if written++; written > loggedMost {
			continue
		}
		log := c.log.Warn
		if f.Severity == config.Error {
			log = c.log.Error
		}
		log(text, "file", f.File, "line", f.Line, "resource", f.Resource(), "field", f.Path)
	}
	if written > loggedMost {
		c.log.Warn("more findings than are logged: see /api/v1/config, or run seine analyze", "left_out", written-loggedMost)
	}
	c.said = said
	for _, s := range []config.Severity{config.Info, config.Warning, config.Error} {
		c.findings.WithLabelValues(s.String()).Set(float64(fs.Count(s)))
	}
}

// currentRoutes is how the Gateway API routes of what runs fare.
func (c *configuration) currentRoutes() []config.RouteStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.routes
}

// current returns the state and the snapshot that runs (nil: none yet).
func (c *configuration) current() (ConfigState, *mesh.Snapshot) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state, c.snap
}
