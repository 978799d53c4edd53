package span

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seinemesh/seine/telemetry/metrics"
)

// script is a collector that answers as it is told, once for each batch; nil
// after that.
type script struct {
	answers []error
	sizes   []int
	at      []time.Time
	block   chan struct{} // not nil: it takes no batch before this is closed
}

func (s *script) send(ctx context.Context, batch []reported) error {
	s.at = append(s.at, time.Now())
	if s.block != nil {
		select {
		case <-s.block:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if len(s.answers) > 0 {
		err := s.answers[0]
		s.answers = s.answers[1:]
		if err != nil {
			return err
		}
	}
	s.sizes = append(s.sizes, len(batch))
	return nil
}

func (s *script) close() {}

type bench struct {
	e   *exporter
	c   counts
	log bytes.Buffer
}

func run(to sender) *bench {
	r := metrics.New(metrics.Options{})
	b := &bench{c: counts{r.Counter("a", ""), r.Counter("b", ""), r.Counter("c", "")}}
	b.e = start(to, 0, slog.New(slog.NewTextHandler(&b.log, nil)), &b.c)
	return b
}

func (b *bench) add(n int) {
	s := full()
	p := s.encode(make([]byte, 0, s.size()))
	for range n {
		b.e.add(p, &side{maxURL: 256})
	}
}

func (b *bench) is(t *testing.T, sent, dropped, rejected uint64) {
	t.Helper()
	if b.c.sent.Value() != sent || b.c.dropped.Value() != dropped || b.c.rejected.Value() != rejected {
		t.Errorf("sent %d, dropped %d, rejected %d; want %d, %d, %d", b.c.sent.Value(), b.c.dropped.Value(), b.c.rejected.Value(), sent, dropped, rejected)
	}
}

// TestBatches: spans gather for a second, or until there is a whole batch.
func TestBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{}
		b := run(s)
		begun := time.Now()
		b.add(3)
		time.Sleep(2 * gather) // the bubble's clock
		synctest.Wait()
		if len(s.sizes) != 1 || s.sizes[0] != 3 || s.at[0].Sub(begun) != gather {
			t.Errorf("batches %v at %v", s.sizes, s.at)
		}
		begun = time.Now()
		b.add(maxBatch + 1)
		synctest.Wait()
		if len(s.sizes) != 2 && len(s.sizes) != 3 || s.sizes[1] != maxBatch || s.at[1] != begun {
			t.Errorf("batches %v", s.sizes)
		}
		b.e.close()
		b.is(t, maxBatch+4, 0, 0)
	})
}

// TestAway: a collector that is away gets what there is room for once it is
// back; the log says so twice, however long it was.
func TestAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		away := errors.New("connection refused")
		s := &script{answers: []error{away, away, away, away, away, away, away}}
		b := run(s)
		b.add(5000)
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		one := full().size()
		// One batch was on its way besides what waits.
		if kept := b.c.sent.Value(); kept < uint64(maxQueued/one) || kept > uint64(maxQueued/one+maxBatch) || kept+b.c.dropped.Value() != 5000 {
			t.Errorf("sent %d, dropped %d", kept, b.c.dropped.Value())
		}
		for i := 1; i < 7; i++ {
			if pause := s.at[i].Sub(s.at[i-1]); pause < firstPause*3/4 || pause > longPause*5/4 {
				t.Errorf("pause %d is %v", i, pause)
			}
		}
		b.e.close()
		if log := b.log.String(); strings.Count(log, "\n") != 2 || !strings.Contains(log, "takes no spans") || !strings.Contains(log, "connection refused") || !strings.Contains(log, "again") {
			t.Errorf("log:\n%s", log)
		}
	})
}

// TestRefuses: what a collector will never take is not tried again, and what
// comes after it is.
func TestRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{answers: []error{&refusal{errors.New("400")}, &partial{2, "too old"}}}
		b := run(s)
		for range 3 {
			b.add(4)
			time.Sleep(2 * gather)
		}
		b.e.close()
		b.is(t, 6, 0, 6)
		if len(s.at) != 3 || strings.Count(b.log.String(), "\n") != 2 {
			t.Errorf("%d tries; log:\n%s", len(s.at), b.log.String())
		}
	})
}

// TestSlow: a collector that does not answer costs the time of a batch, and
// whoever adds nothing.
func TestSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{block: make(chan struct{})}
		b := run(s)
		begun := time.Now()
		b.add(5000)
		if time.Since(begun) != 0 {
			t.Errorf("adding took %v", time.Since(begun))
		}
		time.Sleep(sendTimeout + 5*time.Second)
		synctest.Wait()
		if len(s.at) < 2 || b.c.sent.Value() != 0 {
			t.Errorf("%d tries", len(s.at))
		}
		close(s.block)
		time.Sleep(time.Minute)
		b.e.close()
		if b.c.sent.Value()+b.c.dropped.Value() != 5000 {
			t.Errorf("sent %d, dropped %d", b.c.sent.Value(), b.c.dropped.Value())
		}
	})
}

// TestLater: who asks to be left alone is, within a bound.
func TestLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{answers: []error{&later{errors.New("429"), 10 * time.Second}, &later{errors.New("429"), time.Hour}}}
		b := run(s)
		b.add(1)
		time.Sleep(2 * time.Minute)
		b.e.close()
		b.is(t, 1, 0, 0)
		if first, second := s.at[1].Sub(s.at[0]), s.at[2].Sub(s.at[1]); first < 7*time.Second || first > 13*time.Second || second > longPause*5/4 {
			t.Errorf("pauses %v, %v", first, second)
		}
	})
}

func FuzzAnswer(f *testing.F) {
	f.Add([]byte("\x0a\x05\x08\x02\x12\x01x"))
	f.Add([]byte{0x0a, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		var p *partial
		if err := rejected(b); err != nil && (!errors.As(err, &p) || p.rejected <= 0) {
			t.Errorf("%q: %v", b, err)
		}
	})
}
