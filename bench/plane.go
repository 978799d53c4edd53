package main

import (
	"bytes"
	"context"
	"embed"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"text/template"
)

//go:embed peers
var peers embed.FS

// plane is a data plane under test: how its pair of sidecars is started.
type plane struct {
	name  string
	about string // for the table
	start func(ctx context.Context, e *env) (*pair, error)
}

// pair is what runs of a data plane.
type pair struct {
	target string   // where the load goes, IP:PORT
	host   string   // the Host that it sends
	proxy  []*proc  // client sidecar and server sidecar: what is measured
	others []*proc  // control plane: not measured
	admin  []string // administration of each proxy, IP:PORT
}

func (p *pair) stop() {
	for _, c := range append(p.proxy, p.others...) {
		c.stop()
	}
}

// env is one cell's surroundings: a directory of its own and the backend.
type env struct {
	dir     string
	backend string
	tools   tools
}

// tools are the programs that the benchmark runs.
type tools struct {
	self, bin                  string
	envoy, nginx, haproxy, wrk string
}

// planes returns all data planes in the order of the table.
func planes() []plane {
	return []plane{
		{"none", "no proxy at all", startNone},
		{"seine", "two seine-proxy fed by seined: 90/10 route, strict mTLS, secure naming, metrics", startSeine},
		{"envoy", "static configuration, SAN-checked mTLS, nothing else", startEnvoy("envoy-client.yaml", "envoy-server.yaml")},
		{"envoy-istio", "as an Istio sidecar is: JSON access log, stats tags, retries, outlier detection, 90/10 route", startEnvoy("envoy-istio-client.yaml", "envoy-istio-server.yaml")},
		{"nginx", "mTLS by CA and DNS name, no access log, no metrics", startNginx},
		{"haproxy", "mTLS by CA and DNS name, no access log", startHAProxy},
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
		Subsets: []string{"v1", "v2"}, Root: os.Getuid() == 0}
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

// startPair starts two programs, the server's first, each with the arguments
// that args makes of its configuration file.
func startPair(ctx context.Context, e *env, program, client, server string, args func(config string) []string) (*pair, error) {
	v, err := e.values()
	if err != nil {
		return nil, err
	}
	p := &pair{target: v.Client, host: hostHeader}
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
		return startPair(ctx, e, e.tools.envoy, client, server, func(config string) []string {
			return []string{"-c", config, "--concurrency", "2", "--disable-hot-restart", "--log-level", "warn"}
		})
	}
}

func startNginx(ctx context.Context, e *env) (*pair, error) {
	if e.tools.nginx == "" {
		return nil, fmt.Errorf("nginx: %w", errMissing)
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
