package discovery

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	grpcpeer "google.golang.org/grpc/peer"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	xdsv3 "github.com/seinemesh/seine/api/xds/v3"
	"github.com/seinemesh/seine/mesh"
	"github.com/seinemesh/seine/plan"
)

// simulated is the stream of a proxy that acknowledges all that it is sent.
type simulated struct {
	grpc.ServerStream
	ctx      context.Context
	requests chan *xdsv3.DeltaDiscoveryRequest
}

func (s *simulated) Context() context.Context       { return s.ctx }
func (s *simulated) SendHeader(_ metadata.MD) error { return nil }
func (s *simulated) SendMsg(m any) error {
	r := m.(*xdsv3.DeltaDiscoveryResponse)
	select {
	case s.requests <- &xdsv3.DeltaDiscoveryRequest{TypeUrl: r.TypeUrl, ResponseNonce: r.Nonce}:
		return nil
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}

func (s *simulated) RecvMsg(m any) error {
	select {
	case r := <-s.requests:
		into := m.(*xdsv3.DeltaDiscoveryRequest)
		into.Node, into.TypeUrl, into.ResponseNonce, into.ResourceNamesSubscribe = r.Node, r.TypeUrl, r.ResponseNonce, r.ResourceNamesSubscribe
		return nil
	case <-s.ctx.Done():
		return io.EOF
	}
}

// largeMesh is services with ten pods and a route each.
func largeMesh(n int) mesh.Parts {
	p := mesh.Parts{Settings: mesh.DefaultSettings(), Backends: map[string][]mesh.Backend{}}
	p.Settings.Prefixes = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	for i := range n {
		name := fmt.Sprintf("svc-%03d", i)
		host := name + ".shop.svc.cluster.local"
		p.Services = append(p.Services, &mesh.Service{
			Ref: mesh.Ref{Kind: "Service", Namespace: "shop", Name: name}, Host: host, Selector: map[string]string{"app": name},
			Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)})}, Ports: []mesh.Port{{Name: "http", Number: 80, Target: 8080, Protocol: seinev1.Protocol_PROTOCOL_HTTP}},
		})
		p.VirtualServices = append(p.VirtualServices, &mesh.VirtualService{
			Ref: mesh.Ref{Kind: "VirtualService", Namespace: "shop", Name: name}, Hosts: []string{host}, Gateways: []string{"mesh"},
			HTTP: []*seinev1.HttpRule{{Destinations: []*seinev1.Destination{{Host: host, Weight: 100}}}},
		})
		for j := range 10 {
			pod := fmt.Sprintf("%s-%d", name, j)
			a := netip.AddrFrom4([4]byte{10, 128 + byte(j), byte(i >> 8), byte(i)})
			p.Workloads = append(p.Workloads, &mesh.Workload{
				Ref: mesh.Ref{Kind: "Pod", Namespace: "shop", Name: pod}, Instance: pod, App: name, Labels: map[string]string{"app": name, "version": "v1"},
				ServiceAccount: name, Addresses: []netip.Addr{a}, Sidecar: true, Node: fmt.Sprintf("node-%d", j),
			})
			p.Backends["shop/"+name] = append(p.Backends["shop/"+name], mesh.Backend{Address: a, Workload: "shop/" + pod, Ports: map[string]uint32{"http": 8080}, Ready: true})
		}
	}
	return p
}

