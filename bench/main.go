// Command bench measures the mesh hop on loopback, load → client sidecar →
// mutual TLS → server sidecar → backend, for Seine and for real peers, in
// interleaved rounds of one run.
//
// What enters: programs of this machine and the configurations in peers/. What
// leaves: bench/results (latest.json, rounds.json, latest.md, latest.svg). It
// listens on 127.0.0.0/8 alone, ends only what it started, and removes its
// temporary folders.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// errMissing is wrapped where a peer's program is not installed.
var errMissing = errors.New("not installed")

// options are the command line and what follows from it.
type options struct {
	rounds                int
	planes                []string
	named                 bool // planes were named: each must run
	cases                 []string
	length, paced, settle time.Duration
	out, profile          string
	load                  string   // load average before the first round
	failures              []string // what did not run as it should, a line each
	tools                 tools
}

func main() {
	if len(os.Args) > 1 {
		if run, ok := map[string]func([]string) error{
			"backend": runBackend, "paced": runPaced, "hold": runHold, "bulk": runBulk, "connect": runConnect, "flood": runFlood, "go-tls": runGoTLS}[os.Args[1]]; ok {
			exit(run(os.Args[2:]))
		}
	}
	// Children die with the thread that starts them: this one stays.
	runtime.LockOSThread()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	exit(run(ctx))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// run parses the command line, measures and writes the results.
func run(ctx context.Context) error {
	var o options
	quick := flag.Bool("quick", false, "one short round: a check that everything runs, not a measurement")
	names := flag.String("planes", "", "data planes, separated by commas (default: all that are installed)")
	bin := flag.String("bin", "bin", "folder of seined and seine-proxy")
	flag.StringVar(&o.tools.envoy, "envoy", "", "Envoy's binary")
	flag.IntVar(&o.rounds, "rounds", 5, "rounds; the results are medians over them")
	flag.StringVar(&o.out, "out", filepath.Join("bench", "results"), "folder of the results")
	flag.StringVar(&o.profile, "profile", "", "folder for CPU profiles of seine-proxy in the first round")
	cases := flag.String("cases", "", "cases, separated by commas, or the beginning of their names with a star (default: all)")
	flag.Parse()
	if flag.NArg() > 0 || o.rounds < 1 {
		return errors.New("usage: bench [-quick] [-rounds N] [-planes a,b] [-cases a,b] [-bin DIR] [-envoy FILE] [-out DIR]")
	}
	o.length, o.paced, o.settle = 3*time.Second, 5*time.Second, time.Second
	if *quick {
		o.rounds, o.length, o.paced, o.settle = 1, time.Second, time.Second, 300*time.Millisecond
	}
	if err := o.choose(*cases); err != nil {
		return err
	}
	all := planes()
	if o.named = *names != ""; o.named {
		o.planes = strings.Split(*names, ",")
		for _, n := range o.planes {
			if !slices.ContainsFunc(all, func(p plane) bool { return p.name == n }) {
				return fmt.Errorf("data plane %q is not known", n)
			}
		}
	} else {
		for _, p := range all {
			if !p.extra {
				o.planes = append(o.planes, p.name)
			}
		}
	}
	if err := o.tools.find(*bin); err != nil {
		return err
	}
	// A thousand connections on each hop.
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err == nil {
		lim.Cur = lim.Max
		_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &lim)
		if lim.Cur < 8192 {
			return fmt.Errorf("%d open files are allowed and 8192 are needed: raise the limit (ulimit -n)", lim.Cur)
		}
	}
	begun := time.Now()
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		o.load = strings.Join(strings.Fields(string(b))[:3], " ")
	}
	samples, err := o.measureAll(ctx)
	if err != nil {
		return err
	}
	return writeResults(o.out, samples, describe(ctx, &o, begun), all)
}

// choose takes the cases that the command line names, or all.
func (o *options) choose(names string) error {
	all := caseNames()
	if o.cases = all; names == "" {
		return nil
	}
	o.cases = nil
	for _, name := range strings.Split(names, ",") {
		before := len(o.cases)
		for _, c := range all {
			if prefix, star := strings.CutSuffix(name, "*"); c == name || star && strings.HasPrefix(c, prefix) {
				o.cases = append(o.cases, c)
			}
		}
		if len(o.cases) == before {
			return fmt.Errorf("case %q is not known; cases are %s", name, strings.Join(all, " "))
		}
	}
	return nil
}

