// Package archtest holds the tree to its shape: which room may know which.
package archtest

import (
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/seinemesh/seine/"

// foreign are the projects that the data plane and the pure core must not link.
var foreign = []string{"k8s.io/", "sigs.k8s.io/", "istio.io/", "github.com/envoyproxy/"}

// A rule forbids a room, with everything below it, to depend on others.
type rule struct {
	room   string
	forbid []string // import path prefixes; those of our own without the module
}

var rules = []rule{
	{"cmd/seine-proxy", append([]string{"config", "plan", "discovery", "local", "inject", "install", "explain", "stat", "tap"}, foreign...)},
	{"proxy", append([]string{"config", "plan", "discovery", "local", "inject", "install", "explain", "stat", "tap", "cmd"}, foreign...)},
	{"decide", append([]string{"config", "plan", "discovery", "local", "proxy", "ca", "stat", "explain", "net/http", "google.golang.org/grpc"}, foreign...)},
	{"plan", append([]string{"config", "discovery", "local", "proxy", "decide", "ca", "stat", "explain", "net/http", "google.golang.org/grpc"}, foreign...)},
	{"mesh", append([]string{"config", "plan", "decide", "discovery", "local", "proxy", "ca", "stat", "telemetry", "net/http", "google.golang.org/grpc"}, foreign...)},
	{"message", []string{"api", "mesh", "decide", "proxy", "net/http"}},
	{"proxy/http1", []string{"decide", "mesh", "api", "proxy/loop", "net/http", "os"}},
	{"proxy/http2", []string{"decide", "mesh", "api", "proxy/loop", "net/http", "os", "golang.org/x/net"}},
	{"proxy/sniff", []string{"decide", "mesh", "api", "proxy/loop", "net/http", "os"}},
	{"mtls", append([]string{"config", "plan", "decide", "discovery", "local", "proxy", "ca", "stat", "explain"}, foreign...)},
	{"ca", []string{"config", "plan", "discovery", "local", "proxy", "stat", "explain", "cmd"}},
	{"capture", append([]string{"config", "plan", "discovery", "local", "proxy", "stat", "explain", "cmd"}, foreign...)},
	{"proxy/http2", []string{"decide", "mesh", "api", "proxy/loop", "net/http", "os"}},
	{"gate", append([]string{"config", "plan", "decide", "discovery", "local", "proxy", "controlplane", "cmd", "net/http"}, foreign...)},
	{"dns", append([]string{"config", "plan", "mesh", "decide", "discovery", "local", "proxy", "controlplane", "cmd", "net/http"}, foreign...)},
	{"host", append([]string{"config", "plan", "decide", "discovery", "local", "proxy", "stat", "diagnose", "cmd", "net/http"}, foreign...)},
	{"diagnose", append([]string{"config", "plan", "decide", "discovery", "local", "proxy", "cmd", "net/http"}, foreign...)},
	{"history", append([]string{"config", "mesh", "stat", "discovery", "local", "proxy", "controlplane", "cmd"}, foreign...)},
	{"view", append([]string{"discovery", "local", "proxy", "controlplane", "cmd"}, "net/http/httptest")},
	{"install", []string{"local", "proxy", "controlplane", "discovery", "plan"}},
	{"discovery", []string{"local", "proxy", "config", "cmd"}},
	{"tap", append([]string{"local", "proxy", "config", "plan", "discovery", "controlplane", "cmd"}, foreign...)},
	{"config", []string{"plan", "discovery", "local", "proxy", "cmd"}},
	{"inject", []string{"proxy", "discovery", "plan", "local", "ca", "mtls", "controlplane", "k8s.io/client-go/"}},
	{"cni", []string{"proxy", "discovery", "plan", "local", "ca", "mtls", "controlplane", "k8s.io/client-go/"}},
	{"telemetry", append([]string{"proxy", "plan", "config", "discovery", "local"}, foreign...)},
}

func TestArrows(t *testing.T) {
	for _, r := range rules {
		t.Run(r.room, func(t *testing.T) {
			// One list for each room: its packages, and all that they need.
			out, err := exec.Command("go", "list", "-deps", module+r.room+"/...").CombinedOutput()
			if err != nil {
				t.Fatalf("go list: %v\n%s", err, out)
			}
			for dep := range strings.Lines(string(out)) {
				dep = strings.TrimSpace(dep)
				for _, f := range r.forbid {
					if forbidden(dep, f, r.room) {
						t.Errorf("%s depends on %s", r.room, dep)
					}
				}
			}
		})
	}
}

// alone are packages that, unlike the rooms below them, must not link foreign ones:
// the authority knows Kubernetes in ca/kube alone.
var alone = []string{"ca", "ca/rotation"}

func TestAlone(t *testing.T) {
	for _, p := range alone {
		out, err := exec.Command("go", "list", "-deps", module+p).CombinedOutput()
		if err != nil {
			t.Fatalf("go list: %v\n%s", err, out)
		}
		for dep := range strings.Lines(string(out)) {
			for _, f := range foreign {
				if forbidden(strings.TrimSpace(dep), f, p) {
					t.Errorf("%s depends on %s", p, strings.TrimSpace(dep))
				}
			}
		}
	}
}

// forbidden reports whether dep lies in what f names: a path prefix of another
// module, a standard package by its exact path, or a room of ours.
func forbidden(dep, f, room string) bool {
	if strings.HasSuffix(f, "/") {
		return strings.HasPrefix(dep, f)
	}
	if dep == f {
		return true
	}
	own := module + f
	inside := dep == own || strings.HasPrefix(dep, own+"/")
	return inside && dep != module+room && !strings.HasPrefix(dep, module+room+"/")
}
