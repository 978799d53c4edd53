package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/seinemesh/seine/view"
)

// routesCommand is `seine routes`: the rules in force, and where they send.
func routesCommand() *cobra.Command {
	var c controlFlags
	output, namespace := "", ""
	cmd := &cobra.Command{
		Use:   "routes [SERVICE]",
		Short: "Show the rules of services: rate, success and latency of each, and the shares that they want",
		Long: `Show the rules that hold for each port of each service, in the order in which they
are tried, with what came to each in the last seconds as its callers measured it:
requests per second, the share without a 5xx, latency. A destination's share is
shown as written and, where one rule alone sends requests to the service, as
measured by the service's versions.

SERVICE is a host, whole or as far as it names one service: billing-service,
billing-service.shop. Opaque TCP is not counted by rule.`,
		Example: `  seine routes
  seine routes billing-service.shop -o wide
  seine routes -n shop -o yaml`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(output); err != nil {
				return fmt.Errorf("routes: %w", err)
			}
			var all view.Routes
			if err := c.fetchJSON(cmd.Context(), "/api/v1/routes", &all); err != nil {
				return fmt.Errorf("routes: %w", err)
			}
			list := []view.Route{}
			for _, r := range all.Routes {
				if (len(args) == 0 || names(r.Service, args[0])) && (namespace == "" || strings.Split(r.Service+"..", ".")[1] == namespace) {
					list = append(list, r)
				}
			}
			if len(args) > 0 && len(list) == 0 {
				return fmt.Errorf("routes: no service %q has rules: `seine routes` lists those that have", args[0])
			}
			if isData(output) {
				return writeData(cmd.OutOrStdout(), output, list)
			}
			return writeRoutes(cmd.OutOrStdout(), list, output == "wide")
		},
		ValidArgsFunction: completeNames(func(ctx context.Context) ([]string, error) {
			var all view.Services
			err := c.fetchJSON(ctx, "/api/v1/services", &all)
			out := []string{}
			for _, s := range all.Services {
				out = append(out, s.Host)
			}
			return out, err
		}),
	}
	f := cmd.Flags()
	c.add(f, "address")
	f.StringVarP(&namespace, "namespace", "n", "", "only services of this namespace")
	f.StringVarP(&output, "output", "o", "text", "text, wide, json or yaml")
	completeOutput(cmd)
	return cmd
}

// names says whether text names a host, whole or by its first labels.
func names(host, text string) bool { return host == text || strings.HasPrefix(host, text+".") }

func writeRoutes(w io.Writer, list []view.Route, wide bool) error {
	if len(list) == 0 {
		_, err := fmt.Fprintln(w, "There are no rules.")
		return err
	}
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	head := "SERVICE\tPORT\tRULE\tMATCHES\tRPS\tSUCCESS\tP50\tP99\tDESTINATION\tWANTED\tMEASURED"
	if wide {
		head += "\tTIMEOUT\tRETRIES\tFAULT\tMIRRORS"
	}
	fmt.Fprintln(tw, head)
	for _, r := range list {
		rows := len(r.Destinations)
		for i := range max(rows, 1) {
			cells := []string{"", "", "", "", "", "", "", "", cmp.Or(r.Answer, "-"), "-", "-"}
			if i == 0 {
				copy(cells, []string{shortHost(r.Service), strconv.FormatUint(uint64(r.Port), 10), r.ID, cmp.Or(strings.Join(r.Matches, " or "), "everything")})
				cells[4], cells[5], cells[6], cells[7] = r.Traffic.Short()
			}
			if i < rows {
				d := r.Destinations[i]
				cells[8] = shortHost(d.Host)
				if d.Subset != "" {
					cells[8] += " " + d.Subset
				}
				cells[9], cells[10] = share(&d.Wanted), share(d.Measured)
			}
			switch {
			case wide && i > 0:
				cells = append(cells, "", "", "", "") // a column ends with a line that lacks it
			case wide:
				timeout := "-"
				if r.Timeout > 0 {
					timeout = fmt.Sprintf("%g ms", r.Timeout)
				}
				cells = append(cells, timeout, cmp.Or(r.Retries, "default"), cmp.Or(r.Fault, "-"), cmp.Or(strings.Join(r.Mirrors, ", "), "-"))
			}
			row(tw, cells...)
		}
	}
	return tw.Flush()
}

func share(v *float64) string {
	if v == nil {
		return "-"
	}
	return fmt.Sprintf("%.1f%%", *v*100)
}

func shortHost(host string) string { return strings.TrimSuffix(host, ".svc.cluster.local") }
