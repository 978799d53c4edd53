//go:build linux

package main

import (
	"context"
	"log/slog"
	"os"
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

func TestKeepSmallEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	bursts, done := make(chan struct{}, 1), make(chan struct{})
	go func() {
		defer close(done)
		keepSmall(ctx, bursts, slog.New(slog.DiscardHandler))
	}()
	bursts <- struct{}{}
	cancel()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("keepSmall does not end")
	}
}
