// Package host reads how the machine underneath a process is doing: CPU time
// that the hypervisor stole, waits for I/O, pressure stalls, CPU quota that ran
// out, and how long the process's own threads waited for a CPU.
//
// What enters: a file system with /proc and /sys. What leaves: a Reading of
// counters since boot (or since the process began), which whoever keeps two of
// them turns into shares with Between. It samples when it is asked and keeps no
// goroutine: a process that nobody scrapes pays nothing. What a machine does
// not offer (no PSI, no quota) is absent from the Reading, never zero.
package host

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"time"
)

// Reading is the state of all counters at one moment. Durations are since boot
// and, but for RunQueue, of the whole machine or cgroup.
type Reading struct {
	At       time.Time
	Boot     string // boot_id: the same for all processes of one machine; "" if not known
	CPU      *CPU
	Pressure [NumResources]*Pressure // by Resource
	Quota    *Quota                  // of this process's cgroup
	RunQueue *time.Duration          // time that this process's threads were ready to run and did not
}

// CPU is /proc/stat's first line: time summed over all CPUs (proc(5)).
type CPU struct {
	User, Nice, System, Idle, IOWait, IRQ, SoftIRQ, Steal time.Duration
}

// Total is all time of all CPUs.
func (c *CPU) Total() time.Duration {
	return c.User + c.Nice + c.System + c.Idle + c.IOWait + c.IRQ + c.SoftIRQ + c.Steal
}

// Resource is one that tasks can wait for.
type Resource uint8

// The resources of the kernel's pressure stall information.
const (
	ResourceCPU Resource = iota
	ResourceMemory
	ResourceIO
	NumResources
)

var resources = [NumResources]string{"cpu", "memory", "io"}

func (r Resource) String() string { return resources[r] }

// Pressure is the time in which some or all tasks of the machine waited for a
// resource (the kernel's accounting/psi).
type Pressure struct{ Some, Full time.Duration }

// Quota is what CFS bandwidth control did to a cgroup.
type Quota struct {
	Periods, Throttled uint64        // periods with a limit, and those in which it was met
	Time               time.Duration // that its tasks were held back, summed over CPUs
}

// Sampler reads one machine's files. It is safe for concurrent use.
type Sampler struct {
	files fs.FS
	quota string // the cgroup's cpu.stat; "": none
	boot  string
}

// userHZ is the unit of /proc/stat: 100 on every architecture that Linux
// offers to user space since 2.6 (sysconf(_SC_CLK_TCK)).
const userHZ = 100

// maxFile bounds what is read of a file; /proc/stat's first line, the only one
// that counts, is far shorter.
const maxFile = 8 << 10

// NewSampler finds out what there is to read below root, the file system of
// the machine (os.DirFS("/")).
func NewSampler(root fs.FS) *Sampler {
	s := &Sampler{files: root}
	if b, err := s.read("proc/sys/kernel/random/boot_id"); err == nil {
		s.boot = string(bytes.TrimSpace(b))
	}
	groups, err := s.read("proc/self/cgroup")
	if err == nil {
		s.quota = s.findQuota(string(groups))
	}
	return s
}

// findQuota returns the cpu.stat of the cgroup that /proc/self/cgroup names.
// Within a container the mount may show that cgroup as its root, while the
// path still is the host's: so both are tried, the exact one first.
func (s *Sampler) findQuota(groups string) string {
	var candidates []string
	for line := range strings.Lines(groups) {
		// hierarchy-ID:controllers:path (cgroups(7))
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 {
			continue
		}
		switch {
		case f[1] == "": // version 2, alone or beside version 1
			candidates = append(candidates, path.Join("sys/fs/cgroup", f[2], "cpu.stat"), "sys/fs/cgroup/cpu.stat")
		case f[1] == "cpu" || strings.HasPrefix(f[1], "cpu,") || strings.HasSuffix(f[1], ",cpu"):
			for _, mount := range [...]string{f[1], "cpu"} {
				candidates = append(candidates, path.Join("sys/fs/cgroup", mount, f[2], "cpu.stat"), path.Join("sys/fs/cgroup", mount, "cpu.stat"))
			}
		}
	}
	for _, c := range candidates {
		if b, err := s.read(c); err == nil && bytes.Contains(b, []byte("nr_periods")) {
			return c
		}
	}
	return ""
}

// Read samples everything at now. What cannot be read or understood is left
// out, and the error says what that was; the Reading is usable all the same.
func (s *Sampler) Read(now time.Time) (Reading, error) {
	r := Reading{At: now, Boot: s.boot}
	var errs []error
	take := func(name string, parse func([]byte) error) {
		b, err := s.read(name)
		if err == nil {
			err = parse(b)
		} else if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errNotOffered) {
			return // this kernel has no such thing
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("read /%s: %w", name, err))
		}
	}
	take("proc/stat", func(b []byte) (err error) { r.CPU, err = ParseStat(b); return })
	for i, name := range resources {
		take("proc/pressure/"+name, func(b []byte) (err error) { r.Pressure[i], err = ParsePressure(b); return })
	}
	if s.quota != "" {
		take(s.quota, func(b []byte) (err error) { r.Quota, err = ParseQuota(b); return })
	}
	if wait, err := s.runQueue(); err == nil {
		r.RunQueue = &wait
	} else if !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	return r, errors.Join(errs...)
}

// maxThreads bounds the threads whose waits are summed.
const maxThreads = 4096

// runQueue sums the second field of every thread's schedstat: nanoseconds spent
// waiting on a run queue. A thread that ended takes its share along.
func (s *Sampler) runQueue() (time.Duration, error) {
	tasks, err := fs.ReadDir(s.files, "proc/self/task")
	if err != nil {
		return 0, err
	}
	var sum time.Duration
	var known bool
	for _, t := range tasks[:min(len(tasks), maxThreads)] {
		b, err := s.read("proc/self/task/" + t.Name() + "/schedstat")
		if err != nil {
			continue // it has just ended
		}
		f := bytes.Fields(b)
		if len(f) < 2 {
			return 0, fmt.Errorf("read /proc/self/task/%s/schedstat: %w", t.Name(), ErrSyntax)
		}
		n, err := strconv.ParseUint(string(f[1]), 10, 63)
		if err != nil {
			return 0, fmt.Errorf("read /proc/self/task/%s/schedstat: %w", t.Name(), ErrSyntax)
		}
		sum += time.Duration(n)
		known = true
	}
	if !known {
		return 0, fs.ErrNotExist
	}
	return sum, nil
}

// errNotOffered stands for a file that is there but that the kernel refuses to
// fill: PSI that was compiled in and switched off answers EOPNOTSUPP.
var errNotOffered = errors.New("not offered by this kernel")

func (s *Sampler) read(name string) ([]byte, error) {
	f, err := s.files.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close() // read only
	b := make([]byte, maxFile)
	n, err := io.ReadFull(f, b)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		if notOffered(err) {
			return nil, errNotOffered
		}
		return nil, err
	}
	return b[:n], nil
}
