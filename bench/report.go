package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// result is a row of latest.json: the medians of a case's rounds.
type result struct {
	Case   string   `json:"case"`
	Plane  string   `json:"dataplane"`
	RPS    *float64 `json:"rps"`
	P50    *float64 `json:"p50_us"`
	P99    *float64 `json:"p99_us"`
	CPU    *float64 `json:"cpu_us_per_request"`
	RSS    *float64 `json:"rss_mib"`
	Rounds int      `json:"rounds"`
	// What only some cases have.
	P999     *float64 `json:"p999_us,omitempty"`
	Rate     *float64 `json:"mb_per_s,omitempty"`
	Each     *float64 `json:"kib_per_connection,omitempty"`
	Syscalls *float64 `json:"syscalls_per_request,omitempty"`
	Open     *float64 `json:"half_open,omitempty"`
}

// environment is what the figures depend on.
type environment struct {
	When     string            `json:"when"`
	Took     string            `json:"took"`
	Kernel   string            `json:"kernel"`
	CPU      string            `json:"cpu"`
	Cores    int               `json:"cores"`
	Load     string            `json:"load_before"` // 1, 5 and 15 minutes: what else ran
	Versions map[string]string `json:"versions"`
	Failures []string          `json:"failures,omitempty"` // what did not run as it should
}

func median(values []float64) float64 {
	slices.Sort(values)
	n := len(values)
	if n%2 == 1 {
		return values[n/2]
	}
	return (values[n/2-1] + values[n/2]) / 2
}

// summarize returns the medians by case and data plane, in the tables' order.
func summarize(samples []sample, all []plane) []result {
	var results []result
	for _, c := range order() {
		for _, p := range all {
			r := result{Case: c, Plane: p.name}
			for _, f := range []struct {
				to  **float64
				get func(*sample) *float64
			}{
				{&r.RPS, func(s *sample) *float64 { return s.RPS }},
				{&r.P50, func(s *sample) *float64 { return s.P50 }},
				{&r.P99, func(s *sample) *float64 { return s.P99 }},
				{&r.CPU, func(s *sample) *float64 { return s.CPU }},
				{&r.RSS, func(s *sample) *float64 { return s.RSS }},
				{&r.P999, func(s *sample) *float64 { return s.P999 }},
				{&r.Rate, func(s *sample) *float64 { return s.Rate }},
				{&r.Each, func(s *sample) *float64 { return s.Each }},
				{&r.Syscalls, func(s *sample) *float64 { return s.Syscalls }},
				{&r.Open, func(s *sample) *float64 { return s.Open }},
			} {
				var values []float64
				r.Rounds = 0
				for i := range samples {
					if s := &samples[i]; s.Case == c && s.Plane == p.name {
						r.Rounds++
						if v := f.get(s); v != nil {
							values = append(values, *v)
						}
					}
				}
				if len(values) > 0 {
					m := math.Round(100*median(values)) / 100
					*f.to = &m
				}
			}
			if r.Rounds > 0 {
				results = append(results, r)
			}
		}
	}
	return results
}

// order is that of the cases in the results.
func order() []string {
	first := []string{caseC64, caseC1, casePaced, caseHeld}
	rest := slices.DeleteFunc(caseNames(), func(c string) bool { return slices.Contains(first, c) })
	return append(first, rest...)
}

func writeResults(dir string, samples []sample, env environment, all []plane) error {
	if len(samples) == 0 {
		return errors.New("nothing was measured")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	results := summarize(samples, all)
	public := slices.DeleteFunc(slices.Clone(results), func(r result) bool { return r.Case == caseIdle })
	text := markdown(results, samples, env, all)
	var latest, rounds bytes.Buffer
	if err := errors.Join(encodeRows(&latest, public), encodeRounds(&rounds, env, samples)); err != nil {
		return err
	}
	for name, b := range map[string][]byte{
		"latest.json": latest.Bytes(), "rounds.json": rounds.Bytes(),
		"latest.md": []byte(text), "latest.svg": plot(results, all),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			return err
		}
	}
	fmt.Print(text)
	return nil
}

// encodeRows writes a JSON list with a row on each line.
func encodeRows[T any](b *bytes.Buffer, rows []T) error {
	b.WriteString("[\n")
	for i, r := range rows {
		line, err := json.Marshal(r)
		if err != nil {
			return err
		}
		b.WriteString("  ")
		b.Write(line)
		if i < len(rows)-1 {
			b.WriteByte(',')
		}
		b.WriteByte('\n')
	}
	b.WriteString("]\n")
	return nil
}

func encodeRounds(b *bytes.Buffer, env environment, samples []sample) error {
	head, err := json.MarshalIndent(env, "", "  ")
	if err != nil {
		return err
	}
	b.WriteString("{\"environment\": ")
	b.Write(head)
	b.WriteString(",\n\"samples\": ")
	if err := encodeRows(b, samples); err != nil {
		return err
	}
	b.WriteString("}\n")
	return nil
}

// describe finds out what ran where.
func describe(ctx context.Context, o *options, begun time.Time) environment {
	env := environment{
		When: begun.UTC().Format(time.RFC3339), Took: time.Since(begun).Round(time.Second).String(),
		Cores: runtime.NumCPU(), Load: o.load, Failures: o.failures, Versions: map[string]string{},
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		env.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			env.CPU = strings.TrimSpace(value)
			break
		}
	}
	for name, command := range map[string][]string{
		"envoy": {o.tools.envoy, "--version"}, "nginx": {o.tools.nginx, "-v"}, "haproxy": {o.tools.haproxy, "-v"},
		"wrk": {o.tools.wrk, "-v"}, "h2load": {o.tools.h2load, "--version"}, "seine": {filepath.Join(o.tools.bin, "seined"), "--version"},
	} {
		if command[0] == "" {
			continue
		}
		out, _ := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput()
		line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		if len(line) > 100 { // Envoy's names its commit and build too
			line = line[:100]
		}
		line, _, _ = strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "nginx version: "), " - ")
		if _, after, ok := strings.Cut(line, "version: "); ok {
			line = after
		}
		env.Versions[name] = line
	}
	env.Versions["go"] = runtime.Version()
	return env
}
