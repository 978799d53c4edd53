package sandbox

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/seinemesh/seine/local/netns/netnstest"
)

// The test binary is its own stage and its own guest.
const guestEnv = "SEINE_TEST_GUEST"

func TestMain(m *testing.M) {
	switch {
	case IsStage(os.Args):
		Stage()
	case os.Getenv(guestEnv) != "":
		guest(os.Getenv(guestEnv))
		os.Exit(0)
	}
	netnstest.Main(m)
}

// view is what a guest sees of itself.
type view struct {
	Status   map[string]string // of /proc/self/status
	PID      int
	UID      int
	Dir      string
	Env      []string
	Resolv   string
	Secret   string // error of reading what is hidden
	Kept     string
	CoverErr string // error of writing into the cover
	Mark     string // error of SO_MARK
	Admin    string // error of an unshare that needs privilege
	File     string // what came by descriptor FirstFile
	Others   int    // processes that /proc shows
}

func guest(what string) {
	switch what {
	case "wait": // dies of SIGTERM where it is not process 1
		select {}
	case "handle":
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGTERM)
		os.Stdout.WriteString("ready\n")
		<-c
		os.Exit(7)
	}
	text := func(err error) string {
		if err == nil {
			return ""
		}
		return err.Error()
	}
	v := view{Status: map[string]string{}, PID: os.Getpid(), UID: os.Getuid(), Env: os.Environ()}
	v.Dir, _ = os.Getwd()
	status, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(status)) {
		k, val, _ := strings.Cut(line, ":")
		v.Status[k] = strings.TrimSpace(val)
	}
	if dir := os.Getenv("HIDDEN"); dir != "" {
		_, err := os.ReadFile(filepath.Join(dir, "secret"))
		v.Secret = text(err)
		kept, _ := os.ReadFile(filepath.Join(dir, "mine", "token"))
		v.Kept = string(kept)
		v.CoverErr = text(os.WriteFile(filepath.Join(dir, "x"), nil, 0o600))
	}
	resolv, _ := os.ReadFile("/etc/resolv.conf")
	v.Resolv = string(resolv)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, 1337)
	}
	v.Mark = text(err)
	v.Admin = text(unix.Mount("tmpfs", "/tmp", "tmpfs", 0, ""))
	if f := os.NewFile(FirstFile, "file"); f != nil {
		b, _ := io.ReadAll(f)
		v.File = string(b)
	}
	names, _ := os.ReadDir("/proc")
	for _, n := range names {
		if n.Name()[0] >= '0' && n.Name()[0] <= '9' {
			v.Others++
		}
	}
	_ = json.NewEncoder(os.Stdout).Encode(v)
}

func start(t *testing.T, spec Spec, files ...*os.File) (*Process, *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	p, err := Start(spec, w, files, (*exec.Cmd).Start)
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	return p, r
}

func look1(t *testing.T, spec Spec, files ...*os.File) view {
	t.Helper()
	spec.Args, spec.Env = []string{"/proc/self/exe"}, append(spec.Env, guestEnv+"=look")
	p, out := start(t, spec, files...)
	var v view
	if err := json.NewDecoder(out).Decode(&v); err != nil {
		t.Fatal(err, p.Wait())
	}
	if err := p.Wait(); err != nil {
		t.Fatal(err)
	}
	return v
}

const noCaps = "0000000000000000"

func wantCaps(t *testing.T, v view, want string) {
	t.Helper()
	for _, set := range []string{"CapPrm", "CapEff", "CapBnd", "CapAmb", "CapInh"} {
		if v.Status[set] != want {
			t.Errorf("%s is %s, want %s", set, v.Status[set], want)
		}
	}
	if v.Status["NoNewPrivs"] != "1" {
		t.Error("no_new_privs is not set")
	}
}

// A workload: nothing is left to it, in each way that it can be started.
func TestNoCapabilities(t *testing.T) {
	for name, spec := range map[string]Spec{
		"plain":        {},
		"own mounts":   {NewMount: true},
		"own pids":     {NewMount: true, NewPID: true},
		"own users":    {NewMount: true, NewPID: true, NewUser: true, UID: 1000, GID: 1000},
		"own users, 0": {NewMount: true, NewPID: true, NewUser: true},
		"another uid":  {NewMount: true, NewPID: true, UID: 1234, GID: 1234},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "another uid" && netnstest.Unprivileged() {
				t.Skip("an ordinary user's namespace maps one uid only")
			}
			v := look1(t, spec)
			wantCaps(t, v, noCaps)
			if v.Mark == "" || v.Admin == "" {
				t.Errorf("SO_MARK: %q, mount: %q; want both refused", v.Mark, v.Admin)
			}
			if v.UID != spec.UID {
				t.Errorf("uid %d, want %d", v.UID, spec.UID)
			}
			if spec.NewPID && (v.PID != 1 || v.Others != 1) {
				t.Errorf("process %d sees %d processes", v.PID, v.Others)
			}
		})
	}
}

