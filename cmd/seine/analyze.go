package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/seinemesh/seine/cluster"
	"github.com/seinemesh/seine/config"
	"github.com/seinemesh/seine/config/files"
	"github.com/seinemesh/seine/config/kube"
)

// analyzeTimeout bounds the reading of a cluster.
const analyzeTimeout = time.Minute

// analyze reads a cluster once, with the rights of the person who asks.
func (c *controlFlags) analyze(ctx context.Context, paths []string, meshConfig, namespace string) (*config.Result, error) {
	cfg, err := c.cluster.Config()
	if err != nil {
		return nil, err
	}
	var over []config.File
	opt := config.Options{Namespace: namespace}
	if len(paths) > 0 || meshConfig != "" {
		if over, opt.MeshConfig, err = files.Read(files.Options{Paths: paths, MeshConfig: meshConfig}); err != nil {
			return nil, err
		}
	}
	source, err := kube.New(kube.Options{Client: cfg, Namespace: c.namespace, Config: opt})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, analyzeTimeout)
	defer cancel()
	return source.Read(ctx, over)
}

func analyzeCommand() *cobra.Command {
	var (
		paths      []string
		meshConfig string
		namespace  string
		output     string
		failOn     string
		info       bool
		useKube    bool
		all        bool
		control    controlFlags
	)
	cmd := &cobra.Command{
		Use:   "analyze [-f DIR|FILE]... [--use-kube] [DIR|FILE]...",
		Short: "Check configuration and say what is wrong, where, and what to do",
		Long: `Check configuration files without running anything: syntax, fields, references
between resources, routes that can never match, TLS settings that contradict each
other.

With --use-kube, check what a cluster holds, with files laid over it as if they
had been applied; findings of namespace -n alone, or with -A of all.

Exit status: 0 if there is no error (warnings are allowed, see --fail-on), 1 if
there is one or the files cannot be read.

With -o json, one object: {"findings": [{"code", "istio", "severity" (error,
warning, info), "kind", "namespace", "name", "path", "file", "line", "message",
"refused"}], "errors", "warnings", "infos", "services", "virtualServices",
"destinationRules", "policies"}; fields of a finding that do not apply are left
out. Codes (SEINE0101) are stable; "istio" is istioctl's code for the same.`,
		Example: `  seine analyze -f config/
  seine analyze -f services.yaml -f routes.yaml -o json
  seine analyze --use-kube -A
  seine analyze --use-kube -n shop -f new-route.yaml     would this be good there?`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			paths := append(paths, args...)
			if len(paths) == 0 && !useKube {
				return errors.New("nothing to check: name a folder or a file with -f, or say --use-kube")
			}
			var limit config.Severity
			if err := limit.UnmarshalText([]byte(failOn)); err != nil {
				return fmt.Errorf("--fail-on: %w", err)
			}
			if output != "text" && output != "json" {
				return fmt.Errorf("-o %s: must be text or json", output)
			}
			var r *config.Result
			var err error
			if useKube {
				r, err = control.analyze(cmd.Context(), paths, meshConfig, namespace)
			} else {
				r, err = files.Load(files.Options{
					Paths: paths, MeshConfig: meshConfig,
					Config: config.Options{Namespace: namespace, LocalInstances: true},
				})
			}
			if r == nil {
				return err
			}
			report := config.NewReport(r)
			if useKube && !all {
				report = report.Of(namespace)
			}
			failed := false
			for s := limit; s <= config.Error; s++ {
				failed = failed || report.Findings.Count(s) > 0
			}
			out := cmd.OutOrStdout()
			if output == "json" {
				err = report.WriteJSON(out)
			} else {
				f, isFile := out.(*os.File)
				_, plain := os.LookupEnv("NO_COLOR") // https://no-color.org
				err = report.WriteText(out, config.TextOptions{
					Colour: isFile && !plain && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(f.Fd())), Infos: info || limit == config.Info, Failed: failed,
				})
			}
			if err != nil {
				return err
			}
			if failed {
				return exitError{1} // the report has said why
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringArrayVarP(&paths, "file", "f", nil, "`folder or file` to check; may be repeated")
	f.StringVar(&meshConfig, "mesh-config", "", "Istio's MeshConfig `file`")
	f.StringVarP(&namespace, "namespace", "n", "default", "namespace of resources that name none")
	f.StringVarP(&output, "output", "o", "text", "text or json")
	f.StringVar(&failOn, "fail-on", "error", "exit 1 from this severity on: error, warning or info")
	f.BoolVar(&useKube, "use-kube", false, "check the resources of a cluster, too")
	f.BoolVarP(&all, "all-namespaces", "A", false, "with --use-kube: findings of all namespaces")
	control.cluster.AddFlags(f)
	f.StringVar(&control.namespace, "system-namespace", cluster.Namespace, "namespace of the cluster's control plane")
	f.BoolVar(&info, "info", false, "list notes, too")
	return cmd
}
