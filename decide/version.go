package decide

import seinev1 "github.com/seinemesh/seine/api/seine/v1"

// Call is what the choice of an upstream's HTTP version looks at.
type Call struct {
	HTTP2 bool // it came over HTTP/2
	GRPC  bool
	// Upgrade: it asks an HTTP/1 connection to become something else, as a
	// WebSocket.
	Upgrade bool
}

// HTTP2 reports whether a request to the cluster goes over HTTP/2. As in Istio:
// useClientProtocol follows the client; otherwise the port's protocol decides,
// which h2UpgradePolicy can turn from HTTP into HTTP/2; what is not declared goes
// as it came. gRPC has no other transport than HTTP/2, whatever is declared, and
// HTTP/1's Upgrade none but HTTP/1.
func (c *Cluster) HTTP2(q Call) bool {
	switch {
	case q.GRPC && q.HTTP2:
		return true
	case q.Upgrade && !q.HTTP2:
		return false
	case c.Policy.UseClientProtocol:
		return q.HTTP2
	case c.Policy.H2Upgrade == seinev1.TrafficPolicy_H2_UPGRADE && plainHTTP(c.Service.Proto.Protocol):
		return true
	}
	return protocolHTTP2(c.Service.Proto.Protocol, q)
}

// HTTP2 reports whether a request to the workload's own port goes to the
// application over HTTP/2.
func (p *InboundPort) HTTP2(q Call) bool {
	switch {
	case q.GRPC && q.HTTP2:
		return true
	case q.Upgrade && !q.HTTP2:
		return false
	}
	return protocolHTTP2(p.Proto.Protocol, q)
}

func plainHTTP(p seinev1.Protocol) bool {
	return p == seinev1.Protocol_PROTOCOL_HTTP || p == seinev1.Protocol_PROTOCOL_DETECT
}

func protocolHTTP2(p seinev1.Protocol, q Call) bool {
	switch p {
	case seinev1.Protocol_PROTOCOL_HTTP2, seinev1.Protocol_PROTOCOL_GRPC:
		return true
	case seinev1.Protocol_PROTOCOL_HTTP:
		return false
	}
	return q.HTTP2
}
