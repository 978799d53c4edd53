//go:build e2e && soak

package e2e

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	paced "github.com/seinemesh/seine/test/workload/load"
)

var (
	soakFor    = flag.Duration("soak", 30*time.Minute, "how long the load runs")
	soakResult = flag.String("result", "", "file for the result; empty: none")
)

// soakServices is the mesh that is soaked: one server behind a name for each
// protocol, two of whose instances stay and one of which comes and goes.
const soakServices = `
apiVersion: v1
kind: Service
metadata: {name: server}
spec:
  selector: {app: server}
  ports:
  - {name: http, port: 8080}
  - {name: http2, port: 8082}
  - {name: grpc, port: 8081}
  - {name: tcp-echo, port: 9000}
  - {name: tcp-first, port: 9001}
---
apiVersion: local.seine.dev/v1
kind: Workload
metadata: {name: server-v1, labels: {app: server, version: v1}}
spec:
  command: [workload, serve, -linger, 2s]
  ports: [8080, 8081, 8082, 9000, 9001]
  env: {VERSION: v1}
---
apiVersion: local.seine.dev/v1
kind: Workload
metadata: {name: server-v2, labels: {app: server, version: v2}}
spec:
  command: [workload, serve, -linger, 2s]
  ports: [8080, 8081, 8082, 9000, 9001]
  env: {VERSION: v2}
---
apiVersion: authentication.istio.io/v1alpha1
kind: MeshPolicy
metadata: {name: default}
spec: {peers: [{mtls: {}}]}
`

// soakLoads are the loads, by name: the arguments of the workload's program.
var soakLoads = map[string]string{
	"http":       "-protocol, http, -rate, '100', 'http://server:8080/'",
	"http-fresh": "-protocol, http, -keepalive=false, -rate, '20', 'http://server:8080/'",
	"http-slow":  "-protocol, http, -rate, '10', 'http://server:8080/?delay=700ms'",
	"h2c":        "-protocol, h2c, -rate, '50', 'http://server:8082/'",
	"grpc":       "-protocol, grpc, -rate, '50', 'server:8081'",
	"tcp":        "-protocol, tcp, -rate, '20', 'server:9000'",
	"first":      "-protocol, server-first, -rate, '20', 'server:9001'",
}

// soakChurn is the part of the configuration that is written anew each second.
func soakChurn(round int) string {
	weight := 10 + round*7%80
	balancers := []string{"LEAST_REQUEST", "ROUND_ROBIN", "RANDOM"}
	// An instance comes for seven seconds and goes for seven.
	extra := 1 + round/7%2
	return fmt.Sprintf(`
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: server}
spec:
  hosts: [server]
  http:
  - match: [{headers: {x-never: {exact: "%d"}}}]
    fault: {abort: {httpStatus: 503, percentage: {value: 100}}}
    route: [{destination: {host: server}}]
  - headers: {request: {set: {x-round: "%d"}}}
    timeout: %ds
    route:
    - {destination: {host: server, subset: v1}, weight: %d}
    - {destination: {host: server, subset: v2}, weight: %d}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: server}
spec:
  host: server
  trafficPolicy:
    loadBalancer: {simple: %s}
    connectionPool: {tcp: {maxConnections: %d}, http: {http2MaxRequests: %d}}
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
---
apiVersion: local.seine.dev/v1
kind: Workload
metadata: {name: server-v1-extra, labels: {app: server, version: v1}}
spec:
  command: [workload, serve, -linger, 2s]
  replicas: %d
  ports: [8080, 8081, 8082, 9000, 9001]
  env: {VERSION: v1}
`, round, round, 10+round%5, weight, 100-weight, balancers[round%3], 1000+round%100, 2000+round%100, extra)
}

// holding is what a process holds. Of its descriptors, connections are those that it
// says it keeps open for clients and towards endpoints: they come with a busy minute
// and go within UpstreamIdle; the rest may not grow.
type holding struct{ kib, descriptors, connections, goroutines float64 }

func (h holding) others() float64 { return h.descriptors - h.connections }

