package controlplane

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/seinemesh/seine/discovery"
	"github.com/seinemesh/seine/mesh"
	"github.com/seinemesh/seine/view"
)

// siblings is what the other replicas report, looked up now and then.
type siblings struct {
	reports atomic.Pointer[[]proxyReport] // nil: none yet
}

func (s *siblings) list() []proxyReport {
	if p := s.reports.Load(); p != nil {
		return *p
	}
	return nil
}

func (s *siblings) count() int  { return len(s.list()) }
func (s *siblings) alone() bool { return s.count() == 0 }

// behind are the proxies of other replicas that are known to be behind; all is false
// if there may be more of them.
func (s *siblings) behind() (ids map[string]struct{}, all bool) {
	ids, all = map[string]struct{}{}, true
	for _, r := range s.list() {
		if r.Behind == "" {
			continue
		}
		list := strings.Split(r.Behind, ",")
		all = all && len(list) < behindTold
		for _, id := range list {
			ids[id] = struct{}{}
		}
	}
	return ids, all
}

// siblingsEvery is how often they are counted.
const siblingsEvery = 5 * time.Second

// countSiblings keeps siblings until ctx ends. While that fails, the number that
// was known last holds.
func (s *server) countSiblings(ctx context.Context) error {
	tick := time.NewTicker(siblingsEvery)
	defer tick.Stop()
	for {
		if others, err := s.others(ctx); err == nil {
			s.siblings.reports.Store(&others)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// proxyState is one proxy as the API shows it.
type proxyState struct {
	discovery.Proxy
	Workload    string     `json:"workload,omitempty"` // NAMESPACE/NAME
	Node        string     `json:"node,omitempty"`
	Memory      float64    `json:"memory_bytes,omitempty"`
	CPU         *float64   `json:"cpu_cores,omitempty"`
	Started     *time.Time `json:"started,omitempty"`
	Certificate *time.Time `json:"certificate_not_after,omitempty"`
	Connections float64    `json:"connections"`
	ScrapeError string     `json:"scrape_error,omitempty"`
	Replica     string     `json:"replica,omitempty"`
	// Elsewhere: it is connected to another replica. Of what it has, that one tells
	// here whether it is in step (Current), if Told; its metrics are known.
	Elsewhere bool `json:"elsewhere,omitempty"`
	Told      bool `json:"told,omitempty"`
}

// proxies are those that are connected here, and with several replicas those of
// the others as far as their metrics can be read.
func (s *server) proxies(names bool) []proxyState {
	snap := s.discovery.Snapshot()
	out := []proxyState{}
	here := map[string]struct{}{}
	for _, p := range s.discovery.Proxies() {
		here[p.ID] = struct{}{}
		x := proxyState{Proxy: p}
		if c := s.opt.Cluster; c != nil {
			x.Replica = c.Pod
		}
		if !names {
			for i := range x.Types {
				x.Types[i].Names = []string{}
			}
		}
		out = append(out, x)
	}
	if snap == nil {
		return out
	}
	behind, all := s.siblings.behind()
	for _, w := range s.scraper.others(snap, here) {
		v, _, _, ok := s.scraper.memory.vital(w.Key())
		if !ok {
			continue
		}
		_, late := behind[w.Key()]
		out = append(out, proxyState{Elsewhere: true, Told: late || all, Proxy: discovery.Proxy{
			Current: all && !late, ID: w.Key(), Identity: mesh.SPIFFE(snap.Settings.TrustDomain, w.Namespace, w.ServiceAccount), Version: v.Version,
			Address: w.Addresses[0].String(), Types: []discovery.Subscription{},
		}})
	}
	for i := range out {
		s.fillIn(&out[i], snap)
	}
	slices.SortStableFunc(out, func(a, b proxyState) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

func (s *server) fillIn(x *proxyState, snap *mesh.Snapshot) {
	if w := snap.Workload(x.ID); w != nil {
		x.Workload, x.Node = view.ID(w.Namespace, appOf(w)), w.Node
	}
	v, cpu, _, ok := s.scraper.memory.vital(x.ID)
	if ok {
		x.Memory, x.CPU, x.Connections = v.Memory, &cpu, v.Connections
		x.Started, x.Certificate = unix(v.Started), unix(v.CertificateNotAfter)
	}
	x.ScrapeError = s.scraper.why(x.ID)
}

func unix(seconds float64) *time.Time {
	if seconds <= 0 {
		return nil
	}
	t := time.UnixMilli(int64(min(seconds, 1e11) * 1000)).UTC()
	return &t
}

// why says what the last scrape of a proxy failed of; "": it did not.
func (s *scraper) why(id string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.down[id]
}

// workloadPage is a workload's page with the proxies of its instances.
func (s *server) workloadPage(_ *view.Moment, p *view.WorkloadPage) any {
	by := map[string]*proxyState{}
	list := s.proxies(false)
	for i := range list {
		by[list[i].ID] = &list[i]
	}
	type instance struct {
		view.Instance
		Proxy *proxyState `json:"proxy,omitempty"`
	}
	out := struct {
		*view.WorkloadPage
		InstanceList []instance `json:"instance_list"`
	}{WorkloadPage: p, InstanceList: []instance{}}
	for _, i := range p.InstanceList {
		out.InstanceList = append(out.InstanceList, instance{i, by[i.ID]})
	}
	return out
}
