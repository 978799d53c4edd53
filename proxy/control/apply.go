package control

import (
	"maps"
	"slices"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	xdsv3 "github.com/seinemesh/seine/api/xds/v3"
	"github.com/seinemesh/seine/decide"
)

// has reports whether that version is held, or nobody wants the name any more.
func (st *state) has(k kind, name, version string) bool {
	switch k {
	case kindSelf:
		return name != seinev1.SelfName || st.self != nil && st.selfVersion == version
	case kindAnswer:
		a := st.answers[name]
		return a == nil || a.latest != nil && a.version == version
	case kindService:
		s := st.services[name]
		return s == nil || s.latest != nil && s.version == version
	default:
		key, _, err := seinev1.ParseEndpointName(name)
		if err != nil {
			return false // to be refused
		}
		s := st.services[key]
		return s == nil || s.endpoints[name] != nil && s.endpoints[name].version == version
	}
}

// apply holds a resource.
func (st *state) apply(k kind, v *compiled) {
	switch k {
	case kindSelf:
		st.self, st.selfVersion, st.dirty = v.self, v.version, true
	case kindAnswer:
		if a := st.answers[v.name]; a != nil {
			st.setAnswer(a, v.answer, v.version)
		}
	case kindService:
		if s := st.services[v.name]; s != nil {
			s.latest, s.version, s.known, s.dirty = v.service, v.version, true, true
			st.dirty = true
		}
	case kindEndpoint:
		key, _, err := seinev1.ParseEndpointName(v.name)
		if s := st.services[key]; s != nil && err == nil {
			if old := s.endpoints[v.name]; old != nil && v.endpoint.Since.IsZero() && old.compiled.Addr == v.endpoint.Addr &&
				(v.endpoint.Proto.Unhealthy || !old.compiled.Proto.Unhealthy) {
				v.endpoint.Since = old.compiled.Since // else it is new, or well again
			}
			s.endpoints[v.name] = &endpoint{v.endpoint, v.version}
			s.dirty, st.dirty = true, true
		}
	}
}

// remove takes "there is no such thing".
func (st *state) remove(k kind, name string) {
	switch k {
	case kindAnswer:
		if a := st.answers[name]; a != nil {
			p := &seinev1.Answer{Reason: "the control plane does not answer for " + name}
			if refused, err := decide.CompileAnswer(p); err == nil {
				st.setAnswer(a, refused, "")
			}
		}
	case kindService:
		if s := st.services[name]; s != nil {
			s.latest, s.version, s.known, s.dirty = nil, "", true, true
			st.dirty = true
		}
	case kindEndpoint:
		if key, err := seinev1.ParseCollectionName(name); err == nil {
			if s := st.services[key]; s != nil {
				clear(s.endpoints)
				s.all, s.dirty, st.dirty = true, true, true
			}
			return
		}
		key, _, err := seinev1.ParseEndpointName(name)
		if s := st.services[key]; s != nil && err == nil {
			delete(s.endpoints, name)
			s.dirty, st.dirty = true, true
		}
	}
}

// finish ends a batch: endpoint sets of which something came are whole now.
func (st *state) finish() {
	for _, s := range st.services {
		if len(s.endpoints) > 0 {
			s.all = true
		}
	}
}

// ack answers one response.
type ack struct{ url, nonce, err string }

// outbox is what the stream is still to be told.
type outbox struct {
	node   bool // the next request is the stream's first
	add    [kinds]map[string]struct{}
	remove [kinds]map[string]struct{}
	first  [kinds]bool // nothing of that type was said on this stream
	acks   []ack
}

func (o *outbox) init() {
	for k := range kinds {
		o.add[k], o.remove[k] = map[string]struct{}{}, map[string]struct{}{}
	}
}

func (o *outbox) subscribe(k kind, name string) {
	delete(o.remove[k], name)
	o.add[k][name] = struct{}{}
}

func (o *outbox) unsubscribe(k kind, name string) {
	delete(o.add[k], name)
	o.remove[k][name] = struct{}{}
}

func (o *outbox) acknowledge(a ack) { o.acks = append(o.acks, a) }

