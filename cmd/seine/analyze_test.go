package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/seinemesh/seine/config"
)

// analyze runs the command and gives what it printed and its exit code.
func analyze(t *testing.T, args ...string) (string, int) {
	t.Helper()
	cmd := analyzeCommand()
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetArgs(args)
	err := cmd.Execute()
	var exit exitError
	switch {
	case err == nil:
		return out.String(), 0
	case errors.As(err, &exit):
		return out.String(), exit.code
	}
	return out.String() + err.Error(), 1
}

func TestAnalyze(t *testing.T) {
	dir := t.TempDir()
	write := func(name, data string) string {
		t.Helper()
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	service := "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{name: http, port: 80}]}\n"
	route := "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec: {hosts: [a], http: [{route: [{destination: {host: HOST}}], EXTRA}]}\n"
	good := write("good.yaml", service)
	warns := write("warns.yaml", strings.NewReplacer("HOST", "a", "EXTRA", "retries: {attempts: 20}").Replace(route))
	wrong := write("wrong.yaml", strings.NewReplacer("HOST", "b", "EXTRA", "").Replace(route))
	typo := write("typo.yaml", strings.NewReplacer("HOST", "a", "EXTRA", "timout: 1s").Replace(route))

	for _, c := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"good", []string{"-f", good}, 0, "ok: 0 errors, 0 warnings in 1 service, "},
		{"an argument instead of -f", []string{good}, 0, "ok: "},
		{"a warning", []string{"-f", good, "-f", warns}, 0, "spec.http[0].retries"},
		{"a warning that counts", []string{"-f", good, "-f", warns, "--fail-on", "warning"}, 1, "not ok: 0 errors, 1 warning "},
		{"an unknown host", []string{"-f", good, "-f", wrong}, 1, "there is no service with the host b.default.svc.cluster.local (did you mean a?)"},
		{"an unknown field", []string{"-f", good, "-f", typo}, 1, "spec.http[0].timout\n      there is no field \"timout\" in spec.http[0] of a VirtualService (did you mean timeout?)"},
		{"nothing", nil, 1, "name a folder or a file with -f"},
		{"no such file", []string{"-f", filepath.Join(dir, "no")}, 1, "no such file"},
		{"a bad format", []string{"-f", good, "-o", "xml"}, 1, "must be text or json"},
		{"a bad severity", []string{"-f", good, "--fail-on", "never"}, 1, "must be info, warning or error"},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, code := analyze(t, c.args...)
			if code != c.code || !strings.Contains(out, c.want) {
				t.Errorf("exit %d, want %d; printed, without %q:\n%s", code, c.code, c.want, out)
			}
		})
	}

	out, code := analyze(t, "-f", good, "-f", typo, "-o", "json")
	var report config.Report
	if err := json.Unmarshal([]byte(out), &report); err != nil || code != 1 {
		t.Fatalf("exit %d, %v:\n%s", code, err, out)
	}
	if len(report.Findings) != 1 || report.Errors != 1 {
		t.Fatalf("%+v", report)
	}
	f := report.Findings[0]
	if f.Code != "SEINE0004" || f.Severity != config.Error || f.Line != 4 || f.File != filepath.ToSlash(typo) || !f.Refused {
		t.Errorf("%+v", f)
	}
}
