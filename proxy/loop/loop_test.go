//go:build linux

package loop

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func run(t testing.TB) *Loop {
	t.Helper()
	l, err := New()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		if err := l.Run(); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		l.Stop()
		<-l.Done()
	})
	return l
}

// on runs f on the loop and waits for it.
func on(t testing.TB, l *Loop, f func()) {
	t.Helper()
	done := make(chan struct{})
	if !l.Post(func() { f(); close(done) }) {
		t.Fatal("the loop has stopped")
	}
	<-done
}

func pair(t testing.TB) (a, b int) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return fds[0], fds[1]
}

type handler func(Events)

func (h handler) Ready(ev Events) { h(ev) }

func TestPostOrderAndStop(t *testing.T) {
	l, err := New()
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = l.Run() }()
	const posters, each = 8, 1000
	got := make([][]int, posters)
	var wg sync.WaitGroup
	for p := range posters {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := range each {
				l.Post(func() { got[p] = append(got[p], i) })
			}
		}()
	}
	wg.Wait()
	on(t, l, func() {})
	for p := range posters {
		if len(got[p]) != each || !slices.IsSorted(got[p]) {
			t.Errorf("poster %d: %d in order %v", p, len(got[p]), slices.IsSorted(got[p]))
		}
	}
	l.Stop()
	<-l.Done()
	if l.Post(func() { t.Error("ran after the end") }) {
		t.Error("Post was taken after the end")
	}
}

func TestEdges(t *testing.T) {
	l := run(t)
	a, b := pair(t)
	events := make(chan Events, 16)
	on(t, l, func() {
		if err := l.Add(a, handler(func(ev Events) { events <- ev })); err != nil {
			t.Error(err)
		}
	})
	if ev := <-events; ev&Writable == 0 || ev&Readable != 0 {
		t.Errorf("first %b", ev)
	}
	if _, errno := Write(b, []byte("x")); errno != 0 {
		t.Fatal(errno)
	}
	if ev := <-events; ev&Readable == 0 {
		t.Errorf("then %b", ev)
	}
	ShutdownWrite(b)
	if ev := <-events; ev&PeerClosed == 0 {
		t.Errorf("at last %b", ev)
	}
	buf := make([]byte, 8)
	on(t, l, func() {
		if n, errno := Read(a, buf); n != 1 || errno != 0 {
			t.Error(n, errno)
		}
		if n, errno := Read(a, buf); n != 0 || errno != 0 {
			t.Error(n, errno)
		}
		l.Close(a)
	})
	CloseFD(b)
}

// TestReusedDescriptor: an event of a closed descriptor never reaches the next
// holder of its number.
func TestReusedDescriptor(t *testing.T) {
	l := run(t)
	a, b := pair(t)
	c, d := pair(t)
	wrong := make(chan int, 1)
	done := make(chan struct{})
	on(t, l, func() {
		var e, f int
		first := true
		both := func(own, other int) handler {
			return func(Events) {
				if !first {
					return
				}
				first = false
				// The other's event is in this batch too. Its number goes to a new socket.
				l.Close(other)
				e, f = pair(t)
				for _, n := range []int{e, f} {
					if n == other {
						_ = l.Add(n, handler(func(ev Events) {
							if ev&Readable != 0 {
								wrong <- n
							}
						}))
					}
				}
				l.Later(task(func() { l.Later(task(func() { close(done) })) }))
			}
		}
		_ = l.Add(a, both(a, c))
		_ = l.Add(c, both(c, a))
		_, _ = Write(b, []byte("x"))
		_, _ = Write(d, []byte("x"))
	})
	<-done
	select {
	case n := <-wrong:
		t.Errorf("descriptor %d got an event of its number's last holder", n)
	default:
	}
}

type task func()

func (f task) Resume() { f() }

