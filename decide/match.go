package decide

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/message"
)

// matcher is a compiled HttpMatch: all of its conditions must hold.
type matcher struct {
	port    uint32
	hasURI  bool
	uri     value
	method  *value
	scheme  *value
	author  *value
	headers []headerMatcher
	query   []queryMatcher
}

type headerMatcher struct {
	slot   int32 // of the name among all that the answer's rules look at
	value  value
	invert bool
}

type queryMatcher struct {
	name  string
	value value
}

// source says where a matched "header" is found: Envoy knows pseudo-headers
// by the same names, and "host" as another name of :authority.
type source uint8

const (
	fromFields source = iota
	fromAuthority
	fromMethod
	fromPath
	fromScheme
)

type slot struct {
	name string // lower case
	from source
}

// slots are the distinct header names of an answer, so that each is looked up
// at most once for a request.
type slots struct {
	list  []slot
	index map[string]int32
}

func (s *slots) of(name string) int32 {
	name = lower(name)
	if i, ok := s.index[name]; ok {
		return i
	}
	if s.index == nil {
		s.index = map[string]int32{}
	}
	from := fromFields
	switch name {
	case "host", ":authority":
		from = fromAuthority
	case ":method":
		from = fromMethod
	case ":path":
		from = fromPath
	case ":scheme":
		from = fromScheme
	}
	i := int32(len(s.list))
	s.list = append(s.list, slot{name, from})
	s.index[name] = i
	return i
}

func compileMatch(m *seinev1.HttpMatch, s *slots) (matcher, error) {
	c := matcher{port: m.Port, hasURI: m.Uri.GetMatch() != nil}
	var err error
	one := func(dst **value, m *seinev1.StringMatch, field string) {
		if m == nil || err != nil {
			return
		}
		var v value
		if v, err = compileValue(m); err != nil {
			err = fmt.Errorf("%s: %w", field, err)
			return
		}
		*dst = &v
	}
	if c.uri, err = compileValue(m.Uri); err != nil {
		return c, fmt.Errorf("uri: %w", err)
	}
	if m.PathElements && c.uri.kind == prefixValue {
		c.uri.kind, c.uri.text = elementsValue, strings.TrimSuffix(c.uri.text, "/")
		c.hasURI = c.uri.text != ""
	}
	if c.uri.kind == anyValue {
		c.hasURI = false
	}
	one(&c.method, m.Method, "method")
	one(&c.scheme, m.Scheme, "scheme")
	one(&c.author, m.Authority, "authority")
	if err != nil {
		return c, err
	}
	for _, h := range m.Headers {
		v, err := compileValue(h.Value)
		if err != nil {
			return c, fmt.Errorf("headers[%s]: %w", h.Name, err)
		}
		c.headers = append(c.headers, headerMatcher{slot: s.of(h.Name), value: v, invert: h.Invert})
	}
	for _, q := range m.Query {
		v, err := compileValue(q.Value)
		if err != nil {
			return c, fmt.Errorf("queryParams[%s]: %w", q.Name, err)
		}
		c.query = append(c.query, queryMatcher{q.Name, v})
	}
	return c, nil
}

// catchesAll reports whether every request on any port matches.
func (m *matcher) catchesAll() bool {
	return m.port == 0 && !m.hasURI && m.method == nil && m.scheme == nil && m.author == nil &&
		len(m.headers) == 0 && len(m.query) == 0
}

// cachedSlots bounds how many distinct header names are looked up only once.
const cachedSlots = 16

type lookedUp struct {
	value  []byte
	looked bool
	found  bool
}

// question is one request while it is being matched; it lives on the stack.
type question struct {
	req   *message.Request
	port  uint32
	path  []byte // without query
	query []byte // without "?"
	cache [cachedSlots]lookedUp
}

func (q *question) init(req *message.Request, port uint32) {
	q.req, q.port = req, port
	n := pathEnd(req.Path)
	q.path = req.Path[:n]
	if n < len(req.Path) && req.Path[n] == '?' {
		q.query = req.Path[n+1:]
	}
}

// pathEnd is where the query or fragment begins.
func pathEnd(path []byte) int {
	for i, c := range path {
		if c == '?' || c == '#' {
			return i
		}
	}
	return len(path)
}

func (m *matcher) matches(q *question, names []slot, uri bool) bool {
	if m.port != 0 && m.port != q.port {
		return false
	}
	if m.method != nil && !m.method.match(q.req.Method) {
		return false
	}
	if m.scheme != nil && !m.scheme.match(schemeOf(q.req)) {
		return false
	}
	if m.author != nil && !m.author.match(q.req.Authority) {
		return false
	}
	for i := range m.headers {
		h := &m.headers[i]
		v, found := q.header(names, h.slot)
		if !h.matches(v, found) {
			return false
		}
	}
	for i := range m.query {
		v, found := Query(q.query, m.query[i].name)
		if !found || !m.query[i].value.match(v) {
			return false
		}
	}
	return !uri || !m.hasURI || m.uri.match(q.path)
}

