package decide

import (
	"bytes"
	"math"
	"net/netip"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/message"
)

// Bounds of the tables, which hold 12 and 4 bytes for each entry.
const (
	defaultRing = 1024
	// MaxRing is how many entries a ring has at most (Envoy's max_ring_size is
	// 8,388,608).
	MaxRing = 1 << 20
	// MaxMaglev is Envoy's.
	MaxMaglev = 5_000_011
)

// DefaultMaglev is Envoy's size of a Maglev table.
const DefaultMaglev = 65537

// HashKey says what of a request is hashed. The hashes, the ring and the table
// are Envoy's (xxHash64), so that sidecars of both kinds send a key to the same
// endpoint.
type HashKey struct {
	kind   hashKind
	name   string
	cookie *seinev1.ConsistentHash_Cookie
	tail   string // of Set-Cookie, behind the value
}

type hashKind uint8

const (
	byHeader hashKind = iota
	byCookie
	bySource
	byQuery
)

func newHashKey(h *seinev1.ConsistentHash) *HashKey {
	switch v := h.Key.(type) {
	case *seinev1.ConsistentHash_Header:
		return &HashKey{kind: byHeader, name: lower(v.Header)}
	case *seinev1.ConsistentHash_Query:
		return &HashKey{kind: byQuery, name: v.Query}
	case *seinev1.ConsistentHash_Cookie_:
		// Envoy's makeSetCookieValue
		c := v.Cookie
		tail := `"`
		if s := int64(c.Ttl.AsDuration() / time.Second); s != 0 {
			tail += "; Max-Age=" + strconv.FormatInt(s, 10)
		}
		if c.Path != "" {
			tail += "; Path=" + c.Path
		}
		for _, a := range c.Attributes {
			tail += "; " + a.Name
			if a.Value != "" {
				tail += "=" + a.Value
			}
		}
		return &HashKey{kind: byCookie, name: c.Name, cookie: c, tail: tail + "; HttpOnly"}
	}
	return &HashKey{kind: bySource}
}

// HashKey is what the cluster hashes; nil if its balancer is another.
func (c *Cluster) HashKey() *HashKey { return c.hash }

// Request hashes a request that came from source. False: it has no such thing,
// and the pick is drawn.
func (k *HashKey) Request(req *message.Request, source netip.Addr) (uint64, bool) {
	switch k.kind {
	case byHeader:
		switch k.name {
		case ":authority", "host":
			return HashBytes(req.Authority), len(req.Authority) > 0
		case ":path":
			return HashBytes(req.Path), true
		case ":method":
			return HashBytes(req.Method), true
		}
		return hashFields(req.Fields, k.name)
	case byCookie:
		if v := cookieValue(req.Fields, k.name); len(v) > 0 {
			return HashBytes(v), true
		}
		return 0, false
	case byQuery:
		return queryHash(req.Path, k.name)
	}
	return k.Connection(source)
}

// Connection hashes a connection of opaque bytes: by its source or not at all.
func (k *HashKey) Connection(source netip.Addr) (uint64, bool) {
	if k.kind != bySource || !source.IsValid() {
		return 0, false
	}
	var text [64]byte
	return HashBytes(source.Unmap().AppendTo(text[:0])), true
}

// MakesCookie reports whether a request without the cookie gets one: its ttl is
// written.
func (k *HashKey) MakesCookie() bool { return k.cookie != nil && k.cookie.Ttl != nil }

// AppendCookie appends the value of a new cookie: the same for every request of
// a connection (Envoy's addDownstreamSetCookie).
func AppendCookie(dst []byte, remote, local netip.AddrPort) []byte {
	var text [128]byte
	h := HashBytes(local.AppendTo(remote.AppendTo(text[:0])))
	for i := 60; i >= 0; i -= 4 {
		dst = append(dst, "0123456789abcdef"[h>>i&15])
	}
	return dst
}

// AppendSetCookie appends the Set-Cookie that gives the client the value.
func (k *HashKey) AppendSetCookie(dst, value []byte) []byte {
	dst = append(dst, k.name...)
	dst = append(dst, `="`...)
	dst = append(dst, value...)
	return append(dst, k.tail...)
}

// HashBytes is Envoy's hash of one value.
func HashBytes(b []byte) uint64 { return xxhash.Sum64(b) }

