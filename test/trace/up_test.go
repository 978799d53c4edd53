//go:build linux

package trace

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/ptrace"
)

// line is a span as the collector of TestUp writes it.
type line struct {
	Service, Trace, ID, Parent, Kind string
	Events                           []string
}

// play is a workload: the collector, or an application that always fails.
func play(role string) int {
	if role == "flaky" {
		fmt.Fprintln(os.Stderr, http.ListenAndServe(":8080", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusServiceUnavailable)
		})))
		return 1
	}
	out, err := os.OpenFile(os.Getenv("SPANS"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var mu sync.Mutex
	write := json.NewEncoder(out)
	c, err := newCollector(`
receivers: {otlp: {protocols: {grpc: {endpoint: "0.0.0.0:4317"}}}}
exporters: {store: {}}
service:
  telemetry: {logs: {level: error}, metrics: {level: none}}
  pipelines: {traces: {receivers: [otlp], exporters: [store]}}
`, func(_ context.Context, batch ptrace.Traces) error {
		mu.Lock()
		defer mu.Unlock()
		for _, rs := range batch.ResourceSpans().All() {
			name, _ := rs.Resource().Attributes().Get("service.name")
			for _, ss := range rs.ScopeSpans().All() {
				for _, s := range ss.Spans().All() {
					l := line{name.Str(), s.TraceID().String(), s.SpanID().String(), s.ParentSpanID().String(), s.Kind().String(), nil}
					for _, e := range s.Events().All() {
						l.Events = append(l.Events, e.Name())
					}
					if err := write.Encode(l); err != nil {
						return err
					}
				}
			}
		}
		return nil
	})
	if err == nil {
		err = c.Run(context.Background())
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

const upMesh = `
extensionProviders:
- name: otel
  opentelemetry: {service: otel.default.svc.cluster.local, port: 4317}
defaultProviders: {tracing: [otel]}
defaultConfig: {tracing: {sampling: 100}}
`

// The collector stands behind a sidecar of its own, in a mesh that is STRICT; half
// of the ledger always fails; and callers of frontend and ledger meet faults, too few
// connections and outlier detection.
const upWorkloads = `
apiVersion: v1
kind: Service
metadata: {name: otel}
spec: {selector: {app: otel}, ports: [{name: grpc-otlp, port: 4317}]}
---
apiVersion: local.seine.dev/v1
kind: Workload
metadata: {name: otel, labels: {app: otel, version: v1}}
spec:
  command: [%[1]q]
  ports: [4317]
  env: {SEINE_TRACE_ROLE: collector, SPANS: %[2]q}
---
apiVersion: local.seine.dev/v1
kind: Workload
metadata: {name: ledger-flaky, labels: {app: ledger, version: v1}}
spec:
  command: [%[1]q]
  serviceAccount: ledger
  ports: [8080]
  env: {SEINE_TRACE_ROLE: flaky}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: ledger}
spec:
  hosts: [ledger]
  http:
  - retries: {attempts: 3, retryOn: 5xx}
    fault: {delay: {percentage: {value: 50}, fixedDelay: 20ms}}
    route: [{destination: {host: ledger}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: ledger}
spec:
  host: ledger
  trafficPolicy:
    connectionPool: {tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 100, h2UpgradePolicy: DO_NOT_UPGRADE}}
    outlierDetection: {consecutive5xxErrors: 2, interval: 1s, baseEjectionTime: 1s, maxEjectionPercent: 50}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: frontend}
spec:
  hosts: [frontend]
  http:
  - fault: {abort: {percentage: {value: 10}, httpStatus: 418}}
    route: [{destination: {host: frontend}}]
`

// TestUp has `seine up` run a mesh whose sidecars report to a real Collector behind a
// sidecar: a request through three services is one trace, each span the child of the
// one before, and what happened on the way are its events.
func TestUp(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("the collector's file is the tests' own: as root")
	}
	dir := t.TempDir()
	build := exec.Command("go", "build", "-o", dir+"/", "./cmd/seine", "./cmd/seined", "./cmd/seine-proxy")
	build.Dir = "../.."
	out, err := build.CombinedOutput()
	if err == nil {
		build = exec.Command("go", "build", "-o", filepath.Join(dir, "billing"), "./examples/billing/app")
		build.Dir = "../.."
		out, err = build.CombinedOutput()
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	self, err := os.Executable()
	must(t, err)
	folder, spans := filepath.Join(dir, "mesh"), filepath.Join(dir, "spans")
	must(t, os.CopyFS(folder, os.DirFS("../../examples/billing")))
	must(t, os.RemoveAll(filepath.Join(folder, "app")))
	must(t, os.WriteFile(filepath.Join(folder, "trace.yaml"), fmt.Appendf(nil, upWorkloads, self, spans), 0o600))
	text, err := os.ReadFile(filepath.Join(folder, "workloads.yaml"))
	must(t, err)
	text = bytes.Replace(text, []byte("port: 8080, to"), []byte("port: 18099, to"), 1)
	must(t, os.WriteFile(filepath.Join(folder, "workloads.yaml"), bytes.Replace(text, []byte(`RATE: "50"`), []byte(`RATE: "150"`), 1), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "mesh-config.yaml"), []byte(upMesh), 0o600))

	var said diary
	up := exec.Command(filepath.Join(dir, "seine"), "up", "--mesh-config", filepath.Join(dir, "mesh-config.yaml"), "--run-dir", filepath.Join(dir, "run"), "--web", "127.0.0.1:0", folder)
	up.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "HOME="+dir)
	up.Stdout, up.Stderr = &said, &said
	up.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	must(t, up.Start())
	t.Cleanup(func() {
		_ = up.Process.Signal(os.Interrupt)
		ended := make(chan struct{})
		go func() { defer close(ended); _ = up.Wait() }()
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			_ = up.Process.Kill()
			<-ended
		}
		if t.Failed() {
			t.Logf("seine up said:\n%s", said.String())
		}
	})

	events := map[string]bool{"seine.retry": false, "seine.ejection": false, "seine.wait.queue": false, "seine.fault.delay": false, "seine.fault.abort": false}
	story, missing := false, ""
	defer func() {
		if t.Failed() {
			t.Logf("missing: %s, events %v", missing, events)
		}
	}()
	eventually(t, "one trace through three services, and each event once", func() bool {
		list := read(t, spans)
		byID, byTrace := map[string]line{}, map[string][]line{}
		for _, l := range list {
			byID[l.ID] = l
			byTrace[l.Trace] = append(byTrace[l.Trace], l)
			for _, e := range l.Events {
				for name := range events {
					if strings.HasPrefix(e, name) {
						events[name] = true
					}
				}
			}
		}
		for _, l := range list {
			// From the ledger's server span back to the load's client span.
			path := ""
			for at, ok := l, l.Kind == "Server" && strings.HasPrefix(l.Service, "ledger"); ok; at, ok = byID[at.Parent] {
				path = at.Service + "/" + at.Kind + " " + path
			}
			if strings.HasPrefix(path, "load.default/Client frontend.default/Server frontend.default/Client billing.default/Server billing.default/Client ledger.default/Server") {
				story = true
			} else if path != "" {
				missing = path
			}
		}
		all := story
		for _, seen := range events {
			all = all && seen
		}
		return all
	})
}

func read(t *testing.T, name string) (list []line) {
	t.Helper()
	f, err := os.Open(name)
	if os.IsNotExist(err) {
		return nil
	}
	must(t, err)
	defer func() { _ = f.Close() }() // read only
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var l line
		if json.Unmarshal(lines.Bytes(), &l) == nil { // the last one may be half written
			list = append(list, l)
		}
	}
	return list
}
