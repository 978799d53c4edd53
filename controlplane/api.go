package controlplane

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/seinemesh/seine/explain"
	"github.com/seinemesh/seine/mesh"
	"github.com/seinemesh/seine/ui"
)

// door says who may stand before a listener.
type door uint8

const (
	doorAnybody door = iota
	doorMachine      // any user of this machine: a loopback address
	doorOwner        // who may open the socket, or forward a port into the pod
)

func doorOf(a net.Addr) door {
	if isLoopback(a) {
		return doorMachine
	}
	return doorAnybody
}

// doorOfAPI is who reaches the API's loopback address: within a pod's own network
// those who may forward a port into it, which is the cluster's to allow; anywhere
// else every user of the machine.
func (s *server) doorOfAPI() door {
	if c := s.opt.Cluster; c != nil && c.InPod {
		return doorOwner
	}
	return doorMachine
}

// handler serves the API. To anybody it serves health and metrics alone: the
// rest tells who calls whom, what is configured and which files it came from.
// What changes something is the owner's.
func (s *server) handler(d door) http.Handler {
	mux := http.NewServeMux()
	alive := func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") }
	mux.HandleFunc("GET /healthz", alive)
	mux.HandleFunc("GET /healthz/ready", s.ready)
	mux.HandleFunc("GET /ready", s.ready) // Istio's
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second}))
	if d == doorAnybody {
		mux.HandleFunc("/api/", func(w http.ResponseWriter, _ *http.Request) {
			fail(w, http.StatusForbidden, errors.New("the API is only served on a loopback address and on the socket"))
		})
		return mux
	}
	api := http.NewServeMux()
	mux.Handle("/api/", local(api))
	mux.Handle("/", local(ui.Handler()))
	api.HandleFunc("GET /api/v1/stat", func(w http.ResponseWriter, _ *http.Request) { answer(w, s.scraper.window.Table(time.Now())) })
	api.HandleFunc("GET /api/v1/diagnose", func(w http.ResponseWriter, _ *http.Request) { answer(w, s.scraper.judge.report()) })
	api.Handle("GET /api/v1/tap", s.taps.Handler(d == doorOwner))
	api.HandleFunc("GET /api/v1/sd", s.targets)
	api.HandleFunc("GET /api/v1/proxies/{namespace}/{name}/metrics", s.proxyMetrics)
	s.views(api)
	api.HandleFunc("GET /api/v1/ca", s.getCA)
	rotate := s.postRotate
	if d != doorOwner {
		rotate = func(w http.ResponseWriter, _ *http.Request) {
			fail(w, http.StatusForbidden, errors.New("a root is only replaced over the socket (--socket), or by a port forwarded into seined's pod: every user of this machine can reach this address"))
		}
	}
	api.HandleFunc("POST /api/v1/ca/rotate", rotate)
	api.Handle("/api/v1/explain", explain.Handler(func() *mesh.Snapshot {
		_, snap := s.config.current()
		return snap
	}))
	return mux
}

// local refuses requests that a web page made a browser send here: a name that
// was pointed at loopback (DNS rebinding) is no name of this server.
func local(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		a, err := netip.ParseAddr(strings.Trim(host, "[]"))
		if host != "localhost" && host != "seined" && (err != nil || !a.IsLoopback()) || foreign(r) {
			fail(w, http.StatusForbidden, fmt.Errorf("host %.100q is not this server's: use 127.0.0.1, localhost or the socket", r.Host))
			return
		}
		h.ServeHTTP(w, r)
	})
}

// foreign says whether a page of another origin made a browser ask.
func foreign(r *http.Request) bool {
	if origin := r.Header.Get("Origin"); origin != "" && origin != "http://"+r.Host {
		return true
	}
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "same-origin", "none":
		return false
	}
	// A link on another page leads to a page of ours; to nothing else.
	return strings.HasPrefix(r.URL.Path, "/api/") || r.Header.Get("Sec-Fetch-Mode") != "navigate"
}

// ready says whether proxies that come now are served.
func (s *server) ready(w http.ResponseWriter, _ *http.Request) {
	state, snap := s.config.current()
	var why string
	switch {
	case s.source.Current() == nil:
		why = "there is no serving certificate yet"
	case snap == nil && state.Error != "":
		why = "there is no good configuration yet: " + state.Error
	case snap == nil && s.cluster != nil:
		why = "the cluster is not read yet: " + strings.Join(s.cluster.Waiting(), "; ")
	case snap == nil:
		why = "the configuration is not read yet"
	case s.discovery.Snapshot() == nil:
		why = "the configuration is not served yet"
	default:
		_, _ = io.WriteString(w, "ready\n")
		return
	}
	http.Error(w, why, http.StatusServiceUnavailable)
}

func answer(w http.ResponseWriter, v any) {
	body, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		fail(w, http.StatusInternalServerError, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(append(body, '\n'))
}

// fail answers with {"error": sentence}.
func fail(w http.ResponseWriter, code int, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": err.Error()})
}
