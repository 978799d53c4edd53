package local

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/seinemesh/seine/local/process"
	"github.com/seinemesh/seine/local/rundir"
	"github.com/seinemesh/seine/local/sandbox"
)

// Names in the run folder.
const (
	dialSocket = "dial.sock" // hostdial, served by the outer process
	logsDir    = rundir.Logs
	dnsSocket  = "dns.sock" // the host's resolver, served by the outer process
)

// rootFile is where seined keeps its roots in the state folder.
const rootFile = "root-cert.pem"

// maxLog bounds each log file; as much again is kept of what was before.
const maxLog = 16 << 20

// sink takes a program's output: into the file NAME.log, to who on the screen if
// that is wanted, and the last line to last. It is made once for all runs of a
// program.
func (r *runner) sink(name, who string, colour int, last func(string)) func([]byte) {
	file, err := process.OpenFile(rundir.Log(r.RunDir, name), maxLog)
	if err != nil {
		r.print.event("%s: %v", name, err)
	}
	return func(line []byte) {
		text := string(line)
		if file != nil {
			if err := file.WriteLine(line); err != nil {
				r.log.Warn("write log", "file", name, "err", err)
			}
		}
		if who != "" && r.Logs {
			r.print.line(who, colour, text)
		}
		if strings.TrimSpace(text) != "" {
			last(text)
		}
	}
}

// exec starts a program whose output goes to sink.
func (r *runner) exec(spec sandbox.Spec, sink func([]byte), files []*os.File, launch sandbox.Launcher) (process.Program, error) {
	spec.Bound = !r.world.isolated
	pr, pw, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", spec.Args[0], err)
	}
	p, err := sandbox.Start(spec, pw, files, launch)
	pw.Close()
	if err != nil {
		pr.Close()
		return nil, err
	}
	go func() {
		defer pr.Close()
		process.Lines(pr, sink)
	}()
	return p, nil
}

// programEnv is the environment of our own programs.
func (r *runner) programEnv() []string {
	return keepEnv("PATH", "HOME", "TMPDIR", "TZ", "GODEBUG", "GORACE")
}

func keepEnv(names ...string) []string {
	var env []string
	for _, n := range names {
		if v, ok := os.LookupEnv(n); ok {
			env = append(env, n+"="+v)
		}
	}
	return env
}

// environment is what a workload's program finds: little of the user's own, who
// it is, where to listen, and what its description says.
func (m *member) environment() []string {
	env := keepEnv("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR")
	if m.r.Home != "" {
		env = append(env, "HOME="+m.r.Home, "USER="+m.r.User, "LOGNAME="+m.r.User)
	}
	addr := m.entry.Addr.String()
	env = append(env,
		"HOSTNAME="+m.entry.Instance, "POD_NAME="+m.entry.Instance, "POD_NAMESPACE="+m.entry.Namespace, "POD_IP="+addr,
	)
	for i, p := range m.entry.Ports {
		port := int(p.Number)
		if m.apps != nil {
			port = int(m.apps[i])
		}
		if i == 0 {
			env = append(env, "PORT="+strconv.Itoa(port))
		}
		env = append(env, fmt.Sprintf("PORT_%d=%d", p.Number, port))
	}
	if !m.r.world.isolated && m.entry.Sidecar {
		proxy := fmt.Sprintf("http://%s:%d", addr, portOutbound)
		env = append(env, "HOST="+addr, "HTTP_PROXY="+proxy, "http_proxy="+proxy, "HTTPS_PROXY="+proxy, "https_proxy="+proxy, "NO_PROXY=", "no_proxy=")
	}
	var own []string
	for k, v := range m.local.Env {
		own = append(own, k+"="+v)
	}
	slices.Sort(own)
	return lastOfEach(append(env, own...))
}

// lastOfEach leaves of variables that are set twice the last: programs differ
// in which one they take.
func lastOfEach(env []string) []string {
	at := map[string]int{}
	out := env[:0:0]
	for _, kv := range env {
		name, _, _ := strings.Cut(kv, "=")
		if i, twice := at[name]; twice {
			out[i] = kv
			continue
		}
		at[name] = len(out)
		out = append(out, kv)
	}
	return out
}