// TestSoak loads a mesh with every protocol while its configuration changes each
// second, certificates rotate about as often and an instance comes and goes. No
// request may fail, and no process that lives all the while may grow.
func TestSoak(t *testing.T) {
	out, err := exec.Command("go", "build", "-o", filepath.Join(bin, "workload"), "../workload").CombinedOutput()
	if err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	write := func(dir, name, text string) {
		part := filepath.Join(dir, "."+name+".new")
		must(t, os.WriteFile(part, []byte(text), 0o644))
		must(t, os.Rename(part, filepath.Join(dir, name)))
	}
	m := start(t, users()[0], func(dir string) {
		for _, name := range []string{"mesh.yaml", "services.yaml", "workloads.yaml"} {
			must(t, os.Remove(filepath.Join(dir, name)))
		}
		write(dir, "services.yaml", soakServices)
		write(dir, "churn.yaml", soakChurn(0))
		var loads strings.Builder
		for name, args := range soakLoads {
			fmt.Fprintf(&loads, "---\napiVersion: local.seine.dev/v1\nkind: Workload\nmetadata: {name: load-%s, labels: {app: load-%s}}\nspec: {command: [workload, load, -timeout, 15s, -report, 1s, %s]}\n", name, name, args)
		}
		write(dir, "loads.yaml", loads.String())
	}, "--cert-ttl=20s")

	counts := func(name string) (c paced.Counts, err error) {
		lines := strings.Split(strings.TrimSpace(m.log("default.load-"+name+"-1")), "\n")
		err = json.Unmarshal([]byte(lines[len(lines)-1]), &c)
		return c, err
	}
	t.Cleanup(func() {
		if logs, _ := filepath.Glob(filepath.Join(m.run, "logs", "*proxy*")); t.Failed() {
			for _, l := range logs {
				if text, _ := os.ReadFile(l); strings.Contains(string(text), "panic:") {
					t.Logf("%s:\n%.4000s", l, text[strings.Index(string(text), "panic:"):])
				}
			}
		}
	})
	m.await("every load to be answered", func() error {
		for name := range soakLoads {
			if c, err := counts(name); err != nil || c.Answered() == 0 {
				return fmt.Errorf("%s: %+v, %v", name, c, err)
			}
		}
		return nil
	})
	before := map[string]paced.Counts{}
	for name := range soakLoads {
		before[name], err = counts(name)
		must(t, err)
	}

	watched := m.watched()
	samples := map[string][]holding{}
	began, certificates := time.Now(), issued(m)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	round := 0
	for ; time.Since(began) < *soakFor; round++ {
		select {
		case <-m.done:
			t.Fatalf("seine up ended: %v", m.err)
		case <-tick.C:
		}
		write(m.dir, "churn.yaml", soakChurn(round))
		if round%10 != 0 {
			continue
		}
		for name, pid := range watched {
			s, err := m.sample(name, pid)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			samples[name] = append(samples[name], s)
		}
	}

	var r strings.Builder
	fmt.Fprintf(&r, "# Soak\n\n    make soak\n\n%s, %v on %d cores: `seine up` with seven loads over five protocols, a new configuration each second (%d), %g certificates issued, an instance that came and went every 14 s.\n\n",
		time.Now().UTC().Format("2006-01-02"), time.Since(began).Round(time.Second), runtime.NumCPU(), round, issued(m)-certificates)
	fmt.Fprint(&r, "| load | requests | failed |\n|---|---|---|\n")
	for _, name := range keys(soakLoads) {
		c, err := counts(name)
		must(t, err)
		c = c.Since(before[name])
		fmt.Fprintf(&r, "| %s | %d | %d |\n", name, c.Sent, c.Failed())
		if c.Failed() > 0 {
			t.Errorf("load %s: %d of %d requests failed: %v%s", name, c.Failed(), c.Sent, c.Failures, m.trouble("load-"+name+"-1"))
		}
		if float64(c.Sent) < 5*time.Since(began).Seconds() {
			t.Errorf("load %s sent %d requests only", name, c.Sent)
		}
	}
	fmt.Fprint(&r, "\nMedians of the second sixth of the time and of the last sixth:\n\n| process | PSS, KiB | descriptors | of them connections | goroutines |\n|---|---|---|---|---|\n")
	for _, name := range keys(samples) {
		all := samples[name]
		early, late := median(all[len(all)/6:len(all)/3+1]), median(all[len(all)*5/6:])
		fmt.Fprintf(&r, "| %s | %.0f → %.0f | %.0f → %.0f | %.0f → %.0f | %.0f → %.0f |\n", name, early.kib, late.kib, early.descriptors, late.descriptors, early.connections, late.connections, early.goroutines, late.goroutines)
		// A fifth and some slack is what a garbage collector's whims come to.
		if late.kib > 1.2*early.kib+2048 || late.others() > early.others()+8 || late.goroutines > 1.2*early.goroutines+16 {
			t.Errorf("%s grew from %+v to %+v", name, early, late)
		}
	}
	t.Log("\n" + r.String())
	if *soakResult != "" && !t.Failed() {
		must(t, os.WriteFile(*soakResult, []byte(r.String()), 0o644))
	}
}

