package span

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

// zipkinSpan is a span of Zipkin's API v2.
type zipkinSpan struct {
	TraceID     string             `json:"traceId"`
	ID          string             `json:"id"`
	ParentID    string             `json:"parentId,omitempty"`
	Kind        string             `json:"kind"`
	Name        string             `json:"name"`
	Timestamp   int64              `json:"timestamp"` // microseconds
	Duration    int64              `json:"duration"`  // microseconds, at least 1
	Local       *zipkinEndpoint    `json:"localEndpoint"`
	Remote      *zipkinEndpoint    `json:"remoteEndpoint,omitempty"`
	Annotations []zipkinAnnotation `json:"annotations,omitempty"`
	Tags        map[string]string  `json:"tags"`
}

type zipkinEndpoint struct {
	Service string `json:"serviceName,omitempty"`
	IPv4    string `json:"ipv4,omitempty"`
	IPv6    string `json:"ipv6,omitempty"`
	Port    uint16 `json:"port,omitempty"`
}

type zipkinAnnotation struct {
	Timestamp int64  `json:"timestamp"`
	Value     string `json:"value"`
}

// zipkin is a batch as Zipkin's /api/v2/spans takes it.
func zipkin(self *seinev1.Workload, batch []reported) ([]byte, error) {
	out := make([]zipkinSpan, len(batch))
	for i, s := range batch {
		z := &out[i]
		*z = zipkinSpan{
			TraceID: string(s.Trace.Append(nil)), ID: string(s.ID.Append(nil)), Kind: "CLIENT", Name: s.name(),
			Timestamp: s.Start.UnixMicro(), Duration: max(1, s.Duration.Microseconds()),
			Local: &zipkinEndpoint{Service: serviceName(self)}, Tags: map[string]string{},
		}
		peer := s.Upstream
		if s.Server {
			z.Kind, peer = "SERVER", s.Remote
			z.Local.address(s.Local)
		}
		if s.Parent != [8]byte{} {
			z.ParentID = string(s.Parent.Append(nil))
		}
		if peer.IsValid() {
			z.Remote = &zipkinEndpoint{}
			z.Remote.address(peer)
			if s.Peer != nil {
				z.Remote.Service = serviceName(s.Peer)
			}
		}
		for _, a := range s.attributes(s.side, self) {
			z.Tags[a.name] = a.string()
		}
		if _, failed := z.Tags["error"]; failed { // its value is what Zipkin shows
			z.Tags["error"] = s.errorType()
		}
		for j := range s.Events {
			e := &s.Events[j]
			var b strings.Builder
			b.WriteString(e.Kind.String())
			for _, a := range e.attributes() {
				fmt.Fprintf(&b, " %s=%s", a.name, a.string())
			}
			z.Annotations = append(z.Annotations, zipkinAnnotation{s.Start.Add(e.At).UnixMicro(), b.String()})
		}
	}
	return json.Marshal(out)
}

func (z *zipkinEndpoint) address(a netip.AddrPort) {
	if !a.IsValid() {
		return
	}
	if z.Port = a.Port(); a.Addr().Is4() {
		z.IPv4 = a.Addr().String()
	} else {
		z.IPv6 = a.Addr().WithZone("").String()
	}
}
