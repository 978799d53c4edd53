//go:build linux

// Package apphealth asks the application beside a sidecar how it is, on the
// kubelet's behalf.
//
// In: probes as the injection found them in the pod, by the path under which
// the kubelet asks now (Istio's: /app-health/CONTAINER/livez, readyz, startupz,
// /app-lifecycle/CONTAINER/prestopz, poststartz). Out: the application's own
// answer. The application's port takes no plaintext from outside, so the
// sidecar asks, over the loopback device, past its own redirect.
//
// It asks nothing that the pod's author did not write into a probe.
package apphealth

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// Environment is the variable that holds the probes, as JSON.
const Environment = "SEINE_KUBE_APP_PROBERS"

// Probe is one question; the names are those of Kubernetes' Probe.
type Probe struct {
	HTTPGet        *HTTPGet   `json:"httpGet,omitempty"`
	TCPSocket      *TCPSocket `json:"tcpSocket,omitempty"`
	GRPC           *GRPC      `json:"grpc,omitempty"`
	TimeoutSeconds int32      `json:"timeoutSeconds,omitempty"`
}

// HTTPGet, TCPSocket and GRPC are the kinds of probes; ports are numbers.
type (
	HTTPGet struct {
		Path    string   `json:"path,omitempty"`
		Port    uint16   `json:"port"`
		Scheme  string   `json:"scheme,omitempty"`
		Headers []Header `json:"httpHeaders,omitempty"`
	}
	Header struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	}
	TCPSocket struct {
		Port uint16 `json:"port"`
	}
	GRPC struct {
		Port    uint16 `json:"port"`
		Service string `json:"service,omitempty"`
	}
)

// Options say whom to ask.
type Options struct {
	App    netip.Addr // the pod's address
	Source netip.Addr // where questions come from, so that no rule redirects them
}

// Parse reads what Environment holds; "" is no probe.
func Parse(s string) (map[string]*Probe, error) {
	if s == "" {
		return nil, nil
	}
	d := json.NewDecoder(strings.NewReader(s))
	d.DisallowUnknownFields()
	var probes map[string]*Probe
	if err := d.Decode(&probes); err != nil {
		return nil, fmt.Errorf("%s: %w", Environment, err)
	}
	for path, p := range probes {
		if !strings.HasPrefix(path, "/app-health/") && !strings.HasPrefix(path, "/app-lifecycle/") {
			return nil, fmt.Errorf("%s: path %q is none of a probe", Environment, path)
		}
		if err := p.check(); err != nil {
			return nil, fmt.Errorf("%s: %s: %w", Environment, path, err)
		}
	}
	return probes, nil
}

func (p *Probe) check() error {
	kinds := 0
	port := uint16(0)
	if p != nil {
		if p.HTTPGet != nil {
			kinds, port = kinds+1, p.HTTPGet.Port
		}
		if p.TCPSocket != nil {
			kinds, port = kinds+1, p.TCPSocket.Port
		}
		if p.GRPC != nil {
			kinds, port = kinds+1, p.GRPC.Port
		}
	}
	if kinds != 1 {
		return errors.New("want exactly one of httpGet, tcpSocket and grpc")
	}
	if port == 0 {
		return errors.New("port is missing")
	}
	return nil
}

// timeout is the kubelet's default of one second, or what was asked for.
func (p *Probe) timeout() time.Duration {
	if p.TimeoutSeconds <= 0 {
		return time.Second
	}
	return time.Duration(p.TimeoutSeconds) * time.Second
}

// Health serves the probes' paths.
type Health struct {
	o      Options
	probes map[string]*Probe
	client http.Client
	dialer net.Dialer
}

// maxBody is how much of an answer goes on to the kubelet, which keeps 10 KiB.
const maxBody = 10 << 10

