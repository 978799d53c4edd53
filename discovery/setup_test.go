package discovery

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/test/bufconn"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	xdsv3 "github.com/seinemesh/seine/api/xds/v3"
	"github.com/seinemesh/seine/discovery/discoverytest"
	"github.com/seinemesh/seine/mesh"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	frontend   = "default/frontend-1"
	frontendID = "spiffe://cluster.local/ns/default/sa/frontend"
)

// world is what there is to discover in each generation.
type world struct {
	mu   sync.Mutex
	gens map[uint64]*content
}

type content struct {
	answers   map[string]*seinev1.Answer
	services  map[string]*seinev1.Service
	endpoints map[string][]*seinev1.Endpoint
	panics    bool
}

func (w *world) at(s *mesh.Snapshot) *content {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.gens[s.Generation]
}

func (w *world) plan() Plan {
	return Plan{
		Self: func(s *mesh.Snapshot, self *mesh.Workload) *seinev1.Self {
			return &seinev1.Self{Workload: &seinev1.Workload{Namespace: self.Namespace, Name: self.Instance}, Labels: self.Labels}
		},
		Answer: func(s *mesh.Snapshot, _ *mesh.Workload, name string) *seinev1.Answer {
			if w.at(s).panics {
				panic("unforeseen")
			}
			if a := w.at(s).answers[name]; a != nil {
				return a
			}
			return &seinev1.Answer{Reason: "no such thing"}
		},
		Service: func(s *mesh.Snapshot, _ *mesh.Workload, key string) *seinev1.Service { return w.at(s).services[key] },
		Endpoints: func(s *mesh.Snapshot, _ *mesh.Workload, key string) []*seinev1.Endpoint {
			return w.at(s).endpoints[key]
		},
	}
}

type bench struct {
	t      testing.TB
	pki    *discoverytest.PKI
	world  *world
	server *Server
	lis    *bufconn.Listener
}

func newBench(t testing.TB, limits Limits) *bench {
	t.Helper()
	w := &world{gens: map[uint64]*content{}}
	s, err := New(Options{Plan: w.plan(), Limits: limits, Quiet: time.Millisecond, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t, discoverytest.NewPKI(t), w, s, bufconn.Listen(1 << 20)}
	g := grpc.NewServer(grpc.Creds(credentials.NewTLS(b.pki.Server())), grpc.WaitForHandlers(true))
	s.Register(g)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = g.Serve(b.lis) })
	wg.Go(func() { _ = s.Run(ctx) })
	t.Cleanup(func() { g.Stop(); cancel(); wg.Wait() })
	return b
}

func workloads() []*mesh.Workload {
	return []*mesh.Workload{
		{Ref: mesh.Ref{Namespace: "default"}, Instance: "frontend-1", ServiceAccount: "frontend", Labels: map[string]string{"app": "frontend"}},
		{Ref: mesh.Ref{Namespace: "default"}, Instance: "billing-1", ServiceAccount: "billing", Labels: map[string]string{"app": "billing"}},
	}
}

// publish makes c generation g and waits until streams see it.
func (b *bench) publish(g uint64, c *content) {
	b.t.Helper()
	b.publishWith(g, c, workloads())
}

func (b *bench) publishWith(g uint64, c *content, w []*mesh.Workload) {
	b.t.Helper()
	b.world.mu.Lock()
	b.world.gens[g] = c
	b.world.mu.Unlock()
	for {
		e := b.server.current.Load()
		if e.snap == nil || e.snap.Generation != g {
			b.server.Publish(mesh.New(g, mesh.Parts{Settings: mesh.DefaultSettings(), Workloads: w}))
			select {
			case <-e.superseded:
			case <-b.t.Context().Done():
				b.t.Fatal("the snapshot did not arrive")
			}
			continue
		}
		return
	}
}

// client is a proxy that says just what a test wants.
type client struct {
	t    testing.TB
	st   grpc.ClientStream
	stop func()
	node string
}

