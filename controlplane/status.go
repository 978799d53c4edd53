package controlplane

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/seinemesh/seine/config/kube"
	"github.com/seinemesh/seine/discovery"
)

const (
	// statusEvery is how often the status of resources is compared with what the
	// proxies have.
	statusEvery = time.Second
	// statusMost bounds the writes of one such comparison: 20 a second, so that a
	// mesh that starts does not storm the API server.
	statusMost = 20
	// statusPatience is how long a new leader waits for proxies to come back to it
	// before it says how many have what.
	statusPatience = 5 * time.Second
	// behindMost is how many proxies a message names.
	behindMost = 3
)

// writeStatus keeps the conditions of resources in step with what was taken and
// with what the proxies have acknowledged, until ctx ends. Only the leader does
// that.
func (s *server) writeStatus(ctx context.Context) error {
	w, err := kube.NewStatus(s.opt.Cluster.Config)
	if err != nil {
		return fmt.Errorf("seined: %w", err)
	}
	tick := time.NewTicker(statusEvery)
	defer tick.Stop()
	patience := time.After(statusPatience)
	said := ""
	for patience != nil {
		select {
		case <-ctx.Done():
			return nil
		case <-patience:
			patience = nil
		}
	}
	for {
		list := s.cluster.Taken()
		proxies := s.discovery.Progress()
		w.Keep(list)
		others, err := s.others(ctx)
		if err != nil {
			return err
		}
		wrote := 0
		for i := range list {
			t := &list[i]
			if wrote == statusMost || ctx.Err() != nil {
				break
			}
			r := reach(t, proxies)
			for _, o := range others {
				countIn(&r, t, o, s.cluster.Generation)
			}
			new, err := w.Write(ctx, t, t.Conditions(r))
			if new || err != nil {
				wrote++
			}
			if err != nil && err.Error() != said {
				said = err.Error()
				s.log.Warn("a resource's status cannot be written", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// reach counts who has what t was taken as.
func reach(t *kube.Taken, proxies []discovery.Proxy) kube.Reach {
	r := kube.Reach{Proxies: len(proxies)}
	source := fmt.Sprintf("%s %s/%s", t.Kind, t.Namespace, t.Name)
	for i := range proxies {
		p := &proxies[i]
		for _, rejected := range p.Rejected {
			if rejected.Source == source && r.Refused == "" {
				r.Refused = fmt.Sprintf("%s refused %s: %s", p.ID, rejected.Name, strings.TrimSpace(rejected.Message))
			}
		}
		if p.Generation >= t.Since {
			r.Acknowledged++
		} else if len(r.Behind) < behindMost {
			r.Behind = append(r.Behind, p.ID)
		}
	}
	return r
}
