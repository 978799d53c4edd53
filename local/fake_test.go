//go:build linux

package local

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/seinemesh/seine/config"
	"github.com/seinemesh/seine/local/netns/netnstest"
	"github.com/seinemesh/seine/local/sandbox"
	"github.com/seinemesh/seine/stat"
)

// The test binary plays every part: hub, stage, and under other names a control
// plane, a proxy and workloads that do just enough to see what local does.
func TestMain(m *testing.M) {
	switch {
	case IsHub(os.Args):
		if err := Hub(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	case sandbox.IsStage(os.Args):
		sandbox.Stage()
	}
	parts := map[string]func([]string) error{"seined": playControl, "seine-proxy": playProxy, "app": playApp, "outer": playOuter}
	if part := parts[filepath.Base(os.Args[0])]; part != nil {
		if err := part(os.Args[1:]); err != nil {
			fmt.Println(os.Args[0], err)
			os.Exit(3)
		}
		os.Exit(0)
	}
	netnstest.MainPlain(m)
}

// terminated is closed by SIGTERM.
func terminated() <-chan struct{} {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	_ = stop
	return ctx.Done()
}

func playControl(args []string) error {
	f := flag.NewFlagSet("seined", flag.ContinueOnError)
	entries := ""
	f.Func("config", "", func(v string) error { entries = v; return nil }) // the last is local's own
	state, socket := f.String("state", "", ""), f.String("socket", "", "")
	for _, name := range []string{"listen", "http", "join-secret", "cert-ttl", "mesh-config"} {
		f.String(name, "", "")
	}
	if err := f.Parse(args); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(*state, rootFile), []byte("root"), 0o600); err != nil {
		return err
	}
	l, err := net.Listen("unix", *socket)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /api/v1/stat", func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(stat.Table{}) })
	mux.HandleFunc("GET /api/v1/config", func(w http.ResponseWriter, _ *http.Request) {
		names, _ := filepath.Glob(filepath.Join(entries, "*.yaml"))
		healthy := 0
		for _, name := range names {
			if text, err := os.ReadFile(name); err == nil && !strings.Contains(string(text), config.AnnotationHealthy) {
				healthy++
			}
		}
		fmt.Fprintf(w, `{"healthy": %d}`, healthy)
	})
	go func() { _ = http.Serve(l, mux) }()
	<-terminated()
	return nil
}

// playProxy says of each connection which of its doors it came to, and what the
// kernel says that it was for.
func playProxy(args []string) error {
	f := flag.NewFlagSet("seine-proxy", flag.ContinueOnError)
	status, outbound, inbound := f.String("status", "", ""), f.String("outbound", "", ""), f.String("inbound", "", "")
	token, mark := f.String("token", "", ""), f.Int("mark", 0, "")
	for _, name := range []string{"workload", "service-account", "trust-domain", "control", "ca-bundle", "drain", "drain-limit", "access-log", "admin", "host-dialer", "mode"} {
		f.String(name, "", "")
	}
	serve := func(l net.Listener, door string) {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprintf(c, "%s %s\n", door, originalOf(c.(*net.TCPConn)))
			c.Close()
		}
	}
	f.Func("publish", "", func(v string) error {
		from, to, _ := strings.Cut(v, "=")
		fd, err := strconv.Atoi(strings.TrimPrefix(from, "fd:"))
		if err != nil {
			return err
		}
		l, err := net.FileListener(os.NewFile(uintptr(fd), "published"))
		if err != nil {
			return err
		}
		go serve(l, "published "+to)
		return nil
	})
	f.Func("listen-inbound", "", func(v string) error {
		from, to, _ := strings.Cut(v, "=")
		l, err := net.Listen("tcp", from)
		if err != nil {
			return err
		}
		go serve(l, "inbound for "+to)
		return nil
	})
	if err := f.Parse(args); err != nil {
		return err
	}
	if t, err := os.ReadFile(*token); err != nil || !strings.HasPrefix(string(t), "seine1.") {
		return fmt.Errorf("token: %q, %v", t, err)
	}
	for door, at := range map[string]string{"outbound": *outbound, "inbound": *inbound} {
		if at == "" {
			continue
		}
		l, err := net.Listen("tcp4", at)
		if err != nil {
			return err
		}
		go serve(l, door)
	}
	if *mark != 0 {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, *mark); err != nil {
			return fmt.Errorf("mark a socket: %w", err)
		}
	}
	l, err := net.Listen("tcp4", *status)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz/ready", func(http.ResponseWriter, *http.Request) {})
	go func() { _ = http.Serve(l, mux) }()
	<-terminated()
	return nil
}

