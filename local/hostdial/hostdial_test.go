package hostdial

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve runs a server and returns its socket.
func serve(t *testing.T, s *Server) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Serve: %v", err)
		}
	})
	return path
}

// ask sends a request and returns the answer and the descriptor that came, -1 if
// none did.
func ask(t *testing.T, path, request string) (string, int) {
	t.Helper()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	buf, oob := make([]byte, 512), make([]byte, 64)
	n, oobn, _, _, err := c.ReadMsgUnix(buf, oob)
	if err != nil {
		t.Fatal(err)
	}
	text := string(buf[:n])
	rest, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	text += string(rest)
	msgs, err := syscall.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(msgs) == 0 {
		return text, -1
	}
	fds, err := syscall.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		t.Fatal(fds, err)
	}
	return text, fds[0]
}

func TestDescriptorIsConnected(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = io.WriteString(c, "from outside")
		c.Close()
	}()
	path := serve(t, &Server{Refuse: func(netip.AddrPort) string { return "" }})
	answer, fd := ask(t, path, l.Addr().String()+"\n")
	if answer != "k" || fd < 0 {
		t.Fatalf("answer %q, descriptor %d", answer, fd)
	}
	f := os.NewFile(uintptr(fd), "passed")
	conn, err := net.FileConn(f)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got, err := io.ReadAll(conn); err != nil || string(got) != "from outside" {
		t.Errorf("read %q, %v", got, err)
	}
}

func TestRefusals(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := closed.Addr().String()
	closed.Close()
	path := serve(t, &Server{Refuse: func(a netip.AddrPort) string {
		if a.Addr().IsLoopback() {
			return ""
		}
		return "because"
	}})
	for request, want := range map[string]string{
		"10.0.0.1:80\n":                  "e10.0.0.1:80: because",
		"[::ffff:10.0.0.1]:80\n":         "e10.0.0.1:80: because",
		nobody + "\n":                    "connection refused",
		"example.com:80\n":               "erequest: want IP:PORT",
		"no line feed":                   "erequest: want IP:PORT",
		"":                               "erequest: want IP:PORT",
		"\n":                             "erequest: want IP:PORT",
		strings.Repeat("9", 4096) + "\n": "within 128 bytes",
	} {
		if got, fd := ask(t, path, request); !strings.Contains(got, want) || fd >= 0 || got[0] != 'e' {
			t.Errorf("%.40q: answer %q, descriptor %d", request, got, fd)
		}
	}
}

func TestRefuse(t *testing.T) {
	mesh := []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12"), netip.MustParsePrefix("10.244.0.0/16")}
	for addr, refused := range map[string]bool{
		"192.0.2.1:443": false, "[2001:db8::1]:443": false, "10.112.0.1:80": false,
		"10.96.0.1:80": true, "10.111.255.255:80": true, "10.244.3.4:15012": true,
		"127.0.0.1:80": true, "127.9.9.9:80": true, "[::1]:80": true, "0.0.0.0:80": true, "[::]:80": true,
		"224.0.0.1:80": true, "255.255.255.255:80": true, "192.0.2.1:0": true,
	} {
		if why := Refuse(netip.MustParseAddrPort(addr), mesh); (why != "") != refused {
			t.Errorf("%s: %q", addr, why)
		}
	}
}

func TestBounds(t *testing.T) {
	dialling, release := make(chan struct{}, 8), make(chan struct{})
	path := serve(t, &Server{
		Limit: 2, Refuse: func(netip.AddrPort) string { return "" },
		Dial: func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
			dialling <- struct{}{}
			select {
			case <-release:
			case <-ctx.Done():
			}
			return nil, errors.New("given up")
		},
	})
	answers := make(chan string, 2)
	for range 2 {
		go func() { a, _ := ask(t, path, "192.0.2.1:80\n"); answers <- a }()
	}
	<-dialling
	<-dialling
	if got, _ := ask(t, path, "192.0.2.1:80\n"); got != "etoo many connections are being opened at once" {
		t.Errorf("a third: %q", got)
	}
	close(release)
	for range 2 {
		if got := <-answers; got != "egiven up" {
			t.Errorf("got %q", got)
		}
	}
}

func TestTimeout(t *testing.T) {
	path := serve(t, &Server{Timeout: time.Millisecond})
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// Nothing is asked: the server does not wait for ever.
	if err := c.(*net.UnixConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); err != nil || !bytes.HasPrefix(got, []byte("erequest")) {
		t.Errorf("got %q, %v", got, err)
	}
}

func FuzzRequest(f *testing.F) {
	for _, s := range []string{"10.0.0.1:80\n", "[2001:db8::1%eth0]:80\n", "a\n", "\n", "", "1.1.1.1:99999\n", "[::ffff:127.0.0.1]:1\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		to, err := readRequest(strings.NewReader(s))
		if err != nil {
			return
		}
		if !to.IsValid() || to.Addr().Is4In6() || len(s) < 3 {
			t.Errorf("%q is %v", s, to)
		}
	})
}
