package decide

import (
	"testing"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

func TestVersion(t *testing.T) {
	one, two := Call{}, Call{HTTP2: true}
	grpc, ws := Call{HTTP2: true, GRPC: true}, Call{Upgrade: true}
	upgrade := &seinev1.TrafficPolicy{H2Upgrade: seinev1.TrafficPolicy_H2_UPGRADE}
	follow := &seinev1.TrafficPolicy{UseClientProtocol: true, H2Upgrade: seinev1.TrafficPolicy_H2_UPGRADE}
	http, h2, rpc, detect := seinev1.Protocol_PROTOCOL_HTTP, seinev1.Protocol_PROTOCOL_HTTP2, seinev1.Protocol_PROTOCOL_GRPC, seinev1.Protocol_PROTOCOL_DETECT
	for _, c := range []struct {
		name     string
		protocol seinev1.Protocol
		policy   *seinev1.TrafficPolicy
		call     Call
		want     bool
	}{
		{"a port that says http is HTTP/1.1 for HTTP/1.1", http, nil, one, false},
		{"and for HTTP/2", http, nil, two, false},
		{"but not for gRPC", http, nil, grpc, true},
		{"http2 is HTTP/2 for HTTP/1.1", h2, nil, one, true},
		{"but not for a WebSocket", h2, nil, ws, false},
		{"grpc is HTTP/2", rpc, nil, two, true},
		{"what nobody declared goes as it came: HTTP/1.1", detect, nil, one, false},
		{"HTTP/2", detect, nil, two, true},
		{"UPGRADE", http, upgrade, one, true},
		{"UPGRADE of a WebSocket", http, upgrade, ws, false},
		{"useClientProtocol wins: HTTP/1.1", h2, follow, one, false},
		{"HTTP/2", http, follow, two, true},
	} {
		if c.policy == nil {
			c.policy = &seinev1.TrafficPolicy{}
		}
		k := &Cluster{Policy: c.policy, Service: &Service{Proto: &seinev1.Service{Protocol: c.protocol}}}
		if got := k.HTTP2(c.call); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
		if c.policy.UseClientProtocol || c.policy.H2Upgrade != 0 {
			continue
		}
		p := &InboundPort{Proto: &seinev1.InboundPort{Protocol: c.protocol}}
		if got := p.HTTP2(c.call); got != c.want {
			t.Errorf("%s, to the application: %v", c.name, got)
		}
	}
}
