package controlplane

import (
	"fmt"
	"sync"
	"time"

	"github.com/seinemesh/seine/history"
	"github.com/seinemesh/seine/stat"
	"github.com/seinemesh/seine/telemetry"
	"github.com/seinemesh/seine/view"
)

// memory is what the scraper keeps for those who ask later: the short-term store,
// and how each proxy's process fares.
type memory struct {
	store *history.Store

	mu      sync.Mutex
	cut     time.Time // end of the interval that was remembered last
	vitals  map[string]*vitals
	ejected map[string]struct{} // that were told as events
	changes []change            // newest last
}

// vitals are one proxy's last scrapes: the latest, and one from a window ago.
type vitals struct {
	at, before time.Time
	now, then  stat.Vitals
}

// change is one configuration that was taken.
type change struct {
	Generation    uint64    `json:"generation"`
	At            time.Time `json:"at"`
	EndpointsOnly bool      `json:"endpoints_only"`
	Services      int       `json:"services"`
	Workloads     int       `json:"workloads"`
	// Acknowledged says after how many seconds every connected proxy had it, as
	// looked at once a second; absent until then.
	Acknowledged *float64 `json:"all_acknowledged_seconds,omitempty"`
}

// maxChanges is how many changes are remembered.
const maxChanges = 50

func newMemory() *memory {
	return &memory{store: history.New(history.Limits{}), vitals: map[string]*vitals{}, ejected: map[string]struct{}{}}
}

// note takes in one scrape of a proxy.
func (m *memory) note(id string, at time.Time, body []byte) error {
	v, err := stat.ReadVitals(body)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	x := m.vitals[id]
	switch {
	case x == nil:
		m.vitals[id] = &vitals{at: at, before: at, now: v, then: v}
		return nil
	case at.Sub(x.before) >= statSpan:
		x.then, x.before = x.now, x.at
	}
	x.now, x.at = v, at
	return nil
}

func (m *memory) remove(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.vitals, id)
}

// vital is how a proxy fares: its last scrape, the CPU time per second since the
// one that it is compared with, and when it was; false if it was never read.
func (m *memory) vital(id string) (v stat.Vitals, cpu float64, at time.Time, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	x := m.vitals[id]
	if x == nil {
		return v, 0, at, false
	}
	if d := x.at.Sub(x.before).Seconds(); d > 0 && x.now.CPUSeconds >= x.then.CPUSeconds {
		cpu = (x.now.CPUSeconds - x.then.CPUSeconds) / d
	}
	return x.now, cpu, x.at, true
}

// refusals are what the proxies refused at their bounds lately.
func (m *memory) refusals() view.Refusals {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := view.Refusals{By: map[stat.Bound]map[string]float64{}}
	for id, x := range m.vitals {
		out.Seconds = max(out.Seconds, x.at.Sub(x.before).Seconds())
		for b, n := range x.now.Refused {
			d := n - x.then.Refused[b]
			if d < 0 {
				d = n // it started anew
			}
			if d == 0 {
				continue
			}
			if out.By[b] == nil {
				out.By[b] = map[string]float64{}
			}
			out.By[b][id] = d
		}
	}
	return out
}

// remember feeds the store with the interval that ends at now, if it is long
// enough.
func (m *memory) remember(now time.Time, w *stat.Window) {
	m.mu.Lock()
	cut := m.cut
	if cut.IsZero() {
		m.cut = now
	}
	if cut.IsZero() || now.Unix()/int64(history.FineStep/time.Second) == cut.Unix()/int64(history.FineStep/time.Second) {
		m.mu.Unlock()
		return
	}
	m.cut = now
	m.mu.Unlock()
	if now.Sub(cut) > statSpan {
		cut = now.Add(-statSpan) // more than the window knows
	}
	m.store.Add(history.Interval{End: now, Seconds: now.Sub(cut).Seconds(), Counts: counts(w.Flows(now, cut))})
	m.tellEjected(now, w.Ejected(now))
}

// counts sums flows by what the store keeps series of.
func counts(flows []stat.Flow) map[history.Key]*history.Counts {
	sums := map[history.Key]*stat.Sum{}
	add := func(k history.Key, f *stat.Flow) {
		s := sums[k]
		if s == nil {
			s = &stat.Sum{}
			sums[k] = s
		}
		s.Add(&f.Sum)
	}
	for i := range flows {
		f := &flows[i]
		add(history.Key{Kind: history.Mesh}, f)
		if f.Service != "" {
			add(history.Key{Kind: history.Service, Subject: f.Service}, f)
			add(history.Key{Kind: history.Service, Subject: f.Service, Version: f.Version}, f)
		}
		if f.Destination.Workload != telemetry.Unknown {
			add(history.Key{Kind: history.WorkloadIn, Subject: view.ID(f.Destination.Namespace, f.Destination.Workload)}, f)
		}
		source := view.KindOutside
		if f.Source.Workload != telemetry.Unknown {
			source = view.ID(f.Source.Namespace, f.Source.Workload)
			add(history.Key{Kind: history.WorkloadOut, Subject: source}, f)
		}
		add(history.Key{Kind: history.Edge, Subject: source, Service: f.Service}, f)
		add(history.Key{Kind: history.Edge, Subject: source, Service: f.Service, Version: f.Version}, f)
	}
	out := make(map[history.Key]*history.Counts, len(sums))
	for k, s := range sums {
		c := &history.Counts{Requests: s.Requests, Failed: s.Failed}
		if s.Requests > 0 {
			c.Bounds, c.Counts = s.Histogram()
		}
		if tcp := s.Traffic().TCP; tcp != nil {
			c.TCP, c.Open, c.Sent, c.Received = true, tcp.Open, tcp.SentPerSecond, tcp.ReceivedPerSecond
		}
		out[k] = c
	}
	return out
}

// tellEjected notes who is out now, and was not before.
func (m *memory) tellEjected(now time.Time, list []stat.Ejected) {
	still := make(map[string]struct{}, len(list))
	for i := range list {
		e := &list[i]
		key := e.Service + " " + e.Endpoint + " " + e.Address
		still[key] = struct{}{}
		if _, told := m.ejected[key]; !told {
			who := e.Endpoint
			if who == "" {
				who = e.Address
			}
			m.store.Note(history.Event{At: now, Kind: "ejection", Text: who + " ejected", Service: e.Service})
		}
	}
	m.ejected = still
}

// changed notes a configuration that was taken.
func (m *memory) changed(c change) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.changes) >= maxChanges {
		m.changes = append(m.changes[:0], m.changes[len(m.changes)-maxChanges+1:]...)
	}
	m.changes = append(m.changes, c)
	if !c.EndpointsOnly {
		m.store.Note(history.Event{At: c.At, Kind: "config", Text: fmt.Sprintf("configuration %d taken", c.Generation)})
	}
}

// acknowledged notes that every proxy has everything up to a generation.
func (m *memory) acknowledged(least uint64, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.changes {
		if c := &m.changes[i]; c.Acknowledged == nil && c.Generation <= least {
			seconds := now.Sub(c.At).Seconds()
			c.Acknowledged = &seconds
		}
	}
}

// latestChanges are the changes, the newest first.
func (m *memory) latestChanges() []change {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]change, 0, len(m.changes))
	for i := range m.changes {
		out = append(out, m.changes[len(m.changes)-1-i])
	}
	return out
}

// unread are the proxies of which nothing was read lately.
func (m *memory) unread(ids []string, now time.Time) (out []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, id := range ids {
		if x := m.vitals[id]; x == nil || now.Sub(x.at) > statSpan {
			out = append(out, id)
		}
	}
	return out
}
