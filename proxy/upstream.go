//go:build linux

package proxy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"google.golang.org/protobuf/proto"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/decide"
	"github.com/seinemesh/seine/mtls"
	"github.com/seinemesh/seine/proxy/loop"
	"github.com/seinemesh/seine/telemetry"
	"github.com/seinemesh/seine/telemetry/metrics"
)

var (
	alpnHTTP = []string{"seine-http/1.1", "istio-http/1.1", "istio"}
	// What servers outside the mesh are offered.
	alpnOutside, alpnOutside2 = []string{"http/1.1"}, []string{"h2"}

	alpnTCP = []string{"seine-tcp", "istio"}
	// As Istio's sidecars offer it: theirs agree to h2.
	alpnHTTP2 = []string{"seine-http/2", "istio-h2", "istio", "h2"}
)

// poolKey is what makes two upstream connections interchangeable: where they
// go, who must answer there, and how.
type poolKey struct {
	addr     netip.AddrPort
	identity string
	alts     string // further identities that are accepted
	sni      string
	mutual   bool
	origin   mtls.Origin // of TLS with a server outside the mesh; zero: none
	h2       bool        // exchanges share the connections: trunks
	carries  bool        // those of HTTP/1.1: see carrying
	app      bool        // the workload's own application
	intro    intro       // the PROXY header that it begins with; zero: none
	sh       *shared     // the cluster, if a DestinationRule bounds or watches it
}

// source is the address that connections to the application come from, Istio's:
// without it the redirect rules would take a connection to the workload's own
// address for a caller's, and send it back to the inbound listener. The zero
// Addr leaves the choice to the kernel, as for ::1, which no rule takes.
func (k *poolKey) source() netip.Addr {
	if !k.app {
		return netip.Addr{}
	}
	return AppSource(k.addr.Addr())
}

// AppSource is the address that connections to the workload's own application
// at a come from: 127.0.0.6, or ::6, which whoever makes the redirect rules
// gives to the loopback device.
func AppSource(a netip.Addr) netip.Addr {
	switch {
	case a.Is4() || a.Is4In6():
		return netip.AddrFrom4([4]byte{127, 0, 0, 6})
	case a.IsLoopback():
		return netip.Addr{}
	}
	return netip.AddrFrom16([16]byte{15: 6})
}

// pool keeps the idle connections to one endpoint, the last used first.
type pool struct {
	key     poolKey
	lane    *lane // of key.sh; nil: nothing is bounded
	alts    []string
	idle    *upstream // newest
	trunks  []*trunk
	streams int   // of one trunk, if a DestinationRule bounds them
	seine   bool  // a sidecar of ours answered there
	alone   int64 // until when, on the loop's clock, it is not asked to share connections
	single  *pool // key.carries: connections for one exchange each
	content int64 // bytes of an exchange, a moving average over the last ones: see bulky
	count   int   // idle ones
	open    int   // all of them
}

// target is what a loop knows of a cluster: its balancing state and its
// endpoints' pools and metric handles, so that a request looks nothing up by
// name.
type target struct {
	cluster *decide.Cluster
	balance *decide.Balance
	edges   []edge // by index of the cluster's Endpoints
	others  map[*decide.Endpoint]*edge
	label   string // Envoy's name of the cluster, made on first use
	budget  *budget
	sh      *shared              // nil: no DestinationRule bounds or watches it
	seen    *map[string]struct{} // the ejected endpoints that balance knows of
}

type edge struct {
	ep   *decide.Endpoint
	pool *pool
	wide *pool // of HTTP/2; nil: not used yet
	// carrier is of HTTP/2 that carries HTTP/1.1; nil: not used yet.
	carrier *pool
	alts    []string
	http    *metrics.Requests
	grpc    *metrics.Requests
	tcp     *metrics.TCP
	host    *host // nil: nobody watches it
}

func (w *worker) target(c *decide.Cluster) *target {
	t := w.targets[c]
	if t == nil {
		t = w.newTarget(c, nil)
	}
	return t
}

// edge is what is kept for one endpoint of the target: the i-th of its
// cluster, or (i < 0) one that is not among those to be picked but was dialled
// by its own address. A nil ep is the address dialled, whatever that is.
func (t *target) edge(w *worker, ep *decide.Endpoint, i int) *edge {
	if i >= 0 {
		e := &t.edges[i]
		if e.pool == nil {
			t.fill(w, e, ep)
		}
		return e
	}
	e := t.others[ep]
	if e == nil {
		e = &edge{}
		t.fill(w, e, ep)
		if t.others == nil {
			t.others = map[*decide.Endpoint]*edge{}
		}
		t.others[ep] = e
	}
	return e
}

