//go:build linux

package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"syscall"
	"time"
)

const (
	// look is how often the process is looked at.
	look = 300 * time.Millisecond
	// quiet is how much a process may allocate between two looks that is said to rest,
	// in bytes: a scrape of the metrics, or a handful of handshakes.
	quiet = 256 << 10
	// What must be there to be given back, in bytes: free pages, or garbage, which
	// scrapes alone make at rest.
	freeEnough, garbageEnough = 1 << 20, 4 << 20
	// trimShare bounds what giving back may cost: between two times lies at
	// least a hundred times what the first one took, but no more than trimWait.
	trimShare, trimWait = 100, 3 * time.Second
)

// keepSmall gives back to the kernel what starting took, and what later each rush
// leaves when it is over: garbage, buffers that are kept for the next use (which trim
// lets go), and pages of the program that only it used. Nothing is given back while
// there is work: it would be taken again at once.
func keepSmall(ctx context.Context, trim func(), log *slog.Logger) {
	wait := time.NewTimer(look)
	defer wait.Stop()
	var last heap
	var after uint64 // free pages that could not be given back the last time
	begun := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-wait.C:
		}
		now := readHeap()
		rests := now.allocated-last.allocated < quiet
		last = now
		if !rests || begun && now.free < after+freeEnough && now.garbage < garbageEnough {
			wait.Reset(look)
			continue
		}
		start := time.Now()
		begun = true
		trim()
		runtime.GC() // sync.Pools let go at the second collection
		debug.FreeOSMemory()
		if err := forgetProgram(); err != nil {
			log.Debug("the program's pages stay resident", "error", err)
		}
		last = readHeap()
		after = last.free
		wait.Reset(min(trimWait, max(look, trimShare*time.Since(start))))
	}
}

// heap is how much was ever allocated; which pages are free and not given back; and
// what was allocated since the last collection, most of it garbage. In bytes.
type heap struct{ allocated, free, garbage uint64 }

func readHeap() heap {
	s := []metrics.Sample{
		{Name: "/gc/heap/allocs:bytes"}, {Name: "/memory/classes/heap/free:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/gc/heap/live:bytes"},
	}
	metrics.Read(s)
	h := heap{allocated: s[0].Value.Uint64(), free: s[1].Value.Uint64()}
	if objects, live := s[2].Value.Uint64(), s[3].Value.Uint64(); objects > live {
		h.garbage = objects - live
	}
	return h
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
