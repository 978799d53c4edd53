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
	interned  map[string]*series // by the text of the series; those that instances have
	instances map[string]*instance
}

// instance is what one proxy reported. The values of scrapes are columns: the
// n-th is that of series[n].
type instance struct {
	series  []*series
	index   map[*series]int
	seen    []int      // by series: the number of the scrape that had it last
	number  int        // of the last scrape
	scrapes []scrape   // oldest first
	ejected []ejection // of the last scrape
}

type scrape struct {
	at     time.Time
	values []float64
}

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
	known, number := len(in.series), in.number+1
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
		s, old := w.interned[string(text)], true
		if s == nil {
			var err error
			if s, err = parseSeries(k, labels); err != nil {
				return err
			}
			s.text, old = string(text), false
		}
		i, ok := in.index[s]
		if !ok {
			switch {
			case len(in.series) >= maxSeries:
				return fmt.Errorf("more than %d series", maxSeries)
			case !old && len(w.interned) >= maxInterned:
				return fmt.Errorf("more than %d series of all proxies", maxInterned)
			}
			i = w.hold(in, s)
			values = append(values, 0)
		}
		in.seen[i] = number
		values[i] = v
		return nil
	})
	if n := len(in.scrapes); err == nil && n > 0 && !at.After(in.scrapes[n-1].at) {
		err = fmt.Errorf("time %s is not after the last one's", at.Format(time.RFC3339Nano))
	}
	if err != nil {
		w.release(in, known)
		return fmt.Errorf("metrics of %s: %w", name, err)
	}
	in.scrapes = append(in.scrapes, scrape{at, values})
	in.ejected, in.number = out, number
	// One scrape from before the window stays: it is where the window's
	// increase is counted from.
	drop := 0
	for drop+1 < len(in.scrapes) && !in.scrapes[drop+1].at.After(at.Add(-w.span)) {
		drop++
	}
	in.scrapes = slices.Delete(in.scrapes, 0, drop)
	w.instances[name] = in
	w.compact(in)
	return nil
}

// hold adds a column to an instance.
func (w *Window) hold(in *instance, s *series) int {
	w.interned[s.text] = s
	s.users++
	i := len(in.series)
	in.index[s] = i
	in.series, in.seen = append(in.series, s), append(in.seen, 0)
	return i
}

// release takes an instance's columns away from the n-th on. What nobody has any
// more is not remembered.
func (w *Window) release(in *instance, n int) {
	for _, s := range in.series[n:] {
		delete(in.index, s)
		if s.users--; s.users == 0 {
			delete(w.interned, s.text)
		}
	}
	in.series, in.seen = in.series[:n], in.seen[:n]
}

// compact lets columns go that no scrape of the window has, once they are many: a
// proxy forgets series that are idle (package telemetry/metrics), and so must who
// reads it.
func (w *Window) compact(in *instance) {
	oldest := in.number - len(in.scrapes) // those up to it are not in the window
	gone := 0
	for _, at := range in.seen {
		if at <= oldest {
			gone++
		}
	}
	if gone == 0 || 8*gone < len(in.series) {
		return
	}
	stay, left := make([]int, 0, len(in.series)-gone), make([]*series, 0, gone)
	for i, s := range in.series {
		if in.seen[i] > oldest {
			stay = append(stay, i)
		} else {
			left = append(left, s)
		}
	}
	for j := range in.scrapes {
		x, n := &in.scrapes[j], 0
		for _, i := range stay {
			if i >= len(x.values) {
				break // columns are added at the end: an older scrape has fewer
			}
			x.values[n] = x.values[i]
			n++
		}
		x.values = x.values[:n]
	}
	for n, i := range stay {
		in.series[n], in.seen[n] = in.series[i], in.seen[i]
		in.index[in.series[n]] = n
	}
	copy(in.series[len(stay):], left)
	w.release(in, len(stay))
}

// Remove forgets an instance.
func (w *Window) Remove(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if in := w.instances[name]; in != nil {
		w.release(in, 0)
		delete(w.instances, name)
	}
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
