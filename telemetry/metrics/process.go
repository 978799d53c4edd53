package metrics

import (
	"os"
	"runtime"
	"runtime/metrics"
	"strconv"
	"strings"
)

// process writes what the process itself uses, under the names of Prometheus's
// own collectors. What the system does not tell is left out.
func (o *writer) process() {
	gauge := func(name, help string, v float64) {
		if o.head(name, "gauge", help) {
			o.start(name, "", nil, "")
			o.float(v)
		}
	}
	counter := func(name, help string, v float64) {
		if o.head(name, "counter", help) {
			o.start(name, "", nil, "")
			o.float(v)
		}
	}
	samples := []metrics.Sample{
		{Name: "/sched/goroutines:goroutines"},
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/total:bytes"},
		{Name: "/memory/classes/heap/released:bytes"},
		{Name: "/gc/cycles/total:gc-cycles"},
	}
	metrics.Read(samples)
	gauge("go_goroutines", "Goroutines that exist.", float64(samples[0].Value.Uint64()))
	gauge("go_memstats_alloc_bytes", "Bytes in objects of the heap.", float64(samples[1].Value.Uint64()))
	gauge("go_memstats_sys_bytes", "Bytes of address space taken from the system.", float64(samples[2].Value.Uint64()))
	gauge("go_memstats_heap_released_bytes", "Bytes of the heap given back to the system.", float64(samples[3].Value.Uint64()))
	counter("go_gc_cycles_total_gc_cycles_total", "Finished cycles of the garbage collector.", float64(samples[4].Value.Uint64()))
	if o.head("go_info", "gauge", "Version of Go that built this program.") {
		o.block = appendLabel(o.block[:0], "version", runtime.Version())
		o.start("go_info", "", o.block, "")
		o.uint(1)
	}

	p, ok := readProcess()
	if !ok {
		return
	}
	counter("process_cpu_seconds_total", "CPU time of user and system.", p.cpuSeconds)
	gauge("process_resident_memory_bytes", "Resident memory.", p.resident)
	gauge("process_virtual_memory_bytes", "Virtual memory.", p.virtual)
	gauge("process_start_time_seconds", "Start, in seconds since 1970.", p.start)
	gauge("process_threads", "Threads of the operating system.", p.threads)
	if n, err := countFiles("/proc/self/fd"); err == nil {
		gauge("process_open_fds", "Open file descriptors.", float64(n))
	}
	if p.maxFiles > 0 {
		gauge("process_max_fds", "Limit of file descriptors.", p.maxFiles)
	}
}

type processStat struct {
	cpuSeconds, resident, virtual, start, threads, maxFiles float64
}

// ticksPerSecond is USER_HZ, which is 100 on every Linux that Go runs on.
const ticksPerSecond = 100

// readProcess reads /proc/self; false where there is none.
func readProcess() (p processStat, ok bool) {
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return p, false
	}
	// The command may hold spaces and brackets: fields count from its last bracket.
	_, rest, ok := strings.Cut(string(stat[max(0, strings.LastIndexByte(string(stat), ')')):]), " ")
	f := strings.Fields(rest)
	if !ok || len(f) < 22 {
		return p, false
	}
	at := func(field int) float64 { // as numbered in proc(5)
		v, _ := strconv.ParseFloat(f[field-3], 64)
		return v
	}
	p.cpuSeconds = (at(14) + at(15)) / ticksPerSecond
	p.threads = at(20)
	p.virtual = at(23)
	p.resident = at(24) * float64(os.Getpagesize())
	p.start = at(22)/ticksPerSecond + field("/proc/stat", "btime")
	p.maxFiles = field("/proc/self/limits", "Max open files")
	return p, true
}

// field returns the number after a name at the beginning of a line, 0 if none.
func field(path, name string) float64 {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			if f := strings.Fields(rest); len(f) > 0 {
				v, _ := strconv.ParseFloat(f[0], 64)
				return v
			}
		}
	}
	return 0
}

func countFiles(dir string) (int, error) {
	d, err := os.Open(dir)
	if err != nil {
		return 0, err
	}
	defer d.Close() // read only
	names, err := d.Readdirnames(-1)
	return len(names) - 1, err // without d itself
}
