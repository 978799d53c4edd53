package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Cases. caseIdle, the memory of a pair just started, is kept with the rounds
// and in the tables; latest.json holds the others.
const (
	caseC64       = "h1-c64"
	caseC1        = "h1-c1"
	caseC1000     = "h1-c1000"
	casePaced     = "1000rps"
	caseHTTP2     = "h2-16x16"
	caseGRPC      = "grpc"
	caseBody      = "body-10m"
	caseTCP       = "tcp"
	caseHandshake = "handshake"
	caseResume    = "resume"
	caseLog       = "h1-c64-log"
	caseHeld      = "idle-1000"
	caseCrowd     = "idle-10000"
	caseCrowdBody = "idle-10m"
	caseCalm      = "half-open-0"
	caseBesieged  = "half-open-100000"
	caseIdle      = "idle"
)

// Setups: what of a pair's configuration cases need.
const (
	setupHTTP1      = "http1"
	setupFresh      = "fresh"
	setupLog        = "log"
	setupHTTP2      = "http2"
	setupTCP        = "tcp"
	setupCrowd      = "crowd"
	setupCrowdLarge = "crowd-10m"
	setupBesieged   = "besieged"
)

const (
	pacedRate        = 1000
	pacedConnections = 32
	heldConnections  = 1000
	bulkConnections  = 4
	largeConnections = 256
)

// setup is a way to start each data plane, and what is measured then.
type setup struct {
	name   string
	mode   mode
	rounds int // 0: all of them; else no more than so many
	steps  []step
}

// step is one case; "" is preparation.
type step struct {
	name   string
	rounds int // as of setup
	run    func(m *meter, ctx context.Context) error
}

func setups() []setup {
	all := []setup{
		{name: setupHTTP1, mode: mode{proto: "http1"}, steps: []step{
			{name: caseIdle, run: (*meter).idle},
			{name: caseHeld, run: (*meter).held},
			{run: (*meter).warm},
			{name: caseC1, run: func(m *meter, ctx context.Context) error { return m.closed(ctx, caseC1, 1, 1, m.o.length) }},
			{name: casePaced, run: (*meter).paced},
			{name: caseC64, run: func(m *meter, ctx context.Context) error { return m.closed(ctx, caseC64, 2, 64, m.o.length) }},
			{name: caseC1000, run: func(m *meter, ctx context.Context) error { return m.c1000(ctx) }},
			{name: caseBody, rounds: 3, run: func(m *meter, ctx context.Context) error { return m.bulk(ctx, caseBody) }},
		}},
		{name: setupFresh, mode: mode{proto: "http1"}, rounds: 3, steps: []step{
			{run: (*meter).warm},
			{name: caseHandshake, run: func(m *meter, ctx context.Context) error { return m.connections(ctx, caseHandshake, false) }},
			{name: caseResume, run: func(m *meter, ctx context.Context) error { return m.connections(ctx, caseResume, true) }},
		}},
		{name: setupLog, mode: mode{proto: "http1", log: true}, rounds: 3, steps: []step{
			{run: (*meter).warm},
			{name: caseLog, run: func(m *meter, ctx context.Context) error { return m.closed(ctx, caseLog, 2, 64, m.o.length) }},
		}},
		{name: setupHTTP2, mode: mode{proto: "http2"}, rounds: 3, steps: []step{
			{run: (*meter).warm2},
			{name: caseHTTP2, run: func(m *meter, ctx context.Context) error { return m.multiplexed(ctx, caseHTTP2, m.o.length) }},
			{name: caseGRPC, run: func(m *meter, ctx context.Context) error { return m.multiplexed(ctx, caseGRPC, m.o.length) }},
		}},
		{name: setupTCP, mode: mode{proto: "tcp"}, rounds: 3, steps: []step{
			{name: caseTCP, run: func(m *meter, ctx context.Context) error { return m.bulk(ctx, caseTCP) }},
		}},
		{name: setupCrowd, mode: mode{proto: "http1", crowd: true}, rounds: 1, steps: []step{
			{name: caseCrowd, run: func(m *meter, ctx context.Context) error {
				n := crowd()
				return m.crowded(ctx, caseCrowd, fmt.Sprintf("%s/%d", pathTogether, n), n, 1500*time.Microsecond)
			}},
		}},
		{name: setupCrowdLarge, mode: mode{proto: "http1", crowd: true}, rounds: 1, steps: []step{
			{name: caseCrowdBody, run: func(m *meter, ctx context.Context) error {
				return m.crowded(ctx, caseCrowdBody, pathBody, largeConnections, 0)
			}},
		}},
		{name: setupBesieged, mode: mode{proto: "http1"}, rounds: 1, steps: []step{
			{run: (*meter).warm},
			{name: caseCalm, run: func(m *meter, ctx context.Context) error { return m.besieged(ctx, caseCalm, 0) }},
			{name: caseBesieged, run: func(m *meter, ctx context.Context) error { return m.besieged(ctx, caseBesieged, 100_000) }},
		}},
	}
	return append(all, growth()...)
}

// growth is the curve: cost and memory with ever more configured that the
// request does not need. Services have a route each; routes are further ones of
// the service that is called, and the request takes the last.
func growth() (all []setup) {
	for _, what := range []string{"services", "routes"} {
		for _, n := range []int{10, 100, 1000, 10_000} {
			s := setup{name: what + "-" + strconv.Itoa(n), mode: mode{proto: "http1"}, rounds: 2}
			if what == "services" {
				s.mode.services = n
			} else {
				s.mode.routes = n
			}
			s.steps = []step{
				{run: (*meter).warm},
				{name: s.name, run: func(m *meter, ctx context.Context) error { return m.closed(ctx, s.name, 2, 64, m.o.length) }},
			}
			all = append(all, s)
		}
	}
	return all
}

// crowd is how many connections caseCrowd opens: each needs two descriptors of
// a sidecar, so it is fewer than 10,000 where the limit of open files is below
// 21,000. The figure is for each connection.
func crowd() int {
	var lim unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &lim) != nil {
		return heldConnections
	}
	return min(10_000, (int(min(lim.Max, 1<<20))-1000)/2/500*500)
}

// caseNames are all that -cases takes.
func caseNames() (all []string) {
	for _, s := range setups() {
		for _, st := range s.steps {
			if st.name != "" {
				all = append(all, st.name)
			}
		}
	}
	return all
}

// chosen are the setups and steps that the command line asks for.
func (o *options) chosen() (all []setup) {
	for _, s := range setups() {
		var steps []step
		wanted := false
		for _, st := range s.steps {
			if st.name == "" || slices.Contains(o.cases, st.name) {
				steps = append(steps, st)
				wanted = wanted || st.name != ""
			}
		}
		if wanted {
			s.steps = steps
			all = append(all, s)
		}
	}
	return all
}
