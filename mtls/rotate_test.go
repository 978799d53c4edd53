package mtls

import (
	"context"
	"crypto/x509"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestRotation runs on a clock of its own: hours pass in no time.
func TestRotation(t *testing.T) {
	ca := newTestCA(t)
	synctest.Test(t, func(t *testing.T) {
		const life = 4 * time.Second
		var mu sync.Mutex // away, asked
		away, asked := false, 0
		set := func(gone bool) { mu.Lock(); defer mu.Unlock(); away, asked = gone, 0 }
		count := func() int { mu.Lock(); defer mu.Unlock(); return asked }
		var gaps []time.Duration
		last := time.Now()
		src := NewSource(SourceOptions{Request: func(ctx context.Context) (*Identity, error) {
			mu.Lock()
			defer mu.Unlock()
			asked++
			if away {
				return nil, errors.New("connection refused")
			}
			gaps = append(gaps, time.Since(last))
			last = time.Now()
			return &Identity{Roots: roots(ca), Certificate: ca.leaf(t, func(c *x509.Certificate) {
				c.NotBefore, c.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(life)
			}, alice)}, nil
		}})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- src.Run(ctx) }()
		<-src.Ready()
		var changes sync.WaitGroup
		changes.Add(100)
		left := 100
		src.Notify(func() {
			if left > 0 {
				left--
				changes.Done()
			}
		})
		changes.Wait()
		mu.Lock()
		seen := gaps[1:]
		mu.Unlock()
		for i, gap := range seen {
			if gap < life/2-time.Second || gap > life*2/3 { // certificates count whole seconds
				t.Errorf("gap %d is %v", i, gap)
			}
		}
		st := src.Status()
		if st.Failures != 0 || st.LastError != nil || st.ID != alice || !st.NotAfter.After(time.Now()) {
			t.Errorf("%+v", st)
		}

		// The CA goes away: what is there goes on serving, tries do not flood.
		set(true)
		serving := src.Current()
		wait := time.After(life)
		<-wait
		n := count()
		if src.Current() != serving && n > 0 {
			t.Error("the certificate changed without a CA")
		}
		if n == 0 || n > 30 {
			t.Errorf("%d requests in one life", n)
		}
		if st := src.Status(); st.LastError == nil || st.Failures == 0 {
			t.Errorf("%+v", st)
		}
		<-time.After(time.Hour)
		if n := count(); n > 2000 {
			t.Errorf("%d requests in an hour", n)
		}
		set(false)
		before := src.Status().Rotations
		<-time.After(maxBackoff)
		if st := src.Status(); st.Rotations == before || st.LastError != nil {
			t.Errorf("not back: %+v", st)
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

func TestHangingAuthorityLeavesTimeToTryAgain(t *testing.T) {
	ca := newTestCA(t)
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		src := NewSource(SourceOptions{Request: func(ctx context.Context) (*Identity, error) {
			if tries++; tries > 1 && tries < 4 {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return &Identity{Roots: roots(ca), Certificate: ca.leaf(t, func(c *x509.Certificate) {
				c.NotBefore, c.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(10*time.Second)
			}, alice)}, nil
		}})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go src.Run(ctx)
		<-src.Ready()
		first := src.Status().NotAfter
		renewed := make(chan struct{}, 10)
		src.Notify(func() { renewed <- struct{}{} })
		<-renewed
		if !time.Now().Before(first) {
			t.Errorf("renewed only after %v", first)
		}
		cancel()
		synctest.Wait()
	})
}

// TestHandshakesAcrossRotations opens connections while both sides' certificates
// change all the time; none fails.
func TestHandshakesAcrossRotations(t *testing.T) {
	ca := newTestCA(t)
	now := time.Now()
	var mu sync.Mutex
	clock := func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	fresh := func(id string) *Identity {
		return &Identity{Roots: roots(ca), Certificate: ca.leaf(t, func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = clock().Add(-time.Minute), clock().Add(5*time.Second)
		}, id)}
	}
	a, b := NewSource(SourceOptions{Now: clock}), NewSource(SourceOptions{Now: clock})
	rotate := func() {
		if err := errors.Join(a.Set(fresh(alice)), b.Set(fresh(bob))); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		now = now.Add(100 * time.Millisecond)
		mu.Unlock()
	}
	rotate()
	fa, fb := NewFactory(a, Options{}), NewFactory(b, Options{})
	kept := join(client(fa, bob), fb.Server())
	kept.mustShake(t)
	n, resumed := 2000, 0
	if testing.Short() {
		n = 200
	}
	for i := range n {
		w := join(client(fa, bob), fb.Server())
		if i%10 == 0 { // between and in the middle of handshakes
			w.step = rotate
		}
		w.mustShake(t)
		if w.b.Resumed() {
			resumed++
		}
		w.release()
	}
	exchange(t, kept, 1000) // connections that stand are not touched
	kept.release()
	if resumed == 0 {
		t.Error("none resumed")
	}
	if st := b.Status(); st.Rotations < uint64(n/10) {
		t.Errorf("%d rotations", st.Rotations)
	}
}
