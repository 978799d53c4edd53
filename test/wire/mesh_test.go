//go:build linux

// Package wire holds seine-proxy's listeners to test suites of others: h2spec,
// and the interoperability cases of gRPC. It is a module of its own because
// they bring dependencies that the product does not have.
package wire

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"runtime"
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

func TestMain(m *testing.M) {
	runtime.GOMAXPROCS(max(8, runtime.NumCPU()))
	m.Run()
}

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

func self(t testing.TB, name string, mode seinev1.MtlsMode, ports ...*seinev1.InboundPort) *decide.Self {
	s, err := decide.CompileSelf(&seinev1.Self{
		Workload: workload(name, name), TrustDomain: "cluster.local", ClusterDomain: "cluster.local", DefaultMtls: mode, Inbound: ports,
	})
	must(t, err)
	return s
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

// sidecars are those of a caller and of an application, with mutual TLS between
// them.
type sidecars struct {
	outbound string // where the caller calls the application
	inbound  string // the application's own port, which takes plaintext, too
}

func start(t testing.TB, app netip.AddrPort, protocol seinev1.Protocol) sidecars {
	t.Helper()
	ca := newAuthority(t)
	any := netip.MustParseAddrPort("127.0.0.1:0")
	in := run(t, proxy.Options{Loops: 2, Forwards: []proxy.Forward{{Listen: any, App: app, Port: 8080}}, Factory: ca.factory(t, appID)},
		&decide.Table{Self: self(t, "app", seinev1.MtlsMode_MTLS_PERMISSIVE, &seinev1.InboundPort{
			Port: 8080, Protocol: protocol, Mtls: seinev1.MtlsMode_MTLS_PERMISSIVE, Service: host, ServiceName: "app", ServiceNamespace: "default", ServicePort: 8080,
		})})
	answer, err := decide.CompileAnswer(&seinev1.Answer{
		Kind: seinev1.Answer_ROUTES, Service: host, Protocol: protocol,
		Http: []*seinev1.HttpRule{{Destinations: []*seinev1.Destination{{Host: host, Port: 8080, Weight: 1}}}},
	})
	must(t, err)
	service, err := decide.CompileService(&seinev1.Service{Host: host, Name: "app", Namespace: "default", Port: 8080, Protocol: protocol})
	must(t, err)
	endpoint, err := decide.CompileEndpoint(&seinev1.Endpoint{Id: "1", Address: in[0].Addr().String(), Port: uint32(in[0].Port()), Workload: workload("app", "app")})
	must(t, err)
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
	run(t, proxy.Options{Loops: 2, Published: []proxy.Published{{FD: fd, Host: host, Port: 8080}}, Factory: ca.factory(t, callerID)},
		&decide.Table{
			Self:     self(t, "caller", seinev1.MtlsMode_MTLS_STRICT),
			Answers:  map[string]*decide.Answer{string(decide.AppendHTTPName(nil, 8080, []byte(host))): answer},
			Clusters: map[string]map[string]*decide.Cluster{service.Key: service.Clusters([]*decide.Endpoint{endpoint})},
		})
	return sidecars{outbound: at, inbound: in[0].String()}
}
