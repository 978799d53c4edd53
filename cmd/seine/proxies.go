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
	watch := false
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
			if err := checkOutput(output); err != nil {
				return fmt.Errorf("proxies: %w", err)
			}
			return again(cmd.Context(), cmd.OutOrStdout(), watch, output, func(w io.Writer) error {
				list, err := c.proxies(cmd.Context())
				if err != nil {
					return fmt.Errorf("proxies: %w", err)
				}
				if isData(output) {
					return writeData(w, output, list)
				}
				return writeProxies(w, list, time.Now(), output == "wide")
			})
		},
	}
	c.add(cmd.Flags(), "address")
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text, wide, json or yaml")
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "show it again each second")
	completeOutput(cmd)
	return cmd
}

// connectedProxy is one proxy, and the control plane's replica that it is connected to.
type connectedProxy struct {
	discovery.Proxy
	Replica     string     `json:"replica,omitempty"`
	Workload    string     `json:"workload,omitempty"`
	Node        string     `json:"node,omitempty"`
	Memory      float64    `json:"memory_bytes,omitempty"`
	CPU         *float64   `json:"cpu_cores,omitempty"`
	Certificate *time.Time `json:"certificate_not_after,omitempty"`
	ScrapeError string     `json:"scrape_error,omitempty"`
	// Elsewhere: the answering replica knows its metrics and, if Told, whether it is
	// in step; the one that it is connected to says the rest.
	Elsewhere bool `json:"elsewhere,omitempty"`
	Told      bool `json:"told,omitempty"`
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
		var list []connectedProxy
		if err := json.Unmarshal(body, &list); err != nil {
			return nil, fmt.Errorf("the control plane's answer is not understood: %w; is it of the same version as this program?", err)
		}
		for _, p := range list {
			if p.Elsewhere && len(targets) > 1 {
				continue // its own replica is asked too
			}
			p.Replica = t.name
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b connectedProxy) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), a.Connected.Compare(b.Connected))
	})
	return out, nil
}

func writeProxies(w io.Writer, list []connectedProxy, now time.Time, wide bool) error {
	if len(list) == 0 {
		_, err := fmt.Fprintln(w, "No proxy is connected.")
		return err
	}
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	head := "PROXY\tCONFIGURATION\tLAST ACK\tVERSION\tMEMORY\tCONNECTED\tCONTROL PLANE"
	if wide {
		head += "\tIDENTITY\tNODE\tCPU\tCERTIFICATE UNTIL"
	}
	fmt.Fprintln(tw, head)
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
		acked, memory, connected := "-", "-", "-"
		if !p.LastAck.IsZero() {
			acked = now.Sub(p.LastAck).Round(time.Second).String() + " ago"
		}
		if p.Memory > 0 {
			memory = fmt.Sprintf("%.1f MiB", p.Memory/(1<<20))
		}
		if p.Elsewhere {
			switch {
			case !p.Told:
				state = "at another replica"
			case p.Current:
				state = "current, at another replica"
			default:
				state = "behind, at another replica"
			}
		} else {
			connected = now.Sub(p.Connected).Round(time.Second).String()
		}
		cells := []string{p.ID, state, acked, cmp.Or(p.Version, "-"), memory, connected, replica}
		if wide {
			cpu, until := "-", "-"
			if p.CPU != nil {
				cpu = fmt.Sprintf("%.3f", *p.CPU)
			}
			if p.Certificate != nil {
				until = p.Certificate.UTC().Format(time.RFC3339)
			}
			cells = append(cells, p.Identity, cmp.Or(p.Node, "-"), cpu, until)
		}
		row(tw, cells...)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, p := range list {
		for _, r := range p.Rejected {
			if _, err := fmt.Fprintf(w, "%s refused %s: %s (%s)\n", p.ID, printable(r.Name), printable(r.Message), cmp.Or(r.Source, "no source")); err != nil {
				return err
			}
		}
	}
	return nil
}
