package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/seinemesh/seine/inject"
	"github.com/seinemesh/seine/version"
)

func injectCommand() *cobra.Command {
	var (
		files      []string
		valuesFile string
		meshConfig string
		namespace  string
		image      string
		ordinary   bool
	)
	cmd := &cobra.Command{
		Use:   "inject -f FILE|- [-f FILE]...",
		Short: "Put a sidecar into the workloads of manifests",
		Long: `Read manifests, put a sidecar into each workload (Deployment, StatefulSet,
DaemonSet, Job, CronJob, Pod, …) and print them: what the webhook does in a
namespace with the label seine.dev/inject=enabled, for clusters where it is not
wanted. Everything else comes out as it went in, comments included; what is
injected already stays as it is.

What was left alone, and what an annotation asks for without effect, is said on
standard error.`,
		Example: `  seine inject -f deployment.yaml | kubectl apply -f -
  kubectl get deploy -n shop -o yaml | seine inject -f - | kubectl apply -f -
  kubectl get configmap -n seine-system seine -o jsonpath={.data.injector} > values.yaml
  seine inject --values values.yaml -f deployment.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(files) == 0 {
				return fmt.Errorf("nothing to inject into: name a file with -f, or - for standard input")
			}
			v := inject.Defaults("seinemesh/seine-proxy:" + version.Version)
			v.Native = !ordinary
			if meshConfig != "" {
				b, err := os.ReadFile(meshConfig)
				if err != nil {
					return err
				}
				if err := v.MeshConfig(b); err != nil {
					return fmt.Errorf("%s: %w", meshConfig, err)
				}
			}
			if valuesFile != "" {
				b, err := os.ReadFile(valuesFile)
				if err != nil {
					return err
				}
				if err := v.Parse(b); err != nil {
					return fmt.Errorf("%s: %w", valuesFile, err)
				}
			}
			if image != "" {
				v.Image = image
			}
			for i, name := range files {
				if i > 0 {
					if _, err := io.WriteString(cmd.OutOrStdout(), "---\n"); err != nil {
						return err
					}
				}
				if err := injectFile(cmd, name, namespace, &v); err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringArrayVarP(&files, "file", "f", nil, "`file` of manifests, - for standard input; may be repeated")
	f.StringVar(&valuesFile, "values", "", "`file` of values: key injector of ConfigMap seine")
	f.StringVar(&meshConfig, "mesh-config", "", "Istio's MeshConfig `file`, of which defaultConfig holds: key mesh of ConfigMap seine")
	f.StringVarP(&namespace, "namespace", "n", "default", "namespace of resources that name none")
	f.StringVar(&image, "image", "", "the sidecar's image")
	f.BoolVar(&ordinary, "ordinary-sidecar", false, "for Kubernetes before 1.29, which has no native sidecars")
	return cmd
}

func injectFile(cmd *cobra.Command, name, namespace string, v *inject.Values) error {
	in := cmd.InOrStdin()
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return err
		}
		defer file.Close()
		in = file
	}
	return inject.Manifest(in, cmd.OutOrStdout(), inject.ManifestOptions{
		Namespace: namespace, Values: v,
		Say: func(resource, sentence string) { fmt.Fprintf(cmd.ErrOrStderr(), "%s: %s\n", resource, sentence) },
	})
}
