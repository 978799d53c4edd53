package discovery

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	xdsv3 "github.com/seinemesh/seine/api/xds/v3"
	"github.com/seinemesh/seine/mesh"
)

func TestSubscribeAckNack(t *testing.T) {
	b := newBench(t, Limits{})
	b.publish(1, billing())
	c := b.frontend()
	c.subscribe(seinev1.TypeSelf, "self")
	if got, _ := c.take(seinev1.TypeSelf); len(got) != 1 || got["self"] == "" {
		t.Fatalf("Self: %v", got)
	}
	c.subscribe(seinev1.TypeAnswer, "http/80/billing", "http/80/nobody")
	if got, _ := c.take(seinev1.TypeAnswer); len(got) != 2 {
		t.Fatalf("answers: %v", got)
	}
	c.subscribe(seinev1.TypeService, "billing.default.svc.cluster.local/80", "gone.default.svc.cluster.local/80")
	if got, gone := c.take(seinev1.TypeService); len(got) != 1 || !slices.Equal(gone, []string{"gone.default.svc.cluster.local/80"}) {
		t.Fatalf("services: %v, gone %v", got, gone)
	}
	c.subscribe(seinev1.TypeEndpoint, "billing.default.svc.cluster.local/80/*", "gone.default.svc.cluster.local/80/*")
	if got, gone := c.take(seinev1.TypeEndpoint); len(got) != 3 || !slices.Equal(gone, []string{"gone.default.svc.cluster.local/80/*"}) {
		t.Fatalf("endpoints: %v, gone %v", got, gone)
	}
	p := b.until("all acknowledged", func(p Proxy) bool { return p.Current && p.Types[kindEndpoint].Generation == 1 })
	if p.ID != frontend || p.Identity != frontendID || p.Version != "1.2.3" || p.Types[kindEndpoint].Count != 3 || p.Types[kindAnswer].Count != 2 {
		t.Errorf("state: %+v", p)
	}
	if n := testutil.ToFloat64(b.server.metrics.proxies.WithLabelValues("1.2.3")); n != 1 {
		t.Errorf("pilot_xds is %v", n)
	}

	next := billing()
	next.answers["http/80/billing"].Protocol = seinev1.Protocol_PROTOCOL_HTTP
	b.publish(2, next)
	m := c.recv()
	if len(m.Resources) != 1 || m.Resources[0].Name != "http/80/billing" || m.SystemVersionInfo != "2" {
		t.Fatalf("generation 2: %v", m)
	}
	c.send(&xdsv3.DeltaDiscoveryRequest{TypeUrl: m.TypeUrl, ResponseNonce: m.Nonce, ErrorDetail: &status.Status{Message: "http/80/billing: no\nhttp/80/else: x"}})
	p = b.until("refused", func(p Proxy) bool { return len(p.Rejected) == 1 })
	if r := p.Rejected[0]; r.Name != "http/80/billing" || r.Message != "no" || r.Source != "r.yaml:3 VirtualService default/r" || r.Generation != 2 {
		t.Errorf("shown as %+v", r)
	}
	if n := testutil.ToFloat64(b.server.metrics.rejects[kindAnswer]); n != 1 {
		t.Errorf("pilot_total_xds_rejects is %v", n)
	}
	b.publish(3, billing())
	if got, _ := c.take(seinev1.TypeAnswer); len(got) != 1 {
		t.Fatalf("generation 3: %v", got)
	}
	b.until("mended", func(p Proxy) bool { return len(p.Rejected) == 0 && p.Generation == 3 })

	c.send(&xdsv3.DeltaDiscoveryRequest{TypeUrl: seinev1.TypeAnswer, ResourceNamesUnsubscribe: []string{"http/80/billing", "never/heard/of"}})
	b.until("unsubscribed", func(p Proxy) bool { return p.Types[kindAnswer].Count == 1 })
	c.stop()
	b.eventually("gone", func() bool { return len(b.server.Proxies()) == 0 })
	if n := testutil.CollectAndCount(b.server.metrics.proxies); n != 0 {
		t.Errorf("%d series of pilot_xds are left", n)
	}
}

