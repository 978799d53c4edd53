package local

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"

	"github.com/seinemesh/seine/dashboard"
	"github.com/seinemesh/seine/local/rundir"
)

// DefaultWeb is where the control plane's pages and metrics are on the host's
// loopback: the port that seined has for people in a cluster.
const DefaultWeb = "127.0.0.1:15016"

// serveWeb opens the control plane's socket to browsers and to Prometheus on
// this machine. It returns the address, which every user of the machine reaches,
// and the link with the token of this run, which is the owner's alone and is kept
// in the run folder. A default port that is taken by another mesh is no reason
// not to start: then it is any free one.
func serveWeb(ctx context.Context, wg *sync.WaitGroup, dir, address string) (at, link string, err error) {
	l, err := net.Listen("tcp", or(address, DefaultWeb))
	if errors.Is(err, syscall.EADDRINUSE) && address == "" {
		l, err = net.Listen("tcp", "127.0.0.1:0")
	}
	if err != nil {
		return "", "", fmt.Errorf("--web %s: %w: choose another address, or none", or(address, DefaultWeb), err)
	}
	if a, ok := l.Addr().(*net.TCPAddr); !ok || !a.IP.IsLoopback() {
		l.Close()
		return "", "", fmt.Errorf("--web %s: it tells who calls whom and is only served on a loopback address, such as %s", address, DefaultWeb)
	}
	token := dashboard.NewToken()
	at = l.Addr().String()
	link = dashboard.Link(at, token)
	if err := os.WriteFile(rundir.Dashboard(dir), []byte(link+"\n"), 0o600); err != nil {
		l.Close()
		return "", "", err
	}
	socket := rundir.Socket(dir)
	h := dashboard.Handler(dashboard.Options{Token: token, Metrics: true, Dial: func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}})
	wg.Go(func() { _ = dashboard.Serve(ctx, l, h) })
	return at, link, nil
}
