//go:build linux

package proxy

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/seinemesh/seine/mtls"
	"github.com/seinemesh/seine/proxy/control"
	"github.com/seinemesh/seine/telemetry/metrics"
)

// Status answers questions about the proxy over net/http: whether it is ready,
// its metrics, what it knows. It is no part of the data path. Set the fields,
// then call Register once.
type Status struct {
	Registry *metrics.Registry
	Client   *control.Client
	Source   *mtls.Source
	// Redirect says what does not hold of the redirect rules, "" if all does;
	// Bypassed, whether a request for readiness came past them. nil: nothing is
	// redirected here.
	Redirect func() string
	Bypassed func(*http.Request) bool
	// Probes serves the application's probes, App reads its metrics for a
	// scrape; nil: neither is asked of this proxy.
	Probes http.Handler
	App    func(*http.Request) ([]byte, error)
	// Quit ends the proxy when its own workload says POST /quitquitquit (Istio's
	// name), as a Job does whose sidecar is an ordinary container; nil: there is
	// no such request.
	Quit func()

	proxy    atomic.Pointer[Proxy]
	scraping atomic.Int32 // answers of merged that hold the application's metrics
}

// What scrapes may make this process hold: anybody reaches the port, and an
// application's metrics may be many megabytes.
const (
	mergedAtOnce  = 4
	mergedSending = 30 * time.Second // to whoever reads slowly
)

// Serving says that p takes connections from now on.
func (s *Status) Serving(p *Proxy) { s.proxy.Store(p) }

// Register adds the metrics of the control stream and the certificate.
func (s *Status) Register() {
	r := s.Registry
	flag := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	stat := func(name, help string, f func(control.Stats) float64) {
		r.GaugeFunc(name, help, func() float64 { return f(s.Client.Stats()) })
	}
	stat("seine_proxy_control_connected", "1 while the stream to the control plane is up.", func(c control.Stats) float64 { return flag(c.Connected) })
	stat("seine_proxy_control_answers", "Answers held.", func(c control.Stats) float64 { return float64(c.Answers) })
	stat("seine_proxy_control_services", "Service ports held.", func(c control.Stats) float64 { return float64(c.Services) })
	stat("seine_proxy_control_endpoints", "Endpoints held.", func(c control.Stats) float64 { return float64(c.Endpoints) })
	stat("seine_proxy_control_rejected_resources", "Resources refused because they did not compile.", func(c control.Stats) float64 { return float64(c.Rejected) })
	stat("seine_proxy_control_refused_names", "Names that were not asked for: malformed, or too many.", func(c control.Stats) float64 { return float64(c.Refused) })
	r.GaugeFunc("seine_proxy_certificate_expiry_seconds", "When the certificate ends, in Unix time.", func() float64 {
		if at := s.Source.Status().NotAfter; !at.IsZero() {
			return float64(at.Unix())
		}
		return 0
	})
	if s.Redirect != nil {
		r.GaugeFunc("seine_proxy_redirect_holds", "1 while the redirect rules bring the workload's connections here, as the last proof showed.",
			func() float64 { return flag(s.Redirect() == "") })
	}
	r.GaugeFunc("seine_proxy_certificate_rotations", "Certificates taken since the start.", func() float64 { return float64(s.Source.Status().Rotations) })
	r.GaugeFunc("seine_proxy_certificate_failures", "Requests to the CA that failed.", func() float64 { return float64(s.Source.Status().Failures) })
}

// readiness is the detail of /healthz/ready.
type readiness struct {
	Ready       bool      `json:"ready"`
	Reason      string    `json:"reason,omitempty"`
	Draining    bool      `json:"draining,omitempty"`
	Control     string    `json:"control"` // "connected", "disconnected"
	Since       time.Time `json:"controlSince"`
	Error       string    `json:"controlError,omitempty"`
	Identity    string    `json:"identity,omitempty"`
	CertExpires time.Time `json:"certificateExpires"`
	// Redirect is what does not hold of the redirect rules.
	Redirect string `json:"redirect,omitempty"`
}

func (s *Status) readiness(q *http.Request) readiness {
	c, cert := s.Client.Stats(), s.Source.Status()
	r := readiness{Ready: true, Control: "connected", Since: c.Since, Identity: cert.ID, CertExpires: cert.NotAfter}
	if !c.Connected {
		// Traffic flows on with what was known last: not a reason to be taken out.
		r.Control, r.Error = "disconnected", c.LastError
	}
	p := s.proxy.Load()
	switch {
	case cert.ID == "":
		r.Ready, r.Reason = false, "waiting for the first certificate"
		if cert.LastError != nil {
			r.Reason += ": " + cert.LastError.Error()
		}
	case p == nil:
		r.Ready, r.Reason = false, "waiting for the first configuration"
	case p.Draining():
		r.Ready, r.Reason, r.Draining = false, "draining", true
	default:
		r.Redirect = s.redirect(q)
		if r.Redirect != "" {
			r.Ready, r.Reason = false, r.Redirect
		}
	}
	return r
}

func (s *Status) redirect(q *http.Request) string {
	if s.Redirect == nil {
		return ""
	}
	if failure := s.Redirect(); failure != "" {
		return failure
	}
	if s.Bypassed(q) {
		return "inbound connections are not redirected to the sidecar: this very request came past it"
	}
	return ""
}

