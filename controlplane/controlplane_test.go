package controlplane

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/seinemesh/seine/ca"
	"github.com/seinemesh/seine/config"
	"github.com/seinemesh/seine/config/files"
	"github.com/seinemesh/seine/decide"
	"github.com/seinemesh/seine/discovery"
	"github.com/seinemesh/seine/mesh"
	"github.com/seinemesh/seine/mtls"
	"github.com/seinemesh/seine/mtls/caclient"
	"github.com/seinemesh/seine/proxy/control"
	"github.com/seinemesh/seine/stat"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const services = `
apiVersion: v1
kind: Service
metadata: {name: billing-service}
spec:
  selector: {app: billing}
  ports: [{name: http, port: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: frontend}
spec:
  selector: {app: frontend}
  ports: [{name: http, port: 80}]
---
apiVersion: networking.istio.io/v1alpha3
kind: DestinationRule
metadata: {name: billing-destination}
spec:
  host: billing-service
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
`

func canary(v1, v2 int) string {
	return fmt.Sprintf(`
apiVersion: networking.istio.io/v1alpha3
kind: VirtualService
metadata: {name: billing-route}
spec:
  hosts: [billing-service]
  http:
  - route:
    - {destination: {host: billing-service, subset: v1}, weight: %d}
    - {destination: {host: billing-service, subset: v2}, weight: %d}
`, v1, v2)
}

func entry(name, address, app, version string) string {
	return fmt.Sprintf(`
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata:
  name: %s
  annotations: {seine.dev/sidecar: "true"}
spec:
  address: %s
  labels: {app: %s, version: %s}
  serviceAccount: %s
`, name, address, app, version, app)
}

// instance is a seined with a folder of configuration.
type instance struct {
	t         testing.TB
	dir       string
	opt       Options
	grpc, web string
	socket    *http.Client
	stop      func()
}

func start(t testing.TB, dir string, change func(*Options)) *instance {
	t.Helper()
	i := &instance{t: t, dir: dir}
	o := Options{
		Config: []string{filepath.Join(dir, "config")}, State: filepath.Join(dir, "state"),
		Listen: "127.0.0.1:0", HTTP: "127.0.0.1:0", Socket: filepath.Join(dir, "api.sock"), Version: "test",
	}
	if change != nil {
		change(&o)
	}
	listening := make(chan struct{})
	o.Listening = func(g, h net.Addr) {
		i.grpc = g.String()
		if h != nil {
			i.web = "http://" + h.String()
		}
		close(listening)
	}
	i.opt = o
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, o) }()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", o.Socket)
	}}
	i.socket = &http.Client{Transport: transport}
	var once sync.Once
	i.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
			transport.CloseIdleConnections()
		})
	}
	t.Cleanup(i.stop)
	select {
	case <-listening:
	case err := <-done:
		t.Fatal(err)
	}
	return i
}

func write(t testing.TB, dir, name, text string) {
	t.Helper()
	path := filepath.Join(dir, "config", name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func fill(t testing.TB, dir string) {
	t.Helper()
	write(t, dir, "services.yaml", services)
	write(t, dir, "route.yaml", canary(90, 10))
	write(t, dir, "workloads.yaml", entry("frontend-1", "127.0.0.1", "frontend", "v1")+
		entry("billing-v1-1", "10.1.0.2", "billing", "v1")+entry("billing-v2-1", "10.1.0.3", "billing", "v2"))
}

// get reads JSON from the socket.
func (i *instance) get(path string, v any) {
	i.t.Helper()
	res, err := i.socket.Get("http://seined" + path)
	if err != nil {
		i.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		i.t.Fatalf("%s: %s %v %s", path, res.Status, err, body)
	}
	if err := json.Unmarshal(body, v); err != nil {
		i.t.Fatalf("%s: %v in %s", path, err, body)
	}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(time.Minute) // a busy machine takes its time
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("waited in vain: " + what)
		}
	}
}

