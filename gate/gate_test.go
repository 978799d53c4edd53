package gate

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open makes a gate on the loopback device, whose accepted connections are sent
// on the channel.
func open(t *testing.T, places int) (*Listener, <-chan net.Conn) {
	t.Helper()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := New(inner, places)
	accepted, ended := make(chan net.Conn, 2*places), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-ended
		for len(accepted) > 0 {
			_ = (<-accepted).Close()
		}
	})
	return l, accepted
}

// dial connects from one of the loopback device's many addresses.
func dial(t *testing.T, l net.Listener, from string) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 0))}
	c, err := d.DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// lost waits until the other end has closed c.
func lost(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("it is still open: %v", err)
	}
}

func TestNobodyIsKeptOut(t *testing.T) {
	const places = 8
	l, accepted := open(t, places)
	var greedy []net.Conn
	for range places {
		greedy = append(greedy, dial(t, l, "127.0.0.2"))
		<-accepted
	}
	// One more of the same address finds no place.
	lost(t, dial(t, l, "127.0.0.2"))
	// A stranger does, and the oldest of who has most is gone.
	probe := dial(t, l, "127.0.0.3")
	in := <-accepted
	lost(t, greedy[0])
	if got := l.Turned(); got != 2 {
		t.Errorf("%d turned away, want 2", got)
	}
	// Its own place is not taken by who has more.
	lost(t, dial(t, l, "127.0.0.2"))
	if _, err := in.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(probe, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	// A place that is given up is there again; giving it up twice gives up one.
	_ = in.Close()
	_ = in.Close()
	dial(t, l, "127.0.0.2")
	<-accepted
	lost(t, dial(t, l, "127.0.0.2"))
}

func TestAddress(t *testing.T) {
	tcp := func(s string) net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(s)) }
	for _, tc := range []struct {
		in   net.Addr
		want netip.Addr
	}{
		{tcp("10.0.0.1:80"), netip.MustParseAddr("10.0.0.1")},
		{tcp("[::ffff:10.0.0.1]:81"), netip.MustParseAddr("10.0.0.1")},
		{tcp("[fe80::1%1]:80"), netip.MustParseAddr("fe80::1")},
		{&net.UnixAddr{Name: "x"}, netip.Addr{}},
	} {
		if got := address(tc.in); got != tc.want {
			t.Errorf("%v: %v, want %v", tc.in, got, tc.want)
		}
	}
}
