package host

import (
	"bytes"
	"context"
	"errors"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/seinemesh/seine/telemetry/metrics"
)

func file(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }

// hybrid is a machine with cgroup version 1 beside 2, and PSI.
func hybrid() fstest.MapFS {
	return fstest.MapFS{
		"proc/sys/kernel/random/boot_id":           file("6f1b1c2e-0000-4000-8000-000000000001\n"),
		"proc/self/cgroup":                         file("9:name=systemd:/\n5:cpu,cpuacct:/kubepods/pod1/abc\n0::/\n"),
		"proc/stat":                                file("cpu  722984 44066 335379 1053685 4980 1 61727 616 7 0\ncpu0 1 2 3\n"),
		"proc/pressure/cpu":                        file("some avg10=1.00 avg60=4.57 avg300=30.30 total=4502119845\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=12\n"),
		"proc/pressure/io":                         file("some avg10=0.00 avg60=0.00 avg300=0.00 total=5\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=4\n"),
		"proc/pressure/memory":                     file("some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"),
		"sys/fs/cgroup/cpu,cpuacct/cpu.stat":       file("nr_periods 100\nnr_throttled 7\nthrottled_time 3000000\n"),
		"proc/self/task/1/schedstat":               file("100 2000000 5\n"),
		"proc/self/task/2/schedstat":               file("100 3000000 5\n"),
		"sys/fs/cgroup/unified/cpu.stat":           file("usage_usec 5\n"),
		"sys/fs/cgroup/cpu,cpuacct/other/cpu.stat": file("nr_periods 1\nnr_throttled 1\nthrottled_time 1\n"),
	}
}

func TestReadHybrid(t *testing.T) {
	now := time.Unix(1700000000, 0)
	got, err := NewSampler(hybrid()).Read(now)
	if err != nil {
		t.Fatal(err)
	}
	wait := 5 * time.Millisecond
	const tick = 10 * time.Millisecond
	want := Reading{
		At: now, Boot: "6f1b1c2e-0000-4000-8000-000000000001",
		CPU: &CPU{User: 722984 * tick, Nice: 44066 * tick, System: 335379 * tick, Idle: 1053685 * tick,
			IOWait: 4980 * tick, IRQ: tick, SoftIRQ: 61727 * tick, Steal: 616 * tick},
		Pressure: [NumResources]*Pressure{
			ResourceCPU:    {Some: 4502119845 * time.Microsecond, Full: 12 * time.Microsecond},
			ResourceMemory: {},
			ResourceIO:     {Some: 5 * time.Microsecond, Full: 4 * time.Microsecond},
		},
		Quota:    &Quota{Periods: 100, Throttled: 7, Time: 3 * time.Millisecond},
		RunQueue: &wait,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestReadVersion2(t *testing.T) {
	fs := fstest.MapFS{
		"proc/self/cgroup": file("0::/user.slice/app.scope\n"),
		"proc/stat":        file("cpu 1 0 1 1 0 0 0 0\n"),
		"sys/fs/cgroup/user.slice/app.scope/cpu.stat": file("usage_usec 9\nnr_periods 10\nnr_throttled 2\nthrottled_usec 1500\n"),
	}
	got, err := NewSampler(fs).Read(time.Unix(1, 0))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(&Quota{Periods: 10, Throttled: 2, Time: 1500 * time.Microsecond}, got.Quota); d != "" {
		t.Error(d)
	}
	if got.Pressure != [NumResources]*Pressure{} || got.RunQueue != nil {
		t.Errorf("a machine without PSI and schedstat reads %+v", got)
	}
}

func TestWhatIsBrokenIsLeftOutAndSaid(t *testing.T) {
	fs := hybrid()
	fs["proc/stat"] = file("cpu one two\n")
	fs["proc/pressure/io"] = file("nonsense\n")
	got, err := NewSampler(fs).Read(time.Unix(1, 0))
	if !errors.Is(err, ErrSyntax) || !strings.Contains(err.Error(), "/proc/stat") || !strings.Contains(err.Error(), "/proc/pressure/io") {
		t.Errorf("error %v", err)
	}
	if got.CPU != nil || got.Pressure[ResourceIO] != nil || got.Pressure[ResourceCPU] == nil || got.Quota == nil {
		t.Errorf("reading %+v", got)
	}
}

func TestNothingToRead(t *testing.T) {
	got, err := NewSampler(fstest.MapFS{}).Read(time.Unix(1, 0))
	if err != nil || got.CPU != nil || got.Quota != nil || got.RunQueue != nil {
		t.Errorf("an empty machine reads %+v, %v", got, err)
	}
}

func TestThisMachine(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("there is no /proc")
	}
	s := NewSampler(os.DirFS("/"))
	a, err := s.Read(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if a.CPU == nil || a.CPU.Total() <= 0 || a.Boot == "" {
		t.Errorf("reading %+v", a)
	}
}

func TestExport(t *testing.T) {
	r := metrics.New(metrics.Options{Component: "proxy"})
	files := hybrid()
	now := time.Unix(1, 0)
	late := &Lateness{}
	late.note(30 * time.Millisecond)
	late.note(0)
	Export(r, NewSampler(files), late, func() time.Time { return now })
	now = now.Add(time.Second)
	files["proc/stat"] = file("cpu  0 0 0 0 0 0 0 700\n")
	var b bytes.Buffer
	if _, err := r.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`seine_host_cpu_seconds_total{mode="steal"} 7`,
		`seine_host_pressure_seconds_total{resource="cpu",kind="some"} 4502.119845`,
		`seine_host_cfs_throttled_periods_total 7`,
		`seine_process_runqueue_wait_seconds_total 0.005`,
		`seine_process_timer_checks_total 2`,
		`seine_process_timer_late_total{over="20ms"} 1`,
		`seine_process_timer_late_total{over="100ms"} 0`,
		`seine_host_info{boot_id="6f1b1c2e-0000-4000-8000-000000000001"} 1`,
	} {
		if !strings.Contains(b.String(), want+"\n") {
			t.Errorf("no line %q in:\n%s", want, b.String())
		}
	}
}

func TestLatenessRuns(t *testing.T) {
	l := &Lateness{}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { l.Run(ctx); close(done) }()
	for l.checks.Load() == 0 && t.Context().Err() == nil {
		runtime.Gosched()
	}
	cancel()
	<-done
}

func FuzzParse(f *testing.F) {
	for name, file := range hybrid() {
		if strings.HasPrefix(name, "proc/stat") || strings.Contains(name, "pressure") || strings.Contains(name, "cpu.stat") {
			f.Add(file.Data)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := ParseStat(b); err == nil && c.Total() < 0 {
			t.Errorf("negative total of %q", b)
		}
		if p, err := ParsePressure(b); err == nil && (p.Some < 0 || p.Full < 0) {
			t.Errorf("negative pressure of %q", b)
		}
		if q, err := ParseQuota(b); err == nil && q.Time < 0 {
			t.Errorf("negative throttling of %q", b)
		}
	})
}
