package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

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

// has reports whether a case was measured at all.
func (t table) has(c string) bool {
	return slices.ContainsFunc(t, func(r result) bool { return r.Case == c })
}

// requestCases are those whose figures are for each request, with titles.
var requestCases = []struct{ name, title string }{
	{caseC64, "64 connections, closed loop (wrk)"},
	{caseC1, "1 connection, closed loop (wrk)"},
	{caseC1000, "1,000 connections, closed loop (wrk)"},
	{casePaced, "1,000 requests per second, open loop, latency from the intended start"},
	{caseHTTP2, "HTTP/2, 16 connections with 16 streams each, closed loop (h2load); nginx speaks HTTP/1.1 behind its client's side"},
	{caseGRPC, "gRPC unary, 16 connections with 16 calls each, 64 bytes there and 1 KiB back (h2load)"},
	{caseLog, "64 connections with a JSON access log written to a file by both sidecars"},
}

func markdown(results []result, samples []sample, env environment, all []plane) string {
	var b strings.Builder
	t := table(results)
	rounds := 0
	for _, r := range results {
		rounds = max(rounds, r.Rounds)
	}
	fmt.Fprintf(&b, "# The mesh hop on loopback\n\nload → client sidecar → mutual TLS 1.3 → server sidecar → backend (1 KiB answers); medians of up to %d interleaved rounds.\n", rounds)
	b.WriteString("CPU is that of both sidecars together (user and system, all threads), memory their proportional set size. Load, sidecars and\nbackend share the machine's cores: requests per second measure the whole box, CPU per request the sidecars.\n")
	for _, c := range requestCases {
		if t.has(c.name) {
			t.requests(&b, c.name, c.title, all)
		}
	}
	t.contents(&b, all)
	t.handshakes(&b, samples, all)
	t.memory(&b, all)
	t.siege(&b, all)
	t.growth(&b, all)
	b.WriteString(goals(t))
	spread(&b, samples, all)
	fmt.Fprintf(&b, "\n## Where and what\n\n%s; it took %s. Linux %s, %d cores of %s. Load average before it began: %s.\n\n", env.When, env.Took, env.Kernel, env.Cores, env.CPU, env.Load)
	for _, p := range all {
		if !slices.ContainsFunc(results, func(r result) bool { return r.Plane == p.name }) {
			continue
		}
		fmt.Fprintf(&b, "- **%s**: %s%s\n", p.name, p.about, versionOf(env, p.name))
		for _, s := range setups() {
			if why := p.lacks[s.name]; why != "" {
				fmt.Fprintf(&b, "  Not in %s: %s.\n", s.name, why)
			}
		}
	}
	b.WriteString("\nAll: two threads or processes for each sidecar, keep-alive pools on both hops, ECDSA P-256 certificates, TLS 1.3, both sides verified.\n")
	if len(env.Failures) > 0 {
		b.WriteString("\nWhat did not run as it should, and is left out:\n\n")
		for _, f := range env.Failures {
			fmt.Fprintf(&b, "- %s\n", f)
		}
	}
	return b.String()
}

func versionOf(env environment, plane string) string {
	if v := env.Versions[strings.SplitN(plane, "-", 2)[0]]; v != "" {
		return " (" + v + ")"
	}
	return ""
}

// requests is the table of one case.
func (t table) requests(b *strings.Builder, name, title string, all []plane) {
	fmt.Fprintf(b, "\n## %s: %s\n\n", name, title)
	b.WriteString("| data plane | CPU µs/request | of envoy's | P50 µs | added | P99 µs | added | P99.9 µs | requests/s | syscalls/request | memory MiB |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n")
	none, envoy := t.get(name, "none"), t.get(name, "envoy")
	for _, p := range all {
		r := t.get(name, p.name)
		if r.Rounds == 0 {
			continue
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s |\n", p.name, number(r.CPU, 1), ratio(r.CPU, envoy.CPU),
			number(r.P50, 0), added(r.P50, none.P50), number(r.P99, 0), added(r.P99, none.P99), number(r.P999, 0), number(r.RPS, 0), number(r.Syscalls, 1), number(r.RSS, 1))
	}
}

func (t table) contents(b *strings.Builder, all []plane) {
	if !t.has(caseBody) && !t.has(caseTCP) {
		return
	}
	fmt.Fprintf(b, "\n## %s and %s: answers of 10 MiB over %d connections, by HTTP/1.1 and as opaque bytes\n\n", caseBody, caseTCP, bulkConnections)
	b.WriteString("| data plane | HTTP MB/s | of envoy's | CPU ms/answer | opaque MB/s | of envoy's | CPU ms/answer |\n|---|---:|---:|---:|---:|---:|---:|\n")
	for _, p := range all {
		h, o := t.get(caseBody, p.name), t.get(caseTCP, p.name)
		if h.Rounds+o.Rounds > 0 {
			fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %s | %s |\n", p.name, number(h.Rate, 0), ratio(h.Rate, t.get(caseBody, "envoy").Rate), number(thousandth(h.CPU), 2),
				number(o.Rate, 0), ratio(o.Rate, t.get(caseTCP, "envoy").Rate), number(thousandth(o.CPU), 2))
		}
	}
}

