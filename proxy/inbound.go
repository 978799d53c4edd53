//go:build linux

package proxy

import (
	"net/netip"
	"strconv"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/decide"
	"github.com/seinemesh/seine/mtls"
	"github.com/seinemesh/seine/telemetry"
	"github.com/seinemesh/seine/telemetry/metrics"
)

// maxPreamble bounds the Peer message at the start of a connection.
const maxPreamble = 2048

// inbound is what is known of one connection towards the local application:
// its port's policy, and who calls. One for each connection.
type inbound struct {
	w        *worker
	kind     decide.Arrival // what the connection began as, once that is known
	port     *decide.InboundPort
	to       netip.AddrPort
	limits   []*limiter // that its requests are held to
	guard    *guard     // policies that it is held to; nil: none
	sni      string     // of the mesh's TLS
	pool     *pool
	wide     *pool // of HTTP/2
	security telemetry.Security
	peer     *seinev1.Workload // nil: unknown
	requests *metrics.Requests
	grpc     *metrics.Requests
	number   uint16
	name     string // see cluster
}

// inbound returns the state of a connection to one of the workload's ports.
func (w *worker) inbound(port uint16, to netip.AddrPort) *inbound {
	p := w.current().Self.Inbound(port)
	return &inbound{
		w: w, number: port, port: p, limits: w.limits(port), guard: w.guard(), to: to,
		pool: w.pool(poolKey{addr: p.Application(to), app: true}, nil), security: telemetry.SecurityNone,
	}
}

// renew makes what s says of the port hold.
func (in *inbound) renew(s *decide.Self) {
	w := in.w
	in.port, in.limits, in.guard = s.Inbound(in.number), w.limits(in.number), w.guard()
	if at := in.port.Application(in.to); at != in.pool.key.addr {
		in.pool, in.wide = w.pool(poolKey{addr: at, app: true}, nil), nil
	}
}

// cluster is Envoy's name of the application's cluster.
func (in *inbound) cluster() string {
	if in.name == "" {
		in.name = "inbound|" + strconv.FormatUint(uint64(in.number), 10) + "||"
	}
	return in.name
}

// route sends a request to the application.
func (in *inbound) route(x *exchange) {
	handle, protocol := &in.requests, telemetry.ProtocolHTTP
	if x.grpc {
		handle, protocol = &in.grpc, telemetry.ProtocolGRPC
	}
	if *handle == nil {
		l := in.labels(protocol)
		*handle = in.w.shard.Requests(&l)
	}
	x.pool, x.handle = in.pool, *handle
	if !x.connects && in.port.HTTP2(x.call()) {
		if in.wide == nil {
			k := in.pool.key
			k.h2 = true
			in.wide = in.w.pool(k, nil)
		}
		x.pool = in.wide
	}
	x.connect = int64(in.w.p.o.AppConnect)
}

func (in *inbound) labels(protocol string) telemetry.RequestLabels {
	p := in.port.Proto
	return telemetry.RequestLabels{
		Reporter: telemetry.Destination, Source: in.peer, Destination: in.w.current().Self.Proto.Workload,
		Service: p.Service, ServiceName: p.ServiceName, ServiceNamespace: p.ServiceNamespace,
		Protocol: protocol, Security: in.security,
	}
}

// peerOf is the caller as metrics name it: what it said of itself, as far as
// that agrees with its certificate; otherwise what the certificate says.
func peerOf(cert *mtls.Peer, said *seinev1.Workload) *seinev1.Workload {
	if cert == nil {
		return nil
	}
	if said != nil && said.Namespace == cert.Namespace && said.ServiceAccount == cert.ServiceAccount {
		said.Identity = cert.ID
		return said
	}
	return &seinev1.Workload{Namespace: cert.Namespace, ServiceAccount: cert.ServiceAccount, Identity: cert.ID}
}

// enforce applies a new Self to the inbound connections that are open: one that
// was let in unencrypted does not outlive the policy that let it. A request
// under way is the last of its connection.
func (w *worker) enforce(s *decide.Self) {
	admitted := func(in *inbound) bool {
		in.requests, in.grpc = nil, nil
		in.renew(s)
		return in.security == telemetry.SecurityMutualTLS || in.port.Admit(in.kind).Action == decide.Forward
	}
	for d := range w.conns {
		switch {
		case d.in == nil || admitted(d.in):
		case d.state == reading:
			d.end(false)
		default:
			d.x.last = true
		}
	}
	for b := range w.bundles {
		if b.in != nil && !admitted(b.in) {
			b.expel()
		}
	}
	for r := range w.relays {
		if r.in != nil && !admitted(r.in) {
			r.failure = "the port does not take plaintext any more"
			r.end(telemetry.FlagLR, true)
		} else if r.in != nil && r.tunnel == nil && r.in.barred(r.dialled, r.remote) {
			r.failure = deniedCause
			r.end(telemetry.FlagLR, true)
		}
	}
	for a := range w.arrivals {
		switch {
		case a.in == nil:
		case a.stage == securing || a.stage == greeting || a.in.security == telemetry.SecurityMutualTLS:
			a.in.renew(s)
		case !admitted(a.in): // opening: what was dialled meanwhile goes, too
			a.refuse()
		}
	}
}
