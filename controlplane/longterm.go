package controlplane

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/seinemesh/seine/history"
	"github.com/seinemesh/seine/history/prometheus"
)

// longTerm is the Prometheus that remembers longer than seined does. That it is
// away is said once, and nothing waits for it: for a while after, it is not asked.
type longTerm struct {
	client *prometheus.Client // nil: none is configured
	log    *slog.Logger

	mu    sync.Mutex
	err   error
	since time.Time // that it is away
	asked time.Time // the last time that it did not answer
}

// askAgain is how long a Prometheus that did not answer is left alone.
const askAgain = 10 * time.Second

// read asks; false: it has nothing to say now, and why.
func (l *longTerm) read(ctx context.Context, k history.Key, now time.Time, span time.Duration) (history.Range, bool) {
	l.mu.Lock()
	rest := l.err != nil && now.Sub(l.asked) < askAgain
	l.mu.Unlock()
	if l.client == nil || rest {
		return history.Range{}, false
	}
	r, err := l.client.Read(ctx, k, now, span)
	if ctx.Err() != nil {
		return r, false // who asked has gone: that says nothing of Prometheus
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err != nil && l.err == nil:
		l.since = now
		l.log.Warn("Prometheus does not answer; charts show what the control plane remembers", "err", err)
	case err == nil && l.err != nil:
		l.log.Info("Prometheus answers again", "away", now.Sub(l.since).Round(time.Second))
	}
	l.err, l.asked = err, now
	return r, err == nil
}

// says is its state.
func (l *longTerm) says() prometheusSays {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := prometheusSays{Configured: l.client != nil, OK: l.client != nil && l.err == nil}
	if l.err != nil {
		out.Error = "does not answer since " + l.since.UTC().Format(time.TimeOnly) + " UTC: " + l.err.Error()
	}
	return out
}