func (t table) handshakes(b *strings.Builder, samples []sample, all []plane) {
	if !t.has(caseHandshake) && !t.has(caseResume) {
		return
	}
	fmt.Fprintf(b, "\n## %s and %s: new connections at the server's sidecar, each for one request\n\n", caseHandshake, caseResume)
	b.WriteString("| data plane | full: CPU µs/connection | of envoy's | connections/s | resumed: CPU µs/connection | of envoy's | connections/s | key exchange |\n|---|---:|---:|---:|---:|---:|---:|---|\n")
	for _, p := range all {
		f, r := t.get(caseHandshake, p.name), t.get(caseResume, p.name)
		if f.Rounds+r.Rounds == 0 {
			continue
		}
		group := ""
		for i := range samples {
			if samples[i].Plane == p.name && samples[i].Group != "" {
				group = samples[i].Group
			}
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %s | %s | %s |\n", p.name, number(f.CPU, 0), ratio(f.CPU, t.get(caseHandshake, "envoy").CPU), number(f.RPS, 0),
			number(r.CPU, 0), ratio(r.CPU, t.get(caseResume, "envoy").CPU), number(r.RPS, 0), group)
	}
}

func (t table) memory(b *strings.Builder, all []plane) {
	if !t.has(caseIdle) && !t.has(caseCrowd) && !t.has(caseCrowdBody) {
		return
	}
	fmt.Fprintf(b, "\n## Memory of the pair\n\nKiB for each idle connection: %d of them after 1 KiB each (%s), %d after 10 MiB each (%s), all of which were in use\nat the same time on every hop.\n\n", crowd(), caseCrowd, largeConnections, caseCrowdBody)
	b.WriteString("| data plane | just started, MiB | of envoy's | with 1,000 connections | of envoy's | after the load | KiB each after 1 KiB | after 10 MiB |\n|---|---:|---:|---:|---:|---:|---:|---:|\n")
	for _, p := range all {
		idle, held, after := t.get(caseIdle, p.name), t.get(caseHeld, p.name), t.get(caseC64, p.name)
		small, large := t.get(caseCrowd, p.name), t.get(caseCrowdBody, p.name)
		if idle.Rounds+small.Rounds+large.Rounds == 0 || p.name == "none" {
			continue
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %s | %s | %s |\n", p.name, number(idle.RSS, 1), ratio(idle.RSS, t.get(caseIdle, "envoy").RSS),
			number(held.RSS, 1), ratio(held.RSS, t.get(caseHeld, "envoy").RSS), number(after.RSS, 1), number(small.Each, 1), number(large.Each, 1))
	}
}

// siege is what a flood of half-open connections does to everybody else.
func (t table) siege(b *strings.Builder, all []plane) {
	if !t.has(caseBesieged) {
		return
	}
	b.WriteString("\n## half-open-100000: the server's sidecar beside 100,000 connections that never get further\n\nA third says nothing, a third half a ClientHello, a third a whole one; 1,000 requests per second of the client's sidecar beside them\n(open loop), and without them in the same minute. Memory and open connections at the end.\n\n")
	b.WriteString("| data plane | P50 µs | without | P99 µs | without | factor | memory of the pair MiB | without | still open |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|\n")
	for _, p := range all {
		calm, r := t.get(caseCalm, p.name), t.get(caseBesieged, p.name)
		if r.Rounds == 0 {
			continue
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %s | %s | %s | %s |\n", p.name, number(r.P50, 0), number(calm.P50, 0),
			number(r.P99, 0), number(calm.P99, 0), ratio(r.P99, calm.P99), number(r.RSS, 1), number(calm.RSS, 1), number(r.Open, 0))
	}
}

func (t table) growth(b *strings.Builder, all []plane) {
	grown := growth()
	if !slices.ContainsFunc(grown, func(s setup) bool { return t.has(s.name) }) {
		return
	}
	b.WriteString("\n## Growth: 64 connections with ever more configured\n\nServices with a route each that nobody calls; routes of the service that is called, of which the request takes the last.\nCPU µs/request and MiB of the pair.\n\n| data plane |")
	for _, s := range grown {
		what, n, _ := strings.Cut(s.name, "-")
		fmt.Fprintf(b, " %s %s |", n, what)
	}
	b.WriteString("\n|---|" + strings.Repeat("---:|", len(grown)) + "\n")
	for _, p := range all {
		if !slices.ContainsFunc(grown, func(s setup) bool { return t.get(s.name, p.name).Rounds > 0 }) {
			continue
		}
		fmt.Fprintf(b, "| %s |", p.name)
		for _, s := range grown {
			r := t.get(s.name, p.name)
			fmt.Fprintf(b, " %s / %s |", number(r.CPU, 1), number(r.RSS, 1))
		}
		b.WriteString("\n")
	}
}