// trouble is what the sidecar of a load and those of the servers have said of
// connections and requests that failed, and what each has counted.
func (m *mesh) trouble(load string) string {
	var out strings.Builder
	logs, _ := filepath.Glob(filepath.Join(m.run, "logs", "*server*.proxy*"))
	for _, path := range append(logs, filepath.Join(m.run, "logs", "default."+load+".proxy.log")) {
		text, _ := os.ReadFile(path)
		n := 0
		for line := range strings.Lines(string(text)) {
			if line[0] == '{' && strings.Contains(line, `"response_flags":"-"`) || line[0] != '{' && !strings.Contains(line, "level=ERROR") {
				continue
			}
			if n++; n <= 20 {
				fmt.Fprintf(&out, "\n%s: %.900s", filepath.Base(path), strings.TrimSpace(line))
			}
		}
		fmt.Fprintf(&out, "\n%s: %d such lines", filepath.Base(path), n)
	}
	var metrics string
	if err := m.get("/api/v1/proxies/default/"+load+"/metrics", &metrics); err != nil {
		return out.String() + err.Error()
	}
	for line := range strings.Lines(metrics) {
		if strings.HasPrefix(line, "seine_proxy_") && strings.Contains(line, "_total") && !strings.HasSuffix(line, " 0\n") {
			out.WriteString("\n" + strings.TrimSpace(line))
		}
	}
	return out.String()
}

// watched are the control plane and every sidecar that lives all the while, by
// name. A sidecar's name is its instance's.
func (m *mesh) watched() map[string]int {
	m.t.Helper()
	pids := map[string]int{}
	for _, pid := range m.processes(filepath.Join(bin, "seine")) {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		must(m.t, err)
		args := strings.Split(string(text), "\x00")
		switch filepath.Base(args[0]) {
		case "seined":
			pids["seined"] = pid
		case "seine-proxy":
			i := slices.IndexFunc(args, func(a string) bool { return strings.TrimLeft(a, "-") == "workload" })
			if i < 0 || i+1 == len(args) {
				m.t.Fatalf("a sidecar does not say whose it is: %q", args)
			}
			if name := args[i+1]; !strings.Contains(name, "extra") {
				pids[name] = pid
			}
		}
	}
	if want := 1 + len(soakLoads) + 2; len(pids) != want {
		m.t.Fatalf("%d processes to watch, %d were expected: %v", len(pids), want, pids)
	}
	return pids
}

// sample reads what the process holds from the kernel, and its goroutines from
// its metrics.
func (m *mesh) sample(name string, pid int) (s holding, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return s, err
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "Pss:" {
			s.kib, err = strconv.ParseFloat(f[1], 64)
			if err != nil {
				return s, err
			}
		}
	}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return s, err
	}
	s.descriptors = float64(len(fds))
	path := "/metrics"
	if name != "seined" {
		path = "/api/v1/proxies/" + name + "/metrics"
	}
	var metrics string
	// A sidecar whose certificate is renewed connects anew.
	m.await("the metrics of "+name, func() error { return m.get(path, &metrics) })
	for line := range strings.Lines(metrics) {
		name, text, ok := strings.Cut(strings.TrimSpace(line), " ")
		if name, _, _ = strings.Cut(name, "{"); !ok || name != "go_goroutines" && name != "seine_proxy_connections" && name != "seine_proxy_upstream_connections" {
			continue
		}
		value, err := strconv.ParseFloat(text[strings.LastIndexByte(text, ' ')+1:], 64)
		if err != nil {
			return s, fmt.Errorf("%s: %w", line, err)
		}
		if name == "go_goroutines" {
			s.goroutines = value
		} else {
			s.connections += value
		}
	}
	if s.goroutines == 0 {
		return s, fmt.Errorf("no go_goroutines in %s", path)
	}
	return s, nil
}

func median(all []holding) holding {
	of := func(field func(holding) float64) float64 {
		var v []float64
		for _, s := range all {
			v = append(v, field(s))
		}
		slices.Sort(v)
		return v[len(v)/2]
	}
	return holding{of(func(s holding) float64 { return s.kib }), of(func(s holding) float64 { return s.descriptors }), of(func(s holding) float64 { return s.connections }), of(func(s holding) float64 { return s.goroutines })}
}

func keys[V any](m map[string]V) []string {
	var names []string
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
