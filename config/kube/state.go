package kube

import (
	"bytes"
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/seinemesh/seine/config"
	"github.com/seinemesh/seine/mesh"
)

// change says what the next picture must be made of anew.
type change uint8

const (
	changedEndpoints change = 1 << iota // pods or endpoints: no resource is decoded
	changedShape                        // pods came or went: what analysis says may be another
	changedConfig                       // resources: everything
)

// pod is a workload, and the locality of its own that it had before its node's.
type pod struct {
	w   *mesh.Workload
	own string
}

type node struct {
	locality string
	prefixes []netip.Prefix // of its pods
}

// state is what the API server said last, converted. Its owner guards it.
type state struct {
	pods      map[string]*pod                // by NAMESPACE/NAME
	sorted    []*mesh.Workload               // of pods, by namespace and name
	lent      bool                           // somebody else has sorted, too: it is not written any more
	recalled  map[id]Kept                    // of resources that were not read yet
	moved     map[string]*mesh.Workload      // pods that are others than in the last picture: what they were there
	relisted  map[string]struct{}            // services whose backends are others than there
	slices    map[string]slice               // by NAMESPACE/NAME
	slicesOf  map[string]map[string]struct{} // names of slices by service
	backends  map[string][]mesh.Backend      // by service; what slices of it say together
	stale     map[string]struct{}            // services whose backends are not of today
	nodes     map[string]node
	resources map[id]*resource
	settings  []byte                    // of the ConfigMap
	like      map[string]*mesh.Workload // a pod of each owner, whose maps the others share

	// What of settings is good, and what they were before the last build.
	settingsGood, settingsBefore []byte
	changed                      change
}

func newState() *state {
	return &state{
		pods: map[string]*pod{}, slices: map[string]slice{}, slicesOf: map[string]map[string]struct{}{}, backends: map[string][]mesh.Backend{},
		stale: map[string]struct{}{}, nodes: map[string]node{}, resources: map[id]*resource{}, like: map[string]*mesh.Workload{},
		moved: map[string]*mesh.Workload{}, relisted: map[string]struct{}{},
	}
}

func (s *state) putPod(p *corev1.Pod) {
	key := p.Namespace + "/" + p.Name
	w := workload(p, s.like[p.Namespace+"/"+app(p)])
	if w == nil {
		s.dropPod(key)
		return
	}
	s.like[p.Namespace+"/"+w.App] = w
	next := &pod{w, w.Locality}
	if w.Locality == "" {
		w.Locality = s.nodes[w.Node].locality
	}
	old := s.pods[key]
	if old == nil {
		s.place(nil, w)
	} else if !sameWorkload(old.w, w) || old.w.Sidecar != w.Sidecar || !maps.Equal(old.w.Labels, w.Labels) || !maps.Equal(old.w.Ports, w.Ports) {
		s.place(old.w, w)
	}
	s.pods[key] = next
	switch {
	case old == nil || old.w.Sidecar != w.Sidecar || !maps.Equal(old.w.Labels, w.Labels) || !maps.Equal(old.w.Ports, w.Ports):
		s.changed |= changedEndpoints | changedShape
	case !sameWorkload(old.w, w):
		s.changed |= changedEndpoints
	default:
		s.pods[key] = old // so that the picture keeps its memory
	}
}

func sameWorkload(a, b *mesh.Workload) bool {
	return a.Ref == b.Ref && a.App == b.App && a.ServiceAccount == b.ServiceAccount && slices.Equal(a.Addresses, b.Addresses) &&
		a.Gateway == b.Gateway && a.Unhealthy == b.Unhealthy && a.Unheard == b.Unheard && a.Locality == b.Locality && a.Node == b.Node && a.HostNetwork == b.HostNetwork && a.DNS == b.DNS
}

func (s *state) dropPod(key string) {
	old := s.pods[key]
	if old == nil {
		return
	}
	delete(s.pods, key)
	s.place(old.w, nil)
	if owner := old.w.Namespace + "/" + old.w.App; s.like[owner] == old.w {
		delete(s.like, owner)
	}
	s.changed |= changedEndpoints | changedShape
}

func (s *state) putSlice(key string, sl slice) {
	old, was := s.slices[key]
	if was && old.service == sl.service && slices.EqualFunc(old.backends, sl.backends, sameBackend) {
		return
	}
	s.dropSlice(key)
	s.slices[key] = sl
	if sl.service == "" {
		return
	}
	of := s.slicesOf[sl.service]
	if of == nil {
		of = map[string]struct{}{}
		s.slicesOf[sl.service] = of
	}
	of[key] = struct{}{}
	s.relist(sl.service)
}

// relist notes that the backends of a service are others.
func (s *state) relist(service string) {
	s.stale[service], s.relisted[service] = struct{}{}, struct{}{}
	s.changed |= changedEndpoints
}

