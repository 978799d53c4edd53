package host

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// ErrSyntax is wrapped by errors of files that are not as the kernel writes them.
var ErrSyntax = errors.New("not as the kernel writes it")

// ParseStat reads the first line of /proc/stat (proc(5)). Kernels before 2.6.11
// have no steal; then it is zero.
func ParseStat(b []byte) (*CPU, error) {
	line, _, _ := bytes.Cut(b, []byte{'\n'})
	f := bytes.Fields(line)
	if len(f) < 8 || string(f[0]) != "cpu" {
		return nil, fmt.Errorf("first line %.40q: %w", line, ErrSyntax)
	}
	var c CPU
	for i, to := range [...]*time.Duration{&c.User, &c.Nice, &c.System, &c.Idle, &c.IOWait, &c.IRQ, &c.SoftIRQ, &c.Steal} {
		if i+1 >= len(f) {
			break
		}
		// Bounded so that no sum of eight overflows.
		n, err := strconv.ParseUint(string(f[i+1]), 10, 52)
		if err != nil || n > uint64(maxDuration/8)/(uint64(time.Second)/userHZ) {
			return nil, fmt.Errorf("field %d %.24q: %w", i+1, f[i+1], ErrSyntax)
		}
		*to = time.Duration(n) * (time.Second / userHZ)
	}
	return &c, nil
}

const maxDuration = time.Duration(1<<63 - 1)

// ParsePressure reads a file of /proc/pressure. Before Linux 5.13 cpu has no
// "full" line; then it is zero.
func ParsePressure(b []byte) (*Pressure, error) {
	var p Pressure
	some := false
	for line := range bytes.Lines(b) {
		f := bytes.Fields(line)
		if len(f) == 0 {
			continue
		}
		total, ok := bytes.CutPrefix(f[len(f)-1], []byte("total="))
		if !ok {
			return nil, fmt.Errorf("line %.60q: %w", line, ErrSyntax)
		}
		n, err := strconv.ParseUint(string(total), 10, 53) // microseconds
		if err != nil {
			return nil, fmt.Errorf("line %.60q: %w", line, ErrSyntax)
		}
		switch string(f[0]) {
		case "some":
			p.Some, some = time.Duration(n)*time.Microsecond, true
		case "full":
			p.Full = time.Duration(n) * time.Microsecond
		}
	}
	if !some {
		return nil, fmt.Errorf("no line \"some\": %w", ErrSyntax)
	}
	return &p, nil
}

// ParseQuota reads a cgroup's cpu.stat, of version 1 (throttled_time in
// nanoseconds) or 2 (throttled_usec).
func ParseQuota(b []byte) (*Quota, error) {
	var q Quota
	seen := 0
	for line := range bytes.Lines(b) {
		name, value, _ := bytes.Cut(bytes.TrimSpace(line), []byte{' '})
		unit := time.Duration(0)
		switch string(name) {
		case "nr_periods", "nr_throttled":
		case "throttled_usec":
			unit = time.Microsecond
		case "throttled_time":
			unit = time.Nanosecond
		default:
			continue
		}
		n, err := strconv.ParseUint(string(value), 10, 63)
		if err != nil || unit != 0 && n > uint64(maxDuration/unit) {
			return nil, fmt.Errorf("line %.60q: %w", line, ErrSyntax)
		}
		seen++
		switch string(name) {
		case "nr_periods":
			q.Periods = n
		case "nr_throttled":
			q.Throttled = n
		default:
			q.Time = time.Duration(n) * unit
		}
	}
	if seen < 3 {
		return nil, fmt.Errorf("nr_periods, nr_throttled or the throttled time is missing: %w", ErrSyntax)
	}
	return &q, nil
}
