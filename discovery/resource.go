package discovery

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/mesh"
)

// kind is a type of resource. The order is that in which a batch is sent: what
// is named comes before what names it.
type kind uint8

const (
	kindSelf kind = iota
	kindEndpoint
	kindService
	kindAnswer
	kinds
)

var kindURL = [kinds]string{seinev1.TypeSelf, seinev1.TypeEndpoint, seinev1.TypeService, seinev1.TypeAnswer}

// kindLabel is the value of the label "type": Istio's word for what stands at
// the same place, so that dashboards made for Istio show something.
var kindLabel = [kinds]string{"lds", "eds", "cds", "rds"}

func kindOf(url string) (kind, bool) {
	i := slices.Index(kindURL[:], url)
	return kind(max(i, 0)), i >= 0
}

// check reports what is wrong with a name that somebody subscribes to.
func (k kind) check(name string) (err error) {
	switch k {
	case kindSelf:
		if name != seinev1.SelfName {
			return fmt.Errorf("%w: the only Self is %q", seinev1.ErrName, seinev1.SelfName)
		}
	case kindEndpoint:
		_, err = seinev1.ParseCollectionName(name)
	case kindService:
		_, _, err = seinev1.ParseServiceKey(name)
	case kindAnswer:
		_, err = seinev1.ParseAnswerName(name)
	}
	return err
}

// resource is one resource in one version, as it goes over the wire. Immutable
// and shared by all streams. What a proxy said that it has already has no body.
type resource struct {
	name, version string
	body          []byte
	source        *seinev1.Ref // the user's resource that it comes from, if known
	trust         string       // of a Self: the name of its trust bundle
}

// items is what one subscription yields, sorted by name: at most one resource,
// or a collection's members. Immutable.
type items []*resource

// diff tells what a holder of old must be sent to hold new.
func diff(old, new items) (changed items, removed []string) {
	for len(old) > 0 || len(new) > 0 {
		switch {
		case len(new) == 0 || len(old) > 0 && old[0].name < new[0].name:
			removed = append(removed, old[0].name)
			old = old[1:]
		case len(old) == 0 || new[0].name < old[0].name:
			changed = append(changed, new[0])
			new = new[1:]
		default:
			if old[0].version != new[0].version {
				changed = append(changed, new[0])
			}
			old, new = old[1:], new[1:]
		}
	}
	return changed, removed
}

// identical reports whether two items are the same memory, which is what an
// unchanged subscription has after a new snapshot.
func identical(a, b items) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

// epoch is one snapshot as streams see it, with what was computed from it.
type epoch struct {
	snap       *mesh.Snapshot
	number     uint64      // counts epochs
	delta      *mesh.Delta // from the epoch before; nil: everything may be another
	published  time.Time
	superseded chan struct{} // closed when a newer one is there

	mu       sync.Mutex
	memo     map[memoKey]*entry
	previous map[memoKey]*entry // of the epoch before, for good: unchanged resources keep their memory
}

// memoKey names a computation: callers of the same class share its result.
type memoKey struct {
	kind        kind
	class, name string
}

type entry struct {
	once  sync.Once
	done  atomic.Bool // items and err are there
	items items
	err   error
}

// memoMost bounds one epoch's memo: where the configuration rests and proxies
// come and go, it would otherwise grow with every name ever asked for.
const memoMost = 1 << 17

// drop ends an epoch and returns what it computed. Streams that still see it begin
// a memo of their own.
func (e *epoch) drop() map[memoKey]*entry {
	e.mu.Lock()
	defer e.mu.Unlock()
	done := e.memo
	e.memo, e.previous = nil, nil
	return done
}

// before is what an entry of the epoch before holds, if it was computed.
func (e *epoch) before(key memoKey) (items, bool) {
	if en := e.previous[key]; en != nil && en.done.Load() && en.err == nil {
		return en.items, true
	}
	return nil, false
}

// class is what two workloads have in common that get the same answers.
func class(w *mesh.Workload) string {
	var b strings.Builder
	for _, s := range []string{w.Namespace, w.ServiceAccount, w.App, w.Locality} {
		b.WriteString(s)
		b.WriteByte(0)
	}
	if w.Gateway {
		b.WriteByte('g')
	}
	for _, k := range slices.Sorted(maps.Keys(w.Labels)) {
		b.WriteByte(0)
		b.WriteString(k)
		b.WriteByte('=')
		b.WriteString(w.Labels[k])
	}
	return b.String()
}

