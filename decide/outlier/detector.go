package outlier

import (
	"cmp"
	"slices"
	"time"
)

// Kind is what happened to an endpoint.
type Kind uint8

const (
	// Ejected: it is not to be picked until Until.
	Ejected Kind = iota
	// Refused: it should have been ejected, but maxEjectionPercent of the
	// endpoints are out already, or would be.
	Refused
	// Returned: it is picked again.
	Returned
	// Gone: it was out when it left the cluster.
	Gone
)

// Event is one decision.
type Event struct {
	Endpoint string
	Kind     Kind
	Cause    Causes        // one; of the ejection that ended, for Returned
	Count    uint32        // errors that were met, for Ejected and Refused
	For      time.Duration // how long it stays, or stayed, out
	Until    time.Time     // the earliest return; for Ejected
	Times    int           // ejections of this endpoint so far
	Active   int           // endpoints that are out, after this
	Of       int           // endpoints that there are
}

// State is one endpoint's.
type State struct {
	Counter *Counter
	Out     bool
	Cause   Causes
	Since   time.Time
	Until   time.Time
	Times   int

	backoff int // by which the ejection time is multiplied
}

// Detector holds the endpoints of one cluster.
type Detector struct {
	set    *Settings
	hosts  map[string]*State
	active int
}

// New returns a detector without endpoints.
func New(s *Settings) *Detector { return &Detector{set: s, hosts: map[string]*State{}} }

// Set changes the settings, from now on.
func (d *Detector) Set(s *Settings) { d.set = s }

// Counter is the counter of an endpoint, which there is from now on.
func (d *Detector) Counter(endpoint string) *Counter { return d.state(endpoint).Counter }

func (d *Detector) state(endpoint string) *State {
	h := d.hosts[endpoint]
	if h == nil {
		h = &State{Counter: &Counter{}}
		d.hosts[endpoint] = h
	}
	return h
}

// Endpoints says which endpoints there are. What is gone is forgotten.
func (d *Detector) Endpoints(all []string, now time.Time) (events []Event) {
	keep := make(map[string]struct{}, len(all))
	for _, e := range all {
		keep[e] = struct{}{}
		d.state(e)
	}
	for e, h := range d.hosts {
		if _, ok := keep[e]; ok {
			continue
		}
		delete(d.hosts, e)
		if h.Out {
			d.active--
			events = append(events, Event{Endpoint: e, Kind: Gone, Cause: h.Cause, For: now.Sub(h.Since), Times: h.Times, Active: d.active, Of: len(d.hosts)})
		}
	}
	return d.settle(events)
}

// Fail takes what an endpoint's counter said (Envoy's onConsecutiveErrorWorker
// and ejectHost). The counter starts anew, so that the next bout is seen even
// if nothing is ejected.
func (d *Detector) Fail(endpoint string, met Causes, now time.Time) (events []Event) {
	h := d.hosts[endpoint]
	if h == nil {
		return nil
	}
	for _, cause := range [...]Causes{Gateway, Errors, Local} {
		if met&cause == 0 || h.Out {
			continue
		}
		h.Counter.reset(cause)
		e := Event{Endpoint: endpoint, Cause: cause, Count: d.bound(cause), Of: len(d.hosts)}
		// Envoy since 1.31: the bound holds strictly, also for the first.
		if uint64(d.active+1)*100 > uint64(d.set.MaxPercent)*uint64(len(d.hosts)) {
			e.Kind, e.Active, e.Times = Refused, d.active, h.Times
			events = append(events, e)
			continue
		}
		d.active++
		if time.Duration(h.backoff)*d.set.BaseEjection < d.set.maxEjection()+d.set.BaseEjection {
			h.backoff++
		}
		h.Out, h.Cause, h.Since = true, cause, now
		h.Times++
		e.Kind, e.Active, e.Times, e.For = Ejected, d.active, h.Times, d.length(h)
		h.Until = now.Add(e.For)
		e.Until = h.Until
		events = append(events, e)
	}
	return events
}

func (d *Detector) bound(cause Causes) uint32 {
	switch cause {
	case Gateway:
		return d.set.ConsecutiveGateway
	case Errors:
		return d.set.Consecutive5xx
	}
	return d.set.ConsecutiveLocal
}

func (d *Detector) length(h *State) time.Duration {
	return min(time.Duration(h.backoff)*d.set.BaseEjection, d.set.maxEjection())
}

// Sweep is to be called each Interval: who has served its time returns, and
// who was in the whole interval is forgiven one ejection (Envoy's
// checkHostForUneject).
func (d *Detector) Sweep(now time.Time) (events []Event) {
	for e, h := range d.hosts {
		switch {
		case !h.Out:
			if h.backoff > 0 {
				h.backoff--
			}
		case d.length(h) <= now.Sub(h.Since):
			events = append(events, d.back(e, h, now))
		}
	}
	return d.settle(events)
}

// Clear brings everyone back: the detection was switched off.
func (d *Detector) Clear(now time.Time) (events []Event) {
	for e, h := range d.hosts {
		if h.Out {
			events = append(events, d.back(e, h, now))
		}
		h.backoff = 0
	}
	return d.settle(events)
}

func (d *Detector) back(e string, h *State, now time.Time) Event {
	d.active--
	h.Out = false
	// Another counter close to its bound must not eject it again at once.
	h.Counter.reset(Errors | Gateway | Local)
	return Event{Endpoint: e, Kind: Returned, Cause: h.Cause, For: now.Sub(h.Since), Times: h.Times, Active: d.active, Of: len(d.hosts)}
}

// settle puts a batch in order; each event says how many are out after all.
func (d *Detector) settle(events []Event) []Event {
	slices.SortFunc(events, func(a, b Event) int { return cmp.Compare(a.Endpoint, b.Endpoint) })
	for i := range events {
		events[i].Active = d.active
	}
	return events
}

// Active is how many endpoints are out.
func (d *Detector) Active() int { return d.active }

// Out are the endpoints that are not to be picked; nil if there is none.
func (d *Detector) Out() map[string]struct{} {
	if d.active == 0 {
		return nil
	}
	out := make(map[string]struct{}, d.active)
	for e, h := range d.hosts {
		if h.Out {
			out[e] = struct{}{}
		}
	}
	return out
}

// State is a copy of what is known of an endpoint.
func (d *Detector) State(endpoint string) (State, bool) {
	h := d.hosts[endpoint]
	if h == nil {
		return State{}, false
	}
	return *h, true
}
