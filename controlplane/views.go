package controlplane

import (
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/seinemesh/seine/config"
	"github.com/seinemesh/seine/diagnose"
	"github.com/seinemesh/seine/history"
	"github.com/seinemesh/seine/mesh"
	"github.com/seinemesh/seine/stat"
	"github.com/seinemesh/seine/view"
)

// views adds what people look at: docs/dashboard.md lists it.
func (s *server) views(api *http.ServeMux) {
	seen := func(pattern string, of func(m *view.Moment, r *http.Request) (any, error)) {
		api.HandleFunc("GET /api/v1/"+pattern, func(w http.ResponseWriter, r *http.Request) {
			m := s.moment(time.Now())
			if m == nil {
				fail(w, http.StatusServiceUnavailable, errors.New("the configuration is not read yet: see /healthz/ready"))
				return
			}
			v, err := of(m, r)
			if err != nil {
				fail(w, http.StatusNotFound, err)
				return
			}
			send(w, r, v)
		})
	}
	seen("overview", func(m *view.Moment, _ *http.Request) (any, error) { return s.overview(m), nil })
	seen("graph", func(m *view.Moment, r *http.Request) (any, error) { return m.Graph(r.FormValue("namespace")), nil })
	seen("services", func(m *view.Moment, r *http.Request) (any, error) { return m.Services(r.FormValue("namespace")), nil })
	seen("services/{host}", func(m *view.Moment, r *http.Request) (any, error) {
		if p := m.Service(r.PathValue("host"), s.scraper.memory.refusals()); p != nil {
			return struct {
				*view.ServicePage
				Findings config.Findings `json:"findings"`
			}{p, s.findingsAbout(m.Snapshot, r.PathValue("host"))}, nil
		}
		return nil, fmt.Errorf("there is no service %.200q: name it by its whole host, such as billing-service.shop.svc.cluster.local", r.PathValue("host"))
	})
	seen("workloads", func(m *view.Moment, r *http.Request) (any, error) { return m.Workloads(r.FormValue("namespace")), nil })
	seen("workloads/{namespace}/{name}", func(m *view.Moment, r *http.Request) (any, error) {
		id := view.ID(r.PathValue("namespace"), r.PathValue("name"))
		p := m.Workload(id)
		if p == nil {
			return nil, noWorkload(id)
		}
		return s.workloadPage(m, p), nil
	})
	seen("authz", func(m *view.Moment, r *http.Request) (any, error) {
		if a := m.Authz(r.FormValue("workload")); a != nil {
			return a, nil
		}
		return nil, noWorkload(r.FormValue("workload"))
	})
	seen("routes", func(m *view.Moment, r *http.Request) (any, error) { return m.Routes(r.FormValue("service")), nil })
	seen("breakers", func(m *view.Moment, _ *http.Request) (any, error) {
		return m.Breakers(s.scraper.memory.refusals()), nil
	})
	seen("infrastructure", func(m *view.Moment, _ *http.Request) (any, error) { return s.infrastructure(m), nil })
	seen("certificates", func(m *view.Moment, r *http.Request) (any, error) { return s.certificates(r.Context(), m), nil })
	seen("resources", func(m *view.Moment, _ *http.Request) (any, error) { return s.resources(m), nil })
	api.HandleFunc("GET /api/v1/series", s.getSeries)
	api.HandleFunc("GET /api/v1/config", s.getConfig)
	api.HandleFunc("GET /api/v1/proxies", func(w http.ResponseWriter, r *http.Request) {
		names, err := strconv.ParseBool(r.FormValue("names"))
		send(w, r, s.proxies(err != nil || names))
	})
}

func noWorkload(id string) error {
	return fmt.Errorf("there is no workload %.200q: name it as NAMESPACE/NAME, such as shop/billing-v1", id)
}

// moment is what there is to see now; nil: there is no configuration yet.
func (s *server) moment(now time.Time) *view.Moment {
	_, snap := s.config.current()
	if snap == nil {
		return nil
	}
	return &view.Moment{
		At: now.UTC(), Snapshot: snap, Flows: s.scraper.window.Flows(now, time.Time{}), Rules: s.scraper.window.Rules(now), Window: statSpan.Seconds(),
		Ejected: s.scraper.window.Ejected(now), Diagnoses: s.scraper.judge.report().Diagnoses,
	}
}

// compressFrom is the size from which an answer is compressed for who takes it.
const compressFrom = 4 << 10