// join runs the control part of frontend-1's proxy.
func (i *instance) join(address func() string) *control.Client {
	i.t.Helper()
	secret, err := ca.LoadSecret(filepath.Join(i.opt.State, "join-secret"))
	if err != nil {
		i.t.Fatal(err)
	}
	token, err := ca.Mint(secret, ca.Claims{Namespace: "default", ServiceAccount: "frontend", Workload: "frontend-1", Expires: time.Now().Add(time.Hour)})
	if err != nil {
		i.t.Fatal(err)
	}
	tokenFile := filepath.Join(i.dir, "token")
	if err := os.WriteFile(tokenFile, []byte(token), 0o600); err != nil {
		i.t.Fatal(err)
	}
	dial := func(ctx context.Context, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", address())
	}
	authority, err := caclient.New(caclient.Options{
		Address: "seined:15012", TrustDomain: "cluster.local", BundleFile: filepath.Join(i.opt.State, RootFile),
		TokenFile: tokenFile, ID: "spiffe://cluster.local/ns/default/sa/frontend", Dial: dial,
	})
	if err != nil {
		i.t.Fatal(err)
	}
	source := mtls.NewSource(mtls.SourceOptions{Request: authority.Request})
	c, err := control.New(control.Options{
		Address: "seined:15012", TLS: source.ClientTLS(caclient.DefaultServerName, caclient.ServerID("cluster.local")),
		Certified: source.Ready(), Dial: dial, Node: "default/frontend-1", Version: "test",
	})
	if err != nil {
		i.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = source.Run(ctx) })
	wg.Go(func() { _ = c.Run(ctx) })
	i.t.Cleanup(func() { cancel(); wg.Wait() })
	return c
}

const host = "http/8080/billing-service"

// weights of the canary in a Table; nil if they are not there.
func weights(t *decide.Table) []uint32 {
	if t == nil || t.Answers[host] == nil || len(t.Answers[host].Proto.Http) == 0 {
		return nil
	}
	var out []uint32
	for _, d := range t.Answers[host].Proto.Http[0].Destinations {
		out = append(out, d.Weight)
	}
	return out
}

func TestFromFileToTable(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir)
	i := start(t, dir, nil)
	eventually(t, "ready", func() bool {
		res, err := i.socket.Get("http://seined/healthz/ready")
		if err != nil {
			return false
		}
		res.Body.Close()
		return res.StatusCode == http.StatusOK
	})
	var address atomic.Value
	address.Store(i.grpc)
	c := i.join(func() string { return address.Load().(string) })
	c.Want(host)
	eventually(t, "the canary", func() bool { return fmt.Sprint(weights(c.Table())) == "[90 10]" })
	key := "billing-service.default.svc.cluster.local/8080"
	v2 := c.Table().Cluster(key, "v2")
	if v2 == nil || len(v2.Endpoints) != 1 || v2.Endpoints[0].Identity != "spiffe://cluster.local/ns/default/sa/billing" {
		t.Fatalf("v2 is %+v", v2)
	}

	write(t, dir, "route.yaml", canary(50, 50))
	saved := time.Now()
	eventually(t, "the new weights", func() bool { return fmt.Sprint(weights(c.Table())) == "[50 50]" })
	t.Logf("a saved weight was in the Table after %s", time.Since(saved))
	if c.Table().Cluster(key, "v2") != v2 {
		t.Error("a changed weight changed a cluster's pointer")
	}

	var before ConfigState
	i.get("/api/v1/config", &before)
	write(t, dir, "route.yaml", "kind: VirtualService\nspec: {hosts: [")
	var state ConfigState
	eventually(t, "the broken file is said", func() bool { state = ConfigState{}; i.get("/api/v1/config", &state); return state.Error != "" })
	if state.Generation != before.Generation || len(state.Findings) == 0 || !strings.Contains(state.Error, "route.yaml") {
		t.Errorf("%+v", state)
	}
	if fmt.Sprint(weights(c.Table())) != "[50 50]" {
		t.Error("a broken file changed the Table")
	}
	write(t, dir, "route.yaml", canary(10, 90))
	eventually(t, "the mended file", func() bool { return fmt.Sprint(weights(c.Table())) == "[10 90]" })
	eventually(t, "no error any more", func() bool { state = ConfigState{}; i.get("/api/v1/config", &state); return state.Error == "" })

	var proxies []discovery.Proxy
	i.get("/api/v1/proxies", &proxies)
	if len(proxies) != 1 || proxies[0].ID != "default/frontend-1" || proxies[0].Identity != "spiffe://cluster.local/ns/default/sa/frontend" {
		t.Errorf("%+v", proxies)
	}

	// Killed and started again on the same state: the same root, the same Table.
	table := c.Table()
	i.stop()
	if c.Table() != table {
		t.Error("the Table changed when seined went")
	}
	again := start(t, dir, nil)
	address.Store(again.grpc)
	write(t, dir, "route.yaml", canary(20, 80))
	eventually(t, "weights from the second seined", func() bool { return fmt.Sprint(weights(c.Table())) == "[20 80]" })
	if c.Table().Cluster(key, "v2") != v2 {
		t.Error("what did not change was sent again")
	}
}

