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
	for _, c := range []string{caseC64, caseC1, casePaced, caseHeld, caseIdle} {
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

// table finds results by case and data plane.
type table []result

func (t table) get(c, plane string) *result {
	for i := range t {
		if t[i].Case == c && t[i].Plane == plane {
			return &t[i]
		}
	}
	return &result{}
}

func markdown(results []result, samples []sample, env environment, all []plane) string {
	var b strings.Builder
	t := table(results)
	rounds := 0
	for _, r := range results {
		rounds = max(rounds, r.Rounds)
	}
	fmt.Fprintf(&b, "# The mesh hop on loopback\n\nload → client sidecar → mutual TLS 1.3 → server sidecar → backend (1 KiB answers); %d interleaved rounds, medians.\n", rounds)
	b.WriteString("CPU is that of both sidecars together (user and system, all threads), memory their proportional set size. Load, sidecars and\nbackend share the machine's cores: requests per second measure the whole box, CPU per request the sidecars.\n")
	for _, c := range []struct{ name, title string }{
		{caseC64, "64 connections, closed loop (wrk)"},
		{caseC1, "1 connection, closed loop (wrk)"},
		{casePaced, "1,000 requests per second, open loop, latency from the intended start"},
	} {
		fmt.Fprintf(&b, "\n## %s: %s\n\n", c.name, c.title)
		b.WriteString("| data plane | CPU µs/request | of envoy's | P50 µs | added | P99 µs | added | requests/s | memory MiB |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|\n")
		none, envoy := t.get(c.name, "none"), t.get(c.name, "envoy")
		for _, p := range all {
			r := t.get(c.name, p.name)
			if r.Rounds == 0 {
				continue
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s | %s | %s |\n", p.name, number(r.CPU, 1), ratio(r.CPU, envoy.CPU),
				number(r.P50, 0), added(r.P50, none.P50), number(r.P99, 0), added(r.P99, none.P99), number(r.RPS, 0), number(r.RSS, 1))
		}
	}
	b.WriteString("\n## Memory of the pair, MiB\n\n| data plane | just started | of envoy's | with 1,000 connections | of envoy's | after the load |\n|---|---:|---:|---:|---:|---:|\n")
	for _, p := range all {
		idle, held, after := t.get(caseIdle, p.name), t.get(caseHeld, p.name), t.get(caseC64, p.name)
		if idle.Rounds == 0 || p.name == "none" {
			continue
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", p.name, number(idle.RSS, 1), ratio(idle.RSS, t.get(caseIdle, "envoy").RSS),
			number(held.RSS, 1), ratio(held.RSS, t.get(caseHeld, "envoy").RSS), number(after.RSS, 1))
	}
	b.WriteString(goals(t))
	b.WriteString("\n## Spread and steal\n\nLowest and highest CPU µs/request of the rounds; CPU steal of the machine while they ran, median and highest. Differences\nunder a fifth are not resolved.\n\n| data plane | h1-c64 | h1-c1 | 1000rps | steal % |\n|---|---:|---:|---:|---:|\n")
	for _, p := range all {
		var row []string
		var stolen []float64
		for _, c := range []string{caseC64, caseC1, casePaced} {
			var low, high *float64
			for i := range samples {
				s := &samples[i]
				if s.Plane != p.name || s.Case != c {
					continue
				}
				stolen = append(stolen, s.Steal)
				if low == nil || *s.CPU < *low {
					low = s.CPU
				}
				if high == nil || *s.CPU > *high {
					high = s.CPU
				}
			}
			row = append(row, number(low, 1)+" – "+number(high, 1))
		}
		if len(stolen) > 0 {
			fmt.Fprintf(&b, "| %s | %s | %.1f, %.1f |\n", p.name, strings.Join(row, " | "), median(stolen), slices.Max(stolen))
		}
	}
	fmt.Fprintf(&b, "\n## Where and what\n\n%s; it took %s. Linux %s, %d cores of %s. Load average before it began: %s.\n\n", env.When, env.Took, env.Kernel, env.Cores, env.CPU, env.Load)
	for _, p := range all {
		if t.get(caseIdle, p.name).Rounds > 0 {
			fmt.Fprintf(&b, "- **%s**: %s%s\n", p.name, p.about, versionOf(env, p.name))
		}
	}
	b.WriteString("\nAll: two threads or processes for each sidecar, keep-alive pools on both hops, ECDSA P-256 certificates, TLS 1.3, both sides verified.\n")
	return b.String()
}

func versionOf(env environment, plane string) string {
	if v := env.Versions[strings.TrimSuffix(plane, "-istio")]; v != "" {
		return " (" + v + ")"
	}
	return ""
}

// goals holds the figures against what the project promises.
func goals(t table) string {
	if t.get(caseC64, "seine").Rounds == 0 || t.get(caseC64, "envoy").Rounds == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString("\n## What it must show\n\n| goal | measured | |\n|---|---:|---|\n")
	row := func(goal string, of, than *float64, limit float64) {
		if of == nil || than == nil {
			return
		}
		verdict := "yes"
		if *of > limit**than {
			verdict = "**no**"
		}
		fmt.Fprintf(&b, "| %s | %s : %s = %s | %s |\n", goal, number(of, 1), number(than, 1), ratio(of, than), verdict)
	}
	get := t.get
	row("CPU at 64 connections at most a quarter of Envoy's", get(caseC64, "seine").CPU, get(caseC64, "envoy").CPU, 0.25)
	row("CPU at 1,000 requests per second at most a third of Envoy's", get(casePaced, "seine").CPU, get(casePaced, "envoy").CPU, 1./3)
	row("CPU at 64 connections less than HAProxy's", get(caseC64, "seine").CPU, get(caseC64, "haproxy").CPU, 1)
	row("CPU at 1,000 requests per second less than HAProxy's", get(casePaced, "seine").CPU, get(casePaced, "haproxy").CPU, 1)
	row("idle memory a quarter of Envoy's", get(caseIdle, "seine").RSS, get(caseIdle, "envoy").RSS, 0.25)
	row("memory with 1,000 connections a quarter of Envoy's", get(caseHeld, "seine").RSS, get(caseHeld, "envoy").RSS, 0.25)
	row("P50 at 1,000 requests per second below Envoy's", get(casePaced, "seine").P50, get(casePaced, "envoy").P50, 1)
	row("P99 at 1,000 requests per second below Envoy's", get(casePaced, "seine").P99, get(casePaced, "envoy").P99, 1)
	return b.String()
}

func ratio(a, b *float64) string {
	if a == nil || b == nil || *b == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", *a / *b)
}

func added(a, base *float64) string {
	if a == nil || base == nil {
		return "-"
	}
	return fmt.Sprintf("%+.0f", *a-*base)
}

// describe finds out what ran where.
func describe(ctx context.Context, o *options, begun time.Time) environment {
	env := environment{
		When: begun.UTC().Format(time.RFC3339), Took: time.Since(begun).Round(time.Second).String(),
		Cores: runtime.NumCPU(), Load: o.load, Versions: map[string]string{},
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
		"wrk": {o.tools.wrk, "-v"}, "seine": {filepath.Join(o.tools.bin, "seined"), "--version"},
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
