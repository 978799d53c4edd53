//go:build linux

package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/decide"
	"github.com/seinemesh/seine/mtls"
	"github.com/seinemesh/seine/proxy/control"
	"github.com/seinemesh/seine/telemetry/metrics"
)

func TestMain(m *testing.M) {
	// Loops hold their threads; goroutines of the test need others.
	runtime.GOMAXPROCS(max(8, runtime.NumCPU()))
	goleak.VerifyTestMain(m)
}

const (
	frontendID = "spiffe://cluster.local/ns/default/sa/frontend"
	billingID  = "spiffe://cluster.local/ns/default/sa/billing"
)

// authority signs the certificates of a test's mesh.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

var serial atomic.Int64

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	a := &authority{key: key}
	a.cert = a.sign(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "root"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Unix(0, 0), NotAfter: time.Now().AddDate(100, 0, 0),
	}, key.Public())
	return a
}

func (a *authority) sign(t testing.TB, c *x509.Certificate, key crypto.PublicKey) *x509.Certificate {
	t.Helper()
	parent := a.cert
	if parent == nil {
		parent = c
	}
	c.SerialNumber = big.NewInt(serial.Add(1))
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key, a.key)
	must(t, err)
	out, err := x509.ParseCertificate(der)
	must(t, err)
	return out
}

func (a *authority) identity(t testing.TB, id string) *mtls.Identity {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	u, err := url.Parse(id)
	must(t, err)
	leaf := a.sign(t, &x509.Certificate{
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		URIs:        []*url.URL{u},
	}, key.Public())
	return &mtls.Identity{
		Certificate: tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf},
		Roots:       map[string][]*x509.Certificate{"cluster.local": {a.cert}},
	}
}

func (a *authority) source(t testing.TB, id string) *mtls.Source {
	t.Helper()
	src := mtls.NewSource(mtls.SourceOptions{})
	must(t, src.Set(a.identity(t, id)))
	return src
}