func originalOf(c *net.TCPConn) (out string) {
	out = "directly"
	raw, err := c.SyscallConn()
	if err != nil {
		return err.Error()
	}
	_ = raw.Control(func(fd uintptr) {
		if m, err := unix.GetsockoptIPv6Mreq(int(fd), unix.SOL_IP, 80); err == nil {
			a := m.Multiaddr
			out = netip.AddrPortFrom(netip.AddrFrom4([4]byte(a[4:8])), binary.BigEndian.Uint16(a[2:])).String()
		}
	})
	return out
}

// playApp is the workloads.
func playApp(args []string) error {
	switch args[0] {
	case "crash":
		return fmt.Errorf("my reason")
	case "serve":
		l, err := net.Listen("tcp", ":"+os.Getenv("PORT"))
		if err != nil {
			return err
		}
		fmt.Println("serving", args[1:])
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				c.Close()
			}
		}()
	case "look":
		out, err := json.Marshal(look(args[1], args[2]))
		if err != nil {
			return err
		}
		fmt.Println(string(out))
	}
	<-terminated()
	fmt.Println("terminated")
	return nil
}

// sight is what a workload sees.
type sight struct {
	Caps, Host, Secret string
	UID, Processes     int
	Names              map[string]string // name → addresses or error
	Doors              map[string]string // address dialled → what answered
	Env                map[string]string
}

func look(secret, targets string) sight {
	s := sight{UID: os.Getuid(), Names: map[string]string{}, Doors: map[string]string{}, Env: map[string]string{}}
	status, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(status)) {
		if k, v, _ := strings.Cut(line, ":"); strings.HasPrefix(k, "Cap") || k == "NoNewPrivs" {
			s.Caps += strings.TrimLeft(strings.TrimSpace(v), "0")
		}
	}
	s.Host, _ = os.Hostname()
	b, err := os.ReadFile(secret)
	if s.Secret = "hidden"; err == nil {
		s.Secret = string(b)
	}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err == nil {
			s.Processes++
		}
	}
	for target := range strings.SplitSeq(targets, ",") {
		host, _, _ := net.SplitHostPort(target)
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		addrs, err := net.DefaultResolver.LookupHost(ctx, host)
		cancel()
		if s.Names[host] = strings.Join(addrs, " "); err != nil {
			s.Names[host] = err.Error()
			continue
		}
		c, err := net.DialTimeout("tcp4", target, 5*time.Second)
		if err != nil {
			s.Doors[target] = err.Error()
			continue
		}
		line, _ := bufio.NewReader(c).ReadString('\n')
		s.Doors[target] = strings.TrimSpace(line)
		c.Close()
	}
	for _, kv := range os.Environ() {
		k, v, _ := strings.Cut(kv, "=")
		s.Env[k] = v
	}
	return s
}

// playOuter is `seine up`, to be killed.
func playOuter(args []string) error {
	opt := Options{Paths: args[2:], RunDir: args[0], StateDir: args[1], For: -1, Logs: true, Out: os.Stdout, Err: os.Stderr}
	opt.NoIsolation = os.Getenv("SHARED") != ""
	opt.RequireIsolation = !opt.NoIsolation
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return Up(ctx, nil, opt)
}
