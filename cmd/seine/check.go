package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/seinemesh/seine/host"
	"github.com/seinemesh/seine/install/check"
	"github.com/seinemesh/seine/version"
)

func checkCommand() *cobra.Command {
	var (
		i      installation
		pre    bool
		output string
	)
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check a cluster or an installation, and say what to do",
		Long: `Check an installation: definitions, control plane, webhooks (called by a dry run),
certificates and their lifetimes, pods without a sidecar, proxies in step, CPU time
that hypervisors steal (more than 1 %: a warning, more than 2 %: a failure). With
--pre, check whether a cluster can take one: version, your permissions,
definitions and their owners, nodes, network plugin, Pod Security, other meshes.
Each line that is not well says what to do. Nothing is changed.

Exit status: 0 if nothing failed (warnings are allowed), 1 if something did, 2 if
there was only something that could not be looked at (with --pre, 0).

With -o json, one object: {"lines": [{"section", "name", "status" (ok, warning,
failed, unknown), "detail", "mend"}], "failed", "warnings", "unknown"}.`,
		Example: `  seine check --pre
  seine check
  seine check -o json | jq '.lines[] | select(.status != "ok")'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "text" && output != "json" {
				return fmt.Errorf("-o %s: must be text or json", output)
			}
			values, err := i.values()
			if err != nil {
				return err
			}
			w, err := i.work(nil)
			if err != nil {
				return err
			}
			cfg, err := i.cluster.Config()
			if err != nil {
				return err
			}
			cfg.WarningHandler = nil
			out := cmd.OutOrStdout()
			report := struct {
				Lines    []check.Line `json:"lines"`
				Failed   int          `json:"failed"`
				Warnings int          `json:"warnings"`
				Unknown  int          `json:"unknown"`
			}{}
			colour := coloured(out)
			c := &check.Checker{
				Cluster: w.Cluster, Config: cfg, Namespace: i.namespace, Revision: w.Revision, Version: version.Version, Values: values, Now: time.Now, Machine: host.NewSampler(os.DirFS("/")).Read,
				Say: func(l check.Line) {
					switch l.Status {
					case check.Failed:
						report.Failed++
					case check.Warning:
						report.Warnings++
					case check.Unknown:
						report.Unknown++
					}
					first := len(report.Lines) == 0 || report.Lines[len(report.Lines)-1].Section != l.Section
					report.Lines = append(report.Lines, l)
					if output == "text" {
						writeLine(out, l, first, colour)
					}
				},
			}
			ctx, cancel := i.within(cmd.Context())
			defer cancel()
			if pre {
				c.Pre(ctx)
			} else {
				c.Installed(ctx)
			}
			if output == "json" {
				if err := json.NewEncoder(out).Encode(report); err != nil {
					return err
				}
			} else {
				fmt.Fprintf(out, "\n%d failed, %d warnings, %d unknown, %d in all\n", report.Failed, report.Warnings, report.Unknown, len(report.Lines))
			}
			switch {
			case report.Failed > 0:
				return exitError{1}
			case report.Unknown > 0 && !pre:
				return exitError{2}
			}
			return nil
		},
	}
	i.flags(cmd, true)
	f := cmd.Flags()
	f.BoolVar(&pre, "pre", false, "before an installation: can this cluster take one?")
	f.StringVarP(&output, "output", "o", "text", "text or json")
	return cmd
}

// marks of the statuses, with their colours.
var marks = map[check.Status]struct{ mark, colour string }{
	check.OK: {"✓", "32"}, check.Warning: {"!", "33"}, check.Failed: {"✗", "31"}, check.Unknown: {"?", "36"},
}

func writeLine(out io.Writer, l check.Line, first, colour bool) {
	var b strings.Builder
	if first {
		fmt.Fprintf(&b, "\n%s\n", l.Section)
	}
	m := marks[l.Status]
	mark := m.mark
	if colour {
		mark = "\x1b[" + m.colour + "m" + mark + "\x1b[0m"
	}
	fmt.Fprintf(&b, "%s %s: %s\n", mark, l.Name, l.Detail)
	if l.Mend != "" {
		fmt.Fprintf(&b, "    → %s\n", l.Mend)
	}
	_, _ = io.WriteString(out, b.String()) // a broken pipe ends the program at its end
}

// coloured reports whether out is a terminal that wants colours.
func coloured(out io.Writer) bool {
	f, ok := out.(*os.File)
	_, plain := os.LookupEnv("NO_COLOR") // https://no-color.org
	return ok && !plain && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(f.Fd()))
}
