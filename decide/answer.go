package decide

import (
	"fmt"
	"math/bits"
	"net/netip"
	"strconv"
	"strings"
	"time"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/message"
)

// Answer is a compiled api Answer.
type Answer struct {
	Proto *seinev1.Answer
	Rules []*Rule
	TCP   []*TCPRule

	index   index
	sniffed bool
}

// Rule is a compiled HTTP rule.
type Rule struct {
	Proto        *seinev1.HttpRule
	ID           string // "default/billing-route[0]"
	Destinations []Destination
	Timeout      time.Duration // 0: none
	Retry        *Retry        // nil: a request is sent once
	Fault        *Fault        // nil: none
	Cors         *Cors         // nil: none
	Mirrors      []Mirror
	// Request and Response are for an answer of the proxy's own (redirect,
	// direct response). A forwarded request takes its Destination's, which
	// hold the rule's already.
	Request, Response *Edits
	Redirect          *seinev1.Redirect       // nil: no redirect
	Direct            *seinev1.DirectResponse // nil: no direct response

	pathed    []pathed // of each match
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
	// Status is not 0 where there is no destination: these requests get this
	// status, for Reason. Host and Key mean nothing then.
	Status int
	Reason string

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
	AskAddress             // no such host, but the address dialled is the mesh's own: the answer to AppendAddressName decides, see NextAddress
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

// AppendTLSName appends the lookup name "tls/PORT/SNI"; sni as ServerName has it.
func AppendTLSName(dst []byte, port uint16, sni string) []byte {
	dst = append(dst, "tls/"...)
	dst = strconv.AppendUint(dst, uint64(port), 10)
	dst = append(dst, '/')
	return append(dst, sni...)
}

// ServerName is the name in a ClientHello in lower case, "" if it is none that a
// rule could be about (an address, a wildcard, characters that no name has).
func ServerName(sni []byte) string {
	if len(sni) == 0 || len(sni) > maxServerName {
		return ""
	}
	letters := false
	for i, c := range sni {
		switch {
		case c == '.' && (i == 0 || sni[i-1] == '.'):
			return ""
		case 'a' <= c|0x20 && c|0x20 <= 'z', c == '-', c == '_':
			letters = true
		case '0' <= c && c <= '9', c == '.':
		default:
			return ""
		}
	}
	if !letters || sni[0] == '-' || sni[len(sni)-1] == '.' {
		return ""
	}
	return strings.ToLower(string(sni))
}

const maxServerName = 253 // RFC 1035 §2.3.4

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
//
// Istio sends a request whose host it does not know to the address that was
// dialled. So does Seine, but where that address is the mesh's own it is not
// passed in plaintext: the address is asked about, and what lives there is
// reached with its identity. Under REGISTRY_ONLY an unknown host goes nowhere.
//
// Where Gateway API routes the host's service, the address decides: such routes
// belong to whoever dials it.
func (s *Self) Next(a *Answer, dialled netip.Addr) Next {
	switch a.Proto.Kind {
	case seinev1.Answer_ROUTES:
		if a.Proto.ByAddress && dialled.IsValid() {
			return AskAddress
		}
		if a.Proto.DirectEndpoint != "" {
			return Direct
		}
		return Route
	case seinev1.Answer_PASSTHROUGH:
		if dialled.IsValid() && s.Local(dialled) {
			return AskAddress
		}
		return Pass
	case seinev1.Answer_UNKNOWN:
		if dialled.IsValid() && s.Local(dialled) {
			return AskAddress
		}
	}
	return Refuse
}

// ByAddress reports whether an answer to the address that was dialled decides
// on every HTTP request sent there, whatever its Host.
func (a *Answer) ByAddress() bool { return a.Proto.ByAddress }

// NextAddress says what to do with a connection, or with a request after
// AskAddress, given the answer to the address.
func NextAddress(a *Answer) Next {
	switch a.Proto.Kind {
	case seinev1.Answer_ROUTES:
		if a.Proto.DirectEndpoint != "" {
			return Direct
		}
		return Route
	case seinev1.Answer_PASSTHROUGH:
		return Pass
	}
	return Refuse
}

// Refusal is how a request is refused for which Next says Refuse: 503 with the
// flag NC for what the mesh does not have, and Envoy's 502 without a flag for
// what REGISTRY_ONLY keeps inside.
func Refusal(a *Answer) (status int, flag string) {
	if a.Proto.Kind == seinev1.Answer_BLACKHOLE {
		return 502, ""
	}
	return 503, "NC"
}

// CompileAnswer checks and compiles an answer, which must not be written to
// afterwards.
func CompileAnswer(a *seinev1.Answer) (*Answer, error) {
	c := &Answer{Proto: a, sniffed: a.BySni}
	for i, p := range a.Http {
		r, err := compileRule(p)
		if err != nil {
			return nil, fmt.Errorf("HTTP rule %d of %s: %w", i, sourceName(p.Source), err)
		}
		if err := c.index.add(int32(i), p.Match); err != nil {
			return nil, fmt.Errorf("HTTP rule %d of %s: %w", i, sourceName(p.Source), err)
		}
		c.Rules = append(c.Rules, r)
	}
	c.index.build()
	for i, p := range a.Tcp {
		r, err := compileTCPRule(p)
		if err != nil {
			return nil, fmt.Errorf("TCP rule %d of %s: %w", i, sourceName(p.Source), err)
		}
		for _, m := range p.Match {
			c.sniffed = c.sniffed || len(m.SniHosts) > 0
		}
		c.TCP = append(c.TCP, r)
	}
	return c, nil
}

// Match returns the first rule that the request matches and which of the
// rule's matches it was (to be given to AppendPath and AppendLocation); -1 if
// the rule has none. Nil: no rule matches (404, flag NR). port is the port that
// was dialled.
func (a *Answer) Match(req *message.Request, port uint32) (r *Rule, match int) {
	if len(a.index.entries) == 0 {
		return nil, -1
	}
	if e := &a.index.entries[0]; e.m == nil { // the one rule of a plain service
		return a.Rules[e.rule], int(e.match)
	}
	var q question
	q.init(req, port)
	i := a.index.find(&q)
	if i < 0 {
		return nil, -1
	}
	e := &a.index.entries[i]
	return a.Rules[e.rule], int(e.match)
}

// MatchTCP returns the rule for a connection to dialled, or nil (reset, flag NR).
// sni is the name in the ClientHello that it begins with, in lower case; "" if it
// has none, or begins otherwise.
//
// As Envoy chooses among filter chains, the match with the longest subnet holds,
// then the one with the most specific name; the first of equal ones. A rule
// without a match is the least specific of all.
func (a *Answer) MatchTCP(dialled netip.AddrPort, sni string) *TCPRule {
	var best *TCPRule
	most := 0
	for _, r := range a.TCP {
		if len(r.matches) == 0 && most == 0 {
			best, most = r, 1
		}
		for i := range r.matches {
			if fit := r.matches[i].fit(dialled, sni); fit > most {
				best, most = r, fit
			}
		}
	}
	return best
}

// Sniffed reports whether what a connection's ClientHello names matters.
func (a *Answer) Sniffed() bool { return a.sniffed }

// Pick draws a destination by weight; draw is uniform over all of uint64. Nil
// if every weight is zero.
//
// The draw is random and not a rotation: it needs no state, so every loop,
// every proxy and explain decide alike; it cannot fall in step with periodic
// traffic (a health check on every tenth request would see one version for
// ever); and the share holds for each caller and each path, not only for the
// sum. The price is a binomial spread: 10 % of 100 requests is 10 ± 3.
func (r *Rule) Pick(draw uint64) *Destination { return pick(r.Destinations, r.total, draw) }

// Pick draws a destination by weight, as Rule.Pick.
func (r *TCPRule) Pick(draw uint64) *Destination { return pick(r.Destinations, r.total, draw) }

func pick(dests []Destination, total, draw uint64) *Destination {
	if len(dests) == 1 {
		return &dests[0]
	}
	at, _ := bits.Mul64(draw, total) // uniform over [0, total), bias below 2^-32
	for i := range dests {
		if at < dests[i].upto {
			return &dests[i]
		}
	}
	return nil
}
