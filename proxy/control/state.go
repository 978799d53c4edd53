package control

import (
	"container/list"
	"time"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/decide"
)

// kind is a type of resource that is subscribed to.
type kind uint8

// In the order in which a new stream is told: what comes after the answer for
// the last of them, Self, belongs to nothing that was said before.
const (
	kindEndpoint kind = iota
	kindService
	kindAnswer
	kindSelf
	kinds
)

var kindURL = [kinds]string{seinev1.TypeEndpoint, seinev1.TypeService, seinev1.TypeAnswer, seinev1.TypeSelf}

func kindOf(url string) (kind, bool) {
	for k, u := range kindURL {
		if u == url {
			return kind(k), true
		}
	}
	return 0, false
}

// state is what the client holds: what was asked for, the latest of what was
// answered, and what of it is visible in the Table. It does no I/O, knows the
// time only as it is told, and is not safe for concurrent use.
type state struct {
	opt    *Options
	bucket bucket

	self        *decide.Self
	selfVersion string
	answers     map[string]*answer
	services    map[string]*service // by "FQDN/PORT"
	held        list.List           // *answer: routed or not answered yet; least recently used first
	foreign     list.List           // *answer: any other; bounded by Options.Unknown
	unknown     int                 // of foreign, those that are refused

	generation uint64
	changed    map[*answer]struct{} // whose latest is not visible
	rebuild    bool                 // answers came or went from the Table
	dirty      bool                 // anything at all is to be published
	half       time.Time            // a batch is half here; zero: none
	halfOf     uint64               // its generation
	resync     bool                 // the new stream has not answered for Self yet
	blocked    time.Time            // a visible answer's successor waits for what it names; zero: none

	out outbox

	connected bool
	since     time.Time
	lastError string
}

// answer is one name that was asked for.
type answer struct {
	name     string
	latest   *decide.Answer // nil: not answered yet
	version  string
	visible  *decide.Answer // in the Table; nil: not there yet
	deps     []string       // keys that latest names
	old      []string       // keys that visible names
	use      *Use
	lastUsed time.Time
	asked    time.Time
	element  *list.Element
	list     *list.List
	paid     bool // a token of the bucket, given back if the name turns out to be real
}

// service is one "FQDN/PORT" that an answer names.
type service struct {
	key       string
	refs      int // answers whose latest names it, plus shown
	shown     int // answers in the Table that name it
	latest    *decide.Service
	version   string
	known     bool // answered: latest, or there is none
	endpoints map[string]*endpoint
	all       bool // the endpoints were answered
	dirty     bool // clusters are older than latest and endpoints
	clusters  map[string]*decide.Cluster
}

type endpoint struct {
	compiled *decide.Endpoint
	version  string
}

// patience bounds how long a change waits for the rest of it; after that
// whatever is complete becomes visible.
const patience = 2 * time.Second

func (st *state) init(o *Options) {
	st.opt = o
	st.bucket = bucket{rate: o.Rate, burst: float64(o.Burst), tokens: float64(o.Burst)}
	st.answers, st.services, st.changed = map[string]*answer{}, map[string]*service{}, map[*answer]struct{}{}
	st.held.Init()
	st.foreign.Init()
	st.out.init()
	st.out.subscribe(kindSelf, seinev1.SelfName)
}

// complete reports whether everything is there for s to be in a Table.
func (s *service) complete() bool { return s.known && (s.latest == nil || s.all) }

// want begins to hold an answer.
func (st *state) want(name string, now time.Time) bool {
	if a := st.answers[name]; a != nil {
		a.use.Touch()
		a.asked = now
		return true
	}
	if !st.bucket.take(now) {
		return false
	}
	if len(st.answers) >= st.opt.Answers && !st.evict(&st.foreign, now) && !st.evict(&st.held, now) {
		return false
	}
	a := &answer{name: name, use: &Use{}, lastUsed: now, asked: now, list: &st.held, paid: true}
	a.element = a.list.PushBack(a)
	st.answers[name] = a
	st.out.subscribe(kindAnswer, name)
	return true
}

// evict drops the answer that was not used for longest. Whatever was used since
// it was last looked at gets a second chance, as marks are all that the data
// path leaves.
func (st *state) evict(l *list.List, now time.Time) bool {
	for range l.Len() {
		a := l.Front().Value.(*answer)
		if a.use.used.Swap(false) {
			a.lastUsed = now
			l.MoveToBack(a.element)
			continue
		}
		st.drop(a)
		return true
	}
	if l.Len() == 0 {
		return false
	}
	st.drop(l.Front().Value.(*answer))
	return true
}

