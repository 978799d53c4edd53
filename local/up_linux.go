package local

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/seinemesh/seine/config"
	"github.com/seinemesh/seine/config/files"
	"github.com/seinemesh/seine/dns"
	"github.com/seinemesh/seine/local/hostdial"
	"github.com/seinemesh/seine/local/rundir"
)

// Up runs a mesh until ctx ends, and then stops it in order; closing kill ends
// that patience. It is the outer process. It returns nil if the mesh ended as
// asked, and when it returns nothing of the mesh is left but, after an error,
// the logs in the run folder.
func Up(ctx context.Context, kill <-chan struct{}, opt Options) (err error) {
	// The hub dies with the thread that started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	j, err := check(opt)
	if err != nil {
		return err
	}
	run, err := rundir.Take(j.RunDir)
	if err != nil {
		return err
	}
	j.RunDir = run.Path
	begun := false
	defer func() {
		keep := ""
		if err != nil && begun {
			keep = logsDir
			err = fmt.Errorf("%w (logs: %s)", err, filepath.Join(run.Path, logsDir))
		}
		if e := run.Close(keep); e != nil && err == nil {
			err = e
		}
	}()
	if err := rundir.Private(j.StateDir); err != nil {
		return fmt.Errorf("state folder: %w", err)
	}
	listen, err := publish(j.Publish)
	defer closeAll(listen)
	if err != nil {
		return err
	}
	servers, stopServers := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stopServers()
	if err := serveHost(servers, &wg, j.RunDir); err != nil {
		return err
	}
	if opt.Web != "none" {
		address, link, err := serveWeb(servers, &wg, j.RunDir, opt.Web)
		if err != nil {
			return err
		}
		// The link is the owner's: what is written to a file may be read by others.
		if opt.Private {
			fmt.Fprintf(opt.Err, "dashboard: %s\n", link)
		} else {
			fmt.Fprintf(opt.Err, "dashboard: http://%s/ (seine dashboard says the link)\n", address)
		}
	}
	begun = true
	if !opt.NoIsolation {
		refused, err := isolated(ctx, kill, j, listen, opt.Out)
		if refused == "" || err != nil {
			return err
		}
		if opt.RequireIsolation {
			begun = false
			return fmt.Errorf("isolation is required, and %s", refused)
		}
		fmt.Fprintf(opt.Err, "%s; going on without isolation: programs reach the mesh by HTTP_PROXY\n", refused)
	}
	return shared(ctx, kill, j, listen, opt.Out)
}

// check finds everything that can be wrong before anything is started.
func check(opt Options) (*job, error) {
	j := &job{
		MeshConfig: opt.MeshConfig, RunDir: or(opt.RunDir, rundir.Default()), StateDir: or(opt.StateDir, rundir.DefaultState()),
		CertTTL: opt.CertTTL, For: opt.For, ReadyTimeout: opt.ReadyTimeout, Logs: opt.Logs, Own: os.Geteuid() != 0,
	}
	if err := j.runAs(); err != nil {
		return nil, err
	}
	var err error
	if j.StateDir, err = filepath.Abs(j.StateDir); err != nil {
		return nil, err
	}
	if opt.Credentials != "" {
		if _, err := os.Stat(opt.Credentials); err != nil {
			return nil, fmt.Errorf("read credentials: %w", err)
		}
		if j.Credentials, err = filepath.Abs(opt.Credentials); err != nil {
			return nil, err
		}
	}
	for _, p := range opt.Paths {
		if _, err := os.Stat(p); err != nil {
			return nil, fmt.Errorf("read resources: %w", err)
		}
		j.Paths = append(j.Paths, p)
	}
	res, err := files.Load(files.Options{Paths: j.Paths, MeshConfig: j.MeshConfig})
	if err != nil {
		return nil, err
	}
	for _, f := range res.Findings {
		if f.Severity == config.Error && f.Kind == "Workload" {
			return nil, errors.New(clean(f.String())) // of two with one name, nobody knows which is meant
		}
		if f.Severity >= config.Warning {
			fmt.Fprintln(opt.Err, clean(f.String()))
		}
	}
	if len(res.Local) == 0 {
		return nil, fmt.Errorf("no Workload in %s: seine up runs what resources of kind Workload (local.seine.dev/v1) describe", strings.Join(opt.Paths, ", "))
	}
	for _, l := range res.Local {
		if err := runnable(l); err != nil {
			return nil, err
		}
	}
	if j.Seined, err = program(opt.Seined, "seined"); err != nil {
		return nil, err
	}
	if j.Proxy, err = program(opt.Proxy, "seine-proxy"); err != nil {
		return nil, err
	}
	j.Publish = res.Publish
	return j, nil
}

