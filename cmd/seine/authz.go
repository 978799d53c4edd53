package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/seinemesh/seine/view"
)

// authzCommand is `seine authz`: who may reach a workload.
func authzCommand() *cobra.Command {
	var c controlFlags
	output := ""
	cmd := &cobra.Command{
		Use:   "authz NAMESPACE/WORKLOAD",
		Short: "Show who may reach a workload: mTLS mode by port and what sets it, and who calls",
		Long: `Show in which mode each port of a workload receives connections, and the resource
that says so, the AuthorizationPolicies that hold, the identity of the workload, and
the identities that call it now. What policies say of one request, explain tells:
seine explain --from shop/frontend --to shop/billing-v1:8080 GET http://billing/`,
		Example: `  seine authz shop/billing-v1
  seine authz shop/billing-v1 -o json`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 || strings.Count(args[0], "/") != 1 {
				return errors.New("authz: name one workload as NAMESPACE/WORKLOAD, such as shop/billing-v1")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(output); err != nil {
				return fmt.Errorf("authz: %w", err)
			}
			var a view.Authz
			if err := c.fetchJSON(cmd.Context(), "/api/v1/authz?workload="+url.QueryEscape(args[0]), &a); err != nil {
				return fmt.Errorf("authz: %w", err)
			}
			if isData(output) {
				return writeData(cmd.OutOrStdout(), output, a)
			}
			return writeAuthz(cmd.OutOrStdout(), &a)
		},
		ValidArgsFunction: completeNames(func(ctx context.Context) ([]string, error) {
			var all view.Workloads
			err := c.fetchJSON(ctx, "/api/v1/workloads", &all)
			out := []string{}
			for _, w := range all.Workloads {
				out = append(out, w.ID)
			}
			return out, err
		}),
	}
	c.add(cmd.Flags(), "address")
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text, wide, json or yaml")
	completeOutput(cmd)
	return cmd
}

// who says in words whom a mode lets in.
func who(mode string) string {
	switch mode {
	case "STRICT":
		return "identities of the mesh"
	case "PERMISSIVE":
		return "identities of the mesh, and anybody in plaintext"
	}
	return "anybody, in plaintext"
}

func writeAuthz(w io.Writer, a *view.Authz) error {
	fmt.Fprintf(w, "%s is %s\n\n", a.Workload, cmp.Or(a.Identity, "without identity: it has no sidecar"))
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(tw, "PORT\tMODE\tLETS IN\tBECAUSE OF")
	for _, p := range a.Ports {
		row(tw, strconv.FormatUint(uint64(p.Port), 10), p.Mode, who(p.Mode), p.Source)
	}
	row(tw, "others", a.Default.Mode, who(a.Default.Mode), a.Default.Source)
	if err := tw.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "\n%s.\n", a.Authorization.Text)
	if len(a.Callers) == 0 {
		_, err := fmt.Fprintln(w, "\nNobody has called it in the last seconds.")
		return err
	}
	fmt.Fprintln(w)
	tw = tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(tw, "CALLER\tMTLS\tIDENTITY")
	for _, x := range a.Callers {
		row(tw, x.Workload, x.MTLS, cmp.Or(x.Identity, "none"))
	}
	return tw.Flush()
}