// hashFields hashes the values of a header: in order of their text where there
// are several, each seeded by the one before.
func hashFields(fields []message.Field, name string) (uint64, bool) {
	var values [8][]byte
	n := 0
	for i := range fields {
		if n == len(values) || !message.EqualFold(fields[i].Name, name) {
			continue
		}
		v := fields[i].Value
		at := n
		for ; at > 0 && bytes.Compare(v, values[at-1]) < 0; at-- {
			values[at] = values[at-1]
		}
		values[at] = v
		n++
	}
	if n == 0 {
		return 0, false
	}
	h := HashBytes(values[0])
	for _, v := range values[1:n] {
		h = seeded(h, v)
	}
	return h, true
}

func seeded(seed uint64, v []byte) uint64 {
	var d xxhash.Digest
	d.ResetWithSeed(seed)
	_, _ = d.Write(v)
	return d.Sum64()
}

// cookieValue is the value of a request's cookie, without quotes.
func cookieValue(fields []message.Field, name string) []byte {
	for i := range fields {
		if !message.EqualFold(fields[i].Name, "cookie") {
			continue
		}
		rest := fields[i].Value
		for len(rest) > 0 {
			var pair []byte
			if at := bytes.IndexByte(rest, ';'); at >= 0 {
				pair, rest = rest[:at], rest[at+1:]
			} else {
				pair, rest = rest, nil
			}
			for len(pair) > 0 && (pair[0] == ' ' || pair[0] == '\t') {
				pair = pair[1:]
			}
			if len(pair) <= len(name) || pair[len(name)] != '=' || string(pair[:len(name)]) != name {
				continue
			}
			v := pair[len(name)+1:]
			if n := len(v); n >= 2 && v[0] == '"' && v[n-1] == '"' {
				v = v[1 : n-1]
			}
			return v
		}
	}
	return nil
}

// queryHash hashes the first value of a query parameter, as it is written.
func queryHash(path []byte, name string) (uint64, bool) {
	at := bytes.IndexByte(path, '?')
	if at < 0 {
		return 0, false
	}
	rest := path[at+1:]
	for len(rest) > 0 {
		var pair []byte
		if at := bytes.IndexByte(rest, '&'); at >= 0 {
			pair, rest = rest[:at], rest[at+1:]
		} else {
			pair, rest = rest, nil
		}
		if len(pair) >= len(name) && string(pair[:len(name)]) == name {
			if len(pair) == len(name) {
				return HashBytes(nil), true
			}
			if pair[len(name)] == '=' {
				return HashBytes(pair[len(name)+1:]), true
			}
		}
	}
	return 0, false
}

// lookup is a hash table over a group. It is immutable and shared by all loops.
type lookup interface {
	// find returns the endpoint for a hash. Those that are out are passed over
	// if s, which is never empty, lacks them.
	find(h uint64, attempt uint32, b *Balance, s *set) int
}

// hashName is what an endpoint is called in the tables.
func hashName(e *Endpoint) string {
	if e.DNS != "" {
		return e.DNS + ":" + strconv.Itoa(int(e.Port))
	}
	return e.Addr.String()
}

func (c *Cluster) buildTable(g *group) lookup {
	if g.set.n == 0 {
		return nil
	}
	var total, least, most uint64
	least = math.MaxUint64
	for p := range g.set.n {
		w := uint64(c.Endpoints[g.set.at(p)].Weight)
		total, least, most = total+w, min(least, w), max(most, w)
	}
	if size := c.Policy.Hash.TableSize; size > 0 {
		return c.buildMaglev(g, uint64(size), float64(total), float64(most))
	}
	return c.buildRing(g, float64(total), float64(least))
}

// ring is ketama's: every endpoint has points on it for its weight, and a hash
// belongs to the next one.
type ring struct {
	hashes []uint64 // ascending
	hosts  []int32
	full   int // members
}

// buildRing is Envoy's RingHashLoadBalancer::Ring.
func (c *Cluster) buildRing(g *group, total, least float64) *ring {
	want := float64(c.Policy.Hash.RingSize)
	if want == 0 {
		want = defaultRing
	}
	least /= total
	scale := min(math.Ceil(least*want)/least, MaxRing)
	type point struct {
		hash uint64
		host int32
	}
	points := make([]point, 0, int(math.Ceil(scale))+g.set.n)
	var now, target float64
	var name []byte
	for p := range g.set.n {
		i := g.set.at(p)
		e := c.Endpoints[i]
		name = append(append(name[:0], hashName(e)...), '_')
		n := len(name)
		target += scale * float64(e.Weight) / total
		for k := int64(0); now < target; k++ {
			name = strconv.AppendInt(name[:n], k, 10)
			points = append(points, point{HashBytes(name), int32(i)})
			now++
		}
	}
	slices.SortFunc(points, func(a, b point) int {
		switch {
		case a.hash != b.hash && a.hash < b.hash:
			return -1
		case a.hash != b.hash:
			return 1
		}
		return int(a.host - b.host)
	})
	r := &ring{hashes: make([]uint64, len(points)), hosts: make([]int32, len(points)), full: g.set.n}
	for k, p := range points {
		r.hashes[k], r.hosts[k] = p.hash, p.host
	}
	return r
}

