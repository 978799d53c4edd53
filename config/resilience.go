package config

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	networking "istio.io/api/networking/v1alpha3"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

// resilienceFields are the parts of a trafficPolicy that resilience.go reads.
var resilienceFields = []string{
	"connectionPool.tcp.maxConnections", "connectionPool.tcp.connectTimeout", "connectionPool.tcp.tcpKeepalive.**",
	"connectionPool.tcp.maxConnectionDuration", "connectionPool.tcp.idleTimeout",
	"connectionPool.http.http1MaxPendingRequests", "connectionPool.http.http2MaxRequests",
	"connectionPool.http.maxRequestsPerConnection", "connectionPool.http.h2UpgradePolicy", "connectionPool.http.useClientProtocol",
	"connectionPool.http.maxConcurrentStreams", "connectionPool.http.maxRetries", "connectionPool.http.idleTimeout",
	"outlierDetection.consecutiveErrors", "outlierDetection.consecutive5xxErrors", "outlierDetection.consecutiveGatewayErrors",
	"outlierDetection.splitExternalLocalOriginErrors", "outlierDetection.consecutiveLocalOriginFailures",
	"outlierDetection.interval", "outlierDetection.baseEjectionTime", "outlierDetection.maxEjectionPercent",
	"outlierDetection.minHealthPercent", "outlierDetection.outlierDetectionHttpErrorCodes",
}

// Envoy's defaults, which hold where Istio writes nothing.
const (
	defaultConsecutive   = 5
	defaultInterval      = 10 * time.Second
	defaultEjection      = 30 * time.Second
	defaultEjectPercent  = 10
	maxRequestsPerConn   = 1 << 29
	shortestUserDuration = time.Millisecond
)

// pool checks a connectionPool.
func (c *policyConverter) pool(p *networking.ConnectionPoolSettings, path string) {
	tcp, http := p.GetTcp(), p.GetHttp()
	positive := func(d *durationpb.Duration, at string) {
		switch {
		case d == nil:
		case d.AsDuration() == 0:
			c.d.fail(codeDuration, path+at, nil, "must be longer than nothing")
		case d.AsDuration() < shortestUserDuration:
			c.d.fail(codeDuration, path+at, nil, "must be at least 1ms")
		}
	}
	positive(tcp.GetConnectTimeout(), ".tcp.connectTimeout")
	positive(tcp.GetMaxConnectionDuration(), ".tcp.maxConnectionDuration")
	positive(tcp.GetTcpKeepalive().GetTime(), ".tcp.tcpKeepalive.time")
	positive(tcp.GetTcpKeepalive().GetInterval(), ".tcp.tcpKeepalive.interval")
	for _, n := range []struct {
		value int32
		at    string
	}{
		{tcp.GetMaxConnections(), ".tcp.maxConnections"},
		{http.GetHttp1MaxPendingRequests(), ".http.http1MaxPendingRequests"},
		{http.GetHttp2MaxRequests(), ".http.http2MaxRequests"},
		{http.GetMaxRequestsPerConnection(), ".http.maxRequestsPerConnection"},
		{http.GetMaxRetries(), ".http.maxRetries"},
		{http.GetMaxConcurrentStreams(), ".http.maxConcurrentStreams"},
	} {
		if n.value < 0 {
			c.d.fail(codeInvalid, path+n.at, nil, "must not be negative (it is %d): write 0, or nothing, for no bound", n.value)
		}
	}
	if n := http.GetMaxRequestsPerConnection(); n > maxRequestsPerConn {
		c.d.fail(codeInvalid, path+".http.maxRequestsPerConnection", nil, "must be at most 2^29 (it is %d)", n)
	}
}

// outlier checks an outlierDetection.
func (c *policyConverter) outlier(o *networking.OutlierDetection, path string) {
	if o == nil {
		return
	}
	for _, n := range []struct {
		value int32
		at    string
	}{{o.MaxEjectionPercent, ".maxEjectionPercent"}, {o.MinHealthPercent, ".minHealthPercent"}} {
		if n.value < 0 || n.value > 100 {
			c.d.fail(codeInvalid, path+n.at, nil, "must be between 0 and 100 (it is %d)", n.value)
		}
	}
	for _, t := range []struct {
		value *durationpb.Duration
		at    string
	}{{o.Interval, ".interval"}, {o.BaseEjectionTime, ".baseEjectionTime"}} {
		if t.value != nil && t.value.AsDuration() < shortestUserDuration {
			c.d.fail(codeDuration, path+t.at, nil, "must be at least 1ms")
		}
	}
	for i, code := range o.OutlierDetectionHttpErrorCodes {
		if code < 100 || code > 599 {
			c.d.fail(codeInvalid, item(path+".outlierDetectionHttpErrorCodes", i), nil, "must be between 100 and 599 (it is %d)", code)
		}
	}
	//lint:ignore SA1019 it is the name that 2019's resources use
	if n := o.ConsecutiveErrors; n < 0 {
		c.d.fail(codeInvalid, path+".consecutiveErrors", nil, "must not be negative (it is %d)", n)
	}
}