func (b *bench) dial(conf *tls.Config, node string) *client {
	b.t.Helper()
	conn, err := grpc.NewClient("passthrough:///bench", grpc.WithTransportCredentials(credentials.NewTLS(conf)),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return b.lis.DialContext(ctx) }))
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.t.Context())
	st, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true},
		"/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources")
	if err != nil {
		b.t.Fatal(err)
	}
	c := &client{b.t, st, func() { cancel(); conn.Close() }, node}
	b.t.Cleanup(c.stop)
	return c
}

func (b *bench) frontend() *client {
	b.t.Helper()
	return b.dial(b.pki.Client(frontendID), frontend)
}

func (c *client) send(m *xdsv3.DeltaDiscoveryRequest) {
	c.t.Helper()
	if c.node != "" {
		m.Node = &xdsv3.Node{Id: c.node, UserAgentVersion: "1.2.3"}
		c.node = ""
	}
	if err := c.st.SendMsg(m); err != nil && err != io.EOF { // whoever receives is told why it ended
		c.t.Fatal(err)
	}
}

func (c *client) subscribe(url string, names ...string) {
	c.t.Helper()
	c.send(&xdsv3.DeltaDiscoveryRequest{TypeUrl: url, ResourceNamesSubscribe: names})
}

func (c *client) recv() *xdsv3.DeltaDiscoveryResponse {
	c.t.Helper()
	m := new(xdsv3.DeltaDiscoveryResponse)
	if err := c.st.RecvMsg(m); err != nil {
		c.t.Fatal(err)
	}
	return m
}

func (c *client) ack(m *xdsv3.DeltaDiscoveryResponse) {
	c.t.Helper()
	c.send(&xdsv3.DeltaDiscoveryRequest{TypeUrl: m.TypeUrl, ResponseNonce: m.Nonce})
}

// take receives and acknowledges whole batches until there is one with
// something of url.
func (c *client) take(url string) (resources map[string]string, removed []string) {
	c.t.Helper()
	resources = map[string]string{}
	found := false
	for {
		m := c.recv()
		c.ack(m)
		if m.TypeUrl == url {
			found = true
			for _, r := range m.Resources {
				resources[r.Name] = r.Version
			}
			removed = append(removed, m.RemovedResources...)
		}
		if _, more := seinev1.ParseSystemVersion(m.SystemVersionInfo); !more && found {
			return resources, removed
		}
	}
}

// refused returns what the server ended the stream with.
func (c *client) refused() error {
	c.t.Helper()
	for {
		if err := c.st.RecvMsg(new(xdsv3.DeltaDiscoveryResponse)); err != nil {
			return err
		}
	}
}

// eventually waits for what nothing announces.
func (b *bench) eventually(what string, ok func() bool) {
	b.t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			b.t.Fatalf("waited in vain: %s: %+v", what, b.server.Proxies())
		}
	}
}

// until waits for the state of the one proxy that is connected.
func (b *bench) until(what string, ok func(Proxy) bool) (p Proxy) {
	b.t.Helper()
	b.eventually(what, func() bool {
		l := b.server.Proxies()
		if len(l) == 1 {
			p = l[0]
		}
		return len(l) == 1 && ok(p)
	})
	return p
}

func answer(host string, port uint32) *seinev1.Answer {
	return &seinev1.Answer{
		Kind: seinev1.Answer_ROUTES, Service: host, Source: &seinev1.Ref{Kind: "VirtualService", Namespace: "default", Name: "r", File: "r.yaml", Line: 3},
		Http: []*seinev1.HttpRule{{Destinations: []*seinev1.Destination{{Host: host, Port: port, Weight: 1}}}},
	}
}

func someEndpoints(n int) []*seinev1.Endpoint {
	eps := make([]*seinev1.Endpoint, n)
	for i := range eps {
		eps[i] = &seinev1.Endpoint{Id: fmt.Sprintf("default/b-%05d", i), Address: fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255), Port: 80}
	}
	return eps
}

func billing() *content {
	return &content{
		answers:   map[string]*seinev1.Answer{"http/80/billing": answer("billing.default.svc.cluster.local", 80)},
		services:  map[string]*seinev1.Service{"billing.default.svc.cluster.local/80": {Host: "billing.default.svc.cluster.local", Port: 80}},
		endpoints: map[string][]*seinev1.Endpoint{"billing.default.svc.cluster.local/80": someEndpoints(3)},
	}
}