// quit ends the proxy for who is in its own network namespace, and for nobody else.
func (s *Status) quit(w http.ResponseWriter, q *http.Request) {
	from, err := netip.ParseAddrPort(q.RemoteAddr)
	if err != nil || !from.Addr().Unmap().IsLoopback() {
		http.Error(w, "only the workload itself may end its sidecar: ask 127.0.0.1", http.StatusForbidden)
		return
	}
	w.WriteHeader(http.StatusOK)
	s.Quit()
}

// Public serves what others may see: readiness and metrics.
func (s *Status) Public() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("GET /healthz/ready", s.ready)
	m.HandleFunc("GET /stats/prometheus", s.merged)
	if s.Quit != nil {
		m.HandleFunc("POST /quitquitquit", s.quit)
	}
	m.HandleFunc("GET /metrics", s.stats)
	if s.Probes != nil {
		m.Handle("GET /app-health/", s.Probes)
		m.Handle("GET /app-lifecycle/", s.Probes)
	}
	return m
}

// Readiness serves the kubelet, and Metrics whoever wants the proxy's own
// metrics alone: the ports 15021 and 15090.
func (s *Status) Readiness() *http.ServeMux {
	m := http.NewServeMux()
	m.HandleFunc("GET /healthz/ready", s.ready)
	return m
}

// Metrics: see Readiness.
func (s *Status) Metrics() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("GET /stats/prometheus", s.stats)
	return m
}

// Admin serves this machine's administrator.
func (s *Status) Admin() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("GET /ready", s.ready)
	m.HandleFunc("GET /healthz/ready", s.ready)
	m.HandleFunc("GET /stats/prometheus", s.stats)
	m.HandleFunc("GET /known", s.known)
	m.HandleFunc("GET /loops", s.loops)
	m.HandleFunc("GET /endpoints", s.endpoints)
	m.HandleFunc("GET /debug/pprof/", pprof.Index)
	m.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	m.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return m
}

func (s *Status) ready(w http.ResponseWriter, q *http.Request) {
	r := s.readiness(q)
	w.Header().Set("Content-Type", "application/json")
	if !r.Ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(r)
}

func (s *Status) stats(w http.ResponseWriter, r *http.Request) {
	format := metrics.Accepted(r.Header.Get("Accept"))
	w.Header().Set("Content-Type", format.ContentType())
	_, _ = s.Registry.Write(w, format)
}

// merged is the proxy's metrics and the application's in one exposition. Both
// would have metrics of their process under the same names: the application's
// are shown, the proxy's are at Metrics. An application that does not answer
// costs its own metrics alone.
func (s *Status) merged(w http.ResponseWriter, r *http.Request) {
	if s.App == nil {
		s.stats(w, r)
		return
	}
	defer s.scraping.Add(-1)
	if s.scraping.Add(1) > mergedAtOnce {
		http.Error(w, "too many scrapes at once: the proxy's own metrics are at the metrics port", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	app, err := s.App(r)
	// Recorders of tests know no deadline; connections do.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(mergedSending))
	if err != nil {
		_, _ = s.Registry.WriteTo(w)
		_, _ = fmt.Fprintf(w, "# %q\n", err)
		return
	}
	_, _ = s.Registry.WriteMesh(w)
	_, _ = w.Write(app)
}

// known lists what the control plane has told this proxy.
func (s *Status) known(w http.ResponseWriter, _ *http.Request) {
	type cluster struct {
		Service, Subset string
		Endpoints       []string
	}
	out := struct {
		Generation uint64
		Answers    map[string]string
		Clusters   []cluster
	}{Answers: map[string]string{}}
	if t := s.Client.Table(); t != nil {
		out.Generation = t.Generation
		for name, a := range t.Answers {
			out.Answers[name] = a.Proto.Kind.String()
		}
		for key, subsets := range t.Clusters {
			for subset, c := range subsets {
				k := cluster{Service: key, Subset: subset, Endpoints: []string{}}
				for _, e := range c.Endpoints {
					k.Endpoints = append(k.Endpoints, fmt.Sprintf("%s:%d %s", e.Proto.Address, e.Port, e.Identity))
				}
				out.Clusters = append(out.Clusters, k)
			}
		}
		slices.SortFunc(out.Clusters, func(a, b cluster) int {
			return slices.Compare([]string{a.Service, a.Subset}, []string{b.Service, b.Subset})
		})
	}
	w.Header().Set("Content-Type", "application/json")
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	_ = e.Encode(out)
}

// loops shows what each event loop holds and has done.
func (s *Status) loops(w http.ResponseWriter, _ *http.Request) {
	type one struct {
		Connections, Inflight int64
		Turns, Events, Waits  uint64
		Splice                bool  // bulk of plain connections goes through pipes
		SplicedBytes, Pipes   int64 // that went so; pipes that are open
	}
	out := []one{}
	if p := s.proxy.Load(); p != nil {
		for _, k := range p.workers {
			st := k.loop.Stats()
			out = append(out, one{k.loop.Count(), k.inflight.Load(), st.Turns.Load(), st.Events.Load(), st.Waits.Load(), !k.pipes.off, k.pipes.spliced.Load(), k.pipes.open.Load()})
		}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(out)
}