func (t *target) fill(w *worker, e *edge, ep *decide.Endpoint) {
	e.ep = ep
	if ep == nil {
		return
	}
	e.host = t.sh.host(ep, t.cluster.Outlier)
	k := poolKey{addr: ep.Addr, sh: t.sh}
	if t.cluster.Transport(ep) == decide.Mutual {
		k.mutual, k.sni = true, t.cluster.SNI
		k.identity, e.alts = t.cluster.Expect(ep)
		if k.identity == "" && len(e.alts) > 0 {
			k.identity, e.alts = e.alts[0], e.alts[1:]
		}
		k.alts = strings.Join(e.alts, " ")
	}
	if tr := t.cluster.Transport(ep); tr == decide.Simple || tr == decide.Custom {
		k.origin = w.origin(t.cluster)
	}
	e.pool = w.pool(k, e.alts)
}

// origin is how TLS is begun with c's endpoints.
func (w *worker) origin(c *decide.Cluster) mtls.Origin {
	sni, alts := c.Originate()
	p := c.Policy.GetOriginate()
	o := mtls.Origin{Begin: true, ServerName: sni, Names: strings.Join(alts, " "), Unverified: p.GetInsecureSkipVerify()}
	if name := p.GetCredential(); name != "" {
		o.Credential, o.Mutual = filepath.Join(w.p.o.Credentials, name), p.GetClientCertificate() != ""
		return o
	}
	o.CA, o.Certificate, o.Key, o.CRL = p.GetCaCertificates(), p.GetClientCertificate(), p.GetPrivateKey(), p.GetCaCrl()
	return o
}

// requests is the metric handle of requests to the edge's endpoint.
func (t *target) requests(w *worker, e *edge, grpc bool) *metrics.Requests {
	if grpc {
		if e.grpc == nil {
			l := t.labels(w, e.ep, telemetry.ProtocolGRPC)
			e.grpc = w.shard.Requests(&l)
		}
		return e.grpc
	}
	if e.http == nil {
		l := t.labels(w, e.ep, telemetry.ProtocolHTTP)
		e.http = w.shard.Requests(&l)
	}
	return e.http
}

// to is the pool of connections to the edge's endpoint that x goes over.
func (t *target) to(w *worker, e *edge, x *exchange) *pool {
	if v := t.cluster.Policy.GetProxyProtocol(); v != 0 && e.pool != nil && !e.pool.key.mutual {
		k := e.pool.key
		k.h2 = !x.connects && t.cluster.HTTP2(x.call())
		k.intro = x.caller.intro(v)
		return w.pool(k, e.alts)
	}
	if e.pool == nil || x.connects {
		return e.pool
	}
	if !t.cluster.HTTP2(x.call()) {
		return t.carrierFor(w, e, x)
	}
	if e.wide == nil {
		k := e.pool.key
		k.h2 = true
		e.wide = w.pool(k, e.alts)
		e.wide.streams = int(t.cluster.Policy.MaxConcurrentStreams)
	}
	return e.wide
}

// streams is the metric handle of opaque connections to the edge's endpoint.
func (t *target) streams(w *worker, e *edge) *metrics.TCP {
	if e.tcp == nil {
		l := t.labels(w, e.ep, telemetry.ProtocolTCP)
		e.tcp = w.shard.TCP(&l)
	}
	return e.tcp
}

func (t *target) labels(w *worker, ep *decide.Endpoint, protocol string) telemetry.RequestLabels {
	s := t.cluster.Service.Proto
	l := telemetry.RequestLabels{
		Reporter: telemetry.Source, Source: w.current().Self.Proto.Workload,
		Service: s.Host, ServiceName: s.Name, ServiceNamespace: s.Namespace, Protocol: protocol,
	}
	if ep != nil {
		l.Destination = ep.Proto.Workload
	}
	l.Plaintext = t.cluster.Transport(ep) != decide.Mutual
	return l
}

func (w *worker) pool(k poolKey, alts []string) *pool {
	p := w.pools[k]
	if p == nil {
		if len(w.pools) >= w.sweepAt { // addresses that were tried and never reached
			for k, p := range w.pools {
				if p.open == 0 {
					delete(w.pools, k)
				}
			}
			w.sweepAt = 2*len(w.pools) + 64
		}
		p = &pool{key: k, alts: alts, lane: w.lane(k.sh)}
		w.pools[k] = p
	}
	return p
}

// take removes the most recently used idle connection; nil if there is none.
func (p *pool) take() *upstream {
	u := p.idle
	if u != nil {
		p.remove(u)
	}
	return u
}