// A sidecar: it may mark its sockets and nothing else.
func TestOneCapability(t *testing.T) {
	v := look1(t, Spec{Caps: []uintptr{unix.CAP_NET_ADMIN}, NewMount: true})
	wantCaps(t, v, "0000000000001000")
	if v.Mark != "" {
		t.Errorf("SO_MARK: %s", v.Mark)
	}
	if v.Admin == "" {
		t.Error("it could mount")
	}
}

func TestFilesHideKeep(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("run/secret", "s")
	write("run/mine/token", "t")
	write("run/resolv", "nameserver 10.244.0.1\n")
	sock, err := net.Listen("unix", filepath.Join(dir, "run/sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer sock.Close()
	run := filepath.Join(dir, "run")
	spec := Spec{
		Env: []string{"HIDDEN=" + run, "A=b"}, Dir: dir, NewMount: true,
		Hide: []string{run}, Keep: []string{filepath.Join(run, "mine"), filepath.Join(run, "sock")},
		Files: map[string]string{"/etc/resolv.conf": filepath.Join(run, "resolv"), "/etc/no-such-file": filepath.Join(run, "resolv")},
	}
	for _, user := range []bool{false, true} {
		spec.NewUser, spec.NewPID = user, user
		v := look1(t, spec)
		if v.Secret == "" || v.Kept != "t" || !strings.Contains(v.CoverErr, "read-only") {
			t.Errorf("secret: %q, kept: %q, write: %q", v.Secret, v.Kept, v.CoverErr)
		}
		if v.Resolv != "nameserver 10.244.0.1\n" {
			t.Errorf("resolv.conf: %q", v.Resolv)
		}
		if v.Dir != dir {
			t.Errorf("working folder %q", v.Dir)
		}
		if len(v.Env) != 3 {
			t.Errorf("environment %q: more than was given", v.Env)
		}
	}
	if b, err := os.ReadFile(filepath.Join(run, "secret")); err != nil || string(b) != "s" {
		t.Errorf("outside, the file is %q, %v", b, err)
	}
}

func TestExtraFile(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.WriteString(w, "by descriptor"); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if v := look1(t, Spec{NewMount: true}, r); v.File != "by descriptor" {
		t.Errorf("got %q", v.File)
	}
}

func TestStartErrors(t *testing.T) {
	for _, tt := range []struct {
		name string
		spec Spec
		want string
	}{
		{"empty", Spec{}, "the command is empty"},
		{"no such program", Spec{Args: []string{"no-such-program"}, Env: []string{"PATH=/bin"}}, "no-such-program: no such program in PATH"},
		{"no such file", Spec{Args: []string{"./none"}, Dir: "/"}, "./none: no such file"},
		{"no such folder", Spec{Args: []string{"sh"}, Dir: "/none"}, "working folder: chdir /none"},
		{"nothing to keep", Spec{Args: []string{"sh"}, NewMount: true, Keep: []string{"/none"}}, "keep /none"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Start(tt.spec, os.Stderr, nil, (*exec.Cmd).Start)
			var start *StartError
			if !errors.As(err, &start) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// Process 1 of a namespace ignores SIGTERM unless it handles it.
func TestSignal(t *testing.T) {
	for _, tt := range []struct {
		guest string
		pid1  bool
		want  string
	}{
		{"wait", false, "exit status 2"}, // Go's runtime dies of SIGTERM by itself
		{"handle", true, "exit status 7"},
		{"handle", false, "exit status 7"},
	} {
		p, out := start(t, Spec{Args: []string{"/proc/self/exe"}, Env: []string{guestEnv + "=" + tt.guest}, NewMount: true, NewPID: tt.pid1})
		if tt.guest == "handle" {
			if _, err := out.Read(make([]byte, 6)); err != nil {
				t.Fatal(err)
			}
		}
		if err := p.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		err := p.Wait()
		if tt.guest == "handle" && (err == nil || err.Error() != tt.want) {
			t.Errorf("%s, process 1: %v: ended with %v", tt.guest, tt.pid1, err)
		}
		if err == nil {
			t.Errorf("%s: ended with 0", tt.guest)
		}
		if err := p.Signal(syscall.SIGTERM); err != nil {
			t.Errorf("to a program that is gone: %v", err)
		}
	}
	sleep, _ := start(t, Spec{Args: []string{"sleep", "1000"}, Env: []string{"PATH=/usr/bin:/bin"}, NewMount: true, NewPID: true})
	if err := sleep.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := sleep.Wait(); err == nil || err.Error() != "signal: killed" {
		t.Errorf("a program without a handler ended with %v", err)
	}
}
