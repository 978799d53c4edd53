package controlplane

import (
	"context"
	"fmt"
	"time"

	"github.com/seinemesh/seine/config/kube"
)

// routeRetry is when a status that could not be written is tried again.
const routeRetry = 5 * time.Second

// writeRouteStatus keeps the status of Gateway API routes in step with what was
// read, until ctx ends. Only the leader does that.
func (s *server) writeRouteStatus(ctx context.Context) error {
	w, err := kube.NewRouteStatus(s.opt.Cluster.Config)
	if err != nil {
		return fmt.Errorf("seined: %w", err)
	}
	said := ""
	for {
		var again <-chan time.Time
		err := w.Write(ctx, s.config.currentRoutes())
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			said = ""
		default:
			if err.Error() != said {
				said = err.Error()
				s.log.Warn("a route's status cannot be written; it is tried again", "err", err)
			}
			again = time.After(routeRetry)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.config.routesChanged:
		case <-again:
		}
	}
}
