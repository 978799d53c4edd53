package main

import (
	"encoding/json"
	"io"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/seinemesh/seine/diagnose"
	"github.com/seinemesh/seine/discovery"
	"github.com/seinemesh/seine/stat"
	"github.com/seinemesh/seine/tap"
	"github.com/seinemesh/seine/view"
)

// TestTerminal: what a proxy says of itself, and what a client of it sent, steers
// nobody's terminal and makes no line of its own.
func TestTerminal(t *testing.T) {
	const bad = "a\x1b]0;b\a\u009b2J\u202ec\x7f\nd\te"
	proxies := []connectedProxy{{Proxy: discovery.Proxy{ID: "shop/a-1", Version: bad, Rejected: []discovery.Reject{{Name: bad, Message: bad}}}}}
	authz := &view.Authz{Workload: "shop/a", Callers: []view.AuthzParty{{Workload: bad, Identity: bad, MTLS: bad}}}
	routes := []view.Route{{Service: "a", ID: bad, Matches: []string{bad}, Fault: bad, Retries: bad, Destinations: []view.Target{{Host: bad, Subset: bad}}, Mirrors: []string{bad}}}
	slow := []diagnose.Diagnosis{{Service: bad, Caller: bad, Culprit: bad, Explanation: bad, Evidence: []string{bad}}}
	for name, tc := range map[string]struct {
		lines int
		write func(io.Writer) error
	}{
		"proxies":  {3, func(w io.Writer) error { return writeProxies(w, proxies, time.Time{}, true) }},
		"authz":    {9, func(w io.Writer) error { return writeAuthz(w, authz) }},
		"routes":   {2, func(w io.Writer) error { return writeRoutes(w, routes, true) }},
		"diagnose": {5, func(w io.Writer) error { return diagnose.WriteText(w, slow, diagnose.Learning{}) }},
		"top": {2, func(w io.Writer) error {
			var c requestCount
			c.add(&tap.Request{Path: bad, Method: bad, Source: tap.Party{Workload: bad}, Rule: bad})
			return c.write(w, 0, 0, true)
		}},
		"data": {4, func(w io.Writer) error { return writeData(w, "json", stat.Party{Workload: bad}) }},
	} {
		t.Run(name, func(t *testing.T) {
			var b strings.Builder
			if err := tc.write(&b); err != nil {
				t.Fatal(err)
			}
			for _, r := range b.String() {
				if r != '\n' && !strconv.IsPrint(r) {
					t.Fatalf("%q in %q", r, b.String())
				}
			}
			if n := strings.Count(b.String(), "\n"); n != tc.lines {
				t.Errorf("%d lines, want %d: %q", n, tc.lines, b.String())
			}
			if name == "data" {
				var p stat.Party
				if err := json.Unmarshal([]byte(b.String()), &p); err != nil || p.Workload != bad {
					t.Errorf("%q %v", p.Workload, err)
				}
			}
		})
	}
}
