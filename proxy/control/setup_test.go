package control

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/test/bufconn"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/decide"
	"github.com/seinemesh/seine/discovery"
	"github.com/seinemesh/seine/discovery/discoverytest"
	"github.com/seinemesh/seine/mesh"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	node   = "default/frontend-1"
	nodeID = "spiffe://cluster.local/ns/default/sa/frontend"
)

// content is what the mesh holds in one generation.
type content struct {
	answers   map[string]*seinev1.Answer
	services  map[string]*seinev1.Service
	endpoints map[string][]*seinev1.Endpoint
}

func fqdn(name string) string { return name + ".default.svc.cluster.local" }

func routes(to ...*seinev1.Destination) *seinev1.Answer {
	return &seinev1.Answer{Kind: seinev1.Answer_ROUTES, Service: to[0].Host,
		Source: &seinev1.Ref{Kind: "VirtualService", Namespace: "default", Name: "r"},
		Http:   []*seinev1.HttpRule{{Source: &seinev1.Ref{Kind: "VirtualService", Namespace: "default", Name: "r"}, Destinations: to}}}
}

func destination(name, subset string, weight uint32) *seinev1.Destination {
	return &seinev1.Destination{Host: fqdn(name), Port: 80, Subset: subset, Weight: weight}
}

func someEndpoints(name, version string, n int) (eps []*seinev1.Endpoint) {
	for i := range n {
		eps = append(eps, &seinev1.Endpoint{
			Id: fmt.Sprintf("default/%s-%s-%d", name, version, i), Address: fmt.Sprintf("10.0.%d.%d", i>>8, i&255+1), Port: 8080,
			Labels: map[string]string{"version": version}, Workload: &seinev1.Workload{Namespace: "default", Name: fmt.Sprintf("%s-%s-%d", name, version, i)},
		})
	}
	return eps
}

func aService(name string, subsets ...string) *seinev1.Service {
	s := &seinev1.Service{Host: fqdn(name), Name: name, Namespace: "default", Port: 80}
	for _, v := range subsets {
		s.Subsets = append(s.Subsets, &seinev1.Subset{Name: v, Labels: map[string]string{"version": v}})
	}
	return s
}

func (c *content) add(name string, subsets ...string) *content {
	if c.answers == nil {
		c.answers, c.services, c.endpoints = map[string]*seinev1.Answer{}, map[string]*seinev1.Service{}, map[string][]*seinev1.Endpoint{}
	}
	key := seinev1.ServiceKey(fqdn(name), 80)
	c.answers["http/80/"+name] = routes(destination(name, "", 1))
	c.services[key] = aService(name, subsets...)
	for _, v := range append(subsets, "v0") {
		c.endpoints[key] = append(c.endpoints[key], someEndpoints(name, v, 2)...)
	}
	return c
}

// mesh is a control plane that can be killed and started again.
type controlPlane struct {
	t    testing.TB
	pki  *discoverytest.PKI
	mu   sync.Mutex
	gens map[uint64]*content
	gen  uint64

	server *discovery.Server
	lis    atomic.Pointer[bufconn.Listener]
	stop   func()
	dials  atomic.Int64
}

func newControlPlane(t testing.TB) *controlPlane {
	c := &controlPlane{t: t, pki: discoverytest.NewPKI(t), gens: map[uint64]*content{}, stop: func() {}}
	t.Cleanup(func() { c.stop() })
	return c
}

func (c *controlPlane) at(s *mesh.Snapshot) *content {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.gens[s.Generation]
}

