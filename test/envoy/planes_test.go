//go:build envoy

package envoy

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"text/template"
	"time"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/config"
	"github.com/seinemesh/seine/decide"
	"github.com/seinemesh/seine/mesh"
	"github.com/seinemesh/seine/plan"
	"github.com/seinemesh/seine/proxy"
	"github.com/seinemesh/seine/proxy/control"
	"github.com/seinemesh/seine/telemetry/accesslog"
	"github.com/seinemesh/seine/telemetry/metrics"
)

// plane is a data plane that the scenarios are run through.
type plane struct {
	name string
	addr string
	// flags are the response flags that it logged for a case; "" if there is no line
	// yet.
	flags func(id string) string
	// pending is how many requests to a scenario's cluster wait for a connection.
	pending func(scenario string) int
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// logOf finds a case's flags in a log of JSON lines.
func logOf(text func() []byte) func(id string) string {
	return func(id string) string {
		for line := range bytes.Lines(text()) {
			var e struct {
				UserAgent string `json:"user_agent"`
				Flags     string `json:"response_flags"`
			}
			if json.Unmarshal(line, &e) == nil && e.UserAgent == id {
				return e.Flags
			}
		}
		return ""
	}
}

// envoyBinary is where bench/run.sh puts it; ENVOY names another one.
func envoyBinary(t testing.TB) string {
	if path := os.Getenv("ENVOY"); path != "" {
		return path
	}
	found, _ := filepath.Glob("../../.cache/bench/envoy-*")
	if len(found) == 0 {
		t.Skip("there is no Envoy: bench/run.sh fetches it, or ENVOY names one")
	}
	path, err := filepath.Abs(found[len(found)-1])
	must(t, err)
	return path
}

// bootstrap is what Istio's control plane gives a sidecar's outbound listener,
// as far as it matters to a request: the connection manager, its filters in their
// order, and for each scenario a virtual host and a cluster.
var bootstrap = template.Must(template.New("").Parse(`
admin: {address: {socket_address: {address: 127.0.0.1, port_value: {{.Admin}}}}}
static_resources:
  listeners:
  - name: outbound
    address: {socket_address: {address: 127.0.0.1, port_value: {{.Port}}}}
    traffic_direction: OUTBOUND
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: outbound
          use_remote_address: false
          # Istio's ENABLE_HCM_INTERNAL_NETWORKS: else no caller is internal, and what it
          # asks for by fields is dropped. Seine takes it from its own workload.
          internal_address_config: {cidr_ranges: [{address_prefix: 10.0.0.0, prefix_len: 8}]}
          generate_request_id: true
          normalize_path: true
          stream_idle_timeout: 0s
          upgrade_configs: [{upgrade_type: websocket}]
          access_log:
          - name: envoy.access_loggers.file
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: {{.Log}}
              log_format: {json_format: {user_agent: "%REQ(USER-AGENT)%", response_flags: "%RESPONSE_FLAGS%", response_code_details: "%RESPONSE_CODE_DETAILS%"}}
          http_filters:
          - {name: envoy.filters.http.grpc_stats, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.grpc_stats.v3.FilterConfig, emit_filter_state: true, stats_for_all_methods: false}}
          - {name: envoy.filters.http.fault, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault}}
          - {name: envoy.filters.http.cors, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors}}
          - {name: envoy.filters.http.router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
          route_config:
            name: "8080"
            validate_clusters: false
            max_direct_response_body_size_bytes: 1048576
            virtual_hosts:
{{range .Scenarios}}
            - name: {{.Name}}
              include_request_attempt_count: true
              domains: ["{{.Host}}", "{{.Host}}:8080"]
              routes:
{{.Routes}}
{{end}}
  clusters:
{{range .Scenarios}}{{range .Clusters}}
  - name: {{.Name}}
    type: STATIC
    connect_timeout: 10s
    lb_policy: {{.LB}}
    common_lb_config: {healthy_panic_threshold: {}}
    load_assignment:
      cluster_name: {{.Name}}
      endpoints:
      - lb_endpoints:
{{range .Endpoints}}
        - endpoint: {address: {socket_address: {address: {{.Addr}}, port_value: {{.Port}}}}}
{{end}}
{{.More}}
{{end}}{{end}}
`))

// defaultRetry is what Istio gives every route that says nothing of retries.
const defaultRetry = `{retry_on: "connect-failure,refused-stream,unavailable,cancelled", num_retries: 2, ` + previousHosts + `}`

const previousHosts = `retry_host_predicate: [{name: envoy.retry_host_predicates.previous_hosts, typed_config: {"@type": type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate}}], host_selection_retry_max_attempts: 5`

// defaultLimits are Istio's where a DestinationRule says nothing.
const defaultLimits = `circuit_breakers: {thresholds: [{max_connections: 4294967295, max_pending_requests: 4294967295, max_requests: 4294967295, max_retries: 4294967295, track_remaining: true}]}`

// indent puts a YAML block n columns to the right.
func indent(text string, n int) string {
	pad := strings.Repeat(" ", n)
	var out strings.Builder
	for line := range strings.Lines(strings.TrimSpace(text)) {
		out.WriteString(pad + line)
	}
	return out.String() + "\n"
}

func freePort(t testing.TB) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// startEnvoy starts the real thing with all scenarios.
func startEnvoy(t testing.TB, all []*scenario) *plane {
	binary := envoyBinary(t)
	dir := t.TempDir()
	log, file := filepath.Join(dir, "access.log"), filepath.Join(dir, "envoy.yaml")
	type cluster struct {
		Name, LB, More string
		Endpoints      []netip.AddrPort
	}
	type host struct {
		Name, Host, Routes string
		Clusters           []cluster
	}
	var data struct {
		Admin, Port int
		Log         string
		Scenarios   []host
	}
	data.Admin, data.Port, data.Log = freePort(t), freePort(t), log
	for _, s := range all {
		routes := s.routes
		if routes == "" {
			routes = "- {match: {prefix: /}, route: {cluster: CLUSTER, timeout: 0s, retry_policy: DEFAULTRETRY}}"
		}
		routes = strings.NewReplacer("CLUSTER", s.name, "DEFAULTRETRY", defaultRetry, "PREVIOUSHOSTS", previousHosts).Replace(routes)
		lb := "LEAST_REQUEST"
		if s.roundRobin {
			lb = "ROUND_ROBIN"
		}
		c := s.cluster
		if !strings.Contains(c, "circuit_breakers") {
			c += "\n" + defaultLimits
		}
		data.Scenarios = append(data.Scenarios, host{
			Name: s.name, Host: s.host(), Routes: indent(routes, 14),
			Clusters: []cluster{{s.name, lb, indent(c, 4), s.endpoints}},
		})
	}
	var text bytes.Buffer
	must(t, bootstrap.Execute(&text, data))
	must(t, os.WriteFile(file, text.Bytes(), 0o600))

	var said bytes.Buffer
	cmd := exec.Command(binary, "-c", file, "--use-dynamic-base-id", "--concurrency", "1", "-l", "error", "--file-flush-interval-msec", "10")
	cmd.Stdout, cmd.Stderr = &said, &said
	must(t, cmd.Start())
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }()
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-done })
	admin := fmt.Sprintf("http://127.0.0.1:%d", data.Admin)
	eventually(t, "Envoy is ready", func() bool {
		select {
		case <-done:
			t.Fatalf("Envoy ended: %s", said.Bytes())
		default:
		}
		res, err := http.Get(admin + "/ready")
		if err != nil {
			return false
		}
		_ = res.Body.Close()
		return res.StatusCode == 200
	})
	return &plane{
		name: "Envoy", addr: fmt.Sprintf("127.0.0.1:%d", data.Port),
		flags: logOf(func() []byte { text, _ := os.ReadFile(log); return text }),
		pending: func(scenario string) (n int) {
			res, err := http.Get(admin + "/stats?filter=^cluster." + scenario + ".upstream_rq_pending_active$")
			must(t, err)
			defer res.Body.Close()
			text, err := io.ReadAll(res.Body)
			must(t, err)
			_, value, _ := strings.Cut(string(text), ": ")
			_, _ = fmt.Sscan(value, &n)
			return n
		},
	}
}

