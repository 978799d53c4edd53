//go:build e2e

package e2e

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/seinemesh/seine/tap"
)

// tapped runs `seine tap` as a person does, and ends it with Ctrl-C.
func tapped(m *mesh, client *load) {
	m.t.Helper()
	cmd := exec.Command(filepath.Join(bin, "seine"), "tap", "deploy/frontend", "--direction", "outbound", "--to", "svc/billing-service",
		"--path", "/inv*", "--header", "user-agent", "-o", "json", "--socket", filepath.Join(m.run, "seined.sock"))
	var notes strings.Builder
	cmd.Stderr = &notes
	out, err := cmd.StdoutPipe()
	must(m.t, err)
	must(m.t, cmd.Start())
	late := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	lines := bufio.NewScanner(out)
	for range 3 {
		go client.once()
		if !lines.Scan() {
			m.t.Fatalf("seine tap showed nothing: %v\n%s", cmd.Wait(), notes.String())
		}
		var r tap.Request
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			m.t.Fatalf("%v: %s", err, lines.Bytes())
		}
		if r.Proxy != "default/frontend-1" || r.Direction != "outbound" || r.Method != "GET" || !strings.HasPrefix(r.Path, "/invoice") ||
			r.Service != "billing-service.default.svc.cluster.local" || !strings.HasPrefix(r.Destination.Workload, "billing-v") || r.Status != 200 ||
			r.LatencyMS <= 0 || r.Security != "mutual_tls" || r.Destination.Identity != "spiffe://cluster.local/ns/default/sa/billing" ||
			len(r.Headers) != 1 || !r.Headers[0].Redacted {
			m.t.Errorf("shown: %s", lines.Bytes())
		}
	}
	must(m.t, cmd.Process.Signal(os.Interrupt))
	for lines.Scan() {
	}
	if err := cmd.Wait(); err != nil {
		m.t.Errorf("after Ctrl-C: %v\n%s", err, notes.String())
	}
	if !strings.Contains(notes.String(), "1 proxy shows") {
		m.t.Errorf("beside the requests it says %q", notes.String())
	}
}
