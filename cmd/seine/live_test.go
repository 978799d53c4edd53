package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/seinemesh/seine/local/rundir"
	"github.com/seinemesh/seine/tap"
)

var update = flag.Bool("update", false, "write the golden files")

func goldenText(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := errors.Join(os.MkdirAll("testdata", 0o755), os.WriteFile(path, got, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs (run with -update to accept):\n%s", path, got)
	}
}

// answersOf serves package view's goldens as a control plane does.
func answersOf(t *testing.T) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := strings.TrimPrefix(r.URL.Path, "/api/v1/")
		body, err := os.ReadFile("../../view/testdata/" + name + ".json")
		if name == "authz" && err == nil {
			var list []json.RawMessage
			_ = json.Unmarshal(body, &list)
			body = list[0]
			if r.FormValue("workload") != "shop/billing-v1" {
				err = os.ErrNotExist
			}
		}
		if err != nil {
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, `{"error":"there is none"}`)
			return
		}
		_, _ = w.Write(body)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func command(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	cmd := root()
	cmd.SetOut(&out)
	cmd.SetErr(io.Discard)
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func TestRoutesAndAuthz(t *testing.T) {
	at := answersOf(t)
	for name, args := range map[string][]string{
		"routes":      {"routes"},
		"routes-wide": {"routes", "-o", "wide"},
		"routes-yaml": {"routes", "ledger.books", "-o", "yaml"},
		"authz":       {"authz", "shop/billing-v1"},
	} {
		out, err := command(t, append(args, "--address", at)...)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		goldenText(t, name, []byte(out))
	}
	for _, args := range [][]string{{"routes", "nobody"}, {"routes", "-o", "xml"}, {"authz", "billing"}, {"authz", "a/b"}, {"authz", "shop/billing-v1", "-o", "x"}} {
		if out, err := command(t, append(args, "--address", at)...); err == nil {
			t.Errorf("%v: %s", args, out)
		}
	}
	// The control plane's own sentence, not its JSON.
	if _, err := command(t, "authz", "a/b", "--address", at); err == nil || err.Error() != "authz: there is none" {
		t.Errorf("a workload that is not: %v", err)
	}
	if out, _ := command(t, "__complete", "routes", "--address", at, ""); !strings.Contains(out, "billing-service.shop.svc.cluster.local") {
		t.Errorf("completion of routes: %s", out)
	}
	if out, _ := command(t, "__complete", "authz", "--address", at, ""); !strings.Contains(out, "shop/billing-v2") {
		t.Errorf("completion of authz: %s", out)
	}
}

func TestTopCounts(t *testing.T) {
	var c requestCount
	bad, fine := 14, 0
	for i, r := range []tap.Request{
		{Method: "GET", Path: "/a?secret=1", Status: 200, LatencyMS: 3, Rule: "shop/r[0]"},
		{Method: "GET", Path: "/a?secret=2", Status: 503, LatencyMS: 1},
		{Method: "GET", Path: "/a", Status: 0, LatencyMS: 9},
		{Method: "POST", Path: "/g", Status: 200, GRPCStatus: &bad, LatencyMS: 1},
		{Method: "POST", Path: "/g", Status: 200, GRPCStatus: &fine, LatencyMS: 1},
		{Method: "GET", Path: "/evil\x1b[2J", Status: 404, LatencyMS: 1},
	} {
		r.Source, r.Destination = tap.Party{Namespace: "shop", Workload: "frontend"}, tap.Party{Namespace: "shop", Workload: "billing"}
		if i == 4 {
			r.Source = tap.Party{Namespace: "shop", Workload: "frontend"}
		}
		c.add(&r)
	}
	list := c.list(0)
	if len(list) != 3 || list[0].Path != "/a" || list[0].Count != 3 || list[0].Best != 1 || list[0].Worst != 9 || list[0].Last != 9 || list[0].Success < 0.33 || list[0].Success > 0.34 || list[1].Success != 0.5 {
		t.Errorf("%+v", list)
	}
	var out strings.Builder
	if err := c.write(&out, 2, 60, true); err != nil {
		t.Fatal(err)
	}
	if text := out.String(); strings.Contains(text, "secret") || strings.Contains(text, "\x1b") || strings.Count(text, "\n") != 3 {
		t.Errorf("%q", text)
	}
	for i := range maxTopRows + 10 {
		c.add(&tap.Request{Path: fmt.Sprint("/", i)})
	}
	if len(c.list(0)) != maxTopRows || c.over != 13 {
		t.Errorf("%d rows, %d over", len(c.list(0)), c.over)
	}
}

// TestTop: what a tap shows is counted until the time is over, and then printed.
func TestTop(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("direction") != "outbound" || r.FormValue("workload") != "frontend" {
			t.Errorf("asked %s", r.URL)
		}
		for range 3 {
			_, _ = io.WriteString(w, `{"type":"request","time":"2026-11-23T06:30:00Z","proxy":"shop/f-1","direction":"outbound","source":{"namespace":"shop","workload":"frontend"},"destination":{"namespace":"shop","workload":"billing"},"method":"GET","path":"/x?redacted","status":200,"latencyMs":2}`+"\n")
		}
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
	defer s.Close()
	out, err := command(t, "top", "deploy/frontend", "-n", "shop", "--address", s.URL, "--for", "1s", "-o", "json")
	var list []topRow
	if err != nil || json.Unmarshal([]byte(out), &list) != nil || len(list) != 1 || list[0].Count != 3 || list[0].Path != "/x" || list[0].Success != 1 {
		t.Errorf("%v: %s", err, out)
	}
}

func TestLogs(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, rundir.Logs), 0o700); err != nil {
		t.Fatal(err)
	}
	put := func(path, text string) {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.WriteString(text)
		if err = errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	seined, sidecar := rundir.Log(dir, "seined"), rundir.Log(dir, "shop.a-1.proxy")
	put(seined, "level=INFO one\nlevel=WARN two\nlevel=INFO three\n")
	put(sidecar, "of the sidecar\n")
	for _, c := range []struct{ args, want string }{
		{"", "level=INFO one\nlevel=WARN two\nlevel=INFO three\n"},
		{"--tail 1", "level=INFO three\n"},
		{"--grep WARN|three", "level=WARN two\nlevel=INFO three\n"},
		{"shop/a-1", "of the sidecar\n"},
	} {
		if out, err := command(t, append([]string{"logs", "--run-dir", dir}, strings.Fields(c.args)...)...); err != nil || out != c.want {
			t.Errorf("%s: %v %q", c.args, err, out)
		}
	}
	for _, args := range []string{"shop/no", "shop", "../x/y", "shop/../seined", "../..", "--grep (", "--app"} {
		if out, err := command(t, append([]string{"logs", "--run-dir", dir}, strings.Fields(args)...)...); err == nil {
			t.Errorf("%s: %q", args, out)
		}
	}
	// With -f what comes is shown, also after the file was full and begun anew.
	r, w := io.Pipe()
	l := logsOptions{dir: dir, follow: true, tail: 1}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.run(ctx, w, nil) }()
	read := func(want string) {
		t.Helper()
		b := make([]byte, len(want))
		if _, err := io.ReadFull(r, b); err != nil || string(b) != want {
			t.Fatalf("%q %v, want %q", b, err, want)
		}
	}
	read("level=INFO three\n")
	put(seined, "fo")
	put(seined, "ur\n")
	read("four\n")
	if err := os.Rename(seined, seined+".1"); err != nil {
		t.Fatal(err)
	}
	put(seined, "five\n")
	read("five\n")
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestProxiesWide(t *testing.T) {
	now := time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC)
	cpu := 0.0123
	until := now.Add(time.Hour)
	var list []connectedProxy
	if err := json.Unmarshal([]byte(`[
	 {"id":"shop/a-1","identity":"spiffe://x/ns/shop/sa/a","version":"0.4.0","connected":"2026-11-23T08:59:00Z","generation":3,"current":true,"last_ack":"2026-11-23T08:59:58Z","memory_bytes":18350080,"node":"n1","types":[]},
	 {"id":"shop/b-1","generation":2,"connected":"2026-11-23T08:00:00Z","types":[]},
	 {"id":"shop/c-1","elsewhere":true,"memory_bytes":1048576,"types":[]}]`), &list); err != nil {
		t.Fatal(err)
	}
	list[0].CPU, list[0].Certificate = &cpu, &until
	var out bytes.Buffer
	if err := writeProxies(&out, list, now, true); err != nil {
		t.Fatal(err)
	}
	goldenText(t, "proxies-wide", out.Bytes())
}