// resolve returns what name yields for w, computed at most once for all
// callers of that class.
func (s *Server) resolve(e *epoch, k kind, w *mesh.Workload, class, name string) (items, error) {
	if k == kindSelf {
		class = w.Key()
	}
	if k == kindEndpoint && e.snap.NodeHints {
		class += "\x00@" + w.Node
	}
	key := memoKey{k, class, name}
	e.mu.Lock()
	en := e.memo[key]
	if en == nil {
		if len(e.memo) >= memoMost {
			clear(e.memo)
		}
		en = &entry{}
		if e.memo == nil { // the first, or superseded meanwhile
			e.memo = map[memoKey]*entry{}
		}
		e.memo[key] = en
	}
	previous, known := e.before(key)
	e.mu.Unlock()
	en.once.Do(func() {
		defer en.done.Store(true)
		if known && e.delta != nil && !s.opt.Plan.Reached(e.snap, e.delta, w, kindURL[k], name) {
			en.items = previous
			return
		}
		start := time.Now()
		en.items, en.err = s.compute(e.snap, k, w, name, previous)
		s.metrics.pushTime[k].Observe(time.Since(start).Seconds())
	})
	return en.items, en.err
}

// compute plans one subscription. A panic in it is an error of that resource:
// one resource that nobody foresaw must not end every stream of the mesh.
func (s *Server) compute(snap *mesh.Snapshot, k kind, w *mesh.Workload, name string, previous items) (out items, err error) {
	defer func() {
		if p := recover(); p != nil {
			out, err = nil, fmt.Errorf("planning %s: panic: %v", name, p)
		}
		if err != nil {
			s.metrics.internal.Inc()
			s.log.Error("a resource could not be planned; its last version stays", "type", kindURL[k], "name", name, "proxy", w.Key(), "err", err)
		}
	}()
	p := s.opt.Plan
	b := builder{previous: previous, most: s.opt.Limits.ResourceBytes}
	switch k {
	case kindSelf:
		if m := p.Self(snap, w); m != nil {
			b.add(name, m, nil)
		}
	case kindAnswer:
		if m := p.Answer(snap, w, name); m != nil {
			b.add(name, m, m.Source)
		}
	case kindService:
		if m := p.Service(snap, w, name); m != nil {
			b.add(name, m, m.Source)
		}
	case kindEndpoint:
		key, err := seinev1.ParseCollectionName(name)
		if err != nil {
			return nil, err
		}
		eps := p.Endpoints(snap, w, key)
		b.out = make(items, 0, len(eps))
		for _, m := range eps {
			full := seinev1.EndpointName(key, m.Id)
			if _, _, err := seinev1.ParseEndpointName(full); err != nil {
				return nil, fmt.Errorf("endpoint %q: %w", m.Id, err)
			}
			b.add(full, m, nil)
		}
		slices.SortStableFunc(b.out, func(x, y *resource) int { return cmp.Compare(x.name, y.name) })
		b.out = slices.CompactFunc(b.out, func(x, y *resource) bool { return x.name == y.name })
	}
	if b.err != nil {
		return nil, b.err
	}
	if slices.EqualFunc(b.out, previous, func(x, y *resource) bool { return x == y }) {
		return previous, nil
	}
	return b.out, nil
}

type builder struct {
	previous items
	most     int
	out      items
	err      error
}

func (b *builder) add(name string, m proto.Message, source *seinev1.Ref) {
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err == nil && len(body) > b.most {
		err = fmt.Errorf("%d bytes are more than a proxy is sent for one resource (%d)", len(body), b.most)
	}
	if err != nil {
		b.err = fmt.Errorf("%s: %w", name, err)
		return
	}
	v := version(body)
	if i, ok := slices.BinarySearchFunc(b.previous, name, func(r *resource, n string) int { return cmp.Compare(r.name, n) }); ok && b.previous[i].version == v {
		b.out = append(b.out, b.previous[i])
		return
	}
	r := &resource{name: name, version: v, body: body, source: source}
	if self, ok := m.(*seinev1.Self); ok {
		r.trust = self.TrustBundleId
	}
	b.out = append(b.out, r)
}

// version is 72 bits of a hash of the content: the same content has the same
// version on every replica and after every restart, which is what lets a proxy
// that returns be sent nothing.
func version(body []byte) string {
	sum := sha256.Sum256(body)
	return base64.RawURLEncoding.EncodeToString(sum[:9])
}

func sortItems(it items) {
	slices.SortFunc(it, func(a, b *resource) int { return cmp.Compare(a.name, b.name) })
}
