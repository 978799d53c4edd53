//go:build linux

package proxy

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/seinemesh/seine/decide"
	"github.com/seinemesh/seine/decide/outlier"
)

// warden is the goroutine that decides on ejections: the loops tell it of
// endpoints that met a bound, and see its decisions by an atomic pointer.
type warden struct {
	p    *Proxy
	wake chan struct{}

	mu    sync.Mutex // for these two alone
	told  []notice
	table *decide.Table // a new one
}

// notice: the endpoint's counter met these bounds.
type notice struct {
	host *host
	met  outlier.Causes
}

func newWarden(p *Proxy) *warden { return &warden{p: p, wake: make(chan struct{}, 1)} }

// tell never blocks. Any goroutine may call it; it comes once for each bout of
// consecutive errors.
func (k *warden) tell(h *host, met outlier.Causes) {
	k.mu.Lock()
	k.told = append(k.told, notice{h, met})
	k.mu.Unlock()
	k.nudge()
}

// published says that there is a new table.
func (k *warden) published(t *decide.Table) {
	k.mu.Lock()
	k.table = t
	k.mu.Unlock()
	k.nudge()
}

func (k *warden) nudge() {
	select {
	case k.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// run decides until ctx ends.
func (k *warden) run(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		next := k.turn(time.Now())
		wait := time.Hour
		if !next.IsZero() {
			wait = max(time.Until(next), time.Millisecond)
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return
		case <-k.wake:
		case <-timer.C:
		}
	}
}

// turn does what is due, and says when it is next needed (zero: not known).
func (k *warden) turn(now time.Time) (next time.Time) {
	k.mu.Lock()
	told, table := k.told, k.table
	k.told, k.table = nil, nil
	k.mu.Unlock()
	for _, n := range told {
		n.host.sh.fail(n.host.key, n.met, now)
	}
	all := k.p.allShared()
	if table != nil {
		k.follow(all, table, now)
	}
	for _, sh := range all {
		if due := sh.due(now); !due.IsZero() && (next.IsZero() || due.Before(next)) {
			next = due
		}
	}
	return next
}

// follow brings what is shared up to a new table.
func (k *warden) follow(all []*shared, t *decide.Table, now time.Time) {
	by := make(map[string]*shared, len(all))
	for _, sh := range all {
		by[sh.name] = sh
	}
	if len(by) == 0 {
		return
	}
	for _, subsets := range t.Clusters {
		for _, c := range subsets {
			sh := by[clusterName(c)]
			if sh == nil {
				continue
			}
			sh.report(sh.update(c, now))
			if sh.waiting.Value() > 0 { // there may be more room now
				for _, w := range k.p.workers {
					w.loop.Post(func() { w.lane(sh).wake() })
				}
			}
		}
	}
}

// fail takes a bound that was met.
func (sh *shared) fail(key string, met outlier.Causes, now time.Time) {
	sh.mu.Lock()
	var events []outlier.Event
	if sh.detector != nil {
		events = sh.detector.Fail(key, met, now)
		sh.publish()
	}
	sh.mu.Unlock()
	sh.report(events)
}

// due sweeps if it is time to, and says when it is the next time.
func (sh *shared) due(now time.Time) time.Time {
	sh.mu.Lock()
	var events []outlier.Event
	if sh.detector != nil && !now.Before(sh.sweep) {
		events = sh.detector.Sweep(now)
		sh.sweep = now.Add(sh.outlier.Load().Interval)
		sh.publish()
	}
	next := sh.sweep
	sh.mu.Unlock()
	sh.report(events)
	return next
}

// report logs and counts.
func (sh *shared) report(events []outlier.Event) {
	if len(events) == 0 {
		return
	}
	r, log := sh.p.registry, sh.p.log
	sh.mu.Lock()
	c := sh.cluster
	sh.mu.Unlock()
	rule := "DestinationRule"
	if s := c.Service.Proto.Source; s != nil {
		rule = decide.Source(s)
	}
	for _, e := range events {
		attrs := []any{
			slog.String("cluster", sh.name), slog.String("endpoint", endpointID(c, e.Endpoint)), slog.String("address", e.Endpoint),
			slog.String("cause", e.Cause.String()), slog.Int("ejections", e.Times), slog.Int("ejected", e.Active), slog.Int("endpoints", e.Of),
		}
		switch e.Kind {
		case outlier.Ejected:
			r.Counter("seine_outlier_ejections_total", "Endpoints ejected by outlier detection.", "cluster", sh.name, "cause", e.Cause.String()).Inc()
			log.Warn("endpoint ejected", append(attrs, slog.Any("errors", e.Count), slog.Duration("for", e.For), slog.Time("until", e.Until),
				slog.String("by", rule), slog.String("field", "outlierDetection."+e.Cause.Field()))...)
		case outlier.Refused:
			r.Counter("seine_outlier_ejections_overflow_total", "Ejections that maxEjectionPercent did not allow.", "cluster", sh.name, "cause", e.Cause.String()).Inc()
			log.Warn("endpoint not ejected: outlierDetection.maxEjectionPercent allows no more", append(attrs, slog.Any("errors", e.Count), slog.String("by", rule))...)
		case outlier.Returned:
			log.Info("endpoint returned", append(attrs, slog.Duration("after", e.For))...)
		case outlier.Gone:
			log.Info("ejected endpoint left the service", append(attrs, slog.Duration("after", e.For))...)
		}
	}
}

// endpointID is the ID of the endpoint with that key, as far as it is known.
func endpointID(c *decide.Cluster, key string) string {
	for _, e := range c.Endpoints {
		if endpointKey(e) == key {
			return e.Proto.Id
		}
	}
	return ""
}
