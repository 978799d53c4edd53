package local

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/seinemesh/seine/config"
	"github.com/seinemesh/seine/local/rundir"
)

// patience bounds every wait for a condition.
const patience = 60 * time.Second

const (
	webYAML = `
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: local.seine.dev/v1
kind: Workload
metadata: {name: web, labels: {app: web}}
spec: {command: [app, serve, one], env: {GORACE: "atexit_sleep_ms=0"}, replicas: 2, ports: [8080], publish: [{port: PUBLISHED}]}
`
	lookYAML = `---
apiVersion: local.seine.dev/v1
kind: Workload
metadata: {name: look, namespace: shop}
spec: {command: [app, look, "SECRET", "web.default:80,web.default.svc.cluster.local:80,nowhere.invalid:80"], env: {A: b, GORACE: "atexit_sleep_ms=0"}}
---
apiVersion: local.seine.dev/v1
kind: Workload
metadata: {name: naked, annotations: {sidecar.istio.io/inject: "false"}}
spec: {command: [app, look, "SECRET", "web-1.web:8080"]}
---
apiVersion: local.seine.dev/v1
kind: Workload
metadata: {name: crash}
spec: {command: [app, crash]}
`
)

// norace keeps programs under the race detector from sleeping when they end.
const norace = "GORACE=atexit_sleep_ms=0"

// stage is a folder with programs and resources, and a mesh that runs on it.
type stage struct {
	t         *testing.T
	root      string
	mesh, run string
	port      int
	cmd       *exec.Cmd
	out       output
	done      chan struct{}
	err       error
}

type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

func newStage(t *testing.T, resources string) *stage {
	t.Helper()
	root, err := os.MkdirTemp("", "seine-local-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &stage{t: t, root: root, mesh: filepath.Join(root, "mesh"), run: filepath.Join(root, "run"), port: l.Addr().(*net.TCPAddr).Port}
	l.Close()
	for _, dir := range []string{"mesh", "bin"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	first := s.program("outer")
	to, err := os.OpenFile(first, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(to, self); err != nil {
		t.Fatal(err)
	}
	if err := to.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"seined", "seine-proxy", "app"} {
		if err := os.Link(first, s.program(name)); err != nil {
			t.Fatal(err)
		}
	}
	s.write(resources)
	return s
}

func (s *stage) program(name string) string { return filepath.Join(s.root, "bin", name) }

// write replaces the resources.
func (s *stage) write(resources string) {
	s.t.Helper()
	text := strings.NewReplacer("PUBLISHED", fmt.Sprint(s.port), "SECRET", filepath.Join(s.run, "join-secret")).Replace(resources)
	part := filepath.Join(s.root, "part")
	if err := os.WriteFile(part, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Rename(part, filepath.Join(s.mesh, "mesh.yaml")); err != nil {
		s.t.Fatal(err)
	}
}

// up starts the outer process.
func (s *stage) up(env ...string) {
	s.t.Helper()
	s.done = make(chan struct{})
	s.cmd = exec.Command(s.program("outer"), s.run, filepath.Join(s.root, "state"), s.mesh)
	s.cmd.Env = append([]string{"PATH=" + filepath.Join(s.root, "bin") + ":/usr/bin:/bin", "HOME=" + s.root, "SECRET_OF_THE_USER=1", norace}, env...)
	s.cmd.Stdout, s.cmd.Stderr = &s.out, &s.out
	s.cmd.WaitDelay = patience
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	done := s.done
	go func() { s.err = s.cmd.Wait(); close(done) }()
	s.t.Cleanup(func() {
		_ = s.cmd.Process.Kill()
		<-done
		if s.t.Failed() {
			s.t.Logf("output:\n%s", s.out.String())
		}
	})
}

// await waits until ok is true.
func (s *stage) await(what string, ok func() bool) {
	s.t.Helper()
	limit := time.After(patience)
	for !ok() {
		select {
		case <-limit:
			s.t.Fatalf("waited in vain for: %s", what)
		case <-time.After(10 * time.Millisecond): // between two looks
		}
	}
}

func (s *stage) awaitOutput(want ...string) {
	s.t.Helper()
	for _, w := range want {
		s.await(w, func() bool {
			if s.ended() && !strings.Contains(s.out.String(), w) {
				s.t.Fatalf("ended (%v) without saying %q", s.err, w)
			}
			return strings.Contains(s.out.String(), w)
		})
	}
}

func (s *stage) ended() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// alive are the processes that run a program of the stage; zombies run none.
func (s *stage) alive() []string {
	links, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		s.t.Fatal(err)
	}
	var out []string
	for _, link := range links {
		if program, err := os.Readlink(link); err == nil && strings.HasPrefix(program, s.root) {
			out = append(out, filepath.Base(filepath.Dir(link))+" "+program)
		}
	}
	return out
}

// sights are what a look has said.
func (s *stage) sight(instance string) sight {
	s.t.Helper()
	var v sight
	s.await("the sight of "+instance, func() bool {
		text, err := os.ReadFile(filepath.Join(s.run, "logs", instance+".log"))
		if err != nil {
			return false
		}
		return json.NewDecoder(bytes.NewReader(text)).Decode(&v) == nil
	})
	return v
}

func (s *stage) vip() string {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(s.mesh, "mesh.yaml"))
	if err != nil {
		s.t.Fatal(err)
	}
	r := config.Build([]config.File{{Name: "mesh.yaml", Data: text}}, config.Options{})
	return r.Snapshot.Service("web.default.svc.cluster.local", "default").Addresses[0].String()
}

func (s *stage) stop() {
	s.t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		s.t.Fatal(err)
	}
	select {
	case <-s.done:
	case <-time.After(patience):
		s.t.Fatal("did not stop")
	}
	if s.err != nil {
		s.t.Errorf("ended with %v", s.err)
	}
	if left := s.alive(); len(left) > 0 {
		s.t.Errorf("left behind: %v", left)
	}
	if entries, err := os.ReadDir(s.run); !errors.Is(err, os.ErrNotExist) {
		s.t.Errorf("run folder: %v, %v", entries, err)
	}
}

