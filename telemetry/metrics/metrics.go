// Package metrics counts what a proxy does and writes it in the Prometheus
// text format, under Istio's names, labels and buckets.
//
// What enters: outcomes of requests and connections, each event loop through a
// Shard of its own. What leaves: a text exposition that merges the shards. It
// never locks, allocates or formats on a request's path, and it never starts a
// goroutine: labels are resolved once to a handle, the handle's counters are
// atomic words of one writer, and everything else happens at the scrape.
package metrics

import (
	"io"

	"github.com/seinemesh/seine/telemetry"
)

// Options of New. The zero value is usable.
type Options struct {
	// Component and Version are the labels of istio_build.
	Component, Version string
	// MaxSeries bounds the label sets of requests and connections; those
	// over it are counted in an overflow series. 2000 if zero.
	MaxSeries int
}

// Registry holds all metrics of a process.
type Registry struct{}

// New returns an empty registry.
func New(o Options) *Registry { return &Registry{} }

// Shard returns a new shard, to be used by one goroutine at a time (one loop).
func (r *Registry) Shard() *Shard { return &Shard{} }

// WriteTo writes all metrics in the Prometheus text format. Any goroutine.
func (r *Registry) WriteTo(w io.Writer) (int64, error) { return 0, nil }

// Counter returns the process counter of that name, made on first use. labels
// are name, value, name, value. Safe for any goroutine; not for the hot path
// (keep the pointer).
func (r *Registry) Counter(name, help string, labels ...string) *Counter { return &Counter{} }

// Gauge is as Counter, for a value that goes both ways.
func (r *Registry) Gauge(name, help string, labels ...string) *Gauge { return &Gauge{} }

// GaugeFunc registers a value that is read at the scrape.
func (r *Registry) GaugeFunc(name, help string, f func() float64, labels ...string) {}

// Counter only grows. Any goroutine may add to it.
type Counter struct{}

// Inc adds one.
func (c *Counter) Inc() {}

// Add adds n.
func (c *Counter) Add(n uint64) {}

// Value returns the present count.
func (c *Counter) Value() uint64 { return 0 }

// Gauge goes up and down. Any goroutine may change it.
type Gauge struct{}

// Set stores v.
func (g *Gauge) Set(v int64) {}

// Add adds d, which may be negative.
func (g *Gauge) Add(d int64) {}

// Value returns the present value.
func (g *Gauge) Value() int64 { return 0 }

// Shard is one loop's part of the metrics.
type Shard struct{}

// Requests returns the handle of one label set. It allocates on first use of
// the set: call it when a connection or a route is resolved, keep the pointer.
func (s *Shard) Requests(l *telemetry.RequestLabels) *Requests { return &Requests{} }

// TCP returns the handle of one label set for opaque connections.
func (s *Shard) TCP(l *telemetry.RequestLabels) *TCP { return &TCP{} }

// Requests counts the HTTP requests of one label set. One writer.
type Requests struct{}

// Observe counts one finished request. code is the status sent downstream, 0
// if none was; durations are microseconds, sizes bytes of bodies.
func (h *Requests) Observe(code int, flag telemetry.Flag, durationMicros, reqBytes, respBytes int64) {
}

// ObserveGRPC is Observe for a gRPC request that ended with a grpc-status.
func (h *Requests) ObserveGRPC(code, status int, flag telemetry.Flag, durationMicros, reqBytes, respBytes int64) {
}

// TCP counts the connections of one label set. One writer.
type TCP struct{}

// Opened counts a connection that was opened.
func (t *TCP) Opened() {}

// Closed counts a connection that was closed, and why.
func (t *TCP) Closed(flag telemetry.Flag) {}

// Sent counts bytes sent downstream (to the client), as Istio does.
func (t *TCP) Sent(n int64) {}

// Received counts bytes received from downstream.
func (t *TCP) Received(n int64) {}
