//go:build linux

package proof

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/net/netutil"

	rules "github.com/seinemesh/seine/capture"
	"github.com/seinemesh/seine/local/netns/netnstest"
	"github.com/seinemesh/seine/proxy/capture"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

var mine = []netip.Addr{netip.MustParseAddr("10.9.8.7"), netip.MustParseAddr("fd00:9::7")}

// pod gives this process's own network namespace a device with addresses and
// default routes, as a pod has.
func pod(t *testing.T) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	lo, err := netlink.LinkByName("lo")
	must(err)
	must(netlink.LinkSetUp(lo))
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "peer0"}
	must(netlink.LinkAdd(veth))
	t.Cleanup(func() { _ = netlink.LinkDel(veth) })
	peer, err := netlink.LinkByName("peer0")
	must(err)
	must(netlink.LinkSetUp(peer))
	must(netlink.LinkSetUp(veth))
	for _, a := range mine {
		bits := a.BitLen()
		must(netlink.AddrAdd(veth, &netlink.Addr{
			IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits-8, bits)}, Flags: syscall.IFA_F_NODAD,
		}))
		family := netlink.FAMILY_V4
		if a.Is6() {
			family = netlink.FAMILY_V6
		}
		all := &net.IPNet{IP: make(net.IP, bits/8), Mask: net.CIDRMask(0, bits)}
		must(netlink.RouteAdd(&netlink.Route{LinkIndex: veth.Attrs().Index, Dst: all, Family: family}))
	}
}

// sidecar listens as the proxy does and shows p what comes.
func sidecar(t *testing.T, p *Proof, port string, inbound bool) {
	t.Helper()
	l, err := net.Listen("tcp", ":"+port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			f, _ := c.(*net.TCPConn).File()
			_ = c.Close()
			fd, _ := syscall.Dup(int(f.Fd()))
			_ = f.Close()
			to, err := capture.OriginalDst(fd)
			if err != nil || !p.Divert(fd, to, inbound) {
				_ = syscall.Close(fd)
			}
		}
	}()
}

func install(t *testing.T, change func(*rules.Rules)) {
	t.Helper()
	r := rules.Pod()
	// This process plays the sidecar.
	r.SidecarUID, r.SidecarGID = []uint32{uint32(os.Getuid())}, nil
	change(&r)
	if err := rules.Install(rules.Here, r); err != nil {
		t.Fatal(err)
	}
}

func flush(t *testing.T) {
	t.Helper()
	conn, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	conn.DelTable(&nftables.Table{Name: rules.TableName, Family: nftables.TableFamilyINet})
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
}

func TestProof(t *testing.T) {
	t.Cleanup(func() { goleak.VerifyNone(t) }) // after the listeners are closed
	pod(t)
	changed := make(chan string, 8)
	p := New(Options{Port: 15021, Addresses: rules.ProofAddresses(), Every: 10 * time.Millisecond, Changed: func(s string) { changed <- s }})
	// What answers at the readiness port itself is not the sidecar by way of the rules.
	direct, err := net.Listen("tcp", ":15021")
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle(Path, p)
	mux.HandleFunc("/ready", func(w http.ResponseWriter, r *http.Request) {
		if Bypassed(r) {
			_, _ = io.WriteString(w, "bypassed")
		}
	})
	server := &http.Server{Handler: mux, ConnContext: ConnContext}
	done := make(chan struct{}, 2)
	for _, l := range []net.Listener{direct, netutil.LimitListener(p, 8)} {
		go func() { _ = server.Serve(l); done <- struct{}{} }()
	}
	sidecar(t, p, "15001", false)
	sidecar(t, p, "15006", true)

	if p.Failure() == "" {
		t.Error("holds before anything was proved")
	}
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan struct{})
	go func() { defer close(ran); p.Run(ctx) }()
	defer func() {
		cancel()
		<-ran
		_ = server.Close()
		_ = p.Close()
		<-done
		<-done
	}()
	expect := func(want string) {
		t.Helper()
		limit := time.After(20 * time.Second)
		for last := p.Failure(); ; {
			if want == "" && last == "" || want != "" && strings.Contains(last, want) {
				return
			}
			select {
			case last = <-changed:
			case <-limit:
				t.Fatalf("last %q, want %q", last, want)
			}
		}
	}
	expect("are not redirected")
	install(t, func(*rules.Rules) {})
	expect("")
	flush(t)
	expect("outbound connections are not redirected to the sidecar (IPv4)")

	// Whatever the workload excludes, the proof is about the rules.
	install(t, func(r *rules.Rules) {
		r.IncludeOutboundCIDRs, r.IncludeInboundPorts = []netip.Prefix{}, []uint16{}
		r.ExcludeInterfaces = []string{"eth0"}
		r.ExcludeOutboundPorts = []uint16{15021}
	})
	expect("")
}

func TestBypassed(t *testing.T) {
	request := func(from, to string, captured any) *http.Request {
		local, err := net.ResolveTCPAddr("tcp", to)
		if err != nil {
			t.Fatal(err)
		}
		ctx := context.WithValue(t.Context(), http.LocalAddrContextKey, net.Addr(local))
		if captured != nil {
			ctx = context.WithValue(ctx, contextKey{}, captured)
		}
		r, err := http.NewRequestWithContext(ctx, "GET", "http://pod/", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.RemoteAddr = from
		return r
	}
	for _, k := range []struct {
		from, to string
		captured any
		want     bool
	}{
		{"10.0.0.1:1", "10.9.8.7:15021", nil, true},
		{"[fd00::1]:1", "[fd00:9::7]:15021", nil, true},
		{"10.0.0.1:1", "10.9.8.7:15021", true, false},
		{"127.0.0.1:1", "127.0.0.1:15021", nil, false},
		{"10.9.8.7:1", "10.9.8.7:15021", nil, false},
	} {
		if got := Bypassed(request(k.from, k.to, k.captured)); got != k.want {
			t.Errorf("%s → %s, captured %v: %v", k.from, k.to, k.captured, got)
		}
	}
}

func TestDivertLeavesOthers(t *testing.T) {
	p := New(Options{Port: 15021, Addresses: rules.ProofAddresses()})
	for _, k := range []struct {
		to      string
		inbound bool
	}{{"10.9.8.7:8080", true}, {"10.9.8.7:15021", false}, {"192.0.2.127:80", false}} {
		if p.Divert(-1, netip.MustParseAddrPort(k.to), k.inbound) {
			t.Errorf("%s, inbound %v: taken", k.to, k.inbound)
		}
	}
}
