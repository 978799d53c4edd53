package capture

import (
	"context"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/seinemesh/seine/local/netns"
	"github.com/seinemesh/seine/local/netns/netnstest"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

const (
	mine  = "10.244.0.10"
	other = "10.244.0.20"
)

// bench is two namespaces behind a hub; the rules are in the first.
type bench struct{ mine, other, home *netns.NS }

func newBench(t *testing.T, r Rules) bench {
	t.Helper()
	must := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	space := func() *netns.NS {
		ns, err := netns.New()
		must(err)
		t.Cleanup(func() { ns.Close() })
		return ns
	}
	home := space()
	var hub *netns.Hub
	must(home.Do(func() (err error) { hub, err = netns.NewHub(netip.MustParsePrefix("10.244.0.0/16")); return err }))
	t.Cleanup(hub.Close)
	b := bench{space(), space(), home}
	must(hub.Attach(b.mine, "vmine", netip.MustParseAddr(mine)))
	must(hub.Attach(b.other, "vother", netip.MustParseAddr(other)))
	must(Install(b.mine.FD(), r))
	return b
}

// listen accepts on addr in ns and tells each connection's original destination.
func listen(t *testing.T, ns *netns.NS, addr string) <-chan string {
	t.Helper()
	got := make(chan string, 64)
	err := ns.Do(func() error {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				got <- original(c.(*net.TCPConn))
				c.Close()
			}
		}()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// original is SO_ORIGINAL_DST, or the local address of a connection that was
// not redirected.
func original(c *net.TCPConn) string {
	raw, err := c.SyscallConn()
	if err != nil {
		return err.Error()
	}
	var out string
	_ = raw.Control(func(fd uintptr) {
		const soOriginalDst = 80
		// The answer is a sockaddr_in; this call reads 16 bytes into a like-sized struct.
		out = c.LocalAddr().String()
		if m, err := unix.GetsockoptIPv6Mreq(int(fd), unix.SOL_IP, soOriginalDst); err == nil {
			a := m.Multiaddr
			out = netip.AddrPortFrom(netip.AddrFrom4([4]byte(a[4:8])), uint16(a[2])<<8|uint16(a[3])).String()
		}
		if out == c.LocalAddr().String() {
			out = "not redirected: " + out
		}
	})
	return out
}

type call struct {
	to     string
	mark   int
	source string
}

// dial connects from ns; the error is nil, ECONNREFUSED or a surprise.
func dial(ns *netns.NS, c call) error {
	return ns.Do(func() error {
		conn, err := c.dialer().DialContext(context.Background(), "tcp", c.to)
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// ask sends a packet from ns and waits for an answer.
func ask(ns *netns.NS, c call, packet string) error {
	return ns.Do(func() error {
		conn, err := c.dialer().DialContext(context.Background(), "udp", c.to)
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			return err
		}
		if _, err := conn.Write([]byte(packet)); err != nil {
			return err
		}
		_, err = conn.Read(make([]byte, 64))
		return err
	})
}

func (c call) dialer() *net.Dialer {
	d := &net.Dialer{Timeout: 10 * time.Second, Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		if c.mark != 0 {
			_ = raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, c.mark) })
		}
		return err
	}}
	if c.source != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(c.source)}
	}
	return d
}

func rules() Rules {
	r := Default()
	r.SidecarUID, r.SidecarGID = nil, nil
	r.ExcludeOutboundPorts = []uint16{9001}
	r.ExcludeOutboundCIDRs = []netip.Prefix{netip.MustParsePrefix("10.244.0.1/32")}
	r.ExcludeOutbound = []netip.AddrPort{netip.MustParseAddrPort(other + ":53")}
	r.ExcludeInboundPorts = append(r.ExcludeInboundPorts, 9002)
	return r
}

func TestRedirect(t *testing.T) {
	b := newBench(t, rules())
	outbound, inbound := listen(t, b.mine, "0.0.0.0:15001"), listen(t, b.mine, "0.0.0.0:15006")
	app, status, excluded := listen(t, b.mine, "0.0.0.0:8080"), listen(t, b.mine, "0.0.0.0:15020"), listen(t, b.mine, "0.0.0.0:9002")
	far, farExcluded := listen(t, b.other, "0.0.0.0:8080"), listen(t, b.other, "0.0.0.0:9001")
	resolver, hub := listen(t, b.other, "0.0.0.0:53"), listen(t, b.home, "0.0.0.0:8080")

	for _, tt := range []struct {
		name string
		from *netns.NS
		call call
		on   <-chan string
		want string
	}{
		{"outbound", b.mine, call{to: other + ":8080"}, outbound, other + ":8080"},
		{"outbound to a virtual address", b.mine, call{to: "10.96.3.4:80"}, outbound, "10.96.3.4:80"},
		{"outbound to nowhere at all", b.mine, call{to: "203.0.113.7:443"}, outbound, "203.0.113.7:443"},
		{"the mark escapes", b.mine, call{to: other + ":8080", mark: 1337}, far, "not redirected: " + other + ":8080"},
		{"another mark does not", b.mine, call{to: other + ":8080", mark: 1338}, outbound, other + ":8080"},
		{"excluded port", b.mine, call{to: other + ":9001"}, farExcluded, "not redirected: " + other + ":9001"},
		{"excluded address and port", b.mine, call{to: other + ":53"}, resolver, "not redirected: " + other + ":53"},
		{"excluded CIDR", b.mine, call{to: "10.244.0.1:8080"}, hub, "not redirected: 10.244.0.1:8080"},
		{"loopback", b.mine, call{to: "127.0.0.1:8080"}, app, "not redirected: 127.0.0.1:8080"},
		{"own address", b.mine, call{to: mine + ":8080"}, app, "not redirected: " + mine + ":8080"},
		{"sidecar to own address: inbound", b.mine, call{to: mine + ":8080", mark: 1337}, inbound, mine + ":8080"},
		{"sidecar to application by 127.0.0.1", b.mine, call{to: "127.0.0.1:8080", mark: 1337}, app, "not redirected: 127.0.0.1:8080"},
		{"sidecar to application from 127.0.0.6", b.mine, call{to: mine + ":8080", mark: 1337, source: "127.0.0.6"}, app, "not redirected: " + mine + ":8080"},
		{"inbound", b.other, call{to: mine + ":8080"}, inbound, mine + ":8080"},
		{"inbound, nobody listens", b.other, call{to: mine + ":7"}, inbound, mine + ":7"},
		{"inbound to the sidecar's port", b.other, call{to: mine + ":15001"}, inbound, mine + ":15001"},
		{"inbound, health and metrics", b.other, call{to: mine + ":15020"}, status, "not redirected: " + mine + ":15020"},
		{"inbound, excluded port", b.other, call{to: mine + ":9002"}, excluded, "not redirected: " + mine + ":9002"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := dial(tt.from, tt.call); err != nil {
				t.Fatal(err)
			}
			select {
			case got := <-tt.on:
				if got != tt.want {
					t.Errorf("original destination %q, want %q", got, tt.want)
				}
			case <-time.After(10 * time.Second):
				t.Error("the connection went somewhere else")
			}
		})
	}
}

