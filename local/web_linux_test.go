//go:build linux

package local

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/seinemesh/seine/local/rundir"
)

// TestWeb: behind the address that every user of the machine can reach is the
// owner's socket; without the token of the run only pages and metrics pass.
func TestWeb(t *testing.T) {
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
	address, link, err := serveWeb(ctx, &wg, dir, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	kept, err := os.ReadFile(rundir.Dashboard(dir))
	if err != nil || strings.TrimSpace(string(kept)) != link {
		t.Errorf("kept %q %v, link %q", kept, err, link)
	}
	if info, err := os.Stat(rundir.Dashboard(dir)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the link's file: %v %v", info.Mode(), err)
	}
	_, token, _ := strings.Cut(link, "#token=")
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for _, c := range []struct {
		method, path, token string
		code                int
	}{
		{"GET", "/", "", 200}, {"GET", "/api/v1/stat", "", 401}, {"GET", "/api/v1/stat", token, 200},
		{"GET", "/metrics", "", 200}, {"POST", "/api/v1/ca/rotate", token, 403},
	} {
		q, err := http.NewRequest(c.method, "http://"+address+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if c.token != "" {
			q.Header.Set("Authorization", "Bearer "+c.token)
		}
		res, err := client.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if res.StatusCode != c.code || c.code == 200 && string(body) != c.method+" "+c.path+" "+address {
			t.Errorf("%s %s: %s %q", c.method, c.path, res.Status, body)
		}
	}
	if _, _, err := serveWeb(ctx, &wg, dir, "0.0.0.0:0"); err == nil {
		t.Error("served to the network")
	}
}
