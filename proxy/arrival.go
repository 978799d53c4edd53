//go:build linux

package proxy

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"strings"

	"google.golang.org/protobuf/proto"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/decide"
	"github.com/seinemesh/seine/mtls"
	"github.com/seinemesh/seine/proxy/loop"
	"github.com/seinemesh/seine/proxy/sniff"
	"github.com/seinemesh/seine/telemetry"
)

// stage is what an arrival waits for.
type stage uint8

const (
	asking     stage = iota // the control plane's answer for the address
	naming                  // the ClientHello, and the answer to the name in it
	announcing              // inbound: the PROXY header
	opening                 // the first bytes: TLS or not, and whose
	securing                // the TLS handshake
	greeting                // the Peer message
	detecting               // the first bytes of plaintext: HTTP or not
	resolving               // the address of where an opaque connection goes
	handed                  // to HTTP or a relay
)

// arrival is an accepted connection until it is known what it carries. It
// becomes a downstream (HTTP), a relay, or is refused.
type arrival struct {
	*socket
	door            *door
	dialled, remote netip.AddrPort
	stage           stage
	in              *inbound // inbound only
	answer          *decide.Answer
	sni             string // outbound: of the application's ClientHello, if it matters
	draw            uint64 // which destination; 0: not drawn yet
	resolving       bool   // opaque has asked for an address
	timer           loop.Timer
	// grace ends when it is time to dial the destination although the client
	// has said nothing: the server may be the one that speaks first. Only a
	// byte, from either side, decides. Where the client may yet begin TLS, it is
	// TLSWait: what the server says goes out in plaintext then, and breaks the
	// handshake of a client that was merely slow.
	grace  loop.Timer
	probe  *upstream
	route  opaque // of probe
	missed missed
	timed  bool // grace was set
	// silent: the time in which a head must come has passed without a byte.
	silent bool
	// unannounced: there was no PROXY header where one has to be, which the
	// mesh's own mutual TLS alone may do.
	unannounced bool
	behind      bool // a load balancer, which said who the client is
	// Half-open ones stand in the order in which they came; see crowd.
	older, newer *arrival
	counted      bool
}

// arrive takes an accepted descriptor over, on the loop that it belongs to now.
func (w *worker) arrive(fd int, door *door) {
	var dialled netip.AddrPort
	var unknown error
	if door.kind == doorInbound || door.kind == doorOutbound {
		dialled, unknown = w.p.original(fd)
		if divert := w.p.o.Divert; divert != nil && unknown == nil && divert(fd, dialled, door.kind == doorInbound) {
			w.loop.Reserve(-1)
			return
		}
	}
	loop.NoDelay(fd)
	a := &arrival{socket: &socket{}, door: door}
	if a.open(w, fd, a) != nil {
		w.loop.Reserve(-1)
		return
	}
	w.arrivals[a] = struct{}{}
	w.crowd.add(a)
	a.timer.Fire = a.expired
	a.grace.Fire = a.dialMeanwhile
	w.loop.Arm(&a.timer, w.loop.Now()+int64(w.p.o.HeadTimeout))
	a.remote = loop.RemoteAddr(fd)
	switch door.kind {
	case doorExplicit:
		a.serveHTTP()
		return
	case doorPublished:
		a.stage = asking
	case doorFixed:
		a.dialled = door.target
		a.enter(door.port)
	case doorInbound, doorOutbound:
		if unknown != nil || dialled == a.localAddr() || w.p.own(dialled) {
			w.p.counters.selfCalls.Inc()
			a.refuse()
			return
		}
		a.dialled = dialled
		if door.kind == doorInbound {
			a.enter(dialled.Port())
		} else {
			a.stage = asking
		}
	}
	a.ready()
}

// enter begins an inbound connection to one of the workload's ports.
func (a *arrival) enter(port uint16) {
	a.in = a.w.inbound(port, a.dialled)
	if a.stage = announcing; !a.in.port.Introduced(a.remote.Addr()) {
		a.begin()
	}
}

// begin waits for the first bytes of an inbound connection.
func (a *arrival) begin() {
	a.stage = opening
	if a.in.port.Admit(decide.Plaintext).Action == decide.Forward {
		a.w.loop.Arm(&a.grace, a.w.loop.Now()+int64(a.w.p.o.TLSWait))
	}
}

