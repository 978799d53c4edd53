package main

import (
	"bytes"
	"context"
	"embed"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"text/template"
)

//go:embed peers
var peers embed.FS

// plane is a data plane under test: how its pair of sidecars is started.
type plane struct {
	name  string
	about string // for the table
	start func(ctx context.Context, e *env) (*pair, error)
	// lacks says which setups it cannot do, and why; "" keeps the reason out of
	// the table.
	lacks map[string]string
	extra bool // runs only if it is named
}

// pair is what runs of a data plane.
type pair struct {
	target string   // where the load goes, IP:PORT
	host   string   // the Host that it sends
	tunnel string   // what CONNECT is asked for, where opaque bytes need that
	server string   // the server's sidecar, IP:PORT: where mutual TLS is taken
	alpn   string   // what a caller offers there
	proxy  []*proc  // server sidecar and client sidecar: what is measured
	others []*proc  // control plane: not measured
	admin  []string // administration of each proxy, IP:PORT
}

func (p *pair) stop() {
	for _, c := range append(p.proxy, p.others...) {
		c.stop()
	}
}

// env is one cell's surroundings: a directory of its own, the backend, and how
// the pair is to be set up.
type env struct {
	dir     string
	backend string
	tools   tools
	mode    mode
}

// mode is what of a pair's configuration differs between setups.
type mode struct {
	proto    string // http1, http2 or tcp
	log      bool   // JSON access log
	crowd    bool   // as many connections as the descriptors allow
	services int    // further services, each with a route
	routes   int    // further routes of the service that is called
}

// tools are the programs that the benchmark runs.
type tools struct {
	self, bin                          string
	envoy, nginx, haproxy, wrk, h2load string
	perf                               string
	stream                             string // nginx's module
}

// planes returns all data planes in the order of the table.
func planes() []plane {
	none := map[string]string{setupFresh: "", setupLog: "", setupCrowd: "", setupCrowdLarge: "", setupBesieged: ""}
	floor := map[string]string{setupHTTP1: "", setupLog: "", setupHTTP2: "", setupTCP: "", setupCrowd: "", setupCrowdLarge: "", setupBesieged: ""}
	grown := func(m map[string]string) map[string]string {
		for _, s := range growth() {
			m[s.name] = ""
		}
		return m
	}
	return []plane{
		{name: "none", about: "no proxy at all", start: startNone, lacks: grown(none)},
		{name: "seine", about: "two seine-proxy fed by seined: 90/10 route, strict mTLS, secure naming, metrics", start: startSeine("")},
		{name: "seine-shared", about: "seine with h2UpgradePolicy UPGRADE: all requests share HTTP/2 connections between the sidecars", start: startSeine("UPGRADE"), extra: true},
		{name: "seine-single", about: "seine with h2UpgradePolicy DO_NOT_UPGRADE: each request of HTTP/1.1 has a connection of its own", start: startSeine("DO_NOT_UPGRADE"), extra: true},
		{name: "envoy", about: "static configuration, SAN-checked mTLS, nothing else", start: startEnvoy("envoy-client.yaml", "envoy-server.yaml"),
			lacks: map[string]string{"services-10000": "", "routes-10000": ""}},
		{name: "envoy-istio", about: "as an Istio sidecar is: JSON access log, stats tags, retries, outlier detection, 90/10 route",
			start: startEnvoy("envoy-istio-client.yaml", "envoy-istio-server.yaml"),
			lacks: grown(map[string]string{setupTCP: "for opaque bytes it is what envoy is", setupLog: "its log is always on: see h1-c64"})},
		{name: "go-tls", about: "the least that a Go server costs: a goroutine for each connection, crypto/tls with mutual TLS, requests passed on unread; new connections alone", start: startGoTLS, lacks: grown(floor)},
		{name: "nginx", about: "mTLS by CA and DNS name, no access log, no metrics", start: startNginx, lacks: grown(map[string]string{})},
		{name: "haproxy", about: "mTLS by CA and DNS name, no access log", start: startHAProxy, lacks: grown(map[string]string{})},
	}
}

// hostHeader is the authority of every request.
const hostHeader = "billing-service:8080"

func startNone(_ context.Context, e *env) (*pair, error) {
	return &pair{target: e.backend, host: hostHeader}, nil
}

// values are what the templates of peers/ may use.
type values struct {
	Dir, AccessLog, ServerName, ServerID string
	Client, ClientHost, ClientPort       string
	Server, ServerHost, ServerPort       string
	Backend, BackendHost, BackendPort    string
	AdminHost, AdminPort                 string
	Subsets                              []string
	Root                                 bool
	Proto                                string // http1, http2 or tcp
	Stream                               string // nginx's stream module
	Log                                  bool
	Limit                                int // connections that a proxy takes
	Keep                                 int // idle connections that it keeps
	Files                                int // descriptors that it may have
	Slots                                int // connections, on both sides, of an nginx process
	Services, Routes                     []int
}