func (a *authority) factory(t testing.TB, id string) *mtls.Factory {
	t.Helper()
	return mtls.NewFactory(a.source(t, id), mtls.Options{})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tables is a control plane in a test's hand.
type tables struct {
	cur    atomic.Pointer[decide.Table]
	mu     sync.Mutex
	wanted []string
	notify []func(*decide.Table)
	refuse atomic.Bool
}

func (f *tables) Table() *decide.Table { return f.cur.Load() }
func (f *tables) Want(name string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wanted = append(f.wanted, name)
	return !f.refuse.Load()
}
func (f *tables) Use(string) *control.Use { return nil }
func (f *tables) Notify(n func(*decide.Table)) {
	f.mu.Lock()
	f.notify = append(f.notify, n)
	f.mu.Unlock()
}
func (f *tables) Connected() (bool, time.Time) { return true, time.Time{} }
func (f *tables) publish(t *decide.Table) {
	f.cur.Store(t)
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, n := range f.notify {
		n(t)
	}
}

func (f *tables) asked(name string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, w := range f.wanted {
		if w == name {
			return true
		}
	}
	return false
}

func workload(name, id string) *seinev1.Workload {
	return &seinev1.Workload{
		Namespace: "default", Name: name + "-1", Workload: name, ServiceAccount: id[strings.LastIndexByte(id, '/')+1:],
		Identity: id, CanonicalService: name, App: name, Version: "v1", Cluster: "Kubernetes",
	}
}

func self(t testing.TB, name, id string, mode seinev1.MtlsMode, ports ...*seinev1.InboundPort) *decide.Self {
	t.Helper()
	s, err := decide.CompileSelf(&seinev1.Self{
		Workload: workload(name, id), TrustDomain: "cluster.local", ClusterDomain: "cluster.local",
		DefaultMtls: mode, Inbound: ports, MeshPrefixes: []string{"10.0.0.0/8"},
	})
	must(t, err)
	return s
}

// tableOf builds a table out of wire resources.
type tableOf struct {
	t       testing.TB
	self    *decide.Self
	answers map[string]*seinev1.Answer
	service []*seinev1.Service
	eps     map[string][]*seinev1.Endpoint
}

func (b *tableOf) build() *decide.Table {
	b.t.Helper()
	t := &decide.Table{Self: b.self, Answers: map[string]*decide.Answer{}, Clusters: map[string]map[string]*decide.Cluster{}, Generation: 1}
	for name, a := range b.answers {
		c, err := decide.CompileAnswer(a)
		must(b.t, err)
		t.Answers[name] = c
	}
	for _, s := range b.service {
		c, err := decide.CompileService(s)
		must(b.t, err)
		var eps []*decide.Endpoint
		for _, e := range b.eps[c.Key] {
			ce, err := decide.CompileEndpoint(e)
			must(b.t, err)
			eps = append(eps, ce)
		}
		t.Clusters[c.Key] = c.Clusters(eps)
	}
	return t
}

const billing = "billing.default.svc.cluster.local"

func endpoint(id string, at netip.AddrPort, w *seinev1.Workload) *seinev1.Endpoint {
	return &seinev1.Endpoint{Id: id, Address: at.Addr().String(), Port: uint32(at.Port()), Workload: w}
}

func toBilling() *seinev1.HttpRule {
	return &seinev1.HttpRule{Destinations: []*seinev1.Destination{{Host: billing, Port: 8080, Weight: 1}}}
}

func billingTable(t testing.TB, rules []*seinev1.HttpRule, eps ...*seinev1.Endpoint) *tableOf {
	a := &seinev1.Answer{Kind: seinev1.Answer_ROUTES, Service: billing, Protocol: seinev1.Protocol_PROTOCOL_HTTP, Http: rules}
	return &tableOf{
		t: t, self: self(t, "frontend", frontendID, seinev1.MtlsMode_MTLS_STRICT),
		answers: map[string]*seinev1.Answer{"http/8080/billing": a},
		service: []*seinev1.Service{{Host: billing, Name: "billing", Namespace: "default", Port: 8080, Protocol: seinev1.Protocol_PROTOCOL_HTTP}},
		eps:     map[string][]*seinev1.Endpoint{billing + "/8080": eps},
	}
}

// running is a proxy under test.
type running struct {
	*Proxy
	tables   *tables
	registry *metrics.Registry
	stop     func()
}

func newRegistry() *metrics.Registry { return metrics.New(metrics.Options{}) }

func start(t testing.TB, o Options, table *decide.Table) *running {
	t.Helper()
	f := &tables{}
	f.cur.Store(table)
	return startWith(t, o, f, func(*Proxy) {})
}

func startWith(t testing.TB, o Options, f *tables, edit func(*Proxy)) *running {
	t.Helper()
	if o.Registry == nil {
		o.Registry = newRegistry()
	}
	p, err := New(o, f)
	must(t, err)
	edit(p)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx, 0, 10*time.Second) }()
	r := &running{Proxy: p, tables: f, registry: o.Registry}
	var once sync.Once
	r.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(r.stop)
	return r
}

func (r *running) metrics(t testing.TB) string {
	t.Helper()
	var b bytes.Buffer
	_, err := r.registry.WriteTo(&b)
	must(t, err)
	return b.String()
}

// shows waits until the metrics hold all of that: they follow the answer that
// the client has seen.
func (r *running) shows(t testing.TB, want ...string) {
	t.Helper()
	for _, k := range want {
		eventually(t, "metrics with "+k, func() bool { return strings.Contains(r.metrics(t), k) })
	}
}

func (r *running) flagged(t testing.TB, flag string) {
	t.Helper()
	r.shows(t, `response_flags="`+flag+`"`)
}

// pair is a client sidecar (explicit), a server sidecar, and mutual TLS between them.
type pair struct {
	ca             *authority
	client, server *running
	addr           string // of the client's proxy port
}

