//go:build e2e && nightly

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/seinemesh/seine/diagnose"
)

// disk is a workload that writes to the disk for each request, and its load.
const disk = `
apiVersion: v1
kind: Service
metadata: {name: disk}
spec:
  selector: {app: disk}
  ports: [{name: http, port: 8080}]
---
apiVersion: local.seine.dev/v1
kind: Workload
metadata: {name: disk, labels: {app: disk, version: v1}}
spec:
  command: [e2e]
  ports: [8080]
  env: {SEINE_E2E_ROLE: disk, DIR: "%s"}
---
apiVersion: local.seine.dev/v1
kind: Workload
metadata: {name: disk-load, labels: {app: disk-load, version: v1}}
spec:
  command: [billing, load]
  env: {URL: "http://disk:8080/", RATE: "40"}
`

// TestProvoked makes requests slow in ways whose cause is known, for real, and
// asks `seine diagnose` for it. It takes a quarter of an hour and a machine
// that is otherwise idle.
func TestProvoked(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, for cgroups")
	}
	group := filepath.Join("/sys/fs/cgroup/cpu", fmt.Sprintf("seine-e2e-%d", os.Getpid()))
	must(t, os.Mkdir(group, 0o755))
	t.Cleanup(func() { _ = os.Remove(group) })
	enter := func(group string) {
		must(t, os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0o644))
	}
	dir := t.TempDir()
	// A pod that asks for a tenth of a CPU, beside others that ask for more: this is
	// how a neighbour becomes noisy.
	must(t, os.WriteFile(filepath.Join(group, "cpu.shares"), []byte("102"), 0o644))
	enter(group) // so that everything that seine up starts is in it; it has no limit yet
	m := start(t, users()[0], func(folder string) {
		edit := func(name, old, new string) {
			path := filepath.Join(folder, name)
			text, err := os.ReadFile(path)
			must(t, err)
			must(t, os.WriteFile(path, bytes.ReplaceAll(text, []byte(old), []byte(new)), 0o644))
		}
		edit("workloads.yaml", `RATE: "50"`, `RATE: "150"`)
		edit("mesh.yaml", "weight: 90", "weight: 60")
		edit("mesh.yaml", "weight: 10", "weight: 40")
		must(t, os.WriteFile(filepath.Join(folder, "disk.yaml"), []byte(fmt.Sprintf(disk, dir)), 0o644))
	})
	enter(filepath.Dir(group))
	m.await("traffic of both versions", func() error {
		rows, _, err := m.stat()
		if err == nil && (rows["billing-service/v1"].Requests == 0 || rows["billing-service/v2"].Requests == 0 || rows["disk/v1"].Requests == 0) {
			err = fmt.Errorf("rows %v", rows)
		}
		return err
	})
	report := func() (list []diagnose.Diagnosis, at time.Time) {
		var r struct {
			At        time.Time
			Diagnoses []diagnose.Diagnosis
		}
		if err := m.get("/api/v1/diagnose", &r); err != nil {
			t.Fatal(err)
		}
		return r.Diagnoses, r.At
	}
	// The detector learns for 18 windows before it judges.
	learnt := time.Now().Add(200 * time.Second)
	wait(t, 220*time.Second, func() bool { return time.Now().After(learnt) })

	find := func(service string, cause diagnose.Cause) func([]diagnose.Diagnosis) bool {
		return func(list []diagnose.Diagnosis) bool {
			for _, d := range list {
				if strings.HasPrefix(d.Service, service) && d.Cause == cause {
					return true
				}
			}
			return false
		}
	}
	for _, p := range []struct {
		name  string
		start func(ctx context.Context, wg *sync.WaitGroup)
		want  func([]diagnose.Diagnosis) bool
	}{
		{"a version that pauses", func(ctx context.Context, wg *sync.WaitGroup) { pause(ctx, t, wg, m.app(t, "VERSION=v2")) },
			find("billing-service", diagnose.Version)},
		{"an application that pauses, as if it collected garbage", func(ctx context.Context, wg *sync.WaitGroup) { pause(ctx, t, wg, m.app(t, "\x00ledger")) },
			find("ledger", diagnose.Application)},
		{"a dependency that pauses", func(ctx context.Context, wg *sync.WaitGroup) { pause(ctx, t, wg, m.app(t, "\x00ledger")) },
			find("billing-service", diagnose.Dependency)},
		{"a noisy neighbour", func(ctx context.Context, wg *sync.WaitGroup) {
			for range 8 {
				busy(ctx, t, wg, "sh", "-c", "while :; do :; done")
			}
		}, func(list []diagnose.Diagnosis) bool {
			return find("frontend", diagnose.Node)(list) || find("billing-service", diagnose.Node)(list) || find("ledger", diagnose.Node)(list)
		}},
		{"stalls of the disk", func(ctx context.Context, wg *sync.WaitGroup) {
			for i := range 4 {
				file := filepath.Join(dir, fmt.Sprint("stall", i))
				busy(ctx, t, wg, "sh", "-c", "while :; do dd if=/dev/zero of="+file+" bs=1M count=64 conv=fsync 2>/dev/null; done")
			}
		}, find("disk", diagnose.Node)},
		{"a CPU limit", func(ctx context.Context, wg *sync.WaitGroup) {
			must(t, os.WriteFile(filepath.Join(group, "cpu.cfs_quota_us"), []byte("22000"), 0o644))
			context.AfterFunc(ctx, func() { _ = os.WriteFile(filepath.Join(group, "cpu.cfs_quota_us"), []byte("-1"), 0o644) })
		}, func(list []diagnose.Diagnosis) bool {
			for _, d := range list {
				if d.Cause == diagnose.Node && d.Signal == diagnose.Throttled.String() {
					return true
				}
			}
			return false
		}},
	} {
		t.Run(p.name, func(t *testing.T) {
			wait(t, 5*time.Minute, func() bool { list, _ := report(); return len(list) == 0 })
			ctx, stop := context.WithCancel(context.Background())
			var wg sync.WaitGroup
			began := time.Now()
			p.start(ctx, &wg)
			var list []diagnose.Diagnosis
			found := until(90*time.Second, func() bool { list, _ = report(); return p.want(list) })
			stop()
			wg.Wait()
			var text strings.Builder
			_ = diagnose.WriteText(&text, list, diagnose.Learning{})
			if !found {
				t.Errorf("not found; the last report:\n%s", text.String())
				return
			}
			t.Logf("found after %v:\n%s", time.Since(began).Round(time.Second), text.String())
		})
	}
}