// runAs finds who runs workloads: this user, or, under sudo, the one who called
// it, for a root without capabilities still owns root's files.
func (j *job) runAs() error {
	j.UID, j.GID = os.Getuid(), os.Getgid()
	id, by := os.Getenv("SUDO_UID"), os.Getenv("SUDO_GID")
	if j.Own || id == "" || id == "0" {
		return nil
	}
	var err, err2 error
	j.UID, err = strconv.Atoi(id)
	j.GID, err2 = strconv.Atoi(by)
	if err != nil || err2 != nil || j.UID < 0 || j.GID < 0 {
		return fmt.Errorf("SUDO_UID=%q and SUDO_GID=%q are not ids", id, by)
	}
	if u, err := user.LookupId(id); err == nil {
		j.User, j.Home = u.Username, u.HomeDir
	}
	return nil
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// runnable reports whether a Workload's folder and program are there. Its own
// PATH, if its env sets one, is not looked at: then the sandbox says it.
func runnable(l *config.Local) error {
	where := fmt.Sprintf("%s:%d: Workload %s/%s", l.File, l.Line, l.Namespace, l.Name)
	dir := l.Dir()
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return fmt.Errorf("%s: spec.workingDir: %s is not a folder", where, dir)
	}
	name := l.Command[0]
	if strings.Contains(name, "/") {
		path := name
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, name)
		}
		if info, err := os.Stat(path); err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
			return fmt.Errorf("%s: spec.command: %s is not a program: build it first, or correct the path (it is relative to %s)", where, name, dir)
		}
		return nil
	}
	if _, own := l.Env["PATH"]; own {
		return nil
	}
	if _, err := exec.LookPath(name); err != nil {
		return fmt.Errorf("%s: spec.command: there is no program %s in PATH: build or install it, or write its path", where, name)
	}
	return nil
}

// program finds one of our own programs: as told, beside this one, or in PATH.
func program(told, name string) (string, error) {
	if told != "" {
		path, err := filepath.Abs(told)
		if err != nil {
			return "", err
		}
		if _, err := exec.LookPath(path); err != nil {
			return "", fmt.Errorf("%s is not a program", told)
		}
		return path, nil
	}
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), name)
		if _, err := exec.LookPath(beside); err == nil {
			return beside, nil
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("there is no %s beside this program nor in PATH: build it (make build), or say where it is with --%s", name, name)
	}
	return filepath.Abs(path)
}

// publish opens the published ports on the host's loopback.
func publish(ports []config.Publish) ([]*os.File, error) {
	var out []*os.File
	for _, p := range ports {
		l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(p.Port)})
		if err != nil {
			if errors.Is(err, syscall.EADDRINUSE) {
				return out, fmt.Errorf("%s:%d: %s %s/%s: port %d of 127.0.0.1 is in use by another program: stop that, or publish another port", p.File, p.Line, p.Kind, p.Namespace, p.Name, p.Port)
			}
			return out, fmt.Errorf("%s:%d: publish port %d: %w", p.File, p.Line, p.Port, err)
		}
		f, err := l.File()
		l.Close()
		if err != nil {
			return out, fmt.Errorf("publish port %d: %w", p.Port, err)
		}
		out = append(out, f)
	}
	return out, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// serveHost lends the host's network to the mesh: connections to the outside,
