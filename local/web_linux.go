package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"syscall"
	"time"

	"github.com/seinemesh/seine/local/rundir"
)

// DefaultWeb is where the control plane's pages and metrics are on the host's
// loopback: the port that seined has for people in a cluster.
const DefaultWeb = "127.0.0.1:15016"

// reading passes on what changes nothing. Behind the door is a socket that only
// the owner of the mesh can open; before it is every user of this machine.
func reading(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		question := r.Method == http.MethodPost && r.URL.Path == "/api/v1/explain"
		if r.Method != http.MethodGet && r.Method != http.MethodHead && !question {
			http.Error(w, "this address is for reading: changes are made over the control plane's socket, as the seine command does", http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// serveWeb opens the control plane's socket to browsers and to Prometheus on
// this machine, and returns its address. A default port that is taken by
// another mesh is no reason not to start: then it is any free one.
func serveWeb(ctx context.Context, wg *sync.WaitGroup, dir, address string) (string, error) {
	l, err := net.Listen("tcp", or(address, DefaultWeb))
	if errors.Is(err, syscall.EADDRINUSE) && address == "" {
		l, err = net.Listen("tcp", "127.0.0.1:0")
	}
	if err != nil {
		return "", fmt.Errorf("--web %s: %w: choose another address, or none", or(address, DefaultWeb), err)
	}
	if a, ok := l.Addr().(*net.TCPAddr); !ok || !a.IP.IsLoopback() {
		l.Close()
		return "", fmt.Errorf("--web %s: it tells who calls whom and is only served on a loopback address, such as %s", address, DefaultWeb)
	}
	socket := rundir.Socket(dir)
	relay := &httputil.ReverseProxy{
		// The Host that the browser named goes on: seined refuses names that were
		// only pointed at this machine.
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: "seined"})
			r.Out.Host = r.In.Host
		},
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "unix", socket)
			},
			MaxIdleConnsPerHost: 8, IdleConnTimeout: 30 * time.Second,
		},
		FlushInterval: -1, // what streams shall stream
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, "the control plane does not answer: "+err.Error(), http.StatusBadGateway)
		},
		ErrorLog: log.New(io.Discard, "", 0),
	}
	server := &http.Server{Handler: reading(relay), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10, ErrorLog: relay.ErrorLog}
	wg.Go(func() { _ = server.Serve(l) })
	context.AfterFunc(ctx, func() { _ = server.Close() })
	return l.Addr().String(), nil
}
