package diagnose

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/seinemesh/seine/host"
)

// Counters are what one proxy's metrics said of its machine at one moment.
type Counters struct {
	At     time.Time
	Boot   string
	values map[string]float64 // by series, as written
}

// ErrSyntax is wrapped by errors of bodies that are not the Prometheus text format.
var ErrSyntax = errors.New("not the Prometheus text format")

// maxHostSeries bounds what is read of one body; a proxy has 22.
const maxHostSeries = 128

var hostFamilies = [...]string{
	host.MetricCPU, host.MetricPressure, host.MetricPeriods, host.MetricHeld,
	host.MetricRunQueue, host.MetricChecks, host.MetricLate, host.MetricGC, host.MetricInfo,
}

// Read takes the machine's counters out of a scrape of a proxy.
func Read(body []byte, at time.Time) (Counters, error) {
	c := Counters{At: at, values: map[string]float64{}}
	for line := range bytes.Lines(body) {
		if !bytes.HasPrefix(line, []byte("seine_host_")) && !bytes.HasPrefix(line, []byte("seine_process_")) {
			continue
		}
		text := strings.TrimSpace(string(line))
		i := strings.LastIndexByte(text, ' ')
		if i < 0 {
			return Counters{}, fmt.Errorf("line %.60q: %w", text, ErrSyntax)
		}
		name, labels, _ := strings.Cut(text[:i], "{")
		if !slices.Contains(hostFamilies[:], name) {
			continue
		}
		v, err := strconv.ParseFloat(text[i+1:], 64)
		if err != nil || !(v >= 0 && v < 1e18) {
			return Counters{}, fmt.Errorf("line %.60q: %w", text, ErrSyntax)
		}
		if name == host.MetricInfo {
			boot, ok := strings.CutPrefix(strings.TrimSuffix(labels, "}"), `boot_id="`)
			if !ok || len(boot) > 64 {
				return Counters{}, fmt.Errorf("line %.60q: %w", text, ErrSyntax)
			}
			c.Boot = strings.TrimSuffix(boot, `"`)
			continue
		}
		if len(c.values) >= maxHostSeries {
			return Counters{}, fmt.Errorf("more than %d series of the machine: %w", maxHostSeries, ErrSyntax)
		}
		c.values[text[:i]] = v
	}
	return c, nil
}

// Signals is what one proxy saw of its machine in a window, as shares of time or
// of events, 0..1 (RunQueue may be more: several threads wait at once). A
// signal that the machine does not offer is negative.
type Signals struct {
	Boot  string // which machine; "": not known
	Value [NumSignals]float64
}

// Signal is one way in which a machine lets its programs wait.
type Signal uint8

// The signals, the most telling first: a hypervisor that takes the CPU away is
// nobody's code, a queue for the CPU may be one's own.
const (
	Steal     Signal = iota // CPU time that the hypervisor gave to others
	Throttled               // periods in which the CPU limit of the proxy's cgroup was met
	IOWait                  // CPU time idle while I/O was under way
	IOStall                 // time in which some task waited for I/O (PSI)
	Memory                  // time in which some task waited for memory (PSI)
	CPUStall                // time in which some task waited for a CPU (PSI)
	Late                    // timers of the proxy that fired 5 ms late or later
	RunQueue                // time that the proxy's own threads waited for a CPU
	GC                      // time that the proxy's own garbage collector stopped it
	NumSignals
)

// signals says when a signal is raised: at least floor, and at least rise above
// the usual of that machine. The floors are what operators' guides call trouble
// (steal 1 %) or what can be seen in latency at P99 (1 % of the time).
var signals = [NumSignals]struct {
	name, meaning string
	floor, rise   float64
}{
	Steal:     {"cpu-steal", "the hypervisor gave %s of the CPU time to other machines", 0.01, 0.01},
	Throttled: {"cpu-limit", "the CPU limit was met in %s of the periods", 0.05, 0.05},
	IOWait:    {"io-wait", "CPUs were idle for I/O in %s of the time", 0.05, 0.05},
	IOStall:   {"io-pressure", "tasks waited for I/O in %s of the time", 0.10, 0.10},
	Memory:    {"memory-pressure", "tasks waited for memory in %s of the time", 0.05, 0.05},
	CPUStall:  {"cpu-pressure", "tasks waited for a CPU in %s of the time", 0.20, 0.20},
	Late:      {"scheduling-delay", "%s of the sidecar's timers fired 5 ms late or later", 0.02, 0.02},
	RunQueue:  {"run-queue", "the sidecar's threads waited for a CPU for %s of the time", 0.05, 0.05},
	GC:        {"sidecar-gc", "the sidecar's garbage collector stopped it for %s of the time", 0.01, 0.01},
}

func (s Signal) String() string { return signals[s].name }

// say is the sentence of a signal at a value, with the usual one.
func (s Signal) say(value, usual float64) string {
	return fmt.Sprintf(signals[s].meaning, percent(value)) + " (usually " + percent(usual) + ")"
}

func percent(v float64) string { return strconv.FormatFloat(v*100, 'f', 1, 64) + " %" }