// files are the files that a program of this member sees in place of the host's.
func (m *member) files() map[string]string {
	return map[string]string{
		"/etc/resolv.conf":   filepath.Join(m.dir, "resolv.conf"),
		"/etc/hosts":         filepath.Join(m.dir, "hosts"),
		"/etc/hostname":      filepath.Join(m.dir, "hostname"),
		"/etc/nsswitch.conf": filepath.Join(m.dir, "nsswitch.conf"),
	}
}

func (m *member) writeFiles() error {
	_, domain := m.r.domains()
	for name, text := range map[string]string{
		"resolv.conf":   resolvConf(m.r.world.control.String(), m.entry.Namespace, domain),
		"hosts":         fmt.Sprintf("127.0.0.1 localhost\n%s %s\n", m.entry.Addr, m.entry.Instance),
		"hostname":      m.entry.Instance + "\n",
		"nsswitch.conf": nsswitch("/etc/nsswitch.conf"),
	} {
		if err := os.WriteFile(filepath.Join(m.dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// resolvConf is Kubernetes': ndots lets billing-service.default be looked for
// in the search path first.
func resolvConf(server, namespace, domain string) string {
	return fmt.Sprintf("nameserver %s\nsearch %s.svc.%s svc.%s %s\noptions ndots:5\n", server, namespace, domain, domain, domain)
}

// nsswitch is the host's file with names looked up in hosts and DNS only: other
// sources (nss-resolve, mDNS) ask daemons of the host, which know no mesh.
func nsswitch(path string) string {
	var b strings.Builder
	data, err := os.ReadFile(path)
	if err == nil {
		for s := bufio.NewScanner(bytes.NewReader(data)); s.Scan(); {
			if !strings.HasPrefix(strings.TrimSpace(s.Text()), "hosts:") {
				b.WriteString(s.Text() + "\n")
			}
		}
	}
	return b.String() + "hosts: files dns\n"
}

// proxyArgs are the member's seine-proxy's.
func (m *member) proxyArgs() []string {
	addr := m.entry.Addr.String()
	at := func(ip string, port int) string { return net.JoinHostPort(ip, strconv.Itoa(port)) }
	trust, _ := m.r.domains()
	args := []string{
		m.r.Proxy, "--workload", m.key, "--service-account", m.entry.ServiceAccount, "--trust-domain", trust,
		"--control", at(m.r.world.control.String(), portXDS),
		"--ca-bundle", filepath.Join(m.dir, "ca.pem"), "--token", filepath.Join(m.dir, "token"),
		"--drain", proxyDrain, "--drain-limit", grace.String(), "--access-log", "-",
	}
	if m.r.Credentials != "" {
		args = append(args, "--credentials", m.r.Credentials)
	}
	if m.r.world.isolated {
		args = append(args, "--admin", at("127.0.0.1", portAdmin), "--status", at("0.0.0.0", portStatus),
			"--mark", "1337", "--host-dialer", filepath.Join(m.r.RunDir, dialSocket))
	} else {
		args = append(args, "--admin", at(addr, portAdmin), "--status", at(addr, portStatus), "--mark", "0")
	}
	switch {
	case m.local == nil:
		args = append(args, "--mode", "gateway")
		for i, p := range m.r.Publish {
			args = append(args, "--publish", fmt.Sprintf("fd:%d=%s:%d", sandbox.FirstFile+i, p.Host, p.To))
		}
	case m.r.world.isolated:
		args = append(args, "--mode", "redirect", "--outbound", at("0.0.0.0", portOutbound), "--inbound", at("0.0.0.0", portInbound))
	default:
		args = append(args, "--mode", "explicit", "--outbound", at(addr, portOutbound))
		for i, p := range m.entry.Ports {
			args = append(args, "--listen-inbound", at(addr, int(p.Number))+"="+at(addr, int(m.apps[i])))
		}
	}
	return args
}

// freePorts finds n ports of this host that nothing listens on now.
func freePorts(n int) ([]uint16, error) {
	out := make([]uint16, 0, n)
	var held []net.Listener
	defer func() {
		for _, l := range held {
			l.Close()
		}
	}()
	for range n {
		l, err := net.Listen("tcp4", "0.0.0.0:0")
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		held = append(held, l)
		tcp, ok := l.Addr().(*net.TCPAddr)
		if !ok {
			return nil, errors.New("find a free port: not TCP")
		}
		out = append(out, uint16(tcp.Port))
	}
	return out, nil
}

// proxyDrain is how long a sidecar that is told to end accepts connections: its
// program has ended by then, and everybody was told to call others.
const proxyDrain = "100ms"
