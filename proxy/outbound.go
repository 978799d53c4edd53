//go:build linux

package proxy

import (
	"bytes"
	"net/netip"
	"slices"
	"strconv"
	"time"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/decide"
	"github.com/seinemesh/seine/message"
	"github.com/seinemesh/seine/telemetry"
	"github.com/seinemesh/seine/telemetry/metrics"
)

func durationOf(n int64) time.Duration { return time.Duration(n) }

// route decides where an outbound request in worker.req goes. False: it was
// answered, or it waits.
func (x *exchange) route() bool {
	w, req := x.w, &x.w.req
	// What a decision before a wait chose is not this one's.
	x.rule, x.perRule, x.dest, x.target, x.ep, x.timeout, x.retry.policy = nil, nil, nil, nil, -1, 0, nil
	authority, port, ok := x.called(req)
	if !ok {
		x.reply(400, telemetry.FlagDPE, "the request names no host")
		return false
	}
	a, ok := x.byAddress()
	if !ok {
		return false
	}
	if a != nil {
		return x.routed(a, authority, port, false)
	}
	if a, ok = x.lookup(authority, port); !ok {
		return false
	}
	self := w.table.Self
	next := self.Next(a, x.dialled.Addr())
	if next == decide.AskAddress {
		w.name = decide.AppendAddressName(w.name[:0], x.dialled)
		if a, ok = x.ask(w.table); !ok {
			return false
		}
		next = decide.NextAddress(a)
	}
	switch next {
	case decide.Pass:
		return x.pass(authority, port)
	case decide.Refuse:
		x.refused(a)
		return false
	}
	return x.routed(a, authority, port, next == decide.Direct)
}

// called is the host and port that a request means.
func (x *exchange) called(req *message.Request) (authority []byte, port uint16, ok bool) {
	authority = req.Authority
	switch x.caller.door.kind {
	case doorPublished:
		return bytesOf(x.caller.door.host), x.caller.door.port, true
	case doorExplicit:
		port = 80
		if i := bytes.LastIndexByte(authority, ':'); i >= 0 && bytes.IndexByte(authority[i:], ']') < 0 {
			n, err := strconv.ParseUint(string(authority[i+1:]), 10, 16)
			if err != nil {
				return nil, 0, false
			}
			port = uint16(n)
		}
		x.dialled = netip.AddrPort{}
		if host := decide.HostOnly(authority); literal(host) {
			if ip, err := netip.ParseAddr(string(host)); err == nil {
				x.dialled = netip.AddrPortFrom(ip, port)
			}
		}
		return authority, port, len(authority) > 0
	}
	if len(authority) == 0 { // HTTP/1.0: the address is all there is
		x.w.text2 = x.dialled.Addr().AppendTo(x.w.text2[:0])
		authority = x.w.text2
	}
	return authority, x.dialled.Port(), true
}

// literal reports whether host may be an IP address: a failed parse allocates.
func literal(host []byte) bool {
	for _, c := range host {
		if (c < '0' || c > '9') && c != '.' {
			return bytes.IndexByte(host, ':') >= 0
		}
	}
	return true
}

// refused answers a request whose destination may not be reached.
func (x *exchange) refused(a *decide.Answer) {
	p := a.Proto
	status, flag := 503, telemetry.FlagNC
	cause := "no such host in the mesh"
	if p.Kind == seinev1.Answer_BLACKHOLE {
		status, flag, cause = 502, telemetry.FlagNone, "outside the mesh, and outboundTrafficPolicy is REGISTRY_ONLY"
	}
	if p.Reason != "" {
		cause = p.Reason
	}
	x.reply(status, flag, cause)
}

// routed picks rule, destination and endpoint of an answer with routes.
func (x *exchange) routed(a *decide.Answer, authority []byte, port uint16, direct bool) bool {
	w, req := x.w, &x.w.req
	if x.connects && len(a.TCP) > 0 {
		rule := a.MatchTCP(netip.AddrPortFrom(netip.IPv4Unspecified(), port), "")
		if rule == nil {
			x.reply(404, telemetry.FlagNR, "no route of "+a.Proto.Service+" matches the connection")
			return false
		}
		return x.toward(a, rule.Pick(w.rng.Uint64()), rule.ID, authority, port, direct)
	}
	if x.caller.door.kind == doorPublished {
		// The outer name (localhost:8080) is forwarded, the called one matched.
		outer := req.Authority
		req.Authority = authority
		x.rule, x.match = a.Match(req, uint32(port))
		req.Authority = outer
	} else {
		x.rule, x.match = a.Match(req, uint32(port))
	}
	r := x.rule
	if r == nil {
		x.details = "route_not_found"
		x.reply(404, telemetry.FlagNR, "no route of "+a.Proto.Service+" matches the request")
		return false
	}
	x.perRule = w.countsOf(a, r, port)
	if (r.Fault != nil || r.Cors != nil) && x.shaped(r) {
		return false
	}
	switch {
	case r.Redirect != nil:
		x.redirect(r, port)
		return false
	case r.Direct != nil:
		x.w.edit.Add = x.w.edit.Add[:0]
		x.respond(int(r.Direct.Status), telemetry.FlagNone, "", string(r.Direct.Body))
		return false
	}
	x.timeout, x.retry.policy = x.wished(r)
	return x.toward(a, r.Pick(w.rng.Uint64()), r.ID, authority, port, direct)
}