// Between is what happened from a to b, two scrapes of one proxy.
func Between(a, b Counters) Signals {
	s := Signals{Boot: b.Boot}
	seconds := b.At.Sub(a.At).Seconds()
	delta := func(series string) (float64, bool) {
		after, ok := b.values[series]
		before, was := a.values[series]
		return after - before, ok && was && after >= before
	}
	share := func(of string, by float64, known bool) float64 {
		d, ok := delta(of)
		if !ok || !known || by <= 0 {
			return -1
		}
		return d / by
	}
	cpu := func(mode string) string { return host.MetricCPU + `{mode="` + mode + `"}` }
	total, known := 0.0, true
	for _, mode := range [...]string{"user", "system", "idle", "iowait", "steal"} {
		d, ok := delta(cpu(mode))
		total += d
		known = known && ok
	}
	psi := func(resource string) string {
		return host.MetricPressure + `{resource="` + resource + `",kind="some"}`
	}
	periods, limited := delta(host.MetricPeriods)
	checks, checked := delta(host.MetricChecks)
	s.Value = [NumSignals]float64{
		Steal:     share(cpu("steal"), total, known),
		IOWait:    share(cpu("iowait"), total, known),
		IOStall:   share(psi("io"), seconds, true),
		Memory:    share(psi("memory"), seconds, true),
		CPUStall:  share(psi("cpu"), seconds, true),
		Throttled: share(host.MetricHeld, periods, limited),
		Late:      share(host.MetricLate+`{over="5ms"}`, checks, checked),
		RunQueue:  share(host.MetricRunQueue, seconds, true),
		GC:        share(host.MetricGC, seconds, true),
	}
	return s
}

// ofProxy reports whether a signal speaks of one proxy's own threads or cgroup;
// the others are the same for everything on the machine.
func (s Signal) ofProxy() bool { return s == Throttled || s == Late || s == RunQueue || s == GC }

// machine is what is known of one machine, or of one proxy's share of it.
type machine struct {
	seen   int
	past   [][NumSignals]float64 // windows, oldest first
	value  [NumSignals]float64   // now
	raised [NumSignals]bool
	usual  [NumSignals]float64 // medians of the past
}

// proxy is a machine as one proxy sees it, for the signals of its own.
type proxy struct {
	machine
	boot string
}

// take compares a window with the past and remembers it.
func (m *machine) take(v [NumSignals]float64, window int) {
	m.seen, m.value = window, v
	column := make([]float64, 0, len(m.past))
	for i := range v {
		column = column[:0]
		for _, p := range m.past {
			// What was not there was not met: a CPU limit has no periods before it is set.
			column = append(column, max(p[i], 0))
		}
		m.usual[i] = 0
		if len(column) > 0 {
			slices.Sort(column)
			m.usual[i] = column[len(column)/2]
		}
		m.raised[i] = v[i] >= signals[i].floor && v[i] >= m.usual[i]+signals[i].rise && v[i] >= m.usual[i]*slowerBy
	}
	if m.past = append(m.past, v); len(m.past) > keepWindows {
		m.past = slices.Delete(m.past, 0, 1)
	}
}

// takeMachines takes in the signals of a window: each proxy's own, and for each
// machine the highest that a proxy on it saw.
func (d *Detector) takeMachines(o Observation) {
	shared := map[string]*[NumSignals]float64{}
	for instance, s := range o.Machines {
		p := d.proxies[instance]
		if p == nil || p.boot != s.Boot {
			if len(d.proxies) >= maxSeries {
				continue
			}
			p = &proxy{boot: s.Boot}
			d.proxies[instance] = p
		}
		p.take(s.Value, d.windows)
		if s.Boot == "" {
			continue
		}
		v := shared[s.Boot]
		if v == nil {
			v = &[NumSignals]float64{}
			for i := range v {
				v[i] = -1
			}
			shared[s.Boot] = v
		}
		for i := range v {
			if !Signal(i).ofProxy() {
				v[i] = max(v[i], s.Value[i])
			}
		}
	}
	for boot, v := range shared {
		m := d.machines[boot]
		if m == nil {
			m = &machine{}
			d.machines[boot] = m
		}
		m.take(*v, d.windows)
	}
}

// trouble is a raised signal of where a server or caller runs.
type trouble struct {
	signal       Signal
	value, usual float64
	proxy, boot  string
}

// troubles returns the raised signals where proxies run, the most telling first.
func (d *Detector) troubles(proxies []string) []trouble {
	best := map[Signal]trouble{}
	take := func(s Signal, m *machine, name, boot string) {
		if t, ok := best[s]; m.raised[s] && m.seen == d.windows && (!ok || m.value[s] > t.value) {
			best[s] = trouble{s, m.value[s], m.usual[s], name, boot}
		}
	}
	for _, name := range proxies {
		p := d.proxies[name]
		if p == nil {
			continue
		}
		for s := range NumSignals {
			if s.ofProxy() {
				take(s, &p.machine, name, p.boot)
			} else if m := d.machines[p.boot]; m != nil {
				take(s, m, name, p.boot)
			}
		}
	}
	var list []trouble
	for s := range NumSignals {
		if t, ok := best[s]; ok {
			list = append(list, t)
		}
	}
	return list
}