// matches follows Istio's translation for Envoy: a header that is missing
// never matches, but one in withoutHeaders counts as empty.
func (h *headerMatcher) matches(v []byte, found bool) bool {
	if h.value.kind == anyValue {
		return found != h.invert
	}
	if !found && !h.invert {
		return false
	}
	return h.value.match(v) != h.invert
}

var http = []byte("http")

func schemeOf(req *message.Request) []byte {
	if len(req.Scheme) == 0 {
		return http
	}
	return req.Scheme
}

func (q *question) header(names []slot, i int32) ([]byte, bool) {
	if i >= cachedSlots {
		return names[i].lookUp(q.req)
	}
	c := &q.cache[i]
	if !c.looked {
		c.value, c.found = names[i].lookUp(q.req)
		c.looked = true
	}
	return c.value, c.found
}

// lookUp returns the header's value; several fields of the name are joined
// with commas (RFC 9110 §5.3, as Envoy matches them), which is the one case
// that allocates.
func (s *slot) lookUp(req *message.Request) ([]byte, bool) {
	switch s.from {
	case fromAuthority:
		return req.Authority, len(req.Authority) > 0
	case fromMethod:
		return req.Method, true
	case fromPath:
		return req.Path, true
	case fromScheme:
		return schemeOf(req), true
	}
	fields := req.Fields
	for i := range fields {
		if !message.EqualFold(fields[i].Name, s.name) {
			continue
		}
		for j := i + 1; j < len(fields); j++ {
			if message.EqualFold(fields[j].Name, s.name) {
				return joinFields(fields[i:], s.name), true
			}
		}
		return fields[i].Value, true
	}
	return nil, false
}

func joinFields(fields []message.Field, name string) []byte {
	var b []byte
	for i := range fields {
		if message.EqualFold(fields[i].Name, name) {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(b, fields[i].Value...)
		}
	}
	return b
}

// Query returns the first value of a parameter in a query without its "?".
// Nothing is decoded, as in Envoy's matching.
func Query(query []byte, name string) ([]byte, bool) {
	for len(query) > 0 {
		part := query
		if i := bytes.IndexByte(query, '&'); i >= 0 {
			part, query = query[:i], query[i+1:]
		} else {
			query = nil
		}
		key, val := part, []byte(nil)
		if i := bytes.IndexByte(part, '='); i >= 0 {
			key, val = part[:i], part[i+1:]
		}
		if string(key) == name {
			return val, true
		}
	}
	return nil, false
}

type tcpMatcher struct {
	port    uint32
	subnets []netip.Prefix
	names   []string // "a.example.com"; ".example.com" of a wildcard; "" of "*"
	exact   []bool   // of names
}

func compileTCPMatch(m *seinev1.TcpMatch) (tcpMatcher, error) {
	c := tcpMatcher{port: m.Port}
	for _, s := range m.DestinationSubnets {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			a, aerr := netip.ParseAddr(s)
			if aerr != nil {
				return c, fmt.Errorf("destinationSubnets: %w", err)
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		c.subnets = append(c.subnets, p.Masked())
	}
	for _, h := range m.SniHosts {
		name, wild := strings.CutPrefix(strings.ToLower(h), "*")
		c.names, c.exact = append(c.names, name), append(c.exact, !wild)
	}
	return c, nil
}

// fit is how specific the match is for a connection, 0 if it does not hold: the
// length of the subnet that the address lies in counts more than the name that
// the client asks for, and an exact name more than the longest wildcard.
func (m *tcpMatcher) fit(dialled netip.AddrPort, sni string) int {
	if m.port != 0 && m.port != uint32(dialled.Port()) {
		return 0
	}
	const nothing, names = 1, 1 << 10 // above any length of a name
	subnet, name := nothing, nothing
	if len(m.subnets) > 0 {
		subnet = 0
		for _, s := range m.subnets {
			if s.Contains(dialled.Addr().Unmap()) {
				subnet = max(subnet, nothing+1+s.Bits())
			}
		}
	}
	if len(m.names) > 0 {
		name = 0
		for i, n := range m.names {
			switch {
			case m.exact[i] && n == sni:
				name = names - 1
			case n == "" && !m.exact[i]:
				name = max(name, nothing)
			case !m.exact[i] && len(sni) > len(n) && strings.HasSuffix(sni, n):
				name = max(name, nothing+len(n))
			}
		}
	}
	if subnet == 0 || name == 0 {
		return 0
	}
	return subnet*names + name
}
