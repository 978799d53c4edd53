package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	"go.uber.org/goleak"

	"github.com/seinemesh/seine/config"
	"github.com/seinemesh/seine/mesh"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const resources = `
apiVersion: v1
kind: Service
metadata: {name: billing-service}
spec: {selector: {app: billing}, ports: [{name: http, port: 8080}], clusterIP: 10.96.7.7}
---
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {selector: {app: cart}, ports: [{name: http, port: 8080}], clusterIP: 10.96.7.8}
---
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: None, selector: {app: db}, ports: [{name: tcp, port: 5432}]}
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec: {clusterIP: None, selector: {app: nobody}, ports: [{name: tcp, port: 5432}]}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: db-1, labels: {app: db}}
spec: {address: 10.244.1.1}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: db-2, labels: {app: db}}
spec: {address: 10.244.1.2}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: cart-1, namespace: shop, labels: {app: cart}}
spec: {address: 10.244.2.1}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: outside}
spec:
  hosts: [api.example.com]
  ports: [{number: 443, name: tls, protocol: TLS}]
  location: MESH_EXTERNAL
  resolution: DNS
`

func snapshot(t *testing.T, text string) *mesh.Snapshot {
	t.Helper()
	r := config.Build([]config.File{{Name: "mesh.yaml", Data: []byte(text)}}, config.Options{})
	if err := r.Findings.Err(); err != nil {
		t.Fatal(err)
	}
	return r.Snapshot
}

// outside answers everything that is forwarded with one address.
func outside(_ context.Context, q *dns.Msg) (*dns.Msg, error) {
	r := new(dns.Msg)
	r.SetReply(q)
	r.Answer = []dns.RR{&dns.A{Hdr: header(q.Question[0].Name, dns.TypeA), A: net.IPv4(192, 0, 2, 1)}}
	return r, nil
}

func ask(s *Server, from, name string, qtype uint16) (rcode string, answers []string) {
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(name), qtype)
	r := s.Answer(context.Background(), netip.MustParseAddr(from), q)
	for _, rr := range r.Answer {
		switch a := rr.(type) {
		case *dns.A:
			answers = append(answers, a.A.String())
		case *dns.AAAA:
			answers = append(answers, a.AAAA.String())
		}
	}
	slices.Sort(answers)
	return dns.RcodeToString[r.Rcode], answers
}

func TestAnswers(t *testing.T) {
	s := New(Options{Lookup: config.Lookup, Forward: outside})
	s.Set(snapshot(t, resources))
	const anybody, shop = "10.244.9.9", "10.244.2.1"
	billing := []string{"10.96.7.7"}
	for _, tt := range []struct {
		from, name string
		qtype      uint16
		rcode      string
		want       []string
	}{
		{anybody, "billing-service", dns.TypeA, "NOERROR", billing},
		{anybody, "Billing-Service.default", dns.TypeA, "NOERROR", billing},
		{anybody, "billing-service.default.svc", dns.TypeA, "NOERROR", billing},
		{anybody, "billing-service.default.svc.cluster.local", dns.TypeA, "NOERROR", billing},
		{anybody, "billing-service.default.svc.cluster.local", dns.TypeAAAA, "NOERROR", nil},
		{anybody, "billing-service", dns.TypeTXT, "NOERROR", nil},
		{anybody, "cart", dns.TypeA, "NXDOMAIN", nil},
		{shop, "cart", dns.TypeA, "NOERROR", []string{"10.96.7.8"}},
		{anybody, "cart.shop", dns.TypeA, "NOERROR", []string{"10.96.7.8"}},
		{anybody, "db", dns.TypeA, "NOERROR", []string{"10.244.1.1", "10.244.1.2"}},
		{anybody, "db-2.db", dns.TypeA, "NOERROR", []string{"10.244.1.2"}},
		{anybody, "nobody", dns.TypeA, "NXDOMAIN", nil},
		{anybody, "none.default.svc.cluster.local", dns.TypeA, "NXDOMAIN", nil},
		{anybody, "www.example.com.default.svc.cluster.local", dns.TypeA, "NXDOMAIN", nil},
		{anybody, "cluster.local", dns.TypeA, "NXDOMAIN", nil},
		{anybody, "singlelabel", dns.TypeA, "NXDOMAIN", nil},
		{anybody, "www.example.com", dns.TypeA, "NOERROR", []string{"192.0.2.1"}},
	} {
		rcode, got := ask(s, tt.from, tt.name, tt.qtype)
		if rcode != tt.rcode || !slices.Equal(got, tt.want) {
			t.Errorf("%s %s from %s: %s %v, want %s %v", tt.name, dns.TypeToString[tt.qtype], tt.from, rcode, got, tt.rcode, tt.want)
		}
	}
	// A host of a ServiceEntry has an address of the mesh's own.
	if rcode, got := ask(s, anybody, "api.example.com", dns.TypeA); rcode != "NOERROR" || len(got) != 1 || !config.DefaultVIPs.Contains(netip.MustParseAddr(got[0])) {
		t.Errorf("a ServiceEntry's host: %s %v", rcode, got)
	}
	s.Set(snapshot(t, strings.ReplaceAll(resources, "10.96.7.7", "10.96.9.9")))
	if _, got := ask(s, anybody, "billing-service", dns.TypeA); !slices.Equal(got, []string{"10.96.9.9"}) {
		t.Errorf("after a change: %v", got)
	}
}

