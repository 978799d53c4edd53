// Command seined is the control plane: it reads the mesh's configuration,
// hands out certificates, and tells each proxy what it needs to know.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/seinemesh/seine/cluster"
	"github.com/seinemesh/seine/controlplane"
	"github.com/seinemesh/seine/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "seined:", strings.TrimPrefix(err.Error(), "seined: "))
		os.Exit(1)
	}
}

func command() *cobra.Command {
	o := controlplane.Options{Version: version.Version}
	var level slog.Level
	var kubernetes bool
	var namespace, revision string
	cmd := &cobra.Command{
		Use:   "seined {--config DIR --state DIR | --kubernetes}",
		Short: "Seine's control plane",
		Long: `seined reads Kubernetes, Istio and Seine resources from files and folders
or from a cluster, watches them, and serves proxies over mutual TLS: certificates
and discovery on --listen. --http serves health and metrics, and on a loopback
address the API too; --api serves it on a loopback address of its own, --socket to
this user alone.

With --kubernetes pods are attested by their tokens, the root is in a Secret, and
--state is not needed; the cluster is the one that seined runs in, or that KUBECONFIG
names; the mesh's settings are the MeshConfig under "mesh" of ConfigMap "seine".`,
		Example: `  seined --config mesh/ --state ~/.local/state/seine
  seined --kubernetes`,
		Version:       version.String(),
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.CertTTL < 0 {
				return errors.New("--cert-ttl must not be negative")
			}
			o.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
			if kubernetes {
				config, err := cluster.Control()
				if err != nil {
					return err
				}
				if namespace == "" {
					namespace = cluster.OwnNamespace()
				}
				if o.Cluster, err = controlplane.OpenCluster(config, namespace, revision); err != nil {
					return err
				}
				if !cmd.Flags().Changed("api") {
					o.API = controlplane.DefaultAPI
				}
				if !cmd.Flags().Changed("webhook") {
					o.Webhook = controlplane.DefaultWebhook
				}
			}
			return controlplane.Run(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&o.Config, "config", nil, "file or folder of resources, watched (repeatable)")
	f.BoolVar(&kubernetes, "kubernetes", false, "read the resources of the cluster that this runs in, or that KUBECONFIG names")
	f.StringVar(&namespace, "namespace", "", "this control plane's namespace in the cluster (default: that of its pod, or seine-system)")
	f.StringVar(&o.MeshConfig, "mesh-config", "", "Istio's MeshConfig `file`")
	f.StringVar(&o.State, "state", "", "folder (0700) of the root certificate and its key")
	f.StringVar(&o.CACerts, "cacerts", "", "folder of a root that is brought, in Istio's layout: root-cert.pem, ca-cert.pem, ca-key.pem, cert-chain.pem")
	f.StringVar(&o.Listen, "listen", "0.0.0.0:15012", "address of discovery and certificates (gRPC, TLS)")
	f.StringVar(&o.HTTP, "http", "0.0.0.0:15014", "address of health and metrics, on loopback also the API; empty: none")
	f.StringVar(&o.API, "api", "", "loopback address of the API; empty: none (default with --kubernetes: "+controlplane.DefaultAPI+")")
	f.StringVar(&o.Webhook, "webhook", "", "address of the webhooks that the API server calls; empty: none (default with --kubernetes: "+controlplane.DefaultWebhook+")")
	f.StringVar(&o.WebhookClientCA, "webhook-client-ca", "", "PEM `file`: answer only who shows a certificate that these have signed (the API server's AdmissionConfiguration names it); empty: answer anybody")
	f.StringVar(&o.Socket, "socket", "", "Unix socket (0600) of the API; empty: none")
	f.StringVar(&o.JoinSecret, "join-secret", "", "file (0600) of the secret of join tokens, made if it is not there (default: STATE/join-secret)")
	f.StringVar(&o.Prometheus, "prometheus", "", "`URL` of a Prometheus that scrapes this mesh, for charts of more than six hours; empty: none")
	f.DurationVar(&o.CertTTL, "cert-ttl", 0, "how long certificates live (default 24h)")
	f.StringVar(&o.TrustDomain, "trust-domain", "", "trust domain (default: the MeshConfig's, or cluster.local)")
	f.StringVar(&revision, "revision", "default", "name of this installation among several in a cluster")
	f.TextVar(&level, "log-level", slog.LevelInfo, "debug, info, warn or error")
	return cmd
}
