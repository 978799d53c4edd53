//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/seinemesh/seine/capture"
	"github.com/seinemesh/seine/gate"
	"github.com/seinemesh/seine/proxy"
	"github.com/seinemesh/seine/proxy/apphealth"
	"github.com/seinemesh/seine/proxy/appmetrics"
	"github.com/seinemesh/seine/proxy/proof"
)

// statusConnections bounds each of the ports that serveStatus opens; however many
// one address holds, the kubelet's probes find a place (package gate).
const statusConnections = 256

// serveStatus opens the ports for the kubelet, Prometheus and administrators;
// they are closed when life ends. What fails later is sent to failed.
func serveStatus(life context.Context, o *options, status *proxy.Status, redirected *proof.Proof, failed chan<- error) error {
	serve := func(what string, h http.Handler, l net.Listener) {
		s := &http.Server{
			Handler: h, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10, ConnContext: proof.ConnContext,
		}
		door := gate.New(l, statusConnections)
		status.Registry.CounterFunc("seine_proxy_status_connections_turned_away_total", "Connections to the ports for kubelet and Prometheus that were closed for want of a place.",
			func() float64 { return float64(door.Turned()) }, "port", what)
		go func() {
			if err := s.Serve(door); !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("%s port: %w", what, err)
			}
		}()
		context.AfterFunc(life, func() { _ = s.Close() })
	}
	readiness := status.Readiness()
	for _, p := range [...]struct {
		what, address string
		h             http.Handler
	}{
		{"status", o.status, status.Public()}, {"admin", o.admin, status.Admin()},
		{"readiness", o.readiness, readiness}, {"metrics", o.metrics, status.Metrics()},
	} {
		if p.address == "" {
			continue
		}
		l, err := net.Listen("tcp", p.address)
		if err != nil {
			return fmt.Errorf("%s port: %w", p.what, err)
		}
		serve(p.what, p.h, l)
	}
	if redirected != nil {
		readiness.Handle("GET "+proof.Path, redirected)
		serve("redirected readiness", readiness, redirected)
	}
	return nil
}

// watchRedirect makes readiness depend on the redirect, if that is asked for.
func watchRedirect(o *options, status *proxy.Status, log *slog.Logger) *proof.Proof {
	if !o.prove {
		return nil
	}
	port, _ := portOf(o.readiness) // checked with the flags
	p := proof.New(proof.Options{Port: port, Addresses: capture.ProofAddresses(), Changed: func(failure string) {
		if failure == "" {
			log.Info("connections are redirected to this sidecar")
			return
		}
		log.Error("the redirect does not hold: the workload is outside the mesh", "reason", failure)
	}})
	status.Redirect, status.Bypassed = p.Failure, proof.Bypassed
	return p
}

// divert is p's, or none: an interface of a nil method value would not be nil.
func divert(p *proof.Proof) func(int, netip.AddrPort, bool) bool {
	if p == nil {
		return nil
	}
	return p.Divert
}

// askApplication reads from the environment what is to be asked of the
// application on behalf of kubelet and Prometheus.
func askApplication(status *proxy.Status, env func(string) string) error {
	probes, err := apphealth.Parse(env(apphealth.Environment))
	if err != nil {
		return err
	}
	place, err := appmetrics.Parse(env(appmetrics.Environment))
	if err != nil {
		return err
	}
	if probes == nil && place == nil {
		return nil
	}
	app, err := netip.ParseAddr(env("POD_IP"))
	if err != nil {
		return fmt.Errorf("POD_IP: %w: it says where the application is", err)
	}
	if probes != nil {
		status.Probes = apphealth.New(apphealth.Options{App: app, Source: proxy.AppSource(app)}, probes)
	}
	if place != nil {
		status.App = appmetrics.New(app, proxy.AppSource(app), place).Scrape
	}
	return nil
}
