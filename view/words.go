package view

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/mesh"
)

func before(s string, sep byte) string {
	if i := strings.IndexByte(s, sep); i >= 0 {
		return s[:i]
	}
	return s
}

var protocolNames = map[seinev1.Protocol]string{
	seinev1.Protocol_PROTOCOL_HTTP: "http", seinev1.Protocol_PROTOCOL_HTTP2: "http", seinev1.Protocol_PROTOCOL_GRPC: "grpc",
	seinev1.Protocol_PROTOCOL_TCP: "tcp", seinev1.Protocol_PROTOCOL_TLS: "tls", seinev1.Protocol_PROTOCOL_DETECT: "detect",
}

// protocolOf is what a service's ports say that they speak.
func protocolOf(svc *mesh.Service) string {
	var out []string
	seen := map[string]bool{}
	for _, p := range svc.Ports {
		if name := protocolNames[p.Protocol]; !seen[name] {
			seen[name] = true
			out = append(out, name)
		}
	}
	return strings.Join(out, ",")
}

func milliseconds(d *durationpb.Duration) float64 {
	return float64(d.AsDuration()) / float64(time.Millisecond)
}

func modeName(m seinev1.MtlsMode) string { return strings.TrimPrefix(m.String(), "MTLS_") }

func percent(perMillion uint32) string { return fmt.Sprintf("%g %%", float64(perMillion)/10_000) }
