//go:build linux

// Command seine-proxy is the data plane beside one workload: sidecar, explicit
// proxy, or gateway.
package main

import (
	"context"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/host"
	"github.com/seinemesh/seine/mtls"
	"github.com/seinemesh/seine/mtls/caclient"
	"github.com/seinemesh/seine/mtls/trust"
	"github.com/seinemesh/seine/proxy"
	"github.com/seinemesh/seine/proxy/control"
	"github.com/seinemesh/seine/proxy/tap"
	"github.com/seinemesh/seine/telemetry/accesslog"
	"github.com/seinemesh/seine/telemetry/metrics"
	"github.com/seinemesh/seine/version"
)

func main() {
	if len(os.Args) > 1 {
		if command, ok := commands[os.Args[1]]; ok {
			if err := command(os.Args[2:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
				fmt.Fprintln(os.Stderr, "seine-proxy:", err)
				os.Exit(1)
			}
			return
		}
	}
	o, err := parseFlags(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
		err = run(ctx, o, slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: o.level})))
		stop()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "seine-proxy:", err)
		os.Exit(1)
	}
}

// commands are what the program does besides being a proxy, by its first argument.
var commands = map[string]func(args []string, out io.Writer) error{
	"redirect": redirect, "wait": wait, "version": printVersion, "--version": printVersion,
}

// printVersion says which build this is.
func printVersion(_ []string, out io.Writer) error {
	_, err := fmt.Fprintln(out, "seine-proxy version", version.String())
	return err
}

// heapBallast is, in bytes, what counts as heap from the start: a collection waits
// for half of it at least (GOGC is 50).
const heapBallast = 8 << 20

// run lives until ctx ends and the drain after it is over.
func run(ctx context.Context, o *options, log *slog.Logger) error {
	runtime.GOMAXPROCS(proxy.Processors(o.loops))
	if os.Getenv("GOGC") == "" {
		// The steady state allocates next to nothing, so an early collection
		// costs little, and a burst of handshakes leaves less behind.
		debug.SetGCPercent(50)
	}
	// Never touched, so never resident, but counted: without it a heap as small as
	// ours is collected every few handshakes, which was a good part of what each cost.
	ballast := make([]byte, heapBallast)
	defer runtime.KeepAlive(ballast)
	identity := "spiffe://" + o.trustDomain + "/ns/" + o.namespace + "/sa/" + o.serviceAccount

	// What serves the data path outlives the signal: it is needed for draining.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()

	dial := marked(o.mark)
	var source *mtls.Source
	authority, err := caclient.New(caclient.Options{
		Address: o.control, TrustDomain: o.trustDomain, BundleFile: o.bundle, TokenFile: o.token, ID: identity, Dial: dial,
		Trusted: func() []*x509.Certificate { return source.Roots()[o.trustDomain] },
	})
	if err != nil {
		return err
	}
	source = mtls.NewSource(mtls.SourceOptions{Request: authority.Request, Log: log})
	taps := tap.New(o.workload, o.loops, log)
	keeper := &trust.Keeper{Source: source, TrustDomain: o.trustDomain, File: o.bundle, Log: log}
	client, err := control.New(control.Options{
		Address: o.control, TLS: source.ClientTLS(caclient.DefaultServerName, caclient.ServerID(o.trustDomain)),
		Certified: source.Ready(), Dial: dial, Node: o.workload, Version: version.String(), Log: log,
		Trust:  func(s *seinev1.Self) error { return keeper.Take(s.TrustBundle, s.TrustBundleId, s.SigningRootId) },
		Beside: taps.Run,
	})
	if err != nil {
		return err
	}
	keeper.Reconnect = client.Reconnect
	registry := metrics.New(metrics.Options{Component: "proxy", Version: version.String()})
	status := &proxy.Status{Registry: registry, Client: client, Source: source}
	if o.quit {
		quitting, quit := context.WithCancel(ctx)
		defer quit()
		ctx, status.Quit = quitting, quit
	}
	redirected := watchRedirect(o, status, log)
	if err := askApplication(status, os.Getenv); err != nil {
		return err
	}
	status.Register()
	late := &host.Lateness{}
	go late.Run(life)
	host.Export(registry, host.NewSampler(os.DirFS("/")), late, time.Now)

	failed := make(chan error, 8)
	if err := serveStatus(life, o, status, redirected, failed); err != nil {
		return err
	}
	if err := serveDNS(life, o, client.Table, log, failed); err != nil {
		return err
	}
	go func() {
		if err := source.Run(life); err != nil && life.Err() == nil {
			failed <- fmt.Errorf("certificate: %w", err)
		}
	}()
	go func() { _ = keeper.Run(life) }() // ends with life alone
	go func() {
		if err := client.Run(life); err != nil && life.Err() == nil {
			failed <- fmt.Errorf("control plane: %w", err)
		}
	}()
	for _, ready := range []<-chan struct{}{source.Ready(), client.Ready()} {
		select {
		case <-ready:
		case err := <-failed:
			return err
		case <-ctx.Done():
			return nil
		}
	}

	logs, err := openLog(o, client.Table().Self.Proto.AccessLog.GetFormat())
	if err != nil {
		return err
	}
	if logs != nil {
		defer logs.Close()
	}
	factory := mtls.NewFactory(source, mtls.Options{})
	p, err := proxy.New(proxy.Options{
		Loops: o.loops, Outbound: o.outbound, Inbound: o.inbound, Explicit: o.explicit, Forwards: o.forwards, Published: o.published,
		Mark: o.mark, Divert: divert(redirected), NoSplice: !o.splice, HostDialer: o.hostDialer, Credentials: o.credentials, Factory: factory,
		Registry: registry, AccessLog: logs, Taps: taps, Log: log,
	}, client)
	if err != nil {
		return err
	}
	status.Serving(p)
	if redirected != nil {
		go redirected.Run(life)
	}
	go sweep(life, registry)
	go keepSmall(life, p.Trim, log)
	log.Info("serving", "workload", o.workload, "identity", identity, "mode", o.mode, "loops", o.loops, "listeners", p.Addresses())
	err = p.Run(ctx, o.drain, o.drain+o.drainLimit)
	select {
	case e := <-failed:
		err = errors.Join(err, e)
	default:
	}
	return err
}

// openLog opens the access log: where the flag says, or on standard output
// where only the mesh's configuration asks for one.
func openLog(o *options, format seinev1.AccessLog_Format) (*accesslog.Writer, error) {
	path := o.accessLog
	if path == "" {
		if format == seinev1.AccessLog_NONE {
			return nil, nil
		}
		path = "-"
	}
	out, err := accesslog.Open(path)
	if err != nil {
		return nil, err
	}
	f := accesslog.JSON
	if format == seinev1.AccessLog_TEXT {
		f = accesslog.Text
	}
	return accesslog.New(accesslog.Options{Out: out, Format: f}), nil
}

// marked dials so that the redirect rules leave the proxy's own connections alone.
func marked(mark int) func(context.Context, string) (net.Conn, error) {
	d := &net.Dialer{Timeout: 10 * time.Second}
	if mark != 0 {
		d.Control = func(_, _ string, c syscall.RawConn) error {
			var opt error
			if err := c.Control(func(fd uintptr) {
				opt = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_MARK, mark)
			}); err != nil {
				return err
			}
			if opt != nil {
				return fmt.Errorf("SO_MARK %d (needs CAP_NET_ADMIN; --mark 0 does without): %w", mark, opt)
			}
			return nil
		}
	}
	return func(ctx context.Context, address string) (net.Conn, error) { return d.DialContext(ctx, "tcp", address) }
}