// poolProto is what the proxy gets of a connectionPool, but for connectTimeout;
// nil if there is nothing to get. As in Istio's applyConnectionPool a 0 is no
// bound, and tcp.idleTimeout holds for HTTP where http.idleTimeout is not
// written.
func poolProto(p *networking.ConnectionPoolSettings) *seinev1.ConnectionPool {
	tcp, http := p.GetTcp(), p.GetHttp()
	out := &seinev1.ConnectionPool{
		MaxConnections: uint32(tcp.GetMaxConnections()), MaxPending: uint32(http.GetHttp1MaxPendingRequests()),
		MaxRequests: uint32(http.GetHttp2MaxRequests()), MaxRetries: uint32(http.GetMaxRetries()),
		MaxRequestsPerConnection: uint32(http.GetMaxRequestsPerConnection()),
		IdleTimeout:              http.GetIdleTimeout(), TcpIdleTimeout: tcp.GetIdleTimeout(),
		MaxConnectionDuration: tcp.GetMaxConnectionDuration(),
	}
	if out.IdleTimeout == nil {
		out.IdleTimeout = out.TcpIdleTimeout
	}
	if k := tcp.GetTcpKeepalive(); k != nil {
		out.Keepalive = &seinev1.ConnectionPool_Keepalive{Probes: k.Probes, Time: k.Time, Interval: k.Interval}
	}
	if out.MaxConnections|out.MaxPending|out.MaxRequests|out.MaxRetries|out.MaxRequestsPerConnection == 0 &&
		out.IdleTimeout == nil && out.MaxConnectionDuration == nil && out.Keepalive == nil {
		return nil
	}
	return out
}

// versionProto fills in which HTTP the upstream is spoken to.
func versionProto(out *seinev1.TrafficPolicy, p *networking.ConnectionPoolSettings) {
	http := p.GetHttp()
	switch http.GetH2UpgradePolicy() {
	case networking.ConnectionPoolSettings_HTTPSettings_UPGRADE:
		out.H2Upgrade = seinev1.TrafficPolicy_H2_UPGRADE
	case networking.ConnectionPoolSettings_HTTPSettings_DO_NOT_UPGRADE:
		out.H2Upgrade = seinev1.TrafficPolicy_H2_DO_NOT
	}
	out.UseClientProtocol = http.GetUseClientProtocol()
	out.MaxConcurrentStreams = uint32(http.GetMaxConcurrentStreams())
}

// outlierProto is what the proxy gets of an outlierDetection, with the defaults
// of Istio's applyOutlierDetection and Envoy filled in.
func outlierProto(o *networking.OutlierDetection) *seinev1.OutlierDetection {
	if o == nil {
		return nil
	}
	out := &seinev1.OutlierDetection{
		Consecutive_5Xx: defaultConsecutive, ConsecutiveGateway: o.ConsecutiveGatewayErrors.GetValue(),
		SplitLocal: o.SplitExternalLocalOriginErrors,
		Interval:   o.Interval, BaseEjectionTime: o.BaseEjectionTime,
		MaxEjectionPercent: uint32(o.MaxEjectionPercent), MinHealthPercent: uint32(o.MinHealthPercent),
		ErrorCodes: o.OutlierDetectionHttpErrorCodes,
	}
	//lint:ignore SA1019 it is the name that 2019's resources use
	old := uint32(o.ConsecutiveErrors)
	switch {
	case o.Consecutive_5XxErrors != nil:
		out.Consecutive_5Xx = o.Consecutive_5XxErrors.Value
	case old > 0 && o.ConsecutiveGatewayErrors == nil:
		// Istio of 2019: it counts gateway errors, and those alone.
		out.Consecutive_5Xx, out.ConsecutiveGateway = 0, old
	}
	if out.SplitLocal {
		if out.ConsecutiveLocal = o.ConsecutiveLocalOriginFailures.GetValue(); out.ConsecutiveLocal == 0 {
			out.ConsecutiveLocal = defaultConsecutive
		}
	}
	if out.Interval == nil {
		out.Interval = durationpb.New(defaultInterval)
	}
	if out.BaseEjectionTime == nil {
		out.BaseEjectionTime = durationpb.New(defaultEjection)
	}
	if out.MaxEjectionPercent == 0 {
		out.MaxEjectionPercent = defaultEjectPercent
	}
	return out
}

// Istio's defaults of a retryBudget.
const (
	defaultBudgetPercent = 20
	defaultBudgetLeast   = 3
)

// retryBudget checks a retryBudget and fills in its defaults; nil: none.
func (c *policyConverter) retryBudget(b *networking.TrafficPolicy_RetryBudget, path string) *seinev1.RetryBudget {
	if b == nil {
		return nil
	}
	out := &seinev1.RetryBudget{Percent: defaultBudgetPercent, MinConcurrency: b.MinRetryConcurrency}
	if out.MinConcurrency == 0 {
		out.MinConcurrency = defaultBudgetLeast
	}
	if p := b.Percent; p != nil {
		if out.Percent = p.Value; !(p.Value >= 0 && p.Value <= 100) {
			c.d.fail(codeInvalid, path+".percent", nil, "a percentage must be between 0 and 100 (it is %v)", p.Value)
		}
	}
	return out
}