// New returns a handler that knows these probes alone.
func New(o Options, probes map[string]*Probe) *Health {
	h := &Health{o: o, probes: probes}
	if o.Source.IsValid() {
		h.dialer.LocalAddr = &net.TCPAddr{IP: o.Source.AsSlice()}
	}
	h.client = http.Client{
		Transport: &http.Transport{
			DisableKeepAlives:     true, // as the kubelet: a probe shows that the application accepts
			DisableCompression:    true,
			DialContext:           func(ctx context.Context, _, address string) (net.Conn, error) { return h.dial(ctx, address) },
			TLSClientConfig:       &tls.Config{InsecureSkipVerify: true}, // as the kubelet: it asks for health, not for identity
			ResponseHeaderTimeout: time.Minute,
		},
		CheckRedirect: sameHost,
	}
	return h
}

// sameHost follows redirections as the kubelet does: within the host, ten times.
func sameHost(r *http.Request, via []*http.Request) error {
	if r.URL.Hostname() != via[0].URL.Hostname() || len(via) >= 10 {
		return http.ErrUseLastResponse
	}
	return nil
}

// dial connects to the application, whatever host a redirection names.
func (h *Health) dial(ctx context.Context, address string) (net.Conn, error) {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	return h.dialer.DialContext(ctx, "tcp", net.JoinHostPort(h.o.App.String(), port))
}

// ServeHTTP asks the application and hands its answer on.
func (h *Health) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p := h.probes[r.URL.Path]
	if p == nil {
		http.Error(w, "no such probe: "+r.URL.Path, http.StatusNotFound)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), p.timeout())
	defer cancel()
	var err error
	switch {
	case p.HTTPGet != nil:
		if err = h.get(ctx, w, r, p.HTTPGet); err == nil {
			return
		}
	case p.TCPSocket != nil:
		var c net.Conn
		if c, err = h.dial(ctx, h.at(p.TCPSocket.Port)); err == nil {
			_ = c.Close()
		}
	default:
		err = h.check(ctx, p.GRPC)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.WriteHeader(http.StatusOK)
}

func (h *Health) at(port uint16) string {
	return netip.AddrPortFrom(h.o.App, port).String()
}

// get passes status and the beginning of the body on. An error is returned only
// while nothing was written.
func (h *Health) get(ctx context.Context, w http.ResponseWriter, from *http.Request, g *HTTPGet) error {
	scheme := "http"
	if strings.EqualFold(g.Scheme, "https") {
		scheme = "https"
	}
	path := g.Path
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+h.at(g.Port)+path, nil)
	if err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	for _, name := range [...]string{"User-Agent", "Accept"} {
		if v := from.Header.Values(name); v != nil {
			q.Header[name] = v
		}
	}
	for _, f := range g.Headers {
		if strings.EqualFold(f.Name, "host") {
			q.Host = f.Value
			continue
		}
		q.Header.Add(f.Name, f.Value)
	}
	answer, err := h.client.Do(q)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	for _, name := range [...]string{"Content-Type", "Location"} {
		if v := answer.Header.Values(name); v != nil {
			w.Header()[name] = v
		}
	}
	w.WriteHeader(answer.StatusCode)
	_, _ = io.Copy(w, io.LimitReader(answer.Body, maxBody))
	return nil
}

// check is the kubelet's gRPC probe: grpc.health.v1, without TLS.
func (h *Health) check(ctx context.Context, g *GRPC) error {
	conn, err := grpc.NewClient("passthrough:///"+h.at(g.Port),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy(), grpc.WithDisableServiceConfig(),
		grpc.WithContextDialer(h.dial), grpc.WithUserAgent("seine-probe"))
	if err != nil {
		return err
	}
	defer conn.Close()
	answer, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: g.Service})
	if err != nil {
		return fmt.Errorf("grpc probe at port %d: %w", g.Port, err)
	}
	if answer.Status != grpc_health_v1.HealthCheckResponse_SERVING {
		return errors.New("grpc probe at port " + strconv.Itoa(int(g.Port)) + ": " + answer.Status.String())
	}
	return nil
}