func TestIncludes(t *testing.T) {
	r := rules()
	r.IncludeOutboundCIDRs = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")}
	r.IncludeInboundPorts = []uint16{8080}
	b := newBench(t, r)
	outbound, inbound := listen(t, b.mine, "0.0.0.0:15001"), listen(t, b.mine, "0.0.0.0:15006")
	direct, far := listen(t, b.mine, "0.0.0.0:8081"), listen(t, b.other, "0.0.0.0:8080")
	for _, tt := range []struct {
		from *netns.NS
		to   string
		on   <-chan string
	}{
		{b.mine, "10.97.1.1:80", outbound},
		{b.mine, other + ":8080", far},
		{b.other, mine + ":8080", inbound},
		{b.other, mine + ":8081", direct},
	} {
		if err := dial(tt.from, call{to: tt.to}); err != nil {
			t.Fatalf("%s: %v", tt.to, err)
		}
		select {
		case <-tt.on:
		case <-time.After(10 * time.Second):
			t.Errorf("%s went somewhere else", tt.to)
		}
	}
}

// TestDNS: the workload's questions go to the sidecar, over UDP and TCP; those of the
// sidecar, of whoever is excluded, and all other UDP go where they are sent.
func TestDNS(t *testing.T) {
	r := rules()
	r.DNSPort = 15053
	b := newBench(t, r)
	sidecar, sidecarTCP := packets(t, b.mine, "127.0.0.1:15053"), listen(t, b.mine, "127.0.0.1:15053")
	local, far, echo := packets(t, b.mine, "127.0.0.1:53"), packets(t, b.other, "0.0.0.0:53"), packets(t, b.other, "0.0.0.0:5353")
	hub := packets(t, b.home, "0.0.0.0:53")
	for _, tt := range []struct {
		name string
		call call
		on   <-chan string
	}{
		{"to a resolver that is nowhere", call{to: "10.96.0.10:53"}, sidecar},
		{"of the sidecar", call{to: other + ":53", mark: 1337}, far},
		{"to an excluded CIDR", call{to: "10.244.0.1:53"}, hub},
		{"to a resolver of the pod's own", call{to: "127.0.0.1:53"}, local},
		{"to another port", call{to: other + ":5353"}, echo},
	} {
		// The answer comes from where the question was sent, or the socket does not take it.
		if err := ask(b.mine, tt.call, tt.name); err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		select {
		case got := <-tt.on:
			if got != tt.name {
				t.Errorf("%s: %q", tt.name, got)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("%s: somebody else answered", tt.name)
		}
	}
	if err := dial(b.mine, call{to: "10.96.0.10:53"}); err != nil {
		t.Fatal(err)
	}
	if got := <-sidecarTCP; got != "10.96.0.10:53" {
		t.Errorf("over TCP: %q", got)
	}
}

// packets answers each packet on addr in ns with itself, and tells it.
func packets(t *testing.T, ns *netns.NS, addr string) <-chan string {
	t.Helper()
	got := make(chan string, 64)
	err := ns.Do(func() error {
		c, err := net.ListenPacket("udp", addr)
		if err != nil {
			return err
		}
		t.Cleanup(func() { c.Close() })
		go func() {
			b := make([]byte, 512)
			for {
				n, from, err := c.ReadFrom(b)
				if err != nil {
					return
				}
				got <- string(b[:n])
				_, _ = c.WriteTo(b[:n], from)
			}
		}()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestInstallAgain(t *testing.T) {
	b := newBench(t, rules())
	r := rules()
	r.OutboundPort = 15011
	if err := Install(b.mine.FD(), r); err != nil {
		t.Fatal(err)
	}
	second := listen(t, b.mine, "0.0.0.0:15011")
	if err := dial(b.mine, call{to: other + ":8080"}); err != nil {
		t.Fatal(err)
	}
	<-second
}
