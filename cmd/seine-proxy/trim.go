//go:build linux

package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"
	"syscall"
	"time"
)

const (
	// settle is how long a burst must be over before its memory goes back.
	settle = 300 * time.Millisecond
	// trimShare bounds what giving back may cost: between two times lies at
	// least a hundred times what the first one took.
	trimShare = 100
)

// keepSmall gives back to the kernel what starting took, and then what each
// burst of handshakes leaves: garbage, and pages of the program that only they
// used. bursts receives when many handshakes have come and none is left.
func keepSmall(ctx context.Context, bursts <-chan struct{}, log *slog.Logger) {
	wait := time.NewTimer(settle)
	defer wait.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-wait.C:
		}
		begun := time.Now()
		debug.FreeOSMemory()
		if err := forgetProgram(); err != nil {
			log.Debug("the program's pages stay resident", "error", err)
		}
		wait.Reset(max(settle, trimShare*time.Since(begun)))
		// Not earlier than that, and only after a burst.
		select {
		case <-ctx.Done():
			return
		case <-wait.C:
		}
		select {
		case <-ctx.Done():
			return
		case <-bursts:
		}
		wait.Reset(settle)
	}
}

// forgetProgram unmaps the resident pages of this program's code and constants.
// They are clean copies of its file: what is used comes back from the page
// cache at the first touch, and what only starting used does not.
func forgetProgram() error {
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return err
	}
	for _, m := range cleanMappings(string(smaps), self) {
		if _, _, errno := syscall.Syscall(syscall.SYS_MADVISE, m.start, m.end-m.start, syscall.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("madvise: %w", errno)
		}
	}
	return nil
}

// mapping is a range of addresses.
type mapping struct{ start, end uintptr }

// cleanMappings returns the mappings of the file path that cannot be written to
// and of which no page differs from the file. One that does (a relocation, a
// debugger's breakpoint) would be lost.
func cleanMappings(smaps, path string) []mapping {
	var out []mapping
	var m mapping
	candidate := false
	for line := range strings.Lines(smaps) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		if !strings.HasSuffix(f[0], ":") { // start-end permissions offset device inode path
			start, end, ok := strings.Cut(f[0], "-")
			candidate = ok && strings.HasSuffix(strings.TrimSuffix(line, "\n"), " "+path) &&
				(f[1] == "r--p" || f[1] == "r-xp")
			if candidate {
				_, err1 := fmt.Sscanf(start, "%x", &m.start)
				_, err2 := fmt.Sscanf(end, "%x", &m.end)
				candidate = err1 == nil && err2 == nil
			}
			continue
		}
		if candidate && f[0] == "Anonymous:" {
			if f[1] == "0" {
				out = append(out, m)
			}
			candidate = false
		}
	}
	return out
}
