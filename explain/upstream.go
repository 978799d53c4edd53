package explain

import (
	"fmt"

	"github.com/seinemesh/seine/decide"
)

// upstreamOf is how a cluster is spoken to.
func upstreamOf(c *decide.Cluster) *Upstream {
	l := c.Limits
	u := &Upstream{
		LB: balancer(c), ConnectTimeout: seconds(c.ConnectTimeout), TLS: tlsModes[c.Policy.Tls],
		MaxConnections: l.MaxConnections, MaxPending: l.MaxPending, MaxRequests: l.MaxRequests, MaxRetries: l.MaxRetries,
		MaxRequestsPerConnection: l.PerConnection,
	}
	if b := l.Budget; b != nil {
		u.RetryBudget = fmt.Sprintf("%g %%, at least %d", b.Percent, b.Least)
	}
	if l.Idle > 0 {
		u.IdleTimeout = seconds(l.Idle)
	}
	if l.MaxAge > 0 {
		u.MaxConnectionDuration = seconds(l.MaxAge)
	}
	if o := c.Outlier; o != nil {
		u.Consecutive5xx, u.ConsecutiveGateway, u.ConsecutiveLocal = o.Consecutive5xx, o.ConsecutiveGateway, o.ConsecutiveLocal
		u.ErrorCodes = o.Codes
		u.Interval, u.BaseEjectionTime = seconds(o.Interval), seconds(o.BaseEjection)
		u.MaxEjectionPercent, u.MinHealthPercent = o.MaxPercent, o.MinHealthPercent
	}
	return u
}

// guards says in a sentence what protects the cluster.
func (e *explanation) guards(c *decide.Cluster, host string) {
	if l := c.Limits; l.MaxConnections|l.MaxPending|l.MaxRequests > 0 {
		bound := func(n uint32) any {
			if n == 0 {
				return "any number of"
			}
			return n
		}
		e.once("To %s the caller's sidecar opens at most %v connections, lets %v requests wait for one and %v be under way; more get 503 with flag UO.",
			host, bound(l.MaxConnections), bound(l.MaxPending), bound(l.MaxRequests))
	}
	if o := c.Outlier; o != nil && len(c.Endpoints) > 0 && uint64(o.MaxPercent)*uint64(len(c.Endpoints)) < 100 {
		e.once("Outlier detection ejects nobody: maxEjectionPercent %d of %d endpoints is less than one.", o.MaxPercent, len(c.Endpoints))
	}
}
