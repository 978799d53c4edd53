package local

import (
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
)

// A second mesh without isolation has addresses of its own.
func TestFreeLoopbacks(t *testing.T) {
	first := freeLoopbacks()
	held, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IP(first.Addr().Next().AsSlice()), Port: portXDS})
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if second := freeLoopbacks(); second.Overlaps(first) || !second.Addr().IsLoopback() {
		t.Errorf("%s, and then %s", first, second)
	}
}

func TestCanListen(t *testing.T) {
	held, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	at := netip.MustParseAddrPort(held.Addr().String())
	if err := canListen(at.Addr(), at.Port()); err == nil || !strings.Contains(err.Error(), at.String()+" is in use") {
		t.Errorf("got %v", err)
	}
	if err := canListen(netip.MustParseAddr("127.77.255.254"), at.Port()); err != nil {
		t.Errorf("another address: %v", err)
	}
	start, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start")
	if err != nil || os.Geteuid() == 0 || strings.TrimSpace(string(start)) != "1024" {
		return // everybody may
	}
	if err := canListen(netip.MustParseAddr("127.77.255.254"), 1); err == nil || !strings.Contains(err.Error(), "needs root without isolation") {
		t.Errorf("got %v", err)
	}
}
