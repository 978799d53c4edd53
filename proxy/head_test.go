//go:build linux

package proxy

import (
	"net/netip"
	"syscall"
	"testing"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/proxy/loop"
)

type idler struct{}

func (idler) ready() {}

// TestHeadLeavesWithContent: what of an answer's content comes in the same turn
// of the loop as its head leaves in one write with it; a head alone waits for no
// more than the turn.
func TestHeadLeavesWithContent(t *testing.T) {
	p := start(t, Options{Loops: 1, Explicit: localhost()},
		billingTable(t, []*seinev1.HttpRule{toBilling()}, endpoint("1", netip.MustParseAddrPort("127.0.0.1:1"), workload("billing", ""))).build())
	w := p.workers[0]
	// Packets, so that each write is seen as one.
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	must(t, err)
	defer loop.CloseFD(fds[1])
	on := func(f func()) {
		done := make(chan struct{})
		w.loop.Post(f)
		w.loop.Post(func() { w.loop.Later(resumed(func() { close(done) })) }) // the turn after
		<-done
	}
	next := func() string {
		buf := make([]byte, 64<<10)
		n, errno := loop.Read(fds[1], buf)
		if errno == syscall.EAGAIN {
			return ""
		}
		if errno != 0 {
			t.Fatal(errno)
		}
		return string(buf[:n])
	}
	s := &socket{}
	on(func() { must(t, s.open(w, fds[0], idler{})) })
	large := string(make([]byte, copyBelow+1))
	for _, c := range []struct {
		name    string
		chunk   bool
		content []string
		end     bool
		want    []string
	}{
		{"with content", false, []string{"content"}, true, []string{"head content"}},
		{"with much", false, []string{large}, false, []string{"head " + large}},
		{"with the first of it", false, []string{"one", "two"}, true, []string{"head one", "two"}},
		{"in chunks", true, []string{"content"}, true, []string{"head 7\r\ncontent\r\n0\r\n\r\n"}},
		{"without", false, nil, false, []string{"head "}},
		{"without, to its end", true, nil, true, []string{"head 0\r\n\r\n"}},
	} {
		f := &pipe{plain: s, open: true, chunk: c.chunk}
		on(func() {
			f.lead(w, []byte("head "))
			for i, p := range c.content {
				f.push(w, []byte(p), c.end && i == len(c.content)-1)
			}
			if c.end && len(c.content) == 0 {
				f.push(w, nil, true)
			}
		})
		for _, want := range append(c.want, "") {
			if got := next(); got != want {
				t.Errorf("%s: %.40q was written, not %.40q", c.name, got, want)
			}
		}
		if f.head != nil || f.done != c.end {
			t.Errorf("%s: head %q, done %v", c.name, f.head, f.done)
		}
	}
	on(func() {
		f := &pipe{plain: s, open: true}
		f.lead(w, []byte("head "))
		f.drop(w)
	})
	if got := next(); got != "" {
		t.Errorf("%q was written of an exchange that is over", got)
	}
	on(func() { s.close(false) })
}

type resumed func()

func (f resumed) Resume() { f() }