// and the host's resolver.
func serveHost(ctx context.Context, wg *sync.WaitGroup, dir string) error {
	dial, err := listenUnix(filepath.Join(dir, dialSocket))
	if err != nil {
		return err
	}
	names, err := listenUnix(filepath.Join(dir, dnsSocket))
	if err != nil {
		dial.Close()
		return err
	}
	mesh := []netip.Prefix{config.DefaultVIPs, instances}
	server := &hostdial.Server{Refuse: func(a netip.AddrPort) string { return hostdial.Refuse(a, mesh) }}
	wg.Go(func() { _ = server.Serve(ctx, dial) })
	wg.Go(func() {
		_ = dns.ServeUnix(ctx, names, func() *dns.Upstream { return dns.ReadUpstream("/etc/resolv.conf") })
	})
	return nil
}

// listenUnix listens on path, for this user only.
func listenUnix(path string) (*net.UnixListener, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return l, nil
}

// isolated runs the mesh in a hub. refused says why the kernel does not let it.
func isolated(ctx context.Context, kill <-chan struct{}, j *job, listen []*os.File, out *os.File) (refused string, err error) {
	ours, theirs, err := socketpair()
	if err != nil {
		return "", err
	}
	cmd := exec.Command("/proc/self/exe", HubArgs()...)
	cmd.Args[0] = "seine"
	cmd.Stdout, cmd.Stderr = out, os.Stderr
	cmd.ExtraFiles = append([]*os.File{theirs}, listen...)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid: true, Pdeathsig: syscall.SIGKILL, // Ctrl-C is for the outer process alone
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
	}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		ours.Close()
		return refusal(err.Error()), nil
	}
	ch, err := newChannel(ours)
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return "", err
	}
	defer ch.close()
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-ctx.Done():
			_ = ch.send(order{Stop: true}) // the hub is gone already
		case <-done:
			return
		}
		select {
		case <-kill:
			_ = ch.send(order{Kill: true})
		case <-done:
			return
		}
		select {
		case <-time.After(lastPatience):
			_ = cmd.Process.Kill() // the kernel ends the rest
		case <-done:
		}
	}()
	last, err := talk(ch, j)
	ch.close()
	wait := cmd.Wait()
	switch {
	case last.Refused != "":
		return refusal(last.Refused), nil
	case last.Failed != "":
		return "", errors.New(last.Failed)
	case last.Done:
		return "", nil
	case wait != nil:
		return "", fmt.Errorf("the process that holds the mesh ended by itself (%w): everything in it is gone", wait)
	}
	return "", err
}

// lastPatience is how long a hub that was told to end at once may take.
const lastPatience = 3 * time.Second

// talk starts the mesh and hears how it ends.
func talk(ch *channel, j *job) (last notice, err error) {
	if err := ch.send(order{Start: j}); err != nil {
		return last, err
	}
	for {
		var n notice
		if err := ch.receive(&n); err != nil {
			return last, fmt.Errorf("control channel: %w", err)
		}
		if !n.Begun {
			return n, nil
		}
	}
}

// shared runs the mesh without isolation.
func shared(ctx context.Context, kill <-chan struct{}, j *job, listen []*os.File, out *os.File) error {
	w, end := share()
	defer end()
	p := newPrinter(out, term.IsTerminal(int(out.Fd())))
	defer p.close()
	p.event("%s", fallbackHeader)
	err := newRunner(*j, w, p, listen, kill).run(ctx)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// refusal says that and why isolation does not work, with the one command that
// allows it where it is known.
func refusal(why string) string {
	how := remedy("/proc/sys")
	if how == "" && os.Geteuid() == 0 {
		how = ": a container needs --privileged for that"
	}
	return "this kernel refuses the namespaces that isolation needs (" + why + ")" + how
}

func remedy(sys string) string {
	for _, r := range []struct{ file, value, command string }{
		{"kernel/apparmor_restrict_unprivileged_userns", "1", "kernel.apparmor_restrict_unprivileged_userns=0"},
		{"kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"},
		{"user/max_user_namespaces", "0", "user.max_user_namespaces=15000"},
	} {
		if data, err := os.ReadFile(filepath.Join(sys, r.file)); err == nil && strings.TrimSpace(string(data)) == r.value {
			return ": allow them with `sudo sysctl -w " + r.command + "`"
		}
	}
	return ""
}
