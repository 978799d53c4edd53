package host

import (
	"runtime/metrics"
	"sync"
	"time"

	telemetry "github.com/seinemesh/seine/telemetry/metrics"
)

// Names of the metrics that Export registers. All are counters, in seconds
// where they are times, so that any span can be looked at afterwards.
const (
	MetricCPU      = "seine_host_cpu_seconds_total"           // mode
	MetricPressure = "seine_host_pressure_seconds_total"      // resource, kind
	MetricQuota    = "seine_host_throttled_seconds_total"     // of the process's cgroup
	MetricPeriods  = "seine_host_cfs_periods_total"           // of the process's cgroup
	MetricHeld     = "seine_host_cfs_throttled_periods_total" // of the process's cgroup
	MetricRunQueue = "seine_process_runqueue_wait_seconds_total"
	MetricChecks   = "seine_process_timer_checks_total"
	MetricLate     = "seine_process_timer_late_total" // over
	MetricGC       = "seine_process_gc_pause_seconds_total"
	MetricInfo     = "seine_host_info" // boot_id: processes with the same one share a machine
)

// fresh is how long a Reading serves the metrics of a scrape.
const fresh = 200 * time.Millisecond

// exporter reads the machine once for all metrics of a scrape.
type exporter struct {
	sampler *Sampler
	now     func() time.Time
	mu      sync.Mutex
	last    Reading
}

func (e *exporter) reading() Reading {
	e.mu.Lock()
	defer e.mu.Unlock()
	if now := e.now(); e.last.At.IsZero() || now.Sub(e.last.At) > fresh {
		// What is missing is missing in the Reading; its metrics stay where
		// they are.
		e.last, _ = e.sampler.Read(now)
	}
	return e.last
}

// Export registers what s can read, and late, as metrics of r. What the
// machine does not offer now gets no metric. A scrape reads the files once.
func Export(r *telemetry.Registry, s *Sampler, late *Lateness, now func() time.Time) {
	e := &exporter{sampler: s, now: now}
	first := e.reading()
	if first.Boot != "" {
		r.GaugeFunc(MetricInfo, "The machine that this process runs on.", func() float64 { return 1 }, "boot_id", first.Boot)
	}
	if first.CPU != nil {
		const help = "CPU time of the whole machine, all CPUs, by mode."
		for _, m := range [...]struct {
			mode string
			of   func(*CPU) time.Duration
		}{
			{"user", func(c *CPU) time.Duration { return c.User + c.Nice }},
			{"system", func(c *CPU) time.Duration { return c.System + c.IRQ + c.SoftIRQ }},
			{"idle", func(c *CPU) time.Duration { return c.Idle }},
			{"iowait", func(c *CPU) time.Duration { return c.IOWait }},
			{"steal", func(c *CPU) time.Duration { return c.Steal }},
		} {
			r.CounterFunc(MetricCPU, help, func() float64 {
				if c := e.reading().CPU; c != nil {
					return m.of(c).Seconds()
				}
				return 0
			}, "mode", m.mode)
		}
	}
	for i, p := range first.Pressure {
		if p == nil {
			continue
		}
		const help = "Time in which some or all tasks of the machine waited for a resource (PSI)."
		pressure := func(kind string, of func(*Pressure) time.Duration) {
			r.CounterFunc(MetricPressure, help, func() float64 {
				if p := e.reading().Pressure[i]; p != nil {
					return of(p).Seconds()
				}
				return 0
			}, "resource", Resource(i).String(), "kind", kind)
		}
		pressure("some", func(p *Pressure) time.Duration { return p.Some })
		pressure("full", func(p *Pressure) time.Duration { return p.Full })
	}
	if first.Quota != nil {
		quota := func(name, help string, of func(*Quota) float64) {
			r.CounterFunc(name, help, func() float64 {
				if q := e.reading().Quota; q != nil {
					return of(q)
				}
				return 0
			})
		}
		quota(MetricPeriods, "Periods of this process's CPU limit.", func(q *Quota) float64 { return float64(q.Periods) })
		quota(MetricHeld, "Periods in which this process's CPU limit was met.", func(q *Quota) float64 { return float64(q.Throttled) })
		quota(MetricQuota, "Time that this process's cgroup was held back by its CPU limit.", func(q *Quota) float64 { return q.Time.Seconds() })
	}
	if first.RunQueue != nil {
		r.CounterFunc(MetricRunQueue, "Time that this process's threads were ready and waited for a CPU.", func() float64 {
			if q := e.reading().RunQueue; q != nil {
				return q.Seconds()
			}
			return 0
		})
	}
	r.CounterFunc(MetricChecks, "Timers that were watched.", func() float64 { return float64(late.checks.Load()) })
	for i := range lateBounds {
		r.CounterFunc(MetricLate, "Timers that fired later than they were due by at least so much.",
			func() float64 { return float64(late.over[i].Load()) }, "over", lateBounds[i].name)
	}
	r.CounterFunc(MetricGC, "Time that the garbage collector stopped this process, to the nearest bucket of the runtime.", gcPauses)
}

// gcPauses sums the runtime's histogram of stop-the-world pauses, each at its
// bucket's upper bound.
func gcPauses() float64 {
	s := []metrics.Sample{{Name: "/sched/pauses/total/gc:seconds"}}
	metrics.Read(s)
	if s[0].Value.Kind() != metrics.KindFloat64Histogram {
		return 0
	}
	h := s[0].Value.Float64Histogram()
	sum := 0.0
	for i, n := range h.Counts {
		if bound := h.Buckets[i+1]; n > 0 && bound < 3600 {
			sum += float64(n) * bound
		}
	}
	return sum
}
