package main

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/seinemesh/seine/stat"
)

// edgesCommand is `seine edges`: who calls whom, and how safely.
func edgesCommand() *cobra.Command {
	var s statOptions
	namespace, all := "", false
	cmd := &cobra.Command{
		Use:     "edges",
		Aliases: []string{"edge"},
		Short:   "Show who calls whom, as which identities, whether by mutual TLS, and how well",
		Long: `Show each workload's calls to each other workload in the last seconds: the
namespaces, the identities that both proved, mutual TLS or not, and requests per
second, success and latency as the caller's sidecar saw them.`,
		Example: `  seine edges
  seine edges -n shop            to or from a namespace
  seine edges -o wide            with the service, whole identities and opaque TCP
  seine edges --watch`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if all {
				namespace = ""
			}
			if err := s.edges(cmd, namespace); err != nil {
				return fmt.Errorf("edges: %w", err)
			}
			return nil
		},
	}
	f := cmd.Flags()
	s.control.add(f, "address")
	f.StringVarP(&s.output, "output", "o", "text", "text, wide, json or yaml")
	completeOutput(cmd)
	f.BoolVarP(&s.watch, "watch", "w", false, "show it again each second")
	f.StringVar(&s.color, "color", "auto", "auto, always or never")
	f.StringVarP(&namespace, "namespace", "n", "", "only edges from or to this namespace (default: all)")
	f.BoolVarP(&all, "all-namespaces", "A", false, "edges of all namespaces, as without -n")
	// An error says that there is no such flag.
	_ = cmd.RegisterFlagCompletionFunc("namespace", completeLive(&s.control, func(p stat.Party) string { return p.Namespace }))
	cmd.MarkFlagsMutuallyExclusive("namespace", "all-namespaces")
	return cmd
}

func (s *statOptions) edges(cmd *cobra.Command, namespace string) error {
	ctx, out := cmd.Context(), cmd.OutOrStdout()
	text, err := s.text(out)
	if err != nil {
		return err
	}
	return s.live(ctx, out, func(b *strings.Builder, client *http.Client, base string) error {
		t, _, err := table(ctx, client, base)
		if err != nil {
			return err
		}
		if namespace != "" {
			t.Edges = slices.DeleteFunc(t.Edges, func(e stat.Edge) bool {
				return e.Source.Namespace != namespace && e.Destination.Namespace != namespace
			})
		}
		if isData(s.output) {
			if t.Edges == nil {
				t.Edges = []stat.Edge{}
			}
			return writeData(b, s.output, t.Edges)
		}
		return t.WriteEdges(b, text)
	})
}