// tables are what seined would tell the caller's sidecar of a snapshot.
type tables struct{ table *decide.Table }

func (f tables) Table() *decide.Table         { return f.table }
func (f tables) Want(string) bool             { return false }
func (f tables) Use(string) *control.Use      { return nil }
func (f tables) Notify(func(*decide.Table))   {}
func (f tables) Connected() (bool, time.Time) { return true, time.Time{} }

// tableOf plans and compiles all that the scenarios need.
func tableOf(t testing.TB, all []*scenario) *decide.Table {
	var text strings.Builder
	text.WriteString(`
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: caller-1, namespace: default, labels: {app: caller}, annotations: {seine.dev/sidecar: "true"}}
spec: {address: 192.0.2.1, serviceAccount: caller, labels: {app: caller}}
`)
	for _, s := range all {
		fmt.Fprintf(&text, `---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: %s, namespace: default}
spec:
  hosts: [%s]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{number: 8080, name: http, protocol: HTTP}]
  endpoints:
`, s.name, s.host())
		for _, e := range s.endpoints {
			fmt.Fprintf(&text, "  - {address: %s, ports: {http: %d}}\n", e.Addr(), e.Port())
		}
		rule := s.rule
		if s.roundRobin {
			rule = strings.TrimSpace("loadBalancer: {simple: ROUND_ROBIN}\n" + rule)
		}
		if rule != "" {
			fmt.Fprintf(&text, "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: %s, namespace: default}\nspec:\n  host: %s\n  trafficPolicy:\n%s", s.name, s.host(), indent(rule, 4))
		}
		if s.http != "" {
			fmt.Fprintf(&text, "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: %s, namespace: default}\nspec:\n  hosts: [%s]\n  http:\n%s", s.name, s.host(), indent(strings.ReplaceAll(s.http, "HOST", s.host()), 2))
		}
	}
	res := config.Build([]config.File{{Name: "mesh.yaml", Data: []byte(text.String())}}, config.Options{})
	for _, f := range res.Findings {
		if f.Severity == config.Error {
			t.Fatalf("%+v\n%s", f, text.String())
		}
	}
	snap := res.Snapshot
	var caller *mesh.Workload
	for _, w := range snap.Workloads {
		if w.Name == "caller-1" {
			caller = w
		}
	}
	if caller == nil {
		t.Fatal("there is no caller")
	}
	self, err := decide.CompileSelf(plan.Self(snap, caller))
	must(t, err)
	out := &decide.Table{Self: self, Answers: map[string]*decide.Answer{}, Clusters: map[string]map[string]*decide.Cluster{}}
	for _, s := range all {
		name := seinev1.AnswerName{Port: 8080, Host: s.host()}.String()
		a, err := decide.CompileAnswer(plan.Answer(snap, caller, name))
		must(t, err)
		out.Answers[name] = a
		key := s.host() + "/8080"
		p := plan.Service(snap, caller, key)
		if p == nil {
			t.Fatalf("%s: no service", key)
		}
		svc, err := decide.CompileService(p)
		must(t, err)
		var eps []*decide.Endpoint
		for _, e := range plan.Endpoints(snap, caller, key) {
			c, err := decide.CompileEndpoint(e)
			must(t, err)
			eps = append(eps, c)
		}
		out.Clusters[svc.Key] = svc.Clusters(eps)
	}
	return out
}

// buffer is a log that is read while it is written.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) bytes() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Clone(b.b.Bytes())
}

// startSeine starts a sidecar's outbound side, planned from Istio's resources.
func startSeine(t testing.TB, all []*scenario) *plane {
	var log buffer
	w := accesslog.New(accesslog.Options{Out: &log})
	registry := metrics.New(metrics.Options{})
	p, err := proxy.New(proxy.Options{
		Loops: 1, Explicit: netip.MustParseAddrPort("127.0.0.1:0"), Registry: registry, AccessLog: w,
	}, tables{tableOf(t, all)})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx, 0, time.Second) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		_ = w.Close()
	})
	return &plane{
		name: "Seine", addr: p.Addresses()[0].String(), flags: logOf(log.bytes),
		pending: func(scenario string) (n int) {
			var text bytes.Buffer
			_, err := registry.WriteTo(&text)
			must(t, err)
			for line := range strings.Lines(text.String()) {
				if strings.HasPrefix(line, "seine_upstream_pending_requests{") && strings.Contains(line, scenario+".example") {
					_, _ = fmt.Sscan(line[strings.LastIndexByte(line, ' ')+1:], &n)
				}
			}
			return n
		},
	}
}