func sameBackend(a, b mesh.Backend) bool {
	return a.Address == b.Address && a.Workload == b.Workload && a.Ready == b.Ready && a.Draining == b.Draining && a.Locality == b.Locality && a.Node == b.Node &&
		slices.Equal(a.Zones, b.Zones) && slices.Equal(a.Nodes, b.Nodes) && maps.Equal(a.Ports, b.Ports)
}

func (s *state) dropSlice(key string) {
	old, was := s.slices[key]
	if !was {
		return
	}
	delete(s.slices, key)
	if of := s.slicesOf[old.service]; of != nil {
		delete(of, key)
		if len(of) == 0 {
			delete(s.slicesOf, old.service)
		}
		s.relist(old.service)
	}
}

// placeOf is the locality of an endpoint that is no pod: its node's, or as far as
// its zone tells.
func (s *state) placeOf(name, zone string) string {
	if l := s.nodes[name].locality; l != "" {
		return l
	}
	if zone != "" {
		return "/" + zone
	}
	return ""
}

func (s *state) putNode(n *corev1.Node) {
	at := node{locality: locality(n.Labels)}
	for _, c := range n.Spec.PodCIDRs {
		if p, err := netip.ParsePrefix(c); err == nil {
			at.prefixes = append(at.prefixes, p.Masked())
		}
	}
	old := s.nodes[n.Name]
	s.nodes[n.Name] = at
	if !slices.Equal(old.prefixes, at.prefixes) {
		s.changed |= changedConfig
	}
	if old.locality == at.locality {
		return
	}
	for _, p := range s.pods {
		if p.w.Node == n.Name && p.own == "" {
			moved := *p.w
			moved.Locality = at.locality
			s.place(p.w, &moved)
			p.w = &moved
			s.changed |= changedEndpoints
		}
	}
}

func (s *state) dropNode(name string) { delete(s.nodes, name) }

// locality is REGION/ZONE/SUBZONE, as far as a node's labels tell.
func locality(labels map[string]string) string {
	region, zone, sub := labels[corev1.LabelTopologyRegion], labels[corev1.LabelTopologyZone], labels["topology.istio.io/subzone"]
	switch {
	case region == "" && zone == "":
		return ""
	case sub != "":
		return region + "/" + zone + "/" + sub
	case zone != "":
		return region + "/" + zone
	}
	return region
}

func (s *state) putResource(r *resource) {
	old := s.resources[r.id]
	if old != nil && old.uid == r.uid {
		old.generation, old.version, old.resource = r.generation, r.version, r.resource
		if bytes.Equal(old.data, r.data) {
			return
		}
		if r.good, r.before = old.good, old.before; r.before == nil {
			r.before = old.data
		}
	} else if k, ok := s.recalled[r.id]; ok {
		k.giveTo(r)
	}
	s.resources[r.id] = r
	s.changed |= changedConfig
}

func (s *state) dropResource(k id) {
	if _, was := s.resources[k]; was {
		delete(s.resources, k)
		s.changed |= changedConfig
	}
}

func (s *state) putSettings(data []byte) {
	if bytes.Equal(s.settings, data) {
		return
	}
	if s.settingsBefore == nil {
		s.settingsBefore = s.settings
	}
	s.settings = data
	s.changed |= changedConfig
}

// place puts a pod into sorted in the place of what it was; nil: it is not there.
func (s *state) place(old, now *mesh.Workload) {
	w := now
	if w == nil {
		w = old
	}
	if _, again := s.moved[w.Key()]; !again {
		s.moved[w.Key()] = old
	}
	if s.lent {
		s.sorted, s.lent = slices.Clone(s.sorted), false
	}
	at, there := slices.BinarySearchFunc(s.sorted, w, func(a, b *mesh.Workload) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Instance, b.Instance))
	})
	switch {
	case now == nil:
		s.sorted = slices.Delete(s.sorted, at, at+1)
	case there:
		s.sorted[at] = now
	default:
		s.sorted = slices.Insert(s.sorted, at, now)
	}
}

// workloads are the pods, by namespace and name. Nobody may write to them.
func (s *state) workloads() []*mesh.Workload {
	s.lent = true
	return slices.Clip(s.sorted)
}

// patch is how pods and backends differ from the last picture. others are the
// workloads that are no pods.
func (s *state) patch(others []*mesh.Workload) mesh.Patch {
	p := mesh.Patch{Workloads: append(slices.Clip(others), s.workloads()...), Backends: s.listed(), Listed: slices.Collect(maps.Keys(s.relisted))}
	for key, old := range s.moved {
		c := mesh.Change{Old: old}
		if now := s.pods[key]; now != nil {
			c.New = now.w
		}
		if c.Old != c.New {
			p.Changed = append(p.Changed, c)
		}
	}
	s.pictured()
	return p
}

// pictured notes that the last picture has all of it.
func (s *state) pictured() {
	clear(s.moved)
	clear(s.relisted)
}

