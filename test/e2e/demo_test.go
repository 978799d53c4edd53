//go:build e2e

package e2e

import (
	"fmt"
	"math"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/seinemesh/seine/ca/rotation"
)

// outsider is a workload without a sidecar, and a name for ledger's own
// addresses, so that it can go straight at one of them.
const outsider = `
apiVersion: v1
kind: Service
metadata: {name: ledger-pods}
spec:
  clusterIP: None
  selector: {app: ledger}
  ports: [{name: http, port: 8080}]
---
apiVersion: local.seine.dev/v1
kind: Workload
metadata: {name: outsider, labels: {app: outsider}, annotations: {sidecar.istio.io/inject: "false"}}
spec:
  command: [e2e]
  env: {SEINE_E2E_ROLE: outsider, TARGET: "ledger-pods:8080"}
`

// manyServices is how many more services the mesh has than anybody calls.
const manyServices = 1000

// TestDemo is the first day of a user, as root and as an ordinary user.
func TestDemo(t *testing.T) {
	for _, u := range users() {
		t.Run(u.name, func(t *testing.T) { demo(t, u) })
	}
}

func demo(t *testing.T, u user) {
	m := start(t, u, func(dir string) {
		must(t, os.WriteFile(filepath.Join(dir, "outsider.yaml"), []byte(outsider), 0o644))
		var many strings.Builder
		for i := range manyServices {
			fmt.Fprintf(&many, "---\napiVersion: v1\nkind: Service\nmetadata: {name: other-%d}\nspec: {selector: {app: other-%d}, ports: [{name: http, port: 80}]}\n", i, i)
		}
		must(t, os.WriteFile(filepath.Join(dir, "many.yaml"), []byte(many.String()), 0o644))
	}, "--cert-ttl=8s")

	m.await("traffic of both versions in the table", func() error {
		rows, _, err := m.stat()
		if err != nil {
			return err
		}
		for _, name := range []string{"frontend/v1", "billing-service/v1", "billing-service/v2", "ledger/v1"} {
			if rows[name].Requests == 0 {
				return fmt.Errorf("no requests in row %s", name)
			}
		}
		return nil
	})

	client := newLoad(m)
	t.Run("the split is 90 to 10", func(t *testing.T) { m := m.in(t); split(m, client, 0.10) })
	t.Run("every edge is mutual TLS with its identities", func(t *testing.T) { identities(m.in(t)) })
	t.Run("plaintext is refused under STRICT, and the mode can be changed", func(t *testing.T) { strict(m.in(t)) })
	t.Run("a proxy holds only what it called", func(t *testing.T) { onDemand(m.in(t)) })

	t.Run("a tap shows what it is asked for, and ends", func(t *testing.T) { tapped(m.in(t), client) })

	// From here on a load runs through everything that happens, and none of
	// its requests may fail.
	client.run()
	t.Run("certificates rotate under load", func(t *testing.T) { renewals(m.in(t), client) })
	t.Run("the root is replaced under load", func(t *testing.T) { replaced(m.in(t), client) })
	t.Run("an edited weight moves the traffic", func(t *testing.T) {
		m := m.in(t)
		m.replace("mesh.yaml", "weight: 90", "weight: 50")
		m.replace("mesh.yaml", "weight: 10", "weight: 50")
		saved := time.Now()
		moved := client.await(m, "half of the last 100 answers from v2", func(last []string) bool {
			return share(last[len(last)-100:], "v2") > 0.33
		})
		t.Logf("a third of 100 answers came from v2 %v after the file was saved", moved.Sub(saved).Round(time.Millisecond))
		client.window(m, 600, 0.50)
	})
	t.Run("a broken file changes nothing", func(t *testing.T) { broken(m.in(t), client) })
	t.Run("traffic goes on without the control plane", func(t *testing.T) { killed(m.in(t), client) })
	client.stop(t)

	t.Run("Ctrl-C leaves nothing behind", func(t *testing.T) {
		m := m.in(t)
		before := m.processes(bin)
		if len(before) < 17 {
			t.Fatalf("%d processes run; two of seine, seined, seven proxies and seven workloads were expected", len(before))
		}
		spaces := namespaces(before)
		m.interrupt()
		if m.err != nil {
			t.Errorf("seine up: %v\n%s", m.err, m.out)
		}
		if left := m.processes(bin); len(left) > 0 {
			t.Errorf("processes left: %v", left)
		}
		holders, err := filepath.Glob("/proc/[0-9]*/ns/net")
		must(t, err)
		for _, p := range holders {
			if id, err := os.Readlink(p); err == nil && spaces[id] {
				t.Errorf("%s still lives in %s", p, id)
			}
		}
		if _, err := os.Stat(m.run); !os.IsNotExist(err) {
			t.Errorf("the run folder is still there: %v", err)
		}
	})
}

// in is m for a subtest.
func (m *mesh) in(t *testing.T) *mesh {
	c := *m
	c.t = t
	return &c
}