// toward picks an endpoint of the destination that the rule called id chose.
func (x *exchange) toward(a *decide.Answer, dest *decide.Destination, id string, authority []byte, port uint16, direct bool) bool {
	w, t := x.w, x.w.table
	x.dest = dest
	if dest == nil {
		x.reply(503, telemetry.FlagUH, "every destination of "+id+" has weight 0")
		return false
	}
	if dest.Status != 0 {
		x.reply(dest.Status, telemetry.FlagNC, dest.Reason)
		return false
	}
	key, subset := x.dest.Key, x.dest.Subset
	if direct {
		key, subset = a.Proto.DirectService, ""
	}
	c := t.Cluster(key, subset)
	if c == nil {
		x.details = "cluster_not_found"
		x.reply(503, telemetry.FlagNC, "destination "+key+" "+subset+" of "+id+" is not known")
		return false
	}
	x.connect = int64(c.ConnectTimeout)
	tgt := w.target(c)
	if !direct {
		tgt.eject(w.loop.Now())
	}
	x.cluster = tgt.name()
	var e *edge
	x.ep, x.retry.direct = -1, direct
	switch {
	case direct:
		ep := c.Endpoint(a.Proto.DirectEndpoint)
		if ep == nil {
			x.handle = w.failing(c.Service.Proto)
			x.details = "no_healthy_upstream"
			x.reply(503, telemetry.FlagUH, "the endpoint of "+key+" at the address dialled is gone")
			return false
		}
		ep = ep.At(x.dialled.Addr())
		x.ep = slices.Index(c.Endpoints, ep)
		e = tgt.edge(w, ep, x.ep)
	case c.Original():
		e = tgt.edge(w, nil, -1)
	default:
		if x.ep = x.pick(tgt, 0); x.ep < 0 {
			x.handle = w.failing(c.Service.Proto)
			x.details = "no_healthy_upstream"
			x.reply(503, telemetry.FlagUH, tgt.noneHealthy(key, subset))
			return false
		}
		e = tgt.edge(w, c.Endpoints[x.ep], x.ep)
		x.host = e.host
	}
	x.target, x.handle, x.pool = tgt, tgt.requests(w, e, x.grpc), tgt.to(w, e, x)
	switch tr := c.Transport(e.ep); {
	case tr != decide.Plain && e.ep == nil, c.Policy.GetOriginate() == nil && (tr == decide.Simple || tr == decide.Custom):
		x.reply(503, telemetry.FlagUF, "TLS cannot be begun for "+key+": it has no known endpoints, or this proxy does not know how")
		return false
	case e.ep == nil:
		return x.original(authority, port)
	case e.ep.DNS != "":
		return x.resolve(e.ep)
	}
	return true
}

// original sends the request to the address that was dialled.
func (x *exchange) original(authority []byte, port uint16) bool {
	if !x.dialled.IsValid() { // an explicit proxy port: the name is resolved here
		return x.resolveHost(string(decide.HostOnly(authority)), port)
	}
	if x.w.p.own(x.dialled) {
		x.w.p.counters.selfCalls.Inc()
		x.reply(503, telemetry.FlagLR, "the request would come back to this proxy")
		return false
	}
	k := poolKey{addr: x.dialled, sh: x.sharing(), h2: x.wide()}
	if x.target != nil && x.target.cluster.Policy.GetProxyProtocol() != 0 {
		k.intro = x.caller.intro(x.target.cluster.Policy.ProxyProtocol)
	}
	x.pool = x.w.pool(k, nil)
	return true
}

