//go:build linux

package proxy

import (
	"net/netip"
	"strconv"
	"time"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/decide"
	"github.com/seinemesh/seine/message"
	"github.com/seinemesh/seine/proxy/http1"
	"github.com/seinemesh/seine/proxy/loop"
	"github.com/seinemesh/seine/telemetry"
	"github.com/seinemesh/seine/telemetry/metrics"
)

const (
	// maxCopy bounds the body of a request that is copied.
	maxCopy = 64 << 10
	// maxCopies bounds the copies under way on one loop, and so their memory.
	maxCopies = 256
	// copyTimeout is for a copy of a route without a timeout.
	copyTimeout = int64(30 * time.Second)
)

// outcomes of copies, as the metric has them.
const (
	copySent    = iota // and answered
	copyFailed         // no connection, no answer, not in time
	copyTooLong        // the body is larger than maxCopy
	copyFull           // maxCopies, or the cluster's connections
	copyNowhere        // no such cluster, no endpoint, or none that can be spoken to
	copyOutcomes
)

type copyCounters [copyOutcomes]*metrics.Counter

func newCopyCounters(r *metrics.Registry) (c copyCounters) {
	for i, name := range [copyOutcomes]string{"answered", "failed", "too_large", "overflow", "unreachable"} {
		c[i] = r.Counter("seine_mirrored_requests_total", "Copies of requests for a rule's mirrors, by outcome: answered, failed, too_large (body over 64 KiB), overflow (too many at once), unreachable (no endpoint, or one of HTTP/2 alone).", "outcome", name)
	}
	return c
}

// copying collects a request on its way upstream, for the rule's mirrors. It
// holds the head as it is sent, but for what frames it.
type copying struct {
	head, body []byte // pooled
	chunked    bool   // body is in chunks, as it came
	tooLong    bool
	to         [8]*decide.Mirror // decide bounds them
	n          int
	next       *copying
}

// copyHead begins a copy of the request whose head in worker.req goes upstream
// as e says, if a mirror's share is drawn. Once for each exchange.
func (x *exchange) copyHead(e *http1.Edit) {
	s, r, w := &x.shape, x.rule, x.w
	if len(r.Mirrors) == 0 || s.copied || x.connects || x.framing.Asked&http1.AskedUpgrade != 0 {
		return
	}
	s.copied = true
	var c *copying
	for i := range r.Mirrors {
		m := &r.Mirrors[i]
		if m.PerMillion < 1_000_000 && !decide.Drawn(w.rng.Uint64(), m.PerMillion) {
			continue
		}
		if c == nil {
			if c = w.copying; c == nil {
				c = &copying{}
			}
			w.copying = c.next
			*c = copying{}
		}
		c.to[c.n] = m
		c.n++
	}
	if c == nil {
		return
	}
	s.copy = c
	c.chunked = x.h1 != nil && x.up.trunk == nil && x.framing.Kind == http1.Chunked
	c.head = w.appendCopy(w.buffers.get(2048), e)
	if x.h1 == nil { // what came before there was a connection
		x.copyBody(x.req.held)
	}
}

// appendCopy appends the head in worker.req as e changes it, for HTTP/1.1 and
// without the fields that frame it. The authority stays: today's Istio does not
// append Envoy's "-shadow".
func (w *worker) appendCopy(dst []byte, e *http1.Edit) []byte {
	req := &w.req
	target, authority := req.Path, req.Authority
	if len(e.Target) > 0 {
		target = e.Target
	}
	if len(e.Authority) > 0 {
		authority = e.Authority
	}
	put := func(parts ...[]byte) {
		for _, p := range parts {
			dst = w.buffers.append(dst, p)
		}
	}
	put(req.Method, space, target, version11, authority, crlf)
	for i := range req.Fields {
		f := &req.Fields[i]
		if f.Hop || f.Drop || framesCopy.Has(f.ID) || e.Drop.Has(f.ID) || dropped(e.DropNames, f.Name) {
			continue
		}
		put(f.Name, colon, f.Value, crlf)
	}
	for _, f := range e.Add {
		put(f.Name, colon, f.Value, crlf)
	}
	return dst
}

var (
	space      = []byte(" ")
	colon      = []byte(": ")
	crlf       = []byte("\r\n")
	version11  = []byte(" HTTP/1.1\r\nhost: ")
	framesCopy = message.SetOf(message.Host, message.ContentLength, message.TransferEncoding, message.Connection, message.KeepAlive,
		message.ProxyConnection, message.TE, message.Trailer, message.Upgrade, message.Expect)
)

func dropped(names []string, name []byte) bool {
	for _, n := range names {
		if message.EqualFold(name, n) {
			return true
		}
	}
	return false
}

