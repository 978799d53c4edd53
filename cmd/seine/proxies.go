package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/seinemesh/seine/discovery"
)

// proxiesCommand is `seine proxies`: who is connected, and who is in step.
func proxiesCommand() *cobra.Command {
	var c controlFlags
	var output string
	cmd := &cobra.Command{
		Use:     "proxies",
		Aliases: []string{"proxy-status", "ps"},
		Short:   "Show the connected proxies, and which of them have the newest configuration",
		Long: `Show each connected proxy: its version, whether it has acknowledged everything
that the control plane knows, and the resources that it refused, with where they
come from. Of a control plane with several replicas, the proxies of all.`,
		Example: `  seine proxies
  seine proxies -o json | jq '.[] | select(.current | not)'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "text" && output != "json" {
				return fmt.Errorf("-o %s: must be text or json", output)
			}
			list, err := c.proxies(cmd.Context())
			if err != nil {
				return fmt.Errorf("proxies: %w", err)
			}
			if output == "json" {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				return enc.Encode(list)
			}
			return writeProxies(cmd.OutOrStdout(), list, time.Now())
		},
	}
	c.add(cmd.Flags(), "address")
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return cmd
}

// connectedProxy is one proxy, and the control plane's replica that it is connected to.
type connectedProxy struct {
	discovery.Proxy
	Replica string `json:"replica,omitempty"`
}

func (c *controlFlags) proxies(ctx context.Context) ([]connectedProxy, error) {
	targets, err := c.targets(ctx, true)
	if err != nil {
		return nil, err
	}
	out := []connectedProxy{}
	for _, t := range targets {
		body, err := get(ctx, t.Client, t.base+"/api/v1/proxies")
		t.CloseIdleConnections()
		if err != nil {
			return nil, err
		}
		var list []discovery.Proxy
		if err := json.Unmarshal(body, &list); err != nil {
			return nil, fmt.Errorf("the control plane's answer is not understood: %w; is it of the same version as this program?", err)
		}
		for _, p := range list {
			out = append(out, connectedProxy{p, t.name})
		}
	}
	slices.SortFunc(out, func(a, b connectedProxy) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), a.Connected.Compare(b.Connected))
	})
	return out, nil
}

func writeProxies(w io.Writer, list []connectedProxy, now time.Time) error {
	if len(list) == 0 {
		_, err := fmt.Fprintln(w, "No proxy is connected.")
		return err
	}
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(tw, "PROXY\tCONFIGURATION\tVERSION\tCONNECTED\tCONTROL PLANE")
	for _, p := range list {
		state := "current"
		if !p.Current {
			state = fmt.Sprintf("behind (generation %d)", p.Generation)
		}
		if n := len(p.Rejected); n > 0 {
			state = fmt.Sprintf("refused %d", n)
		}
		replica := p.Replica
		if replica == "" {
			replica = "-"
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\n", p.ID, state, cmp.Or(p.Version, "-"), now.Sub(p.Connected).Round(time.Second), replica)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, p := range list {
		for _, r := range p.Rejected {
			if _, err := fmt.Fprintf(w, "%s refused %s: %s (%s)\n", p.ID, r.Name, r.Message, cmp.Or(r.Source, "no source")); err != nil {
				return err
			}
		}
	}
	return nil
}