// render writes a template of peers/ into the cell's directory.
func (e *env) render(name string, v values) (string, error) {
	t, err := template.ParseFS(peers, "peers/envoy-istio-common.yaml", "peers/"+name)
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	if err := t.ExecuteTemplate(&b, name, v); err != nil {
		return "", err
	}
	path := filepath.Join(e.dir, name)
	return path, os.WriteFile(path, b.Bytes(), 0o600)
}

func (e *env) values() (values, error) {
	v := values{Dir: e.dir, ServerName: serverName, ServerID: serverID, Backend: e.backend,
		Subsets: []string{"v1", "v2"}, Root: os.Getuid() == 0,
		Proto: e.mode.proto, Stream: e.tools.stream, Log: e.mode.log, Limit: 8192, Keep: 1024, Files: 16384, Slots: 8192,
		Services: count(e.mode.services), Routes: count(e.mode.routes)}
	if e.mode.crowd {
		v.Limit, v.Keep, v.Files, v.Slots = crowd()+200, crowd()+200, 2*crowd()+1000, 2*crowd()+1000
	}
	ports, err := freePorts("127.0.0.1", 3)
	if err != nil {
		return v, err
	}
	v.Client, v.Server = ports[0], ports[1]
	for _, s := range []struct {
		from       string
		host, port *string
	}{
		{v.Client, &v.ClientHost, &v.ClientPort}, {v.Server, &v.ServerHost, &v.ServerPort},
		{v.Backend, &v.BackendHost, &v.BackendPort}, {ports[2], &v.AdminHost, &v.AdminPort},
	} {
		if *s.host, *s.port, err = net.SplitHostPort(s.from); err != nil {
			return v, err
		}
	}
	return v, nil
}

// count returns 1 to n, for the templates.
func count(n int) []int {
	var all []int
	for i := range n {
		all = append(all, i+1)
	}
	return all
}

// startPair starts two programs, the server's first, each with the arguments
// that args makes of its configuration file.
func startPair(ctx context.Context, e *env, program, client, server string, args func(config string) []string) (*pair, error) {
	v, err := e.values()
	if err != nil {
		return nil, err
	}
	p := &pair{target: v.Client, host: hostHeader, server: v.Server}
	for _, side := range []struct{ template, addr string }{{server, v.Server}, {client, v.Client}} {
		v.AccessLog = filepath.Join(e.dir, side.template+".access.log")
		config, err := e.render(side.template, v)
		if err != nil {
			p.stop()
			return nil, err
		}
		c, err := start(e.dir, program, args(config)...)
		if err != nil {
			p.stop()
			return nil, err
		}
		p.proxy = append(p.proxy, c)
		if err := waitListen(ctx, c, side.addr); err != nil {
			p.stop()
			return nil, err
		}
		// The two sides' administration must not meet on one port.
		ports, err := freePorts("127.0.0.1", 1)
		if err != nil {
			p.stop()
			return nil, err
		}
		if v.AdminHost, v.AdminPort, err = net.SplitHostPort(ports[0]); err != nil {
			p.stop()
			return nil, err
		}
	}
	return p, nil
}

func startEnvoy(client, server string) func(context.Context, *env) (*pair, error) {
	return func(ctx context.Context, e *env) (*pair, error) {
		if e.tools.envoy == "" {
			return nil, fmt.Errorf("envoy: %w", errMissing)
		}
		p, err := startPair(ctx, e, e.tools.envoy, client, server, func(config string) []string {
			return []string{"-c", config, "--concurrency", "2", "--disable-hot-restart", "--log-level", "warn"}
		})
		if err == nil && strings.Contains(server, "istio") {
			p.alpn = "istio-http/1.1"
		}
		return p, err
	}
}

func startNginx(ctx context.Context, e *env) (*pair, error) {
	if e.tools.nginx == "" {
		return nil, fmt.Errorf("nginx: %w", errMissing)
	}
	if e.mode.proto == "tcp" && e.tools.stream == "" {
		return nil, fmt.Errorf("nginx's stream module: %w", errMissing)
	}
	return startPair(ctx, e, e.tools.nginx, "nginx-client.conf", "nginx-server.conf", func(config string) []string {
		return []string{"-p", e.dir, "-e", "stderr", "-c", config}
	})
}

func startHAProxy(ctx context.Context, e *env) (*pair, error) {
	if e.tools.haproxy == "" {
		return nil, fmt.Errorf("haproxy: %w", errMissing)
	}
	return startPair(ctx, e, e.tools.haproxy, "haproxy-client.cfg", "haproxy-server.cfg", func(config string) []string {
		return []string{"-db", "-f", config}
	})
}
