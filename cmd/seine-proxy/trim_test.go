//go:build linux

package main

import (
	"context"
	"log/slog"
	"os"
	"runtime/debug"
	"slices"
	"testing"
	"time"
)

func TestCleanMappings(t *testing.T) {
	const smaps = `00400000-0093a000 r-xp 00000000 fe:00 12345      /bin/a b
Size:               5352 kB
Anonymous:             0 kB
0093a000-00eec000 r--p 0053a000 fe:00 12345      /bin/a b
Anonymous:             4 kB
00eec000-00f58000 rw-p 00aec000 fe:00 12345      /bin/a b
Anonymous:             0 kB
00f60000-00f70000 r--p 00aec000 fe:00 12345      /bin/a b
Anonymous:             0 kB
00f70000-00f80000 r-xs 00aec000 fe:00 12345      /bin/a b
Anonymous:             0 kB
7f0000000000-7f0000001000 r-xp 00000000 fe:00 99 /lib/a b
Anonymous:             0 kB
7f0000002000-7f0000003000 r-xp 00000000 00:00 0
Anonymous:             0 kB
`
	want := []mapping{{0x400000, 0x93a000}, {0xf60000, 0xf70000}}
	if got := cleanMappings(smaps, "/bin/a b"); !slices.Equal(got, want) {
		t.Errorf("%x, want %x", got, want)
	}
}

// TestForgetProgram goes on running when the code under it was given back.
func TestForgetProgram(t *testing.T) {
	if err := forgetProgram(); err != nil {
		t.Fatal(err)
	}
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	if len(cleanMappings(string(smaps), self)) == 0 {
		t.Error("the program has no mapping that can be given back")
	}
}

func TestKeepSmall(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	trimmed, done := make(chan struct{}, 16), make(chan struct{})
	go func() {
		defer close(done)
		keepSmall(ctx, func() { trimmed <- struct{}{} }, slog.New(slog.DiscardHandler))
	}()
	wait := func(what string, c <-chan struct{}) {
		t.Helper()
		select {
		case <-c:
		case <-time.After(30 * time.Second):
			t.Fatal(what)
		}
	}
	wait("nothing is given back after the start", trimmed)
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // nobody else collects it
	again := make(chan struct{})
	go func() {
		defer close(again)
		<-trimmed
	}()
	for end := time.Now().Add(30 * time.Second); ; {
		rush = make([]byte, 16<<20) // the first time's collection may take it
		rush = nil
		select {
		case <-again:
		case <-time.After(2 * look):
			if time.Now().Before(end) {
				continue
			}
			t.Fatal("nothing is given back after a rush")
		}
		break
	}
	cancel()
	wait("keepSmall does not end", done)
}

var rush []byte // so that it is on the heap
