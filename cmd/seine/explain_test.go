package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/seinemesh/seine/config/files"
	"github.com/seinemesh/seine/explain"
	"github.com/seinemesh/seine/mesh"
)

const shop = "../../explain/testdata/shop"

func runExplain(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := explainCommand()
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func TestExplainOffline(t *testing.T) {
	out, err := runExplain(t, "-f", shop, "--from", "default/web", "GET", "http://catalog:8080/old", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var a explain.Answer
	if err := json.Unmarshal([]byte(out), &a); err != nil || a.Outcome != explain.Redirect || a.Status != 301 {
		t.Errorf("%v %+v", err, a)
	}
	if out, err = runExplain(t, "-f", shop, "--from", "default/web", "http://catalog:8080/items"); err != nil || !strings.HasPrefix(out, "forward catalog.default") || strings.Contains(out, "\x1b") {
		t.Errorf("%v %q", err, out)
	}
	if out, err = runExplain(t, "-f", shop, "--to", "default/ledger:7000", "--claims", `{"sub":"a"}`); err != nil || !strings.HasPrefix(out, "forward") {
		t.Errorf("%v %q", err, out)
	}
	for want, args := range map[string][]string{
		"must be text or json":    {"-o", "xml", "http://a/"},
		"--claims: not a JSON":    {"--claims", "x", "-f", shop, "http://a/"},
		"--mesh-config goes with": {"--mesh-config", "x", "http://a/"},
		"from: there is no":       {"-f", shop, "--from", "default/x", "http://a/"},
		"no such file":            {"-f", "nowhere", "--from", "default,a=b", "http://a/"},
		"seine analyze lists all": {"-f", "../../config/testdata/broken", "--from", "default,a=b", "http://a/"},
		"is a mesh running":       {"--socket", filepath.Join(t.TempDir(), "none"), "--from", "default,a=b", "http://a/"},
	} {
		if _, err := runExplain(t, args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", args, err, want)
		}
	}
}

func TestExplainExitCode(t *testing.T) {
	for url, want := range map[string]int{
		"http://catalog:8080/items": 0, "http://catalog:8080/gone": exitRefused, "https://secure/": 0,
	} {
		_, err := runExplain(t, "-f", shop, "--from", "default/web", url, "--exit-code")
		var exit exitError
		if got := errors.As(err, &exit); got != (want != 0) || exit.code != want {
			t.Errorf("%s: %v, want %d", url, err, want)
		}
		if _, err := runExplain(t, "-f", shop, "--from", "default/web", url); err != nil {
			t.Errorf("%s without --exit-code: %v", url, err)
		}
	}
}

func TestExplainRunning(t *testing.T) {
	r, err := files.Load(files.Options{Paths: []string{shop}})
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(explain.Handler(func() *mesh.Snapshot { return r.Snapshot }))
	srv.Listener.Close()
	srv.Listener = l
	srv.Start()
	defer srv.Close()
	out, err := runExplain(t, "--socket", socket, "--from", "default/web", "http://catalog:8080/items")
	if err != nil || !strings.HasPrefix(out, "forward catalog.default") {
		t.Errorf("%v %q", err, out)
	}
	if _, err := runExplain(t, "--socket", socket, "--from", "default/nobody", "http://catalog:8080/items"); err == nil || !strings.Contains(err.Error(), `there is no workload "nobody"`) {
		t.Error(err)
	}
}