// listed brings backends up to date and returns them: a map of its own, of
// lists that are shared while they do not change.
func (s *state) listed() map[string][]mesh.Backend {
	for service := range s.stale {
		names := slices.Sorted(maps.Keys(s.slicesOf[service]))
		if len(names) == 0 {
			delete(s.backends, service)
			continue
		}
		var list []mesh.Backend
		for _, n := range names {
			list = append(list, s.slices[n].backends...)
		}
		s.backends[service] = list
	}
	clear(s.stale)
	return maps.Clone(s.backends)
}

// prefixes are those of the nodes' pods.
func (s *state) prefixes() []netip.Prefix {
	var out []netip.Prefix
	for _, n := range s.nodes {
		out = append(out, n.prefixes...)
	}
	slices.SortFunc(out, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	return slices.Compact(out)
}

// input is what one build decodes: a picture of state that nobody writes.
type input struct {
	resources []*resource // the oldest first
	data      [][]byte    // of each
	settings  []byte
	workloads []*mesh.Workload
	backends  map[string][]mesh.Backend
	prefixes  []netip.Prefix
	files     []config.File // laid over the resources
	keep      bool          // what is decoded is kept with the resources: for their builder alone
}

func (s *state) input() *input {
	in := &input{settings: s.settings, workloads: s.workloads(), backends: s.listed(), prefixes: s.prefixes()}
	in.resources = slices.SortedFunc(maps.Values(s.resources), func(a, b *resource) int {
		return cmp.Or(a.created.Compare(b.created), cmp.Compare(a.id.namespace, b.id.namespace), cmp.Compare(a.id.name, b.id.name),
			cmp.Compare(a.id.kind, b.id.kind), cmp.Compare(a.id.group, b.id.group))
	})
	in.data = make([][]byte, len(in.resources))
	for i, r := range in.resources {
		in.data[i] = r.data
	}
	return in
}

// build makes a Result of in.
func (in *input) build(opt config.Options) *config.Result {
	settings := mesh.DefaultSettings()
	if opt.Settings != nil {
		settings = *opt.Settings
	}
	settings.Prefixes = append(slices.Clone(settings.Prefixes), in.prefixes...)
	opt.Settings, opt.Cluster = &settings, true
	opt.Workloads, opt.Backends = in.workloads, in.backends
	if opt.Backends == nil {
		opt.Backends = map[string][]mesh.Backend{}
	}
	opt.Resources = make([]config.Resource, len(in.resources))
	for i, r := range in.resources {
		opt.Resources[i] = config.Resource{Data: in.data[i], Created: r.created}
		if in.keep {
			opt.Resources[i].Decoded = &r.decoded
		}
	}
	if len(in.settings) > 0 && opt.MeshConfig == nil {
		opt.MeshConfig = &config.File{Data: in.settings}
	}
	return config.Build(in.files, opt)
}

// verdicts is which inputs a build refused.
type verdicts struct {
	resources map[id]bool
	settings  bool
}

func refused(in *input, fs config.Findings) verdicts {
	v := verdicts{resources: map[id]bool{}}
	type short struct{ kind, namespace, name string }
	bad := map[short]bool{}
	for i := range fs {
		if f := &fs[i]; f.Refused {
			bad[short{f.Kind, f.Namespace, f.Name}] = true
			v.settings = v.settings || f.Kind == "MeshConfig" || f.Kind == "" && f.Name == ""
		}
	}
	for _, r := range in.resources {
		if bad[short{r.id.kind, r.id.namespace, r.id.name}] {
			v.resources[r.id] = true
		}
	}
	return v
}

// lastGood puts in the place of what was refused the version that was good, and
// says whether there is any.
func (in *input) lastGood(v verdicts, settingsGood []byte) (any bool) {
	for i, r := range in.resources {
		if v.resources[r.id] {
			good := r.good
			if good == nil {
				good = r.before
			}
			if good != nil {
				in.data[i], any = good, true
			}
		}
	}
	if v.settings && settingsGood != nil {
		in.settings, any = settingsGood, true
	}
	return any
}

// settle notes what a build of in said: of what was refused the good version is
// kept, of the rest none is needed.
func (s *state) settle(in *input, v verdicts, generation uint64) {
	for i, r := range in.resources {
		if r.since == 0 {
			r.since = generation
		}
		r.refused = v.resources[r.id]
		switch {
		case !v.resources[r.id]:
			r.good, r.before = nil, nil
			if cur := s.resources[r.id]; cur != nil && cur != r { // changed meanwhile
				cur.good, cur.before = nil, r.data
			}
		case !bytes.Equal(in.data[i], r.data):
			r.good, r.before = in.data[i], nil
			if cur := s.resources[r.id]; cur != nil && cur != r {
				cur.good, cur.before = in.data[i], nil
			}
		default:
			r.before = nil
		}
	}
}