func (p *pool) remove(u *upstream) {
	if u.newer != nil {
		u.newer.older = u.older
	} else {
		p.idle = u.older
	}
	if u.older != nil {
		u.older.newer = u.newer
	}
	u.newer, u.older, u.pooled = nil, nil, false
	p.count--
	if p.lane != nil {
		p.lane.cell.idle.Add(-1)
	}
}

func (p *pool) put(u *upstream) {
	u.older = p.idle
	if p.idle != nil {
		p.idle.newer = u
	}
	p.idle, u.pooled = u, true
	p.count++
	if p.lane != nil {
		p.lane.cell.idle.Add(1)
	}
}

// upstream is a connection that this proxy opened.
type upstream struct {
	socket
	pool   *pool
	user   upstreamUser // who waits for it or uses it; nil: idle
	newer  *upstream
	older  *upstream
	pooled bool
	trunk  *trunk // of HTTP/2; nil: one exchange at a time
	timer  loop.Timer

	connecting bool
	up         bool // ready to carry requests
	http       bool // else opaque
	greet      bool // the preamble has yet to be sent
	introduced bool // the PROXY header was sent within mutual TLS
	served     int  // requests that were answered on it: it is a reused one if any
	born       int64
	local      netip.AddrPort
}

// upstreamUser is a machine that asked for an upstream connection.
type upstreamUser interface {
	machine
	connected(u *upstream)
	connectFailed(u *upstream, err error)
}

var errConnectTimeout = errors.New("connect timeout")

// dial opens a connection for user, who hears of its success or failure, never
// from within this call. errFull: the cluster has all that it may have.
func (w *worker) dial(p *pool, timeout time.Duration, user upstreamUser, http bool) (*upstream, error) {
	if l := p.lane; l != nil && !l.sh.conns.Take(l.sh.limits.Load().MaxConnections) {
		return nil, errFull
	}
	return w.dialTaken(p, timeout, user, http)
}

// dialTaken is dial once there is a place for the connection.
func (w *worker) dialTaken(p *pool, timeout time.Duration, user upstreamUser, http bool) (_ *upstream, err error) {
	defer func() {
		if err != nil && p.lane != nil {
			p.lane.freed()
		}
	}()
	w.pools[p.key] = p
	u := &upstream{pool: p, user: user, connecting: true, http: http, born: w.loop.Now()}
	u.timer.Fire = u.expired
	if timeout <= 0 {
		timeout = 10 * time.Second
	}
	if !p.key.app && w.outside(p.key.addr) {
		u.w, u.fd = w, -1
		w.dialOutside(u, timeout)
	} else {
		fd, err := loop.Dial(p.key.source(), p.key.addr, w.p.o.Mark)
		if err != nil {
			return nil, err
		}
		u.keepAlive(fd)
		if err := u.open(w, fd, u); err != nil {
			return nil, err
		}
	}
	p.open++
	w.upstreams.Add(1)
	w.dialling[u] = struct{}{}
	w.loop.Arm(&u.timer, w.loop.Now()+int64(timeout))
	return u, nil
}

// ready moves the connection towards being up, and then wakes its user.
func (u *upstream) ready() {
	if u.up {
		if u.user != nil {
			u.user.ready()
		} else {
			u.idleEvent()
		}
		return
	}
	if u.connecting {
		if u.hup || u.writable {
			if errno := loop.SocketError(u.fd); errno != 0 {
				u.gaveUp(fmt.Errorf("connect to %v: %w", u.pool.key.addr, errno))
				return
			}
		}
		if !u.writable {
			return
		}
		u.connecting = false
		if u.w.ring != nil {
			u.local = loop.LocalAddr(u.fd)
		}
		if i := &u.pool.key.intro; i.version != 0 && !u.pool.key.mutual {
			if u.send(i.append(nil), nil); u.blocked() || u.lost != nil { // no socket is full at its beginning
				u.gaveUp(fmt.Errorf("PROXY header to %v: %w", u.pool.key.addr, errReset))
				return
			}
		}
		if o := &u.pool.key.origin; o.Begin {
			var alpn []string
			if u.pool.key.h2 {
				alpn = alpnOutside2
			} else if u.http {
				alpn = alpnOutside
			}
			u.startTLS(u.w.p.factory.Originate(*o, u.pool.key.addr, alpn))
			if u.handshaking {
				return
			}
		}
		if u.pool.key.mutual {
			alpn := alpnHTTP
			if u.pool.key.carries {
				alpn = alpnShared
			} else if u.pool.key.h2 {
				alpn = alpnHTTP2
			} else if !u.http {
				alpn = alpnTCP
			}
			k := &u.pool.key
			u.startTLS(u.w.p.factory.Client(k.identity, u.pool.alts, k.sni, k.addr, alpn))
			if u.handshaking {
				return
			}
		}
	}
	if u.handshaking {
		return
	}
	if u.err != nil {
		u.gaveUp(fmt.Errorf("TLS with %v: %w", u.pool.key.addr, u.err))
		return
	}
	if u.session != nil {
		switch a := u.session.ALPN(); a {
		case "seine-http/2", mtls.ALPNShared, "seine-http/1.1", "seine-tcp":
			u.greet = true
			u.pool.seine = true
		case "h2":
		default:
			if u.pool.key.h2 && u.pool.key.origin.Begin {
				u.gaveUp(fmt.Errorf("TLS with %v: %w", u.pool.key.addr, errNotHTTP2))
				return
			}
		}
	}
	u.up = true
	delete(u.w.dialling, u)
	u.w.loop.Disarm(&u.timer)
	if u.user == nil { // who wanted it has gone: keep it for the next
		u.release()
		return
	}
	u.user.connected(u)
}

