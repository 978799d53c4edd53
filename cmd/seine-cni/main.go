//go:build linux

// Command seine-cni redirects pods' connections to their sidecars from outside
// the pods. A container runtime runs it as a CNI plugin; with the argument
// install it puts itself into the node's chain, and takes itself out at SIGTERM.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/containernetworking/cni/pkg/skel"

	"github.com/seinemesh/seine/cni"
	"github.com/seinemesh/seine/version"
)

func main() {
	if len(os.Args) == 1 {
		p := &cni.Plugin{Out: os.Stdout, Pod: cni.Ask}
		skel.PluginMainFuncs(skel.CNIFuncs{Add: p.Add, Check: p.Check, Del: p.Del, GC: p.GC, Status: p.Status}, cni.Versions(), "CNI plugin seine-cni "+version.Version)
		return
	}
	if err := run(os.Args[1], os.Args[2:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "seine-cni:", err)
		os.Exit(1)
	}
}

func run(command string, args []string) error {
	i := &cni.Installer{
		BinDir: "/host/opt/cni/bin", ConfDir: "/host/etc/cni/net.d", Account: "/var/run/secrets/kubernetes.io/serviceaccount",
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	}
	f := flag.NewFlagSet("seine-cni "+command, flag.ContinueOnError)
	f.StringVar(&i.HostConfDir, "conf-dir", "/etc/cni/net.d", "what the node calls the `directory` mounted at "+i.ConfDir)
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	switch command {
	case "install":
		host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
		if host == "" || port == "" {
			return errors.New("install runs in a pod of DaemonSet seine-cni: KUBERNETES_SERVICE_HOST or KUBERNETES_SERVICE_PORT is not set")
		}
		i.Server = "https://" + net.JoinHostPort(host, port)
		var err error
		if i.Program, err = os.Executable(); err != nil {
			return fmt.Errorf("find this program: %w", err)
		}
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
		defer stop()
		return i.Run(ctx)
	case "check":
		return i.Check()
	default:
		return fmt.Errorf("%q is neither install nor check; without an argument this is a CNI plugin", command)
	}
}