// added are the header fields that a rule adds to an answer of our own.
func added(e *decide.Edits) []message.Field {
	var out []message.Field
	for _, p := range e.Added() {
		out = append(out, message.Field{Name: bytesOf(p.Name), Value: bytesOf(p.Value)})
	}
	return out
}

func (x *exchange) redirect(r *decide.Rule, port uint16) {
	location := r.AppendLocation(nil, x.match, &x.w.req, "http", port)
	x.respond(r.RedirectStatus(), telemetry.FlagNone, "", "", message.Field{Name: bytesOf("location"), Value: location})
}

// pass forwards a request for a host outside the mesh to the address dialled.
func (x *exchange) pass(authority []byte, port uint16) bool {
	w := x.w
	x.handle, x.cluster = w.passthrough(), "PassthroughCluster"
	x.connect = int64(10 * time.Second)
	return x.original(authority, port)
}

// passthrough is the handle of what leaves the mesh.
func (w *worker) passthrough() *metrics.Requests {
	if w.passed == nil {
		w.passed = w.shard.Requests(&telemetry.RequestLabels{
			Reporter: telemetry.Source, Source: w.current().Self.Proto.Workload,
			ServiceName: "PassthroughCluster", Protocol: telemetry.ProtocolHTTP, Plaintext: true,
		})
	}
	return w.passed
}

// countsOf is the handle of the requests that a rule of a decides.
func (w *worker) countsOf(a *decide.Answer, r *decide.Rule, port uint16) *metrics.Route {
	h := w.rules[r]
	if h == nil {
		h = w.shard.Route(telemetry.RuleID(r.Proto), a.Proto.Service, port)
		w.rules[r] = h
	}
	return h
}

// failing is the handle of requests to a service that found no endpoint; nil
// for one that found no service either.
func (w *worker) failing(s *seinev1.Service) *metrics.Requests {
	l := telemetry.RequestLabels{Reporter: telemetry.Source, Source: w.current().Self.Proto.Workload, Protocol: telemetry.ProtocolHTTP}
	if s != nil {
		l.Service, l.ServiceName, l.ServiceNamespace = s.Host, s.Name, s.Namespace
	}
	return w.shard.Requests(&l)
}

// opaque is where an opaque connection goes.
type opaque struct {
	pool    *pool
	connect int64
	handle  *metrics.TCP
	target  *target // its balance counts the connection
	ep      int
	cluster string
	host    *host // the endpoint, if outlier detection watches it
}

func (o *opaque) release() {
	if o.target != nil {
		o.target.balance.Done(o.ep)
		o.target = nil
	}
}

// ask waits for what the control plane says of the destination.
func (a *arrival) ask() bool {
	w := a.w
	t := w.current()
	if a.door.kind == doorPublished {
		w.name = decide.AppendHTTPName(w.name[:0], a.door.port, bytesOf(a.door.host))
	} else {
		w.name = decide.AppendAddressName(w.name[:0], a.dialled)
	}
	ans := a.lookUp(t)
	if ans == nil {
		return false
	}
	a.answer = ans
	w.loop.Arm(&a.timer, w.loop.Now()+int64(w.p.o.HeadTimeout))
	a.stage = detecting
	if ans.Sniffed() && a.dialled.IsValid() {
		a.stage = naming
		w.loop.Arm(&a.grace, w.loop.Now()+int64(w.p.o.TLSWait))
	}
	if a.door.kind == doorPublished {
		if len(ans.TCP) > 0 && len(ans.Rules) == 0 {
			return a.relay()
		}
		return a.serveHTTP()
	}
	return true
}

// lookUp is the answer to the name in worker.name; nil: the arrival waits for it,
// or was refused.
func (a *arrival) lookUp(t *decide.Table) *decide.Answer {
	w := a.w
	if ans := t.Answers[string(w.name)]; ans != nil {
		delete(w.parked, a)
		return ans
	}
	if _, asked := w.parked[a]; asked {
		return nil
	}
	if len(w.parked) >= maxParked || !w.p.tables.Want(string(w.name)) {
		if len(w.parked) >= maxParked {
			w.p.counters.overParked.Inc()
		}
		w.p.counters.unanswered.Inc()
		a.refuse()
		return nil
	}
	a.park()
	return nil
}

// park waits for something to be published, within AnswerWait.
func (a *arrival) park() {
	a.w.parked[a] = struct{}{}
	a.w.loop.Arm(&a.timer, a.w.loop.Now()+int64(a.w.p.o.AnswerWait))
}

func (a *arrival) answered() {
	switch {
	case a.closed:
	case a.stage == detecting, a.stage == naming && a.sni == "": // the name of where the server may speak first
		a.dialMeanwhile()
	default:
		a.ready()
	}
}

