package mtls

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

const (
	maxSleep       = time.Minute // a suspended machine's clock jumps, its timers do not
	requestTimeout = 10 * time.Second
	firstBackoff   = 100 * time.Millisecond
	maxBackoff     = 30 * time.Second
)

// Run keeps the certificate fresh until ctx ends: the first one at once, then
// between a half and two thirds of what each one has left when it comes. A request
// that fails is repeated with back-off, and the certificate that is there goes on
// serving as long as it is valid. It returns ctx's error. Start it once.
func (s *Source) Run(ctx context.Context) error {
	if s.o.Request == nil {
		return errors.New("mtls: SourceOptions.Request is not set")
	}
	renew := s.o.Now()
	if m := s.cur.Load(); m != nil {
		renew = s.renewal(m)
	}
	var backoff time.Duration
	for {
		if err := s.sleepUntil(ctx, renew); err != nil {
			return err
		}
		err := s.renew(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil {
			backoff = 0
			renew = s.renewal(s.cur.Load())
			continue
		}
		backoff = s.nextBackoff(backoff)
		// Half of it fixed, half by chance: a fleet that lost its CA at one moment
		// does not come back at one moment.
		renew = s.o.Now().Add(backoff/2 + time.Duration(s.o.Jitter()*float64(backoff/2)))
		st := s.Status()
		s.o.Log.LogAttrs(ctx, slog.LevelWarn, "certificate not renewed; the old one serves while it is valid",
			slog.Any("err", err), slog.Time("not_after", st.NotAfter), slog.Time("next_try", renew))
	}
}

// renew asks once and takes what comes.
func (s *Source) renew(ctx context.Context) error {
	limit := requestTimeout
	if m := s.cur.Load(); m != nil {
		// A hanging CA must leave time for another try within a short life.
		if left := m.leaf.NotAfter.Sub(s.o.Now()) / 2; left > 0 {
			limit = min(limit, max(left, firstBackoff))
		}
	}
	ask, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	id, err := s.o.Request(ask)
	if err == nil {
		err = s.Set(id)
	}
	s.mu.Lock()
	if s.lastErr = err; err != nil {
		s.failures++
	}
	s.mu.Unlock()
	if err == nil {
		st := s.Status()
		s.o.Log.LogAttrs(ctx, slog.LevelInfo, "certificate renewed",
			slog.String("id", st.ID), slog.Time("not_after", st.NotAfter))
	}
	return err
}

// renewal returns when to replace m: half to two thirds of what it has left now.
// The leaf's own NotBefore is backdated for skewed clocks and says nothing here.
func (s *Source) renewal(m *material) time.Time {
	now := s.o.Now()
	left := m.leaf.NotAfter.Sub(now)
	if left <= 0 {
		return now
	}
	// Not at once even if the CA's own end leaves a leaf no life to speak of.
	return now.Add(max(firstBackoff, time.Duration(float64(left)*(1.0/2+s.o.Jitter()/6))))
}

// nextBackoff doubles, within a bound that fits the life that is left.
func (s *Source) nextBackoff(last time.Duration) time.Duration {
	next := max(firstBackoff, 2*last)
	limit := 5 * time.Second // nothing to serve with: be quick
	if m := s.cur.Load(); m != nil {
		if left := m.leaf.NotAfter.Sub(s.o.Now()); left > 0 {
			limit = max(firstBackoff, left/8)
		}
	}
	return min(next, limit, maxBackoff)
}

// sleepUntil returns when the clock shows at, when Renew was called, or with ctx's
// error.
func (s *Source) sleepUntil(ctx context.Context, at time.Time) error {
	for {
		left := at.Sub(s.o.Now())
		if left <= 0 {
			return ctx.Err()
		}
		t := time.NewTimer(min(left, maxSleep))
		select {
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		case <-s.asked:
			t.Stop()
			return ctx.Err()
		case <-t.C:
		}
	}
}