// copyBody takes bytes of the body on their way upstream.
func (x *exchange) copyBody(p []byte) {
	c := x.shape.copy
	if c == nil || c.tooLong || len(p) == 0 {
		return
	}
	if len(c.body)+len(p) > maxCopy {
		c.tooLong = true
		return
	}
	if c.body == nil {
		c.body = x.w.buffers.get(len(p))
	}
	c.body = x.w.buffers.append(c.body, p)
}

// copyWhole sends the copies: the whole request has come.
func (x *exchange) copyWhole() {
	c := x.shape.copy
	if c == nil {
		return
	}
	w := x.w
	for _, m := range c.to[:c.n] {
		switch {
		case c.tooLong:
			w.p.copies[copyTooLong].Inc()
		case len(w.copies) >= maxCopies:
			w.p.copies[copyFull].Inc()
		default:
			timeout := x.timeout
			if timeout <= 0 {
				timeout = copyTimeout
			}
			w.sendCopy(c, m, timeout, x.framing.Asked)
		}
	}
	x.shape.dropCopy(w)
}

func (s *shape) dropCopy(w *worker) {
	c := s.copy
	if c == nil {
		return
	}
	s.copy = nil
	w.buffers.put(c.head)
	w.buffers.put(c.body)
	*c = copying{next: w.copying}
	w.copying = c
}

// shadow is one copy under way: a request whose answer nobody gets. It has a
// connection of the mirror's own pool, and nothing in common with the original
// any more.
type shadow struct {
	w       *worker
	mirror  *decide.Mirror
	request []byte // pooled
	asked   http1.Asked
	timeout int64

	target  *target
	ep      int
	host    *host
	handle  *metrics.Requests
	up      *upstream
	sent    bool
	headed  bool // the answer's final head has come
	keep    bool
	body    http1.Body
	status  int
	start   int64
	limit   loop.Timer
	next    *shadow
	content int64
}

// sendCopy queues a copy: it is sent when the present machine's turn is over.
func (w *worker) sendCopy(c *copying, m *decide.Mirror, timeout int64, asked http1.Asked) {
	s := w.shadow
	if s == nil {
		s = &shadow{w: w}
		s.limit.Fire = s.expired
	} else {
		w.shadow = s.next
	}
	w.copies[s] = struct{}{}
	s.mirror, s.asked, s.timeout, s.ep, s.start, s.content = m, asked, timeout, -1, w.loop.Now(), int64(len(c.body))
	b := w.buffers.append(w.buffers.get(len(c.head)+len(c.body)+64), c.head)
	switch {
	case c.chunked:
		b = w.buffers.append(b, chunkedField)
	case len(c.body) > 0 || asked&http1.AskedHead == 0 && hasBody(c.head):
		b = w.buffers.append(b, lengthField)
		w.count = strconv.AppendInt(w.count[:0], int64(len(c.body)), 10)
		b = w.buffers.append(w.buffers.append(b, w.count), crlf)
	}
	s.request = w.buffers.append(w.buffers.append(b, crlf), c.body)
	w.loop.Later(s)
}

var (
	chunkedField = []byte("transfer-encoding: chunked\r\n")
	lengthField  = []byte("content-length: ")
)

// hasBody reports whether a method is one with a body, whose absence is said.
func hasBody(head []byte) bool {
	return len(head) > 1 && head[0] == 'P' // POST, PUT, PATCH
}

// Resume begins the copy.
func (s *shadow) Resume() {
	w, d := s.w, &s.mirror.Destination
	c := w.current().Cluster(d.Key, d.Subset)
	if c == nil || c.Original() {
		s.over(copyNowhere)
		return
	}
	switch c.Service.Proto.Protocol { // a copy is HTTP/1.1
	case seinev1.Protocol_PROTOCOL_HTTP2, seinev1.Protocol_PROTOCOL_GRPC:
		s.over(copyNowhere)
		return
	}
	s.target = w.target(c)
	s.target.eject(w.loop.Now())
	w.question = decide.Ask{Draw: w.rng.Uint64(), Now: w.loop.Now()}
	i := s.target.balance.Pick(&w.question)
	if i < 0 {
		s.over(copyNowhere)
		return
	}
	e := s.target.edge(w, c.Endpoints[i], i)
	to := e.pool
	if v := c.Policy.GetProxyProtocol(); v != 0 && !to.key.mutual { // a copy has no client of its own
		k := to.key
		k.intro = intro{version: v}
		to = w.pool(k, e.alts)
	}
	if tr := c.Transport(e.ep); tr != decide.Plain && tr != decide.Mutual {
		s.over(copyNowhere)
		return
	}
	if e.ep.DNS != "" {
		a, known := w.resolved(e.ep.DNS)
		if !known || !a.IsValid() {
			s.over(copyNowhere)
			return
		}
		k := to.key
		k.addr = netip.AddrPortFrom(a.Unmap(), e.ep.Port)
		to = w.pool(k, e.alts)
	}
	s.ep, s.host, s.handle = i, e.host, s.target.requests(w, e, false)
	s.target.balance.Begin(i)
	w.loop.Arm(&s.limit, w.loop.Now()+s.timeout)
	u, err := w.acquire(to, c.ConnectTimeout, s, false, true)
	switch {
	case err == errFull:
		s.over(copyFull)
	case err != nil:
		s.failed(503)
	default:
		if s.up = u; u.up {
			s.connected(u)
		}
	}
}