func TestUp(t *testing.T) {
	s := newStage(t, webYAML+lookYAML)
	s.up()
	s.awaitOutput("web-1 is ready", "web-2 is ready", "gateway-1 is ready", "shop/look-1 is ready", "naked-1 is ready",
		"web-1 | serving [one]", "crash-1 ended: exit status 3; starting again in 250ms; its last words:", "my reason", "starting again in 500ms (2 times so far)")
	vip := s.vip()

	v := s.sight("shop.look-1")
	if v.Caps != "1" { // no_new_privs, and no bit of any set
		t.Errorf("capabilities and no_new_privs: %q", v.Caps)
	}
	if v.UID != os.Getuid() || v.Host != "look-1" || v.Secret != "hidden" || v.Processes != 1 {
		t.Errorf("%+v", v)
	}
	if v.Env["A"] != "b" || v.Env["POD_NAMESPACE"] != "shop" || v.Env["SECRET_OF_THE_USER"] != "" || v.Env["HTTP_PROXY"] != "" {
		t.Errorf("environment %v", v.Env)
	}
	for _, name := range []string{"web.default", "web.default.svc.cluster.local"} {
		if v.Names[name] != vip || v.Doors[name+":80"] != "outbound "+vip+":80" {
			t.Errorf("%s: %s, %s", name, v.Names[name], v.Doors[name+":80"])
		}
	}
	if v.Names["nowhere.invalid"] == "" {
		t.Error("a name that does not exist resolved")
	}
	// Who has no sidecar goes straight at a workload, and meets that one's.
	if v := s.sight("default.naked-1"); !strings.HasPrefix(v.Doors["web-1.web:8080"], "inbound 10.244.") {
		t.Errorf("a plaintext client met %v", v.Doors)
	}
	if got := s.published(); got != "published web.default.svc.cluster.local:80 directly" {
		t.Errorf("the published port: %q", got)
	}
	s.stop()
}

