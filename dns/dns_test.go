package dns

import (
	"context"
	"errors"
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
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// table answers for a few names, and says that those of mesh.test are its own.
func table(_ netip.Addr, name string) (addrs []netip.Addr, zone string) {
	switch {
	case name == "billing.mesh.test":
		return []netip.Addr{netip.MustParseAddr("10.96.7.7")}, ""
	case name == "both.mesh.test":
		return []netip.Addr{netip.MustParseAddr("10.96.7.8"), netip.MustParseAddr("fd96::8")}, ""
	case name == "many.mesh.test":
		for i := range byte(102) {
			addrs = append(addrs, netip.AddrFrom4([4]byte{10, 244, 3, i}))
		}
		return addrs, ""
	case strings.HasSuffix(name, ".mesh.test"):
		return nil, "mesh.test"
	}
	return nil, ""
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
	s := New(Options{Lookup: table, Forward: outside})
	for _, tt := range []struct {
		name  string
		qtype uint16
		rcode string
		want  []string
	}{
		{"billing.mesh.test", dns.TypeA, "NOERROR", []string{"10.96.7.7"}},
		{"Billing.Mesh.Test", dns.TypeA, "NOERROR", []string{"10.96.7.7"}},
		// The name exists, the record does not: nobody else is asked.
		{"billing.mesh.test", dns.TypeAAAA, "NOERROR", nil},
		{"billing.mesh.test", dns.TypeTXT, "NOERROR", nil},
		{"both.mesh.test", dns.TypeAAAA, "NOERROR", []string{"fd96::8"}},
		{"both.mesh.test", dns.TypeANY, "NOERROR", []string{"10.96.7.8", "fd96::8"}},
		{"none.mesh.test", dns.TypeA, "NXDOMAIN", nil},
		{"www.example.com", dns.TypeA, "NOERROR", []string{"192.0.2.1"}},
	} {
		rcode, got := ask(s, "10.244.9.9", tt.name, tt.qtype)
		if rcode != tt.rcode || !slices.Equal(got, tt.want) {
			t.Errorf("%s %s: %s %v, want %s %v", tt.name, dns.TypeToString[tt.qtype], rcode, got, tt.rcode, tt.want)
		}
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
		if got, _ := ask(New(Options{Lookup: table, Forward: tt.forward}), "10.244.1.1", "www.example.com", dns.TypeA); got != tt.want {
			t.Errorf("got %s, want %s", got, tt.want)
		}
	}
}

func TestStrangeQuestions(t *testing.T) {
	s := New(Options{Lookup: table})
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
	at := serve(t, New(Options{Lookup: table}))
	q := new(dns.Msg)
	q.SetQuestion("many.mesh.test.", dns.TypeA)
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
	resolver := serve(t, New(Options{Lookup: func(_ netip.Addr, name string) ([]netip.Addr, string) {
		if name != "www.example.com" {
			return nil, "example.com"
		}
		return []netip.Addr{netip.MustParseAddr("192.0.2.9")}, ""
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
	s := New(Options{Lookup: table, Forward: DialUnix(path)})
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
	for _, name := range []string{"billing.mesh.test.", "none.mesh.test.", "www.example.com.", "."} {
		q := new(dns.Msg)
		q.SetQuestion(name, dns.TypeA)
		q.SetEdns0(4096, true)
		data, err := q.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	s := New(Options{Lookup: table, Forward: outside})
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
