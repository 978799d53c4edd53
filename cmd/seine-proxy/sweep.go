//go:build linux

package main

import (
	"context"
	"time"

	"github.com/seinemesh/seine/telemetry/metrics"
)

// seriesIdle is how long series of requests and connections that nobody uses are
// kept at least; they go at the second look without a use.
const seriesIdle = 15 * time.Minute

// sweep lets idle series go until ctx ends.
func sweep(ctx context.Context, r *metrics.Registry) {
	tick := time.NewTicker(seriesIdle)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			r.Sweep()
		}
	}
}
