package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/seinemesh/seine/local"
)

// upCommand is `seine up`: a mesh on this machine.
func upCommand() *cobra.Command {
	var (
		opt  = local.Options{Out: os.Stdout, Err: os.Stderr}
		over string
		logs string
	)
	cmd := &cobra.Command{
		Use:   "up DIR|FILE...",
		Short: "Run a mesh on this machine, without a cluster",
		Long: `Run the workloads that the files describe (kind Workload of local.seine.dev/v1),
each in a network namespace of its own with a seine-proxy before it, and seined
for all of them, configured by the same resources as in a cluster. It needs no
root. Saving a file changes what runs. Ctrl-C stops everything and leaves nothing
but the certificate authority's root in the state folder; a second Ctrl-C does
not wait for programs to finish.

The control plane's socket, logs and tokens are in the run folder:
$XDG_RUNTIME_DIR/seine, or ~/.seine/run where there is none.`,
		Example: `  seine up examples/billing
  seine up --for 10s --require-isolation mesh/    in CI: exit 1 unless all is ready`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("nothing to run: name a folder or a file, such as seine up examples/billing")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			opt.Paths = args
			opt.Private = term.IsTerminal(int(os.Stderr.Fd()))
			opt.For = -1
			if cmd.Flags().Changed("for") {
				d, err := time.ParseDuration(over)
				if err != nil || d < 0 {
					return errors.New("--for must be a duration such as 30s; 0s stops as soon as everything is ready")
				}
				opt.For = d
			}
			switch terminal := term.IsTerminal(int(os.Stdout.Fd())); logs {
			case "auto":
				opt.Logs = !terminal
			case "show", "keep":
				opt.Logs = logs == "show"
			default:
				return errors.New("--logs must be auto, show or keep")
			}
			return up(opt)
		},
	}
	f := cmd.Flags()
	f.StringVar(&opt.RunDir, "run-dir", "", "folder for sockets, tokens and logs; emptied at start, removed at the end")
	f.StringVar(&opt.StateDir, "state-dir", "", "folder for the certificate authority's root, which stays (default ~/.seine/state)")
	f.StringVar(&opt.MeshConfig, "mesh-config", "", "Istio's MeshConfig `file`")
	f.StringVar(&opt.Web, "web", "", "loopback address of the dashboard and of metrics for Prometheus; none: nowhere (default 127.0.0.1:15016, or any free port if that is taken)")
	f.StringVar(&opt.Seined, "seined", "", "the control plane's program (default: beside this one, or in PATH)")
	f.StringVar(&opt.Proxy, "seine-proxy", "", "the proxy's program (default: beside this one, or in PATH)")
	f.StringVar(&opt.Credentials, "credentials", "", "`folder` with the Secrets that DestinationRules name by credentialName, a folder for each (default: /etc/seine/credentials)")
	f.DurationVar(&opt.CertTTL, "cert-ttl", 0, "how long certificates live (default: seined's, 24h)")
	f.BoolVar(&opt.RequireIsolation, "require-isolation", false, "exit 1 where the kernel refuses namespaces, instead of going on without")
	f.StringVar(&over, "for", "", "stop by itself this `duration` after everything is ready; exit 1 if it is not")
	f.DurationVar(&opt.ReadyTimeout, "ready-timeout", time.Minute, "with --for: how long to wait for everything to be ready")
	f.StringVar(&logs, "logs", "auto", "output of workloads: show it, keep it in files only, or auto: show it unless the table is live")
	f.BoolVar(&opt.NoIsolation, "no-isolation", false, "do without namespaces even where the kernel allows them: programs reach the mesh by HTTP_PROXY")
	cmd.MarkFlagsMutuallyExclusive("no-isolation", "require-isolation")
	for name, stage := range local.Stages() {
		cmd.AddCommand(&cobra.Command{
			Use: name, Hidden: true, Args: cobra.NoArgs,
			RunE: func(*cobra.Command, []string) error { return stage() },
		})
	}
	return cmd
}

// up runs a mesh until a signal: the first stops it, the second kills it.
func up(opt local.Options) error {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	kill := make(chan struct{})
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	go func() {
		<-signals
		stop()
		<-signals
		close(kill)
	}()
	return local.Up(ctx, kill, opt)
}