// find looks for the programs. Only the load generator must be there.
func (t *tools) find(bin string) (err error) {
	if t.self, err = os.Executable(); err != nil {
		return err
	}
	if t.bin, err = filepath.Abs(bin); err != nil {
		return err
	}
	if t.envoy != "" {
		if t.envoy, err = filepath.Abs(t.envoy); err != nil {
			return err
		}
		if _, err := os.Stat(t.envoy); err != nil {
			return fmt.Errorf("envoy: %w", err)
		}
	}
	t.nginx, t.haproxy, t.wrk, t.h2load = lookPath("nginx"), lookPath("haproxy"), lookPath("wrk"), lookPath("h2load")
	if t.perf = lookPath("perf"); exec.Command(t.perf, "stat", "-e", "raw_syscalls:sys_enter", "true").Run() != nil {
		t.perf = "" // not here, or not allowed: system calls are not counted
	}
	const module = "/usr/lib/nginx/modules/ngx_stream_module.so"
	if _, err := os.Stat(module); err == nil {
		t.stream = module
	}
	if t.wrk == "" {
		return errors.New("wrk is not installed; on Debian and Ubuntu: apt-get install wrk")
	}
	return nil
}

// lookPath finds a program, also where an ordinary user's PATH does not look.
func lookPath(name string) string {
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/usr/local/sbin", "/sbin") {
		path := filepath.Join(dir, name)
		if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return path
		}
	}
	return ""
}

func runBackend(args []string) error {
	if len(args) != 1 {
		return errors.New("usage: bench backend IP:PORT")
	}
	return backend(args[0])
}

func runPaced(args []string) error {
	if len(args) != 6 {
		return errors.New("usage: bench paced IP:PORT HOST RATE CONNECTIONS WARMUP LENGTH")
	}
	rate, err1 := strconv.Atoi(args[2])
	connections, err2 := strconv.Atoi(args[3])
	warmup, err3 := time.ParseDuration(args[4])
	length, err4 := time.ParseDuration(args[5])
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return err
	}
	p, err := openLoop(args[0], args[1], rate, connections, warmup, length)
	if err != nil {
		return err
	}
	return printJSON(p)
}

func runHold(args []string) error {
	if len(args) != 6 {
		return errors.New("usage: bench hold IP:PORT HOST PATH CONNECTIONS IN-FLIGHT INTERVAL")
	}
	n, err1 := strconv.Atoi(args[3])
	inFlight, err2 := strconv.Atoi(args[4])
	interval, err3 := time.ParseDuration(args[5])
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	return hold(args[0], args[1], args[2], n, inFlight, interval)
}

func runBulk(args []string) error {
	if len(args) != 5 {
		return errors.New("usage: bench bulk IP:PORT HOST CONNECTIONS LENGTH TUNNEL")
	}
	n, err1 := strconv.Atoi(args[2])
	length, err2 := time.ParseDuration(args[3])
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	b, err := download(args[0], args[1], args[4], n, length)
	if err != nil {
		return err
	}
	return printJSON(b)
}

func runFlood(args []string) error {
	if len(args) != 4 {
		return errors.New("usage: bench flood IP:PORT FROM-IP CONNECTIONS LENGTH")
	}
	n, err1 := strconv.Atoi(args[2])
	length, err2 := time.ParseDuration(args[3])
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	f, err := flood(args[0], args[1], n, length)
	if err != nil {
		return err
	}
	if err := printJSON(f); err != nil {
		return err
	}
	time.Sleep(time.Minute) // they are held until this process is ended
	return nil
}

func runConnect(args []string) error {
	if len(args) != 6 {
		return errors.New("usage: bench connect IP:PORT HOST DIR ALPN RESUME LENGTH")
	}
	resume, err1 := strconv.ParseBool(args[4])
	length, err2 := time.ParseDuration(args[5])
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	h, err := newConnections(args[0], args[1], args[2], args[3], resume, 4, length)
	if err != nil {
		return err
	}
	return printJSON(h)
}