// send answers with v in as few bytes as the reader takes.
func send(w http.ResponseWriter, r *http.Request, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		fail(w, http.StatusInternalServerError, err)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("Vary", "Accept-Encoding")
	if len(body) < compressFrom || !strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		_, _ = w.Write(append(body, '\n'))
		return
	}
	h.Set("Content-Encoding", "gzip")
	z, _ := gzip.NewWriterLevel(w, gzip.BestSpeed) // the level is one
	_, _ = z.Write(body)
	_ = z.Close()
}

// overview is the first thing that is looked at.
type overview struct {
	At          time.Time `json:"at"`
	Version     string    `json:"version"`
	Generation  uint64    `json:"generation"`
	TrustDomain string    `json:"trust_domain"`
	Place       string    `json:"place"` // kubernetes, files
	Replica     string    `json:"replica"`
	Replicas    int       `json:"replicas"`
	Namespaces  []string  `json:"namespaces"`
	Services    int       `json:"services"`
	Workloads   int       `json:"workloads"`
	Instances   int       `json:"instances"`
	Healthy     int       `json:"healthy"`
	stat.Traffic
	MTLSShare   *float64       `json:"mtls_share"`
	Proxies     proxyCounts    `json:"proxies"`
	Findings    findingCounts  `json:"findings"`
	ConfigError string         `json:"config_error"`
	Ejected     int            `json:"ejected"`
	Diagnoses   int            `json:"diagnoses"`
	Certificate *nextToEnd     `json:"certificate,omitempty"`
	Prometheus  prometheusSays `json:"prometheus"`
	History     historySays    `json:"history"`
}

type proxyCounts struct {
	Expected   int `json:"expected"` // sidecars of workloads that may be called
	Connected  int `json:"connected"`
	Current    int `json:"current"`
	Behind     int `json:"behind"`
	Refusing   int `json:"refusing"`   // something that they were sent
	Unreadable int `json:"unreadable"` // whose metrics cannot be read
}

type findingCounts struct {
	Error   int `json:"error"`
	Warning int `json:"warning"`
	Info    int `json:"info"`
}

type nextToEnd struct {
	What     string    `json:"what"`
	NotAfter time.Time `json:"not_after"`
}

type prometheusSays struct {
	Configured bool   `json:"configured"`
	OK         bool   `json:"ok"`
	Error      string `json:"error,omitempty"`
}

type historySays struct {
	RecentSeconds int `json:"recent_seconds"`
	RecentStep    int `json:"recent_step_seconds"`
	LongSeconds   int `json:"long_seconds"`
	LongStep      int `json:"long_step_seconds"`
	Series        int `json:"series"`
	LeftOut       int `json:"left_out"` // for want of room
}

func (s *server) overview(m *view.Moment) *overview {
	state, _ := s.config.current()
	o := &overview{
		At: m.At, Version: s.opt.Version, Generation: m.Snapshot.Generation, TrustDomain: s.authority.TrustDomain(), Place: "files",
		Namespaces: []string{}, Services: state.Services, Instances: state.Workloads, Healthy: state.Healthy,
		Ejected: len(m.Ejected), Diagnoses: len(m.Diagnoses), ConfigError: state.Error, Replicas: 1 + s.siblings.count(),
		Findings: findingCounts{state.Findings.Count(config.Error), state.Findings.Count(config.Warning), state.Findings.Count(config.Info)},
	}
	if c := s.opt.Cluster; c != nil {
		o.Place, o.Replica = "kubernetes", c.Pod
	}
	sum := &stat.Sum{}
	for i := range m.Flows {
		sum.Add(&m.Flows[i].Sum)
	}
	o.Traffic = sum.Traffic()
	if share, ok := sum.MutualShare(); ok {
		o.MTLSShare = &share
	}
	apps := map[string]struct{}{}
	for _, w := range m.Snapshot.Workloads {
		apps[view.ID(w.Namespace, appOf(w))] = struct{}{}
		if !slices.Contains(o.Namespaces, w.Namespace) {
			o.Namespaces = append(o.Namespaces, w.Namespace)
		}
		if w.Sidecar && !w.Unhealthy {
			o.Proxies.Expected++
		}
	}
	slices.Sort(o.Namespaces)
	o.Workloads = len(apps)
	list := s.proxies(false)
	var ids []string
	for i := range list {
		p := &list[i]
		ids = append(ids, p.ID)
		o.Proxies.Connected++
		switch {
		case p.Elsewhere && !p.Told: // its replica knows
		case p.Current:
			o.Proxies.Current++
		default:
			o.Proxies.Behind++
		}
		if len(p.Rejected) > 0 {
			o.Proxies.Refusing++
		}
	}
	o.Proxies.Unreadable = len(s.scraper.memory.unread(ids, m.At))
	o.Certificate = s.nextToEnd(list)
	o.Prometheus = s.longTerm.says()
	n, over := s.scraper.memory.store.Size()
	o.History = historySays{int(history.FineSpan.Seconds()), int(history.FineStep.Seconds()), int(history.CoarseSpan.Seconds()), int(history.CoarseStep.Seconds()), n, over}
	return o
}

