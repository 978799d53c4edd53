//go:build linux

package local

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/seinemesh/seine/local/rundir"
)

// TestWebReads: behind the address that every user of the machine can reach is
// the owner's socket. What changes something does not get there.
func TestWebReads(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("unix", rundir.Socket(dir))
	if err != nil {
		t.Fatal(err)
	}
	seined := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Method+" "+r.URL.Path+" "+r.Host)
	})}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { _ = seined.Serve(l) })
	defer seined.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	address, err := serveWeb(ctx, &wg, dir, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for _, c := range []struct {
		method, path string
		passes       bool
	}{
		{"GET", "/api/v1/stat", true},
		{"HEAD", "/metrics", true},
		{"POST", "/api/v1/explain", true},
		{"POST", "/api/v1/ca/rotate", false},
		{"POST", "/api/v1/ca%2Frotate", false},
		{"POST", "/api/v1/explain/../ca/rotate", false},
		{"PUT", "/api/v1/explain", false},
		{"DELETE", "/api/v1/config", false},
	} {
		q, err := http.NewRequest(c.method, "http://"+address+c.path, strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		res, err := client.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		want := http.StatusForbidden
		if c.passes {
			want = http.StatusOK
		}
		if res.StatusCode != want || c.passes && c.method != "HEAD" && string(body) != c.method+" "+c.path+" "+address {
			t.Errorf("%s %s: %s %q", c.method, c.path, res.Status, body)
		}
	}
}
