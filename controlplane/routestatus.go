package controlplane

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/seinemesh/seine/config"
	"github.com/seinemesh/seine/config/kube"
)

// writeRouteStatus keeps the status of Gateway API routes in step with what was
// read and with what the proxies have acknowledged, until ctx ends. Only the leader
// does that.
func (s *server) writeRouteStatus(ctx context.Context) error {
	w, err := kube.NewRouteStatus(s.opt.Cluster.Config)
	if err != nil {
		return fmt.Errorf("seined: %w", err)
	}
	tick := time.NewTicker(statusEvery)
	defer tick.Stop()
	patience := time.After(statusPatience)
	counted := false
	said := ""
	for {
		routes := s.config.currentRoutes()
		var err error
		if counted && len(routes) > 0 {
			routes, err = s.programmed(ctx, routes)
		}
		if err == nil {
			err = w.Write(ctx, routes, statusMost)
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			said = ""
		case err.Error() != said:
			said = err.Error()
			s.log.Warn("a route's status cannot be written; it is tried again", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.config.routesChanged:
		case <-tick.C:
		case <-patience:
			counted = true
		}
	}
}

// programmed adds to the status of each route how many proxies have acknowledged it.
func (s *server) programmed(ctx context.Context, routes []config.RouteStatus) ([]config.RouteStatus, error) {
	others, err := s.others(ctx)
	if err != nil {
		return nil, err
	}
	proxies := s.discovery.Progress()
	type key struct{ kind, namespace, name string }
	reaches := map[key]kube.Reach{}
	for _, t := range s.cluster.TakenRoutes() {
		r := reach(&t, proxies)
		for _, o := range others {
			countIn(&r, &t, o, s.cluster.Generation)
		}
		reaches[key{t.Kind, t.Namespace, t.Name}] = r
	}
	return withReach(routes, func(r *config.RouteStatus) (kube.Reach, bool) {
		found, ok := reaches[key{r.Kind, r.Namespace, r.Name}]
		return found, ok
	}), nil
}

// withReach is routes with the condition Programmed at each parent, of those whose
// reach is known. routes are not written.
func withReach(routes []config.RouteStatus, of func(*config.RouteStatus) (kube.Reach, bool)) []config.RouteStatus {
	out := slices.Clone(routes)
	for i := range out {
		r, ok := of(&out[i])
		if !ok {
			continue
		}
		out[i].Parents = slices.Clone(out[i].Parents)
		for j := range out[i].Parents {
			p := &out[i].Parents[j]
			accepted := slices.ContainsFunc(p.Conditions, func(c config.Condition) bool { return c.Type == config.RouteAccepted && c.Status })
			p.Conditions = append(slices.Clip(p.Conditions), kube.Programmed(out[i].Generation, accepted, r))
		}
	}
	return out
}