func localhost() netip.AddrPort { return netip.MustParseAddrPort("127.0.0.1:0") }

func startPair(t testing.TB, app netip.AddrPort, rules []*seinev1.HttpRule, edit func(client, server *Options)) *pair {
	t.Helper()
	ca := newAuthority(t)
	so := Options{Loops: 1, Forwards: []Forward{{Listen: localhost(), App: app, Port: 8080}}, Factory: ca.factory(t, billingID)}
	co := Options{Loops: 1, Explicit: localhost(), Factory: ca.factory(t, frontendID)}
	if edit != nil {
		edit(&co, &so)
	}
	server := start(t, so, (&tableOf{t: t, self: self(t, "billing", billingID, seinev1.MtlsMode_MTLS_STRICT, &seinev1.InboundPort{
		Port: 8080, Protocol: seinev1.Protocol_PROTOCOL_HTTP, Mtls: seinev1.MtlsMode_MTLS_STRICT,
		Service: billing, ServiceName: "billing", ServiceNamespace: "default", ServicePort: 8080,
	})}).build())
	if rules == nil {
		rules = []*seinev1.HttpRule{toBilling()}
	}
	client := start(t, co, billingTable(t, rules, endpoint("1", server.Addresses()[0], workload("billing", billingID))).build())
	return &pair{ca: ca, client: client, server: server, addr: client.Addresses()[0].String()}
}

// app is an HTTP application.
func app(t testing.TB, h http.HandlerFunc) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	s := &http.Server{Handler: h}
	done := make(chan struct{})
	go func() { _ = s.Serve(l); close(done) }()
	t.Cleanup(func() { _ = s.Close(); <-done })
	return netip.MustParseAddrPort(l.Addr().String())
}

// rawApp serves each connection by a function.
func rawApp(t testing.TB, serve func(net.Conn)) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	var conns sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	conns.Add(1)
	go func() {
		defer conns.Done()
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			conns.Add(1)
			go func() { defer conns.Done(); defer c.Close(); serve(c) }()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for _, c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		conns.Wait()
	})
	return netip.MustParseAddrPort(l.Addr().String())
}

// selfSigned is a certificate that the mesh knows nothing of.
func selfSigned(t testing.TB) (cert, key []byte) {
	t.Helper()
	a := newAuthority(t)
	der, err := x509.MarshalECPrivateKey(a.key)
	must(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
}

// client is a connection of a test's client.
type client struct {
	t testing.TB
	*net.TCPConn
	r *bufio.Reader
}

func dial(t testing.TB, addr string) *client {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	must(t, err)
	t.Cleanup(func() { _ = c.Close() })
	must(t, c.SetDeadline(time.Now().Add(20*time.Second)))
	return &client{t, c.(*net.TCPConn), bufio.NewReader(c)}
}

func (c *client) write(format string, args ...any) {
	c.t.Helper()
	_, err := fmt.Fprintf(c, format, args...)
	must(c.t, err)
}

// response reads one response and its body.
func (c *client) response(method string) (*http.Response, string) {
	c.t.Helper()
	res, err := http.ReadResponse(c.r, &http.Request{Method: method})
	must(c.t, err)
	b, err := io.ReadAll(res.Body)
	must(c.t, err)
	_ = res.Body.Close()
	return res, string(b)
}

func (c *client) get(path string) (*http.Response, string) {
	c.t.Helper()
	c.write("GET %s HTTP/1.1\r\nHost: billing:8080\r\n\r\n", path)
	return c.response("GET")
}

// ends checks that the peer closed and sent nothing more.
func (c *client) ends() {
	c.t.Helper()
	if b, err := io.ReadAll(c.r); len(b) > 0 {
		c.t.Errorf("more after the end: %q, %v", b, err)
	}
}

// eventually waits for a condition that another goroutine brings about.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("never came true: %s", what)
		case <-tick.C:
		}
	}
}
