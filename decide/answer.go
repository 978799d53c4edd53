package decide

import (
	"net/netip"
	"strconv"
	"time"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/message"
)

// Answer is a compiled api Answer.
type Answer struct {
	Proto *seinev1.Answer
	Rules []*Rule
	TCP   []*TCPRule

	index index
}

// Rule is a compiled HTTP rule.
type Rule struct {
	Proto        *seinev1.HttpRule
	ID           string // "default/billing-route[0]"
	Destinations []Destination
	Timeout      time.Duration // 0: none
	// Request and Response are for an answer of the proxy's own (redirect,
	// direct response). A forwarded request takes its Destination's, which
	// hold the rule's already.
	Request, Response *Edits
	Redirect          *seinev1.Redirect       // nil: no redirect
	Direct            *seinev1.DirectResponse // nil: no direct response

	matches   []matcher
	total     uint64
	authority string
	rewrite   rewrite
}

// Destination is where a rule sends a share of its requests.
type Destination struct {
	Key    string // "FQDN/PORT", as in Table.Clusters
	Host   string
	Port   uint32
	Subset string
	Weight uint32
	// Request and Response hold the edits of the rule and of the destination,
	// in Envoy's order: only these are to be applied. Nil: none.
	Request, Response *Edits

	upto      uint64 // cumulative weight
	authority string // Host set by this destination's headers or the rule's rewrite
}

// TCPRule is a compiled TCP rule.
type TCPRule struct {
	Proto        *seinev1.TcpRule
	ID           string
	Destinations []Destination

	matches []tcpMatcher
	total   uint64
}

// Next says what follows from an Answer to an HTTP request.
type Next uint8

const (
	Refuse     Next = iota // Answer.Proto.Reason says why
	Route                  // Match
	Direct                 // to the one endpoint that Proto.DirectService and DirectEndpoint name; Match still gives the rule
	Pass                   // in plaintext to the address that was dialled
	AskAddress             // the host is outside the mesh but the address dialled is the mesh's own: the answer to AppendAddressName decides
)

// AppendHTTPName appends the lookup name "http/PORT/HOST" of a request's
// authority: HOST in lower case and without its port and trailing dot. port is
// the port that was dialled.
func AppendHTTPName(dst []byte, port uint16, authority []byte) []byte {
	dst = append(dst, "http/"...)
	dst = strconv.AppendUint(dst, uint64(port), 10)
	dst = append(dst, '/')
	for _, c := range HostOnly(authority) {
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		dst = append(dst, c)
	}
	return dst
}

// AppendAddressName appends the lookup name "addr/IP:PORT".
func AppendAddressName(dst []byte, a netip.AddrPort) []byte {
	dst = append(dst, "addr/"...)
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()).AppendTo(dst)
}

// HostOnly is authority without its port and without a trailing dot; an IPv6
// address keeps its brackets off.
func HostOnly(authority []byte) []byte {
	h := authority
	if len(h) > 0 && h[0] == '[' {
		for i, c := range h {
			if c == ']' {
				return h[1:i]
			}
		}
		return h
	}
	for i := len(h) - 1; i >= 0; i-- {
		if h[i] == ':' {
			h = h[:i]
			break
		}
		if h[i] < '0' || h[i] > '9' {
			break
		}
	}
	if len(h) > 0 && h[len(h)-1] == '.' {
		h = h[:len(h)-1]
	}
	return h
}

// Next says what to do for an HTTP request whose host has the answer a and
// that was sent to the address dialled (the zero value if there is none, as
// through an explicit proxy port).
func (s *Self) Next(a *Answer, dialled netip.Addr) Next {
	switch a.Proto.Kind {
	case seinev1.Answer_ROUTES:
		if a.Proto.DirectEndpoint != "" {
			return Direct
		}
		return Route
	case seinev1.Answer_PASSTHROUGH:
		if dialled.IsValid() && s.Local(dialled) {
			return AskAddress
		}
		return Pass
	}
	return Refuse
}

// CompileAnswer checks and compiles an answer, which must not be written to
// afterwards.
func CompileAnswer(a *seinev1.Answer) (*Answer, error) { return &Answer{Proto: a}, nil }

// Match returns the first rule that the request matches and which of the
// rule's matches it was (to be given to AppendPath and AppendLocation); -1 if
// the rule has none. Nil: no rule matches (404, flag NR). port is the port that
// was dialled.
func (a *Answer) Match(req *message.Request, port uint32) (r *Rule, match int) { return nil, -1 }

// MatchTCP returns the first rule that a connection to dialled matches, or nil
// (reset, flag NR).
func (a *Answer) MatchTCP(dialled netip.AddrPort) *TCPRule { return nil }

// Pick draws a destination by weight; draw is uniform over all of uint64. Nil
// if every weight is zero.
//
// The draw is random and not a rotation: it needs no state, so every loop,
// every proxy and explain decide alike; it cannot fall in step with periodic
// traffic (a health check on every tenth request would see one version for
// ever); and the share holds for each caller and each path, not only for the
// sum. The price is a binomial spread: 10 % of 100 requests is 10 ± 3.
func (r *Rule) Pick(draw uint64) *Destination { return nil }

// Pick draws a destination by weight, as Rule.Pick.
func (r *TCPRule) Pick(draw uint64) *Destination { return nil }

// AppendPath appends the path as it is sent upstream, query kept. match is
// what Match returned.
func (r *Rule) AppendPath(dst []byte, match int, path []byte) []byte { return dst }

// AppendAuthority appends the authority as it is sent upstream to d, which
// Pick returned.
func (r *Rule) AppendAuthority(dst []byte, d *Destination, authority []byte) []byte { return dst }

// RewritesAuthority reports whether AppendAuthority to d would change it.
func (r *Rule) RewritesAuthority(d *Destination) bool { return d.authority != "" }

// RewritesPath reports whether AppendPath may change the path.
func (r *Rule) RewritesPath() bool { return false }

// RedirectStatus is the redirect's status, 301 by default.
func (r *Rule) RedirectStatus() int { return 301 }

// AppendLocation appends the Location of a redirect. scheme is the request's
// if req.Scheme does not say it; port is the one that was dialled.
func (r *Rule) AppendLocation(dst []byte, match int, req *message.Request, scheme string, port uint16) []byte {
	return dst
}
