package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// timeline is a clock that stands until it is moved.
type timeline struct {
	mu    sync.Mutex
	now   time.Time
	asked chan time.Duration // each wait that begins
	fire  chan time.Time
}

func newTimeline() *timeline {
	return &timeline{now: time.Unix(1e9, 0), asked: make(chan time.Duration, 16), fire: make(chan time.Time)}
}

func (c *timeline) clock() Clock {
	return Clock{
		Now: func() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.now },
		After: func(d time.Duration) <-chan time.Time {
			c.asked <- d
			return c.fire
		},
	}
}

func (c *timeline) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// fake is a program that ends when it is told.
type fake struct {
	end      chan error
	signals  chan os.Signal
	stubborn bool
	ended    chan struct{}
	err      error
	once     sync.Once
}

func newFake() *fake {
	f := &fake{end: make(chan error, 1), signals: make(chan os.Signal, 8), ended: make(chan struct{})}
	go func() { f.err = <-f.end; close(f.ended) }()
	return f
}

func (f *fake) PID() int    { return 7 }
func (f *fake) Wait() error { <-f.ended; return f.err }
func (f *fake) Signal(s os.Signal) error {
	f.signals <- s
	if s == syscall.SIGKILL || !f.stubborn {
		f.once.Do(func() { f.end <- errors.New("signal: " + s.String()) })
	}
	return nil
}

func TestDelay(t *testing.T) {
	b := Backoff{First: 100 * time.Millisecond, Max: time.Second}
	var got []time.Duration
	for i := range 6 {
		got = append(got, b.Delay(i+1)/time.Millisecond)
	}
	if diff := cmp.Diff([]time.Duration{100, 200, 400, 800, 1000, 1000}, got); diff != "" {
		t.Error(diff)
	}
	if d := DefaultBackoff().Delay(1 << 30); d != DefaultBackoff().Max {
		t.Errorf("after very many failures: %v", d)
	}
}

// harness runs Keep and records what it reports.
type harness struct {
	time    *timeline
	started chan *fake
	reports chan string
	cancel  context.CancelFunc
	kill    chan struct{}
	done    chan struct{}
}

func keep(t *testing.T, edit func(*Options)) *harness {
	ctx, cancel := context.WithCancel(context.Background())
	h := &harness{
		time: newTimeline(), started: make(chan *fake, 16), reports: make(chan string, 64),
		cancel: cancel, kill: make(chan struct{}), done: make(chan struct{}),
	}
	opt := Options{
		Start: func() (Program, error) { f := newFake(); h.started <- f; return f, nil },
		Report: func(r Report) {
			s := r.Phase.String()
			if r.Err != nil {
				s += ": " + r.Err.Error()
			}
			if r.Delay > 0 {
				s += fmt.Sprintf(" in %v, %d", r.Delay, r.Restarts)
			}
			h.reports <- s
		},
		Clock: h.time.clock(), Backoff: Backoff{First: time.Second, Max: 3 * time.Second, Healthy: time.Minute}, Grace: 5 * time.Second,
	}
	if edit != nil {
		edit(&opt)
	}
	go func() { Keep(ctx, h.kill, opt); close(h.done) }()
	t.Cleanup(func() { cancel(); <-h.done })
	return h
}

func (h *harness) expect(t *testing.T, want ...string) {
	t.Helper()
	for _, w := range want {
		if got := <-h.reports; got != w {
			t.Fatalf("reported %q, want %q", got, w)
		}
	}
}

func TestRestartsWithBackoff(t *testing.T) {
	h := keep(t, nil)
	for i, delay := range []time.Duration{time.Second, 2 * time.Second, 3 * time.Second, 3 * time.Second} {
		h.expect(t, "preparing", "running")
		(<-h.started).end <- errors.New("exit status 1")
		h.expect(t, fmt.Sprintf("restarting: exit status 1 in %v, %d", delay, i+1))
		if got := <-h.time.asked; got != delay {
			t.Fatalf("waits %v, want %v", got, delay)
		}
		h.time.fire <- time.Time{}
	}
	// One that ran long begins anew; one that ends with 0 is no success either.
	h.expect(t, "preparing", "running")
	f := <-h.started
	h.time.pass(time.Hour)
	f.end <- nil
	h.expect(t, "restarting: exited with code 0 in 1s, 5")
}

func TestStartAndPrepareFail(t *testing.T) {
	prepared := false
	h := keep(t, func(o *Options) {
		o.Prepare = func(context.Context) error {
			if !prepared {
				prepared = true
				return errors.New("not yet")
			}
			return nil
		}
		o.Start = func() (Program, error) { return nil, errors.New("no such program") }
	})
	h.expect(t, "preparing", "restarting: not yet in 1s, 1")
	<-h.time.asked
	h.time.fire <- time.Time{}
	h.expect(t, "preparing", "restarting: no such program in 2s, 2")
}

func TestStop(t *testing.T) {
	for _, tt := range []struct {
		name     string
		stubborn bool
		how      func(*harness)
		signals  []os.Signal
		last     string
	}{
		{"gently", false, func(*harness) {}, []os.Signal{syscall.SIGTERM}, "stopped"},
		{"after the grace", true, func(h *harness) { <-h.time.asked; h.time.fire <- time.Time{} },
			[]os.Signal{syscall.SIGTERM, syscall.SIGKILL}, "stopped: did not stop within 5s and was killed"},
		{"out of patience", true, func(h *harness) { close(h.kill) },
			[]os.Signal{syscall.SIGTERM, syscall.SIGKILL}, "stopped: did not stop within 5s and was killed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := keep(t, nil)
			h.expect(t, "preparing", "running")
			f := <-h.started
			f.stubborn = tt.stubborn
			h.cancel()
			tt.how(h)
			<-h.done
			h.expect(t, tt.last)
			close(f.signals)
			var got []os.Signal
			for s := range f.signals {
				got = append(got, s)
			}
			if diff := cmp.Diff(tt.signals, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestStopWhileWaiting(t *testing.T) {
	h := keep(t, nil)
	h.expect(t, "preparing", "running")
	(<-h.started).end <- errors.New("exit status 1")
	<-h.time.asked
	h.cancel()
	<-h.done
	h.expect(t, "restarting: exit status 1 in 1s, 1", "stopped")
}

func TestLines(t *testing.T) {
	long := strings.Repeat("x", maxLine+10)
	var got []string
	Lines(strings.NewReader("one\n\ntwo\r\n"+long+"\nlast"), func(b []byte) { got = append(got, string(b)) })
	want := []string{"one", "", "two", long[:maxLine], long[maxLine:], "last"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestFile(t *testing.T) {
	path := t.TempDir() + "/log"
	f, err := OpenFile(path, 10)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"12345", "678", "abc", "longer than the whole file", "z"} {
		if err := f.WriteLine([]byte(line)); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	now, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(path + ".1")
	if err != nil {
		t.Fatal(err)
	}
	if string(now) != "z\n" || string(before) != "longer than the whole file\n" {
		t.Errorf("%q after %q", now, before)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}