// drop forgets an answer. What it named goes with the next sweep.
func (st *state) drop(a *answer) {
	if a.list == &st.foreign && a.latest.Proto.Kind != seinev1.Answer_PASSTHROUGH {
		st.unknown--
	}
	a.list.Remove(a.element)
	delete(st.answers, a.name)
	delete(st.changed, a)
	st.release(a.deps)
	st.show(a.old, -1)
	if a.visible != nil {
		st.rebuild, st.dirty = true, true
	}
	st.out.unsubscribe(kindAnswer, a.name)
}

func (st *state) retain(keys []string) {
	for _, key := range keys {
		s := st.services[key]
		if s == nil {
			s = &service{key: key, endpoints: map[string]*endpoint{}}
			st.services[key] = s
			st.out.subscribe(kindService, key)
			st.out.subscribe(kindEndpoint, seinev1.CollectionName(key))
		}
		s.refs++
	}
}

func (st *state) release(keys []string) {
	for _, key := range keys {
		st.services[key].refs--
	}
}

// show counts answers that came into the Table (1) or left it (-1).
func (st *state) show(keys []string, n int) {
	for _, key := range keys {
		s := st.services[key]
		s.shown += n
		s.refs += n
	}
}

// sweep gives back what is not used any more.
func (st *state) sweep(now time.Time) {
	for _, a := range st.answers {
		if a.use.used.Swap(false) {
			a.lastUsed = now
			a.list.MoveToBack(a.element)
		}
		switch {
		case a.latest == nil && now.Sub(a.asked) > st.opt.Patient, now.Sub(a.lastUsed) > st.opt.Idle:
			st.drop(a)
		}
	}
	for key, s := range st.services {
		if s.refs == 0 {
			delete(st.services, key)
			st.out.unsubscribe(kindService, key)
			st.out.unsubscribe(kindEndpoint, seinev1.CollectionName(key))
		}
	}
}

// setAnswer takes a new version of a held answer.
func (st *state) setAnswer(a *answer, latest *decide.Answer, version string) {
	was := a.latest
	deps := dependencies(latest.Proto)
	st.retain(deps)
	st.release(a.deps)
	a.latest, a.version, a.deps = latest, version, deps
	st.changed[a] = struct{}{}
	st.dirty = true

	kind := latest.Proto.Kind
	to := &st.foreign
	if kind == seinev1.Answer_ROUTES {
		to = &st.held
		if a.paid {
			st.bucket.give()
		}
	}
	a.paid = false
	if was != nil && a.list == &st.foreign && was.Proto.Kind != seinev1.Answer_PASSTHROUGH {
		st.unknown--
	}
	if to == &st.foreign && kind != seinev1.Answer_PASSTHROUGH {
		st.unknown++
	}
	if a.list != to {
		a.list.Remove(a.element)
		a.list = to
		a.element = to.PushBack(a)
	}
}

// trim keeps the answers that are not routes within their bound.
func (st *state) trim(now time.Time) {
	for st.foreign.Len() > st.opt.Unknown {
		st.evict(&st.foreign, now)
	}
}

// dependencies are the keys that an answer names, each once.
func dependencies(a *seinev1.Answer) []string {
	var keys []string
	seen := map[string]struct{}{}
	add := func(key string) {
		if _, ok := seen[key]; !ok {
			seen[key] = struct{}{}
			keys = append(keys, key)
		}
	}
	for _, r := range a.Http {
		for _, d := range r.Destinations {
			if d.Status == 0 {
				add(seinev1.ServiceKey(d.Host, d.Port))
			}
		}
		for _, m := range r.Mirrors {
			add(seinev1.ServiceKey(m.GetDestination().GetHost(), m.GetDestination().GetPort()))
		}
	}
	for _, r := range a.Tcp {
		for _, d := range r.Destinations {
			add(seinev1.ServiceKey(d.Host, d.Port))
		}
	}
	if a.DirectService != "" {
		add(a.DirectService)
	}
	return keys
}

// bucket is a token bucket.
type bucket struct {
	rate, burst, tokens float64
	at                  time.Time
}

func (b *bucket) take(now time.Time) bool {
	if !b.at.IsZero() {
		b.tokens = min(b.burst, b.tokens+b.rate*now.Sub(b.at).Seconds())
	}
	b.at = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

func (b *bucket) give() { b.tokens = min(b.burst, b.tokens+1) }