func TestNobodyOutside(t *testing.T) {
	for _, tt := range []struct {
		forward func(context.Context, *dns.Msg) (*dns.Msg, error)
		want    string
	}{
		{nil, "NXDOMAIN"},
		{func(context.Context, *dns.Msg) (*dns.Msg, error) { return nil, ErrNoResolver }, "NXDOMAIN"},
		{func(context.Context, *dns.Msg) (*dns.Msg, error) { return nil, errors.New("timeout") }, "SERVFAIL"},
	} {
		if got, _ := ask(New(Options{Lookup: config.Lookup, Forward: tt.forward}), "10.244.1.1", "www.example.com", dns.TypeA); got != tt.want {
			t.Errorf("got %s, want %s", got, tt.want)
		}
	}
}

func TestStrangeQuestions(t *testing.T) {
	s := New(Options{Lookup: config.Lookup})
	for name, edit := range map[string]func(*dns.Msg){
		"no question":   func(m *dns.Msg) { m.Question = nil },
		"two questions": func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) },
		"chaos":         func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS },
		"an update":     func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate },
	} {
		q := new(dns.Msg)
		q.SetQuestion("billing.", dns.TypeA)
		edit(q)
		if r := s.Answer(context.Background(), netip.Addr{}, q); r.Rcode != dns.RcodeNotImplemented {
			t.Errorf("%s: %s", name, dns.RcodeToString[r.Rcode])
		}
	}
}

// serve runs the server on loopback sockets and returns their address.
func serve(t *testing.T, s *Server) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pc, err := net.ListenPacket("udp", l.Addr().String())
	if err != nil {
		t.Skip("the UDP port of the same number is taken") // rare, and says nothing
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, pc, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Serve: %v", err)
		}
	})
	return l.Addr().String()
}

func TestServe(t *testing.T) {
	var many strings.Builder
	for i := range 100 {
		fmt.Fprintf(&many, "---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\n"+
			"metadata: {name: many-%d, labels: {app: db}}\nspec: {address: 10.244.3.%d}\n", i, i)
	}
	s := New(Options{Lookup: config.Lookup})
	s.Set(snapshot(t, resources+many.String()))
	at := serve(t, s)
	q := new(dns.Msg)
	q.SetQuestion("db.default.svc.cluster.local.", dns.TypeA)
	udp, _, err := (&dns.Client{}).Exchange(q, at)
	if err != nil || !udp.Truncated || len(udp.Answer) == 102 {
		t.Errorf("over UDP: %v, truncated %v, %d answers", err, udp.Truncated, len(udp.Answer))
	}
	tcp, _, err := (&dns.Client{Net: "tcp"}).Exchange(q, at)
	if err != nil || len(tcp.Answer) != 102 {
		t.Errorf("over TCP: %v, %d answers", err, len(tcp.Answer))
	}
}

// The host's side: what the mesh asks over the socket reaches a real resolver.
func TestUpstream(t *testing.T) {
	resolver := serve(t, New(Options{Lookup: func(_ *mesh.Snapshot, _, name string) ([]netip.Addr, bool) {
		return []netip.Addr{netip.MustParseAddr("192.0.2.9")}, name == "www.example.com"
	}}))
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	dead := netip.MustParseAddrPort("127.0.0.1:1") // asked first; refuses
	go func() {
		done <- ServeUnix(ctx, l, func() *Upstream {
			return &Upstream{Servers: []netip.AddrPort{dead, netip.MustParseAddrPort(resolver)}}
		})
	}()
	defer func() { cancel(); <-done }()
	s := New(Options{Lookup: config.Lookup, Forward: DialUnix(path)})
	rcode, got := ask(s, "10.244.1.1", "www.example.com", dns.TypeA)
	if diff := cmp.Diff([]string{"192.0.2.9"}, got); rcode != "NOERROR" || diff != "" {
		t.Errorf("%s %s", rcode, diff)
	}
}

func TestReadUpstream(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(path, []byte("# comment\nnameserver 192.0.2.53\nnameserver nonsense\nsearch example.com\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	want := []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53")}
	if got := ReadUpstream(path).Servers; !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	if _, err := ReadUpstream(path+".none").Exchange(context.Background(), new(dns.Msg)); !errors.Is(err, ErrNoResolver) {
		t.Errorf("got %v", err)
	}
}

// Whatever arrives, there is one answer, with the question's id.
func FuzzAnswer(f *testing.F) {
	for _, name := range []string{"billing-service.", "db.default.svc.cluster.local.", "www.example.com.", "."} {
		q := new(dns.Msg)
		q.SetQuestion(name, dns.TypeA)
		q.SetEdns0(4096, true)
		data, err := q.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	r := config.Build([]config.File{{Name: "mesh.yaml", Data: []byte(resources)}}, config.Options{})
	s := New(Options{Lookup: config.Lookup, Forward: outside})
	s.Set(r.Snapshot)
	f.Fuzz(func(t *testing.T, data []byte) {
		q := new(dns.Msg)
		if q.Unpack(data) != nil {
			return
		}
		reply := s.Answer(context.Background(), netip.MustParseAddr("10.244.1.1"), q)
		if reply.Id != q.Id || !reply.Response {
			t.Errorf("%v", reply)
		}
	})
}

func FuzzReadUpstream(f *testing.F) {
	f.Add([]byte("nameserver 192.0.2.53\noptions ndots:5\n"))
	f.Add([]byte("nameserver\nnameserver fe80::1%eth0\nsearch\n\x00"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(dir, "resolv.conf")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, s := range ReadUpstream(path).Servers {
			if !s.IsValid() {
				t.Errorf("%v", s)
			}
		}
	})
}
