package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/seinemesh/seine/config"
	"github.com/seinemesh/seine/config/files"
)

func analyzeCommand() *cobra.Command {
	var (
		paths      []string
		meshConfig string
		namespace  string
		output     string
		failOn     string
		info       bool
	)
	cmd := &cobra.Command{
		Use:   "analyze [-f DIR|FILE]... [DIR|FILE]...",
		Short: "Check configuration files and say what is wrong, where, and what to do",
		Long: `Check configuration files without running anything: syntax, fields, references
between resources, routes that can never match, TLS settings that contradict each
other.

Exit status: 0 if there is no error (warnings are allowed, see --fail-on), 1 if
there is one or the files cannot be read.

With -o json, one object: {"findings": [{"code", "istio", "severity" (error,
warning, info), "kind", "namespace", "name", "path", "file", "line", "message",
"refused"}], "errors", "warnings", "infos", "services", "virtualServices",
"destinationRules", "policies"}; fields of a finding that do not apply are left
out. Codes (SEINE0101) are stable; "istio" is istioctl's code for the same.`,
		Example: `  seine analyze -f config/
  seine analyze -f services.yaml -f routes.yaml -o json`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			paths := append(paths, args...)
			if len(paths) == 0 {
				return errors.New("nothing to check: name a folder or a file with -f")
			}
			var limit config.Severity
			if err := limit.UnmarshalText([]byte(failOn)); err != nil {
				return fmt.Errorf("--fail-on: %w", err)
			}
			if output != "text" && output != "json" {
				return fmt.Errorf("-o %s: must be text or json", output)
			}
			r, err := files.Load(files.Options{
				Paths: paths, MeshConfig: meshConfig,
				Config: config.Options{Namespace: namespace, LocalInstances: true},
			})
			if r == nil {
				return err
			}
			report := config.NewReport(r)
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
	f.BoolVar(&info, "info", false, "list notes, too")
	return cmd
}
