//go:build linux

package proxy

import (
	"net/netip"
	"time"

	"github.com/seinemesh/seine/proxy/proxyproto"
)

// intro is the PROXY header that a connection to an upstream begins with
// (DestinationRule trafficPolicy.proxyProtocol): between whom it is. To an
// endpoint in the mesh it goes within mutual TLS, and before opaque bytes alone:
// it is for the application, as HTTP has fields for the same. To others it is the
// first on the wire, before TLS, as Envoy has it.
type intro struct {
	version             uint32 // 0: none
	source, destination netip.AddrPort
}

// introIdle is how long a kept connection waits that begins with a header: no
// other client's requests may go over it.
const introIdle = 5 * time.Second

func (i *intro) append(dst []byte) []byte {
	h := proxyproto.Header{Source: i.source, Destination: i.destination}
	if i.version == 2 {
		return h.AppendV2(dst)
	}
	return h.AppendV1(dst)
}

// intro is what an upstream is told of the client's connection.
func (c *caller) intro(version uint32) intro {
	i := intro{version, c.remote, c.dialled}
	if !i.destination.IsValid() {
		i.destination = c.sock.localAddr()
	}
	return i
}

// announced reads the PROXY header of an inbound connection, where the workload
// says that there is one, and believes it.
func (a *arrival) announced() bool {
	for {
		if len(a.data) > 0 && a.data[0] == 22 { // TLS: of the mesh, or refused once that is known
			a.unannounced = true
			a.begin()
			return true
		}
		if len(a.data) > 0 {
			h, n, state := proxyproto.Parse(a.data)
			switch state {
			case proxyproto.Complete:
				a.consume(n)
				if h.Source.IsValid() { // else the proxy's own: a health check
					a.remote, a.behind = h.Source, true
				}
				a.begin()
				return true
			case proxyproto.Invalid:
				a.w.p.counters.badIntroductions.Inc()
				a.refuse()
				return false
			}
		}
		if a.ended() || !a.fill() {
			return false
		}
	}
}
