package stat

import (
	"fmt"
	"slices"
	"sync"
	"time"
)

// Window keeps the scrapes of a span of time. Safe for any goroutine.
type Window struct {
	span time.Duration

	mu        sync.Mutex
	interned  map[string]*series // by the text of the series
	instances map[string]*instance
}

// instance is what one proxy reported. The values of scrapes are columns: the
// n-th is that of series[n].
type instance struct {
	series  []*series
	index   map[*series]int
	scrapes []scrape   // oldest first
	ejected []ejection // of the last scrape
}

type scrape struct {
	at     time.Time
	values []float64
}

// maxInterned bounds the texts that are remembered to save parsing them again.
const maxInterned = 1 << 20

// NewWindow returns a window over the last span.
func NewWindow(span time.Duration) *Window {
	return &Window{span: span, interned: map[string]*series{}, instances: map[string]*instance{}}
}

// Add takes in one scrape of one proxy. Bodies of an instance come in the
// order of their times. An error wraps ErrSyntax and leaves the window as it was.
func (w *Window) Add(name string, at time.Time, body []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	in := w.instances[name]
	if in == nil {
		in = &instance{index: map[*series]int{}}
	}
	known := len(in.series)
	values := make([]float64, known, known+8)
	var out []ejection
	err := parse(body, func(k kind, text, labels []byte, v float64) error {
		if k == ejected { // they come and go: no columns
			e, err := parseEjection(labels, v)
			if len(out) < maxEjected {
				out = append(out, e)
			}
			return err
		}
		s := w.interned[string(text)]
		if s == nil {
			var err error
			if s, err = parseSeries(k, labels); err != nil {
				return err
			}
			if len(w.interned) >= maxInterned {
				clear(w.interned)
			}
			w.interned[string(text)] = s
		}
		i, ok := in.index[s]
		if !ok {
			if i = len(in.series); i >= maxSeries {
				return fmt.Errorf("more than %d series", maxSeries)
			}
			in.index[s] = i
			in.series = append(in.series, s)
			values = append(values, 0)
		}
		values[i] = v
		return nil
	})
	if n := len(in.scrapes); err == nil && n > 0 && !at.After(in.scrapes[n-1].at) {
		err = fmt.Errorf("time %s is not after the last one's", at.Format(time.RFC3339Nano))
	}
	if err != nil {
		for _, s := range in.series[known:] {
			delete(in.index, s)
		}
		in.series = in.series[:known]
		return fmt.Errorf("metrics of %s: %w", name, err)
	}
	in.scrapes = append(in.scrapes, scrape{at, values})
	in.ejected = out
	// One scrape from before the window stays: it is where the window's
	// increase is counted from.
	drop := 0
	for drop+1 < len(in.scrapes) && !in.scrapes[drop+1].at.After(at.Add(-w.span)) {
		drop++
	}
	in.scrapes = slices.Delete(in.scrapes, 0, drop)
	w.instances[name] = in
	return nil
}

// Remove forgets an instance.
func (w *Window) Remove(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.instances, name)
}

func (in *instance) last(i int) float64 {
	if v := in.scrapes[len(in.scrapes)-1].values; i < len(v) {
		return v[i]
	}
	return 0
}

// since is the first scrape after cut that has one before it to count from; the
// number of scrapes if there is none.
func (in *instance) since(cut time.Time) int {
	n := min(1, len(in.scrapes))
	for n < len(in.scrapes) && !in.scrapes[n].at.After(cut) {
		n++
	}
	return n
}

// increase is how much series i grew with the scrapes from the n-th on. A value
// that fell means a proxy that started anew; a series that was not there counts
// from zero.
func (in *instance) increase(i, n int) (d float64) {
	for ; n < len(in.scrapes); n++ {
		var before, after float64
		if v := in.scrapes[n-1].values; i < len(v) {
			before = v[i]
		}
		if v := in.scrapes[n].values; i < len(v) {
			after = v[i]
		}
		if after < before {
			before = 0
		}
		d += after - before
	}
	return d
}