// opaque decides where the connection goes if it is not HTTP.
func (a *arrival) opaque() (opaque, bool) {
	w := a.w
	if a.in != nil {
		l := a.in.labels(telemetry.ProtocolTCP)
		return opaque{pool: a.in.pool, connect: int64(w.p.o.AppConnect), handle: w.shard.TCP(&l)}, true
	}
	if a.answer == nil {
		return opaque{}, false
	}
	p := a.answer.Proto
	switch p.Kind {
	case seinev1.Answer_PASSTHROUGH:
		if w.table.Self.Local(a.dialled.Addr()) || w.p.own(a.dialled) {
			return opaque{}, false
		}
		return opaque{
			pool: w.pool(poolKey{addr: a.dialled}, nil), connect: int64(10 * time.Second), cluster: "PassthroughCluster",
			handle: w.shard.TCP(&telemetry.RequestLabels{
				Reporter: telemetry.Source, Source: w.table.Self.Proto.Workload, ServiceName: "PassthroughCluster", Protocol: telemetry.ProtocolTCP, Plaintext: true,
			}),
		}, true
	case seinev1.Answer_ROUTES:
	default:
		return opaque{}, false
	}
	key, subset := p.DirectService, ""
	if p.DirectEndpoint == "" {
		dialled := a.dialled
		if !dialled.IsValid() {
			dialled = netip.AddrPortFrom(netip.IPv4Unspecified(), a.door.port)
		}
		rule := a.answer.MatchTCP(dialled, a.sni)
		if rule == nil {
			return opaque{}, false
		}
		if a.draw == 0 { // the same one after a wait
			a.draw = w.rng.Uint64() | 1
		}
		dest := rule.Pick(a.draw)
		if dest == nil {
			return opaque{}, false
		}
		key, subset = dest.Key, dest.Subset
	}
	c := w.current().Cluster(key, subset)
	if c == nil {
		return opaque{}, false
	}
	t := w.target(c)
	if p.DirectEndpoint == "" {
		t.eject(w.loop.Now())
	}
	var e *edge
	i := -1
	switch {
	case p.DirectEndpoint != "":
		ep := c.Endpoint(p.DirectEndpoint)
		if ep == nil {
			return opaque{}, false
		}
		ep = ep.At(a.dialled.Addr())
		i = slices.Index(c.Endpoints, ep)
		e = t.edge(w, ep, i)
	case c.Original():
		e = t.edge(w, nil, -1)
	default:
		if i = w.pickStream(t, a.remote.Addr(), a.dialled, a.missed.endpoints()); i < 0 || a.missed.has(c.Endpoints[i]) {
			return opaque{}, false
		}
		e = t.edge(w, c.Endpoints[i], i)
	}
	to, header := e.pool, intro{}
	if v := c.Policy.GetProxyProtocol(); v != 0 {
		header = intro{v, a.remote, a.dialled}
		if !a.dialled.IsValid() {
			header.destination = a.localAddr()
		}
		if to != nil {
			k := to.key
			k.intro = header
			to = w.pool(k, e.alts)
		}
	}
	switch tr := c.Transport(e.ep); {
	case tr != decide.Plain && e.ep == nil, c.Policy.GetOriginate() == nil && (tr == decide.Simple || tr == decide.Custom):
		return opaque{}, false
	case e.ep == nil:
		if !a.dialled.IsValid() || w.p.own(a.dialled) {
			return opaque{}, false
		}
		to = w.pool(poolKey{addr: a.dialled, sh: t.sh, intro: header}, nil)
	case e.ep.DNS != "":
		addr, ok := w.resolved(e.ep.DNS)
		a.resolving = !ok
		if !ok || !addr.IsValid() {
			return opaque{}, false
		}
		k := to.key
		k.addr = netip.AddrPortFrom(addr.Unmap(), e.ep.Port)
		to = w.pool(k, e.alts)
	}
	o := opaque{pool: to, connect: int64(c.ConnectTimeout), handle: t.streams(w, e), cluster: t.name()}
	if p.DirectEndpoint == "" {
		o.host = e.host
	}
	if i >= 0 {
		t.balance.Begin(i)
		o.target, o.ep = t, i
	}
	return o, true
}

// clusterName is Envoy's name of a cluster as Istio has it.
func clusterName(c *decide.Cluster) string {
	s := c.Service.Proto
	return "outbound|" + strconv.FormatUint(uint64(s.Port), 10) + "|" + c.Subset + "|" + s.Host
}
