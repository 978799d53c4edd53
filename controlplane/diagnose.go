package controlplane

import (
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/seinemesh/seine/diagnose"
	"github.com/seinemesh/seine/history"
	"github.com/seinemesh/seine/stat"
)

// judgeEvery is the window that latency is judged in: the span of the table.
const judgeEvery = statSpan

// judge feeds the detector with what the scraper reads.
type judge struct {
	log    *slog.Logger
	active *prometheus.GaugeVec
	events *history.Store

	mu       sync.Mutex
	detector *diagnose.Detector
	latest   map[string]diagnose.Counters // of the machine, by proxy
	before   map[string]diagnose.Counters // at the end of the last window
	at       time.Time                    // that end
	said     map[string]bool              // what was logged and still holds
	list     []diagnose.Diagnosis
}

func newJudge(log *slog.Logger, events *history.Store) *judge {
	return &judge{
		log: log, events: events, detector: diagnose.New(), list: []diagnose.Diagnosis{},
		latest: map[string]diagnose.Counters{}, before: map[string]diagnose.Counters{}, said: map[string]bool{},
		active: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "seine_diagnosis_active", Help: "Services and edges that are slower than usual now, by what makes them so.",
		}, []string{"cause", "service", "version"}),
	}
}

// note takes in one scrape of a proxy.
func (j *judge) note(id string, at time.Time, body []byte) error {
	c, err := diagnose.Read(body, at)
	if err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.latest[id] = c
	return nil
}

func (j *judge) remove(id string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.latest, id)
	delete(j.before, id)
}

// due reports whether a window is over at now.
func (j *judge) due(now time.Time) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return now.Sub(j.at) >= judgeEvery
}

// judge looks at the window that ends at now.
func (j *judge) judge(now time.Time, traffic []stat.Distribution) {
	j.mu.Lock()
	defer j.mu.Unlock()
	o := diagnose.Observation{At: now, Seconds: now.Sub(j.at).Seconds(), Traffic: traffic, Machines: map[string]diagnose.Signals{}}
	for id, c := range j.latest {
		if b, ok := j.before[id]; ok && c.At.After(b.At) {
			o.Machines[id] = diagnose.Between(b, c)
		}
		j.before[id] = c
	}
	j.at = now
	j.list = j.detector.Observe(o)
	j.active.Reset()
	holds := map[string]bool{}
	for _, d := range j.list {
		j.active.WithLabelValues(string(d.Cause), d.Service, d.Version).Inc()
		key := d.Caller + " " + d.Service + " " + d.Version + " " + string(d.Cause)
		holds[key] = true
		if !j.said[key] {
			j.log.Warn("requests are slower than usual", "service", d.Service, "version", d.Version, "caller", d.Caller,
				"p99_ms_before", d.Before.P99, "p99_ms", d.After.P99, "cause", d.Cause, "culprit", d.Culprit, "why", d.Explanation)
			j.events.Note(history.Event{At: now, Kind: "diagnosis", Text: d.Explanation, Service: d.Service})
		}
	}
	j.said = holds
}

// report is the answer of /api/v1/diagnose.
type report struct {
	At        time.Time            `json:"at"` // end of the window that was judged last; zero: none yet
	Diagnoses []diagnose.Diagnosis `json:"diagnoses"`
	Learning  diagnose.Learning    `json:"learning"`
}

func (j *judge) report() report {
	j.mu.Lock()
	defer j.mu.Unlock()
	return report{j.at, j.list, j.detector.Learning()}
}

// infrastructure is how the machines fare.
func (j *judge) infrastructure() ([]diagnose.MachineState, []diagnose.ProxyState) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.detector.Infrastructure()
}
