package main

import (
	"context"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/seinemesh/seine/stat"
	"github.com/seinemesh/seine/telemetry"
)

// completeWait bounds what a person waits for after the Tab key.
const completeWait = time.Second

// completeLive completes with names that the running mesh has seen in its
// traffic: what of returns for each end of each edge. Without a mesh: nothing.
func completeLive(c *controlFlags, of func(stat.Party) string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		const none = cobra.ShellCompDirectiveNoFileComp
		ctx, cancel := context.WithTimeout(cmd.Context(), completeWait)
		defer cancel()
		client, base, err := c.client(ctx)
		if err != nil {
			return nil, none
		}
		defer client.CloseIdleConnections()
		t, _, err := table(ctx, client, base)
		if err != nil {
			return nil, none
		}
		var names []string
		for _, e := range t.Edges {
			for _, p := range []stat.Party{e.Source, e.Destination} {
				if p.Workload != telemetry.Unknown && p.Workload != "" {
					names = append(names, of(p))
				}
			}
		}
		slices.Sort(names)
		return slices.Compact(names), none
	}
}