func (s *stage) published() string {
	s.t.Helper()
	c, err := net.Dial("tcp4", fmt.Sprintf("127.0.0.1:%d", s.port))
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	text, err := io.ReadAll(c)
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

func TestFallback(t *testing.T) {
	s := newStage(t, webYAML+lookYAML)
	s.up("SHARED=1")
	s.awaitOutput(fallbackHeader, "web-1 is ready at 127.77.", "web-2 is ready", "shop/look-1 is ready", "gateway-1 is ready")
	v := s.sight("shop.look-1")
	if !strings.HasPrefix(v.Env["HTTP_PROXY"], "http://127.77.") || !strings.HasSuffix(v.Env["HTTP_PROXY"], ":15001") ||
		v.Env["http_proxy"] != v.Env["HTTP_PROXY"] || v.Env["NO_PROXY"] != "" {
		t.Errorf("environment %v", v.Env)
	}
	if os.Getuid() != 0 && v.Caps != "1ffffffffff1" && !strings.HasSuffix(v.Caps, "1") {
		t.Errorf("capabilities and no_new_privs: %q", v.Caps)
	}
	if got := s.published(); got != "published web.default.svc.cluster.local:80 directly" {
		t.Errorf("the published port: %q", got)
	}
	s.stop()
}

// A mesh whose outer process is killed leaves nothing but the run folder, and
// the next one clears that up.
func TestKilled(t *testing.T) {
	for name, env := range map[string][]string{"isolated": nil, "fallback": {"SHARED=1"}} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, webYAML)
			s.up(env...)
			s.awaitOutput("ready: 3 instances")
			if err := s.cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			s.await("every process to be gone", func() bool { return len(s.alive()) == 0 })
			<-s.done
			if _, err := os.Stat(rundir.Socket(s.run)); err != nil {
				t.Errorf("the run folder went, too: %v", err)
			}
			s.out.mu.Lock()
			s.out.b.Reset()
			s.out.mu.Unlock()
			s.up(env...)
			s.awaitOutput("ready: 3 instances")
			s.stop()
		})
	}
}

// A hub that dies takes everything with it, and the outer process says so.
func TestHubKilled(t *testing.T) {
	s := newStage(t, webYAML)
	s.up()
	s.awaitOutput("ready: 3 instances")
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", s.cmd.Process.Pid))
	if err != nil || len(tasks) == 0 {
		t.Skip("this kernel does not list children")
	}
	for _, task := range tasks {
		children, err := os.ReadFile(task)
		if err != nil {
			continue
		}
		for pid := range strings.FieldsSeq(string(children)) {
			var n int
			if _, err := fmt.Sscan(pid, &n); err == nil {
				_ = syscall.Kill(n, syscall.SIGKILL)
			}
		}
	}
	s.await("the outer process to end", s.ended)
	if s.err == nil || !strings.Contains(s.out.String(), "the process that holds the mesh ended by itself") {
		t.Errorf("%v", s.err)
	}
	s.await("every process to be gone", func() bool { return len(s.alive()) == 0 })
}

func TestChanges(t *testing.T) {
	s := newStage(t, webYAML)
	s.up()
	s.awaitOutput("ready: 3 instances")
	good := strings.Replace(webYAML, "replicas: 2", "replicas: 3", 1)
	s.write(good)
	s.awaitOutput("web-3: described anew, starting", "web-3 is ready")
	// What cannot be read changes nothing.
	s.write("kind: [")
	s.awaitOutput("configuration not taken, the last good one stays: ")
	s.write(strings.Replace(good, "serve, one", "serve, two", 1))
	s.awaitOutput("configuration taken again", "web-1 | terminated", "web-3 | terminated", "web-1 | serving [two]", "web-3 | serving [two]")
	if text := s.out.String(); strings.Index(text, "web-1 | serving [two]") > strings.Index(text, "web-2 | terminated") {
		t.Error("the second instance was stopped before the first was back")
	}
	s.write(strings.Replace(webYAML, "replicas: 2", "replicas: 0", 1))
	s.await("the instances to be gone", func() bool { return strings.Count(s.out.String(), "| terminated") == 6 })
	// The published port's change cannot be followed, and that is said.
	s.write(strings.Replace(webYAML, ", publish: [{port: PUBLISHED}]", "", 1))
	s.awaitOutput("what is published on this host changed: start seine up again")
	s.stop()
}

