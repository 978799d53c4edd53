//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/seinemesh/seine/stat"
)

// patience bounds every wait for a condition.
const patience = 60 * time.Second

// user is who runs the mesh.
type user struct {
	name string
	id   uint32
	as   *syscall.Credential // nil: who we are
}

// users are root, where we are root, and an ordinary one.
func users() []user {
	if os.Getuid() != 0 {
		return []user{{"ordinary", uint32(os.Getuid()), nil}}
	}
	// An id that no account has: nothing may depend on there being one.
	const nobody = 48213
	return []user{{"root", 0, nil}, {"ordinary", nobody, &syscall.Credential{Uid: nobody, Gid: nobody, NoSetGroups: false}}}
}

// mesh is one `seine up`.
type mesh struct {
	t    *testing.T
	dir  string // what it was started on
	run  string
	port int
	cmd  *exec.Cmd
	out  *tail
	done chan struct{} // closed when it has ended
	err  error         // of its end
	http *http.Client  // to the control plane's socket
}

// start copies the billing example into a folder of the user's, lets edit
// change it, and brings it up.
func start(t *testing.T, u user, edit func(dir string), args ...string) *mesh {
	t.Helper()
	home, err := os.MkdirTemp("", "seine-up-")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(home) })
	m := &mesh{t: t, dir: filepath.Join(home, "billing"), run: filepath.Join(home, "run"), out: &tail{}, done: make(chan struct{})}
	must(t, os.Mkdir(m.dir, 0o755))
	for _, name := range []string{"mesh.yaml", "services.yaml", "workloads.yaml"} {
		text, err := os.ReadFile(filepath.Join("../../examples/billing", name))
		must(t, err)
		must(t, os.WriteFile(filepath.Join(m.dir, name), text, 0o644))
	}
	m.port = freePort(t)
	m.replace("workloads.yaml", "port: 8080, to:", fmt.Sprintf("port: %d, to:", m.port))
	if edit != nil {
		edit(m.dir)
	}
	own(t, home, u)

	m.cmd = exec.Command(filepath.Join(bin, "seine"), append([]string{"up", "--require-isolation", "--logs=keep", "--run-dir", m.run}, args...)...)
	m.cmd.Args = append(m.cmd.Args, m.dir)
	m.cmd.Env = []string{"PATH=" + bin + ":/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + home}
	m.cmd.Dir = home
	m.cmd.Stdout, m.cmd.Stderr = m.out, m.out
	// A process group of its own: a Ctrl-C at the test is not one at the mesh.
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: u.as, Setpgid: true, Pdeathsig: syscall.SIGKILL}
	must(t, m.cmd.Start())
	go func() { m.err = m.cmd.Wait(); close(m.done) }()
	t.Cleanup(func() {
		m.cmd.Process.Kill()
		<-m.done
		if t.Failed() {
			t.Logf("seine up said:\n%s", m.out)
		}
	})
	socket := filepath.Join(m.run, "seined.sock")
	m.http = &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}
	return m
}

// own gives everything below dir to the user.
func own(t *testing.T, dir string, u user) {
	must(t, filepath.Walk(dir, func(path string, _ os.FileInfo, err error) error {
		if err != nil || u.as == nil {
			return err
		}
		return os.Chown(path, int(u.id), int(u.id))
	}))
}

// replace writes a file of the mesh's folder anew, as an editor does: a new
// file beside it, then the name.
func (m *mesh) replace(name, old, new string) {
	m.t.Helper()
	path := filepath.Join(m.dir, name)
	text, err := os.ReadFile(path)
	must(m.t, err)
	if !bytes.Contains(text, []byte(old)) {
		m.t.Fatalf("%s does not hold %q", name, old)
	}
	part := filepath.Join(m.dir, "."+name+".new")
	must(m.t, os.WriteFile(part, bytes.ReplaceAll(text, []byte(old), []byte(new)), 0o644))
	must(m.t, os.Rename(part, path))
}

// get asks the control plane's API.
func (m *mesh) get(path string, into any) error {
	res, err := m.http.Get("http://localhost" + path)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s: %s", path, res.Status, text)
	}
	if s, ok := into.(*string); ok {
		*s = string(text)
		return nil
	}
	return json.Unmarshal(text, into)
}

// stat is the table, by "service/version".
func (m *mesh) stat() (map[string]stat.Service, stat.Table, error) {
	var table stat.Table
	if err := m.get("/api/v1/stat", &table); err != nil {
		return nil, table, err
	}
	rows := map[string]stat.Service{}
	for _, s := range table.Services {
		rows[s.Name+"/"+s.Version] = s
	}
	return rows, table, nil
}

// log is what a workload or program has written.
func (m *mesh) log(name string) string {
	text, err := os.ReadFile(filepath.Join(m.run, "logs", name+".log"))
	if err != nil {
		return ""
	}
	return string(text)
}

// await waits until ok says yes; it fails the test with what ok said last.
func (m *mesh) await(what string, ok func() error) {
	m.t.Helper()
	limit := time.After(patience)
	for {
		err := ok()
		if err == nil {
			return
		}
		select {
		case <-m.done:
			m.t.Fatalf("waiting for %s: seine up ended: %v\n%s", what, m.err, m.out)
		case <-limit:
			m.t.Fatalf("waited %v for %s: %v", patience, what, err)
		case <-time.After(20 * time.Millisecond): // between two looks at a condition
		}
	}
}

// get1 asks frontend through the published port, and gives the version of
// billing that answered.
func (m *mesh) get1(c *http.Client) (string, error) {
	res, err := c.Get(fmt.Sprintf("http://127.0.0.1:%d/", m.port))
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return "", err
	}
	if res.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s (flag %s)", res.Status, strings.TrimSpace(string(text)), res.Header.Get("x-seine-cause"))
	}
	return res.Header.Get("x-billing-version"), nil
}

// processes are the pids of every process that runs a program whose path
// begins with prefix.
func (m *mesh) processes(prefix string) []int {
	m.t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/exe")
	must(m.t, err)
	var pids []int
	for _, link := range links {
		program, err := os.Readlink(link)
		if err != nil || !strings.HasPrefix(program, prefix) {
			continue // it ended meanwhile, or is another user's
		}
		var pid int
		if _, err := fmt.Sscanf(link, "/proc/%d/", &pid); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// interrupt is Ctrl-C.
func (m *mesh) interrupt() {
	m.t.Helper()
	must(m.t, m.cmd.Process.Signal(os.Interrupt))
	select {
	case <-m.done:
	case <-time.After(patience):
		m.t.Fatalf("seine up had not ended %v after Ctrl-C", patience)
	}
}

func freePort(t *testing.T) int {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tail keeps the last of what a program says.
type tail struct {
	mu   sync.Mutex
	text []byte
}

func (o *tail) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text = append(o.text, p...)
	if most := 32 << 10; len(o.text) > most {
		o.text = o.text[len(o.text)-most:]
	}
	return len(p), nil
}

func (o *tail) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.text)
}