// reconnect prepares a new stream, on which everything is said anew. What the
// server then sends type by type is one batch, which ends with Self: that is
// asked for last and without a version, so that it always comes.
func (st *state) reconnect() {
	o := &st.out
	o.init()
	o.acks, o.node = nil, true
	st.resync = true
	o.subscribe(kindSelf, seinev1.SelfName)
	for name := range st.answers {
		o.subscribe(kindAnswer, name)
	}
	for key := range st.services {
		o.subscribe(kindService, key)
		o.subscribe(kindEndpoint, seinev1.CollectionName(key))
	}
	for k := range kinds {
		o.first[k] = true
	}
}

// requests returns what is to be sent now, in order, and how many responses
// are acknowledged by it.
func (st *state) requests() (out []*xdsv3.DeltaDiscoveryRequest, acks int) {
	o := &st.out
	push := func(m *xdsv3.DeltaDiscoveryRequest) {
		if o.node {
			m.Node = &xdsv3.Node{Id: st.opt.Node, UserAgentName: "seine-proxy", UserAgentVersion: st.opt.Version}
			o.node = false
		}
		out = append(out, m)
	}
	for _, a := range o.acks {
		m := &xdsv3.DeltaDiscoveryRequest{TypeUrl: a.url, ResponseNonce: a.nonce}
		if a.err != "" {
			m.ErrorDetail = nack(a.err)
		} else {
			acks++
		}
		push(m)
	}
	o.acks = nil
	for k := range kinds {
		first := o.first[k]
		if first {
			clear(o.remove[k]) // on a new stream there is nothing to unsubscribe from
			o.first[k] = false
		}
		m := &xdsv3.DeltaDiscoveryRequest{TypeUrl: kindURL[k], ResourceNamesUnsubscribe: names(o.remove[k])}
		size := 0
		for _, name := range names(o.add[k]) {
			var held map[string]string
			cost := len(name) + overhead
			if first {
				held = st.versions(k, name)
				for n := range held {
					cost += len(n) + overhead
				}
			}
			if size+cost > requestMost && size > 0 {
				push(m)
				m, size = &xdsv3.DeltaDiscoveryRequest{TypeUrl: kindURL[k]}, 0
			}
			size += cost
			m.ResourceNamesSubscribe = append(m.ResourceNamesSubscribe, name)
			if len(held) > 0 && m.InitialResourceVersions == nil {
				m.InitialResourceVersions = map[string]string{}
			}
			maps.Copy(m.InitialResourceVersions, held)
		}
		clear(o.add[k])
		clear(o.remove[k])
		if len(m.ResourceNamesSubscribe)+len(m.ResourceNamesUnsubscribe) > 0 {
			push(m)
		}
	}
	return out, acks
}

// requestMost bounds a request in bytes, about; the server takes 4 MiB.
// overhead is what an entry of a map costs besides its name.
const (
	requestMost = 2 << 20
	overhead    = 24
)

func names(set map[string]struct{}) []string {
	if len(set) == 0 {
		return nil
	}
	out := make([]string, 0, len(set))
	for n := range set {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

// versions is what is held already of what is subscribed to by name. What does
// not fit into a request is received anew: such endpoints are forgotten, since
// nobody would say that one of them is gone; the Table keeps them until then.
func (st *state) versions(k kind, name string) map[string]string {
	switch k {
	case kindAnswer:
		if a := st.answers[name]; a != nil && a.version != "" {
			return map[string]string{name: a.version}
		}
	case kindService:
		if s := st.services[name]; s != nil && s.latest != nil {
			return map[string]string{name: s.version}
		}
	case kindEndpoint:
		key, err := seinev1.ParseCollectionName(name)
		s := st.services[key]
		if err != nil || s == nil {
			return nil
		}
		size := 0
		for n := range s.endpoints {
			size += len(n) + overhead
		}
		if !s.all || size > requestMost {
			clear(s.endpoints)
			s.all = false
			return nil
		}
		out := make(map[string]string, len(s.endpoints))
		for n, e := range s.endpoints {
			out[n] = e.version
		}
		return out
	}
	return nil
}