// connect opens the stream of a workload that calls the services at and after i.
func (s *Server) connect(ctx context.Context, wg *sync.WaitGroup, snap *mesh.Snapshot, w *mesh.Workload, i, calls int) {
	id, _ := url.Parse(mesh.SPIFFE("cluster.local", w.Namespace, w.ServiceAccount))
	leaf := &x509.Certificate{URIs: []*url.URL{id}, KeyUsage: x509.KeyUsageDigitalSignature, NotAfter: time.Now().Add(24 * time.Hour)}
	state := tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}, VerifiedChains: [][]*x509.Certificate{{leaf}}, HandshakeComplete: true}
	ctx = grpcpeer.NewContext(ctx, &grpcpeer.Peer{Addr: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1)}, AuthInfo: credentials.TLSInfo{State: state}})
	st := &simulated{ctx: ctx, requests: make(chan *xdsv3.DeltaDiscoveryRequest, 64)}
	names := map[string][]string{}
	for n := range calls {
		svc := snap.Services[(i+n*7)%len(snap.Services)]
		key := seinev1.ServiceKey(svc.Host, 80)
		names[seinev1.TypeAnswer] = append(names[seinev1.TypeAnswer], "http/80/"+svc.Name, "addr/"+netip.AddrPortFrom(svc.Addresses[0], 80).String())
		names[seinev1.TypeService] = append(names[seinev1.TypeService], key)
		names[seinev1.TypeEndpoint] = append(names[seinev1.TypeEndpoint], key+"/*")
	}
	st.requests <- &xdsv3.DeltaDiscoveryRequest{Node: &xdsv3.Node{Id: w.Key()}, TypeUrl: seinev1.TypeSelf, ResourceNamesSubscribe: []string{seinev1.SelfName}}
	for typeURL, list := range names {
		st.requests <- &xdsv3.DeltaDiscoveryRequest{TypeUrl: typeURL, ResourceNamesSubscribe: list}
	}
	wg.Go(func() {
		if err := s.serve(st); err != nil && ctx.Err() == nil {
			panic(err)
		}
	})
}

// reached waits until every proxy has acknowledged a generation.
func (s *Server) reached(b *testing.B, proxies int, generation uint64) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		if n, least := s.Acknowledged(); n == proxies && least >= generation {
			return
		}
		select {
		case <-tick.C:
		case <-b.Context().Done():
			b.Fatal("the proxies do not acknowledge")
		}
	}
}

func cpu() time.Duration {
	var r syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// BenchmarkPush is what one change costs where 1,000 proxies are connected, each of
// which calls ten of 500 services with ten pods each, until all have acknowledged it.
func BenchmarkPush(b *testing.B) {
	const services, proxies, calls = 500, 1000, 10
	for _, kind := range []string{"endpoint", "everything"} {
		b.Run(kind, func(b *testing.B) {
			s, err := New(Options{
				Plan: Plan{Self: plan.Self, Answer: plan.Answer, Service: plan.Service, Endpoints: plan.Endpoints, Reached: plan.Reached},
				Log:  slog.New(slog.DiscardHandler), Quiet: time.Millisecond,
			})
			if err != nil {
				b.Fatal(err)
			}
			ctx, cancel := context.WithCancel(b.Context())
			var wg sync.WaitGroup
			defer func() { cancel(); wg.Wait() }()
			wg.Go(func() { _ = s.Run(ctx) })
			parts := largeMesh(services)
			snap := mesh.New(1, parts)
			s.Publish(snap)
			for i := range proxies {
				s.connect(ctx, &wg, snap, snap.Workloads[i*5], i, calls)
			}
			s.reached(b, proxies, 1)
			start := cpu()
			b.ReportAllocs()
			b.ResetTimer()
			for n := range b.N {
				g := uint64(n + 2)
				if kind == "endpoint" {
					list := slices.Clone(snap.Backends["shop/svc-007"])
					list[3].Ready = n%2 != 0
					backends := make(map[string][]mesh.Backend, len(snap.Backends))
					for k, v := range snap.Backends {
						backends[k] = v
					}
					backends["shop/svc-007"] = list
					snap = snap.Patched(g, mesh.Patch{Workloads: snap.Workloads, Backends: backends, Listed: []string{"shop/svc-007"}})
				} else {
					snap = mesh.New(g, parts)
				}
				s.Publish(snap)
				s.reached(b, proxies, g)
			}
			b.ReportMetric(float64(cpu()-start)/float64(b.N)/1e6, "cpu-ms/op")
		})
	}
}