// spread is how far the rounds lie apart.
func spread(b *strings.Builder, samples []sample, all []plane) {
	var cases []string
	for _, c := range requestCases {
		if slices.ContainsFunc(samples, func(s sample) bool { return s.Case == c.name }) {
			cases = append(cases, c.name)
		}
	}
	if len(cases) == 0 {
		return
	}
	fmt.Fprintf(b, "\n## Spread and steal\n\nLowest and highest CPU µs/request of the rounds; CPU steal of the machine while they ran, median and highest. Differences\nunder a fifth are not resolved.\n\n| data plane | %s | steal %% |\n|---|%s---:|\n", strings.Join(cases, " | "), strings.Repeat("---:|", len(cases)))
	for _, p := range all {
		var row []string
		var stolen []float64
		for _, c := range cases {
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
			fmt.Fprintf(b, "| %s | %s | %.1f, %.1f |\n", p.name, strings.Join(row, " | "), median(stolen), slices.Max(stolen))
		}
	}
}

// goals holds the figures against what the project promises.
func goals(t table) string {
	var b strings.Builder
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
	peer := func(goal, c, peer string, of func(*result) *float64, limit float64) {
		row(goal, of(t.get(c, "seine")), of(t.get(c, peer)), limit)
	}
	processor := func(r *result) *float64 { return r.CPU }
	resident := func(r *result) *float64 { return r.RSS }
	peer("CPU at 64 connections at most a fifth of Envoy's", caseC64, "envoy", processor, 0.2)
	peer("CPU at 64 connections at most HAProxy's", caseC64, "haproxy", processor, 1)
	peer("CPU at 1 connection at most a fifth of Envoy's", caseC1, "envoy", processor, 0.2)
	peer("CPU at 1 connection at most HAProxy's", caseC1, "haproxy", processor, 1)
	peer("CPU with HTTP/2 at most a quarter of Envoy's", caseHTTP2, "envoy", processor, 0.25)
	peer("CPU with gRPC at most a quarter of Envoy's", caseGRPC, "envoy", processor, 0.25)
	peer("CPU at 1,000 requests per second at most a third of Envoy's", casePaced, "envoy", processor, 1./3)
	peer("CPU at 1,000 requests per second at most HAProxy's", casePaced, "haproxy", processor, 1)
	peer("P50 at 1,000 requests per second below Envoy's", casePaced, "envoy", func(r *result) *float64 { return r.P50 }, 1)
	peer("P99 at 1,000 requests per second at most half of Envoy's", casePaced, "envoy", func(r *result) *float64 { return r.P99 }, 0.5)
	row("CPU with a JSON access log at most 1.15 of that without", t.get(caseLog, "seine").CPU, t.get(caseC64, "seine").CPU, 1.15)
	for _, c := range []string{caseBody, caseTCP} {
		for _, p := range []string{"envoy", "nginx", "haproxy"} {
			// More is better: the peer's rate is to be no more than ours.
			row(p+"'s MB/s no more than Seine's, "+c, t.get(c, p).Rate, t.get(c, "seine").Rate, 1)
		}
	}
	peer("CPU of a full handshake at most Envoy's", caseHandshake, "envoy", processor, 1)
	peer("CPU of a full handshake at most a bare Go server's", caseHandshake, "go-tls", processor, 1)
	peer("idle memory a quarter of Envoy's", caseIdle, "envoy", resident, 0.25)
	peer("memory with 1,000 connections a quarter of Envoy's", caseHeld, "envoy", resident, 0.25)
	most := func(goal string, of *float64, limit float64) { row(goal, of, &limit, 1) }
	most("pair just started at most 40 MiB", t.get(caseIdle, "seine").RSS, 40)
	most("at most 40 KiB for each idle connection after 1 KiB", t.get(caseCrowd, "seine").Each, 40)
	most("at most 40 KiB for each idle connection after 10 MiB", t.get(caseCrowdBody, "seine").Each, 40)
	for _, what := range []string{"services", "routes"} {
		row("CPU with 10,000 "+what+" that of 10", t.get(what+"-10000", "seine").CPU, t.get(what+"-10", "seine").CPU, 1.2)
	}
	if b.Len() == 0 {
		return ""
	}
	return "\n## What it must show\n\n| goal | measured | |\n|---|---:|---|\n" + b.String()
}

func ratio(a, b *float64) string {
	if a == nil || b == nil || *b == 0 {
		return "-"
	}
	return strconv.FormatFloat(*a / *b, 'f', 2, 64)
}

func added(a, base *float64) string {
	if a == nil || base == nil {
		return "-"
	}
	return fmt.Sprintf("%+.0f", *a-*base)
}

func thousandth(f *float64) *float64 {
	if f == nil {
		return nil
	}
	v := *f / 1000
	return &v
}
