package main

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/seinemesh/seine/local/rundir"
)

// TestDashboard: the link that is printed opens the API, a link without its token
// does not, and the browser is not told it by its arguments.
func TestDashboard(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the browser is found by xdg-open")
	}
	seined := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.URL.Path) }))
	defer seined.Close()
	bin := t.TempDir()
	told := filepath.Join(bin, "told")
	script := "#!/bin/sh\nPATH=/usr/bin:/bin\ncp \"$1\" " + told + ".page\necho \"$@\" > " + told + ".tmp\nmv " + told + ".tmp " + told + "\n"
	if err := os.WriteFile(filepath.Join(bin, "xdg-open"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin)
	t.Setenv("TMPDIR", t.TempDir())
	d := dashboardOptions{open: true, control: controlFlags{address: seined.URL}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- d.run(ctx, w, io.Discard) }()
	link, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	at, token, ok := strings.Cut(strings.TrimSpace(link), "/#token=")
	if !ok || len(token) < 32 {
		t.Fatalf("link %q", link)
	}
	for header, want := range map[string]int{"": 401, "Bearer " + token: 200} {
		q, _ := http.NewRequest(http.MethodGet, at+"/api/v1/stat", nil)
		if header != "" {
			q.Header.Set("Authorization", header)
		}
		res, err := http.DefaultClient.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("with %q: %s", header, res.Status)
		}
	}
	var arguments []byte
	for deadline := time.Now().Add(20 * time.Second); ; {
		if arguments, err = os.ReadFile(told); err == nil || time.Now().After(deadline) {
			break
		}
		runtime.Gosched()
	}
	page, _ := os.ReadFile(told + ".page")
	if err != nil || strings.Contains(string(arguments), token) || !strings.Contains(string(page), token) {
		t.Errorf("%v: arguments %q, page %q", err, arguments, page)
	}
	if info, err := os.Stat(strings.TrimSpace(string(arguments))); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the page's file: %v %v", info, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(strings.TrimSpace(string(arguments))); !os.IsNotExist(err) {
		t.Errorf("the page's file is left: %v", err)
	}
	http.DefaultClient.CloseIdleConnections()
}

// TestCarrier: only what is asked at the address of `seine up` gets its token.
func TestCarrier(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", dir)
	if carrier("http://127.0.0.1:15016") != http.DefaultTransport {
		t.Error("a token without a mesh")
	}
	if err := os.MkdirAll(rundir.Default(), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(rundir.Dashboard(rundir.Default()), []byte("http://127.0.0.1:15016/#token=abc\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := carrier("http://127.0.0.1:15016"); got != (bearer{"abc"}) {
		t.Errorf("%#v", got)
	}
	if got := carrier("http://127.0.0.1:15017"); got != http.DefaultTransport {
		t.Errorf("another address: %#v", got)
	}
}