func TestTimers(t *testing.T) {
	var h timers
	l := &Loop{}
	r := rand.New(rand.NewPCG(1, 2))
	all := make([]Timer, 500)
	fired := map[int]int64{}
	now := int64(0)
	for i := range all {
		all[i].Fire = func() { fired[i] = now }
	}
	want := map[int]int64{}
	for range 5000 {
		i := r.IntN(len(all))
		switch r.IntN(4) {
		case 0:
			l.Disarm(&all[i])
			delete(want, i)
		case 1:
			l.Drop(&all[i])
			delete(want, i)
		default:
			at := 1 + r.Int64N(1_000_000)
			l.Arm(&all[i], at)
			want[i] = at
		}
	}
	h = l.timers
	for now = 0; now <= 1_000_001; now += 997 {
		h.fire(now)
		for i, at := range want {
			f, ok := fired[i]
			if at <= now && (!ok || f < at || f > at+997) {
				t.Fatalf("timer %d due at %d fired at %d %v", i, at, f, ok)
			}
			if at > now && ok {
				t.Fatalf("timer %d due at %d fired at %d", i, at, f)
			}
		}
	}
	if len(fired) != len(want) || len(h.heap) != 0 {
		t.Errorf("%d fired of %d, %d are left", len(fired), len(want), len(h.heap))
	}
}

func TestTimerWakesLoop(t *testing.T) {
	l := run(t)
	fired := make(chan struct{})
	tm := &Timer{Fire: func() { close(fired) }}
	on(t, l, func() { l.Arm(tm, l.Now()+int64(5*time.Millisecond)) })
	<-fired
}

func TestDialAndListen(t *testing.T) {
	l := run(t)
	fd, err := Listen(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	at := LocalAddr(fd)
	accepted := make(chan int, 1)
	on(t, l, func() {
		_ = l.Add(fd, handler(func(Events) {
			for {
				c, errno := Accept(fd)
				if errno != 0 {
					return
				}
				accepted <- c
			}
		}))
	})
	up := make(chan syscall.Errno, 1)
	var c int
	on(t, l, func() {
		if c, err = Dial(netip.Addr{}, at, 0); err != nil {
			t.Error(err)
			return
		}
		_ = l.Add(c, handler(func(ev Events) {
			if ev&(Writable|Broken) != 0 {
				select {
				case up <- SocketError(c):
				default:
				}
			}
		}))
	})
	s := <-accepted
	if errno := <-up; errno != 0 {
		t.Error(errno)
	}
	if RemoteAddr(s) != LocalAddr(c) || LocalAddr(s) != at {
		t.Error(RemoteAddr(s), LocalAddr(c))
	}
	if !Alive(s) {
		t.Error("an open connection counts as dead")
	}
	on(t, l, func() { l.Close(c); l.Close(fd) })
	for Alive(s) {
	}
	CloseFD(s)
	if _, err := Listen(netip.MustParseAddrPort("203.0.113.1:1")); err == nil {
		t.Error("an address that is not ours was bound")
	}
}

// TestTurnAllocatesNothing: waiting, events, timers and put-off work.
func TestTurnAllocatesNothing(t *testing.T) {
	l, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Discard()
	a, b := pair(t)
	defer CloseFD(b)
	buf := make([]byte, 8)
	var seen atomic.Int64
	tm := &Timer{Fire: func() {}}
	h := &counting{l: l, fd: a, buf: buf, seen: &seen, tm: tm}
	if err := l.Add(a, h); err != nil {
		t.Fatal(err)
	}
	turn := func() {
		_, _ = Write(b, buf[:1])
		n, err := l.wait(true)
		if err != nil {
			t.Fatal(err)
		}
		l.turn(n)
	}
	turn()
	turn()
	if n := testing.AllocsPerRun(1000, turn); n != 0 {
		t.Errorf("%v allocations for each turn", n)
	}
	if seen.Load() < 1000 {
		t.Errorf("%d bytes were seen", seen.Load())
	}
	l.Close(a)
}

type counting struct {
	l    *Loop
	fd   int
	buf  []byte
	seen *atomic.Int64
	tm   *Timer
}

func (c *counting) Ready(Events) {
	n, _ := Read(c.fd, c.buf)
	c.seen.Add(int64(n))
	c.l.Arm(c.tm, c.l.Now()+1_000_000)
	c.l.Later(c)
}

func (c *counting) Resume() {}

func BenchmarkPost(b *testing.B) {
	l := run(b)
	var n atomic.Int64
	f := func() { n.Add(1) }
	b.ReportAllocs()
	for b.Loop() {
		l.Post(f)
	}
}