func TestOneEndpointOfTenThousand(t *testing.T) {
	b := newBench(t, Limits{ResponseBytes: 64 << 10})
	const n = 10_000
	key := "big.default.svc.cluster.local/80"
	c1 := &content{endpoints: map[string][]*seinev1.Endpoint{key: someEndpoints(n)}}
	b.publish(1, c1)
	c := b.frontend()
	c.subscribe(seinev1.TypeEndpoint, key+"/*")
	got, _ := c.take(seinev1.TypeEndpoint)
	if len(got) != n {
		t.Fatalf("%d endpoints", len(got))
	}
	b.until("settled", func(p Proxy) bool { return p.Generation == 1 })
	pushes := testutil.ToFloat64(b.server.metrics.pushes[kindEndpoint])

	c2 := &content{endpoints: map[string][]*seinev1.Endpoint{key: someEndpoints(n)}}
	c2.endpoints[key][4711].Unhealthy = true
	b.publish(2, c2)
	m := c.recv()
	if len(m.Resources) != 1 || len(m.RemovedResources) != 0 || m.Resources[0].Name != key+"/default/b-04711" {
		t.Fatalf("sent %d resources and %d removals", len(m.Resources), len(m.RemovedResources))
	}
	c.ack(m)
	b.until("one sent", func(p Proxy) bool { return p.Generation == 2 })

	c3 := &content{endpoints: map[string][]*seinev1.Endpoint{key: slices.Delete(slices.Clone(c2.endpoints[key]), 17, 18)}}
	b.publish(3, c3)
	m = c.recv()
	if len(m.Resources) != 0 || !slices.Equal(m.RemovedResources, []string{key + "/default/b-00017"}) {
		t.Fatalf("sent %d resources and removed %v", len(m.Resources), m.RemovedResources)
	}
	c.ack(m)
	b.until("one removed", func(p Proxy) bool { return p.Generation == 3 })
	// A snapshot in which nothing of theirs changed sends nothing at all.
	b.publish(4, c3)
	b.until("nothing sent", func(p Proxy) bool { return p.Generation == 4 })
	if d := testutil.ToFloat64(b.server.metrics.pushes[kindEndpoint]) - pushes; d != 2 {
		t.Errorf("%v responses were sent for two changes", d)
	}
}

func TestReconnectSendsWhatChanged(t *testing.T) {
	b := newBench(t, Limits{})
	b.publish(1, billing())
	key := "billing.default.svc.cluster.local/80"
	c := b.frontend()
	c.subscribe(seinev1.TypeEndpoint, key+"/*")
	held, _ := c.take(seinev1.TypeEndpoint)
	c.stop()

	next := billing()
	next.endpoints[key] = next.endpoints[key][1:]
	next.endpoints[key][0].Weight = 7
	b.publish(2, next)
	c = b.frontend()
	c.send(&xdsv3.DeltaDiscoveryRequest{TypeUrl: seinev1.TypeEndpoint, ResourceNamesSubscribe: []string{key + "/*"}, InitialResourceVersions: held})
	got, gone := c.take(seinev1.TypeEndpoint)
	if len(got) != 1 || got[key+"/default/b-00001"] == "" || !slices.Equal(gone, []string{key + "/default/b-00000"}) {
		t.Fatalf("sent %v, removed %v", got, gone)
	}
	delete(held, key+"/default/b-00000")
	maps.Copy(held, got)
	c.stop()

	c = b.frontend()
	c.send(&xdsv3.DeltaDiscoveryRequest{TypeUrl: seinev1.TypeEndpoint, ResourceNamesSubscribe: []string{key + "/*"}, InitialResourceVersions: held})
	c.subscribe(seinev1.TypeSelf, "self")
	if m := c.recv(); m.TypeUrl != seinev1.TypeSelf {
		t.Fatalf("resent %v", m)
	}
}

