package decide

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/decide/outlier"
)

// Limits are a cluster's connectionPool. A bound of 0 is none. They hold for
// all loops of a process together.
type Limits struct {
	MaxConnections uint32 // tcp.maxConnections
	MaxPending     uint32 // http.http1MaxPendingRequests: requests that wait for a connection
	MaxRequests    uint32 // http.http2MaxRequests: requests under way
	MaxRetries     uint32 // http.maxRetries: retries under way

	PerConnection uint32        // http.maxRequestsPerConnection
	Idle          time.Duration // of a kept HTTP connection: < 0 none, 0 the proxy's own
	TCPIdle       time.Duration // of an opaque connection: < 0 none, 0 the proxy's own
	MaxAge        time.Duration // tcp.maxConnectionDuration; 0: none
	Keepalive     *Keepalive    // nil: none

	Budget *RetryBudget // of retries under way, in place of MaxRetries and Budget; nil: none is written
}

// RetryBudget is a DestinationRule's trafficPolicy.retryBudget: Envoy's, which
// bounds the retries that are under way at once.
type RetryBudget struct {
	Percent float64 // of the requests that are under way or wait
	Least   uint32  // retries that are allowed however few those are
}

// Allows is how many retries may be under way beside that many requests.
func (b *RetryBudget) Allows(requests int64) uint32 {
	return max(uint32(min(b.Percent/100*float64(max(requests, 0)), 1<<30)), b.Least)
}

// withBudget adds a retry budget to limits, which are left alone.
func withBudget(l *Limits, b *seinev1.RetryBudget) *Limits {
	if b == nil {
		return l
	}
	own := *l
	own.Budget = &RetryBudget{Percent: b.Percent, Least: b.MinConcurrency}
	return &own
}

// Keepalive is tcp.tcpKeepalive; what is 0 is left to the kernel.
type Keepalive struct {
	Probes         uint32
	Time, Interval time.Duration
}

// unlimited is what a cluster without connectionPool has.
var unlimited = &Limits{}

// compileLimits checks and compiles a connectionPool; never nil without error.
func compileLimits(p *seinev1.ConnectionPool, host string) (*Limits, error) {
	if p == nil {
		return unlimited, nil
	}
	for _, d := range []*durationpb.Duration{
		p.IdleTimeout, p.TcpIdleTimeout, p.MaxConnectionDuration, p.Keepalive.GetTime(), p.Keepalive.GetInterval(),
	} {
		if d != nil && (d.CheckValid() != nil || d.AsDuration() < 0) {
			return nil, invalid("connectionPool of %s: duration %v", host, d)
		}
	}
	idle := func(d *durationpb.Duration) time.Duration {
		switch {
		case d == nil:
			return 0
		case d.AsDuration() == 0:
			return -1
		}
		return d.AsDuration()
	}
	l := &Limits{
		MaxConnections: p.MaxConnections, MaxPending: p.MaxPending, MaxRequests: p.MaxRequests, MaxRetries: p.MaxRetries,
		PerConnection: p.MaxRequestsPerConnection, Idle: idle(p.IdleTimeout), TCPIdle: idle(p.TcpIdleTimeout),
		MaxAge: p.MaxConnectionDuration.AsDuration(),
	}
	if k := p.Keepalive; k != nil {
		l.Keepalive = &Keepalive{k.Probes, k.Time.AsDuration(), k.Interval.AsDuration()}
	}
	return l, nil
}

// compileOutlier checks and compiles an outlierDetection; nil: none.
func compileOutlier(o *seinev1.OutlierDetection, host string) (*outlier.Settings, error) {
	if o == nil {
		return nil, nil
	}
	s := &outlier.Settings{
		Consecutive5xx: o.Consecutive_5Xx, ConsecutiveGateway: o.ConsecutiveGateway, ConsecutiveLocal: o.ConsecutiveLocal,
		SplitLocal: o.SplitLocal, Interval: o.Interval.AsDuration(), BaseEjection: o.BaseEjectionTime.AsDuration(),
		MaxPercent: o.MaxEjectionPercent, MinHealthPercent: o.MinHealthPercent,
	}
	for _, code := range o.ErrorCodes {
		if code < 100 || code > 599 {
			return nil, invalid("outlierDetection of %s: status %d", host, code)
		}
		s.Codes = append(s.Codes, int(code))
	}
	if o.Interval.CheckValid() != nil || o.BaseEjectionTime.CheckValid() != nil || !s.Valid() {
		return nil, invalid("outlierDetection of %s: %v", host, o)
	}
	return s, nil
}

// Limited reports whether the cluster has anything that all loops share.
func (c *Cluster) Limited() bool { return c.Limits != unlimited || c.Outlier != nil }