// app is the pid of the one application whose command line or environment
// holds text.
func (m *mesh) app(t *testing.T, text string) int {
	t.Helper()
	for _, pid := range m.processes(filepath.Join(bin, "billing")) {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		env, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if bytes.Contains(line, []byte(text)) || bytes.Contains(env, []byte(text)) {
			return pid
		}
	}
	t.Fatalf("no application with %q", text)
	return 0
}

// pause stops a process for 80 ms of each second, as a collector of garbage would.
func pause(ctx context.Context, t *testing.T, wg *sync.WaitGroup, pid int) {
	wg.Add(1)
	go func() {
		defer wg.Done()
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
				t.Errorf("stop %d: %v", pid, err)
				return
			}
			<-time.After(80 * time.Millisecond) // what is provoked
			_ = syscall.Kill(pid, syscall.SIGCONT)
		}
	}()
}

// busy runs a program until ctx ends.
func busy(ctx context.Context, t *testing.T, wg *sync.WaitGroup, name string, args ...string) {
	c := exec.CommandContext(ctx, name, args...)
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(t, c.Start())
	wg.Add(1)
	go func() { defer wg.Done(); _ = c.Wait() }()
}

func until(limit time.Duration, ok func() bool) bool {
	end := time.Now().Add(limit)
	for !ok() {
		if time.Now().After(end) {
			return false
		}
		<-time.After(time.Second) // between two looks at a condition
	}
	return true
}

func wait(t *testing.T, limit time.Duration, ok func() bool) {
	t.Helper()
	if !until(limit, ok) {
		t.Fatalf("not within %v", limit)
	}
}
