//go:build linux

package main

import (
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/seinemesh/seine/proxy"
)

// options are the flags, checked.
type options struct {
	workload, namespace, serviceAccount, trustDomain string
	control, bundle, token, mode                     string
	outbound, inbound, explicit                      netip.AddrPort
	admin, status, readiness, metrics                string
	prove, quit, splice                              bool
	mark, loops, dns                                 int
	drain, drainLimit                                time.Duration
	accessLog, hostDialer, credentials               string
	forwards                                         []proxy.Forward
	published                                        []proxy.Published
	level                                            slog.Level
}

const usage = `seine-proxy is the data plane beside one workload.

Usage:
  seine-proxy --workload NAMESPACE/INSTANCE --control HOST:PORT --ca-bundle FILE --token FILE [flags]
  seine-proxy redirect [flags]   write a pod's redirect rules (an init container)
  seine-proxy wait [flags]       until the sidecar is ready
  seine-proxy version

Flags:
`

func parseFlags(args []string) (*options, error) {
	o := &options{}
	f := flag.NewFlagSet("seine-proxy", flag.ContinueOnError)
	f.Usage = func() {
		fmt.Fprint(f.Output(), usage)
		f.PrintDefaults()
	}
	var outbound, inbound string
	f.StringVar(&o.workload, "workload", "", "this workload's instance, `NAMESPACE/INSTANCE`")
	f.StringVar(&o.serviceAccount, "service-account", "default", "the workload's service account")
	f.StringVar(&o.trustDomain, "trust-domain", "cluster.local", "the mesh's trust domain")
	f.StringVar(&o.control, "control", "", "seined's xDS and CA port, `HOST:PORT`")
	f.StringVar(&o.bundle, "ca-bundle", "", "PEM `file` of the roots that seined is verified by")
	f.StringVar(&o.token, "token", "", "`file` with the token that the CA asks for")
	f.StringVar(&o.mode, "mode", "redirect", "redirect, explicit or gateway")
	f.StringVar(&outbound, "outbound", "", "outbound listener (0.0.0.0:15001 in mode redirect, 127.0.0.1:15001 in mode explicit)")
	f.StringVar(&inbound, "inbound", "", "inbound listener of mode redirect (0.0.0.0:15006)")
	f.StringVar(&o.admin, "admin", "127.0.0.1:15000", "administration; empty: none")
	f.StringVar(&o.status, "status", "0.0.0.0:15020", "readiness and metrics; empty: none")
	f.StringVar(&o.readiness, "readiness", "", "readiness for the kubelet (:15021); empty: none")
	f.StringVar(&o.metrics, "metrics", "", "the proxy's metrics alone (:15090); empty: none")
	f.BoolVar(&o.prove, "prove-redirect", false, "be ready only while connections are seen to be redirected here; needs --readiness")
	f.BoolVar(&o.quit, "quit", false, "end when the workload itself says POST /quitquitquit to the status port")
	f.IntVar(&o.dns, "dns", 0, "answer DNS on this `port` of the loopback addresses: names of the mesh, others by asking /etc/resolv.conf's servers; 0: do not")
	f.IntVar(&o.mark, "mark", 1337, "SO_MARK of the proxy's own connections; 0: none")
	f.IntVar(&o.loops, "loops", 0, "event loops; 0: the CPU limit rounded up, 2 without one")
	f.DurationVar(&o.drain, "drain", 5*time.Second, "how long to go on accepting after SIGTERM, at least")
	f.DurationVar(&o.drainLimit, "drain-limit", 30*time.Second, "how much longer requests under way may take")
	f.StringVar(&o.accessLog, "access-log", "", "`path` of the access log, - is standard output")
	f.BoolVar(&o.splice, "splice", true, "let the kernel pass on the bulk of plain connections that are not HTTP (splice)")
	f.StringVar(&o.hostDialer, "host-dialer", "", "unix `socket` that makes the connections that leave the mesh")
	f.StringVar(&o.credentials, "credentials", "/etc/seine/credentials", "`folder` with the Secrets that DestinationRules name by credentialName, a folder for each")
	f.Func("listen-inbound", "`IP:PORT=IP:APPPORT`: listen on the workload's port for the application (repeatable)", o.addForward)
	f.Func("publish", "`fd:N=FQDN:PORT`: route an inherited listener's connections as calls to a service (repeatable)", o.addPublished)
	f.TextVar(&o.level, "log-level", slog.LevelInfo, "DEBUG, INFO, WARN or ERROR")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	return o, o.check(outbound, inbound)
}