// connected sends the request.
func (s *shadow) connected(u *upstream) {
	s.sent = true
	s.host.connected()
	u.send(u.greeting(), s.request)
}

func (s *shadow) connectFailed(_ *upstream, _ error) {
	s.up = nil
	s.failed(503)
}

// ready reads the answer, and throws it away.
func (s *shadow) ready() {
	u := s.up
	if u == nil || !s.sent {
		return
	}
	for turns := 0; s.up == u; turns++ {
		if u.lost != nil {
			s.failed(503)
			return
		}
		if len(u.data) == 0 && !u.fill() && len(u.data) == 0 {
			if u.eof || u.err != nil {
				s.ended()
			}
			return
		}
		if len(u.data) > 0 && !s.read() {
			if u.eof || u.err != nil {
				s.ended()
			} else if !u.fill() {
				return
			}
		}
		if turns > 16 { // others have their turn; what is left is announced no more
			u.w.loop.Later(again{s, u})
			return
		}
	}
}

// again has a shadow go on, unless it is over meanwhile.
type again struct {
	s *shadow
	u *upstream
}

func (a again) Resume() {
	if a.s.up == a.u {
		a.s.ready()
	}
}

// read takes what came; false: more is needed.
func (s *shadow) read() bool {
	w, u := s.w, s.up
	if !s.headed {
		n, f, perr := http1.ParseResponse(u.data, &w.res, s.asked, &meshResponse)
		if perr != nil {
			s.failed(503)
			return true
		}
		if n == 0 {
			return false
		}
		if f.Interim {
			u.consume(n)
			return true
		}
		if f.Kind == http1.Tunnel {
			s.failed(503)
			return true
		}
		s.headed, s.status, s.keep = true, w.res.Status, f.KeepAlive && f.Kind != http1.Close
		s.host.status(s.status)
		now := w.loop.Now()
		s.target.balance.Took(s.ep, now-s.start, now, s.status >= 500)
		s.body.Reset(f)
		u.consume(n)
		if f.Kind == http1.None {
			s.answered()
		}
		return true
	}
	n, done, perr := s.body.Next(u.data)
	u.consume(n)
	switch {
	case perr != nil:
		s.failed(503)
	case done:
		s.answered()
	case n == 0:
		return false
	}
	return true
}

// ended: the connection ended, which may be the end of the answer.
func (s *shadow) ended() {
	if s.headed && s.up.err == nil && s.up.clean && s.body.End() == nil {
		s.keep = false
		s.answered()
		return
	}
	s.failed(503)
}

func (s *shadow) answered() {
	u := s.up
	s.up = nil
	u.served++
	if s.keep {
		u.release()
	} else {
		u.drop(false)
	}
	s.handle.Observe(s.status, telemetry.FlagNone, (s.w.loop.Now()-s.start)/1000, s.content, s.body.Payload())
	s.over(copySent)
}

// expired: there was no answer in time.
func (s *shadow) expired() { s.failed(504) }

// failed ends a copy that got no whole answer.
func (s *shadow) failed(status int) {
	s.host.failed(status)
	now := s.w.loop.Now()
	flag := telemetry.FlagUC
	switch {
	case status == 504:
		flag = telemetry.FlagUT
	case !s.sent:
		flag = telemetry.FlagUF
	}
	s.handle.Observe(status, flag, (now-s.start)/1000, s.content, 0)
	s.over(copyFailed)
}

// over gives everything back.
func (s *shadow) over(outcome int) {
	w := s.w
	if u := s.up; u != nil {
		s.up = nil
		u.drop(true)
	}
	if s.ep >= 0 {
		s.target.balance.Done(s.ep)
	}
	w.loop.Disarm(&s.limit)
	w.loop.Drop(&s.limit)
	w.buffers.put(s.request[:0])
	w.p.copies[outcome].Inc()
	delete(w.copies, s)
	limit := s.limit
	*s = shadow{w: w, next: w.shadow}
	s.limit = limit
	w.shadow = s
}