// greeting is what must precede the first bytes of the connection, nil if
// nothing must.
func (u *upstream) greeting() []byte {
	i := &u.pool.key.intro
	within := i.version != 0 && u.pool.key.mutual && !u.introduced
	if !u.greet && !within {
		return nil
	}
	var out []byte
	if u.greet {
		u.greet = false
		out = u.w.preamble()
	}
	if within {
		u.introduced = true
		out = i.append(out[:len(out):len(out)])
	}
	return out
}

// preamble is this workload's Peer message with its length in front.
func (w *worker) preamble() []byte {
	if w.preambles == nil {
		body, err := proto.Marshal(&seinev1.Peer{Workload: w.current().Self.Proto.Workload})
		if err != nil || len(body) > maxPreamble {
			body = nil
		}
		w.preambles = append(binary.BigEndian.AppendUint16(nil, uint16(len(body))), body...)
	}
	return w.preambles
}

func (u *upstream) expired() {
	if !u.up {
		u.gaveUp(fmt.Errorf("connect to %v: %w", u.pool.key.addr, errConnectTimeout))
		return
	}
	if u.trunk != nil {
		u.trunk.expired()
	} else if u.user == nil {
		u.drop(false)
	}
}

// gaveUp ends a connection that never came up.
func (u *upstream) gaveUp(err error) {
	user := u.user
	u.user = nil
	u.drop(true)
	if user != nil {
		user.connectFailed(u, err)
	}
}

// drop closes the connection wherever it stands.
func (u *upstream) drop(reset bool) {
	if u.closed {
		return
	}
	if u.pooled {
		u.pool.remove(u)
	}
	u.user = nil
	delete(u.w.dialling, u)
	u.w.loop.Drop(&u.timer)
	u.close(reset)
	if u.trunk != nil {
		u.trunk.gone()
	}
	if u.pool.lane != nil {
		u.pool.lane.freed()
	}
	u.w.upstreams.Add(-1)
	if u.pool.open--; u.pool.open == 0 && u.w.pools[u.pool.key] == u.pool {
		delete(u.w.pools, u.pool.key)
		// A target may still point to this pool: it is used again then, and
		// comes back into the map with its next connection.
	}
}

// acquire returns an idle connection, or begins a new one (up is false then).
func (w *worker) acquire(p *pool, timeout time.Duration, user upstreamUser, fresh, careful bool) (*upstream, error) {
	if !fresh {
		if u := w.kept(p, user, careful); u != nil {
			return u, nil
		}
	}
	return w.dial(p, timeout, user, true)
}

// kept takes an idle connection that is still good; nil if there is none.
func (w *worker) kept(p *pool, user upstreamUser, careful bool) *upstream {
	if p.key.h2 {
		if t := p.trunk(); t != nil {
			return t.join(user.(*exchange))
		}
		return nil
	}
	for {
		u := p.take()
		if u == nil {
			return nil
		}
		if u.hup || u.err != nil || (careful && !loop.Alive(u.fd)) {
			u.drop(false)
			continue
		}
		w.loop.Disarm(&u.timer)
		u.user = user
		return u
	}
}

// connectCause is a short reason without names or addresses that change.
func connectCause(err error) string {
	var errno syscall.Errno
	switch {
	case errors.Is(err, errFull):
		return "circuit breaker: " + err.Error()
	case errors.Is(err, errConnectTimeout):
		return "upstream connect timeout"
	case errors.As(err, &errno):
		return "upstream connect: " + errno.Error()
	}
	return "upstream: " + err.Error()
}
