//go:build linux

// Package sidecars starts the two sidecars between a caller and an application
// that suites of others are run through: seine-proxy's listeners, event loops
// and mutual TLS, with a control plane that knows one table. The suites are
// modules of their own, for what they depend on; this is what they share.
package sidecars

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"syscall"
	"testing"
	"time"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/decide"
	"github.com/seinemesh/seine/mtls"
	"github.com/seinemesh/seine/proxy"
	"github.com/seinemesh/seine/proxy/control"
	"github.com/seinemesh/seine/telemetry/metrics"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// fixed is a control plane that knows one table.
type fixed struct{ table *decide.Table }

func (f fixed) Table() *decide.Table         { return f.table }
func (f fixed) Want(string) bool             { return false }
func (f fixed) Use(string) *control.Use      { return nil }
func (f fixed) Notify(func(*decide.Table))   {}
func (f fixed) Connected() (bool, time.Time) { return true, time.Time{} }

// authority signs the certificates of a test's mesh.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	a := &authority{key: key}
	a.cert = a.sign(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "root"}, IsCA: true, BasicConstraintsValid: true, SerialNumber: big.NewInt(1),
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Unix(0, 0), NotAfter: time.Now().AddDate(100, 0, 0),
	}, key.Public())
	return a
}

func (a *authority) sign(t testing.TB, c *x509.Certificate, key crypto.PublicKey) *x509.Certificate {
	parent := a.cert
	if parent == nil {
		parent = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key, a.key)
	must(t, err)
	out, err := x509.ParseCertificate(der)
	must(t, err)
	return out
}

func (a *authority) factory(t testing.TB, id string) *mtls.Factory {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	u, err := url.Parse(id)
	must(t, err)
	leaf := a.sign(t, &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		URIs:        []*url.URL{u},
	}, key.Public())
	src := mtls.NewSource(mtls.SourceOptions{})
	must(t, src.Set(&mtls.Identity{
		Certificate: tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf},
		Roots:       map[string][]*x509.Certificate{"cluster.local": {a.cert}},
	}))
	return mtls.NewFactory(src, mtls.Options{})
}

const (
	host     = "app.default.svc.cluster.local"
	callerID = "spiffe://cluster.local/ns/default/sa/caller"
	appID    = "spiffe://cluster.local/ns/default/sa/app"
)

func workload(name, account string) *seinev1.Workload {
	return &seinev1.Workload{Namespace: "default", Name: name + "-1", Workload: name, ServiceAccount: account, Identity: "spiffe://cluster.local/ns/default/sa/" + account}
}

// self is the workload's part of a table. Without tracing a side has none.
func self(t testing.TB, name string, mode seinev1.MtlsMode, client, server *seinev1.Tracing, ports ...*seinev1.InboundPort) *decide.Self {
	s, err := decide.CompileSelf(&seinev1.Self{
		Workload: workload(name, name), TrustDomain: "cluster.local", ClusterDomain: "cluster.local", DefaultMtls: mode, Inbound: ports,
		TraceClient: client, TraceServer: server,
	})
	must(t, err)
	return s
}

// outside are the answers that let a sidecar reach its collector.
func outside(t testing.TB, c *seinev1.Collector) map[string]*decide.Answer {
	out := map[string]*decide.Answer{}
	if c != nil {
		at, err := netip.ParseAddr(c.Host)
		must(t, err)
		a, err := decide.CompileAnswer(&seinev1.Answer{Kind: seinev1.Answer_PASSTHROUGH})
		must(t, err)
		out[string(decide.AppendHTTPName(nil, uint16(c.Port), []byte(c.Host)))] = a
		out[string(decide.AppendAddressName(nil, netip.AddrPortFrom(at, uint16(c.Port))))] = a
	}
	return out
}

// run starts a proxy and returns where it listens.
func run(t testing.TB, o proxy.Options, table *decide.Table) []netip.AddrPort {
	t.Helper()
	o.Registry = metrics.New(metrics.Options{})
	p, err := proxy.New(o, fixed{table})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx, 0, 5*time.Second) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return p.Addresses()
}

// Options of Start.
type Options struct {
	App      netip.AddrPort
	Protocol seinev1.Protocol // of the application's port
	Retry    *seinev1.Retry   // of the caller's sidecar; nil: none
	// Tracing of the caller's requests on its side, and on the application's; nil:
	// none. The collector's host is an address.
	Tracing *seinev1.Tracing
	Log     *slog.Logger // of both, which say who they are as proxy; nil: none
}

// Pair are the sidecars of a caller and of an application, with mutual TLS
// between them.
type Pair struct {
	Outbound string // where the caller calls the application
	Inbound  string // the application's own port, which takes plaintext, too
}

// Start starts a pair that ends with the test.
func Start(t testing.TB, o Options) Pair {
	t.Helper()
	ca := newAuthority(t)
	any := netip.MustParseAddrPort("127.0.0.1:0")
	log := o.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	in := run(t, proxy.Options{Loops: 2, Forwards: []proxy.Forward{{Listen: any, App: o.App, Port: 8080}}, Factory: ca.factory(t, appID), Log: log.With("proxy", "app")},
		&decide.Table{
			Self: self(t, "app", seinev1.MtlsMode_MTLS_PERMISSIVE, nil, o.Tracing, &seinev1.InboundPort{
				Port: 8080, Protocol: o.Protocol, Mtls: seinev1.MtlsMode_MTLS_PERMISSIVE, Service: host, ServiceName: "app", ServiceNamespace: "default", ServicePort: 8080,
			}),
			Answers: outside(t, o.Tracing.GetCollector()),
		})
	answer, err := decide.CompileAnswer(&seinev1.Answer{
		Kind: seinev1.Answer_ROUTES, Service: host, Protocol: o.Protocol,
		Http: []*seinev1.HttpRule{{Destinations: []*seinev1.Destination{{Host: host, Port: 8080, Weight: 1}}, Retry: o.Retry}},
	})
	must(t, err)
	service, err := decide.CompileService(&seinev1.Service{Host: host, Name: "app", Namespace: "default", Port: 8080, Protocol: o.Protocol})
	must(t, err)
	endpoint, err := decide.CompileEndpoint(&seinev1.Endpoint{Id: "1", Address: in[0].Addr().String(), Port: uint32(in[0].Port()), Workload: workload("app", "app")})
	must(t, err)
	answers := outside(t, o.Tracing.GetCollector())
	answers[string(decide.AppendHTTPName(nil, 8080, []byte(host)))] = answer
	// A published port: the outbound side, which every Host reaches.
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(any))
	must(t, err)
	f, err := l.File()
	must(t, err)
	at := l.Addr().String()
	fd, err := syscall.Dup(int(f.Fd())) // the proxy owns it, and closes it
	must(t, err)
	must(t, f.Close())
	must(t, l.Close())
	run(t, proxy.Options{Loops: 2, Published: []proxy.Published{{FD: fd, Host: host, Port: 8080}}, Factory: ca.factory(t, callerID), Log: log.With("proxy", "caller")},
		&decide.Table{
			Self:     self(t, "caller", seinev1.MtlsMode_MTLS_STRICT, o.Tracing, nil),
			Answers:  answers,
			Clusters: map[string]map[string]*decide.Cluster{service.Key: service.Clusters([]*decide.Endpoint{endpoint})},
		})
	return Pair{Outbound: at, Inbound: in[0].String()}
}