func TestStat(t *testing.T) {
	const metrics = `istio_requests_total{reporter="destination",source_workload="load",source_workload_namespace="default",destination_workload="frontend",destination_workload_namespace="default",destination_service="frontend.default.svc.cluster.local",destination_service_name="frontend",destination_service_namespace="default",destination_version="v1",response_code="200",response_flags="-",connection_security_policy="mutual_tls"} %d
`
	var n atomic.Int64
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/metrics" {
			t.Errorf("asked for %s", r.URL)
		}
		fmt.Fprintf(w, metrics, n.Add(100))
	}))
	defer proxy.Close()
	_, port, _ := net.SplitHostPort(proxy.Listener.Addr().String())
	dir := t.TempDir()
	fill(t, dir)
	i := start(t, dir, func(o *Options) { _, _ = fmt.Sscan(port, &o.StatusPort) })
	c := i.join(func() string { return i.grpc })
	<-c.Ready()
	var table stat.Table
	eventually(t, "a row", func() bool { i.get("/api/v1/stat", &table); return len(table.Services) == 1 })
	if s := table.Services[0]; s.Name != "frontend" || s.MTLS != stat.MTLSYes {
		t.Errorf("%+v", s)
	}
}

func TestAPI(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir)
	i := start(t, dir, nil)
	var state ConfigState
	eventually(t, "configured", func() bool {
		state = ConfigState{}
		i.get("/api/v1/config", &state)
		return state.Services == 2 && state.Workloads == 3
	})
	do := func(c *http.Client, method, url, body string, header ...string) (int, string) {
		t.Helper()
		req, err := http.NewRequest(method, url, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		for j := 0; j < len(header); j += 2 {
			if header[j] == "Host" {
				req.Host = header[j+1]
			}
			req.Header.Set(header[j], header[j+1])
		}
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		out, _ := io.ReadAll(res.Body)
		return res.StatusCode, string(out)
	}
	web := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for _, tc := range []struct {
		client            *http.Client
		method, url, body string
		code              int
		says              string
		header            []string
	}{
		{i.socket, "GET", "http://seined/healthz", "", 200, "ok", nil},
		{i.socket, "GET", "http://seined/metrics", "", 200, "pilot_xds_pushes", nil},
		{i.socket, "GET", "http://seined/metrics", "", 200, "citadel_server_root_cert_expiry_timestamp", nil},
		{i.socket, "POST", "http://seined/api/v1/explain", `{"from":"default/frontend-1","url":"http://billing-service:8080/"}`, 200, `billing-service.default.svc.cluster.local`, nil},
		{i.socket, "POST", "http://seined/api/v1/explain", "", 400, "question", nil},
		{i.socket, "POST", "http://seined/api/v1/explain", `{"url":"` + strings.Repeat("x", 2<<20) + `"}`, 400, "too large", nil},
		{i.socket, "GET", "http://seined/api/v1/explain", "", 405, "", nil},
		{i.socket, "GET", "http://seined/api/v1/nothing", "", 404, "", nil},
		{web, "GET", i.web + "/api/v1/config", "", 200, `"generation"`, nil},
		{web, "GET", i.web + "/api/v1/config", "", 403, "not this server's", []string{"Host", "evil.example:15014"}},
		{web, "GET", i.web + "/api/v1/config", "", 403, "not this server's", []string{"Origin", "http://evil.example"}},
		{web, "GET", i.web + "/api/v1/config", "", 403, "not this server's", []string{"Sec-Fetch-Site", "cross-site"}},
		{web, "GET", i.web + "/api/v1/config", "", 403, "not this server's", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate"}},
		{web, "GET", i.web + "/api/v1/config", "", 403, "not this server's", []string{"Origin", "null"}},
		{web, "GET", i.web + "/api/v1/config", "", 200, "", []string{"Origin", i.web, "Sec-Fetch-Site", "same-origin"}},
		{web, "GET", i.web + "/", "", 200, "<html", nil},
		{web, "GET", i.web + "/", "", 200, "<html", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate"}},
		{web, "GET", i.web + "/", "", 403, "not this server's", []string{"Host", "evil.example:15014"}},
		{web, "GET", i.web + "/", "", 403, "not this server's", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors"}},
		{web, "GET", i.web + "/api/v1/proxies", "", 200, "[]", nil},
		{web, "GET", i.web + "/api/v1/proxies", "", 200, "[]", []string{"Host", "[::1]"}},
		{web, "GET", i.web + "/metrics", "", 200, "pilot_info", []string{"Host", "prometheus-target.example"}},
	} {
		if code, out := do(tc.client, tc.method, tc.url, tc.body, tc.header...); code != tc.code || !strings.Contains(out, tc.says) {
			t.Errorf("%s %s %v: %d %.300s", tc.method, tc.url, tc.header, code, out)
		}
	}
	if info, err := os.Stat(i.opt.Socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v %v", info.Mode(), err)
	}
	if err := Run(t.Context(), Options{Config: i.opt.Config, State: i.opt.State, Listen: "127.0.0.1:0", Socket: i.opt.Socket}); err == nil || !strings.Contains(err.Error(), "another control plane") {
		t.Errorf("a second seined on one socket: %v", err)
	}
	if err := Run(t.Context(), Options{Config: i.opt.Config, State: i.opt.State, Listen: i.grpc}); err == nil || !strings.Contains(err.Error(), "--listen") {
		t.Errorf("a second seined on one port: %v", err)
	}
	i.stop()
	if _, err := os.Stat(i.opt.Socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
}

func TestOutsideSeesHealthAndMetricsAlone(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir)
	s := &server{opt: Options{Config: []string{filepath.Join(dir, "config")}, State: filepath.Join(dir, "state")}, log: slog.New(slog.DiscardHandler)}
	if _, err := s.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	h := s.handler(doorOf(&net.TCPAddr{IP: net.IPv4zero, Port: 15014}))
	for path, want := range map[string]int{
		"/healthz": 200, "/metrics": 200, "/healthz/ready": 503,
		"/api/v1/config": 403, "/api/v1/proxies": 403, "/api/v1/stat": 403, "/api/v1/explain": 403, "/debug/pprof/": 404,
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "http://10.0.0.1:15014"+path, nil))
		if w.Code != want {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
}

func TestBadStart(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir)
	conf, state := []string{filepath.Join(dir, "config")}, filepath.Join(dir, "state")
	open := filepath.Join(dir, "open")
	if err := os.Mkdir(open, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, dir, "../mesh.yaml", "trustDomain: other.example\n")
	for name, tc := range map[string]struct {
		o    Options
		says string
	}{
		"no state":          {Options{Config: conf}, "--state"},
		"no config":         {Options{State: state}, "--config"},
		"open state":        {Options{Config: conf, State: open}, "chmod 700"},
		"bad trust domain":  {Options{Config: conf, State: state, TrustDomain: "Not Valid"}, "trust domain"},
		"two trust domains": {Options{Config: conf, State: state, TrustDomain: "one.example", MeshConfig: filepath.Join(dir, "mesh.yaml")}, "must agree"},
		"no such cacerts":   {Options{Config: conf, State: state, CACerts: filepath.Join(dir, "nothing")}, "nothing"},
		"bad port":          {Options{Config: conf, State: state, Listen: "127.0.0.1:99999"}, "--listen"},
	} {
		if err := Run(t.Context(), tc.o); err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What was wrong at the start is mended while seined runs.
func TestStartsWithBrokenFiles(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir)
	write(t, dir, "route.yaml", "][")
	i := start(t, dir, nil)
	var state ConfigState
	eventually(t, "the error", func() bool { state = ConfigState{}; i.get("/api/v1/config", &state); return state.Error != "" })
	if res, err := i.socket.Get("http://seined/healthz/ready"); err != nil || res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("ready without a configuration: %v %v", res, err)
	} else {
		res.Body.Close()
	}
	write(t, dir, "route.yaml", canary(90, 10))
	eventually(t, "mended", func() bool {
		state = ConfigState{}
		i.get("/api/v1/config", &state)
		return state.Error == "" && state.Services == 2
	})
}

func TestFindingsAreSaidOnce(t *testing.T) {
	var log strings.Builder
	c := newConfiguration(func(*mesh.Snapshot) {}, "cluster.local", slog.New(slog.NewTextHandler(&log, nil)))
	dir := t.TempDir()
	fill(t, dir)
	write(t, dir, "route.yaml", strings.Replace(canary(90, 10), "subset: v2", "subset: v9", 1))
	r, err := files.Load(files.Options{Paths: []string{filepath.Join(dir, "config")}})
	if r == nil {
		t.Fatal(err)
	}
	for range 3 {
		c.take(config.Event{Result: r, Findings: r.Findings})
	}
	if n := strings.Count(log.String(), "v9"); n == 0 || n > 2 {
		t.Errorf("said %d times:\n%s", n, log.String())
	}
	if state, snap := c.current(); snap == nil || len(state.Findings) == 0 {
		t.Errorf("%+v", state)
	}
}