// ready moves the arrival on as far as what has come allows.
func (a *arrival) ready() {
	for a.stage != handed && !a.closed {
		if a.err != nil && a.stage != securing {
			a.drop(true)
			return
		}
		more := false
		switch a.stage {
		case asking:
			more = a.ask()
		case naming:
			more = a.named()
		case announcing:
			more = a.announced()
		case opening:
			more = a.openTLS()
		case securing:
			more = a.secured()
		case greeting:
			more = a.greeted()
		case detecting:
			more = a.detect()
		case resolving:
			more = a.relay()
		}
		if !more {
			return
		}
	}
}

// want fills until at least n bytes are there; false: not yet, or never.
func (a *arrival) want(n int) bool {
	for len(a.data) < n {
		if !a.fill() {
			return false
		}
		if (a.eof || a.err != nil) && len(a.data) < n {
			return false
		}
	}
	return true
}

// ended reports an end before the connection was understood, and drops it.
func (a *arrival) ended() bool {
	if a.err != nil || a.eof {
		a.drop(a.err != nil)
		return true
	}
	return false
}

// openTLS looks at the first bytes: TLS of the mesh, other TLS, or none.
func (a *arrival) openTLS() bool {
	p := a.in.port
	open := p.Admit(decide.Plaintext)
	if open.Action == decide.Forward && p.Admit(decide.OtherTLS).Action == decide.Forward && p.Admit(decide.MeshTLS).Action == decide.Forward {
		return a.plaintext(decide.Plaintext) // nothing of what could come would be ended here
	}
	if !a.want(1) {
		if a.eof && a.err == nil && open.Action == decide.Forward {
			return a.plaintext(decide.Plaintext) // a client that only ends begins no TLS
		}
		a.ended()
		return false
	}
	for {
		if a.data[0] != 22 { // no TLS handshake record begins otherwise
			return a.plaintext(decide.Plaintext)
		}
		hello, _, state := sniff.ClientHello(a.data)
		switch state {
		case sniff.Complete:
			kind := decide.OtherTLS
			if meshHello(&hello) {
				kind = decide.MeshTLS
			}
			return a.plaintext(kind)
		case sniff.Invalid:
			return a.plaintext(decide.Plaintext)
		}
		if a.eof || !a.fill() {
			if a.eof {
				return a.plaintext(decide.Plaintext)
			}
			return false
		}
	}
}

// meshHello reports whether a ClientHello offers one of the mesh's protocols.
func meshHello(h *sniff.Hello) bool {
	for p, n := h.ALPN(0); p != nil; p, n = h.ALPN(n) {
		s := string(p)
		if s == "istio" || strings.HasPrefix(s, "istio-") || strings.HasPrefix(s, "seine-") {
			return true
		}
	}
	return false
}

// plaintext does what the port's policy says about a connection that began so.
func (a *arrival) plaintext(kind decide.Arrival) bool {
	w := a.w
	a.in.kind = kind
	if a.unannounced && kind != decide.MeshTLS {
		w.p.counters.badIntroductions.Inc()
		a.refuse()
		return false
	}
	switch v := a.in.port.Admit(kind); v.Action {
	case decide.Terminate:
		a.forgetProbe()
		a.stage = securing
		a.startTLS(w.p.factory.Server())
		return !a.handshaking
	case decide.Forward:
		a.in.security = telemetry.SecurityNone
		if kind != decide.Plaintext {
			return a.relay()
		}
		a.w.loop.Disarm(&a.grace) // TLS is out of the question: detect has its own
		a.stage = detecting
		return true
	}
	w.p.counters.refusedPlaintext.Inc()
	a.refuse()
	return false
}

// secured: the handshake is over.
func (a *arrival) secured() bool {
	if a.handshaking {
		return false
	}
	if a.err != nil {
		a.w.p.counters.failedHandshakes.Inc()
		a.w.p.log.Debug("TLS handshake failed", "remote", a.remote, "error", a.err)
		a.drop(errors.Is(a.err, mtls.ErrBusy))
		return false
	}
	a.in.security = telemetry.SecurityMutualTLS
	a.in.peer, a.in.sni = peerOf(a.session.Peer(), nil), a.session.SNI()
	a.stage = detecting
	if strings.HasPrefix(a.session.ALPN(), "seine-") {
		a.stage = greeting
	}
	return true
}

