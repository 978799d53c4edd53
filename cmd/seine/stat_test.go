package main

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/seinemesh/seine/diagnose"
	"github.com/seinemesh/seine/stat"
)

// serveStat is a control plane that knows one service.
func serveStat(t *testing.T, network, address string) net.Addr {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	ok := 0.995
	table := stat.Table{At: time.Unix(0, 0).UTC(), WindowSeconds: 10, Instances: 2,
		Services: []stat.Service{{Namespace: "default", Name: "billing-service", Host: "billing-service.default.svc.cluster.local", Version: "v1",
			Traffic: stat.Traffic{RPS: 90, Requests: 900, Success: &ok, Latency: &stat.Latency{P50: 0.3, P90: 0.5, P99: 2}},
			Share:   0.9, MTLS: stat.MTLSYes, Sources: []string{}, Destinations: []string{}}},
		Edges: []stat.Edge{{Source: stat.Party{Namespace: "default", Workload: "frontend"}, MTLS: stat.MTLSYes}},
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/stat", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(table)
	})
	mux.HandleFunc("GET /api/v1/diagnose", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"diagnoses": []diagnose.Diagnosis{{
			Service: "billing-service.default.svc.cluster.local", Version: "v1", Explanation: "the machine of billing-v1-1 is short of CPU"}}})
	})
	mux.HandleFunc("GET /broken/api/v1/stat", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("<html>"))
	})
	s := &http.Server{Handler: mux, ReadHeaderTimeout: time.Second}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	return l.Addr()
}

func stats(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := statCommand()
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func TestStat(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	serveStat(t, "unix", socket)
	address := serveStat(t, "tcp", "127.0.0.1:0").String()
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"--socket", socket}, []string{"SERVICE", "billing-service", "90.0", "99.5%", "0.30ms",
			"\nslower than usual: billing-service.default v1: the machine of billing-v1-1 is short of CPU (seine diagnose)\n"}},
		{[]string{"--address", address}, []string{"billing-service"}},
		{[]string{"--address", "http://" + address + "/", "-o", "wide"}, []string{"SOURCE IDENTITY", "default/frontend"}},
		{[]string{"--socket", socket, "-o", "json"}, []string{`"rps":90`, `"p50_ms":0.3`}},
		{[]string{"--socket", socket, "--color", "always"}, []string{"\x1b[32m"}},
	} {
		out, err := stats(t, c.args...)
		if err != nil {
			t.Errorf("%v: %v", c.args, err)
		}
		for _, w := range c.want {
			if !strings.Contains(out, w) {
				t.Errorf("%v: no %q in\n%s", c.args, w, out)
			}
		}
	}
}

func TestStatMistakes(t *testing.T) {
	address := serveStat(t, "tcp", "127.0.0.1:0").String()
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"-o", "xml"}, "none of text, wide, json"},
		{[]string{"--color", "blue"}, "none of auto, always, never"},
		{[]string{"--socket", "a", "--address", "b"}, "not both"},
		{[]string{"--address", "https://a"}, "is not http://HOST:PORT"},
		{[]string{"--socket", filepath.Join(t.TempDir(), "nothing")}, "is a mesh running"},
		{[]string{"--address", address + "/none"}, "404"},
		{[]string{"--address", address + "/broken"}, "is not a table"},
		{[]string{"more"}, "unknown command"},
	} {
		if out, err := stats(t, c.args...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: error %v, want %q\n%s", c.args, err, c.want, out)
		}
	}
}