func TestControlPlaneRestarts(t *testing.T) {
	s := newStage(t, webYAML)
	s.up()
	s.awaitOutput("ready: 3 instances")
	for _, p := range s.alive() {
		var pid int
		var program string
		if _, err := fmt.Sscan(p, &pid, &program); err == nil && program == s.program("seined") {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	s.awaitOutput("seined ended: signal: killed; starting again in 250ms", "seined was started again")
	c := newAPI(s.run)
	s.await("the control plane to answer", func() bool { return c.healthy(context.Background()) })
	c.control.CloseIdleConnections()
	s.stop()
}

func TestRefusals(t *testing.T) {
	s := newStage(t, webYAML)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	file := func(name, text string) string {
		path := filepath.Join(s.root, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	workload := func(spec string) string {
		return "apiVersion: local.seine.dev/v1\nkind: Workload\nmetadata: {name: w}\nspec: " + spec + "\n"
	}
	t.Setenv("PATH", filepath.Join(s.root, "bin"))
	for _, tt := range []struct {
		name string
		path string
		edit func(*Options)
		want string
	}{
		{"no file", filepath.Join(s.root, "none"), nil, "no such file"},
		{"no workload", file("svc.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80}]}\n"), nil, "no Workload in"},
		{"malformed", file("bad.yaml", workload("{comand: [x]}")), nil, "bad.yaml:4"},
		{"twice", file("two.yaml", workload("{command: [app]}")+"---\n"+workload("{command: [app]}")), nil, "two.yaml"},
		{"no program in PATH", file("p.yaml", workload("{command: [no-such-program]}")), nil, "Workload default/w: spec.command: there is no program no-such-program in PATH"},
		{"no program at path", file("q.yaml", workload("{command: [./nothing]}")), nil, "./nothing is not a program"},
		{"no folder", file("f.yaml", workload("{command: [app], workingDir: none}")), nil, "spec.workingDir:"},
		{"no seined", s.mesh, func(o *Options) { o.Seined = "/none/seined" }, "/none/seined is not a program"},
		{"port in use", file("u.yaml", strings.ReplaceAll(webYAML, "PUBLISHED", fmt.Sprint(l.Addr().(*net.TCPAddr).Port))), nil, "of 127.0.0.1 is in use"},
		{"run folder", s.mesh, func(o *Options) { o.RunDir = "/" + strings.Repeat("x", 120) }, "--run-dir"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := Options{Paths: []string{tt.path}, RunDir: s.run, StateDir: filepath.Join(s.root, "state"), Seined: s.program("seined"),
				Proxy: s.program("seine-proxy"), Out: os.Stdout, Err: io.Discard}
			if tt.edit != nil {
				tt.edit(&o)
			}
			err := Up(t.Context(), nil, o)
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want a sentence with %q", err, tt.want)
			}
			if _, err := os.Stat(s.run); !os.IsNotExist(err) {
				t.Errorf("run folder: %v", err)
			}
		})
	}
}

func TestRemedy(t *testing.T) {
	for _, tt := range []struct{ file, value, want string }{
		{"kernel/apparmor_restrict_unprivileged_userns", "1\n", ": allow them with `sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`"},
		{"kernel/apparmor_restrict_unprivileged_userns", "0\n", ""},
		{"kernel/unprivileged_userns_clone", "0\n", ": allow them with `sudo sysctl -w kernel.unprivileged_userns_clone=1`"},
		{"user/max_user_namespaces", "0\n", ": allow them with `sudo sysctl -w user.max_user_namespaces=15000`"},
		{"user/max_user_namespaces", "96365\n", ""},
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, tt.file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(tt.value), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := remedy(dir); got != tt.want {
			t.Errorf("%s=%s: %q", tt.file, tt.value, got)
		}
	}
}
