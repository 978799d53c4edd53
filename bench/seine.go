package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"text/template"
	"time"

	"github.com/seinemesh/seine/ca"
)

// Ports of a workload; each sidecar has an address of its own in 127.0.0.0/8.
const (
	applicationPort = "8080"
	statusPort      = "15020"
	proxyPort       = "15001"
)

// startSeine starts seined with the configuration in peers/seine.yaml and two
// sidecars in explicit mode that join it. The pair's server stands for both
// versions, so that as many processes are measured as of the peers.
func startSeine(upgrade string) func(context.Context, *env) (*pair, error) {
	return func(ctx context.Context, e *env) (*pair, error) { return e.startSeine(ctx, upgrade) }
}

func (e *env) startSeine(ctx context.Context, upgrade string) (*pair, error) {
	seined, proxy := filepath.Join(e.tools.bin, "seined"), filepath.Join(e.tools.bin, "seine-proxy")
	for _, program := range []string{seined, proxy} {
		if _, err := os.Stat(program); err != nil {
			return nil, fmt.Errorf("seine: %w: %w (make build makes it)", errMissing, err)
		}
	}
	client, server, err := loopback()
	if err != nil {
		return nil, err
	}
	config := filepath.Join(e.dir, "config")
	state := filepath.Join(e.dir, "state")
	for _, dir := range []string{config, state} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return nil, err
		}
	}
	t, err := template.ParseFS(peers, "peers/seine.yaml")
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(config, "mesh.yaml"), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	if err := t.Execute(f, map[string]any{
		"Client": client, "Server": server, "Upgrade": upgrade, "Services": count(e.mode.services), "Routes": count(e.mode.routes),
		"Port": strings.TrimSuffix(e.mode.proto, "1"),
	}); err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	secretFile := filepath.Join(state, "join-secret")
	secret, err := ca.CreateSecret(secretFile)
	if err != nil {
		return nil, err
	}
	ports, err := freePorts("127.0.0.1", 2)
	if err != nil {
		return nil, err
	}
	grpc, api := ports[0], ports[1]
	p := &pair{target: net.JoinHostPort(client, proxyPort), host: hostHeader, server: net.JoinHostPort(server, applicationPort), alpn: "istio-http/1.1"}
	if e.mode.proto == "tcp" {
		p.tunnel = hostHeader
	}
	control, err := start(e.dir, seined, "--config", config, "--state", state, "--join-secret", secretFile,
		"--listen", grpc, "--http", api, "--log-level", "warn")
	if err != nil {
		return nil, err
	}
	p.others = append(p.others, control)
	if err := waitListen(ctx, control, grpc); err != nil {
		p.stop()
		return nil, err
	}
	if err := clientCertificate(e.dir, state); err != nil {
		p.stop()
		return nil, err
	}
	for _, w := range []struct {
		instance, account, ip string
		args                  []string
	}{
		{"billing-v1-1", "billing", server, []string{"--listen-inbound", net.JoinHostPort(server, applicationPort) + "=" + e.backend}},
		{"frontend-1", "frontend", client, nil},
	} {
		token, err := ca.Mint(secret, ca.Claims{Namespace: "default", ServiceAccount: w.account, Workload: w.instance, Expires: time.Now().Add(time.Hour)})
		if err == nil {
			err = os.WriteFile(filepath.Join(e.dir, w.instance+".token"), []byte(token), 0o600)
		}
		if e.mode.log {
			w.args = append(w.args, "--access-log", filepath.Join(e.dir, w.instance+".access.log"))
		}
		var c *proc
		if err == nil {
			c, err = start(e.dir, proxy, append([]string{
				"--workload", "default/" + w.instance, "--service-account", w.account, "--control", grpc,
				"--ca-bundle", filepath.Join(state, "root-cert.pem"), "--token", filepath.Join(e.dir, w.instance+".token"),
				"--mode", "explicit", "--outbound", net.JoinHostPort(w.ip, proxyPort), "--status", net.JoinHostPort(w.ip, statusPort),
				"--admin", net.JoinHostPort(w.ip, "15000"), "--mark", "0", "--loops", "2", "--log-level", "warn",
			}, w.args...)...)
		}
		if err == nil {
			p.proxy = append(p.proxy, c)
			p.admin = append(p.admin, net.JoinHostPort(w.ip, "15000"))
			err = waitListen(ctx, c, net.JoinHostPort(w.ip, proxyPort))
		}
		if err != nil {
			p.stop()
			return nil, err
		}
	}
	return p, nil
}

// loopback returns two addresses of 127.0.0.0/8 on which the ports of a
// sidecar are free.
func loopback() (client, server string, err error) {
	var got []string
	for i := 2; i < 250 && len(got) < 2; i++ {
		ip := fmt.Sprintf("127.77.%d.%d", os.Getpid()%250, i)
		free := true
		for _, port := range []string{applicationPort, statusPort, proxyPort, "15000"} {
			l, err := net.Listen("tcp", net.JoinHostPort(ip, port))
			if err != nil {
				free = false
				break
			}
			defer l.Close() // held until both are chosen
		}
		if free {
			got = append(got, ip)
		}
	}
	if len(got) < 2 {
		return "", "", fmt.Errorf("no free addresses for sidecars in 127.77.0.0/16")
	}
	return got[0], got[1], nil
}

// clientCertificate puts a certificate of seined's authority for the client
// where the other data planes have theirs, for the load that calls the server's
// sidecar itself.
func clientCertificate(dir, state string) error {
	authority, err := ca.Open(ca.Options{Dir: state, TrustDomain: "cluster.local"})
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return err
	}
	issued, err := authority.Sign(block("CERTIFICATE REQUEST", request), clientID, "bench/client", time.Hour, time.Now())
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(writePEM(filepath.Join(dir, "client.crt"), []byte(issued.Chain[0])),
		writePEM(filepath.Join(dir, "client.key"), block("PRIVATE KEY", der)))
}

// profile takes CPU profiles of seine-proxy while a case runs; wait returns
// when they are written.
func (m *meter) profile(ctx context.Context, name string, length time.Duration) (wait func()) {
	if m.o.profile == "" || len(m.pair.admin) == 0 || m.round > 0 {
		return func() {}
	}
	done := make(chan error, len(m.pair.admin))
	for i, admin := range m.pair.admin {
		side := []string{"server", "client"}[i]
		go func() {
			done <- fetch(ctx, fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", admin, max(1, int(length.Seconds()))),
				filepath.Join(m.o.profile, m.plane+"-"+name+"-"+side+".pprof"))
		}()
	}
	return func() {
		for range m.pair.admin {
			if err := <-done; err != nil {
				fmt.Fprintln(os.Stderr, "bench: profile:", err)
			}
		}
	}
}

func fetch(ctx context.Context, url, path string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close() // read only
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, res.Status)
	}
	return os.WriteFile(path, b, 0o600)
}