// greeted reads the Peer message, which labels what comes and decides nothing.
func (a *arrival) greeted() bool {
	if !a.want(2) {
		a.ended()
		return false
	}
	n := int(binary.BigEndian.Uint16(a.data))
	if n > maxPreamble {
		a.w.p.counters.badPreambles.Inc()
		a.refuse()
		return false
	}
	if !a.want(2 + n) {
		a.ended()
		return false
	}
	var said seinev1.Peer
	if err := proto.Unmarshal(a.data[2:2+n], &said); err != nil {
		a.w.p.counters.badPreambles.Inc()
		a.refuse()
		return false
	}
	a.consume(2 + n)
	a.in.peer = peerOf(a.session.Peer(), said.Workload)
	a.stage = detecting
	return true
}

// detect decides between HTTP and opaque bytes.
func (a *arrival) detect() bool {
	switch a.protocol() {
	case seinev1.Protocol_PROTOCOL_HTTP:
		return a.serveHTTP()
	case seinev1.Protocol_PROTOCOL_DETECT:
	default:
		return a.relay()
	}
	if !a.grace.Armed() && a.probe == nil && !a.timed {
		a.timed = true
		a.w.loop.Arm(&a.grace, a.w.loop.Now()+int64(graceTime))
	}
	for {
		if len(a.data) > 0 {
			if a.silent { // a head has begun: it has its own time
				a.silent = false
				a.w.loop.Arm(&a.timer, a.w.loop.Now()+int64(a.w.p.o.HeadTimeout))
			}
			switch sniff.Detect(a.data) {
			case sniff.HTTP1, sniff.HTTP2:
				return a.serveHTTP()
			case sniff.NeedMore:
				if a.eof {
					return a.relay()
				}
			default:
				return a.relay()
			}
		}
		if a.eof && len(a.data) == 0 {
			return a.relay() // a client that only ends: the server may still speak
		}
		if !a.fill() {
			return false
		}
		if a.err != nil {
			a.drop(true)
			return false
		}
	}
}

// protocol is what was declared; DETECT if nothing was.
func (a *arrival) protocol() seinev1.Protocol {
	if a.in != nil {
		p := a.in.port.Proto.Protocol
		if p == seinev1.Protocol_PROTOCOL_DETECT && a.session != nil {
			switch a.session.ALPN() {
			case "seine-http/1.1", mtls.ALPNShared, "istio-http/1.1", "seine-http/2", "istio-h2":
				return seinev1.Protocol_PROTOCOL_HTTP
			}
			// "seine-tcp" is the peer's word alone: requests that it calls opaque
			// would reach the application with headers of the peer's own making
			// (x-forwarded-client-cert). The bytes decide.
		}
		return plainProtocol(p)
	}
	return plainProtocol(a.answer.Proto.Protocol)
}

// plainProtocol maps what this version does not speak to what it does with it.
func plainProtocol(p seinev1.Protocol) seinev1.Protocol {
	switch p {
	case seinev1.Protocol_PROTOCOL_HTTP, seinev1.Protocol_PROTOCOL_DETECT:
		return p
	case seinev1.Protocol_PROTOCOL_HTTP2, seinev1.Protocol_PROTOCOL_GRPC:
		return seinev1.Protocol_PROTOCOL_HTTP // which of the two, the first bytes say
	}
	return seinev1.Protocol_PROTOCOL_TCP
}

// serveHTTP hands the connection to the HTTP machine.
func (a *arrival) serveHTTP() bool {
	a.forgetProbe()
	a.leave()
	a.w.serveHTTP(a.socket, caller{door: a.door, dialled: a.dialled, remote: a.remote, in: a.in, sock: a.socket, behind: a.behind})
	return false
}

// leave ends the arrival's hold on the socket.
func (a *arrival) leave() {
	a.stage = handed
	a.w.loop.Drop(&a.timer)
	a.w.loop.Drop(&a.grace)
	delete(a.w.parked, a)
	delete(a.w.arrivals, a)
	a.w.crowd.remove(a)
}

// forgetProbe gives a destination that was dialled meanwhile back, for HTTP to
// use if it can.
func (a *arrival) forgetProbe() {
	a.w.loop.Disarm(&a.grace)
	u := a.probe
	if u == nil {
		return
	}
	a.probe = nil
	a.route.release()
	if u.session != nil || u.pool.key.mutual {
		u.drop(true) // agreed on opaque bytes
		return
	}
	u.user, u.http = nil, true
	if u.up {
		u.release()
	}
}

