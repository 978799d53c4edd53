package metrics

import (
	"fmt"
	"sync/atomic"
)

// family is the process metrics of one name.
type family struct {
	name, help, kind string
	series           []*series
	each             func(add func(value float64, labels ...string)) // besides series
}

type series struct {
	labels  string
	counter *Counter
	gauge   *Gauge
	f       func() float64
}

// Counter returns the process counter of that name, made on first use. labels
// are name, value, name, value. Safe for any goroutine; not for the hot path
// (keep the pointer). A name that is not a metric's, or that is of another kind
// already, is a mistake of the program and panics.
func (r *Registry) Counter(name, help string, labels ...string) *Counter {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.series(name, help, "counter", labels)
	if s.counter == nil {
		s.counter = &Counter{}
	}
	return s.counter
}

// Gauge is as Counter, for a value that goes both ways.
func (r *Registry) Gauge(name, help string, labels ...string) *Gauge {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.series(name, help, "gauge", labels)
	if s.gauge == nil {
		s.gauge = &Gauge{}
	}
	return s.gauge
}

// GaugeFunc registers a value that is read at the scrape, in place of one that
// was registered before. f may be called by any goroutine and must not use r.
func (r *Registry) GaugeFunc(name, help string, f func() float64, labels ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.series(name, help, "gauge", labels).f = f
}

// CounterFunc is GaugeFunc for a value that only grows.
func (r *Registry) CounterFunc(name, help string, f func() float64, labels ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.series(name, help, "counter", labels).f = f
}

// GaugesFunc registers a family whose series are only known at the scrape, in
// place of one that was registered before. each may be called by any goroutine,
// calls add for each series (labels as in Counter) and must not use r; it has
// to bound their number itself.
func (r *Registry) GaugesFunc(name, help string, each func(add func(value float64, labels ...string))) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.family(name, help, "gauge").each = each
}

// series finds or makes a series; r.mu is held.
func (r *Registry) series(name, help, kind string, labels []string) *series {
	text := rendered(nil, name, labels)
	fam := r.family(name, help, kind)
	for _, s := range fam.series {
		if s.labels == string(text) {
			return s
		}
	}
	s := &series{labels: string(text)}
	fam.series = append(fam.series, s)
	return s
}

// rendered appends labels as the text format has them.
func rendered(text []byte, name string, labels []string) []byte {
	if len(labels)%2 != 0 {
		panic(fmt.Sprintf("metrics: %q with %d label strings is not a metric", name, len(labels)))
	}
	for i := 0; i < len(labels); i += 2 {
		if !validName(labels[i]) {
			panic(fmt.Sprintf("metrics: %s: %q is not a label name", name, labels[i]))
		}
		text = appendLabel(text, labels[i], labels[i+1])
	}
	return text
}

// family finds or makes a family; r.mu is held.
func (r *Registry) family(name, help, kind string) *family {
	if !validName(name) {
		panic(fmt.Sprintf("metrics: %q is not a metric", name))
	}
	var fam *family
	for _, f := range r.families {
		if f.name == name {
			fam = f
		}
	}
	if fam == nil {
		fam = &family{name: name, help: help, kind: kind}
		r.families = append(r.families, fam)
	}
	if fam.kind != kind {
		panic(fmt.Sprintf("metrics: %s is a %s, not a %s", name, fam.kind, kind))
	}
	return fam
}

func validName(s string) bool {
	for i, c := range []byte(s) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}

// Counter only grows. Any goroutine may add to it.
type Counter struct {
	v atomic.Uint64
	_ [56]byte // counters of different loops must not share a cache line
}

// Inc adds one.
func (c *Counter) Inc() { c.v.Add(1) }

// Add adds n.
func (c *Counter) Add(n uint64) { c.v.Add(n) }

// Value returns the present count.
func (c *Counter) Value() uint64 { return c.v.Load() }

// Gauge goes up and down. Any goroutine may change it.
type Gauge struct {
	v atomic.Int64
	_ [56]byte
}

// Set stores v.
func (g *Gauge) Set(v int64) { g.v.Store(v) }

// Add adds d, which may be negative.
func (g *Gauge) Add(d int64) { g.v.Add(d) }

// Value returns the present value.
func (g *Gauge) Value() int64 { return g.v.Load() }