// namespaces are the network namespaces of pids but for this process's own.
func namespaces(pids []int) map[string]bool {
	own, _ := os.Readlink("/proc/self/ns/net")
	set := map[string]bool{}
	for _, pid := range pids {
		if id, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid)); err == nil && id != own {
			set[id] = true
		}
	}
	return set
}

// load asks frontend without a pause and remembers who answered.
type load struct {
	mesh   *mesh
	client *http.Client
	quit   chan struct{}
	wg     sync.WaitGroup

	mu       sync.Mutex
	answers  []string
	failures []string
	sent     atomic.Int64
}

func newLoad(m *mesh) *load {
	return &load{mesh: m, client: &http.Client{Timeout: 15 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 8}}, quit: make(chan struct{})}
}

func (l *load) once() {
	l.sent.Add(1)
	version, err := l.mesh.get1(l.client)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.failures = append(l.failures, fmt.Sprintf("%s: %v", time.Now().Format("15:04:05.000"), err))
		return
	}
	l.answers = append(l.answers, version)
}

// run asks about 200 times a second, on four connections, until stop.
func (l *load) run() {
	for range 4 {
		l.wg.Go(func() {
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-l.quit:
					return
				case <-tick.C:
					l.once()
				}
			}
		})
	}
}

func (l *load) seen() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.answers)
}

// await waits for a condition on the answers, of which there are at least 100.
func (l *load) await(m *mesh, what string, ok func([]string) bool) (at time.Time) {
	m.await(what, func() error {
		if a := l.seen(); len(a) >= 100 && ok(a) {
			at = time.Now()
			return nil
		}
		return fmt.Errorf("not after %d answers", len(l.seen()))
	})
	return at
}

// window waits for n more answers and holds the share of v2 in them to want.
func (l *load) window(m *mesh, n int, want float64) {
	m.t.Helper()
	from := len(l.seen())
	l.await(m, fmt.Sprint(n, " answers"), func(a []string) bool { return len(a) >= from+n })
	within(m.t, l.seen()[from:from+n], want)
}

func (l *load) stop(t *testing.T) {
	t.Helper()
	close(l.quit)
	l.wg.Wait()
	l.client.CloseIdleConnections()
	if len(l.failures) > 0 {
		t.Errorf("%d of %d requests failed, the first: %s", len(l.failures), l.sent.Load(), l.failures[0])
	}
	t.Logf("%d requests, %d failed", l.sent.Load(), len(l.failures))
}

func share(answers []string, version string) float64 {
	n := 0
	for _, a := range answers {
		if a == version {
			n++
		}
	}
	return float64(n) / float64(len(answers))
}

// within holds v2's share to want by five standard deviations: a fair draw
// fails this once in 1.7 million runs.
func within(t *testing.T, answers []string, want float64) {
	t.Helper()
	got, bound := share(answers, "v2"), 5*math.Sqrt(want*(1-want)/float64(len(answers)))
	if math.Abs(got-want) > bound {
		t.Errorf("v2 answered %.1f %% of %d requests; %.1f ± %.1f %% were expected", 100*got, len(answers), 100*want, 100*bound)
	} else {
		t.Logf("v2 answered %.1f %% of %d requests (%.1f ± %.1f %% expected)", 100*got, len(answers), 100*want, 100*bound)
	}
}

func split(m *mesh, l *load, want float64) {
	for range 1000 {
		l.once()
	}
	within(m.t, l.seen(), want)
}

func identities(m *mesh) {
	_, table, err := m.stat()
	must(m.t, err)
	const sa = "spiffe://cluster.local/ns/default/sa/"
	want := map[string]string{"frontend": "load", "billing-service": "frontend", "ledger": "billing"}
	for _, row := range table.Services {
		caller, ok := want[row.Name]
		if !ok {
			continue
		}
		if row.MTLS != "yes" {
			m.t.Errorf("%s %s: mTLS %q", row.Name, row.Version, row.MTLS)
		}
		if !slices.Contains(row.Sources, sa+caller) {
			m.t.Errorf("%s %s is called by %v; %s is missing", row.Name, row.Version, row.Sources, sa+caller)
		}
	}
}

func strict(m *mesh) {
	const name = "default.outsider-1"
	last := func() string {
		lines := strings.Split(strings.TrimSpace(m.log(name)), "\n")
		return lines[len(lines)-1]
	}
	expect := func(what, prefix string) {
		m.t.Helper()
		m.await(what, func() error {
			if l := last(); !strings.HasPrefix(l, prefix) {
				return fmt.Errorf("the outsider says %q", l)
			}
			return nil
		})
		m.t.Logf("%s: %q", what, last())
	}
	expect("plaintext to be refused under STRICT", "refused")
	if strings.Contains(m.log(name), "answered") {
		m.t.Error("plaintext was answered under STRICT")
	}
	m.replace("mesh.yaml", "spec: {peers: [{mtls: {}}]}", "spec: {peers: [{mtls: {mode: PERMISSIVE}}]}")
	expect("plaintext to be answered under PERMISSIVE", "answered: 200")
	m.replace("mesh.yaml", "{mode: PERMISSIVE}", "{mode: STRICT}")
	expect("plaintext to be refused under STRICT again", "refused")
}

