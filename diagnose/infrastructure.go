package diagnose

import (
	"cmp"
	"slices"
)

// SignalState is one signal of a machine as it is now.
type SignalState struct {
	Name   string  `json:"name"`
	Value  float64 `json:"value"`  // share of time or of events, 0..1
	Minute float64 `json:"minute"` // mean of the last minute
	Usual  float64 `json:"usual"`  // median of the last minutes
	Raised bool    `json:"raised"` // so far above it that it may be why requests are slow
	Text   string  `json:"text"`
}

// MachineState is a machine that proxies run on.
type MachineState struct {
	Boot    string        // its boot_id
	Proxies []string      // NAMESPACE/INSTANCE
	Signals []SignalState // those that it offers, the most telling first
}

// ProxyState is what one proxy says of its own threads and cgroup.
type ProxyState struct {
	Proxy, Boot string
	Signals     []SignalState
}

// Infrastructure is how the machines fare, as of the latest window: machines by
// their boot_id, proxies by name. Those that did not report in it are left out.
func (d *Detector) Infrastructure() (machines []MachineState, proxies []ProxyState) {
	on := map[string][]string{}
	for id, p := range d.proxies {
		if p.seen != d.windows {
			continue
		}
		on[p.boot] = append(on[p.boot], id)
		proxies = append(proxies, ProxyState{id, p.boot, p.signals(true)})
	}
	for boot, m := range d.machines {
		if m.seen == d.windows {
			slices.Sort(on[boot])
			machines = append(machines, MachineState{boot, on[boot], m.signals(false)})
		}
	}
	slices.SortFunc(machines, func(a, b MachineState) int { return cmp.Compare(a.Boot, b.Boot) })
	slices.SortFunc(proxies, func(a, b ProxyState) int { return cmp.Compare(a.Proxy, b.Proxy) })
	return machines, proxies
}

// signals are those of a proxy itself, or those of a whole machine.
func (m *machine) signals(ofProxy bool) []SignalState {
	out := []SignalState{}
	for i := range NumSignals {
		if v := m.value[i]; v >= 0 && i.ofProxy() == ofProxy {
			out = append(out, SignalState{i.String(), v, m.minute(i), m.usual[i], m.raised[i], i.say(v, m.usual[i])})
		}
	}
	return out
}

// minute is the mean of a signal over the last six windows, this one among them.
func (m *machine) minute(s Signal) float64 {
	sum, n := 0.0, 0
	for _, v := range m.past[max(len(m.past)-6, 0):] {
		if v[s] >= 0 {
			sum += v[s]
			n++
		}
	}
	return sum / float64(max(n, 1))
}