func TestWhoMayConnect(t *testing.T) {
	for _, tc := range []struct {
		name, id, node string
		code           codes.Code
		sentence       string
	}{
		{"no certificate", "-", frontend, codes.Unauthenticated, "client certificate"},
		{"no SPIFFE ID", "", frontend, codes.Unauthenticated, "SPIFFE ID"},
		{"another's workload", "spiffe://cluster.local/ns/default/sa/billing", frontend, codes.PermissionDenied, "workload default/frontend-1 runs as spiffe://cluster.local/ns/default/sa/frontend"},
		{"another namespace", "spiffe://cluster.local/ns/other/sa/frontend", frontend, codes.PermissionDenied, "runs as"},
		{"another trust domain", "spiffe://evil/ns/default/sa/frontend", frontend, codes.PermissionDenied, "runs as"},
		{"no such workload", frontendID, "default/frontend-2", codes.NotFound, "not in the mesh"},
		{"no node", frontendID, "", codes.InvalidArgument, "NAMESPACE/INSTANCE"},
		{"odd node", frontendID, "a/b/c\n", codes.InvalidArgument, "NAMESPACE/INSTANCE"},
		{"long node", frontendID, "default/" + strings.Repeat("a", 1000), codes.InvalidArgument, "NAMESPACE/INSTANCE"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBench(t, Limits{Wait: time.Millisecond})
			b.publish(1, billing())
			c := b.dial(b.pki.Client(tc.id), tc.node)
			// The server may have refused already: that shows when receiving.
			_ = c.st.SendMsg(&xdsv3.DeltaDiscoveryRequest{TypeUrl: seinev1.TypeSelf, ResourceNamesSubscribe: []string{"self"}, Node: &xdsv3.Node{Id: tc.node}})
			err := c.refused()
			if grpcstatus.Code(err) != tc.code || !strings.Contains(err.Error(), tc.sentence) {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestSiblingIsNotItsSibling: pods of one service account have one SPIFFE ID; the
// certificate says to which of them it was given.
func TestSiblingIsNotItsSibling(t *testing.T) {
	b := newBench(t, Limits{Wait: time.Millisecond})
	b.publish(1, billing())
	hello := func(workload string) *client {
		c := b.dial(b.pki.ClientOf(frontendID, workload), frontend)
		_ = c.st.SendMsg(&xdsv3.DeltaDiscoveryRequest{TypeUrl: seinev1.TypeSelf, ResourceNamesSubscribe: []string{"self"}, Node: &xdsv3.Node{Id: frontend}})
		return c
	}
	for _, thief := range []string{"default/frontend-2", "other/frontend-1"} {
		if err := hello(thief).refused(); grpcstatus.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "was given to "+thief) {
			t.Errorf("%s: %v", thief, err)
		}
	}
	if m := hello(frontend).recv(); len(m.Resources) != 1 {
		t.Errorf("%v", m)
	}
}

func TestWorkloadAppearsAndGoes(t *testing.T) {
	b := newBench(t, Limits{Wait: time.Minute})
	c := b.frontend() // before there is any configuration
	c.subscribe(seinev1.TypeSelf, "self")
	b.publishWith(1, billing(), workloads()[1:])
	b.publish(2, billing())
	if got, _ := c.take(seinev1.TypeSelf); len(got) != 1 {
		t.Fatalf("Self: %v", got)
	}
	w := workloads()
	w[0].ServiceAccount = "other"
	b.publishWith(3, billing(), w)
	if err := c.refused(); grpcstatus.Code(err) != codes.PermissionDenied {
		t.Errorf("after its account changed: %v", err)
	}
}

// TestLeavesBeforeItIsKnown: a proxy that gives up while its workload is waited
// for has no stream, and ends nothing but itself.
func TestLeavesBeforeItIsKnown(t *testing.T) {
	b := newBench(t, Limits{Wait: time.Minute})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	x, err := b.server.open(ctx, peer{id: frontendID}, &xdsv3.DeltaDiscoveryRequest{Node: &xdsv3.Node{Id: frontend}})
	if x != nil || grpcstatus.Code(err) != codes.Canceled {
		t.Errorf("a stream %v, error %v", x, err)
	}
}

func TestExpiredCertificateEndsTheStream(t *testing.T) {
	b := newBench(t, Limits{})
	b.publish(1, billing())
	conf := b.pki.Client("-")
	conf.Certificates = []tls.Certificate{b.pki.Leaf(frontendID, 2*time.Second)}
	c := b.dial(conf, frontend)
	c.subscribe(seinev1.TypeSelf, "self")
	c.take(seinev1.TypeSelf)
	if err := c.refused(); grpcstatus.Code(err) != codes.Unauthenticated || !strings.Contains(err.Error(), "expired") {
		t.Errorf("%v", err)
	}
}

func TestBounds(t *testing.T) {
	b := newBench(t, Limits{Names: 3, Streams: 2, StreamsPerProxy: 1})
	b.publish(1, billing())
	c := b.frontend()
	c.subscribe(seinev1.TypeAnswer, "http/80/BAD", "http/80/a", "http/80/b", "http/80/c", "http/80/d", strings.Repeat("x", seinev1.MaxName+1))
	got, gone := c.take(seinev1.TypeAnswer)
	if len(got) != 3 || !slices.Equal(gone, []string{"http/80/BAD", "http/80/d"}) {
		t.Errorf("sent %v, refused %v", got, gone)
	}
	second := b.frontend()
	second.subscribe(seinev1.TypeSelf, "self")
	if err := second.refused(); grpcstatus.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "has 1 streams") {
		t.Errorf("second stream of one proxy: %v", err)
	}
	silent := b.frontend() // takes a place before it says who it is
	third := b.frontend()
	third.subscribe(seinev1.TypeSelf, "self")
	_ = silent.st.SendMsg(&xdsv3.DeltaDiscoveryRequest{})
	errs := []error{third.refused(), silent.refused()}
	if !slices.ContainsFunc(errs, func(err error) bool { return grpcstatus.Code(err) == codes.ResourceExhausted }) {
		t.Errorf("third stream: %v", errs)
	}
	c.send(&xdsv3.DeltaDiscoveryRequest{TypeUrl: "type.googleapis.com/envoy.config.cluster.v3.Cluster"})
	if err := c.refused(); grpcstatus.Code(err) != codes.InvalidArgument {
		t.Errorf("a type that is not served: %v", err)
	}
}

func TestInventedNamesWait(t *testing.T) {
	b := newBench(t, Limits{NamesBurst: 10, NamesPerSecond: 20})
	b.publish(1, billing())
	c := b.frontend()
	start := time.Now()
	for i := range 4 {
		names := make([]string, 5)
		for j := range names {
			names[j] = fmt.Sprintf("http/80/x%d-%d", i, j)
		}
		c.subscribe(seinev1.TypeAnswer, names...)
	}
	for n := 0; n < 20; {
		m := c.recv()
		n += len(m.Resources)
		c.ack(m)
	}
	// 15 names put the bucket 5 into debt: a quarter of a second is the least.
	if d := time.Since(start); d < 200*time.Millisecond {
		t.Errorf("20 names came within %s", d)
	}
	if n := testutil.ToFloat64(b.server.metrics.throttled); n < 1 {
		t.Error("nothing was counted")
	}
}

// A proxy that does not acknowledge holds up to a window of responses, and
// gets the latest state when it does, not each state between.
func TestSlowReaderGetsTheLatest(t *testing.T) {
	b := newBench(t, Limits{Window: 1})
	b.publish(1, billing())
	c := b.frontend()
	c.subscribe(seinev1.TypeAnswer, "http/80/billing")
	first := c.recv()
	for g := uint64(2); g <= 50; g++ {
		next := billing()
		next.answers["http/80/billing"].Reason = fmt.Sprint(g)
		b.publish(g, next)
	}
	c.ack(first)
	m := c.recv()
	if m.SystemVersionInfo != "50" || len(m.Resources) != 1 {
		t.Fatalf("got %v", m)
	}
	c.ack(m)
	b.until("settled", func(p Proxy) bool { return p.Generation == 50 })
	if n := testutil.ToFloat64(b.server.metrics.pushes[kindAnswer]); n != 2 {
		t.Errorf("%v responses were sent", n)
	}
}

func TestPanicIsOneResourcesError(t *testing.T) {
	b := newBench(t, Limits{})
	b.publish(1, billing())
	c := b.frontend()
	c.subscribe(seinev1.TypeAnswer, "http/80/billing")
	c.take(seinev1.TypeAnswer)
	bad := billing()
	bad.panics = true
	b.publish(2, bad)
	p := b.until("shown", func(p Proxy) bool { return len(p.Rejected) == 1 })
	if r := p.Rejected[0]; !strings.Contains(r.Message, "unforeseen") || r.Version != "" {
		t.Errorf("%+v", r)
	}
	b.publish(3, billing())
	b.until("mended", func(p Proxy) bool { return len(p.Rejected) == 0 && p.Generation == 3 })
}

func TestTooLargeResourceIsNotSent(t *testing.T) {
	b := newBench(t, Limits{ResourceBytes: 1000})
	c1 := billing()
	c1.answers["http/80/large"] = &seinev1.Answer{Reason: strings.Repeat("x", 2000)}
	b.publish(1, c1)
	c := b.frontend()
	c.subscribe(seinev1.TypeAnswer, "http/80/large", "http/80/billing")
	if got, _ := c.take(seinev1.TypeAnswer); len(got) != 1 {
		t.Fatalf("%v", got)
	}
	p := b.until("shown", func(p Proxy) bool { return len(p.Rejected) == 1 })
	if !strings.Contains(p.Rejected[0].Message, "more than") {
		t.Errorf("%+v", p.Rejected)
	}
}

func TestReplicasShareWork(t *testing.T) {
	b := newBench(t, Limits{})
	b.publish(1, billing())
	e := b.server.current.Load()
	w := workloads()[0]
	one, err := b.server.resolve(e, kindAnswer, w, class(w), "http/80/billing")
	if err != nil {
		t.Fatal(err)
	}
	other := *w
	other.Instance = "frontend-2"
	two, _ := b.server.resolve(e, kindAnswer, &other, class(&other), "http/80/billing")
	if !identical(one, two) {
		t.Error("two replicas had the same answer computed twice")
	}
	b.publish(2, billing())
	three, _ := b.server.resolve(b.server.current.Load(), kindAnswer, w, class(w), "http/80/billing")
	if !identical(one, three) {
		t.Error("an answer that did not change has new memory")
	}
	other.Labels = map[string]string{"app": "other"}
	if class(w) == class(&other) {
		t.Error("workloads with different labels are one class")
	}
	if _, err := b.server.resolve(e, kindAnswer, w, class(w), "http/80/late"); err != nil {
		t.Errorf("of an epoch that is over: %v", err)
	}
}

func TestPublishDebounces(t *testing.T) {
	b := newBench(t, Limits{})
	b.publish(1, billing())
	e := b.server.current.Load()
	for g := uint64(2); g < 100; g++ {
		b.world.mu.Lock()
		b.world.gens[g] = billing()
		b.world.mu.Unlock()
		b.server.Publish(mesh.New(g, mesh.Parts{Settings: mesh.DefaultSettings(), Workloads: workloads()}))
	}
	<-e.superseded
	for b.server.Snapshot().Generation != 99 {
		<-b.server.current.Load().superseded
	}
}

func TestNewWantsAPlan(t *testing.T) {
	if _, err := New(Options{}); err == nil {
		t.Error("a server without a plan was made")
	}
	if errors.Is(kindSelf.check("self"), seinev1.ErrName) || kindSelf.check("other") == nil {
		t.Error("names of Self")
	}
}

// TestBounded: a proxy's sentence is one line, is short, and steers no terminal.
func TestBounded(t *testing.T) {
	for in, want := range map[string]string{
		"rule 3: wrong":                 "rule 3: wrong",
		"a\x1b[2J\nb\u009bc\u202ed\x00": "a [2J b c d ",
		"Zürich → 東京":                   "Zürich → 東京",
		strings.Repeat("ü", 600):        strings.Repeat("ü", 512) + "…",
	} {
		if got := bounded(in); got != want {
			t.Errorf("bounded(%q) = %q", in, got)
		}
	}
}