func (o *options) check(outbound, inbound string) error {
	var ok bool
	if o.namespace, _, ok = strings.Cut(o.workload, "/"); !ok || o.namespace == "" || strings.Count(o.workload, "/") != 1 {
		return fmt.Errorf("--workload must be NAMESPACE/INSTANCE, not %q", o.workload)
	}
	for _, need := range [...]struct{ flag, value string }{{"--control", o.control}, {"--ca-bundle", o.bundle}, {"--token", o.token}} {
		if need.value == "" {
			return fmt.Errorf("%s is missing", need.flag)
		}
	}
	switch o.mode {
	case "redirect":
		outbound, inbound = or(outbound, "0.0.0.0:15001"), or(inbound, "0.0.0.0:15006")
	case "explicit":
		outbound = or(outbound, "127.0.0.1:15001")
		if inbound != "" {
			return fmt.Errorf("--inbound is for --mode redirect; use --listen-inbound with --mode explicit")
		}
	case "gateway":
		if len(o.published) == 0 {
			return fmt.Errorf("--mode gateway needs --publish")
		}
	default:
		return fmt.Errorf("--mode must be redirect, explicit or gateway, not %q", o.mode)
	}
	for _, l := range [...]struct {
		flag, value string
		to          *netip.AddrPort
	}{{"--outbound", outbound, o.listener()}, {"--inbound", inbound, &o.inbound}} {
		if l.value == "" {
			continue
		}
		a, err := netip.ParseAddrPort(l.value)
		if err != nil {
			return fmt.Errorf("%s: %w", l.flag, err)
		}
		*l.to = a
	}
	if o.prove {
		if _, err := portOf(o.readiness); err != nil || o.mode != "redirect" {
			return fmt.Errorf("--prove-redirect needs --mode redirect and --readiness [HOST]:PORT, not %q", o.readiness)
		}
	}
	if o.dns < 0 || o.dns > 65535 {
		return fmt.Errorf("--dns must be a port, or 0, not %d", o.dns)
	}
	if o.loops < 0 || o.loops > 1024 {
		return fmt.Errorf("--loops must be between 1 and 1024, or 0, not %d", o.loops)
	}
	if o.loops == 0 {
		o.loops = proxy.Concurrency(cpuLimit(os.ReadFile))
	}
	return nil
}

// listener is where --outbound goes: an explicit proxy port, or a redirected one.
func (o *options) listener() *netip.AddrPort {
	if o.mode == "explicit" {
		return &o.explicit
	}
	return &o.outbound
}

// portOf is the port of a listener's address.
func portOf(address string) (uint16, error) {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return uint16(n), err
}

func or(value, fallback string) string {
	if value == "" {
		return fallback
	}
	return value
}

func (o *options) addForward(s string) error {
	listen, app, ok := strings.Cut(s, "=")
	if !ok {
		return fmt.Errorf("want IP:PORT=IP:APPPORT")
	}
	l, err := netip.ParseAddrPort(listen)
	if err != nil {
		return err
	}
	a, err := netip.ParseAddrPort(app)
	if err != nil {
		return err
	}
	o.forwards = append(o.forwards, proxy.Forward{Listen: l, App: a})
	return nil
}

func (o *options) addPublished(s string) error {
	source, target, ok := strings.Cut(s, "=")
	number, isFD := strings.CutPrefix(source, "fd:")
	if !ok || !isFD {
		return fmt.Errorf("want fd:N=FQDN:PORT")
	}
	fd, err := strconv.Atoi(number)
	if err != nil || fd < 3 {
		return fmt.Errorf("%q is no descriptor that could be inherited", number)
	}
	host, port, err := net.SplitHostPort(target)
	if err != nil {
		return err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || host == "" {
		return fmt.Errorf("want fd:N=FQDN:PORT")
	}
	o.published = append(o.published, proxy.Published{FD: fd, Host: host, Port: uint16(n)})
	return nil
}

// cpuLimit is the CPU limit of this process's cgroup, in CPUs; 0: none.
func cpuLimit(read func(string) ([]byte, error)) float64 {
	if b, err := read("/sys/fs/cgroup/cpu.max"); err == nil {
		var quota, period float64
		if n, _ := fmt.Sscan(string(b), &quota, &period); n == 2 && period > 0 {
			return quota / period
		}
		return 0
	}
	number := func(path string) float64 {
		b, err := read(path)
		if err != nil {
			return 0
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(string(b)), 64)
		if err != nil {
			return 0
		}
		return v
	}
	quota, period := number("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), number("/sys/fs/cgroup/cpu/cpu.cfs_period_us")
	if quota <= 0 || period <= 0 {
		return 0
	}
	return quota / period
}
