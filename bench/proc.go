package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// proc is one program that the benchmark started, with its log.
type proc struct {
	name string
	cmd  *exec.Cmd
	log  string
	done chan struct{}
	err  error
}

// start runs a program in a process group of its own. It dies with the thread
// that started it, so that even a killed benchmark leaves nothing behind; main
// holds its thread for that.
func start(dir, name string, args ...string) (*proc, error) {
	log := filepath.Join(dir, filepath.Base(name)+"-"+strconv.FormatInt(time.Now().UnixNano(), 36)+".log")
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close() // the child has its own
	p := &proc{name: filepath.Base(name), log: log, done: make(chan struct{})}
	p.cmd = exec.Command(name, args...)
	p.cmd.Dir = dir
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// stop ends the program and its children, by their process group.
func (p *proc) stop() {
	if p == nil {
		return
	}
	group := -p.cmd.Process.Pid
	select {
	case <-p.done:
		return
	default:
	}
	_ = syscall.Kill(group, syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(3 * time.Second):
	}
	_ = syscall.Kill(group, syscall.SIGKILL)
	<-p.done
}

// failure says why the program is not as it should be, with the end of its log.
func (p *proc) failure(what error) error {
	b, _ := os.ReadFile(p.log)
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return fmt.Errorf("%s: %w; its log ends:\n  %s", p.name, what, strings.Join(lines[max(0, len(lines)-12):], "\n  "))
}

// pids returns the program and its descendants.
func (p *proc) pids() []int {
	all := []int{p.cmd.Process.Pid}
	for i := 0; i < len(all); i++ {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", all[i]))
		for _, t := range tasks {
			b, _ := os.ReadFile(t)
			for _, f := range strings.Fields(string(b)) {
				if pid, err := strconv.Atoi(f); err == nil {
					all = append(all, pid)
				}
			}
		}
	}
	return all
}

// cpu is the CPU time, user and system, that the processes have used: the
// kernel's sum of the run times of all their threads, dead ones too, in
// nanoseconds (the clock of clock_getcpuclockid, not the 10 ms ticks of stat).
func cpu(procs []*proc) (time.Duration, error) {
	var sum time.Duration
	for _, p := range procs {
		for _, pid := range p.pids() {
			var ts unix.Timespec
			const schedClock = 2 // CPUCLOCK_SCHED
			if err := unix.ClockGettime(int32(^pid)<<3|schedClock, &ts); err != nil {
				return 0, fmt.Errorf("CPU time of %s (process %d): %w", p.name, pid, err)
			}
			sum += time.Duration(ts.Nano())
		}
	}
	return sum, nil
}

// memory is the proportional set size of the processes in bytes: what they
// share with others counts in parts.
func memory(procs []*proc) (int64, error) {
	var sum int64
	for _, p := range procs {
		for _, pid := range p.pids() {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
			if err != nil {
				return 0, fmt.Errorf("memory of %s: %w", p.name, err)
			}
			for line := range strings.Lines(string(b)) {
				if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
					kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
					if err != nil {
						return 0, err
					}
					sum += kib << 10
				}
			}
		}
	}
	return sum, nil
}

// waitListen returns once something accepts connections at addr.
func waitListen(ctx context.Context, p *proc, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	for {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		if err == nil {
			return c.Close()
		}
		select {
		case <-ctx.Done():
			return p.failure(fmt.Errorf("does not listen on %s: %w", addr, err))
		case <-p.done:
			return p.failure(fmt.Errorf("ended: %v", p.err))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// freePorts returns addresses on host that nothing listens on now.
func freePorts(host string, n int) ([]string, error) {
	var addrs []string
	for range n {
		l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
		if err != nil {
			return nil, err
		}
		defer l.Close() // held until all are chosen, so that they differ
		addrs = append(addrs, l.Addr().String())
	}
	return addrs, nil
}

// steal is the machine's CPU time and the part of it that the host took away.
type steal struct{ total, stolen float64 }

func readSteal() (s steal) {
	b, _ := os.ReadFile("/proc/stat")
	line, _, _ := strings.Cut(string(b), "\n")
	for i, f := range strings.Fields(line) {
		v, err := strconv.ParseFloat(f, 64)
		if err != nil || i > 8 { // guest time is in user time already
			continue
		}
		s.total += v
		if i == 8 {
			s.stolen = v
		}
	}
	return s
}

// since returns the percentage stolen from then to now.
func (s steal) since(then steal) float64 {
	if s.total <= then.total {
		return 0
	}
	return 100 * (s.stolen - then.stolen) / (s.total - then.total)
}
