package controlplane

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seinemesh/seine/config/kube"
	"github.com/seinemesh/seine/discovery"
)

const (
	// tellEvery is how often a replica says what its proxies have, if that
	// changed, and tellFresh how often if it did not.
	tellEvery = time.Second
	tellFresh = 10 * time.Second
	// tellOld is when a report is nobody's any more.
	tellOld = 30 * time.Second
	// reportAnnotation holds a report, on the replica's Lease.
	reportAnnotation = "seine.dev/proxies"
	replicaLabel     = "seine.dev/replica-of"
)

// proxyReport is what a replica tells the leader: how many proxies are connected to
// it, and a resource set that all of them have acknowledged.
type proxyReport struct {
	Proxies int    `json:"proxies"`
	Digest  string `json:"digest"` // kube.Source.Digest; "": none
	// Behind are the IDs, joined by commas, of those that are behind this replica's
	// own mesh: at most behindTold, so that the report fits into a Lease.
	Behind string `json:"behind,omitempty"`
}

// behindTold is up to how many proxies that are behind other replicas know by name.
const behindTold = 100

// reportOf sums this replica's proxies up.
func reportOf(proxies []discovery.Proxy, newest uint64, digest func(uint64) string) proxyReport {
	least := newest
	var behind []string
	for i := range proxies {
		least = min(least, proxies[i].Generation)
		if !proxies[i].Current && len(behind) < behindTold {
			behind = append(behind, proxies[i].ID)
		}
	}
	return proxyReport{len(proxies), digest(least), strings.Join(behind, ",")}
}

// stillBehind calls current who is behind but was not when it was looked at before,
// so that a report does not change with every change of the mesh. It returns who is
// behind, for the next look.
func stillBehind(proxies []discovery.Proxy, before map[string]bool) map[string]bool {
	late := map[string]bool{}
	for i := range proxies {
		if p := &proxies[i]; !p.Current {
			late[p.ID] = true
			p.Current = !before[p.ID]
		}
	}
	return late
}

// reportProxies keeps this replica's Lease, until ctx ends.
func (s *server) reportProxies(ctx context.Context) error {
	c := s.opt.Cluster
	leases := c.Client.CoordinationV1().Leases(c.Namespace)
	name := "seined-proxies-" + c.Pod
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = leases.Delete(end, name, metav1.DeleteOptions{}) // old ones do not count anyway
	}()
	tick := time.NewTicker(tellEvery)
	defer tick.Stop()
	var said proxyReport
	var at time.Time
	late := map[string]bool{}
	failed := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		snap := s.discovery.Snapshot()
		if snap == nil {
			continue
		}
		proxies := s.discovery.Progress()
		late = stillBehind(proxies, late)
		now := reportOf(proxies, snap.Generation, s.cluster.Digest)
		if now == said && time.Since(at) < tellFresh {
			continue
		}
		err := s.writeReport(ctx, name, now)
		if err != nil && ctx.Err() == nil && !failed {
			s.log.Warn("the leader cannot be told what this replica's proxies have; it is tried again", "err", err)
		}
		if failed = err != nil; !failed {
			said, at = now, time.Now()
		}
	}
}

func (s *server) writeReport(ctx context.Context, name string, r proxyReport) error {
	c := s.opt.Cluster
	leases := c.Client.CoordinationV1().Leases(c.Namespace)
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	fill := func(l *coordinationv1.Lease) {
		renew, holder := metav1.NowMicro(), c.Pod
		l.Labels = map[string]string{replicaLabel: meshLease, "app.kubernetes.io/name": "seined"}
		l.Annotations = map[string]string{reportAnnotation: string(text)}
		l.Spec.HolderIdentity, l.Spec.RenewTime = &holder, &renew
	}
	l, err := leases.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		l = &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: c.Namespace}}
		fill(l)
		_, err = leases.Create(ctx, l, metav1.CreateOptions{})
		return err
	}
	if err != nil {
		return err
	}
	fill(l)
	_, err = leases.Update(ctx, l, metav1.UpdateOptions{})
	return err
}

// others reads what the other replicas report.
func (s *server) others(ctx context.Context) ([]proxyReport, error) {
	c := s.opt.Cluster
	list, err := c.Client.CoordinationV1().Leases(c.Namespace).List(ctx, metav1.ListOptions{LabelSelector: replicaLabel + "=" + meshLease})
	if err != nil {
		return nil, fmt.Errorf("what the other replicas' proxies have: %w", err)
	}
	var out []proxyReport
	for i := range list.Items {
		l := &list.Items[i]
		if l.Spec.HolderIdentity == nil || *l.Spec.HolderIdentity == c.Pod || l.Spec.RenewTime == nil || time.Since(l.Spec.RenewTime.Time) > tellOld {
			continue
		}
		var r proxyReport
		if json.Unmarshal([]byte(l.Annotations[reportAnnotation]), &r) == nil {
			out = append(out, r)
		}
	}
	return out, nil
}

// countIn counts another replica's proxies in: they have t if all of them have a set
// of resources that had it. known is this replica's first generation of a digest.
func countIn(r *kube.Reach, t *kube.Taken, other proxyReport, known func(string) (uint64, bool)) {
	r.Proxies += other.Proxies
	if at, ok := known(other.Digest); ok && at >= t.Since {
		r.Acknowledged += other.Proxies
	} else if other.Proxies > 0 && len(r.Behind) < behindMost {
		r.Behind = append(r.Behind, "some of another replica")
	}
}
