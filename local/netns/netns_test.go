//go:build linux

package netns

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/seinemesh/seine/local/netns/netnstest"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

func TestMembersReachHubAndEachOther(t *testing.T) {
	var hub *Hub
	home, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()
	// The hub lives in a namespace of its own, so that tests do not meet.
	if err := home.Do(func() (err error) {
		hub, err = NewHub(netip.MustParsePrefix("10.244.0.0/16"))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer hub.Close()
	members := map[string]*NS{}
	for name, addr := range map[string]string{"a": "10.244.1.1", "b": "10.244.200.2"} {
		ns, err := New()
		if err != nil {
			t.Fatal(err)
		}
		defer ns.Close()
		if err := hub.Attach(ns, "v"+name, netip.MustParseAddr(addr)); err != nil {
			t.Fatal(err)
		}
		members[name] = ns
	}
	var l net.Listener
	if err := members["b"].Do(func() (err error) {
		l, err = net.Listen("tcp4", "0.0.0.0:80") // no privilege needed, even so
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, c.RemoteAddr().(*net.TCPAddr).IP.String())
			c.Close()
		}
	}()
	for name, from := range map[string]*NS{"10.244.1.1": members["a"], "10.244.0.1": home, "10.244.200.2": members["b"]} {
		var got []byte
		err := from.Do(func() error {
			c, err := net.Dial("tcp", "10.244.200.2:80")
			if err != nil {
				return err
			}
			defer c.Close()
			got, err = io.ReadAll(c)
			return err
		})
		if err != nil || string(got) != name {
			t.Errorf("from %s: seen as %q, %v", name, got, err)
		}
	}
	ports, err := members["b"].Listening()
	if diff := cmp.Diff(map[uint16]bool{80: true}, ports); err != nil || diff != "" {
		t.Errorf("listening: %v %s", err, diff)
	}
	// Another member with the same address is reached at once: its neighbours
	// remember no other MAC.
	for range 2 {
		if err := hub.Detach("vb"); err != nil {
			t.Fatal(err)
		}
		again, err := New()
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		if err := hub.Attach(again, "vb", netip.MustParseAddr("10.244.200.2")); err != nil {
			t.Fatal(err)
		}
		if err := members["a"].Do(func() error { _, err := net.Dial("tcp", "10.244.200.2:80"); return err }); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("the new member: %v", err)
		}
	}
	if err := hub.Detach("vb"); err != nil {
		t.Fatal(err)
	}
	if err := hub.Detach("vb"); err != nil {
		t.Errorf("a second Detach: %v", err)
	}
	if _, err := hub.handle.LinkByName("vb"); err == nil {
		t.Error("a detached member's link is still there")
	}
}

func TestAttachRefusesForeignAddress(t *testing.T) {
	h := &Hub{Prefix: netip.MustParsePrefix("10.244.0.0/16")}
	if err := h.Attach(nil, "v", netip.MustParseAddr("10.1.1.1")); err == nil || !strings.Contains(err.Error(), "10.244.0.0/16") {
		t.Errorf("got %v", err)
	}
}

func TestStartRefusesDeathSignal(t *testing.T) {
	ns, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	cmd := exec.Command("/proc/self/exe", "-test.run=^$")
	cmd.SysProcAttr = attrWithDeathSignal()
	if err := ns.Start(cmd); err == nil {
		t.Error("a death signal of a thread that ends was accepted")
	}
}

func TestListening(t *testing.T) {
	const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1
   1: 0100007F:0050 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 1 1
   2: 0000000000000000FFFF00000100007F:270F 00000000000000000000000000000000:0000 0A 0 0 0
garbage 0A
   3: zz:zz 0:0 0A
`
	got := map[uint16]bool{}
	listening(strings.NewReader(table), got)
	if diff := cmp.Diff(map[uint16]bool{8080: true, 9999: true}, got); diff != "" {
		t.Error(diff)
	}
}