// expired: the connection did not say in time what it is.
func (a *arrival) expired() {
	if _, waits := a.w.parked[a]; waits && a.stage <= naming {
		a.w.p.counters.unanswered.Inc()
	} else if a.stage == naming && len(a.data) == 0 && !a.silent || a.stage == detecting && a.probe != nil && len(a.data) == 0 && !a.silent {
		// Neither side has spoken. That is their right, and decides nothing.
		a.silent = true
		a.w.crowd.remove(a)
		a.w.loop.Arm(&a.timer, a.w.loop.Now()+int64(a.w.p.o.DownstreamIdle))
		return
	}
	a.w.p.counters.slowConnections.Inc()
	a.refuse()
}

// refuse resets the connection.
func (a *arrival) refuse() { a.drop(true) }

func (a *arrival) drop(reset bool) {
	if a.closed {
		return
	}
	if u := a.probe; u != nil {
		a.probe = nil
		a.route.release()
		u.drop(true)
	}
	a.leave()
	a.close(reset)
	a.w.loop.Reserve(-1)
}

// dialMeanwhile opens the connection to the destination while the client is
// silent, in case the server speaks first.
func (a *arrival) dialMeanwhile() {
	if a.probe != nil || a.closed || (a.stage != detecting && a.stage != opening && (a.stage != naming || len(a.data) > 0)) {
		return
	}
	route, ok := a.opaque()
	if !ok {
		if a.resolving {
			a.w.parked[a] = struct{}{}
		}
		return // the client's bytes, if any ever come, decide
	}
	u, err := a.w.dial(route.pool, durationOf(route.connect), a, false)
	if err != nil {
		route.release()
		return
	}
	a.route, a.probe = route, u
}

// connected: the destination is there; if it has something to say, it is the
// one that speaks first.
func (a *arrival) connected(u *upstream) {
	if a.probe != u {
		return
	}
	a.route.host.streamed()
	if g := u.greeting(); g != nil {
		u.send(g, nil)
	}
	u.user = (*probing)(a)
	(*probing)(a).ready()
}

func (a *arrival) connectFailed(u *upstream, _ error) {
	if a.probe != u {
		return
	}
	a.probe = nil
	again := a.misses(&a.route)
	a.route.release()
	if again {
		if a.dialMeanwhile(); a.probe != nil {
			a.w.p.counters.redialled.Inc()
		}
	}
}

// probing is an arrival as the user of the connection that it dialled meanwhile.
type probing arrival

func (p *probing) ready() {
	a := (*arrival)(p)
	u := a.probe
	if u == nil || a.stage == handed {
		return
	}
	if u.fill() && len(u.data) > 0 {
		if a.stage == opening { // plaintext is admitted, or there were no probe
			a.readable = !a.eof && a.err == nil // its event may stand behind ours
			if len(a.data) > 0 || a.fill() {
				a.ready() // the client has begun: its bytes decide
				return
			}
			a.in.security = telemetry.SecurityNone
		}
		a.relay()
		return
	}
	if u.eof || u.err != nil {
		a.probe = nil
		a.route.release()
		reset := u.err != nil
		u.drop(reset)
		a.drop(reset)
	}
}

func (p *probing) connected(*upstream)            {}
func (p *probing) connectFailed(*upstream, error) {}

// relay hands the connection to a relay.
func (a *arrival) relay() bool {
	w := a.w
	if a.in != nil && a.in.barred(a.dialled, a.remote) {
		a.refuse()
		return false
	}
	route, u := a.route, a.probe
	if u == nil {
		var ok bool
		if route, ok = a.opaque(); !ok && a.resolving {
			if a.stage != resolving {
				a.stage = resolving
				a.park()
			} else if _, waits := w.parked[a]; !waits {
				w.parked[a] = struct{}{} // published, but not this
			}
			return false
		} else if !ok {
			w.p.counters.unroutedTCP.Inc()
			a.refuse()
			return false
		}
	}
	a.probe = nil
	a.leave()
	r := &relay{
		w: w, a: a.socket, from: a, upstream: u, door: a.door, in: a.in,
		dialled: a.dialled, remote: a.remote, sni: a.sni,
	}
	r.goes(&route)
	if u != nil {
		u.user = r
		if !u.up {
			r.upstream = nil
			r.start()
			r.upstream = u
			return false
		}
	}
	r.start()
	if u == nil {
		r.dial(&route)
	}
	return false
}