func appOf(w *mesh.Workload) string {
	if w.App == "" {
		return w.Instance
	}
	return w.App
}

// findingsAbout are those about a service: about itself, and about what names it.
func (s *server) findingsAbout(snap *mesh.Snapshot, host string) config.Findings {
	state, _ := s.config.current()
	about := map[string]bool{}
	name := func(r *mesh.Ref) string { return r.Kind + " " + r.Namespace + "/" + r.Name }
	for _, svc := range snap.Services {
		if svc.Host == host {
			about[name(&svc.Ref)] = true
		}
	}
	for _, v := range snap.VirtualServices {
		if slices.Contains(v.Hosts, host) {
			about[name(&v.Ref)] = true
		}
	}
	for _, d := range snap.DestinationRules {
		if d.Host == host {
			about[name(&d.Ref)] = true
		}
	}
	for _, g := range snap.GatewayRoutes {
		if slices.ContainsFunc(g.Parents, func(p mesh.Parent) bool { return p.Host == host }) {
			about[name(&g.Ref)] = true
		}
	}
	out := config.Findings{}
	for i := range state.Findings {
		if f := &state.Findings[i]; about[f.Kind+" "+f.Namespace+"/"+f.Name] {
			out = append(out, *f)
		}
	}
	return out
}

// machine is a machine as the API shows it.
type machine struct {
	ID      string                 `json:"id"` // its boot_id
	Node    string                 `json:"node,omitempty"`
	Proxies []string               `json:"proxies"`
	Signals []diagnose.SignalState `json:"signals"`
}

type proxySignals struct {
	ID      string                 `json:"id"`
	Machine string                 `json:"machine"`
	Signals []diagnose.SignalState `json:"signals"`
}

type infrastructure struct {
	At        time.Time            `json:"at"`
	Machines  []machine            `json:"machines"`
	Proxies   []proxySignals       `json:"proxies"`
	LeftOut   int                  `json:"left_out"`
	Diagnoses []diagnose.Diagnosis `json:"diagnoses"`
	Learning  diagnose.Learning    `json:"learning"`
}

// What the page of machines holds at most.
const (
	maxMachines        = 500
	maxMachineProxies  = 200
	maxProxiesWithText = 500
)

func (s *server) infrastructure(m *view.Moment) *infrastructure {
	machines, proxies := s.scraper.judge.infrastructure()
	out := &infrastructure{At: m.At, Machines: []machine{}, Proxies: []proxySignals{}, Diagnoses: m.Diagnoses, Learning: s.scraper.judge.report().Learning}
	for _, x := range machines {
		one := machine{ID: x.Boot, Proxies: x.Proxies, Signals: x.Signals}
		for _, id := range x.Proxies {
			if w := m.Snapshot.Workload(id); w != nil && one.Node == "" {
				one.Node = w.Node
			}
		}
		one.Proxies = one.Proxies[:min(len(one.Proxies), maxMachineProxies)]
		out.Machines = append(out.Machines, one)
	}
	raised := func(p proxySignals) int {
		return slices.IndexFunc(p.Signals, func(x diagnose.SignalState) bool { return x.Raised })
	}
	for _, x := range proxies {
		out.Proxies = append(out.Proxies, proxySignals{x.Proxy, x.Boot, x.Signals})
	}
	slices.SortStableFunc(out.Proxies, func(a, b proxySignals) int {
		switch x, y := raised(a) >= 0, raised(b) >= 0; {
		case x && !y:
			return -1
		case y && !x:
			return 1
		}
		return 0
	})
	out.LeftOut = max(len(out.Machines)-maxMachines, 0) + max(len(out.Proxies)-maxProxiesWithText, 0)
	out.Machines = out.Machines[:min(len(out.Machines), maxMachines)]
	out.Proxies = out.Proxies[:min(len(out.Proxies), maxProxiesWithText)]
	return out
}

// column is a series in JSON: null where nothing was measured, and no more digits
// than mean something.
type column []float64

func (c column) MarshalJSON() ([]byte, error) {
	if c == nil {
		return []byte("null"), nil
	}
	out := make([]byte, 0, 6*len(c)+2)
	out = append(out, '[')
	for i, v := range c {
		if i > 0 {
			out = append(out, ',')
		}
		if math.IsNaN(v) || math.IsInf(v, 0) {
			out = append(out, "null"...)
		} else {
			out = strconv.AppendFloat(out, v, 'g', 5, 64)
		}
	}
	return append(out, ']'), nil
}