func (r *ring) find(h uint64, attempt uint32, b *Balance, s *set) int {
	at, _ := slices.BinarySearch(r.hashes, h)
	at = int((uint64(at) + uint64(attempt)) % uint64(len(r.hashes)))
	for s.n < r.full && b.Out(int(r.hosts[at])) {
		if at++; at == len(r.hashes) {
			at = 0
		}
	}
	return int(r.hosts[at])
}

// maglev is the table of Google's load balancer of that name.
type maglev struct {
	table []int32
	full  int
}

// buildMaglev is Envoy's OriginalMaglevTable.
func (c *Cluster) buildMaglev(g *group, size uint64, total, most float64) *maglev {
	type entry struct {
		name         string
		host         int32
		offset, skip uint64
		weight, goal float64
		next         uint64
	}
	entries := make([]entry, g.set.n)
	for p := range entries {
		i := g.set.at(p)
		name := hashName(c.Endpoints[i])
		entries[p] = entry{
			name: name, host: int32(i), weight: float64(c.Endpoints[i].Weight) / total,
			offset: xxhash.Sum64String(name) % size, skip: seeded(1, []byte(name))%(size-1) + 1,
		}
	}
	sort.SliceStable(entries, func(a, b int) bool { return strings.Compare(entries[a].name, entries[b].name) < 0 })
	most /= total
	t := &maglev{table: make([]int32, size), full: g.set.n}
	for i := range t.table {
		t.table[i] = -1
	}
	filled := uint64(0)
	for turn := 1.0; filled < size; turn++ {
		for k := 0; k < len(entries) && filled < size; k++ {
			e := &entries[k]
			if turn*e.weight < e.goal {
				continue
			}
			e.goal += most
			for {
				at := (e.offset + e.skip*e.next) % size
				e.next++
				if t.table[at] < 0 {
					t.table[at] = e.host
					break
				}
			}
			filled++
		}
	}
	return t
}

func (t *maglev) find(h uint64, attempt uint32, b *Balance, s *set) int {
	if attempt > 0 {
		h ^= -uint64(attempt)
	}
	at := int(h % uint64(len(t.table)))
	for k := 0; s.n < t.full && b.Out(int(t.table[at])); k++ {
		if k < 16 { // to all the others alike
			h = mix(h)
			at = int(h % uint64(len(t.table)))
		} else if at++; at == len(t.table) {
			at = 0
		}
	}
	return int(t.table[at])
}

// checkBalancing refuses what no table can be made of.
func checkBalancing(p *seinev1.TrafficPolicy) error {
	if h := p.GetHash(); h != nil {
		if h.Key == nil || h.GetCookie() != nil && h.GetCookie().Name == "" {
			return invalid("a hash of nothing")
		}
		if t := h.TableSize; t > 0 && (t > MaxMaglev || !Prime(t)) {
			return invalid("Maglev's table size %d is not a prime up to %d", t, MaxMaglev)
		}
	}
	if w := p.GetWarmup(); w != nil && w.Duration.AsDuration() < 0 {
		return invalid("warmup %v", w.Duration)
	}
	return nil
}

// Prime reports whether n is one.
func Prime(n uint32) bool {
	for d := uint32(2); uint64(d)*uint64(d) <= uint64(n); d++ {
		if n%d == 0 {
			return false
		}
	}
	return n > 1
}

// newWarmup is nil if there is none.
func newWarmup(w *seinev1.Warmup) *warmup {
	d := w.GetDuration().AsDuration()
	if d <= 0 {
		return nil
	}
	out := &warmup{window: int64(d), step: max(int64(d)/100, int64(10*time.Millisecond)), least: w.MinimumPercent / 100, inverse: 1}
	if w.Aggression > 0 {
		out.inverse = 1 / w.Aggression
	}
	return out
}