func (c *controlPlane) start() {
	c.t.Helper()
	s, err := discovery.New(discovery.Options{
		Quiet: time.Millisecond,
		Plan: discovery.Plan{
			Self: func(s *mesh.Snapshot, w *mesh.Workload) *seinev1.Self {
				return &seinev1.Self{Workload: &seinev1.Workload{Namespace: w.Namespace, Name: w.Instance}, TrustDomain: "cluster.local", DefaultMtls: seinev1.MtlsMode_MTLS_STRICT}
			},
			Answer: func(s *mesh.Snapshot, _ *mesh.Workload, name string) *seinev1.Answer {
				if a := c.at(s).answers[name]; a != nil {
					return a
				}
				return &seinev1.Answer{Reason: "there is no such host"}
			},
			Service: func(s *mesh.Snapshot, _ *mesh.Workload, key string) *seinev1.Service { return c.at(s).services[key] },
			Endpoints: func(s *mesh.Snapshot, _ *mesh.Workload, key string) []*seinev1.Endpoint {
				return c.at(s).endpoints[key]
			},
		},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	g := grpc.NewServer(grpc.Creds(credentials.NewTLS(c.pki.Server())), grpc.WaitForHandlers(true))
	s.Register(g)
	lis := bufconn.Listen(1 << 20)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = g.Serve(lis) })
	wg.Go(func() { _ = s.Run(ctx) })
	c.server, c.stop = s, func() { c.lis.Store(nil); g.Stop(); cancel(); wg.Wait(); c.stop = func() {} }
	c.lis.Store(lis)
	if c.gen > 0 {
		c.server.Publish(c.snapshot())
	}
}

func (c *controlPlane) snapshot() *mesh.Snapshot {
	return mesh.New(c.gen, mesh.Parts{Settings: mesh.DefaultSettings(), Workloads: []*mesh.Workload{
		{Ref: mesh.Ref{Namespace: "default"}, Instance: "frontend-1", ServiceAccount: "frontend"},
	}})
}

// publish makes next the newest generation.
func (c *controlPlane) publish(next *content) uint64 {
	c.mu.Lock()
	c.gen++
	c.gens[c.gen] = next
	c.mu.Unlock()
	if c.server != nil {
		c.server.Publish(c.snapshot())
	}
	return c.gen
}

// client starts a client and lets a test wait for its tables.
type proxy struct {
	*Client
	t      testing.TB
	tables chan struct{}
}

func (c *controlPlane) client(o Options) *proxy {
	c.t.Helper()
	return c.clientWith(o, func(*tls.Config) {})
}

func (c *controlPlane) clientWith(o Options, change func(*tls.Config)) *proxy {
	c.t.Helper()
	o.Address, o.Node, o.Version = "seined:15012", node, "test"
	o.TLS = c.pki.Client(nodeID)
	change(o.TLS)
	o.Log = slog.New(slog.DiscardHandler)
	o.Dial = func(ctx context.Context, _ string) (net.Conn, error) {
		c.dials.Add(1)
		if l := c.lis.Load(); l != nil {
			return l.DialContext(ctx)
		}
		return nil, fmt.Errorf("connection refused")
	}
	cl, err := New(o)
	if err != nil {
		c.t.Fatal(err)
	}
	p := &proxy{cl, c.t, make(chan struct{}, 1)}
	cl.Notify(func(t *decide.Table) {
		if err := whole(t); err != nil {
			c.t.Error(err)
		}
		select {
		case p.tables <- struct{}{}:
		default:
		}
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = cl.Run(ctx) }()
	c.t.Cleanup(func() { cancel(); <-done })
	return p
}

// whole checks what every Table promises.
func whole(t *decide.Table) error {
	if t.Self == nil {
		return fmt.Errorf("generation %d: no Self", t.Generation)
	}
	for name, a := range t.Answers {
		for _, key := range dependencies(a.Proto) {
			if t.Clusters[key] == nil {
				return fmt.Errorf("generation %d: %s names %s, which is not there", t.Generation, name, key)
			}
		}
	}
	return nil
}

// until waits for a Table.
func (p *proxy) until(what string, ok func(*decide.Table) bool) *decide.Table {
	p.t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		if t := p.Table(); t != nil && ok(t) {
			return t
		}
		select {
		case <-p.tables:
		case <-deadline:
			p.t.Fatalf("waited in vain: %s; %+v", what, p.Stats())
		}
	}
}

func (p *proxy) want(names ...string) *decide.Table {
	p.t.Helper()
	for _, n := range names {
		if !p.Want(n) {
			p.t.Fatalf("%s is not wanted", n)
		}
	}
	return p.until(fmt.Sprint(names), func(t *decide.Table) bool {
		for _, n := range names {
			if t.Answers[n] == nil {
				return false
			}
		}
		return true
	})
}

// eventually waits for what nothing announces.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("waited in vain: " + what)
		}
	}
}