// proxies is what the control plane knows of each proxy.
type proxies []struct {
	ID    string
	Types []struct {
		Type  string
		Names []string
	}
}

func onDemand(m *mesh) {
	var all proxies
	must(m.t, m.get("/api/v1/proxies", &all))
	if len(all) < 7 {
		m.t.Fatalf("%d proxies are connected; 7 were expected", len(all))
	}
	allowed := []string{"billing-service", "ledger", "frontend", "self", "addr/"}
	for _, p := range all {
		names := 0
		for _, typ := range p.Types {
			for _, name := range typ.Names {
				names++
				if !slices.ContainsFunc(allowed, func(a string) bool { return strings.Contains(name, a) }) {
					m.t.Errorf("%s holds %s, which nobody called", p.ID, name)
				}
			}
		}
		// Self, and for each callee an address, a host, a service and its endpoints.
		if names > 1+4*2 {
			m.t.Errorf("%s holds %d names, with %d services in the mesh", p.ID, names, manyServices)
		}
	}
}

// issued is how many certificates the authority has signed.
func issued(m *mesh) (n float64) {
	var text string
	must(m.t, m.get("/metrics", &text))
	for line := range strings.Lines(text) {
		if _, err := fmt.Sscanf(line, "citadel_server_success_cert_issuance_count %g", &n); err == nil {
			return n
		}
	}
	m.t.Fatal("the control plane does not count the certificates it issues")
	return 0
}

// renewals waits until each of the seven proxies has had three more
// certificates on average, with requests all the while.
func renewals(m *mesh, l *load) {
	from, requests := issued(m), len(l.seen())
	m.await("three rotations", func() error {
		if n := issued(m) - from; n < 3*7 {
			return fmt.Errorf("%g certificates since", n)
		}
		return nil
	})
	l.await(m, "1,000 requests", func(a []string) bool { return len(a) >= requests+1000 })
	m.t.Logf("%g certificates were issued during %d requests", issued(m)-from, len(l.seen())-requests)
}

// replaced has `seine ca rotate` bring a new root in; that no request fails the load says.
func replaced(m *mesh, l *load) {
	signs := func() string {
		var st rotation.Status
		must(m.t, m.get("/api/v1/ca", &st))
		if len(st.Roots) != 1 || !st.Roots[0].Signs {
			m.t.Fatalf("the roots are %+v", st.Roots)
		}
		return st.Roots[0].ID
	}
	before, requests := signs(), len(l.seen())
	out, err := exec.Command(filepath.Join(bin, "seine"), "ca", "rotate", "--timeout", patience.String(), "--socket", filepath.Join(m.run, "seined.sock")).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "every proxy trusts the new root alone") {
		m.t.Fatalf("seine ca rotate: %v\n%s", err, out)
	}
	if signs() == before {
		m.t.Error("the old root still signs")
	}
	l.await(m, "300 requests", func(a []string) bool { return len(a) >= requests+300 })
}

func broken(m *mesh, l *load) {
	type status struct {
		Generation int
		Findings   []struct{ File, Message string }
	}
	var before, after status
	must(m.t, m.get("/api/v1/config", &before))
	m.replace("mesh.yaml", "hosts: [billing-service]", "hosts: [billing-service")
	m.await("the finding that names the broken file", func() error {
		if err := m.get("/api/v1/config", &after); err != nil {
			return err
		}
		for _, f := range after.Findings {
			if strings.HasSuffix(f.File, "mesh.yaml") && strings.Contains(f.Message, "YAML") {
				return nil
			}
		}
		return fmt.Errorf("the findings are %v", after.Findings)
	})
	if after.Generation != before.Generation {
		m.t.Errorf("the generation went from %d to %d with a broken file", before.Generation, after.Generation)
	}
	l.window(m, 300, 0.50)
	m.replace("mesh.yaml", "hosts: [billing-service", "hosts: [billing-service]")
}

func killed(m *mesh, l *load) {
	pids := m.processes(filepath.Join(bin, "seined"))
	if len(pids) != 1 {
		m.t.Fatalf("the processes of seined are %v; one was expected", pids)
	}
	must(m.t, syscall.Kill(pids[0], syscall.SIGKILL))
	l.window(m, 600, 0.50)
	m.await("a new control plane to which every proxy has connected", func() error {
		var all proxies
		if err := m.get("/api/v1/proxies", &all); err != nil {
			return err
		}
		if len(all) < 7 {
			return fmt.Errorf("%d proxies are connected", len(all))
		}
		return nil
	})
	l.window(m, 200, 0.50)
}
